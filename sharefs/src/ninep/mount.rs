//! One share as one connection has it attached: its fids, what is open, its locks.
//!
//! Used by one thread; what may take long (fsync) is handed back as a `Slow` to be done elsewhere.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::io::Errno;

use super::convert::{self, NameRoom, Qids};
use super::counters::{Counters, Counting, Tally};
use super::fids::{Fid, Fids, Place};
use super::locks::{Ended, Locks, end_wait};
use super::messages::{Reply, Request};
use super::wire::Qid;
use crate::keep::journal;
use crate::keep::ninep::rows::{Claim, KeptMount, KeptOpen, Row, Rows};
use crate::tree::name::LONGEST_NAME;
use crate::tree::owner::{GuestGid, GuestUid};
use crate::tree::{Caller, Result, Tree};

mod again;
mod extended;
mod files;
mod kept;
mod listing;
mod locking;
mod names;

pub(super) use locking::SUCCESS as LOCK_SUCCESS;

/// A share as a connection has it, whatever its tree.
pub(crate) trait Mount: Send {
    /// A new fid at the share's own folder.
    fn attach(&mut self, fid: u32, user: GuestUid) -> Result<Qid>;
    fn knows(&self, fid: u32) -> bool;
    fn serve(&mut self, request: &Request<'_>, turn: &mut Turn<'_>) -> Result<Answer>;
    /// A part of a Twrite's data whose rest has not come yet: how much of it was written. Nothing, where the whole is to
    /// be written at once.
    fn write_part(&mut self, fid: u32, offset: u64, data: &[u8]) -> Result<usize>;
    /// The client does not want the answer to this tag any more.
    fn flush(&mut self, tag: u16);
    /// Asks again for the locks that are waited for; adds the tags that have their answer now.
    fn retry(&mut self, answered: &mut Vec<(u16, Result<()>)>);
    /// Requests that wait for a lock, or whose answer `retry` is to fetch.
    fn waiting(&self) -> usize;
    fn fids(&self) -> usize;

    /// Of the share: what an earlier process left is of the same, or not taken up.
    fn options(&self) -> u64;
    /// What is known from now on is written down, under the share's name.
    fn keep(&mut self, keeping: Keeping, name: &str);
    /// What an earlier process wrote down of the share is known from now on.
    fn adopt(&mut self, keeping: Keeping, left: (usize, KeptMount), claim: Claim<'_>)
    -> Result<()>;
    /// The client knows nothing of it any more, which is written down; it stays until that is in force.
    fn end(&mut self);
    /// A request that was to end this fid is refused: it is ended all the same, and nothing is done for it.
    fn abandon(&mut self, fid: u32);
}

/// Where a share of a connection is written down.
#[derive(Clone, Debug)]
pub(crate) struct Keeping {
    pub(crate) rows: Arc<Rows>,
    /// The share's, among those of the connection.
    pub(crate) place: u32,
}

/// One request on its way.
pub(crate) struct Turn<'a> {
    pub(super) tag: u16,
    /// Bytes of a Twrite's data that are written already.
    pub(super) ahead: usize,
    /// Room for the answer, the header included: no longer than the client takes.
    pub(super) out: &'a mut [u8],
    /// Kept between requests, so that none allocates.
    pub(super) text: &'a mut Vec<u8>,
}

/// How a request was answered, error apart.
pub(crate) enum Answer {
    /// So many bytes stand in the room.
    Built(usize),
    /// A lock is waited for.
    Waits,
    /// See [`Slow`].
    Slow(Slow),
}

/// What may take seconds, for a thread that may wait. Its answer is empty. What is open for it stays so while it lives.
pub(crate) struct Slow {
    work: Box<dyn Fn() -> Result<()> + Send>,
    /// What is open for it.
    open: Option<KeptOpen>,
}

impl Slow {
    /// Does it.
    pub(crate) fn run(&self) -> Result<()> {
        (self.work)()
    }

    pub(crate) fn open(&self) -> Option<KeptOpen> {
        self.open
    }

    /// What an earlier process was to do with something that is open for it, and for others like it, alone by now. It
    /// is written down already.
    pub(crate) fn sync(open: Arc<OwnedFd>, data_only: bool) -> Self {
        Self {
            open: None,
            work: Box::new(move || {
                if data_only {
                    rustix::fs::fdatasync(&open)
                } else {
                    rustix::fs::fsync(&open)
                }
            }),
        }
    }
}

impl Turn<'_> {
    pub(super) fn tell(&mut self, reply: &Reply<'_>) -> Result<Answer> {
        // No client of 4 KiB frames or more has too little room for what is built so.
        let length = reply
            .encode(self.tag, self.out)
            .map_err(|_| Errno::MSGSIZE)?;
        Ok(Answer::Built(length))
    }
}

