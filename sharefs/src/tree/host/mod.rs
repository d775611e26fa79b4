//! A folder of the host as a tree.
//!
//! Never a path below the share's own folder: each node is an O_PATH descriptor, and a step is one
//! component with O_NOFOLLOW from a descriptor that is already held. A component without `/` that is
//! not `..` cannot lead out of the folder it is looked up in, whatever other processes rename
//! meanwhile; so no lookup flag or check of a finished path is needed, and none is relied on.
//! What is mounted below the folder is part of the share, as a place of its own (`Identity::mount`).
//! Symbolic links are the guest's to follow.
//!
//! Reopening goes through /proc/self/fd, and only for regular files and directories: opening a FIFO or a
//! device of the host because a guest asked would be an effect outside the tree.
//! Read first: open(2) O_PATH, statx(2), symlink(7) "magic links".

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Statx, StatxFlags, StatxTimestamp};
use rustix::io::Errno;
use rustix::path::DecInt;

use super::owner::{HostGid, HostOwner, HostUid, OwnerMap};
use super::{
    AccessWanted, Allocation, Attributes, Caller, Changes, Entry, ExtendedHow, Found, Identity,
    Kind, Name, NewNode, OpenHow, RenameHow, Result, Seek, Statistics, Timestamp, Tree, WholeLock,
};
use crate::keep::records::KeptNode;
use crate::sys::{self, LockRange, Sink, Source};
use credentials::Rights;
use descriptors::{Descriptor, Descriptors};

mod change;
mod credentials;
pub(crate) mod crossing;
pub(crate) mod descriptors;
mod directory;
mod extended;
mod file;
#[cfg(test)]
mod tests;

/// A shared folder.
#[derive(Debug)]
pub(crate) struct HostTree {
    path: PathBuf,
    /// /proc/self/fd, held open so that it is found under any later root.
    own_descriptors: OwnedFd,
    owners: OwnerMap,
    rights: Rights,
    descriptors: Arc<Descriptors>,
}

/// A place in it, pinned by a descriptor that can neither read nor write.
#[derive(Debug)]
pub(crate) struct HostNode {
    place: Descriptor,
    identity: Identity,
    kind: Kind,
    /// The share's own folder: its `..` is itself.
    is_root: bool,
    /// On procfs, which is not shared; see `is_closed`.
    closed: bool,
}

/// A regular file, open.
#[derive(Debug)]
pub(crate) struct HostFile {
    open: Descriptor,
}

/// An open file description that holds one owner's range locks.
#[derive(Debug)]
pub(crate) struct HostLocks {
    open: Descriptor,
}

impl HostTree {
    /// The folder at `path`; `owners` learns who its owner is. Each mount opens the path anew, so a
    /// folder that was replaced on the host is found again when a guest mounts it the next time.
    ///
    /// ENOTDIR when it is not a folder, ELOOP when it lies in a mount of ours, else what open(2) says.
    pub(crate) fn open(
        path: &Path,
        descriptors: Arc<Descriptors>,
        owners: impl FnOnce(HostOwner) -> OwnerMap,
    ) -> Result<Self> {
        let own_descriptors = rustix::fs::openat(CWD, c"/proc/self/fd", FOLDER, Mode::empty())?;
        let folder = rustix::fs::openat(CWD, path, FOLDER, Mode::empty())?;
        if crossing::is_own(&folder)? {
            return Err(Errno::LOOP);
        }
        if is_closed(&folder)? {
            return Err(Errno::ACCESS);
        }
        let status = status(&folder)?;
        let daemon = rustix::process::geteuid();
        let host = if daemon.is_root() {
            host_owner(&status)
        } else {
            let group = rustix::process::getegid();
            HostOwner {
                uid: HostUid(daemon.as_raw()),
                gid: HostGid(group.as_raw()),
            }
        };
        let owners = owners(host);
        Ok(Self {
            path: path.to_owned(),
            own_descriptors,
            rights: Rights::of(&owners, daemon.is_root()),
            owners,
            descriptors,
        })
    }

