//! What a guest asks, decoded from its bytes.
//!
//! The header is kept when the body is bad, so that the error reaches the request it belongs to.
//! Nothing is looked up and nothing is allowed or refused here but names that cannot be names.

use rustix::io::Errno;

use super::wire::{Input, Truncated, opcode};
use crate::sys::{LockKind, LockRange};
use crate::tree::owner::{GuestGid, GuestUid};
use crate::tree::{
    AccessWanted, Allocation, Caller, Changes, Durability, ExtendedHow, Kind, Name, NewNode,
    NewTime, OpenHow, RenameHow, Seek, Timestamp,
};
use std::ffi::CStr;

/// fuse_in_header.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Header {
    /// Bytes of the whole request with this header.
    pub(crate) length: u32,
    pub(crate) opcode: u32,
    pub(crate) unique: u64,
    pub(crate) node: u64,
    pub(crate) caller: Caller,
}

impl Header {
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Truncated> {
        let mut input = Input::new(bytes);
        let header = Self {
            length: input.u32()?,
            opcode: input.u32()?,
            unique: input.u64()?,
            node: input.u64()?,
            caller: Caller {
                uid: GuestUid(input.u32()?),
                gid: GuestGid(input.u32()?),
            },
        };
        // The process number and the length of extensions, of which none is negotiated.
        input.skip(8)?;
        Ok(header)
    }
}

/// INIT's offer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Offer {
    pub(crate) major: u32,
    pub(crate) minor: u32,
    pub(crate) read_ahead: u32,
    pub(crate) abilities: u64,
}

/// A SETLK, SETLKW or GETLK.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LockRequest {
    pub(crate) handle: u64,
    pub(crate) owner: u64,
    pub(crate) range: LockRange,
    /// flock(2) and not fcntl(2): the whole file, for this handle.
    pub(crate) whole: bool,
}

/// One request.
#[derive(Debug)]
pub(crate) enum Operation<'a> {
    Init(Offer),
    Destroy,
    Interrupt {
        unique: u64,
    },
    Lookup(Name<'a>),
    Forget {
        lookups: u64,
    },
    BatchForget(Forgets<'a>),
    Attributes,
    ExtendedAttributes,
    Change {
        handle: Option<u64>,
        changes: Changes,
    },
    ReadLink,
    MakeSymbolicLink {
        name: Name<'a>,
        target: &'a CStr,
    },
    MakeNode {
        name: Name<'a>,
        new: NewNode,
    },
    MakeDirectory {
        name: Name<'a>,
        mode: u32,
    },
    RemoveFile(Name<'a>),
    RemoveDirectory(Name<'a>),
    Rename {
        old: Name<'a>,
        folder: u64,
        new: Name<'a>,
        how: RenameHow,
    },
    Link {
        node: u64,
        name: Name<'a>,
    },
    Open(OpenHow),
    Create {
        name: Name<'a>,
        mode: u32,
        how: OpenHow,
        must_be_new: bool,
    },
    CreateUnnamed {
        mode: u32,
        how: OpenHow,
    },
    Read {
        handle: u64,
        offset: u64,
        size: u32,
    },
    Write {
        handle: u64,
        offset: u64,
        size: u32,
        append: bool,
        drop_privileges: bool,
    },
    Statistics,
    Release {
        handle: u64,
        unlock_whole: bool,
    },
    Flush {
        handle: u64,
        owner: u64,
    },
    Sync {
        handle: u64,
        data_only: bool,
    },
    SetExtended {
        name: &'a CStr,
        value: &'a [u8],
        how: ExtendedHow,
    },
    Extended {
        name: &'a CStr,
        room: u32,
    },
    ListExtended {
        room: u32,
    },
    RemoveExtended {
        name: &'a CStr,
    },
    OpenDirectory,
    ReadDirectory {
        handle: u64,
        offset: u64,
        room: u32,
        plus: bool,
    },
    ReleaseDirectory {
        handle: u64,
    },
    SyncDirectory {
        handle: u64,
        data_only: bool,
    },
    TestLock(LockRequest),
    SetLock {
        lock: LockRequest,
        wait: bool,
    },
    Access(AccessWanted),
    Allocate {
        handle: u64,
        wanted: Allocation,
    },
    Seek {
        handle: u64,
        offset: u64,
        whence: Whence,
    },
    CopyRange {
        from: u64,
        read_at: u64,
        to: u64,
        write_at: u64,
        length: u64,
    },
    SyncAll,
    /// ioctl(2) on a file; none is known here.
    Control,
    /// A request this server does not know.
    Unknown,
}

/// lseek(2) as FUSE sends it: only what the guest's kernel cannot answer itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Whence {
    Hole(Seek),
    Other,
}

/// The list of a BATCH_FORGET: pairs of a node and how often it is forgotten.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Forgets<'a> {
    rest: Input<'a>,
    count: u32,
}

impl Iterator for Forgets<'_> {
    type Item = (u64, u64);

    fn next(&mut self) -> Option<(u64, u64)> {
        self.count = self.count.checked_sub(1)?;
        Some((self.rest.u64().ok()?, self.rest.u64().ok()?))
    }
}

