//! The usual way to write: a new file in the same folder takes the old one's place.
//!
//! The new file has a name of its own (`.hosts.sharectl-PID-N`) and is locked by its
//! maker, so a later run can tell a leftover of a killed process from one in use.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use rustix::fs::{
    AtFlags, Dir, FileType, FlockOperation, Gid, Mode, OFlags, RawMode, RenameFlags, Stat, Uid,
    XattrFlags,
};
use rustix::io::Errno;

use super::target::{Opened, Target};
use super::{How, Step, Steps, Try, Why, WriteError};

const NEW_MODE: RawMode = 0o644;
/// More leftovers than this would be somebody's attack on our patience.
const NAME_TRIES: u32 = 100;

/// What came of it.
pub(super) enum Outcome {
    Replaced,
    /// Somebody else changed the file; nothing was done.
    Changed,
    /// It must be done in place; nothing was done.
    Impossible(Why),
}

/// Why the new file did not get finished.
enum Stop {
    Impossible(Why),
    Error(WriteError),
}

impl From<WriteError> for Stop {
    fn from(error: WriteError) -> Self {
        Self::Error(error)
    }
}

/// Makes a file where none is.
pub(super) fn create(
    target: &Target,
    new: &[u8],
    steps: &mut dyn Steps,
) -> Result<Try, WriteError> {
    sweep(target);
    let mut made = match NewFile::make(target, steps) {
        Ok(made) => made,
        Err(Stop::Impossible(_)) => return Err(folder_error(target)),
        Err(Stop::Error(error)) => return Err(error),
    };
    made.fill(new, steps)?;
    steps
        .before(Step::DressNew)
        .map_err(|errno| target.io("set the mode of", errno))?;
    rustix::fs::fchmod(&made.file, Mode::from_raw_mode(NEW_MODE))
        .map_err(|errno| target.io("set the mode of", errno))?;
    made.sync(steps)?;
    match made.take_place(RenameFlags::NOREPLACE, steps) {
        Ok(()) => {
            made.sync_folder(steps)?;
            Ok(Try::Done(How::Created))
        }
        Err(Errno::EXIST | Errno::NOENT) => Ok(Try::Changed),
        Err(errno) => Err(target.io("create", errno)),
    }
}

/// Replaces the file that was opened and read as `old`.
pub(super) fn replace(
    target: &Target,
    opened: &Opened,
    old: &[u8],
    new: &[u8],
    steps: &mut dyn Steps,
) -> Result<Outcome, WriteError> {
    sweep(target);
    let mut made = match NewFile::make(target, steps) {
        Ok(made) => made,
        Err(Stop::Impossible(why)) => return Ok(Outcome::Impossible(why)),
        Err(Stop::Error(error)) => return Err(error),
    };
    made.fill(new, steps)?;
    steps
        .before(Step::DressNew)
        .map_err(|errno| target.io("set the owner of", errno))?;
    match made.dress_like(opened) {
        Ok(()) => {}
        Err(Stop::Impossible(why)) => return Ok(Outcome::Impossible(why)),
        Err(Stop::Error(error)) => return Err(error),
    }
    made.sync(steps)?;

    steps
        .before(Step::LookAgain)
        .map_err(|errno| target.io("look at", errno))?;
    let current = target.stat()?.is_some_and(|now| opened.is_current(&now));
    // The time stamps have the grain of the kernel's tick: two writes can share one.
    if !current || opened.read(target)? != old {
        return Ok(Outcome::Changed);
    }
    match made.take_place(RenameFlags::empty(), steps) {
        Ok(()) => {
            made.sync_folder(steps)?;
            Ok(Outcome::Replaced)
        }
        Err(Errno::BUSY | Errno::XDEV) => Ok(Outcome::Impossible(Why::MountPoint)),
        // A folder with the sticky bit or the append-only flag lets make but not replace.
        Err(Errno::ACCESS | Errno::PERM) => Ok(Outcome::Impossible(Why::Folder)),
        // Somebody swept our new file away: another try makes another.
        Err(Errno::NOENT) => Ok(Outcome::Changed),
        Err(errno) => Err(target.io("replace", errno)),
    }
}

