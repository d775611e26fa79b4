//! What a client's numbers stand for: places in a share, and what is open there.
//!
//! A place remembers the way it was reached, because two messages ask for it: a walk to `..`, and Tremove and
//! Trename, which name a file by its fid alone. The way is only ever believed after a look: the name must still
//! lead from the folder to the same file. That is also why `..` can never lead out of a share: it goes where
//! the client has come from, and from the share's own folder nowhere.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ffi::{CStr, CString};
use std::sync::Arc;

use rustix::io::Errno;

use crate::keep::ninep::rows::{KeptPlace, Row, Rows};
use crate::tree::owner::GuestUid;
use crate::tree::{Found, Identity, Kind, Name, Result, Tree};

/// Fids of one connection in one share. Each kind of place also counts against the daemon's descriptors.
pub(super) const MOST_FIDS: usize = 1 << 18;

/// A file or folder that was walked to.
pub(super) struct Place<T: Tree> {
    pub(super) node: T::Node,
    pub(super) kind: Kind,
    above: Option<Above<T>>,
    /// Where it is written down, if it is.
    row: Option<(Arc<Rows>, usize)>,
}

struct Above<T: Tree> {
    folder: Arc<Place<T>>,
    name: CString,
}

impl<T: Tree> Place<T> {
    pub(super) fn root(found: Found<T::Node>) -> Self {
        Self {
            node: found.node,
            kind: found.attributes.kind,
            above: None,
            row: None,
        }
    }

    /// What an earlier process wrote down in that row.
    pub(super) fn adopted(
        (node, kind): (T::Node, Kind),
        above: Option<(Arc<Self>, CString)>,
        row: (Arc<Rows>, usize),
    ) -> Self {
        Self {
            node,
            kind,
            above: above.map(|(folder, name)| Above { folder, name }),
            row: Some(row),
        }
    }

    /// The same, written down as far as that can be: for a fid to be, the whole way has to be.
    pub(super) fn recorded(mut self, tree: &T, rows: Option<&Arc<Rows>>) -> Self {
        self.row = rows.and_then(|rows| {
            let above = match &self.above {
                None => None,
                Some(Above { folder, name }) => Some((folder.row()?, name.as_bytes().to_vec())),
            };
            let node = tree.keep(&self.node)?;
            let number = tree.hold(&self.node)?;
            let row = rows.put_place(&KeptPlace {
                number,
                node,
                above,
            })?;
            Some((Arc::clone(rows), row))
        });
        self
    }

    pub(super) fn row(&self) -> Option<usize> {
        self.row.as_ref().map(|(_, row)| *row)
    }

    /// What was found, or made, in `folder` as `name`.
    pub(super) fn below(folder: &Arc<Self>, name: Name<'_>, found: Found<T::Node>) -> Self {
        Self {
            node: found.node,
            kind: found.attributes.kind,
            above: Some(Above {
                folder: Arc::clone(folder),
                name: name.as_c_str().to_owned(),
            }),
            row: None,
        }
    }

    /// Folder and name where this file still is. ESTALE when the name leads elsewhere by now; EBUSY for the
    /// share's own folder, which is in none.
    pub(super) fn way(&self, tree: &T) -> Result<(&Arc<Self>, Name<'_>)> {
        let above = self.above.as_ref().ok_or(Errno::BUSY)?;
        let name = Name::new(&above.name)?;
        let there = tree.child(&above.folder.node, name)?;
        if same_file(there.attributes.identity, tree.identity(&self.node)) {
            Ok((&above.folder, name))
        } else {
            Err(Errno::STALE)
        }
    }

    /// The folder that `..` means here.
    pub(super) fn parent(self: &Arc<Self>, tree: &T) -> Result<Arc<Self>> {
        if self.kind != Kind::Directory {
            return Err(Errno::NOTDIR);
        }
        match self.way(tree) {
            Ok((folder, _)) => Ok(Arc::clone(folder)),
            // walk(5): `..` in the root is the root.
            Err(Errno::BUSY) => Ok(Arc::clone(self)),
            Err(error) => Err(error),
        }
    }

    /// The same file under the name it has been given.
    pub(super) fn moved(&self, node: T::Node, folder: &Arc<Self>, name: &CStr) -> Self {
        Self {
            node,
            kind: self.kind,
            above: Some(Above {
                folder: Arc::clone(folder),
                name: name.to_owned(),
            }),
            row: None,
        }
    }
}

/// A client can make a way a hundred thousand folders long; dropped one by one, not one within the other. What is
/// written down stays until the commit, and the node's descriptor, which the row names, with it.
impl<T: Tree> Drop for Place<T> {
    fn drop(&mut self) {
        if let Some((rows, row)) = self.row.take() {
            rows.end_place(row);
            rows.retire(self.node.clone());
        }
        let mut above = self.above.take();
        while let Some(Above { folder, .. }) = above {
            above = Arc::into_inner(folder).and_then(|mut last| last.above.take());
        }
    }
}

