//! ICMP messages that we make (RFC 792, RFC 1812 §4.3, RFC 4443): echo replies and "destination unreachable".

use std::net::{Ipv4Addr, SocketAddr};

use crate::engine::checksum::Sum;
use crate::engine::ends::Addresses;
use crate::engine::packet::{ETHERNET, IPV4, IPV6, PROTOCOL_ICMP, PROTOCOL_ICMPV6, Path, write_ip};

/// What every link carries in one piece (RFC 8200 §5).
pub const SMALLEST_MTU_V6: u16 = 1_280;

/// Why a destination cannot be reached; the numbers of the code field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unreachable {
    /// No route to the network.
    Network,
    /// The host does not answer or has no route.
    Host,
    /// Nobody listens (UDP).
    Port,
    /// Too long for a link further on, which takes this many bytes.
    FragmentationNeeded(u16),
    /// Forbidden by policy.
    Prohibited,
}

impl Unreachable {
    fn code(self) -> u8 {
        match self {
            Self::Network => 0,
            Self::Host => 1,
            Self::Port => 3,
            Self::FragmentationNeeded(_) => 4,
            Self::Prohibited => 13,
        }
    }

    /// RFC 4443 §3.1 and §3.2.
    fn kind_and_code_v6(self) -> (u8, u8) {
        match self {
            Self::Network => (1, 0),
            Self::Prohibited => (1, 1),
            Self::Host => (1, 3),
            Self::Port => (1, 4),
            Self::FragmentationNeeded(_) => (2, 0),
        }
    }
}

/// The packet of a guest that could not be delivered, as far as the guest needs it to find its socket.
#[derive(Clone, Copy, Debug)]
pub struct Quoted<'a> {
    /// Protocol number.
    pub protocol: u8,
    /// From the guest to where it was going.
    pub addresses: Addresses,
    /// First eight bytes behind the IP header (ports and, for TCP, the sequence number).
    pub start: [u8; 8],
    /// What followed, as far as it is known.
    pub payload: &'a [u8],
}

/// How much of the guest's packet goes into an error (RFC 4443 §2.4 (c), RFC 1812 §4.3.2.3).
fn longest_quote(addresses: Addresses) -> usize {
    match addresses {
        Addresses::V4 { .. } => 576 - IPV4 - 8,
        Addresses::V6 { .. } => usize::from(SMALLEST_MTU_V6) - IPV6 - 8,
    }
}

/// A whole frame that tells a guest; `path` leads from the reporting address to the guest.
pub fn unreachable(frame: &mut Vec<u8>, path: &Path, reason: Unreachable, quoted: &Quoted<'_>) {
    let room = longest_quote(path.addresses) - path.ip_header() - quoted.start.len();
    let payload = quoted.payload.get(..room).unwrap_or(quoted.payload);
    let mut message = Vec::with_capacity(8 + IPV6 + quoted.start.len() + payload.len());
    match path.addresses {
        Addresses::V4 { .. } => {
            message.extend_from_slice(&[3, reason.code(), 0, 0, 0, 0, 0, 0]);
            if let Unreachable::FragmentationNeeded(mtu) = reason {
                message[6..8].copy_from_slice(&mtu.to_be_bytes());
            }
        }
        Addresses::V6 { .. } => {
            let (kind, code) = reason.kind_and_code_v6();
            message.extend_from_slice(&[kind, code, 0, 0, 0, 0, 0, 0]);
            if let Unreachable::FragmentationNeeded(mtu) = reason {
                // RFC 8201 §4: no link is narrower, and a host that is told less need not believe it.
                message[6..8].copy_from_slice(&mtu.max(SMALLEST_MTU_V6).to_be_bytes());
            }
        }
    }
    let quoted_path = Path {
        addresses: quoted.addresses,
        ..*path
    };
    let length = quoted.start.len() + quoted.payload.len();
    let header = write_ip(&quoted_path, quoted.protocol, length);
    message.extend_from_slice(&header[ETHERNET..]);
    message.extend_from_slice(&quoted.start);
    message.extend_from_slice(payload);
    emit(frame, path, &message);
}

/// A whole frame that tells a guest (type, code), field of what was wrong with its packet: as much of it as an error
/// may carry.
pub fn error(
    frame: &mut Vec<u8>,
    path: &Path,
    ((kind, code), field): ((u8, u8), u32),
    packet: &[u8],
) {
    let mut message = vec![kind, code, 0, 0];
    message.extend_from_slice(&field.to_be_bytes());
    message.extend_from_slice(
        packet
            .get(..longest_quote(path.addresses))
            .unwrap_or(packet),
    );
    emit(frame, path, &message);
}

