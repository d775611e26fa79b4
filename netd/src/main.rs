//! `sharectl-netd`: arguments -> configuration -> daemon -> exit code.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use control::config::Config;
use control::paths::Paths;

/// Runs the guests' networks: switch, DHCP, DNS, NAT, published ports.
///
/// It needs no privilege. It serves until SIGTERM; SIGHUP reads the configuration again.
/// Log lines go to standard error, filtered by SHARECTL_LOG.
#[derive(Debug, Parser)]
#[command(name = "sharectl-netd", version)]
struct Arguments {
    /// The configuration file [default: $SHARECTL_CONFIG, else the user's or, for root, the system's]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    control::logging::init();
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> anyhow::Result<()> {
    let mut paths = Paths::from_env(arguments.config);
    // The status names the file; a relative name means nothing to who asks.
    paths.config = std::path::absolute(&paths.config)
        .with_context(|| format!("cannot use {}", paths.config.display()))?;
    let config = Config::load(&paths.config)?;
    guestmem::install().context("cannot guard guest memory")?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(netd::daemon::run(paths, config))
}
