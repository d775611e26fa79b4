//! The nodes a guest knows, and how often it has been told of each.
//!
//! A node lives from the first answer that names it until the guest has forgotten it as often as it was
//! told. One file found under several names is one node. Numbers are a slot and a generation, so that a
//! number kept too long is an error and never another file. Bounded by the tree's descriptors.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use crate::tree::Identity;

use super::wire::ROOT;

/// All of one session.
#[derive(Debug)]
pub(crate) struct Nodes<N> {
    table: RwLock<Table<N>>,
}

#[derive(Debug)]
struct Table<N> {
    slots: Vec<Slot<N>>,
    free: Vec<usize>,
    by_identity: HashMap<Identity, usize>,
}

#[derive(Debug)]
struct Slot<N> {
    generation: u32,
    lookups: u64,
    taken: Option<(Arc<N>, Identity)>,
}

/// What `told` says: the node's number, and the node that was not needed because it was known already;
/// the caller drops it, so that no lock is held while its descriptor is closed.
#[derive(Debug)]
pub(crate) struct Told<N> {
    pub(crate) number: u64,
    pub(crate) unneeded: Option<N>,
}

impl<N> Nodes<N> {
    /// A table that knows the root, which is never forgotten.
    pub(crate) fn new(root: N, identity: Identity) -> Self {
        let slot = Slot {
            generation: 0,
            lookups: 1,
            taken: Some((Arc::new(root), identity)),
        };
        let by_identity = HashMap::from([(identity, 0)]);
        Self {
            table: RwLock::new(Table {
                slots: vec![slot],
                free: Vec::new(),
                by_identity,
            }),
        }
    }

    /// The node of a number, if the guest may use it.
    pub(crate) fn find(&self, number: u64) -> Option<Arc<N>> {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        let slot = table.slots.get(slot_of(number)?)?;
        match &slot.taken {
            Some((node, _)) if slot.generation == generation_of(number) => Some(Arc::clone(node)),
            Some(_) | None => None,
        }
    }

    /// The guest is told of the node once more.
    pub(crate) fn told(&self, node: N, identity: Identity) -> Told<N> {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        let table = &mut *table;
        if let Some(&index) = table.by_identity.get(&identity) {
            let slot = &mut table.slots[index];
            slot.lookups = slot.lookups.saturating_add(1);
            return Told {
                number: number(index, slot.generation),
                unneeded: Some(node),
            };
        }
        let taken = Some((Arc::new(node), identity));
        let index = if let Some(index) = table.free.pop() {
            let slot = &mut table.slots[index];
            slot.lookups = 1;
            slot.taken = taken;
            index
        } else {
            table.slots.push(Slot {
                generation: 0,
                lookups: 1,
                taken,
            });
            table.slots.len() - 1
        };
        table.by_identity.insert(identity, index);
        Told {
            number: number(index, table.slots[index].generation),
            unneeded: None,
        }
    }

    /// The guest is told once more of a node that it knows already; its number, if it does know it.
    ///
    /// What has this identity is that node: as long as it is held, its inode is nobody else's.
    pub(crate) fn told_again(&self, identity: Identity) -> Option<u64> {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        let table = &mut *table;
        let index = *table.by_identity.get(&identity)?;
        let slot = table.slots.get_mut(index)?;
        slot.lookups = slot.lookups.saturating_add(1);
        Some(number(index, slot.generation))
    }

    /// Whether the guest knows it.
    pub(crate) fn knows(&self, identity: Identity) -> bool {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        table.by_identity.contains_key(&identity)
    }

    /// The guest forgets `times` of the times it was told. False: it forgot more than it knew.
    pub(crate) fn forget(&self, number: u64, times: u64) -> bool {
        if number == ROOT {
            return true;
        }
        let forgotten = {
            let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
            let table = &mut *table;
            let slot = slot_of(number).and_then(|index| Some((index, table.slots.get_mut(index)?)));
            let Some((index, slot)) = slot else {
                return false;
            };
            if slot.generation != generation_of(number) || slot.taken.is_none() {
                return false;
            }
            if times < slot.lookups {
                slot.lookups -= times;
                return true;
            }
            let right = times == slot.lookups;
            slot.lookups = 0;
            slot.generation = slot.generation.wrapping_add(1);
            let taken = slot.taken.take();
            if let Some((_, identity)) = &taken {
                table.by_identity.remove(identity);
            }
            table.free.push(index);
            (taken, right)
        };
        // The descriptor is closed here, with the table open to others.
        forgotten.1
    }

    /// Nodes known now, with the root.
    pub(crate) fn count(&self) -> usize {
        self.table
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .by_identity
            .len()
    }
}

fn number(slot: usize, generation: u32) -> u64 {
    u64::from(generation) << 32 | (slot as u64 + 1)
}

fn slot_of(number: u64) -> Option<usize> {
    usize::try_from(number & 0xffff_ffff).ok()?.checked_sub(1)
}

fn generation_of(number: u64) -> u32 {
    u32::try_from(number >> 32).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(inode: u64) -> Identity {
        Identity {
            device: 1,
            inode,
            mount: 1,
        }
    }

    #[test]
    fn a_node_lives_as_long_as_it_was_told() {
        let nodes = Nodes::new("root", identity(1));
        let first = nodes.told("a", identity(2));
        let again = nodes.told("a by another name", identity(2));
        assert_eq!(
            (first.number, again.unneeded),
            (again.number, Some("a by another name"))
        );
        assert_eq!(nodes.told_again(identity(2)), Some(first.number));
        assert_eq!(nodes.told_again(identity(3)), None);
        assert!(nodes.knows(identity(2)) && !nodes.knows(identity(3)));
        assert!(nodes.forget(first.number, 2));
        assert_eq!(nodes.find(first.number).as_deref(), Some(&"a"));
        assert!(nodes.forget(first.number, 1));
        assert_eq!(nodes.find(first.number), None);
        assert_eq!(nodes.count(), 1);
    }

    #[test]
    fn an_old_number_never_means_a_new_node() {
        let nodes = Nodes::new("root", identity(1));
        let old = nodes.told("old", identity(2)).number;
        assert!(nodes.forget(old, 1));
        let new = nodes.told("new", identity(3)).number;
        assert_ne!(old, new);
        assert_eq!(nodes.find(old), None);
        assert!(!nodes.forget(old, 1));
        assert_eq!(nodes.find(new).as_deref(), Some(&"new"));
    }

    #[test]
    fn forgetting_too_much_is_told_and_harms_nothing() {
        let nodes = Nodes::new("root", identity(1));
        let a = nodes.told("a", identity(2)).number;
        assert!(!nodes.forget(a, 7));
        assert!(!nodes.forget(a, 1));
        assert!(!nodes.forget(0, 1));
        assert!(!nodes.forget(u64::MAX, 1));
        assert!(nodes.forget(ROOT, 99));
        assert_eq!(nodes.find(ROOT).as_deref(), Some(&"root"));
    }
}