/// The new file, removed again unless it took its place.
struct NewFile<'a> {
    target: &'a Target,
    file: File,
    name: OsString,
    in_place: bool,
}

impl<'a> NewFile<'a> {
    fn make(target: &'a Target, steps: &mut dyn Steps) -> Result<Self, Stop> {
        let made = steps.before(Step::MakeNew).and_then(|()| make_file(target));
        match made {
            Ok((file, name)) => Ok(Self {
                target,
                file,
                name,
                in_place: false,
            }),
            Err(Errno::ACCESS | Errno::PERM | Errno::ROFS) => Err(Stop::Impossible(Why::Folder)),
            Err(errno) => Err(Stop::Error(full_or(target, "make a new file for", errno))),
        }
    }

    fn fill(&mut self, new: &[u8], steps: &mut dyn Steps) -> Result<(), WriteError> {
        let mut offset = 0;
        for piece in new.chunks(steps.piece()) {
            steps
                .before(Step::FillNew)
                .and_then(|()| write_all_at(&self.file, piece, offset))
                .map_err(|errno| full_or(self.target, "write a new file for", errno))?;
            offset += piece.len() as u64;
        }
        Ok(())
    }

    /// Owner first: a change of owner clears mode bits.
    fn dress_like(&self, opened: &Opened) -> Result<(), Stop> {
        let (old, target) = (&opened.stat, self.target);
        let own = rustix::fs::fstat(&self.file).map_err(|errno| target.io("look at", errno))?;
        if (own.st_uid, own.st_gid) != (old.st_uid, old.st_gid) {
            let (uid, gid) = (Uid::from_raw(old.st_uid), Gid::from_raw(old.st_gid));
            rustix::fs::fchown(&self.file, Some(uid), Some(gid))
                .map_err(|_| Stop::Impossible(Why::Owner))?;
        }
        rustix::fs::fchmod(&self.file, Mode::from_raw_mode(old.st_mode))
            .map_err(|errno| target.io("set the mode of", errno))?;
        match copy_attributes(&opened.file, &self.file) {
            Ok(()) => {}
            Err(errno @ (Errno::NOSPC | Errno::DQUOT)) => {
                return Err(Stop::Error(full_or(target, "set the attributes of", errno)));
            }
            Err(_) => return Err(Stop::Impossible(Why::Attributes)),
        }
        // An ACL sets the group bits of the mode; both must be as they were.
        let dressed: Stat =
            rustix::fs::fstat(&self.file).map_err(|errno| target.io("look at", errno))?;
        let same = (dressed.st_mode, dressed.st_uid, dressed.st_gid)
            == (old.st_mode, old.st_uid, old.st_gid);
        if same {
            Ok(())
        } else {
            Err(Stop::Impossible(Why::Attributes))
        }
    }

    fn sync(&self, steps: &mut dyn Steps) -> Result<(), WriteError> {
        steps
            .before(Step::SyncNew)
            .and_then(|()| rustix::fs::fsync(&self.file))
            .map_err(|errno| full_or(self.target, "sync a new file for", errno))
    }

    fn take_place(&mut self, flags: RenameFlags, steps: &mut dyn Steps) -> Result<(), Errno> {
        steps.before(Step::Rename)?;
        let (folder, name) = (&self.target.folder, &self.target.name);
        if flags.is_empty() {
            rustix::fs::renameat(folder, &self.name, folder, name)?;
        } else {
            rustix::fs::renameat_with(folder, &self.name, folder, name, flags)?;
        }
        self.in_place = true;
        Ok(())
    }

    fn sync_folder(&self, steps: &mut dyn Steps) -> Result<(), WriteError> {
        steps
            .before(Step::SyncFolder)
            .and_then(|()| self.target.sync_folder(&self.file))
            .map_err(|errno| self.target.io("sync the folder of", errno))
    }
}

impl Drop for NewFile<'_> {
    fn drop(&mut self) {
        if !self.in_place {
            // If even that fails, the next run sweeps it.
            rustix::fs::unlinkat(&self.target.folder, &self.name, AtFlags::empty()).ok();
        }
    }
}

