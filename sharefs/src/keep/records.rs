//! What one mount of a share knows, as rows of shared memory: nodes, open files and folders, lock owners.
//!
//! A row has the place of the slot it is written for, so nothing is searched, and its first word says
//! whether it is there. Rows are written by whoever holds the lock of their table.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::io::Errno;

use super::{MAGIC, claim, named, number};
use crate::sys::Shared;
use crate::tree::{Identity, Kind};

/// As many as a process may know (`tree::host::descriptors`); rows that were never used take no memory.
const MOST_NODES: usize = 1 << 24;
const MOST_HANDLES: usize = 1 << 20;
const MOST_OWNERS: usize = 1 << 16;

const NODE: usize = 12;
const HANDLE: usize = 4;
const OWNER: usize = 8;

const HEAD: usize = 64;
const NODES: usize = HEAD;
const FILES: usize = NODES + MOST_NODES * NODE;
const FOLDERS: usize = FILES + MOST_HANDLES * HANDLE;
const OWNERS: usize = FOLDERS + MOST_HANDLES * HANDLE;
const ALL: usize = OWNERS + MOST_OWNERS * OWNER;

mod word {
    pub(super) const MAGIC: usize = 0;
    pub(super) const AGREED: usize = 1;
    /// Of the share's options.
    pub(super) const OPTIONS: usize = 2;
    /// How many rows were ever used: nodes, files, folders, owners.
    pub(super) const USED: usize = 8;
}

/// In a row's first word, above its generation.
const THERE: u64 = 1 << 32;
/// This memory is of this kind.
const KIND: u64 = MAGIC ^ (1 << 56);

/// See the module's head.
#[derive(Clone, Debug)]
pub(crate) struct Records(Arc<Shared>);

/// A node in words, for a tree of the same options in the next worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KeptNode {
    /// What holds it.
    pub(crate) number: RawFd,
    pub(crate) identity: Identity,
    pub(crate) kind: Kind,
    /// The tree's own, 16 bits.
    pub(crate) marks: u16,
    /// The layers' own.
    pub(crate) extra: [u64; 4],
}

/// One kind of row.
#[derive(Clone, Copy, Debug)]
enum Table {
    Nodes,
    Files,
    Folders,
    Owners,
}

impl Table {
    /// Where it begins, words a row, rows.
    fn shape(self) -> (usize, usize, usize) {
        match self {
            Self::Nodes => (NODES, NODE, MOST_NODES),
            Self::Files => (FILES, HANDLE, MOST_HANDLES),
            Self::Folders => (FOLDERS, HANDLE, MOST_HANDLES),
            Self::Owners => (OWNERS, OWNER, MOST_OWNERS),
        }
    }

    fn used(self) -> usize {
        word::USED
            + match self {
                Self::Nodes => 0,
                Self::Files => 1,
                Self::Folders => 2,
                Self::Owners => 3,
            }
    }
}

/// What a row said when its worker died: the generation that its slot has reached, and the thing, if one
/// is there.
#[derive(Debug)]
pub(crate) struct Row<K> {
    pub(crate) generation: u32,
    pub(crate) there: Option<K>,
}

/// An open file or folder.
#[derive(Debug)]
pub(crate) struct KeptHandle {
    pub(crate) open: OwnedFd,
    /// The number of the node it was opened from.
    pub(crate) node: u64,
}

/// The holder of one owner's locks on a file.
#[derive(Debug)]
pub(crate) struct KeptOwner {
    pub(crate) open: OwnedFd,
    pub(crate) file: Identity,
    pub(crate) owner: u64,
    pub(crate) handle: u64,
    /// Its row.
    pub(crate) row: usize,
}

impl Records {
    /// New, for a mount with what was agreed on.
    pub(crate) fn create(options: u64, agreed: u64) -> Result<Self, Errno> {
        let shared = Shared::create("sharefs-mount", ALL)?;
        shared.words()[word::AGREED].store(agreed, Ordering::Relaxed);
        shared.words()[word::OPTIONS].store(options, Ordering::Relaxed);
        shared.words()[word::MAGIC].store(KIND, Ordering::Release);
        Ok(Self(Arc::new(shared)))
    }

    /// As the worker before us left them; EINVAL for a share of other options.
    pub(crate) fn adopt(left: OwnedFd, options: u64) -> Result<Self, Errno> {
        let shared = Shared::adopt(left, ALL)?;
        let words = shared.words();
        if words[word::MAGIC].load(Ordering::Acquire) != KIND
            || words[word::OPTIONS].load(Ordering::Relaxed) != options
        {
            return Err(Errno::INVAL);
        }
        Ok(Self(Arc::new(shared)))
    }

