//! Any tree, unchangeable: every change is EROFS, decided before the tree below hears of it.
//!
//! It does not make the host's folder read-only for anybody else, and times of access may still move.

use std::ffi::CStr;
use std::os::fd::{OwnedFd, RawFd};

use rustix::io::Errno;

use super::{
    AccessWanted, Allocation, Attributes, Caller, Changes, Entry, ExtendedHow, Found, Identity,
    Name, NewNode, OpenHow, RenameHow, Result, Seek, Statistics, Tree, Upkeep, WholeLock,
};
use crate::keep::nodes::{KeptNode, KeptPlace, NodeRow};
use crate::sys::{LockKind, LockRange, Sink, Source};

/// See the module's head.
#[derive(Debug)]
pub(crate) struct ReadOnly<T>(pub(crate) T);

impl<T: Tree> Tree for ReadOnly<T> {
    type Node = T::Node;
    type File = T::File;
    type Directory = T::Directory;
    type Locks = T::Locks;

    const LOOKS_WHOLE: bool = T::LOOKS_WHOLE;

    fn root(&self) -> Result<Found<T::Node>> {
        self.0.root()
    }
    fn is_short_of_nodes(&self) -> bool {
        self.0.is_short_of_nodes()
    }
    fn identity(&self, node: &T::Node) -> Identity {
        self.0.identity(node)
    }
    fn upkeep(&self) -> Upkeep {
        // Nothing is renamed or removed through here.
        Upkeep::default()
    }
    fn is_held(&self, node: &T::Node) -> bool {
        self.0.is_held(node)
    }
    fn is_same(&self, known: &T::Node, found: &T::Node) -> bool {
        self.0.is_same(known, found)
    }
    fn pin(&self, node: &T::Node) -> Result<()> {
        self.0.pin(node)
    }
    fn unpin(&self, node: &T::Node) {
        self.0.unpin(node);
    }
    fn renamed(
        &self,
        folder: &T::Node,
        name: Name<'_>,
        known: &dyn Fn(Identity) -> Option<T::Node>,
    ) -> Result<()> {
        self.0.renamed(folder, name, known)
    }
    fn child(&self, parent: &T::Node, name: Name<'_>) -> Result<Found<T::Node>> {
        self.0.child(parent, name)
    }
    fn look(&self, parent: &T::Node, name: Name<'_>) -> Result<Attributes> {
        self.0.look(parent, name)
    }
    fn attributes(&self, node: &T::Node) -> Result<Attributes> {
        self.0.attributes(node)
    }
    fn change(&self, _: &T::Node, _: Option<&T::File>, _: &Changes) -> Result<Attributes> {
        Err(Errno::ROFS)
    }
    fn read_link(&self, node: &T::Node, target: &mut Vec<u8>) -> Result<()> {
        self.0.read_link(node, target)
    }
    fn make_directory(
        &self,
        _: Caller,
        _: &T::Node,
        _: Name<'_>,
        _: u32,
    ) -> Result<Found<T::Node>> {
        Err(Errno::ROFS)
    }
    fn make_node(&self, _: Caller, _: &T::Node, _: Name<'_>, _: NewNode) -> Result<Found<T::Node>> {
        Err(Errno::ROFS)
    }
    fn make_symbolic_link(
        &self,
        _: Caller,
        _: &T::Node,
        _: Name<'_>,
        _: &CStr,
    ) -> Result<Found<T::Node>> {
        Err(Errno::ROFS)
    }
    fn create(
        &self,
        _: Caller,
        parent: &T::Node,
        name: Name<'_>,
        _: (u32, OpenHow),
    ) -> Result<(Found<T::Node>, T::File)> {
        // open(2) with O_CREAT of a file that is there succeeds on a read-only file system: the
        // caller goes on from EEXIST to an ordinary open, which then says what is allowed.
        match self.0.child(parent, name) {
            Ok(_) => Err(Errno::EXIST),
            Err(Errno::NOENT) => Err(Errno::ROFS),
            Err(error) => Err(error),
        }
    }
    fn create_unnamed(
        &self,
        _: Caller,
        _: &T::Node,
        _: u32,
        _: OpenHow,
    ) -> Result<(Found<T::Node>, T::File)> {
        Err(Errno::ROFS)
    }
    fn link(&self, _: &T::Node, _: &T::Node, _: Name<'_>) -> Result<Attributes> {
        Err(Errno::ROFS)
    }
    fn remove_file(&self, _: &T::Node, _: Name<'_>) -> Result<()> {
        Err(Errno::ROFS)
    }
    fn remove_directory(&self, _: &T::Node, _: Name<'_>) -> Result<()> {
        Err(Errno::ROFS)
    }
    fn rename(&self, _: (&T::Node, Name<'_>), _: (&T::Node, Name<'_>), _: RenameHow) -> Result<()> {
        Err(Errno::ROFS)
    }
    fn open(&self, node: &T::Node, how: OpenHow) -> Result<T::File> {
        if how.write || how.truncate {
            return Err(Errno::ROFS);
        }
        self.0.open(node, how)
    }
    fn read(&self, file: &T::File, into: &[Sink<'_>], offset: u64) -> Result<usize> {
        self.0.read(file, into, offset)
    }
    fn write(&self, _: &T::File, _: &[Source<'_>], _: u64, _: bool) -> Result<usize> {
        Err(Errno::ROFS)
    }
    fn drop_privileges(&self, _: &T::File) -> Result<()> {
        Err(Errno::ROFS)
    }
    fn flush(&self, file: &T::File) -> Result<()> {
        self.0.flush(file)
    }
    fn sync(&self, file: &T::File, data_only: bool) -> Result<()> {
        self.0.sync(file, data_only)
    }
    fn allocate(&self, _: &T::File, _: Allocation) -> Result<()> {
        Err(Errno::ROFS)
    }
    fn seek(&self, file: &T::File, offset: u64, what: Seek) -> Result<u64> {
        self.0.seek(file, offset, what)
    }
    fn copy_range(&self, _: (&T::File, u64), _: (&T::File, u64), _: usize) -> Result<usize> {
        Err(Errno::ROFS)
    }
    fn lock_whole(&self, file: &T::File, lock: WholeLock) -> Result<()> {
        self.0.lock_whole(file, lock)
    }
    fn locks(&self, node: &T::Node) -> Result<T::Locks> {
        self.0.locks(node)
    }
    fn lock(&self, locks: &T::Locks, range: LockRange) -> Result<()> {
        // An exclusive range lock needs a descriptor open for writing, which does not exist here.
        if range.kind == LockKind::Exclusive {
            return Err(Errno::BADF);
        }
        self.0.lock(locks, range)
    }
    fn blocking_lock(&self, locks: &T::Locks, range: LockRange) -> Result<Option<LockRange>> {
        self.0.blocking_lock(locks, range)
    }
    fn open_directory(&self, node: &T::Node) -> Result<T::Directory> {
        self.0.open_directory(node)
    }
    fn entries(
        &self,
        directory: &T::Directory,
        from: u64,
        about: usize,
        each: &mut dyn FnMut(&Entry<'_>) -> bool,
    ) -> Result<()> {
        self.0.entries(directory, from, about, each)
    }
    fn sync_directory(&self, directory: &T::Directory, data_only: bool) -> Result<()> {
        self.0.sync_directory(directory, data_only)
    }
    fn statistics(&self, node: &T::Node) -> Result<Statistics> {
        self.0.statistics(node)
    }
    fn sync_all(&self, _: &T::Node) -> Result<()> {
        Ok(())
    }
    fn access(&self, node: &T::Node, wanted: AccessWanted) -> Result<()> {
        if wanted.write {
            return Err(Errno::ROFS);
        }
        self.0.access(node, wanted)
    }
    fn extended(&self, node: &T::Node, name: &CStr, into: &mut [u8]) -> Result<usize> {
        self.0.extended(node, name, into)
    }
    fn set_extended(&self, _: &T::Node, _: &CStr, _: &[u8], _: ExtendedHow) -> Result<()> {
        Err(Errno::ROFS)
    }
    fn list_extended(&self, node: &T::Node, into: &mut [u8]) -> Result<usize> {
        self.0.list_extended(node, into)
    }
    fn remove_extended(&self, _: &T::Node, _: &CStr) -> Result<()> {
        Err(Errno::ROFS)
    }
    fn keep(&self, node: &T::Node) -> Option<KeptNode> {
        self.0.keep(node)
    }
    fn hold(&self, node: &T::Node) -> Option<RawFd> {
        self.0.hold(node)
    }
    fn bind(&self, node: &T::Node, row: Option<NodeRow>) {
        self.0.bind(node, row);
    }
    fn adopt(&self, kept: &KeptNode, left: (KeptPlace, Option<NodeRow>)) -> Result<T::Node> {
        self.0.adopt(kept, left)
    }
    fn lead(&self, node: &T::Node, folder: &T::Node, name: &CStr) {
        self.0.lead(node, folder, name);
    }
    fn keep_file(&self, file: &T::File) -> Option<RawFd> {
        self.0.keep_file(file)
    }
    fn keep_directory(&self, directory: &T::Directory) -> Option<RawFd> {
        self.0.keep_directory(directory)
    }
    fn keep_locks(&self, locks: &T::Locks) -> Option<RawFd> {
        self.0.keep_locks(locks)
    }
    fn adopt_file(&self, node: &T::Node, open: OwnedFd) -> Result<T::File> {
        self.0.adopt_file(node, open)
    }
    fn adopt_directory(&self, node: &T::Node, open: OwnedFd) -> Result<T::Directory> {
        self.0.adopt_directory(node, open)
    }
    fn adopt_locks(&self, file: Identity, open: OwnedFd) -> Result<T::Locks> {
        self.0.adopt_locks(file, open)
    }
}
