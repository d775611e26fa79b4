//! Neighbour discovery for the gateway's addresses (RFC 4861, RFC 4862 §5.4): solicitations answered, claims read,
//! solicitations of ours made. Guests are no routers: what only a router may say is refused from them (RFC 6105).

use std::net::Ipv6Addr;

use control::mac::MacAddress;

use crate::engine::ends::Addresses;
use crate::engine::icmp;
use crate::engine::packet::Path;
use crate::engine::settings::{Ipv6Settings, NetworkSettings};

/// What nobody forwards: proof that the sender is on the cable (RFC 4861 §3.1).
pub const HOP_LIMIT: u8 = 255;

/// ICMPv6 types.
pub const ROUTER_SOLICITATION: u8 = 133;
const ROUTER_ADVERTISEMENT: u8 = 134;
const NEIGHBOUR_SOLICITATION: u8 = 135;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
const REDIRECT: u8 = 137;

const SOURCE_LINK_LAYER: u8 = 1;
const TARGET_LINK_LAYER: u8 = 2;

const FROM_ROUTER: u8 = 0x80;
const SOLICITED: u8 = 0x40;
const OVERRIDE: u8 = 0x20;

/// ff02::1
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// Whether the type is one of neighbour discovery's.
pub fn is_ndp(kind: u8) -> bool {
    (ROUTER_SOLICITATION..=REDIRECT).contains(&kind)
}

/// What a message of a guest means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ndp {
    /// Not valid (RFC 4861 §7.1).
    Malformed,
    /// It speaks for us, for another station, or as a router: not passed on to other guests.
    Spoofed,
    /// `claim` = the address that the sender says is its own (absent while it only asks whether it may be).
    Seen {
        /// The claimed address; its MAC is the frame's.
        claim: Option<Ipv6Addr>,
        /// A whole frame in answer, if it asked for us.
        answer: Option<Vec<u8>>,
    },
    /// It asks for a router; valid as far as lengths go.
    RouterSolicitation,
}

/// A message whose checksum is right, from `source` (Ethernet).
pub fn receive(
    settings: &NetworkSettings,
    addresses: (Ipv6Addr, Ipv6Addr),
    hop_limit: u8,
    message: &[u8],
    source: MacAddress,
) -> Ndp {
    let (from, to) = addresses;
    let Some(&[kind, code, ..]) = message.first_chunk::<8>() else {
        return Ndp::Malformed;
    };
    if hop_limit != HOP_LIMIT || code != 0 {
        return Ndp::Malformed;
    }
    match kind {
        ROUTER_SOLICITATION => Ndp::RouterSolicitation,
        ROUTER_ADVERTISEMENT | REDIRECT => Ndp::Spoofed,
        NEIGHBOUR_SOLICITATION | NEIGHBOUR_ADVERTISEMENT => {
            let Some(target) = target(message) else {
                return Ndp::Malformed;
            };
            let Some(link_layer) = link_layer(&message[24..], kind) else {
                return Ndp::Malformed;
            };
            if link_layer.is_some_and(|said| said != source) || settings.is_ours(from.into()) {
                return Ndp::Spoofed;
            }
            if kind == NEIGHBOUR_ADVERTISEMENT {
                advertisement(settings, (message[4], to), target)
            } else {
                solicitation(settings, (from, to), target, link_layer.is_some(), source)
            }
        }
        _other => Ndp::Malformed,
    }
}

fn advertisement(settings: &NetworkSettings, (flags, to): (u8, Ipv6Addr), target: Ipv6Addr) -> Ndp {
    if to.is_multicast() && flags & SOLICITED != 0 {
        return Ndp::Malformed;
    }
    if settings.is_ours(target.into()) || flags & FROM_ROUTER != 0 {
        return Ndp::Spoofed;
    }
    Ndp::Seen {
        claim: Some(target),
        answer: None,
    }
}

fn solicitation(
    settings: &NetworkSettings,
    (from, to): (Ipv6Addr, Ipv6Addr),
    target: Ipv6Addr,
    says_link_layer: bool,
    source: MacAddress,
) -> Ndp {
    let probe = from.is_unspecified();
    if probe && (to != solicited_node(target) || says_link_layer) {
        return Ndp::Malformed;
    }
    let answer = settings
        .ipv6
        .filter(|_| settings.is_ours(target.into()))
        .map(|ours| advertise(settings, &ours, target, (!probe).then_some((from, source))));
    Ndp::Seen {
        claim: (!probe).then_some(from),
        answer,
    }
}

/// The answer to whoever asked; to all where somebody without an address asked whether it may have ours
/// (RFC 4861 §7.2.4).
fn advertise(
    settings: &NetworkSettings,
    ours: &Ipv6Settings,
    target: Ipv6Addr,
    asker: Option<(Ipv6Addr, MacAddress)>,
) -> Vec<u8> {
    let (to, mac) = asker.unwrap_or_else(|| (ALL_NODES, multicast_mac(ALL_NODES)));
    let mut flags = OVERRIDE;
    if target != ours.host_internal {
        flags |= FROM_ROUTER;
    }
    if asker.is_some() {
        flags |= SOLICITED;
    }
    let ends = (target, to, mac);
    neighbour_message(settings, ends, (NEIGHBOUR_ADVERTISEMENT, flags), target)
}

