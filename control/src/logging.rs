//! Log lines on standard error, filtered by `SHARECTL_LOG`.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// Sends tracing's events to standard error. The filter is `$SHARECTL_LOG`
/// (`error`, `warn`, `info`, `debug`, `trace`, or per module), else `info`.
/// Calling it again does nothing.
pub fn init() {
    let filter = EnvFilter::try_from_env("SHARECTL_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let plain = std::env::var_os("NO_COLOR").is_some() || !std::io::stderr().is_terminal();
    let outcome = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(!plain)
        .with_target(false)
        .try_init();
    if outcome.is_err() {
        tracing::debug!("logging was set up before");
    }
}