/// Turns an echo request's ICMP bytes into the reply's.
pub fn echo_reply(frame: &mut Vec<u8>, path: &Path, request: &[u8]) {
    let start = emit(frame, path, request);
    if let Some(kind) = frame.get_mut(start) {
        *kind = echo_reply_kind(path.addresses);
    }
    seal(&mut frame[start..], path);
}

/// An echo reply made of a ping socket's answer: `identifier` is the guest's own.
pub fn echo_reply_from(frame: &mut Vec<u8>, path: &Path, identifier: u16, message: &[u8]) {
    let start = emit(frame, path, message);
    if let Some(field) = frame.get_mut(start + 4..start + 6) {
        field.copy_from_slice(&identifier.to_be_bytes());
    }
    seal(&mut frame[start..], path);
}

/// The type of an echo reply in a family.
pub fn echo_reply_kind(addresses: Addresses) -> u8 {
    match addresses {
        Addresses::V4 { .. } => 0,
        Addresses::V6 { .. } => 129,
    }
}

/// The type of an echo request in a family.
pub fn echo_request_kind(addresses: Addresses) -> u8 {
    match addresses {
        Addresses::V4 { .. } => 8,
        Addresses::V6 { .. } => 128,
    }
}

/// The number of ICMP in a family.
pub fn protocol(addresses: Addresses) -> u8 {
    match addresses {
        Addresses::V4 { .. } => PROTOCOL_ICMP,
        Addresses::V6 { .. } => PROTOCOL_ICMPV6,
    }
}

/// A whole frame of neighbour discovery: with the hop limit that proves its sender to be on the cable.
pub fn emit_on_link(frame: &mut Vec<u8>, path: &Path, message: &[u8]) {
    const HOP_LIMIT: usize = ETHERNET + 7;
    emit(frame, path, message);
    if let Some(field) = frame.get_mut(HOP_LIMIT) {
        *field = crate::engine::ndp::HOP_LIMIT;
    }
}

/// A whole frame with an ICMP message; gives the place of the message.
pub fn emit(frame: &mut Vec<u8>, path: &Path, message: &[u8]) -> usize {
    frame.clear();
    frame.extend_from_slice(&write_ip(path, protocol(path.addresses), message.len()));
    let start = frame.len();
    frame.extend_from_slice(message);
    seal(&mut frame[start..], path);
    start
}

fn seal(message: &mut [u8], path: &Path) {
    if let Some(field) = message.get_mut(2..4) {
        field.fill(0);
    }
    let mut sum = match path.addresses {
        Addresses::V4 { .. } => Sum::default(),
        Addresses::V6 { .. } => {
            let length = u16::try_from(message.len()).unwrap_or(u16::MAX);
            Sum::pseudo_header(path.addresses, PROTOCOL_ICMPV6, length)
        }
    };
    sum.add(message);
    let sum = sum.finish();
    if let Some(field) = message.get_mut(2..4) {
        field.copy_from_slice(&sum.to_be_bytes());
    }
}

/// Protocol, sender and receiver of the packet that an ICMP error quotes, with the first four bytes of its payload as
/// ports (RFC 792).
pub fn quoted_v4(quoted: &[u8]) -> Option<(u8, SocketAddr, SocketAddr)> {
    let length = usize::from(quoted.first()? & 0x0f) * 4;
    let header = quoted.first_chunk::<20>()?;
    let ports = quoted.get(length..)?.first_chunk::<4>()?;
    if quoted.first()? >> 4 != 4 || length < header.len() {
        return None;
    }
    let address = |at: usize| Some(Ipv4Addr::from(*header.get(at..)?.first_chunk::<4>()?));
    let [a, b, c, d] = *ports;
    let from = SocketAddr::from((address(12)?, u16::from_be_bytes([a, b])));
    let to = SocketAddr::from((address(16)?, u16::from_be_bytes([c, d])));
    Some((header[9], from, to))
}

#[cfg(test)]
mod tests {
    use control::mac::MacAddress;
    use smoltcp::phy::ChecksumCapabilities;
    use smoltcp::wire::{
        Icmpv4DstUnreachable, Icmpv4Packet, Icmpv4Repr, Icmpv6Packet, Ipv4Packet, Ipv6Packet,
    };

