//! A tree with places that do not exist for its guests (`exclude`), and places that they cannot change
//! (`read-only-paths`).
//!
//! A node carries its place as it was found: the progress of all patterns down to it (`rules`). So that
//! this stays true, a folder is renamed only where its place stays the same; else EXDEV, as if another
//! file system began there (`mv` then copies what the guest may see). A file may go to any place that is
//! neither excluded nor frozen, as a file has nothing below it.
//!
//! | asked | excluded | frozen |
//! |---|---|---|
//! | look up, remove, rename from | ENOENT | found; EROFS |
//! | list | left out | listed |
//! | make, link or rename to | EPERM | EROFS |
//! | link from | ENOENT | EXDEV |
//! | change, open for writing | | EROFS |
//!
//! A name can be made, removed or renamed only where neither it nor its folder is frozen.
//!
//! What this does not hold against: a second name (hard link), made on the host, that no pattern matches;
//! and a node that the host moves while a guest knows it keeps the place it was found at until it is
//! forgotten. A removed pattern's folder that only hides something is not empty (ENOTEMPTY). Names are
//! compared as the host has them; a host's file system that takes other cases for the same name needs
//! `case = "insensitive"` here, too.

use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError};

use rustix::io::Errno;

use super::layer::{Layer, pass_on};
use super::{
    AccessWanted, Attributes, Caller, Changes, Entry, ExtendedHow, Found, Kind, Name, NewNode,
    OpenHow, RenameHow, Result, Tree,
};
use crate::keep::nodes::{KeptNode, KeptPlace, NodeRow};
use rules::Place;

mod rules;
#[cfg(test)]
mod tests;

pub(crate) use control::pattern::Letters;
pub(crate) use rules::Rules;

/// See the module's head.
#[derive(Debug)]
pub(crate) struct Places<T> {
    below: T,
    rules: Rules,
}

/// A node, and where it was found.
#[derive(Clone, Debug)]
pub(crate) struct PlacedNode<N> {
    below: N,
    place: Place,
}

#[derive(Debug)]
pub(crate) struct PlacedFile<F> {
    below: F,
    frozen: bool,
}

#[derive(Debug)]
pub(crate) struct PlacedDirectory<D, N> {
    below: D,
    /// For entries whose kind the listing does not tell.
    node: N,
    place: Place,
}

impl<T: Tree> Places<T> {
    pub(crate) fn new(below: T, rules: Rules) -> Self {
        Self { below, rules }
    }

    /// Where `name` leads; None: nowhere, it is excluded.
    fn step(&self, parent: Place, name: Name<'_>, kind: Kind) -> Option<Place> {
        self.rules.step(parent, name.as_c_str().to_bytes(), kind)
    }

    /// The place of something that is to be made, or to be renamed to `name`.
    fn may_make(&self, parent: Place, name: Name<'_>, kind: Kind) -> Result<Place> {
        let place = self.step(parent, name, kind).ok_or(Errno::PERM)?;
        if parent.frozen || place.frozen {
            return Err(Errno::ROFS);
        }
        Ok(place)
    }

    /// The place of something that is to be taken away from `name`.
    fn may_take(&self, parent: Place, name: Name<'_>, kind: Kind) -> Result<Place> {
        match self.may_make(parent, name, kind) {
            Err(Errno::PERM) => Err(Errno::NOENT),
            other => other,
        }
    }

    /// Whether something of this kind may go from one name to the other.
    fn may_move(
        &self,
        (from, old): (Place, Name<'_>),
        (to, new): (Place, Name<'_>),
        kind: Kind,
    ) -> Result<()> {
        let before = self.may_take(from, old, kind)?;
        let after = self.may_make(to, new, kind)?;
        if kind == Kind::Directory && before != after {
            return Err(Errno::XDEV);
        }
        Ok(())
    }

    fn is_listed(
        &self,
        directory: &PlacedDirectory<T::Directory, T::Node>,
        entry: &Entry<'_>,
    ) -> bool {
        let Ok(name) = Name::new(entry.name) else {
            return true;
        };
        let is_there = |kind| self.step(directory.place, name, kind).is_some();
        match entry.kind {
            Some(kind) => is_there(kind),
            None => {
                let (folder, file) = (is_there(Kind::Directory), is_there(Kind::File));
                if folder == file {
                    return file;
                }
                let found = self.below.child(&directory.node, name);
                found.is_ok_and(|found| is_there(found.attributes.kind))
            }
        }
    }
}

fn placed<N>(found: Found<N>, place: Place) -> Found<PlacedNode<N>> {
    Found {
        node: PlacedNode {
            below: found.node,
            place,
        },
        attributes: found.attributes,
    }
}

fn thawed(frozen: bool) -> Result<()> {
    if frozen { Err(Errno::ROFS) } else { Ok(()) }
}

impl<T: Tree> Layer for Places<T> {
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
        &directory.below
    }
}

/// Held from asking what is renamed to the end of renaming it: shares of one folder, and its mount on the host, have layers
/// of their own around it.
static RENAMES: Mutex<()> = Mutex::new(());

impl<T: Tree> Tree for Places<T> {
    type Node = PlacedNode<T::Node>;
    type File = PlacedFile<T::File>;
    type Directory = PlacedDirectory<T::Directory, T::Node>;
    type Locks = T::Locks;

