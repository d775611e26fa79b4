//! The other way to write: over the old bytes, with a journal.
//!
//! Only where the file cannot be replaced. A process killed in the middle, or a
//! power cut, leaves a mixture of old and new bytes; so both are on the disk in the
//! state folder, and the journal says so, before the first byte changes. The next
//! update, by whichever process, finds the journal and mends the file before it
//! does anything else. If meanwhile somebody else gave the file other bytes, those
//! are theirs: the file stays and the old bytes are kept beside the journal.
//!
//! In the journal folder, for `/etc/hosts`: `etc-hosts-HASH.before` and `.after`
//! (plain bytes) and `.journal` (empty; its being there is what counts).
//! `.before` stays afterwards, as a backup for people.

use std::fs::File;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::replace::{full_or, write_all_at};
use super::target::{Opened, Target};
use super::{Step, Steps, WriteError};

/// What an interrupted update had left, and what was done about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mended {
    /// It had not begun to change the file, or had just finished.
    Whole,
    /// The file was half written and has its old bytes again.
    RolledBack,
    /// Somebody else has changed the file since; the bytes from before are kept.
    ChangedByOthers {
        /// Where they are.
        backup: PathBuf,
    },
}

/// What came of it.
pub(super) enum Outcome {
    Written,
    /// Somebody else changed the file; nothing was done.
    Changed,
}

/// The journal of one hosts file.
pub(super) struct Journal {
    folder: PathBuf,
    before: PathBuf,
    after: PathBuf,
    mark: PathBuf,
    unfinished: PathBuf,
}

impl Journal {
    pub(super) fn new(folder: &Path, target: &Target) -> Self {
        let key = key(&target.path);
        Self {
            folder: folder.to_owned(),
            before: folder.join(format!("{key}.before")),
            after: folder.join(format!("{key}.after")),
            mark: folder.join(format!("{key}.journal")),
            unfinished: folder.join(format!("{key}.unfinished")),
        }
    }

    /// Finishes what an interrupted update began. The caller holds the file's lock.
    pub(super) fn mend(
        &self,
        target: &Target,
        opened: &Opened,
        steps: &mut dyn Steps,
    ) -> Result<Option<Mended>, WriteError> {
        if !self.mark.exists() {
            return Ok(None);
        }
        // An earlier mending ended between its last two steps.
        if !self.before.exists() && self.unfinished.exists() {
            self.end(steps)?;
            let backup = self.unfinished.clone();
            return Ok(Some(Mended::ChangedByOthers { backup }));
        }
        let keep = |path: &Path| std::fs::read(path).map_err(|error| Self::io_error(path, &error));
        let (before, after) = (keep(&self.before)?, keep(&self.after)?);
        let current = opened.read(target)?;
        let mended = if current == before || current == after {
            Mended::Whole
        } else if is_mixture(&current, &before, &after) {
            let file = open_for_writing(target, opened)?;
            overwrite(&file, &before, 0, before.len(), steps)
                .map_err(|errno| full_or(target, "mend", errno))?;
            Mended::RolledBack
        } else {
            std::fs::rename(&self.before, &self.unfinished)
                .map_err(|error| Self::io_error(&self.unfinished, &error))?;
            Mended::ChangedByOthers {
                backup: self.unfinished.clone(),
            }
        };
        self.end(steps)?;
        Ok(Some(mended))
    }

