//! One guest's mount of one share: from INIT to DESTROY, or to the next INIT.
//!
//! A session is used by as many threads as the transport has queues. A guest that reboots begins anew
//! with INIT; all that the one before knew, held open and locked is dropped then.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use rustix::io::Errno;

use super::cache::Cache;
use super::counters::Counters;
use super::exchange::{self, Answer, Turn};
pub(crate) use super::exchange::{Outcome, Scratch};
use super::greeting::{self, LONGEST_DATA, Wishes};
use super::handles::Handles;
use super::locks::Locks;
use super::nodes::{Nodes, Numbering};
use super::reply;
use super::request::{Header, Offer, Operation};
use super::wire::{self, Output};
use crate::keep::Place;
use crate::keep::journal::{self, Told};
use crate::keep::records::Records;
use crate::sys::{Sink, Source};
use crate::tree::{Found, NewNode, Result, Tree};

mod again;
mod files;
mod listing;
mod locking;
mod names;
pub(super) mod part;
mod writeback;

/// Longest answer that is built here and not read straight into the guest: a page list of names.
const LONGEST_REPLY: usize = 128 * 1024;

/// A session, whatever its tree.
pub(crate) trait Serve: Send + Sync {
    /// Serves one request.
    fn handle<'g>(
        &self,
        scratch: &mut Scratch,
        request: &mut [Source<'g>],
        answer: &mut [Sink<'g>],
    ) -> Outcome;
    /// Asks again for a request that waits; None: not yet. The answer is as long as a bare header.
    fn retry(&self, unique: u64) -> Option<[u8; wire::OUT_HEADER]>;
    /// Nobody will ask for this one any more.
    fn abandon(&self, unique: u64);
    /// A request came whose bytes could not even be found.
    fn lost(&self);
    /// Nodes known and handles open.
    fn size(&self) -> (usize, usize);
    /// Whether the guest has the share mounted.
    fn mounted(&self) -> bool;
}

/// See the module's head.
pub(crate) struct Session<T: Tree> {
    tree: Arc<T>,
    cache: Cache,
    counters: Arc<Counters>,
    numbering: Numbering,
    /// Whether the share has access control lists.
    lists: bool,
    /// Whether the guest may write later.
    writeback: bool,
    kept: Option<Kept>,
    /// Abilities agreed on; `MOUNTED` when INIT is through.
    agreed: AtomicU64,
    state: RwLock<Option<Arc<State<T>>>>,
}

/// Where a session is written down for a later process.
pub(crate) struct Kept {
    /// The memory of the mount that is there now.
    pub(crate) place: Place,
    /// Of the share: a mount of other options is not taken up.
    pub(crate) options: u64,
}

/// In `agreed`: a bit that no ability has.
const MOUNTED: u64 = 1 << 63;

/// What one mount knows.
struct State<T: Tree> {
    nodes: Nodes<T::Node>,
    files: Handles<Arc<T::File>>,
    directories: Handles<T::Directory>,
    locks: Locks<T>,
    records: Option<Records>,
    /// The last LOOKUP found something that the guest did not know; see `names.rs`.
    finds_new: AtomicBool,
}

impl<T: Tree> Session<T> {
    pub(crate) fn new(tree: Arc<T>, cache: Cache, counters: Arc<Counters>) -> Self {
        Self {
            tree,
            cache,
            counters,
            numbering: Numbering::default(),
            lists: false,
            writeback: false,
            kept: None,
            agreed: AtomicU64::new(0),
            state: RwLock::new(None),
        }
    }

    /// The same for a share with access control lists.
    pub(crate) fn with_lists(mut self, lists: bool) -> Self {
        self.lists = lists;
        self
    }

    /// The same for a share whose guest may gather writes.
    pub(crate) fn with_writeback(mut self, writeback: bool) -> Self {
        self.writeback = writeback;
        self
    }

    /// The same, written down at that place from now on. What an earlier process left there goes on.
    pub(crate) fn kept(mut self, kept: Kept) -> Self {
        if let Some(left) = kept.place.take() {
            match Records::adopt(left, kept.options) {
                Ok(records) => self.take_up(records),
                Err(error) => tracing::warn!(%error, "a mount is not what it was, and ends"),
            }
        }
        if self.agreed.load(Ordering::Relaxed) == 0 {
            kept.place.put(None);
        }
        self.kept = Some(kept);
        self
    }

