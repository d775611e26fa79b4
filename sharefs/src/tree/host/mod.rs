//! A folder of the host as a tree.
//!
//! Never a path below the share's own folder: each node is an O_PATH descriptor while it is used (`node.rs`),
//! and a step is one component with O_NOFOLLOW from a descriptor that is already held. A component without `/` that is
//! not `..` cannot lead out of the folder it is looked up in, whatever other processes rename
//! meanwhile; so no lookup flag or check of a finished path is needed, and none is relied on.
//! What is mounted below the folder is part of the share, as a place of its own (`Identity::mount`).
//! Symbolic links are the guest's to follow.
//!
//! Reopening goes through /proc/self/fd, and only for regular files and directories: opening a FIFO or a
//! device of the host because a guest asked would be an effect outside the tree.
//! Read first: open(2) O_PATH, statx(2), symlink(7) "magic links".

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Statx, StatxFlags};
use rustix::io::Errno;
use rustix::mount::OpenTreeFlags;
use rustix::path::DecInt;

use super::owner::{HostGid, HostOwner, HostUid, OwnerMap};
use super::{
    AccessWanted, Allocation, Attributes, Caller, Changes, Entry, ExtendedHow, Found, Identity,
    Kind, Name, NewNode, OpenHow, RenameHow, Renames, Result, Seek, Statistics, Tree, Upkeep,
    WholeLock,
};
use crate::keep::nodes::{KeptNode, KeptPlace, NodeRow};
use crate::sys::{self, LockRange, Sink, Source};
use convert::{host_owner, identity, kind, timestamp};
use credentials::Rights;
use descriptors::{Descriptor, Descriptors};
use node::{Ground, Record, Way};

pub(crate) mod acl;
mod change;
mod clock;
mod convert;
mod credentials;
pub(crate) mod crossing;
pub(crate) mod descriptors;
mod directory;
mod extended;
mod file;
#[cfg(test)]
mod kept_tests;
mod node;
mod rows;
#[cfg(test)]
mod tests;

/// A shared folder.
#[derive(Debug)]
pub(crate) struct HostTree {
    path: PathBuf,
    /// The folder that the share's own may not be reached outside of.
    within: Option<PathBuf>,
    /// /proc/self/fd, held open so that it is found under any later root.
    own_descriptors: Arc<OwnedFd>,
    owners: OwnerMap,
    rights: Rights,
    descriptors: Arc<Descriptors>,
    /// Whether guests see and set access control lists.
    lists: bool,
    /// Whether files of the share's mount can be opened by their handles.
    handles: bool,
    /// Whether there may be nodes that are found again by their names.
    by_name: AtomicBool,
    /// The mount of the share's own folder, and which folder it was, while somebody knows it.
    ground: Mutex<(Option<Identity>, Weak<Ground>)>,
    /// The mount below it from which a node was adopted last.
    adopted: Mutex<(Option<u64>, Weak<Ground>)>,
}

pub(crate) use node::HostNode;
pub(crate) use rows::check_is;

/// A regular file, open.
#[derive(Debug)]
pub(crate) struct HostFile {
    open: Descriptor,
    _node: Pinned,
}

/// What is open is not let go of: it may lose its names, and is known by its node still.
#[derive(Debug)]
struct Pinned(HostNode);

