//! The guest-to-host half of a connection: what is accepted and what window is promised.
//! No byte rests here. Whatever lies inside the promised window is handed on at once; what came before its
//! turn is known here by its numbers only and rests with the caller until the hole before it is filled.

use std::ops::Range;

use super::ranges::Ranges;
use super::segment::{SackBlocks, Segment};
use super::seq::Seq;

/// Where the payload of a guest's segments goes.
pub trait Sink {
    /// This part of the segment's payload is next in order; says how many bytes of it were taken.
    fn next(&mut self, part: Range<usize>) -> usize;
    /// This part came before its turn and begins at number `at`; true if it is kept.
    fn early(&mut self, at: Seq, part: Range<usize>) -> bool;
    /// What was kept between the two numbers is next in order now; what was kept before them is not wanted any more.
    fn join(&mut self, from: Seq, to: Seq);
}

/// The window that a SYN or SYN-ACK can promise: it is never scaled (RFC 7323 §2.2).
const FIRST_WINDOW: u32 = 65_535;
/// The window never shrinks below this: four of the largest segments (MTU 65520), for a guest whose next
/// segment does not fit the window waits for its timer.
pub(super) const SMALLEST_WINDOW: u32 = 4 << 16;
/// The window that a connection grows to while the host takes everything at once.
pub(super) const LARGEST_WINDOW: u32 = 1 << 20;
/// Bytes that are acknowledged at once: two full segments (RFC 9293 §3.8.6.3, SHLD-19).
const ACK_EVERY: u32 = 2 * 1_460;
/// Our window scale: a unit of 128 bytes reaches 8 MiB.
pub(super) const WINDOW_SHIFT: u8 = 7;

/// Receiving state.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Receive {
    /// The next byte expected: all before it was handed on.
    pub(super) next: Seq,
    /// The furthest right edge ever promised; never moves back.
    pub(super) edge: Seq,
    /// Scale of the window field (0 if the guest does not scale).
    pub(super) shift: u8,
    /// How far beyond `next` we promise while the host keeps up.
    window: u32,
    /// `window` doubles when `next` gets here without a stall.
    grow_at: Seq,
    /// The host did not take everything: promise nothing new until it has.
    pub(super) stalled: bool,
    /// The guest's FIN was received: nothing follows.
    pub(super) fin: bool,
    /// A FIN that came before its turn.
    early_fin: Option<Seq>,
    /// What the caller keeps beyond a hole.
    pub(super) early: Ranges,
    /// Where the latest of it begins: what a SACK option tells first (RFC 2018 §4).
    latest: Seq,
    /// An acknowledgement is owed now.
    pub(super) ack_due: bool,
    /// An acknowledgement is owed soon: an answer of the host may carry it (RFC 9293 §3.8.6.3).
    pub(super) ack_later: bool,
    /// Acknowledged up to here.
    acknowledged: Seq,
}

impl Receive {
    /// `next` = the number after the guest's SYN.
    pub(super) fn new(next: Seq, shift: u8) -> Self {
        Self {
            next,
            edge: next.plus(FIRST_WINDOW),
            shift,
            window: SMALLEST_WINDOW,
            grow_at: next.plus(SMALLEST_WINDOW),
            acknowledged: next,
            ..Self::default()
        }
    }

