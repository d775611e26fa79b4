//! One guest's mount of one share: from INIT to DESTROY, or to the next INIT.
//!
//! A session is used by as many threads as the transport has queues. A guest that reboots begins anew
//! with INIT; all that the one before knew, held open and locked is dropped then.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use rustix::io::Errno;

use super::cache::Cache;
use super::counters::Counters;
use super::handles::Handles;
use super::locks::Locks;
use super::nodes::Nodes;
use super::reply;
use super::request::{Header, Offer, Operation};
use super::wire::{self, Output, ability, opcode};
use crate::sys::{self, Sink, Source};
use crate::tree::{Found, Result, Tree};

mod files;
mod listing;
mod locking;
mod names;

/// Longest request without the data of a WRITE: the largest extended attribute (64 KiB), its name, header.
const LONGEST_BODY: usize = 64 * 1024 + 4096;
/// Longest answer that is built here and not read straight into the guest: a page list of names.
const LONGEST_REPLY: usize = 128 * 1024;
/// Bytes of one READ or WRITE: 256 pages, the most a guest's kernel sends.
const LONGEST_DATA: u32 = 1024 * 1024;

/// Buffers of one thread, kept so that no request allocates.
#[derive(Debug)]
pub(crate) struct Scratch {
    request: Vec<u8>,
    reply: Vec<u8>,
    text: Vec<u8>,
}

impl Default for Scratch {
    fn default() -> Self {
        Self {
            request: vec![0; LONGEST_BODY],
            reply: Vec::with_capacity(4096),
            text: Vec::with_capacity(4096),
        }
    }
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// So many bytes of answer are in the guest's memory; 0 where none is due.
    Done(usize),
    /// A lock is waited for: ask `Serve::retry` with this number from time to time.
    Waits(u64),
}

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
    /// Abilities agreed on; `MOUNTED` when INIT is through.
    agreed: AtomicU64,
    state: RwLock<Option<Arc<State<T>>>>,
}

/// In `agreed`: a bit that no ability has.
const MOUNTED: u64 = 1 << 63;

/// What one mount knows.
struct State<T: Tree> {
    nodes: Nodes<T::Node>,
    files: Handles<Arc<T::File>>,
    directories: Handles<T::Directory>,
    locks: Locks<T>,
    /// The last LOOKUP found something that the guest did not know; see `names.rs`.
    finds_new: AtomicBool,
}

/// How a request was answered, error apart.
enum Answer {
    /// No answer is due.
    Silent,
    /// A bare header.
    Empty,
    /// What is in the scratch buffer.
    Built,
    /// So many bytes of data stand behind the header already.
    Placed(usize),
    Waits,
}

/// One request on its way through the session.
struct Turn<'a, 'g> {
    header: Header,
    reply: &'a mut Vec<u8>,
    text: &'a mut Vec<u8>,
    request: &'a mut [Source<'g>],
    answer: &'a mut [Sink<'g>],
}

impl<T: Tree> Session<T> {
    pub(crate) fn new(tree: Arc<T>, cache: Cache, counters: Arc<Counters>) -> Self {
        Self {
            tree,
            cache,
            counters,
            agreed: AtomicU64::new(0),
            state: RwLock::new(None),
        }
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
        if offer.major != wire::MAJOR {
            if offer.major < wire::MAJOR {
                return Err(Errno::PROTO);
            }
            // A newer kernel asks again with our version.
            output.u32(wire::MAJOR).u32(wire::MINOR).zeros(56);
            return Ok(());
        }
        if offer.minor < wire::OLDEST_MINOR {
            return Err(Errno::PROTO);
        }
        let Found { node, attributes } = self.tree.root()?;
        self.replace_state(Some(Arc::new(State {
            nodes: Nodes::new(node, attributes.identity),
            files: Handles::default(),
            directories: Handles::default(),
            locks: Locks::default(),
            finds_new: AtomicBool::new(true),
        })));
        let mut wanted = ability::ASYNC_READ
            | ability::POSIX_LOCKS
            | ability::ATOMIC_O_TRUNC
            | ability::BIG_WRITES
            | ability::FLOCK_LOCKS
            | ability::DO_READDIRPLUS
            | ability::READDIRPLUS_AUTO
            | ability::ASYNC_DIO
            | ability::PARALLEL_DIROPS
            | ability::MAX_PAGES
            | ability::SUBMOUNTS
            | ability::HANDLE_KILLPRIV_V2
            | ability::INIT_EXT
            | ability::DIRECT_IO_ALLOW_MMAP;
        if self.cache.keeps_contents() {
            wanted |= ability::AUTO_INVAL_DATA | ability::CACHE_SYMLINKS;
        }
        let agreed = wanted & offer.abilities;
        self.agreed.store(agreed | MOUNTED, Ordering::Relaxed);
        let (low, high) = (agreed & 0xffff_ffff, agreed >> 32);
        output
            .u32(wire::MAJOR)
            .u32(wire::MINOR.min(offer.minor.max(wire::OLDEST_MINOR)))
            .u32(offer.read_ahead.min(LONGEST_DATA))
            .u32(u32::try_from(low).unwrap_or_default())
            .u16(MOST_BACKGROUND)
            .u16(MOST_BACKGROUND / 4 * 3)
            .u32(LONGEST_DATA)
            .u32(1) // granularity of times: nanoseconds
            .u16(u16::try_from(LONGEST_DATA / 4096).unwrap_or_default())
            .u16(0)
            .u32(u32::try_from(high).unwrap_or_default())
            .zeros(28);
        Ok(())
    }

