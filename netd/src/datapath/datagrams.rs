//! UDP between guests and the host: one socket for each address and port of a guest, whatever it talks to
//! (endpoint-independent mapping, RFC 4787 REQ-1), and clients of published UDP ports.
//! Answers are let in from addresses that the guest has sent to (REQ-8: address-dependent filtering).

use std::collections::HashMap;
use std::io::IoSlice;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use control::egress::FlowProtocol;
use control::port::Protocol;
use rustix::event::epoll::EventFlags;
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};

use super::context::{Context, Place, Source};
use super::errors;
use super::gather::GATHER_PARTS;
use super::limits::Way;
use super::messages::{FlowSnapshot, Traffic};
use crate::engine::ends::{Addresses, Key};
use crate::engine::fragment::pieces;
use crate::engine::icmp::{Quoted, Unreachable};
use crate::engine::nat::{self, Target};
use crate::engine::packet::{
    FRAGMENT, PROTOCOL_UDP, Piece, UDP, push_piece_headers, udp_header, write_udp_frame,
};
use crate::engine::recent::Recent;
use crate::engine::services::LinkId;
use crate::io::host;
use crate::io::publish::HostSocket;

/// Datagrams read from one socket in one turn.
const TURN: usize = 64;
/// Far ends that a mapping remembers; the one added longest ago is forgotten.
const PEERS: usize = 64;

struct Mapping {
    socket: OwnedFd,
    place: Place,
    /// Addresses (as the host sees them) that may answer.
    peers: Vec<IpAddr>,
    last_peer: IpAddr,
    /// Where the guest sends to last, as it sees it.
    last_remote: SocketAddr,
    /// Far ends that policy let the guest send to, for as long as its rules stay.
    admitted: Vec<SocketAddr>,
    since: Instant,
    traffic: Traffic,
}

struct Client {
    asker: Asker,
    since: Instant,
    traffic: Traffic,
}

/// A client of a published port, as the host knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Asker {
    /// The published socket.
    socket: u32,
    /// The client behind it.
    address: SocketAddr,
    /// Which address of ours it sends to, where the socket has several: answers leave from there.
    asked: Option<IpAddr>,
}

/// A datagram of a guest.
#[derive(Clone, Copy)]
pub(super) struct Datagram<'a> {
    pub(super) key: Key,
    /// Several slices are as many datagrams (gathered ones).
    pub(super) payload: &'a [&'a [u8]],
    /// The one slice is many datagrams of this size (USO); 0 = it is one.
    pub(super) segment: usize,
}

#[derive(Default)]
pub(super) struct Datagrams {
    mappings: Recent<LinkId, SocketAddr, Mapping>,
    clients: Recent<IpAddr, Key, Client>,
    /// The client's slot.
    by_client: HashMap<Asker, u32>,
    buffer: Vec<u8>,
    frame: Vec<u8>,
    identification: u32,
    next_port: u16,
}

impl Datagrams {
    pub(super) fn len(&self) -> usize {
        self.mappings.len() + self.clients.len()
    }

