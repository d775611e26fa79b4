//! The daemons as units of systemd: what is installed, who owns a daemon, what its journal says.
//!
//! A daemon has one owner. Where [`Record`] says that units are installed and their manager answers, `up`,
//! `down` and `logs` go through it; else they do the work themselves (daemons.rs). The lock that a daemon
//! holds decides between two that were started all the same.

mod install;
pub(crate) mod manager;
pub(crate) mod record;
pub(crate) mod removal;
pub(crate) mod units;

use std::io::{BufRead, BufReader};
use std::path::PathBuf;

use control::paths::{Daemon, Paths};

use crate::commands::LogLine;
use crate::context::Context;
use crate::daemons;
use crate::error::{CliError, Outcome};
use manager::Manager;
use record::Record;
use units::{Scope, Site};

pub(crate) use install::{Plan, Step, Wish};

/// The manager that owns the daemons of these places, when units are installed and it answers.
pub(crate) fn owner(context: &Context) -> Outcome<Option<Manager>> {
    let Some(record) = Record::load(&context.paths)? else {
        return Ok(None);
    };
    let manager = Manager {
        scope: record.scope(),
    };
    let ours = Daemon::ALL
        .iter()
        .any(|daemon| record.unit(&units::name(*daemon)).is_some());
    Ok((ours && manager.answers().is_ok()).then_some(manager))
}

/// What the units of this user must name.
pub(crate) fn site(context: &Context, scope: Scope) -> Outcome<Site> {
    let mut programs = PathBuf::new();
    for daemon in Daemon::ALL {
        let found = daemons::program(daemon)?;
        programs = found.parent().map(PathBuf::from).unwrap_or_default();
    }
    let found = Paths::at_login();
    let unless = |ours: &PathBuf, found: PathBuf| (*ours != found).then(|| ours.clone());
    Ok(Site {
        scope,
        programs,
        config: unless(&context.paths.config, found.config),
        runtime: unless(&context.paths.runtime, found.runtime),
        state: unless(&context.paths.state, found.state),
    })
}

/// Prints what the units wrote to the journal.
///
/// # Errors
/// When journalctl cannot be run, or may not be read.
pub(crate) fn logs(
    context: &Context,
    manager: Manager,
    daemons: &[Daemon],
    (lines, follow): (usize, bool),
) -> Outcome {
    let units: Vec<String> = daemons.iter().copied().map(units::name).collect();
    let failed = |what: String| {
        CliError::failure(
            format!("cannot read the journal: {what}"),
            "a user sees the own journal where /var/log/journal is kept, else as a member of group systemd-journal",
        )
    };
    let mut child = manager
        .journal(&units, lines, follow)
        .spawn()
        .map_err(|error| failed(format!("journalctl: {error}")))?;
    let out = child.stdout.take();
    for line in out.into_iter().flat_map(|out| BufReader::new(out).lines()) {
        let line = line.map_err(|error| failed(error.to_string()))?;
        let Some((daemon, message)) = journal_line(&line, daemons) else {
            continue;
        };
        if context.out.is_json() {
            context.out.json_line(&LogLine {
                daemon: daemon.name(),
                line: &message,
            })?;
        } else if daemons.len() > 1 {
            let message = crate::output::printable(&message);
            context.out.text(&format!("{daemon:<8} | {message}\n"))?;
        } else {
            let message = crate::output::printable(&message);
            context.out.text(&format!("{message}\n"))?;
        }
    }
    let ended = child.wait().map_err(|error| failed(error.to_string()))?;
    if ended.success() {
        Ok(())
    } else {
        Err(failed(ended.to_string()))
    }
}

/// What a daemon, or the manager about it, wrote: one entry of `journalctl --output=json`.
fn journal_line(line: &str, daemons: &[Daemon]) -> Option<(Daemon, String)> {
    let entry: serde_json::Value = serde_json::from_str(line).ok()?;
    let unit = ["_SYSTEMD_USER_UNIT", "USER_UNIT", "_SYSTEMD_UNIT", "UNIT"]
        .iter()
        .filter_map(|field| entry.get(field)?.as_str());
    let known = |unit: &str| {
        daemons
            .iter()
            .copied()
            .find(|daemon| units::name(*daemon) == unit)
    };
    let daemon = unit.filter_map(known).next()?;
    let message = match entry.get("MESSAGE")? {
        serde_json::Value::String(text) => text.clone(),
        // Bytes that are no text come as numbers.
        serde_json::Value::Array(bytes) => {
            let byte = |value: &serde_json::Value| u8::try_from(value.as_u64()?).ok();
            let bytes: Vec<u8> = bytes.iter().filter_map(byte).collect();
            String::from_utf8_lossy(&bytes).into_owned()
        }
        serde_json::Value::Null
        | serde_json::Value::Bool(_)
        | serde_json::Value::Number(_)
        | serde_json::Value::Object(_) => return None,
    };
    Some((daemon, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_of_the_journal_are_told_by_their_unit() {
        for (line, expected) in [
            (
                r#"{"_SYSTEMD_USER_UNIT":"sharectl-netd.service","MESSAGE":"serving"}"#,
                Some((Daemon::Netd, "serving".to_owned())),
            ),
            (
                r#"{"_SYSTEMD_USER_UNIT":"init.scope","USER_UNIT":"sharectl-netd.service","MESSAGE":"Started"}"#,
                Some((Daemon::Netd, "Started".to_owned())),
            ),
            (
                r#"{"UNIT":"sharectl-sharefs.service","MESSAGE":[104,105,255]}"#,
                Some((Daemon::Sharefs, "hi\u{fffd}".to_owned())),
            ),
            (r#"{"UNIT":"other.service","MESSAGE":"x"}"#, None),
            ("no entry", None),
        ] {
            assert_eq!(journal_line(line, &Daemon::ALL), expected, "{line}");
        }
    }
}
