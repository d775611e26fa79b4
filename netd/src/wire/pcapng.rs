//! The pcapng file format as Wireshark and tcpdump read it (draft-ietf-opsawg-pcapng): one section, an
//! interface for each link, packets with nanoseconds and direction, counts at the end. Writing only.

/// Section Header Block, section 4.1.
const SECTION: u32 = 0x0a0d_0d0a;
/// Interface Description Block, section 4.2.
const INTERFACE: u32 = 1;
/// Interface Statistics Block, section 4.6.
const STATISTICS: u32 = 5;
/// Enhanced Packet Block, section 4.3.
const PACKET: u32 = 6;
/// Link type: Ethernet without checksum.
const ETHERNET: u16 = 1;

mod option {
    pub(super) const END: u16 = 0;
    pub(super) const SHB_USERAPPL: u16 = 4;
    pub(super) const IF_NAME: u16 = 2;
    pub(super) const IF_DESCRIPTION: u16 = 3;
    pub(super) const IF_TSRESOL: u16 = 9;
    pub(super) const EPB_FLAGS: u16 = 2;
    pub(super) const ISB_IFRECV: u16 = 4;
    pub(super) const ISB_IFDROP: u16 = 5;
}

/// Which way a frame went, seen from the guest's link as netd sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the guest.
    Inbound,
    /// To the guest.
    Outbound,
}

/// One captured frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// The number of its interface, in the order of the interface blocks.
    pub interface: u32,
    /// Nanoseconds since 1970.
    pub nanoseconds: u64,
    /// Which way.
    pub direction: Direction,
    /// Bytes that the frame had; `bytes` may be its beginning only.
    pub length: u32,
    /// The frame, as far as it was kept.
    pub bytes: Vec<u8>,
}

/// The start of a file.
#[must_use]
pub fn section(program: &str) -> Vec<u8> {
    let mut body = Vec::with_capacity(64);
    body.extend_from_slice(&0x1a2b_3c4d_u32.to_le_bytes());
    body.extend_from_slice(&[1, 0, 0, 0]);
    // The section's length is not known while it is written.
    body.extend_from_slice(&u64::MAX.to_le_bytes());
    push_option(&mut body, option::SHB_USERAPPL, program.as_bytes());
    push_option(&mut body, option::END, &[]);
    block(SECTION, &body)
}

/// The next interface; `snapshot` = bytes kept of each frame, 0 = all.
#[must_use]
pub fn interface(name: &str, description: &str, snapshot: u32) -> Vec<u8> {
    let mut body = Vec::with_capacity(64);
    body.extend_from_slice(&ETHERNET.to_le_bytes());
    body.extend_from_slice(&[0, 0]);
    body.extend_from_slice(&snapshot.to_le_bytes());
    push_option(&mut body, option::IF_NAME, name.as_bytes());
    push_option(&mut body, option::IF_DESCRIPTION, description.as_bytes());
    // Times count units of 10^-9 seconds.
    push_option(&mut body, option::IF_TSRESOL, &[9]);
    push_option(&mut body, option::END, &[]);
    block(INTERFACE, &body)
}

/// A frame.
#[must_use]
pub fn packet(packet: &Packet) -> Vec<u8> {
    let captured = u32::try_from(packet.bytes.len()).unwrap_or(u32::MAX);
    let mut body = Vec::with_capacity(packet.bytes.len() + 40);
    body.extend_from_slice(&packet.interface.to_le_bytes());
    push_time(&mut body, packet.nanoseconds);
    body.extend_from_slice(&captured.to_le_bytes());
    body.extend_from_slice(&packet.length.to_le_bytes());
    body.extend_from_slice(&packet.bytes);
    pad(&mut body);
    let direction: u32 = match packet.direction {
        Direction::Inbound => 1,
        Direction::Outbound => 2,
    };
    push_option(&mut body, option::EPB_FLAGS, &direction.to_le_bytes());
    push_option(&mut body, option::END, &[]);
    block(PACKET, &body)
}

/// How many frames an interface had and how many of them are missing.
#[must_use]
pub fn statistics(interface: u32, nanoseconds: u64, received: u64, dropped: u64) -> Vec<u8> {
    let mut body = Vec::with_capacity(48);
    body.extend_from_slice(&interface.to_le_bytes());
    push_time(&mut body, nanoseconds);
    push_option(&mut body, option::ISB_IFRECV, &received.to_le_bytes());
    push_option(&mut body, option::ISB_IFDROP, &dropped.to_le_bytes());
    push_option(&mut body, option::END, &[]);
    block(STATISTICS, &body)
}

/// The upper half first, whatever the byte order (section 4.3).
#[expect(clippy::cast_possible_truncation, reason = "the two halves of 64 bits")]
fn push_time(body: &mut Vec<u8>, nanoseconds: u64) {
    body.extend_from_slice(&((nanoseconds >> 32) as u32).to_le_bytes());
    body.extend_from_slice(&(nanoseconds as u32).to_le_bytes());
}

fn push_option(body: &mut Vec<u8>, code: u16, value: &[u8]) {
    let value = value.get(..usize::from(u16::MAX)).unwrap_or(value);
    let length = u16::try_from(value.len()).unwrap_or(u16::MAX);
    body.extend_from_slice(&code.to_le_bytes());
    body.extend_from_slice(&length.to_le_bytes());
    body.extend_from_slice(value);
    pad(body);
}

fn pad(body: &mut Vec<u8>) {
    body.resize(body.len().next_multiple_of(4), 0);
}

/// Type, length, body, length again.
fn block(kind: u32, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 12).unwrap_or(u32::MAX);
    let mut block = Vec::with_capacity(body.len() + 12);
    block.extend_from_slice(&kind.to_le_bytes());
    block.extend_from_slice(&length.to_le_bytes());
    block.extend_from_slice(body);
    block.extend_from_slice(&length.to_le_bytes());
    block
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_whole_words_and_say_their_length_twice() {
        let frame = |length: usize| Packet {
            interface: 1,
            nanoseconds: 0x0123_4567_89ab_cdef,
            direction: Direction::Outbound,
            length: 1_500,
            bytes: vec![7; length],
        };
        for bytes in [
            section("netd"),
            interface("dev", "guest dev", 96),
            packet(&frame(0)),
            packet(&frame(61)),
            statistics(1, 2, 3, 4),
        ] {
            let length = u32::try_from(bytes.len()).unwrap().to_le_bytes();
            assert_eq!(bytes.len() % 4, 0);
            assert_eq!(bytes[4..8], length);
            assert_eq!(bytes[bytes.len() - 4..], length);
        }
    }

    #[test]
    fn a_packet_is_laid_out_as_the_draft_says() {
        let bytes = packet(&Packet {
            interface: 2,
            nanoseconds: 0x0000_0001_0000_0002,
            direction: Direction::Inbound,
            length: 9,
            bytes: vec![0xaa; 5],
        });
        let expected = [
            6, 0, 0, 0, 52, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 5, 0, 0, 0, 9, 0, 0, 0,
            0xaa, 0xaa, 0xaa, 0xaa, 0xaa, 0, 0, 0, 2, 0, 4, 0, 1, 0, 0, 0, 0, 0, 0, 0, 52, 0, 0, 0,
        ];
        assert_eq!(bytes, expected);
    }
}
