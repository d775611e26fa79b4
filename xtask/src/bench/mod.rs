//! `cargo xtask bench`: our daemons and their peers, side by side in one run; the network here, files in `fs`.
//!
//! For the network the guest is a network namespace with a tap: a real kernel TCP stack at full speed. A backend
//! joins that guest to a second namespace, from which a veth leads to a third one with the servers
//! (see `bed`). What is measured is a list of rows (`rows`); each run measures every backend, and the
//! table shows medians. It draws no conclusions: docs/performance.md does.

mod backend;
mod bed;
mod fs;
mod measure;
mod ours;
mod parse;
mod probe;
mod rows;
mod table;

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tests::{command, packages, place, programs};

use backend::Backend;
use measure::{Plan, Programs};
use table::Table;

/// What the bench needs on the machine besides what we build ourselves.
const NEEDS: &[packages::Need] = &[
    need("ip", "iproute2"),
    need("ss", "iproute2"),
    need("iperf3", "iperf3"),
    need("pasta", "passt"),
    need("passt", "passt"),
    need("slirp4netns", "slirp4netns"),
    need("setpriv", "util-linux"),
];

/// The column of our own daemon.
const OURS: &str = "sharectl";
/// The same behind a stream socket.
const OURS_STREAM: &str = "sharectl-stream";

/// A release build with link-time optimisation on a slow machine.
const BUILD_LIMIT: Duration = Duration::from_secs(1800);

const fn need(program: &'static str, package: &'static str) -> packages::Need {
    packages::Need { program, package }
}

/// Arguments of `cargo xtask bench`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// The network: throughput, latency, connection rate, memory, beside pasta and slirp4netns
    Net(Net),
    /// Shared folders: latency, rates and processor time of virtiofs, beside virtiofsd
    Fs(fs::Arguments),
}

#[derive(Debug, clap::Args)]
struct Net {
    /// One short run, for a first look
    #[arg(long)]
    quick: bool,
    /// Runs, of which the table shows the median [default: 5, with --quick 1]
    #[arg(long)]
    runs: Option<usize>,
    /// Length of each measurement [default: 3, with --quick 1]
    #[arg(long)]
    seconds: Option<u64>,
    /// Backends to measure, of: veth, pasta, slirp4netns, smoltcp, sharectl, passt-stream, sharectl-stream
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Rows to measure: those whose name contains this text
    #[arg(long)]
    rows: Option<String>,
    /// Also write the table as markdown to this file
    #[arg(long)]
    markdown: Option<PathBuf>,
}

/// Runs `cargo xtask bench ...`.
///
/// # Errors
/// When the bed cannot be made (not root, no namespaces) or no backend starts. A single measurement
/// that fails is a word in its cell, not an error.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    match &arguments.what {
        What::Net(net) => bench_net(net),
        What::Fs(arguments) => fs::run(arguments),
    }
}

fn bench_net(net: &Net) -> Result<()> {
    if !tests::user::is_root() {
        bail!("the bench makes network namespaces: run it as root");
    }
    packages::ensure(NEEDS)?;
    let programs = build()?;
    let backends = chosen(&net.only, &programs)?;
    if backends
        .iter()
        .any(|backend| [OURS, OURS_STREAM].contains(&backend.name()))
    {
        programs::prepare("release")?;
    }
    let runs = net.runs.unwrap_or(if net.quick { 1 } else { 5 });
    let seconds = net.seconds.unwrap_or(if net.quick { 1 } else { 3 });
    let plan = Plan {
        seconds,
        rows: rows::matching(net.rows.as_deref()),
    };

    let mut table = Table::new(backends.iter().map(|backend| backend.name()), runs);
    table.note_machine();
    for run in 0..runs {
        // Another order each time, so that nobody always runs on the coldest or warmest machine.
        for turn in 0..backends.len() {
            let Some(backend) = backends.get((run + turn) % backends.len()) else {
                continue;
            };
            say(&format!("run {} of {runs}: {}", run + 1, backend.name()));
            for sample in measure::measure(&programs, backend.as_ref(), &plan)? {
                say(&format!("    {sample}"));
                table.add(backend.name(), sample);
            }
        }
    }
    table.note_load();
    say(&table.text());
    if let Some(path) = &net.markdown {
        std::fs::write(path, table.markdown())
            .with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

fn chosen(only: &[String], programs: &Programs) -> Result<Vec<Box<dyn Backend>>> {
    let all = backend::all(programs);
    if let Some(unknown) = only
        .iter()
        .find(|name| !all.iter().any(|backend| backend.name() == name.as_str()))
    {
        let known: Vec<_> = all.iter().map(|backend| backend.name()).collect();
        bail!("no backend {unknown:?}; there are: {}", known.join(", "));
    }
    let wanted = |name: &str| only.is_empty() || only.iter().any(|one| one == name);
    Ok(all
        .into_iter()
        .filter(|backend| wanted(backend.name()))
        .collect())
}

/// Builds what the bench brings itself, optimised; or takes it from the folder that holds all other
/// programs too.
fn build() -> Result<Programs> {
    if let Some(folder) = std::env::var_os(programs::VARIABLE).map(PathBuf::from) {
        return Ok(Programs {
            netload: folder.join("netload"),
            prototype: folder.join("smoltcp_engine"),
            shim: folder.join("qemu_shim"),
        });
    }
    say("building (release)");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    for arguments in [
        ["-p", "tests", "--bin", "netload"],
        ["-p", "netd", "--example", "smoltcp_engine"],
        ["-p", "netd", "--example", "qemu_shim"],
    ] {
        let mut line = Command::new(&cargo);
        line.current_dir(place::workspace())
            .args(["build", "--quiet", "--release", "--locked", "--target-dir"])
            .arg(place::target())
            .args(arguments);
        command::run(&mut line, BUILD_LIMIT)?;
    }
    let release = place::target().join("release");
    Ok(Programs {
        netload: release.join("netload"),
        prototype: release.join("examples/smoltcp_engine"),
        shim: release.join("examples/qemu_shim"),
    })
}

#[expect(
    clippy::print_stdout,
    reason = "the table and its progress are what this command is for"
)]
fn say(line: &str) {
    println!("{line}");
}
