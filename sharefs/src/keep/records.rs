//! What one mount of a share knows, as rows of shared memory: nodes (`nodes.rs`), open files and folders, lock owners.
//!
//! A row has the place of the slot it is written for, so nothing is searched, and its first word says
//! whether it is there. Rows are written by whoever holds the lock of their table.

use std::os::fd::{OwnedFd, RawFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::io::Errno;

use super::nodes::{DESCRIPTOR, NODE};
use super::pieces::{MOST_PIECES, PIECE, Pieces};
use super::{MAGIC, claim, named, number};
use crate::sys::Shared;
use crate::tree::Identity;

/// As many as a process may know (`tree::host::descriptors`); rows that were never used take no memory.
const MOST_NODES: usize = 1 << 24;
const MOST_HANDLES: usize = 1 << 20;
const MOST_OWNERS: usize = 1 << 16;

const HANDLE: usize = 4;
const OWNER: usize = 8;

const HEAD: usize = 64;
const NODES: usize = HEAD;
const FILES: usize = NODES + MOST_NODES * NODE;
const FOLDERS: usize = FILES + MOST_HANDLES * HANDLE;
const OWNERS: usize = FOLDERS + MOST_HANDLES * HANDLE;
const TEXTS: usize = OWNERS + MOST_OWNERS * OWNER;
const ALL: usize = TEXTS + MOST_PIECES * PIECE;

mod word {
    pub(super) const MAGIC: usize = 0;
    pub(super) const AGREED: usize = 1;
    /// Of the share's options.
    pub(super) const OPTIONS: usize = 2;
    /// How many rows were ever used: nodes, files, folders, owners.
    pub(super) const USED: usize = 8;
}

/// In a row's first word, above its generation.
pub(super) const THERE: u64 = 1 << 32;
/// This memory is of this kind.
const KIND: u64 = MAGIC ^ (1 << 56);

/// See the module's head.
#[derive(Clone, Debug)]
pub(crate) struct Records(Arc<Memory>);

#[derive(Debug)]
struct Memory {
    shared: Shared,
    pieces: Mutex<Pieces>,
}

/// One kind of row.
#[derive(Clone, Copy, Debug)]
pub(super) enum Table {
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
        Ok(Self::of(shared))
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
        let records = Self::of(shared);
        let left = Pieces::left(records.texts(), records.leads());
        *records
            .pieces()
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = left;
        Ok(records)
    }

    fn of(shared: Shared) -> Self {
        let pieces = Mutex::default();
        Self(Arc::new(Memory { shared, pieces }))
    }

    /// As the next worker has them.
    #[cfg(test)]
    pub(crate) fn of_same(other: &Self) -> Self {
        Self::adopt(claim(named(Some(other.number()))).unwrap(), 0).unwrap()
    }

    /// Pieces that are in use.
    #[cfg(test)]
    pub(crate) fn texts_used(&self) -> usize {
        self.pieces().lock().unwrap().used()
    }

    pub(crate) fn number(&self) -> RawFd {
        self.0.shared.number()
    }

    /// Whether both are of one mount.
    pub(super) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// What INIT agreed on.
    pub(crate) fn agreed(&self) -> u64 {
        self.words()[word::AGREED].load(Ordering::Relaxed)
    }

    fn words(&self) -> &[AtomicU64] {
        self.0.shared.words()
    }

    /// Those that `pieces` says are free, and those that rows lead to.
    pub(super) fn texts(&self) -> &[AtomicU64] {
        &self.words()[TEXTS..]
    }

    pub(super) fn pieces(&self) -> &Mutex<Pieces> {
        &self.0.pieces
    }

    pub(super) fn row(&self, table: Table, index: usize) -> Option<&[AtomicU64]> {
        row(self.words(), table, index)
    }

    /// A row to be written, counted as used from now on.
    pub(super) fn write(&self, table: Table, index: usize) -> Option<&[AtomicU64]> {
        let row = self.row(table, index)?;
        let used = &self.words()[table.used()];
        if used.load(Ordering::Relaxed) <= index as u64 {
            used.store(index as u64 + 1, Ordering::Release);
        }
        Some(row)
    }

    pub(super) fn rows(&self, table: Table) -> impl Iterator<Item = (usize, &[AtomicU64])> {
        rows(self.words(), table)
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

    /// It is of that handle from now on.
    pub(crate) fn move_owner(&self, index: usize, handle: u64) {
        if let Some(row) = self.row(Table::Owners, index) {
            row[6].store(handle, Ordering::Release);
        }
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

fn row(words: &[AtomicU64], table: Table, index: usize) -> Option<&[AtomicU64]> {
    let (start, width, rows) = table.shape();
    let from = start + index * width;
    (index < rows).then(|| &words[from..from + width])
}

fn rows(words: &[AtomicU64], table: Table) -> impl Iterator<Item = (usize, &[AtomicU64])> {
    let used = words[table.used()].load(Ordering::Acquire);
    let used = usize::try_from(used).unwrap_or_default();
    (0..used).filter_map(move |index| Some((index, row(words, table, index)?)))
}

pub(super) fn is_there(row: &[AtomicU64]) -> bool {
    row[0].load(Ordering::Acquire) & THERE != 0
}

pub(super) fn generation(row: &[AtomicU64]) -> u32 {
    let low = row[0].load(Ordering::Acquire) & (THERE - 1);
    u32::try_from(low).unwrap_or_default()
}

/// All descriptors that a mount's memory names, its own not among them; for the sweep.
fn names(memory: &Shared) -> Vec<RawFd> {
    let words = memory.words();
    if words[word::MAGIC].load(Ordering::Acquire) != KIND {
        return Vec::new();
    }
    let mut all = Vec::new();
    let column = |table| if matches!(table, Table::Nodes) { 2 } else { 1 };
    for table in [Table::Nodes, Table::Files, Table::Folders, Table::Owners] {
        let there = rows(words, table).filter(|(_, row)| is_there(row));
        all.extend(there.filter_map(|(_, row)| {
            number(row[column(table)].load(Ordering::Relaxed) & DESCRIPTOR)
        }));
    }
    all
}

/// As `names`, of the memory behind a descriptor that stays open.
pub(super) fn names_behind(number: RawFd) -> Vec<RawFd> {
    super::peek(number, ALL).map_or_else(Vec::new, |memory| names(&memory))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn an_owner_that_is_of_another_handle_now_is_so_behind_a_death() {
        let records = Records::create(0, 0).unwrap();
        let file = Identity {
            device: 1,
            inode: 2,
            mount: 3,
        };
        let open = rustix::fs::memfd_create("owner", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        for (row, owner) in [(0, 7), (1, 8)] {
            records.put_owner(row, open.as_raw_fd(), (file, owner, 10));
        }
        records.move_owner(1, 20);
        let next = Records::of_same(&records);
        let owners = next.owners();
        let left: Vec<_> = owners.map(|kept| (kept.owner, kept.handle)).collect();
        assert_eq!(left, [(7, 10), (8, 20)]);
    }
}
