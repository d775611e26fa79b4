//! `cargo xtask bench fs`: our daemon and its peers, side by side in one run; a table for each way in.
//!
//! All run as the same ordinary user and share a folder in memory; sharefs's example fsload drives each
//! at its socket, as a guest at full speed would. Daemon and driver have a processor each,
//! so that the scheduler's choice between them is not what is measured. The last table is of programs in an
//! emulated guest (`guest`). Tables show medians; what they mean stands in docs/performance.md.

mod daemons;
mod guest;
mod rows;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use ::tests::{command, packages, place, programs};
use anyhow::{Context as _, Result, bail};
use serde_json::Value as Json;

use super::table::{Sample, Table, Value};
use super::{BUILD_LIMIT, need, say};
use daemons::{Daemon, Layer, Processor, Speech, on_processor};
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
    /// Tables to make [default: all]
    #[arg(long, value_delimiter = ',')]
    tables: Vec<Which>,
    /// Columns to measure, such as: virtiofsd, sharectl, diod
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Rows to measure: those whose key contains this text, such as getattr or read-4k; with commas, one of these
    #[arg(long, default_value = "")]
    rows: String,
    /// Also write the table as markdown to this file
    #[arg(long)]
    markdown: Option<PathBuf>,
}

/// A table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Which {
    /// Requests of virtiofs, beside virtiofsd
    Virtiofs,
    /// Messages of 9P, beside diod
    Ninep,
    /// What a share's options cost
    Layers,
    /// Programs in an emulated guest, beside all peers
    Guest,
}

impl Which {
    const ALL: [Self; 4] = [Self::Virtiofs, Self::Ninep, Self::Layers, Self::Guest];

    fn title(self) -> &'static str {
        match self {
            Self::Virtiofs => "virtiofs",
            Self::Ninep => "9P",
            Self::Layers => "options of a share",
            Self::Guest => "in an emulated guest",
        }
    }

    /// The columns of those tables that fsload fills.
    fn daemons(self) -> Vec<Daemon> {
        match self {
            Self::Virtiofs => vec![Daemon::Virtiofsd, Daemon::Sharefs],
            Self::Ninep => vec![Daemon::Diod, Daemon::Ninep],
            Self::Layers => Layer::ALL.map(Daemon::Layered).to_vec(),
            Self::Guest => Vec::new(),
        }
    }

    /// All its columns.
    fn columns(self) -> Vec<&'static str> {
        match self {
            Self::Guest => guest::columns().collect(),
            Self::Virtiofs | Self::Ninep | Self::Layers => {
                self.daemons().into_iter().map(Daemon::name).collect()
            }
        }
    }
}

/// Of a share with options only these, which go through the layers.
const OF_LAYERS: &str = "getattr,lookup,walk,readdirplus,create,setattr";

/// Runs the bench.
///
/// # Errors
/// When a daemon does not build, start or answer.
pub(super) fn run(arguments: &Arguments) -> Result<()> {
    let tables = arguments.tables()?;
    packages::ensure(NEEDS)?;
    let mut markdown = String::new();
    for which in tables {
        let table = match which {
            Which::Guest => guest::run(arguments)?,
            Which::Virtiofs | Which::Ninep | Which::Layers => requests(which, arguments)?,
        };
        say(&format!("{}:\n{}", which.title(), table.text()));
        markdown = format!("{markdown}## {}\n\n{}\n", which.title(), table.markdown());
    }
    if let Some(path) = &arguments.markdown {
        std::fs::write(path, markdown).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

impl Arguments {
    /// The tables that have a column that is wanted.
    fn tables(&self) -> Result<Vec<Which>> {
        let wanted = |which: &Which| self.tables.is_empty() || self.tables.contains(which);
        let tables: Vec<Which> = Which::ALL.into_iter().filter(wanted).collect();
        let known: Vec<&str> = tables.iter().flat_map(|which| which.columns()).collect();
        if let Some(unknown) = self
            .only
            .iter()
            .find(|name| !known.contains(&name.as_str()))
        {
            bail!("no column {unknown:?}; there are: {}", known.join(", "));
        }
        let has_any = |which: &Which| which.columns().into_iter().any(|name| self.wants(name));
        Ok(tables.into_iter().filter(has_any).collect())
    }

    fn wants(&self, column: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|name| name == column)
    }
}

/// A table that fsload fills.
fn requests(which: Which, arguments: &Arguments) -> Result<Table<Row>> {
    let mut daemons = which.daemons();
    daemons.retain(|daemon| arguments.wants(daemon.name()));
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
    Ok(table)
}

fn measure(driver: &Path, daemon: Daemon, arguments: &Arguments) -> Result<Vec<Sample<Row>>> {
    let running = daemon.start()?;
    let mut rows = arguments.rows.as_str();
    if rows.is_empty() && matches!(daemon, Daemon::Layered(_)) {
        rows = OF_LAYERS;
    }
    let mut line = Command::new(driver);
    line.arg(running.socket())
        .arg(running.folder())
        .arg(running.pid().to_string())
        .args(["--rows", rows])
        .args(["--milliseconds", &arguments.milliseconds.to_string()]);
    if let Speech::Ninep { share, user } = running.speech() {
        line.args(["--ninep", share, "--user", &user.to_string()]);
    }
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
    fn an_unknown_column_is_refused_and_a_known_one_chooses_its_tables() {
        let asked = |only: &str| Arguments {
            runs: 1,
            milliseconds: 1,
            tables: Vec::new(),
            only: vec![only.to_owned()],
            rows: String::new(),
            markdown: None,
        };
        let error = asked("samba").tables().unwrap_err().to_string();
        assert!(error.contains("virtiofsd, sharectl"), "{error}");
        assert_eq!(asked("plain").tables().unwrap(), [Which::Layers]);
        let peers = asked("diod").tables().unwrap();
        assert_eq!(peers, [Which::Ninep, Which::Guest]);
    }
}
