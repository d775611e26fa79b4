//! IPv4 fragments (RFC 791 §3.2, RFC 1858, RFC 5722's rule applied to IPv4): a guest's large datagrams put
//! together, ours for a guest cut apart. Overlapping fragments are an attack or a fault: the datagram is dropped.

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
    /// Protocol number.
    pub protocol: u8,
    /// Identification field.
    pub identification: u32,
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
}

/// What became of a fragment.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// More are needed.
    Waiting,
    /// The whole payload.
    Complete(Vec<u8>),
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
        if end > 65_515 || (more && !aligned) {
            self.forget(datagram);
            return Outcome::Dropped;
        }
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
            });
        }
        let Some(at) = self.find(datagram) else {
            return Outcome::Dropped;
        };
        let partial = &mut self.partial[at];
        let before = partial.bytes.len();
        let accepted = partial.add(offset, end, more, payload);
        self.held += partial.bytes.len() - before;
        if !accepted || self.held > CAPACITY_BYTES {
            self.forget(datagram);
            return Outcome::Dropped;
        }
        if partial
            .total
            .is_some_and(|total| partial.have == [(0, total)])
        {
            return match self.forget(datagram) {
                Some(done) => Outcome::Complete(done.bytes),
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
            .position(|partial| partial.datagram == datagram)
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
            return false;
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
                    assert_eq!(outcome, Outcome::Complete(payload.clone()));
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
