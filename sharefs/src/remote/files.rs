//! Contents and locks of a server's files.
//!
//! What is longer than one message is several that are under way at once.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::io::Errno;

use super::fids::Fid;
use super::line::{Answer, Pace};
use super::nodes::RemoteNode;
use super::{RemoteTree, longest_data};
use crate::ninep::client;
use crate::ninep::messages::{Reply, Request};
use crate::ninep::wire::Text;
use crate::sys::{self, LockKind, LockRange, Sink, Source};
use crate::tree::{Kind, Result, WholeLock};

/// Messages of one read or write that are under way at once.
const WINDOW: usize = 8;

/// An open file.
pub(crate) struct RemoteFile {
    pub(super) fid: Arc<Fid>,
    /// What is open.
    node: Arc<RemoteNode>,
    holder: u32,
    /// The file opened once more, to append: only the server knows where its end is.
    appending: Mutex<Option<Fid>>,
}

impl RemoteFile {
    pub(super) fn new(fid: Fid, node: Arc<RemoteNode>, holder: u32) -> Self {
        let fid = Arc::new(fid);
        node.opened(&fid);
        Self {
            fid,
            node,
            holder,
            appending: Mutex::new(None),
        }
    }
}

/// One owner's locks of one file: an open fid of its own.
pub(crate) struct RemoteLocks {
    pub(super) fid: Fid,
    pub(super) holder: u32,
}

impl RemoteTree {
    pub(super) fn open_file(&self, node: &Arc<RemoteNode>, flags: u32) -> Result<RemoteFile> {
        match node.kind {
            Kind::File => {}
            Kind::Directory => return Err(Errno::ISDIR),
            Kind::SymbolicLink => return Err(Errno::LOOP),
            // The guest's devices are the guest's.
            Kind::BlockDevice | Kind::CharacterDevice | Kind::Fifo | Kind::Socket => {
                return Err(Errno::NXIO);
            }
        }
        let fid = self.opened(node, flags)?;
        Ok(RemoteFile::new(fid, Arc::clone(node), self.next_holder()))
    }

    fn opened(&self, node: &RemoteNode, flags: u32) -> Result<Fid> {
        self.with(node, |fid| {
            let fid = self.twin(fid)?;
            let request = Request::Open {
                fid: fid.number(),
                flags,
            };
            let qid = self.ask(&request, Pace::Slow, |reply| match reply {
                Reply::Open { qid, .. } => Some(qid),
                _ => None,
            })?;
            // A fid that is a path may lead to another file by now.
            if qid.path == node.identity.inode {
                Ok(fid)
            } else {
                Err(Errno::STALE)
            }
        })
    }

