//! A bounded table whose entries end when they were not used for a while: UDP and echo mappings.
//! Entries form a list in order of use, so that the oldest is known at once, for time and for eviction; each is
//! somebody's, so that a full table takes from who has most.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

use super::holders::Holders;

const NONE: u32 = u32::MAX;

#[derive(Debug)]
struct Slot<O, K, V> {
    owner: O,
    key: K,
    value: V,
    used: Instant,
    older: u32,
    newer: u32,
}

/// The table; slots are numbered so that an event can name one.
#[derive(Debug)]
pub struct Recent<O, K, V> {
    slots: Vec<Option<Slot<O, K, V>>>,
    owners: Holders<O>,
    free: Vec<u32>,
    index: HashMap<K, u32>,
    oldest: u32,
    newest: u32,
}

impl<O, K, V> Default for Recent<O, K, V> {
    fn default() -> Self {
        Self {
            slots: Vec::new(),
            owners: Holders::default(),
            free: Vec::new(),
            index: HashMap::new(),
            oldest: NONE,
            newest: NONE,
        }
    }
}

impl<O: Copy + Ord, K: Copy + Eq + Hash, V> Recent<O, K, V> {
    /// Entries there are.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// No entry.
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    fn slot(&self, at: u32) -> Option<&Slot<O, K, V>> {
        self.slots.get(at as usize)?.as_ref()
    }

    fn slot_mut(&mut self, at: u32) -> Option<&mut Slot<O, K, V>> {
        self.slots.get_mut(at as usize)?.as_mut()
    }

    /// The slot of a key.
    pub fn find(&self, key: &K) -> Option<u32> {
        self.index.get(key).copied()
    }

    /// The entry in a slot.
    pub fn at(&self, slot: u32) -> Option<(&K, &V)> {
        self.slot(slot).map(|entry| (&entry.key, &entry.value))
    }

    /// The entry in a slot, to be changed.
    pub fn at_mut(&mut self, slot: u32) -> Option<(&K, &mut V)> {
        self.slot_mut(slot)
            .map(|entry| (&entry.key, &mut entry.value))
    }

    /// An entry was used.
    pub fn touch(&mut self, at: u32, now: Instant) {
        if let Some(entry) = self.slot_mut(at) {
            entry.used = now;
            if self.newest != at {
                self.unlink(at);
                self.link_newest(at);
            }
        }
    }

    /// An entry is another's from now on.
    pub fn set_owner(&mut self, at: u32, owner: O) {
        if let Some(entry) = self.slot_mut(at) {
            let old = std::mem::replace(&mut entry.owner, owner);
            self.owners.remove(old);
            self.owners.add(owner);
        }
    }

    /// A new entry; its key must not be there yet (the old one would be lost, so it is removed first).
    pub fn insert(&mut self, owner: O, key: K, value: V, now: Instant) -> u32 {
        if let Some(at) = self.find(&key) {
            self.remove(at);
        }
        self.owners.add(owner);
        let slot = Slot {
            owner,
            key,
            value,
            used: now,
            older: NONE,
            newer: NONE,
        };
        let at = match self.free.pop() {
            Some(at) => at,
            None => {
                self.slots.push(None);
                u32::try_from(self.slots.len() - 1).unwrap_or(NONE)
            }
        };
        if let Some(place) = self.slots.get_mut(at as usize) {
            *place = Some(slot);
        }
        self.index.insert(key, at);
        self.link_newest(at);
        at
    }

    /// Takes an entry out.
    pub fn remove(&mut self, at: u32) -> Option<(K, V)> {
        self.slot(at)?;
        self.unlink(at);
        let slot = self.slots.get_mut(at as usize)?.take()?;
        self.index.remove(&slot.key);
        self.owners.remove(slot.owner);
        self.free.push(at);
        Some((slot.key, slot.value))
    }

