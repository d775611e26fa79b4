//! One TCP connection between a guest and us, as a pure state machine (RFC 9293): segments and the host
//! socket's events go in, headers to send come out, `now` is an argument. Payload never rests here: the
//! caller hands guest bytes to the host at once, keeps those that came before their turn, and keeps host bytes
//! until the guest has acknowledged them.
//!
//! | phase       | entered by                       | legal there                                             |
//! |-------------|----------------------------------|---------------------------------------------------------|
//! | Dialing     | SYN of a guest                   | `host_connected`, RST; the guest waits for its SYN-ACK  |
//! | SynReceived | the host's connect succeeded     | SYN-ACK is repeated until the guest's ACK               |
//! | SynSent     | a connection to a published port | SYN is repeated; SYN-ACK opens, RST refuses             |
//! | Open        | both SYNs acknowledged           | data, FIN both ways; ends when both FINs are acknowledged |
//!
//! TIME-WAIT is not a phase: `linger` keeps 40 bytes for it once the flow itself is gone.

pub mod linger;
#[cfg(test)]
mod model_tests;
mod ranges;
mod receive;
mod rtt;
pub mod segment;
mod send;
pub mod seq;
#[cfg(test)]
mod simulated;
#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

pub use receive::Sink;
use receive::{Receive, WINDOW_SHIFT};
use rtt::Rtt;
use segment::{Outgoing, SackBlocks, Segment};
use send::Send;
use seq::Seq;

/// Unanswered SYNs or SYN-ACKs before giving up: 1 + 2 + 4 + 8 s.
const HANDSHAKE_ATTEMPTS: u8 = 4;
/// Unanswered retransmissions before giving up: more than 100 s (RFC 9293 §3.8.3 R2).
const DATA_ATTEMPTS: u8 = 10;
/// Unanswered keep-alive probes before giving up.
const KEEPALIVE_ATTEMPTS: u8 = 4;
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);

/// See the table above.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Waiting for the host.
    Dialing,
    /// Waiting for the guest's ACK.
    SynReceived,
    /// Waiting for the guest's SYN-ACK.
    SynSent,
    /// Established or closing.
    Open,
}

/// How long a connection may be silent.
#[derive(Clone, Copy, Debug)]
pub struct Idle {
    /// Open on both sides: then it is probed.
    pub open: Duration,
    /// Closed on one side: then it ends.
    pub half_closed: Duration,
}

/// What a segment did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Intake {
    /// Bytes towards the guest that may be forgotten.
    pub acknowledged: u32,
    /// The connection opened.
    pub opened: bool,
    /// The guest ended it by RST (or refused it, when it was not open yet).
    pub reset: bool,
    /// A reset to be sent although the connection goes on (RFC 9293 §3.10.7.3).
    pub reply: Option<Outgoing>,
}

/// What a time-out did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiry {
    /// Go on: ask `next_transmit`.
    Continue,
    /// The guest was silent for too long, both sides are to be reset.
    GiveUp,
}

/// One connection.
#[derive(Clone, Copy, Debug)]
pub struct Machine {
    phase: Phase,
    receive: Receive,
    send: Send,
    rtt: Rtt,
    /// Our initial sequence number.
    first: Seq,
    /// MSS that we announce.
    our_mss: u16,
    scaling: bool,
    syn_due: bool,
    probe_due: bool,
    /// Retransmission or window probe.
    timer: Option<Instant>,
    attempts: u8,
    last_heard: Instant,
    keepalives: u8,
    /// Segments sent more than once.
    pub retransmitted: u32,
}

impl Machine {
    /// A guest's SYN was accepted; the host is being dialled. `mss` = payload of the largest packet that goes to
    /// the guest.
    pub fn from_syn(segment: &Segment, first: Seq, mss: u16, now: Instant) -> Self {
        let mut machine = Self::new(Phase::Dialing, first, mss, now);
        machine.take_syn(segment);
        machine
    }

