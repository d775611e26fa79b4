//! Checksum and segmentation work that a frame still carries (virtio 1.2 §5.1.6, `virtio_net_hdr`),
//! and doing that work in software for a port that did not negotiate it.
//! The header's fields come from a guest's kernel: every offset is checked here before use.

use crate::engine::checksum::Sum;

/// Bytes of the header in front of a frame on a tap opened with IFF_VNET_HDR.
pub const VNET_HEADER: usize = 10;

const FLAG_NEEDS_CHECKSUM: u8 = 1;
const FLAG_DATA_VALID: u8 = 2;
const GSO_TCP4: u8 = 1;
const GSO_TCP6: u8 = 4;
const GSO_UDP: u8 = 5;
const GSO_ECN: u8 = 0x80;

/// Which protocol is to be cut into segments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Segmentation {
    /// Not at all.
    #[default]
    None,
    /// TCP over IPv4.
    Tcp4,
    /// TCP over IPv6.
    Tcp6,
    /// UDP datagrams of equal size (USO), either family.
    Udp,
}

/// What is left to do on a frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offload {
    /// The L4 checksum field holds the pseudo header's sum only; the rest starts at `checksum_start`.
    pub needs_checksum: bool,
    /// Somebody vouches for the L4 checksum.
    pub valid: bool,
    /// Segmentation left to do.
    pub segmentation: Segmentation,
    /// The congestion window reduced bit goes only into the first segment.
    pub ecn: bool,
    /// Bytes of Ethernet, IP and TCP header; a hint, not trusted.
    pub header_length: u16,
    /// Payload bytes of a segment.
    pub segment_size: u16,
    /// From the start of the frame.
    pub checksum_start: u16,
    /// From `checksum_start`.
    pub checksum_offset: u16,
}

impl Offload {
    /// Reads the header; unknown segmentation kinds are refused.
    pub fn parse(header: &[u8; VNET_HEADER]) -> Option<Self> {
        let [flags, kind, rest @ ..] = header;
        let field = |at: usize| u16::from_le_bytes([rest[at], rest[at + 1]]);
        let segmentation = match kind & !GSO_ECN {
            0 => Segmentation::None,
            GSO_TCP4 => Segmentation::Tcp4,
            GSO_TCP6 => Segmentation::Tcp6,
            GSO_UDP => Segmentation::Udp,
            _unknown => return None,
        };
        Some(Self {
            needs_checksum: flags & FLAG_NEEDS_CHECKSUM != 0,
            valid: flags & FLAG_DATA_VALID != 0,
            segmentation,
            ecn: kind & GSO_ECN != 0,
            header_length: field(0),
            segment_size: field(2),
            checksum_start: field(4),
            checksum_offset: field(6),
        })
    }

    /// Writes the header.
    pub fn emit(&self) -> [u8; VNET_HEADER] {
        let mut header = [0; VNET_HEADER];
        header[0] = if self.needs_checksum {
            FLAG_NEEDS_CHECKSUM
        } else if self.valid {
            FLAG_DATA_VALID
        } else {
            0
        };
        header[1] = match self.segmentation {
            Segmentation::None => 0,
            Segmentation::Tcp4 => GSO_TCP4,
            Segmentation::Tcp6 => GSO_TCP6,
            Segmentation::Udp => GSO_UDP,
        } | if self.ecn { GSO_ECN } else { 0 };
        header[2..4].copy_from_slice(&self.header_length.to_le_bytes());
        header[4..6].copy_from_slice(&self.segment_size.to_le_bytes());
        header[6..8].copy_from_slice(&self.checksum_start.to_le_bytes());
        header[8..10].copy_from_slice(&self.checksum_offset.to_le_bytes());
        header
    }

    /// Whether the L4 checksum need not be verified by a receiver.
    pub fn trusted(&self) -> bool {
        self.needs_checksum || self.valid
    }

    /// Nothing left to do.
    pub fn is_plain(&self) -> bool {
        !self.needs_checksum && self.segmentation == Segmentation::None
    }
}

/// Does the work left on `frame` and gives each finished frame to `output`; `scratch` is reused between calls.
/// Returns false, with nothing given, if the frame and its offload fields contradict each other.
pub fn complete(
    frame: &[u8],
    offload: &Offload,
    scratch: &mut Vec<u8>,
    mut output: impl FnMut(&[u8]),
) -> bool {
    match offload.segmentation {
        Segmentation::None if !offload.needs_checksum => {
            output(frame);
            true
        }
        Segmentation::None => {
            scratch.clear();
            scratch.extend_from_slice(frame);
            if finish_checksum(
                scratch,
                offload.checksum_start.into(),
                offload.checksum_offset.into(),
            )
            .is_none()
            {
                return false;
            }
            output(scratch);
            true
        }
        Segmentation::Tcp4 | Segmentation::Tcp6 | Segmentation::Udp => {
            split(frame, offload, scratch, &mut output).is_some()
        }
    }
}