    /// Changes the file from the first bytes to the second.
    pub(super) fn write(
        &self,
        target: &Target,
        opened: &Opened,
        (old, new): (&[u8], &[u8]),
        steps: &mut dyn Steps,
    ) -> Result<Outcome, WriteError> {
        let file = open_for_writing(target, opened)?;
        if let Err(error) = self.begin(target, old, new, steps) {
            // Copies cut short are no backup. If the mark is there, the file is whole and
            // the next update sees that.
            if !self.mark.exists() {
                std::fs::remove_file(&self.before).ok();
                std::fs::remove_file(&self.after).ok();
            }
            return Err(error);
        }

        steps
            .before(Step::LookAgain)
            .map_err(|errno| target.io("look at", errno))?;
        let same = target.stat()?.is_some_and(|now| opened.is_same_file(&now));
        if !same || opened.read(target)? != old {
            self.end(steps)?;
            return Ok(Outcome::Changed);
        }

        let written = reserve(&file, old.len(), new.len(), steps).and_then(|()| {
            // What both have in front need not be written: mostly all but our block.
            let common = old
                .iter()
                .zip(new)
                .take_while(|(old, new)| old == new)
                .count();
            overwrite(&file, new, common, old.len(), steps)
        });
        if let Err(errno) = written {
            // The old bytes have their place on the disk, so this needs no space. If it
            // fails all the same, the journal stays and the next update mends the file.
            overwrite(&file, old, 0, usize::MAX, &mut super::Straight)
                .map_err(|second| target.io("undo a failed change of", second))?;
            self.end(&mut super::Straight)?;
            return Err(full_or(target, "write", errno));
        }
        self.end(steps)?;
        Ok(Outcome::Written)
    }

    fn begin(
        &self,
        target: &Target,
        old: &[u8],
        new: &[u8],
        steps: &mut dyn Steps,
    ) -> Result<(), WriteError> {
        let keep = |errno: Errno, path: &Path| match errno {
            Errno::NOSPC | Errno::DQUOT => full_or(target, "a journal", errno),
            other => WriteError::Journal {
                path: path.to_owned(),
                errno: other,
            },
        };
        make_folder(&self.folder).map_err(|errno| keep(errno, &self.folder))?;
        for (path, bytes) in [(&self.before, old), (&self.after, new)] {
            steps
                .before(Step::KeepCopies)
                .and_then(|()| write_synced(path, bytes))
                .map_err(|errno| keep(errno, path))?;
        }
        // The copies' entries must be on the disk before the mark's is.
        sync_folder(&self.folder).map_err(|errno| keep(errno, &self.folder))?;
        steps
            .before(Step::BeginJournal)
            .and_then(|()| write_synced(&self.mark, b""))
            .and_then(|()| sync_folder(&self.folder))
            .map_err(|errno| keep(errno, &self.mark))
    }

    fn end(&self, steps: &mut dyn Steps) -> Result<(), WriteError> {
        let error = |errno: Errno| WriteError::Journal {
            path: self.mark.clone(),
            errno,
        };
        steps.before(Step::EndJournal).map_err(error)?;
        std::fs::remove_file(&self.mark).map_err(|io| Self::io_error(&self.mark, &io))?;
        sync_folder(&self.folder).map_err(error)?;
        // Without the mark it means nothing; the next change writes it anew.
        std::fs::remove_file(&self.after).ok();
        Ok(())
    }

    fn io_error(path: &Path, error: &std::io::Error) -> WriteError {
        WriteError::Journal {
            path: path.to_owned(),
            errno: Errno::from_io_error(error).unwrap_or(Errno::IO),
        }
    }
}

/// Whether `current` is what an interrupted [`overwrite`] can leave: at each place the
/// old byte, the new one, or, where the file was being made longer, a byte never written.
fn is_mixture(current: &[u8], before: &[u8], after: &[u8]) -> bool {
    let shorter = before.len().min(after.len());
    let longer = before.len().max(after.len());
    (shorter..=longer).contains(&current.len())
        && current.iter().enumerate().all(|(at, byte)| {
            before.get(at) == Some(byte)
                || after.get(at) == Some(byte)
                || (at >= before.len() && *byte == 0)
        })
}

/// Opens the very file that is locked for writing.
fn open_for_writing(target: &Target, opened: &Opened) -> Result<File, WriteError> {
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::openat(&target.folder, &target.name, flags, Mode::empty())
        .map_err(|errno| target.no_right(errno))?;
    let stat = rustix::fs::fstat(&file).map_err(|errno| target.io("look at", errno))?;
    if !opened.is_same_file(&stat) {
        return Err(WriteError::Busy {
            path: target.path.clone(),
            tries: 1,
        });
    }
    Ok(File::from(file))
}

