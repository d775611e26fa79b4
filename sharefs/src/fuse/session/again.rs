//! A request that is done again because the process that was at it died, and what a request writes down
//! before it is begun, so that this can be.
//!
//! What the request had made for its answer (a node that was counted, an open file) is taken back first:
//! the guest never heard of it. Then:
//!
//! | request | done again |
//! |---|---|
//! | MKDIR, MKNOD, SYMLINK, CREATE | what stands there since the request was begun, and is empty, is removed; then as ever |
//! | LINK | EEXIST is right if it is the same file |
//! | UNLINK, RMDIR | ENOENT: it is done |
//! | RENAME | ENOENT, and the new name is there: it is done |
//! | RENAME with exchange or whiteout | done if the old name stands for something else than before |
//! | WRITE that appends | the file was so long before: what is there of the data is not written again |
//! | SETXATTR that creates | EEXIST is right if the value is the same |
//! | REMOVEXATTR | ENODATA: it is done |
//! | RELEASE, RELEASEDIR | EBADF: it is done |
//! | FORGET, BATCH_FORGET | from the entry that was next (`names.rs`) |
//! | SETLK, SETLKW, OPEN, SETATTR, WRITE at a place and all others | as ever: twice is the same as once |
//!
//! Where nothing was noted of the moment before, nothing was done, and whoever does it again notes it: it may die, too.
//!
//! What another program does to the same name in the same moment can be taken for ours, or ours for its.

use rustix::io::Errno;

use super::{Answer, Session, State, Turn, node};
use crate::fuse::request::Operation;
use crate::fuse::wire::{self, Output};
use crate::keep::journal::{self, Told};
use crate::sys;
use crate::tree::{ExtendedHow, Name, RenameHow, Result, Tree, WholeLock, undo};

impl<T: Tree> Session<T> {
    /// The answer, for a request that was done before. None: it is to be done as ever.
    pub(super) fn begin_or_begin_again(
        &self,
        state: &State<T>,
        turn: &mut Turn<'_, '_>,
        operation: &Operation<'_>,
    ) -> Result<Option<Answer>> {
        if !journal::is_again() {
            if journal::is_on() {
                self.note(state, turn, operation);
            }
            return Ok(None);
        }
        while let Some(told) = journal::take_told() {
            self.take_back(state, told);
        }
        self.again(state, turn, operation)
    }

    /// What has to be known of the moment before.
    fn note(&self, state: &State<T>, turn: &Turn<'_, '_>, operation: &Operation<'_>) {
        match operation {
            Operation::MakeDirectory { .. }
            | Operation::MakeNode { .. }
            | Operation::MakeSymbolicLink { .. }
            | Operation::Create { .. } => journal::note_moment(),
            Operation::Write { append: true, .. } => {
                let asked = node(state, turn.header.node);
                if let Ok(attributes) = asked.and_then(|node| self.tree.attributes(&node)) {
                    journal::note_inode(attributes.size);
                }
            }
            Operation::Rename { old, how, .. } if is_two_way(*how) => {
                if let Ok(attributes) =
                    node(state, turn.header.node).and_then(|parent| self.tree.look(&parent, *old))
                {
                    journal::note_inode(attributes.identity.inode);
                }
            }
            // The table above says why nothing is needed.
            Operation::Init(_)
            | Operation::Destroy
            | Operation::Interrupt { .. }
            | Operation::Lookup(_)
            | Operation::Forget { .. }
            | Operation::BatchForget(_)
            | Operation::Attributes
            | Operation::ExtendedAttributes
            | Operation::Change { .. }
            | Operation::ReadLink
            | Operation::Link { .. }
            | Operation::Open(_)
            | Operation::CreateUnnamed { .. }
            | Operation::Read { .. }
            | Operation::Write { .. }
            | Operation::Statistics
            | Operation::Release { .. }
            | Operation::Flush { .. }
            | Operation::Sync { .. }
            | Operation::SetExtended { .. }
            | Operation::Extended { .. }
            | Operation::ListExtended { .. }
            | Operation::OpenDirectory
            | Operation::ReadDirectory { .. }
            | Operation::ReleaseDirectory { .. }
            | Operation::SyncDirectory { .. }
            | Operation::TestLock(_)
            | Operation::SetLock { .. }
            | Operation::Access(_)
            | Operation::Allocate { .. }
            | Operation::Seek { .. }
            | Operation::CopyRange { .. }
            | Operation::SyncAll
            | Operation::Control
            | Operation::Unknown
            | Operation::Rename { .. }
            | Operation::RemoveFile(_)
            | Operation::RemoveDirectory(_)
            | Operation::RemoveExtended { .. } => {}
        }
    }

    fn take_back(&self, state: &State<T>, told: Told) {
        match told {
            Told::Node(number) => {
                state.nodes.forget(number, 1, &*self.tree);
            }
            Told::File(handle) => {
                if let Some(open) = state.files.remove(handle) {
                    self.tree.lock_whole(&open, WholeLock::Unlock).ok();
                }
            }
            Told::Folder(handle) => drop(state.directories.remove(handle)),
        }
    }

