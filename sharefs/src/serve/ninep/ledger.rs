//! Answers, and what is settled with each: they stand in memory that outlives the process until the client's socket
//! has taken them.
//!
//! Whoever has an answer holds the ledger from before it changes any row until the commit: the connection's thread
//! for each request, its slow lane for what was handed to it.

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;

use crate::keep::fault::{self, Point};
use crate::keep::ninep::{Commit, Connection, Way};
use crate::sys::{self, Region};

/// Answers are sent when so many bytes have gathered, though more requests are there.
const ENOUGH: usize = 256 * 1024;

/// See the module's head.
pub(super) struct Ledger {
    memory: Connection,
    region: Region,
    stream: UnixStream,
    commit: Commit,
    /// Bytes of answers that the socket has taken.
    sent: u64,
}

impl Ledger {
    /// Goes on where the memory says.
    pub(super) fn of(memory: &Connection, stream: UnixStream) -> Result<Self, Errno> {
        let moved = memory.moved(Way::Out);
        let ledger = Self {
            memory: memory.clone(),
            region: memory.buffer(Way::Out)?,
            stream,
            commit: memory.commit(),
            sent: moved.from + moved.count as u64,
        };
        // Never, if the memory is what it says.
        let end_at = usize::try_from(ledger.commit.end_at).unwrap_or(usize::MAX);
        let is_sound = ledger.sent <= ledger.commit.end
            && ledger.commit.end - ledger.sent <= ledger.commit.end_at
            && end_at <= ledger.region.bytes().len();
        is_sound.then_some(ledger).ok_or(Errno::STALE)
    }

    /// Where answers end in the buffer; from its start on when all are sent.
    fn end_at(&self) -> usize {
        if self.sent == self.commit.end {
            return 0;
        }
        usize::try_from(self.commit.end_at).unwrap_or(usize::MAX)
    }

    /// Room for an answer of up to `needed` bytes, behind those that wait to be sent.
    pub(super) fn room(&mut self, needed: usize) -> Result<&mut [u8], Errno> {
        let held = self.end_at();
        if held >= ENOUGH || self.region.bytes().len() - held < needed {
            self.send()?;
        }
        let at = self.end_at();
        Ok(self.region.bytes_mut().get_mut(at..).unwrap_or_default())
    }

    /// So many bytes of that room are answers.
    pub(super) fn answer(&mut self, length: usize) {
        self.answer_and(length, |_| ());
    }

    /// And more is so from now on.
    pub(super) fn answer_and(&mut self, length: usize, change: impl FnOnce(&mut Commit)) {
        let end_at = self.end_at() + length;
        change(&mut self.commit);
        self.commit.end += length as u64;
        self.commit.end_at = end_at as u64;
        self.memory.put_commit(self.commit);
    }

    /// Sends all.
    pub(super) fn send(&mut self) -> Result<(), Errno> {
        let is_something = self.sent < self.commit.end;
        while self.sent < self.commit.end {
            let end = usize::try_from(self.commit.end_at).unwrap_or(usize::MAX);
            let held = usize::try_from(self.commit.end - self.sent).unwrap_or(usize::MAX);
            let at = end.saturating_sub(held);
            let bytes = self.region.bytes().get(at..end).unwrap_or_default();
            let sent = self
                .memory
                .begin_move(Way::Out, (self.sent, at), |header, begun| {
                    sys::send(self.stream.as_fd(), header, bytes, begun)
                });
            match sent {
                Ok(count) => self.sent += count as u64,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error),
            }
        }
        if is_something {
            fault::at(Point::Told);
        }
        Ok(())
    }
}

/// A ledger that the connection's thread and its slow lane have in common.
pub(super) fn held(ledger: &Mutex<Ledger>) -> MutexGuard<'_, Ledger> {
    ledger.lock().unwrap_or_else(PoisonError::into_inner)
}
