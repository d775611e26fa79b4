//! The host-to-guest half of a connection: what may be sent, what was acknowledged, what goes again.
//! Bytes rest with the caller, addressed from `una`. The cable to the guest has no queue to congest,
//! so the congestion window starts wide and only closes when something was lost (RFC 5681). What was lost is
//! read from the guest's SACK options (RFC 6675), else guessed (RFC 6582).

use super::ranges::{Range, Ranges};
use super::segment::Segment;
use super::seq::Seq;

/// Most bytes on the way to a guest in one connection.
pub(super) const LARGEST_FLIGHT: u32 = 1 << 20;
/// IPv4 and TCP headers without options.
const HEADERS: u32 = 40;
/// Duplicate acknowledgements that mean a loss (RFC 5681 §3.2).
const LOSS_HINT: u8 = 3;

/// Sending state.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Send {
    /// Oldest number not acknowledged.
    pub(super) una: Seq,
    /// Next number to send: the furthest ever sent.
    pub(super) nxt: Seq,
    /// The guest's window, scaled.
    pub(super) window: u32,
    /// The guest's window scale.
    pub(super) shift: u8,
    /// The widest window seen: what "a good part of the window" is measured by.
    widest: u32,
    /// Segment that last set the window (RFC 9293 §3.10.7.4: SND.WL1, SND.WL2).
    window_from: (Seq, Seq),
    /// Largest payload of one segment.
    pub(super) mss: u32,
    /// Bytes resting with the caller, from `una` on.
    pub(super) buffered: u32,
    /// The host has ended its stream: FIN follows the buffered bytes.
    pub(super) eof: bool,
    /// FIN was acknowledged.
    pub(super) fin_acknowledged: bool,
    congestion: u32,
    threshold: u32,
    duplicates: u8,
    /// Both sides speak SACK.
    pub(super) selective: bool,
    /// What the guest has beyond a hole.
    sacked: Ranges,
    /// In loss recovery until this is acknowledged.
    recover: Option<Seq>,
    /// In loss recovery: what lies before this was sent again.
    resent: Seq,
    /// In loss recovery after a time-out: all that the guest has not told to have counts as lost.
    timed_out: bool,
    /// The last segment is to be sent again, so that the guest says what it has.
    tail_due: bool,
    /// That was done since the last progress.
    tail_sent: bool,
}

/// Something to be sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Again {
    pub(super) seq: Seq,
    /// Payload bytes.
    pub(super) length: u32,
    pub(super) fin: bool,
}

/// What an acknowledgement did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Progress {
    /// Buffered bytes that may be forgotten.
    pub(super) bytes: u32,
    /// Something new was acknowledged.
    pub(super) advanced: bool,
}

impl Send {
    pub(super) fn new(first: Seq, mss: u16) -> Self {
        Self {
            una: first,
            nxt: first,
            mss: mss.into(),
            congestion: LARGEST_FLIGHT,
            threshold: LARGEST_FLIGHT,
            ..Self::default()
        }
    }

    /// The guest's SYN was seen: its window and options.
    pub(super) fn open(&mut self, segment: &Segment, shift: u8, mss: u16) {
        self.window = segment.window.into(); // never scaled in a SYN
        self.widest = self.window;
        self.shift = shift;
        self.mss = mss.into();
        self.selective = segment.sack_permitted;
        self.window_from = (segment.seq, self.una);
    }

    /// Our SYN was acknowledged.
    pub(super) fn established(&mut self, first: Seq) {
        self.una = first;
        self.nxt = first;
    }

    /// Numbers sent and not acknowledged.
    pub(super) fn in_flight(&self) -> u32 {
        self.nxt.since(self.una)
    }

    /// Buffered bytes not sent.
    pub(super) fn unsent(&self) -> u32 {
        self.buffered.saturating_sub(self.in_flight())
    }

    /// FIN is to be sent and has not been.
    pub(super) fn fin_unsent(&self) -> bool {
        self.eof && !self.fin_acknowledged && self.in_flight() <= self.buffered
    }

    /// FIN was sent at least once.
    pub(super) fn fin_sent(&self) -> bool {
        self.fin_acknowledged || (self.eof && self.in_flight() > self.buffered)
    }

    /// Older than anything that a window ever allowed (RFC 5961 §5.2).
    pub(super) fn is_ancient(&self, ack: Seq) -> bool {
        ack.before(self.una.minus(self.widest.max(LARGEST_FLIGHT)))
    }

    /// Counts everything as acknowledged, FIN too; the buffered bytes that may be forgotten.
    pub(super) fn abandon(&mut self) -> u32 {
        let bytes = std::mem::take(&mut self.buffered);
        self.una = self.nxt;
        self.sacked = Ranges::default();
        self.recover = None;
        self.fin_acknowledged = true;
        bytes
    }

