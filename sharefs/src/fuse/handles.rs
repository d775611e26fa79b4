//! What a guest has open: files and directories, each under a number of its own.
//!
//! Bounded by the tree's descriptors, of which each holds one. Numbers are a slot and a generation, as
//! with nodes.

use std::os::fd::RawFd;
use std::sync::{Arc, PoisonError, RwLock};

use crate::keep::records::{HandleRows, KeptHandle};

/// Open things of one kind.
#[derive(Debug)]
pub(crate) struct Handles<H> {
    /// Where the table is written down too, for a later process.
    rows: Option<HandleRows>,
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
            rows: None,
            table: RwLock::new(Table {
                slots: Vec::new(),
                free: Vec::new(),
            }),
        }
    }
}

impl<H> Handles<H> {
    /// Empty, and written down.
    pub(crate) fn recorded(rows: HandleRows) -> Self {
        Self {
            rows: Some(rows),
            ..Self::default()
        }
    }

    /// What an earlier process wrote down, as far as `adopt` can make it again.
    pub(crate) fn adopted(
        rows: HandleRows,
        mut adopt: impl FnMut(KeptHandle) -> Option<H>,
    ) -> Self {
        let mut slots = Vec::new();
        let mut free = Vec::new();
        for (index, row) in rows.rows().enumerate() {
            let there = row.there.and_then(&mut adopt);
            slots.push(match there {
                Some(handle) => (row.generation, Some(Arc::new(handle))),
                None => {
                    let generation = row.generation.wrapping_add(1);
                    rows.end(index, generation);
                    free.push(index);
                    (generation, None)
                }
            });
        }
        Self {
            rows: Some(rows),
            table: RwLock::new(Table { slots, free }),
        }
    }

    /// A number for it. `open`: the descriptor that it is, and the number of the node it was opened from.
    pub(crate) fn add(&self, handle: H, open: Option<(RawFd, u64)>) -> u64 {
        let handle = Some(Arc::new(handle));
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        let index = if let Some(index) = table.free.pop() {
            table.slots[index].1 = handle;
            index
        } else {
            table.slots.push((0, handle));
            table.slots.len() - 1
        };
        let generation = table.slots[index].0;
        if let (Some(rows), Some((open, node))) = (&self.rows, open) {
            rows.put(index, generation, open, node);
        }
        u64::from(generation) << 32 | index as u64
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
        if let Some(rows) = &self.rows {
            rows.end(index, *generation);
        }
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
        let (a, b) = (handles.add('a', None), handles.add('b', None));
        assert_eq!(handles.find(a).as_deref(), Some(&'a'));
        assert_eq!(handles.remove(a).as_deref(), Some(&'a'));
        assert_eq!((handles.remove(a), handles.find(a)), (None, None));
        let c = handles.add('c', None);
        assert_ne!(a, c);
        assert_eq!(handles.find(a), None);
        assert_eq!(handles.find(b).as_deref(), Some(&'b'));
        assert_eq!(handles.count(), 2);
        assert_eq!(handles.find(u64::MAX), None);
    }
}
