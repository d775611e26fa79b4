//! The nodes a guest knows, and how often it has been told of each.
//!
//! A node lives from the first answer that names it until the guest has forgotten it as often as it was
//! told. One file found under several names is one node: one identity, which is nobody else's while the tree
//! holds the node. What the tree has let go of is asked whether it is still the same file; one that is not
//! keeps its number, and whoever has its identity now gets a new one. Bounded by the nodes that trees know.
//!
//! A number is, from its low end, 28 bits of slot, 16 of generation, so that a number kept too long is an
//! error and never another file, and 20 of space: tables that serve one guest side by side (`many`) have a
//! space each. The root has the number it is given.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ffi::{CStr, CString};
use std::sync::{PoisonError, RwLock};

use crate::keep::nodes::{KeptNode, KeptPlace, Left, NodeRow};
use crate::keep::records::Records;
use crate::tree::{Identity, Result, Tree};

use super::wire::ROOT;

/// Which numbers a table gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Numbering {
    /// The root's, which may belong to another space.
    pub(crate) root: u64,
    /// All others': at most `LAST_SPACE`.
    pub(crate) space: u32,
}

/// A table that is alone with its guest.
impl Default for Numbering {
    fn default() -> Self {
        Self {
            root: ROOT,
            space: 0,
        }
    }
}

/// Room for more nodes than `tree::host::descriptors` lets a process know.
const SLOT_BITS: u32 = 28;
const GENERATION_BITS: u32 = 16;
/// The largest space that a number has room for.
pub(crate) const LAST_SPACE: u32 = (1 << (64 - SLOT_BITS - GENERATION_BITS)) - 1;

/// What a table asks the tree of its nodes; see `Tree`.
pub(crate) trait Home<N> {
    fn is_held(&self, node: &N) -> bool;
    fn is_same(&self, known: &N, found: &N) -> bool;
    fn keep(&self, node: &N) -> Option<KeptNode>;
    fn bind(&self, node: &N, row: Option<NodeRow>);
    fn adopt(&self, kept: &KeptNode, left: (KeptPlace, Option<NodeRow>)) -> Result<N>;
    fn lead(&self, node: &N, folder: &N, name: &CStr);
}

impl<T: Tree> Home<T::Node> for T {
    fn is_held(&self, node: &T::Node) -> bool {
        self.is_held(node)
    }
    fn is_same(&self, known: &T::Node, found: &T::Node) -> bool {
        self.is_same(known, found)
    }
    fn keep(&self, node: &T::Node) -> Option<KeptNode> {
        self.keep(node)
    }
    fn bind(&self, node: &T::Node, row: Option<NodeRow>) {
        self.bind(node, row);
    }
    fn adopt(&self, kept: &KeptNode, left: (KeptPlace, Option<NodeRow>)) -> Result<T::Node> {
        self.adopt(kept, left)
    }
    fn lead(&self, node: &T::Node, folder: &T::Node, name: &CStr) {
        self.lead(node, folder, name);
    }
}

/// All of one session.
#[derive(Debug)]
pub(crate) struct Nodes<N> {
    numbering: Numbering,
    /// Where the table is written down too, for a later process.
    records: Option<Records>,
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
    generation: u16,
    lookups: u64,
    taken: Option<(N, Identity)>,
}

/// What `told` says: the node's number, and the node that was not needed because it was known already;
/// the caller drops it, so that no lock is held while its descriptor is closed.
#[derive(Debug)]
pub(crate) struct Told<N> {
    pub(crate) number: u64,
    pub(crate) unneeded: Option<N>,
}

impl<N: Clone> Nodes<N> {
    /// A table that knows the root, which is never forgotten.
    pub(crate) fn new(root: N, identity: Identity, numbering: Numbering) -> Self {
        let slot = Slot {
            generation: 0,
            lookups: 1,
            taken: Some((root, identity)),
        };
        let by_identity = HashMap::from([(identity, 0)]);
        Self {
            numbering,
            records: None,
            table: RwLock::new(Table {
                slots: vec![slot],
                free: Vec::new(),
                by_identity,
            }),
        }
    }

    /// The same, written down from now on; `kept`: the root in words.
    pub(crate) fn recorded(
        mut self,
        home: &impl Home<N>,
        kept: &KeptNode,
        records: &Records,
    ) -> Self {
        if let Some(root) = self.find(self.numbering.root) {
            write_down(records, home, (0, 0), (&root, kept));
        }
        self.records = Some(records.clone());
        self
    }