    fn take_up(&mut self, records: Records) {
        let tree = &*self.tree;
        let nodes = Nodes::adopted(self.numbering, &records, tree);
        let Some(nodes) = nodes else {
            tracing::warn!("the folder of a mount is not open any more");
            return;
        };
        let files = Handles::adopted(records.files(), |kept| {
            let node = nodes.find(kept.node)?;
            Some(Arc::new(tree.adopt_file(&node, kept.open).ok()?))
        });
        let directories = Handles::adopted(records.folders(), |kept| {
            let node = nodes.find(kept.node)?;
            tree.adopt_directory(&node, kept.open).ok()
        });
        let locks = Locks::recorded(tree, &records);
        self.agreed.store(records.agreed(), Ordering::Relaxed);
        self.replace_state(Some(Arc::new(State {
            nodes,
            files,
            directories,
            locks,
            records: Some(records),
            finds_new: AtomicBool::new(true),
        })));
    }

    fn state(&self) -> Result<Arc<State<T>>> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        // A request before INIT: no kernel does so.
        state.as_ref().map(Arc::clone).ok_or(Errno::IO)
    }

    fn agreed(&self, ability: u64) -> bool {
        self.agreed.load(Ordering::Relaxed) & ability != 0
    }

    fn replace_state(&self, new: Option<Arc<State<T>>>) {
        let old = {
            let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *state, new)
        };
        if let Some(old) = old {
            old.locks.clear();
        }
    }

    fn init(&self, output: &mut Output<'_>, offer: Offer) -> Result<()> {
        let wishes = Wishes {
            keeps_contents: self.cache.keeps_contents(),
            lists: self.lists,
            writeback: self.writeback,
        };
        let Some(agreed) = greeting::answer(output, offer, wishes)? else {
            return Ok(());
        };
        self.begin(agreed)
    }

    /// Serves a request whose header is known.
    fn handle_behind<'g>(
        &self,
        header: Header,
        rest: (&mut Scratch, &mut [Source<'g>], &mut [Sink<'g>]),
    ) -> Outcome {
        exchange::exchange(&self.counters, header, rest, |turn, body| {
            self.serve(turn, body)
        })
    }

    /// A mount begins, with what was agreed on.
    fn begin(&self, agreed: u64) -> Result<()> {
        let Found { node, attributes } = self.tree.root()?;
        let root = self.tree.keep(&node);
        let nodes = Nodes::new(node, attributes.identity, self.numbering);
        // A mount that cannot be written down is served all the same.
        let records = match (&self.kept, &root) {
            (Some(kept), Some(_)) => Records::create(kept.options, agreed | MOUNTED).ok(),
            (Some(_) | None, _) => None,
        };
        let state = match (&records, root) {
            (Some(records), Some(root)) => State {
                nodes: nodes.recorded(&*self.tree, &root, records),
                files: Handles::recorded(records.files()),
                directories: Handles::recorded(records.folders()),
                locks: Locks::recorded(&*self.tree, records),
                records: Some(records.clone()),
                finds_new: AtomicBool::new(true),
            },
            _ => State {
                nodes,
                files: Handles::default(),
                directories: Handles::default(),
                locks: Locks::default(),
                records: None,
                finds_new: AtomicBool::new(true),
            },
        };
        self.leave(state.records.as_ref());
        self.replace_state(Some(Arc::new(state)));
        self.agreed.store(agreed | MOUNTED, Ordering::Relaxed);
        Ok(())
    }

    /// What a later process goes on with from now on.
    fn leave(&self, records: Option<&Records>) {
        if let Some(kept) = &self.kept {
            kept.place.put(records.map(Records::number));
        }
    }

    fn serve(&self, turn: &mut Turn<'_, '_>, body: &[u8]) -> Result<Answer> {
        let operation = exchange::decode(
            &self.counters,
            &turn.header,
            body,
            self.agreed.load(Ordering::Relaxed),
        )?;
        let number = turn.header.node;
        if let Operation::Init(offer) = operation {
            self.init(&mut Output::new(turn.reply), offer)?;
            return Ok(Answer::Built);
        }
        let state = &*self.state()?;
        if let Some(answer) = self.begin_or_begin_again(state, turn, &operation)? {
            return Ok(answer);
        }
        match operation {
            Operation::Interrupt { unique } => {
                state.locks.interrupt(unique);
                Ok(Answer::Silent)
            }
            Operation::Forget { lookups } => {
                self.forget_all(state, std::iter::once((number, lookups)));
                Ok(Answer::Silent)
            }
            Operation::BatchForget(list) => {
                self.forget_all(state, list);
                Ok(Answer::Silent)
            }
            Operation::Lookup(name) => self.lookup(state, turn, name),
            Operation::Attributes => self.attributes(state, turn),
            Operation::ExtendedAttributes => {
                let attributes = self.tree.attributes(&node(state, number)?)?;
                reply::statx(
                    &mut Output::new(turn.reply),
                    &attributes,
                    self.cache.validity(),
                );
                Ok(Answer::Built)
            }
            Operation::Change { handle, changes } => self.change(state, turn, handle, &changes),
            Operation::ReadLink => {
                self.tree.read_link(&node(state, number)?, turn.text)?;
                Output::new(turn.reply).raw(turn.text);
                Ok(Answer::Built)
            }
            Operation::MakeSymbolicLink { name, target } => {
                let parent = node(state, number)?;
                let found =
                    self.tree
                        .make_symbolic_link(turn.header.caller, &parent, name, target)?;
                Ok(self.entry(state, turn, &parent, found))
            }
            Operation::MakeNode { name, new, umask } => {
                let parent = node(state, number)?;
                let mode = self.masked(&parent, new.mode, umask);
                let new = NewNode { mode, ..new };
                let found = self
                    .tree
                    .make_node(turn.header.caller, &parent, name, new)?;
                Ok(self.entry(state, turn, &parent, found))
            }
            Operation::MakeDirectory { name, mode, umask } => {
                let parent = node(state, number)?;
                let mode = self.masked(&parent, mode, umask);
                let found = self
                    .tree
                    .make_directory(turn.header.caller, &parent, name, mode)?;
                Ok(self.entry(state, turn, &parent, found))
            }
            Operation::RemoveFile(name) => {
                let folder = node(state, number)?;
                let _kept = self.keep(state, &folder, name);
                self.tree.remove_file(&folder, name)?;
                Ok(Answer::Empty)
            }
            Operation::RemoveDirectory(name) => {
                let folder = node(state, number)?;
                let _kept = self.keep(state, &folder, name);
                self.tree.remove_directory(&folder, name)?;
                Ok(Answer::Empty)
            }
            Operation::Rename {
                old,
                folder,
                new,
                how,
            } => {
                let (from, to) = (node(state, number)?, node(state, folder)?);
                self.rename(state, (&from, old), (&to, new), how)
            }
            Operation::Link { node: linked, name } => self.link(state, turn, linked, name),
            Operation::Open(how) => self.open(state, turn, how),
            Operation::Create {
                name,
                mode,
                umask,
                how,
                must_be_new,
            } => {
                let parent = node(state, number)?;
                let mode = self.masked(&parent, mode, umask);
                self.create(state, turn, (&parent, name), (mode, how), must_be_new)
            }
            Operation::CreateUnnamed { mode, umask, how } => {
                let parent = node(state, number)?;
                let mode = self.masked(&parent, mode, umask);
                self.create_unnamed(state, turn, &parent, (mode, how))
            }
            Operation::Read {
                handle,
                offset,
                size,
            } => self.read(state, turn, handle, (offset, size)),
            Operation::Write {
                handle,
                offset,
                size,
                append,
                drop_privileges,
            } => {
                let how = files::WriteHow {
                    append,
                    drop_privileges,
                };
                self.write(state, turn, handle, (offset, size), how)
            }
            Operation::Statistics => {
                let statistics = self.tree.statistics(&node(state, number)?)?;
                reply::statistics(&mut Output::new(turn.reply), &statistics);
                Ok(Answer::Built)
            }
            Operation::Release {
                handle,
                unlock_whole,
            } => self.release(state, handle, unlock_whole),
            Operation::Flush { handle, owner } => self.flush(state, number, handle, owner),
            Operation::Sync { handle, data_only } => {
                self.tree.sync(&*file(state, handle)?, data_only)?;
                Ok(Answer::Empty)
            }
            Operation::SetExtended {
                name,
                value,
                how,
                drop_set_group_id,
            } => {
                let changed = node(state, number)?;
                self.tree.set_extended(&changed, name, value, how)?;
                if drop_set_group_id {
                    self.drop_set_group_id(&changed)?;
                }
                Ok(Answer::Empty)
            }
            Operation::Extended { name, room } => self.extended(state, turn, Some(name), room),
            Operation::ListExtended { room } => self.extended(state, turn, None, room),
            Operation::RemoveExtended { name } => {
                self.tree.remove_extended(&node(state, number)?, name)?;
                Ok(Answer::Empty)
            }
            Operation::OpenDirectory => {
                let directory = self.tree.open_directory(&node(state, number)?)?;
                let open = self.tree.keep_directory(&directory);
                let open = open.map(|open| (open, number));
                let handle = state.directories.add(directory, open);
                journal::told(Told::Folder(handle));
                Output::new(turn.reply)
                    .u64(handle)
                    .u32(self.cache.directory_flags())
                    .u32(0);
                Ok(Answer::Built)
            }
            Operation::ReadDirectory {
                handle,
                offset,
                room,
                plus,
            } => self.read_directory(state, turn, handle, listing::Wanted { offset, room, plus }),
            Operation::ReleaseDirectory { handle } => {
                state.directories.remove(handle).ok_or(Errno::BADF)?;
                Ok(Answer::Empty)
            }
            Operation::SyncDirectory { handle, data_only } => {
                let directory = state.directories.find(handle).ok_or(Errno::BADF)?;
                self.tree.sync_directory(&directory, data_only)?;
                Ok(Answer::Empty)
            }
            Operation::TestLock(request) => self.test_lock(state, turn, &request),
            Operation::SetLock { lock, wait } => self.set_lock(state, turn, &lock, wait),
            Operation::Access(wanted) => {
                self.tree.access(&node(state, number)?, wanted)?;
                Ok(Answer::Empty)
            }
            Operation::Allocate { handle, wanted } => {
                self.tree.allocate(&*file(state, handle)?, wanted)?;
                Ok(Answer::Empty)
            }
            Operation::Seek {
                handle,
                offset,
                whence,
            } => self.seek(state, turn, handle, offset, whence),
            Operation::CopyRange {
                from,
                read_at,
                node: written,
                to,
                write_at,
                length,
            } => {
                // The other share's handles are numbers of another table.
                if state.nodes.is_elsewhere(written) {
                    return Err(Errno::XDEV);
                }
                self.copy_range(state, turn, (from, read_at), (to, write_at), length)
            }
            Operation::SyncAll => {
                self.tree.sync_all(&node(state, number)?)?;
                Ok(Answer::Empty)
            }
            Operation::Destroy => {
                self.agreed.store(0, Ordering::Relaxed);
                self.leave(None);
                self.replace_state(None);
                Ok(Answer::Empty)
            }
            Operation::Control => Err(Errno::NOTTY),
            Operation::Unknown => {
                self.counters.unknown.one();
                Err(Errno::NOSYS)
            }
            // Answered above: it is the one that needs no mount.
            Operation::Init(_) => Err(Errno::PROTO),
        }
    }
}