    const LOOKS_WHOLE: bool = T::LOOKS_WHOLE;

    // A frozen file is never open for writing: write, allocate and copy_range find that below.
    pass_on! {
        keeping_open is_short_of_nodes identity upkeep renamed attributes read_link read write flush sync allocate seek
        copy_range locking sync_directory whole extended list_extended
    }

    fn root(&self) -> Result<Found<Self::Node>> {
        Ok(placed(self.below.root()?, self.rules.root()))
    }

    fn child(&self, parent: &Self::Node, name: Name<'_>) -> Result<Found<Self::Node>> {
        let found = self.below.child(&parent.below, name)?;
        let place = self.step(parent.place, name, found.attributes.kind);
        Ok(placed(found, place.ok_or(Errno::NOENT)?))
    }

    fn look(&self, parent: &Self::Node, name: Name<'_>) -> Result<Attributes> {
        let attributes = self.below.look(&parent.below, name)?;
        // Only folder or not matters, which `look` tells in any case.
        let place = self.step(parent.place, name, attributes.kind);
        place.map(|_| attributes).ok_or(Errno::NOENT)
    }

    fn change(
        &self,
        node: &Self::Node,
        file: Option<&Self::File>,
        changes: &Changes,
    ) -> Result<Attributes> {
        thawed(node.place.frozen || file.is_some_and(|file| file.frozen))?;
        self.below
            .change(&node.below, file.map(|file| &file.below), changes)
    }

    fn make_directory(
        &self,
        caller: Caller,
        parent: &Self::Node,
        name: Name<'_>,
        mode: u32,
    ) -> Result<Found<Self::Node>> {
        let place = self.may_make(parent.place, name, Kind::Directory)?;
        let made = self
            .below
            .make_directory(caller, &parent.below, name, mode)?;
        Ok(placed(made, place))
    }

    fn make_node(
        &self,
        caller: Caller,
        parent: &Self::Node,
        name: Name<'_>,
        new: NewNode,
    ) -> Result<Found<Self::Node>> {
        let place = self.may_make(parent.place, name, new.kind)?;
        Ok(placed(
            self.below.make_node(caller, &parent.below, name, new)?,
            place,
        ))
    }

    fn make_symbolic_link(
        &self,
        caller: Caller,
        parent: &Self::Node,
        name: Name<'_>,
        target: &std::ffi::CStr,
    ) -> Result<Found<Self::Node>> {
        let place = self.may_make(parent.place, name, Kind::SymbolicLink)?;
        let made = self
            .below
            .make_symbolic_link(caller, &parent.below, name, target)?;
        Ok(placed(made, place))
    }

    fn create(
        &self,
        caller: Caller,
        parent: &Self::Node,
        name: Name<'_>,
        new: (u32, OpenHow),
    ) -> Result<(Found<Self::Node>, Self::File)> {
        let place = match self.may_make(parent.place, name, Kind::File) {
            // As `ReadOnly` does: open(2) with O_CREAT of a file that is there is an ordinary open.
            Err(Errno::ROFS) => {
                return match self.below.child(&parent.below, name) {
                    Ok(_) => Err(Errno::EXIST),
                    Err(Errno::NOENT) => Err(Errno::ROFS),
                    Err(error) => Err(error),
                };
            }
            other => other?,
        };
        let (found, below) = self.below.create(caller, &parent.below, name, new)?;
        let frozen = false;
        Ok((placed(found, place), PlacedFile { below, frozen }))
    }

    fn create_unnamed(
        &self,
        caller: Caller,
        parent: &Self::Node,
        mode: u32,
        how: OpenHow,
    ) -> Result<(Found<Self::Node>, Self::File)> {
        thawed(parent.place.frozen)?;
        let (found, below) = self
            .below
            .create_unnamed(caller, &parent.below, mode, how)?;
        let frozen = false;
        // It is nowhere yet; `link` asks where it goes.
        Ok((placed(found, parent.place), PlacedFile { below, frozen }))
    }

    fn link(&self, node: &Self::Node, parent: &Self::Node, name: Name<'_>) -> Result<Attributes> {
        self.may_make(parent.place, name, Kind::File)?;
        if node.place.frozen {
            return Err(Errno::XDEV);
        }
        self.below.link(&node.below, &parent.below, name)
    }