    /// Numbers that are thought to be on the way (RFC 6675 §4, Pipe).
    fn pipe(&self) -> u32 {
        let mut lost = 0;
        let mut from = self.resent.later(self.una);
        while let Some((start, end)) = self.lost_from(from) {
            lost += end.since(start);
            from = end;
        }
        self.in_flight()
            .saturating_sub(self.sacked.covered())
            .saturating_sub(lost)
    }

    /// The first part of what counts as lost and lies at `from` or later. A link of ours keeps the order, so
    /// what the guest has proves the loss of what was sent before it.
    fn lost_from(&self, from: Seq) -> Option<Range> {
        let recover = self.recover?;
        let end = if self.timed_out {
            recover
        } else {
            self.sacked.end()?
        };
        self.sacked.uncovered(from.later(self.una), end)
    }

    /// Payload that the windows let go, new or again.
    fn usable(&self) -> u32 {
        // RFC 3042: the first two signs of a loss let out a segment each.
        let hints = if self.recover.is_none() {
            u32::from(self.duplicates.min(LOSS_HINT - 1)) * self.mss
        } else {
            0
        };
        let promised = self
            .window
            .min(LARGEST_FLIGHT)
            .saturating_sub(self.in_flight());
        promised.min((self.congestion + hints).saturating_sub(self.pipe()))
    }

    /// The next of what is to be sent again.
    pub(super) fn again(&self) -> Option<Again> {
        if self.tail_due {
            let length = self.mss.min(self.in_flight());
            return self.piece((self.nxt.minus(length), self.nxt), length);
        }
        self.recover?;
        let from = self.resent.later(self.una);
        let oldest = from == self.una;
        if !self.selective && !self.timed_out {
            // Without SACK only the oldest segment is known to be lost (RFC 6582).
            return if oldest {
                self.piece((from, self.nxt), self.mss)
            } else {
                None
            };
        }
        let room = self.congestion.saturating_sub(self.pipe());
        if room < self.mss && !oldest {
            return None;
        }
        self.piece(self.lost_from(from)?, room.max(self.mss))
    }

    /// At most `room` bytes of a piece, FIN with its end.
    fn piece(&self, (from, to): Range, room: u32) -> Option<Again> {
        let end = self.una.plus(self.buffered);
        let payload = if end.before(to) { end } else { to };
        let length = payload.since(from).min(room).min(self.largest_frame());
        let fin = end.before(to) && from.plus(length) == end;
        (length > 0 || fin).then_some(Again {
            seq: from,
            length,
            fin,
        })
    }

    /// Numbers before `end` were sent again.
    pub(super) fn sent_again(&mut self, end: Seq) {
        if self.tail_due {
            self.tail_due = false;
        } else {
            self.resent = self.resent.later(self.una).later(end);
        }
    }

    /// Largest payload of one offloaded frame: whole segments that fit one IPv4 packet.
    pub(super) fn largest_frame(&self) -> u32 {
        let mss = self.mss.max(1);
        ((65_535 - HEADERS) / mss * mss).max(mss)
    }

    /// Bytes worth fetching from the host now.
    pub(super) fn wanted(&self) -> u32 {
        if self.eof || self.unsent() > 0 || self.again().is_some() {
            return 0;
        }
        let usable = self.usable();
        // While something is in flight an acknowledgement will open more: wait for a large piece
        // (RFC 9293 §3.8.6.2.1, with the frame in the place of the segment).
        let worthwhile = self.largest_frame().min(self.widest / 4);
        if self.in_flight() > 0 && usable < worthwhile {
            0
        } else {
            usable.min(self.largest_frame())
        }
    }

    /// Payload bytes of the next new segment or frame (0 = nothing may go).
    pub(super) fn next_length(&self) -> u32 {
        let unsent = self.unsent();
        let length = unsent.min(self.usable()).min(self.largest_frame());
        if length < unsent && length < self.mss && self.in_flight() > 0 {
            0
        } else {
            length
        }
    }

    /// Reads the acknowledgement and window of an acceptable segment; `ack` is not beyond `nxt`.
    pub(super) fn acknowledge(&mut self, segment: &Segment, ack: Seq) -> Progress {
        let mut progress = Progress::default();
        if self.una.before(ack) {
            progress = self.advance(ack);
        } else if ack == self.una {
            self.count_duplicate(segment);
        }
        self.take_blocks(segment);
        let (seq, last) = self.window_from;
        // What moves `una` moves the window with it, also where its segment was overtaken: the old width from the
        // new `una` on is more than anybody promised.
        if ack.at_or_after(self.una)
            && (progress.advanced
                || seq.before(segment.seq)
                || (seq == segment.seq && ack.at_or_after(last)))
        {
            self.window = u32::from(segment.window) << self.shift;
            self.widest = self.widest.max(self.window);
            self.window_from = (segment.seq, ack);
        }
        progress
    }

