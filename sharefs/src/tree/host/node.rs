//! A place in a shared folder, and the descriptor that it has while it is used.
//!
//! A guest may know a million files; a process may not hold as many descriptors, and each would keep kernel
//! memory. So a node can be let go of (`clock.rs` says which) and is found again when it is asked for: by its
//! file handle, where the daemon may open one (CAP_DAC_READ_SEARCH), else by its name in its folder, one step
//! as any other. Both ways it must be the same file: device, inode and mount, and the generation that was
//! taken down when it was let go of. What is something else by now is ESTALE, and a guest's kernel then asks
//! for the name again.
//!
//! | | by handle | by name |
//! |---|---|---|
//! | renamed by this guest | found | found: the session tells (`HostTree::renamed`), or its descriptor when it is let go of |
//! | renamed by the host or another guest | found | ESTALE |
//! | removed, with no other name | held, if removed by this guest; else ESTALE | the same |
//! | replaced under its name | ESTALE | ESTALE |
//!
//! Never let go of: a share's own folder, what is open, what has no name left, and what has neither handle nor time of
//! birth. `rows.rs` writes for a next process how each is found. Read first: open_by_handle_at(2), `host/mod.rs`.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};

use rustix::fs::{AtFlags, Mode, OFlags, Statx, StatxFlags};
use rustix::io::Errno;
use rustix::path::DecInt;

use super::descriptors::{Descriptor, Known};
use super::{crossing, identity, status, status_of, timestamp};
use crate::keep::nodes::NodeRow;
use crate::sys::{FileHandle, Handle};
use crate::tree::{Identity, Kind, Result, Timestamp};

/// A place in the tree. Clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct HostNode(pub(super) Arc<Inner>);

/// What a node is for as long as it lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) identity: Identity,
    pub(crate) kind: Kind,
    /// The share's own folder: its `..` is itself.
    pub(crate) is_root: bool,
}

/// What tells a file from one that got its inode number later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Generation {
    /// A handle that can be opened.
    Handle(FileHandle),
    /// One that only tells files apart.
    Mark(FileHandle),
    /// Where there are no handles. Two files of one inode number that were made in the same tick of the
    /// clock are one to it.
    Born(Timestamp),
}

/// Where it was found, or was renamed to.
#[derive(Clone, Debug)]
pub(crate) struct Way {
    pub(crate) folder: Arc<Inner>,
    pub(crate) name: Box<CStr>,
}

/// What all nodes of a mount have in common.
#[derive(Debug)]
pub(super) struct Ground {
    /// On procfs, which is not shared; see `is_closed`.
    pub(super) closed: bool,
    /// Whether handles are to be opened here.
    pub(super) handles: bool,
    /// A folder here that is open, which opening a handle needs.
    entrance: OnceLock<OwnedFd>,
    /// /proc/self/fd.
    own_descriptors: Arc<OwnedFd>,
}

/// See the module's head.
#[derive(Debug)]
pub(crate) struct Inner {
    pub(super) record: Record,
    pub(super) ground: Arc<Ground>,
    place: RwLock<Place>,
    /// Held while it is found again.
    way: Mutex<Option<Way>>,
    /// Since the clock's hand passed.
    used: AtomicBool,
    /// Open files and folders, and whoever else needs it to stay.
    pub(super) holds: AtomicU32,
    /// One of the holds is for as long as it is known.
    pub(super) is_held_always: AtomicBool,
    /// Its place on the clock.
    clock: AtomicU32,
    /// Where it is written down for the next process, while a session knows it.
    pub(super) row: Mutex<Option<NodeRow>>,
    pub(super) known: Known,
}

#[derive(Debug)]
pub(super) enum Place {
    Held(Descriptor),
    LetGo(Generation),
}

/// What came of letting go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Attempt {
    Gone,
    /// It is open, or must be held for ever.
    Stays,
    /// Somebody uses it at this moment.
    Busy,
}

/// Not on the clock.
const NOWHERE: u32 = u32::MAX;
/// A node that is let go of as often as it is found again while somebody waits to use it.
const ATTEMPTS: usize = 64;
/// Folders above one another that are looked for to find a node again.
const DEEPEST: usize = 1 << 16;

impl Ground {
    pub(super) fn new(closed: bool, handles: bool, own_descriptors: Arc<OwnedFd>) -> Arc<Self> {
        Arc::new(Self {
            closed,
            handles,
            entrance: OnceLock::new(),
            own_descriptors,
        })
    }

