//! One TCP flow at work: bytes from a guest's frame straight into the host's socket, bytes from the host's socket
//! into one frame for the guest. The machine says what is allowed, this file makes the calls.
//! It neither opens nor closes flows (`flows` does).

use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::{RecvFlags, Shutdown};

use super::context::{Context, Place};
use super::intake::{Early, Taken, Taking, send};
use super::limits::{Throttle, Way};
use super::messages::Traffic;
use crate::engine::ends::Key;
use crate::engine::services::LinkId;
use crate::engine::tcp::segment::Segment;
use crate::engine::tcp::{Intake, Machine, Phase};
use crate::io::link::TcpFrame;
use crate::io::pool::{Chunks, LARGE, Pool, SMALL};

/// Frames to the guest in one turn of one flow.
const TURN: usize = 32;
/// Slices of one frame.
const SLICES: usize = 16;

/// One flow.
#[derive(Debug)]
pub(super) struct Flow {
    pub(super) machine: Machine,
    pub(super) key: Key,
    /// Where the guest sits; unknown until ARP answers for a published port.
    pub(super) place: Option<Place>,
    /// Whose flow the table counts it as.
    pub(super) holder: Option<LinkId>,
    pub(super) host: OwnedFd,
    pub(super) outbound: bool,
    /// The socket may have something to read (edge-triggered: true until it says otherwise).
    pub(super) readable: bool,
    /// The socket may take something.
    pub(super) writable: bool,
    /// The host's peer has closed or failed: read until the end.
    pub(super) hangup: bool,
    /// An error waits in the socket.
    pub(super) failed: bool,
    write_shut: bool,
    /// In the ready list.
    pub(super) queued: bool,
    /// In its link's list of waiters.
    pub(super) waiting: bool,
    /// In the list of those that found no buffer.
    pub(super) starved: bool,
    /// In the list of delayed acknowledgements.
    pub(super) ack_listed: bool,
    /// The earliest timer entry there is.
    pub(super) armed: Option<std::time::Instant>,
    pub(super) since: std::time::Instant,
    to_guest: Chunks,
    to_host: Chunks,
    early: Early,
    pub(super) traffic: Traffic,
    /// By [`Way`]: waits for its guest's rate limit.
    pub(super) throttled: [Throttle; 2],
}

/// What is to become of the flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Goes on.
    Keep,
    /// Goes on, and has more to do at once.
    Again,
    /// Waits for its link.
    LinkFull,
    /// Waits for a buffer.
    NoBuffer,
    /// Both sides closed in order.
    Finished,
    /// The host's side failed: reset the guest.
    HostFailed,
    /// The guest's link is gone: reset the host.
    GuestGone,
}

enum Fetched {
    Some,
    Nothing,
    NoBuffer,
    Failed,
}

impl Flow {
    pub(super) fn new(machine: Machine, key: Key, host: OwnedFd, now: std::time::Instant) -> Self {
        Self {
            machine,
            key,
            place: None,
            holder: None,
            host,
            outbound: true,
            readable: false,
            writable: false,
            hangup: false,
            failed: false,
            write_shut: false,
            queued: false,
            waiting: false,
            starved: false,
            ack_listed: false,
            armed: None,
            since: now,
            to_guest: Chunks::default(),
            to_host: Chunks::default(),
            early: Early::default(),
            traffic: Traffic::default(),
            throttled: Default::default(),
        }
    }