    fn remove_file(&self, parent: &Self::Node, name: Name<'_>) -> Result<()> {
        self.may_take(parent.place, name, Kind::File)?;
        self.below.remove_file(&parent.below, name)
    }

    fn remove_directory(&self, parent: &Self::Node, name: Name<'_>) -> Result<()> {
        self.may_take(parent.place, name, Kind::Directory)?;
        self.below.remove_directory(&parent.below, name)
    }

    fn rename(
        &self,
        (from, old): (&Self::Node, Name<'_>),
        (to, new): (&Self::Node, Name<'_>),
        how: RenameHow,
    ) -> Result<()> {
        if self.rules.are_none() {
            return self.below.rename((&from.below, old), (&to.below, new), how);
        }
        // What stands at both names is asked first and renamed then. A folder could come to a file's name in
        // between only by another rename, of whichever guest; one that is made there is empty.
        let _one_at_a_time = RENAMES.lock().unwrap_or_else(PoisonError::into_inner);
        let there = match self.below.child(&to.below, new) {
            Ok(there) => Some(there.attributes.kind),
            Err(Errno::NOENT) => None,
            Err(error) => return Err(error),
        };
        let moved = self.below.child(&from.below, old)?.attributes.kind;
        self.may_move((from.place, old), (to.place, new), moved)?;
        match there {
            Some(there) if how.exchange => {
                self.may_move((to.place, new), (from.place, old), there)?;
            }
            Some(there) => {
                self.may_make(to.place, new, there)?;
            }
            None => {}
        }
        self.below.rename((&from.below, old), (&to.below, new), how)
    }

    fn open(&self, node: &Self::Node, how: OpenHow) -> Result<Self::File> {
        let frozen = node.place.frozen;
        thawed(frozen && (how.write || how.truncate))?;
        let below = self.below.open(&node.below, how)?;
        Ok(PlacedFile { below, frozen })
    }

    fn drop_privileges(&self, file: &Self::File) -> Result<()> {
        thawed(file.frozen)?;
        self.below.drop_privileges(&file.below)
    }

    fn open_directory(&self, node: &Self::Node) -> Result<Self::Directory> {
        Ok(PlacedDirectory {
            below: self.below.open_directory(&node.below)?,
            node: node.below.clone(),
            place: node.place,
        })
    }

    fn entries(
        &self,
        directory: &Self::Directory,
        from: u64,
        about: usize,
        each: &mut dyn FnMut(&Entry<'_>) -> bool,
    ) -> Result<()> {
        let each = &mut |entry: &Entry<'_>| !self.is_listed(directory, entry) || each(entry);
        self.below.entries(&directory.below, from, about, each)
    }

    fn access(&self, node: &Self::Node, wanted: AccessWanted) -> Result<()> {
        thawed(node.place.frozen && wanted.write)?;
        self.below.access(&node.below, wanted)
    }

    fn set_extended(
        &self,
        node: &Self::Node,
        name: &std::ffi::CStr,
        value: &[u8],
        how: ExtendedHow,
    ) -> Result<()> {
        thawed(node.place.frozen)?;
        self.below.set_extended(&node.below, name, value, how)
    }

    fn remove_extended(&self, node: &Self::Node, name: &std::ffi::CStr) -> Result<()> {
        thawed(node.place.frozen)?;
        self.below.remove_extended(&node.below, name)
    }

    fn keep(&self, node: &Self::Node) -> Option<KeptNode> {
        let below = self.below.keep(&node.below)?;
        let (extra, frozen) = node.place.as_words();
        let mark = if frozen { FROZEN } else { 0 };
        Some(KeptNode {
            extra,
            marks: below.marks | mark,
            ..below
        })
    }

    fn adopt(&self, kept: &KeptNode, left: (KeptPlace, Option<NodeRow>)) -> Result<Self::Node> {
        let below = KeptNode {
            marks: kept.marks & !FROZEN,
            ..*kept
        };
        Ok(PlacedNode {
            below: self.below.adopt(&below, left)?,
            place: Place::from_words(kept.extra, kept.marks & FROZEN != 0),
        })
    }

    fn adopt_file(&self, node: &Self::Node, open: OwnedFd) -> Result<Self::File> {
        // One that was made here and renamed into a frozen place since is frozen from now on.
        let frozen = node.place.frozen;
        let below = self.below.adopt_file(&node.below, open)?;
        Ok(PlacedFile { below, frozen })
    }

    fn adopt_directory(&self, node: &Self::Node, open: OwnedFd) -> Result<Self::Directory> {
        Ok(PlacedDirectory {
            below: self.below.adopt_directory(&node.below, open)?,
            node: node.below.clone(),
            place: node.place,
        })
    }
}

/// A mark of a kept node.
const FROZEN: u16 = 1 << 8;
