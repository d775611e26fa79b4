//! The TCP flows of one network: finding, opening, closing, evicting, timers. What happens inside a flow
//! is `pump`'s and the machine's.

use std::collections::{HashMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::{Duration, Instant};

use control::port::Protocol;
use rustix::event::epoll::EventFlags;
use rustix::fd::OwnedFd;

use super::context::{Context, Place, Source};
use super::messages::{FlowSnapshot, Notice};
use super::pump::{Flow, Key, Verdict};
use crate::engine::icmp::{Quoted, Unreachable};
use crate::engine::nat::{self, Refusal, Target};
use crate::engine::packet::PROTOCOL_TCP;
use crate::engine::services::LinkId;
use crate::engine::tcp::linger::Linger;
use crate::engine::tcp::segment::{Outgoing, Segment, pseudo_sum};
use crate::engine::tcp::{Expiry, Idle, Machine, Phase, reset_stray};
use crate::engine::timers::Timers;
use crate::io::host::{self, DialError};
use crate::io::link::TcpFrame;

/// A flow that waits for the host is looked at this often, so that quick connects leave no late timers behind.
const DIAL_CHECK: Duration = Duration::from_secs(2);
/// A published port's guest that does not answer ARP for this many SYNs (1 + 2 s) is not there.
const UNKNOWN_ATTEMPTS: u8 = 2;
/// How long an acknowledgement waits for an answer that may carry it.
const ACK_DELAY: Duration = Duration::from_millis(1);
/// Flows looked at to find the one that gives way.
const EVICTION_SAMPLE: usize = 64;

struct Slot {
    generation: u32,
    flow: Option<Box<Flow>>,
}

#[derive(Default)]
pub(super) struct Flows {
    slots: Vec<Slot>,
    free: Vec<u32>,
    index: HashMap<Key, u32>,
    ready: VecDeque<u32>,
    starved: Vec<u32>,
    /// Flows whose acknowledgement waits for a header to ride on, and until when.
    delayed: Vec<u32>,
    delayed_until: Option<Instant>,
    /// Flows to a guest whose MAC is not known.
    unplaced: Vec<u32>,
    timers: Timers<(u32, u32)>,
    linger: Linger<Key>,
    cursor: usize,
    next_port: u16,
}

/// How a flow ends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Orderly,
    ResetHost,
    ResetGuest,
    ResetBoth,
}

impl Flows {
    pub(super) fn len(&self) -> usize {
        self.index.len()
    }

    fn flow(&mut self, slot: u32) -> Option<&mut Flow> {
        self.slots.get_mut(slot as usize)?.flow.as_deref_mut()
    }

    /// Work waits that needs no event.
    pub(super) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// A TCP segment of a guest to us (or several gathered into one), checked; its payload in slices.
    pub(super) fn segment(
        &mut self,
        context: &mut Context,
        place: Place,
        key: Key,
        segment: &Segment,
        payload: &[&[u8]],
    ) {
        let Some(&slot) = self.index.get(&key) else {
            self.unknown(context, place, key, segment);
            return;
        };
        let Some(flow) = self.flow(slot) else { return };
        if flow.place != Some(place) {
            // The guest's NIC may come back elsewhere, but only for the address it owns.
            if !context.source_allowed(key.guest.0, place) {
                return;
            }
            flow.place = Some(place);
        }
        let intake = flow.take(context, segment, payload);
        if let Some(reply) = intake.reply {
            send_alone(context, place, key, reply);
        }
        if intake.opened && !flow.outbound {
            context.counters.tcp_opened_in += 1;
        }
        if intake.reset {
            self.close(context, slot, End::ResetHost);
        } else {
            self.queue(slot);
        }
    }

    fn unknown(&mut self, context: &mut Context, place: Place, key: Key, segment: &Segment) {
        if let Some(answer) = self.linger.answer(&key, segment, context.now) {
            send_alone(context, place, key, answer);
            return;
        }
        if segment.rst {
            return;
        }
        if !segment.syn || segment.ack.is_some() || segment.fin {
            context.counters.tcp_stray += 1;
            if let Some(reset) = reset_stray(segment) {
                send_alone(context, place, key, reset);
            }
            return;
        }
        if context.source_allowed(key.guest.0, place) {
            self.open_outbound(context, place, key, segment);
        }
    }