    /// A connection to a guest's published port begins.
    pub fn to_guest(first: Seq, mss: u16, now: Instant) -> Self {
        let mut machine = Self::new(Phase::SynSent, first, mss, now);
        machine.syn_due = true;
        machine
    }

    fn new(phase: Phase, first: Seq, mss: u16, now: Instant) -> Self {
        let our_mss = mss.max(MINIMUM_MSS);
        Self {
            phase,
            receive: Receive::default(),
            send: Send::new(first, our_mss),
            rtt: Rtt::default(),
            first,
            our_mss,
            scaling: true,
            syn_due: false,
            probe_due: false,
            timer: None,
            attempts: 0,
            last_heard: now,
            keepalives: 0,
            retransmitted: 0,
        }
    }

    /// Options and numbers of the guest's SYN or SYN-ACK.
    fn take_syn(&mut self, segment: &Segment) {
        let (ours, theirs) = match segment.window_scale {
            Some(shift) => (WINDOW_SHIFT, shift),
            None => (0, 0),
        };
        self.scaling = segment.window_scale.is_some();
        self.receive = Receive::new(segment.seq.plus(1), ours);
        // Without the option 536 bytes are the rule (RFC 9293 §3.7.1).
        let mss = segment.mss.unwrap_or(536).clamp(MINIMUM_MSS, self.our_mss);
        self.send.open(segment, theirs, mss);
    }

    /// The phase.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// The guest has closed its direction.
    pub fn guest_finished(&self) -> bool {
        self.receive.fin
    }

    /// One direction is closed.
    pub fn half_closed(&self) -> bool {
        self.receive.fin || self.send.eof
    }

    /// Both directions are closed and acknowledged.
    pub fn finished(&self) -> bool {
        self.receive.fin && self.send.fin_acknowledged
    }

    /// Payload of a full segment to the guest.
    pub fn mss(&self) -> usize {
        self.send.mss as usize
    }

    /// An acknowledgement waits to be sent.
    pub fn ack_due(&self) -> bool {
        self.receive.ack_due
    }

    /// An acknowledgement waits for a header to ride on; [`Machine::acknowledge_now`] ends the wait.
    pub fn ack_delayed(&self) -> bool {
        self.receive.ack_later && !self.receive.ack_due
    }

    /// The wait for a header was too long.
    pub fn acknowledge_now(&mut self) {
        self.receive.ack_due |= self.receive.ack_later;
    }

    /// Sequence number and acknowledgement for whoever answers after the flow is gone.
    pub fn last_numbers(&self) -> (Seq, Seq) {
        (self.send.nxt, self.receive.next)
    }

    /// Where the payload of `outgoing` begins in the bytes that rest with the caller.
    pub fn offset_of(&self, outgoing: &Outgoing) -> usize {
        outgoing.seq.since(self.send.una) as usize
    }

    /// Unanswered SYNs or retransmissions so far.
    pub fn attempts(&self) -> u8 {
        self.attempts
    }

    /// The guest's place became known: the SYN goes out at once.
    pub fn retry_syn(&mut self) {
        self.syn_due |= self.phase == Phase::SynSent;
    }

    /// The host's stream has ended.
    pub fn host_done(&self) -> bool {
        self.send.eof
    }

    /// When the guest was last heard.
    pub fn last_heard(&self) -> Instant {
        self.last_heard
    }

    /// The host's connect succeeded: the SYN-ACK goes out.
    pub fn host_connected(&mut self) {
        if self.phase == Phase::Dialing {
            self.phase = Phase::SynReceived;
            self.syn_due = true;
        }
    }

    /// Bytes worth fetching from the host's socket now.
    pub fn wanted(&self) -> usize {
        if self.phase == Phase::Open {
            self.send.wanted() as usize
        } else {
            0
        }
    }

    /// `count` bytes from the host now rest with the caller.
    pub fn host_sent(&mut self, count: usize) {
        self.send.buffered += u32::try_from(count).unwrap_or(0);
    }

    /// The host's stream ended.
    pub fn host_finished(&mut self) {
        self.send.eof = true;
    }