    /// A segment of the guest; its payload goes to the host here and now.
    pub(super) fn take(
        &mut self,
        context: &mut Context,
        segment: &Segment,
        payload: &[&[u8]],
    ) -> Intake {
        let place = self.place;
        let mut taking = Taking {
            allowed: context.allowance(Way::Up, place, segment.payload),
            host: &self.host,
            writable: &mut self.writable,
            to_host: &mut self.to_host,
            early: &mut self.early,
            pool: &mut context.pool,
            counters: &mut context.counters,
            payload,
            taken: 0,
            sent: 0,
            outcome: Taken::Sent,
        };
        let intake = self.machine.on_segment(segment, context.now, &mut taking);
        self.traffic.bytes_out += taking.taken;
        self.traffic.packets_out += payload.len().max(1) as u64;
        let sent = taking.sent;
        match taking.outcome {
            Taken::Sent => {}
            Taken::Kept => self.machine.host_stalled(),
            Taken::Broken => self.failed = true,
        }
        if intake.acknowledged > 0 {
            self.to_guest
                .advance(&mut context.pool, intake.acknowledged as usize);
        }
        context.spend(Way::Up, place, sent);
        intake
    }

    /// Does what can be done now, both ways.
    pub(super) fn pump(&mut self, context: &mut Context) -> Verdict {
        if self.machine.phase() == Phase::Dialing {
            return Verdict::Keep;
        }
        let waiting = self.to_host.len();
        let allowed = context.allowance(Way::Up, self.place, waiting);
        if self.failed || !self.push_to_host(&mut context.pool, allowed) {
            return Verdict::HostFailed;
        }
        context.spend(Way::Up, self.place, waiting - self.to_host.len());
        let verdict = self.serve_guest(context);
        if self.machine.finished() && self.to_host.is_empty() {
            return Verdict::Finished;
        }
        self.machine.settle(
            self.readable
                && !self.machine.host_done()
                && !self.waiting
                && self.throttled[Way::Down as usize] == Throttle::No,
            context.now,
        );
        if self.to_guest.is_empty() {
            self.to_guest.shrink();
        }
        verdict
    }

    /// What rests goes to the host, `allowed` bytes of it at most; false if its socket failed.
    fn push_to_host(&mut self, pool: &mut Pool, mut allowed: usize) -> bool {
        if self.writable && !self.to_host.is_empty() {
            while !self.to_host.is_empty() {
                if allowed == 0 {
                    self.wait_for_tokens(Way::Up);
                    break;
                }
                let mut parts = [&[][..]; 1];
                self.to_host.slices(0, LARGE.min(allowed), &mut parts);
                match send(&self.host, parts[0]) {
                    Ok(sent) => {
                        self.to_host.advance(pool, sent);
                        allowed -= sent;
                    }
                    Err(Errno::INTR) => {}
                    Err(Errno::AGAIN) => {
                        self.writable = false;
                        // Also where a hole was filled and more came free than the host takes.
                        self.machine.host_stalled();
                        break;
                    }
                    Err(_broken) => return false,
                }
            }
            if self.to_host.is_empty() {
                self.to_host.shrink();
            }
        }
        if self.to_host.is_empty() {
            // Also where the pool was dry and nothing could be kept.
            if self.writable {
                self.machine.host_drained();
            }
            if self.machine.guest_finished() && !self.write_shut {
                self.write_shut = true;
                // A peer that is gone already is found by the next read.
                rustix::net::shutdown(&self.host, Shutdown::Write).ok();
            }
        }
        true
    }

    fn wait_for_tokens(&mut self, way: Way) {
        let state = &mut self.throttled[way as usize];
        if *state == Throttle::No {
            *state = Throttle::Wanted;
        }
    }

    fn serve_guest(&mut self, context: &mut Context) -> Verdict {
        let mut turns = TURN;
        loop {
            match self.transmit(context) {
                Verdict::Keep => {}
                stop @ (Verdict::Again
                | Verdict::LinkFull
                | Verdict::NoBuffer
                | Verdict::Finished
                | Verdict::HostFailed
                | Verdict::GuestGone) => return stop,
            }
            if !self.readable || self.machine.host_done() {
                return Verdict::Keep;
            }
            let wanted = self.machine.wanted();
            if wanted == 0 {
                return Verdict::Keep;
            }
            if turns == 0 {
                return Verdict::Again;
            }
            turns -= 1;
            // When memory is short each flow makes do with one piece on its way.
            if context.pool.is_tight() && !self.to_guest.is_empty() {
                return Verdict::Keep;
            }
            let allowed = context.allowance(Way::Down, self.place, wanted);
            if allowed == 0 {
                self.wait_for_tokens(Way::Down);
                return Verdict::Keep;
            }
            let before = self.to_guest.len();
            match self.fetch(&mut context.pool, wanted.min(allowed)) {
                Fetched::Some => {
                    context.spend(Way::Down, self.place, self.to_guest.len() - before);
                }
                Fetched::Nothing => return Verdict::Keep,
                Fetched::NoBuffer => return Verdict::NoBuffer,
                Fetched::Failed => return Verdict::HostFailed,
            }
        }
    }

