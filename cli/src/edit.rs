//! The configuration file as something to change: read under a lock, changed
//! as text that keeps comments and order, checked whole, and only then put in
//! the old one's place by a rename.

pub(crate) mod document;

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use control::config::{Config, Surroundings, Texts};
use rustix::fs::FlockOperation;
use toml_edit::DocumentMut;

use crate::context::Context;
use crate::error::{CliError, Outcome};
use crate::rehearsal::Step;

/// A file that is being changed; nobody else changes it meanwhile.
pub(crate) struct Draft {
    /// As the user knows it.
    shown: PathBuf,
    /// Without symbolic links: what is replaced.
    file: PathBuf,
    /// Held until the change is done; none when there is no file yet.
    locked: Option<File>,
    /// As it was read.
    old: String,
    /// What will be written.
    pub document: DocumentMut,
}

impl Draft {
    /// Reads the file, or begins an empty one.
    pub(crate) fn open(path: &Path) -> Outcome<Self> {
        let failed = |error: io::Error| {
            CliError::failure(
                format!("cannot read {}: {error}", path.display()),
                "is it yours to read? --config names another file",
            )
        };
        let (file, locked, text) = match lock_and_read(path) {
            Ok((file, locked, text)) => (file, Some(locked), text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                (path.to_owned(), None, String::new())
            }
            Err(error) => return Err(failed(error)),
        };
        let Ok(document) = text.parse() else {
            // The checker says it with line and fix.
            Config::parse(&text, path, &Surroundings::of_process())?;
            return Err(failed(io::Error::new(
                io::ErrorKind::InvalidData,
                "not TOML",
            )));
        };
        Ok(Self {
            shown: path.to_owned(),
            file,
            locked,
            old: text,
            document,
        })
    }

    /// The configuration that the text means now.
    ///
    /// # Errors
    /// Every problem, with file and line.
    pub(crate) fn config(&self) -> Outcome<Config> {
        let texts = Texts::read_around(self.document.to_string(), &self.shown)?;
        let here = Surroundings::of_process();
        Ok(Config::of_texts(&texts, &self.shown, &here)?)
    }

    /// Puts the text in the file's place if it is a good configuration; under `--dry-run` it is only noted.
    pub(crate) fn commit(self, context: &Context) -> Outcome<Config> {
        if !context.is_rehearsal() {
            return self.write();
        }
        let config = self.config()?;
        let new = self.document.to_string();
        context.would(Step::write(&self.shown, &self.old, &new));
        Ok(config)
    }

    fn write(self) -> Outcome<Config> {
        let config = self.config()?;
        replace(
            &self.file,
            self.document.to_string().as_bytes(),
            self.locked.as_ref(),
        )
        .map_err(|error| {
            CliError::failure(
                format!(
                    "cannot write {}: {error}; it is unchanged",
                    self.file.display()
                ),
                "the folder must be writable, for the new file is made beside the old one",
            )
        })?;
        Ok(config)
    }
}

/// What came of [`exchange`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exchanged {
    Done,
    /// The file has another text than it had.
    ChangedMeanwhile,
}

