//! The TCP flows of one network: finding them and working on those that have something to do. How they begin, end
//! and expire stands in `flows/`; what happens inside a flow is `pump`'s and the machine's.

mod ending;
mod opening;
mod timers;

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use rustix::event::epoll::EventFlags;

use super::context::{Context, Place};
use super::limits::{Throttle, WAYS};
use super::messages::FlowSnapshot;
use super::pump::{Flow, Verdict};
use crate::engine::ends::Key;
use crate::engine::holders::Holders;
use crate::engine::offload::Offload;
use crate::engine::services::LinkId;
use crate::engine::tcp::linger::Linger;
use crate::engine::tcp::segment::{Outgoing, Segment};
use crate::engine::tcp::{Phase, reset_stray};
use crate::engine::timers::Timers;
use crate::io::link::TcpFrame;

/// How long an acknowledgement waits for an answer that may carry it.
const ACK_DELAY: Duration = Duration::from_millis(1);

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
    /// Whose the flows are.
    holders: Holders<LinkId>,
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

    /// The flow is counted as the guest's where it sits now.
    fn count(&mut self, slot: u32) {
        let Some(flow) = self.flow(slot) else { return };
        let now = flow.place.map(|place| place.link);
        let before = std::mem::replace(&mut flow.holder, now);
        if now != before {
            before.inspect(|link| self.holders.remove(*link));
            now.inspect(|link| self.holders.add(*link));
        }
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
            if !context.source_allowed(key.guest().ip(), place) {
                return;
            }
            flow.place = Some(place);
            self.count(slot);
        }
        let Some(flow) = self.flow(slot) else { return };
        let opening = !flow.outbound && flow.machine.phase() == Phase::SynSent;
        let intake = flow.take(context, segment, payload);
        if let Some(reply) = intake.reply {
            send_alone(context, place, key, reply);
        }
        if intake.opened && !flow.outbound {
            context.counters.tcp_opened_in += 1;
        }
        if intake.reset {
            if opening {
                context.turned_away.push(key.guest());
            }
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
        if context.source_allowed(key.guest().ip(), place) {
            self.open_outbound(context, place, key, segment);
        }
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

    fn place_found(&mut self, address: IpAddr) {
        let mut at = 0;
        while let Some(&slot) = self.unplaced.get(at) {
            let waits = self
                .flow(slot)
                .filter(|flow| flow.place.is_none() && !flow.outbound)
                .map(|flow| {
                    let hit = flow.key.guest().ip() == address;
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
            && let Some(place) = flow.place
        {
            for way in WAYS {
                let state = &mut flow.throttled[way as usize];
                if *state == Throttle::Wanted {
                    *state = Throttle::Listed;
                    context.throttle(way, place.link, slot);
                }
            }
        }
        if let Some(flow) = self.flow(slot)
            && flow.machine.ack_delayed()
            && !std::mem::replace(&mut flow.ack_listed, true)
        {
            self.delayed.push(slot);
            self.delayed_until.get_or_insert(context.now + ACK_DELAY);
        }
        self.count(slot);
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

    /// Flows for the control API.
    pub(super) fn snapshot(&self, now: Instant) -> impl Iterator<Item = FlowSnapshot> {
        self.slots
            .iter()
            .filter_map(|slot| slot.flow.as_deref())
            .map(move |flow| FlowSnapshot {
                protocol: "tcp",
                link: flow.place.map(|place| place.link),
                guest_name: None,
                name: None,
                guest: flow.key.guest(),
                remote: flow.key.remote(),
                outbound: flow.outbound,
                state: match flow.machine.phase() {
                    Phase::Dialing => "dialing",
                    Phase::SynReceived | Phase::SynSent => "opening",
                    Phase::Open if flow.machine.half_closed() => "closing",
                    Phase::Open => "open",
                },
                age: now.saturating_duration_since(flow.since),
                idle: now.saturating_duration_since(flow.machine.last_heard()),
                traffic: flow.traffic,
                retransmits: flow.machine.retransmitted.into(),
            })
    }
}

/// A segment without payload, outside of any flow; it may be lost.
pub(in crate::datapath) fn send_alone(
    context: &mut Context,
    place: Place,
    key: Key,
    outgoing: Outgoing,
) {
    let frame = TcpFrame {
        path: context.path(key.addresses.reversed(), place),
        ports: (key.ports.1, key.ports.0),
        header: outgoing,
        payload: &[],
        mss: 1,
    };
    context.send(place.link, &frame.sealed(0, 0), &Offload::default());
}