/// Does what the header left to do: the field at `start + offset` holds the pseudo header's part of the sum and
/// becomes the checksum of everything from `start` on. `None`, and nothing done, if it lies outside.
pub fn finish_checksum(frame: &mut [u8], start: usize, offset: usize) -> Option<()> {
    let mut sum = Sum::default();
    sum.add(frame.get(start..)?);
    // Zero would say "none" for UDP (RFC 768); for TCP both mean the same.
    let value = match sum.finish() {
        0 => 0xffff,
        value => value,
    };
    let field = frame.get_mut(start.checked_add(offset)?..)?.get_mut(..2)?;
    field.copy_from_slice(&value.to_be_bytes());
    Some(())
}

/// Where the headers of a frame to be cut lie.
struct Layout {
    network: usize,
    transport: usize,
    payload: usize,
    ipv4: bool,
}

fn layout(frame: &[u8], offload: &Offload) -> Option<Layout> {
    const NETWORK: usize = 14;
    let ether_type = frame.get(12..14)?;
    let ipv4 = match ether_type {
        [0x08, 0x00] => true,
        [0x86, 0xdd] => false,
        _other => return None,
    };
    // Behind IPv6 extension headers the transport starts where the checksum does.
    let transport = usize::from(offload.checksum_start);
    if ipv4 {
        let header = usize::from(frame.get(NETWORK)? & 0x0f) * 4;
        if header < 20 || transport != NETWORK + header {
            return None;
        }
    } else if transport < NETWORK + 40 {
        return None;
    }
    let header = match offload.segmentation {
        Segmentation::Udp => 8,
        Segmentation::None | Segmentation::Tcp4 | Segmentation::Tcp6 => {
            usize::from(frame.get(transport + 12)? >> 4) * 4
        }
    };
    let payload = transport + header;
    (header >= 8 && payload <= frame.len()).then_some(Layout {
        network: NETWORK,
        transport,
        payload,
        ipv4,
    })
}

fn split(
    frame: &[u8],
    offload: &Offload,
    scratch: &mut Vec<u8>,
    output: &mut impl FnMut(&[u8]),
) -> Option<()> {
    let at = layout(frame, offload)?;
    let size = usize::from(offload.segment_size);
    let payload = frame.get(at.payload..)?;
    let tcp = offload.segmentation != Segmentation::Udp;
    if size == 0
        || payload.is_empty()
        || payload.len() > 0xffff
        || (tcp && at.payload - at.transport < 20)
    {
        return None;
    }
    let count = payload.len().div_ceil(size);
    for (number, part) in payload.chunks(size).enumerate() {
        scratch.clear();
        scratch.extend_from_slice(&frame[..at.payload]);
        scratch.extend_from_slice(part);
        patch(
            scratch,
            &at,
            tcp,
            number,
            number + 1 == count,
            number * size,
        )?;
        output(scratch);
    }
    Some(())
}