fn prefix(name: &OsStr) -> Vec<u8> {
    [b".", name.as_bytes(), b".sharectl-"].concat()
}

fn make_file(target: &Target) -> Result<(File, OsString), Errno> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    for number in 0..NAME_TRIES {
        let mut name = prefix(&target.name);
        name.extend_from_slice(format!("{}-{number}", std::process::id()).as_bytes());
        let name = OsString::from_vec(name);
        match rustix::fs::openat(&target.folder, &name, flags, Mode::RUSR | Mode::WUSR) {
            Ok(descriptor) => {
                let file = File::from(descriptor);
                rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)?;
                return Ok((file, name));
            }
            Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno),
        }
    }
    Err(Errno::EXIST)
}

/// Removes new files whose makers are gone. Nothing depends on it, so errors are passed over.
fn sweep(target: &Target) {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Ok(folder) = rustix::fs::openat(&target.folder, ".", flags, Mode::empty()) else {
        return;
    };
    let prefix = prefix(&target.name);
    let Ok(entries) = Dir::read_from(folder.as_fd()) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        if !name.to_bytes().starts_with(&prefix) {
            continue;
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let Ok(file) = rustix::fs::openat(&target.folder, name, flags, Mode::empty()) else {
            continue;
        };
        let regular = rustix::fs::fstat(&file)
            .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile);
        if regular && rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
            rustix::fs::unlinkat(&target.folder, name, AtFlags::empty()).ok();
        }
    }
}

/// Makes the extended attributes (labels, ACLs, `user.*`) of `to` those of `from`.
fn copy_attributes(from: &File, to: &File) -> Result<(), Errno> {
    let (wanted, present) = (attribute_names(from)?, attribute_names(to)?);
    for name in &wanted {
        let value = attribute(from, name)?;
        // What the folder gave the new file by itself may be unsettable and right already.
        if !present.contains(name) || attribute(to, name)? != value {
            rustix::fs::fsetxattr(to, name.as_slice(), &value, XattrFlags::empty())?;
        }
    }
    for name in present.iter().filter(|name| !wanted.contains(name)) {
        rustix::fs::fremovexattr(to, name.as_slice())?;
    }
    Ok(())
}

fn attribute_names(file: &File) -> Result<Vec<Vec<u8>>, Errno> {
    // 64 KiB is the kernel's own limit for a list and for a value (`xattr(7)`).
    let mut list = vec![0; 1 << 16];
    match rustix::fs::flistxattr(file, list.as_mut_slice()) {
        Ok(length) => list.truncate(length),
        Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        Err(errno) => return Err(errno),
    }
    Ok(list
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
        .map(<[u8]>::to_vec)
        .collect())
}

fn attribute(file: &File, name: &[u8]) -> Result<Vec<u8>, Errno> {
    let mut value = vec![0; 1 << 16];
    let length = rustix::fs::fgetxattr(file, name, value.as_mut_slice())?;
    value.truncate(length);
    Ok(value)
}

/// Writes all of `bytes`, however little the kernel takes at a time.
pub(super) fn write_all_at(file: &File, bytes: &[u8], offset: u64) -> Result<(), Errno> {
    use std::os::unix::fs::FileExt;
    file.write_all_at(bytes, offset)
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
}

/// "Full" where that is the reason, else the kernel's answer as it is.
pub(super) fn full_or(target: &Target, what: &'static str, errno: Errno) -> WriteError {
    match errno {
        Errno::NOSPC | Errno::DQUOT => WriteError::Full {
            path: target.path.clone(),
            what,
        },
        other => target.io(what, other),
    }
}

/// The error for a file that cannot be made: the folder's rights decide.
fn folder_error(target: &Target) -> WriteError {
    use rustix::fs::Access;
    let asked = rustix::fs::accessat(&target.folder, ".", Access::WRITE_OK, AtFlags::EACCESS);
    target.no_right(asked.err().unwrap_or(Errno::PERM))
}
