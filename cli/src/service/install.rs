//! Installing units: first a plan that changes nothing, then its steps.
//!
//! Nothing of a user's own is written over: a unit that differs from what the record says was edited.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use control::names::GuestName;
use control::paths::Daemon;

use super::manager::{self, Manager};
use super::record::{Record, Written};
use super::units::{self, Scope, Unit};
use crate::context::Context;
use crate::daemons;
use crate::edit;
use crate::error::{CliError, Outcome};

/// What is to be installed.
#[derive(Debug)]
pub(crate) struct Wish {
    pub scope: Scope,
    /// The VM's guest, if it is one of the configuration, and its command.
    pub machine: Option<(Option<GuestName>, String)>,
    pub linger: bool,
    /// Edited units are written over.
    pub force: bool,
    /// The units are started, too.
    pub start: bool,
}

/// What is to be done, in order.
#[derive(Debug)]
pub(crate) struct Plan {
    manager: Manager,
    pub steps: Vec<Step>,
    /// Every unit with what stands in it, also those that stay.
    units: Vec<(Unit, Option<PathBuf>)>,
    linger: bool,
    start: bool,
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    Write {
        file: PathBuf,
        unit: Unit,
    },
    /// It is there as it should be.
    Keep {
        file: PathBuf,
        about: String,
    },
    /// A command line.
    Run {
        line: String,
        why: &'static str,
    },
}

impl Plan {
    /// Looks at what is there.
    ///
    /// # Errors
    /// When a program is missing, or a unit was edited.
    pub(crate) fn make(context: &Context, wish: &Wish) -> Outcome<Self> {
        let manager = Manager { scope: wish.scope };
        let record = Record::load(&context.paths)?.unwrap_or_default();
        if !record.units.is_empty() && record.scope() != wish.scope {
            return Err(CliError::conflict(
                "the units of another service manager are installed already",
                "sharectl service remove",
            ));
        }
        let site = super::site(context, wish.scope)?;
        let mut wanted: Vec<Unit> = Daemon::ALL.map(|kind| units::daemon(&site, kind)).into();
        if let Some((guest, shell)) = &wish.machine {
            wanted.push(units::machine(&site, guest.as_ref(), shell));
        }
        let mut steps = Vec::new();
        let mut all = Vec::new();
        for unit in wanted {
            let (step, file) = place(manager, &record, &unit, wish.force)?;
            steps.push(step);
            all.push((unit, file));
        }
        let names: Vec<&str> = all.iter().map(|(unit, _)| unit.name.as_str()).collect();
        let run = |words: &[&str], why| Step::Run {
            line: manager.line(words),
            why,
        };
        steps.push(run(&["daemon-reload"], "the manager reads the files"));
        steps.push(run(
            &[&["enable"], names.as_slice()].concat(),
            match wish.scope {
                Scope::User => {
                    "they start with the user's manager: at login, or with lingering at boot"
                }
                Scope::System => "they start at boot",
            },
        ));
        if wish.linger && !manager::lingers() {
            steps.push(Step::Run {
                line: "loginctl enable-linger".to_owned(),
                why: "the user's manager starts at boot, without a login",
            });
        }
        if wish.start {
            steps.push(run(
                &[&["start"], names.as_slice()].concat(),
                "they run from now on",
            ));
        }
        Ok(Self {
            manager,
            steps,
            units: all,
            linger: wish.linger,
            start: wish.start,
        })
    }

    /// The names of all units.
    pub(crate) fn names(&self) -> Vec<&str> {
        self.units
            .iter()
            .map(|(unit, _)| unit.name.as_str())
            .collect()
    }

    /// Whether there is a manager for it.
    pub(crate) fn manager_answers(&self) -> Outcome {
        self.manager.answers()
    }

