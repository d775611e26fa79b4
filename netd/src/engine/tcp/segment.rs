//! A TCP segment: read from a guest, and the header of one for a guest (RFC 9293 §3.1, RFC 7323 §2).
//! Of the options MSS, window scale and SACK (RFC 2018) are spoken. Timestamps are not: round trips are
//! measured without them, and 12 bytes a segment would buy only protection against a sequence space that wraps
//! within a segment's life, which a cable of our own does not have.

use smoltcp::wire::TcpPacket;

use super::seq::Seq;
use crate::engine::checksum::Sum;
use crate::engine::packet::{PROTOCOL_TCP, Path};

/// Blocks of a SACK option: as many as one header of ours has room for.
const SACK_BLOCKS: usize = 4;

/// What arrived beyond a hole, as a SACK option tells it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SackBlocks {
    list: [(Seq, Seq); SACK_BLOCKS],
    count: usize,
}

impl SackBlocks {
    /// The blocks.
    pub fn as_slice(&self) -> &[(Seq, Seq)] {
        self.list.get(..self.count).unwrap_or_default()
    }
}

impl FromIterator<(Seq, Seq)> for SackBlocks {
    fn from_iter<I: IntoIterator<Item = (Seq, Seq)>>(blocks: I) -> Self {
        let mut all = Self::default();
        for (slot, block) in all.list.iter_mut().zip(blocks) {
            *slot = block;
            all.count += 1;
        }
        all
    }
}

/// A segment as the guest sent it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Segment {
    /// Position of the first byte (or of SYN).
    pub seq: Seq,
    /// Acknowledged up to here, if the ACK bit is set.
    pub ack: Option<Seq>,
    /// Window field, not scaled.
    pub window: u16,
    /// SYN bit.
    pub syn: bool,
    /// FIN bit.
    pub fin: bool,
    /// RST bit.
    pub rst: bool,
    /// Maximum segment size option (SYN only).
    pub mss: Option<u16>,
    /// Window scale option (SYN only).
    pub window_scale: Option<u8>,
    /// SACK-permitted option (SYN only).
    pub sack_permitted: bool,
    /// SACK option.
    pub sack: SackBlocks,
    /// Payload bytes; they themselves stay with the caller.
    pub payload: usize,
}

impl Segment {
    /// Reads a segment whose lengths were checked (`TcpPacket::new_checked`).
    pub fn parse(packet: &TcpPacket<&[u8]>) -> Self {
        let mut segment = Self {
            seq: Seq(wire(packet.seq_number())),
            ack: packet.ack().then(|| Seq(wire(packet.ack_number()))),
            window: packet.window_len(),
            syn: packet.syn(),
            fin: packet.fin(),
            rst: packet.rst(),
            payload: packet.payload().len(),
            ..Self::default()
        };
        segment.read_options(packet.options());
        segment
    }

    /// Takes the options that are spoken here; anything malformed ends the search (those before it count).
    fn read_options(&mut self, mut options: &[u8]) {
        while let [kind, rest @ ..] = options {
            options = match (kind, rest) {
                (0, _) => break,
                (1, rest) => rest,
                (_, [length, rest @ ..]) => {
                    let Some((body, rest)) = usize::from(*length)
                        .checked_sub(2)
                        .and_then(|n| rest.split_at_checked(n))
                    else {
                        break;
                    };
                    match (kind, body) {
                        (2, &[high, low]) if self.syn => {
                            self.mss = Some(u16::from_be_bytes([high, low]));
                        }
                        // RFC 7323 §2.3: a shift over 14 is used as 14.
                        (3, &[shift]) if self.syn => self.window_scale = Some(shift.min(14)),
                        (4, []) if self.syn => self.sack_permitted = true,
                        (5, blocks) => self.sack = sack_blocks(blocks),
                        _other_option => {}
                    }
                    rest
                }
                (_, []) => break,
            };
        }
    }

    /// Sequence numbers that the segment takes up.
    pub fn length(&self) -> u32 {
        let payload = u32::try_from(self.payload).unwrap_or(u32::MAX);
        payload
            .wrapping_add(self.syn.into())
            .wrapping_add(self.fin.into())
    }
}

#[expect(clippy::cast_sign_loss, reason = "smoltcp keeps the 32 bits in an i32")]
fn wire(number: smoltcp::wire::TcpSeqNumber) -> u32 {
    number.0 as u32
}

fn sack_blocks(bytes: &[u8]) -> SackBlocks {
    let (blocks, _rest) = bytes.as_chunks::<8>();
    let number = |bytes: &[u8]| {
        let bytes = bytes.first_chunk().copied().unwrap_or_default();
        Seq(u32::from_be_bytes(bytes))
    };
    blocks
        .iter()
        .map(|block| (number(&block[..4]), number(&block[4..])))
        .collect()
}

/// A header to be sent to a guest; the payload goes beside it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outgoing {
    /// Position of the first byte.
    pub seq: Seq,
    /// Acknowledgement, if any.
    pub ack: Option<Seq>,
    /// Window field, already scaled.
    pub window: u16,
    /// SYN bit.
    pub syn: bool,
    /// FIN bit.
    pub fin: bool,
    /// RST bit.
    pub rst: bool,
    /// PSH bit.
    pub psh: bool,
    /// MSS option.
    pub mss: Option<u16>,
    /// Window scale option.
    pub window_scale: Option<u8>,
    /// SACK-permitted option.
    pub sack_permitted: bool,
    /// SACK option; only a header without payload has room for it.
    pub sack: SackBlocks,
    /// Payload bytes that go with it.
    pub length: usize,
}

