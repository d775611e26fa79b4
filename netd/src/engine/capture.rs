//! Which frames a capture wants, and what has to be done to them before they are shown. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use control::capture::{Carried, Filter, Term};

/// What a filter can ask about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Facts {
    arp: bool,
    addresses: Option<(IpAddr, IpAddr)>,
    protocol: Option<u8>,
    ports: Option<(u16, u16)>,
}

/// Whether every condition holds; a frame that cannot be read meets none.
#[must_use]
pub fn matches(filter: &Filter, frame: &[u8]) -> bool {
    if filter.terms.is_empty() {
        return true;
    }
    let facts = Facts::of(frame).unwrap_or_default();
    filter.terms.iter().all(|term| facts.meets(term))
}

impl Facts {
    fn meets(&self, term: &Term) -> bool {
        let v4 = self.addresses.map(|(from, _)| from.is_ipv4());
        match term {
            Term::Host(host) => self
                .addresses
                .is_some_and(|(from, to)| from == *host || to == *host),
            Term::Port(port) => self
                .ports
                .is_some_and(|(from, to)| from == *port || to == *port),
            Term::Carries(carried) => match carried {
                Carried::Arp => self.arp,
                Carried::Ip => !self.arp && v4 == Some(true),
                Carried::Ip6 => v4 == Some(false),
                Carried::Tcp => self.protocol == Some(6),
                Carried::Udp => self.protocol == Some(17),
                Carried::Icmp => matches!(self.protocol, Some(1 | 58)),
            },
        }
    }

    /// `None` where the frame ends too early.
    fn of(frame: &[u8]) -> Option<Self> {
        let mut at = 12;
        let mut kind = word(frame, at)?;
        // One VLAN tag (IEEE 802.1Q).
        if kind == 0x8100 {
            at += 4;
            kind = word(frame, at)?;
        }
        let packet = frame.get(at + 2..)?;
        match kind {
            0x0806 => Some(Self {
                arp: true,
                addresses: Some((v4(packet, 14)?, v4(packet, 24)?)),
                ..Self::default()
            }),
            0x0800 => {
                let header = usize::from(packet.first()? & 0x0f) * 4;
                let later_fragment = word(packet, 6)? & 0x1fff != 0;
                let protocol = *packet.get(9)?;
                Some(Self {
                    arp: false,
                    addresses: Some((v4(packet, 12)?, v4(packet, 16)?)),
                    protocol: Some(protocol),
                    ports: ports(packet, header, protocol).filter(|_| !later_fragment),
                })
            }
            0x86dd => {
                let addresses = Some((v6(packet, 8)?, v6(packet, 24)?));
                let (protocol, payload) = after_extensions(packet)?;
                Some(Self {
                    arp: false,
                    addresses,
                    protocol: Some(protocol),
                    ports: ports(packet, payload, protocol),
                })
            }
            _other => None,
        }
    }
}

/// The upper protocol and where it starts (RFC 8200 section 4); of a later fragment nothing is known.
fn after_extensions(packet: &[u8]) -> Option<(u8, usize)> {
    let (mut next, mut at) = (*packet.get(6)?, 40);
    for _ in 0..8 {
        match next {
            // Hop-by-hop, routing, destination options.
            0 | 43 | 60 => {
                let length = 8 + 8 * usize::from(*packet.get(at + 1)?);
                next = *packet.get(at)?;
                at += length;
            }
            44 => {
                let offset = word(packet, at + 2)? >> 3;
                next = *packet.get(at)?;
                at += 8;
                if offset != 0 {
                    return Some((next, usize::MAX));
                }
            }
            _upper => return Some((next, at)),
        }
    }
    None
}

fn ports(packet: &[u8], at: usize, protocol: u8) -> Option<(u16, u16)> {
    let has = matches!(protocol, 6 | 17);
    has.then(|| Some((word(packet, at)?, word(packet, at.checked_add(2)?)?)))
        .flatten()
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    let two = bytes.get(at..)?.first_chunk()?;
    Some(u16::from_be_bytes(*two))
}

fn v4(bytes: &[u8], at: usize) -> Option<IpAddr> {
    let four: &[u8; 4] = bytes.get(at..)?.first_chunk()?;
    Some(Ipv4Addr::from(*four).into())
}

fn v6(bytes: &[u8], at: usize) -> Option<IpAddr> {
    let sixteen: &[u8; 16] = bytes.get(at..)?.first_chunk()?;
    Some(Ipv6Addr::from(*sixteen).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(frame: &[u8], yes: &[&str], no: &[&str]) {
        for (texts, expected) in [(yes, true), (no, false)] {
            for text in texts {
                let filter: Filter = text.parse().unwrap();
                assert_eq!(matches(&filter, frame), expected, "{text}");
            }
        }
    }

    fn ethernet(kind: u16, packet: &[u8]) -> Vec<u8> {
        let mut frame = vec![0; 12];
        frame.extend(kind.to_be_bytes());
        frame.extend_from_slice(packet);
        frame
    }

    fn ipv4(protocol: u8, fragment: u16) -> Vec<u8> {
        let mut packet = vec![0x45, 0, 0, 28, 0, 0];
        packet.extend(fragment.to_be_bytes());
        packet.extend([
            64, protocol, 0, 0, 10, 0, 0, 2, 192, 0, 2, 1, 0x30, 0x39, 1, 187,
        ]);
        packet.extend([0; 4]);
        packet
    }

    #[test]
    fn filters_see_addresses_ports_and_protocols() {
        check(
            &ethernet(0x0800, &ipv4(6, 0)),
            &[
                "",
                "tcp",
                "ip",
                "port 443",
                "port 12345",
                "host 10.0.0.2 and host 192.0.2.1",
                "tcp port 443",
            ],
            &[
                "udp",
                "arp",
                "ip6",
                "port 80",
                "host 192.0.2.9",
                "tcp and port 80",
            ],
        );
        // A later fragment has no ports, whatever its bytes look like.
        check(
            &ethernet(0x0800, &ipv4(17, 0x2001)),
            &["udp"],
            &["port 443"],
        );
        let mut tagged = vec![0; 12];
        tagged.extend([0x81, 0, 0, 5]);
        tagged.extend(&ethernet(0x0800, &ipv4(1, 0))[12..]);
        check(&tagged, &["icmp"], &["port 443"]);
        let mut arp = vec![0; 28];
        arp[14..18].copy_from_slice(&[10, 0, 0, 2]);
        check(
            &ethernet(0x0806, &arp),
            &["arp", "host 10.0.0.2"],
            &["ip", "tcp"],
        );
        let mut packet = vec![0; 40];
        packet[0] = 0x60;
        // Destination options in front of UDP.
        packet[6] = 60;
        packet[23] = 1;
        packet.extend([17, 0, 0, 0, 0, 0, 0, 0, 0, 53, 0x10, 0, 0, 8, 0, 0]);
        check(
            &ethernet(0x86dd, &packet),
            &["ip6", "udp", "port 53", "host ::1", "host ::"],
            &["ip", "tcp", "port 54"],
        );
    }

    proptest::proptest! {
        #[test]
        fn any_frame_is_judged(frame in proptest::collection::vec(proptest::num::u8::ANY, 0..100)) {
            let filter: Filter = "host 10.0.0.1 and port 1".parse().unwrap();
            let _judged = matches(&filter, &frame);
        }
    }
}