    pub(super) fn read_file(
        &self,
        file: &RemoteFile,
        into: &[Sink<'_>],
        offset: u64,
    ) -> Result<usize> {
        let total = sys::total(into);
        let most = longest_data(&self.line);
        let fid = file.fid.number();
        let mut tickets = VecDeque::new();
        let (mut asked, mut done) = (0, 0);
        loop {
            while asked < total && tickets.len() < WINDOW {
                let count = (total - asked).min(most);
                let request = Request::Read {
                    fid,
                    offset: offset.checked_add(asked as u64).ok_or(Errno::INVAL)?,
                    count: u32::try_from(count).unwrap_or(u32::MAX),
                };
                match self.line.begin(&request, Pace::Quick) {
                    Ok(ticket) => tickets.push_back((ticket, count)),
                    Err(error) if done == 0 => return Err(error),
                    Err(_) => return Ok(done),
                }
                asked += count;
            }
            let Some((ticket, wanted)) = tickets.pop_front() else {
                return Ok(done);
            };
            let answer = ticket.wait();
            let count = match answer
                .as_ref()
                .map_err(|error| *error)
                .and_then(Answer::reply)
            {
                Ok(Reply::Read { data }) if data.0.len() <= wanted => {
                    sys::scatter(into, done, data.0)
                }
                // More than was asked for, or something else.
                Ok(_) if done == 0 => return Err(Errno::IO),
                Err(error) if done == 0 => return Err(error),
                Ok(_) | Err(_) => return Ok(done),
            };
            done += count;
            if count < wanted {
                // The end, as of now; what was asked behind it is thrown away.
                return Ok(done);
            }
        }
    }

    pub(super) fn write_file(
        &self,
        file: &RemoteFile,
        from: &[Source<'_>],
        offset: u64,
        append: bool,
    ) -> Result<usize> {
        if append {
            return self.append(file, from);
        }
        let (total, most) = (sys::total(from), longest_data(&self.line));
        let fid = file.fid.number();
        let mut list = from.to_vec();
        let mut tickets = VecDeque::new();
        let (mut sent, mut done) = (0, 0);
        loop {
            while sent < total && tickets.len() < WINDOW {
                let count = (total - sent).min(most);
                let at = offset.checked_add(sent as u64).ok_or(Errno::INVAL)?;
                let begun = sys::window(&mut list, sent, count, |part| {
                    self.line.begin_write(fid, at, part, count)
                });
                match begun {
                    Ok(ticket) => tickets.push_back((ticket, count)),
                    Err(error) if done == 0 => return Err(error),
                    Err(_) => return Ok(done),
                }
                sent += count;
            }
            let Some((ticket, wanted)) = tickets.pop_front() else {
                return Ok(done);
            };
            match written(ticket.wait(), wanted) {
                Ok(count) => {
                    done += count;
                    if count < wanted {
                        // A full disk, a limit: those behind it have no right place to be.
                        return Ok(done);
                    }
                }
                Err(error) if done == 0 => return Err(error),
                Err(_) => return Ok(done),
            }
        }
    }

    /// At the file's end, wherever that is when the server writes: by a fid that is opened so. What is longer
    /// than one message may be parted by what others append.
    fn append(&self, file: &RemoteFile, from: &[Source<'_>]) -> Result<usize> {
        let mut appending = file
            .appending
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let (fid, mut end) = match &*appending {
            Some(fid) => (fid.number(), 0),
            None => match self.opened(&file.node, 0o1 | client::APPEND) {
                Ok(fid) => {
                    let number = fid.number();
                    *appending = Some(fid);
                    (number, 0)
                }
                // Whoever opened the file may write to it although its mode says no by now.
                Err(Errno::ACCESS | Errno::PERM) => (file.fid.number(), self.end_of(file)?),
                Err(error) => return Err(error),
            },
        };
        let (total, most) = (sys::total(from), longest_data(&self.line));
        let mut list = from.to_vec();
        let mut done = 0;
        while done < total {
            let wanted = (total - done).min(most);
            let ticket = sys::window(&mut list, done, wanted, |part| {
                self.line.begin_write(fid, end, part, wanted)
            });
            match ticket.and_then(|ticket| written(ticket.wait(), wanted)) {
                Ok(count) => {
                    done += count;
                    end += count as u64;
                    if count < wanted {
                        break;
                    }
                }
                Err(error) if done == 0 => return Err(error),
                Err(_) => break,
            }
        }
        Ok(done)
    }

    fn end_of(&self, file: &RemoteFile) -> Result<u64> {
        self.attributes_now(&file.node).map(|found| found.size)
    }

    /// flock(2): a lock of the whole file in the name of this open file.
    pub(super) fn lock_file(&self, file: &RemoteFile, lock: WholeLock) -> Result<()> {
        let kind = match lock {
            WholeLock::Shared => LockKind::Shared,
            WholeLock::Exclusive => LockKind::Exclusive,
            WholeLock::Unlock => LockKind::Unlock,
        };
        let range = LockRange {
            kind,
            start: 0,
            length: 0,
        };
        self.lock_range(&file.fid, file.holder, range)
    }

    pub(super) fn open_locks(&self, node: &RemoteNode) -> Result<RemoteLocks> {
        if node.kind != Kind::File {
            return Err(Errno::BADF);
        }
        let holder = self.next_holder();
        let fid = match self.opened(node, 0o2) {
            // A lock to read wants no more than to read.
            Err(Errno::ACCESS | Errno::PERM | Errno::ROFS) => self.opened(node, 0)?,
            other => other?,
        };
        Ok(RemoteLocks { fid, holder })
    }

    pub(super) fn lock_range(&self, fid: &Fid, holder: u32, range: LockRange) -> Result<()> {
        let request = Request::Lock {
            fid: fid.number(),
            kind: kind_number(range.kind),
            // Nobody waits at the server: whoever waits here asks again, and can be killed.
            flags: 0,
            start: range.start.cast_unsigned(),
            length: range.length.cast_unsigned(),
            process: holder,
            client: Text(self.client.as_bytes()),
        };
        let status = self.ask(&request, Pace::Quick, |reply| match reply {
            Reply::Lock { status } => Some(status),
            _ => None,
        })?;
        match status {
            client::LOCK_SUCCESS => Ok(()),
            client::LOCK_BLOCKED | client::LOCK_GRACE => Err(Errno::AGAIN),
            _ => Err(Errno::NOLCK),
        }
    }

    pub(super) fn lock_in_the_way(
        &self,
        locks: &RemoteLocks,
        range: LockRange,
    ) -> Result<Option<LockRange>> {
        let request = Request::TestLock {
            fid: locks.fid.number(),
            kind: kind_number(range.kind),
            start: range.start.cast_unsigned(),
            length: range.length.cast_unsigned(),
            process: locks.holder,
            client: Text(self.client.as_bytes()),
        };
        let told = self.ask(&request, Pace::Quick, |reply| match reply {
            Reply::TestLock {
                kind,
                start,
                length,
                ..
            } => Some((kind, start, length)),
            _ => None,
        })?;
        let kind = match told.0 {
            0 => LockKind::Shared,
            1 => LockKind::Exclusive,
            2 => return Ok(None),
            _ => return Err(Errno::IO),
        };
        let number = |number: u64| i64::try_from(number).map_err(|_| Errno::IO);
        let (start, length) = (number(told.1)?, number(told.2)?);
        start.checked_add(length).ok_or(Errno::IO)?;
        Ok(Some(LockRange {
            kind,
            start,
            length,
        }))
    }
}

/// Bytes that a Twrite of `wanted` has written; a server that says more lies.
pub(super) fn written(answer: Result<Answer>, wanted: usize) -> Result<usize> {
    match answer?.reply()? {
        Reply::Write { count } => match usize::try_from(count) {
            Ok(count) if count <= wanted => Ok(count),
            _ => Err(Errno::IO),
        },
        _ => Err(Errno::IO),
    }
}

/// P9_LOCK_TYPE_*.
fn kind_number(kind: LockKind) -> u8 {
    match kind {
        LockKind::Shared => 0,
        LockKind::Exclusive => 1,
        LockKind::Unlock => 2,
    }
}
