//! The Internet checksum (RFC 1071), eight bytes a step: on a link without offload it is
//! computed over every payload byte, so its speed is the link's speed.

use crate::engine::ends::Addresses;

/// A running ones' complement sum over an even number of bytes so far, or the tail of an odd run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum {
    total: u64,
    /// The bytes so far end inside a 16-bit word.
    odd: bool,
}

impl Sum {
    /// The pseudo header of TCP, UDP and ICMPv6 (RFC 9293 §3.1, RFC 8200 §8.1: both sum to the same).
    pub fn pseudo_header(addresses: Addresses, protocol: u8, length: u16) -> Self {
        let mut sum = Self::default();
        match addresses {
            Addresses::V4 {
                source,
                destination,
            } => {
                sum.add(&source.octets());
                sum.add(&destination.octets());
            }
            Addresses::V6 {
                source,
                destination,
            } => {
                sum.add(&source.octets());
                sum.add(&destination.octets());
            }
        }
        sum.add(&[0, protocol]);
        sum.add(&length.to_be_bytes());
        sum
    }

    /// Adds bytes that follow those added before.
    pub fn add(&mut self, bytes: &[u8]) {
        let part = sum_words(bytes);
        self.total += u64::from(if self.odd { part.swap_bytes() } else { part });
        self.odd ^= bytes.len() % 2 == 1;
    }

    /// Folded to 16 bits, not inverted: what goes into a checksum field that someone else completes.
    pub fn partial(self) -> u16 {
        fold(self.total)
    }

    /// The checksum field: inverted.
    pub fn finish(self) -> u16 {
        !fold(self.total)
    }
}

/// The checksum of one run of bytes.
pub fn checksum(bytes: &[u8]) -> u16 {
    !sum_words(bytes)
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "folded to 16 bits by the loop"
)]
fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// Sum of the big-endian words, folded; an odd last byte counts as the high half of a word.
fn sum_words(bytes: &[u8]) -> u16 {
    // Native-endian 32-bit words in four independent lanes: the sum is byte-order independent up to a swap
    // (RFC 1071 §2 (B)), and the compiler turns the lanes into vector instructions.
    let mut lanes = [0_u64; 8];
    let mut blocks = bytes.chunks_exact(32);
    for block in &mut blocks {
        for (lane, word) in lanes.iter_mut().zip(block.as_chunks::<4>().0) {
            *lane += u64::from(u32::from_ne_bytes(*word));
        }
    }
    let mut total: u64 = 0;
    for lane in lanes {
        // Each lane holds at most 2^32 * (64 KiB / 32): no overflow here.
        total += lane;
    }
    let (pairs, last) = blocks.remainder().as_chunks::<2>();
    for pair in pairs {
        total += u64::from(u16::from_ne_bytes(*pair));
    }
    if let [byte] = last {
        total += u64::from(u16::from_ne_bytes([*byte, 0]));
    }
    u16::from_be(fold(total))
}

#[cfg(test)]
#[expect(
    clippy::cast_possible_truncation,
    reason = "test patterns are made of low bits"
)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_smoltcp_at_every_length_and_split() {
        let bytes: Vec<u8> = (0..300_u32)
            .map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8)
            .collect();
        for length in 0..bytes.len() {
            let whole = &bytes[..length];
            assert_eq!(
                !checksum(whole),
                smoltcp::wire::checksum::data(whole),
                "length {length}"
            );
            for split in [0, length / 3, length / 2, length] {
                let mut sum = Sum::default();
                sum.add(&whole[..split]);
                sum.add(&whole[split..]);
                assert_eq!(
                    sum.partial(),
                    smoltcp::wire::checksum::data(whole),
                    "length {length} split {split}"
                );
            }
        }
    }

    #[test]
    fn carries_do_not_get_lost_on_a_full_frame_of_ones() {
        let ones = vec![0xff; 65_535];
        assert_eq!(!checksum(&ones), smoltcp::wire::checksum::data(&ones));
    }
}
