//! Removing what was installed: exactly what the record says, and of that nothing which was edited.

use std::path::Path;

use control::paths::Daemon;

use super::manager::{self, Manager};
use super::record::{Condition, Record};
use super::units;
use crate::context::Context;
use crate::daemons;
use crate::error::{CliError, Outcome};

/// What was done, or would be.
#[derive(Debug, Default)]
pub(crate) struct Removal {
    /// Each with what it is.
    pub removed: Vec<(String, String)>,
    /// Each with the reason why it stays.
    pub left: Vec<(String, String)>,
}

/// What the record says there is to take away; changes nothing.
///
/// # Errors
/// When the record cannot be read.
pub(crate) fn list(context: &Context, force: bool) -> Outcome<Option<Removal>> {
    let Some(record) = Record::load(&context.paths)? else {
        return Ok(None);
    };
    let manager = Manager {
        scope: record.scope(),
    };
    let mut removal = Removal::default();
    for unit in &record.units {
        let file = unit
            .file
            .clone()
            .unwrap_or_else(|| manager.packaged().join(&unit.name));
        let shown = file.display().to_string();
        match unit.condition() {
            Condition::AsWritten => removal.removed.push((shown, "unit".to_owned())),
            Condition::Edited if force => {
                removal
                    .removed
                    .push((shown, "unit, edited since".to_owned()));
            }
            Condition::Edited => removal.left.push((
                shown,
                "edited since it was installed; it is switched off".to_owned(),
            )),
            Condition::Packaged => removal.left.push((
                shown,
                "it came with a package; it is switched off".to_owned(),
            )),
            Condition::Missing => {}
        }
        let drop_ins = manager.folder().join(format!("{}.d", unit.name));
        if drop_ins.is_dir() {
            let shown = drop_ins.display().to_string();
            removal
                .left
                .push((shown, "drop-ins of your own".to_owned()));
        }
    }
    if record.linger {
        let what = "lingering of this user".to_owned();
        removal.removed.push((what, "it was off before".to_owned()));
    }
    Ok(Some(removal))
}

/// Takes it all away, names in the hosts files first.
///
/// # Errors
/// When the manager refuses, or a file cannot be removed; the record stays then.
pub(crate) fn carry_out(
    context: &Context,
    force: bool,
    keep_names: bool,
) -> Outcome<Option<Removal>> {
    let (Some(record), Some(removal)) = (Record::load(&context.paths)?, list(context, force)?)
    else {
        return Ok(None);
    };
    let manager = Manager {
        scope: record.scope(),
    };
    let answers = manager.answers();
    let owns = Daemon::ALL
        .iter()
        .any(|daemon| record.unit(&units::name(*daemon)).is_some());
    if owns && !keep_names {
        daemons::clear_names(context)?;
    }
    let names: Vec<&str> = record.units.iter().map(|unit| unit.name.as_str()).collect();
    let known: Vec<&str> = record
        .units
        .iter()
        .filter(|unit| unit.condition() != Condition::Missing)
        .map(|unit| unit.name.as_str())
        .collect();
    match &answers {
        Ok(()) => {
            // The VM before what it needs, which the manager's own order sees to.
            manager
                .systemctl(&[&["stop"], names.as_slice()].concat())
                .ok();
            if !known.is_empty() {
                manager.systemctl(&[&["disable"], known.as_slice()].concat())?;
            }
        }
        Err(error) => context.out.warning(&format!(
            "{error}; the files go, and what runs goes on until it ends"
        )),
    }
    // Links of units whose file is gone, or of a manager that is away.
    let wants = manager
        .folder()
        .join(format!("{}.wants", units::target(record.scope())));
    for name in &names {
        let link = wants.join(name);
        if link
            .symlink_metadata()
            .is_ok_and(|found| found.is_symlink())
        {
            remove(&link)?;
        }
    }
    for unit in &record.units {
        let ours = match unit.condition() {
            Condition::AsWritten => true,
            Condition::Edited => force,
            Condition::Missing | Condition::Packaged => false,
        };
        if let (true, Some(file)) = (ours, &unit.file) {
            remove(file)?;
        }
    }
    // Only where they are empty, the innermost first.
    std::fs::remove_dir(&wants).ok();
    for folder in record.folders.iter().rev() {
        std::fs::remove_dir(folder).ok();
    }
    if answers.is_ok() {
        for name in &names {
            // Only those that failed have anything to reset.
            manager.systemctl(&["reset-failed", name]).ok();
        }
        manager.systemctl(&["daemon-reload"])?;
    }
    if record.linger {
        manager::linger(false)?;
    }
    Record::forget(&context.paths)?;
    Ok(Some(removal))
}

fn remove(file: &Path) -> Outcome {
    std::fs::remove_file(file).map_err(|error| {
        CliError::failure(
            format!("cannot remove {}: {error}", file.display()),
            "run it as the user who installed the service",
        )
    })
}
