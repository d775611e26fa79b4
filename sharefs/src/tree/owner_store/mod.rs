//! A tree that keeps beside its files what the host's files cannot have: any owner, set-id bits, devices.
//!
//! A daemon of an ordinary user can neither give files away nor make devices. With this the guest's root
//! does both: what it sets is kept in an extended attribute (`record`), and the file on the host stays the
//! daemon's, with permission bits that let it in and no set-id bit ever.
//!
//! | in the guest | on the host |
//! |---|---|
//! | file, folder | the same; owner and mode in the attribute where they are not the host's own |
//! | device, FIFO, socket | an empty file; type and device in the attribute |
//! | symbolic link | the same; Linux allows it no attribute (xattr(7)), so a chown of it is answered with success and not kept: tar and dpkg would give up |
//! | FIFO, socket, device that the host made | the same; chown of it is EPERM |
//!
//! A file without the attribute is shown as the tree below shows it. New files belong to the guest's user
//! who makes them, or to the group of a set-group-id folder. The attribute is hidden from guests and not
//! theirs to set, and all of `user.sharectl.` with it. A daemon that dies between making a file and its
//! attribute leaves a file of the guest owner.

use std::ffi::CStr;
use std::os::fd::OwnedFd;

use rustix::io::Errno;

use super::keyed::KeyedMutex;
use super::layer::{Layer, pass_on};
use super::{
    Attributes, Caller, Changes, Entry, ExtendedHow, Found, Kind, Name, NewNode, OpenHow, Result,
    Tree,
};
use crate::keep::nodes::{KeptNode, KeptPlace, NodeRow, kind_of, kind_word};
use record::{NAME, RESERVED, ROOM, Record};

mod record;
#[cfg(test)]
mod tests;

/// See the module's head.
#[derive(Debug)]
pub(crate) struct OwnerStore<T> {
    below: T,
}

/// A node, and what it is to the guest.
#[derive(Clone, Debug)]
pub(crate) struct OwnedNode<N> {
    below: N,
    kind: Kind,
}

#[derive(Debug)]
pub(crate) struct OwnedFile<F, N> {
    below: F,
    /// Its record is the node's.
    node: N,
}

/// Tries to list attributes while their number grows.
const LIST_ATTEMPTS: usize = 4;

impl<T: Tree> OwnerStore<T> {
    /// EOPNOTSUPP where the file system has no attributes for users.
    pub(crate) fn new(below: T) -> Result<Self> {
        let root = below.root()?.node;
        match below.extended(&root, NAME, &mut [0; ROOM]) {
            Ok(_) | Err(Errno::NODATA | Errno::RANGE) => {}
            Err(error) => return Err(error),
        }
        drop(root);
        Ok(Self { below })
    }

    /// The record of a file that the tree below shows as `host`.
    fn record(&self, node: &T::Node, host: &Attributes) -> Option<Record> {
        if !can_have_record(host.kind) {
            return None;
        }
        let mut value = [0; ROOM];
        // What cannot be read (no right, no such attributes here, longer than any record) is not there.
        let length = self.below.extended(node, NAME, &mut value).ok()?;
        let record = Record::decode(value.get(..length)?)?;
        record.suits(host.kind).then_some(record)
    }

    fn shown(&self, node: &T::Node, host: Attributes) -> Attributes {
        match self.record(node, &host) {
            Some(record) => record.shown(&host),
            None => host,
        }
    }

    fn found(&self, found: Found<T::Node>) -> Found<OwnedNode<T::Node>> {
        let attributes = self.shown(&found.node, found.attributes);
        let node = OwnedNode {
            below: found.node,
            kind: attributes.kind,
        };
        Found { node, attributes }
    }

    /// Makes `wanted` what the guest sees of a file that is `host` now.
    fn keep(&self, node: &T::Node, host: &Attributes, wanted: Record) -> Result<()> {
        // First the mode: without the owner's right to write there may be no attribute (xattr(7)).
        let mode = wanted.host_mode();
        if host.mode != mode {
            let changes = Changes {
                mode: Some(mode),
                ..Changes::default()
            };
            self.below.change(node, None, &changes)?;
        }
        if wanted == Record::of(&Attributes { mode, ..*host }) {
            return match self.below.remove_extended(node, NAME) {
                // It had none, or there are none here.
                Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(()),
                other => other,
            };
        }
        let value = wanted.encode();
        self.below
            .set_extended(node, NAME, value.as_bytes(), ExtendedHow::Either)
    }