/// Makes a copy of the headers right for one segment (lengths, id, sequence number, flags, checksums).
fn patch(
    segment: &mut [u8],
    at: &Layout,
    tcp: bool,
    number: usize,
    last: bool,
    offset: usize,
) -> Option<()> {
    let transport_length = u16::try_from(segment.len() - at.transport).ok()?;
    let mut sum = Sum::default();
    if at.ipv4 {
        let total = u16::try_from(segment.len() - at.network).ok()?;
        segment[at.network + 2..at.network + 4].copy_from_slice(&total.to_be_bytes());
        let id = u16::from_be_bytes([segment[at.network + 4], segment[at.network + 5]]);
        let id = id.wrapping_add(u16::try_from(number).ok()?);
        segment[at.network + 4..at.network + 6].copy_from_slice(&id.to_be_bytes());
        segment[at.network + 10..at.network + 12].fill(0);
        let header = super::checksum::checksum(&segment[at.network..at.transport]);
        segment[at.network + 10..at.network + 12].copy_from_slice(&header.to_be_bytes());
        sum.add(&segment[at.network + 12..at.network + 20]);
    } else {
        let length = u16::try_from(segment.len() - at.network - 40).ok()?;
        segment[at.network + 4..at.network + 6].copy_from_slice(&length.to_be_bytes());
        sum.add(&segment[at.network + 8..at.network + 40]);
    }
    sum.add(&[0, if tcp { 6 } else { 17 }]);
    sum.add(&transport_length.to_be_bytes());
    let field = if tcp {
        let sequence = at.transport + 4;
        let bytes: [u8; 4] = segment[sequence..sequence + 4].try_into().ok()?;
        let value = u32::from_be_bytes(bytes).wrapping_add(u32::try_from(offset).ok()?);
        segment[sequence..sequence + 4].copy_from_slice(&value.to_be_bytes());
        let flags = &mut segment[at.transport + 13];
        if !last {
            *flags &= !0x09; // FIN and PSH belong to the last segment
        }
        if number > 0 {
            *flags &= !0x80; // CWR belongs to the first (RFC 3168 §6.1.2)
        }
        at.transport + 16
    } else {
        segment[at.transport + 4..at.transport + 6]
            .copy_from_slice(&transport_length.to_be_bytes());
        at.transport + 6
    };
    segment[field..field + 2].fill(0);
    sum.add(&segment[at.transport..]);
    let mut value = sum.finish();
    if !tcp && value == 0 {
        value = 0xffff; // zero says "no checksum" in UDP (RFC 768)
    }
    segment[field..field + 2].copy_from_slice(&value.to_be_bytes());
    Some(())
}

#[cfg(test)]
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "test patterns are made of low bits, and sequence numbers are bits"
)]
mod tests {
    use smoltcp::wire::{EthernetFrame, Ipv4Address, Ipv4Packet, Ipv6Packet, TcpPacket};

    use super::*;
    use crate::engine::ends::Addresses;

    #[test]
    fn an_unfinished_checksum_is_finished_and_never_zero() {
        // As the kernel leaves it: the pseudo header's sum in the field.
        let pseudo = [10, 0, 0, 2, 192, 0, 2, 1, 0, 17, 0, 11];
        let finished = |payload: [u8; 3]| {
            let mut sum = Sum::default();
            sum.add(&pseudo);
            let mut datagram = vec![0x30, 0x39, 0, 53, 0, 11];
            datagram.extend(sum.partial().to_be_bytes());
            datagram.extend(payload);
            finish_checksum(&mut datagram, 0, 6).unwrap();
            let mut whole = Sum::default();
            whole.add(&pseudo);
            whole.add(&datagram);
            assert_eq!(whole.finish(), 0);
            [datagram[6], datagram[7]]
        };
        let sum = u16::from_be_bytes(finished([0, 0, 0]));
        let [high, low] = sum.to_be_bytes();
        assert_eq!(finished([high, low, 0]), [0xff, 0xff]);
        let mut short = [0; 40];
        assert_eq!(finish_checksum(&mut short, 1_000, 6), None);
        assert_eq!(finish_checksum(&mut short, 36, 6), None);
    }

    /// An Ethernet/IPv4/TCP frame with the given payload, checksum left undone.
    fn frame(payload: usize) -> (Vec<u8>, Offload) {
        let mut bytes = vec![0; 54 + payload];
        bytes[12..14].copy_from_slice(&[8, 0]);
        let mut ip = Ipv4Packet::new_unchecked(&mut bytes[14..]);
        ip.set_version(4);
        ip.set_header_len(20);
        ip.set_total_len((40 + payload) as u16);
        ip.set_src_addr(Ipv4Address::new(10, 0, 0, 1));
        ip.set_dst_addr(Ipv4Address::new(10, 0, 0, 2));
        ip.set_next_header(smoltcp::wire::IpProtocol::Tcp);
        ip.set_hop_limit(64);
        ip.fill_checksum();
        let mut tcp = TcpPacket::new_unchecked(ip.payload_mut());
        tcp.set_header_len(20);
        tcp.set_fin(true);
        tcp.set_psh(true);
        for (n, byte) in tcp.payload_mut().iter_mut().enumerate() {
            *byte = (n * 7) as u8;
        }
        let partial = Sum::pseudo_header(
            Addresses::V4 {
                source: [10, 0, 0, 1].into(),
                destination: [10, 0, 0, 2].into(),
            },
            6,
            (20 + payload) as u16,
        )
        .partial();
        bytes[50..52].copy_from_slice(&partial.to_be_bytes());
        let offload = Offload {
            needs_checksum: true,
            checksum_start: 34,
            checksum_offset: 16,
            ..Offload::default()
        };
        (bytes, offload)
    }

