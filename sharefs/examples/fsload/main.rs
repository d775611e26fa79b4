//! `fsload SOCKET FOLDER PID`: how fast a file daemon answers, as a guest at full speed would see it.
//!
//! By virtiofs it plays the VMM and the guest's kernel at once: a vhost-user front end that puts FUSE requests into
//! the daemon's own virtqueue, shaped as Linux shapes them. No guest stands between, so what is
//! measured is the daemon. With `--ninep SHARE` it is a 9P2000.L client at a unix socket. It knows no daemon's name: `cargo xtask bench fs` starts them and makes the
//! table. FOLDER is the share as the host has it; its files are made there. One line of JSON a row.
//!
//! Read first: guest.rs (the queue), fuse.rs (the requests), rows.rs (what is measured); ninep.rs, ninep_rows.rs.

mod clock;
mod folder;
mod fuse;
mod guest;
mod many;
mod ninep;
mod ninep_rows;
mod outlive;
mod paced;
mod rows;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

/// Measures a virtiofs daemon at its vhost-user socket, or a 9P daemon
#[derive(Debug, Parser)]
struct Arguments {
    /// The daemon's socket
    socket: PathBuf,
    /// The folder it shares; it must be empty, and is emptied at the end
    folder: PathBuf,
    /// Its process id, whose processor time is counted
    pid: u32,
    /// Measure only rows whose key contains this text, or one of several between commas
    #[arg(long, default_value = "")]
    rows: String,
    /// Length of each measurement
    #[arg(long, default_value_t = 150)]
    milliseconds: u64,
    /// Speak 9P2000.L and attach this share
    #[arg(long)]
    ninep: Option<String>,
    /// The user to attach as
    #[arg(long, default_value_t = 0)]
    user: u32,
    /// Instead of all that: what it costs to know so many files
    #[arg(long)]
    many: Option<usize>,
    /// With that: kill the process, and ask the one that follows it for each of the files
    #[arg(long, requires = "many")]
    kill: bool,
    /// Instead of all that: whether it finds so many files when it is killed three times
    #[arg(long, conflicts_with = "many")]
    outlive: Option<usize>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let folder = folder::Folder::fill(&arguments.folder)?;
    let time = Duration::from_millis(arguments.milliseconds);
    if let Some(share) = &arguments.ninep {
        let connection = ninep::Connection::open(&arguments.socket, share, arguments.user)?;
        return ninep_rows::Bench::new(connection, arguments.pid, time, &arguments.rows).run();
    }
    let guest = guest::Guest::connect(&arguments.socket)?;
    let mut bench = rows::Bench::new(guest, arguments.pid, time, &arguments.rows)?;
    if let Some(files) = arguments.outlive {
        return outlive::run(&mut bench, &arguments.folder, files);
    }
    match arguments.many {
        Some(files) => many::run(&mut bench, &arguments.folder, files, arguments.kill),
        None => bench.run(&folder),
    }
}

#[expect(clippy::print_stderr, reason = "a program says why it failed")]
fn complain(line: &str) {
    eprintln!("fsload: {line}");
}
