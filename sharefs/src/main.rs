//! `sharectl-sharefs`: arguments -> configuration -> daemon -> exit code.

use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use control::paths::{Daemon as Kind, Paths, make_private_folder};
use rustix::fs::Mode;
use sharefs::Mounter;
use sharefs::daemon::Configuration;

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
    /// Go on with the memory behind this descriptor (keep/process.rs).
    #[arg(long, hide = true, value_name = "DESCRIPTOR")]
    kept: Option<i32>,
    /// Print the number of the layout of that memory, and end.
    #[arg(long, hide = true)]
    kept_layout: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.kept_layout {
        let said = writeln!(std::io::stdout(), "{:x}", sharefs::keep::layout());
        return end(said.context("cannot say the layout"));
    }
    control::logging::init();
    if arguments.mounter {
        return end(sharefs::mount_for_a_daemon().context("cannot mount for a daemon"));
    }
    sharefs::keep::keep(arguments.kept, || end(run(arguments)))
}

fn end(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> anyhow::Result<()> {
    let paths = Paths::from_env(arguments.config);
    let config = sharefs::daemon::configuration(&paths.config)?;
    let mounter = Mounter::start();
    sharefs::confine::confine().context("cannot give up rights")?;
    sharefs::guard_guest_memory().context("cannot catch SIGBUS")?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(serve(paths, config, mounter))
}

async fn serve(paths: Paths, config: Configuration, mounter: Mounter) -> anyhow::Result<()> {
    make_private_folder(&paths.runtime)
        .with_context(|| format!("cannot use {}", paths.runtime.display()))?;
    let path = paths.lock(Kind::Sharefs);
    // Of a worker that was killed: nobody else had it since.
    let lock = match sharefs::keep::kept_lock() {
        Some(held) => control::lock::take_over(&path, held)?,
        None => control::lock::acquire(&path)?,
    };
    sharefs::keep::keep_lock(Some(lock.as_raw_fd()));
    let socket = paths.control_socket(Kind::Sharefs);
    let listener = control::server::bind(&socket)
        .with_context(|| format!("cannot listen on {}", socket.display()))?;
    // From here on the modes of new files are the guests' own: their kernels have applied a umask.
    rustix::process::umask(Mode::empty());
    tracing::info!(socket = %socket.display(), config = %paths.config.display(), "serving");
    let ready = || {
        if let Err(error) = sharefs::keep::ready() {
            tracing::warn!(%error, "the service manager could not be told that we are ready");
        }
    };
    sharefs::daemon::run(paths, config, (listener, mounter), ready).await?;
    std::fs::remove_file(&socket).ok();
    sharefs::keep::keep_lock(None);
    drop(lock);
    tracing::info!("stopped");
    Ok(())
}