impl<'a> Operation<'a> {
    /// EINVAL for a body that is too short, ENAMETOOLONG and EINVAL for a bad name.
    pub(crate) fn decode(number: u32, body: &'a [u8]) -> Result<Self, Errno> {
        let mut input = Input::new(body);
        let operation = match number {
            opcode::INIT => Self::Init(offer(&mut input)?),
            opcode::DESTROY => Self::Destroy,
            opcode::INTERRUPT => Self::Interrupt {
                unique: input.u64()?,
            },
            opcode::LOOKUP => Self::Lookup(name(&mut input)?),
            opcode::FORGET => Self::Forget {
                lookups: input.u64()?,
            },
            opcode::BATCH_FORGET => {
                let count = input.u32()?;
                input.skip(4)?;
                Self::BatchForget(Forgets { rest: input, count })
            }
            opcode::GETATTR => {
                input.skip(16)?;
                Self::Attributes
            }
            opcode::STATX => {
                input.skip(24)?;
                Self::ExtendedAttributes
            }
            opcode::SETATTR => changes(&mut input)?,
            opcode::READLINK => Self::ReadLink,
            opcode::SYMLINK => {
                let name = name(&mut input)?;
                Self::MakeSymbolicLink {
                    name,
                    target: input.text()?,
                }
            }
            opcode::MKNOD => {
                let (mode, device, umask) = (input.u32()?, input.u32()?, input.u32()?);
                input.skip(4)?;
                let new = NewNode {
                    kind: kind(mode).ok_or(Errno::INVAL)?,
                    mode: mode & 0o7777 & !umask,
                    device: device_numbers(device),
                };
                Self::MakeNode {
                    name: name(&mut input)?,
                    new,
                }
            }
            opcode::MKDIR => {
                let (mode, umask) = (input.u32()?, input.u32()?);
                Self::MakeDirectory {
                    name: name(&mut input)?,
                    mode: mode & 0o7777 & !umask,
                }
            }
            opcode::UNLINK => Self::RemoveFile(name(&mut input)?),
            opcode::RMDIR => Self::RemoveDirectory(name(&mut input)?),
            opcode::RENAME => {
                let folder = input.u64()?;
                rename(&mut input, folder, 0)?
            }
            opcode::RENAME2 => {
                let (folder, flags) = (input.u64()?, input.u32()?);
                input.skip(4)?;
                rename(&mut input, folder, flags)?
            }
            opcode::LINK => {
                let node = input.u64()?;
                Self::Link {
                    node,
                    name: name(&mut input)?,
                }
            }
            opcode::OPEN => {
                let (flags, open_flags) = (input.u32()?, input.u32()?);
                Self::Open(open_how(flags, open_flags)?)
            }
            opcode::CREATE | opcode::TMPFILE => {
                let (flags, mode) = (input.u32()?, input.u32()?);
                let (umask, open_flags) = (input.u32()?, input.u32()?);
                let (mode, how) = (mode & 0o7777 & !umask, open_how(flags, open_flags)?);
                if number == opcode::TMPFILE {
                    // Its name is "/", a place holder.
                    Self::CreateUnnamed { mode, how }
                } else {
                    let must_be_new = flags & O_EXCL != 0;
                    Self::Create {
                        name: name(&mut input)?,
                        mode,
                        how,
                        must_be_new,
                    }
                }
            }
            opcode::READ => {
                let (handle, offset, size) = (input.u64()?, input.u64()?, input.u32()?);
                input.skip(20)?;
                Self::Read {
                    handle,
                    offset,
                    size,
                }
            }
            opcode::WRITE => write(&mut input)?,
            opcode::STATFS => Self::Statistics,
            opcode::RELEASE => {
                let (handle, _flags, release) = (input.u64()?, input.u32()?, input.u32()?);
                input.skip(8)?;
                Self::Release {
                    handle,
                    unlock_whole: release & RELEASE_FLOCK_UNLOCK != 0,
                }
            }
            opcode::FLUSH => {
                let handle = input.u64()?;
                input.skip(8)?;
                Self::Flush {
                    handle,
                    owner: input.u64()?,
                }
            }
            opcode::FSYNC => {
                let (handle, flags) = (input.u64()?, input.u32()?);
                input.skip(4)?;
                Self::Sync {
                    handle,
                    data_only: flags & FSYNC_FDATASYNC != 0,
                }
            }
            opcode::FSYNCDIR => {
                let (handle, flags) = (input.u64()?, input.u32()?);
                input.skip(4)?;
                Self::SyncDirectory {
                    handle,
                    data_only: flags & FSYNC_FDATASYNC != 0,
                }
            }
            opcode::SETXATTR => {
                let (size, flags) = (input.u32()?, input.u32()?);
                let name = extended_name(&mut input)?;
                let value = input.bytes(usize::try_from(size).map_err(|_| Errno::INVAL)?)?;
                let how = match flags {
                    0 => ExtendedHow::Either,
                    1 => ExtendedHow::Create,
                    2 => ExtendedHow::Replace,
                    _ => return Err(Errno::INVAL),
                };
                Self::SetExtended { name, value, how }
            }
            opcode::GETXATTR => {
                let room = input.u32()?;
                input.skip(4)?;
                Self::Extended {
                    name: extended_name(&mut input)?,
                    room,
                }
            }
            opcode::LISTXATTR => {
                let room = input.u32()?;
                input.skip(4)?;
                Self::ListExtended { room }
            }
            opcode::REMOVEXATTR => Self::RemoveExtended {
                name: extended_name(&mut input)?,
            },
            opcode::OPENDIR => Self::OpenDirectory,
            opcode::READDIR | opcode::READDIRPLUS => {
                let (handle, offset, room) = (input.u64()?, input.u64()?, input.u32()?);
                input.skip(20)?;
                Self::ReadDirectory {
                    handle,
                    offset,
                    room,
                    plus: number == opcode::READDIRPLUS,
                }
            }
            opcode::RELEASEDIR => {
                let handle = input.u64()?;
                input.skip(16)?;
                Self::ReleaseDirectory { handle }
            }
            opcode::GETLK => Self::TestLock(lock(&mut input)?),
            opcode::SETLK => Self::SetLock {
                lock: lock(&mut input)?,
                wait: false,
            },
            opcode::SETLKW => Self::SetLock {
                lock: lock(&mut input)?,
                wait: true,
            },
            opcode::ACCESS => {
                let mask = input.u32()?;
                input.skip(4)?;
                let (read, write, execute) = (mask & 4 != 0, mask & 2 != 0, mask & 1 != 0);
                Self::Access(AccessWanted {
                    read,
                    write,
                    execute,
                })
            }
            opcode::FALLOCATE => {
                let (handle, offset, length) = (input.u64()?, input.u64()?, input.u64()?);
                let flags = input.u32()?;
                input.skip(4)?;
                Self::Allocate {
                    handle,
                    wanted: Allocation {
                        offset,
                        length,
                        flags,
                    },
                }
            }
            opcode::LSEEK => {
                let (handle, offset, whence) = (input.u64()?, input.u64()?, input.u32()?);
                input.skip(4)?;
                let whence = match whence {
                    SEEK_DATA => Whence::Hole(Seek::Data),
                    SEEK_HOLE => Whence::Hole(Seek::Hole),
                    _ => Whence::Other,
                };
                Self::Seek {
                    handle,
                    offset,
                    whence,
                }
            }
            opcode::COPY_FILE_RANGE => {
                let (from, read_at, _node) = (input.u64()?, input.u64()?, input.u64()?);
                let (to, write_at, length) = (input.u64()?, input.u64()?, input.u64()?);
                match input.u64()? {
                    0 => Self::CopyRange {
                        from,
                        read_at,
                        to,
                        write_at,
                        length,
                    },
                    _ => return Err(Errno::INVAL),
                }
            }
            opcode::SYNCFS => {
                input.skip(8)?;
                Self::SyncAll
            }
            opcode::IOCTL => Self::Control,
            _ => Self::Unknown,
        };
        Ok(operation)
    }
}

