//! A tree that exists only in memory: the model that the host's is compared with.
//!
//! It knows names, kinds, modes, links and contents. Owners are always 0, times stand still, and it has
//! no locks, extended attributes or holes: those are tested on a real folder.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::os::fd::{OwnedFd, RawFd};
use std::sync::{Mutex, MutexGuard};

use rustix::io::Errno;

use super::owner::{GuestGid, GuestUid};
use super::{
    AccessWanted, Allocation, Attributes, Caller, Changes, Entry, ExtendedHow, Found, Identity,
    Kind, Name, NewNode, OpenHow, RenameHow, Result, Seek, Statistics, Timestamp, Tree, Upkeep,
    WholeLock,
};
use crate::keep::nodes::{KeptNode, KeptPlace, NodeRow};
use crate::sys::{self, LockRange, Sink, Source};

/// See the module's head.
#[derive(Debug, Default)]
pub(crate) struct MemoryTree {
    inodes: Mutex<BTreeMap<u64, Inode>>,
}

#[derive(Debug)]
struct Inode {
    kind: Kind,
    mode: u32,
    links: u32,
    content: Vec<u8>,
    names: BTreeMap<CString, u64>,
    parent: u64,
}

/// A place; the inode stays while anybody may still hold one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MemoryNode(u64);

const ROOT: u64 = 1;
const NO_TIME: Timestamp = Timestamp {
    seconds: 0,
    nanoseconds: 0,
};

impl MemoryTree {
    pub(crate) fn new() -> Self {
        let tree = Self::default();
        let root = Inode::new(Kind::Directory, 0o755, ROOT);
        tree.inodes().insert(ROOT, root);
        tree
    }

    fn inodes(&self) -> MutexGuard<'_, BTreeMap<u64, Inode>> {
        self.inodes.lock().unwrap()
    }

    fn add(&self, parent: u64, name: Name<'_>, inode: Inode) -> Result<Found<MemoryNode>> {
        let mut inodes = self.inodes();
        let number = inodes.keys().next_back().unwrap() + 1;
        let folder = inodes.get_mut(&parent).ok_or(Errno::NOENT)?;
        if folder.kind != Kind::Directory {
            return Err(Errno::NOTDIR);
        }
        if folder.names.contains_key(name.as_c_str()) {
            return Err(Errno::EXIST);
        }
        if folder.links == 0 {
            return Err(Errno::NOENT);
        }
        folder.names.insert(name.as_c_str().to_owned(), number);
        if inode.kind == Kind::Directory {
            folder.links += 1;
        }
        let attributes = inode.attributes(number);
        inodes.insert(number, inode);
        Ok(Found {
            node: MemoryNode(number),
            attributes,
        })
    }
}

impl Inode {
    fn new(kind: Kind, mode: u32, parent: u64) -> Self {
        let links = if kind == Kind::Directory { 2 } else { 1 };
        Self {
            kind,
            mode: mode & 0o7777,
            links,
            content: Vec::new(),
            names: BTreeMap::new(),
            parent,
        }
    }

    fn attributes(&self, number: u64) -> Attributes {
        Attributes {
            identity: Identity {
                device: 0,
                inode: number,
                mount: 0,
            },
            kind: self.kind,
            mode: self.mode,
            links: self.links,
            owner: GuestUid(0),
            group: GuestGid(0),
            size: self.content.len() as u64,
            blocks: 0,
            block_size: 4096,
            device: (0, 0),
            accessed: NO_TIME,
            modified: NO_TIME,
            changed: NO_TIME,
            born: None,
        }
    }
}

/// One name out of a folder. The inode stays: somebody may hold it.
fn unlink(inodes: &mut BTreeMap<u64, Inode>, parent: u64, name: &CStr) {
    let number = inodes.get_mut(&parent).unwrap().names.remove(name).unwrap();
    let inode = inodes.get_mut(&number).unwrap();
    if inode.kind == Kind::Directory {
        inode.links = 0;
        inodes.get_mut(&parent).unwrap().links -= 1;
    } else {
        inode.links -= 1;
    }
}

