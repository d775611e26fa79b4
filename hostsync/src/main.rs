//! `sharectl-hostsync`: arguments -> configuration -> daemon or one round -> exit code.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::SystemTime;

use anyhow::Context;
use clap::{Parser, Subcommand};
use control::api::{Changes, HostsBackup, HostsDiff, HostsFileStatus, HostsMended};
use control::config::Config;
use control::failure::Failure;
use control::paths::{Daemon as Kind, Paths, make_private_folder};
use hostsync::daemon::{self, Options};
use hostsync::files::{Restoring, Wish};
use hostsync::once;
use hostsync::section::Tag;
use hostsync::writer::WriteError;
use hostsync::writer_service::units;

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

#[derive(Debug, Clone, Subcommand)]
enum Command {
    /// Write the files once, without a daemon
    Sync {
        #[command(flatten)]
        how: How,
    },
    /// Show how the files differ from what they should be; changes nothing
    Diff {
        /// Answer in JSON
        #[arg(long)]
        json: bool,
    },
    /// Take sharectl's block out of the files
    Clear {
        #[command(flatten)]
        how: How,
    },
    /// Say how each file would be written; changes nothing
    Files {
        /// Answer in JSON
        #[arg(long)]
        json: bool,
    },
    /// Print what runs the hosts writer: a unit of systemd, or its policy
    Unit {
        /// Which
        what: Unit,
    },
    /// List the versions of the files that were kept before writes
    Backups {
        /// Answer in JSON
        #[arg(long)]
        json: bool,
    },
    /// Bring the own lines of a kept version back; sharectl's blocks stay
    Restore {
        /// The number of the version [default: the newest that differs from the file]
        #[arg(long, value_name = "NUMBER")]
        backup: Option<u64>,
        #[command(flatten)]
        how: How,
        /// This file of the configuration alone [default: all]
        file: Option<PathBuf>,
    },
    /// Mend damaged markers; your own lines stay
    Repair {
        #[command(flatten)]
        how: How,
        /// This file of the configuration alone [default: all]
        file: Option<PathBuf>,
    },
}

/// A file for the hosts writer.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Unit {
    /// sharectl-hosts.socket
    Socket,
    /// sharectl-hosts.service
    Service,
    /// /etc/sharectl/hosts.toml
    Policy,
    /// Where the units have the program
    Program,
}

/// How a command that changes files is meant.
#[derive(Debug, Clone, Copy, clap::Args)]
struct How {
    /// Change nothing, show what would be changed
    #[arg(long)]
    dry_run: bool,
    /// Answer in JSON
    #[arg(long)]
    json: bool,
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
    if let Some(Command::Unit { what }) = &arguments.command {
        let text = match what {
            Unit::Socket => units::SOCKET,
            Unit::Service => units::SERVICE,
            Unit::Policy => units::POLICY,
            Unit::Program => units::PROGRAM,
        };
        std::io::stdout().lock().write_all(text.as_bytes())?;
        return Ok(ExitCode::SUCCESS);
    }
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
        Command::Clear { .. }
        | Command::Files { .. }
        | Command::Unit { .. }
        | Command::Backups { .. }
        | Command::Restore { .. } => Default::default(),
        Command::Sync { .. } | Command::Diff { .. } | Command::Repair { .. } => {
            once::wanted(&options, &config, now).await
        }
    };
    match command {
        Command::Diff { json } => differences(json, &once::diff(&options, &config, &wanted)),
        Command::Sync { how } | Command::Clear { how } if how.dry_run => {
            differences(how.json, &once::diff(&options, &config, &wanted))
        }
        Command::Sync { how } | Command::Clear { how } => {
            changed(how.json, &once::sync(&options, &config, &wanted))
        }
        Command::Files { json } => {
            let keeper = options.keeper(&config);
            let files = keeper.paths(&config.hosts.files);
            looked(
                json,
                &files
                    .iter()
                    .map(|file| keeper.look(file))
                    .collect::<Vec<_>>(),
            )
        }
        // Answered before the configuration was read.
        Command::Unit { .. } => Ok(ExitCode::SUCCESS),
        Command::Backups { json } => {
            let keeper = options.keeper(&config);
            let files = once::chosen(&keeper, &config, None)?;
            let lists = files.iter().map(|file| keeper.backups(file));
            let lists: Vec<_> = lists.collect::<Result<_, _>>()?;
            backups(json, &lists.concat())
        }
        Command::Restore { backup, how, file } => {
            let keeper = options.keeper(&config);
            let which = backup.map_or(Restoring::Newest, Restoring::Number);
            let wish = how.wish();
            mend(
                how,
                &once::chosen(&keeper, &config, file.as_deref())?,
                |file| keeper.restore(file, which, wish),
            )
        }
        Command::Repair { how, file } => {
            let keeper = options.keeper(&config);
            let wish = how.wish();
            mend(
                how,
                &once::chosen(&keeper, &config, file.as_deref())?,
                |file| keeper.repair(file, &wanted, wish),
            )
        }
    }
}

