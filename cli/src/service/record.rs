//! What `sharectl service install` wrote, so that `remove` takes exactly that away: a file in the state folder.
//!
//! It is written before the units are, and holds each unit's text: a file that differs from it was edited by
//! its user and is neither written over nor removed unasked.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use control::paths::Paths;
use serde::{Deserialize, Serialize};

use super::units::Scope;
use crate::edit;
use crate::error::{CliError, Outcome};

/// The record.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// Root's daemons under the machine's manager, rather than a user's.
    pub system: bool,
    pub units: Vec<Written>,
    /// Folders that were not there before, outermost first.
    pub folders: Vec<PathBuf>,
    /// Whether lingering was off before.
    pub linger: bool,
}

/// One unit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Written {
    pub name: String,
    /// Nothing for one that a package brought: it is only switched on.
    pub file: Option<PathBuf>,
    pub text: String,
}

/// How a unit's file looks now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Condition {
    AsWritten,
    Edited,
    Missing,
    Packaged,
}

impl Condition {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::AsWritten => "as written",
            Self::Edited => "edited",
            Self::Missing => "missing",
            Self::Packaged => "package's",
        }
    }
}

impl Record {
    /// Where it is kept.
    pub(crate) fn place(paths: &Paths) -> PathBuf {
        paths.state.join("service.json")
    }

    /// What was installed from these places, if anything.
    pub(crate) fn load(paths: &Paths) -> Outcome<Option<Self>> {
        let place = Self::place(paths);
        let text = match std::fs::read(&place) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(refused("read", &place, &error)),
        };
        serde_json::from_slice(&text).map(Some).map_err(|error| {
            CliError::failure(
                format!("{} is damaged: {error}", place.display()),
                format!(
                    "remove it, then look at what it spoke of: ls ~/.config/systemd/user; rm {}",
                    place.display()
                ),
            )
        })
    }

    pub(crate) fn save(&self, paths: &Paths) -> Outcome {
        let place = Self::place(paths);
        let text = serde_json::to_vec_pretty(self)?;
        edit::replace(&place, &text, None).map_err(|error| refused("write", &place, &error))
    }

    /// Forgets it all.
    pub(crate) fn forget(paths: &Paths) -> Outcome {
        let place = Self::place(paths);
        match std::fs::remove_file(&place) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(refused("remove", &place, &error))
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }

    pub(crate) fn scope(&self) -> Scope {
        if self.system {
            Scope::System
        } else {
            Scope::User
        }
    }

    pub(crate) fn unit(&self, name: &str) -> Option<&Written> {
        self.units.iter().find(|unit| unit.name == name)
    }

    /// Takes a unit in, in place of what was known of it.
    pub(crate) fn put(&mut self, unit: Written) {
        self.units.retain(|known| known.name != unit.name);
        self.units.push(unit);
    }
}

impl Written {
    /// How its file looks now.
    pub(crate) fn condition(&self) -> Condition {
        let Some(file) = &self.file else {
            return Condition::Packaged;
        };
        match std::fs::read_to_string(file) {
            Ok(text) if text == self.text => Condition::AsWritten,
            Err(error) if error.kind() == ErrorKind::NotFound => Condition::Missing,
            // What cannot be read is not what we wrote.
            Ok(_) | Err(_) => Condition::Edited,
        }
    }
}

fn refused(what: &str, place: &Path, error: &std::io::Error) -> CliError {
    CliError::failure(
        format!("cannot {what} {}: {error}", place.display()),
        "run it as the user who installed the service",
    )
}