    /// The host did not take all the bytes that `on_segment` offered; the caller keeps the rest.
    pub fn host_stalled(&mut self) {
        self.receive.stall();
    }

    /// The host has taken everything the caller kept.
    pub fn host_drained(&mut self) {
        if self.receive.stalled {
            self.receive.drained();
        }
    }

    /// A segment of this connection; its payload goes to `sink`.
    pub fn on_segment(&mut self, segment: &Segment, now: Instant, sink: &mut impl Sink) -> Intake {
        match self.phase {
            Phase::Dialing => Intake {
                // RFC 5961 §3.2: only the exact number resets.
                reset: segment.rst && segment.seq == self.receive.next,
                ..Intake::default()
            },
            Phase::SynSent => self.on_answer_to_syn(segment, now),
            Phase::SynReceived => {
                if segment.syn && segment.seq.plus(1) == self.receive.next {
                    self.syn_due = true;
                    return Intake::default();
                }
                if segment.ack == Some(self.first.plus(1)) && !segment.rst {
                    self.enter_open(now);
                    self.send.window = u32::from(segment.window) << self.send.shift;
                    let intake = self.on_open_segment(segment, now, sink);
                    return Intake {
                        opened: true,
                        ..intake
                    };
                }
                Intake {
                    reset: segment.rst && segment.seq == self.receive.next,
                    ..Intake::default()
                }
            }
            Phase::Open => self.on_open_segment(segment, now, sink),
        }
    }

    fn enter_open(&mut self, now: Instant) {
        self.phase = Phase::Open;
        self.rtt.acknowledged(self.first.plus(1), now);
        self.send.established(self.first.plus(1));
        self.timer = None;
        self.attempts = 0;
        self.syn_due = false;
        self.last_heard = now;
    }

    fn on_answer_to_syn(&mut self, segment: &Segment, now: Instant) -> Intake {
        let ours = segment.ack == Some(self.first.plus(1));
        if segment.rst {
            return Intake {
                reset: ours,
                ..Intake::default()
            };
        }
        match segment.ack {
            Some(ack) if !ours => {
                // An old connection of the guest's on the same numbers: end it, our SYN is repeated later.
                let reply = Outgoing {
                    seq: ack,
                    rst: true,
                    ..Outgoing::default()
                };
                Intake {
                    reply: Some(reply),
                    ..Intake::default()
                }
            }
            Some(_ours) if segment.syn => {
                self.take_syn(segment);
                self.enter_open(now);
                self.receive.ack_due = true;
                Intake {
                    opened: true,
                    ..Intake::default()
                }
            }
            Some(_) | None => Intake::default(),
        }
    }

    fn on_open_segment(&mut self, segment: &Segment, now: Instant, sink: &mut impl Sink) -> Intake {
        let mut intake = Intake::default();
        if segment.rst {
            if segment.seq == self.receive.next {
                if self.receive.fin && self.send.fin_sent() {
                    // CLOSING or LAST-ACK: the end, and nobody's fault (RFC 9293 §3.10.7.4). Our FIN's
                    // acknowledgement was lost; a reset of the host would destroy what its socket still holds.
                    intake.acknowledged = self.send.abandon();
                } else {
                    intake.reset = true;
                }
            } else if self.receive.next.before(segment.seq) && segment.seq.before(self.receive.edge)
            {
                self.receive.ack_due = true; // challenge (RFC 5961 §3.2)
            }
            return intake;
        }
        if segment.syn {
            self.receive.ack_due = true; // challenge (RFC 5961 §4.2)
            return intake;
        }
        let Some(ack) = segment.ack else {
            return intake;
        };
        if self.send.nxt.before(ack) || self.send.is_ancient(ack) {
            self.receive.ack_due = true; // RFC 5961 §5.2
            return intake;
        }
        self.last_heard = now;
        self.keepalives = 0;
        let progress = self.send.acknowledge(segment, ack);
        if progress.advanced {
            self.rtt.acknowledged(ack, now);
            self.timer = None;
            self.attempts = 0;
        } else if self.send.in_flight() == 0 {
            // An answer to a window probe: the guest lives.
            self.attempts = 0;
        }
        intake.acknowledged = progress.bytes;
        self.receive.accept(segment, sink);
        // After the host's end nothing will come to carry it.
        self.receive.ack_due |= self.receive.ack_later && self.send.eof;
        intake
    }