/// Puts `new` in the file's place if its text is still `old` (none: there was no file). Nothing is checked.
pub(crate) fn exchange(path: &Path, old: Option<&str>, new: &str) -> io::Result<Exchanged> {
    let (file, locked, now) = match lock_and_read(path) {
        Ok((file, locked, text)) => (file, Some(locked), Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => (path.to_owned(), None, None),
        Err(error) => return Err(error),
    };
    if now.as_deref() != old {
        return Ok(Exchanged::ChangedMeanwhile);
    }
    replace(&file, new.as_bytes(), locked.as_ref())?;
    Ok(Exchanged::Done)
}

/// The lock is on the file itself, so it has to be seen whether the file was
/// replaced by the one who had the lock before.
fn lock_and_read(path: &Path) -> io::Result<(PathBuf, File, String)> {
    loop {
        let file = path.canonicalize()?;
        let mut opened = File::open(&file)?;
        rustix::fs::flock(&opened, FlockOperation::LockExclusive)?;
        let (ours, there) = (opened.metadata()?, std::fs::metadata(&file)?);
        if (ours.dev(), ours.ino()) != (there.dev(), there.ino()) {
            continue;
        }
        let mut text = String::new();
        opened.read_to_string(&mut text)?;
        return Ok((file, opened, text));
    }
}

/// Writes `bytes` beside `file` and renames it over: either the old or the new
/// text is there at any time, also after a power cut.
pub(crate) fn replace(file: &Path, bytes: &[u8], old: Option<&File>) -> io::Result<()> {
    let folder = match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    if old.is_none() {
        std::fs::create_dir_all(folder)?;
    }
    let name = file
        .file_name()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "not a file name"))?;
    let mut fresh_name = std::ffi::OsString::from(".");
    fresh_name.push(name);
    fresh_name.push(format!(".{}.new", std::process::id()));
    let fresh = folder.join(fresh_name);
    let written = write_fresh(&fresh, bytes, old).and_then(|()| std::fs::rename(&fresh, file));
    if written.is_err() {
        // The first failure is the one to tell.
        std::fs::remove_file(&fresh).ok();
    }
    written?;
    File::open(folder)?.sync_all()
}

fn write_fresh(fresh: &Path, bytes: &[u8], old: Option<&File>) -> io::Result<()> {
    let mut file = File::options()
        .write(true)
        .create_new(true)
        .mode(0o644)
        .open(fresh)?;
    if let Some(old) = old {
        let meta = old.metadata()?;
        file.set_permissions(PermissionsExt::from_mode(meta.mode() & 0o7777))?;
        let fresh_meta = file.metadata()?;
        if (fresh_meta.uid(), fresh_meta.gid()) != (meta.uid(), meta.gid()) {
            std::os::unix::fs::fchown(&file, Some(meta.uid()), Some(meta.gid()))?;
        }
    }
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_outcome_never_replaces_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.toml");
        std::fs::write(&path, "[guest.dev]\n").unwrap();
        let mut draft = Draft::open(&path).unwrap();
        document::add_entry(
            &mut draft.document,
            "guest",
            "web",
            vec![("mac", "nonsense".into())],
        )
        .unwrap();
        let error = draft.write().unwrap_err();
        assert!(
            error.message.contains("config.toml:4: "),
            "{}",
            error.message
        );
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "[guest.dev]\n");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn link_and_mode_stay() {
        let folder = tempfile::tempdir().unwrap();
        let real = folder.path().join("dotfiles.toml");
        let link = folder.path().join("config.toml");
        std::fs::write(&real, "").unwrap();
        std::fs::set_permissions(&real, PermissionsExt::from_mode(0o600)).unwrap();
        std::os::unix::fs::symlink("dotfiles.toml", &link).unwrap();
        let mut draft = Draft::open(&link).unwrap();
        document::add_entry(&mut draft.document, "guest", "dev", vec![]).unwrap();
        draft.write().unwrap();
        assert!(link.is_symlink());
        assert_eq!(std::fs::read_to_string(&real).unwrap(), "[guest.dev]\n");
        assert_eq!(std::fs::metadata(&real).unwrap().mode() & 0o777, 0o600);
    }

    #[test]
    fn parallel_changes_are_all_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.toml");
        std::fs::write(&path, "# head\n").unwrap();
        std::thread::scope(|scope| {
            for number in 0..8 {
                let path = &path;
                scope.spawn(move || {
                    let mut draft = Draft::open(path).unwrap();
                    document::add_entry(
                        &mut draft.document,
                        "guest",
                        &format!("g{number}"),
                        vec![],
                    )
                    .unwrap();
                    draft.write().unwrap();
                });
            }
        });
        let config = Config::load(&path).unwrap();
        assert_eq!(config.guests.len(), 8);
    }

    #[test]
    fn missing_file_is_made_with_its_folders() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b/config.toml");
        let mut draft = Draft::open(&path).unwrap();
        document::add_entry(&mut draft.document, "guest", "dev", vec![]).unwrap();
        draft.write().unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o644);
    }
}
