//! What the tests of the machine share: dice, a stream of bytes, and a host that takes what a segment brings.

#![allow(
    clippy::cast_possible_truncation,
    reason = "test patterns are made of low bits"
)]

use std::collections::VecDeque;
use std::ops::Range;
use std::time::Duration;

use super::seq::Seq;
use super::{Idle, Sink};

pub(super) const IDLE: Idle = Idle {
    open: Duration::from_secs(7_440),
    half_closed: Duration::from_secs(600),
};

/// A small generator whose whole state is the seed (Marsaglia's xorshift64).
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

pub(super) fn pattern(length: usize, seed: u32) -> Vec<u8> {
    (0..length as u32)
        .map(|n| (n.wrapping_add(seed).wrapping_mul(2_654_435_761) >> 21) as u8)
        .collect()
}

/// The caller's part of taking a segment.
pub(super) struct Host<'a> {
    pub(super) payload: &'a [u8],
    pub(super) got: &'a mut Vec<u8>,
    pub(super) waiting: &'a mut VecDeque<u8>,
    pub(super) early: &'a mut Vec<(Seq, Vec<u8>)>,
    pub(super) room: &'a mut usize,
    pub(super) stalled: bool,
}

impl Host<'_> {
    fn take(&mut self, bytes: &[u8]) {
        let direct = if self.waiting.is_empty() {
            bytes.len().min(*self.room)
        } else {
            0
        };
        self.got.extend_from_slice(&bytes[..direct]);
        *self.room -= direct;
        self.waiting.extend(&bytes[direct..]);
        self.stalled |= direct < bytes.len();
    }
}

impl Sink for Host<'_> {
    fn next(&mut self, part: Range<usize>) -> usize {
        self.take(&self.payload[part.clone()]);
        part.len()
    }

    fn early(&mut self, at: Seq, part: Range<usize>) -> bool {
        let end = at.plus(part.len() as u32);
        for (start, bytes) in &*self.early {
            assert!(
                end.since(*start) > 1 << 31
                    || end == *start
                    || at.at_or_after(start.plus(bytes.len() as u32)),
                "kept twice"
            );
        }
        self.early.push((at, self.payload[part].to_vec()));
        true
    }

    fn join(&mut self, from: Seq, to: Seq) {
        let mut due: Vec<_> = self.early.extract_if(.., |(at, _)| at.before(to)).collect();
        due.sort_by_key(|(at, _)| at.since(to));
        let mut next = from;
        for (at, bytes) in due {
            let end = at.plus(bytes.len() as u32);
            if next.before(end) {
                assert!(next.at_or_after(at), "a hole is left in what is joined");
                self.take(&bytes[next.since(at) as usize..]);
                next = end;
            }
        }
        assert!(to.before(next) || next == to || to.before(from));
    }
}
