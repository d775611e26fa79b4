//! A frame of a guest on its way in: switch, then ARP or IP, then the protocol's table. What is IPv6's own stands in
//! `input6`.
//! Bad bytes are counted and dropped here; nothing behind this file sees a packet whose lengths do not fit.

use std::net::Ipv4Addr;

use control::mac::MacAddress;
use smoltcp::wire::{Icmpv4Message, Icmpv4Packet, IpProtocol, Ipv4Packet, TcpPacket, UdpPacket};

use super::bridged;
use super::context::{Context, Place};
use super::datagrams::Datagram;
use super::input6;
use super::messages::Notice;
use super::worker::Tables;
use crate::engine::arp::{self, Arp};
use crate::engine::checksum::{Sum, checksum};
use crate::engine::ends::{Addresses, Key};
use crate::engine::fragment::{self, Outcome};
use crate::engine::icmp;
use crate::engine::offload::{Offload, Segmentation};
use crate::engine::packet::{ETHERNET, PROTOCOL_TCP, PROTOCOL_UDP};
use crate::engine::services::LinkId;
use crate::engine::settings::Reach;
use crate::engine::switch::{Destination, Learned};
use crate::engine::tcp::segment::Segment;

/// One frame from `from`.
pub(super) fn frame(
    context: &mut Context,
    tables: &mut Tables,
    from: LinkId,
    frame: &[u8],
    offload: &Offload,
) {
    let Some(link) = context.link(from) else {
        return;
    };
    link.counters.received_frames += 1;
    link.counters.received_bytes += frame.len() as u64;
    let Some(header) = frame.first_chunk::<ETHERNET>() else {
        link.counters.malformed += 1;
        return;
    };
    let [
        d0,
        d1,
        d2,
        d3,
        d4,
        d5,
        s0,
        s1,
        s2,
        s3,
        s4,
        s5,
        type_high,
        type_low,
    ] = *header;
    let destination = MacAddress([d0, d1, d2, d3, d4, d5]);
    let source = MacAddress([s0, s1, s2, s3, s4, s5]);
    let last = link.last_source;
    if context.settings.reach == Reach::Bridged {
        return bridged::frame(context, tables, from, frame, offload);
    }
    if last != Some(source) && !learn(context, source, from) {
        return;
    }
    let ether_type = u16::from_be_bytes([type_high, type_low]);
    let place = Place {
        mac: source,
        link: from,
    };
    let payload = &frame[ETHERNET..];
    if ether_type == ETHER_ARP {
        if !address_resolution(context, tables, place, payload) {
            return;
        }
    } else if ether_type == ETHER_IPV4 && speaks_for_us(context, payload) {
        spoofed(context, from);
        return;
    } else if ether_type == ETHER_IPV6 && !input6::admit(context, place, payload) {
        return;
    }
    match context.switch.destination(destination, from) {
        Destination::Gateway => {}
        Destination::Everyone => context.flood(Some(from), frame, offload),
        Destination::Link(to) => return context.send(to, frame, offload),
        Destination::Unknown => return context.flood(Some(from), frame, offload),
        Destination::Nobody => return,
    }
    if ether_type == ETHER_IPV4 {
        ipv4(context, tables, place, payload, offload);
    } else if ether_type == ETHER_IPV6 && !tables.router.take(context, place, payload, offload) {
        input6::ipv6(context, tables, place, payload, offload);
    }
}

const ETHER_IPV4: u16 = 0x0800;
const ETHER_ARP: u16 = 0x0806;
const ETHER_IPV6: u16 = 0x86dd;
/// Addresses of one link that are news; a guest that invents more is not worth a line each.
const MACS_TOLD: u8 = 32;

pub(super) fn spoofed(context: &mut Context, from: LinkId) {
    if let Some(link) = context.link(from) {
        link.counters.spoofed += 1;
    }
}

pub(super) fn malformed(context: &mut Context, from: LinkId) {
    if let Some(link) = context.link(from) {
        link.counters.malformed += 1;
    }
}

/// False: drop the frame.
pub(super) fn learn(context: &mut Context, source: MacAddress, from: LinkId) -> bool {
    match context.switch.learn(source, from, context.now) {
        Learned::Spoofed => {
            spoofed(context, from);
            return false;
        }
        Learned::New => {
            for link in context.links.iter_mut().flatten() {
                if link.last_source == Some(source) {
                    link.last_source = None;
                }
            }
            if let Some(link) = context.link(from)
                && link.macs_told < MACS_TOLD
            {
                link.macs_told += 1;
                let guest = link.guest.clone();
                context.notify(Notice::MacLearned {
                    mac: source,
                    link: from,
                    guest,
                });
            }
        }
        Learned::Known => {}
    }
    if let Some(link) = context.link(from) {
        link.last_source = Some(source);
    }
    true
}

