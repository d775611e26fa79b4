//! Ping to the outside through the kernel's ping sockets (icmp(7)), where net.ipv4.ping_group_range lets us.
//! One socket for each identifier of a guest; the kernel chooses its own identifier on the wire.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use control::egress::FlowProtocol;
use rustix::event::epoll::EventFlags;
use rustix::fd::{AsFd, OwnedFd};
use rustix::net::{RecvFlags, SendFlags};

use super::context::{Context, Place, Source};
use super::errors;
use super::limits::Way;
use super::messages::{FlowSnapshot, Traffic};
use crate::engine::ends::Addresses;
use crate::engine::icmp::{self, Quoted, Unreachable};
use crate::engine::nat;
use crate::engine::recent::Recent;
use crate::engine::services::LinkId;
use crate::io::host;

/// RFC 5508 REQ-2: at least 60 s.
const IDLE: Duration = Duration::from_secs(60);

struct Mapping {
    socket: OwnedFd,
    place: Place,
    remote: IpAddr,
    since: Instant,
    traffic: Traffic,
}

#[derive(Default)]
pub(super) struct Echoes {
    mappings: Recent<LinkId, (IpAddr, u16), Mapping>,
}

impl Echoes {
    /// An echo request (its ICMP bytes, checksum verified) to somewhere beyond the gateway.
    pub(super) fn outbound(
        &mut self,
        context: &mut Context,
        place: Place,
        addresses: Addresses,
        message: &[u8],
    ) {
        let Some(start) = message.first_chunk::<8>() else {
            return;
        };
        let identifier = u16::from_be_bytes([start[4], start[5]]);
        let (source, destination) = (addresses.source(), addresses.destination());
        let quoted = quote(addresses, *start, &message[8..]);
        let to = SocketAddr::new(destination, 0);
        if let Err(refusal) = nat::outside(&context.settings, destination) {
            context.counters.echo_refused += 1;
            if refusal == nat::Refusal::HostOnly {
                context.refused(place.link, "icmp", to, refusal.reason());
                context.send_unreachable(place, Unreachable::Prohibited, &quoted);
            }
            return;
        }
        if let Err(reason) = context.egress(place.link, FlowProtocol::Icmp, to) {
            context.counters.echo_refused += 1;
            context.refused_by_policy(place.link, "icmp", to, &reason);
            context.send_unreachable(place, Unreachable::Prohibited, &quoted);
            return;
        }
        if !context.passes(Way::Up, place.link, message.len()) {
            return;
        }
        let Some(slot) = self.mapping(context, place, (source, identifier), destination) else {
            context.counters.echo_refused += 1;
            return;
        };
        self.mappings.touch(slot, context.now);
        let Some((_, mapping)) = self.mappings.at_mut(slot) else {
            return;
        };
        mapping.remote = destination;
        mapping.traffic.sent(1, message.len());
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        match rustix::net::sendto(&mapping.socket, message, flags, &to) {
            Ok(_) => context.counters.echo_forwarded += 1,
            Err(rustix::io::Errno::NETUNREACH) => {
                context.send_unreachable(place, Unreachable::Network, &quoted)
            }
            Err(rustix::io::Errno::HOSTUNREACH) => {
                context.send_unreachable(place, Unreachable::Host, &quoted)
            }
            Err(_) => context.counters.echo_refused += 1,
        }
    }

