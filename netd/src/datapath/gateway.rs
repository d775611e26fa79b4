//! DHCP and DNS at the gateway's address: datagrams to and from the services, and queries that wait for an
//! answer from elsewhere. What the answers say is the services' business.

use std::collections::{HashMap, VecDeque};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use control::mac::MacAddress;

use super::context::{Context, Place};
use super::messages::{DnsToken, Notice};
use super::probe::{Pending, Probes, TRIES};
use crate::engine::arp;
use crate::engine::ends::{Addresses, Key};
use crate::engine::offload::Offload;
use crate::engine::packet::{BROADCAST, Path, UDP, write_udp_frame};
use crate::engine::services::{
    DhcpArrival, DhcpDestination, DhcpReply, DnsClient, DnsOutcome, LinkId,
};

const DNS_PORT: u16 = 53;
const DHCP_SERVER: u16 = 67;
const DHCP_CLIENT: u16 = 68;
/// Queries that wait for an answer; more are dropped (the client asks again).
const WAITING: usize = 1_024;
/// Of them, those of one link: a guest that asks what nobody answers leaves room to the others.
const WAITING_PER_LINK: usize = 96;
/// A resolver's client has given up by then.
const PATIENCE: Duration = Duration::from_secs(10);

struct Waiting {
    place: Place,
    query: Key,
}

#[derive(Default)]
pub(super) struct Gateway {
    waiting: HashMap<u64, Waiting>,
    order: VecDeque<(u64, Instant)>,
    per_link: HashMap<LinkId, usize>,
    next_token: u64,
    probes: Probes,
}

impl Gateway {
    /// A datagram to port 67.
    pub(super) fn dhcp(
        &mut self,
        context: &mut Context,
        place: Place,
        source: Ipv4Addr,
        payload: &[u8],
    ) {
        context.counters.dhcp_messages += 1;
        self.ask_dhcp(context, place, (source, payload), TRIES);
    }

    fn ask_dhcp(
        &mut self,
        context: &mut Context,
        place: Place,
        (source, payload): (Ipv4Addr, &[u8]),
        tries_left: u8,
    ) {
        let guest = context
            .links
            .get(place.link.0 as usize)
            .and_then(|link| link.as_deref()?.guest.as_ref());
        let arrival = DhcpArrival {
            source: place.mac,
            source_address: source,
            link: place.link,
            guest,
        };
        let reply = context.services.dhcp(payload, &arrival, context.now);
        context.pass_lease_events();
        let Some(reply) = reply else { return };
        let Some(address) = reply.probe else {
            return send_dhcp(context, place, &reply);
        };
        let client = client_of(payload);
        // The client itself was seen there: it had the address before we knew of it.
        let is_its_own = context
            .neighbours
            .get(address.into())
            .is_some_and(|(mac, _)| mac == client);
        if is_its_own || self.probes.holds(address) {
            return send_dhcp(context, place, &reply);
        }
        let pending = Pending {
            address,
            client,
            place,
            source,
            query: payload.to_vec(),
            reply,
            tries_left,
        };
        match self.probes.hold(pending, context.now) {
            Ok(()) => {
                context.counters.dhcp_probes += 1;
                let probe = arp::probe(&context.settings, address);
                context.flood(None, &probe, &Offload::default());
            }
            Err(reply) => {
                context.counters.dhcp_probes_skipped += 1;
                send_dhcp(context, place, &reply);
            }
        }
    }

    /// A station says that it has an address: not one to offer to another.
    pub(super) fn claimed(&mut self, context: &mut Context, address: Ipv4Addr, mac: MacAddress) {
        let Some(pending) = self.probes.claimed(address, mac) else {
            return;
        };
        context.services.address_in_use(address, context.now);
        if let Some(tries_left) = pending.tries_left.checked_sub(1) {
            let question = (pending.source, pending.query.as_slice());
            self.ask_dhcp(context, pending.place, question, tries_left);
        }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.probes.deadline()
    }

    /// Offers whose addresses nobody claimed.
    pub(super) fn handle_timeout(&mut self, context: &mut Context) {
        while let Some(pending) = self.probes.take_due(context.now) {
            send_dhcp(context, pending.place, &pending.reply);
        }
    }

