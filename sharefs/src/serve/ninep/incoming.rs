//! Bytes that have come from the client and are not dealt with, in memory that outlives the process
//! (`keep/ninep.rs`).
//!
//! The buffer is used again for ever, from its start whenever all of it is dealt with; what a client never sends costs
//! address space only. The rest of a large frame is received alone, so that the next one begins at the start again:
//! in memory that the processor has in its cache, and copied no more than once.

use std::ops::Range;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use rustix::io::Errno;

use crate::keep::ninep::{Connection, Moved, Way};
use crate::ninep::wire::{BadLength, Frame};
use crate::sys::{self, Region};

/// A frame's length is in its first bytes; until they are there.
const UNKNOWN: usize = 4096;
/// From here on a frame's rest is received alone: a receive more costs less than to copy the begin of the next.
const LARGE: usize = 64 << 10;

/// See the module's head.
pub(super) struct Incoming {
    memory: Connection,
    region: Region,
    /// Where the last receive landed.
    moved: Moved,
    /// The place in the stream of what is to be dealt with next.
    head: u64,
}

impl Incoming {
    /// Goes on where the memory says.
    pub(super) fn of(memory: &Connection) -> Result<Self, Errno> {
        let incoming = Self {
            memory: memory.clone(),
            region: memory.buffer(Way::In)?,
            moved: memory.moved(Way::In),
            head: memory.commit().head,
        };
        // Never, if the memory is what it says.
        let is_sound = incoming.head <= incoming.end()
            && incoming.end() - incoming.head <= incoming.end_at() as u64
            && incoming.end_at() <= incoming.region.bytes().len();
        is_sound.then_some(incoming).ok_or(Errno::STALE)
    }

    pub(super) fn head(&self) -> u64 {
        self.head
    }

    fn end(&self) -> u64 {
        self.moved.from + self.moved.count as u64
    }

    fn end_at(&self) -> usize {
        self.moved.at.saturating_add(self.moved.count)
    }

    /// Bytes that are not dealt with.
    fn held(&self) -> usize {
        usize::try_from(self.end() - self.head).unwrap_or_default()
    }

    /// Where a part of a frame is there and its rest is not: how many bytes the last receive has brought.
    pub(super) fn part(&self) -> Option<usize> {
        (self.held() > 0).then_some(self.moved.count)
    }

    /// What is not dealt with.
    pub(super) fn waiting(&self) -> &[u8] {
        let end = self.end_at();
        let all = self.region.bytes().get(end - self.held()..end);
        all.unwrap_or_default()
    }

    /// The next frame, if it is all there.
    pub(super) fn first(&self, longest: u32) -> Result<Option<Frame<'_>>, BadLength> {
        Frame::first(self.waiting(), longest)
    }

    /// The first so many bytes are dealt with, and a commit says so.
    pub(super) fn pass(&mut self, length: usize) {
        self.head = (self.head + length as u64).min(self.end());
    }

    /// Waits for more bytes; 0: the client has closed.
    pub(super) fn receive(&mut self, stream: &UnixStream) -> Result<usize, Errno> {
        let to = self.make_room();
        let (from, at) = (self.end(), to.start);
        let room = self.region.bytes_mut().get_mut(to).unwrap_or_default();
        let got = self
            .memory
            .begin_move(Way::In, (from, at), |header, begun| {
                sys::receive(stream.as_fd(), header, room, begun)
            });
        // Also where nothing came: it may have been moved to the front.
        self.moved = self.memory.moved(Way::In);
        got
    }

    /// Where to receive to, so that the frame that has begun to come fits in.
    fn make_room(&mut self) -> Range<usize> {
        let (held, size) = (self.held(), self.region.bytes().len());
        if held == 0 {
            return 0..size;
        }
        let end = self.end_at();
        let start = end - held;
        let length = self.waiting().first_chunk();
        let length = length.map_or(UNKNOWN, |bytes| {
            usize::try_from(u32::from_le_bytes(*bytes)).unwrap_or(usize::MAX)
        });
        let rest = if length < LARGE {
            size
        } else {
            length.saturating_sub(held).max(1)
        };
        if length <= size - start {
            return end..end.saturating_add(rest).min(size);
        }
        // It begins behind the first half, and is shorter than that: it stays where it is while it is copied, and is
        // believed there until the next receive is begun.
        debug_assert!(held <= start);
        self.region.bytes_mut().copy_within(start..end, 0);
        held..held.saturating_add(rest).min(size)
    }
}
