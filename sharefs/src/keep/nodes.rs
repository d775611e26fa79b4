//! Rows of nodes: what each is, and how it is found.
//!
//! A node has a descriptor, or what finds it without one: its generation, and a name in a folder where that is needed.
//! The table of a session makes and ends the row; in between the tree that has the node writes there whatever becomes
//! of it (`NodeRow`), in this order:
//!
//! | | first | then | last |
//! |---|---|---|---|
//! | it is let go of | its generation, name | no descriptor | the descriptor is closed |
//! | it is found again | it is opened | its descriptor | |
//! | it is renamed | the new name's text | the name | the old text's room is free |
//!
//! Each "then" is one store, so that a death leaves what was or what is. What was is as good: a rename is told again
//! with its request, and a descriptor that no row names is closed.

use std::ffi::{CStr, CString};
use std::os::fd::{OwnedFd, RawFd};
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};

use super::fault;
use super::pieces::Lead;
use super::records::{Records, Row, THERE, Table, generation, is_there};
use super::{claim, named};
use crate::tree::{Identity, Kind};

/// Words of a row.
pub(super) const NODE: usize = 12;

mod word {
    pub(super) const LOOKUPS: usize = 1;
    /// Descriptor, kind and marks.
    pub(super) const WHAT: usize = 2;
    pub(super) const IDENTITY: usize = 3;
    pub(super) const EXTRA: usize = 6;
    pub(super) const GENERATION: usize = 10;
    pub(super) const WAY: usize = 11;
}

/// In a row's `WHAT`.
pub(super) const DESCRIPTOR: u64 = 0xffff_ffff;

/// What a node is for as long as it lives, in words, for a tree of the same options in the next worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KeptNode {
    pub(crate) identity: Identity,
    pub(crate) kind: Kind,
    /// The tree's own, 16 bits.
    pub(crate) marks: u16,
    /// The layers' own.
    pub(crate) extra: [u64; 4],
}

/// What tells a node that has no descriptor from others; the tree's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeptGeneration {
    pub(crate) kind: u8,
    pub(crate) bytes: Vec<u8>,
}

/// How a node was found when its worker died.
#[derive(Debug)]
pub(crate) enum KeptPlace {
    Held(OwnedFd),
    LetGo(KeptGeneration),
}

/// The row that a node has while the guest knows it.
#[derive(Debug)]
pub(crate) struct NodeRow {
    records: Records,
    slot: u32,
}

/// A node's row as others' rows name it: as a folder.
#[derive(Clone, Debug)]
pub(crate) struct Folder {
    records: Records,
    slot: u32,
    generation: u16,
}

/// A node of the worker before.
#[derive(Debug)]
pub(crate) struct Left {
    pub(crate) kept: KeptNode,
    pub(crate) place: KeptPlace,
    pub(crate) lookups: u64,
    /// Its folder's slot and generation, and its name there.
    pub(crate) way: Option<(usize, u16, CString)>,
    pub(crate) row: NodeRow,
}

impl Records {
    /// A row for a node that the guest is to know, `lookups` times. It is not there yet: first its place is written.
    pub(crate) fn new_node(&self, slot: usize, lookups: u64, node: &KeptNode) -> Option<NodeRow> {
        let row = self.write(Table::Nodes, slot)?;
        let what = u64::from(kind_word(node.kind)) << 32 | u64::from(node.marks) << 40;
        let Identity {
            device,
            inode,
            mount,
        } = node.identity;
        let [first, second, third, fourth] = node.extra;
        let nowhere = Lead::NOWHERE.word();
        let fields = [
            lookups, what, device, inode, mount, first, second, third, fourth, nowhere, nowhere,
        ];
        for (word, field) in row[1..].iter().zip(fields) {
            fault::store(word, field);
        }
        Some(self.node_row(slot))
    }

    fn node_row(&self, slot: usize) -> NodeRow {
        NodeRow {
            records: self.clone(),
            // There are fewer (`MOST_NODES`).
            slot: u32::try_from(slot).unwrap_or(u32::MAX),
        }
    }

    /// The row is whole: the guest knows the node from now on.
    pub(crate) fn begin_node(&self, slot: usize, generation: u16) {
        if let Some(row) = self.row(Table::Nodes, slot) {
            fault::store(&row[0], THERE | u64::from(generation));
        }
    }

