//! Parts of requests: flags and numbers of the kernel as the tree's words.

use std::ffi::CStr;

use rustix::io::Errno;

use super::{LockRequest, Offer, Operation};
use crate::fuse::wire::{self, Input, Truncated, ability};
use crate::sys::{LockKind, LockRange};
use crate::tree::owner::{GuestGid, GuestUid};
use crate::tree::{Changes, Durability, Kind, Name, NewTime, OpenHow, RenameHow, Timestamp};

const O_ACCMODE: u32 = 0o3;
const O_WRONLY: u32 = 0o1;
const O_RDWR: u32 = 0o2;
pub(super) const O_EXCL: u32 = 0o200;
const O_TRUNC: u32 = 0o1000;
const O_APPEND: u32 = 0o2000;
const O_DSYNC: u32 = 0o10000;
const O_NOATIME: u32 = 0o1000000;
/// __O_SYNC without the O_DSYNC that always comes with it.
const O_SYNC: u32 = 0o4000000;
const OPEN_KILL_SUIDGID: u32 = 1;
pub(super) const RELEASE_FLOCK_UNLOCK: u32 = 2;
pub(super) const FSYNC_FDATASYNC: u32 = 1;
const WRITE_CACHE: u32 = 1;
const WRITE_KILL_SUIDGID: u32 = 4;
pub(super) const SETXATTR_ACL_KILL_SGID: u32 = 1;
pub(super) const SEEK_DATA: u32 = 3;
pub(super) const SEEK_HOLE: u32 = 4;

pub(super) fn name<'a>(input: &mut Input<'a>) -> Result<Name<'a>, Errno> {
    Name::new(input.text()?)
}

pub(super) fn extended_name<'a>(input: &mut Input<'a>) -> Result<&'a CStr, Errno> {
    let name = input.text()?;
    // XATTR_NAME_MAX; the host says ERANGE, as setxattr(2).
    if name.is_empty() || name.count_bytes() > 255 {
        Err(Errno::RANGE)
    } else {
        Ok(name)
    }
}

pub(super) fn offer(input: &mut Input<'_>) -> Result<Offer, Truncated> {
    let (major, minor) = (input.u32()?, input.u32()?);
    if major != wire::MAJOR {
        // Another major version has another body; the answer is the version we speak.
        return Ok(Offer {
            major,
            minor,
            read_ahead: 0,
            abilities: 0,
        });
    }
    let (read_ahead, low) = (input.u32()?, input.u32()?);
    let extended = u64::from(low) & ability::INIT_EXT != 0;
    let high = if extended { input.u32()? } else { 0 };
    Ok(Offer {
        major,
        minor,
        read_ahead,
        abilities: u64::from(low) | u64::from(high) << 32,
    })
}

pub(super) fn open_how(flags: u32, open_flags: u32) -> Result<OpenHow, Errno> {
    let access = flags & O_ACCMODE;
    if access == O_ACCMODE {
        return Err(Errno::INVAL);
    }
    Ok(OpenHow {
        read: access != O_WRONLY,
        write: access == O_WRONLY || access == O_RDWR,
        truncate: flags & O_TRUNC != 0,
        durability: match (flags & O_SYNC != 0, flags & O_DSYNC != 0) {
            (true, _) => Durability::Everything,
            (false, true) => Durability::Data,
            (false, false) => Durability::Later,
        },
        keep_access_time: flags & O_NOATIME != 0,
        drop_privileges: open_flags & OPEN_KILL_SUIDGID != 0,
    })
}

pub(super) fn write<'a>(input: &mut Input<'a>, agreed: u64) -> Result<Operation<'a>, Errno> {
    let (handle, offset, size) = (input.u64()?, input.u64()?, input.u32()?);
    let write_flags = input.u32()?;
    input.skip(8)?;
    let flags = input.u32()?;
    input.skip(4)?;
    // Pages of the guest's cache go to their place, also in a file that was opened to append; and so does all that a
    // guest writes that gathers writes, since it alone knows where the file ends.
    let places = write_flags & WRITE_CACHE != 0 || agreed & ability::WRITEBACK_CACHE != 0;
    let append = flags & O_APPEND != 0 && !places;
    let drop_privileges = write_flags & WRITE_KILL_SUIDGID != 0;
    Ok(Operation::Write {
        handle,
        offset,
        size,
        append,
        drop_privileges,
    })
}

