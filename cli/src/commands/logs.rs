//! `sharectl logs`: what the daemons wrote.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use clap::ValueEnum;
use control::paths::Daemon;
use schemars::JsonSchema;
use serde::Serialize;

use crate::context::Context;
use crate::error::{CliError, Outcome};
use crate::service;

/// A daemon as typed on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum DaemonArg {
    /// Networks
    Netd,
    /// Shares
    Sharefs,
    /// Hosts files
    Hostsync,
}

impl From<DaemonArg> for Daemon {
    fn from(arg: DaemonArg) -> Self {
        match arg {
            DaemonArg::Netd => Self::Netd,
            DaemonArg::Sharefs => Self::Sharefs,
            DaemonArg::Hostsync => Self::Hostsync,
        }
    }
}

/// Show the logs of the daemons
///
/// Daemons of `sharectl up` write to the state folder, those of `sharectl service` to the journal.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  sharectl logs netd -f\n  sharectl logs -n 20")]
pub(crate) struct Args {
    /// Only of this daemon
    #[arg(value_enum)]
    daemon: Option<DaemonArg>,
    /// Go on with what is written from now
    #[arg(short, long)]
    follow: bool,
    /// How many lines of each to begin with
    #[arg(short = 'n', long, value_name = "COUNT", default_value_t = 100)]
    lines: usize,
}

/// How often a followed log is looked at.
const LOOK: Duration = Duration::from_millis(200);
/// The most of a log's end that is looked through for lines, in bytes.
const TAIL: u64 = 1 << 20;

struct Log {
    daemon: Daemon,
    /// Where the next read begins, and in which file.
    offset: u64,
    inode: u64,
    /// A line that has no end yet.
    partial: Vec<u8>,
}

pub(crate) fn run(context: &Context, args: Args) -> Outcome {
    let daemons: Vec<Daemon> = args
        .daemon
        .map_or_else(|| Daemon::ALL.to_vec(), |daemon| vec![daemon.into()]);
    if let Some(manager) = service::owner(context)? {
        return service::logs(context, manager, &daemons, (args.lines, args.follow));
    }
    let named = daemons.len() > 1;
    let mut logs = Vec::new();
    for daemon in &daemons {
        let mut log = Log {
            daemon: *daemon,
            offset: 0,
            inode: 0,
            partial: Vec::new(),
        };
        if let Some(lines) = begin(context, &mut log, args.lines)? {
            print(context, &log, &lines, named)?;
        } else {
            context.out.warning(&format!(
                "{daemon} has no log yet: {}",
                context.paths.log(*daemon).display()
            ));
        }
        logs.push(log);
    }
    if !args.follow && logs.iter().all(|log| log.inode == 0) {
        return Err(CliError::failure(
            "there is no log",
            "logs are written by daemons that sharectl up started; a service manager keeps its own",
        ));
    }
    if !args.follow {
        return Ok(());
    }
    context.wait(async {
        loop {
            for log in &mut logs {
                let lines = read_on(context, log)?;
                print(context, log, &lines, named)?;
            }
            tokio::time::sleep(LOOK).await;
        }
    })?
}

fn failed(context: &Context, daemon: Daemon) -> impl Fn(std::io::Error) -> CliError {
    let path = context.paths.log(daemon);
    move |error| {
        CliError::failure(
            format!("cannot read {}: {error}", path.display()),
            "run the command as the user who ran sharectl up",
        )
    }
}

/// The last lines of a log; none when there is no file.
fn begin(context: &Context, log: &mut Log, lines: usize) -> Outcome<Option<Vec<Vec<u8>>>> {
    let failed = failed(context, log.daemon);
    let mut file = match File::open(context.paths.log(log.daemon)) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let meta = file.metadata().map_err(&failed)?;
    log.inode = meta.ino();
    let start = meta.size().saturating_sub(TAIL);
    file.seek(SeekFrom::Start(start)).map_err(&failed)?;
    let mut bytes = Vec::new();
    file.take(meta.size() - start)
        .read_to_end(&mut bytes)
        .map_err(&failed)?;
    log.offset = start + bytes.len() as u64;
    let mut found = split(log, &bytes);
    if start > 0 && !found.is_empty() {
        // Cut somewhere inside its first line.
        found.remove(0);
    }
    found.drain(..found.len().saturating_sub(lines));
    Ok(Some(found))
}

/// The lines that came since the last look; a file that was replaced or cut begins anew.
fn read_on(context: &Context, log: &mut Log) -> Outcome<Vec<Vec<u8>>> {
    let failed = failed(context, log.daemon);
    let Ok(mut file) = File::open(context.paths.log(log.daemon)) else {
        return Ok(Vec::new());
    };
    let meta = file.metadata().map_err(&failed)?;
    if meta.ino() != log.inode || meta.size() < log.offset {
        (log.inode, log.offset) = (meta.ino(), 0);
        log.partial.clear();
    }
    file.seek(SeekFrom::Start(log.offset)).map_err(&failed)?;
    let mut bytes = Vec::new();
    file.take(TAIL).read_to_end(&mut bytes).map_err(&failed)?;
    log.offset += bytes.len() as u64;
    Ok(split(log, &bytes))
}

fn split(log: &mut Log, bytes: &[u8]) -> Vec<Vec<u8>> {
    log.partial.extend_from_slice(bytes);
    let mut lines: Vec<Vec<u8>> = log
        .partial
        .split(|b| *b == b'\n')
        .map(<[u8]>::to_vec)
        .collect();
    log.partial = lines.pop().unwrap_or_default();
    lines
}

/// A line of a daemon's log.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Line<'l> {
    pub daemon: &'static str,
    pub line: &'l str,
}

fn print(context: &Context, log: &Log, lines: &[Vec<u8>], named: bool) -> Outcome {
    let mut text = String::new();
    for line in lines {
        let line = String::from_utf8_lossy(line);
        if context.out.is_json() {
            context.out.json_line(&Line {
                daemon: log.daemon.name(),
                line: &line,
            })?;
            continue;
        }
        if named {
            text.push_str(&format!("{:<8} | ", log.daemon));
        }
        text.push_str(&crate::output::printable(&line));
        text.push('\n');
    }
    context.out.text(&text)
}
