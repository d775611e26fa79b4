//! ICMP messages that we make (RFC 792, RFC 1812 §4.3): echo replies and "destination unreachable".

use std::net::Ipv4Addr;

use crate::engine::checksum::checksum;
use crate::engine::packet::{DONT_FRAGMENT, IPV4, Ipv4Fields, PROTOCOL_ICMP, Path, write_ipv4};

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
}

/// The packet of a guest that could not be delivered, as far as the guest needs it to find its socket.
#[derive(Clone, Copy, Debug)]
pub struct Quoted {
    /// Protocol number.
    pub protocol: u8,
    /// The guest.
    pub source: Ipv4Addr,
    /// Where it was going.
    pub destination: Ipv4Addr,
    /// First eight bytes behind the IP header (ports and, for TCP, the sequence number).
    pub start: [u8; 8],
}

/// A whole frame that tells a guest; `path` leads from the reporting address to the guest.
pub fn unreachable(frame: &mut Vec<u8>, path: &Path, reason: Unreachable, quoted: &Quoted) {
    let mut message = [0; 8 + IPV4 + 8];
    message[0] = 3;
    message[1] = reason.code();
    if let Unreachable::FragmentationNeeded(mtu) = reason {
        message[6..8].copy_from_slice(&mtu.to_be_bytes());
    }
    let quoted_path = Path {
        source: quoted.source,
        destination: quoted.destination,
        ..*path
    };
    let fields = Ipv4Fields {
        protocol: quoted.protocol,
        payload_length: 8,
        identification: 0,
        fragment: DONT_FRAGMENT,
    };
    message[8..28].copy_from_slice(&write_ipv4(&quoted_path, &fields)[14..]);
    message[28..].copy_from_slice(&quoted.start);
    let sum = checksum(&message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    emit(frame, path, &message);
}

/// Turns an echo request's ICMP bytes into the reply's.
pub fn echo_reply(frame: &mut Vec<u8>, path: &Path, request: &[u8]) {
    let start = frame_start(frame, path, request.len());
    frame.extend_from_slice(request);
    seal(&mut frame[start..], 0);
}

/// An echo reply made of a ping socket's answer: `identifier` is the guest's own.
pub fn echo_reply_from(frame: &mut Vec<u8>, path: &Path, identifier: u16, message: &[u8]) {
    let start = frame_start(frame, path, message.len());
    frame.extend_from_slice(message);
    if let Some(field) = frame.get_mut(start + 4..start + 6) {
        field.copy_from_slice(&identifier.to_be_bytes());
    }
    seal(&mut frame[start..], 0);
}

fn seal(message: &mut [u8], kind: u8) {
    if let [first, _code, high, low, ..] = message {
        *first = kind;
        (*high, *low) = (0, 0);
    }
    let sum = checksum(message);
    if let Some(field) = message.get_mut(2..4) {
        field.copy_from_slice(&sum.to_be_bytes());
    }
}

fn frame_start(frame: &mut Vec<u8>, path: &Path, length: usize) -> usize {
    frame.clear();
    let fields = Ipv4Fields {
        protocol: PROTOCOL_ICMP,
        payload_length: length,
        identification: 0,
        fragment: 0,
    };
    frame.extend_from_slice(&write_ipv4(path, &fields));
    frame.len()
}

fn emit(frame: &mut Vec<u8>, path: &Path, message: &[u8]) {
    frame_start(frame, path, message.len());
    frame.extend_from_slice(message);
}

#[cfg(test)]
mod tests {
    use control::mac::MacAddress;
    use smoltcp::phy::ChecksumCapabilities;
    use smoltcp::wire::{Icmpv4DstUnreachable, Icmpv4Packet, Icmpv4Repr, Ipv4Packet};

    use super::*;

    fn path() -> Path {
        Path {
            source_mac: MacAddress([2, 0, 0, 0, 0, 1]),
            destination_mac: MacAddress([2, 0, 0, 0, 0, 2]),
            source: Ipv4Addr::new(10, 0, 0, 1),
            destination: Ipv4Addr::new(10, 0, 0, 7),
        }
    }

    #[test]
    fn unreachable_is_read_back_by_smoltcp() {
        let quoted = Quoted {
            protocol: 17,
            source: Ipv4Addr::new(10, 0, 0, 7),
            destination: Ipv4Addr::new(192, 0, 2, 1),
            start: [1, 2, 3, 4, 0, 8, 0, 0],
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
            (quoted.source, quoted.destination)
        );
        assert_eq!(data, quoted.start);
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
}