    /// By a folder that an earlier process left, before anything is found by handles that it left, too.
    pub(super) fn enter(&self, folder: &impl AsFd) {
        if self.handles
            && let Some(opened) = open_folder(folder.as_fd())
        {
            self.entrance.set(opened).ok();
        }
    }
}

impl HostNode {
    pub(super) fn new(
        record: Record,
        ground: Arc<Ground>,
        way: Option<Way>,
        place: Descriptor,
        known: Known,
    ) -> Self {
        Self::begin(record, ground, way, Place::Held(place), (known, None))
    }

    pub(super) fn begin(
        record: Record,
        ground: Arc<Ground>,
        way: Option<Way>,
        place: Place,
        (known, row): (Known, Option<NodeRow>),
    ) -> Self {
        let is_held = matches!(place, Place::Held(_));
        let node = Arc::new(Inner {
            record,
            ground,
            place: RwLock::new(place),
            way: Mutex::new(way),
            used: AtomicBool::new(false),
            holds: AtomicU32::new(0),
            is_held_always: AtomicBool::new(false),
            clock: AtomicU32::new(NOWHERE),
            row: Mutex::new(row),
            known,
        });
        if is_held && !record.is_root {
            node.start_clock();
        }
        Self(node)
    }

    pub(super) fn record(&self) -> &Record {
        &self.0.record
    }

    /// Does `work` with the node's descriptor, which stays what it is meanwhile.
    pub(super) fn with<R>(&self, work: impl FnOnce(BorrowedFd<'_>) -> Result<R>) -> Result<R> {
        self.0.with(work)
    }

    /// Keeps it from being let go of, until as many `unpin`.
    pub(super) fn pin(&self) -> Result<()> {
        self.with(|_| {
            self.0.holds.fetch_add(1, Ordering::AcqRel);
            Ok(())
        })
    }

    pub(super) fn unpin(&self) {
        if self.0.holds.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.known.counter().clock.changed();
        }
    }

    pub(super) fn is_held(&self) -> bool {
        matches!(&*self.0.read(), Place::Held(_))
    }

    /// Whether `found`, which has its identity, is the same file; then it is held again.
    pub(super) fn is_same(&self, found: &Self) -> bool {
        if Arc::ptr_eq(&self.0, &found.0) {
            return true;
        }
        let way = self.0.way();
        let generation = match &*self.0.read() {
            Place::Held(_) => None,
            Place::LetGo(generation) => Some(generation.clone()),
        };
        let Some(generation) = generation else {
            // Its inode is nobody else's. What was held because it had lost its name has one again.
            let is_for_ever = self.0.clock.load(Ordering::Acquire) == NOWHERE;
            drop(way);
            if is_for_ever && !self.0.record.is_root {
                self.0.set_way(found.0.way().take());
            }
            return true;
        };
        let counter = self.0.known.counter();
        let again = counter.hold_node(|| {
            found.with(|place| {
                if !generation.is_of(place)? {
                    return Err(Errno::STALE);
                }
                rustix::io::fcntl_dupfd_cloexec(place, 0)
            })
        });
        match again {
            Ok(again) => {
                self.0.found_again(again);
                drop(way);
                // The name it has been found by leads to it.
                self.0.set_way(found.0.way().take());
                true
            }
            Err(Errno::STALE) => {
                counter.stale.one();
                false
            }
            // It cannot be told now; whoever uses the node will be.
            Err(_) => true,
        }
    }

    /// Its name in its folder has changed.
    pub(super) fn renamed(&self, folder: &Self, name: &CStr) {
        self.0.set_way(Some(Way::new(folder, name)));
    }

    /// Its name, as an earlier process has written it down.
    pub(super) fn lead(&self, folder: &Self, name: &CStr) {
        self.0.replace_way(Some(Way::new(folder, name)), |_| ());
    }
}

impl Way {
    pub(super) fn new(folder: &HostNode, name: &CStr) -> Self {
        Self {
            folder: Arc::clone(&folder.0),
            name: name.into(),
        }
    }
}

impl Generation {
    /// Of a file that is held. None: nothing tells it from a later one.
    fn of(place: BorrowedFd<'_>, status: &Statx) -> Option<Self> {
        match FileHandle::of(place) {
            Ok((handle, Handle::Opens)) => Some(Self::Handle(handle)),
            Ok((handle, Handle::TellsApart)) => Some(Self::Mark(handle)),
            Err(_) => (status.stx_mask & StatxFlags::BTIME.bits() != 0)
                .then(|| Self::Born(timestamp(status.stx_btime))),
        }
    }