/// False: the frame goes no further.
pub(super) fn address_resolution(
    context: &mut Context,
    tables: &mut Tables,
    place: Place,
    payload: &[u8],
) -> bool {
    match arp::receive(&context.settings, payload, place.mac) {
        Arp::Malformed => {
            malformed(context, place.link);
            false
        }
        Arp::Spoofed => {
            spoofed(context, place.link);
            false
        }
        Arp::Seen { claim, answer } => {
            if let Some((address, mac)) = claim {
                tables.gateway.claimed(context, address, mac);
            }
            if let Some((address, _mac)) = claim
                && !context.source_allowed(address.into(), place)
            {
                return false;
            }
            match answer {
                Some(answer) => {
                    context.send(place.link, &answer, &Offload::default());
                    false
                }
                None => true,
            }
        }
    }
}

/// An IPv4 source address that is ours.
fn speaks_for_us(context: &Context, payload: &[u8]) -> bool {
    let Some([a, b, c, d]) = payload.get(12..16) else {
        return false;
    };
    context
        .settings
        .is_ours(Ipv4Addr::new(*a, *b, *c, *d).into())
}

pub(super) fn ipv4(
    context: &mut Context,
    tables: &mut Tables,
    place: Place,
    payload: &[u8],
    offload: &Offload,
) {
    let Ok(packet) = Ipv4Packet::new_checked(payload) else {
        context.counters.ip_malformed += 1;
        return;
    };
    let header = usize::from(packet.header_len());
    if packet.version() != 4 || checksum(&payload[..header]) != 0 {
        context.counters.ip_malformed += 1;
        return;
    }
    let (source, destination) = (packet.src_addr(), packet.dst_addr());
    // A flooded frame for another guest or group is none of ours.
    if destination.is_multicast() {
        return;
    }
    let addresses = Addresses::V4 {
        source,
        destination,
    };
    if packet.hop_limit() <= 1
        && !context.settings.is_local(destination.into())
        && !destination.is_broadcast()
    {
        return expired(context, place, &packet, payload);
    }
    let body = packet.payload();
    let protocol: u8 = packet.next_header().into();
    if packet.more_frags() || packet.frag_offset() > 0 {
        let datagram = fragment::Datagram {
            addresses,
            protocol,
            identification: packet.ident().into(),
        };
        let offset = usize::from(packet.frag_offset());
        match tables
            .fragments
            .receive(datagram, offset, packet.more_frags(), body, context.now)
        {
            Outcome::Waiting => {}
            Outcome::Dropped => context.counters.fragments_dropped += 1,
            Outcome::Complete { payload, .. } => {
                context.counters.reassembled += 1;
                transport(
                    context,
                    tables,
                    place,
                    addresses,
                    protocol,
                    &payload,
                    &Offload::default(),
                );
            }
        }
        return;
    }
    transport(context, tables, place, addresses, protocol, body, offload);
}

/// The packet's last hop is this one (RFC 1812 §5.3.1).
fn expired(context: &mut Context, place: Place, packet: &Ipv4Packet<&[u8]>, bytes: &[u8]) {
    // Not about an error, nor about a later piece (RFC 1122 §3.2.2).
    let is_error = packet.next_header() == IpProtocol::Icmp
        && packet
            .payload()
            .first()
            .is_none_or(|kind| ![0, 8].contains(kind));
    let end = usize::from(packet.total_len());
    if !is_error && packet.frag_offset() == 0 && !packet.src_addr().is_multicast() {
        context.tell_expired_v4(place, packet.src_addr(), bytes.get(..end).unwrap_or(bytes));
    }
}