/// See the module's head.
pub(super) struct Attached<T: Tree> {
    tree: Arc<T>,
    counters: Arc<Counters>,
    tally: Tally,
    /// Of the share.
    options: u64,
    qids: Option<Qids>,
    fids: Fids<T>,
    locks: Locks<T>,
    /// Waits that ended because their fid was clunked.
    ended: Vec<Ended>,
    /// Length of all values that are open (extended.rs).
    value_bytes: usize,
    keeping: Option<Keeping>,
    name: Vec<u8>,
    /// Where the share itself is written down.
    row: Option<Row>,
}

impl<T: Tree> Attached<T> {
    pub(super) fn new(tree: Arc<T>, counting: Counting, options: u64) -> Self {
        Self {
            tree,
            counters: counting.door,
            tally: counting.tally,
            options,
            qids: None,
            fids: Fids::default(),
            locks: Locks::default(),
            ended: Vec::new(),
            value_bytes: 0,
            keeping: None,
            name: Vec::new(),
            row: None,
        }
    }

    /// They are known from the first attach on, and no fid is before that.
    fn qids(&self) -> Result<Qids> {
        self.qids.ok_or(Errno::BADF)
    }

    /// On whose behalf something new is made through this fid.
    fn caller(fid: &Fid<T>, group: u32) -> Caller {
        Caller {
            uid: fid.user,
            gid: GuestGid(group),
        }
    }
}

impl<T: Tree> Mount for Attached<T> {
    fn attach(&mut self, fid: u32, user: GuestUid) -> Result<Qid> {
        self.fids
            .check_new(fid)
            .inspect_err(|error| self.refused(*error))?;
        let root = self.tree.root()?;
        if self.qids.is_none() {
            self.record_share(root.attributes.identity);
        }
        let qids = *self
            .qids
            .get_or_insert_with(|| Qids::new(root.attributes.identity));
        let qid = qids.of(&root.attributes);
        let place = Arc::new(Place::root(root).recorded(&*self.tree, self.rows()));
        self.fids.add(fid, Fid::unused(place, user))?;
        self.record(fid);
        Ok(qid)
    }

    fn knows(&self, fid: u32) -> bool {
        self.fids.find(fid).is_ok()
    }

    fn write_part(&mut self, fid: u32, offset: u64, data: &[u8]) -> Result<usize> {
        self.write_to_file(fid, offset, data)
    }

