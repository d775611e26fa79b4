//! A tree in which names that differ only in case are one, on a host where they are two.
//!
//! A name is first tried as it is spelled, so what is spelled right costs nothing. Only a name that is
//! missing is looked for among the folder's names (`known` keeps them). A name keeps the case it was made
//! with; a second one that differs only in case is EEXIST. Where the host made such a pair, each is found by
//! its own spelling, and any other spelling finds the first in the order of bytes. A rename over a name that
//! differs in case replaces that and keeps its spelling, as Windows does; of a name to itself it changes the
//! case. (A Linux guest does not get so far: to its kernel the two are one file already, and done.)
//!
//! Of two who make `a` and `A` at once through one tree one is told EEXIST; through two (a mount on the host has its own)
//! both succeed. A folder of more names than are worth
//! keeping (about 80,000) is read for each name that is missing.

use std::ffi::{CStr, CString};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::io::Errno;

use super::keyed::{KeyedGuard, KeyedMutex};
use super::layer::{Layer, pass_on};
use super::{Attributes, Caller, Found, Identity, Name, NewNode, OpenHow, RenameHow, Result, Tree};
use known::{Folded, Known, Seen, Stamp};

mod known;
#[cfg(test)]
mod tests;

/// Whether case tells names apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Case {
    Exact,
    Insensitive,
}

/// See the module's head.
#[derive(Debug)]
pub(crate) struct CaseTree<T> {
    below: T,
    /// None: case tells names apart.
    folded: Option<FoldedNames>,
}

#[derive(Debug)]
struct FoldedNames {
    known: Mutex<Known>,
    /// Folders that somebody changes the names of, or reads all names of.
    folders: KeyedMutex,
    now: Clock,
}

/// The time since some beginning.
pub(crate) type Clock = fn() -> Duration;

/// Bytes of entries read at once.
const ENTRIES: usize = 64 * 1024;

/// The spelling of a name that is in a folder, or None, and the folder as it was then.
type Spelling = (Option<CString>, Seen);

impl<T: Tree> CaseTree<T> {
    pub(crate) fn new(below: T, case: Case, now: Clock) -> Self {
        let folded = (case == Case::Insensitive).then(|| FoldedNames {
            known: Mutex::default(),
            folders: KeyedMutex::new(),
            now,
        });
        Self { below, folded }
    }

    fn seen(&self, folder: &T::Node) -> Result<Seen> {
        let attributes = self.below.attributes(folder)?;
        Ok(Seen {
            folder: attributes.identity.file(),
            stamp: Stamp::of(&attributes),
        })
    }

