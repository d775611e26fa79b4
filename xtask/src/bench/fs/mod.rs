//! `cargo xtask bench fs`: our virtiofs daemon and virtiofsd, side by side in one run.
//!
//! Both run as the same ordinary user and share a folder in memory; sharefs's example fsload drives each
//! at its vhost-user socket, as a guest at full speed would. Daemon and driver have a processor each,
//! so that the scheduler's choice between them is not what is measured. The table shows medians; what
//! they mean stands in docs/performance.md.

mod daemons;
mod rows;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use ::tests::{command, packages, place, programs};
use anyhow::{Context as _, Result, bail};
use serde_json::Value as Json;

use super::table::{Sample, Table, Value};
use super::{BUILD_LIMIT, need, say};
use daemons::{Daemon, Processor, on_processor};
use rows::Row;

/// What virtiofsd links with and what starts both.
const NEEDS: &[packages::Need] = &[
    need("setpriv", "util-linux"),
    need("/usr/include/cap-ng.h", "libcap-ng-dev"),
    need("/usr/include/seccomp.h", "libseccomp-dev"),
];

/// One run of fsload.
const RUN_LIMIT: Duration = Duration::from_secs(120);

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Runs, of which the table shows the median
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Length of each measurement
    #[arg(long, default_value_t = 100)]
    milliseconds: u64,
    /// Daemons to measure, of: virtiofsd, sharectl
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Rows to measure: those whose key contains this text, such as getattr or read-4k
    #[arg(long, default_value = "")]
    rows: String,
    /// Also write the table as markdown to this file
    #[arg(long)]
    markdown: Option<PathBuf>,
}

/// Runs the bench.
///
/// # Errors
/// When a daemon does not build, start or answer.
pub(super) fn run(arguments: &Arguments) -> Result<()> {
    let daemons = chosen(&arguments.only)?;
    packages::ensure(NEEDS)?;
    let driver = build()?;
    for daemon in &daemons {
        daemon.install()?;
    }
    let mut table: Table<Row> =
        Table::new(daemons.iter().map(|daemon| daemon.name()), arguments.runs);
    table.note_machine();
    for run in 0..arguments.runs {
        // Another order each time, so that nobody always runs on the coldest or warmest machine.
        for turn in 0..daemons.len() {
            let Some(daemon) = daemons.get((run + turn) % daemons.len()) else {
                continue;
            };
            say(&format!(
                "run {} of {}: {}",
                run + 1,
                arguments.runs,
                daemon.name()
            ));
            for sample in measure(&driver, *daemon, arguments)? {
                table.add(daemon.name(), sample);
            }
        }
    }
    table.note_load();
    say(&table.text());
    if let Some(path) = &arguments.markdown {
        std::fs::write(path, table.markdown())
            .with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

fn chosen(only: &[String]) -> Result<Vec<Daemon>> {
    let unknown = only
        .iter()
        .find(|name| !Daemon::ALL.iter().any(|daemon| daemon.name() == **name));
    if let Some(unknown) = unknown {
        let known = Daemon::ALL.map(Daemon::name).join(", ");
        bail!("no daemon {unknown:?}; there are: {known}");
    }
    let wanted = |daemon: &Daemon| only.is_empty() || only.iter().any(|name| name == daemon.name());
    Ok(Daemon::ALL.into_iter().filter(wanted).collect())
}

fn measure(driver: &Path, daemon: Daemon, arguments: &Arguments) -> Result<Vec<Sample<Row>>> {
    let running = daemon.start()?;
    let mut line = Command::new(driver);
    line.arg(running.socket())
        .arg(running.folder())
        .arg(running.pid().to_string())
        .args(["--rows", &arguments.rows])
        .args(["--milliseconds", &arguments.milliseconds.to_string()]);
    let text = on_processor(Processor::Last, || command::run(&mut line, RUN_LIMIT))
        .with_context(|| format!("{}\n{}", daemon.name(), running.log()))?;
    text.lines()
        .filter_map(|line| sample(line).transpose())
        .collect()
}

/// A line of fsload's; None for a row that the table does not show.
fn sample(line: &str) -> Result<Option<Sample<Row>>> {
    let value: Json = serde_json::from_str(line).with_context(|| format!("fsload: {line}"))?;
    let key = value["row"].as_str().unwrap_or_default();
    let number = value["value"]
        .as_f64()
        .with_context(|| format!("fsload: no value in {line}"))?;
    Ok(Row::of(key).map(|row| Sample {
        row,
        value: Value::Number(number),
    }))
}

/// Builds the driver, optimised, or takes it from the folder that holds all other programs too.
fn build() -> Result<PathBuf> {
    if let Some(folder) = std::env::var_os(programs::VARIABLE).map(PathBuf::from) {
        return Ok(folder.join("fsload"));
    }
    say("building (release)");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut line = Command::new(cargo);
    line.current_dir(place::workspace())
        .args(["build", "--quiet", "--release", "--locked", "--target-dir"])
        .arg(place::target())
        .args(["-p", "sharefs", "--example", "fsload"]);
    command::run(&mut line, BUILD_LIMIT)?;
    Ok(place::target().join("release/examples/fsload"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fsloads_lines_are_read_and_rows_of_no_table_left_out() {
        let read = sample(r#"{"row": "getattr.1", "value": 2.5}"#)
            .unwrap()
            .unwrap();
        assert_eq!(Some(read.row), Row::of("getattr.1"));
        assert!(matches!(read.value, Value::Number(number) if (number - 2.5).abs() < 1e-9));
        assert!(sample(r#"{"row": "else", "value": 1}"#).unwrap().is_none());
        assert!(sample(r#"{"row": "getattr.1"}"#).is_err());
        assert!(sample("fsload: no answer").is_err());
    }

    #[test]
    fn an_unknown_daemon_is_refused_with_the_known_ones() {
        let error = chosen(&["samba".to_owned()]).unwrap_err().to_string();
        assert!(error.contains("virtiofsd, sharectl"), "{error}");
        assert_eq!(chosen(&[]).unwrap(), Daemon::ALL);
    }
}