    /// `above`: the folder it was found in, whose mount is known already.
    fn found(&self, place: Descriptor, above: Option<&HostNode>) -> Result<Found<HostNode>> {
        let status = status(&place)?;
        let attributes = self.shown(&status);
        let Attributes { identity, kind, .. } = attributes;
        let closed = match above {
            Some(above) if above.identity.mount == identity.mount => above.closed,
            Some(_) | None => is_closed(&place)?,
        };
        let node = HostNode {
            place,
            identity,
            kind,
            is_root: false,
            closed,
        };
        Ok(Found { node, attributes })
    }

    /// The node that an open file is.
    fn node_of(&self, open: &Descriptor, above: Option<&HostNode>) -> Result<Found<HostNode>> {
        self.found(
            self.descriptors.hold(|| self.reopen(open, OFlags::PATH))?,
            above,
        )
    }

    /// A new descriptor of the same file with other rights, whatever its names are by now.
    fn reopen(&self, place: &impl AsFd, flags: OFlags) -> Result<OwnedFd> {
        let number = DecInt::from_fd(place);
        let flags = flags | OFlags::CLOEXEC | OFlags::NOCTTY;
        rustix::fs::openat(&self.own_descriptors, number, flags, Mode::empty())
    }

    fn shown(&self, status: &Statx) -> Attributes {
        let shown = self.owners.shown(host_owner(status));
        Attributes {
            identity: identity(status),
            kind: kind(FileType::from_raw_mode(u32::from(status.stx_mode))),
            mode: u32::from(status.stx_mode) & 0o7777,
            links: status.stx_nlink,
            owner: shown.uid,
            group: shown.gid,
            size: status.stx_size,
            blocks: status.stx_blocks,
            block_size: status.stx_blksize,
            device: (status.stx_rdev_major, status.stx_rdev_minor),
            accessed: timestamp(status.stx_atime),
            modified: timestamp(status.stx_mtime),
            changed: timestamp(status.stx_ctime),
            born: (status.stx_mask & StatxFlags::BTIME.bits() != 0)
                .then(|| timestamp(status.stx_btime)),
        }
    }
}

/// All that is ever asked of a node, in one call.
fn status(place: &impl AsFd) -> Result<Statx> {
    status_of(place, c"", AtFlags::EMPTY_PATH)
}

/// The same of what a name in a folder stands for.
fn status_of(place: &impl AsFd, name: &CStr, flags: AtFlags) -> Result<Statx> {
    let wanted = StatxFlags::BASIC_STATS | StatxFlags::BTIME | StatxFlags::MNT_ID;
    rustix::fs::statx(place, name, flags | AtFlags::NO_AUTOMOUNT, wanted)
}

/// Whether nothing below may be reached: procfs holds the daemon's own memory as a file, and with it
/// the memory of every other guest. A share of `/` has it as an empty place to mount on.
fn is_closed(place: &impl AsFd) -> Result<bool> {
    Ok(rustix::fs::fstatfs(place)?.f_type == rustix::fs::PROC_SUPER_MAGIC)
}

fn identity(status: &Statx) -> Identity {
    Identity {
        device: rustix::fs::makedev(status.stx_dev_major, status.stx_dev_minor),
        inode: status.stx_ino,
        mount: status.stx_mnt_id,
    }
}

fn host_owner(status: &Statx) -> HostOwner {
    HostOwner {
        uid: HostUid(status.stx_uid),
        gid: HostGid(status.stx_gid),
    }
}

fn timestamp(time: StatxTimestamp) -> Timestamp {
    Timestamp {
        seconds: time.tv_sec,
        nanoseconds: time.tv_nsec,
    }
}