    fn open_outbound(&mut self, context: &mut Context, place: Place, key: Key, segment: &Segment) {
        let destination = SocketAddrV4::new(key.remote.0, key.remote.1);
        let target = match nat::outbound(&context.settings, Protocol::Tcp, destination) {
            Ok(target) => target,
            Err(refusal) => {
                context.counters.tcp_refused_policy += 1;
                context.refused(place.link, "tcp", destination, refusal.reason());
                self.tell_refusal(context, place, key, segment, refusal);
                return;
            }
        };
        let dials = context.link(place.link).map_or(0, |link| link.dials);
        if dials >= context.settings.limits.dials_per_guest || !self.make_room(context) {
            context.counters.tcp_refused_limit += 1;
            context.refused(place.link, "tcp", destination, "too many connections");
            answer_reset(context, place, key, segment);
            return;
        }
        let dialled = match target {
            Target::Gateway(port) => self.service(context, place, key, port),
            Target::HostLoopback(to) | Target::Remote(to) => host::dial(to),
        };
        let (socket, connected) = match dialled {
            Ok(pair) => pair,
            Err(error) => {
                context.counters.tcp_dial_failed += 1;
                tell_dial_error(context, place, key, segment.seq.0, error);
                return;
            }
        };
        let mut machine = Machine::from_syn(
            segment,
            context.first_seq(key),
            context.settings.mtu,
            context.now,
        );
        if connected {
            machine.host_connected();
            context.counters.tcp_opened_out += 1;
        } else if let Some(link) = context.link(place.link) {
            link.dials += 1;
        }
        let mut flow = Flow::new(machine, key, socket, context.now);
        flow.place = Some(place);
        flow.writable = connected;
        if let Some(slot) = self.insert(context, flow) {
            self.queue(slot);
        }
    }

    fn service(
        &mut self,
        context: &mut Context,
        place: Place,
        key: Key,
        port: u16,
    ) -> Result<(OwnedFd, bool), DialError> {
        let (ours, stream) = host::service_pair()?;
        let guest = context.guest_on(place.link).cloned();
        if context.notify(Notice::ServiceStream {
            port,
            peer: key.guest,
            guest,
            stream,
        }) {
            Ok((ours, true))
        } else {
            Err(DialError::Refused)
        }
    }

    fn tell_refusal(
        &mut self,
        context: &mut Context,
        place: Place,
        key: Key,
        segment: &Segment,
        why: Refusal,
    ) {
        if why.looks_closed() {
            answer_reset(context, place, key, segment);
        } else {
            let reason = if why == Refusal::OwnSubnet {
                Unreachable::Host
            } else {
                Unreachable::Prohibited
            };
            context.send_unreachable(place, reason, &quote(key, segment.seq.0));
        }
    }

    /// A connection to a published port: the guest is asked, the client waits. Dropping `client` unserved would
    /// look like an orderly end, so every way out of here resets it.
    pub(super) fn open_inbound(
        &mut self,
        context: &mut Context,
        client: OwnedFd,
        peer: SocketAddr,
        guest: Option<(Ipv4Addr, u16)>,
    ) {
        host::prepare_stream(&client);
        let no_links = context.links.iter().all(Option::is_none);
        let Some(guest) = guest.filter(|_| !no_links) else {
            host::reset_on_close(&client);
            return;
        };
        let seen = nat::client_seen_as(&context.settings, peer);
        let Some(key) = self.free_key(guest, (seen, peer.port())) else {
            host::reset_on_close(&client);
            context.counters.tcp_refused_limit += 1;
            return;
        };
        if !self.make_room(context) {
            host::reset_on_close(&client);
            context.counters.tcp_refused_limit += 1;
            return;
        }
        let machine = Machine::to_guest(context.first_seq(key), context.settings.mtu, context.now);
        let mut flow = Flow::new(machine, key, client, context.now);
        flow.outbound = false;
        flow.writable = true;
        if let Some(slot) = self.insert(context, flow) {
            if context.neighbours.get(guest.0).is_none() {
                self.unplaced.push(slot);
            }
            self.queue(slot);
        }
    }