#[expect(
    clippy::too_many_arguments,
    reason = "the packet's parts, once, on the hot path"
)]
pub(super) fn transport(
    context: &mut Context,
    tables: &mut Tables,
    place: Place,
    addresses: Addresses,
    protocol: u8,
    body: &[u8],
    offload: &Offload,
) {
    let length = u16::try_from(body.len()).unwrap_or(u16::MAX);
    let intact = |number| {
        let mut sum = Sum::pseudo_header(addresses, number, length);
        sum.add(body);
        sum.finish() == 0
    };
    match IpProtocol::from(protocol) {
        IpProtocol::Tcp => {
            let Ok(packet) = TcpPacket::new_checked(body) else {
                return malformed(context, place.link);
            };
            if !offload.trusted() && !intact(PROTOCOL_TCP) {
                return malformed(context, place.link);
            }
            let key = Key {
                addresses,
                ports: (packet.src_port(), packet.dst_port()),
            };
            let segment = Segment::parse(&packet);
            if tables.published.expects(&key) {
                return tables.published.answer(context, place, key, &segment);
            }
            tables
                .flows
                .segment(context, place, key, &segment, &[packet.payload()]);
        }
        IpProtocol::Udp => {
            let Ok(packet) = UdpPacket::new_checked(body) else {
                return malformed(context, place.link);
            };
            // RFC 8200 §8.1: not in IPv6.
            let unsummed = packet.checksum() == 0 && matches!(addresses, Addresses::V4 { .. });
            if !offload.trusted() && !unsummed && !intact(PROTOCOL_UDP) {
                return malformed(context, place.link);
            }
            let segment = match offload.segmentation {
                Segmentation::Udp => usize::from(offload.segment_size),
                Segmentation::None | Segmentation::Tcp4 | Segmentation::Tcp6 => 0,
            };
            let datagram = Datagram {
                key: Key {
                    addresses,
                    ports: (packet.src_port(), packet.dst_port()),
                },
                payload: &[packet.payload()],
                segment,
            };
            udp(context, tables, place, &datagram);
        }
        IpProtocol::Icmp => icmp(context, tables, place, addresses, body),
        IpProtocol::HopByHop
        | IpProtocol::Igmp
        | IpProtocol::Ipv6Route
        | IpProtocol::Ipv6Frag
        | IpProtocol::IpSecEsp
        | IpProtocol::IpSecAh
        | IpProtocol::Icmpv6
        | IpProtocol::Ipv6NoNxt
        | IpProtocol::Ipv6Opts
        | IpProtocol::Unknown(_) => context.counters.ip_unsupported += 1,
    }
}

/// A datagram, or several of one flow.
pub(super) fn udp(
    context: &mut Context,
    tables: &mut Tables,
    place: Place,
    datagram: &Datagram<'_>,
) {
    let (to, port) = (datagram.key.remote().ip(), datagram.key.ports.1);
    let gateway = context.settings.is_gateway(to);
    let payload = datagram.payload.first().copied().unwrap_or_default();
    if let Addresses::V4 {
        source,
        destination,
    } = datagram.key.addresses
    {
        if port == 67 && (gateway || destination.is_broadcast()) {
            return tables.gateway.dhcp(context, place, source, payload);
        }
        if destination.is_broadcast() || destination == context.settings.subnet.broadcast() {
            return;
        }
    }
    if port == 53 && gateway {
        return tables.gateway.dns(context, place, datagram.key, payload);
    }
    let published = &tables.published;
    tables
        .datagrams
        .outbound(context, place, datagram, |index| published.socket(index));
}

/// A guest refuses a packet of ours, which it quotes (RFC 792: the IP header and 8 bytes).
fn unreachable(context: &mut Context, tables: &mut Tables, place: Place, message: &[u8]) {
    let quoted = message.get(8..).and_then(icmp::quoted_v4);
    let Some((protocol, from, to)) = quoted else {
        return malformed(context, place.link);
    };
    // Each guest speaks for itself.
    if context.neighbours.get(to.ip()) != Some((place.mac, place.link)) {
        return;
    }
    let Some(key) = Key::of(to, from) else {
        return;
    };
    match protocol {
        PROTOCOL_TCP if tables.published.expects(&key) => {
            tables.published.told(context, key, false);
        }
        PROTOCOL_TCP => tables.flows.turned_away(context, &key),
        PROTOCOL_UDP => tables.datagrams.unreachable(context, &key),
        _echo => {}
    }
}

fn icmp(
    context: &mut Context,
    tables: &mut Tables,
    place: Place,
    addresses: Addresses,
    body: &[u8],
) {
    let Ok(packet) = Icmpv4Packet::new_checked(body) else {
        return malformed(context, place.link);
    };
    if checksum(body) != 0 {
        return malformed(context, place.link);
    }
    // Other errors that a guest sends belong to flows whose host socket cannot be told; TCP and UDP find out by themselves.
    if packet.msg_type() == Icmpv4Message::DstUnreachable {
        return unreachable(context, tables, place, body);
    }
    if packet.msg_type() != Icmpv4Message::EchoRequest {
        return;
    }
    ping(context, tables, place, addresses, body);
}

/// An echo request, its checksum verified: answered for our addresses, carried outside for others.
pub(super) fn ping(
    context: &mut Context,
    tables: &mut Tables,
    place: Place,
    addresses: Addresses,
    message: &[u8],
) {
    if context.settings.is_ours(addresses.destination()) {
        if context.source_allowed(addresses.source(), place) {
            let path = context.path(addresses.reversed(), place);
            context.send_built(place.link, |frame| icmp::echo_reply(frame, &path, message));
        }
    } else {
        tables.echoes.outbound(context, place, addresses, message);
    }
}