    /// A datagram to somewhere beyond the gateway.
    pub(super) fn outbound<'p>(
        &mut self,
        context: &mut Context,
        place: Place,
        datagram: &Datagram<'_>,
        published: impl Fn(u32) -> Option<&'p HostSocket>,
    ) {
        if let Some(slot) = self.clients.find(&datagram.key) {
            self.clients.touch(slot, context.now);
            if let Some((_, client)) = self.clients.at_mut(slot)
                && let Some(socket) = published(client.asker.socket)
                && context.passes(Way::Up, place.link, datagram.length())
            {
                client.traffic.sent(datagram.count(), datagram.length());
                let sent = datagram.answer(socket.descriptor(), &client.asker);
                context.counters.udp_send_failed += u64::from(sent.is_err());
            }
            return;
        }
        let destination = datagram.key.remote();
        let to = match nat::outbound(&context.settings, Protocol::Udp, destination) {
            Ok(Target::HostLoopback(to) | Target::Remote(to)) => to,
            Ok(Target::Gateway(_) | Target::Shares | Target::Offered(_)) => return,
            Err(refusal) => {
                context.counters.udp_refused_policy += 1;
                // Broadcast and multicast of a chatty guest are no news and get no answer (RFC 1122 §3.2.2).
                if !matches!(
                    refusal,
                    nat::Refusal::Multicast | nat::Refusal::Reserved | nat::Refusal::ThisNetwork
                ) && destination.ip() != context.settings.subnet.broadcast()
                {
                    context.refused(place.link, "udp", destination, refusal.reason());
                    let reason = if refusal.looks_closed() {
                        Unreachable::Port
                    } else {
                        Unreachable::Prohibited
                    };
                    context.send_unreachable(place, reason, &quote(datagram.key, datagram.first()));
                }
                return;
            }
        };
        if let Err(reason) = self.admits(context, place, datagram.key) {
            context.counters.udp_refused_policy += 1;
            context.refused_by_policy(place.link, "udp", destination, &reason);
            let quoted = quote(datagram.key, datagram.first());
            context.send_unreachable(place, Unreachable::Prohibited, &quoted);
            return;
        }
        if !context.passes(Way::Up, place.link, datagram.length()) {
            return;
        }
        let Some(slot) = self.mapping(context, place, datagram.key.guest()) else {
            return;
        };
        self.mappings.touch(slot, context.now);
        let Some((_, mapping)) = self.mappings.at_mut(slot) else {
            return;
        };
        if mapping.last_peer != to.ip() {
            mapping.last_peer = to.ip();
            if !mapping.peers.contains(&to.ip()) {
                if mapping.peers.len() >= PEERS {
                    mapping.peers.remove(0);
                }
                mapping.peers.push(to.ip());
            }
        }
        mapping.last_remote = destination;
        if !context.settings.egress.is_open() && !mapping.admitted.contains(&destination) {
            if mapping.admitted.len() >= PEERS {
                mapping.admitted.remove(0);
            }
            mapping.admitted.push(destination);
        }
        mapping.traffic.sent(datagram.count(), datagram.length());
        if let Err(error) = datagram.send(&mapping.socket, to) {
            context.counters.udp_send_failed += 1;
            let reason = match error {
                Errno::NETUNREACH | Errno::NETDOWN => Unreachable::Network,
                Errno::HOSTUNREACH | Errno::HOSTDOWN => Unreachable::Host,
                Errno::MSGSIZE => Unreachable::FragmentationNeeded(1_500),
                Errno::ACCESS | Errno::PERM => Unreachable::Prohibited,
                _full_or_pending => return,
            };
            context.send_unreachable(place, reason, &quote(datagram.key, datagram.first()));
        }
    }

    /// Whether policy lets a guest send there: once it did, it does until the rules change.
    fn admits(&self, context: &Context, place: Place, key: Key) -> Result<(), Arc<str>> {
        if context.settings.egress.is_open() {
            return Ok(());
        }
        let slot = self.mappings.find(&key.guest());
        let mapping = slot.and_then(|slot| self.mappings.at(slot));
        if mapping.is_some_and(|(_, known)| {
            known.place == place && known.admitted.contains(&key.remote())
        }) {
            return Ok(());
        }
        context.egress(place.link, FlowProtocol::Udp, key.remote())
    }

    /// Rules have changed: answers are let in only from where the guest may still send to, and
    /// mappings with nowhere to send to end.
    pub(super) fn apply_policy(&mut self, context: &mut Context) {
        let slots: Vec<u32> = self.mappings.iter().map(|entry| entry.0).collect();
        for slot in slots {
            let Some((_, mapping)) = self.mappings.at_mut(slot) else {
                continue;
            };
            let link = mapping.place.link;
            if mapping.admitted.is_empty() && mapping.last_remote.port() != 0 {
                // Until now nothing was refused, so nothing was written down.
                mapping.admitted.push(mapping.last_remote);
            }
            mapping
                .admitted
                .retain(|to| context.egress_still(link, FlowProtocol::Udp, *to).is_ok());
            let admitted = &mapping.admitted;
            let settings = &context.settings;
            mapping.peers.retain(|peer| {
                admitted.iter().any(|to| {
                    to.ip() == *peer || (settings.is_host_internal(to.ip()) && peer.is_loopback())
                })
            });
            mapping.last_peer = mapping
                .peers
                .last()
                .copied()
                .unwrap_or_else(|| unspecified(mapping.last_peer));
            if mapping.peers.is_empty() {
                self.mappings.remove(slot);
                context.counters.ended_policy += 1;
            }
        }
    }

    fn mapping(&mut self, context: &mut Context, place: Place, source: SocketAddr) -> Option<u32> {
        if let Some(slot) = self.mappings.find(&source) {
            let (_, mapping) = self.mappings.at_mut(slot)?;
            if mapping.place != place {
                if !context.source_allowed(source.ip(), place) {
                    return None;
                }
                mapping.place = place;
                self.mappings.set_owner(slot, place.link);
            }
            return Some(slot);
        }
        if !context.source_allowed(source.ip(), place) {
            return None;
        }
        while self.mappings.len() >= context.settings.limits.udp_mappings.max(1) {
            let victim = self.mappings.oldest_of_largest()?;
            self.mappings.remove(victim);
            context.counters.udp_evicted += 1;
        }
        let socket = match host::datagram(source.ip()) {
            Ok(socket) => socket,
            Err(error) => {
                context.counters.udp_send_failed += 1;
                let hint = Some("raise the limit of open files (ulimit -n)");
                context.host_limit(
                    "udp",
                    || format!("cannot open a UDP socket for a guest: {error}"),
                    hint,
                );
                return None;
            }
        };
        let mapping = Mapping {
            socket,
            place,
            peers: Vec::new(),
            last_peer: unspecified(source.ip()),
            last_remote: SocketAddr::new(unspecified(source.ip()), 0),
            admitted: Vec::new(),
            since: context.now,
            traffic: Traffic::default(),
        };
        let slot = self
            .mappings
            .insert(place.link, source, mapping, context.now);
        context.counters.udp_mappings += 1;
        let (_, mapping) = self.mappings.at(slot)?;
        if context
            .watch(&mapping.socket, Source::Udp(slot), EventFlags::IN)
            .is_err()
        {
            self.mappings.remove(slot);
            return None;
        }
        Some(slot)
    }

    /// A mapping's socket has news. True if more may be there.
    pub(super) fn event(&mut self, context: &mut Context, slot: u32, flags: EventFlags) {
        self.buffer.resize(BUFFER, 0);
        let Some((&guest, mapping)) = self.mappings.at_mut(slot) else {
            return;
        };
        let place = mapping.place;
        if flags.contains(EventFlags::ERR) {
            while let Some(error) = crate::sys::next_error(mapping.socket.as_fd(), &mut self.buffer)
            {
                let key =
                    seen_from(context, error.destination).and_then(|from| Key::of(guest, from));
                if let (Some(reason), Some(key)) = (errors::reason(&error), key) {
                    let payload = &self.buffer[..error.payload];
                    context.send_unreachable(place, reason, &quote(key, payload));
                }
            }
        }
        let mut used = false;
        for _turn in 0..TURN {
            let (count, from) = match rustix::net::recvfrom(
                &mapping.socket,
                &mut self.buffer[..],
                RecvFlags::DONTWAIT,
            ) {
                Ok((_, count, Some(from))) => (count, from),
                // A pending error is reported once and then gone.
                Ok((_, _, None))
                | Err(Errno::CONNREFUSED | Errno::HOSTUNREACH | Errno::NETUNREACH) => continue,
                Err(_empty) => break,
            };
            let Ok(from) = SocketAddr::try_from(from) else {
                continue;
            };
            if mapping.last_peer != from.ip() && !mapping.peers.contains(&from.ip()) {
                context.counters.udp_unsolicited += 1;
                continue;
            }
            let Some(key) = seen_from(context, from).and_then(|seen| Key::of(guest, seen)) else {
                continue;
            };
            used = true;
            if !context.passes(Way::Down, place.link, count) {
                continue;
            }
            mapping.traffic.received(count);
            deliver(
                context,
                &mut self.frame,
                &mut self.identification,
                place,
                key,
                &self.buffer[..count],
            );
        }
        if used {
            self.mappings.touch(slot, context.now);
        }
    }

    /// A published socket has datagrams for a guest.
    pub(super) fn published(
        &mut self,
        context: &mut Context,
        number: u32,
        socket: &HostSocket,
        lead: impl Fn(&Context, IpAddr) -> Option<SocketAddr>,
    ) {
        let descriptor = socket.descriptor();
        self.buffer.resize(BUFFER, 0);
        while crate::sys::next_error(descriptor.as_fd(), &mut self.buffer).is_some() {}
        for _turn in 0..TURN {
            let received = crate::sys::receive_from(descriptor.as_fd(), &mut self.buffer);
            let Ok((count, address, asked)) = received else {
                break;
            };
            let asker = Asker {
                socket: number,
                address,
                asked,
            };
            let Some(guest) = lead(context, address.ip()) else {
                continue;
            };
            let Some((mac, link)) = context.neighbours.get(guest.ip()) else {
                // The datagram is lost, as a router loses it while it asks for the address (RFC 1812 §3.3.2); the next is not.
                context.ask_who_has(guest.ip());
                continue;
            };
            let Some(slot) = self.client(context, asker, guest) else {
                continue;
            };
            self.clients.touch(slot, context.now);
            let Some((&key, client)) = self.clients.at_mut(slot) else {
                continue;
            };
            if !context.passes(Way::Down, link, count) {
                continue;
            }
            client.traffic.received(count);
            let place = Place { mac, link };
            deliver(
                context,
                &mut self.frame,
                &mut self.identification,
                place,
                key,
                &self.buffer[..count],
            );
        }
    }

    fn client(&mut self, context: &mut Context, asker: Asker, guest: SocketAddr) -> Option<u32> {
        let from = asker.address;
        if let Some(&slot) = self.by_client.get(&asker) {
            if self
                .clients
                .at(slot)
                .is_some_and(|(key, _)| key.guest() == guest)
            {
                return Some(slot);
            }
            self.drop_client(slot);
        }
        while self.clients.len() >= context.settings.limits.udp_mappings.max(1) {
            let victim = self.clients.oldest_of_largest()?;
            self.drop_client(victim);
            context.counters.udp_evicted += 1;
        }
        let address = nat::client_seen_as(&context.settings, from, guest.ip())?;
        let mut key = Key::of(guest, SocketAddr::new(address, from.port()))?;
        let mut tries = 0_u16;
        while self.clients.find(&key).is_some() {
            tries += 1;
            if tries > 1_024 {
                return None;
            }
            self.next_port = self.next_port.wrapping_add(1) | 0x8000;
            key.ports.1 = self.next_port;
        }
        let client = Client {
            asker,
            since: context.now,
            traffic: Traffic::default(),
        };
        let slot = self.clients.insert(guest.ip(), key, client, context.now);
        self.by_client.insert(asker, slot);
        context.counters.udp_mappings += 1;
        Some(slot)
    }

    fn drop_client(&mut self, slot: u32) {
        if let Some((_, client)) = self.clients.remove(slot) {
            self.by_client.remove(&client.asker);
        }
    }

    /// A guest says that nobody has the port: the client cannot be told (its kernel hears that from ours only of
    /// sockets that are closed), so it is counted.
    pub(super) fn unreachable(&self, context: &mut Context, key: &Key) {
        context.counters.udp_client_unreachable += u64::from(self.clients.find(key).is_some());
    }

    /// A published socket is closed: its clients are forgotten.
    pub(super) fn unpublished(&mut self, socket: u32) {
        let slots: Vec<u32> = self
            .clients
            .iter()
            .filter(|entry| entry.2.asker.socket == socket)
            .map(|entry| entry.0)
            .collect();
        for slot in slots {
            self.drop_client(slot);
        }
    }

    /// A link is gone.
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

    pub(super) fn deadline(&self, context: &Context) -> Option<Instant> {
        let idle = context.settings.limits.udp_idle;
        let (a, b) = (self.mappings.deadline(idle), self.clients.deadline(idle));
        a.into_iter().chain(b).min()
    }

    pub(super) fn handle_timeout(&mut self, context: &Context) {
        let idle = context.settings.limits.udp_idle;
        while let Some((slot, used)) = self.mappings.oldest()
            && used + idle <= context.now
        {
            self.mappings.remove(slot);
        }
        while let Some((slot, used)) = self.clients.oldest()
            && used + idle <= context.now
        {
            self.drop_client(slot);
        }
        if self.len() == 0 {
            self.buffer = Vec::new();
            self.frame = Vec::new();
        }
    }

    pub(super) fn snapshot(&self, now: Instant) -> impl Iterator<Item = FlowSnapshot> {
        let since = move |at| now.saturating_duration_since(at);
        let mappings = self
            .mappings
            .iter()
            .map(move |(_, guest, mapping, used)| FlowSnapshot {
                protocol: "udp",
                link: Some(mapping.place.link),
                guest_name: None,
                guest: *guest,
                remote: mapping.last_remote,
                name: None,
                outbound: true,
                state: "open",
                age: since(mapping.since),
                idle: since(used),
                traffic: mapping.traffic,
                retransmits: 0,
            });
        let clients = self
            .clients
            .iter()
            .map(move |(_, key, client, used)| FlowSnapshot {
                protocol: "udp",
                link: None,
                guest_name: None,
                guest: key.guest(),
                remote: key.remote(),
                name: None,
                outbound: false,
                state: "open",
                age: since(client.since),
                idle: since(used),
                traffic: client.traffic,
                retransmits: 0,
            });
        mappings.chain(clients)
    }
}