    /// The slot is taken by a node that is not kept.
    pub(crate) fn pass_over(&self, slot: usize, generation: u16) {
        if let Some(row) = self.write(Table::Nodes, slot) {
            fault::store(&row[0], u64::from(generation));
        }
    }

    pub(crate) fn set_lookups(&self, slot: usize, lookups: u64) {
        if let Some(row) = self.row(Table::Nodes, slot) {
            fault::store(&row[word::LOOKUPS], lookups);
        }
    }

    /// The slot is free, and has come so far. To be called when the tree has the row no more, and before what held
    /// the node is closed.
    pub(crate) fn end_node(&self, slot: usize, generation: u16) {
        let Some(row) = self.row(Table::Nodes, slot) else {
            return;
        };
        let was_there = is_there(row);
        fault::store(&row[0], u64::from(generation));
        if was_there {
            for at in [word::GENERATION, word::WAY] {
                self.give_back(lead(row, at));
            }
        }
    }

    fn give_back(&self, lead: Lead) {
        if lead != Lead::NOWHERE {
            let mut pieces = self.pieces().lock().unwrap_or_else(PoisonError::into_inner);
            pieces.give_back(self.texts(), lead);
        }
    }

    fn put_text(&self, mark: u8, text: &[u8]) -> Option<Lead> {
        let mut pieces = self.pieces().lock().unwrap_or_else(PoisonError::into_inner);
        pieces.put(self.texts(), mark, text)
    }

    /// Slots that were ever used.
    pub(crate) fn slots(&self) -> usize {
        self.rows(Table::Nodes).size_hint().1.unwrap_or_default()
    }

    /// All nodes in the order of their slots. None where what the row says cannot be had.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = Row<Left>> {
        self.rows(Table::Nodes).map(|(slot, row)| Row {
            generation: generation(row),
            there: is_there(row).then(|| self.left(slot, row)).flatten(),
        })
    }

    fn left(&self, slot: usize, row: &[AtomicU64]) -> Option<Left> {
        let field = |at: usize| row[at].load(Ordering::Relaxed);
        let what = field(word::WHAT);
        let place = match what & DESCRIPTOR {
            0 => {
                let lead = lead(row, word::GENERATION);
                let bytes = lead.read(self.texts())?;
                let kind = lead.mark();
                KeptPlace::LetGo(KeptGeneration { kind, bytes })
            }
            number => KeptPlace::Held(claim(number)?),
        };
        let kept = KeptNode {
            identity: Identity {
                device: field(word::IDENTITY),
                inode: field(word::IDENTITY + 1),
                mount: field(word::IDENTITY + 2),
            },
            kind: kind_of(u16::try_from(what >> 32 & 0xff).ok()?)?,
            marks: u16::try_from(what >> 40 & 0xffff).unwrap_or_default(),
            extra: std::array::from_fn(|index| field(word::EXTRA + index)),
        };
        Some(Left {
            kept,
            place,
            lookups: field(word::LOOKUPS),
            way: way(&lead(row, word::WAY).read(self.texts()).unwrap_or_default()),
            row: self.node_row(slot),
        })
    }

    /// Texts that rows lead to.
    pub(super) fn leads(&self) -> impl Iterator<Item = Lead> {
        let there = self.rows(Table::Nodes).filter(|(_, row)| is_there(row));
        there.flat_map(|(_, row)| [lead(row, word::GENERATION), lead(row, word::WAY)])
    }
}

/// Written by one thread at a time: whoever holds the node's lock for it.
impl NodeRow {
    fn words(&self) -> Option<&[AtomicU64]> {
        self.records.row(Table::Nodes, self.slot as usize)
    }

    /// The node has that descriptor from now on. Its generation stays written down, for when it is let go of again.
    pub(crate) fn hold(&self, number: RawFd) {
        if let Some(row) = self.words() {
            self.put_descriptor(row, named(Some(number)));
        }
    }

    /// It is found by this from now on. To be called before its descriptor is closed. Without room for it the node is
    /// lost with this process.
    pub(crate) fn let_go(&self, kind: u8, generation: &[u8]) {
        let Some(row) = self.words() else {
            return;
        };
        if !lead(row, word::GENERATION).says(self.records.texts(), kind, generation) {
            let lead = self.records.put_text(kind, generation);
            self.lead_to(row, word::GENERATION, lead.unwrap_or(Lead::NOWHERE));
        }
        self.put_descriptor(row, 0);
    }

