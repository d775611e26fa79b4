//! `fsload SOCKET FOLDER PID`: how fast a virtiofs daemon answers, as a guest at full speed would see it.
//!
//! It plays the VMM and the guest's kernel at once: a vhost-user front end that puts FUSE requests into
//! the daemon's own virtqueue, shaped as Linux shapes them. No guest stands between, so what is
//! measured is the daemon. It knows no daemon's name: `cargo xtask bench fs` starts them and makes the
//! table. FOLDER is the share as the host has it; its files are made there. One line of JSON a row.
//!
//! Read first: guest.rs (the queue), fuse.rs (the requests), rows.rs (what is measured).

mod clock;
mod folder;
mod fuse;
mod guest;
mod many;
mod paced;
mod rows;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

/// Measures a virtiofs daemon at its vhost-user socket
#[derive(Debug, Parser)]
struct Arguments {
    /// The daemon's vhost-user socket
    socket: PathBuf,
    /// The folder it shares; it must be empty, and is emptied at the end
    folder: PathBuf,
    /// Its process id, whose processor time is counted
    pid: u32,
    /// Measure only rows whose key contains this text
    #[arg(long, default_value = "")]
    rows: String,
    /// Length of each measurement
    #[arg(long, default_value_t = 150)]
    milliseconds: u64,
    /// Instead of all that: what it costs to know so many files
    #[arg(long)]
    many: Option<usize>,
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
    let guest = guest::Guest::connect(&arguments.socket)?;
    let time = Duration::from_millis(arguments.milliseconds);
    let mut bench = rows::Bench::new(guest, arguments.pid, time, &arguments.rows)?;
    match arguments.many {
        Some(files) => many::run(&mut bench, &arguments.folder, files),
        None => bench.run(&folder),
    }
}

#[expect(clippy::print_stderr, reason = "a program says why it failed")]
fn complain(line: &str) {
    eprintln!("fsload: {line}");
}