    pub(crate) fn number(&self) -> RawFd {
        self.0.number()
    }

    /// What INIT agreed on.
    pub(crate) fn agreed(&self) -> u64 {
        self.0.words()[word::AGREED].load(Ordering::Relaxed)
    }

    fn row(&self, table: Table, index: usize) -> Option<&[AtomicU64]> {
        let (start, width, rows) = table.shape();
        let from = start + index * width;
        (index < rows).then(|| &self.0.words()[from..from + width])
    }

    /// A row to be written, counted as used from now on.
    fn write(&self, table: Table, index: usize) -> Option<&[AtomicU64]> {
        let used = &self.0.words()[table.used()];
        if used.load(Ordering::Relaxed) <= index as u64 {
            used.store(index as u64 + 1, Ordering::Release);
        }
        self.row(table, index)
    }

    fn rows(&self, table: Table) -> impl Iterator<Item = (usize, &[AtomicU64])> {
        let used = self.0.words()[table.used()].load(Ordering::Acquire);
        let used = usize::try_from(used).unwrap_or_default();
        (0..used).filter_map(move |index| Some((index, self.row(table, index)?)))
    }

    /// The guest knows a node from now on, `lookups` times.
    pub(crate) fn put_node(&self, slot: usize, generation: u16, lookups: u64, node: &KeptNode) {
        let Some(row) = self.write(Table::Nodes, slot) else {
            return;
        };
        let Identity {
            device,
            inode,
            mount,
        } = node.identity;
        let what = u64::from(kind_word(node.kind)) << 32 | u64::from(node.marks) << 40;
        let fields = [
            lookups,
            named(Some(node.number)) | what,
            device,
            inode,
            mount,
            node.extra[0],
            node.extra[1],
            node.extra[2],
            node.extra[3],
        ];
        for (word, field) in row[1..].iter().zip(fields) {
            word.store(field, Ordering::Relaxed);
        }
        row[0].store(THERE | u64::from(generation), Ordering::Release);
    }

    pub(crate) fn is_kept(&self, slot: usize) -> bool {
        self.row(Table::Nodes, slot).is_some_and(is_there)
    }

    /// The slot is taken by a node that is not kept.
    pub(crate) fn pass_over(&self, slot: usize, generation: u16) {
        if let Some(row) = self.write(Table::Nodes, slot) {
            row[0].store(u64::from(generation), Ordering::Release);
        }
    }

    pub(crate) fn set_lookups(&self, slot: usize, lookups: u64) {
        if let Some(row) = self.row(Table::Nodes, slot) {
            row[1].store(lookups, Ordering::Release);
        }
    }

    /// The slot is free, and has come so far. To be called before what held the node is closed.
    pub(crate) fn end_node(&self, slot: usize, generation: u16) {
        if let Some(row) = self.row(Table::Nodes, slot) {
            row[0].store(u64::from(generation), Ordering::Release);
        }
    }