    /// The slot used longest ago, and when.
    pub fn oldest(&self) -> Option<(u32, Instant)> {
        self.slot(self.oldest)
            .map(|entry| (self.oldest, entry.used))
    }

    /// Whose turn it is to give way: of who has most entries, the slot used longest ago. Those of others that
    /// are older are passed over, so this costs most when others hold many that they do not use.
    pub fn oldest_of_largest(&self) -> Option<u32> {
        let largest = self.owners.largest()?;
        let mut at = self.oldest;
        loop {
            let entry = self.slot(at)?;
            if entry.owner == largest {
                return Some(at);
            }
            at = entry.newer;
        }
    }

    /// When the oldest entry ends if entries live `idle` long.
    pub fn deadline(&self, idle: Duration) -> Option<Instant> {
        self.oldest().map(|(_, used)| used + idle)
    }

    /// Entries with their slot, oldest use first, and the time of use.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &K, &V, Instant)> {
        let mut at = self.oldest;
        std::iter::from_fn(move || {
            let entry = self.slot(at)?;
            let here = at;
            at = entry.newer;
            Some((here, &entry.key, &entry.value, entry.used))
        })
    }

    fn unlink(&mut self, at: u32) {
        let Some((older, newer)) = self.slot(at).map(|entry| (entry.older, entry.newer)) else {
            return;
        };
        match self.slot_mut(older) {
            Some(entry) => entry.newer = newer,
            None => self.oldest = newer,
        }
        match self.slot_mut(newer) {
            Some(entry) => entry.older = older,
            None => self.newest = older,
        }
    }

    fn link_newest(&mut self, at: u32) {
        let last = self.newest;
        if let Some(entry) = self.slot_mut(at) {
            entry.older = last;
            entry.newer = NONE;
        }
        match self.slot_mut(last) {
            Some(entry) => entry.newer = at,
            None => self.oldest = at,
        }
        self.newest = at;
    }
}

#[cfg(test)]
#[expect(
    clippy::disallowed_methods,
    reason = "any instant serves as the origin of a virtual clock"
)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_use_comes_first_whatever_the_order_of_insertion() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut table = Recent::default();
        let a = table.insert((), 'a', 1, at(0));
        let b = table.insert((), 'b', 2, at(1));
        let c = table.insert((), 'c', 3, at(2));
        table.touch(a, at(3));
        let order =
            |table: &Recent<(), char, i32>| table.iter().map(|entry| *entry.1).collect::<String>();
        assert_eq!(order(&table), "bca");
        assert_eq!(table.deadline(Duration::from_secs(10)), Some(at(11)));
        assert_eq!(table.remove(c), Some(('c', 3)));
        assert_eq!(table.remove(c), None);
        assert_eq!(order(&table), "ba");
        let d = table.insert((), 'd', 4, at(5));
        assert_eq!(d, c, "slots are used again");
        table.touch(b, at(6));
        assert_eq!(order(&table), "adb");
        for slot in [a, b, d] {
            table.remove(slot);
        }
        assert!(table.is_empty() && table.oldest().is_none());
    }
    #[test]
    fn a_full_table_takes_from_who_has_most() {
        let now = Instant::now();
        let mut table = Recent::default();
        let modest = table.insert("modest", 0, (), now);
        let greedy: Vec<u32> = (1..4)
            .map(|key| table.insert("greedy", key, (), now))
            .collect();
        assert_eq!(table.oldest_of_largest(), Some(greedy[0]));
        table.touch(greedy[0], now);
        assert_eq!(table.oldest_of_largest(), Some(greedy[1]));
        table.set_owner(greedy[1], "modest");
        table.set_owner(greedy[2], "modest");
        assert_eq!(table.oldest_of_largest(), Some(modest));
        for slot in [modest, greedy[1], greedy[2]] {
            table.remove(slot);
        }
        assert_eq!(table.oldest_of_largest(), Some(greedy[0]));
        table.remove(greedy[0]);
        assert_eq!(table.oldest_of_largest(), None);
    }
}
