//! Headers that we write: Ethernet II, IPv4 (RFC 791), IPv6 (RFC 8200), TCP (RFC 9293), UDP (RFC 768).
//! Reading is smoltcp's; writing is here because our headers go out beside their payload, not in front of it.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::ops::Deref;

use control::mac::MacAddress;

use crate::engine::checksum::{Sum, checksum};
use crate::engine::ends::Addresses;

/// Bytes of an Ethernet header.
pub const ETHERNET: usize = 14;
/// Bytes of an IPv4 header without options.
pub const IPV4: usize = 20;
/// Bytes of an IPv6 header.
pub const IPV6: usize = 40;
/// Bytes of a fragment header (RFC 8200 §4.5).
pub const FRAGMENT: usize = 8;
/// Bytes of a UDP header.
pub const UDP: usize = 8;
/// Protocol numbers.
pub const PROTOCOL_ICMP: u8 = 1;
/// TCP.
pub const PROTOCOL_TCP: u8 = 6;
/// UDP.
pub const PROTOCOL_UDP: u8 = 17;
/// The header of an IPv6 fragment.
pub const PROTOCOL_FRAGMENT: u8 = 44;
/// ICMP of IPv6.
pub const PROTOCOL_ICMPV6: u8 = 58;
/// All ones.
pub const BROADCAST: MacAddress = MacAddress([0xff; 6]);

/// The L2 and L3 ends of a packet to a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Path {
    /// Ours.
    pub source_mac: MacAddress,
    /// The guest's.
    pub destination_mac: MacAddress,
    /// From whom the guest believes to be talking to, to the guest.
    pub addresses: Addresses,
}

impl Path {
    /// Bytes of the IP header without options.
    pub fn ip_header(&self) -> usize {
        match self.addresses {
            Addresses::V4 { .. } => IPV4,
            Addresses::V6 { .. } => IPV6,
        }
    }
}

/// An Ethernet and an IP header.
#[derive(Clone, Copy, Debug)]
pub struct IpHeader {
    bytes: [u8; ETHERNET + IPV6],
    length: usize,
}

impl Deref for IpHeader {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

/// Which part of a datagram a packet carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The same in all parts of one datagram; IPv4 keeps the lower half.
    pub identification: u32,
    /// Its place, in units of eight bytes.
    pub offset: u16,
    /// Others follow.
    pub more: bool,
}

/// Writes Ethernet and IP headers of a whole packet.
pub fn write_ip(path: &Path, protocol: u8, payload_length: usize) -> IpHeader {
    let mut header = IpHeader {
        bytes: [0; ETHERNET + IPV6],
        length: ETHERNET + path.ip_header(),
    };
    match path.addresses {
        Addresses::V4 {
            source,
            destination,
        } => {
            let fields = Ipv4Fields {
                protocol,
                payload_length,
                identification: 0,
                fragment: DONT_FRAGMENT,
            };
            let bytes = write_ipv4(path, (source, destination), &fields);
            header.bytes[..ETHERNET + IPV4].copy_from_slice(&bytes);
        }
        Addresses::V6 {
            source,
            destination,
        } => header.bytes = write_ipv6(path, (source, destination), protocol, payload_length),
    }
    header
}

/// Appends Ethernet and IP headers of a part of a datagram to `frame`.
pub fn push_piece_headers(
    frame: &mut Vec<u8>,
    path: &Path,
    protocol: u8,
    payload_length: usize,
    piece: Piece,
) {
    match path.addresses {
        Addresses::V4 {
            source,
            destination,
        } => {
            let [_, _, high, low] = piece.identification.to_be_bytes();
            let fields = Ipv4Fields {
                protocol,
                payload_length,
                identification: u16::from_be_bytes([high, low]),
                fragment: piece.offset | if piece.more { MORE_FRAGMENTS } else { 0 },
            };
            frame.extend_from_slice(&write_ipv4(path, (source, destination), &fields));
        }
        Addresses::V6 {
            source,
            destination,
        } => {
            let length = FRAGMENT + payload_length;
            let header = write_ipv6(path, (source, destination), PROTOCOL_FRAGMENT, length);
            frame.extend_from_slice(&header);
            frame.extend_from_slice(&[protocol, 0]);
            let place = piece.offset << 3 | u16::from(piece.more);
            frame.extend_from_slice(&place.to_be_bytes());
            frame.extend_from_slice(&piece.identification.to_be_bytes());
        }
    }
}

/// Fields of an IPv4 header that differ between packets.
#[derive(Clone, Copy, Debug)]
struct Ipv4Fields {
    protocol: u8,
    /// Bytes after the IPv4 header.
    payload_length: usize,
    identification: u16,
    /// Flags and fragment offset, as on the wire.
    fragment: u16,
}

