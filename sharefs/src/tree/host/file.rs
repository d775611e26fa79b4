//! Regular files, open.

use rustix::fs::{FallocateFlags, FlockOperation, OFlags, SeekFrom};
use rustix::io::Errno;

use super::descriptors::Descriptor;
use super::{HostFile, HostLocks, HostNode, HostTree, Pinned};
use crate::tree::{Allocation, Durability, Kind, OpenHow, Result, Seek, WholeLock};

impl HostTree {
    pub(super) fn open_file(&self, node: &HostNode, how: OpenHow) -> Result<HostFile> {
        only_files(node)?;
        let flags = flags(how);
        let _node = Pinned::new(node)?;
        let open = match self.open_again(node, flags) {
            // Only a file's owner may ask for O_NOATIME; the guest's idea of the owner need not be ours.
            Err(Errno::PERM) if how.keep_access_time => {
                self.open_again(node, flags - OFlags::NOATIME)?
            }
            other => other?,
        };
        let file = HostFile { open, _node };
        if how.truncate && how.drop_privileges {
            self.drop_set_id_bits(&file)?;
        }
        Ok(file)
    }

    pub(super) fn open_again(&self, node: &HostNode, flags: OFlags) -> Result<Descriptor> {
        node.with(|place| self.descriptors.hold(|| self.reopen(&place, flags)))
    }

    /// Range locks need a descriptor open for reading to share and for writing to exclude; the
    /// guest's kernel has asked whether the program's own descriptor is, so ours is the best there is.
    pub(super) fn open_locks(&self, node: &HostNode) -> Result<HostLocks> {
        only_files(node)?;
        let mut last = Errno::ACCESS;
        for flags in [OFlags::RDWR, OFlags::RDONLY, OFlags::WRONLY] {
            match self.open_again(node, flags) {
                Ok(open) => return Ok(HostLocks { open }),
                Err(error @ (Errno::MFILE | Errno::NFILE)) => return Err(error),
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

fn only_files(node: &HostNode) -> Result<()> {
    match node.record().kind {
        Kind::File => Ok(()),
        Kind::Directory => Err(Errno::ISDIR),
        Kind::SymbolicLink => Err(Errno::LOOP),
        Kind::BlockDevice | Kind::CharacterDevice | Kind::Fifo | Kind::Socket => Err(Errno::NXIO),
    }
}

/// O_APPEND and O_DIRECT are not among them: appending is asked for with each write, because the
/// guest's page cache writes to places too; and O_DIRECT in the guest is about the guest's cache.
pub(super) fn flags(how: OpenHow) -> OFlags {
    let mut flags = match (how.read, how.write) {
        (true, true) => OFlags::RDWR,
        (false, true) => OFlags::WRONLY,
        (_, false) => OFlags::RDONLY,
    };
    flags.set(OFlags::TRUNC, how.truncate);
    flags.set(OFlags::NOATIME, how.keep_access_time);
    match how.durability {
        Durability::Later => {}
        Durability::Data => flags |= OFlags::DSYNC,
        Durability::Everything => flags |= OFlags::SYNC,
    }
    flags
}

pub(super) fn sync(open: &Descriptor, data_only: bool) -> Result<()> {
    if data_only {
        rustix::fs::fdatasync(open)
    } else {
        rustix::fs::fsync(open)
    }
}

pub(super) fn allocate(file: &HostFile, wanted: Allocation) -> Result<()> {
    let flags = FallocateFlags::from_bits_retain(wanted.flags);
    rustix::fs::fallocate(&file.open, flags, wanted.offset, wanted.length)
}

pub(super) fn seek(file: &HostFile, offset: u64, what: Seek) -> Result<u64> {
    let to = match what {
        Seek::Data => SeekFrom::Data(offset),
        Seek::Hole => SeekFrom::Hole(offset),
    };
    rustix::fs::seek(&file.open, to)
}

pub(super) fn lock_whole(file: &HostFile, lock: WholeLock) -> Result<()> {
    let operation = match lock {
        WholeLock::Shared => FlockOperation::NonBlockingLockShared,
        WholeLock::Exclusive => FlockOperation::NonBlockingLockExclusive,
        WholeLock::Unlock => FlockOperation::NonBlockingUnlock,
    };
    rustix::fs::flock(&file.open, operation)
}
