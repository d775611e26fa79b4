//! What became of one hosts file, and that in words.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use control::api::HostsFileStatus;
use control::names::HostName;

use crate::machine::Readers;
use crate::section::LeftOut;
use crate::writer::{How, Mended, Report, WriteError};
use crate::writer_service::protocol::Refused;

/// Who writes a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// This process.
    Direct,
    /// The writer that is root's.
    Writer,
}

/// What became of one file.
#[derive(Debug, Clone)]
pub struct FileReport {
    /// As the configuration names it.
    pub file: PathBuf,
    /// Who wrote it, or tried.
    pub way: Way,
    /// Who reads it.
    pub readers: Readers,
    /// How it was written, or why not.
    pub outcome: Result<Report, WriteError>,
    /// The names that stand in our block now, with the addresses for its readers.
    pub written: BTreeMap<HostName, IpAddr>,
    /// The names that the file has elsewhere.
    pub left_out: Vec<LeftOut>,
    /// The names that the writer does not give us.
    pub refused: Vec<Refused>,
    /// What will become of the file by other hands.
    pub notes: Vec<String>,
    /// The next step after an error, where there is one.
    pub hint: Option<String>,
}

impl FileReport {
    /// Whether the same names as `before` had to be written again: somebody took them out.
    #[must_use]
    pub fn restores(&self, before: &Self) -> bool {
        before.outcome.is_ok() && self.change().is_some() && self.written == before.written
    }

    /// Whether `name` stands in our block for what is at `address` here.
    #[must_use]
    pub fn has(&self, name: &HostName, address: IpAddr) -> bool {
        self.written.get(name) == Some(&self.readers.address(address))
    }

    /// Why `name` does not stand there, where that is the name's own matter.
    #[must_use]
    pub fn why_not(&self, name: &HostName) -> Option<String> {
        let file = self.file.display();
        if let Some(left) = self.left_out.iter().find(|left| left.name == *name) {
            return Some(format!(
                "{file}: its line {} already gives {}",
                left.line, left.address
            ));
        }
        let refused = self.refused.iter().find(|refused| refused.name == *name)?;
        Some(format!("{file}: {}", refused.why))
    }

    /// What to say when the file had to be restored again and again.
    #[must_use]
    pub fn dispute(&self) -> String {
        format!(
            "another program changes our block in {} again and again (a second sharectl?); it is \
             put right ever more rarely until that ends",
            self.file.display()
        )
    }

    /// What was done, in a sentence; nothing when nothing was.
    #[must_use]
    pub fn change(&self) -> Option<String> {
        let report = self.outcome.as_ref().ok()?;
        let how = match report.how {
            How::Unchanged => return None,
            How::Created => "made".to_owned(),
            How::Replaced => "written".to_owned(),
            // The writer's way, by design; nothing to tell apart.
            How::InPlace(_) if self.way == Way::Writer => "written".to_owned(),
            How::InPlace(why) => format!("written in place because {}", why.reason()),
        };
        let by = match self.way {
            Way::Direct => "",
            Way::Writer => " by the hosts writer",
        };
        let count = self.written.len();
        let names = if count == 1 { "name" } else { "names" };
        Some(format!(
            "{}: {how}{by}, {count} {names}",
            self.file.display()
        ))
    }

    /// What is wrong, in a sentence; nothing when nothing is.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        let error = match &self.outcome {
            Err(error) => error,
            Ok(report) => {
                let file = self.file.display();
                let why = report.unkept.as_ref()?;
                return Some(format!("{file}: written, but no backup was kept: {why}"));
            }
        };
        Some(match &self.hint {
            Some(hint) => format!("{error}; try: {hint}"),
            None => error.to_string(),
        })
    }

    /// What an interrupted write had left, in a sentence.
    #[must_use]
    pub fn mended(&self) -> Option<String> {
        let file = self.file.display();
        Some(match self.outcome.as_ref().ok()?.mended.as_ref()? {
            Mended::Whole => format!("{file}: an interrupted write had left it whole"),
            Mended::RolledBack => format!("{file}: an interrupted write was undone"),
            Mended::ChangedByOthers { backup } => format!(
                "{file}: a write was interrupted and others have changed the file since; \
                 its bytes from before are in {}",
                backup.display()
            ),
        })
    }

    /// The file as `sharectl status` shows it.
    #[must_use]
    pub fn status(&self) -> HostsFileStatus {
        let in_place = matches!(
            self.outcome,
            Ok(Report {
                how: How::InPlace(_),
                ..
            })
        );
        let way = match self.way {
            Way::Writer => "by the hosts writer",
            Way::Direct if in_place => "directly, in place",
            Way::Direct => "directly",
        };
        let mut notes = self.notes.clone();
        if let Readers::Windows { loopback } = self.readers {
            notes.push(format!("for Windows, this system's loopback is {loopback}"));
        }
        if !self.refused.is_empty() {
            let names: Vec<&str> = self.refused.iter().map(|one| one.name.as_str()).collect();
            notes.push(format!(
                "the hosts writer does not give {}; `sharectl host ls` says why",
                names.join(", ")
            ));
        }
        HostsFileStatus {
            file: self.file.clone(),
            way: way.to_owned(),
            names: self.written.len(),
            notes,
            problem: self.problem(),
        }
    }
}