    /// The table that an earlier process wrote down. Nodes that the tree cannot make again are gone. None
    /// where the root is not among them.
    pub(crate) fn adopted(
        numbering: Numbering,
        records: &Records,
        home: &impl Home<N>,
    ) -> Option<Self> {
        let mut slots = Vec::with_capacity(records.slots());
        let mut free = Vec::new();
        let mut by_identity = HashMap::with_capacity(records.slots());
        let mut ways = Vec::new();
        for (index, row) in records.nodes().enumerate() {
            let generation = u16::try_from(row.generation).unwrap_or_default();
            let there = row.there.and_then(|left| adopt(home, left));
            slots.push(match there {
                Some(Adopted {
                    node,
                    identity,
                    lookups,
                    way,
                }) => {
                    ways.extend(way.map(|way| (index, way)));
                    match by_identity.entry(identity) {
                        Entry::Vacant(vacant) => {
                            vacant.insert(index);
                        }
                        // One of the two is gone, and its number was given to the other: not to one that is held.
                        Entry::Occupied(mut other) if home.is_held(&node) => {
                            other.insert(index);
                        }
                        Entry::Occupied(_) => {}
                    }
                    let taken = Some((node, identity));
                    Slot {
                        generation,
                        lookups,
                        taken,
                    }
                }
                None => {
                    // One that is lost has a number that the guest may still use.
                    let generation = generation.wrapping_add(1);
                    records.end_node(index, generation);
                    free.push(index);
                    Slot {
                        generation,
                        lookups: 0,
                        taken: None,
                    }
                }
            });
        }
        slots.first()?.taken.as_ref()?;
        // A folder may stand behind what is in it.
        for (index, (folder, generation, name)) in ways {
            let at = |index: usize| slots.get(index).and_then(Slot::with_node);
            // A folder that is forgotten may have left its slot to another.
            if let (Some((node, _)), Some((folder, reached))) = (at(index), at(folder))
                && reached == generation
            {
                home.lead(node, folder, &name);
            }
        }
        let table = Table {
            slots,
            free,
            by_identity,
        };
        Some(Self {
            numbering,
            records: Some(records.clone()),
            table: RwLock::new(table),
        })
    }

    /// The node of a number, if the guest may use it.
    pub(crate) fn find(&self, number: u64) -> Option<N> {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        let slot = table.slots.get(self.slot_of(number)?)?;
        match &slot.taken {
            Some((node, _)) if slot.generation == generation_of(number) => Some(node.clone()),
            Some(_) | None => None,
        }
    }

    /// Whether the number is none that this table could ever have given.
    pub(crate) fn is_elsewhere(&self, number: u64) -> bool {
        number != self.numbering.root && space_of(number) != self.numbering.space
    }

    /// Its identity, for whoever opens the root again.
    pub(crate) fn is_root(&self, identity: Identity) -> bool {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        table.by_identity.get(&identity) == Some(&0)
    }

    fn number(&self, slot: usize, generation: u16) -> u64 {
        if slot == 0 {
            return self.numbering.root;
        }
        u64::from(self.numbering.space) << (SLOT_BITS + GENERATION_BITS)
            | u64::from(generation) << SLOT_BITS
            | (slot as u64 + 1)
    }

    fn slot_of(&self, number: u64) -> Option<usize> {
        if number == self.numbering.root {
            return Some(0);
        }
        if space_of(number) != self.numbering.space {
            return None;
        }
        let slot = usize::try_from(number & ((1 << SLOT_BITS) - 1)).ok()?;
        slot.checked_sub(1).filter(|slot| *slot != 0)
    }

    /// The guest is told of the node once more, or of the one that is the same file and known already.
    pub(crate) fn told(&self, node: N, identity: Identity, home: &impl Home<N>) -> Told<N> {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        let table = &mut *table;
        if let Some(&index) = table.by_identity.get(&identity) {
            let slot = &mut table.slots[index];
            let known = slot.taken.as_ref().map(|(known, _)| known);
            if known.is_some_and(|known| home.is_same(known, &node)) {
                slot.lookups = slot.lookups.saturating_add(1);
                self.record_lookups(index, slot.lookups);
                return Told {
                    number: self.number(index, slot.generation),
                    unneeded: Some(node),
                };
            }
        }
        let index = table.free.pop().unwrap_or_else(|| {
            table.slots.push(Slot {
                generation: 0,
                lookups: 0,
                taken: None,
            });
            table.slots.len() - 1
        });
        table.by_identity.insert(identity, index);
        let slot = &mut table.slots[index];
        if let Some(records) = &self.records {
            match home.keep(&node) {
                Some(kept) => write_down(records, home, (index, slot.generation), (&node, &kept)),
                // The next process is not to give its number to another.
                None => records.pass_over(index, slot.generation),
            }
        }
        slot.lookups = 1;
        slot.taken = Some((node, identity));
        Told {
            number: self.number(index, slot.generation),
            unneeded: None,
        }
    }

