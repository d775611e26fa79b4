//! How a TCP flow begins: from a guest by a `connect` on the host, towards a guest from a published port; and what
//! the guest is told where it does not.

use std::net::SocketAddr;

use control::egress::FlowProtocol;
use control::port::{Endpoint, Protocol};
use rustix::event::epoll::EventFlags;
use rustix::fd::OwnedFd;

use super::{End, Flows, Slot, send_alone};
use crate::datapath::context::{Context, Place, Source};
use crate::datapath::messages::Notice;
use crate::datapath::pump::Flow;
use crate::engine::ends::Key;
use crate::engine::icmp::{Quoted, Unreachable};
use crate::engine::nat::{self, Refusal, Target};
use crate::engine::packet::PROTOCOL_TCP;
use crate::engine::tcp::segment::{Outgoing, Segment};
use crate::engine::tcp::{Machine, reset_stray};
use crate::io::host::{self, DialError};

impl Flows {
    pub(super) fn open_outbound(
        &mut self,
        context: &mut Context,
        place: Place,
        key: Key,
        segment: &Segment,
    ) {
        let destination = key.remote();
        let target = match nat::outbound(&context.settings, Protocol::Tcp, destination) {
            Ok(target) => target,
            Err(refusal) => {
                context.counters.tcp_refused_policy += 1;
                context.refused(place.link, "tcp", destination, refusal.reason());
                self.tell_refusal(context, place, key, segment, refusal);
                return;
            }
        };
        if !matches!(target, Target::Gateway(_) | Target::Shares)
            && let Err(reason) = context.egress(place.link, FlowProtocol::Tcp, destination)
        {
            context.counters.tcp_refused_policy += 1;
            context.refused_by_policy(place.link, "tcp", destination, &reason);
            answer_reset(context, place, key, segment);
            return;
        }
        let dials = context.link(place.link).map_or(0, |link| link.dials);
        if dials >= context.settings.limits.dials_per_guest || !self.make_room(context) {
            context.counters.tcp_refused_limit += 1;
            context.refused(place.link, "tcp", destination, "too many connections");
            answer_reset(context, place, key, segment);
            return;
        }
        let dialled = match target {
            Target::Gateway(port) => self.service(context, place, key, port),
            // By the cable it is plugged into, not by an address that it could choose.
            Target::Shares => {
                let guest = context.guest_on(place.link);
                match guest.and_then(|guest| context.settings.shares.get(guest)) {
                    Some(path) => host::dial_unix(path),
                    None => Err(DialError::Refused),
                }
            }
            Target::HostLoopback(to) | Target::Remote(to) => host::dial(to),
            Target::Offered(port) => match context.settings.services.get(&port) {
                Some(Endpoint::Address(to)) => host::dial(*to),
                Some(Endpoint::Unix(path)) => host::dial_unix(path),
                None => Err(DialError::Refused),
            },
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
            context.settings.segment_size(key.addresses),
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
            peer: key.guest(),
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
    pub(in crate::datapath) fn open_inbound(
        &mut self,
        context: &mut Context,
        client: OwnedFd,
        peer: SocketAddr,
        guest: Option<SocketAddr>,
    ) {
        host::prepare_stream(&client);
        let no_links = context.links.iter().all(Option::is_none);
        let Some(guest) = guest.filter(|_| !no_links) else {
            host::reset_on_close(&client);
            return;
        };
        let wanted = nat::client_seen_as(&context.settings, peer, guest.ip())
            .and_then(|seen| Key::of(guest, SocketAddr::new(seen, peer.port())));
        let Some(key) = wanted.and_then(|wanted| self.free_key(wanted)) else {
            host::reset_on_close(&client);
            context.counters.tcp_refused_limit += 1;
            return;
        };
        if !self.make_room(context) {
            host::reset_on_close(&client);
            context.counters.tcp_refused_limit += 1;
            return;
        }
        let mss = context.settings.segment_size(key.addresses);
        let machine = Machine::to_guest(context.first_seq(key), mss, context.now);
        let mut flow = Flow::new(machine, key, client, context.now);
        flow.outbound = false;
        flow.writable = true;
        if let Some(slot) = self.insert(context, flow) {
            if context.neighbours.get(guest.ip()).is_none() {
                self.unplaced.push(slot);
            }
            self.queue(slot);
        }
    }

    /// The client's own port where it is free towards this guest, else another.
    fn free_key(&mut self, wanted: Key) -> Option<Key> {
        let free =
            |flows: &Self, key: &Key| !flows.index.contains_key(key) && !flows.linger.knows(key);
        let mut key = wanted;
        for _try in 0..1_024 {
            if free(self, &key) {
                return Some(key);
            }
            self.next_port = self.next_port.wrapping_add(1) | 0x8000;
            key.ports.1 = self.next_port;
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
        self.count(slot);
        Some(slot)
    }

    pub(super) fn dialled(
        &mut self,
        context: &mut Context,
        slot: u32,
        result: rustix::io::Result<()>,
    ) {
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

    pub(super) fn dial_failed(&mut self, context: &mut Context, slot: u32, error: DialError) {
        let Some(flow) = self.flow(slot) else { return };
        let (key, place) = (flow.key, flow.place);
        let syn = flow.machine.last_numbers().1.minus(1).0;
        context.counters.tcp_dial_failed += 1;
        if let Some(place) = place {
            tell_dial_error(context, place, key, syn, error);
        }
        self.close(context, slot, End::Orderly);
    }
}

fn quote(key: Key, seq: u32) -> Quoted<'static> {
    let mut start = [0; 8];
    start[..2].copy_from_slice(&key.ports.0.to_be_bytes());
    start[2..4].copy_from_slice(&key.ports.1.to_be_bytes());
    start[4..].copy_from_slice(&seq.to_be_bytes());
    Quoted {
        protocol: PROTOCOL_TCP,
        addresses: key.addresses,
        start,
        payload: &[],
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