const BUFFER: usize = 1 << 16;

impl Datagram<'_> {
    fn length(&self) -> usize {
        self.payload.iter().map(|slice| slice.len()).sum()
    }

    /// The first datagram, of several.
    fn first(&self) -> &[u8] {
        let first = self.payload.first().copied().unwrap_or_default();
        match self.segment {
            0 => first,
            size => first.get(..size).unwrap_or(first),
        }
    }

    fn count(&self) -> usize {
        match self.payload {
            [one] if self.segment > 0 => one.len().div_ceil(self.segment).max(1),
            slices => slices.len(),
        }
    }

    /// The size of all datagrams but the last, if there are several.
    fn common_size(&self) -> Option<u16> {
        let size = match self.payload {
            [first, _, ..] => first.len(),
            [one] if self.segment > 0 && one.len() > self.segment => self.segment,
            _one => return None,
        };
        u16::try_from(size).ok().filter(|size| *size > 0)
    }

    /// Sends everything to a client of a published port, from the address that the client asked.
    fn answer(&self, socket: &OwnedFd, asker: &Asker) -> std::io::Result<()> {
        let Some(from) = asker.asked else {
            return Ok(self.send(socket, asker.address)?);
        };
        let mut result = Ok(());
        for slice in self.payload {
            let size = if self.segment == 0 {
                slice.len()
            } else {
                self.segment
            };
            let mut rest = *slice;
            loop {
                let (part, more) = rest.split_at(size.min(rest.len()));
                let sent = crate::sys::send_from(socket.as_fd(), part, from, asker.address);
                result = result.and(sent);
                if more.is_empty() {
                    break;
                }
                rest = more;
            }
        }
        result
    }

    /// Sends everything; the first error of a datagram that could not be sent.
    fn send(&self, socket: &OwnedFd, to: SocketAddr) -> rustix::io::Result<()> {
        if let Some(size) = self.common_size() {
            let mut parts = [IoSlice::new(&[]); GATHER_PARTS];
            for (part, slice) in parts.iter_mut().zip(self.payload) {
                *part = IoSlice::new(slice);
            }
            let parts = &parts[..self.payload.len().min(GATHER_PARTS)];
            if crate::sys::send_segments(socket.as_fd(), parts, size, to).is_ok() {
                return Ok(());
            }
            // Too many, too long for the way out, or an old error that was waiting: one by one.
        }
        let mut result = Ok(());
        let mut each = |part: &[u8]| {
            let mut sent = send(socket, part, to);
            if matches!(
                sent,
                Err(Errno::CONNREFUSED | Errno::HOSTUNREACH | Errno::NETUNREACH)
            ) {
                // The error of an earlier datagram: it is in the error queue, this one was not tried.
                sent = send(socket, part, to);
            }
            result = result.and(sent);
        };
        for slice in self.payload {
            if self.segment == 0 || slice.is_empty() {
                each(slice);
            } else {
                slice.chunks(self.segment).for_each(&mut each);
            }
        }
        result
    }
}