    /// Sends all that the machine allows; `Keep` = done.
    fn transmit(&mut self, context: &mut Context) -> Verdict {
        while let Some(outgoing) = self.machine.next_transmit() {
            let Some(place) = self.place.or_else(|| self.find_place(context)) else {
                // Nobody knows the guest yet: as lost on the wire, the timer asks again.
                context.ask_who_has(self.key.guest().ip());
                self.machine.sent(&outgoing, 0, context.now);
                continue;
            };
            let mut parts = [&[][..]; SLICES];
            let (count, length) = if outgoing.length > 0 {
                self.to_guest.slices(
                    self.machine.offset_of(&outgoing),
                    outgoing.length,
                    &mut parts,
                )
            } else {
                (0, 0)
            };
            let path = context.path(self.key.addresses.reversed(), place);
            let mut header = outgoing;
            header.fin &= length == outgoing.length;
            let frame = TcpFrame {
                path,
                ports: (self.key.ports.1, self.key.ports.0),
                header,
                payload: &parts[..count],
                mss: self.machine.mss(),
            };
            let now = context.now;
            let Some(link) = context.link(place.link) else {
                return Verdict::GuestGone;
            };
            let sent = link.send_tcp(&frame);
            let full = link.full;
            if let Some(taken) = sent {
                self.traffic.packets_in += 1;
                if !context.captures.is_empty() {
                    context.capture_tcp(place.link, &frame, taken);
                }
            }
            if length == 0 {
                context.look_at(place.link);
            }
            match sent {
                None => return Verdict::LinkFull,
                Some(count) => self.machine.sent(&outgoing, count, now),
            }
            if full {
                return Verdict::LinkFull;
            }
        }
        Verdict::Keep
    }

    fn find_place(&mut self, context: &Context) -> Option<Place> {
        let (mac, link) = context.neighbours.get(self.key.guest().ip())?;
        self.place = Some(Place { mac, link });
        self.place
    }

    /// Reads up to `wanted` bytes from the host.
    fn fetch(&mut self, pool: &mut Pool, wanted: usize) -> Fetched {
        let Some(mut buffer) = pool.take(wanted) else {
            return Fetched::NoBuffer;
        };
        let asked = wanted.min(buffer.size());
        let received = rustix::net::recv(
            &self.host,
            &mut buffer.bytes_mut()[..asked],
            RecvFlags::DONTWAIT,
        );
        let count = match received {
            Ok((_, count)) if count > 0 => count,
            other => {
                pool.give(buffer);
                return match other {
                    Ok(_end) => {
                        self.machine.host_finished();
                        // Once more through `transmit`, for the FIN.
                        Fetched::Some
                    }
                    Err(Errno::INTR) => Fetched::Some,
                    Err(Errno::AGAIN) => {
                        self.readable = false;
                        Fetched::Nothing
                    }
                    Err(_broken) => Fetched::Failed,
                };
            }
        };
        // A stream socket that gave less than was asked is empty until the next edge (epoll(7)).
        self.readable = count == asked || self.hangup;
        if count <= SMALL && asked > SMALL {
            // A large buffer must not be held for a few bytes; if no small one is to be had, it is all the same.
            if self.to_guest.copy_whole(pool, &buffer.bytes_mut()[..count]) {
                pool.give(buffer);
            } else {
                self.to_guest.push(buffer, count);
            }
        } else {
            self.to_guest.push(buffer, count);
        }
        self.machine.host_sent(count);
        self.traffic.bytes_in += count as u64;
        Fetched::Some
    }

