//! Names and attributes: LOOKUP, FORGET, GETATTR, SETATTR, LINK, and the answer all makers share.

use std::sync::atomic::Ordering;

use rustix::io::Errno;

use super::{Answer, Session, State, Turn, file, node};
use crate::fuse::nodes::Told;
use crate::fuse::reply;
use crate::fuse::wire::{self, Output, ability};
use crate::keep::journal;
use crate::tree::host::acl::DEFAULT;
use crate::tree::{
    Attributes, Changes, Found, Identity, Kind, Name, RenameHow, Renames, Result, Tree,
};

/// A node that stays held until this is dropped.
pub(super) struct Kept<'t, T: Tree> {
    tree: &'t T,
    node: T::Node,
}

impl<T: Tree> Drop for Kept<'_, T> {
    fn drop(&mut self) {
        self.tree.unpin(&self.node);
    }
}

/// Whether the guest knew a node that it is told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Met {
    New,
    Before,
}

impl<T: Tree> Session<T> {
    pub(super) fn lookup(
        &self,
        state: &State<T>,
        turn: &mut Turn<'_, '_>,
        name: Name<'_>,
    ) -> Result<Answer> {
        let parent = node(state, turn.header.node)?;
        let output = &mut Output::new(turn.reply);
        let look_first = !state.finds_new.load(Ordering::Relaxed);
        match self.child_into(state, output, &parent, name, look_first) {
            Ok(found) => {
                state.finds_new.store(found == Met::New, Ordering::Relaxed);
                Ok(Answer::Built)
            }
            Err(Errno::NOENT) if self.cache.remembers_missing() => {
                reply::no_entry(&mut Output::new(turn.reply), self.cache.validity());
                Ok(Answer::Built)
            }
            Err(error) => Err(error),
        }
    }

    /// Tells the guest of what a name stands for.
    ///
    /// To look costs the host one call and is all for a node that the guest knows; a new one must be
    /// opened, which costs three, and then the look was for nothing. Kernels ask for names in runs, new
    /// ones when a tree is walked, known ones when it is used; the caller says what is more likely.
    pub(super) fn child_into(
        &self,
        state: &State<T>,
        output: &mut Output<'_>,
        parent: &T::Node,
        name: Name<'_>,
        look_first: bool,
    ) -> Result<Met> {
        if look_first {
            let attributes = self.tree.look(parent, name)?;
            if let Some(number) = self.told_again(state, attributes.identity) {
                journal::told(journal::Told::Node(number));
                let whole = if T::LOOKS_WHOLE {
                    Ok(attributes)
                } else {
                    let known = node(state, number).and_then(|known| self.tree.attributes(&known));
                    // Not told after all.
                    known.inspect_err(|_| self.forget(state, number, 1))
                };
                self.told(output, number, &whole?, parent);
                return Ok(Met::Before);
            }
        }
        let found = self.tree.child(parent, name)?;
        Ok(self.entry_into(state, output, parent, found).1)
    }

    /// Tells the guest of a node it gets to know, or knows better.
    pub(super) fn entry(
        &self,
        state: &State<T>,
        turn: &mut Turn<'_, '_>,
        parent: &T::Node,
        found: Found<T::Node>,
    ) -> Answer {
        self.entry_into(state, &mut Output::new(turn.reply), parent, found);
        Answer::Built
    }

    pub(super) fn entry_into(
        &self,
        state: &State<T>,
        output: &mut Output<'_>,
        parent: &T::Node,
        found: Found<T::Node>,
    ) -> (u64, Met) {
        let Found { node, attributes } = found;
        let identity = attributes.identity;
        let Told { number, unneeded } = state.nodes.told(node, identity, &*self.tree);
        journal::told(journal::Told::Node(number));
        let met = if unneeded.is_some() {
            Met::Before
        } else {
            Met::New
        };
        drop(unneeded);
        self.told(output, number, &attributes, parent);
        (number, met)
    }

    fn told_again(&self, state: &State<T>, identity: Identity) -> Option<u64> {
        let is_held = |node: &T::Node| self.tree.is_held(node);
        state.nodes.told_again(identity, is_held)
    }

    fn told(
        &self,
        output: &mut Output<'_>,
        number: u64,
        attributes: &Attributes,
        parent: &T::Node,
    ) {
        let flags = self.attribute_flags(attributes, self.tree.identity(parent).mount);
        reply::entry(output, number, attributes, self.cache.validity(), flags);
    }

    /// A directory that is mounted on its parent becomes a mount in the guest too, so that the two
    /// file systems' inode numbers cannot be taken for one another.
    fn attribute_flags(&self, attributes: &Attributes, mount_above: u64) -> u32 {
        let mounted_here =
            attributes.kind == Kind::Directory && attributes.identity.mount != mount_above;
        if mounted_here && self.agreed(ability::SUBMOUNTS) {
            wire::ATTR_SUBMOUNT
        } else {
            0
        }
    }