    /// The client's own port where it is free towards this guest, else another.
    fn free_key(&mut self, guest: (Ipv4Addr, u16), seen: (Ipv4Addr, u16)) -> Option<Key> {
        let wanted = Key {
            guest,
            remote: seen,
        };
        if !self.index.contains_key(&wanted) && !self.linger.knows(&wanted) {
            return Some(wanted);
        }
        for _try in 0..1_024 {
            self.next_port = self.next_port.wrapping_add(1) | 0x8000;
            let key = Key {
                guest,
                remote: (seen.0, self.next_port),
            };
            if !self.index.contains_key(&key) && !self.linger.knows(&key) {
                return Some(key);
            }
        }
        None
    }

    fn insert(&mut self, context: &mut Context, flow: Flow) -> Option<u32> {
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None => {
                self.slots.push(Slot {
                    generation: 0,
                    flow: None,
                });
                u32::try_from(self.slots.len() - 1).ok()?
            }
        };
        let place = self.slots.get_mut(slot as usize)?;
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        let source = Source::Tcp(slot, place.generation);
        let watched = context.watch(&flow.host, source, flags);
        self.index.insert(flow.key, slot);
        place.flow = Some(Box::new(flow));
        if let Err(error) = watched {
            context.host_limit("epoll", || format!("cannot watch a socket: {error}"), None);
            self.close(context, slot, End::ResetBoth);
            return None;
        }
        Some(slot)
    }

    /// The flow is worked on before the loop sleeps.
    fn queue(&mut self, slot: u32) {
        if let Some(flow) = self.flow(slot)
            && !flow.queued
        {
            flow.queued = true;
            self.ready.push_back(slot);
        }
    }

    /// The host's socket has news.
    pub(super) fn event(
        &mut self,
        context: &mut Context,
        slot: u32,
        generation: u32,
        flags: EventFlags,
    ) {
        let current = self
            .slots
            .get(slot as usize)
            .is_some_and(|place| place.generation & 0x00ff_ffff == generation);
        let Some(flow) = self.flow(slot).filter(|_| current) else {
            return;
        };
        let broken = flags.intersects(EventFlags::ERR | EventFlags::HUP);
        flow.readable |= broken || flags.intersects(EventFlags::IN | EventFlags::RDHUP);
        flow.writable |= broken || flags.contains(EventFlags::OUT);
        flow.hangup |= broken || flags.contains(EventFlags::RDHUP);
        if flow.machine.phase() == Phase::Dialing {
            let result = if broken {
                rustix::net::sockopt::socket_error(&flow.host).unwrap_or(Ok(()))
            } else if flags.contains(EventFlags::OUT) {
                Ok(())
            } else {
                return;
            };
            self.dialled(context, slot, result);
        } else if flags.contains(EventFlags::ERR)
            && matches!(rustix::net::sockopt::socket_error(&flow.host), Ok(Err(_)))
        {
            flow.failed = true;
        }
        self.queue(slot);
    }

    fn dialled(&mut self, context: &mut Context, slot: u32, result: rustix::io::Result<()>) {
        let Some(flow) = self.flow(slot) else { return };
        let Some(place) = flow.place else { return };
        match result {
            Ok(()) => {
                flow.machine.host_connected();
                context.counters.tcp_opened_out += 1;
                if let Some(link) = context.link(place.link) {
                    link.dials = link.dials.saturating_sub(1);
                }
            }
            Err(error) => self.dial_failed(context, slot, host::dial_error(error)),
        }
    }

    fn dial_failed(&mut self, context: &mut Context, slot: u32, error: DialError) {
        let Some(flow) = self.flow(slot) else { return };
        let (key, place) = (flow.key, flow.place);
        let syn = flow.machine.last_numbers().1.minus(1).0;
        context.counters.tcp_dial_failed += 1;
        if let Some(place) = place {
            tell_dial_error(context, place, key, syn, error);
        }
        self.close(context, slot, End::Orderly);
    }

    /// Works on every flow that has something to do, once.
    pub(super) fn run_ready(&mut self, context: &mut Context) {
        for address in std::mem::take(&mut context.found) {
            self.place_found(address);
        }
        if !self.starved.is_empty() && !context.pool.is_tight() {
            for slot in std::mem::take(&mut self.starved) {
                if let Some(flow) = self.flow(slot) {
                    flow.starved = false;
                }
                self.queue(slot);
            }
        }
        for _turn in 0..self.ready.len() {
            let Some(slot) = self.ready.pop_front() else {
                break;
            };
            self.work(context, slot);
        }
    }

    fn place_found(&mut self, address: Ipv4Addr) {
        let mut at = 0;
        while let Some(&slot) = self.unplaced.get(at) {
            let waits = self
                .flow(slot)
                .filter(|flow| flow.place.is_none() && !flow.outbound)
                .map(|flow| {
                    let hit = flow.key.guest.0 == address;
                    if hit {
                        flow.machine.retry_syn();
                    }
                    hit
                });
            if waits == Some(false) {
                at += 1;
            } else {
                self.unplaced.swap_remove(at);
                self.queue(slot);
            }
        }
    }

    fn work(&mut self, context: &mut Context, slot: u32) {
        let Some(flow) = self.flow(slot) else { return };
        flow.queued = false;
        let before = flow.machine.retransmitted;
        let verdict = flow.pump(context);
        context.counters.tcp_retransmitted += u64::from(flow.machine.retransmitted - before);
        match verdict {
            Verdict::Keep => {}
            Verdict::Again => self.queue(slot),
            Verdict::LinkFull => {
                if let Some(place) = flow.place
                    && !flow.waiting
                    && let Some(link) = context.link(place.link)
                {
                    flow.waiting = true;
                    link.waiters.push(slot);
                    context.look_at(place.link);
                }
            }
            Verdict::NoBuffer => {
                if !flow.starved {
                    flow.starved = true;
                    self.starved.push(slot);
                }
            }
            Verdict::Finished => return self.close(context, slot, End::Orderly),
            Verdict::HostFailed => return self.close(context, slot, End::ResetGuest),
            Verdict::GuestGone => return self.close(context, slot, End::ResetHost),
        }
        if let Some(flow) = self.flow(slot)
            && flow.machine.ack_delayed()
            && !std::mem::replace(&mut flow.ack_listed, true)
        {
            self.delayed.push(slot);
            self.delayed_until.get_or_insert(context.now + ACK_DELAY);
        }
        self.arm(context, slot);
    }

    fn send_delayed(&mut self) {
        self.delayed_until = None;
        for slot in std::mem::take(&mut self.delayed) {
            if let Some(flow) = self.flow(slot) {
                flow.ack_listed = false;
                if flow.machine.ack_delayed() {
                    flow.machine.acknowledge_now();
                    self.queue(slot);
                }
            }
        }
    }

    /// A link has room again.
    pub(super) fn link_ready(&mut self, context: &mut Context, id: LinkId) {
        let Some(link) = context.link(id) else { return };
        for slot in std::mem::take(&mut link.waiters) {
            if let Some(flow) = self.flow(slot) {
                flow.waiting = false;
            }
            self.queue(slot);
        }
    }

    /// A link is gone: its flows end, and the host's peers are told.
    pub(super) fn link_gone(&mut self, context: &mut Context, id: LinkId) {
        for slot in 0..u32::try_from(self.slots.len()).unwrap_or(0) {
            if self
                .flow(slot)
                .is_some_and(|flow| flow.place.is_some_and(|place| place.link == id))
            {
                self.close(context, slot, End::ResetHost);
            }
        }
    }

    /// Ends everything.
    pub(super) fn close_all(&mut self, context: &mut Context) {
        for slot in 0..u32::try_from(self.slots.len()).unwrap_or(0) {
            self.close(context, slot, End::ResetBoth);
        }
    }

    fn close(&mut self, context: &mut Context, slot: u32, end: End) {
        let Some(place) = self.slots.get_mut(slot as usize) else {
            return;
        };
        let Some(mut flow) = place.flow.take() else {
            return;
        };
        place.generation = place.generation.wrapping_add(1);
        self.free.push(slot);
        self.index.remove(&flow.key);
        flow.release(&mut context.pool);
        if let Some(at) = flow.place
            && flow.outbound
            && flow.machine.phase() == Phase::Dialing
            && let Some(link) = context.link(at.link)
        {
            link.dials = link.dials.saturating_sub(1);
        }
        if matches!(end, End::ResetHost | End::ResetBoth) {
            host::reset_on_close(&flow.host);
        }
        if matches!(end, End::ResetGuest | End::ResetBoth)
            && let Some(at) = flow.place
        {
            send_alone(context, at, flow.key, flow.machine.reset());
        }
        if end == End::Orderly && flow.machine.finished() {
            self.linger
                .insert(flow.key, flow.machine.last_numbers(), context.now);
        }
        // Dropping the flow closes its socket, and with it epoll's interest.
    }

    /// True if one more flow may be made, if need be at the cost of another.
    fn make_room(&mut self, context: &mut Context) -> bool {
        if self.index.len() < context.settings.limits.tcp_flows {
            return true;
        }
        let count = self.slots.len();
        let mut victim: Option<(bool, Instant, u32)> = None;
        for _look in 0..EVICTION_SAMPLE.min(count) {
            self.cursor = (self.cursor + 1) % count.max(1);
            let Some(flow) = self
                .slots
                .get(self.cursor)
                .and_then(|slot| slot.flow.as_deref())
            else {
                continue;
            };
            let open = flow.machine.phase() == Phase::Open;
            let rank = (
                open,
                if open {
                    flow.machine.last_heard()
                } else {
                    flow.since
                },
            );
            if victim.is_none_or(|best| rank < (best.0, best.1)) {
                victim = Some((rank.0, rank.1, u32::try_from(self.cursor).unwrap_or(0)));
            }
        }
        let Some((_, _, slot)) = victim else {
            return false;
        };
        context.counters.tcp_evicted += 1;
        self.close(context, slot, End::ResetBoth);
        true
    }

    fn idle(context: &Context) -> Idle {
        let limits = &context.settings.limits;
        Idle {
            open: limits.tcp_idle,
            half_closed: limits.tcp_half_closed_idle,
        }
    }

    fn arm(&mut self, context: &Context, slot: u32) {
        let idle = Self::idle(context);
        let Some(place) = self.slots.get_mut(slot as usize) else {
            return;
        };
        let Some(flow) = place.flow.as_deref_mut() else {
            return;
        };
        let deadline = if flow.machine.phase() == Phase::Dialing {
            (flow.since + context.settings.limits.dial_time).min(context.now + DIAL_CHECK)
        } else {
            flow.machine.deadline(&idle)
        };
        if flow.armed.is_none_or(|armed| deadline < armed) {
            flow.armed = Some(deadline);
            self.timers.push(deadline, (slot, place.generation));
        }
    }

    /// The next moment at which [`Flows::handle_timeout`] has work.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.timers
            .next()
            .into_iter()
            .chain(self.delayed_until)
            .min()
    }

    /// Time has come for some flows.
    pub(super) fn handle_timeout(&mut self, context: &mut Context) {
        if self.delayed_until.is_some_and(|until| until <= context.now) {
            self.send_delayed();
        }
        while let Some((slot, generation)) = self.timers.pop(context.now) {
            let current = self
                .slots
                .get(slot as usize)
                .is_some_and(|place| place.generation == generation);
            let Some(flow) = self.flow(slot).filter(|_| current) else {
                continue;
            };
            // Later entries of the same flow may exist; they only cost a look.
            flow.armed = None;
            if flow.machine.phase() == Phase::Dialing {
                if context.now >= flow.since + context.settings.limits.dial_time {
                    self.dial_failed(context, slot, DialError::Unreachable(Unreachable::Host));
                } else {
                    self.arm(context, slot);
                }
                continue;
            }
            let silent = context
                .now
                .saturating_duration_since(flow.machine.last_heard());
            if silent >= context.settings.limits.tcp_idle {
                host::keep_alive(&flow.host);
            }
            let idle = Self::idle(context);
            let unknown = flow.place.is_none() && flow.machine.attempts() + 1 >= UNKNOWN_ATTEMPTS;
            if flow.machine.handle_timeout(&idle, context.now) == Expiry::GiveUp || unknown {
                self.close(context, slot, End::ResetBoth);
            } else {
                self.queue(slot);
            }
        }
    }

    /// Flows for the control API.
    pub(super) fn snapshot(&self, limit: usize, now: Instant) -> Vec<FlowSnapshot> {
        let flows = self
            .slots
            .iter()
            .filter_map(|slot| slot.flow.as_deref())
            .take(limit);
        flows
            .map(|flow| FlowSnapshot {
                protocol: "tcp",
                guest: flow.key.guest,
                remote: flow.key.remote,
                outbound: flow.outbound,
                state: match flow.machine.phase() {
                    Phase::Dialing => "dialing",
                    Phase::SynReceived | Phase::SynSent => "opening",
                    Phase::Open if flow.machine.half_closed() => "closing",
                    Phase::Open => "open",
                },
                bytes_out: flow.bytes_out,
                bytes_in: flow.bytes_in,
                idle: now.saturating_duration_since(flow.machine.last_heard()),
            })
            .collect()
    }
}

