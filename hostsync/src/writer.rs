//! The only code of sharectl that writes a hosts file.
//!
//! One update is: find the file behind its symlinks; lock it; finish or undo what
//! an earlier run left half done; read; ask `edit`; write only if something changes;
//! by a new file in the same folder that takes the old one's place (`replace.rs`), or,
//! where that would lose a link, an owner or an attribute or is impossible, in place
//! with a journal (`in_place.rs`). At every moment the file is whole, old or new; only
//! in place it can be half written, and then the next update mends it.
//!
//! **The lock** is `flock(2)` on the hosts file itself. A lock file in a state folder
//! would not keep two users apart, one beside the file needs a right to the folder
//! and is litter; the file is there, anyone who may write it may open it, and it is
//! the same object through a bind mount or a second hard link. A replaced file is a new
//! object, so whoever waited looks again which file has the name. What does not lock
//! (editors) is met by looking again, right before the rename, whether the file is
//! still the one that was read.
//!
//! It does not know what a hosts file is: the content is `edit`'s business.
//! Read first: `rename(2)`, `flock(2)`, `fsync(2)`.

mod backup;
mod error;
mod in_place;
mod lock;
mod replace;
mod steps;
mod target;

use std::io::Read;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, StatxAttributes, StatxFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::section::Refusal;

pub use backup::{Backup, KEPT};
pub use error::WriteError;
pub use in_place::Mended;
pub use steps::{Step, Steps, Straight};

use target::{Opened, Target};

/// How many bytes a hosts file may have; blocklists have some 10 MB.
const SIZE_LIMIT: u64 = 64 << 20;
/// How often a file that others keep changing is tried again.
const TRIES: u32 = 8;
/// How often a file that another program of Windows has for itself is tried, and how far apart.
const SHARING_TRIES: u32 = 8;
const SHARING_PAUSE: std::time::Duration = std::time::Duration::from_millis(100);

/// What an update did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The file behind the symlinks.
    pub path: PathBuf,
    /// How it was written.
    pub how: How,
    /// What an earlier, interrupted update had left, if anything.
    pub mended: Option<Mended>,
    /// Why no backup could be kept of what was there before, if so.
    pub unkept: Option<String>,
}

/// How a file was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum How {
    /// It was right already.
    Unchanged,
    /// There was none.
    Created,
    /// A new file took its place in one step.
    Replaced,
    /// Its content was changed in place, with a journal.
    InPlace(Why),
}

/// Why a file was not replaced but changed in place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Why {
    /// It has several hard links; a new file would part them.
    HardLinks,
    /// It is a mount point of its own, as in containers.
    MountPoint,
    /// No file may be made in its folder.
    Folder,
    /// A new file could not get its owner.
    Owner,
    /// A new file could not get its extended attributes.
    Attributes,
    /// It is Windows' own, with rights that only Windows knows.
    Windows,
}

impl Why {
    /// The reason in words that follow "in place because".
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::HardLinks => "it has several hard links",
            Self::MountPoint => "it is a mount point",
            Self::Folder => "its folder is not writable",
            Self::Owner => "a new file could not have its owner",
            Self::Attributes => "a new file could not have its attributes",
            Self::Windows => "it is Windows' own",
        }
    }
}

/// What one try came to.
enum Try {
    Done(How),
    /// Somebody else changed the file meanwhile.
    Changed,
}

/// What decides about the content: old bytes in, new bytes or "right as it is" out.
pub type Editor<'a> = dyn FnMut(&[u8]) -> Result<Option<Vec<u8>>, Refusal> + 'a;

/// Writes hosts files; keeps journals in one folder.
#[derive(Debug)]
pub struct Writer<S: Steps = Straight> {
    journals: PathBuf,
    steps: S,
    manner: Manner,
    /// What tells versions of a file apart; none: no backups.
    fingerprint: Option<fn(&[u8]) -> u64>,
}

/// What kind of file system a file is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    /// This system's own.
    Native,
    /// Windows', by way of WSL: it may have no locks, other programs may have the file for
    /// themselves, and a guard may take a change back.
    Windows,
}

impl Writer {
    /// A writer whose journals live in `journals`, made when first needed.
    #[must_use]
    pub fn new(journals: impl Into<PathBuf>) -> Self {
        Self::with_steps(journals, Straight)
    }
}

