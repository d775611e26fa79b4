//! What arrived beyond a hole: a few disjoint pieces of the sequence space in order. The receiving half keeps
//! its early bytes in one, the sending half what the guest said it has (RFC 2018).

use super::seq::Seq;

/// Holes known at once. What would need more is forgotten and comes again.
const CAPACITY: usize = 8;

/// From the first number up to, not including, the second.
pub(super) type Range = (Seq, Seq);

/// The pieces; no two of them touch.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ranges {
    list: [Range; CAPACITY],
    count: usize,
}

impl Ranges {
    /// The pieces, the lowest first.
    pub(super) fn as_slice(&self) -> &[Range] {
        self.list.get(..self.count).unwrap_or_default()
    }

    /// None.
    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The end of the last piece.
    pub(super) fn end(&self) -> Option<Seq> {
        self.as_slice().last().map(|piece| piece.1)
    }

    /// Numbers in all pieces together.
    pub(super) fn covered(&self) -> u32 {
        let lengths = self.as_slice().iter().map(|(from, to)| to.since(*from));
        lengths.fold(0, u32::saturating_add)
    }

    /// The first part of `from..to` that is in no piece.
    pub(super) fn uncovered(&self, mut from: Seq, to: Seq) -> Option<Range> {
        for &(start, end) in self.as_slice() {
            if from.before(start) {
                return from
                    .before(to)
                    .then(|| (from, if start.before(to) { start } else { to }));
            }
            from = from.later(end);
        }
        from.before(to).then_some((from, to))
    }

    /// Adds `from..to`; false if it touches no piece and there is room for no more.
    pub(super) fn insert(&mut self, from: Seq, to: Seq) -> bool {
        if !from.before(to) {
            return true;
        }
        let mut merged = (from, to);
        let mut kept = [Range::default(); CAPACITY];
        let (mut count, mut placed) = (0, false);
        for &piece in self.as_slice() {
            if piece.1.before(merged.0) {
                // Lies before, with a hole between.
            } else if merged.1.before(piece.0) {
                if !placed {
                    let Some(slot) = kept.get_mut(count) else {
                        return false;
                    };
                    *slot = merged;
                    count += 1;
                    placed = true;
                }
            } else {
                let start = if piece.0.before(merged.0) {
                    piece.0
                } else {
                    merged.0
                };
                merged = (start, merged.1.later(piece.1));
                continue;
            }
            let Some(slot) = kept.get_mut(count) else {
                return false;
            };
            *slot = piece;
            count += 1;
        }
        if !placed {
            let Some(slot) = kept.get_mut(count) else {
                return false;
            };
            *slot = merged;
            count += 1;
        }
        (self.list, self.count) = (kept, count);
        true
    }

    /// Forgets everything before `edge`.
    pub(super) fn forget_before(&mut self, edge: Seq) {
        let mut kept = Self::default();
        for &(from, to) in self.as_slice() {
            if edge.before(to)
                && let Some(slot) = kept.list.get_mut(kept.count)
            {
                *slot = (from.later(edge), to);
                kept.count += 1;
            }
        }
        *self = kept;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_piece_too_many_is_refused_and_one_that_joins_two_is_not() {
        let mut ranges = Ranges::default();
        for index in 0..8 {
            assert!(ranges.insert(Seq(index * 10), Seq(index * 10 + 5)));
        }
        assert!(!ranges.insert(Seq(100), Seq(105)));
        assert!(!ranges.insert(Seq(7), Seq(8)), "a hole's middle");
        assert!(ranges.insert(Seq(5), Seq(10)));
        assert!(ranges.insert(Seq(100), Seq(105)));
        assert_eq!(ranges.as_slice()[0], (Seq(0), Seq(15)));
    }

    proptest! {
        /// Against a set of bits, around the place where the numbers wrap.
        #[test]
        fn pieces_are_what_a_set_of_bits_says(
            origin in prop_oneof![Just(0_u32), Just(u32::MAX - 100), any::<u32>()],
            steps in prop::collection::vec((0_u32..200, 1_u32..40, any::<bool>()), 1..40),
        ) {
            let at = |offset: u32| Seq(origin).plus(offset);
            let mut ranges = Ranges::default();
            let mut bits = [false; 256];
            for (from, length, forget) in steps {
                let to = from + length;
                if forget {
                    ranges.forget_before(at(from));
                    bits[..from as usize].fill(false);
                } else if ranges.insert(at(from), at(to)) {
                    bits[from as usize..to as usize].fill(true);
                }
                let mut shown = [false; 256];
                for (start, end) in ranges.as_slice() {
                    shown[start.since(Seq(origin)) as usize..end.since(Seq(origin)) as usize].fill(true);
                }
                prop_assert_eq!(shown, bits);
                prop_assert_eq!(ranges.covered() as usize, bits.iter().filter(|bit| **bit).count());
                let apart = ranges.as_slice().windows(2).all(|pair| pair[0].1.before(pair[1].0));
                prop_assert!(apart, "{:?}", ranges);
                let hole = (from as usize..to as usize).find(|bit| !bits[*bit]);
                prop_assert_eq!(
                    ranges.uncovered(at(from), at(to)).map(|hole| hole.0),
                    hole.map(|bit| at(u32::try_from(bit).unwrap()))
                );
            }
        }
    }
}