    /// Does it all.
    ///
    /// # Errors
    /// At the first step that fails; what was done until then is on record, and `service remove` undoes it.
    pub(crate) fn carry_out(&self, context: &Context) -> Outcome {
        let mut record = Record::load(&context.paths)?.unwrap_or_default();
        record.system = self.manager.scope == Scope::System;
        let folder = self.manager.folder();
        let fresh: Vec<PathBuf> = missing_folders(&folder)
            .into_iter()
            .filter(|folder| !record.folders.contains(folder))
            .collect();
        record.folders.extend(fresh);
        for (unit, file) in &self.units {
            record.put(Written {
                name: unit.name.clone(),
                file: file.clone(),
                text: unit.text.clone(),
            });
        }
        if self.linger && !manager::lingers() {
            // First, since it is what may be refused.
            manager::linger(true)?;
            record.linger = true;
        }
        daemons::prepare(&context.paths)?;
        record.save(&context.paths)?;

        let mut changed = Vec::new();
        for step in &self.steps {
            if let Step::Write { file, unit } = step {
                let old = std::fs::File::open(file).ok();
                edit::replace(file, unit.text.as_bytes(), old.as_ref())
                    .map_err(|error| cannot_write(file, &error))?;
                changed.push(unit.name.as_str());
            }
        }
        self.manager.systemctl(&["daemon-reload"])?;
        let names = self.names();
        self.manager
            .systemctl(&[&["enable"], names.as_slice()].concat())?;
        if self.start {
            self.start(context, &names, &changed)?;
        }
        Ok(())
    }

    /// What runs without the manager is stopped first: a daemon has one owner.
    fn start(&self, context: &Context, names: &[&str], changed: &[&str]) -> Outcome {
        for daemon in Daemon::ALL {
            let unit = units::name(daemon);
            if self.manager.runs(&unit) {
                if changed.contains(&unit.as_str()) {
                    context.out.note(&format!(
                        "{unit} runs as it was; to have the change: {}",
                        self.manager.line(&["restart", &unit])
                    ));
                }
            } else if daemons::stop_one(context, daemon, Duration::from_secs(15))? {
                context.out.note(&format!(
                    "{daemon} ran without the service manager and was stopped; it starts as {unit}"
                ));
            }
        }
        // A unit that failed too often would stay so.
        for name in names {
            self.manager.systemctl(&["reset-failed", name]).ok();
        }
        self.manager
            .systemctl(&[&["start"], names].concat())
            .map(drop)
    }
}

/// Where a unit goes, and whether it must be written.
fn place(
    manager: Manager,
    record: &Record,
    unit: &Unit,
    force: bool,
) -> Outcome<(Step, Option<PathBuf>)> {
    let file = manager.folder().join(&unit.name);
    let keep = |file: PathBuf| Step::Keep {
        file,
        about: unit.about.clone(),
    };
    let write = || {
        let step = Step::Write {
            file: file.clone(),
            unit: unit.clone(),
        };
        (step, Some(file.clone()))
    };
    // A link to nowhere is somebody's, too.
    if file.symlink_metadata().is_err() {
        let packaged = manager.packaged().join(&unit.name);
        return match std::fs::read_to_string(&packaged) {
            Ok(text) if text == unit.text => Ok((keep(packaged), None)),
            Ok(_) | Err(_) => Ok(write()),
        };
    }
    let found = match std::fs::read_to_string(&file) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
        Err(error) => return Err(cannot_write(&file, &error)),
    };
    let recorded = record.unit(&unit.name);
    if found == unit.text {
        return Ok((keep(file.clone()), Some(file)));
    }
    if force || recorded.is_some_and(|written| written.text == found) {
        return Ok(write());
    }
    let what = if recorded.is_some() {
        "was edited since it was installed"
    } else {
        "is there, and not from here"
    };
    Err(CliError::conflict(
        format!("{} {what}", file.display()),
        format!(
            "keep changes in a drop-in ({}), then: sharectl service install --force",
            manager.line(&["edit", &unit.name])
        ),
    ))
}

/// Those of a folder and its parents that are not there, outermost first.
fn missing_folders(folder: &Path) -> Vec<PathBuf> {
    let mut missing: Vec<PathBuf> = folder
        .ancestors()
        .take_while(|folder| !folder.as_os_str().is_empty() && !folder.exists())
        .map(PathBuf::from)
        .collect();
    missing.reverse();
    missing
}

fn cannot_write(file: &Path, error: &std::io::Error) -> CliError {
    CliError::failure(
        format!("cannot write {}: {error}", file.display()),
        "sharectl service install --dry-run shows what belongs where",
    )
}