    /// The next header to send, if any; nothing changes until [`Machine::sent`].
    pub fn next_transmit(&mut self) -> Option<Outgoing> {
        match self.phase {
            Phase::Dialing => None,
            Phase::SynReceived | Phase::SynSent => self.syn_due.then(|| self.syn()),
            Phase::Open => {
                if self.probe_due {
                    return Some(self.header(self.send.una.minus(1)));
                }
                if self.receive.ack_due && !self.receive.early.is_empty() {
                    // Data has no room for what the guest is to learn of its hole.
                    return Some(self.acknowledgement());
                }
                if let Some(again) = self.send.again() {
                    let header = self.header(again.seq);
                    return Some(Outgoing {
                        length: again.length as usize,
                        psh: true,
                        fin: again.fin,
                        ..header
                    });
                }
                let length = self.send.next_length();
                let all = length == self.send.unsent();
                let fin = all && self.send.fin_unsent();
                if length > 0 || fin {
                    let header = self.header(self.send.nxt);
                    return Some(Outgoing {
                        length: length as usize,
                        psh: all && length > 0,
                        fin,
                        ..header
                    });
                }
                self.receive.ack_due.then(|| self.acknowledgement())
            }
        }
    }

    fn header(&mut self, seq: Seq) -> Outgoing {
        let window = self.receive.advertise();
        Outgoing {
            seq,
            ack: Some(self.receive.next),
            window,
            ..Outgoing::default()
        }
    }

    fn acknowledgement(&mut self) -> Outgoing {
        let sack = if self.send.selective {
            self.receive.blocks()
        } else {
            SackBlocks::default()
        };
        let header = self.header(self.send.nxt);
        Outgoing { sack, ..header }
    }

    fn syn(&self) -> Outgoing {
        Outgoing {
            seq: self.first,
            ack: (self.phase == Phase::SynReceived).then_some(self.receive.next),
            window: u16::MAX,
            syn: true,
            mss: Some(self.our_mss),
            window_scale: self.scaling.then_some(WINDOW_SHIFT),
            // An answer only repeats what it was offered (RFC 2018 §2).
            sack_permitted: self.phase == Phase::SynSent || self.send.selective,
            ..Outgoing::default()
        }
    }

    /// `outgoing` went to the link with the first `length` of its payload bytes (all but the last frame of a cut
    /// sequence if the link was full: then FIN did not go).
    pub fn sent(&mut self, outgoing: &Outgoing, length: usize, now: Instant) {
        if outgoing.syn {
            self.syn_due = false;
            self.send.nxt = self.first.plus(1);
            if self.attempts == 0 {
                self.rtt.sent(self.send.nxt, now);
            }
            self.timer = Some(now + self.rtt.timeout());
            return;
        }
        self.receive.told();
        if self.probe_due {
            self.probe_due = false;
            return;
        }
        let complete = length == outgoing.length;
        let count = u32::try_from(length).unwrap_or(0) + u32::from(outgoing.fin && complete);
        if count == 0 {
            return;
        }
        let end = outgoing.seq.plus(count);
        if outgoing.seq.before(self.send.nxt) {
            self.retransmitted += 1;
            self.rtt.resent();
            self.send.sent_again(end);
        } else {
            self.rtt.sent(end, now);
            self.send.nxt = end;
        }
        if self.timer.is_none() {
            self.arm(now);
        }
    }

    fn arm(&mut self, now: Instant) {
        let wait = if self.attempts == 0 && self.send.tail_unprobed() {
            self.rtt.probe_timeout()
        } else {
            self.rtt.timeout()
        };
        self.timer = Some(now + wait);
    }

