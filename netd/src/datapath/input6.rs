//! An IPv6 packet of a guest on its way in: neighbour discovery before the switch, then headers, fragments and
//! ICMPv6. TCP and UDP go on as IPv4's do.

use std::net::{IpAddr, Ipv6Addr};

use super::context::{Context, Place};
use super::input::{self, malformed, spoofed};
use super::worker::Tables;
use crate::engine::checksum::Sum;
use crate::engine::ends::Addresses;
use crate::engine::fragment::{self, Outcome};
use crate::engine::ipv6::{self, Body, Packet, Refused, Upper};
use crate::engine::ndp::{self, Ndp};
use crate::engine::offload::Offload;
use crate::engine::packet::{IPV6, PROTOCOL_FRAGMENT, PROTOCOL_ICMPV6, PROTOCOL_TCP, PROTOCOL_UDP};

/// Extension headers that neighbour discovery has no use for and a forger has.
const EXTENSIONS: [u8; 4] = [0, 43, PROTOCOL_FRAGMENT, 60];

/// ICMPv6 error codes that this file tells.
const BEYOND_SCOPE: (u8, u8) = (1, 2);
const PROHIBITED: (u8, u8) = (1, 1);
const HOP_LIMIT_EXCEEDED: (u8, u8) = (3, 0);
const PARAMETER_PROBLEM: u8 = 4;
const UNKNOWN_NEXT_HEADER: u8 = 1;

/// Looks at a packet before the switch does; false: the frame goes no further.
pub(super) fn admit(context: &mut Context, place: Place, bytes: &[u8]) -> bool {
    let Some(header) = bytes.first_chunk::<{ IPV6 }>() else {
        malformed(context, place.link);
        return false;
    };
    let source = header[8..]
        .first_chunk::<16>()
        .map(|octets| Ipv6Addr::from(*octets));
    if source.is_some_and(|source| context.settings.is_ours(source.into())) {
        spoofed(context, place.link);
        return false;
    }
    let next = header[6];
    if next == PROTOCOL_ICMPV6 {
        !bytes.get(IPV6).copied().is_some_and(ndp::is_ndp) || discovery(context, place, bytes)
    } else if EXTENSIONS.contains(&next) && hides_discovery(bytes) {
        // RFC 6980, RFC 7113: hosts might still believe it.
        spoofed(context, place.link);
        false
    } else {
        true
    }
}

fn hides_discovery(bytes: &[u8]) -> bool {
    let carried = match ipv6::parse(bytes).map(|packet| packet.body) {
        Ok(Body::Whole(upper)) => (upper.protocol, upper.payload),
        Ok(Body::Piece(piece)) if piece.offset == 0 => (piece.next_header, piece.payload),
        Ok(Body::Piece(_)) | Err(_) => return false,
    };
    match carried {
        (PROTOCOL_ICMPV6, [kind, ..]) => ndp::is_ndp(*kind),
        _other => false,
    }
}

/// False: the frame goes no further.
fn discovery(context: &mut Context, place: Place, bytes: &[u8]) -> bool {
    let Ok(Packet {
        source,
        destination,
        hop_limit,
        body: Body::Whole(upper),
        ..
    }) = ipv6::parse(bytes)
    else {
        malformed(context, place.link);
        return false;
    };
    let addresses = Addresses::V6 {
        source,
        destination,
    };
    if !intact(addresses, upper.payload) {
        malformed(context, place.link);
        return false;
    }
    let ends = (source, destination);
    match ndp::receive(&context.settings, ends, hop_limit, upper.payload, place.mac) {
        Ndp::Malformed => {
            malformed(context, place.link);
            false
        }
        Ndp::Spoofed => {
            spoofed(context, place.link);
            false
        }
        Ndp::Seen { claim, answer } => {
            // An address of a network that the guest reaches in another way is none of our business.
            let claim = claim
                .map(IpAddr::from)
                .filter(|claim| context.settings.is_local(*claim));
            if claim.is_some_and(|claim| !context.source_allowed(claim, place)) {
                return false;
            }
            if let Some(answer) = &answer {
                context.send(place.link, answer, &Offload::default());
            }
            answer.is_none()
        }
        Ndp::RouterSolicitation => true,
    }
}

fn intact(addresses: Addresses, message: &[u8]) -> bool {
    let length = u16::try_from(message.len()).unwrap_or(u16::MAX);
    let mut sum = Sum::pseudo_header(addresses, PROTOCOL_ICMPV6, length);
    sum.add(message);
    sum.finish() == 0
}

