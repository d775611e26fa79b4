//! Bringing back a kept version of a file, and mending damaged markers. Each shows first what it would change.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;

use control::api::{HostsBackup, HostsMended};
use control::names::HostName;

use super::Keeper;
use crate::diff;
use crate::section::{self, Known};
use crate::writer::{self, Backup, WriteError};

/// Whether something is to be done or only shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// Do it.
    Do,
    /// Show what it would be.
    Show,
}

/// Which version is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restoring {
    /// The newest that is not what the file has now.
    Newest,
    /// The one with this number.
    Number(u64),
}

impl Keeper {
    /// The kept versions of `file`, the oldest first.
    ///
    /// # Errors
    /// When the file's folder is not there.
    pub fn backups(&self, file: &Path) -> Result<Vec<HostsBackup>, WriteError> {
        let now = section::fingerprint(&writer::read(file)?);
        let kept = self.kept(file)?;
        let shown = kept.into_iter().map(|backup| HostsBackup {
            file: file.to_owned(),
            number: backup.number,
            kept: control::events::timestamp(backup.kept),
            current: backup.version == now,
            path: backup.path,
        });
        Ok(shown.collect())
    }

    fn kept(&self, file: &Path) -> Result<Vec<Backup>, WriteError> {
        self.writer_of(self.machine.readers(file)).backups(file)
    }

    /// Gives `file` the own lines of a kept version; sharectl's blocks stay as they are.
    ///
    /// # Errors
    /// When there is no such version, or it cannot be read or written.
    pub fn restore(
        &self,
        file: &Path,
        which: Restoring,
        wish: Wish,
    ) -> Result<HostsMended, WriteError> {
        let kept = self.kept(file)?;
        let now = section::fingerprint(&writer::read(file)?);
        let found = match which {
            Restoring::Newest => kept.iter().rev().find(|backup| backup.version != now),
            Restoring::Number(number) => kept.iter().find(|backup| backup.number == number),
        };
        let Some(backup) = found else {
            let numbers: Vec<String> = kept
                .iter()
                .map(|backup| backup.number.to_string())
                .collect();
            let folder = self.journals.display();
            return Err(WriteError::Absent {
                why: match which {
                    Restoring::Newest => format!(
                        "no version of {} is kept that differs from what it is now ({folder})",
                        file.display()
                    ),
                    Restoring::Number(number) => {
                        format!(
                            "no version {number} of {} is kept in {folder}",
                            file.display()
                        )
                    }
                },
                fix: if numbers.is_empty() {
                    "one is kept before each first write; root's are seen with sudo".to_owned()
                } else {
                    format!(
                        "there are {}: sharectl host restore --list",
                        numbers.join(", ")
                    )
                },
            });
        };
        let bytes = writer::read(&backup.path)?;
        let said = format!("own lines of version {} are back", backup.number);
        self.change(file, wish, |old| {
            let new = section::restored(old, &bytes);
            (new != old).then(|| (new, vec![said.clone()]))
        })
    }

    /// Mends the markers of `file`. `wanted` is what sharectl would write there now.
    ///
    /// # Errors
    /// When it cannot be read or written.
    pub fn repair(
        &self,
        file: &Path,
        wanted: &BTreeMap<HostName, IpAddr>,
        wish: Wish,
    ) -> Result<HostsMended, WriteError> {
        let mut known: Known = self
            .machine
            .readers(file)
            .addresses(wanted)
            .into_iter()
            .collect();
        for backup in self.kept(file)? {
            // A version that cannot be read knows nothing; less goes then.
            let bytes = writer::read(&backup.path).unwrap_or_default();
            for tag in section::tags(&bytes) {
                known.extend(section::present(&bytes, &tag));
            }
        }
        self.change(file, wish, |old| {
            let repaired = section::repair(old, &known)?;
            Some((repaired.new, repaired.found))
        })
    }

    fn change(
        &self,
        file: &Path,
        wish: Wish,
        mut edit: impl FnMut(&[u8]) -> Option<(Vec<u8>, Vec<String>)>,
    ) -> Result<HostsMended, WriteError> {
        if let Some((why, fix)) = self.machine.absence(file) {
            return Err(WriteError::Absent { why, fix });
        }
        let mut mended = HostsMended {
            file: file.to_owned(),
            found: Vec::new(),
            diff: String::new(),
            done: false,
        };
        let mut look = |old: &[u8]| {
            let edited = edit(old);
            (mended.found, mended.diff) =
                edited
                    .as_ref()
                    .map_or_else(Default::default, |(new, found)| {
                        (
                            found.clone(),
                            diff::unified(old, new, &file.to_string_lossy()),
                        )
                    });
            edited.map(|(new, _)| new)
        };
        if wish == Wish::Show {
            drop(look(&writer::read(file)?));
            return Ok(mended);
        }
        let readers = self.machine.readers(file);
        self.writer_of(readers)
            .update(file, &mut |old| Ok(look(old)))?;
        mended.done = !mended.diff.is_empty();
        Ok(mended)
    }
}
