//! Who holds how many entries of a bounded table: when it is full, the one with most gives way, so that a
//! guest that takes all it can get takes it from itself. Pure.

use std::collections::BTreeMap;

/// Counts by holder; those without an entry are not remembered.
#[derive(Debug)]
pub struct Holders<O>(BTreeMap<O, usize>);

impl<O> Default for Holders<O> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<O: Copy + Ord> Holders<O> {
    /// One more is this one's.
    pub fn add(&mut self, holder: O) {
        *self.0.entry(holder).or_default() += 1;
    }

    /// One is not this one's any more.
    pub fn remove(&mut self, holder: O) {
        if let Some(count) = self.0.get_mut(&holder) {
            *count -= 1;
            if *count == 0 {
                self.0.remove(&holder);
            }
        }
    }

    /// Who has most; of equals the first. There are as many holders as guests, so they are looked through.
    pub fn largest(&self) -> Option<O> {
        let mut largest: Option<(O, usize)> = None;
        for (holder, count) in &self.0 {
            if largest.is_none_or(|(_, most)| *count > most) {
                largest = Some((*holder, *count));
            }
        }
        largest.map(|(holder, _)| holder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_is_who_has_most_now() {
        let mut holders = Holders::default();
        assert_eq!(holders.largest(), None);
        for holder in ['b', 'a', 'b', 'a', 'a'] {
            holders.add(holder);
        }
        assert_eq!(holders.largest(), Some('a'));
        holders.remove('a');
        assert_eq!(holders.largest(), Some('a'), "of equals the first");
        holders.remove('a');
        assert_eq!(holders.largest(), Some('b'));
        for holder in ['a', 'b', 'b', 'x'] {
            holders.remove(holder);
        }
        assert_eq!(holders.largest(), None);
    }
}