impl<S: Steps> Writer<S> {
    /// A writer that asks `steps` before each step; how tests break it anywhere.
    #[must_use]
    pub fn with_steps(journals: impl Into<PathBuf>, steps: S) -> Self {
        Self {
            journals: journals.into(),
            steps,
            manner: Manner::Native,
            fingerprint: None,
        }
    }

    /// The same, for files of Windows.
    #[must_use]
    pub fn for_windows(mut self) -> Self {
        self.manner = Manner::Windows;
        self
    }

    /// The same, keeping the last versions of each file; `fingerprint` tells which bytes are one.
    #[must_use]
    pub fn with_backups(mut self, fingerprint: fn(&[u8]) -> u64) -> Self {
        self.fingerprint = Some(fingerprint);
        self
    }

    /// The kept versions of the file at `path`, the oldest first.
    ///
    /// # Errors
    /// When the file's folder is not there.
    pub fn backups(&self, path: &Path) -> Result<Vec<Backup>, WriteError> {
        Target::find(path).map(|target| backup::list(&self.journals, &target))
    }

    /// Brings the file at `path` to what `edit` makes of its bytes. `edit` may be
    /// asked several times, when others change the file meanwhile. A file that is
    /// not there counts as empty and is made with mode 0644; its folder must exist.
    ///
    /// # Errors
    /// [`WriteError`]; the file is then as it was, or, if said so, mended by the next update.
    pub fn update(&mut self, path: &Path, edit: &mut Editor<'_>) -> Result<Report, WriteError> {
        let mut patience = lock::Patience::new();
        let mut mended = None;
        let mut unkept = None;
        for _ in 0..TRIES {
            let target = Target::find(path)?;
            let locked = lock::open_locked(&target, self.manner, &mut self.steps, &mut patience)?;
            let outcome = match locked {
                None => self.create(&target, edit)?,
                Some(opened) => {
                    let journal = in_place::Journal::new(&self.journals, &target);
                    let found = journal.mend(&target, &opened, &mut self.steps)?;
                    mended = mended.or(found);
                    self.change(&target, &opened, edit, &mut unkept)?
                }
            };
            if let Try::Done(how) = outcome {
                return Ok(Report {
                    path: target.path,
                    how,
                    mended,
                    unkept,
                });
            }
        }
        Err(WriteError::Busy {
            path: path.to_owned(),
            tries: TRIES,
        })
    }

    fn create(&mut self, target: &Target, edit: &mut Editor<'_>) -> Result<Try, WriteError> {
        match edit(b"").map_err(|refusal| target.refused(refusal))? {
            None => Ok(Try::Done(How::Unchanged)),
            Some(new) => replace::create(target, &new, &mut self.steps),
        }
    }

    fn change(
        &mut self,
        target: &Target,
        opened: &Opened,
        edit: &mut Editor<'_>,
        unkept: &mut Option<String>,
    ) -> Result<Try, WriteError> {
        self.steps
            .before(Step::Read)
            .map_err(|errno| target.io("read", errno))?;
        let old = opened.read(target)?;
        let Some(new) = edit(&old).map_err(|refusal| target.refused(refusal))? else {
            return Ok(Try::Done(How::Unchanged));
        };
        if self.manner == Manner::Native {
            check_rights(target)?;
        }
        if let Some(fingerprint) = self.fingerprint {
            // The change itself needs no backup, so it does not wait for a better disk.
            let kept = backup::keep(
                &self.journals,
                target,
                (&old, fingerprint(&old)),
                &mut self.steps,
            );
            *unkept = kept.err().map(|error| error.to_string());
        }
        let why = if self.manner == Manner::Windows {
            Why::Windows
        } else if opened.stat.st_nlink > 1 {
            Why::HardLinks
        } else {
            match replace::replace(target, opened, &old, &new, &mut self.steps)? {
                replace::Outcome::Replaced => return Ok(Try::Done(How::Replaced)),
                replace::Outcome::Changed => return Ok(Try::Changed),
                replace::Outcome::Impossible(why) => why,
            }
        };
        let journal = in_place::Journal::new(&self.journals, target);
        let written =
            self.patiently(|writer| journal.write(target, opened, (&old, &new), &mut writer.steps));
        match written? {
            in_place::Outcome::Written => {
                if self.manner == Manner::Windows {
                    verify(target, &new)?;
                }
                Ok(Try::Done(How::InPlace(why)))
            }
            in_place::Outcome::Changed => Ok(Try::Changed),
        }
    }
}

