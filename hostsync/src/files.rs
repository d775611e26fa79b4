//! The wanted names brought into each hosts file, and what became of them there.
//!
//! Between the table and the files: `section.rs` decides, `writer.rs` writes.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use control::api::HostsDiff;
use control::config::HostsFile;
use control::names::HostName;

use crate::diff;
use crate::section::{self, LeftOut, Tag};
use crate::writer::{self, How, Mended, Report, WriteError, Writer};

/// The file that `auto` in `[hosts] files` stands for.
pub const SYSTEM_FILE: &str = "/etc/hosts";

/// The paths that `[hosts] files` names, each once.
#[must_use]
pub fn paths(files: &[HostsFile]) -> Vec<PathBuf> {
    let mut paths = Vec::new();
    for file in files {
        let path = match file {
            HostsFile::Auto => PathBuf::from(SYSTEM_FILE),
            HostsFile::Path(path) => path.clone(),
        };
        if !paths.contains(&path) {
            paths.push(path);
        }
    }
    paths
}

/// What became of one file.
#[derive(Debug, Clone)]
pub struct FileReport {
    /// As the configuration names it.
    pub file: PathBuf,
    /// How it was written, or why not.
    pub outcome: Result<Report, WriteError>,
    /// The names that stand in our block now.
    pub written: BTreeMap<HostName, IpAddr>,
    /// The names that the file has elsewhere.
    pub left_out: Vec<LeftOut>,
    /// The next step after an error, where there is one.
    pub hint: Option<String>,
}

impl FileReport {
    /// Whether the same names as `before` had to be written again: somebody took them out.
    #[must_use]
    pub fn restores(&self, before: &Self) -> bool {
        before.outcome.is_ok() && self.change().is_some() && self.written == before.written
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
            How::InPlace(why) => format!("written in place because {}", why.reason()),
        };
        let count = self.written.len();
        let names = if count == 1 { "name" } else { "names" };
        Some(format!("{}: {how}, {count} {names}", self.file.display()))
    }

    /// What is wrong, in a sentence; nothing when nothing is.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        let error = self.outcome.as_ref().err()?;
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
}

/// Writes and compares hosts files under one tag.
#[derive(Debug, Clone)]
pub struct Keeper {
    /// Whose block it is.
    pub tag: Tag,
    /// Where the journals of in-place writes live.
    pub journals: PathBuf,
    /// The configuration, for the command that another user would have to give.
    pub config: PathBuf,
}

impl Keeper {
    /// Brings the block in `file` to `wanted`. Blocks while others hold the file's lock.
    #[must_use]
    pub fn sync(&self, file: &Path, wanted: &BTreeMap<HostName, IpAddr>) -> FileReport {
        let (mut written, mut left_out) = (BTreeMap::new(), Vec::new());
        let outcome = Writer::new(&self.journals).update(file, &mut |old| {
            let edit = section::edit(old, wanted, &self.tag)?;
            (written, left_out) = (edit.written, edit.left_out);
            Ok(edit.new)
        });
        if outcome.is_err() {
            let now = writer::read(file).unwrap_or_default();
            written = section::present(&now, &self.tag);
        }
        let hint = outcome.as_ref().err().and_then(|error| self.hint(error));
        FileReport {
            file: file.to_owned(),
            hint,
            outcome,
            written,
            left_out,
        }
    }

    /// What the right's owner can do: root has another configuration and other sockets
    /// than we, so the command must name ours.
    fn hint(&self, error: &WriteError) -> Option<String> {
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

    /// How `file` differs from what it should be; changes nothing.
    #[must_use]
    pub fn diff(&self, file: &Path, wanted: &BTreeMap<HostName, IpAddr>) -> HostsDiff {
        let compared = writer::read(file).and_then(|old| {
            let edit =
                section::edit(&old, wanted, &self.tag).map_err(|refusal| WriteError::Refused {
                    path: file.to_owned(),
                    refusal,
                })?;
            let new = edit.new.as_deref().unwrap_or(&old);
            Ok(diff::unified(&old, new, &file.to_string_lossy()))
        });
        let (diff, problem) = match compared {
            Ok(diff) => (diff, None),
            Err(error) => (String::new(), Some(error.to_string())),
        };
        HostsDiff {
            file: file.to_owned(),
            diff,
            problem,
        }
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