fn node<T: Tree>(state: &State<T>, number: u64) -> Result<T::Node> {
    state.nodes.find(number).ok_or_else(|| {
        if state.nodes.is_elsewhere(number) {
            // A second node, of another share of the same device.
            Errno::XDEV
        } else {
            Errno::STALE
        }
    })
}

fn file<T: Tree>(state: &State<T>, handle: u64) -> Result<Arc<T::File>> {
    state
        .files
        .find(handle)
        .map(|file| Arc::clone(&*file))
        .ok_or(Errno::BADF)
}

impl<T: Tree> Drop for Session<T> {
    /// Nobody goes on with it. First of all, so that no number is left of what is closed behind.
    fn drop(&mut self) {
        if let (Some(kept), Ok(state)) = (&self.kept, self.state())
            && let Some(records) = &state.records
        {
            kept.place.withdraw(records.number());
        }
    }
}

impl<T: Tree> Serve for Session<T> {
    fn handle<'g>(
        &self,
        scratch: &mut Scratch,
        request: &mut [Source<'g>],
        answer: &mut [Sink<'g>],
    ) -> Outcome {
        match exchange::header(&self.counters, request) {
            Some(header) => self.handle_behind(header, (scratch, request, answer)),
            None => Outcome::Done(0),
        }
    }

    fn retry(&self, unique: u64) -> Option<[u8; wire::OUT_HEADER]> {
        let answer = match self.state() {
            Ok(state) => state.locks.retry(&self.tree, unique)?,
            Err(_) => Err(Errno::INTR),
        };
        Some(wire::out_header(unique, answer.err(), 0))
    }

    fn abandon(&self, unique: u64) {
        if let Ok(state) = self.state() {
            state.locks.abandon(unique);
        }
    }

    fn lost(&self) {
        self.counters.bad_chains.one();
    }

    fn size(&self) -> (usize, usize) {
        match self.state() {
            Ok(state) => (
                state.nodes.count(),
                state.files.count() + state.directories.count(),
            ),
            Err(_) => (0, 0),
        }
    }

    fn mounted(&self) -> bool {
        self.agreed(MOUNTED)
    }
}
