//! The gateway as IPv6 router and DHCPv6 server: solicitations and messages out of the frames of guests,
//! advertisements and answers into frames. What they say and when is `engine::ra`'s and `engine::dhcp6`'s.

use std::net::Ipv6Addr;
use std::time::Instant;

use smoltcp::wire::{IpProtocol, Ipv6Packet, UdpPacket};

use super::context::{Context, Place};
use crate::engine::checksum::Sum;
use crate::engine::dhcp6::Dhcp6Arrival;
use crate::engine::ends::Addresses;
use crate::engine::offload::Offload;
use crate::engine::packet::{PROTOCOL_ICMPV6, PROTOCOL_UDP, Path, write_udp_frame};
use crate::engine::ra::{self, ALL_NODES, Advertisement, Answer, Ends, Schedule};

const SERVER: u16 = 547;
const CLIENT: u16 = 546;
/// All DHCP servers and relay agents of the link, and all servers of the site (RFC 8415 section 7.1).
const ALL_SERVERS: [Ipv6Addr; 2] = [
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2),
    Ipv6Addr::new(0xff05, 0, 0, 0, 0, 0, 1, 3),
];
/// Advertisements that take an old prefix back, and old prefixes that are remembered.
const TAKEN_BACK: u8 = 3;
const REMEMBERED: usize = 4;

#[derive(Default)]
pub(super) struct Router {
    schedule: Schedule,
    /// What was advertised last.
    shown: Option<Advertisement>,
    /// What was before, while that is still told.
    before: Vec<Advertisement>,
    before_left: u8,
}

impl Router {
    pub(super) fn link_up(&mut self, context: &mut Context) {
        self.look(context);
        self.schedule.link_up(context.now);
    }

    pub(super) fn link_down(&mut self) {
        self.schedule.link_down();
    }

    /// The services may say something else now.
    pub(super) fn look(&mut self, context: &mut Context) {
        if context.services.advertisement() == self.shown.as_ref() {
            return;
        }
        let new = context.services.advertisement().cloned();
        if let Some(old) = self.shown.take()
            && new.as_ref().is_none_or(|new| new.prefix != old.prefix)
        {
            self.before.retain(|other| other.prefix != old.prefix);
            self.before.push(old);
            if self.before.len() > REMEMBERED {
                self.before.remove(0);
            }
            self.before_left = TAKEN_BACK;
            // At once, while the settings still have the address that it was advertised from.
            self.send_to_all(context);
            self.schedule.sent(context.now);
        }
        if let Some(new) = &new {
            self.before.retain(|other| other.prefix != new.prefix);
        }
        self.shown = new;
        self.schedule.announce(context.now);
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.shown
            .as_ref()
            .and_then(|_| self.schedule.poll_timeout())
    }

    pub(super) fn handle_timeout(&mut self, context: &mut Context) {
        // Any number serves that differs from one daemon to the next.
        let random = context.first_seq("router").0;
        if self.schedule.take_due(context.now, random) {
            self.send_to_all(context);
            self.before_left = self.before_left.saturating_sub(1);
            if self.before_left == 0 {
                self.before.clear();
            }
        }
    }

    /// A guest's IPv6 packet; true: it was for the router or the server, whatever became of it.
    pub(super) fn take(
        &mut self,
        context: &mut Context,
        place: Place,
        payload: &[u8],
        offload: &Offload,
    ) -> bool {
        let Some(ours) = context.settings.ipv6 else {
            return false;
        };
        let Ok(packet) = Ipv6Packet::new_checked(payload) else {
            return false;
        };
        let (source, destination) = (packet.src_addr(), packet.dst_addr());
        let body = packet.payload();
        let addresses = Addresses::V6 {
            source,
            destination,
        };
        let intact = |protocol| {
            let length = u16::try_from(body.len()).unwrap_or(u16::MAX);
            let mut sum = Sum::pseudo_header(addresses, protocol, length);
            sum.add(body);
            offload.trusted() || sum.finish() == 0
        };
        let protocol = packet.next_header();
        if protocol == IpProtocol::Icmpv6 && body.first() == Some(&133) {
            context.counters.router_solicitations += 1;
            if intact(PROTOCOL_ICMPV6) && ra::is_solicitation(source, packet.hop_limit(), body) {
                self.solicited(context, place, source);
            }
            return true;
        }
        let to_group = ALL_SERVERS.contains(&destination);
        let is_ours = to_group || destination == ours.gateway || destination == ours.link_local;
        if protocol != IpProtocol::Udp || !is_ours {
            return false;
        }
        let Ok(datagram) = UdpPacket::new_checked(body) else {
            return false;
        };
        if datagram.dst_port() != SERVER {
            return false;
        }
        // RFC 8415 has clients speak from a link-local address; those that do not are answered all the same,
        // for the answer never leaves the link and the station that the question came from.
        if intact(PROTOCOL_UDP) && !source.is_unspecified() && !source.is_multicast() {
            dhcp6(context, place, source, to_group, datagram.payload());
        }
        true
    }

    fn solicited(&mut self, context: &mut Context, place: Place, source: Ipv6Addr) {
        match self.schedule.solicited(source, context.now) {
            Answer::WithAll => {}
            Answer::Alone => {
                let Some(ends) = ends(context) else { return };
                let ends = Ends {
                    destination_mac: place.mac,
                    destination: source,
                    ..ends
                };
                context.counters.router_advertisements += 1;
                context.send_built(place.link, |frame| {
                    ra::write(frame, &ends, self.shown.as_ref(), &self.before);
                });
            }
        }
    }

    fn send_to_all(&self, context: &mut Context) {
        let Some(ends) = ends(context) else { return };
        let mut frame = Vec::new();
        ra::write(&mut frame, &ends, self.shown.as_ref(), &self.before);
        context.counters.router_advertisements += 1;
        context.flood(None, &frame, &Offload::default());
    }
}

/// From the gateway to all nodes.
fn ends(context: &Context) -> Option<Ends> {
    Some(Ends {
        source_mac: context.settings.gateway_mac,
        source: context.settings.ipv6?.link_local,
        destination_mac: ALL_NODES.1,
        destination: ALL_NODES.0,
    })
}

fn dhcp6(context: &mut Context, place: Place, source: Ipv6Addr, to_group: bool, payload: &[u8]) {
    context.counters.dhcp6_messages += 1;
    let arrival = Dhcp6Arrival {
        source: place.mac,
        link: place.link,
        to_group,
    };
    let reply = context.services.dhcp6(payload, &arrival, context.now);
    context.pass_lease_events();
    let (Some(reply), Some(ours)) = (reply, context.settings.ipv6) else {
        return;
    };
    let path = Path {
        source_mac: context.settings.gateway_mac,
        destination_mac: place.mac,
        addresses: Addresses::V6 {
            source: ours.link_local,
            destination: source,
        },
    };
    context.send_built(place.link, |frame| {
        write_udp_frame(frame, &path, (SERVER, CLIENT), &reply)
    });
}