fn quote(key: Key, seq: u32) -> Quoted {
    let mut start = [0; 8];
    start[..2].copy_from_slice(&key.guest.1.to_be_bytes());
    start[2..4].copy_from_slice(&key.remote.1.to_be_bytes());
    start[4..].copy_from_slice(&seq.to_be_bytes());
    Quoted {
        protocol: PROTOCOL_TCP,
        source: key.guest.0,
        destination: key.remote.0,
        start,
    }
}

/// `syn` = sequence number of the guest's SYN.
fn tell_dial_error(context: &mut Context, place: Place, key: Key, syn: u32, error: DialError) {
    let reset = || Outgoing {
        ack: Some(crate::engine::tcp::seq::Seq(syn).plus(1)),
        rst: true,
        ..Outgoing::default()
    };
    match error {
        DialError::Refused => send_alone(context, place, key, reset()),
        DialError::Unreachable(reason) => context.send_unreachable(place, reason, &quote(key, syn)),
        DialError::Exhausted(errno) => {
            send_alone(context, place, key, reset());
            context.host_limit(
                "sockets",
                || format!("cannot open a connection for a guest: {errno}"),
                Some("raise the limit of open files (ulimit -n) or the range of local ports"),
            );
        }
    }
}

fn answer_reset(context: &mut Context, place: Place, key: Key, segment: &Segment) {
    if let Some(reset) = reset_stray(segment) {
        send_alone(context, place, key, reset);
    }
}

/// A segment without payload, outside of any flow; it may be lost.
fn send_alone(context: &mut Context, place: Place, key: Key, outgoing: Outgoing) {
    let path = context.path(key.remote.0, key.guest.0, place);
    let ports = (key.remote.1, key.guest.1);
    let frame = TcpFrame {
        path,
        ports,
        header: outgoing,
        payload: &[],
        mss: 1,
    };
    let (mut headers, length) = frame.headers(0, 0);
    let end = headers.len() - (crate::engine::tcp::segment::LONGEST_HEADER - length);
    let tcp = end - length;
    let mut sum = pseudo_sum(&path, length);
    sum.add(&headers[tcp..end]);
    headers[tcp + 16..tcp + 18].copy_from_slice(&sum.finish().to_be_bytes());
    context.send(
        place.link,
        &headers[..end],
        &crate::engine::offload::Offload::default(),
    );
}
