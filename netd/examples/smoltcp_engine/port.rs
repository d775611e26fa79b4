//! The tap as a smoltcp device for one flow, and the little that is read from frames before: headers,
//! ARP, the segment size a SYN announces.
//!
//! Frames are `virtio_net_hdr` (10 bytes, virtio 1.1 §5.1.6), Ethernet, IPv4, TCP. Checksums are left
//! to the kernel (NEEDS_CSUM), and a payload above the guest's segment size is cut there (TCPV4 GSO).

use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::OwnedFd;

use smoltcp::phy::{Checksum, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::time::Instant;

/// `virtio_net_hdr` without the number of buffers.
const VIRTIO: usize = 10;
const ETHERNET: usize = 14;
/// Everything before the IP packet.
pub(crate) const HEADERS: usize = VIRTIO + ETHERNET;
/// IPv4 without options, which is what smoltcp writes.
const IPV4: usize = 20;
/// Largest IPv4 packet.
const LARGEST: usize = 65_535;
/// The segment size that fills it.
const LARGEST_SEGMENT: u16 = 65_495;

const GATEWAY_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 1];

/// The descriptor with the frame being written and the guest's address.
pub(crate) struct Tap {
    descriptor: OwnedFd,
    frame: Vec<u8>,
    guest_mac: [u8; 6],
}

impl Tap {
    pub(crate) fn new(descriptor: OwnedFd) -> Self {
        Self {
            descriptor,
            frame: vec![0; HEADERS + LARGEST],
            guest_mac: [0xff; 6],
        }
    }

    pub(crate) fn descriptor(&self) -> &OwnedFd {
        &self.descriptor
    }

    /// The IPv4 packet in a frame; ARP is answered here, everything else is not for us.
    pub(crate) fn packet_of<'f>(&mut self, frame: &'f mut [u8]) -> Option<&'f mut [u8]> {
        let (headers, packet) = frame.split_at_mut_checked(HEADERS)?;
        self.guest_mac.copy_from_slice(headers.get(16..22)?);
        match headers.get(22..24)? {
            [0x08, 0x00] => {
                let length = usize::from(word(packet, 2)?);
                packet.get_mut(..length)
            }
            [0x08, 0x06] => {
                self.answer_arp(packet);
                None
            }
            _ => None,
        }
    }

    /// RFC 826: every address that is asked for is the gateway.
    fn answer_arp(&mut self, question: &[u8]) -> Option<()> {
        let asked = question.get(24..28)?;
        let asker = question.get(8..18)?;
        if word(question, 6)? != 1 {
            return None;
        }
        let mut answer = [0; HEADERS + 28];
        answer[VIRTIO..][..6].copy_from_slice(&self.guest_mac);
        answer[VIRTIO + 6..][..6].copy_from_slice(&GATEWAY_MAC);
        answer[VIRTIO + 12..][..10].copy_from_slice(&[8, 6, 0, 1, 8, 0, 6, 4, 0, 2]);
        answer[HEADERS + 8..][..6].copy_from_slice(&GATEWAY_MAC);
        answer[HEADERS + 14..][..4].copy_from_slice(asked);
        answer[HEADERS + 18..][..10].copy_from_slice(asker);
        rustix::io::write(&self.descriptor, &answer).ok().map(drop)
    }

    /// Completes the headers around an IPv4 packet of this length and writes the frame.
    fn write(&mut self, length: usize, segment_size: u16) {
        let Some(frame) = self.frame.get_mut(..HEADERS + length) else {
            return;
        };
        let (headers, packet) = frame.split_at_mut(HEADERS);
        let Some((ip, tcp)) = packet.split_at_mut_checked(IPV4) else {
            return;
        };
        let Some(offset) = tcp.get(12) else { return };
        let tcp_header = usize::from(offset >> 4) * 4;
        let payload = tcp.len().saturating_sub(tcp_header);
        headers.fill(0);
        // flags: NEEDS_CSUM; the checksum is 16 bytes into what starts after Ethernet and IP.
        headers[0] = 1;
        headers[6..8].copy_from_slice(&34_u16.to_ne_bytes());
        headers[8..10].copy_from_slice(&16_u16.to_ne_bytes());
        if payload > usize::from(segment_size) {
            headers[1] = 1;
            let all = u16::try_from(ETHERNET + IPV4 + tcp_header).unwrap_or(u16::MAX);
            headers[2..4].copy_from_slice(&all.to_ne_bytes());
            headers[4..6].copy_from_slice(&segment_size.to_ne_bytes());
        }
        headers[VIRTIO..][..6].copy_from_slice(&self.guest_mac);
        headers[VIRTIO + 6..][..6].copy_from_slice(&GATEWAY_MAC);
        headers[VIRTIO + 12..].copy_from_slice(&[8, 0]);
        let sum = pseudo_header_sum(ip, tcp.len());
        if let Some(field) = tcp.get_mut(16..18) {
            field.copy_from_slice(&sum.to_be_bytes());
        }
        // A full queue is a lost packet, as on a wire; TCP mends it.
        rustix::io::write(&self.descriptor, frame).ok();
    }
}