const O_ACCMODE: u32 = 0o3;
const O_WRONLY: u32 = 0o1;
const O_RDWR: u32 = 0o2;
const O_EXCL: u32 = 0o200;
const O_TRUNC: u32 = 0o1000;
const O_APPEND: u32 = 0o2000;
const O_DSYNC: u32 = 0o10000;
const O_NOATIME: u32 = 0o1000000;
/// __O_SYNC without the O_DSYNC that always comes with it.
const O_SYNC: u32 = 0o4000000;
const OPEN_KILL_SUIDGID: u32 = 1;
const RELEASE_FLOCK_UNLOCK: u32 = 2;
const FSYNC_FDATASYNC: u32 = 1;
const WRITE_CACHE: u32 = 1;
const WRITE_KILL_SUIDGID: u32 = 4;
const SEEK_DATA: u32 = 3;
const SEEK_HOLE: u32 = 4;

fn name<'a>(input: &mut Input<'a>) -> Result<Name<'a>, Errno> {
    Name::new(input.text()?)
}

fn extended_name<'a>(input: &mut Input<'a>) -> Result<&'a CStr, Errno> {
    let name = input.text()?;
    // XATTR_NAME_MAX; the host says ERANGE, as setxattr(2).
    if name.is_empty() || name.count_bytes() > 255 {
        Err(Errno::RANGE)
    } else {
        Ok(name)
    }
}

