//! The wanted names brought into each hosts file, and what became of them there.
//!
//! Between the table and the files: `section.rs` decides, `machine.rs` knows the files and their readers,
//! `writer.rs` writes; where this user may not, `writer_service` does it. What a report says in words is in
//! `report.rs`, bringing back and mending in `mend.rs`.

mod look;
mod mend;
mod report;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use control::api::HostsDiff;
use control::config::HostsFile;
use control::names::HostName;

use crate::diff;
use crate::machine::{Machine, Readers};
use crate::section::{self, Tag};
use crate::writer::{self, How, Report, WriteError, Writer};
use crate::writer_service::client::Client;
use crate::writer_service::protocol::{self, Done};

pub use mend::{Restoring, Wish};
pub use report::{FileReport, Way};

/// Writes and compares hosts files under one tag.
#[derive(Debug, Clone)]
pub struct Keeper {
    /// Whose block it is.
    pub tag: Tag,
    /// Where journals and backups are.
    pub journals: PathBuf,
    /// The configuration, for the command that another user would have to give.
    pub config: PathBuf,
    /// Which files there are, and for whom.
    pub machine: Machine,
    /// The writer that is root's.
    pub writer: Client,
}

impl Keeper {
    /// The paths that `[hosts] files` names on this machine, each once.
    #[must_use]
    pub fn paths(&self, files: &[HostsFile]) -> Vec<PathBuf> {
        self.machine.paths(files)
    }

    /// Brings the block in `file` to `wanted`. Blocks while others hold the file's lock.
    #[must_use]
    pub fn sync(&self, file: &Path, wanted: &BTreeMap<HostName, IpAddr>) -> FileReport {
        let readers = self.machine.readers(file);
        let wanted = readers.addresses(wanted);
        if let Some((why, fix)) = self.machine.absence(file) {
            return self.report(file, readers, Err(WriteError::Absent { why, fix }));
        }
        let mut report = self.write(file, readers, &wanted);
        if self.needs_writer(file, &report) {
            report = self.write_by_writer(file, readers, &wanted);
        }
        if let Err(WriteError::Denied { .. }) = &report.outcome
            && file == self.machine.system_file()
        {
            let note = "to have it written without root: sudo sharectl host writer install, once";
            report.notes.push(note.to_owned());
        }
        if report.outcome.is_err() || self.machine.has_notes(file) {
            let content = writer::read(file).unwrap_or_default();
            if report.outcome.is_err() {
                report.written = section::present(&content, &self.tag_in(report.way));
            }
            report.notes.extend(self.machine.note(file, &content));
        }
        report
    }

    fn write(
        &self,
        file: &Path,
        readers: Readers,
        wanted: &BTreeMap<HostName, IpAddr>,
    ) -> FileReport {
        let (mut written, mut left_out) = (BTreeMap::new(), Vec::new());
        let outcome = self.writer_of(readers).update(file, &mut |old| {
            // An empty file has no line break to go by; Windows' programs expect their own.
            let made: &[u8] = b"\r\n";
            let crlf = readers != Readers::Here && old.is_empty();
            let edit = section::edit(if crlf { made } else { old }, wanted, &self.tag)?;
            (written, left_out) = (edit.written, edit.left_out);
            Ok(edit.new.map(|new| match new.strip_prefix(made) {
                Some(rest) if crlf => rest.to_vec(),
                _ => new,
            }))
        });
        let outcome = outcome.map_err(|error| match (error, readers) {
            (WriteError::Denied { path, .. }, Readers::Windows { .. }) => {
                WriteError::NotElevated { path }
            }
            (error, _) => error,
        });
        let mut report = self.report(file, readers, outcome);
        (report.written, report.left_out) = (written, left_out);
        report
    }

    /// Whether only root's writer can do it: no right is the one error that it mends. A file that we may not
    /// write and need not is its business too, for our block there is another one.
    fn needs_writer(&self, file: &Path, report: &FileReport) -> bool {
        if !self.writer.is_there() {
            return false;
        }
        match &report.outcome {
            Err(WriteError::Denied { .. }) => true,
            Ok(Report {
                how: How::Unchanged,
                ..
            }) => !writer::may_write(file),
            Ok(_) | Err(_) => false,
        }
    }

    fn write_by_writer(
        &self,
        file: &Path,
        readers: Readers,
        wanted: &BTreeMap<HostName, IpAddr>,
    ) -> FileReport {
        let path = writer::follow(file).unwrap_or_else(|_| file.to_owned());
        let done = self.writer.set(file, &self.tag, wanted);
        let mut report = match done {
            Ok(done) => {
                let Done {
                    how,
                    mended,
                    refused,
                    left_out,
                    ..
                } = done;
                let given = |name: &HostName| {
                    !refused.iter().any(|one| one.name == *name)
                        && !left_out.iter().any(|one| one.name == *name)
                };
                let written = wanted.iter().filter(|(name, _)| given(name));
                let written = written
                    .map(|(name, address)| (name.clone(), *address))
                    .collect();
                let outcome = Ok(Report {
                    path,
                    how,
                    mended,
                    unkept: None,
                });
                let mut report = self.report(file, readers, outcome);
                (report.written, report.left_out, report.refused) = (written, left_out, refused);
                report
            }
            Err(failure) => {
                let path = file.to_owned();
                self.report(file, readers, Err(WriteError::ByWriter { path, failure }))
            }
        };
        report.way = Way::Writer;
        report
    }