const DONT_FRAGMENT: u16 = 0x4000;
const MORE_FRAGMENTS: u16 = 0x2000;
/// What hosts and routers send with; nothing of ours is forwarded further than the guest.
pub const HOP_LIMIT: u8 = 64;

/// A payload over 65,515 bytes has no valid header: the length field is clamped, and callers never get there (every
/// payload is cut to the MTU before).
fn write_ipv4(
    path: &Path,
    (source, destination): (Ipv4Addr, Ipv4Addr),
    fields: &Ipv4Fields,
) -> [u8; ETHERNET + IPV4] {
    let mut header = [0; ETHERNET + IPV4];
    header[..6].copy_from_slice(&path.destination_mac.0);
    header[6..12].copy_from_slice(&path.source_mac.0);
    header[12..14].copy_from_slice(&[8, 0]);
    let ip = &mut header[ETHERNET..];
    ip[0] = 0x45;
    let total = u16::try_from(IPV4 + fields.payload_length).unwrap_or(u16::MAX);
    ip[2..4].copy_from_slice(&total.to_be_bytes());
    ip[4..6].copy_from_slice(&fields.identification.to_be_bytes());
    ip[6..8].copy_from_slice(&fields.fragment.to_be_bytes());
    ip[8] = HOP_LIMIT;
    ip[9] = fields.protocol;
    ip[12..16].copy_from_slice(&source.octets());
    ip[16..20].copy_from_slice(&destination.octets());
    let sum = checksum(ip);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    header
}

fn write_ipv6(
    path: &Path,
    (source, destination): (Ipv6Addr, Ipv6Addr),
    next_header: u8,
    payload_length: usize,
) -> [u8; ETHERNET + IPV6] {
    let mut header = [0; ETHERNET + IPV6];
    header[..6].copy_from_slice(&path.destination_mac.0);
    header[6..12].copy_from_slice(&path.source_mac.0);
    header[12..14].copy_from_slice(&[0x86, 0xdd]);
    let ip = &mut header[ETHERNET..];
    ip[0] = 0x60;
    let length = u16::try_from(payload_length).unwrap_or(u16::MAX);
    ip[4..6].copy_from_slice(&length.to_be_bytes());
    ip[6] = next_header;
    ip[7] = HOP_LIMIT;
    ip[8..24].copy_from_slice(&source.octets());
    ip[24..40].copy_from_slice(&destination.octets());
    header
}

/// A whole UDP frame in `frame` (cleared first); the payload must fit one packet.
pub fn write_udp_frame(frame: &mut Vec<u8>, path: &Path, ports: (u16, u16), payload: &[u8]) {
    frame.clear();
    frame.extend_from_slice(&write_ip(path, PROTOCOL_UDP, UDP + payload.len()));
    frame.extend_from_slice(&udp_header(path, ports, payload));
    frame.extend_from_slice(payload);
}

/// A UDP header with its checksum.
pub fn udp_header(path: &Path, (source, destination): (u16, u16), payload: &[u8]) -> [u8; UDP] {
    let length = u16::try_from(UDP + payload.len()).unwrap_or(u16::MAX);
    let mut header = [0; UDP];
    header[..2].copy_from_slice(&source.to_be_bytes());
    header[2..4].copy_from_slice(&destination.to_be_bytes());
    header[4..6].copy_from_slice(&length.to_be_bytes());
    let mut sum = Sum::pseudo_header(path.addresses, PROTOCOL_UDP, length);
    sum.add(&header);
    sum.add(payload);
    // A sum of zero is sent as all ones: zero says "no checksum".
    let value = match sum.finish() {
        0 => 0xffff,
        value => value,
    };
    header[6..8].copy_from_slice(&value.to_be_bytes());
    header
}

#[cfg(test)]
mod tests {
    use smoltcp::wire::{Ipv4Packet, UdpPacket};

    use super::*;

    #[test]
    fn a_udp_frame_is_read_back_by_smoltcp() {
        let path = Path {
            source_mac: MacAddress([2, 0, 0, 0, 0, 1]),
            destination_mac: MacAddress([2, 0, 0, 0, 0, 2]),
            addresses: Addresses::V4 {
                source: Ipv4Addr::new(10, 0, 0, 1),
                destination: Ipv4Addr::new(10, 0, 0, 2),
            },
        };
        let mut frame = Vec::new();
        write_udp_frame(&mut frame, &path, (53, 4000), b"hello");
        let ip = Ipv4Packet::new_checked(&frame[ETHERNET..]).unwrap();
        assert!(ip.verify_checksum());
        let udp = UdpPacket::new_checked(ip.payload()).unwrap();
        assert!(udp.verify_checksum(&ip.src_addr().into(), &ip.dst_addr().into()));
        assert_eq!(
            (udp.src_port(), udp.dst_port(), udp.payload()),
            (53, 4000, &b"hello"[..])
        );
    }
}