    fn verify(frame: &[u8]) -> (u32, Vec<u8>, bool) {
        let ethernet = EthernetFrame::new_checked(frame).unwrap();
        let ip = Ipv4Packet::new_checked(ethernet.payload()).unwrap();
        assert!(ip.verify_checksum());
        let tcp = TcpPacket::new_checked(ip.payload()).unwrap();
        assert!(tcp.verify_checksum(&ip.src_addr().into(), &ip.dst_addr().into()));
        (tcp.seq_number().0 as u32, tcp.payload().to_vec(), tcp.fin())
    }

    #[test]
    fn a_partial_checksum_is_completed() {
        let (bytes, offload) = frame(333);
        let mut seen = 0;
        assert!(complete(&bytes, &offload, &mut Vec::new(), |done| {
            verify(done);
            seen += 1;
        }));
        assert_eq!(seen, 1);
    }

    #[test]
    fn a_large_frame_becomes_segments_that_carry_every_byte_once() {
        let (bytes, offload) = frame(10_001);
        let offload = Offload {
            segmentation: Segmentation::Tcp4,
            segment_size: 1460,
            ..offload
        };
        let mut joined = Vec::new();
        let mut fins = Vec::new();
        assert!(complete(&bytes, &offload, &mut Vec::new(), |done| {
            let (sequence, payload, fin) = verify(done);
            assert_eq!(sequence as usize, joined.len());
            joined.extend(payload);
            fins.push(fin);
        }));
        assert_eq!(joined, bytes[54..]);
        assert_eq!(fins, [false, false, false, false, false, false, true]);
    }

    #[test]
    fn a_large_ipv6_frame_becomes_segments_too() {
        let (source, destination) = ("fd00::1".parse().unwrap(), "fd00::2".parse().unwrap());
        let mut bytes = vec![0; 74 + 5_000];
        bytes[12..14].copy_from_slice(&[0x86, 0xdd]);
        let mut ip = Ipv6Packet::new_unchecked(&mut bytes[14..]);
        ip.set_version(6);
        ip.set_payload_len(5_020);
        ip.set_next_header(smoltcp::wire::IpProtocol::Tcp);
        ip.set_src_addr(source);
        ip.set_dst_addr(destination);
        let mut tcp = TcpPacket::new_unchecked(ip.payload_mut());
        tcp.set_header_len(20);
        tcp.payload_mut().fill(7);
        let offload = Offload {
            needs_checksum: true,
            checksum_start: 54,
            checksum_offset: 16,
            segmentation: Segmentation::Tcp6,
            segment_size: 1_440,
            ..Offload::default()
        };
        let mut carried = 0;
        assert!(complete(&bytes, &offload, &mut Vec::new(), |done| {
            let ip = Ipv6Packet::new_checked(&done[14..]).unwrap();
            let tcp = TcpPacket::new_checked(ip.payload()).unwrap();
            assert!(tcp.verify_checksum(&source.into(), &destination.into()));
            assert_eq!(tcp.seq_number().0, carried);
            carried += tcp.payload().len() as i32;
        }));
        assert_eq!(carried, 5_000);
    }

    #[test]
    fn lying_offload_fields_are_refused_without_a_panic() {
        let (bytes, offload) = frame(100);
        for start in [0, 13, 14, 33, 35, 60, 153, 154, 155, 0xffff] {
            for offset in [0, 16, 90, 118, 119, 120, 0xffff] {
                for segmentation in [
                    Segmentation::None,
                    Segmentation::Tcp4,
                    Segmentation::Tcp6,
                    Segmentation::Udp,
                ] {
                    for segment_size in [0, 1, 0xffff] {
                        let lie = Offload {
                            checksum_start: start,
                            checksum_offset: offset,
                            segmentation,
                            segment_size,
                            ..offload
                        };
                        for length in [0, 1, 13, 14, 33, 34, 50, bytes.len()] {
                            complete(&bytes[..length], &lie, &mut Vec::new(), |_| {});
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn the_header_survives_a_round_trip() {
        let offload = Offload {
            needs_checksum: true,
            segmentation: Segmentation::Tcp4,
            ecn: true,
            header_length: 54,
            segment_size: 1460,
            checksum_start: 34,
            checksum_offset: 16,
            valid: false,
        };
        assert_eq!(Offload::parse(&offload.emit()), Some(offload));
        assert_eq!(Offload::parse(&[0, 9, 0, 0, 0, 0, 0, 0, 0, 0]), None);
    }
}