    fn report(
        &self,
        file: &Path,
        readers: Readers,
        outcome: Result<Report, WriteError>,
    ) -> FileReport {
        FileReport {
            file: file.to_owned(),
            hint: outcome.as_ref().err().and_then(|error| self.hint(error)),
            way: Way::Direct,
            readers,
            outcome,
            written: BTreeMap::new(),
            left_out: Vec::new(),
            refused: Vec::new(),
            notes: Vec::new(),
        }
    }

    fn writer_of(&self, readers: Readers) -> Writer {
        let writer = Writer::new(&self.journals).with_backups(section::fingerprint);
        match readers {
            Readers::Here => writer,
            Readers::Windows { .. } => writer.for_windows(),
        }
    }

    /// The tag of our block, which the writer makes our user's.
    fn tag_in(&self, way: Way) -> Tag {
        let uid = rustix::process::geteuid().as_raw();
        match way {
            Way::Direct => self.tag.clone(),
            Way::Writer => {
                protocol::block_tag(uid, self.tag.as_str()).unwrap_or_else(|_| self.tag.clone())
            }
        }
    }

    /// What the right's owner can do: root has another configuration and other sockets
    /// than we, so the command must name ours.
    fn hint(&self, error: &WriteError) -> Option<String> {
        if let WriteError::NotElevated { path } = error {
            return Some(self.elevated_hint(path));
        }
        if !matches!(
            error,
            WriteError::Denied { .. } | WriteError::Unreadable { .. }
        ) {
            return error.hint();
        }
        let program = std::env::current_exe().unwrap_or_else(|_| "sharectl-hostsync".into());
        let config = std::path::absolute(&self.config).unwrap_or_else(|_| self.config.clone());
        let mut command = format!(
            "sudo {} sync --config {}",
            quoted(&program),
            quoted(&config)
        );
        if self.tag != Tag::plain() {
            command.push_str(&format!(" --tag {}", self.tag));
        }
        Some(command)
    }

    fn elevated_hint(&self, path: &Path) -> String {
        let distribution = self
            .machine
            .distribution()
            .map(|name| format!(" -d {name}"));
        format!(
            "in a terminal opened as administrator: wsl.exe{} -- sharectl host sync; or once, so that your user may: \
             icacls C:\\Windows\\System32\\drivers\\etc\\hosts /grant \"%USERNAME%:M\" ({})",
            distribution.unwrap_or_default(),
            path.display()
        )
    }

    /// How `file` differs from what it should be; changes nothing.
    #[must_use]
    pub fn diff(&self, file: &Path, wanted: &BTreeMap<HostName, IpAddr>) -> HostsDiff {
        let mut wanted = self.machine.readers(file).addresses(wanted);
        let by_writer = self.writer.is_there() && !writer::may_write(file);
        let tag = self.tag_in(if by_writer { Way::Writer } else { Way::Direct });
        if by_writer {
            match self.writer.judge(&wanted) {
                Ok(refused) => {
                    wanted.retain(|name, _| !refused.iter().any(|one| one.name == *name));
                }
                Err(failure) => {
                    let path = file.to_owned();
                    let error = WriteError::ByWriter { path, failure };
                    return compared(file, Err(error), |_| Ok(None));
                }
            }
        }
        let absent = self.machine.absence(file);
        let old = match absent {
            Some((why, fix)) => Err(WriteError::Absent { why, fix }),
            None => writer::read(file),
        };
        compared(file, old, |old| {
            let edit =
                section::edit(old, &wanted, &tag).map_err(|refusal| WriteError::Refused {
                    path: file.to_owned(),
                    refusal,
                })?;
            Ok(edit.new)
        })
    }
}

/// The difference that an edit would make, or why it cannot be made.
fn compared(
    file: &Path,
    old: Result<Vec<u8>, WriteError>,
    edit: impl FnOnce(&[u8]) -> Result<Option<Vec<u8>>, WriteError>,
) -> HostsDiff {
    let difference = old.and_then(|old| {
        let new = edit(&old)?;
        let new = new.as_deref().unwrap_or(&old);
        Ok(diff::unified(&old, new, &file.to_string_lossy()))
    });
    let (diff, problem) = match difference {
        Ok(diff) => (diff, None),
        Err(error) => (String::new(), Some(error.to_string())),
    };
    HostsDiff {
        file: file.to_owned(),
        diff,
        problem,
    }
}

/// A path as a shell's word.
fn quoted(path: &Path) -> String {
    let text = path.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@%".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.into_owned();
    }
    format!("'{}'", text.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_one_word_of_a_shell() {
        for (path, word) in [
            ("/etc/hosts", "/etc/hosts"),
            ("/a b/c", "'/a b/c'"),
            ("/it's", "'/it'\\''s'"),
            ("/$(x)", "'/$(x)'"),
        ] {
            assert_eq!(quoted(Path::new(path)), word);
        }
    }
}