    /// What a new thing in a folder is to be.
    fn newborn(&self, caller: Caller, parent: &OwnedNode<T::Node>, new: NewNode) -> Result<Record> {
        let above = self.attributes(parent)?;
        let mut record = Record {
            owner: caller.uid,
            group: caller.gid,
            kind: new.kind,
            mode: new.mode & 0o7777,
            device: new.device,
        };
        // inode(7): a set-group-id folder hands its group down, and to folders the bit as well.
        if above.mode & 0o2000 != 0 {
            record.group = above.group;
            if new.kind == Kind::Directory {
                record.mode |= 0o2000;
            }
        }
        Ok(record)
    }

    /// Keeps the record of what was just made, and tells of it.
    fn born(&self, made: Found<T::Node>, wanted: Record) -> Result<Found<OwnedNode<T::Node>>> {
        let Found { node, attributes } = made;
        let as_made = attributes.mode == wanted.host_mode() && wanted == Record::of(&attributes);
        let attributes = if as_made {
            attributes
        } else {
            // Whoever has found it meanwhile and changed its owner or mode did so before it had any.
            let _guard = RECORDS.lock(attributes.identity);
            self.keep(&node, &attributes, wanted)?;
            // When it was last changed is another time by now.
            wanted.shown(&self.below.attributes(&node)?)
        };
        let node = OwnedNode {
            below: node,
            kind: attributes.kind,
        };
        Ok(Found { node, attributes })
    }

    /// Better no file than one that is not as it was asked for.
    fn take_back(&self, parent: &OwnedNode<T::Node>, name: Name<'_>) {
        self.below.remove_file(&parent.below, name).ok();
    }

    /// Takes set-id bits out of the record.
    fn drop_set_id_bits(&self, node: &T::Node) -> Result<()> {
        let _guard = RECORDS.lock(self.below.identity(node));
        let host = self.below.attributes(node)?;
        let Some(record) = self.record(node, &host) else {
            return Ok(());
        };
        let before = Record::of(&record.shown(&host));
        let mut after = before;
        after.drop_set_id_bits();
        if after == before {
            return Ok(());
        }
        self.keep(node, &host, after)
    }

    /// Owner, group and mode; the rest of `changes` is for the tree below.
    fn change_record(&self, node: &T::Node, host: &Attributes, changes: &Changes) -> Result<()> {
        let mut wanted = Record::of(&self.shown(node, *host));
        if changes.owner.is_some() || changes.group.is_some() {
            wanted.owner = changes.owner.unwrap_or(wanted.owner);
            wanted.group = changes.group.unwrap_or(wanted.group);
            wanted.drop_set_id_bits();
        }
        if let Some(mode) = changes.mode {
            wanted.mode = mode & 0o7777;
        }
        self.keep(node, host, wanted)
    }
}

/// Locked from reading a record to writing it: shares of one folder, and its mount on the host, have layers of their own
/// around it.
static RECORDS: KeyedMutex = KeyedMutex::new();

/// xattr(7): attributes for users are for files and folders.
fn can_have_record(host: Kind) -> bool {
    matches!(host, Kind::File | Kind::Directory)
}

/// The empty files that stand for devices and the like are not to be filled.
fn holds_data(kind: Kind) -> Result<()> {
    match kind {
        Kind::BlockDevice | Kind::CharacterDevice | Kind::Fifo | Kind::Socket => Err(Errno::NXIO),
        Kind::File | Kind::Directory | Kind::SymbolicLink => Ok(()),
    }
}

fn is_reserved(name: &CStr) -> bool {
    name.to_bytes().starts_with(RESERVED)
}

impl<T: Tree> Layer for OwnerStore<T> {
    type Below = T;

    fn below(&self) -> &T {
        &self.below
    }
    fn node(node: &Self::Node) -> &T::Node {
        &node.below
    }
    fn file(file: &Self::File) -> &T::File {
        &file.below
    }
    fn directory(directory: &Self::Directory) -> &T::Directory {
        directory
    }
}

impl<T: Tree> Tree for OwnerStore<T> {
    type Node = OwnedNode<T::Node>;
    type File = OwnedFile<T::File, T::Node>;
    type Directory = T::Directory;
    type Locks = T::Locks;

    /// The record can be read of a node only: by name it might be another file's.
    const LOOKS_WHOLE: bool = false;