    /// Sets or clears the timer when nothing more can be sent; `host_waiting` = the host has bytes that no window
    /// let us fetch.
    pub fn settle(&mut self, host_waiting: bool, now: Instant) {
        if self.phase != Phase::Open {
            return;
        }
        let blocked = self.send.unsent() > 0 || self.send.fin_unsent() || host_waiting;
        if self.send.in_flight() == 0 && !blocked {
            self.timer = None;
        } else if self.timer.is_none() {
            self.arm(now);
        }
    }

    /// The next moment at which [`Machine::handle_timeout`] has work.
    pub fn deadline(&self, idle: &Idle) -> Instant {
        let silent = self.idle_deadline(idle);
        self.timer.map_or(silent, |timer| timer.min(silent))
    }

    fn idle_deadline(&self, idle: &Idle) -> Instant {
        let limit = if self.half_closed() {
            idle.half_closed
        } else {
            idle.open
        };
        self.last_heard + limit + KEEPALIVE_INTERVAL * self.keepalives.into()
    }

    /// Time has come.
    pub fn handle_timeout(&mut self, idle: &Idle, now: Instant) -> Expiry {
        if self.timer.is_some_and(|timer| timer <= now) {
            self.timer = None;
            if self.attempts == 0 && self.phase == Phase::Open && self.send.tail_unprobed() {
                self.send.probe_tail();
                return Expiry::Continue;
            }
            self.attempts += 1;
            self.rtt.expired();
            match self.phase {
                Phase::Dialing => {}
                Phase::SynReceived | Phase::SynSent => {
                    if self.attempts >= HANDSHAKE_ATTEMPTS {
                        return Expiry::GiveUp;
                    }
                    self.syn_due = true;
                    self.retransmitted += 1;
                }
                Phase::Open => {
                    if self.attempts >= DATA_ATTEMPTS {
                        return Expiry::GiveUp;
                    }
                    if self.send.in_flight() > 0 {
                        self.send.time_out();
                    } else {
                        // With the window shut nothing would go: ask for it (RFC 9293 §3.8.6.1).
                        self.probe_due = self.send.next_length() == 0 && !self.send.fin_unsent();
                    }
                }
            }
        }
        if self.idle_deadline(idle) <= now {
            if self.half_closed()
                || self.phase != Phase::Open
                || self.keepalives >= KEEPALIVE_ATTEMPTS
            {
                return Expiry::GiveUp;
            }
            self.keepalives += 1;
            self.probe_due = true;
        }
        Expiry::Continue
    }

    /// The reset that tells the guest the end (RFC 9293 §3.5.2).
    pub fn reset(&self) -> Outgoing {
        match self.phase {
            // No number of ours is known to the guest yet.
            Phase::Dialing => Outgoing {
                ack: Some(self.receive.next),
                rst: true,
                ..Outgoing::default()
            },
            Phase::SynSent => Outgoing {
                seq: self.first.plus(1),
                rst: true,
                ..Outgoing::default()
            },
            Phase::SynReceived | Phase::Open => {
                let seq = self.send.nxt.later(self.first.plus(1));
                Outgoing {
                    seq,
                    ack: Some(self.receive.next),
                    rst: true,
                    ..Outgoing::default()
                }
            }
        }
    }
}

/// Below this a segment is mostly header; a guest that asks for less gets this (as Linux does by default).
const MINIMUM_MSS: u16 = 48;

/// The reset that answers a segment of no connection (RFC 9293 §3.10.7.1); `None` for a reset.
pub fn reset_stray(segment: &Segment) -> Option<Outgoing> {
    if segment.rst {
        return None;
    }
    Some(match segment.ack {
        Some(ack) => Outgoing {
            seq: ack,
            rst: true,
            ..Outgoing::default()
        },
        None => Outgoing {
            ack: Some(segment.seq.plus(segment.length())),
            rst: true,
            ..Outgoing::default()
        },
    })
}