/// The longest header that [`Outgoing`] makes.
pub const LONGEST_HEADER: usize = 20 + 4 + 8 * SACK_BLOCKS;

impl Outgoing {
    /// Writes the header without a checksum; returns it and its length.
    pub fn emit(&self, (source, destination): (u16, u16)) -> ([u8; LONGEST_HEADER], usize) {
        let mut header = [0; LONGEST_HEADER];
        header[..2].copy_from_slice(&source.to_be_bytes());
        header[2..4].copy_from_slice(&destination.to_be_bytes());
        header[4..8].copy_from_slice(&self.seq.0.to_be_bytes());
        header[8..12].copy_from_slice(&self.ack.unwrap_or_default().0.to_be_bytes());
        header[13] = u8::from(self.fin)
            | u8::from(self.syn) << 1
            | u8::from(self.rst) << 2
            | u8::from(self.psh) << 3
            | u8::from(self.ack.is_some()) << 4;
        header[14..16].copy_from_slice(&self.window.to_be_bytes());
        let mut length = 20;
        if let Some(mss) = self.mss {
            let [high, low] = mss.to_be_bytes();
            header[length..length + 4].copy_from_slice(&[2, 4, high, low]);
            length += 4;
        }
        if let Some(shift) = self.window_scale {
            header[length..length + 4].copy_from_slice(&[1, 3, 3, shift]);
            length += 4;
        }
        if self.sack_permitted {
            header[length..length + 4].copy_from_slice(&[1, 1, 4, 2]);
            length += 4;
        }
        let blocks = self.sack.as_slice();
        if !blocks.is_empty() {
            #[expect(clippy::cast_possible_truncation, reason = "at most four blocks")]
            let option = 2 + 8 * blocks.len() as u8;
            header[length..length + 4].copy_from_slice(&[1, 1, 5, option]);
            length += 4;
            for (from, to) in blocks {
                header[length..length + 4].copy_from_slice(&from.0.to_be_bytes());
                header[length + 4..length + 8].copy_from_slice(&to.0.to_be_bytes());
                length += 8;
            }
        }
        #[expect(clippy::cast_possible_truncation, reason = "at most 56 / 4")]
        let words = (length / 4) as u8;
        header[12] = words << 4;
        (header, length)
    }
}

/// The pseudo header's sum for a TCP segment of `length` bytes, header included.
pub fn pseudo_sum(path: &Path, length: usize) -> Sum {
    Sum::pseudo_header(
        path.addresses,
        PROTOCOL_TCP,
        u16::try_from(length).unwrap_or(u16::MAX),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn syn_options(options: &[u8]) -> (Option<u16>, Option<u8>, bool) {
        let mut segment = Segment {
            syn: true,
            ..Segment::default()
        };
        segment.read_options(options);
        (segment.mss, segment.window_scale, segment.sack_permitted)
    }

    #[test]
    fn options_are_read_and_garbage_ends_the_search() {
        assert_eq!(
            syn_options(&[2, 4, 5, 0xb4, 1, 3, 3, 7]),
            (Some(1460), Some(7), false)
        );
        assert_eq!(
            syn_options(&[4, 2, 3, 3, 200, 0, 2, 4, 1, 1]),
            (None, Some(14), true)
        );
        assert_eq!(
            syn_options(&[2, 4, 5, 0xb4, 3, 0]),
            (Some(1460), None, false)
        );
        assert_eq!(syn_options(&[2, 40, 1]), (None, None, false));
        assert_eq!(syn_options(&[2]), (None, None, false));
        let mut late = Segment::default();
        late.read_options(&[2, 4, 5, 0xb4, 5, 10, 0, 0, 0, 1, 0, 0, 0, 9, 5, 9]);
        assert_eq!(late.mss, None, "only a SYN has one");
        assert_eq!(late.sack.as_slice(), [(Seq(1), Seq(9))]);
    }

    #[test]
    fn a_sack_option_is_read_back_block_for_block() {
        let sack: SackBlocks = (1..9).map(|n| (Seq(n * 10), Seq(n * 10 + 5))).collect();
        let outgoing = Outgoing {
            ack: Some(Seq(3)),
            sack,
            ..Outgoing::default()
        };
        let (bytes, length) = outgoing.emit((80, 4000));
        assert_eq!(length, LONGEST_HEADER);
        let segment = Segment::parse(&TcpPacket::new_checked(&bytes[..length]).unwrap());
        assert_eq!(segment.sack, sack);
        assert_eq!(segment.sack.as_slice().len(), 4);
    }

    #[test]
    fn a_header_is_read_back_by_smoltcp() {
        let outgoing = Outgoing {
            seq: Seq(1),
            ack: Some(Seq(0xffff_fff0)),
            window: 777,
            syn: true,
            mss: Some(1400),
            window_scale: Some(7),
            ..Outgoing::default()
        };
        let (bytes, length) = outgoing.emit((80, 4000));
        let packet = TcpPacket::new_checked(&bytes[..length]).unwrap();
        let segment = Segment::parse(&packet);
        assert_eq!((packet.src_port(), packet.dst_port()), (80, 4000));
        assert_eq!(
            (segment.seq, segment.ack, segment.window),
            (Seq(1), Some(Seq(0xffff_fff0)), 777)
        );
        assert_eq!((segment.mss, segment.window_scale), (Some(1400), Some(7)));
        assert!(segment.syn && !segment.fin && !segment.rst);
    }
}