    /// It has that name in that folder from now on; None: none that is known, or in a folder that is not kept.
    pub(crate) fn lead(&self, way: Option<&(Folder, &CStr)>) {
        let Some(row) = self.words() else {
            return;
        };
        let ours = way.filter(|(folder, _)| folder.records.is(&self.records));
        let lead = ours.and_then(|(folder, name)| {
            let mut text = [0; FOLDER + LONGEST_NAME];
            let (place, rest) = text.split_at_mut(FOLDER);
            place[..4].copy_from_slice(&folder.slot.to_le_bytes());
            place[4..].copy_from_slice(&folder.generation.to_le_bytes());
            let name = name.to_bytes();
            rest.get_mut(..name.len())?.copy_from_slice(name);
            self.records.put_text(0, &text[..FOLDER + name.len()])
        });
        self.lead_to(row, word::WAY, lead.unwrap_or(Lead::NOWHERE));
    }

    /// Whether it says a name.
    pub(crate) fn is_led(&self) -> bool {
        self.words()
            .is_some_and(|row| lead(row, word::WAY) != Lead::NOWHERE)
    }

    /// For rows of what is in it.
    pub(crate) fn as_folder(&self) -> Option<Folder> {
        let generation = u16::try_from(generation(self.words()?)).ok()?;
        Some(Folder {
            records: self.records.clone(),
            slot: self.slot,
            generation,
        })
    }

    fn put_descriptor(&self, row: &[AtomicU64], word: u64) {
        let before = row[word::WHAT].load(Ordering::Relaxed);
        let what = before & !DESCRIPTOR | word;
        if what != before {
            fault::store(&row[word::WHAT], what);
        }
    }

    fn lead_to(&self, row: &[AtomicU64], at: usize, lead: Lead) {
        let before = self::lead(row, at);
        if before != lead {
            fault::store(&row[at], lead.word());
            self.records.give_back(before);
        }
    }
}

/// Bytes of a way's folder, before the name.
const FOLDER: usize = 6;
/// NAME_MAX.
const LONGEST_NAME: usize = 255;

fn lead(row: &[AtomicU64], at: usize) -> Lead {
    Lead::of(row[at].load(Ordering::Relaxed))
}

fn way(text: &[u8]) -> Option<(usize, u16, CString)> {
    let (slot, rest) = text.split_first_chunk()?;
    let (generation, name) = rest.split_first_chunk()?;
    Some((
        u32::from_le_bytes(*slot) as usize,
        u16::from_le_bytes(*generation),
        CString::new(name).ok()?,
    ))
}

const KINDS: [Kind; 7] = [
    Kind::File,
    Kind::Directory,
    Kind::SymbolicLink,
    Kind::BlockDevice,
    Kind::CharacterDevice,
    Kind::Fifo,
    Kind::Socket,
];

pub(crate) fn kind_word(kind: Kind) -> u16 {
    let place = KINDS.iter().position(|known| *known == kind);
    place
        .and_then(|place| u16::try_from(place).ok())
        .unwrap_or_default()
}

