//! Rows of what a 9P client knows: shares it has attached, fids, the places they stand for, owners of locks, requests
//! that are answered later.
//!
//! A row says with which commit it begins and with which it ends, and is never changed between: what changes is
//! written as another row. So a request that dies half done has changed nothing, however many rows it wrote, and
//! its commit is still one store. A row, a descriptor or a node that a request has done away with stays until
//! the commit is made (`settle`, `drop_retired`); the follower may need it.
//!
//! A place has no life of its own: it is there while a fid, or a place below it, says so. How many processes died of a
//! request is no commit's either (`attempts.rs`).
//!
//! Rows are written by one thread at a time: who holds the connection's answers (`serve/ninep/ledger.rs`).

use std::collections::BTreeSet;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::super::nodes::{KeptNode, kind_of, kind_word};
use super::super::{bytes_of, named, number, packed};
pub(crate) use super::kept::{
    KeptFid, KeptMount, KeptOpen, KeptOwner, KeptPlace, KeptSlow, KeptUse, KeptWait,
};
use super::word;
use crate::sys::Shared;
use crate::tree::Identity;

mod attempts;

/// Of a name, of a client: 255 bytes at most.
const TEXT: usize = 256 / 8;
/// XATTR_SIZE_MAX.
const VALUE_BYTES: usize = 64 * 1024;

/// Begins and ends with these commits; 0: not at all, or not yet.
const LIFE: usize = 2;

/// Words of a row, and rows; each table has a word in the head for how many were ever used.
const TABLES: [(usize, usize); 7] = [
    (LIFE + 6 + 8, 64),
    (LIFE + 8, 1 << 18),
    (LIFE + 9 + TEXT, 1 << 18),
    (LIFE + 6 + TEXT, 1 << 16),
    (LIFE + 7 + TEXT, 1 << 12),
    (LIFE + 7 + 2, 256),
    (LIFE + TEXT + VALUE_BYTES / 8, 128),
];
const HEAD: usize = 64;

/// Words of all of it.
pub(super) const ALL: usize = start_of(TABLES.len());

const fn start_of(table: usize) -> usize {
    let (mut start, mut index) = (HEAD, 0);
    while index < table {
        let (width, rows) = TABLES[index];
        start += width * rows;
        index += 1;
    }
    start
}

/// One kind of row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Table {
    Mounts,
    Fids,
    Places,
    Owners,
    /// Locks that are waited for.
    Waits,
    /// What the slow lane is at.
    Slow,
    /// Values of extended attributes.
    Values,
}

impl Table {
    const ALL: [Self; TABLES.len()] = [
        Self::Mounts,
        Self::Fids,
        Self::Places,
        Self::Owners,
        Self::Waits,
        Self::Slow,
        Self::Values,
    ];
}

/// Where something is written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Row {
    At(usize),
    /// There was no room, or the tree cannot keep it: while it is there the connection ends with its worker.
    Nowhere,
}

/// See the module's head.
#[derive(Debug)]
pub(crate) struct Rows {
    memory: Arc<Shared>,
    /// Jobs of the slow lane that are written down.
    slow: AtomicUsize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    free: [Vec<usize>; TABLES.len()],
    used: [usize; TABLES.len()],
    /// Ended since the last commit.
    ended: Vec<(Table, usize)>,
    unkept_ended: u64,
    things: Vec<Box<dyn Send>>,
}

impl std::fmt::Debug for State {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            used,
            ended,
            things,
            ..
        } = self;
        let shown = (used, ended, things.len());
        formatter.debug_tuple("State").field(&shown).finish()
    }
}

impl Rows {
    pub(super) fn begin(memory: Arc<Shared>) -> Arc<Self> {
        Arc::new(Self {
            memory,
            slow: AtomicUsize::new(0),
            state: Mutex::default(),
        })
    }