    fn serve(&mut self, request: &Request<'_>, turn: &mut Turn<'_>) -> Result<Answer> {
        self.tally.operation();
        if journal::is_again() {
            if let Some(answer) = self.again(request, turn)? {
                return Ok(answer);
            }
        } else if journal::is_on() {
            self.note(request);
        }
        match *request {
            Request::Walk {
                fid,
                new_fid,
                ref names,
            } => self.walk(turn, fid, new_fid, names.as_slice()),
            Request::Attributes { fid, wanted: _ } => {
                let found = self.tree.attributes(&self.fids.find(fid)?.place.node)?;
                turn.tell(&convert::attributes(self.qids()?.of(&found), &found))
            }
            Request::Read { fid, offset, count } => self.read(turn, fid, offset, count),
            Request::Write { fid, offset, data } => self.write(turn, fid, offset, data.0),
            Request::Clunk { fid } => self.clunk(turn, fid),
            Request::Open { fid, flags } => self.open(turn, fid, flags),
            Request::Create {
                fid,
                name,
                flags,
                mode,
                group,
            } => self.create(turn, fid, name.0, (flags, mode, group)),
            Request::Entries { fid, offset, count } => self.entries(turn, fid, offset, count),
            Request::Change {
                fid,
                valid,
                mode,
                user,
                group,
                size,
                accessed,
                accessed_nanoseconds,
                modified,
                modified_nanoseconds,
            } => {
                let fields = convert::ChangeFields {
                    valid,
                    mode,
                    user,
                    group,
                    size,
                    accessed: (accessed, accessed_nanoseconds),
                    modified: (modified, modified_nanoseconds),
                };
                self.change(turn, fid, &fields)
            }
            Request::Statistics { fid } => self.statistics(turn, fid),
            Request::Directory {
                fid,
                name,
                mode,
                group,
            } => self.make(
                turn,
                fid,
                (name.0, |qid| Reply::Directory { qid }),
                |tree, folder, name| {
                    tree.make_directory(
                        Self::caller(folder, group),
                        &folder.place.node,
                        name,
                        mode & 0o7777,
                    )
                },
            ),
            Request::SymbolicLink {
                fid,
                name,
                target,
                group,
            } => {
                let mut room = [0; LONGEST_TARGET];
                let target = convert::c_text(target.0, &mut room, Errno::NAMETOOLONG)?;
                self.make(
                    turn,
                    fid,
                    (name.0, |qid| Reply::SymbolicLink { qid }),
                    |tree, folder, name| {
                        let caller = Self::caller(folder, group);
                        tree.make_symbolic_link(caller, &folder.place.node, name, target)
                    },
                )
            }
            Request::Node {
                fid,
                name,
                mode,
                major,
                minor,
                group,
            } => {
                let new = convert::new_node(mode, (major, minor))?;
                self.make(
                    turn,
                    fid,
                    (name.0, |qid| Reply::Node { qid }),
                    |tree, folder, name| {
                        tree.make_node(Self::caller(folder, group), &folder.place.node, name, new)
                    },
                )
            }
            Request::ReadLink { fid } => self.read_link(turn, fid),
            Request::Link { folder, fid, name } => self.link(turn, folder, fid, name.0),
            Request::Rename { fid, folder, name } => self.rename(turn, fid, folder, name.0),
            Request::RenameAt {
                folder,
                name,
                new_folder,
                new_name,
            } => self.rename_at(turn, (folder, name.0), (new_folder, new_name.0)),
            Request::RemoveAt {
                folder,
                name,
                flags,
            } => self.remove_at(turn, folder, name.0, flags),
            Request::Remove { fid } => self.remove(turn, fid),
            Request::Sync { fid, data_only } => self.sync(fid, data_only),
            Request::ExtendedWalk { fid, new_fid, name } => {
                self.extended_walk(turn, fid, new_fid, name.0)
            }
            Request::ExtendedCreate {
                fid,
                name,
                size,
                flags,
            } => self.extended_create(turn, fid, name.0, (size, flags)),
            Request::Lock {
                fid,
                kind,
                flags,
                start,
                length,
                process,
                client,
            } => {
                let range = convert::lock_range(kind, start, length)?;
                let owner = (process, client.0);
                self.lock(turn, fid, range, (owner, flags))
            }
            Request::TestLock {
                fid,
                kind,
                start,
                length,
                process,
                client,
            } => {
                let range = convert::lock_range(kind, start, length)?;
                self.test_lock(turn, fid, range, (process, client.0))
            }
            // The session's own: they are about no share, or about which.
            Request::Version { .. }
            | Request::Authenticate { .. }
            | Request::Attach { .. }
            | Request::Flush { .. } => Err(Errno::IO),
        }
    }

    fn flush(&mut self, tag: u16) {
        self.locks.forget(tag);
        let keeping = self.keeping.as_ref();
        let wanted = self.ended.extract_if(.., |(ended, _)| *ended == tag);
        wanted.for_each(|(_, row)| end_wait(keeping, row));
    }

    fn retry(&mut self, answered: &mut Vec<(u16, Result<()>)>) {
        for (tag, row) in self.ended.drain(..) {
            end_wait(self.keeping.as_ref(), row);
            answered.push((tag, Err(Errno::INTR)));
        }
        self.locks
            .retry(&self.tree, |tag, answer| answered.push((tag, answer)));
    }

    fn waiting(&self) -> usize {
        self.locks.waiting() + self.ended.len()
    }

    fn fids(&self) -> usize {
        self.fids.count()
    }

    fn options(&self) -> u64 {
        self.options
    }

    fn keep(&mut self, keeping: Keeping, name: &str) {
        self.locks.keeping = Some(keeping.clone());
        self.keeping = Some(keeping);
        self.name = name.as_bytes().to_vec();
    }

    fn adopt(
        &mut self,
        keeping: Keeping,
        (row, left): (usize, KeptMount),
        claim: Claim<'_>,
    ) -> Result<()> {
        self.take_up(keeping, (row, left), claim)
    }

    fn end(&mut self) {
        self.end_rows();
    }

    fn abandon(&mut self, fid: u32) {
        if let Ok(ended) = self.end_fid(fid) {
            self.retire(ended);
        }
    }
}

impl<T: Tree> Attached<T> {
    fn refused(&self, error: Errno) {
        if error == Errno::NFILE {
            self.counters.refused_fids.one();
        }
    }
}

/// PATH_MAX with its NUL: no symbolic link says more.
const LONGEST_TARGET: usize = 4096;

/// Room for one name.
const fn name_room() -> NameRoom {
    [0; LONGEST_NAME + 1]
}