    /// Takes what is new of a segment and lies inside the window.
    pub(super) fn accept(&mut self, segment: &Segment, sink: &mut impl Sink) {
        if segment.payload == 0 && !segment.fin {
            // Keep-alives and window probes sit before `next` and want an answer.
            self.ack_due |= segment.seq.before(self.next);
            return;
        }
        if self.fin {
            self.ack_due = true;
            return;
        }
        if self.next.before(segment.seq) {
            self.accept_early(segment, sink);
            self.ack_due = true; // RFC 5681 §4.2: at once, so that the guest learns of the hole
            return;
        }
        let old = self.next.since(segment.seq) as usize;
        let Some(fresh) = segment.payload.checked_sub(old) else {
            self.ack_due = true;
            return;
        };
        let inside = fresh.min(self.edge.since(self.next) as usize);
        let taken = if inside == 0 {
            0
        } else {
            sink.next(old..old + inside).min(inside)
        };
        self.next = self.next.plus(u32::try_from(taken).unwrap_or(0));
        if taken == fresh && segment.fin {
            self.finish();
        }
        let smooth = old == 0 && taken == fresh && self.early.is_empty();
        self.join(sink);
        if smooth && self.next.since(self.acknowledged) < ACK_EVERY {
            self.ack_later = true;
        } else {
            self.ack_due = true;
        }
        if !self.stalled && self.next.at_or_after(self.grow_at) {
            self.window = (self.window * 2).min(LARGEST_WINDOW);
            self.grow_at = self.next.plus(self.window);
        }
    }

    /// A segment behind a hole: the caller keeps what is new of it.
    fn accept_early(&mut self, segment: &Segment, sink: &mut impl Sink) {
        let end = segment
            .seq
            .plus(u32::try_from(segment.payload).unwrap_or(0));
        if !segment.seq.before(self.edge) || self.edge.before(end) {
            return; // a guest that does not keep to the window gets no help
        }
        self.latest = segment.seq;
        if let Some((from, to)) = self.early.uncovered(segment.seq, end) {
            let start = from.since(segment.seq) as usize;
            let mut grown = self.early;
            if grown.insert(from, to) && sink.early(from, start..start + to.since(from) as usize) {
                self.early = grown;
            }
        }
        if segment.fin && self.early_fin.is_none() {
            self.early_fin = Some(end);
        }
    }

    /// The hole before the first early piece may be filled.
    fn join(&mut self, sink: &mut impl Sink) {
        if let Some(&(start, end)) = self.early.as_slice().first()
            && self.next.at_or_after(start)
        {
            sink.join(self.next, end);
            self.next = self.next.later(end);
            self.early.forget_before(self.next);
            // More than one piece can lie before `next` only if a segment covered several.
            return self.join(sink);
        }
        if self.early_fin == Some(self.next) && !self.fin {
            self.finish();
        }
    }

    fn finish(&mut self) {
        self.next = self.next.plus(1);
        self.edge = self.edge.later(self.next);
        self.fin = true;
    }

    /// What the guest is told of its early segments, the latest first.
    pub(super) fn blocks(&self) -> SackBlocks {
        let ranges = self.early.as_slice();
        let holds =
            |range: &&(Seq, Seq)| self.latest.at_or_after(range.0) && self.latest.before(range.1);
        let first = ranges.iter().find(holds);
        let others = ranges.iter().filter(|range| !holds(range));
        first.into_iter().chain(others).copied().collect()
    }

    /// A header with the acknowledgement went out.
    pub(super) fn told(&mut self) {
        self.ack_due = false;
        self.ack_later = false;
        self.acknowledged = self.next;
    }

    /// The host's socket is full; what it did not take rests with the caller.
    pub(super) fn stall(&mut self) {
        if !self.stalled {
            self.stalled = true;
            self.window = (self.window / 2).max(SMALLEST_WINDOW);
            self.grow_at = self.next.plus(self.window * 4);
        }
    }

    /// The host has taken everything that rested with the caller.
    pub(super) fn drained(&mut self) {
        self.stalled = false;
        // Told at once only if it is worth a packet (RFC 9293 §3.8.6.2.2).
        let promised = self.edge.since(self.next);
        self.ack_due |= !self.fin && promised < self.window / 2;
    }

    /// The window field to send with the next header; widens the promise.
    pub(super) fn advertise(&mut self) -> u16 {
        let wanted = if self.stalled {
            self.edge
        } else {
            self.next.plus(self.window).later(self.edge)
        };
        let field = (wanted.since(self.next) >> self.shift).min(u16::MAX.into());
        self.edge = self.edge.later(self.next.plus(field << self.shift));
        u16::try_from(field).unwrap_or(u16::MAX)
    }
}
