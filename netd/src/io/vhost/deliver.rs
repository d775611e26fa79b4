//! A frame into the buffers that a guest has put into its receive ring: one, or as many as it takes where the
//! guest can merge (virtio 1.2 §5.1.6.3.2, §5.1.6.4). Nothing is seen by the guest unless the whole frame fits.

use vm_memory::{Address, Bytes, GuestAddress, GuestMemoryMmap};

use super::ring::Ring;
use crate::io::link::Sent;

/// Descriptors of one buffer; Linux gives at most 19.
pub(super) const MOST_PARTS: usize = 256;
/// Bytes of the header with the count of buffers.
pub(super) const HEADER: usize = 12;
/// Where the count stands.
const COUNT_AT: usize = 10;

/// The bytes still to be written: slices one after the other.
struct Cursor<'a> {
    slices: &'a [&'a [u8]],
    /// Bytes of the first slice that are written.
    done: usize,
}

impl Cursor<'_> {
    /// Writes the next `length` bytes at `address`; false if there is no such memory.
    fn copy(&mut self, memory: &GuestMemoryMmap, address: GuestAddress, length: usize) -> bool {
        let (mut address, mut left) = (address, length);
        while left > 0 {
            let Some((first, rest)) = self.slices.split_first() else {
                return false;
            };
            let bytes = &first[self.done..];
            let now = bytes.len().min(left);
            if memory.write_slice(&bytes[..now], address).is_err() {
                return false;
            }
            let Some(next) = address.checked_add(now as u64) else {
                return false;
            };
            (address, left) = (next, left - now);
            self.done += now;
            if self.done == first.len() {
                (self.slices, self.done) = (rest, 0);
            }
        }
        true
    }
}

/// Writes `slices`, the first of which is the virtio-net header, as one frame.
pub(super) fn deliver(
    ring: &mut Ring,
    memory: &GuestMemoryMmap,
    slices: &[&[u8]],
    mergeable: bool,
) -> Sent {
    loop {
        if ring.available(memory) < ring.wanted && !refilled(ring, memory) {
            return Sent::Full;
        }
        match attempt(ring, memory, slices, mergeable) {
            Sent::Full if refilled(ring, memory) => {}
            sent @ (Sent::Taken | Sent::Full | Sent::Dropped | Sent::Gone) => return sent,
        }
    }
}

/// Asks to be told of new buffers; true if there are enough already.
fn refilled(ring: &mut Ring, memory: &GuestMemoryMmap) -> bool {
    ring.watch(memory) && ring.available(memory) >= ring.wanted
}

fn attempt(ring: &mut Ring, memory: &GuestMemoryMmap, slices: &[&[u8]], mergeable: bool) -> Sent {
    let total: usize = slices.iter().map(|slice| slice.len()).sum();
    let header = slices.first().map_or(0, |header| header.len());
    let mut cursor = Cursor { slices, done: 0 };
    let mut count_at = [None; 2];
    let (mut at, mut buffers) = (0, 0_u16);
    while at < total {
        let before = at;
        let Some(chain) = ring.pop(memory) else {
            ring.undo(buffers);
            if buffers >= ring.size() {
                // All of the guest's buffers together are too small.
                return Sent::Dropped;
            }
            ring.wanted = buffers + 1;
            return Sent::Full;
        };
        let head = chain.head_index();
        for part in chain.take(MOST_PARTS) {
            let room = (part.len() as usize).min(total - at);
            for (byte, place) in count_at.iter_mut().enumerate() {
                if (at..at + room).contains(&(COUNT_AT + byte)) {
                    *place = part.addr().checked_add((COUNT_AT + byte - at) as u64);
                }
            }
            if !part.is_write_only() || !cursor.copy(memory, part.addr(), room) {
                ring.broken = true;
                break;
            }
            at += room;
            if at == total {
                break;
            }
        }
        buffers += 1;
        ring.give_back(memory, head, u32::try_from(at - before).unwrap_or(0));
        if ring.broken || at == before {
            ring.broken = true;
            ring.undo(buffers);
            return Sent::Dropped;
        }
        if at < total && (!mergeable || buffers == u16::MAX) {
            // The guest never promised buffers for a frame of this size.
            ring.undo(buffers);
            return Sent::Dropped;
        }
    }
    if header == HEADER && buffers > 1 {
        for (byte, place) in buffers.to_le_bytes().into_iter().zip(count_at) {
            if let Some(place) = place {
                memory.write_obj(byte, place).ok();
            }
        }
    }
    ring.wanted = 1;
    ring.publish(memory);
    Sent::Taken
}