/// A question to all whose address `target` is.
pub fn solicit(settings: &NetworkSettings, ours: &Ipv6Settings, target: Ipv6Addr) -> Vec<u8> {
    let group = solicited_node(target);
    let from = if target.is_unicast_link_local() {
        ours.link_local
    } else {
        ours.gateway
    };
    let ends = (from, group, multicast_mac(group));
    neighbour_message(settings, ends, (NEIGHBOUR_SOLICITATION, 0), target)
}

fn neighbour_message(
    settings: &NetworkSettings,
    (source, destination, destination_mac): (Ipv6Addr, Ipv6Addr, MacAddress),
    (kind, flags): (u8, u8),
    target: Ipv6Addr,
) -> Vec<u8> {
    let option = if kind == NEIGHBOUR_SOLICITATION {
        SOURCE_LINK_LAYER
    } else {
        TARGET_LINK_LAYER
    };
    let mut message = vec![kind, 0, 0, 0, flags, 0, 0, 0];
    message.extend_from_slice(&target.octets());
    message.extend_from_slice(&[option, 1]);
    message.extend_from_slice(&settings.gateway_mac.0);
    let path = Path {
        source_mac: settings.gateway_mac,
        destination_mac,
        addresses: Addresses::V6 {
            source,
            destination,
        },
    };
    let mut frame = Vec::new();
    icmp::emit_on_link(&mut frame, &path, &message);
    frame
}

fn target(message: &[u8]) -> Option<Ipv6Addr> {
    let octets = message.get(8..)?.first_chunk::<16>()?;
    Some(Ipv6Addr::from(*octets)).filter(|target| !target.is_multicast())
}

/// The link-layer address that goes with a message of this kind; nothing = malformed options.
fn link_layer(mut options: &[u8], kind: u8) -> Option<Option<MacAddress>> {
    let wanted = if kind == NEIGHBOUR_SOLICITATION {
        SOURCE_LINK_LAYER
    } else {
        TARGET_LINK_LAYER
    };
    let mut found = None;
    while let [option, length, ..] = options {
        let (this, rest) = match length {
            0 => return None,
            length => options.split_at_checked(8 * usize::from(*length))?,
        };
        if *option == wanted {
            found = this[2..]
                .first_chunk::<6>()
                .map(|octets| MacAddress(*octets));
        }
        options = rest;
    }
    options.is_empty().then_some(found)
}

/// The group ff02::1:ff00:0/104 with the last 24 bits of the address (RFC 4291 §2.7.1).
pub fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let low = address.to_bits() & 0x00ff_ffff;
    Ipv6Addr::from_bits(0xff02_0000_0000_0000_0000_0001_ff00_0000 | low)
}

/// 33:33 and the last four bytes (RFC 2464 §7).
pub fn multicast_mac(group: Ipv6Addr) -> MacAddress {
    let [.., a, b, c, d] = group.octets();
    MacAddress([0x33, 0x33, a, b, c, d])
}

#[cfg(test)]
mod tests {
    use smoltcp::phy::ChecksumCapabilities;
    use smoltcp::wire::{Icmpv6Packet, Icmpv6Repr, Ipv6Packet, NdiscRepr, RawHardwareAddress};

    use super::*;
    use crate::engine::settings::Reach;

    const GUEST: MacAddress = MacAddress([2, 0, 0, 0, 0, 7]);

    fn settings() -> NetworkSettings {
        let mut settings = NetworkSettings::new("t", Reach::Nat, "10.0.0.0/24".parse().unwrap());
        let prefix = "fd00:1::/64".parse().unwrap();
        settings.ipv6 = Some(Ipv6Settings::new(prefix, settings.gateway_mac));
        settings
    }

    fn at(text: &str) -> Ipv6Addr {
        text.parse().unwrap()
    }

    fn message(kind: u8, flags: u8, target: &str, option: Option<(u8, MacAddress)>) -> Vec<u8> {
        let mut message = vec![kind, 0, 0, 0, flags, 0, 0, 0];
        message.extend_from_slice(&at(target).octets());
        if let Some((kind, mac)) = option {
            message.extend_from_slice(&[kind, 1]);
            message.extend_from_slice(&mac.0);
        }
        message
    }

    fn ask(from: &str, target: &str) -> Ndp {
        let option = (from != "::").then_some((SOURCE_LINK_LAYER, GUEST));
        let message = message(NEIGHBOUR_SOLICITATION, 0, target, option);
        let ends = (at(from), solicited_node(at(target)));
        receive(&settings(), ends, HOP_LIMIT, &message, GUEST)
    }

