//! The host-to-guest half of a connection: what may be sent, what was acknowledged, what goes again.
//! Bytes rest with the caller, addressed from `una`. The cable to the guest has no queue to congest,
//! so the congestion window starts wide and only closes when something was lost (RFC 5681, RFC 6582).

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
    /// Next number to send; goes back to `una` on a time-out.
    pub(super) nxt: Seq,
    /// Furthest number ever sent.
    pub(super) max: Seq,
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
    /// In loss recovery until this is acknowledged.
    recover: Option<Seq>,
    /// The oldest segment is to be sent again now.
    pub(super) resend_first: bool,
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
            max: first,
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
        self.window_from = (segment.seq, self.una);
    }

    /// Our SYN was acknowledged.
    pub(super) fn established(&mut self, first: Seq) {
        self.una = first;
        self.nxt = first;
        self.max = first;
    }

    /// Numbers sent and not acknowledged.
    pub(super) fn in_flight(&self) -> u32 {
        self.nxt.since(self.una)
    }

    /// Buffered bytes not sent (or to be sent again).
    pub(super) fn unsent(&self) -> u32 {
        self.buffered.saturating_sub(self.in_flight())
    }

    /// FIN is to be sent and has not been since the last time-out.
    pub(super) fn fin_unsent(&self) -> bool {
        self.eof && !self.fin_acknowledged && self.in_flight() <= self.buffered
    }

    /// FIN was sent at least once.
    pub(super) fn fin_sent(&self) -> bool {
        self.fin_acknowledged || (self.eof && self.max.since(self.una) > self.buffered)
    }

    /// Counts everything as acknowledged, FIN too; the buffered bytes that may be forgotten.
    pub(super) fn abandon(&mut self) -> u32 {
        let bytes = std::mem::take(&mut self.buffered);
        self.una = self.max;
        self.nxt = self.max;
        self.fin_acknowledged = true;
        bytes
    }

    fn usable(&self) -> u32 {
        self.window
            .min(self.congestion)
            .min(LARGEST_FLIGHT)
            .saturating_sub(self.in_flight())
    }

    /// Largest payload of one offloaded frame: whole segments that fit one IPv4 packet.
    pub(super) fn largest_frame(&self) -> u32 {
        let mss = self.mss.max(1);
        ((65_535 - HEADERS) / mss * mss).max(mss)
    }

    /// Bytes worth fetching from the host now.
    pub(super) fn wanted(&self) -> u32 {
        if self.eof || self.unsent() > 0 || self.resend_first {
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

    /// Reads the acknowledgement and window of an acceptable segment; `ack` is not beyond `max`.
    pub(super) fn acknowledge(&mut self, segment: &Segment, ack: Seq) -> Progress {
        let mut progress = Progress::default();
        if self.una.before(ack) {
            progress = self.advance(ack);
        } else if ack == self.una {
            self.count_duplicate(segment);
        }
        let (seq, last) = self.window_from;
        if ack.at_or_after(self.una)
            && (seq.before(segment.seq) || (seq == segment.seq && ack.at_or_after(last)))
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
        self.nxt = self.nxt.later(ack);
        self.buffered -= bytes;
        self.duplicates = 0;
        match self.recover {
            Some(end) if ack.before(end) => {
                // A partial acknowledgement: the next hole goes at once (RFC 6582 §3.2 step 3).
                self.resend_first = self.buffered > 0;
                self.congestion = self.congestion.saturating_sub(bytes).max(self.mss) + self.mss;
            }
            Some(_end) => {
                self.recover = None;
                self.resend_first = false;
                self.congestion = self.threshold.max(2 * self.mss);
            }
            None => {
                self.resend_first = false;
                let grown = if self.congestion < self.threshold {
                    bytes
                } else {
                    let share =
                        u64::from(self.mss) * u64::from(bytes) / u64::from(self.congestion.max(1));
                    u32::try_from(share).unwrap_or(u32::MAX).max(1)
                };
                self.congestion = self.congestion.saturating_add(grown).min(LARGEST_FLIGHT);
            }
        }
        Progress {
            bytes,
            advanced: true,
        }
    }

    fn count_duplicate(&mut self, segment: &Segment) {
        let same_window = u32::from(segment.window) << self.shift == self.window;
        if segment.payload > 0 || segment.fin || !same_window || self.in_flight() == 0 {
            return;
        }
        self.duplicates = self.duplicates.saturating_add(1);
        if self.duplicates == LOSS_HINT && self.recover.is_none() {
            self.threshold = (self.in_flight() / 2).max(2 * self.mss);
            self.congestion = self.threshold + 3 * self.mss;
            self.recover = Some(self.max);
            self.resend_first = true;
        } else if self.duplicates > LOSS_HINT && self.recover.is_some() {
            self.congestion = self.congestion.saturating_add(self.mss).min(LARGEST_FLIGHT);
        }
    }

    /// Nothing was heard for a whole time-out: everything in flight counts as lost.
    pub(super) fn time_out(&mut self) {
        self.threshold = (self.in_flight() / 2).max(2 * self.mss);
        self.congestion = self.mss;
        self.nxt = self.una;
        self.recover = None;
        self.duplicates = 0;
        self.resend_first = false;
    }
}
