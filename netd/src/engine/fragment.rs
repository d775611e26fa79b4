//! Fragments (RFC 791 §3.2, RFC 1858, RFC 8200 §4.5): a guest's large datagrams put together, ours for a guest cut
//! apart. Overlapping fragments are an attack or a fault: the datagram is dropped with all that is still to come of
//! it (RFC 5722, here for IPv4 too); only an exact repetition is harmless.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::engine::ends::Addresses;

/// Datagrams being put together at a time.
const CAPACITY: usize = 64;
/// Bytes held for them.
const CAPACITY_BYTES: usize = 2 << 20;
/// RFC 1122 §3.3.2 says 60 to 120 s for the Internet; these come over a cable of our own.
const TIME: Duration = Duration::from_secs(5);

/// What the fragments of one datagram share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// Sender and receiver.
    pub addresses: Addresses,
    /// Protocol number; in IPv6 the first piece's word counts and the others' tell nothing.
    pub protocol: u8,
    /// Identification field.
    pub identification: u32,
}

impl Datagram {
    fn is_same(&self, other: &Self) -> bool {
        let either = matches!(self.addresses, Addresses::V6 { .. });
        self.identification == other.identification
            && self.addresses == other.addresses
            && (either || self.protocol == other.protocol)
    }

    /// What a length field leaves for the payload.
    fn longest(&self) -> usize {
        match self.addresses {
            Addresses::V4 { .. } => 65_515,
            Addresses::V6 { .. } => 65_535,
        }
    }
}

#[derive(Debug)]
struct Partial {
    datagram: Datagram,
    until: Instant,
    bytes: Vec<u8>,
    /// Ranges received, sorted, not touching.
    have: Vec<(usize, usize)>,
    /// Known once the last fragment is here.
    total: Option<usize>,
    /// Something of it was wrong: whatever else comes is dropped too.
    spoilt: bool,
}

/// What became of a fragment.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// More are needed.
    Waiting,
    /// The whole payload.
    Complete {
        /// What it begins with.
        protocol: u8,
        /// The bytes.
        payload: Vec<u8>,
    },
    /// Dropped, with what belonged to it.
    Dropped,
}

/// Datagrams being put together.
#[derive(Debug, Default)]
pub struct Reassembly {
    partial: VecDeque<Partial>,
    held: usize,
}

impl Reassembly {
    /// A fragment at byte `offset`; `more` = not the last.
    pub fn receive(
        &mut self,
        datagram: Datagram,
        offset: usize,
        more: bool,
        payload: &[u8],
        now: Instant,
    ) -> Outcome {
        self.expire(now);
        let end = offset + payload.len();
        let aligned = payload.len().is_multiple_of(8) && !payload.is_empty();
        let fits = end <= datagram.longest() && (aligned || !more);
        if self.find(datagram).is_none() {
            while self.partial.len() >= CAPACITY || self.held + end > CAPACITY_BYTES {
                let Some(oldest) = self.partial.pop_front() else {
                    return Outcome::Dropped;
                };
                self.held -= oldest.bytes.len();
            }
            self.partial.push_back(Partial {
                datagram,
                until: now + TIME,
                bytes: Vec::new(),
                have: Vec::new(),
                total: None,
                spoilt: false,
            });
        }
        let Some(at) = self.find(datagram) else {
            return Outcome::Dropped;
        };
        let partial = &mut self.partial[at];
        let before = partial.bytes.len();
        let accepted = !partial.spoilt && fits && partial.add(offset, end, more, payload);
        self.held += partial.bytes.len() - before;
        if !accepted || self.held > CAPACITY_BYTES {
            self.held -= partial.bytes.len();
            partial.bytes = Vec::new();
            partial.spoilt = true;
            return Outcome::Dropped;
        }
        if offset == 0 {
            partial.datagram.protocol = datagram.protocol;
        }
        if partial
            .total
            .is_some_and(|total| partial.have == [(0, total)])
        {
            return match self.forget(datagram) {
                Some(done) => Outcome::Complete {
                    protocol: done.datagram.protocol,
                    payload: done.bytes,
                },
                None => Outcome::Dropped,
            };
        }
        Outcome::Waiting
    }