pub(crate) fn kind_of(word: u16) -> Option<Kind> {
    KINDS.get(usize::from(word)).copied()
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::fault::dead_after;
    use super::*;

    /// How a row finds its node: its descriptor's number or generation, and its name.
    type Says = Option<(Result<bool, KeptGeneration>, Option<CString>)>;

    fn node(inode: u64) -> KeptNode {
        KeptNode {
            identity: Identity {
                device: 1,
                inode,
                mount: 2,
            },
            kind: Kind::File,
            marks: 0xfff0,
            extra: [1, 2, 3, 4],
        }
    }

    fn generation_of(byte: u8) -> KeptGeneration {
        KeptGeneration {
            kind: byte,
            bytes: vec![byte; 30],
        }
    }

    /// A folder in slot 0, and a file in slot 1 that has that name there.
    struct Scene {
        records: Records,
        folder: Folder,
        row: NodeRow,
        file: std::fs::File,
    }

    impl Scene {
        fn new() -> Self {
            let records = Records::create(0, 0).unwrap();
            let file = std::fs::File::open("/").unwrap();
            let folder = records.new_node(0, 1, &node(1)).unwrap();
            folder.hold(file.as_raw_fd());
            records.begin_node(0, 9);
            let row = records.new_node(1, 1, &node(2)).unwrap();
            row.hold(file.as_raw_fd());
            let folder = folder.as_folder().unwrap();
            row.lead(Some(&(folder.clone(), c"the first of its names")));
            records.begin_node(1, 5);
            Self {
                records,
                folder,
                row,
                file,
            }
        }

        /// What the next process would find.
        fn says(&self) -> Says {
            let next = Records::of_same(&self.records);
            let left = next.nodes().nth(1)?.there?;
            assert_eq!((left.kept, left.lookups), (node(2), 1));
            let way = left.way.map(|(slot, generation, name)| {
                assert_eq!((slot, generation), (0, 9));
                name
            });
            Some(match left.place {
                KeptPlace::Held(_) => (Ok(true), way),
                KeptPlace::LetGo(generation) => (Err(generation), way),
            })
        }
    }

    #[test]
    fn a_death_between_any_two_stores_leaves_what_was_or_what_is() {
        type Step = (&'static str, fn(&Scene));
        let steps: [Step; 6] = [
            ("let go", |scene| scene.row.let_go(1, &[1; 30])),
            ("let go anew", |scene| {
                scene.row.hold(scene.file.as_raw_fd());
                scene.row.let_go(2, &[2; 30]);
            }),
            ("found again", |scene| {
                scene.row.hold(scene.file.as_raw_fd())
            }),
            ("renamed", |scene| {
                let name =
                    c"a name that is longer than two pieces have room for, a good deal longer";
                scene.row.lead(Some(&(scene.folder.clone(), name)));
            }),
            ("without a name", |scene| scene.row.lead(None)),
            ("forgotten", |scene| scene.records.end_node(1, 6)),
        ];
        for (name, step) in &steps {
            // Whatever came before.
            for before in 0..steps.len() - 1 {
                let prepare = |scene: &Scene| {
                    for (_, step) in &steps[..before] {
                        step(scene);
                    }
                };
                let scene = Scene::new();
                prepare(&scene);
                let old = scene.says();
                step(&scene);
                let new = scene.says();
                let mut stores = 0;
                loop {
                    let scene = Scene::new();
                    prepare(&scene);
                    let died = dead_after(stores, || step(&scene));
                    let says = scene.says();
                    let between = *name == "let go anew" && matches!(says, Some((Ok(true), _)));
                    assert!(
                        says == old || says == new || between,
                        "{name} behind {before}, dead after {stores}: {says:?}, {old:?}, {new:?}"
                    );
                    if !died {
                        assert_eq!(says, new);
                        break;
                    }
                    stores += 1;
                }
            }
        }
    }

    #[test]
    fn a_death_while_a_row_is_made_leaves_none_or_all_of_it() {
        let mut seen = Vec::new();
        for stores in 0.. {
            let scene = Scene::new();
            scene.records.end_node(1, 6);
            let died = dead_after(stores, || {
                let row = scene.records.new_node(1, 1, &node(2)).unwrap();
                row.let_go(3, &[3; 30]);
                row.lead(Some(&(scene.folder.clone(), c"name")));
                scene.records.begin_node(1, 6);
            });
            seen.push(scene.says());
            if !died {
                break;
            }
        }
        let all = Some((Err(generation_of(3)), Some(CString::from(c"name"))));
        let (last, before) = seen.split_last().unwrap();
        assert_eq!(*last, all);
        assert!(before.len() > 10 && before.iter().all(Option::is_none));
    }

    #[test]
    fn room_of_what_died_half_done_is_free_again() {
        for stores in 0..20 {
            let scene = Scene::new();
            let used = scene.records.texts_used();
            dead_after(stores, || {
                scene.row.let_go(1, &[1; 30]);
                scene
                    .row
                    .lead(Some(&(scene.folder.clone(), c"another name")));
            });
            let next = Records::of_same(&scene.records);
            assert!(next.texts_used() <= used + 2, "{stores}");
            next.end_node(1, 6);
            assert_eq!(next.texts_used(), 0);
        }
    }
}