    fn advance(&mut self, ack: Seq) -> Progress {
        let covered = ack.since(self.una);
        let bytes = covered.min(self.buffered);
        self.fin_acknowledged |= covered > bytes && self.eof;
        self.una = ack;
        self.buffered -= bytes;
        self.duplicates = 0;
        self.tail_due = false;
        self.tail_sent = false;
        self.sacked.forget_before(ack);
        match self.recover {
            Some(end) if ack.before(end) => {
                if self.timed_out {
                    self.grow(bytes);
                } else if !self.selective {
                    // A partial acknowledgement: the next hole goes at once (RFC 6582 §3.2 step 3).
                    self.congestion =
                        self.congestion.saturating_sub(bytes).max(self.mss) + self.mss;
                }
            }
            Some(_end) => {
                self.recover = None;
                if !std::mem::take(&mut self.timed_out) {
                    self.congestion = self.threshold.max(2 * self.mss);
                }
            }
            None => self.grow(bytes),
        }
        Progress {
            bytes,
            advanced: true,
        }
    }

    /// Slow start, then congestion avoidance (RFC 5681 §3.1).
    fn grow(&mut self, bytes: u32) {
        let grown = if self.congestion < self.threshold {
            bytes
        } else {
            let share = u64::from(self.mss) * u64::from(bytes) / u64::from(self.congestion.max(1));
            u32::try_from(share).unwrap_or(u32::MAX).max(1)
        };
        self.congestion = self.congestion.saturating_add(grown).min(LARGEST_FLIGHT);
    }

    fn count_duplicate(&mut self, segment: &Segment) {
        let same_window = u32::from(segment.window) << self.shift == self.window;
        if self.selective
            || segment.payload > 0
            || segment.fin
            || !same_window
            || self.in_flight() == 0
        {
            return;
        }
        self.duplicates = self.duplicates.saturating_add(1);
        if self.recover.is_none() {
            if self.duplicates == LOSS_HINT {
                self.begin_recovery();
                self.congestion += u32::from(LOSS_HINT) * self.mss;
            }
        } else if self.duplicates > LOSS_HINT && !self.timed_out {
            self.congestion = self.congestion.saturating_add(self.mss).min(LARGEST_FLIGHT);
        }
    }

    /// What the guest says it has beyond a hole.
    fn take_blocks(&mut self, segment: &Segment) {
        if !self.selective {
            return;
        }
        for &(from, to) in segment.sack.as_slice() {
            // Others are of an old segment, tell of a repetition (RFC 2883), or are made up.
            if self.una.before(from) && from.before(to) && self.nxt.at_or_after(to) {
                self.sacked.insert(from, to);
            }
        }
        // RFC 6675 §4, IsLost; after a probe of the tail any piece proves it.
        let enough = if self.tail_sent {
            0
        } else {
            u32::from(LOSS_HINT - 1) * self.mss
        };
        if self.recover.is_none() && self.sacked.covered() > enough {
            self.begin_recovery();
        }
    }

    fn begin_recovery(&mut self) {
        self.threshold = (self.in_flight() / 2).max(2 * self.mss);
        self.congestion = self.threshold;
        self.recover = Some(self.nxt);
        self.resent = self.una;
        self.timed_out = false;
    }

    /// Nothing was heard for two round trips: before the real time-out the last segment goes again, for the
    /// guest's answer to it tells what is missing (RFC 8985 §7, tail loss probe). In recovery the segment sent again was
    /// itself lost.
    pub(super) fn probe_tail(&mut self) {
        self.tail_sent = true;
        if self.recover.is_some() {
            self.resent = self.una;
        } else {
            self.tail_due = true;
        }
    }

    /// The tail was not probed since the last progress, and there is more than one segment to tell of.
    pub(super) fn tail_unprobed(&self) -> bool {
        !self.tail_sent && self.in_flight() > self.mss
    }

    /// Nothing was heard for a whole time-out: everything in flight counts as lost. What the guest said it has it may
    /// have dropped (RFC 2018 §8).
    pub(super) fn time_out(&mut self) {
        self.threshold = (self.in_flight() / 2).max(2 * self.mss);
        self.congestion = self.mss;
        self.sacked = Ranges::default();
        self.recover = Some(self.nxt);
        self.resent = self.una;
        self.timed_out = true;
        self.tail_due = false;
        self.duplicates = 0;
    }
}