impl How {
    fn wish(self) -> Wish {
        if self.dry_run { Wish::Show } else { Wish::Do }
    }
}

fn differences(json: bool, diffs: &[HostsDiff]) -> anyhow::Result<ExitCode> {
    let mut out = std::io::stdout().lock();
    for diff in diffs.iter().filter(|_| !json) {
        write!(out, "{}", diff.diff)?;
        if let Some(problem) = &diff.problem {
            tracing::error!("{problem}");
        }
    }
    if json {
        writeln!(out, "{}", serde_json::to_value(diffs)?)?;
    }
    Ok(status(diffs.iter().any(|diff| diff.problem.is_some())))
}

fn changed(json: bool, changes: &Changes) -> anyhow::Result<ExitCode> {
    let mut out = std::io::stdout().lock();
    for change in changes.changes.iter().filter(|_| !json) {
        writeln!(out, "{change}")?;
    }
    for problem in changes.problems.iter().filter(|_| !json) {
        tracing::error!("{problem}");
    }
    if json {
        writeln!(out, "{}", serde_json::to_value(changes)?)?;
    }
    Ok(status(!changes.problems.is_empty()))
}

fn looked(json: bool, files: &[HostsFileStatus]) -> anyhow::Result<ExitCode> {
    let mut out = std::io::stdout().lock();
    if json {
        writeln!(out, "{}", serde_json::to_value(files)?)?;
        return Ok(status(false));
    }
    for file in files {
        writeln!(out, "{}  {}", file.file.display(), file.way)?;
        for word in file.notes.iter().chain(&file.problem) {
            writeln!(out, "  {word}")?;
        }
    }
    Ok(status(files.iter().any(|file| file.problem.is_some())))
}

fn backups(json: bool, backups: &[HostsBackup]) -> anyhow::Result<ExitCode> {
    let mut out = std::io::stdout().lock();
    if json {
        writeln!(out, "{}", serde_json::to_value(backups)?)?;
        return Ok(status(false));
    }
    for backup in backups {
        let current = if backup.current { "  (as now)" } else { "" };
        let file = backup.file.display();
        writeln!(out, "{file}  {}  {}{current}", backup.number, backup.kept)?;
    }
    Ok(status(false))
}

/// Does one thing to each file; one that fails does not keep the others from it.
fn mend(
    how: How,
    files: &[PathBuf],
    mut one: impl FnMut(&Path) -> Result<HostsMended, WriteError>,
) -> anyhow::Result<ExitCode> {
    let mut mended = Vec::new();
    let mut failed: Option<Failure> = None;
    for file in files {
        match one(file) {
            Ok(done) => mended.push(done),
            Err(error) => {
                let failure = Failure::from(&error);
                tracing::error!(hint = failure.hint, "{failure}");
                failed = Some(failed.unwrap_or(failure));
            }
        }
    }
    let mut out = std::io::stdout().lock();
    if how.json {
        // The first failure is the answer, unless something was done.
        let all_failed = mended.is_empty();
        let value = match &failed {
            Some(failure) if all_failed => serde_json::to_value(failure)?,
            _ => serde_json::to_value(&mended)?,
        };
        writeln!(out, "{value}")?;
        return Ok(status(failed.is_some()));
    }
    for done in &mended {
        for sentence in &done.found {
            writeln!(out, "{}: {sentence}", done.file.display())?;
        }
        write!(out, "{}", done.diff)?;
    }
    Ok(status(failed.is_some()))
}

fn status(failed: bool) -> ExitCode {
    if failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}