    fn mapping(
        &mut self,
        context: &mut Context,
        place: Place,
        key: (IpAddr, u16),
        remote: IpAddr,
    ) -> Option<u32> {
        if let Some(slot) = self.mappings.find(&key) {
            let (_, mapping) = self.mappings.at_mut(slot)?;
            if mapping.place == place {
                return Some(slot);
            }
            self.mappings.remove(slot);
        }
        if !context.source_allowed(key.0, place) {
            return None;
        }
        while self.mappings.len() >= context.settings.limits.echo_mappings.max(1) {
            let victim = self.mappings.oldest_of_largest()?;
            self.mappings.remove(victim);
        }
        let socket = match host::echo(remote) {
            Ok(socket) => socket,
            Err(error) => {
                context.host_limit(
                    "echo",
                    || format!("guests cannot ping beyond the gateway: no ping socket ({error})"),
                    Some("sysctl -w net.ipv4.ping_group_range='0 2147483647'"),
                );
                return None;
            }
        };
        let slot = self.mappings.insert(
            place.link,
            key,
            Mapping {
                socket,
                place,
                remote,
                since: context.now,
                traffic: Traffic::default(),
            },
            context.now,
        );
        let (_, mapping) = self.mappings.at(slot)?;
        if context
            .watch(&mapping.socket, Source::Echo(slot), EventFlags::IN)
            .is_err()
        {
            self.mappings.remove(slot);
            return None;
        }
        Some(slot)
    }

    /// A ping socket has news.
    pub(super) fn event(&mut self, context: &mut Context, slot: u32) {
        let Some((&(guest, identifier), mapping)) = self.mappings.at_mut(slot) else {
            return;
        };
        let place = mapping.place;
        let Some(asked) = Addresses::of(guest, mapping.remote) else {
            return;
        };
        let mut buffer = vec![0; 1 << 16];
        while let Some(error) = crate::sys::next_error(mapping.socket.as_fd(), &mut buffer) {
            // The request came back with the kernel's identifier.
            let message = &buffer[..error.payload];
            let mut start = [0; 8];
            for (to, from) in start.iter_mut().zip(message) {
                *to = *from;
            }
            start[0] = icmp::echo_request_kind(asked);
            start[4..6].copy_from_slice(&identifier.to_be_bytes());
            if let Some(reason) = errors::reason(&error) {
                let payload = message.get(8..).unwrap_or_default();
                context.send_unreachable(place, reason, &quote(asked, start, payload));
            }
        }
        let mut used = false;
        for _turn in 0..16 {
            let Ok((_, count, from)) =
                rustix::net::recvfrom(&mapping.socket, &mut buffer[..], RecvFlags::DONTWAIT)
            else {
                break;
            };
            let Some(Ok(from)) = from.map(SocketAddr::try_from) else {
                continue;
            };
            let Some(addresses) = Addresses::of(from.ip(), guest) else {
                continue;
            };
            let message = &buffer[..count];
            if message.len() < 8 || message[0] != icmp::echo_reply_kind(addresses) {
                continue;
            }
            used = true;
            if !context.passes(Way::Down, place.link, count) {
                continue;
            }
            mapping.traffic.received(count);
            let path = context.path(addresses, place);
            context.send_built(place.link, |frame| {
                icmp::echo_reply_from(frame, &path, identifier, message)
            });
        }
        if used {
            self.mappings.touch(slot, context.now);
        }
    }

    pub(super) fn link_gone(&mut self, link: LinkId) {
        let slots: Vec<u32> = self
            .mappings
            .iter()
            .filter(|entry| entry.2.place.link == link)
            .map(|entry| entry.0)
            .collect();
        for slot in slots {
            self.mappings.remove(slot);
        }
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.mappings.deadline(IDLE)
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        while let Some((slot, used)) = self.mappings.oldest()
            && used + IDLE <= now
        {
            self.mappings.remove(slot);
        }
    }

    pub(super) fn snapshot(&self, now: Instant) -> impl Iterator<Item = FlowSnapshot> {
        self.mappings
            .iter()
            .map(move |(_, guest, mapping, used)| FlowSnapshot {
                protocol: "icmp",
                link: Some(mapping.place.link),
                guest_name: None,
                guest: (*guest).into(),
                remote: SocketAddr::new(mapping.remote, 0),
                name: None,
                outbound: true,
                state: "open",
                age: now.saturating_duration_since(mapping.since),
                idle: now.saturating_duration_since(used),
                traffic: mapping.traffic,
                retransmits: 0,
            })
    }
}

fn quote(addresses: Addresses, start: [u8; 8], payload: &[u8]) -> Quoted<'_> {
    Quoted {
        protocol: icmp::protocol(addresses),
        addresses,
        start,
        payload,
    }
}