    /// Drops what took too long; returns how many datagrams.
    pub fn expire(&mut self, now: Instant) -> usize {
        let before = self.partial.len();
        while let Some(oldest) = self.partial.front()
            && oldest.until <= now
        {
            self.held -= oldest.bytes.len();
            self.partial.pop_front();
        }
        before - self.partial.len()
    }

    /// When [`Reassembly::expire`] has work.
    pub fn deadline(&self) -> Option<Instant> {
        self.partial.front().map(|partial| partial.until)
    }

    fn find(&self, datagram: Datagram) -> Option<usize> {
        self.partial
            .iter()
            .position(|partial| partial.datagram.is_same(&datagram))
    }

    fn forget(&mut self, datagram: Datagram) -> Option<Partial> {
        let partial = self.partial.remove(self.find(datagram)?)?;
        self.held -= partial.bytes.len();
        Some(partial)
    }
}

impl Partial {
    fn add(&mut self, start: usize, end: usize, more: bool, payload: &[u8]) -> bool {
        if self
            .total
            .is_some_and(|total| end > total || (!more && end != total))
        {
            return false;
        }
        if self.have.iter().any(|&(from, to)| start < to && from < end) {
            let whole = self
                .have
                .iter()
                .any(|&(from, to)| from <= start && end <= to);
            return whole
                && (more || self.total == Some(end))
                && self.bytes[start..end] == *payload;
        }
        if !more {
            if self.have.iter().any(|&(_, to)| to > end) {
                return false;
            }
            self.total = Some(end);
        }
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        self.bytes[start..end].copy_from_slice(payload);
        self.have.push((start, end));
        self.have.sort_unstable();
        self.have.dedup_by(|next, previous| {
            let joined = previous.1 == next.0;
            if joined {
                previous.1 = next.1;
            }
            joined
        });
        true
    }
}

/// Cuts `length` payload bytes for packets with room for `room` of them: each piece as (offset, end, more follow).
pub fn pieces(length: usize, room: usize) -> impl Iterator<Item = (usize, usize, bool)> {
    let step = (room & !7).max(8);
    (0..length.max(1)).step_by(step).map(move |offset| {
        let end = (offset + step).min(length);
        (offset, end, end < length)
    })
}