    /// A datagram to port 53 of the gateway.
    pub(super) fn dns(&mut self, context: &mut Context, place: Place, key: Key, query: &[u8]) {
        let address = key.guest().ip();
        if !context.source_allowed(address, place) {
            return;
        }
        context.counters.dns_queries += 1;
        let guest = context
            .links
            .get(place.link.0 as usize)
            .and_then(|link| link.as_deref()?.guest.as_ref());
        let outcome = context
            .services
            .dns(query, &DnsClient { address, guest }, context.now);
        match outcome {
            DnsOutcome::Answer(answer) => answer_dns(context, place, key, &answer),
            DnsOutcome::Kept(answer) => {
                let refusal = name_refused(context, place, query);
                answer_dns(context, place, key, &refusal.unwrap_or(answer));
            }
            DnsOutcome::Forward => match name_refused(context, place, query) {
                Some(refusal) => answer_dns(context, place, key, &refusal),
                None => self.forward(context, place, key, query),
            },
            DnsOutcome::Drop => context.counters.dns_dropped += 1,
        }
    }

    fn forward(&mut self, context: &mut Context, place: Place, key: Key, query: &[u8]) {
        while let Some((token, until)) = self.order.front().copied()
            && (until <= context.now || !self.waiting.contains_key(&token))
        {
            self.order.pop_front();
            self.take(token);
        }
        let guest = context.guest_on(place.link).cloned();
        self.next_token += 1;
        let token = self.next_token;
        let of_link = self.per_link.get(&place.link).copied().unwrap_or(0);
        let full = self.waiting.len() >= WAITING || of_link >= WAITING_PER_LINK;
        let notice = Notice::DnsQuery {
            token: DnsToken(token),
            payload: query.to_vec(),
            address: key.guest().ip(),
            guest,
        };
        if full || !context.notify(notice) {
            context.counters.dns_dropped += 1;
            return;
        }
        *self.per_link.entry(place.link).or_default() += 1;
        self.waiting.insert(token, Waiting { place, query: key });
        self.order.push_back((token, context.now + PATIENCE));
    }

    /// The answer to a forwarded query.
    pub(super) fn answer(&mut self, context: &mut Context, token: DnsToken, payload: &[u8]) {
        if let Some(waiting) = self.take(token.0) {
            answer_dns(context, waiting.place, waiting.query, payload);
        }
    }

    fn take(&mut self, token: u64) -> Option<Waiting> {
        let waiting = self.waiting.remove(&token)?;
        let link = waiting.place.link;
        if let Some(count) = self.per_link.get_mut(&link) {
            *count -= 1;
            if *count == 0 {
                self.per_link.remove(&link);
            }
        }
        Some(waiting)
    }

    pub(super) fn clear(&mut self) {
        self.waiting.clear();
        self.per_link.clear();
        self.order.clear();
        self.probes.clear();
    }
}

fn send_dhcp(context: &mut Context, place: Place, reply: &DhcpReply) {
    let (destination_mac, destination, port) = match reply.destination {
        DhcpDestination::Broadcast => (BROADCAST, Ipv4Addr::BROADCAST, DHCP_CLIENT),
        DhcpDestination::Relay { mac, address } => (mac, address, DHCP_SERVER),
        DhcpDestination::Unicast { mac, address } => (mac, address, DHCP_CLIENT),
    };
    let path = Path {
        source_mac: context.settings.gateway_mac,
        destination_mac,
        addresses: Addresses::V4 {
            source: context.settings.gateway,
            destination,
        },
    };
    context.send_built(place.link, |frame| {
        write_udp_frame(frame, &path, (DHCP_SERVER, port), &reply.payload)
    });
}

/// `chaddr` of a message that the server has read.
fn client_of(message: &[u8]) -> MacAddress {
    const CHADDR: usize = 28;
    let octets = message.get(CHADDR..).and_then(<[u8]>::first_chunk);
    MacAddress(octets.copied().unwrap_or_default())
}

/// The answer to a guest that may not ask for this name outside, whoever would have answered.
fn name_refused(context: &mut Context, place: Place, query: &[u8]) -> Option<Vec<u8>> {
    let guest = context.guest_on(place.link).cloned();
    context.name_refused(guest.as_ref(), query)
}

fn answer_dns(context: &mut Context, place: Place, query: Key, payload: &[u8]) {
    let path = context.path(query.addresses.reversed(), place);
    // A longer answer would not fit a packet: the services truncate (RFC 1035 §4.2.1), this is the last guard.
    if payload.len() + UDP + path.ip_header() > usize::from(context.settings.mtu) {
        context.counters.dns_dropped += 1;
        return;
    }
    let guest = context.guest_on(place.link).cloned();
    context.learn(guest.as_ref(), payload);
    context.send_built(place.link, |frame| {
        write_udp_frame(frame, &path, (DNS_PORT, query.ports.0), payload)
    });
}