    /// Gives all buffers back.
    pub(super) fn release(&mut self, pool: &mut Pool) {
        self.to_guest.clear(pool);
        self.to_host.clear(pool);
        self.early.clear(pool);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::engine::services::NoServices;
    use crate::engine::settings::{NetworkSettings, Reach};
    use crate::engine::tcp::seq::Seq;

    fn segment(seq: u32, ack: Option<Seq>, payload: usize) -> Segment {
        Segment {
            seq: Seq(seq),
            ack,
            window: 60_000,
            syn: ack.is_none(),
            fin: false,
            rst: false,
            mss: Some(1_460),
            payload,
            ..Segment::default()
        }
    }

    /// An open flow whose host side is a socket pair.
    fn open() -> (Context, Flow, UnixStream, Seq) {
        let settings = NetworkSettings::new("t", Reach::Nat, "10.0.0.0/24".parse().unwrap());
        let (sender, _) = tokio::sync::mpsc::channel(1);
        let now = super::super::worker::clock();
        let mut context = Context::new(settings, Box::new(NoServices), sender, now).unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (guest, remote) = ("10.0.0.2:1", "192.0.2.1:2");
        let key = Key::of(guest.parse().unwrap(), remote.parse().unwrap()).unwrap();
        let machine = Machine::from_syn(&segment(0, None, 0), Seq(500), 1_460, now);
        let mut flow = Flow::new(machine, key, ours.into(), now);
        flow.writable = true;
        flow.machine.host_connected();
        let syn = flow.machine.next_transmit().unwrap();
        flow.machine.sent(&syn, 0, now);
        assert!(
            flow.take(&mut context, &segment(1, Some(Seq(501)), 0), &[])
                .opened
        );
        (context, flow, theirs, Seq(501))
    }

    #[test]
    fn bytes_queued_behind_others_do_not_unlearn_that_the_socket_is_writable() {
        let (mut context, mut flow, mut host, ack) = open();
        // The socket was full, bytes rest; then it became writable, and before `pump` more bytes come.
        flow.writable = false;
        flow.take(&mut context, &segment(1, Some(ack), 3), &[b"one"]);
        flow.writable = true;
        flow.take(&mut context, &segment(4, Some(ack), 3), &[b"two"]);
        assert!(flow.writable, "the event that said so comes only once");
        flow.place = Some(Place {
            mac: control::mac::MacAddress([2; 6]),
            link: LinkId(9),
        });
        flow.pump(&mut context);
        let mut got = [0; 6];
        host.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"onetwo");
        assert!(flow.to_host.is_empty() && context.pool.in_use() == 0);
    }

    #[test]
    fn only_a_refusal_by_the_socket_ends_writing() {
        let (mut context, mut flow, mut host, ack) = open();
        let piece = vec![7; 30_000];
        let (mut seq, mut sent) = (1, 0);
        while flow.writable {
            flow.take(
                &mut context,
                &segment(seq, Some(ack), piece.len()),
                &[&piece],
            );
            flow.push_to_host(&mut context.pool, usize::MAX);
            seq += 30_000;
            sent += piece.len();
            // Acknowledged on the spot, so that the window goes on.
            let now = context.now;
            let due = flow.machine.next_transmit().unwrap();
            flow.machine.sent(&due, 0, now);
        }
        let rest = flow.to_host.len();
        assert!(rest > 0 && rest <= piece.len());
        let mut got = vec![0; sent - rest];
        host.read_exact(&mut got).unwrap();
        flow.writable = true;
        assert!(flow.push_to_host(&mut context.pool, usize::MAX) && flow.to_host.is_empty());
    }
}