fn kind(of: FileType) -> Kind {
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

impl Tree for HostTree {
    type Node = HostNode;
    type File = HostFile;
    type Directory = directory::HostDirectory;
    type Locks = HostLocks;

    fn root(&self) -> Result<Found<HostNode>> {
        let open = || rustix::fs::openat(CWD, &self.path, FOLDER, Mode::empty());
        let place = self.descriptors.hold(open)?;
        if crossing::is_own(&place)? {
            return Err(Errno::LOOP);
        }
        let mut root = self.found(place, None)?;
        root.node.is_root = true;
        Ok(root)
    }

    fn is_short_of_nodes(&self) -> bool {
        self.descriptors.is_half_used()
    }

    fn identity(&self, node: &HostNode) -> Identity {
        node.identity
    }

    fn child(&self, parent: &HostNode, name: Name<'_>) -> Result<Found<HostNode>> {
        if parent.closed {
            return Err(Errno::ACCESS);
        }
        let step = || crossing::step(&parent.place, name.as_c_str());
        self.found(self.descriptors.hold(step)?, Some(parent))
    }

    fn look(&self, parent: &HostNode, name: Name<'_>) -> Result<Attributes> {
        if parent.closed {
            return Err(Errno::ACCESS);
        }
        // Asking by name asks what is mounted there, which may be ourselves.
        if crossing::serves_mounts() {
            return self.child(parent, name).map(|found| found.attributes);
        }
        Ok(self.shown(&status_of(
            &parent.place,
            name.as_c_str(),
            AtFlags::SYMLINK_NOFOLLOW,
        )?))
    }

    fn attributes(&self, node: &HostNode) -> Result<Attributes> {
        Ok(self.shown(&status(&node.place)?))
    }

    fn change(
        &self,
        node: &HostNode,
        file: Option<&HostFile>,
        changes: &Changes,
    ) -> Result<Attributes> {
        self.apply(node, file, changes)?;
        self.attributes(node)
    }

    fn read_link(&self, node: &HostNode, target: &mut Vec<u8>) -> Result<()> {
        target.clear();
        target.reserve(LONGEST_TARGET);
        rustix::fs::readlinkat_raw(&node.place, c"", rustix::buffer::spare_capacity(target))?;
        Ok(())
    }

    fn make_directory(
        &self,
        caller: Caller,
        parent: &HostNode,
        name: Name<'_>,
        mode: u32,
    ) -> Result<Found<HostNode>> {
        let mode = Mode::from_raw_mode(mode & 0o7777);
        self.rights.with(caller, || {
            rustix::fs::mkdirat(&parent.place, name.as_c_str(), mode)
        })?;
        self.child(parent, name)
    }

    fn make_node(
        &self,
        caller: Caller,
        parent: &HostNode,
        name: Name<'_>,
        new: NewNode,
    ) -> Result<Found<HostNode>> {
        self.new_node(caller, parent, name, new)?;
        self.child(parent, name)
    }

    fn make_symbolic_link(
        &self,
        caller: Caller,
        parent: &HostNode,
        name: Name<'_>,
        target: &CStr,
    ) -> Result<Found<HostNode>> {
        let make = || rustix::fs::symlinkat(target, &parent.place, name.as_c_str());
        self.rights.with(caller, make)?;
        self.child(parent, name)
    }

    fn create(
        &self,
        caller: Caller,
        parent: &HostNode,
        name: Name<'_>,
        (mode, how): (u32, OpenHow),
    ) -> Result<(Found<HostNode>, HostFile)> {
        let flags =
            file::flags(how) | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(mode & 0o7777);
        let make = || rustix::fs::openat(&parent.place, name.as_c_str(), flags, mode);
        let open = self.descriptors.hold(|| self.rights.with(caller, make))?;
        Ok((self.node_of(&open, Some(parent))?, HostFile { open }))
    }

    fn create_unnamed(
        &self,
        caller: Caller,
        parent: &HostNode,
        mode: u32,
        how: OpenHow,
    ) -> Result<(Found<HostNode>, HostFile)> {
        let flags = file::flags(how) | OFlags::TMPFILE | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(mode & 0o7777);
        let make = || rustix::fs::openat(&parent.place, c".", flags, mode);
        let open = self.descriptors.hold(|| self.rights.with(caller, make))?;
        Ok((self.node_of(&open, Some(parent))?, HostFile { open }))
    }

    fn link(&self, node: &HostNode, parent: &HostNode, name: Name<'_>) -> Result<Attributes> {
        // AT_EMPTY_PATH would need CAP_DAC_READ_SEARCH; the magic link does not.
        let number = DecInt::from_fd(&node.place);
        let follow = AtFlags::SYMLINK_FOLLOW;
        rustix::fs::linkat(
            &self.own_descriptors,
            number,
            &parent.place,
            name.as_c_str(),
            follow,
        )?;
        self.attributes(node)
    }

    fn remove_file(&self, parent: &HostNode, name: Name<'_>) -> Result<()> {
        rustix::fs::unlinkat(&parent.place, name.as_c_str(), AtFlags::empty())
    }

    fn remove_directory(&self, parent: &HostNode, name: Name<'_>) -> Result<()> {
        rustix::fs::unlinkat(&parent.place, name.as_c_str(), AtFlags::REMOVEDIR)
    }

    fn rename(
        &self,
        (from, old): (&HostNode, Name<'_>),
        (to, new): (&HostNode, Name<'_>),
        how: RenameHow,
    ) -> Result<()> {
        let flags = change::rename_flags(how);
        rustix::fs::renameat_with(
            &from.place,
            old.as_c_str(),
            &to.place,
            new.as_c_str(),
            flags,
        )
    }

    fn open(&self, node: &HostNode, how: OpenHow) -> Result<HostFile> {
        self.open_file(node, how)
    }

    fn read(&self, file: &HostFile, into: &[Sink<'_>], offset: u64) -> Result<usize> {
        sys::read_at(file.open.as_fd(), into, offset)
    }

    fn write(
        &self,
        file: &HostFile,
        from: &[Source<'_>],
        offset: u64,
        append: bool,
    ) -> Result<usize> {
        sys::write_at(file.open.as_fd(), from, offset, append)
    }

    fn drop_privileges(&self, file: &HostFile) -> Result<()> {
        self.drop_set_id_bits(file)
    }

    fn flush(&self, file: &HostFile) -> Result<()> {
        sys::close(rustix::io::fcntl_dupfd_cloexec(&file.open, 0)?)
    }

    fn sync(&self, file: &HostFile, data_only: bool) -> Result<()> {
        file::sync(&file.open, data_only)
    }

    fn allocate(&self, file: &HostFile, wanted: Allocation) -> Result<()> {
        file::allocate(file, wanted)
    }

    fn seek(&self, file: &HostFile, offset: u64, what: Seek) -> Result<u64> {
        file::seek(file, offset, what)
    }

    fn copy_range(
        &self,
        (from, mut read_at): (&HostFile, u64),
        (to, mut write_at): (&HostFile, u64),
        length: usize,
    ) -> Result<usize> {
        rustix::fs::copy_file_range(
            &from.open,
            Some(&mut read_at),
            &to.open,
            Some(&mut write_at),
            length,
        )
    }

    fn lock_whole(&self, file: &HostFile, lock: WholeLock) -> Result<()> {
        file::lock_whole(file, lock)
    }

    fn locks(&self, node: &HostNode) -> Result<HostLocks> {
        self.open_locks(node)
    }

    fn lock(&self, locks: &HostLocks, range: LockRange) -> Result<()> {
        sys::lock(locks.open.as_fd(), range)
    }

    fn blocking_lock(&self, locks: &HostLocks, range: LockRange) -> Result<Option<LockRange>> {
        sys::blocking_lock(locks.open.as_fd(), range)
    }

    fn open_directory(&self, node: &HostNode) -> Result<directory::HostDirectory> {
        self.open_folder(node)
    }

    fn entries(
        &self,
        directory: &directory::HostDirectory,
        from: u64,
        about: usize,
        each: &mut dyn FnMut(&Entry<'_>) -> bool,
    ) -> Result<()> {
        directory.entries(from, about, each)
    }

    fn sync_directory(&self, directory: &directory::HostDirectory, data_only: bool) -> Result<()> {
        directory.sync(data_only)
    }

    fn statistics(&self, node: &HostNode) -> Result<Statistics> {
        let found = rustix::fs::fstatvfs(&node.place)?;
        Ok(Statistics {
            block_size: found.f_frsize,
            blocks: found.f_blocks,
            free: found.f_bfree,
            available: found.f_bavail,
            files: found.f_files,
            free_files: found.f_ffree,
            longest_name: found.f_namemax,
        })
    }

    fn sync_all(&self, node: &HostNode) -> Result<()> {
        if !matches!(node.kind, Kind::File | Kind::Directory) {
            return Err(Errno::INVAL);
        }
        rustix::fs::syncfs(self.reopen(&node.place, OFlags::RDONLY | OFlags::NONBLOCK)?)
    }

    fn access(&self, node: &HostNode, wanted: AccessWanted) -> Result<()> {
        let mut access = rustix::fs::Access::EXISTS;
        access.set(rustix::fs::Access::READ_OK, wanted.read);
        access.set(rustix::fs::Access::WRITE_OK, wanted.write);
        access.set(rustix::fs::Access::EXEC_OK, wanted.execute);
        let number = DecInt::from_fd(&node.place);
        rustix::fs::accessat(&self.own_descriptors, number, access, AtFlags::empty())
    }

    fn extended(&self, node: &HostNode, name: &CStr, into: &mut [u8]) -> Result<usize> {
        extended::get(self.own_descriptors.as_fd(), node, name, into)
    }

    fn set_extended(
        &self,
        node: &HostNode,
        name: &CStr,
        value: &[u8],
        how: ExtendedHow,
    ) -> Result<()> {
        extended::set(node, name, value, how, self.rights)
    }

    fn list_extended(&self, node: &HostNode, into: &mut [u8]) -> Result<usize> {
        extended::list(node, into)
    }

    fn remove_extended(&self, node: &HostNode, name: &CStr) -> Result<()> {
        extended::remove(node, name, self.rights)
    }

    fn keep(&self, node: &HostNode) -> Option<KeptNode> {
        let root = if node.is_root { IS_ROOT } else { 0 };
        let closed = if node.closed { CLOSED } else { 0 };
        Some(KeptNode {
            number: node.place.as_fd().as_raw_fd(),
            identity: node.identity,
            kind: node.kind,
            marks: root | closed,
            extra: [0; 4],
        })
    }

    fn adopt(&self, kept: &KeptNode, held: OwnedFd) -> Result<HostNode> {
        Ok(HostNode {
            place: self.descriptors.hold(|| Ok(held))?,
            identity: kept.identity,
            kind: kept.kind,
            is_root: kept.marks & IS_ROOT != 0,
            closed: kept.marks & CLOSED != 0,
        })
    }

    fn keep_file(&self, file: &HostFile) -> Option<RawFd> {
        Some(file.open.as_fd().as_raw_fd())
    }

    fn keep_directory(&self, directory: &directory::HostDirectory) -> Option<RawFd> {
        Some(directory.number())
    }

    fn keep_locks(&self, locks: &HostLocks) -> Option<RawFd> {
        Some(locks.open.as_fd().as_raw_fd())
    }

    fn adopt_file(&self, _: &HostNode, open: OwnedFd) -> Result<HostFile> {
        let open = self.descriptors.hold(|| Ok(open))?;
        Ok(HostFile { open })
    }

    fn adopt_directory(&self, node: &HostNode, open: OwnedFd) -> Result<directory::HostDirectory> {
        Ok(directory::HostDirectory::adopt(
            node,
            self.descriptors.hold(|| Ok(open))?,
        ))
    }

    fn adopt_locks(&self, open: OwnedFd) -> Result<HostLocks> {
        let open = self.descriptors.hold(|| Ok(open))?;
        Ok(HostLocks { open })
    }
}

/// Marks of a kept node.
const IS_ROOT: u16 = 1;
const CLOSED: u16 = 2;

/// The share's own folder may be reached through symbolic links: the user named it.
const FOLDER: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
/// PATH_MAX: no symbolic link says more.
const LONGEST_TARGET: usize = 4096;
