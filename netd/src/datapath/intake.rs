//! Where the payload of a guest's segments goes: what is next in order straight from the frame into the host's
//! socket, what came before its turn into buffers, until the hole before it is filled.

use std::io::IoSlice;
use std::ops::Range;

use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendFlags};

use super::gather::GATHER_PARTS;
use crate::engine::counters::NetworkCounters;
use crate::engine::tcp::Sink;
use crate::engine::tcp::seq::Seq;
use crate::io::pool::{Buffer, Chunks, Pool};

/// Pieces that one flow keeps before their turn. A guest that sends dust keeps little of it.
const EARLY_PIECES: usize = 64;

/// Bytes that came before their turn, in order; no two pieces overlap.
#[derive(Debug, Default)]
pub(super) struct Early {
    pieces: Vec<Piece>,
}

#[derive(Debug)]
struct Piece {
    at: Seq,
    length: usize,
    buffer: Buffer,
}

impl Early {
    /// Keeps a copy of the slices; false if there is no room.
    fn keep(&mut self, pool: &mut Pool, at: Seq, payload: &[&[u8]], part: Range<usize>) -> bool {
        let length = part.len();
        // What comes early may be lost without harm, so it leaves memory first.
        if self.pieces.len() >= EARLY_PIECES || pool.is_tight() {
            return false;
        }
        let Some(mut buffer) = pool.take(length) else {
            return false;
        };
        let bytes = buffer.bytes_mut();
        if length > bytes.len() {
            pool.give(buffer);
            return false;
        }
        let mut end = 0;
        each_slice(payload, part, |slice| {
            bytes[end..end + slice.len()].copy_from_slice(slice);
            end += slice.len();
            true
        });
        let index = self.pieces.partition_point(|piece| piece.at.before(at));
        self.pieces.insert(index, Piece { at, length, buffer });
        true
    }

    /// What lies between the numbers goes behind `into`, what lies before them is dropped.
    fn join(&mut self, pool: &mut Pool, from: Seq, to: Seq, into: &mut Chunks) -> usize {
        let mut moved = 0;
        let due = self.pieces.partition_point(|piece| piece.at.before(to));
        for piece in self.pieces.drain(..due) {
            let old = if piece.at.before(from) {
                from.since(piece.at) as usize
            } else {
                0
            };
            if old < piece.length {
                moved += piece.length - old;
                into.push_part(piece.buffer, old..piece.length);
            } else {
                pool.give(piece.buffer);
            }
        }
        if self.pieces.is_empty() {
            self.pieces = Vec::new();
        }
        moved
    }

    /// Gives all buffers back.
    pub(super) fn clear(&mut self, pool: &mut Pool) {
        for piece in std::mem::take(&mut self.pieces) {
            pool.give(piece.buffer);
        }
    }
}

/// What became of the payload that was next in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// The host has it.
    Sent,
    /// The host did not take all of it.
    Kept,
    /// The host's socket failed.
    Broken,
}

/// One segment's payload on its way.
pub(super) struct Taking<'a> {
    pub(super) host: &'a OwnedFd,
    pub(super) writable: &'a mut bool,
    pub(super) to_host: &'a mut Chunks,
    pub(super) early: &'a mut Early,
    pub(super) pool: &'a mut Pool,
    pub(super) counters: &'a mut NetworkCounters,
    pub(super) payload: &'a [&'a [u8]],
    /// Bytes that the guest's rate limit lets pass now; the rest waits as behind a full socket.
    pub(super) allowed: usize,
    /// Bytes that came into order.
    pub(super) taken: u64,
    /// Bytes that went to the host here and now.
    pub(super) sent: usize,
    pub(super) outcome: Taken,
}

impl Sink for Taking<'_> {
    fn next(&mut self, part: Range<usize>) -> usize {
        let mut taken = 0;
        if self.to_host.is_empty() && *self.writable && self.allowed > 0 {
            let end = part.end.min(part.start.saturating_add(self.allowed));
            match send_slices(self.host, self.payload, part.start..end) {
                // Taken in part: `pump` asks again, for only EAGAIN promises an event.
                Ok(sent) => {
                    taken = sent;
                    self.sent = sent;
                }
                Err(Errno::AGAIN) => *self.writable = false,
                Err(Errno::INTR) => {}
                Err(_broken) => {
                    self.outcome = Taken::Broken;
                    taken = part.len();
                }
            }
        }
        if taken < part.len() {
            self.outcome = Taken::Kept;
            each_slice(self.payload, part.start + taken..part.end, |rest| {
                let kept = self.to_host.copy_in(self.pool, rest);
                self.counters.tcp_out_of_buffers += (rest.len() - kept) as u64;
                taken += kept;
                kept == rest.len()
            });
        }
        self.taken += taken as u64;
        taken
    }

    fn early(&mut self, at: Seq, part: Range<usize>) -> bool {
        self.early.keep(self.pool, at, self.payload, part)
    }

    fn join(&mut self, from: Seq, to: Seq) {
        self.taken += self.early.join(self.pool, from, to, self.to_host) as u64;
    }
}

/// Visits the slices that make up `range`, until told to stop.
fn each_slice<'a>(
    slices: &[&'a [u8]],
    range: Range<usize>,
    mut visit: impl FnMut(&'a [u8]) -> bool,
) {
    let mut at = 0;
    for slice in slices {
        let from = range.start.max(at) - at;
        let to = range.end.min(at + slice.len()).saturating_sub(at);
        if from < to && !visit(&slice[from..to]) {
            return;
        }
        at += slice.len();
    }
}

/// Sends part of a gathered payload by one call.
fn send_slices(
    socket: &OwnedFd,
    payload: &[&[u8]],
    part: Range<usize>,
) -> rustix::io::Result<usize> {
    if let [whole] = payload {
        return send(socket, &whole[part]);
    }
    let mut parts = [IoSlice::new(&[]); GATHER_PARTS];
    let mut count = 0;
    each_slice(payload, part, |slice| {
        if let Some(place) = parts.get_mut(count) {
            *place = IoSlice::new(slice);
            count += 1;
        }
        count < GATHER_PARTS
    });
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    rustix::net::sendmsg(
        socket,
        &parts[..count],
        &mut SendAncillaryBuffer::default(),
        flags,
    )
}

pub(super) fn send(socket: &OwnedFd, bytes: &[u8]) -> rustix::io::Result<usize> {
    rustix::net::send(socket, bytes, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)
}