    /// The guest is told once more of a node that it knows already; its number, if it does know it and the
    /// tree says that it holds it.
    ///
    /// What has this identity is that node: as long as it is held, its inode is nobody else's.
    pub(crate) fn told_again(
        &self,
        identity: Identity,
        is_held: impl FnOnce(&N) -> bool,
    ) -> Option<u64> {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        let table = &mut *table;
        let index = *table.by_identity.get(&identity)?;
        let slot = table.slots.get_mut(index)?;
        slot.taken.as_ref().filter(|(node, _)| is_held(node))?;
        slot.lookups = slot.lookups.saturating_add(1);
        self.record_lookups(index, slot.lookups);
        let generation = slot.generation;
        Some(self.number(index, generation))
    }

    /// The node that the guest knows by this identity.
    pub(crate) fn known(&self, identity: Identity) -> Option<N> {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        let slot = table.slots.get(*table.by_identity.get(&identity)?)?;
        slot.taken.as_ref().map(|(node, _)| node.clone())
    }

    fn record_lookups(&self, slot: usize, lookups: u64) {
        if let Some(records) = &self.records {
            records.set_lookups(slot, lookups);
        }
    }

    /// Whether the guest knows it.
    pub(crate) fn knows(&self, identity: Identity) -> bool {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        table.by_identity.contains_key(&identity)
    }

