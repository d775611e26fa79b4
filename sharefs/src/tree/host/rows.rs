//! A node's row for the next process: how it is found, written down whenever that changes.
//!
//! The row says what the node itself knows: its descriptor, or after it is let go of its generation, and its name where
//! it is found by that. So a next process finds it again as this one would, and tells it from another as this one
//! would. Who writes has the lock of what is written: `place` for the descriptor and the generation, `way` for the
//! name; `row` itself is the last lock of all.

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};

use rustix::fs::FileType;
use rustix::io::Errno;

use super::descriptors::{Descriptor, Known};
use super::node::{Generation, Ground, HostNode, Inner, Place, Record, Way};
use super::{CLOSED, HostTree, IS_ROOT, Pinned, identity, kind, status};
use crate::keep;
use crate::keep::nodes::{Folder, KeptGeneration, KeptNode, KeptPlace, NodeRow};
use crate::sys::FileHandle;
use crate::tree::{Identity, Kind, Result, Timestamp};

/// Kinds of a kept generation.
const HANDLE: u8 = 1;
const MARK: u8 = 2;
const BORN: u8 = 3;

impl Generation {
    fn write(&self, row: &NodeRow) {
        match self {
            Self::Handle(handle) => row.let_go(HANDLE, handle.as_bytes()),
            Self::Mark(handle) => row.let_go(MARK, handle.as_bytes()),
            Self::Born(born) => {
                let mut bytes = [0; 12];
                bytes[..8].copy_from_slice(&born.seconds.to_le_bytes());
                bytes[8..].copy_from_slice(&born.nanoseconds.to_le_bytes());
                row.let_go(BORN, &bytes);
            }
        }
    }

    /// EINVAL for what `write` never wrote.
    pub(super) fn of_kept(kept: KeptGeneration) -> Result<Self> {
        match kept.kind {
            HANDLE => Ok(Self::Handle(FileHandle::from_bytes(kept.bytes))),
            MARK => Ok(Self::Mark(FileHandle::from_bytes(kept.bytes))),
            BORN => {
                let (seconds, rest) = kept.bytes.split_first_chunk().ok_or(Errno::INVAL)?;
                let nanoseconds = rest.try_into().map_err(|_| Errno::INVAL)?;
                Ok(Self::Born(Timestamp {
                    seconds: i64::from_le_bytes(*seconds),
                    nanoseconds: u32::from_le_bytes(nanoseconds),
                }))
            }
            _ => Err(Errno::INVAL),
        }
    }
}

impl HostTree {
    /// A node that an earlier process left.
    pub(super) fn adopt_node(
        &self,
        kept: &KeptNode,
        place: KeptPlace,
        row: Option<NodeRow>,
    ) -> Result<HostNode> {
        let record = Record {
            identity: kept.identity,
            kind: kept.kind,
            is_root: kept.marks & IS_ROOT != 0,
        };
        let closed = kept.marks & CLOSED != 0;
        let (ground, place, known) = match place {
            KeptPlace::Held(held) => {
                let (held, known) = self.adopt_if(held, |held| {
                    if identity(&status(held)?) != kept.identity {
                        return Err(Errno::STALE);
                    }
                    self.descriptors.know()
                })?;
                let ground = self.ground_of(record, closed);
                if record.is_root {
                    ground.enter(&held);
                }
                if !ground.handles {
                    self.descriptors.note_rename();
                }
                (ground, Ok(held), known)
            }
            KeptPlace::LetGo(generation) => {
                let generation = Generation::of_kept(generation)?;
                let known = self.descriptors.know()?;
                (self.ground_of(record, closed), Err(generation), known)
            }
        };
        Ok(HostNode::left(record, ground, place, (known, row)))
    }

    /// What an earlier process opened from that node.
    pub(super) fn adopt_open(
        &self,
        node: &HostNode,
        open: OwnedFd,
    ) -> Result<(Descriptor, Pinned)> {
        let record = node.record();
        self.adopt_if(open, |open| {
            check_is(open, record.identity, record.kind)?;
            Pinned::new(node)
        })
    }

    /// A descriptor of an earlier process, if it is what it should be. What is not is given back, and not closed here:
    /// its number is somebody else's, or is listed until whoever fails by it is not.
    pub(super) fn adopt_if<R>(
        &self,
        open: OwnedFd,
        check: impl FnOnce(&OwnedFd) -> Result<R>,
    ) -> Result<(Descriptor, R)> {
        match check(&open) {
            Ok(checked) => Ok((self.descriptors.hold_adopted(open), checked)),
            Err(error) => {
                keep::give_back(open);
                Err(error)
            }
        }
    }

