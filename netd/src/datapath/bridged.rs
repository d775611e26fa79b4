//! A frame of a bridged network: between guests, and between them and the LAN by the uplink. No gateway and
//! no services of ours: the LAN has them. Every address that no guest has is the LAN's, so nothing of the LAN
//! is learned and a LAN of any size costs no table.
//!
//! What is sent by an interface never reaches the host's own stack on it (as with macvlan; only the wire would
//! bring it back). So frames to the host end here: its address is answered for, and TCP, UDP and ping to it are
//! carried on by ordinary sockets of the host. The other way, host to guest, published ports serve.

use std::net::Ipv4Addr;

use control::mac::MacAddress;

use super::context::{Context, Place};
use super::input;
use super::worker::Tables;
use crate::engine::observed::{Sighting, addressee};
use crate::engine::offload::Offload;
use crate::engine::packet::ETHERNET;
use crate::engine::services::LinkId;
use crate::engine::switch::Destination;
use crate::io::link::Port;

const ETHER_IPV4: [u8; 2] = [0x08, 0x00];
const ETHER_ARP: [u8; 2] = [0x08, 0x06];
const UDP: u8 = 17;
const DHCP_SERVER: u16 = 67;
const DHCP_CLIENT: u16 = 68;

/// A frame from `from`, counted already.
pub(super) fn frame(
    context: &mut Context,
    tables: &mut Tables,
    from: LinkId,
    frame: &[u8],
    offload: &Offload,
) {
    let Some(header) = frame.first_chunk::<ETHERNET>() else {
        return;
    };
    let [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, kind @ ..] = *header;
    let destination = MacAddress([d0, d1, d2, d3, d4, d5]);
    let source = MacAddress([s0, s1, s2, s3, s4, s5]);
    if context.uplink == Some(from) {
        from_lan(context, from, (destination, source), frame, offload);
        return;
    }
    let place = Place {
        mac: source,
        link: from,
    };
    if !known_source(context, place) {
        return;
    }
    let payload = &frame[ETHERNET..];
    if kind == ETHER_ARP {
        if !input::address_resolution(context, tables, place, payload) {
            return;
        }
        seen_by_arp(context, place, payload);
    } else if kind == ETHER_IPV4 {
        if source_of(payload) == Some(context.settings.host_internal) {
            return input::spoofed(context, from);
        }
        if let Some((DHCP_CLIENT, DHCP_SERVER, message)) = datagram(payload) {
            see(context, place, Sighting::Request(message));
        }
    }
    match context.switch.destination(destination, from) {
        Destination::Gateway => {
            let host = context.settings.host_internal;
            if kind == ETHER_IPV4 && destination_of(payload) == Some(host) {
                input::ipv4(context, tables, place, payload, offload);
            }
        }
        Destination::Everyone => context.flood(Some(from), frame, offload),
        Destination::Link(to) => context.send(to, frame, offload),
        Destination::Unknown => {
            if let Some(uplink) = context.uplink {
                context.send(uplink, frame, offload);
            }
        }
        Destination::Nobody => {}
    }
}

/// False: drop the frame. An address that is new is asked of the LAN's interface too.
fn known_source(context: &mut Context, place: Place) -> bool {
    let last = context.link(place.link).and_then(|link| link.last_source);
    if last == Some(place.mac) {
        return true;
    }
    if !input::learn(context, place.mac, place.link) {
        return false;
    }
    if let Some(uplink) = context.uplink {
        admit(context, uplink, place.mac);
    }
    true
}

fn admit(context: &mut Context, uplink: LinkId, mac: MacAddress) {
    if let Some(link) = context.link(uplink)
        && let Port::Uplink(port) = &mut link.port
    {
        port.admit(mac);
    }
}

/// The uplink is here, or here again: what the guests' addresses are, it has to be told.
pub(super) fn uplink_attached(context: &mut Context, uplink: LinkId) {
    context.uplink = Some(uplink);
    for index in 0..u32::try_from(context.links.len()).unwrap_or(0) {
        for mac in context.switch.macs(LinkId(index)) {
            admit(context, uplink, mac);
        }
    }
}

fn from_lan(
    context: &mut Context,
    uplink: LinkId,
    (destination, source): (MacAddress, MacAddress),
    frame: &[u8],
    offload: &Offload,
) {
    // A guest's own frame that came back: a loop in the LAN, or somebody who takes its name.
    if matches!(
        context.switch.destination(source, uplink),
        Destination::Link(_) | Destination::Gateway
    ) {
        return input::spoofed(context, uplink);
    }
    let (kind, payload) = frame[12..].split_at(2);
    if kind == ETHER_IPV4
        && let Some((DHCP_SERVER, DHCP_CLIENT, message)) = datagram(payload)
        && let Some(mac) = addressee(message)
        && let Destination::Link(link) = context.switch.destination(mac, uplink)
    {
        see(context, Place { mac, link }, Sighting::Answer(message));
    }
    match context.switch.destination(destination, uplink) {
        Destination::Link(to) => context.send(to, frame, offload),
        Destination::Everyone => context.flood(Some(uplink), frame, offload),
        // For somebody else in the LAN: the interface gives us more than we asked for.
        Destination::Gateway | Destination::Unknown | Destination::Nobody => {}
    }
}

fn see(context: &mut Context, place: Place, sighting: Sighting<'_>) {
    let guest = context
        .links
        .get(place.link.0 as usize)
        .and_then(|link| link.as_deref()?.guest.as_ref());
    context
        .services
        .observe(place.mac, guest, sighting, context.now);
    context.pass_lease_events();
}

/// The sender's address in an ARP packet that was found good (RFC 826): 0.0.0.0 in a probe.
fn seen_by_arp(context: &mut Context, place: Place, payload: &[u8]) {
    if let Some([a, b, c, d]) = payload.get(14..18) {
        let address = Ipv4Addr::new(*a, *b, *c, *d);
        see(context, place, Sighting::Address(address));
    }
}

fn source_of(packet: &[u8]) -> Option<Ipv4Addr> {
    let octets: [u8; 4] = packet.get(12..16)?.try_into().ok()?;
    Some(octets.into())
}

fn destination_of(packet: &[u8]) -> Option<Ipv4Addr> {
    let octets: [u8; 4] = packet.get(16..20)?.try_into().ok()?;
    Some(octets.into())
}

/// Ports and payload of a whole UDP datagram over IPv4; only read along, so checksums are the receiver's business.
fn datagram(packet: &[u8]) -> Option<(u16, u16, &[u8])> {
    let [first, _, _, _, _, _, flags, offset, _, UDP, ..] = packet else {
        return None;
    };
    // More fragments, or not the first.
    if u16::from_be_bytes([*flags, *offset]) & 0x3fff != 0 {
        return None;
    }
    let body = packet.get(usize::from(first & 0x0f) * 4..)?;
    let (header, payload) = body.split_first_chunk::<8>()?;
    let [s0, s1, d0, d1, ..] = *header;
    Some((
        u16::from_be_bytes([s0, s1]),
        u16::from_be_bytes([d0, d1]),
        payload,
    ))
}