fn is_below(inodes: &BTreeMap<u64, Inode>, mut node: u64, above: u64) -> bool {
    while node != ROOT {
        if node == above {
            return true;
        }
        node = inodes[&node].parent;
    }
    node == above
}

impl Tree for MemoryTree {
    type Node = MemoryNode;
    type File = u64;
    type Directory = u64;
    type Locks = ();

    const LOOKS_WHOLE: bool = true;

    fn root(&self) -> Result<Found<MemoryNode>> {
        let attributes = self.inodes()[&ROOT].attributes(ROOT);
        Ok(Found {
            node: MemoryNode(ROOT),
            attributes,
        })
    }
    fn is_short_of_nodes(&self) -> bool {
        false
    }
    fn identity(&self, node: &MemoryNode) -> Identity {
        Identity {
            device: 0,
            inode: node.0,
            mount: 0,
        }
    }
    fn upkeep(&self) -> Upkeep {
        Upkeep::default()
    }
    fn is_held(&self, _: &MemoryNode) -> bool {
        true
    }
    fn is_same(&self, known: &MemoryNode, found: &MemoryNode) -> bool {
        known.0 == found.0
    }
    fn pin(&self, _: &MemoryNode) -> Result<()> {
        Ok(())
    }
    fn unpin(&self, _: &MemoryNode) {}
    fn renamed(
        &self,
        _: &MemoryNode,
        _: Name<'_>,
        _: &dyn Fn(Identity) -> Option<MemoryNode>,
    ) -> Result<()> {
        Ok(())
    }
    fn child(&self, parent: &MemoryNode, name: Name<'_>) -> Result<Found<MemoryNode>> {
        let inodes = self.inodes();
        let folder = inodes.get(&parent.0).ok_or(Errno::NOENT)?;
        if folder.kind != Kind::Directory {
            return Err(Errno::NOTDIR);
        }
        let number = *folder.names.get(name.as_c_str()).ok_or(Errno::NOENT)?;
        Ok(Found {
            node: MemoryNode(number),
            attributes: inodes[&number].attributes(number),
        })
    }
    fn look(&self, parent: &MemoryNode, name: Name<'_>) -> Result<Attributes> {
        self.child(parent, name).map(|found| found.attributes)
    }
    fn attributes(&self, node: &MemoryNode) -> Result<Attributes> {
        Ok(self.inodes()[&node.0].attributes(node.0))
    }
    fn change(&self, node: &MemoryNode, _: Option<&u64>, changes: &Changes) -> Result<Attributes> {
        let mut inodes = self.inodes();
        let inode = inodes.get_mut(&node.0).ok_or(Errno::NOENT)?;
        if let Some(mode) = changes.mode {
            if inode.kind == Kind::SymbolicLink {
                return Err(Errno::OPNOTSUPP);
            }
            inode.mode = mode;
        }
        if let Some(size) = changes.size {
            match inode.kind {
                Kind::File => inode.content.resize(usize::try_from(size).unwrap(), 0),
                Kind::Directory => return Err(Errno::ISDIR),
                Kind::SymbolicLink => return Err(Errno::LOOP),
                Kind::BlockDevice | Kind::CharacterDevice | Kind::Fifo | Kind::Socket => {
                    return Err(Errno::NXIO);
                }
            }
        }
        Ok(inode.attributes(node.0))
    }
    fn read_link(&self, node: &MemoryNode, target: &mut Vec<u8>) -> Result<()> {
        let inodes = self.inodes();
        let inode = inodes.get(&node.0).ok_or(Errno::NOENT)?;
        if inode.kind != Kind::SymbolicLink {
            return Err(Errno::NOENT);
        }
        target.clone_from(&inode.content);
        Ok(())
    }
    fn make_directory(
        &self,
        _: Caller,
        parent: &MemoryNode,
        name: Name<'_>,
        mode: u32,
    ) -> Result<Found<MemoryNode>> {
        self.add(
            parent.0,
            name,
            Inode::new(Kind::Directory, mode & 0o1777, parent.0),
        )
    }
    fn make_node(
        &self,
        _: Caller,
        parent: &MemoryNode,
        name: Name<'_>,
        new: NewNode,
    ) -> Result<Found<MemoryNode>> {
        self.add(parent.0, name, Inode::new(new.kind, new.mode, parent.0))
    }
    fn make_symbolic_link(
        &self,
        _: Caller,
        parent: &MemoryNode,
        name: Name<'_>,
        target: &CStr,
    ) -> Result<Found<MemoryNode>> {
        let mut inode = Inode::new(Kind::SymbolicLink, 0o777, parent.0);
        inode.content = target.to_bytes().to_vec();
        self.add(parent.0, name, inode)
    }
    fn create(
        &self,
        _: Caller,
        parent: &MemoryNode,
        name: Name<'_>,
        (mode, _): (u32, OpenHow),
    ) -> Result<(Found<MemoryNode>, u64)> {
        let found = self.add(parent.0, name, Inode::new(Kind::File, mode, parent.0))?;
        let file = found.node.0;
        Ok((found, file))
    }
    fn create_unnamed(
        &self,
        _: Caller,
        _: &MemoryNode,
        _: u32,
        _: OpenHow,
    ) -> Result<(Found<MemoryNode>, u64)> {
        Err(Errno::OPNOTSUPP)
    }
    fn link(&self, node: &MemoryNode, parent: &MemoryNode, name: Name<'_>) -> Result<Attributes> {
        let mut inodes = self.inodes();
        let linked = &inodes[&node.0];
        let folder = &inodes[&parent.0];
        if folder.names.contains_key(name.as_c_str()) {
            return Err(Errno::EXIST);
        }
        if folder.kind != Kind::Directory {
            return Err(Errno::NOTDIR);
        }
        if folder.links == 0 || linked.links == 0 && linked.kind != Kind::Directory {
            return Err(Errno::NOENT);
        }
        if linked.kind == Kind::Directory {
            return Err(Errno::PERM);
        }
        let names = &mut inodes.get_mut(&parent.0).unwrap().names;
        names.insert(name.as_c_str().to_owned(), node.0);
        let linked = inodes.get_mut(&node.0).unwrap();
        linked.links += 1;
        Ok(linked.attributes(node.0))
    }
    fn remove_file(&self, parent: &MemoryNode, name: Name<'_>) -> Result<()> {
        let found = self.child(parent, name)?;
        if found.attributes.kind == Kind::Directory {
            return Err(Errno::ISDIR);
        }
        unlink(&mut self.inodes(), parent.0, name.as_c_str());
        Ok(())
    }
    fn remove_directory(&self, parent: &MemoryNode, name: Name<'_>) -> Result<()> {
        let found = self.child(parent, name)?;
        if found.attributes.kind != Kind::Directory {
            return Err(Errno::NOTDIR);
        }
        let mut inodes = self.inodes();
        if !inodes[&found.node.0].names.is_empty() {
            return Err(Errno::NOTEMPTY);
        }
        unlink(&mut inodes, parent.0, name.as_c_str());
        Ok(())
    }
    fn rename(
        &self,
        (from, old): (&MemoryNode, Name<'_>),
        (to, new): (&MemoryNode, Name<'_>),
        how: RenameHow,
    ) -> Result<()> {
        for folder in [from, to] {
            self.open_directory(folder)?;
        }
        let (moved, replaced) = (self.child(from, old)?, self.child(to, new));
        let mut inodes = self.inodes();
        if inodes[&to.0].links == 0 {
            return Err(Errno::NOENT);
        }
        if let Ok(replaced) = &replaced {
            if how.no_replace {
                return Err(Errno::EXIST);
            }
            if is_below(&inodes, to.0, moved.node.0) {
                return Err(Errno::INVAL);
            }
            if is_below(&inodes, from.0, replaced.node.0) {
                return Err(if how.exchange {
                    Errno::INVAL
                } else {
                    Errno::NOTEMPTY
                });
            }
            if replaced.node == moved.node {
                return Ok(());
            }
            let (old_kind, new_kind) = (moved.attributes.kind, replaced.attributes.kind);
            if how.exchange {
                for (number, place) in [(moved.node.0, to.0), (replaced.node.0, from.0)] {
                    inodes.get_mut(&number).unwrap().parent = place;
                }
                let is_folder = |kind: Kind| u32::from(kind == Kind::Directory);
                inodes.get_mut(&from.0).unwrap().links += is_folder(new_kind);
                inodes.get_mut(&from.0).unwrap().links -= is_folder(old_kind);
                inodes.get_mut(&to.0).unwrap().links += is_folder(old_kind);
                inodes.get_mut(&to.0).unwrap().links -= is_folder(new_kind);
                let (old, new) = (old.as_c_str().to_owned(), new.as_c_str().to_owned());
                inodes
                    .get_mut(&from.0)
                    .unwrap()
                    .names
                    .insert(old, replaced.node.0);
                inodes
                    .get_mut(&to.0)
                    .unwrap()
                    .names
                    .insert(new, moved.node.0);
                return Ok(());
            }
            match (old_kind == Kind::Directory, new_kind == Kind::Directory) {
                (true, false) => return Err(Errno::NOTDIR),
                (false, true) => return Err(Errno::ISDIR),
                (true, true) if !inodes[&replaced.node.0].names.is_empty() => {
                    return Err(Errno::NOTEMPTY);
                }
                (true, true) | (false, false) => {}
            }
            unlink(&mut inodes, to.0, new.as_c_str());
        } else if how.exchange {
            return Err(Errno::NOENT);
        } else if is_below(&inodes, to.0, moved.node.0) {
            return Err(Errno::INVAL);
        }
        inodes
            .get_mut(&from.0)
            .unwrap()
            .names
            .remove(old.as_c_str());
        let new = new.as_c_str().to_owned();
        inodes
            .get_mut(&to.0)
            .unwrap()
            .names
            .insert(new, moved.node.0);
        if moved.attributes.kind == Kind::Directory {
            inodes.get_mut(&from.0).unwrap().links -= 1;
            inodes.get_mut(&to.0).unwrap().links += 1;
        }
        inodes.get_mut(&moved.node.0).unwrap().parent = to.0;
        Ok(())
    }
    fn open(&self, node: &MemoryNode, how: OpenHow) -> Result<u64> {
        let mut inodes = self.inodes();
        let inode = inodes.get_mut(&node.0).unwrap();
        match inode.kind {
            Kind::File => {}
            Kind::Directory => return Err(Errno::ISDIR),
            Kind::SymbolicLink => return Err(Errno::LOOP),
            Kind::BlockDevice | Kind::CharacterDevice | Kind::Fifo | Kind::Socket => {
                return Err(Errno::NXIO);
            }
        }
        if how.truncate {
            inode.content.clear();
        }
        Ok(node.0)
    }
    fn read(&self, file: &u64, into: &[Sink<'_>], offset: u64) -> Result<usize> {
        let inodes = self.inodes();
        let content = &inodes[file].content;
        let start = usize::try_from(offset).unwrap().min(content.len());
        Ok(sys::scatter(into, 0, &content[start..]))
    }
    fn write(&self, file: &u64, from: &[Source<'_>], offset: u64, append: bool) -> Result<usize> {
        let mut bytes = vec![0; sys::total(from)];
        sys::gather(from, &mut bytes);
        let mut inodes = self.inodes();
        let content = &mut inodes.get_mut(file).unwrap().content;
        let start = if append {
            content.len()
        } else {
            usize::try_from(offset).unwrap()
        };
        let end = start + bytes.len();
        if !bytes.is_empty() {
            content.resize(content.len().max(end), 0);
            content[start..end].copy_from_slice(&bytes);
        }
        Ok(bytes.len())
    }
    fn drop_privileges(&self, _: &u64) -> Result<()> {
        Ok(())
    }
    fn flush(&self, _: &u64) -> Result<()> {
        Ok(())
    }
    fn sync(&self, _: &u64, _: bool) -> Result<()> {
        Ok(())
    }
    fn allocate(&self, file: &u64, wanted: Allocation) -> Result<()> {
        let mut inodes = self.inodes();
        let content = &mut inodes.get_mut(file).unwrap().content;
        let end = usize::try_from(wanted.offset + wanted.length).unwrap();
        content.resize(content.len().max(end), 0);
        Ok(())
    }
    fn seek(&self, _: &u64, _: u64, _: Seek) -> Result<u64> {
        Err(Errno::OPNOTSUPP)
    }
    fn copy_range(&self, _: (&u64, u64), _: (&u64, u64), _: usize) -> Result<usize> {
        Err(Errno::OPNOTSUPP)
    }
    fn lock_whole(&self, _: &u64, _: WholeLock) -> Result<()> {
        Err(Errno::NOLCK)
    }
    fn locks(&self, _: &MemoryNode) -> Result<()> {
        Err(Errno::NOLCK)
    }
    fn lock(&self, (): &(), _: LockRange) -> Result<()> {
        Err(Errno::NOLCK)
    }
    fn blocking_lock(&self, (): &(), _: LockRange) -> Result<Option<LockRange>> {
        Err(Errno::NOLCK)
    }
    fn open_directory(&self, node: &MemoryNode) -> Result<u64> {
        let is_directory = self.inodes()[&node.0].kind == Kind::Directory;
        is_directory.then_some(node.0).ok_or(Errno::NOTDIR)
    }
    fn entries(
        &self,
        directory: &u64,
        from: u64,
        _: usize,
        each: &mut dyn FnMut(&Entry<'_>) -> bool,
    ) -> Result<()> {
        // The tree is not locked meanwhile: `each` may look names up.
        let mut lines = vec![(c".".to_owned(), *directory), (c"..".to_owned(), ROOT)];
        lines.extend(self.inodes()[directory].names.clone());
        for (next, (name, inode)) in (1..).zip(lines).skip(usize::try_from(from).unwrap()) {
            let kind = self.inodes().get(&inode).map(|inode| inode.kind);
            let name = &*name;
            if !each(&Entry {
                name,
                inode,
                kind,
                next,
            }) {
                break;
            }
        }
        Ok(())
    }
    fn sync_directory(&self, _: &u64, _: bool) -> Result<()> {
        Ok(())
    }
    fn statistics(&self, _: &MemoryNode) -> Result<Statistics> {
        Ok(Statistics::default())
    }
    fn sync_all(&self, _: &MemoryNode) -> Result<()> {
        Ok(())
    }
    fn access(&self, _: &MemoryNode, _: AccessWanted) -> Result<()> {
        Ok(())
    }
    fn extended(&self, _: &MemoryNode, _: &CStr, _: &mut [u8]) -> Result<usize> {
        Err(Errno::OPNOTSUPP)
    }
    fn set_extended(&self, _: &MemoryNode, _: &CStr, _: &[u8], _: ExtendedHow) -> Result<()> {
        Err(Errno::OPNOTSUPP)
    }
    fn list_extended(&self, _: &MemoryNode, _: &mut [u8]) -> Result<usize> {
        Err(Errno::OPNOTSUPP)
    }
    fn remove_extended(&self, _: &MemoryNode, _: &CStr) -> Result<()> {
        Err(Errno::OPNOTSUPP)
    }
    fn keep(&self, _: &MemoryNode) -> Option<KeptNode> {
        None
    }
    fn hold(&self, _: &MemoryNode) -> Option<RawFd> {
        None
    }
    fn bind(&self, _: &MemoryNode, _: Option<NodeRow>) {}
    fn adopt(&self, _: &KeptNode, _: (KeptPlace, Option<NodeRow>)) -> Result<MemoryNode> {
        Err(Errno::OPNOTSUPP)
    }
    fn lead(&self, _: &MemoryNode, _: &MemoryNode, _: &CStr) {}
    fn keep_file(&self, _: &Self::File) -> Option<RawFd> {
        None
    }
    fn keep_directory(&self, _: &u64) -> Option<RawFd> {
        None
    }
    fn keep_locks(&self, (): &()) -> Option<RawFd> {
        None
    }
    fn adopt_file(&self, _: &MemoryNode, _: OwnedFd) -> Result<Self::File> {
        Err(Errno::OPNOTSUPP)
    }
    fn adopt_directory(&self, _: &MemoryNode, _: OwnedFd) -> Result<u64> {
        Err(Errno::OPNOTSUPP)
    }
    fn adopt_locks(&self, _: Identity, _: OwnedFd) -> Result<()> {
        Err(Errno::NOLCK)
    }
}