fn send(socket: &OwnedFd, payload: &[u8], to: SocketAddr) -> rustix::io::Result<()> {
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    rustix::net::sendto(socket, payload, flags, &to).map(|_all| ())
}

/// The far end as the guest knows it.
fn seen_from(context: &Context, from: SocketAddr) -> Option<SocketAddr> {
    let address = if from.ip().is_loopback() {
        context.settings.host_internal_like(from.ip())?
    } else {
        from.ip()
    };
    Some(SocketAddr::new(address, from.port()))
}

fn unspecified(like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

fn quote(key: Key, payload: &[u8]) -> Quoted<'_> {
    let mut start = [0; 8];
    start[..2].copy_from_slice(&key.ports.0.to_be_bytes());
    start[2..4].copy_from_slice(&key.ports.1.to_be_bytes());
    let length = u16::try_from(UDP + payload.len()).unwrap_or(u16::MAX);
    start[4..6].copy_from_slice(&length.to_be_bytes());
    Quoted {
        protocol: PROTOCOL_UDP,
        addresses: key.addresses,
        start,
        payload,
    }
}

/// Brings a datagram to a guest, in fragments if it is longer than the network's MTU.
fn deliver(
    context: &mut Context,
    frame: &mut Vec<u8>,
    identification: &mut u32,
    place: Place,
    key: Key,
    payload: &[u8],
) {
    let path = context.path(key.addresses.reversed(), place);
    let ports = (key.ports.1, key.ports.0);
    let room = usize::from(context.settings.mtu).saturating_sub(path.ip_header());
    let plain = crate::engine::offload::Offload::default();
    if UDP + payload.len() <= room {
        write_udp_frame(frame, &path, ports, payload);
        context.send(place.link, frame, &plain);
        return;
    }
    *identification = identification.wrapping_add(1);
    let mut whole = udp_header(&path, ports, payload).to_vec();
    whole.extend_from_slice(payload);
    let room = match key.addresses {
        Addresses::V4 { .. } => room,
        Addresses::V6 { .. } => room.saturating_sub(FRAGMENT),
    };
    for (start, end, more) in pieces(whole.len(), room) {
        let piece = Piece {
            identification: *identification,
            offset: u16::try_from(start / 8).unwrap_or(0),
            more,
        };
        frame.clear();
        push_piece_headers(frame, &path, PROTOCOL_UDP, end - start, piece);
        frame.extend_from_slice(&whole[start..end]);
        context.send(place.link, frame, &plain);
    }
}