fn same_file(one: Identity, other: Identity) -> bool {
    (one.device, one.inode) == (other.device, other.inode)
}

/// What a fid is good for beside being a place.
pub(super) enum Use<T: Tree> {
    Nothing,
    File {
        open: Arc<T::File>,
        append: bool,
        writes: bool,
        /// A write may be done in parts: it neither appends nor has to be on disk when it is done.
        in_parts: bool,
    },
    Directory(Arc<T::Directory>),
    /// An extended attribute's value, or the list of names, as it was at the Txattrwalk.
    Reading(Box<[u8]>),
    /// A value that comes in by Twrites and is set by the Tclunk.
    Writing(Box<Value>),
}

impl<T: Tree> Use<T> {
    /// Bytes of the attribute's value that it takes.
    pub(super) fn value_length(&self) -> usize {
        match self {
            Self::Reading(value) => value.len(),
            Self::Writing(value) => value.length,
            Self::Nothing | Self::File { .. } | Self::Directory(_) => 0,
        }
    }
}

/// See [`Use::Writing`].
pub(super) struct Value {
    pub(super) name: CString,
    pub(super) flags: u32,
    pub(super) length: usize,
    pub(super) bytes: Vec<u8>,
}

/// A number of the client's.
pub(super) struct Fid<T: Tree> {
    pub(super) place: Arc<Place<T>>,
    pub(super) user: GuestUid,
    pub(super) used: Use<T>,
    /// Where it is written down, if anything is.
    pub(super) row: Option<Row>,
}

/// All of one connection in one share.
pub(super) struct Fids<T: Tree> {
    table: HashMap<u32, Fid<T>>,
}

impl<T: Tree> Default for Fids<T> {
    fn default() -> Self {
        Self {
            table: HashMap::new(),
        }
    }
}

impl<T: Tree> Fids<T> {
    pub(super) fn find(&self, number: u32) -> Result<&Fid<T>> {
        self.table.get(&number).ok_or(Errno::BADF)
    }

    pub(super) fn find_mut(&mut self, number: u32) -> Result<&mut Fid<T>> {
        self.table.get_mut(&number).ok_or(Errno::BADF)
    }

    /// Whether the number could be given to something new: EINVAL where it is in use, ENFILE at the bound.
    pub(super) fn check_new(&self, number: u32) -> Result<()> {
        if self.table.contains_key(&number) {
            return Err(Errno::INVAL);
        }
        if self.table.len() >= MOST_FIDS {
            return Err(Errno::NFILE);
        }
        Ok(())
    }

    pub(super) fn add(&mut self, number: u32, fid: Fid<T>) -> Result<()> {
        self.check_new(number)?;
        if let Entry::Vacant(place) = self.table.entry(number) {
            place.insert(fid);
        }
        Ok(())
    }

    pub(super) fn remove(&mut self, number: u32) -> Result<Fid<T>> {
        self.table.remove(&number).ok_or(Errno::BADF)
    }

    pub(super) fn count(&self) -> usize {
        self.table.len()
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Fid<T>> {
        self.table.values()
    }
}

impl<T: Tree> Fid<T> {
    pub(super) fn unused(place: Arc<Place<T>>, user: GuestUid) -> Self {
        Self {
            place,
            user,
            used: Use::Nothing,
            row: None,
        }
    }

    pub(super) fn is_unused(&self) -> bool {
        matches!(self.used, Use::Nothing)
    }

    /// The file that is open here.
    pub(super) fn file(&self) -> Result<(&Arc<T::File>, bool)> {
        match &self.used {
            Use::File { open, append, .. } => Ok((open, *append)),
            Use::Directory(_) => Err(Errno::ISDIR),
            Use::Nothing | Use::Reading(_) | Use::Writing(_) => Err(Errno::BADF),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::memory::MemoryTree;

    #[test]
    fn a_way_of_many_folders_ends_without_a_deep_stack() {
        let tree = MemoryTree::new();
        let name = Name::new(c"n").unwrap();
        let mut place = Arc::new(Place::<MemoryTree>::root(tree.root().unwrap()));
        for _ in 0..200_000 {
            place = Arc::new(Place::below(&place, name, tree.root().unwrap()));
        }
        let middle = Arc::clone(&place.above.as_ref().unwrap().folder);
        drop(place);
        assert_eq!(Arc::strong_count(&middle), 1);
    }

    #[test]
    fn a_number_is_given_once_at_a_time() {
        let tree = MemoryTree::new();
        let place = Arc::new(Place::<MemoryTree>::root(tree.root().unwrap()));
        let fid = || Fid::unused(Arc::clone(&place), GuestUid(0));
        let mut fids = Fids::default();
        fids.add(7, fid()).unwrap();
        assert_eq!(fids.add(7, fid()), Err(Errno::INVAL));
        fids.remove(7).unwrap();
        fids.add(7, fid()).unwrap();
        assert_eq!(fids.remove(8).map(|_| ()), Err(Errno::BADF));
        assert_eq!(fids.count(), 1);
    }
}