    /// All nodes, with their lookups, in the order of their slots. None where the row's descriptor is gone.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = Row<(OwnedFd, KeptNode, u64)>> {
        self.rows(Table::Nodes).map(|(_, row)| {
            let there = is_there(row).then(|| node_of(row)).flatten();
            Row {
                generation: generation(row),
                there,
            }
        })
    }

    fn put_handle(&self, table: Table, slot: usize, (generation, open, node): (u32, RawFd, u64)) {
        let Some(row) = self.write(table, slot) else {
            return;
        };
        row[1].store(named(Some(open)), Ordering::Relaxed);
        row[2].store(node, Ordering::Relaxed);
        // The generation has all of the low half.
        row[0].store(THERE | u64::from(generation), Ordering::Release);
    }

    fn end_handle(&self, table: Table, slot: usize, generation: u32) {
        if let Some(row) = self.row(table, slot) {
            row[0].store(u64::from(generation), Ordering::Release);
        }
    }

    fn handles(&self, table: Table) -> impl Iterator<Item = Row<KeptHandle>> {
        self.rows(table).map(|(_, row)| Row {
            generation: generation(row),
            there: is_there(row)
                .then(|| {
                    Some(KeptHandle {
                        open: claim(row[1].load(Ordering::Relaxed))?,
                        node: row[2].load(Ordering::Relaxed),
                    })
                })
                .flatten(),
        })
    }

    /// Rows of what is open of one kind.
    pub(crate) fn files(&self) -> HandleRows {
        HandleRows(self.clone(), Table::Files)
    }

    pub(crate) fn folders(&self) -> HandleRows {
        HandleRows(self.clone(), Table::Folders)
    }

    /// An owner's locks are held by that descriptor. The row is the caller's to choose.
    pub(crate) fn put_owner(
        &self,
        index: usize,
        open: RawFd,
        (file, owner, handle): (Identity, u64, u64),
    ) {
        let Some(row) = self.write(Table::Owners, index) else {
            return;
        };
        let Identity {
            device,
            inode,
            mount,
        } = file;
        let fields = [named(Some(open)), device, inode, mount, owner, handle];
        for (word, field) in row[1..].iter().zip(fields) {
            word.store(field, Ordering::Relaxed);
        }
        row[0].store(THERE, Ordering::Release);
    }

    pub(crate) fn end_owner(&self, index: usize) {
        if let Some(row) = self.row(Table::Owners, index) {
            row[0].store(0, Ordering::Release);
        }
    }

    pub(crate) fn owners(&self) -> impl Iterator<Item = KeptOwner> {
        let there = self.rows(Table::Owners).filter(|(_, row)| is_there(row));
        there.filter_map(|(index, row)| {
            let field = |at: usize| row[at].load(Ordering::Relaxed);
            Some(KeptOwner {
                open: claim(field(1))?,
                file: Identity {
                    device: field(2),
                    inode: field(3),
                    mount: field(4),
                },
                owner: field(5),
                handle: field(6),
                row: index,
            })
        })
    }
}

/// Where handles of one kind are written.
#[derive(Clone, Debug)]
pub(crate) struct HandleRows(Records, Table);

impl HandleRows {
    pub(crate) fn put(&self, slot: usize, generation: u32, open: RawFd, node: u64) {
        self.0.put_handle(self.1, slot, (generation, open, node));
    }

    /// To be called before the descriptor is closed.
    pub(crate) fn end(&self, slot: usize, generation: u32) {
        self.0.end_handle(self.1, slot, generation);
    }

    pub(crate) fn rows(&self) -> impl Iterator<Item = Row<KeptHandle>> {
        self.0.handles(self.1)
    }
}

fn is_there(row: &[AtomicU64]) -> bool {
    row[0].load(Ordering::Acquire) & THERE != 0
}

fn generation(row: &[AtomicU64]) -> u32 {
    let low = row[0].load(Ordering::Acquire) & (THERE - 1);
    u32::try_from(low).unwrap_or_default()
}

fn node_of(row: &[AtomicU64]) -> Option<(OwnedFd, KeptNode, u64)> {
    let field = |at: usize| row[at].load(Ordering::Relaxed);
    let held = claim(field(2) & 0xffff_ffff)?;
    let node = KeptNode {
        number: held.as_raw_fd(),
        identity: Identity {
            device: field(3),
            inode: field(4),
            mount: field(5),
        },
        kind: kind_of(u16::try_from(field(2) >> 32 & 0xff).ok()?)?,
        marks: u16::try_from(field(2) >> 40 & 0xffff).unwrap_or_default(),
        extra: [field(6), field(7), field(8), field(9)],
    };
    Some((held, node, field(1)))
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

/// All descriptors that a mount's memory names, its own not among them; for the sweep.
pub(super) fn names(memory: &Arc<Shared>) -> Vec<RawFd> {
    if memory.words()[word::MAGIC].load(Ordering::Acquire) != KIND {
        return Vec::new();
    }
    let records = Records(Arc::clone(memory));
    let mut all = Vec::new();
    let column = |table| if matches!(table, Table::Nodes) { 2 } else { 1 };
    for table in [Table::Nodes, Table::Files, Table::Folders, Table::Owners] {
        let there = records.rows(table).filter(|(_, row)| is_there(row));
        all.extend(there.filter_map(|(_, row)| {
            number(row[column(table)].load(Ordering::Relaxed) & 0xffff_ffff)
        }));
    }
    all
}

/// As `names`, of the memory behind a descriptor that stays open.
pub(super) fn names_behind(number: RawFd) -> Vec<RawFd> {
    super::peek(number, ALL).map_or_else(Vec::new, |memory| names(&Arc::new(memory)))
}
