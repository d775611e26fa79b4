//! `sharectl-hosts-writer`: arguments -> the loop of `writer_service` -> exit code.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use hostsync::writer_service::{self, Options, POLICY_FILE, protocol};

/// Writes the hosts file for ordinary users' daemons; the only part of sharectl that is root's.
///
/// Started by systemd when somebody connects (`sharectl host writer unit`), or by hand as root.
/// Users are known by what the kernel says, and have the names that the policy file gives them.
#[derive(Debug, Parser)]
#[command(name = "sharectl-hosts-writer", version)]
struct Arguments {
    /// Listen here, where no service manager passes a socket
    #[arg(long, value_name = "PATH", default_value = protocol::SOCKET)]
    socket: PathBuf,

    /// The hosts file
    #[arg(long, value_name = "FILE", default_value = "/etc/hosts")]
    file: PathBuf,

    /// Who may have which names; only root may be able to write it
    #[arg(long, value_name = "FILE", default_value = POLICY_FILE)]
    policy: PathBuf,

    /// Where journals are kept
    #[arg(
        long,
        value_name = "FOLDER",
        env = "STATE_DIRECTORY",
        default_value = "/var/lib/sharectl-hosts"
    )]
    state: PathBuf,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    control::logging::init();
    let options = Options {
        socket: arguments.socket,
        file: arguments.file,
        policy: arguments.policy,
        state: arguments.state,
    };
    match writer_service::run(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}