    fn hold<'f>(&self, folded: &'f FoldedNames, folder: &T::Node) -> KeyedGuard<'f> {
        folded.folders.lock(self.below.identity(folder))
    }

    /// To be called with that folder held.
    fn spelling(&self, folded: &FoldedNames, folder: &T::Node, name: Name<'_>) -> Result<Spelling> {
        let (seen, begin) = (self.seen(folder)?, (folded.now)());
        if let Some(found) = lock(&folded.known).find(seen, begin, name.as_c_str()) {
            return Ok((found, seen));
        }
        let (names, found) = match self.read(folder, name.as_c_str()) {
            Ok(read) => read,
            // It may be searched but not read: then only the right spelling finds anything.
            Err(Errno::ACCESS) => return Ok((None, seen)),
            Err(error) => return Err(error),
        };
        // What changed meanwhile was read in part: good for this answer, not for the next.
        if let Some(names) = names
            && self.seen(folder)?.stamp == seen.stamp
        {
            lock(&folded.known).learn(seen, (begin, (folded.now)()), names);
        }
        Ok((found, seen))
    }

    /// As [`Self::spelling`], of a name that is there: one that is gone, and nobody told us, is not believed.
    fn true_spelling(
        &self,
        folded: &FoldedNames,
        folder: &T::Node,
        name: Name<'_>,
    ) -> Result<Spelling> {
        let (there, seen) = self.spelling(folded, folder, name)?;
        if let Some(spelled) = &there
            && self.below.look(folder, Name::new(spelled)?).err() == Some(Errno::NOENT)
        {
            lock(&folded.known).forget(seen.folder);
            return self.spelling(folded, folder, name);
        }
        Ok((there, seen))
    }

    /// The whole folder, unless it is too large to keep, and the spelling of `name` in it.
    fn read(&self, folder: &T::Node, name: &CStr) -> Result<(Option<Folded>, Option<CString>)> {
        let directory = self.below.open_directory(folder)?;
        let (mut all, mut alike) = (Some(Folded::default()), Folded::default());
        let wanted = control::fold::name(name.to_bytes());
        let mut from = 0;
        loop {
            let start = from;
            self.below
                .entries(&directory, start, ENTRIES, &mut |entry| {
                    from = entry.next;
                    if Name::new(entry.name).is_err() {
                        return true;
                    }
                    if control::fold::name(entry.name.to_bytes()) == wanted {
                        alike.add(entry.name);
                    }
                    if let Some(names) = &mut all {
                        names.add(entry.name);
                    }
                    if all.as_ref().is_some_and(Folded::is_too_large) {
                        all = None;
                    }
                    true
                })?;
            if from == start {
                return Ok((all, alike.find(name).map(CStr::to_owned)));
            }
        }
    }

    /// Does `work` with the name as it is spelled in the folder, where `name` itself is not there.
    fn old<R>(
        &self,
        folder: &T::Node,
        name: Name<'_>,
        work: impl Fn(Name<'_>) -> Result<R>,
    ) -> Result<R> {
        let folded = match (work(name), &self.folded) {
            (Err(Errno::NOENT), Some(folded)) => folded,
            (done, _) => return done,
        };
        let seen = self.seen(folder)?;
        let known = lock(&folded.known).find(seen, (folded.now)(), name.as_c_str());
        let spelled = match known {
            // Who has changed it has told of it, and who is about to comes behind us: there is nothing to wait for.
            Some(None) => None,
            Some(Some(_)) | None => {
                let _held = self.hold(folded, folder);
                self.true_spelling(folded, folder, name)?.0
            }
        };
        // Also where that is the name itself, which was not there just now.
        work(Name::new(&spelled.ok_or(Errno::NOENT)?)?)
    }

    /// Does `work`, which makes `name`, unless there is one that differs only in case.
    fn new_name<R>(
        &self,
        folder: &T::Node,
        name: Name<'_>,
        work: impl FnOnce() -> Result<R>,
    ) -> Result<R> {
        let Some(folded) = &self.folded else {
            return work();
        };
        let _held = self.hold(folded, folder);
        let (there, before) = match self.true_spelling(folded, folder, name) {
            // Not a folder: `work` says so.
            Err(Errno::NOTDIR) => return work(),
            other => other?,
        };
        if there.is_some() {
            return Err(Errno::EXIST);
        }
        let made = work().inspect_err(|_| {
            // It can be there all the same (made, and not found for want of a descriptor), or have been all along.
            if self.below.look(folder, name).err() != Some(Errno::NOENT) {
                lock(&folded.known).forget(before.folder);
            }
        })?;
        self.changed(folded, folder, before, None, Some(name.as_c_str()));
        Ok(made)
    }

    /// Does `work`, which takes a name away; it is told how the name is spelled.
    fn remove(
        &self,
        folder: &T::Node,
        name: Name<'_>,
        work: impl Fn(Name<'_>) -> Result<()>,
    ) -> Result<()> {
        let Some(folded) = &self.folded else {
            return work(name);
        };
        self.old(folder, name, |name| {
            let _held = self.hold(folded, folder);
            let before = self.seen(folder)?;
            work(name)?;
            self.changed(folded, folder, before, Some(name.as_c_str()), None);
            Ok(())
        })
    }

    fn changed(
        &self,
        folded: &FoldedNames,
        folder: &T::Node,
        before: Seen,
        gone: Option<&CStr>,
        made: Option<&CStr>,
    ) {
        // A folder whose stamp cannot be had keeps the old one, which nothing will match.
        let after = self.seen(folder).map_or(before.stamp, |seen| seen.stamp);
        lock(&folded.known).changed(before, after, gone, made);
    }

    fn rename_folded(
        &self,
        folded: &FoldedNames,
        (from, old): (&T::Node, Name<'_>),
        (to, new): (&T::Node, Name<'_>),
        how: RenameHow,
    ) -> Result<()> {
        let folders = [from, to].map(|folder| self.below.identity(folder));
        let _held = folded.folders.lock_both(folders);
        let (there, to_before) = self.true_spelling(folded, to, new)?;
        // As it is spelled it is found though nothing is known of it.
        let (spelled, from_before) = if self.below.look(from, old).is_ok() {
            (old.as_c_str().to_owned(), self.seen(from)?)
        } else {
            let (spelled, before) = self.true_spelling(folded, from, old)?;
            (spelled.ok_or(Errno::NOENT)?, before)
        };
        let is_itself = to_before.folder == from_before.folder && there.as_ref() == Some(&spelled);
        let target = there.as_deref().filter(|_| !is_itself);
        let target = target.unwrap_or(new.as_c_str());
        let old = Name::new(&spelled)?;
        self.below
            .rename((from, old), (to, Name::new(target)?), how)?;
        // Two names of one file: the kernel does nothing, and both stay (rename(2)).
        let stays = there.is_some() && !is_itself && self.below.child(from, old).is_ok();
        let gone = (!how.exchange && !how.whiteout && !stays).then_some(spelled.as_c_str());
        if to_before.folder == from_before.folder {
            self.changed(folded, to, to_before, gone, Some(target));
        } else {
            self.changed(folded, from, from_before, gone, None);
            self.changed(folded, to, to_before, None, Some(target));
        }
        Ok(())
    }
}

fn lock(known: &Mutex<Known>) -> MutexGuard<'_, Known> {
    known.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<T: Tree> Layer for CaseTree<T> {
    type Below = T;

    fn below(&self) -> &T {
        &self.below
    }
    fn node(node: &T::Node) -> &T::Node {
        node
    }
    fn file(file: &T::File) -> &T::File {
        file
    }
    fn directory(directory: &T::Directory) -> &T::Directory {
        directory
    }
}

impl<T: Tree> Tree for CaseTree<T> {
    type Node = T::Node;
    type File = T::File;
    type Directory = T::Directory;
    type Locks = T::Locks;

    const LOOKS_WHOLE: bool = T::LOOKS_WHOLE;

    pass_on! {
        keeping keeping_open is_short_of_nodes root identity upkeep attributes change read_link create_unnamed open read write
        drop_privileges flush sync allocate seek copy_range locking open_directory entries
        sync_directory whole access extended list_extended set_extended
    }

    fn renamed(
        &self,
        folder: &T::Node,
        name: Name<'_>,
        known: &dyn Fn(Identity) -> Option<T::Node>,
    ) -> Result<()> {
        self.old(folder, name, |name| self.below.renamed(folder, name, known))
    }

    fn child(&self, parent: &T::Node, name: Name<'_>) -> Result<Found<T::Node>> {
        self.old(parent, name, |name| self.below.child(parent, name))
    }

    fn look(&self, parent: &T::Node, name: Name<'_>) -> Result<Attributes> {
        self.old(parent, name, |name| self.below.look(parent, name))
    }

    fn make_directory(
        &self,
        caller: Caller,
        parent: &T::Node,
        name: Name<'_>,
        mode: u32,
    ) -> Result<Found<T::Node>> {
        self.new_name(parent, name, || {
            self.below.make_directory(caller, parent, name, mode)
        })
    }

    fn make_node(
        &self,
        caller: Caller,
        parent: &T::Node,
        name: Name<'_>,
        new: NewNode,
    ) -> Result<Found<T::Node>> {
        self.new_name(parent, name, || {
            self.below.make_node(caller, parent, name, new)
        })
    }

    fn make_symbolic_link(
        &self,
        caller: Caller,
        parent: &T::Node,
        name: Name<'_>,
        target: &CStr,
    ) -> Result<Found<T::Node>> {
        self.new_name(parent, name, || {
            self.below.make_symbolic_link(caller, parent, name, target)
        })
    }

    fn create(
        &self,
        caller: Caller,
        parent: &T::Node,
        name: Name<'_>,
        new: (u32, OpenHow),
    ) -> Result<(Found<T::Node>, T::File)> {
        self.new_name(parent, name, || {
            self.below.create(caller, parent, name, new)
        })
    }

    fn link(&self, node: &T::Node, parent: &T::Node, name: Name<'_>) -> Result<Attributes> {
        self.new_name(parent, name, || self.below.link(node, parent, name))
    }

    fn remove_file(&self, parent: &T::Node, name: Name<'_>) -> Result<()> {
        self.remove(parent, name, |name| self.below.remove_file(parent, name))
    }

    fn remove_directory(&self, parent: &T::Node, name: Name<'_>) -> Result<()> {
        self.remove(parent, name, |name| {
            self.below.remove_directory(parent, name)
        })
    }

    fn rename(
        &self,
        from: (&T::Node, Name<'_>),
        to: (&T::Node, Name<'_>),
        how: RenameHow,
    ) -> Result<()> {
        match &self.folded {
            None => self.below.rename(from, to, how),
            Some(folded) => self.rename_folded(folded, from, to, how),
        }
    }
}