    pass_on! {
        keeping_open is_short_of_nodes identity upkeep renamed read_link names read write flush sync allocate seek copy_range
        locking open_directory sync_directory whole access
    }

    fn root(&self) -> Result<Found<Self::Node>> {
        Ok(self.found(self.below.root()?))
    }

    fn child(&self, parent: &Self::Node, name: Name<'_>) -> Result<Found<Self::Node>> {
        Ok(self.found(self.below.child(&parent.below, name)?))
    }

    fn look(&self, parent: &Self::Node, name: Name<'_>) -> Result<Attributes> {
        self.below.look(&parent.below, name)
    }

    fn attributes(&self, node: &Self::Node) -> Result<Attributes> {
        let host = self.below.attributes(&node.below)?;
        Ok(self.shown(&node.below, host))
    }

    fn change(
        &self,
        node: &Self::Node,
        file: Option<&Self::File>,
        changes: &Changes,
    ) -> Result<Attributes> {
        if changes.size.is_some() {
            holds_data(node.kind)?;
        }
        let mut rest = *changes;
        if changes.owner.is_some() || changes.group.is_some() || changes.mode.is_some() {
            let _guard = RECORDS.lock(self.identity(node));
            let host = self.below.attributes(&node.below)?;
            if can_have_record(host.kind) {
                self.change_record(&node.below, &host, changes)?;
                (rest.owner, rest.group, rest.mode) = (None, None, None);
            } else if host.kind == Kind::SymbolicLink {
                (rest.owner, rest.group) = (None, None);
            }
        }
        let file = file.map(|file| &file.below);
        let host = self.below.change(&node.below, file, &rest)?;
        if changes.size.is_some() && changes.drop_privileges {
            self.drop_set_id_bits(&node.below)?;
            return self.attributes(node);
        }
        Ok(self.shown(&node.below, host))
    }

    fn make_directory(
        &self,
        caller: Caller,
        parent: &Self::Node,
        name: Name<'_>,
        mode: u32,
    ) -> Result<Found<Self::Node>> {
        let new = NewNode {
            kind: Kind::Directory,
            mode,
            device: (0, 0),
        };
        let wanted = self.newborn(caller, parent, new)?;
        let mode = wanted.host_mode();
        let made = self
            .below
            .make_directory(caller, &parent.below, name, mode)?;
        self.born(made, wanted).inspect_err(|_| {
            self.below.remove_directory(&parent.below, name).ok();
        })
    }

    fn make_node(
        &self,
        caller: Caller,
        parent: &Self::Node,
        name: Name<'_>,
        new: NewNode,
    ) -> Result<Found<Self::Node>> {
        if matches!(new.kind, Kind::Directory | Kind::SymbolicLink) {
            return Err(Errno::INVAL);
        }
        let wanted = self.newborn(caller, parent, new)?;
        let file = NewNode {
            kind: Kind::File,
            mode: wanted.host_mode(),
            device: (0, 0),
        };
        let made = self.below.make_node(caller, &parent.below, name, file)?;
        self.born(made, wanted)
            .inspect_err(|_| self.take_back(parent, name))
    }

    fn make_symbolic_link(
        &self,
        caller: Caller,
        parent: &Self::Node,
        name: Name<'_>,
        target: &CStr,
    ) -> Result<Found<Self::Node>> {
        let made = self
            .below
            .make_symbolic_link(caller, &parent.below, name, target)?;
        Ok(self.found(made))
    }

    fn create(
        &self,
        caller: Caller,
        parent: &Self::Node,
        name: Name<'_>,
        (mode, how): (u32, OpenHow),
    ) -> Result<(Found<Self::Node>, Self::File)> {
        let wanted = self.newborn(caller, parent, regular(mode))?;
        let mode = (wanted.host_mode(), how);
        let (made, below) = self.below.create(caller, &parent.below, name, mode)?;
        let found = self
            .born(made, wanted)
            .inspect_err(|_| self.take_back(parent, name))?;
        let node = found.node.below.clone();
        Ok((found, OwnedFile { below, node }))
    }

    fn create_unnamed(
        &self,
        caller: Caller,
        parent: &Self::Node,
        mode: u32,
        how: OpenHow,
    ) -> Result<(Found<Self::Node>, Self::File)> {
        let wanted = self.newborn(caller, parent, regular(mode))?;
        let mode = wanted.host_mode();
        let (made, below) = self
            .below
            .create_unnamed(caller, &parent.below, mode, how)?;
        let found = self.born(made, wanted)?;
        let node = found.node.below.clone();
        Ok((found, OwnedFile { below, node }))
    }