/// The sum the kernel starts from: addresses, protocol, length (RFC 9293 §3.1), not inverted.
fn pseudo_header_sum(ip: &[u8], length: usize) -> u16 {
    let mut sum = 6 + u32::try_from(length).unwrap_or(0);
    for at in [12, 14, 16, 18] {
        sum += u32::from(word(ip, at).unwrap_or(0));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).unwrap_or(0)
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    let pair = bytes.get(at..at + 2)?;
    Some(u16::from_be_bytes(pair.try_into().ok()?))
}

/// What is looked at before a flow is found.
pub(crate) struct Segment {
    pub(crate) key: crate::Key,
    /// A SYN without ACK.
    pub(crate) opens: bool,
}

impl Segment {
    pub(crate) fn read(packet: &[u8]) -> Option<Self> {
        if packet.first()? >> 4 != 4 || *packet.get(9)? != 6 {
            return None;
        }
        let tcp = packet.get(header_length(packet)?..)?;
        let address = |at: usize| -> Option<Ipv4Addr> {
            let bytes: [u8; 4] = packet.get(at..at + 4)?.try_into().ok()?;
            Some(bytes.into())
        };
        Some(Self {
            key: (
                SocketAddrV4::new(address(12)?, word(tcp, 0)?),
                SocketAddrV4::new(address(16)?, word(tcp, 2)?),
            ),
            opens: tcp.get(13)? & 0x12 == 0x02,
        })
    }
}

fn header_length(packet: &[u8]) -> Option<usize> {
    Some(usize::from(packet.first()? & 0x0f) * 4)
}

/// Replaces the segment size in a SYN by the largest and gives the guest's own (RFC 9293 §3.7.1).
pub(crate) fn raise_segment_size(packet: &mut [u8]) -> u16 {
    const DEFAULT: u16 = 536;
    let find = |packet: &[u8]| -> Option<usize> {
        let tcp = header_length(packet)?;
        let end = tcp + usize::from(packet.get(tcp + 12)? >> 4) * 4;
        let mut at = tcp + 20;
        while at < end {
            match *packet.get(at)? {
                0 => return None,
                1 => at += 1,
                2 => return Some(at + 2),
                _ => at += usize::from(*packet.get(at + 1)?).max(2),
            }
        }
        None
    };
    let Some(at) = find(packet) else {
        return DEFAULT;
    };
    let own = word(packet, at).unwrap_or(DEFAULT);
    if let Some(field) = packet.get_mut(at..at + 2) {
        field.copy_from_slice(&LARGEST_SEGMENT.to_be_bytes());
    }
    own.max(DEFAULT)
}

/// The tap as one flow sees it: perhaps one packet to take, and frames to write.
pub(crate) struct Port<'a> {
    pub(crate) tap: &'a mut Tap,
    pub(crate) packet: Option<&'a [u8]>,
    pub(crate) segment_size: u16,
}

impl Device for Port<'_> {
    type RxToken<'a>
        = Received<'a>
    where
        Self: 'a;
    type TxToken<'a>
        = Sending<'a>
    where
        Self: 'a;

    fn receive(&mut self, _now: Instant) -> Option<(Received<'_>, Sending<'_>)> {
        let packet = self.packet.take()?;
        let sending = Sending {
            tap: self.tap,
            segment_size: self.segment_size,
        };
        Some((Received(packet), sending))
    }

    fn transmit(&mut self, _now: Instant) -> Option<Sending<'_>> {
        Some(Sending {
            tap: self.tap,
            segment_size: self.segment_size,
        })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        capabilities()
    }
}

/// Whole frames, whatever the guest's MTU; the kernel does checksums and cuts.
pub(crate) fn capabilities() -> DeviceCapabilities {
    let mut capabilities = DeviceCapabilities::default();
    capabilities.medium = Medium::Ip;
    capabilities.max_transmission_unit = LARGEST;
    capabilities.checksum.ipv4 = Checksum::Tx;
    capabilities.checksum.tcp = Checksum::None;
    capabilities
}

pub(crate) struct Received<'a>(&'a [u8]);

impl RxToken for Received<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(self.0)
    }
}

pub(crate) struct Sending<'a> {
    tap: &'a mut Tap,
    segment_size: u16,
}

impl TxToken for Sending<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, f: F) -> R {
        let result = f(&mut self.tap.frame[HEADERS..HEADERS + length]);
        self.tap.write(length, self.segment_size);
        result
    }
}