/// A packet to us, or to everybody.
pub(super) fn ipv6(
    context: &mut Context,
    tables: &mut Tables,
    place: Place,
    bytes: &[u8],
    offload: &Offload,
) {
    let Some(ours) = context.settings.ipv6 else {
        return;
    };
    let packet = match ipv6::parse(bytes) {
        Ok(packet) => packet,
        Err(refused) => return refuse(context, place, bytes, refused),
    };
    let (source, destination) = (packet.source, packet.destination);
    if !is_station(source) {
        // A probe for an address of its own is no fault (RFC 4862 §5.4.2), but nothing for us either.
        context.counters.ip_malformed += u64::from(!source.is_unspecified());
        return;
    }
    let addresses = Addresses::V6 {
        source,
        destination,
    };
    if destination.is_multicast() {
        // Of what goes to all, a ping is answered, by the router itself (RFC 4443 §4.2). Reports of groups (MLD) have
        // no reader: the switch floods.
        if let Body::Whole(upper) = packet.body
            && is_ping(&upper)
            && matches!(destination.segments(), [0xff02, 0, 0, 0, 0, 0, 0, 1 | 2])
            && intact(addresses, upper.payload)
        {
            let ours = Addresses::V6 {
                source,
                destination: ours.link_local,
            };
            input::ping(context, tables, place, ours, upper.payload);
        }
        return;
    }
    if !context.settings.is_ours(destination.into()) {
        let refusal = if source.is_unicast_link_local() {
            Some(BEYOND_SCOPE)
        } else if packet.hop_limit <= 1 {
            Some(HOP_LIMIT_EXCEEDED)
        } else {
            None
        };
        if let Some(refusal) = refusal {
            return tell(context, place, &packet, refusal, bytes);
        }
    }
    match packet.body {
        Body::Whole(upper) => {
            if !carry(context, tables, place, addresses, &upper, offload) {
                unknown(context, place, &packet, &upper, bytes);
            }
        }
        Body::Piece(piece) => {
            let datagram = fragment::Datagram {
                addresses,
                protocol: piece.next_header,
                identification: piece.identification,
            };
            let (offset, more) = (piece.offset, piece.more);
            let received =
                tables
                    .fragments
                    .receive(datagram, offset, more, piece.payload, context.now);
            match received {
                Outcome::Waiting => {}
                Outcome::Dropped => context.counters.fragments_dropped += 1,
                Outcome::Complete { protocol, payload } => {
                    context.counters.reassembled += 1;
                    let plain = Offload::default();
                    let carried = ipv6::upper(protocol, &payload).is_ok_and(|upper| {
                        carry(context, tables, place, addresses, &upper, &plain)
                    });
                    context.counters.ip_unsupported += u64::from(!carried);
                }
            }
        }
    }
}

/// An address that one station may have.
fn is_station(address: Ipv6Addr) -> bool {
    !address.is_unspecified() && !address.is_multicast() && !address.is_loopback()
}

fn is_ping(upper: &Upper<'_>) -> bool {
    const ECHO_REQUEST: u8 = 128;
    upper.protocol == PROTOCOL_ICMPV6 && upper.payload.first() == Some(&ECHO_REQUEST)
}

/// False: nobody here speaks the protocol.
fn carry(
    context: &mut Context,
    tables: &mut Tables,
    place: Place,
    addresses: Addresses,
    upper: &Upper<'_>,
    offload: &Offload,
) -> bool {
    match upper.protocol {
        PROTOCOL_TCP | PROTOCOL_UDP => {
            let (protocol, body) = (upper.protocol, upper.payload);
            input::transport(context, tables, place, addresses, protocol, body, offload);
        }
        PROTOCOL_ICMPV6 => icmpv6(context, tables, place, addresses, upper),
        _unknown => return false,
    }
    true
}

fn icmpv6(
    context: &mut Context,
    tables: &mut Tables,
    place: Place,
    addresses: Addresses,
    upper: &Upper<'_>,
) {
    let message = upper.payload;
    if message.len() < 8 || !intact(addresses, message) {
        return malformed(context, place.link);
    }
    // Errors belong to flows whose host socket cannot be told; discovery was heard before the switch.
    if is_ping(upper) {
        input::ping(context, tables, place, addresses, message);
    }
}

/// To us: we do not know the protocol (RFC 8200 §4). To others: this way does not lead there.
fn unknown(
    context: &mut Context,
    place: Place,
    packet: &Packet<'_>,
    upper: &Upper<'_>,
    bytes: &[u8],
) {
    context.counters.ip_unsupported += 1;
    if context.settings.is_ours(packet.destination.into()) {
        let pointer = u32::try_from(upper.protocol_at).unwrap_or(u32::MAX);
        let kind = (PARAMETER_PROBLEM, UNKNOWN_NEXT_HEADER);
        context.tell_error_v6(place, packet.source, kind, pointer, bytes);
    } else {
        tell(context, place, packet, PROHIBITED, bytes);
    }
}

fn tell(context: &mut Context, place: Place, packet: &Packet<'_>, kind: (u8, u8), bytes: &[u8]) {
    // Never about an error (RFC 4443 §2.4 (e.1)): their types are below 128.
    let about_error = match packet.body {
        Body::Whole(upper) => {
            upper.protocol == PROTOCOL_ICMPV6
                && upper.payload.first().is_none_or(|kind| *kind < 128)
        }
        Body::Piece(piece) => piece.offset > 0 || piece.next_header == PROTOCOL_ICMPV6,
    };
    if !about_error {
        context.tell_error_v6(place, packet.source, kind, 0, bytes);
    }
}

fn refuse(context: &mut Context, place: Place, bytes: &[u8], refused: Refused) {
    context.counters.ip_malformed += 1;
    let address = |at: usize| {
        let octets = bytes.get(at..)?.first_chunk::<16>()?;
        Some(Ipv6Addr::from(*octets))
    };
    if let Refused::Problem {
        code,
        pointer,
        to_multicast,
    } = refused
        && let (Some(source), Some(destination)) = (address(8), address(24))
        && is_station(source)
        && (to_multicast || !destination.is_multicast())
    {
        context.tell_error_v6(place, source, (PARAMETER_PROBLEM, code), pointer, bytes);
    }
}
