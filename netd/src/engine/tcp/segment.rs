//! A TCP segment: read from a guest, and the header of one for a guest (RFC 9293 §3.1, RFC 7323 §2).
//! Of the options only MSS and window scale are spoken: the way to the guest is a cable of our own,
//! where timestamps and SACK cost more than they bring.

use smoltcp::wire::TcpPacket;

use super::seq::Seq;
use crate::engine::checksum::Sum;
use crate::engine::packet::{PROTOCOL_TCP, Path};

/// A segment as the guest sent it.
#[derive(Clone, Copy, Debug)]
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
    /// Payload bytes; they themselves stay with the caller.
    pub payload: usize,
}

impl Segment {
    /// Reads a segment whose lengths were checked (`TcpPacket::new_checked`).
    pub fn parse(packet: &TcpPacket<&[u8]>) -> Self {
        let syn = packet.syn();
        let (mss, window_scale) = if syn {
            syn_options(packet.options())
        } else {
            (None, None)
        };
        Self {
            seq: Seq(wire(packet.seq_number())),
            ack: packet.ack().then(|| Seq(wire(packet.ack_number()))),
            window: packet.window_len(),
            syn,
            fin: packet.fin(),
            rst: packet.rst(),
            mss,
            window_scale,
            payload: packet.payload().len(),
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

/// MSS and window scale; anything malformed ends the search (the options before it count).
fn syn_options(mut options: &[u8]) -> (Option<u16>, Option<u8>) {
    let (mut mss, mut scale) = (None, None);
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
                    (2, &[high, low]) => mss = Some(u16::from_be_bytes([high, low])),
                    // RFC 7323 §2.3: a shift over 14 is used as 14.
                    (3, &[shift]) => scale = Some(shift.min(14)),
                    _other_option => {}
                }
                rest
            }
            (_, []) => break,
        };
    }
    (mss, scale)
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
    /// Payload bytes that go with it.
    pub length: usize,
}

/// The longest header that [`Outgoing`] makes.
pub const LONGEST_HEADER: usize = 28;

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
        #[expect(clippy::cast_possible_truncation, reason = "at most 28 / 4")]
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

    #[test]
    fn syn_options_are_read_and_garbage_ends_the_search() {
        assert_eq!(
            syn_options(&[2, 4, 5, 0xb4, 1, 3, 3, 7]),
            (Some(1460), Some(7))
        );
        assert_eq!(
            syn_options(&[4, 2, 3, 3, 200, 0, 2, 4, 1, 1]),
            (None, Some(14))
        );
        assert_eq!(syn_options(&[2, 4, 5, 0xb4, 3, 0]), (Some(1460), None));
        assert_eq!(syn_options(&[2, 40, 1]), (None, None));
        assert_eq!(syn_options(&[2]), (None, None));
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