    use super::*;

    fn path() -> Path {
        Path {
            source_mac: MacAddress([2, 0, 0, 0, 0, 1]),
            destination_mac: MacAddress([2, 0, 0, 0, 0, 2]),
            addresses: Addresses::V4 {
                source: Ipv4Addr::new(10, 0, 0, 1),
                destination: Ipv4Addr::new(10, 0, 0, 7),
            },
        }
    }

    #[test]
    fn unreachable_is_read_back_by_smoltcp() {
        let quoted = Quoted {
            protocol: 17,
            addresses: Addresses::V4 {
                source: Ipv4Addr::new(10, 0, 0, 7),
                destination: Ipv4Addr::new(192, 0, 2, 1),
            },
            start: [1, 2, 3, 4, 0, 13, 0, 0],
            payload: b"hello",
        };
        let mut frame = Vec::new();
        unreachable(&mut frame, &path(), Unreachable::Port, &quoted);
        let ip = Ipv4Packet::new_checked(&frame[14..]).unwrap();
        let icmp = Icmpv4Packet::new_checked(ip.payload()).unwrap();
        let Icmpv4Repr::DstUnreachable {
            reason,
            header,
            data,
        } = Icmpv4Repr::parse(&icmp, &ChecksumCapabilities::default()).unwrap()
        else {
            panic!("wrong kind")
        };
        assert_eq!(reason, Icmpv4DstUnreachable::PortUnreachable);
        assert_eq!(
            (header.src_addr, header.dst_addr),
            (Ipv4Addr::new(10, 0, 0, 7), Ipv4Addr::new(192, 0, 2, 1))
        );
        assert_eq!(data, [&quoted.start[..], quoted.payload].concat());
    }

    #[test]
    fn an_echo_reply_keeps_the_bytes() {
        let request = [8, 0, 0xaa, 0xbb, 0x12, 0x34, 0, 1, b'x', b'y', b'z'];
        let mut frame = Vec::new();
        echo_reply(&mut frame, &path(), &request);
        let ip = Ipv4Packet::new_checked(&frame[14..]).unwrap();
        let icmp = Icmpv4Packet::new_checked(ip.payload()).unwrap();
        assert!(icmp.verify_checksum());
        assert_eq!(
            (icmp.echo_ident(), icmp.echo_seq_no(), icmp.data()),
            (0x1234, 1, &b"xyz"[..])
        );
    }

    #[test]
    fn an_ipv6_error_quotes_what_fits_and_is_read_back_by_smoltcp() {
        let (guest, far) = ("fd00::7".parse().unwrap(), "2001:db8::1".parse().unwrap());
        let quoted = Quoted {
            protocol: 17,
            addresses: Addresses::V6 {
                source: guest,
                destination: far,
            },
            start: [1, 2, 3, 4, 0, 8, 0, 0],
            payload: &[7; 3_000],
        };
        let path = Path {
            addresses: quoted.addresses.reversed(),
            ..path()
        };
        for (reason, kind) in [
            (Unreachable::Network, (1, 0, 0)),
            (Unreachable::Prohibited, (1, 1, 0)),
            (Unreachable::Host, (1, 3, 0)),
            (Unreachable::Port, (1, 4, 0)),
            (Unreachable::FragmentationNeeded(1_400), (2, 0, 1_400)),
            (Unreachable::FragmentationNeeded(576), (2, 0, 1_280)),
        ] {
            let mut frame = Vec::new();
            unreachable(&mut frame, &path, reason, &quoted);
            assert_eq!(frame.len(), ETHERNET + usize::from(SMALLEST_MTU_V6));
            let ip = Ipv6Packet::new_checked(&frame[14..]).unwrap();
            let icmp = Icmpv6Packet::new_checked(ip.payload()).unwrap();
            assert!(icmp.verify_checksum(&far, &guest));
            let field = u32::from_be_bytes(*ip.payload()[4..].first_chunk().unwrap());
            assert_eq!((u8::from(icmp.msg_type()), icmp.msg_code(), field), kind);
            let inner = Ipv6Packet::new_unchecked(&ip.payload()[8..]);
            assert_eq!((inner.src_addr(), inner.dst_addr()), (guest, far));
            assert_eq!(inner.payload_len(), 3_008);
        }
    }
}