    /// Forgets a list, from where it was left if it was begun before. An entry is crossed out before it is
    /// forgotten: one that is forgotten twice would be an error of the guest's next request.
    pub(super) fn forget_all(&self, state: &State<T>, list: impl Iterator<Item = (u64, u64)>) {
        list.skip(journal::forgotten())
            .for_each(|(number, lookups)| {
                journal::forget_one();
                self.forget(state, number, lookups);
            });
    }

    pub(super) fn forget(&self, state: &State<T>, number: u64, lookups: u64) {
        if !state.nodes.forget(number, lookups, &*self.tree) {
            self.counters.malformed.one();
        }
    }

    pub(super) fn attributes(&self, state: &State<T>, turn: &mut Turn<'_, '_>) -> Result<Answer> {
        let attributes = self.tree.attributes(&node(state, turn.header.node)?)?;
        reply::attributes_out(
            &mut Output::new(turn.reply),
            &attributes,
            self.cache.validity(),
            0,
        );
        Ok(Answer::Built)
    }

    pub(super) fn change(
        &self,
        state: &State<T>,
        turn: &mut Turn<'_, '_>,
        handle: Option<u64>,
        changes: &Changes,
    ) -> Result<Answer> {
        let changed = node(state, turn.header.node)?;
        let open = handle.map(|handle| file(state, handle)).transpose()?;
        let attributes = self.apply(&changed, open.as_deref(), changes)?;
        reply::attributes_out(
            &mut Output::new(turn.reply),
            &attributes,
            self.cache.validity(),
            0,
        );
        Ok(Answer::Built)
    }

    /// What the guest knows by a name that it is about to take away: it may use it without the name, and
    /// without the name it could not be found again.
    pub(super) fn keep(
        &self,
        state: &State<T>,
        folder: &T::Node,
        name: Name<'_>,
    ) -> Option<Kept<'_, T>> {
        if !self.tree.upkeep().removals {
            return None;
        }
        let there = self.tree.look(folder, name).ok()?;
        let node = state.nodes.known(there.identity)?;
        // One that is not there any more is not kept.
        self.tree.pin(&node).ok()?;
        let tree = &*self.tree;
        Some(Kept { tree, node })
    }

    /// The mode that something new gets. A folder with a default list has the say where there is one, and the
    /// umask where there is none (umask(2)); who has agreed on no lists masks in the guest.
    pub(super) fn masked(&self, parent: &T::Node, mode: u32, umask: u32) -> u32 {
        let has_list = || self.tree.extended(parent, DEFAULT, &mut []).is_ok();
        if mode & umask & 0o777 != 0 && self.agreed(ability::DONT_MASK) && has_list() {
            mode
        } else {
            mode & !umask
        }
    }

    /// chmod(2) of somebody outside the file's group, who sets a list instead.
    pub(super) fn drop_set_group_id(&self, node: &T::Node) -> Result<()> {
        let mode = self.tree.attributes(node)?.mode;
        if mode & 0o2000 == 0 {
            return Ok(());
        }
        let changes = Changes {
            mode: Some(mode & !0o2000),
            ..Changes::default()
        };
        self.tree.change(node, None, &changes).map(drop)
    }

    pub(super) fn rename(
        &self,
        state: &State<T>,
        (from, old): (&T::Node, Name<'_>),
        (to, new): (&T::Node, Name<'_>),
        how: RenameHow,
    ) -> Result<Answer> {
        self.rename_by(state, (from, old), (to, new), how, |tree| {
            tree.rename((from, old), (to, new), how)
        })?;
        Ok(Answer::Empty)
    }

    /// With what nodes are told of it before and behind.
    pub(super) fn rename_by(
        &self,
        state: &State<T>,
        (from, old): (&T::Node, Name<'_>),
        (to, new): (&T::Node, Name<'_>),
        how: RenameHow,
        rename: impl FnOnce(&T) -> Result<()>,
    ) -> Result<()> {
        let _kept = (!how.exchange).then(|| self.keep(state, to, new)).flatten();
        rename(&self.tree)?;
        let is_told = match self.tree.upkeep().renames {
            Renames::None => false,
            Renames::Between => self.tree.identity(from) != self.tree.identity(to),
            Renames::All => true,
        };
        if is_told {
            let known = |identity| state.nodes.known(identity);
            // Somebody may have taken the new name away already: then there is nothing to be told.
            self.tree.renamed(to, new, &known).ok();
            if how.exchange {
                self.tree.renamed(from, old, &known).ok();
            }
        }
        Ok(())
    }

    pub(super) fn link(
        &self,
        state: &State<T>,
        turn: &mut Turn<'_, '_>,
        linked: u64,
        name: Name<'_>,
    ) -> Result<Answer> {
        let (linked, parent) = (node(state, linked)?, node(state, turn.header.node)?);
        match self.tree.link(&linked, &parent, name) {
            // Made before we were killed, if it is the same file.
            Err(Errno::EXIST) if journal::is_again() => {
                let there = self.tree.look(&parent, name)?;
                if there.identity != self.tree.identity(&linked) {
                    return Err(Errno::EXIST);
                }
            }
            made => drop(made?),
        }
        // Looked up by its new name, so that the answer counts as one more LOOKUP of the same node.
        let found = self.tree.child(&parent, name)?;
        Ok(self.entry(state, turn, &parent, found))
    }
}