    fn is_of(&self, place: BorrowedFd<'_>) -> Result<bool> {
        match self {
            Self::Handle(handle) | Self::Mark(handle) => Ok(FileHandle::of(place)?.0 == *handle),
            Self::Born(born) => Ok(timestamp(status(&place)?.stx_btime) == *born),
        }
    }
}

impl Inner {
    pub(super) fn read(&self) -> std::sync::RwLockReadGuard<'_, Place> {
        self.place.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn way(&self) -> MutexGuard<'_, Option<Way>> {
        self.way.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start_clock(self: &Arc<Self>) {
        let place = self.known.counter().clock.add(Arc::downgrade(self));
        self.clock.store(place, Ordering::Release);
    }

    fn stop_clock(&self) {
        let place = self.clock.swap(NOWHERE, Ordering::AcqRel);
        if place != NOWHERE {
            self.known.counter().clock.remove(place);
        }
    }

    pub(super) fn was_used(&self) -> bool {
        self.used.swap(false, Ordering::Relaxed)
    }

    fn with<R>(self: &Arc<Self>, work: impl FnOnce(BorrowedFd<'_>) -> Result<R>) -> Result<R> {
        for _ in 0..ATTEMPTS {
            if let Place::Held(place) = &*self.read() {
                if !self.used.load(Ordering::Relaxed) {
                    self.used.store(true, Ordering::Relaxed);
                }
                return work(place.as_fd());
            }
            self.find_again()?;
        }
        self.known.counter().refused.one();
        Err(Errno::MFILE)
    }

    /// Finds it again, and before it the folders above that are needed for it.
    ///
    /// No lock is held from one to the next, so whoever lets them go again meanwhile is only one attempt more.
    fn find_again(self: &Arc<Self>) -> Result<()> {
        let mut missing = vec![Arc::clone(self)];
        while let Some(above) = missing.last().and_then(|node| node.folder_to_find()) {
            if missing.len() == DEEPEST {
                return Err(Errno::STALE);
            }
            missing.push(above);
        }
        let counter = self.known.counter();
        while let Some(node) = missing.pop() {
            match node.find_from_above() {
                Ok(()) => {}
                // The folder was let go of already: begin anew.
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::STALE) => {
                    counter.stale.one();
                    return Err(Errno::STALE);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The folder that has to be found before this one can be.
    fn folder_to_find(&self) -> Option<Arc<Self>> {
        let by_handle = match &*self.read() {
            Place::Held(_) => return None,
            Place::LetGo(generation) => self.entrance(generation).is_some(),
        };
        if by_handle {
            return None;
        }
        let folder = self.way().as_ref().map(|way| Arc::clone(&way.folder))?;
        let is_held = matches!(&*folder.read(), Place::Held(_));
        (!is_held).then_some(folder)
    }

    pub(super) fn entrance<'a>(
        &'a self,
        generation: &'a Generation,
    ) -> Option<(&'a FileHandle, &'a OwnedFd)> {
        match generation {
            Generation::Handle(handle) => Some((handle, self.ground.entrance.get()?)),
            Generation::Mark(_) | Generation::Born(_) => None,
        }
    }

    /// With its folder held, if it needs that. EAGAIN: it is not.
    fn find_from_above(self: &Arc<Self>) -> Result<()> {
        let way = self.way();
        let generation = match &*self.read() {
            Place::Held(_) => return Ok(()),
            Place::LetGo(generation) => generation.clone(),
        };
        let by_handle = self.entrance(&generation);
        let again = self.known.counter().hold_node(|| match by_handle {
            Some((handle, entrance)) => open_handle(handle, entrance.as_fd()),
            None => step_again(way.as_ref()),
        })?;
        let found = identity(&status(&again)?);
        let is_same = found == self.record.identity
            && (by_handle.is_some() || generation.is_of(again.as_fd())?);
        if !is_same {
            return Err(Errno::STALE);
        }
        self.found_again(again);
        Ok(())
    }

    /// With `way` held by the caller, so that nobody else does the same.
    fn found_again(self: &Arc<Self>, again: Descriptor) {
        let counter = self.known.counter();
        {
            let mut place = self.place.write().unwrap_or_else(PoisonError::into_inner);
            self.write_held(&again);
            *place = Place::Held(again);
        }
        counter.count_let_go(false);
        counter.reopened.one();
        self.start_clock();
    }

    /// Lets go of the descriptor, if the node can be found again without it.
    pub(super) fn let_go(self: &Arc<Self>) -> Attempt {
        // Never waited for: who lets go holds locks of other nodes.
        let Ok(mut place) = self.place.try_write() else {
            return Attempt::Busy;
        };
        if self.holds.load(Ordering::Acquire) > 0 {
            return Attempt::Stays;
        }
        let Place::Held(held) = &*place else {
            return Attempt::Busy;
        };
        // One that is just being held again.
        if self.clock.load(Ordering::Acquire) == NOWHERE {
            return Attempt::Busy;
        }
        let counter = self.known.counter();
        // First of all: who renames it from now on tells it of that.
        counter.count_let_go(true);
        match self.generation_to_find(held) {
            Ok(generation) => {
                self.stop_clock();
                self.write_let_go(&generation);
                let gone = std::mem::replace(&mut *place, Place::LetGo(generation));
                drop(place);
                drop(gone);
                counter.evicted.one();
                Attempt::Gone
            }
            Err(attempt) => {
                counter.count_let_go(false);
                if attempt == Attempt::Stays {
                    self.stop_clock();
                }
                attempt
            }
        }
    }

    /// An error: without its descriptor it would be lost.
    fn generation_to_find(&self, held: &Descriptor) -> std::result::Result<Generation, Attempt> {
        let of_held = status(held).map_err(|_| Attempt::Busy)?;
        if of_held.stx_nlink == 0 {
            return Err(Attempt::Stays);
        }
        let generation = Generation::of(held.as_fd(), &of_held).ok_or(Attempt::Stays)?;
        let mut way = self.way.try_lock().map_err(|_| Attempt::Busy)?;
        if matches!(generation, Generation::Handle(_)) && self.open_entrance(held, way.as_ref()) {
            return Ok(generation);
        }
        let found = way.as_mut().ok_or(Attempt::Stays)?;
        let mut is_to_write = self.ground.handles;
        if let Some(now) = self.other_name(held, found)? {
            found.name = now;
            is_to_write = true;
        }
        if is_to_write {
            self.write_way(way.as_ref());
        }
        Ok(generation)
    }

    /// The name that it has in its folder by now, where nobody told of that; None: that by which it was found.
    fn other_name(
        &self,
        held: &Descriptor,
        way: &Way,
    ) -> std::result::Result<Option<Box<CStr>>, Attempt> {
        let place = way.folder.place.try_read();
        let above = match place.as_deref() {
            Ok(Place::Held(above)) => above,
            // A folder that is let go of cannot be asked; then the name is believed, and seen when it is used.
            Ok(Place::LetGo(_)) | Err(_) => {
                let is_doubted = self.known.counter().are_names_doubted();
                let now = is_doubted.then(|| self.name_of(held)).flatten();
                return Ok(now.filter(|now| *now != way.name));
            }
        };
        let is_here = |name: &CStr| {
            // Asking by name asks what is mounted there, which may be ourselves.
            let there = if crossing::serves_mounts() {
                crossing::step(above, name).and_then(|there| status(&there))
            } else {
                status_of(above, name, AtFlags::SYMLINK_NOFOLLOW)
            };
            there.is_ok_and(|there| identity(&there) == self.record.identity)
        };
        if is_here(&way.name) {
            return Ok(None);
        }
        let now = self.name_of(held).filter(|now| is_here(now));
        now.map(Some).ok_or(Attempt::Stays)
    }

    /// The last of the names that lead to what a descriptor holds, as the kernel has followed it.
    fn name_of(&self, held: &Descriptor) -> Option<Box<CStr>> {
        let number = DecInt::from_fd(held);
        let path = rustix::fs::readlinkat(&*self.ground.own_descriptors, number, Vec::new());
        let path = path.ok()?.into_bytes();
        let name = path.rsplit(|byte| *byte == b'/').next()?;
        Some(CString::new(name).ok()?.into_boxed_c_str())
    }

    /// Whether handles can be opened on this mount.
    fn open_entrance(&self, held: &Descriptor, way: Option<&Way>) -> bool {
        if !self.ground.handles {
            return false;
        }
        if self.ground.entrance.get().is_some() {
            return true;
        }
        let opened = match (self.record.kind, way) {
            (Kind::Directory, _) => open_folder(held.as_fd()),
            (_, Some(way)) if Arc::ptr_eq(&way.folder.ground, &self.ground) => {
                match way.folder.place.try_read().as_deref() {
                    Ok(Place::Held(folder)) => open_folder(folder.as_fd()),
                    Ok(Place::LetGo(_)) | Err(_) => None,
                }
            }
            _ => None,
        };
        opened.is_some_and(|opened| {
            self.ground.entrance.set(opened).ok();
            true
        })
    }

    fn set_way(self: &Arc<Self>, way: Option<Way>) {
        self.replace_way(way, |way| {
            if !self.ground.handles || self.has_written_way() {
                self.write_way(way);
            }
        });
    }

    fn replace_way(self: &Arc<Self>, way: Option<Way>, write: impl FnOnce(Option<&Way>)) {
        // Folders that went round in a circle would never be dropped. The kernel has no such; what two guests
        // and the host rename under one another can look so from here.
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
        let _folders = (self.record.kind == Kind::Directory)
            .then(|| ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner));
        let is_circle = self.record.kind == Kind::Directory
            && way.as_ref().is_some_and(|way| self.is_above(&way.folder));
        let way = way.filter(|_| !is_circle);
        let old = {
            let mut kept = self.way();
            if matches!(&*self.read(), Place::Held(_))
                && self.clock.load(Ordering::Acquire) == NOWHERE
                && !self.record.is_root
            {
                self.start_clock();
            }
            write(way.as_ref());
            std::mem::replace(&mut *kept, way)
        };
        drop(old);
    }

    fn is_above(&self, folder: &Arc<Self>) -> bool {
        let mut at = Arc::clone(folder);
        for _ in 0..DEEPEST {
            if std::ptr::eq(&raw const *at, self) {
                return true;
            }
            let above = at.way().as_ref().map(|way| Arc::clone(&way.folder));
            match above {
                Some(above) => at = above,
                None => return false,
            }
        }
        true
    }
}

/// The kernel also says ENOMEM while it makes another file of the same inode number (iget_locked): a moment
/// later it knows that this one is gone.
fn open_handle(handle: &FileHandle, entrance: BorrowedFd<'_>) -> Result<OwnedFd> {
    for _ in 0..ATTEMPTS {
        match handle.open(entrance) {
            Err(Errno::NOMEM) => std::thread::yield_now(),
            answer => return answer,
        }
    }
    Err(Errno::NOMEM)
}

/// By its name, as it was found first. What is not there, or is not to be stepped on, is something else.
fn step_again(way: Option<&Way>) -> Result<OwnedFd> {
    let way = way.ok_or(Errno::STALE)?;
    match &*way.folder.read() {
        Place::LetGo(_) => Err(Errno::AGAIN),
        Place::Held(folder) => crossing::step(folder, &way.name).map_err(|error| match error {
            Errno::NOENT | Errno::NOTDIR | Errno::LOOP => Errno::STALE,
            error => error,
        }),
    }
}

/// For reading, as opening a handle needs it.
fn open_folder(folder: BorrowedFd<'_>) -> Option<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(folder, c".", flags, Mode::empty()).ok()
}

/// Whether this process may open files of the folder by their handles.
pub(super) fn may_open_handles(folder: &impl AsFd) -> bool {
    let Some(entrance) = open_folder(folder.as_fd()) else {
        return false;
    };
    match FileHandle::of(folder.as_fd()) {
        Ok((handle, Handle::Opens)) => handle.open(entrance.as_fd()).is_ok(),
        Ok((_, Handle::TellsApart)) | Err(_) => false,
    }
}

/// A guest can make a way a hundred thousand folders long; dropped one by one, not one within the other.
impl Drop for Inner {
    fn drop(&mut self) {
        let place = *self.clock.get_mut();
        let counter = self.known.counter();
        if place != NOWHERE {
            counter.clock.remove(place);
        }
        if let Ok(Place::LetGo(_)) = self.place.get_mut() {
            counter.count_let_go(false);
        }
        if *self.is_held_always.get_mut() {
            self.known.counter().clock.hold_no_longer();
        }
        self.drop_row();
        let mut way = self
            .way
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        while let Some(Way { folder, .. }) = way {
            way = Arc::into_inner(folder).and_then(|mut last| {
                last.way
                    .get_mut()
                    .unwrap_or_else(PoisonError::into_inner)
                    .take()
            });
        }
    }
}
