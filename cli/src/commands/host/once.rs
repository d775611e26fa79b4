//! The hosts writer for one round, without a daemon: for root beside an
//! ordinary user's daemons, and while hostsync is down.

use std::os::unix::fs::MetadataExt;
use std::process::Stdio;

use control::failure::Failure;
use control::paths::Daemon;
use serde::de::DeserializeOwned;

use crate::context::Context;
use crate::daemons;
use crate::error::{CliError, Outcome};

/// Whether the daemon that runs is this user's, and so has this user's rights.
pub(super) fn daemon_is_ours(context: &Context) -> bool {
    let socket = std::fs::metadata(context.paths.control_socket(Daemon::Hostsync));
    let ours = rustix::process::geteuid().as_raw();
    socket.is_ok_and(|socket| socket.uid() == ours) && context.status(Daemon::Hostsync).is_ok()
}

/// Runs `sharectl-hostsync VERB --json`; its answer is that of the daemon.
///
/// # Errors
/// When the program is not found or gives no answer.
pub(crate) fn round<T: DeserializeOwned>(context: &Context, verb: &str) -> Outcome<T> {
    round_with(context, &[verb])
}

/// As [`round`], with arguments of the verb's own.
///
/// # Errors
/// As [`round`]; what the program answers with a failure is that failure.
pub(crate) fn round_with<T: DeserializeOwned>(context: &Context, arguments: &[&str]) -> Outcome<T> {
    let verb = arguments.first().copied().unwrap_or_default();
    let failed = |what: String| {
        CliError::failure(
            format!("cannot run {} {verb}: {what}", Daemon::Hostsync.program()),
            "sharectl config check, and sharectl doctor",
        )
    };
    let mut command = daemons::command(context, Daemon::Hostsync)?;
    let _progress = context.progress(format!("{} {verb}", Daemon::Hostsync.program()));
    let output = command
        .args(arguments)
        .arg("--json")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .output()
        .map_err(|error| failed(error.to_string()))?;
    if let Ok(failure) = serde_json::from_slice::<Failure>(&output.stdout) {
        return Err(failure.into());
    }
    serde_json::from_slice(&output.stdout).map_err(|_| {
        let said = String::from_utf8_lossy(&output.stderr);
        failed(
            said.trim()
                .lines()
                .next_back()
                .map_or_else(|| output.status.to_string(), str::to_owned),
        )
    })
}