/// Has the space for a longer file set aside, so that a full disk shows before a byte changes.
fn reserve(file: &File, old: usize, new: usize, steps: &mut dyn Steps) -> Result<(), Errno> {
    let Some(more) = new.checked_sub(old).filter(|more| *more > 0) else {
        return Ok(());
    };
    steps.before(Step::Reserve)?;
    match rustix::fs::fallocate(file, FallocateFlags::KEEP_SIZE, old as u64, more as u64) {
        // Where a file system cannot, a failed write is undone instead.
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
        answer => answer,
    }
}

/// Writes `bytes` from offset `from` on, cuts the file if it `had` more, brings it to the disk.
fn overwrite(
    file: &File,
    bytes: &[u8],
    from: usize,
    had: usize,
    steps: &mut dyn Steps,
) -> Result<(), Errno> {
    let mut offset = from as u64;
    for piece in bytes.get(from..).unwrap_or_default().chunks(steps.piece()) {
        steps.before(Step::Overwrite)?;
        write_all_at(file, piece, offset)?;
        offset += piece.len() as u64;
    }
    if had != bytes.len() || from == 0 {
        steps.before(Step::Cut)?;
        rustix::fs::ftruncate(file, bytes.len() as u64)?;
    }
    steps.before(Step::SyncFile)?;
    rustix::fs::fsync(file)
}

/// Makes the folder with those above it, for this user alone, each on the disk when it is made: a journal in
/// a folder that a power cut takes away would be none.
pub(super) fn make_folder(folder: &Path) -> Result<(), Errno> {
    match rustix::fs::mkdir(folder, Mode::RWXU) {
        Ok(()) => {}
        Err(Errno::EXIST) => return Ok(()),
        Err(Errno::NOENT) => {
            let above = folder.parent().ok_or(Errno::NOENT)?;
            make_folder(above)?;
            rustix::fs::mkdir(folder, Mode::RWXU)?;
        }
        Err(errno) => return Err(errno),
    }
    let above = folder.parent().ok_or(Errno::NOENT)?;
    // A folder above that we may not read is older than we are.
    match sync_folder(above) {
        Err(Errno::ACCESS) => Ok(()),
        answer => answer,
    }
}

pub(super) fn sync_folder(folder: &Path) -> Result<(), Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::fsync(rustix::fs::open(folder, flags, Mode::empty())?)
}

/// The name of a file's journal: readable, and with a hash (FNV-1a, 64 bits) to be its own.
pub(super) fn key(path: &Path) -> String {
    let bytes = path.as_os_str().as_bytes();
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let readable: String = bytes
        .iter()
        .map(|byte| {
            if byte.is_ascii_alphanumeric() || *byte == b'.' {
                char::from(*byte)
            } else {
                '-'
            }
        })
        .collect();
    let readable = readable.trim_matches('-');
    // The end of a long path says more than its start.
    let tail = readable
        .get(readable.len().saturating_sub(80)..)
        .unwrap_or(readable);
    format!("{tail}-{hash:016x}")
}

pub(super) fn write_synced(path: &Path, bytes: &[u8]) -> Result<(), Errno> {
    let write = || {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = File::from(rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)?);
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(|error: std::io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mixture_has_only_old_new_and_never_written_bytes() {
        let (before, after) = (b"one two", b"one three four");
        for torn in [
            &b"one two"[..],
            b"one thr",
            b"one thro",
            b"one three four",
            b"one two\0\0\0\0\0\0\0",
            b"one two\0\0\0four",
            b"onehtwo",
        ] {
            let expected = *torn != b"one thro"[..] && *torn != b"onehtwo"[..];
            assert_eq!(
                is_mixture(torn, before, after),
                expected,
                "{}",
                torn.escape_ascii()
            );
        }
        assert!(!is_mixture(b"one tw", before, after), "shorter than both");
        assert!(
            !is_mixture(b"one three four five", before, after),
            "longer than both"
        );
        assert!(
            !is_mixture(b"on\0 two", before, after),
            "a hole where there were bytes"
        );
    }

    #[test]
    fn every_path_has_a_journal_of_its_own() {
        assert!(key(Path::new("/etc/hosts")).starts_with("etc-hosts-"));
        assert_ne!(key(Path::new("/a/b-c")), key(Path::new("/a-b/c")));
        assert!(key(Path::new(&"/long".repeat(90))).len() < 120);
    }
}