    /// The guest forgets `times` of the times it was told. False: it forgot more than it knew.
    pub(crate) fn forget(&self, number: u64, times: u64, home: &impl Home<N>) -> bool {
        if number == self.numbering.root {
            return true;
        }
        let forgotten = {
            let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
            let table = &mut *table;
            let slot = self
                .slot_of(number)
                .and_then(|index| Some((index, table.slots.get_mut(index)?)));
            let Some((index, slot)) = slot else {
                return false;
            };
            if slot.generation != generation_of(number) || slot.taken.is_none() {
                return false;
            }
            if times < slot.lookups {
                slot.lookups -= times;
                self.record_lookups(index, slot.lookups);
                return true;
            }
            let right = times == slot.lookups;
            slot.lookups = 0;
            slot.generation = slot.generation.wrapping_add(1);
            let taken = slot.taken.take();
            if let Some(records) = &self.records {
                if let Some((node, _)) = &taken {
                    home.bind(node, None);
                }
                records.end_node(index, slot.generation);
            }
            if let Some((_, identity)) = &taken
                && table.by_identity.get(identity) == Some(&index)
            {
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
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        table.slots.len() - table.free.len()
    }
}

impl<N> Slot<N> {
    fn with_node(&self) -> Option<(&N, u16)> {
        let (node, _) = self.taken.as_ref()?;
        Some((node, self.generation))
    }
}

/// A node that an earlier process knew.
struct Adopted<N> {
    node: N,
    identity: Identity,
    lookups: u64,
    /// Its folder's slot and generation, and its name there.
    way: Option<(usize, u16, CString)>,
}

fn adopt<N>(home: &impl Home<N>, left: Left) -> Option<Adopted<N>> {
    let Left {
        kept,
        place,
        lookups,
        way,
        row,
    } = left;
    Some(Adopted {
        node: home.adopt(&kept, (place, Some(row))).ok()?,
        identity: kept.identity,
        lookups,
        way,
    })
}

/// A slot's node is told of for the first time.
fn write_down<N>(
    records: &Records,
    home: &impl Home<N>,
    (slot, generation): (usize, u16),
    (node, kept): (&N, &KeptNode),
) {
    // Without a row it is one that the next process cannot know.
    if let Some(row) = records.new_node(slot, 1, kept) {
        home.bind(node, Some(row));
        records.begin_node(slot, generation);
    }
}

/// The space that the number belongs to.
pub(crate) fn space_of(number: u64) -> u32 {
    u32::try_from(number >> (SLOT_BITS + GENERATION_BITS)).unwrap_or(LAST_SPACE)
}

fn generation_of(number: u64) -> u16 {
    let bits = number >> SLOT_BITS & u64::from(u16::MAX);
    u16::try_from(bits).unwrap_or_default()
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

    /// Whether two of one identity are the same file.
    struct Same(bool);

    impl Home<&'static str> for Same {
        fn is_held(&self, _: &&'static str) -> bool {
            true
        }
        fn is_same(&self, _: &&'static str, _: &&'static str) -> bool {
            self.0
        }
        fn keep(&self, _: &&'static str) -> Option<KeptNode> {
            None
        }
        fn bind(&self, _: &&'static str, _: Option<NodeRow>) {}
        fn adopt(&self, _: &KeptNode, _: (KeptPlace, Option<NodeRow>)) -> Result<&'static str> {
            Err(rustix::io::Errno::STALE)
        }
        fn lead(&self, _: &&'static str, _: &&'static str, _: &CStr) {}
    }

    const SAME: Same = Same(true);

    #[test]
    fn a_node_lives_as_long_as_it_was_told() {
        let nodes = Nodes::new("root", identity(1), Numbering::default());
        let first = nodes.told("a", identity(2), &SAME);
        let again = nodes.told("a by another name", identity(2), &SAME);
        assert_eq!(
            (first.number, again.unneeded),
            (again.number, Some("a by another name"))
        );
        assert_eq!(nodes.told_again(identity(2), |_| true), Some(first.number));
        assert_eq!(nodes.told_again(identity(3), |_| true), None);
        assert!(nodes.knows(identity(2)) && !nodes.knows(identity(3)));
        assert!(nodes.forget(first.number, 2, &SAME));
        assert_eq!(nodes.find(first.number), Some("a"));
        assert!(nodes.forget(first.number, 1, &SAME));
        assert_eq!(nodes.find(first.number), None);
        assert_eq!(nodes.count(), 1);
    }

    #[test]
    fn an_old_number_never_means_a_new_node() {
        let nodes = Nodes::new("root", identity(1), Numbering::default());
        let old = nodes.told("old", identity(2), &SAME).number;
        assert!(nodes.forget(old, 1, &SAME));
        let new = nodes.told("new", identity(3), &SAME).number;
        assert_ne!(old, new);
        assert_eq!(nodes.find(old), None);
        assert!(!nodes.forget(old, 1, &SAME));
        assert_eq!(nodes.find(new), Some("new"));
    }

    #[test]
    fn a_file_that_got_the_inode_of_one_that_is_gone_has_a_number_of_its_own() {
        let nodes = Nodes::new("root", identity(1), Numbering::default());
        let gone = nodes.told("gone", identity(2), &SAME).number;
        assert_eq!(nodes.told_again(identity(2), |_| false), None);
        let new = nodes.told("new", identity(2), &Same(false)).number;
        assert_ne!(gone, new);
        assert_eq!(
            (nodes.find(gone), nodes.find(new)),
            (Some("gone"), Some("new"))
        );
        assert_eq!((nodes.known(identity(2)), nodes.count()), (Some("new"), 3));
        assert!(nodes.forget(gone, 1, &SAME));
        assert_eq!(nodes.told_again(identity(2), |_| true), Some(new));
        assert!(nodes.forget(new, 2, &SAME));
        assert_eq!((nodes.known(identity(2)), nodes.count()), (None, 1));
    }

    #[test]
    fn forgetting_too_much_is_told_and_harms_nothing() {
        let nodes = Nodes::new("root", identity(1), Numbering::default());
        let a = nodes.told("a", identity(2), &SAME).number;
        assert!(!nodes.forget(a, 7, &SAME));
        assert!(!nodes.forget(a, 1, &SAME));
        assert!(!nodes.forget(0, 1, &SAME));
        assert!(!nodes.forget(u64::MAX, 1, &SAME));
        assert!(nodes.forget(ROOT, 99, &SAME));
        assert_eq!(nodes.find(ROOT), Some("root"));
    }

    #[test]
    fn tables_with_spaces_of_their_own_share_no_number() {
        let of = |root, space| Nodes::new("root", identity(1), Numbering { root, space });
        let (a, b) = (of(3, 1), of(4, LAST_SPACE));
        let (x, y) = (
            a.told("x", identity(2), &SAME).number,
            b.told("y", identity(2), &SAME).number,
        );
        assert_ne!(x, y);
        assert_eq!((space_of(x), space_of(y)), (1, LAST_SPACE));
        assert_eq!((a.find(y), b.find(x)), (None, None));
        assert!(a.is_elsewhere(y) && a.is_elsewhere(4) && !a.is_elsewhere(3));
        assert_eq!(b.find(4), Some("root"));
        assert!(!a.forget(y, 1, &SAME) && a.forget(3, 9, &SAME));
        assert_eq!(a.told("again", identity(1), &SAME).number, 3);
        assert_eq!(a.find(ROOT), None);
    }
}