pub(super) fn rename<'a>(
    input: &mut Input<'a>,
    folder: u64,
    flags: u32,
) -> Result<Operation<'a>, Errno> {
    let (old, new) = (name(input)?, name(input)?);
    let how = RenameHow {
        no_replace: flags & 1 != 0,
        exchange: flags & 2 != 0,
        whiteout: flags & 4 != 0,
    };
    if flags & !7 != 0 || how.exchange && (how.no_replace || how.whiteout) {
        return Err(Errno::INVAL);
    }
    Ok(Operation::Rename {
        old,
        folder,
        new,
        how,
    })
}

pub(super) fn lock(input: &mut Input<'_>) -> Result<LockRequest, Errno> {
    let (handle, owner) = (input.u64()?, input.u64()?);
    let (start, end) = (input.u64()?, input.u64()?);
    let (kind, _process) = (input.u32()?, input.u32()?);
    let flags = input.u32()?;
    input.skip(4)?;
    let kind = match kind {
        0 => LockKind::Shared,
        1 => LockKind::Exclusive,
        2 => LockKind::Unlock,
        _ => return Err(Errno::INVAL),
    };
    let start = i64::try_from(start).map_err(|_| Errno::INVAL)?;
    // `end` is the last byte; OFFSET_MAX means "to the end of the file", which flock writes as 0.
    let length = match i64::try_from(end) {
        Err(_) | Ok(i64::MAX) => 0,
        Ok(end) if end < start => return Err(Errno::INVAL),
        Ok(end) => end - start + 1,
    };
    Ok(LockRequest {
        handle,
        owner,
        range: LockRange {
            kind,
            start,
            length,
        },
        whole: flags & 1 != 0,
    })
}

pub(super) fn changes<'a>(input: &mut Input<'a>) -> Result<Operation<'a>, Errno> {
    const MODE: u32 = 1 << 0;
    const UID: u32 = 1 << 1;
    const GID: u32 = 1 << 2;
    const SIZE: u32 = 1 << 3;
    const ATIME: u32 = 1 << 4;
    const MTIME: u32 = 1 << 5;
    const FH: u32 = 1 << 6;
    const ATIME_NOW: u32 = 1 << 7;
    const MTIME_NOW: u32 = 1 << 8;
    const KILL_SUIDGID: u32 = 1 << 11;

    let valid = input.u32()?;
    let has = |bit: u32| valid & bit != 0;
    input.skip(4)?;
    let (handle, size) = (input.u64()?, input.u64()?);
    input.skip(8)?; // the owner of mandatory locks, which Linux no longer has
    let (accessed, modified) = (input.i64()?, input.i64()?);
    input.skip(8)?; // the time of change (FATTR_CTIME, of writeback caches) is the host's own
    let (accessed_part, modified_part) = (input.u32()?, input.u32()?);
    input.skip(4)?;
    let mode = input.u32()?;
    input.skip(4)?;
    let (uid, gid) = (input.u32()?, input.u32()?);
    input.skip(4)?;
    let time = |set: u32, now: u32, seconds: i64, nanoseconds: u32| {
        if has(now) {
            Ok(Some(NewTime::Now))
        } else if !has(set) {
            Ok(None)
        } else if nanoseconds < 1_000_000_000 {
            Ok(Some(NewTime::At(Timestamp {
                seconds,
                nanoseconds,
            })))
        } else {
            Err(Errno::INVAL)
        }
    };
    let changes = Changes {
        mode: has(MODE).then_some(mode & 0o7777),
        owner: has(UID).then_some(GuestUid(uid)),
        group: has(GID).then_some(GuestGid(gid)),
        size: has(SIZE).then_some(size),
        accessed: time(ATIME, ATIME_NOW, accessed, accessed_part)?,
        modified: time(MTIME, MTIME_NOW, modified, modified_part)?,
        drop_privileges: has(KILL_SUIDGID),
    };
    Ok(Operation::Change {
        handle: has(FH).then_some(handle),
        changes,
    })
}

/// The kind in a mode's S_IFMT bits; 0 is a regular file, as mknod(2) has it.
pub(super) fn kind(mode: u32) -> Option<Kind> {
    Some(match mode & 0o170000 {
        0o140000 => Kind::Socket,
        0o120000 => Kind::SymbolicLink,
        0o100000 | 0 => Kind::File,
        0o060000 => Kind::BlockDevice,
        0o040000 => Kind::Directory,
        0o020000 => Kind::CharacterDevice,
        0o010000 => Kind::Fifo,
        _ => return None,
    })
}

/// Linux's new_decode_dev: 12 bits of major number, 20 of minor, folded into 32.
pub(super) fn device_numbers(device: u32) -> (u32, u32) {
    (
        (device >> 8) & 0xfff,
        (device & 0xff) | ((device >> 12) & 0xf_ff00),
    )
}
