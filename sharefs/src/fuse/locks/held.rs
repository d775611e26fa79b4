//! What one owner has locked of a file: on the host, and as ranges, since the host's kernel does not say whose a lock
//! is that stands in the way.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::sys::{LockKind, LockRange};
use crate::tree::{Identity, Result, Tree};

/// Ranges that are known of all owners of a session: some 4 MiB. An owner who locks more is no longer watched.
pub(super) const MOST_RANGES: usize = 64 * 1024;

/// The holder of one owner's locks on a file; dropping it unlocks.
pub(crate) struct Held<T: Tree> {
    pub(super) file: Identity,
    pub(super) owner: u64,
    locks: T::Locks,
    /// Held over a call, so that what is known is in the order of what was done.
    order: Mutex<()>,
    ranges: Mutex<Ranges>,
    /// How many are known of all owners.
    known: Arc<AtomicUsize>,
}

impl<T: Tree> Held<T> {
    pub(super) fn new(
        (file, owner): (Identity, u64),
        locks: T::Locks,
        known: Arc<AtomicUsize>,
    ) -> Self {
        Self {
            file,
            owner,
            locks,
            order: Mutex::default(),
            ranges: Mutex::default(),
            known,
        }
    }

    /// What the tree made.
    pub(crate) fn locks(&self) -> &T::Locks {
        &self.locks
    }

    /// Locks or unlocks; Errno::AGAIN when another owner is in the way.
    pub(crate) fn lock(&self, tree: &T, range: LockRange) -> Result<()> {
        let _order = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        tree.lock(&self.locks, range)?;
        let mut ranges = self.ranges();
        let before = ranges.count();
        ranges.set(range);
        let others = self.known.fetch_sub(before, Ordering::Relaxed) - before;
        if others + ranges.count() > MOST_RANGES {
            ranges.lose();
        }
        self.known.fetch_add(ranges.count(), Ordering::Relaxed);
        Ok(())
    }

    /// Whether a lock like that must wait for this owner. What is being locked right now is not known yet: its
    /// owner waits for nobody then, and looks for a circle itself before it does.
    pub(super) fn is_in_the_way(&self, wanted: LockRange) -> bool {
        self.ranges().meets(wanted)
    }

    /// Never held over a call: whoever waits is tried again and again by one, and is to be seen meanwhile.
    fn ranges(&self) -> MutexGuard<'_, Ranges> {
        self.ranges.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Tree> Drop for Held<T> {
    fn drop(&mut self) {
        let ranges = self
            .ranges
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        self.known.fetch_sub(ranges.count(), Ordering::Relaxed);
    }
}

/// Locked bytes that do not overlap: the first byte leads to the last one, and to the kind.
#[derive(Debug, Default)]
struct Ranges {
    of: BTreeMap<i64, (i64, LockKind)>,
    lost: bool,
}

impl Ranges {
    fn count(&self) -> usize {
        self.of.len()
    }

    /// Nothing is known any more, and nothing will be.
    fn lose(&mut self) {
        self.of.clear();
        self.lost = true;
    }

    /// A new lock takes the place of what this owner had there.
    fn set(&mut self, range: LockRange) {
        if self.lost {
            return;
        }
        let (start, end) = (range.start, last(range));
        for (old_start, (old_end, kind)) in self.overlapping(start, end) {
            self.of.remove(&old_start);
            if old_start < start {
                self.of.insert(old_start, (start - 1, kind));
            }
            if old_end > end {
                self.of.insert(end + 1, (old_end, kind));
            }
        }
        if range.kind != LockKind::Unlock {
            self.of.insert(start, (end, range.kind));
        }
    }

    fn overlapping(&self, start: i64, end: i64) -> Vec<(i64, (i64, LockKind))> {
        let before = self.of.range(..start).next_back();
        let before = before.filter(|(_, (old_end, _))| *old_end >= start);
        let from = self.of.range(start..=end);
        let all = before.into_iter().chain(from);
        all.map(|(start, rest)| (*start, *rest)).collect()
    }

    fn meets(&self, wanted: LockRange) -> bool {
        let (start, end) = (wanted.start, last(wanted));
        let before = self.of.range(..start).next_back();
        let before = before.filter(|(_, (old_end, _))| *old_end >= start);
        let mut all = before.into_iter().chain(self.of.range(start..=end));
        let excludes = |kind| wanted.kind == LockKind::Exclusive || kind == LockKind::Exclusive;
        all.any(|(_, (_, kind))| excludes(*kind))
    }
}

/// The last byte; length 0 is to the end of any file.
fn last(range: LockRange) -> i64 {
    match range.length {
        0 => i64::MAX,
        length => range.start.saturating_add(length - 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(kind: LockKind, start: i64, end: i64) -> LockRange {
        let length = if end == i64::MAX { 0 } else { end - start + 1 };
        LockRange {
            kind,
            start,
            length,
        }
    }

    /// Against a table of single bytes, in all orders of a few random locks.
    #[test]
    fn ranges_say_of_each_byte_what_was_said_last() {
        const BYTES: i64 = 12;
        const WITH_THE_REST: usize = 13;
        let kinds = [LockKind::Shared, LockKind::Exclusive, LockKind::Unlock];
        let mut seed = 7_u64;
        let mut any = |below: i64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            i64::try_from(seed >> 33).unwrap() % below
        };
        for _ in 0..2000 {
            let mut ranges = Ranges::default();
            let mut bytes = [LockKind::Unlock; WITH_THE_REST];
            for _ in 0..8 {
                let start = any(BYTES);
                let end = if any(5) == 0 {
                    i64::MAX
                } else {
                    start + any(BYTES - start)
                };
                let kind = kinds[usize::try_from(any(3)).unwrap()];
                ranges.set(range(kind, start, end));
                let to = end.min(BYTES);
                bytes[usize::try_from(start).unwrap()..=usize::try_from(to).unwrap()].fill(kind);
            }
            for (at, kind) in (0..).zip(bytes) {
                let shared = ranges.meets(range(LockKind::Shared, at, at));
                let exclusive = ranges.meets(range(LockKind::Exclusive, at, at));
                let expected = (kind == LockKind::Exclusive, kind != LockKind::Unlock);
                assert_eq!((shared, exclusive), expected, "byte {at} of {ranges:?}");
            }
            assert!(ranges.count() <= bytes.len());
        }
    }

    #[test]
    fn the_last_byte_of_all_can_be_locked_and_unlocked() {
        let mut ranges = Ranges::default();
        ranges.set(range(LockKind::Exclusive, 0, i64::MAX));
        ranges.set(range(LockKind::Unlock, i64::MAX - 1, i64::MAX - 1));
        assert_eq!(ranges.count(), 2);
        assert!(ranges.meets(range(LockKind::Shared, i64::MAX, i64::MAX)));
        ranges.set(range(LockKind::Unlock, 0, i64::MAX));
        assert_eq!(ranges.count(), 0);
    }
}