    /// The ground of a node that an earlier process left; the root is taken up first.
    fn ground_of(&self, record: Record, closed: bool) -> Arc<Ground> {
        if record.is_root {
            return self.ground_of_root(record.identity, closed);
        }
        let known = self.ground.lock().unwrap_or_else(PoisonError::into_inner);
        let mount = known.0.map(|root| root.mount);
        let same = known.1.upgrade();
        if let Some(ground) = same.filter(|_| mount == Some(record.identity.mount)) {
            return ground;
        }
        drop(known);
        self.by_name.store(true, Ordering::Relaxed);
        let mut last = self.adopted.lock().unwrap_or_else(PoisonError::into_inner);
        let mount = Some(record.identity.mount);
        let same = last.1.upgrade().filter(|_| last.0 == mount);
        match same.filter(|ground| ground.closed == closed) {
            Some(ground) => ground,
            None => {
                let ground = self.new_ground(closed, false);
                *last = (mount, Arc::downgrade(&ground));
                ground
            }
        }
    }
}

/// ESTALE where the descriptor is of something else.
pub(crate) fn check_is(open: &impl AsFd, file: Identity, of: Kind) -> Result<()> {
    let status = status(open)?;
    let found = kind(FileType::from_raw_mode(u32::from(status.stx_mode)));
    if (identity(&status), found) == (file, of) {
        Ok(())
    } else {
        Err(Errno::STALE)
    }
}

impl HostNode {
    /// It is written down in that row from now on, or in none.
    pub(super) fn bind(&self, row: Option<NodeRow>) {
        let node = &*self.0;
        let Some(row) = row else {
            if node.row().take().is_some() {
                node.known.counter().count_kept(false);
            }
            return;
        };
        // Nobody lets go of it or finds it again meanwhile.
        let way = node.way();
        let place = node.read();
        match &*place {
            Place::Held(held) => row.hold(held.as_fd().as_raw_fd()),
            Place::LetGo(generation) => generation.write(&row),
        }
        if !node.ground.handles || node.is_led(&place) {
            row.lead(step(way.as_ref()).as_ref());
        }
        if node.row().replace(row).is_none() {
            node.known.counter().count_kept(true);
        }
    }

    /// Held for as long as it is known; the number of its descriptor. None: as many are as may be, or it is let go of at
    /// this moment.
    pub(super) fn hold(&self) -> Option<RawFd> {
        let node = &*self.0;
        let place = node.read();
        let Place::Held(held) = &*place else {
            return None;
        };
        let is_free = node.record.is_root || node.is_held_always.load(Ordering::Acquire);
        if !is_free {
            if !node.known.counter().clock.may_hold_always() {
                return None;
            }
            node.is_held_always.store(true, Ordering::Release);
            node.holds.fetch_add(1, Ordering::AcqRel);
        }
        Some(held.as_fd().as_raw_fd())
    }

    /// One that an earlier process left, written down in that row already.
    pub(super) fn left(
        record: Record,
        ground: Arc<Ground>,
        place: std::result::Result<Descriptor, Generation>,
        (known, row): (Known, Option<NodeRow>),
    ) -> Self {
        if row.is_some() {
            known.counter().count_kept(true);
        }
        match place {
            Ok(held) => {
                // As it says already, but in tests, where no process is followed by another.
                if let Some(row) = &row {
                    row.hold(held.as_fd().as_raw_fd());
                }
                Self::begin(record, ground, None, Place::Held(held), (known, row))
            }
            Err(generation) => {
                known.counter().count_let_go(true);
                let place = Place::LetGo(generation);
                Self::begin(record, ground, None, place, (known, row))
            }
        }
    }
}

impl Inner {
    pub(super) fn row(&self) -> MutexGuard<'_, Option<NodeRow>> {
        self.row.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it was let go of without a handle that opens it.
    fn is_led(&self, place: &Place) -> bool {
        matches!(place, Place::LetGo(generation) if self.entrance(generation).is_none())
    }

    /// To be called before anybody uses the descriptor, with `place` held.
    pub(super) fn write_held(&self, held: &Descriptor) {
        if let Some(row) = &*self.row() {
            row.hold(held.as_fd().as_raw_fd());
        }
    }

    /// To be called before the descriptor is closed, with `place` held.
    pub(super) fn write_let_go(&self, generation: &Generation) {
        if let Some(row) = &*self.row() {
            generation.write(row);
        }
    }

    /// With `way` held. Where handles are opened, a row says the name only of what was let go of without one.
    pub(super) fn write_way(&self, way: Option<&Way>) {
        // Before the row is locked: a folder's row is never waited for with another's.
        let step = step(way);
        if let Some(row) = &*self.row() {
            row.lead(step.as_ref());
        }
    }

    pub(super) fn has_written_way(&self) -> bool {
        self.row().as_ref().is_some_and(NodeRow::is_led)
    }

    fn as_folder(&self) -> Option<Folder> {
        self.row().as_ref()?.as_folder()
    }

    /// It is dropped, and with it the last that knew the row. The row is its table's to end.
    pub(super) fn drop_row(&mut self) {
        let row = self.row.get_mut().unwrap_or_else(PoisonError::into_inner);
        if row.take().is_some() {
            self.known.counter().count_kept(false);
        }
    }
}

fn step(way: Option<&Way>) -> Option<(Folder, &CStr)> {
    way.and_then(|way| Some((way.folder.as_folder()?, &*way.name)))
}