    fn serve(&self, turn: &mut Turn<'_, '_>, body: &[u8]) -> Result<Answer> {
        let operation = match Operation::decode(turn.header.opcode, body) {
            Ok(operation) => operation,
            // Any program in the guest may try a name of 256 bytes.
            Err(Errno::NAMETOOLONG) => return Err(Errno::NAMETOOLONG),
            Err(error) => {
                self.counters.malformed.one();
                return Err(error);
            }
        };
        let number = turn.header.node;
        if let Operation::Init(offer) = operation {
            self.init(&mut Output::new(turn.reply), offer)?;
            return Ok(Answer::Built);
        }
        let state = &*self.state()?;
        match operation {
            Operation::Interrupt { unique } => {
                state.locks.interrupt(unique);
                Ok(Answer::Silent)
            }
            Operation::Forget { lookups } => {
                self.forget(state, number, lookups);
                Ok(Answer::Silent)
            }
            Operation::BatchForget(list) => {
                list.for_each(|(number, lookups)| self.forget(state, number, lookups));
                Ok(Answer::Silent)
            }
            Operation::Lookup(name) => self.lookup(state, turn, name),
            Operation::Attributes => self.attributes(state, turn),
            Operation::ExtendedAttributes => {
                let attributes = self.tree.attributes(&*node(state, number)?)?;
                reply::statx(
                    &mut Output::new(turn.reply),
                    &attributes,
                    self.cache.validity(),
                );
                Ok(Answer::Built)
            }
            Operation::Change { handle, changes } => self.change(state, turn, handle, &changes),
            Operation::ReadLink => {
                self.tree.read_link(&*node(state, number)?, turn.text)?;
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
            Operation::MakeNode { name, new } => {
                let parent = node(state, number)?;
                let found = self
                    .tree
                    .make_node(turn.header.caller, &parent, name, new)?;
                Ok(self.entry(state, turn, &parent, found))
            }
            Operation::MakeDirectory { name, mode } => {
                let parent = node(state, number)?;
                let found = self
                    .tree
                    .make_directory(turn.header.caller, &parent, name, mode)?;
                Ok(self.entry(state, turn, &parent, found))
            }
            Operation::RemoveFile(name) => {
                self.tree.remove_file(&*node(state, number)?, name)?;
                Ok(Answer::Empty)
            }
            Operation::RemoveDirectory(name) => {
                self.tree.remove_directory(&*node(state, number)?, name)?;
                Ok(Answer::Empty)
            }
            Operation::Rename {
                old,
                folder,
                new,
                how,
            } => {
                let (from, to) = (node(state, number)?, node(state, folder)?);
                self.tree.rename((&from, old), (&to, new), how)?;
                Ok(Answer::Empty)
            }
            Operation::Link { node: linked, name } => self.link(state, turn, linked, name),
            Operation::Open(how) => self.open(state, turn, how),
            Operation::Create {
                name,
                mode,
                how,
                must_be_new,
            } => self.create(state, turn, name, (mode, how), must_be_new),
            Operation::CreateUnnamed { mode, how } => self.create_unnamed(state, turn, mode, how),
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
                let statistics = self.tree.statistics(&*node(state, number)?)?;
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
            Operation::SetExtended { name, value, how } => {
                self.tree
                    .set_extended(&*node(state, number)?, name, value, how)?;
                Ok(Answer::Empty)
            }
            Operation::Extended { name, room } => self.extended(state, turn, Some(name), room),
            Operation::ListExtended { room } => self.extended(state, turn, None, room),
            Operation::RemoveExtended { name } => {
                self.tree.remove_extended(&*node(state, number)?, name)?;
                Ok(Answer::Empty)
            }
            Operation::OpenDirectory => {
                let directory = self.tree.open_directory(&*node(state, number)?)?;
                let handle = state.directories.add(directory);
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
                self.tree.access(&*node(state, number)?, wanted)?;
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
                to,
                write_at,
                length,
            } => self.copy_range(state, turn, (from, read_at), (to, write_at), length),
            Operation::SyncAll => {
                self.tree.sync_all(&*node(state, number)?)?;
                Ok(Answer::Empty)
            }
            Operation::Destroy => {
                self.agreed.store(0, Ordering::Relaxed);
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

/// Requests that a guest may have under way for read-ahead and the like; the queue is the real bound.
const MOST_BACKGROUND: u16 = u16::MAX;

fn node<T: Tree>(state: &State<T>, number: u64) -> Result<Arc<T::Node>> {
    state.nodes.find(number).ok_or(Errno::STALE)
}

fn file<T: Tree>(state: &State<T>, handle: u64) -> Result<Arc<T::File>> {
    state
        .files
        .find(handle)
        .map(|file| Arc::clone(&*file))
        .ok_or(Errno::BADF)
}

impl<T: Tree> Serve for Session<T> {
    fn handle<'g>(
        &self,
        scratch: &mut Scratch,
        request: &mut [Source<'g>],
        answer: &mut [Sink<'g>],
    ) -> Outcome {
        let (given, room) = (sys::total(request), sys::total(answer));
        let Scratch {
            request: buffer,
            reply,
            text,
        } = scratch;
        let read = sys::gather(request, &mut buffer[..wire::IN_HEADER]);
        let Ok(header) = Header::decode(&buffer[..read]) else {
            self.counters.malformed.one();
            return Outcome::Done(0);
        };
        self.counters.request(header.opcode);
        let length = usize::try_from(header.length).unwrap_or(usize::MAX);
        let own = if header.opcode == opcode::WRITE {
            wire::IN_HEADER + wire::WRITE_IN
        } else {
            length
        };
        let result = if length < wire::IN_HEADER || length > given || own > length {
            self.counters.malformed.one();
            Err(Errno::INVAL)
        } else if own > LONGEST_BODY {
            self.counters.malformed.one();
            Err(Errno::TOOBIG)
        } else {
            sys::gather(request, &mut buffer[..own]);
            let mut turn = Turn {
                header,
                reply: &mut *reply,
                text,
                request,
                answer: &mut *answer,
            };
            self.serve(&mut turn, &buffer[wire::IN_HEADER..own])
        };
        if no_answer_is_due(header.opcode) {
            return Outcome::Done(0);
        }
        let (error, length) = match result {
            Ok(Answer::Waits) => return Outcome::Waits(header.unique),
            Ok(Answer::Silent) => return Outcome::Done(0),
            Ok(Answer::Empty) => (None, 0),
            Ok(Answer::Placed(length)) => (None, length),
            Ok(Answer::Built) => (None, reply.len() - wire::OUT_HEADER),
            Err(error) => {
                self.counters.errors.one();
                (Some(error), 0)
            }
        };
        let mut bytes = wire::OUT_HEADER + length;
        let mut head = wire::out_header(header.unique, error, length);
        if bytes > room {
            // The guest's kernel never leaves too little room; another gets what fits it: an error.
            self.counters.malformed.one();
            head = wire::out_header(header.unique, Some(Errno::IO), 0);
            bytes = wire::OUT_HEADER;
            if bytes > room {
                return Outcome::Done(0);
            }
            sys::scatter(answer, 0, &head);
            return Outcome::Done(bytes);
        }
        if matches!(result, Ok(Answer::Built)) {
            reply[..wire::OUT_HEADER].copy_from_slice(&head);
            sys::scatter(answer, 0, reply);
        } else {
            sys::scatter(answer, 0, &head);
        }
        Outcome::Done(bytes)
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

/// Requests that the guest's kernel sends without room for an answer.
fn no_answer_is_due(number: u32) -> bool {
    matches!(
        number,
        opcode::FORGET | opcode::BATCH_FORGET | opcode::INTERRUPT
    )
}
