//! What the kernel says of a file, in this crate's words. Pure.

use rustix::fs::{FileType, Statx, StatxTimestamp};

use crate::tree::owner::{HostGid, HostOwner, HostUid};
use crate::tree::{Identity, Kind, Timestamp};

pub(super) fn identity(status: &Statx) -> Identity {
    Identity {
        device: rustix::fs::makedev(status.stx_dev_major, status.stx_dev_minor),
        inode: status.stx_ino,
        mount: status.stx_mnt_id,
    }
}

pub(super) fn host_owner(status: &Statx) -> HostOwner {
    HostOwner {
        uid: HostUid(status.stx_uid),
        gid: HostGid(status.stx_gid),
    }
}

pub(super) fn timestamp(time: StatxTimestamp) -> Timestamp {
    Timestamp {
        seconds: time.tv_sec,
        nanoseconds: time.tv_nsec,
    }
}

pub(super) fn kind(of: FileType) -> Kind {
    match of {
        FileType::Directory => Kind::Directory,
        FileType::Symlink => Kind::SymbolicLink,
        FileType::Fifo => Kind::Fifo,
        FileType::Socket => Kind::Socket,
        FileType::CharacterDevice => Kind::CharacterDevice,
        FileType::BlockDevice => Kind::BlockDevice,
        // A type that this kernel has and we do not know is nothing that could be opened anyway.
        FileType::RegularFile | FileType::Unknown => Kind::File,
    }
}