#[cfg(test)]
#[expect(
    clippy::cast_possible_truncation,
    reason = "test patterns are made of low bits"
)]
#[expect(
    clippy::disallowed_methods,
    reason = "any instant serves as the origin of a virtual clock"
)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn datagram(identification: u32) -> Datagram {
        Datagram {
            addresses: Addresses::V4 {
                source: Ipv4Addr::new(10, 0, 0, 7),
                destination: Ipv4Addr::new(192, 0, 2, 1),
            },
            protocol: 17,
            identification,
        }
    }

    #[test]
    fn pieces_in_any_order_make_the_datagram() {
        let now = Instant::now();
        let payload: Vec<u8> = (0..9_000_u32).map(|n| n as u8).collect();
        let cuts: Vec<_> = pieces(payload.len(), 1480).collect();
        assert_eq!(cuts.len(), 7);
        for rotate in 0..cuts.len() {
            let mut order = cuts.clone();
            order.rotate_left(rotate);
            order.swap(0, 3);
            let mut reassembly = Reassembly::default();
            for (n, (start, end, more)) in order.iter().copied().enumerate() {
                let outcome =
                    reassembly.receive(datagram(1), start, more, &payload[start..end], now);
                if n + 1 == order.len() {
                    let whole = Outcome::Complete {
                        protocol: 17,
                        payload: payload.clone(),
                    };
                    assert_eq!(outcome, whole);
                } else {
                    assert_eq!(outcome, Outcome::Waiting);
                }
            }
            assert_eq!((reassembly.held, reassembly.deadline()), (0, None));
        }
    }

    #[test]
    fn overlap_excess_and_misalignment_drop_the_datagram() {
        let now = Instant::now();
        let mut reassembly = Reassembly::default();
        assert_eq!(
            reassembly.receive(datagram(1), 0, true, &[0; 16], now),
            Outcome::Waiting
        );
        assert_eq!(
            reassembly.receive(datagram(1), 8, true, &[0; 16], now),
            Outcome::Dropped
        );
        assert_eq!(
            reassembly.receive(datagram(2), 65_512, true, &[0; 8], now),
            Outcome::Dropped
        );
        assert_eq!(
            reassembly.receive(datagram(3), 0, true, &[0; 7], now),
            Outcome::Dropped
        );
        assert_eq!(
            reassembly.receive(datagram(4), 64, true, &[0; 8], now),
            Outcome::Waiting
        );
        assert_eq!(
            reassembly.receive(datagram(4), 8, false, &[0; 8], now),
            Outcome::Dropped
        );
        assert_eq!(reassembly.held, 0);
        // What is missing of the first comes too late.
        assert_eq!(
            reassembly.receive(datagram(1), 16, false, &[0; 16], now),
            Outcome::Dropped
        );
    }

    #[test]
    fn pieces_of_ipv6_agree_on_the_first_ones_header_and_may_be_repeated() {
        let now = Instant::now();
        let mut reassembly = Reassembly::default();
        let of = |protocol| Datagram {
            addresses: Addresses::V6 {
                source: "fd00::7".parse().unwrap(),
                destination: "2001:db8::1".parse().unwrap(),
            },
            protocol,
            identification: 0x0001_0002,
        };
        for _repeated in 0..2 {
            assert_eq!(
                reassembly.receive(of(99), 8, false, b"world", now),
                Outcome::Waiting
            );
        }
        let other = Datagram {
            identification: 2,
            ..of(17)
        };
        assert_eq!(
            reassembly.receive(other, 0, true, &[0; 8], now),
            Outcome::Waiting
        );
        let whole = Outcome::Complete {
            protocol: 60,
            payload: b"hello...world".to_vec(),
        };
        assert_eq!(reassembly.receive(of(60), 0, true, b"hello...", now), whole);
    }

    proptest::proptest! {
        /// Whatever the order, the repetitions and the strangers between them: a datagram comes out once and whole,
        /// and with a piece that says otherwise about a byte it does not come out at all.
        #[test]
        fn pieces_make_the_datagram_or_nothing(
            length in 1_usize..4_000,
            room in 8_usize..1_000,
            order in proptest::collection::vec(proptest::prelude::any::<proptest::sample::Index>(), 0..80),
            liar in proptest::option::of(0_usize..4_000),
        ) {
            let now = Instant::now();
            let payload: Vec<u8> = (0..length as u32).map(|n| (n * 7) as u8).collect();
            let mut cuts: Vec<_> = pieces(length, room).collect();
            for (from, to) in order.iter().enumerate() {
                let (from, to) = (from % cuts.len(), to.index(cuts.len()));
                cuts.swap(from, to);
            }
            let mut reassembly = Reassembly::default();
            let mut whole = Vec::new();
            if let Some(at) = liar.filter(|at| *at < length) {
                let start = at & !7;
                let lie = [payload[start] ^ 1; 8];
                reassembly.receive(datagram(1), start, true, &lie, now);
            }
            for (start, end, more) in cuts.iter().copied().chain(cuts.iter().copied().take(cuts.len() - 1)) {
                let outcome = reassembly.receive(datagram(1), start, more, &payload[start..end], now);
                if let Outcome::Complete { payload, .. } = outcome {
                    whole.push(payload);
                }
            }
            if liar.is_some_and(|at| at < length) {
                proptest::prop_assert!(whole.is_empty());
            } else {
                proptest::prop_assert_eq!(whole, vec![payload]);
            }
        }
    }

    #[test]
    fn a_guest_that_never_ends_a_datagram_holds_a_bounded_amount_for_a_bounded_time() {
        let now = Instant::now();
        let mut reassembly = Reassembly::default();
        for n in 0..10_000 {
            reassembly.receive(datagram(n), 60_000, true, &[0; 1_000], now);
            assert!(reassembly.held <= CAPACITY_BYTES && reassembly.partial.len() <= CAPACITY);
        }
        assert!(reassembly.expire(now + TIME) > 0);
        assert_eq!((reassembly.held, reassembly.partial.len()), (0, 0));
    }
}