impl Pinned {
    fn new(node: &HostNode) -> Result<Self> {
        node.pin()?;
        Ok(Self(node.clone()))
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        self.0.unpin();
    }
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
            within: None,
            own_descriptors: Arc::new(own_descriptors),
            rights: Rights::of(&owners, daemon.is_root()),
            owners,
            descriptors,
            lists: false,
            handles: node::may_open_handles(&folder),
            by_name: AtomicBool::new(false),
            ground: Mutex::new((None, Weak::new())),
            adopted: Mutex::new((None, Weak::new())),
        })
    }

    /// The same, where no symbolic link on the way from `outer` to the folder may lead out of `outer`, now and
    /// when it is opened anew: EXDEV where one does (openat2(2), RESOLVE_BENEATH).
    pub(crate) fn within(mut self, outer: &Path) -> Result<Self> {
        self.within = Some(outer.to_owned());
        self.folder()?;
        Ok(self)
    }

    fn folder(&self) -> Result<OwnedFd> {
        match &self.within {
            Some(outer) => crossing::open_within(outer, &self.path),
            None => rustix::fs::openat(CWD, &self.path, FOLDER, Mode::empty()),
        }
    }

    /// The same with access control lists: EOPNOTSUPP where the file system has none.
    pub(crate) fn with_lists(mut self) -> Result<Self> {
        let folder = self.folder()?;
        let own = self.own_descriptors.as_fd();
        match extended::get(own, folder.as_fd(), acl::ACCESS, &mut []) {
            Ok(_) | Err(Errno::NODATA) => {}
            Err(error) => return Err(error),
        }
        self.lists = true;
        Ok(self)
    }

    /// As for a daemon that may not open handles.
    #[cfg(test)]
    pub(crate) fn by_names(mut self) -> Self {
        self.handles = false;
        self
    }

    /// `above`: the folder it was found in, whose mount is known already, and its name there, if it has one.
    fn found(
        &self,
        place: Descriptor,
        above: &HostNode,
        name: Option<&CStr>,
    ) -> Result<Found<HostNode>> {
        let status = status(&place)?;
        let attributes = self.shown(&status);
        let Attributes { identity, kind, .. } = attributes;
        let ground = if above.record().identity.mount == identity.mount {
            Arc::clone(&above.0.ground)
        } else {
            self.by_name.store(true, Ordering::Relaxed);
            self.new_ground(is_closed(&place)?, false)
        };
        let record = Record {
            identity,
            kind,
            is_root: false,
        };
        let way = name.map(|name| Way::new(above, name));
        let known = self.descriptors.know()?;
        let node = HostNode::new(record, ground, way, place, known);
        Ok(Found { node, attributes })
    }

    fn new_ground(&self, closed: bool, handles: bool) -> Arc<Ground> {
        Ground::new(closed, handles, Arc::clone(&self.own_descriptors))
    }

    /// That of the share's own folder, of all on its mount.
    fn ground_of_root(&self, root: Identity, closed: bool) -> Arc<Ground> {
        let mut known = self.ground.lock().unwrap_or_else(PoisonError::into_inner);
        let ground = match known.1.upgrade().filter(|_| known.0 == Some(root)) {
            Some(ground) => ground,
            None => self.new_ground(closed, self.handles),
        };
        *known = (Some(root), Arc::downgrade(&ground));
        ground
    }

    fn found_root(&self, place: Descriptor) -> Result<Found<HostNode>> {
        let attributes = self.shown(&status(&place)?);
        let Attributes { identity, kind, .. } = attributes;
        let ground = self.ground_of_root(identity, is_closed(&place)?);
        let record = Record {
            identity,
            kind,
            is_root: true,
        };
        let known = self.descriptors.know()?;
        let node = HostNode::new(record, ground, None, place, known);
        Ok(Found { node, attributes })
    }

    /// The node that an open file is.
    fn node_of(
        &self,
        open: &Descriptor,
        above: &HostNode,
        name: Option<&CStr>,
    ) -> Result<Found<HostNode>> {
        let point = || match point_to(open) {
            // Linux before 5.2, or a container that allows no such call.
            Err(Errno::NOSYS | Errno::PERM) => self.reopen(open, OFlags::PATH),
            answer => answer,
        };
        self.found(self.descriptors.hold_node(point)?, above, name)
    }

    /// What was made and opened, with its node.
    fn made(
        &self,
        open: Descriptor,
        above: &HostNode,
        name: Option<&CStr>,
    ) -> Result<(Found<HostNode>, HostFile)> {
        let found = self.node_of(&open, above, name)?;
        let _node = Pinned::new(&found.node)?;
        Ok((found, HostFile { open, _node }))
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

/// An O_PATH descriptor of what is open. Unlike /proc/self/fd, open_tree(2) makes no name for it on the way.
fn point_to(open: &impl AsFd) -> Result<OwnedFd> {
    rustix::mount::open_tree(open, c"", POINT)
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

impl Tree for HostTree {
    type Node = HostNode;
    type File = HostFile;
    type Directory = directory::HostDirectory;
    type Locks = HostLocks;

    const LOOKS_WHOLE: bool = true;

    fn root(&self) -> Result<Found<HostNode>> {
        let open = || self.folder();
        let place = self.descriptors.hold(open)?;
        if crossing::is_own(&place)? {
            return Err(Errno::LOOP);
        }
        self.found_root(place)
    }

    fn is_short_of_nodes(&self) -> bool {
        self.descriptors.is_half_known()
    }

    fn upkeep(&self) -> Upkeep {
        let is_any_let_go = self.descriptors.let_go() > 0;
        let by_name = !self.handles || self.by_name.load(Ordering::Relaxed);
        Upkeep {
            removals: is_any_let_go,
            // One that is held is asked for its name in the same folder when it is let go of.
            renames: match by_name {
                true if is_any_let_go => Renames::All,
                true => Renames::Between,
                false => Renames::None,
            },
        }
    }

    fn is_held(&self, node: &HostNode) -> bool {
        node.is_held()
    }

    fn is_same(&self, known: &HostNode, found: &HostNode) -> bool {
        known.is_same(found)
    }

    fn pin(&self, node: &HostNode) -> Result<()> {
        node.pin()
    }

    fn unpin(&self, node: &HostNode) {
        node.unpin();
    }

    fn renamed(
        &self,
        folder: &HostNode,
        name: Name<'_>,
        known: &dyn Fn(Identity) -> Option<HostNode>,
    ) -> Result<()> {
        let there = self.look(folder, name)?;
        if let Some(node) = known(there.identity) {
            node.renamed(folder, name.as_c_str());
        }
        Ok(())
    }

    fn identity(&self, node: &HostNode) -> Identity {
        node.record().identity
    }

    fn child(&self, parent: &HostNode, name: Name<'_>) -> Result<Found<HostNode>> {
        let name = name.as_c_str();
        if parent.0.ground.closed {
            return Err(Errno::ACCESS);
        }
        let step =
            |place: BorrowedFd<'_>| self.descriptors.hold_node(|| crossing::step(&place, name));
        self.found(parent.with(step)?, parent, Some(name))
    }

    fn look(&self, parent: &HostNode, name: Name<'_>) -> Result<Attributes> {
        if parent.0.ground.closed {
            return Err(Errno::ACCESS);
        }
        // Asking by name asks what is mounted there, which may be ourselves.
        if crossing::serves_mounts() {
            return self.child(parent, name).map(|found| found.attributes);
        }
        parent.with(|place| {
            let flags = AtFlags::SYMLINK_NOFOLLOW;
            Ok(self.shown(&status_of(&place, name.as_c_str(), flags)?))
        })
    }

    fn attributes(&self, node: &HostNode) -> Result<Attributes> {
        node.with(|place| Ok(self.shown(&status(&place)?)))
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
        node.with(|place| {
            rustix::fs::readlinkat_raw(place, c"", rustix::buffer::spare_capacity(target))
        })?;
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
        parent.with(|place| {
            self.rights
                .with(caller, || rustix::fs::mkdirat(place, name.as_c_str(), mode))
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
        parent.with(|place| {
            let make = || rustix::fs::symlinkat(target, place, name.as_c_str());
            self.rights.with(caller, make)
        })?;
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
        let open = parent.with(|place| {
            let make = || rustix::fs::openat(place, name.as_c_str(), flags, mode);
            self.descriptors.hold(|| self.rights.with(caller, make))
        })?;
        self.made(open, parent, Some(name.as_c_str()))
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
        let open = parent.with(|place| {
            let make = || rustix::fs::openat(place, c".", flags, mode);
            self.descriptors.hold(|| self.rights.with(caller, make))
        })?;
        self.made(open, parent, None)
    }

    fn link(&self, node: &HostNode, parent: &HostNode, name: Name<'_>) -> Result<Attributes> {
        // AT_EMPTY_PATH would need CAP_DAC_READ_SEARCH; the magic link does not.
        let follow = AtFlags::SYMLINK_FOLLOW;
        node.with(|place| {
            let number = DecInt::from_fd(place);
            let name = name.as_c_str();
            parent.with(|to| {
                rustix::fs::linkat(&self.own_descriptors, number.as_c_str(), to, name, follow)
            })
        })?;
        self.attributes(node)
    }

    fn remove_file(&self, parent: &HostNode, name: Name<'_>) -> Result<()> {
        parent.with(|place| rustix::fs::unlinkat(place, name.as_c_str(), AtFlags::empty()))
    }

    fn remove_directory(&self, parent: &HostNode, name: Name<'_>) -> Result<()> {
        parent.with(|place| rustix::fs::unlinkat(place, name.as_c_str(), AtFlags::REMOVEDIR))
    }

    fn rename(
        &self,
        (from, old): (&HostNode, Name<'_>),
        (to, new): (&HostNode, Name<'_>),
        how: RenameHow,
    ) -> Result<()> {
        let flags = change::rename_flags(how);
        // Before it is so: who lets go of the node at this moment sees the new name or this.
        self.descriptors.note_rename();
        let (old, new) = (old.as_c_str(), new.as_c_str());
        from.with(|from| to.with(|to| rustix::fs::renameat_with(from, old, to, new, flags)))
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
        let found = node.with(|place| rustix::fs::fstatvfs(place))?;
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
        if !matches!(node.record().kind, Kind::File | Kind::Directory) {
            return Err(Errno::INVAL);
        }
        let flags = OFlags::RDONLY | OFlags::NONBLOCK;
        rustix::fs::syncfs(node.with(|place| self.reopen(&place, flags))?)
    }

    fn access(&self, node: &HostNode, wanted: AccessWanted) -> Result<()> {
        let mut access = rustix::fs::Access::EXISTS;
        access.set(rustix::fs::Access::READ_OK, wanted.read);
        access.set(rustix::fs::Access::WRITE_OK, wanted.write);
        access.set(rustix::fs::Access::EXEC_OK, wanted.execute);
        node.with(|place| {
            let number = DecInt::from_fd(place);
            rustix::fs::accessat(&self.own_descriptors, number, access, AtFlags::empty())
        })
    }

    fn extended(&self, node: &HostNode, name: &CStr, into: &mut [u8]) -> Result<usize> {
        let is_list = acl::is_list(name);
        if is_list && !self.lists {
            return Err(Errno::OPNOTSUPP);
        }
        let length =
            node.with(|place| extended::get(self.own_descriptors.as_fd(), place, name, into))?;
        if is_list && let Some(list) = into.get_mut(..length) {
            acl::show(&self.owners, list);
        }
        Ok(length)
    }

    fn set_extended(
        &self,
        node: &HostNode,
        name: &CStr,
        value: &[u8],
        how: ExtendedHow,
    ) -> Result<()> {
        if !acl::is_list(name) {
            extended::may_change(name, self.rights)?;
            return node.with(|place| extended::set(place, name, value, how));
        }
        if !self.lists {
            return Err(Errno::OPNOTSUPP);
        }
        let mut list = value.to_vec();
        acl::want(&self.owners, &mut list)?;
        node.with(|place| extended::set(place, name, &list, how))
    }

    fn list_extended(&self, node: &HostNode, into: &mut [u8]) -> Result<usize> {
        node.with(|place| extended::list(place, into))
    }

    fn remove_extended(&self, node: &HostNode, name: &CStr) -> Result<()> {
        if !acl::is_list(name) {
            extended::may_change(name, self.rights)?;
        } else if !self.lists {
            return Err(Errno::OPNOTSUPP);
        }
        node.with(|place| extended::remove(place, name))
    }

    fn keep(&self, node: &HostNode) -> Option<KeptNode> {
        let record = node.record();
        let root = if record.is_root { IS_ROOT } else { 0 };
        let closed = if node.0.ground.closed { CLOSED } else { 0 };
        Some(KeptNode {
            identity: record.identity,
            kind: record.kind,
            marks: root | closed,
            extra: [0; 4],
        })
    }

    fn hold(&self, node: &HostNode) -> Option<RawFd> {
        node.hold()
    }

    fn bind(&self, node: &HostNode, row: Option<NodeRow>) {
        node.bind(row);
    }

    fn adopt(
        &self,
        kept: &KeptNode,
        (place, row): (KeptPlace, Option<NodeRow>),
    ) -> Result<HostNode> {
        self.adopt_node(kept, place, row)
    }

    fn lead(&self, node: &HostNode, folder: &HostNode, name: &CStr) {
        node.lead(folder, name);
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

    fn adopt_file(&self, node: &HostNode, open: OwnedFd) -> Result<HostFile> {
        let (open, _node) = self.adopt_open(node, open)?;
        Ok(HostFile { open, _node })
    }

    fn adopt_directory(&self, node: &HostNode, open: OwnedFd) -> Result<directory::HostDirectory> {
        let adopted = self.adopt_open(node, open)?;
        Ok(directory::HostDirectory::adopt(node, adopted))
    }

    fn adopt_locks(&self, file: Identity, open: OwnedFd) -> Result<HostLocks> {
        let open = self.adopt_if(open, |open| check_is(open, file, Kind::File))?;
        Ok(HostLocks { open: open.0 })
    }
}

/// Marks of a kept node.
const IS_ROOT: u16 = 1;
const CLOSED: u16 = 2;

/// The share's own folder may be reached through symbolic links: the user named it.
const FOLDER: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
/// Without OPEN_TREE_CLONE it is an open(2) with O_PATH; threads that hear guests may call it with nothing else.
pub(crate) const POINT: OpenTreeFlags =
    OpenTreeFlags::AT_EMPTY_PATH.union(OpenTreeFlags::OPEN_TREE_CLOEXEC);
/// PATH_MAX: no symbolic link says more.
const LONGEST_TARGET: usize = 4096;