    fn open(&self, node: &Self::Node, how: OpenHow) -> Result<Self::File> {
        holds_data(node.kind)?;
        let below = self.below.open(&node.below, how)?;
        if how.truncate && how.drop_privileges {
            self.drop_set_id_bits(&node.below)?;
        }
        let node = node.below.clone();
        Ok(OwnedFile { below, node })
    }

    fn drop_privileges(&self, file: &Self::File) -> Result<()> {
        self.below.drop_privileges(&file.below)?;
        self.drop_set_id_bits(&file.node)
    }

    fn entries(
        &self,
        directory: &T::Directory,
        from: u64,
        about: usize,
        each: &mut dyn FnMut(&Entry<'_>) -> bool,
    ) -> Result<()> {
        let each = &mut |entry: &Entry<'_>| {
            // A file may be a device; only its record says.
            let kind = entry.kind.filter(|kind| *kind != Kind::File);
            each(&Entry { kind, ..*entry })
        };
        self.below.entries(directory, from, about, each)
    }

    fn extended(&self, node: &Self::Node, name: &CStr, into: &mut [u8]) -> Result<usize> {
        if is_reserved(name) {
            return Err(Errno::NODATA);
        }
        self.below.extended(&node.below, name, into)
    }

    fn set_extended(
        &self,
        node: &Self::Node,
        name: &CStr,
        value: &[u8],
        how: ExtendedHow,
    ) -> Result<()> {
        if is_reserved(name) {
            return Err(Errno::PERM);
        }
        self.below.set_extended(&node.below, name, value, how)
    }

    fn list_extended(&self, node: &Self::Node, into: &mut [u8]) -> Result<usize> {
        let mut names = Vec::new();
        for attempt in 1.. {
            let length = self.below.list_extended(&node.below, &mut [])?;
            if length == 0 {
                return Ok(0);
            }
            names.resize(length, 0);
            match self.below.list_extended(&node.below, &mut names) {
                Err(Errno::RANGE) if attempt < LIST_ATTEMPTS => {}
                other => {
                    names.truncate(other?);
                    break;
                }
            }
        }
        let is_shown = |name: &&[u8]| !name.starts_with(RESERVED);
        let shown: Vec<u8> = names
            .split_inclusive(|byte| *byte == 0)
            .filter(is_shown)
            .flatten()
            .copied()
            .collect();
        if !into.is_empty() {
            let room = into.get_mut(..shown.len()).ok_or(Errno::RANGE)?;
            room.copy_from_slice(&shown);
        }
        Ok(shown.len())
    }

    fn remove_extended(&self, node: &Self::Node, name: &CStr) -> Result<()> {
        if is_reserved(name) {
            return Err(Errno::PERM);
        }
        self.below.remove_extended(&node.below, name)
    }

    fn keep(&self, node: &Self::Node) -> Option<KeptNode> {
        let below = self.below.keep(&node.below)?;
        // What it is to the guest; the host's kind is in the layer below, for which `marks` has room.
        Some(KeptNode {
            kind: node.kind,
            marks: below.marks | kind_word(below.kind) << KIND_AT,
            ..below
        })
    }

    fn adopt(&self, kept: &KeptNode, left: (KeptPlace, Option<NodeRow>)) -> Result<Self::Node> {
        let below = KeptNode {
            kind: kind_of(kept.marks >> KIND_AT & 0b111).ok_or(Errno::INVAL)?,
            marks: kept.marks & ((1 << KIND_AT) - 1),
            ..*kept
        };
        Ok(OwnedNode {
            below: self.below.adopt(&below, left)?,
            kind: kept.kind,
        })
    }

    fn adopt_file(&self, node: &Self::Node, open: OwnedFd) -> Result<Self::File> {
        let below = self.below.adopt_file(&node.below, open)?;
        let node = node.below.clone();
        Ok(OwnedFile { below, node })
    }

    fn adopt_directory(&self, node: &Self::Node, open: OwnedFd) -> Result<Self::Directory> {
        self.below.adopt_directory(&node.below, open)
    }
}

/// Where the host's kind stands in a kept node's marks: three bits.
const KIND_AT: u16 = 4;

fn regular(mode: u32) -> NewNode {
    NewNode {
        kind: Kind::File,
        mode,
        device: (0, 0),
    }
}