impl<S: Steps> Writer<S> {
    /// Tries again while another program of Windows has the file for itself (a virus scanner, an editor):
    /// WSL says EACCES or EBUSY for that, and nothing was changed then.
    fn patiently<T>(
        &mut self,
        mut write: impl FnMut(&mut Self) -> Result<T, WriteError>,
    ) -> Result<T, WriteError> {
        let mut tries = match self.manner {
            Manner::Native => 1,
            Manner::Windows => SHARING_TRIES,
        };
        loop {
            tries -= 1;
            let outcome = write(self);
            let shared = match &outcome {
                Err(WriteError::Denied { .. }) => true,
                Err(WriteError::Io { errno, .. }) => {
                    matches!(*errno, Errno::BUSY | Errno::TXTBSY | Errno::AGAIN)
                }
                _ => false,
            };
            if tries == 0 || !shared {
                return outcome;
            }
            std::thread::sleep(SHARING_PAUSE);
        }
    }
}

/// Looks whether the file has the bytes that it was given.
fn verify(target: &Target, new: &[u8]) -> Result<(), WriteError> {
    let now = match Opened::open(target)? {
        Some(opened) => opened.read(target)?,
        None => Vec::new(),
    };
    if now == new {
        Ok(())
    } else {
        Err(WriteError::TakenBack {
            path: target.path.clone(),
        })
    }
}

/// The bytes of the file at `path`, for looking only; one that is not there is empty.
///
/// # Errors
/// When it cannot be read, is no regular file or is over the limit.
pub fn read(path: &Path) -> Result<Vec<u8>, WriteError> {
    let target = Target::find(path)?;
    match Opened::open(&target)? {
        None => Ok(Vec::new()),
        Some(opened) => opened.read(&target),
    }
}

/// Whether this user may write the file at `path`, or make it; a first look, no promise.
#[must_use]
pub fn may_write(path: &Path) -> bool {
    Target::find(path).is_ok_and(|target| {
        let asked = |name: &std::ffi::OsStr| {
            rustix::fs::accessat(&target.folder, name, Access::WRITE_OK, AtFlags::EACCESS)
        };
        match asked(&target.name) {
            Err(Errno::NOENT) => asked(".".as_ref()).is_ok(),
            answer => answer.is_ok(),
        }
    })
}

/// The file behind the symlinks of `path`, which need not exist.
///
/// # Errors
/// When a link loops or the folder is not there.
pub fn follow(path: &Path) -> Result<PathBuf, WriteError> {
    Target::find(path).map(|target| target.path)
}

/// Says at once, before anything is touched, what can be known about a missing right.
fn check_rights(target: &Target) -> Result<(), WriteError> {
    let flags = AtFlags::SYMLINK_NOFOLLOW;
    if let Ok(found) = rustix::fs::statx(&target.folder, &target.name, flags, StatxFlags::empty()) {
        let path = target.path.clone();
        if found.stx_attributes.contains(StatxAttributes::IMMUTABLE) {
            return Err(WriteError::Immutable { path, flag: "i" });
        }
        if found.stx_attributes.contains(StatxAttributes::APPEND) {
            return Err(WriteError::Immutable { path, flag: "a" });
        }
    }
    let wish = Access::WRITE_OK;
    match rustix::fs::accessat(&target.folder, &target.name, wish, AtFlags::EACCESS) {
        // A kernel before 5.8 cannot tell; then the write itself will.
        Ok(()) | Err(Errno::NOSYS | Errno::INVAL) => Ok(()),
        Err(errno) => Err(target.no_right(errno)),
    }
}

impl Opened {
    fn read(&self, target: &Target) -> Result<Vec<u8>, WriteError> {
        let mut bytes = Vec::new();
        let error = |error: std::io::Error| {
            target.io("read", Errno::from_io_error(&error).unwrap_or(Errno::IO))
        };
        rustix::fs::seek(&self.file, rustix::fs::SeekFrom::Start(0))
            .map_err(|errno| target.io("read", errno))?;
        (&self.file)
            .take(SIZE_LIMIT + 1)
            .read_to_end(&mut bytes)
            .map_err(error)?;
        if bytes.len() as u64 > SIZE_LIMIT {
            return Err(WriteError::TooLarge {
                path: target.path.clone(),
                limit: SIZE_LIMIT,
            });
        }
        Ok(bytes)
    }
}
