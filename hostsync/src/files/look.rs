//! How each file would be written, without writing it: for `sharectl doctor` and `host writer status`.

use std::path::Path;

use control::api::HostsFileStatus;
use control::names::HostName;

use super::{Keeper, Way};
use crate::machine::Readers;
use crate::section;
use crate::writer;

impl Keeper {
    /// Who would write `file`, and what stands in the way.
    #[must_use]
    pub fn look(&self, file: &Path) -> HostsFileStatus {
        let mut status = HostsFileStatus {
            file: file.to_owned(),
            way: "directly".to_owned(),
            names: 0,
            notes: Vec::new(),
            problem: None,
        };
        if let Some((why, fix)) = self.machine.absence(file) {
            status.way = "-".to_owned();
            status.problem = Some(format!("{why}; try: {fix}"));
            return status;
        }
        let mut way = Way::Direct;
        if !writer::may_write(file) {
            way = Way::Writer;
            status.way = "by the hosts writer".to_owned();
            match self.may_have(file) {
                Ok(note) => status.notes.push(note),
                Err(problem) => {
                    status.way = "-".to_owned();
                    status.problem = Some(problem);
                }
            }
        }
        let content = writer::read(file).unwrap_or_default();
        status.names = section::present(&content, &self.tag_in(way)).len();
        status.notes.extend(self.machine.note(file, &content));
        if let Readers::Windows { loopback } = self.machine.readers(file) {
            status
                .notes
                .push(format!("for Windows, this system's loopback is {loopback}"));
        }
        status
    }

    /// What root's writer gives us in `file`, else why nothing.
    fn may_have(&self, file: &Path) -> Result<String, String> {
        if let Readers::Windows { .. } = self.machine.readers(file) {
            let error = writer::WriteError::NotElevated {
                path: file.to_owned(),
            };
            return Err(format!("{error}; try: {}", self.elevated_hint(file)));
        }
        let uid = rustix::process::geteuid().as_raw();
        let denied = || format!("user {uid} may not write {}", file.display());
        if !self.writer.is_there() {
            let fix = if file == self.machine.system_file() {
                "sudo sharectl host writer install, once"
            } else {
                "name a file of your own in [hosts] files"
            };
            return Err(format!("{}; try: {fix}", denied()));
        }
        let hello = self.writer.hello().map_err(|failure| match &failure.hint {
            Some(hint) => format!("{}: {failure}; try: {hint}", denied()),
            None => format!("{}: {failure}", denied()),
        })?;
        if hello.file != file {
            let other = hello.file.display();
            return Err(format!("{}, and the hosts writer writes {other}", denied()));
        }
        let suffixes: Vec<&str> = hello.suffixes.iter().map(HostName::as_str).collect();
        if suffixes.is_empty() {
            return Err(format!(
                "the hosts writer gives user {uid} no names; try: sudoedit {}",
                crate::writer_service::POLICY_FILE
            ));
        }
        let stay = match hello.grace {
            None => "until they are taken back".to_owned(),
            Some(seconds) => format!("until {seconds} s after their daemon is gone"),
        };
        Ok(format!(
            "user {uid} may have names below {}; they stay {stay}",
            suffixes.join(", ")
        ))
    }
}
