//! Which pair of queues a frame to the guest belongs to: the one on which the guest last sent frames of the same flow
//! (virtio 1.2 §5.1.6.5.7, automatic receive steering), so that a flow stays on one of the guest's processors.

use crate::engine::packet::ETHERNET;

const BUCKETS: usize = 256;

/// Remembers a pair of queues for each of 256 classes of flows.
#[derive(Debug)]
pub(super) struct Steering {
    pairs: [u8; BUCKETS],
}

/// The class of a flow, the same in both directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Class(u8);

impl Steering {
    pub(super) fn new() -> Self {
        let mut pairs = [0; BUCKETS];
        for (bucket, pair) in (0..=u8::MAX).zip(&mut pairs) {
            *pair = bucket;
        }
        Self { pairs }
    }

    /// The guest sent a frame of this class on a pair.
    pub(super) fn learn(&mut self, class: Class, pair: usize) {
        self.pairs[usize::from(class.0)] = u8::try_from(pair).unwrap_or(0);
    }

    /// The pair for a frame to the guest, of `count` that are in use.
    pub(super) fn pair(&self, class: Class, count: usize) -> usize {
        usize::from(self.pairs[usize::from(class.0)]) % count.max(1)
    }
}

/// Looks at a frame's addresses and ports; the frame may be cut after its headers.
pub(super) fn class(frame: &[u8]) -> Class {
    let (addresses, transport, protocol) = match frame.get(12..ETHERNET) {
        Some([0x08, 0x00]) => {
            let header = usize::from(frame.get(ETHERNET).map_or(0, |first| first & 0x0f)) * 4;
            let fragment = frame
                .get(20..22)
                .is_none_or(|field| field[0] & 0x3f != 0 || field[1] != 0);
            let protocol = if fragment { 0 } else { byte(frame, 23) };
            (26..34, ETHERNET + header, protocol)
        }
        Some([0x86, 0xdd]) => (22..54, ETHERNET + 40, byte(frame, 20)),
        _ => (0..12, 0, 0),
    };
    let mut mixed = fold(frame.get(addresses).unwrap_or_default());
    if matches!(protocol, 6 | 17) {
        let ports = frame.get(transport..transport + 4).unwrap_or_default();
        mixed ^= fold(ports).rotate_left(3);
    }
    Class(mixed)
}

fn byte(frame: &[u8], at: usize) -> u8 {
    frame.get(at).copied().unwrap_or(0)
}

/// Two halves that change places give the same.
fn fold(bytes: &[u8]) -> u8 {
    let (left, right) = bytes.split_at(bytes.len() / 2);
    left.iter().zip(right).fold(0, |mixed: u8, (a, b)| {
        mixed.rotate_left(1) ^ a.wrapping_add(*b)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(source: [u8; 4], destination: [u8; 4], ports: [u8; 4]) -> Vec<u8> {
        let mut frame = vec![0; 54];
        frame[12..14].copy_from_slice(&[8, 0]);
        frame[14] = 0x45;
        frame[23] = 6;
        frame[26..30].copy_from_slice(&source);
        frame[30..34].copy_from_slice(&destination);
        frame[34..38].copy_from_slice(&ports);
        frame
    }

    #[test]
    fn answers_come_back_on_the_queue_that_asked() {
        let (guest, far) = ([10, 0, 0, 2], [192, 0, 2, 1]);
        let out = frame(guest, far, [0x80, 1, 0, 80]);
        let back = frame(far, guest, [0, 80, 0x80, 1]);
        assert_eq!(class(&out), class(&back));
        assert_ne!(class(&out), class(&frame(guest, far, [0x80, 2, 0, 80])));
        let mut steering = Steering::new();
        steering.learn(class(&out), 3);
        assert_eq!(steering.pair(class(&back), 4), 3);
        assert_eq!(
            steering.pair(class(&back), 2),
            1,
            "a guest that uses fewer now"
        );
    }

    #[test]
    fn any_bytes_have_a_class() {
        for length in 0..60 {
            for fill in [0, 0xff] {
                let mut frame = vec![fill; length];
                for kind in [[8, 0], [0x86, 0xdd]] {
                    if length >= 14 {
                        frame[12..14].copy_from_slice(&kind);
                    }
                    class(&frame);
                }
            }
        }
    }
}
