//! What a guest has open: files and directories, each under a number of its own.
//!
//! Bounded by the tree's descriptors, of which each holds one. Numbers are a slot and a generation, as
//! with nodes.

use std::sync::{Arc, PoisonError, RwLock};

/// Open things of one kind.
#[derive(Debug)]
pub(crate) struct Handles<H> {
    table: RwLock<Table<H>>,
}

#[derive(Debug)]
struct Table<H> {
    slots: Vec<(u32, Option<Arc<H>>)>,
    free: Vec<usize>,
}

impl<H> Default for Handles<H> {
    fn default() -> Self {
        Self {
            table: RwLock::new(Table {
                slots: Vec::new(),
                free: Vec::new(),
            }),
        }
    }
}

impl<H> Handles<H> {
    /// A number for it.
    pub(crate) fn add(&self, handle: H) -> u64 {
        let handle = Some(Arc::new(handle));
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        let index = if let Some(index) = table.free.pop() {
            table.slots[index].1 = handle;
            index
        } else {
            table.slots.push((0, handle));
            table.slots.len() - 1
        };
        u64::from(table.slots[index].0) << 32 | index as u64
    }

    pub(crate) fn find(&self, number: u64) -> Option<Arc<H>> {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        match table.slots.get(slot_of(number)) {
            Some((generation, Some(handle))) if *generation == generation_of(number) => {
                Some(Arc::clone(handle))
            }
            Some(_) | None => None,
        }
    }

    /// Takes it out; whoever still works with it keeps it until done.
    pub(crate) fn remove(&self, number: u64) -> Option<Arc<H>> {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        let index = slot_of(number);
        let (generation, handle) = table.slots.get_mut(index)?;
        if *generation != generation_of(number) {
            return None;
        }
        let taken = handle.take()?;
        *generation = generation.wrapping_add(1);
        table.free.push(index);
        Some(taken)
    }

    /// How many are open.
    pub(crate) fn count(&self) -> usize {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        table.slots.len() - table.free.len()
    }
}

fn slot_of(number: u64) -> usize {
    usize::try_from(number & 0xffff_ffff).unwrap_or(usize::MAX)
}

fn generation_of(number: u64) -> u32 {
    u32::try_from(number >> 32).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_good_until_removed_and_never_again() {
        let handles = Handles::default();
        let (a, b) = (handles.add('a'), handles.add('b'));
        assert_eq!(handles.find(a).as_deref(), Some(&'a'));
        assert_eq!(handles.remove(a).as_deref(), Some(&'a'));
        assert_eq!((handles.remove(a), handles.find(a)), (None, None));
        let c = handles.add('c');
        assert_ne!(a, c);
        assert_eq!(handles.find(a), None);
        assert_eq!(handles.find(b).as_deref(), Some(&'b'));
        assert_eq!(handles.count(), 2);
        assert_eq!(handles.find(u64::MAX), None);
    }
}