fn offer(input: &mut Input<'_>) -> Result<Offer, Truncated> {
    let (major, minor) = (input.u32()?, input.u32()?);
    if major != super::wire::MAJOR {
        // Another major version has another body; the answer is the version we speak.
        return Ok(Offer {
            major,
            minor,
            read_ahead: 0,
            abilities: 0,
        });
    }
    let (read_ahead, low) = (input.u32()?, input.u32()?);
    let extended = u64::from(low) & super::wire::ability::INIT_EXT != 0;
    let high = if extended { input.u32()? } else { 0 };
    Ok(Offer {
        major,
        minor,
        read_ahead,
        abilities: u64::from(low) | u64::from(high) << 32,
    })
}

fn open_how(flags: u32, open_flags: u32) -> Result<OpenHow, Errno> {
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

fn write<'a>(input: &mut Input<'a>) -> Result<Operation<'a>, Errno> {
    let (handle, offset, size) = (input.u64()?, input.u64()?, input.u32()?);
    let write_flags = input.u32()?;
    input.skip(8)?;
    let flags = input.u32()?;
    input.skip(4)?;
    // Pages of the guest's cache go to their place, also in a file that was opened to append.
    let append = flags & O_APPEND != 0 && write_flags & WRITE_CACHE == 0;
    let drop_privileges = write_flags & WRITE_KILL_SUIDGID != 0;
    Ok(Operation::Write {
        handle,
        offset,
        size,
        append,
        drop_privileges,
    })
}

fn rename<'a>(input: &mut Input<'a>, folder: u64, flags: u32) -> Result<Operation<'a>, Errno> {
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

fn lock(input: &mut Input<'_>) -> Result<LockRequest, Errno> {
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

fn changes<'a>(input: &mut Input<'a>) -> Result<Operation<'a>, Errno> {
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
    input.skip(8)?; // the time of change is the host's own
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
pub(crate) fn kind(mode: u32) -> Option<Kind> {
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
fn device_numbers(device: u32) -> (u32, u32) {
    (
        (device >> 8) & 0xfff,
        (device & 0xff) | ((device >> 12) & 0xf_ff00),
    )
}
