//! The table of programs in an emulated guest: everything a program waits for is in it, and nothing is as fast as
//! on a real processor. Only how the columns compare means something.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tests::suites::{Bed, DIOD, Server};
use tests::{packages, programs, user};

use super::rows::Row;
use super::{Arguments, sample};
use crate::bench::say;
use crate::bench::table::Table;

/// One run on a slow machine.
const RUN_LIMIT: Duration = Duration::from_secs(120);

const SERVERS: [(Server, &str); 5] = [
    (Server::Virtiofsd, "virtiofsd"),
    (Server::Sharefs, "sharectl"),
    (Server::Qemu, "QEMU 9P"),
    (Server::Diod, "diod"),
    (Server::Ninep, "sharectl 9P"),
];

/// The heads of its columns.
pub(super) fn columns() -> impl Iterator<Item = &'static str> {
    SERVERS.into_iter().map(|(_, name)| name)
}

/// Boots two guests for each column.
///
/// # Errors
/// When not root, or a guest or daemon does not start.
pub(super) fn run(arguments: &Arguments) -> Result<Table<Row>> {
    ensure!(
        user::is_root(),
        "the daemons of the table of guests run as root: be root, or leave it out by --tables virtiofs,ninep,layers"
    );
    packages::ensure(packages::GUEST)?;
    packages::ensure(&[DIOD])?;
    programs::prepare("release")?;
    let servers = SERVERS
        .into_iter()
        .filter(|(_, name)| arguments.wants(name));
    let mut table: Table<Row> = Table::new(servers.clone().map(|(_, name)| name), arguments.runs);
    table.note_machine();
    // Each has two guests, in opposite orders: what the machine does meanwhile is not one column's.
    let (first, second) = (arguments.runs.div_ceil(2), arguments.runs / 2);
    let boots = servers
        .clone()
        .map(|server| (first, server))
        .chain(servers.rev().map(|server| (second, server)))
        .filter(|(runs, _)| *runs > 0);
    for (runs, (server, name)) in boots {
        say(&format!("{runs} runs in a guest: {name}"));
        let bed = Bed::new(server)?;
        let limit = RUN_LIMIT * u32::try_from(runs).unwrap_or(1);
        let done = bed.script(include_str!("guest.sh"), &format!("RUNS={runs}"), limit)?;
        ensure!(done.status == 0, "{name}: {}", done.stdout);
        for line in done.stdout.lines() {
            let sample = sample(line).with_context(|| name.to_owned())?;
            if let Some(sample) = sample {
                table.add(name, sample);
            }
        }
    }
    table.note_load();
    Ok(table)
}
