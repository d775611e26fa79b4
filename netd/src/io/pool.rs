//! Payload that must rest: host bytes until the guest acknowledges them, guest bytes that the host's socket
//! has not taken yet. Buffers come in two sizes, are used again last in first out (they stay in the cache),
//! and go back to the kernel when traffic stops. The sum is bounded; the second half of it is given out in small
//! pieces only, one for each direction of a flow, so that flows that hold all they can get starve no other.

use std::collections::VecDeque;
use std::ops::Range;

use crate::sys::Pages;

/// One offloaded frame's payload.
pub const LARGE: usize = 1 << 16;
/// What interactive traffic needs.
pub const SMALL: usize = 2_048;

/// Memory for one piece of payload.
#[derive(Debug)]
pub enum Buffer {
    /// [`SMALL`] bytes from the allocator.
    Small(Box<[u8; SMALL]>),
    /// [`LARGE`] bytes from the kernel.
    Large(Pages),
}

impl Buffer {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Small(buffer) => &buffer[..],
            Self::Large(pages) => pages,
        }
    }

    /// All of it.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        match self {
            Self::Small(buffer) => &mut buffer[..],
            Self::Large(pages) => pages,
        }
    }

    /// Bytes it has room for.
    pub fn size(&self) -> usize {
        match self {
            Self::Small(_) => SMALL,
            Self::Large(_) => LARGE,
        }
    }
}

/// The buffers of one network.
#[derive(Debug)]
pub struct Pool {
    #[expect(
        clippy::vec_box,
        reason = "the boxes travel between this list and the flows; their bytes do not move"
    )]
    small: Vec<Box<[u8; SMALL]>>,
    large: Vec<Pages>,
    in_use: usize,
    limit: usize,
    /// Most buffers in use since the last trim: what is worth keeping.
    used_since_trim: bool,
}

impl Pool {
    /// At most `limit` bytes in use.
    pub fn new(limit: usize) -> Self {
        Self {
            small: Vec::new(),
            large: Vec::new(),
            in_use: 0,
            limit,
            used_since_trim: false,
        }
    }

    /// Bytes in use.
    pub fn in_use(&self) -> usize {
        self.in_use
    }

    /// Another bound from now on.
    pub fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// More than half of the bound is in use: flows make do with one small piece each way.
    pub fn is_tight(&self) -> bool {
        self.in_use > self.limit / 2
    }

    /// A buffer for `length` bytes, if the bound allows; more than [`LARGE`] is never given, and when memory is
    /// tight no more than [`SMALL`].
    pub fn take(&mut self, length: usize) -> Option<Buffer> {
        let size = if length <= SMALL || self.is_tight() {
            SMALL
        } else {
            LARGE
        };
        if self.in_use + size > self.limit {
            return None;
        }
        let buffer = if size == SMALL {
            Buffer::Small(self.small.pop().unwrap_or_else(|| Box::new([0; SMALL])))
        } else {
            Buffer::Large(match self.large.pop() {
                Some(pages) => pages,
                None => Pages::new(LARGE).ok()?,
            })
        };
        self.in_use += size;
        self.used_since_trim = true;
        Some(buffer)
    }

    /// A buffer is free again.
    pub fn give(&mut self, buffer: Buffer) {
        self.in_use -= buffer.size();
        match buffer {
            Buffer::Small(buffer) => self.small.push(buffer),
            Buffer::Large(pages) => self.large.push(pages),
        }
    }

    /// Bytes held for later.
    pub fn spare(&self) -> usize {
        self.small.len() * SMALL + self.large.len() * LARGE
    }

    /// Called about once a second while there is something spare: gives back half of it, or all after a
    /// second without use.
    pub fn trim(&mut self) {
        let keep = |length: usize| if self.used_since_trim { length / 2 } else { 0 };
        let (small, large) = (keep(self.small.len()), keep(self.large.len()));
        self.small.truncate(small);
        self.large.truncate(large);
        if small == 0 {
            self.small.shrink_to_fit();
            self.large.shrink_to_fit();
        }
        self.used_since_trim = false;
    }
}

#[derive(Debug)]
struct Chunk {
    buffer: Buffer,
    start: usize,
    end: usize,
}

/// Payload in order, freed from the front.
#[derive(Debug, Default)]
pub struct Chunks {
    queue: VecDeque<Chunk>,
    length: usize,
}

impl Chunks {
    /// Bytes there are.
    pub fn len(&self) -> usize {
        self.length
    }

    /// None.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Adds the first `length` bytes of a buffer.
    pub fn push(&mut self, buffer: Buffer, length: usize) {
        self.push_part(buffer, 0..length);
    }

    /// Adds a part of a buffer.
    pub fn push_part(&mut self, buffer: Buffer, part: Range<usize>) {
        self.length += part.len();
        self.queue.push_back(Chunk {
            buffer,
            start: part.start,
            end: part.end,
        });
    }

    /// Copies bytes in; says how many the pool had room for.
    pub fn copy_in(&mut self, pool: &mut Pool, bytes: &[u8]) -> usize {
        let mut rest = bytes;
        if let Some(last) = self.queue.back_mut() {
            let end = last.end;
            let room = last.buffer.bytes_mut().len() - end;
            let (now, later) = rest.split_at(room.min(rest.len()));
            last.buffer.bytes_mut()[end..end + now.len()].copy_from_slice(now);
            last.end += now.len();
            self.length += now.len();
            rest = later;
        }
        while !rest.is_empty() && (self.queue.is_empty() || !pool.is_tight()) {
            let Some(mut buffer) = pool.take(rest.len()) else {
                break;
            };
            let (now, later) = rest.split_at(rest.len().min(buffer.size()));
            buffer.bytes_mut()[..now.len()].copy_from_slice(now);
            self.push(buffer, now.len());
            rest = later;
        }
        bytes.len() - rest.len()
    }

