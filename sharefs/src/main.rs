//! `sharectl-sharefs`: arguments -> configuration -> daemon -> exit code.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use control::config::Config;
use control::paths::{Daemon as Kind, Paths, make_private_folder};
use rustix::fs::Mode;
use sharefs::Mounter;

/// Serves host folders to guests over virtiofs.
///
/// It listens on one socket for each guest and share, and mounts on the host what is to be mounted there, until SIGTERM; SIGHUP reads the configuration
/// again. Log lines go to standard error, filtered by SHARECTL_LOG.
#[derive(Debug, Parser)]
#[command(name = "sharectl-sharefs", version)]
struct Arguments {
    /// The configuration file [default: $SHARECTL_CONFIG, else the user's or, for root, the system's]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Be the process that mounts for the daemon at standard input (mounter/mod.rs).
    #[arg(long, hide = true)]
    mounter: bool,
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
    if arguments.mounter {
        return sharefs::mount_for_a_daemon().context("cannot mount for a daemon");
    }
    let paths = Paths::from_env(arguments.config);
    let config = Config::load(&paths.config)?;
    let mounter = Mounter::start();
    sharefs::confine::confine().context("cannot give up rights")?;
    sharefs::guard_guest_memory().context("cannot catch SIGBUS")?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(serve(paths, config, mounter))
}

async fn serve(paths: Paths, config: Config, mounter: Mounter) -> anyhow::Result<()> {
    make_private_folder(&paths.runtime)
        .with_context(|| format!("cannot use {}", paths.runtime.display()))?;
    let _lock = control::lock::acquire(&paths.lock(Kind::Sharefs))?;
    let socket = paths.control_socket(Kind::Sharefs);
    let listener = control::server::bind(&socket)
        .with_context(|| format!("cannot listen on {}", socket.display()))?;
    // From here on the modes of new files are the guests' own: their kernels have applied a umask.
    rustix::process::umask(Mode::empty());
    tracing::info!(socket = %socket.display(), config = %paths.config.display(), "serving");
    let ready = || {
        if let Err(error) = control::notify::ready() {
            tracing::warn!(%error, "the service manager could not be told that we are ready");
        }
    };
    sharefs::daemon::run(paths, config, (listener, mounter), ready).await?;
    std::fs::remove_file(&socket).ok();
    tracing::info!("stopped");
    Ok(())
}