    fn again(
        &self,
        state: &State<T>,
        turn: &mut Turn<'_, '_>,
        operation: &Operation<'_>,
    ) -> Result<Option<Answer>> {
        let number = turn.header.node;
        let done = match operation {
            Operation::MakeDirectory { name, .. }
            | Operation::MakeNode { name, .. }
            | Operation::MakeSymbolicLink { name, .. }
            | Operation::Create { name, .. } => {
                self.unmake(&node(state, number)?, *name);
                return Ok(None);
            }
            Operation::RemoveFile(name) => {
                let folder = node(state, number)?;
                let _kept = self.keep(state, &folder, *name);
                unless(Errno::NOENT, self.tree.remove_file(&folder, *name))
            }
            Operation::RemoveDirectory(name) => {
                let folder = node(state, number)?;
                let _kept = self.keep(state, &folder, *name);
                unless(Errno::NOENT, self.tree.remove_directory(&folder, *name))
            }
            Operation::Rename {
                old,
                folder,
                new,
                how,
            } => {
                let (from, to) = (node(state, number)?, node(state, *folder)?);
                self.rename_by(state, (&from, *old), (&to, *new), *how, |_| {
                    self.rename_again((&from, *old), (&to, *new), *how)
                })
            }
            Operation::Write {
                handle,
                size,
                append: true,
                ..
            } => {
                let size = usize::try_from(*size).unwrap_or(usize::MAX);
                let Some(count) = self.append_again(state, turn, (number, *handle), size)? else {
                    return Ok(None);
                };
                Output::new(turn.reply)
                    .u32(u32::try_from(count).unwrap_or(u32::MAX))
                    .u32(0);
                return Ok(Some(Answer::Built));
            }
            Operation::SetExtended {
                name,
                value,
                how: how @ ExtendedHow::Create,
                drop_set_group_id,
            } => {
                let node = node(state, number)?;
                match self.tree.set_extended(&node, name, value, *how) {
                    Err(Errno::EXIST) => {
                        let mut there = vec![0; value.len() + 1];
                        let length = self.tree.extended(&node, name, &mut there)?;
                        if there.get(..length) != Some(*value) {
                            return Err(Errno::EXIST);
                        }
                    }
                    other => other?,
                }
                if *drop_set_group_id {
                    self.drop_set_group_id(&node)?;
                }
                Ok(())
            }
            Operation::RemoveExtended { name } => unless(
                Errno::NODATA,
                self.tree.remove_extended(&node(state, number)?, name),
            ),
            Operation::Release { handle, .. } if state.files.find(*handle).is_none() => Ok(()),
            Operation::ReleaseDirectory { handle } if state.directories.find(*handle).is_none() => {
                Ok(())
            }
            // Twice is the same as once: see the table above.
            Operation::Init(_)
            | Operation::Destroy
            | Operation::Interrupt { .. }
            | Operation::Lookup(_)
            | Operation::Forget { .. }
            | Operation::BatchForget(_)
            | Operation::Attributes
            | Operation::ExtendedAttributes
            | Operation::Change { .. }
            | Operation::ReadLink
            | Operation::Link { .. }
            | Operation::Open(_)
            | Operation::CreateUnnamed { .. }
            | Operation::Read { .. }
            | Operation::Write { .. }
            | Operation::Statistics
            | Operation::Release { .. }
            | Operation::Flush { .. }
            | Operation::Sync { .. }
            | Operation::SetExtended { .. }
            | Operation::Extended { .. }
            | Operation::ListExtended { .. }
            | Operation::OpenDirectory
            | Operation::ReadDirectory { .. }
            | Operation::ReleaseDirectory { .. }
            | Operation::SyncDirectory { .. }
            | Operation::TestLock(_)
            | Operation::SetLock { .. }
            | Operation::Access(_)
            | Operation::Allocate { .. }
            | Operation::Seek { .. }
            | Operation::CopyRange { .. }
            | Operation::SyncAll
            | Operation::Control
            | Operation::Unknown => return Ok(None),
        };
        done.map(|()| Some(Answer::Empty))
    }

    /// Removes what the request made before, so that it is made by all of its steps.
    fn unmake(&self, parent: &T::Node, name: Name<'_>) {
        match journal::moment() {
            Some(moment) => undo::unmake(&*self.tree, parent, name, moment),
            // Whoever died had done nothing. Who dies from now on may have.
            None => journal::note_moment(),
        }
    }

    fn rename_again(
        &self,
        (from, old): (&T::Node, Name<'_>),
        (to, new): (&T::Node, Name<'_>),
        how: RenameHow,
    ) -> Result<()> {
        if is_two_way(how) {
            let stands = self.tree.look(from, old)?.identity.inode;
            match journal::inode() {
                Some(before) if before != stands => return Ok(()),
                Some(_) => {}
                // Whoever died had done nothing. Who dies from now on may have.
                None => journal::note_inode(stands),
            }
        }
        match self.tree.rename((from, old), (to, new), how) {
            Err(Errno::NOENT) if self.tree.look(to, new).is_ok() => Ok(()),
            other => other,
        }
    }

    /// The length of what a request that appends has appended, now that it is done again; none: it is to be done as ever.
    fn append_again(
        &self,
        state: &State<T>,
        turn: &mut Turn<'_, '_>,
        (number, handle): (u64, u64),
        size: usize,
    ) -> Result<Option<usize>> {
        let head = wire::IN_HEADER + wire::WRITE_IN;
        let (node, file) = (node(state, number)?, super::file(state, handle)?);
        let Some(before) = journal::inode() else {
            // Whoever died had done nothing. Who dies from now on may have.
            if let Ok(attributes) = self.tree.attributes(&node) {
                journal::note_inode(attributes.size);
            }
            return Ok(None);
        };
        if size > sys::total(turn.request).saturating_sub(head) {
            return Ok(None);
        }
        let mut data = vec![0; size];
        sys::window(turn.request, head, size, |list| {
            sys::gather(list, &mut data)
        });
        undo::append_again(&*self.tree, (&node, &file), before, &data)
    }
}

/// An error that says that it was done.
fn unless(error: Errno, result: Result<()>) -> Result<()> {
    match result {
        Err(said) if said == error => Ok(()),
        other => other,
    }
}

/// Done twice, it is undone.
fn is_two_way(how: RenameHow) -> bool {
    how.exchange || how.whiteout
}
