//! What a guest asks, decoded from its bytes.
//!
//! The header is kept when the body is bad, so that the error reaches the request it belongs to.
//! Nothing is looked up and nothing is allowed or refused here but names that cannot be names.

use std::ffi::CStr;

use rustix::io::Errno;

use super::wire::{Input, Truncated, ability, opcode};
use fields::{
    FSYNC_FDATASYNC, O_EXCL, RELEASE_FLOCK_UNLOCK, SEEK_DATA, SEEK_HOLE, SETXATTR_ACL_KILL_SGID,
    changes, device_numbers, extended_name, kind, lock, name, offer, open_how, rename, write,
};

mod fields;
use crate::sys::LockRange;
use crate::tree::owner::{GuestGid, GuestUid};
use crate::tree::{
    AccessWanted, Allocation, Caller, Changes, ExtendedHow, Name, NewNode, OpenHow, RenameHow, Seek,
};

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
        umask: u32,
    },
    MakeDirectory {
        name: Name<'a>,
        mode: u32,
        umask: u32,
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
        umask: u32,
        how: OpenHow,
        must_be_new: bool,
    },
    CreateUnnamed {
        mode: u32,
        umask: u32,
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
        /// With an access control list: the set-group-id bit falls.
        drop_set_group_id: bool,
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
        /// The file that is written.
        node: u64,
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
    /// `agreed`: the abilities, some of which make a body longer.
    pub(crate) fn decode(number: u32, body: &'a [u8], agreed: u64) -> Result<Self, Errno> {
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
                    mode: mode & 0o7777,
                    device: device_numbers(device),
                };
                Self::MakeNode {
                    name: name(&mut input)?,
                    new,
                    umask,
                }
            }
            opcode::MKDIR => {
                let (mode, umask) = (input.u32()?, input.u32()?);
                Self::MakeDirectory {
                    name: name(&mut input)?,
                    mode: mode & 0o7777,
                    umask,
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
                let (mode, how) = (mode & 0o7777, open_how(flags, open_flags)?);
                if number == opcode::TMPFILE {
                    // Its name is "/", a place holder.
                    Self::CreateUnnamed { mode, umask, how }
                } else {
                    let must_be_new = flags & O_EXCL != 0;
                    Self::Create {
                        name: name(&mut input)?,
                        mode,
                        umask,
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
            opcode::WRITE => write(&mut input, agreed)?,
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
                let mut more = 0;
                if agreed & ability::SETXATTR_EXT != 0 {
                    more = input.u32()?;
                    input.skip(4)?;
                }
                let name = extended_name(&mut input)?;
                let value = input.bytes(usize::try_from(size).map_err(|_| Errno::INVAL)?)?;
                let how = match flags {
                    0 => ExtendedHow::Either,
                    1 => ExtendedHow::Create,
                    2 => ExtendedHow::Replace,
                    _ => return Err(Errno::INVAL),
                };
                Self::SetExtended {
                    name,
                    value,
                    how,
                    drop_set_group_id: more & SETXATTR_ACL_KILL_SGID != 0,
                }
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
                let (from, read_at, node) = (input.u64()?, input.u64()?, input.u64()?);
                let (to, write_at, length) = (input.u64()?, input.u64()?, input.u64()?);
                match input.u64()? {
                    0 => Self::CopyRange {
                        from,
                        read_at,
                        node,
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
