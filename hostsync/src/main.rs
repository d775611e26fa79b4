//! `sharectl-hostsync`: arguments -> configuration -> daemon or one round -> exit code.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::SystemTime;

use anyhow::Context;
use clap::{Parser, Subcommand};
use control::config::Config;
use control::paths::{Daemon as Kind, Paths, make_private_folder};
use hostsync::daemon::{self, Options};
use hostsync::once;
use hostsync::section::Tag;

/// Keeps hosts files in step with the guests' names.
///
/// Without a command it is a daemon: it follows netd and the configuration until SIGTERM;
/// SIGHUP reads the configuration again. Log lines go to standard error, filtered by SHARECTL_LOG.
#[derive(Debug, Parser)]
#[command(name = "sharectl-hostsync", version)]
struct Arguments {
    /// The configuration file [default: $SHARECTL_CONFIG, else the user's or, for root, the system's]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Keep a block of this name, where several writers share a hosts file
    #[arg(long, global = true, value_name = "NAME", value_parser = Tag::parse)]
    tag: Option<Tag>,

    /// Take the block out of every file when the daemon stops
    #[arg(long)]
    remove_on_exit: bool,

    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Clone, Copy, Subcommand)]
enum Command {
    /// Write the files once, without a daemon
    Sync {
        /// Answer in JSON
        #[arg(long)]
        json: bool,
    },
    /// Show how the files differ from what they should be; changes nothing
    Diff {
        /// Answer in JSON
        #[arg(long)]
        json: bool,
    },
    /// Take sharectl's block out of the files
    Clear {
        /// Answer in JSON
        #[arg(long)]
        json: bool,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    control::logging::init();
    match run(arguments) {
        Ok(code) => code,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let options = Options {
        paths: Paths::from_env(arguments.config),
        tag: arguments.tag.unwrap_or_default(),
        remove_on_exit: arguments.remove_on_exit,
    };
    let config = Config::load(&options.paths.config)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    match arguments.command {
        None => runtime
            .block_on(serve(options, config))
            .map(|()| ExitCode::SUCCESS),
        Some(command) => runtime.block_on(round(options, config, command)),
    }
}

async fn serve(options: Options, config: Config) -> anyhow::Result<()> {
    make_private_folder(&options.paths.runtime)
        .with_context(|| format!("cannot use {}", options.paths.runtime.display()))?;
    let _lock = control::lock::acquire(&options.paths.lock(Kind::Hostsync))?;
    let socket = options.paths.control_socket(Kind::Hostsync);
    let listener = control::server::bind(&socket)
        .with_context(|| format!("cannot listen on {}", socket.display()))?;
    if let Err(error) = control::notify::ready() {
        tracing::warn!(%error, "the service manager could not be told that we are ready");
    }
    tracing::info!(socket = %socket.display(), config = %options.paths.config.display(), "serving");
    daemon::run(options, config, listener).await?;
    std::fs::remove_file(&socket).ok();
    tracing::info!("stopped");
    Ok(())
}

async fn round(options: Options, config: Config, command: Command) -> anyhow::Result<ExitCode> {
    #[expect(
        clippy::disallowed_methods,
        reason = "the only look at the clock in a round"
    )]
    let now = SystemTime::now();
    let wanted = match command {
        Command::Clear { .. } => Default::default(),
        Command::Sync { .. } | Command::Diff { .. } => once::wanted(&options, &config, now).await,
    };
    let mut out = std::io::stdout().lock();
    let (json, value, failed) = match command {
        Command::Diff { json } => {
            let diffs = once::diff(&options, &config, &wanted);
            for diff in diffs.iter().filter(|_| !json) {
                write!(out, "{}", diff.diff)?;
                if let Some(problem) = &diff.problem {
                    tracing::error!("{problem}");
                }
            }
            let failed = diffs.iter().any(|diff| diff.problem.is_some());
            (json, serde_json::to_value(diffs)?, failed)
        }
        Command::Sync { json } | Command::Clear { json } => {
            let changes = once::sync(&options, &config, &wanted);
            for change in changes.changes.iter().filter(|_| !json) {
                writeln!(out, "{change}")?;
            }
            for problem in changes.problems.iter().filter(|_| !json) {
                tracing::error!("{problem}");
            }
            let failed = !changes.problems.is_empty();
            (json, serde_json::to_value(changes)?, failed)
        }
    };
    if json {
        writeln!(out, "{value}")?;
    }
    Ok(if failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}