    #[test]
    fn our_addresses_are_answered_and_the_answer_is_read_by_smoltcp() {
        let link_local = settings().ipv6.unwrap().link_local.to_string();
        for (target, router) in [
            ("fd00:1::1", true),
            ("fd00:1::2", false),
            (&link_local, true),
        ] {
            let Ndp::Seen {
                claim,
                answer: Some(answer),
            } = ask("fd00:1::7", target)
            else {
                panic!("no answer for {target}")
            };
            assert_eq!(claim, Some(at("fd00:1::7")));
            assert_eq!(answer[..6], GUEST.0);
            let ip = Ipv6Packet::new_checked(&answer[14..]).unwrap();
            assert_eq!((ip.hop_limit(), ip.dst_addr()), (255, at("fd00:1::7")));
            let icmp = Icmpv6Packet::new_checked(ip.payload()).unwrap();
            let (from, to) = (ip.src_addr(), ip.dst_addr());
            let caps = ChecksumCapabilities::default();
            let Icmpv6Repr::Ndisc(NdiscRepr::NeighborAdvert {
                flags,
                target_addr,
                lladdr,
            }) = Icmpv6Repr::parse(&from, &to, &icmp, &caps).unwrap()
            else {
                panic!("no advertisement")
            };
            assert_eq!(target_addr, at(target));
            let gateway = RawHardwareAddress::from_bytes(&settings().gateway_mac.0);
            assert_eq!(lladdr, Some(gateway));
            assert_eq!(flags.bits() & FROM_ROUTER != 0, router);
            assert!(flags.bits() & SOLICITED != 0);
        }
        assert!(matches!(
            ask("fd00:1::7", "fd00:1::9"),
            Ndp::Seen { answer: None, .. }
        ));
    }

    #[test]
    fn a_probe_claims_nothing_and_hears_that_our_address_is_taken() {
        let Ndp::Seen {
            claim: None,
            answer: Some(answer),
        } = ask("::", "fd00:1::1")
        else {
            panic!("no answer")
        };
        assert_eq!(answer[..6], [0x33, 0x33, 0, 0, 0, 1]);
        assert_eq!(answer[38..54], ALL_NODES.octets());
        assert_eq!(answer[58] & SOLICITED, 0);
        let free = Ndp::Seen {
            claim: None,
            answer: None,
        };
        assert_eq!(ask("::", "fd00:1::9"), free);
    }

    #[test]
    fn who_speaks_for_us_or_as_a_router_is_refused() {
        assert_eq!(ask("fd00:1::1", "fd00:1::9"), Ndp::Spoofed);
        let other = MacAddress([2, 0, 0, 0, 0, 9]);
        let table = [
            (NEIGHBOUR_ADVERTISEMENT, 0x20, "fd00:1::2", GUEST),
            (NEIGHBOUR_ADVERTISEMENT, 0xa0, "fd00:1::7", GUEST),
            (NEIGHBOUR_ADVERTISEMENT, 0x20, "fd00:1::7", other),
            (ROUTER_ADVERTISEMENT, 0, "fd00:1::7", GUEST),
            (REDIRECT, 0, "fd00:1::7", GUEST),
        ];
        for (kind, flags, target, mac) in table {
            let message = message(kind, flags, target, Some((TARGET_LINK_LAYER, mac)));
            let ends = (at("fd00:1::7"), ALL_NODES);
            let seen = receive(&settings(), ends, HOP_LIMIT, &message, GUEST);
            assert_eq!(seen, Ndp::Spoofed, "{kind} {flags} {target}");
        }
    }

    #[test]
    fn what_came_from_afar_or_does_not_fit_is_malformed() {
        let good = message(NEIGHBOUR_SOLICITATION, 0, "fd00:1::1", None);
        let ends = (at("fd00:1::7"), at("fd00:1::1"));
        let read = |hops, message: &[u8], ends| receive(&settings(), ends, hops, message, GUEST);
        assert!(matches!(read(HOP_LIMIT, &good, ends), Ndp::Seen { .. }));
        assert_eq!(read(64, &good, ends), Ndp::Malformed);
        for length in 0..good.len() {
            assert_eq!(read(HOP_LIMIT, &good[..length], ends), Ndp::Malformed);
        }
        let endless = [&good[..], &[1, 0]].concat();
        assert_eq!(read(HOP_LIMIT, &endless, ends), Ndp::Malformed);
        let probe = (Ipv6Addr::UNSPECIFIED, at("fd00:1::1"));
        assert_eq!(read(HOP_LIMIT, &good, probe), Ndp::Malformed);
    }

    #[test]
    fn a_question_of_ours_goes_to_the_group_of_its_target() {
        let settings = settings();
        let frame = solicit(&settings, &settings.ipv6.unwrap(), at("fd00:1::c0a8:820a"));
        assert_eq!(frame[..6], [0x33, 0x33, 0xff, 0xa8, 0x82, 0x0a]);
        assert_eq!(frame[38..54], at("ff02::1:ffa8:820a").octets());
        assert_eq!(frame[22..38], at("fd00:1::1").octets());
    }
}