    /// As they were at the last commit: what was written behind it is taken out.
    pub(super) fn adopt(memory: Arc<Shared>) -> Arc<Self> {
        let last = committed(&memory);
        let mut state = State::default();
        for table in Table::ALL {
            let used = used(&memory, table);
            state.used[table as usize] = used;
            for row in (0..used).map(|index| row(&memory, table, index)) {
                if row[0].load(Ordering::Relaxed) > last {
                    row[0].store(0, Ordering::Relaxed);
                }
                // The third word of those that can be over is the commit since which they are.
                let over = matches!(table, Table::Waits | Table::Slow).then_some(2);
                for word in [Some(1), over].into_iter().flatten() {
                    if row[word].load(Ordering::Relaxed) > last {
                        row[word].store(0, Ordering::Relaxed);
                    }
                }
            }
            let live = living(&memory, table);
            state.free[table as usize] = (0..used).filter(|index| !live.contains(index)).collect();
        }
        attempts::begin_again(&memory);
        let slow = living(&memory, Table::Slow).len();
        Arc::new(Self {
            memory,
            slow: AtomicUsize::new(slow),
            state: Mutex::new(state),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of the commit that is to come.
    fn next(&self) -> u64 {
        committed(&self.memory) + 1
    }

    /// A row that begins with the next commit.
    fn put(&self, table: Table, fields: &[u64], texts: &[(usize, &[u8])]) -> Option<usize> {
        let (width, rows) = TABLES[table as usize];
        let index = {
            let mut state = self.state();
            match state.free[table as usize].pop() {
                Some(index) => index,
                None if state.used[table as usize] < rows => {
                    let index = state.used[table as usize];
                    state.used[table as usize] = index + 1;
                    let word = &self.memory.words()[word::ROWS + table as usize];
                    word.store(index as u64 + 1, Ordering::Release);
                    index
                }
                None => return None,
            }
        };
        let row = row(&self.memory, table, index);
        row[0].store(0, Ordering::Relaxed);
        row[1].store(0, Ordering::Relaxed);
        fence(Ordering::Release);
        for (word, field) in row[LIFE..].iter().zip(fields) {
            word.store(*field, Ordering::Relaxed);
        }
        for (at, text) in texts {
            debug_assert!(at + text.len().div_ceil(8) <= width);
            for (word, part) in row[*at..].iter().zip(text.chunks(8)) {
                word.store(packed(part), Ordering::Relaxed);
            }
        }
        row[0].store(self.next(), Ordering::Release);
        Some(index)
    }

    /// The row ends with the next commit.
    fn end(&self, table: Table, index: usize) {
        row(&self.memory, table, index)[1].store(self.next(), Ordering::Release);
        self.state().ended.push((table, index));
    }

    /// What is nowhere: from before the commit on, to behind the one that it ends with.
    pub(crate) fn put_nowhere(&self) -> Row {
        self.memory.words()[word::UNKEPT].fetch_add(1, Ordering::AcqRel);
        Row::Nowhere
    }

    fn put_or_nowhere(&self, table: Table, fields: &[u64], texts: &[(usize, &[u8])]) -> Row {
        match self.put(table, fields, texts) {
            Some(index) => Row::At(index),
            None => self.put_nowhere(),
        }
    }

    fn end_or_nowhere(&self, table: Table, row: Row) {
        match row {
            Row::At(index) => self.end(table, index),
            Row::Nowhere => self.state().unkept_ended += 1,
        }
    }

    /// Stays until the next commit is made.
    pub(crate) fn retire(&self, thing: impl Send + 'static) {
        self.state().things.push(Box::new(thing));
    }

    /// The commit is made: rows that ended with it can be written again. To be called before another is begun.
    pub(crate) fn settle(&self) {
        let mut state = self.state();
        let state = &mut *state;
        for (table, index) in state.ended.drain(..) {
            state.free[table as usize].push(index);
        }
        if state.unkept_ended > 0 {
            let unkept = std::mem::take(&mut state.unkept_ended);
            self.memory.words()[word::UNKEPT].fetch_sub(unkept, Ordering::AcqRel);
        }
    }

    /// And what it did away with goes, with what that did away with in turn.
    pub(crate) fn drop_retired(&self) {
        loop {
            let things = std::mem::take(&mut self.state().things);
            if things.is_empty() {
                return;
            }
            drop(things);
        }
    }

    pub(crate) fn put_mount(&self, mount: &KeptMount) -> Row {
        if mount.name.len() > 64 {
            return self.put_nowhere();
        }
        let Identity {
            device,
            inode,
            mount: of,
        } = mount.folder;
        let fields = [
            mount.place,
            mount.options,
            device,
            inode,
            of,
            mount.name.len() as u64,
        ];
        self.put_or_nowhere(Table::Mounts, &fields, &[(LIFE + 6, &mount.name)])
    }

    pub(crate) fn end_mount(&self, row: Row) {
        self.end_or_nowhere(Table::Mounts, row);
    }

    /// In the order they were attached.
    pub(crate) fn mounts(&self) -> Vec<(usize, KeptMount)> {
        let mut all: Vec<_> = self
            .live(Table::Mounts)
            .map(|(index, row)| {
                let field = |at: usize| row[LIFE + at].load(Ordering::Relaxed);
                let mount = KeptMount {
                    place: field(0),
                    options: field(1),
                    folder: identity(&row[LIFE + 2..]),
                    name: text(&row[LIFE + 6..], field(5), 64),
                };
                (index, mount)
            })
            .collect();
        all.sort_unstable_by_key(|(_, mount)| mount.place);
        all
    }

    pub(crate) fn put_fid(&self, fid: &KeptFid) -> Row {
        let (kind, open, flags) = match fid.used {
            KeptUse::Nothing => (0, None, 0),
            KeptUse::File {
                open,
                append,
                writes,
                in_parts,
            } => {
                let flags = u64::from(append) | u64::from(writes) << 1 | u64::from(in_parts) << 2;
                (1, Some(open), flags)
            }
            KeptUse::Folder { open } => (2, Some(open), 0),
            KeptUse::Reading { .. } => (3, None, 0),
            KeptUse::Writing { flags, .. } => (4, None, u64::from(flags)),
        };
        let (value, length, so_far, name) = match &fid.used {
            KeptUse::Reading { value } => (Some(value), value.len(), value.len(), &[][..]),
            KeptUse::Writing {
                name,
                length,
                bytes,
                ..
            } => (Some(bytes), *length, bytes.len(), &name[..]),
            KeptUse::Nothing | KeptUse::File { .. } | KeptUse::Folder { .. } => {
                (None, 0, 0, &[][..])
            }
        };
        let value = match value {
            None => None,
            Some(value) if value.len() > VALUE_BYTES || name.len() > 8 * TEXT => {
                return self.put_nowhere();
            }
            Some(value) => {
                let texts = [(LIFE, name), (LIFE + TEXT, &value[..])];
                match self.put(Table::Values, &[], &texts) {
                    Some(index) => Some(index),
                    None => return self.put_nowhere(),
                }
            }
        };
        let fields = [
            u64::from(fid.number) | u64::from(fid.mount) << 32,
            fid.place as u64,
            u64::from(fid.user) | kind << 32,
            named(open),
            value.map_or(0, |index| index as u64 + 1) | (name.len() as u64) << 32,
            length as u64,
            so_far as u64,
            flags,
        ];
        match self.put(Table::Fids, &fields, &[]) {
            Some(index) => Row::At(index),
            None => {
                if let Some(index) = value {
                    self.end(Table::Values, index);
                }
                self.put_nowhere()
            }
        }
    }

    pub(crate) fn end_fid(&self, at: Row) {
        if let Row::At(index) = at {
            let value = row(&self.memory, Table::Fids, index)[LIFE + 4].load(Ordering::Relaxed);
            if let Some(value) = place_of(value & 0xffff_ffff) {
                self.end(Table::Values, value);
            }
        }
        self.end_or_nowhere(Table::Fids, at);
    }

    pub(crate) fn fids(&self) -> Vec<(usize, KeptFid)> {
        let live = self.live(Table::Fids);
        live.filter_map(|(index, row)| Some((index, self.fid(row)?)))
            .collect()
    }

    fn fid(&self, row_of: &[AtomicU64]) -> Option<KeptFid> {
        let field = |at: usize| row_of[LIFE + at].load(Ordering::Relaxed);
        let open = || number(field(3));
        let value = |from: usize, length: u64, longest: usize| {
            let index = place_of(field(4) & 0xffff_ffff)?;
            Some(text(
                &row(&self.memory, Table::Values, index)[from..],
                length,
                longest,
            ))
        };
        let used = match field(2) >> 32 {
            0 => KeptUse::Nothing,
            1 => KeptUse::File {
                open: open()?,
                append: field(7) & 1 != 0,
                writes: field(7) & 2 != 0,
                in_parts: field(7) & 4 != 0,
            },
            2 => KeptUse::Folder { open: open()? },
            3 => KeptUse::Reading {
                value: value(LIFE + TEXT, field(6), VALUE_BYTES)?,
            },
            _ => KeptUse::Writing {
                name: value(LIFE, field(4) >> 32, 8 * TEXT)?,
                flags: low(field(7)),
                length: usize::try_from(field(5)).ok()?,
                bytes: value(LIFE + TEXT, field(6), VALUE_BYTES)?,
            },
        };
        Some(KeptFid {
            number: low(field(0)),
            mount: high(field(0)),
            place: usize::try_from(field(1)).ok()?,
            user: low(field(2)),
            used,
        })
    }

    /// None where there is no room: fids there are nowhere.
    pub(crate) fn put_place(&self, place: &KeptPlace) -> Option<usize> {
        let name = place.above.as_ref().map_or(&[][..], |(_, name)| name);
        if name.len() > 8 * TEXT {
            return None;
        }
        let above = place
            .above
            .as_ref()
            .map_or(0, |(above, _)| *above as u64 + 1);
        let number = place.number;
        let KeptNode {
            identity,
            kind,
            marks,
            extra,
        } = place.node;
        let fields = [
            above | (name.len() as u64) << 32,
            named(Some(number)) | u64::from(kind_word(kind)) << 32 | u64::from(marks) << 40,
            identity.device,
            identity.inode,
            identity.mount,
            extra[0],
            extra[1],
            extra[2],
            extra[3],
        ];
        self.put(Table::Places, &fields, &[(LIFE + 9, name)])
    }

    /// Nobody is there any more.
    pub(crate) fn end_place(&self, index: usize) {
        self.end(Table::Places, index);
    }

    pub(crate) fn place(&self, index: usize) -> Option<KeptPlace> {
        (index < used(&self.memory, Table::Places)).then_some(())?;
        let row = row(&self.memory, Table::Places, index);
        let field = |at: usize| row[LIFE + at].load(Ordering::Relaxed);
        let number = number(field(1) & 0xffff_ffff)?;
        let node = KeptNode {
            identity: identity(&row[LIFE + 2..]),
            kind: kind_of(u16::try_from(field(1) >> 32 & 0xff).ok()?)?,
            marks: u16::try_from(field(1) >> 40 & 0xffff).ok()?,
            extra: [field(5), field(6), field(7), field(8)],
        };
        let above = place_of(field(0) & 0xffff_ffff);
        let above = above.map(|above| (above, text(&row[LIFE + 9..], field(0) >> 32, 8 * TEXT)));
        Some(KeptPlace {
            number,
            node,
            above,
        })
    }

    pub(crate) fn put_owner(&self, owner: &KeptOwner) -> Row {
        let Identity {
            device,
            inode,
            mount,
        } = owner.file;
        let fields = [
            named(Some(owner.open)),
            device,
            inode,
            mount,
            u64::from(owner.process) | (owner.client.len() as u64) << 32,
            u64::from(owner.fid) | u64::from(owner.mount) << 32,
        ];
        self.put_or_nowhere(Table::Owners, &fields, &[(LIFE + 6, &owner.client)])
    }

    pub(crate) fn end_owner(&self, row: Row) {
        self.end_or_nowhere(Table::Owners, row);
    }

    pub(crate) fn owners(&self) -> Vec<(usize, KeptOwner)> {
        let live = self.live(Table::Owners);
        live.filter_map(|(index, row)| {
            let field = |at: usize| row[LIFE + at].load(Ordering::Relaxed);
            let owner = KeptOwner {
                open: number(field(0))?,
                file: identity(&row[LIFE + 1..]),
                process: low(field(4)),
                client: text(&row[LIFE + 6..], field(4) >> 32, 8 * TEXT),
                fid: low(field(5)),
                mount: high(field(5)),
            };
            Some((index, owner))
        })
        .collect()
    }

    pub(crate) fn put_wait(&self, wait: &KeptWait) -> Row {
        let over = if wait.is_over { self.next() } else { 0 };
        let length = wait.client.len() as u64;
        let fields = [
            over,
            u64::from(wait.tag) | u64::from(wait.kind) << 16 | length << 32,
            u64::from(wait.fid) | u64::from(wait.mount) << 32,
            wait.start,
            wait.length,
            u64::from(wait.process),
            attempts::NONE,
        ];
        self.put_or_nowhere(Table::Waits, &fields, &[(LIFE + 7, &wait.client)])
    }

    /// It is answered, or nobody wants its answer.
    pub(crate) fn end_wait(&self, row: Row) {
        self.end_or_nowhere(Table::Waits, row);
    }

    /// Its fid is gone.
    pub(crate) fn wait_is_over(&self, at: Row) {
        if let Row::At(index) = at {
            row(&self.memory, Table::Waits, index)[LIFE].store(self.next(), Ordering::Release);
        }
    }

    pub(crate) fn waits(&self) -> Vec<(usize, KeptWait)> {
        let live = self.live(Table::Waits);
        live.filter_map(|(index, row)| {
            let field = |at: usize| row[LIFE + at].load(Ordering::Relaxed);
            let wait = KeptWait {
                tag: u16::try_from(field(1) & 0xffff).ok()?,
                kind: u8::try_from(field(1) >> 16 & 0xff).ok()?,
                fid: low(field(2)),
                mount: high(field(2)),
                start: field(3),
                length: field(4),
                process: low(field(5)),
                client: text(&row[LIFE + 7..], field(1) >> 32, 8 * TEXT),
                is_over: field(0) != 0,
            };
            Some((index, wait))
        })
        .collect()
    }

    /// A request of the slow lane; `about`: the fid, and what is open there, which stays open until it is answered.
    pub(crate) fn put_slow(&self, frame: &[u8], about: Option<(u32, Option<KeptOpen>)>) -> Row {
        self.slow.fetch_add(1, Ordering::Relaxed);
        if frame.len() > 16 {
            return self.put_nowhere();
        }
        let fid = about.map_or(0, |(fid, _)| u64::from(fid) + 1);
        let open = about.and_then(|(_, open)| open);
        let kind = open.map_or(0, |open| u64::from(kind_word(open.kind)));
        let file = open.map_or([0; 3], |open| {
            let Identity {
                device,
                inode,
                mount,
            } = open.file;
            [device, inode, mount]
        });
        let fields = [
            0,
            fid | (frame.len() as u64) << 40 | kind << 48,
            named(open.map(|open| open.number)),
            file[0],
            file[1],
            file[2],
            attempts::NONE,
        ];
        self.put_or_nowhere(Table::Slow, &fields, &[(LIFE + 7, frame)])
    }

    pub(crate) fn end_slow(&self, row: Row) {
        self.slow.fetch_sub(1, Ordering::Relaxed);
        self.end_or_nowhere(Table::Slow, row);
    }

    /// The fid is gone: what the slow lane does with it is not to be done with another.
    pub(crate) fn slow_is_over(&self, fid: u32) {
        if self.slow.load(Ordering::Relaxed) == 0 {
            return;
        }
        for (_, row) in self.live(Table::Slow) {
            let about = row[LIFE + 1].load(Ordering::Relaxed) & 0xff_ffff_ffff;
            if about == u64::from(fid) + 1 && row[LIFE].load(Ordering::Relaxed) == 0 {
                row[LIFE].store(self.next(), Ordering::Release);
            }
        }
    }

    /// In their order.
    pub(crate) fn slow(&self) -> Vec<KeptSlow> {
        let live = self.live(Table::Slow).map(|(index, row)| {
            let field = |at: usize| row[LIFE + at].load(Ordering::Relaxed);
            let kind = u16::try_from(field(1) >> 48).ok().and_then(kind_of);
            let open = number(field(2)).zip(kind);
            KeptSlow {
                row: index,
                frame: text(&row[LIFE + 7..], field(1) >> 40 & 0xff, 16),
                open: open.map(|(number, kind)| KeptOpen {
                    number,
                    file: identity(&row[LIFE + 3..]),
                    kind,
                }),
                is_over: field(0) != 0,
                born: row[0].load(Ordering::Relaxed),
            }
        });
        let mut all: Vec<_> = live.collect();
        all.sort_unstable_by_key(|slow| slow.born);
        all
    }

    fn live(&self, table: Table) -> impl Iterator<Item = (usize, &[AtomicU64])> {
        let last = committed(&self.memory);
        rows(&self.memory, table).filter(move |(_, row)| is_live(row, last))
    }
}

/// All descriptors that rows name; for the sweep.
pub(super) fn names(memory: &Shared) -> Vec<RawFd> {
    let last = committed(memory);
    let column = |table: Table, at: usize| {
        let live = rows(memory, table).filter(move |(_, row)| is_live(row, last));
        live.filter_map(move |(_, row)| number(row[LIFE + at].load(Ordering::Relaxed)))
    };
    let mut all: Vec<RawFd> = column(Table::Fids, 3)
        .chain(column(Table::Owners, 0))
        .chain(column(Table::Slow, 2))
        .collect();
    for index in living(memory, Table::Places) {
        let held = row(memory, Table::Places, index)[LIFE + 1].load(Ordering::Relaxed);
        all.extend(number(held & 0xffff_ffff));
    }
    all
}

/// Which rows are there at the last commit.
fn living(memory: &Shared, table: Table) -> BTreeSet<usize> {
    let last = committed(memory);
    let live = |table| rows(memory, table).filter(move |(_, row)| is_live(row, last));
    let fids = || live(Table::Fids);
    match table {
        Table::Places => {
            let mut found = BTreeSet::new();
            for (_, fid) in fids() {
                let mut next = usize::try_from(fid[LIFE + 1].load(Ordering::Relaxed)).ok();
                while let Some(index) = next
                    && index < used(memory, table)
                    && found.insert(index)
                {
                    let above = row(memory, table, index)[LIFE].load(Ordering::Relaxed);
                    next = place_of(above & 0xffff_ffff);
                }
            }
            found
        }
        Table::Values => fids()
            .filter_map(|(_, fid)| place_of(fid[LIFE + 4].load(Ordering::Relaxed) & 0xffff_ffff))
            .collect(),
        Table::Mounts | Table::Fids | Table::Owners | Table::Waits | Table::Slow => {
            live(table).map(|(index, _)| index).collect()
        }
    }
}

fn committed(memory: &Shared) -> u64 {
    memory.words()[word::COMMIT].load(Ordering::Acquire)
}

fn is_live(row: &[AtomicU64], last: u64) -> bool {
    let (born, died) = (
        row[0].load(Ordering::Acquire),
        row[1].load(Ordering::Acquire),
    );
    (1..=last).contains(&born) && (died == 0 || died > last)
}

fn used(memory: &Shared, table: Table) -> usize {
    let used = memory.words()[word::ROWS + table as usize].load(Ordering::Acquire);
    usize::try_from(used).map_or(0, |used| used.min(TABLES[table as usize].1))
}

fn rows(memory: &Shared, table: Table) -> impl Iterator<Item = (usize, &[AtomicU64])> {
    (0..used(memory, table)).map(move |index| (index, row(memory, table, index)))
}

fn row(memory: &Shared, table: Table, index: usize) -> &[AtomicU64] {
    let (width, rows) = TABLES[table as usize];
    let start = word::ROWS + start_of(table as usize) + index.min(rows - 1) * width;
    &memory.words()[start..start + width]
}

fn identity(words: &[AtomicU64]) -> Identity {
    let field = |at: usize| words[at].load(Ordering::Relaxed);
    Identity {
        device: field(0),
        inode: field(1),
        mount: field(2),
    }
}

fn text(words: &[AtomicU64], length: u64, longest: usize) -> Vec<u8> {
    let length = usize::try_from(length).map_or(longest, |length| length.min(longest));
    bytes_of(&words[..length.div_ceil(8).min(words.len())], length)
}

fn place_of(word: u64) -> Option<usize> {
    usize::try_from(word.checked_sub(1)?).ok()
}

fn low(word: u64) -> u32 {
    u32::try_from(word & 0xffff_ffff).unwrap_or_default()
}

fn high(word: u64) -> u32 {
    u32::try_from(word >> 32).unwrap_or_default()
}

/// Takes over a descriptor that a row names.
pub(crate) type Claim<'c> = &'c dyn Fn(RawFd) -> Option<OwnedFd>;

/// The same, from those that the worker before us left.
pub(crate) fn claim(of: RawFd) -> Option<OwnedFd> {
    super::claim(named(Some(of))).filter(|taken| taken.as_raw_fd() == of)
}

#[cfg(test)]
mod tests;
