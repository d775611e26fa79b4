//! Headers that we write: Ethernet II, IPv4 (RFC 791), TCP (RFC 9293), UDP (RFC 768).
//! Reading is smoltcp's; writing is here because our headers go out beside their payload, not in front of it.

use std::net::Ipv4Addr;

use control::mac::MacAddress;

use crate::engine::checksum::{Sum, checksum};

/// Bytes of an Ethernet header.
pub const ETHERNET: usize = 14;
/// Bytes of an IPv4 header without options.
pub const IPV4: usize = 20;
/// Bytes of a UDP header.
pub const UDP: usize = 8;
/// Protocol numbers.
pub const PROTOCOL_ICMP: u8 = 1;
/// TCP.
pub const PROTOCOL_TCP: u8 = 6;
/// UDP.
pub const PROTOCOL_UDP: u8 = 17;
/// All ones.
pub const BROADCAST: MacAddress = MacAddress([0xff; 6]);

/// The L2 and L3 ends of a packet to a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Path {
    /// Ours.
    pub source_mac: MacAddress,
    /// The guest's.
    pub destination_mac: MacAddress,
    /// Whom the guest believes to be talking to.
    pub source: Ipv4Addr,
    /// The guest.
    pub destination: Ipv4Addr,
}

/// Fields of an IPv4 header that differ between packets.
#[derive(Clone, Copy, Debug)]
pub struct Ipv4Fields {
    /// Protocol number.
    pub protocol: u8,
    /// Bytes after the IPv4 header.
    pub payload_length: usize,
    /// Identification.
    pub identification: u16,
    /// Flags and fragment offset, as on the wire.
    pub fragment: u16,
}

/// Do not fragment.
pub const DONT_FRAGMENT: u16 = 0x4000;
/// More fragments.
pub const MORE_FRAGMENTS: u16 = 0x2000;

/// Writes Ethernet and IPv4 headers. A payload over 65,515 bytes has no valid header: the length field is clamped,
/// and callers never get there (every payload is cut to the MTU before).
pub fn write_ipv4(path: &Path, fields: &Ipv4Fields) -> [u8; ETHERNET + IPV4] {
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
    ip[8] = 64;
    ip[9] = fields.protocol;
    ip[12..16].copy_from_slice(&path.source.octets());
    ip[16..20].copy_from_slice(&path.destination.octets());
    let sum = checksum(ip);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    header
}

/// A whole UDP frame in `frame` (cleared first); the payload must fit one IPv4 packet.
pub fn write_udp_frame(frame: &mut Vec<u8>, path: &Path, ports: (u16, u16), payload: &[u8]) {
    let length = UDP + payload.len();
    let fields = Ipv4Fields {
        protocol: PROTOCOL_UDP,
        payload_length: length,
        identification: 0,
        fragment: DONT_FRAGMENT,
    };
    frame.clear();
    frame.extend_from_slice(&write_ipv4(path, &fields));
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
    let mut sum = Sum::pseudo_header(path.source, path.destination, PROTOCOL_UDP, length);
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
            source: Ipv4Addr::new(10, 0, 0, 1),
            destination: Ipv4Addr::new(10, 0, 0, 2),
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