    /// Copies all of a few bytes in, or nothing if there is no buffer.
    pub fn copy_whole(&mut self, pool: &mut Pool, bytes: &[u8]) -> bool {
        let room = self
            .queue
            .back_mut()
            .is_some_and(|last| last.buffer.size() - last.end >= bytes.len());
        if !room && (bytes.len() > SMALL || pool.in_use + SMALL > pool.limit) {
            return false;
        }
        if !room {
            let Some(buffer) = pool.take(bytes.len()) else {
                return false;
            };
            self.push(buffer, 0);
        }
        self.copy_in(pool, bytes) == bytes.len()
    }

    /// Frees `count` bytes at the front.
    pub fn advance(&mut self, pool: &mut Pool, count: usize) {
        let mut count = count.min(self.length);
        self.length -= count;
        while let Some(first) = self.queue.front_mut() {
            let here = first.end - first.start;
            if count < here {
                first.start += count;
                return;
            }
            count -= here;
            if let Some(chunk) = self.queue.pop_front() {
                pool.give(chunk.buffer);
            }
        }
    }

    /// Frees everything, the queue's own memory too.
    pub fn clear(&mut self, pool: &mut Pool) {
        self.advance(pool, self.length);
        self.queue = VecDeque::new();
    }

    /// Forgets the queue's own memory if nothing rests: an idle flow costs nothing here.
    pub fn shrink(&mut self) {
        if self.queue.is_empty() {
            self.queue = VecDeque::new();
        }
    }

    /// Up to `length` bytes from `offset` on as slices in `parts`; returns how many slices and bytes.
    pub fn slices<'a>(
        &'a self,
        offset: usize,
        length: usize,
        parts: &mut [&'a [u8]],
    ) -> (usize, usize) {
        let (mut skip, mut left, mut count) = (offset, length, 0);
        for chunk in &self.queue {
            let bytes = &chunk.buffer.bytes()[chunk.start..chunk.end];
            if skip >= bytes.len() {
                skip -= bytes.len();
                continue;
            }
            if left == 0 || count == parts.len() {
                break;
            }
            let bytes = &bytes[skip..];
            let bytes = &bytes[..bytes.len().min(left)];
            skip = 0;
            left -= bytes.len();
            parts[count] = bytes;
            count += 1;
        }
        (count, length - left)
    }
}

#[cfg(test)]
#[expect(
    clippy::cast_possible_truncation,
    reason = "test patterns are made of low bits"
)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_out_in_order_and_buffers_go_back() {
        let mut pool = Pool::new(1 << 20);
        let mut chunks = Chunks::default();
        let bytes: Vec<u8> = (0..150_000_u32).map(|n| (n / 3) as u8).collect();
        for part in bytes.chunks(7_001) {
            assert_eq!(chunks.copy_in(&mut pool, part), part.len());
        }
        let mut out = Vec::new();
        while !chunks.is_empty() {
            let mut parts = [&[][..]; 3];
            let (count, length) = chunks.slices(1, 10_000, &mut parts);
            assert_eq!(
                length,
                parts[..count].iter().map(|part| part.len()).sum::<usize>()
            );
            let mut first = [&[][..]; 1];
            chunks.slices(0, 1, &mut first);
            out.push(first[0][0]);
            out.extend(parts[..count].concat());
            chunks.advance(&mut pool, length + 1);
        }
        assert_eq!(out, bytes);
        assert_eq!(pool.in_use(), 0);
    }

    #[test]
    fn whoever_holds_all_it_can_get_leaves_a_piece_for_each_other() {
        const FLOWS: usize = 64;
        let mut pool = Pool::new(2 * FLOWS * 2 * SMALL + 2 * LARGE);
        let bytes = vec![7; LARGE];
        let mut flows: Vec<Chunks> = (0..FLOWS).map(|_| Chunks::default()).collect();
        for round in 0..3 {
            for flow in &mut flows {
                flow.copy_in(&mut pool, &bytes);
            }
            assert!(
                pool.is_tight() && pool.in_use() < pool.limit,
                "round {round}"
            );
        }
        assert!(flows.iter().all(|flow| flow.len() >= SMALL));
    }

    #[test]
    fn the_bound_holds_and_trimming_gives_everything_back() {
        let mut pool = Pool::new(LARGE + SMALL);
        let mut chunks = Chunks::default();
        assert_eq!(chunks.copy_in(&mut pool, &[1; 3 * LARGE]), LARGE);
        assert_eq!(chunks.copy_in(&mut pool, &[1; 1]), 0);
        let mut others = Chunks::default();
        assert_eq!(others.copy_in(&mut pool, &[1; 2 * SMALL]), SMALL);
        chunks.clear(&mut pool);
        others.clear(&mut pool);
        assert_eq!((pool.in_use(), pool.spare()), (0, LARGE + SMALL));
        pool.trim();
        pool.trim();
        assert_eq!(pool.spare(), 0);
    }
}
