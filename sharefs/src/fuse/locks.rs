//! Locks that a guest's programs hold, and those they wait for.
//!
//! Range locks (fcntl) belong to an owner the guest names; each owner of a file has an open file
//! description of its own on the host, so that the host's kernel decides between the owners of one guest,
//! other guests and the host's programs. Whole-file locks (flock) belong to the guest's open file, which
//! is an open file of ours. A wait is never the thread's: the request is put aside and asked again.
//!
//! A guest's kernel cannot interrupt a wait over virtiofs (it sends no INTERRUPT), so a program that waits
//! for a lock cannot be killed until it gets it.
//!
//! Who would wait for himself, by way of others who wait, gets EDEADLK, as in the kernel's own locks (fs/locks.c,
//! posix_locks_deadlock). The host's kernel looks for no such circle among open file descriptions, so it is looked
//! for here, among the owners of one session: not between guests, nor between two shares or with the host's programs;
//! and what an owner locked before sharefs was restarted is not known. FUSE does not tell locks of a process from
//! those of an open file (F_OFD_SETLKW), for which Linux itself would look for none.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::os::fd::RawFd;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;

use super::request::LockRequest;
use crate::keep::records::{KeptOwner, Records};
use crate::sys::{LockKind, LockRange};
use crate::tree::{Identity, Result, Tree, WholeLock};

mod held;

pub(crate) use held::Held;

/// Requests that may wait at once in one session; more are answered ENOLCK.
const MOST_WAITS: usize = 1024;
/// Owners that a circle is looked for among, and looks at what one of them holds. Linux gives up behind ten owners.
const MOST_IN_CIRCLE: usize = 64;
const MOST_LOOKS: usize = 16 * 1024;

/// As who closes a file unlocks it.
const EVERYTHING: LockRange = LockRange {
    kind: LockKind::Unlock,
    start: 0,
    length: 0,
};

/// All locks of one session.
pub(crate) struct Locks<T: Tree> {
    state: Mutex<State<T>>,
}

struct State<T: Tree> {
    owners: BTreeMap<(Identity, u64), Owner<T>>,
    waits: BTreeMap<u64, Wait<T>>,
    rows: Rows,
    /// Ranges that are known of all owners.
    known: Arc<AtomicUsize>,
}

/// Where owners are written down too, for a later process.
#[derive(Default)]
struct Rows {
    records: Option<Records>,
    free: Vec<usize>,
    used: usize,
}

impl Rows {
    fn put(&mut self, open: Option<RawFd>, owner: (Identity, u64, u64)) -> Option<usize> {
        let (records, open) = (self.records.as_ref()?, open?);
        let row = self.free.pop().unwrap_or_else(|| {
            self.used += 1;
            self.used - 1
        });
        records.put_owner(row, open, owner);
        Some(row)
    }

    /// To be called before the owner's descriptor is closed.
    fn end<T: Tree>(&mut self, owner: &Owner<T>) {
        if let (Some(records), Some(row)) = (&self.records, owner.row) {
            records.end_owner(row);
            self.free.push(row);
        }
    }
}

struct Owner<T: Tree> {
    held: Arc<Held<T>>,
    /// The open file it first locked through: gone, its locks are too. An owner that has lost its locks and waits for
    /// one is of the open file that it waits through.
    handle: u64,
    row: Option<usize>,
}

/// A lock that cannot be had yet. Its owner is there for as long as it is.
struct Wait<T: Tree> {
    wanted: Wanted<T>,
    /// The open file that it is asked through.
    handle: u64,
    interrupted: bool,
}

/// What a lock is asked of.
pub(crate) enum Wanted<T: Tree> {
    Range(Arc<Held<T>>, LockRange),
    Whole(Arc<T::File>, WholeLock),
}

impl<T: Tree> Clone for Wanted<T> {
    fn clone(&self) -> Self {
        match self {
            Self::Range(held, range) => Self::Range(Arc::clone(held), *range),
            Self::Whole(file, lock) => Self::Whole(Arc::clone(file), *lock),
        }
    }
}

impl<T: Tree> Default for Locks<T> {
    fn default() -> Self {
        Self {
            state: Mutex::new(State {
                owners: BTreeMap::new(),
                waits: BTreeMap::new(),
                rows: Rows::default(),
                known: Arc::default(),
            }),
        }
    }
}

impl<T: Tree> Locks<T> {
    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Owners are written down from now on; those that an earlier process wrote are here again.
    pub(crate) fn recorded(tree: &T, records: &Records) -> Self {
        let locks = Self::default();
        let mut state = locks.state();
        for KeptOwner {
            open,
            file,
            owner,
            handle,
            row,
        } in records.owners()
        {
            // The locks are the descriptor's: it was never closed.
            let Ok(adopted) = tree.adopt_locks(file, open) else {
                records.end_owner(row);
                continue;
            };
            let held = Held::new((file, owner), adopted, Arc::clone(&state.known));
            let adopted = Owner {
                held: Arc::new(held),
                handle,
                row: Some(row),
            };
            state.owners.insert((file, owner), adopted);
            state.rows.used = state.rows.used.max(row + 1);
        }
        let owned: HashSet<usize> = state
            .owners
            .values()
            .filter_map(|owner| owner.row)
            .collect();
        state.rows.free = (0..state.rows.used)
            .filter(|row| !owned.contains(row))
            .collect();
        state.rows.records = Some(records.clone());
        drop(state);
        locks
    }

    /// The holder of this owner's locks on the file, made by `open` at the first.
    pub(crate) fn owner(
        &self,
        tree: &T,
        file: Identity,
        request: &LockRequest,
        open: impl FnOnce() -> Result<T::Locks>,
    ) -> Result<Arc<Held<T>>> {
        let mut state = self.state();
        if let Some(owner) = state.owners.get(&(file, request.owner)) {
            return Ok(Arc::clone(&owner.held));
        }
        let known = Arc::clone(&state.known);
        let held = Arc::new(Held::new((file, request.owner), open()?, known));
        state.add_owner(tree, &held, request.handle);
        Ok(held)
    }

    /// The holder, if this owner has locked anything.
    pub(crate) fn known_owner(&self, file: Identity, owner: u64) -> Option<Arc<Held<T>>> {
        self.state()
            .owners
            .get(&(file, owner))
            .map(|owner| Arc::clone(&owner.held))
    }

    /// The owner closes the file, or unlocks all of it: all its locks on it end. It stays where it waits for one: what
    /// is had then would be nobody's.
    pub(crate) fn end_owner(&self, tree: &T, file: Identity, owner: u64) -> Result<()> {
        let mut state = self.state();
        let Some(there) = state.owners.get(&(file, owner)) else {
            return Ok(());
        };
        let held = Arc::clone(&there.held);
        if let Some(handle) = state.waits_through(&held, |_| true) {
            state.move_owner(&held, handle);
            drop(state);
            return held.lock(tree, EVERYTHING);
        }
        let ended = state.owners.remove(&(file, owner));
        if let Some(ended) = &ended {
            state.rows.end(ended);
        }
        drop(state);
        drop(ended);
        Ok(())
    }

    /// Nobody has the handle open any more. Locks of an open file description (F_OFD_SETLK) are never
    /// flushed by the guest's kernel, they end here.
    pub(crate) fn end_handle(&self, tree: &T, handle: u64) -> Result<()> {
        let mut state = self.state();
        if state.owners.is_empty() {
            return Ok(());
        }
        let of_handle = state.owners.values().filter(|owner| owner.handle == handle);
        let of_handle: Vec<_> = of_handle.map(|owner| Arc::clone(&owner.held)).collect();
        let (mut staying, mut ended) = (Vec::new(), Vec::new());
        for held in of_handle {
            if let Some(other) = state.waits_through(&held, |through| through != handle) {
                state.move_owner(&held, other);
                staying.push(held);
            } else {
                ended.extend(state.owners.remove(&(held.file, held.owner)));
            }
        }
        ended.iter().for_each(|owner| state.rows.end(owner));
        drop(state);
        drop(ended);
        let unlocked = staying.iter().map(|held| held.lock(tree, EVERYTHING));
        unlocked.fold(Ok(()), Result::and)
    }

    /// Puts a request that came through that handle aside. ENOLCK when too many wait, EDEADLK when it would wait for
    /// ever: for itself.
    pub(crate) fn wait(
        &self,
        tree: &T,
        (unique, handle): (u64, u64),
        mut wanted: Wanted<T>,
    ) -> Result<()> {
        let mut state = self.state();
        if state.waits.len() >= MOST_WAITS {
            return Err(Errno::NOLCK);
        }
        if let Wanted::Range(held, range) = &mut wanted {
            if state.would_wait_for_itself(held, *range) {
                return Err(Errno::DEADLK);
            }
            // Another thread may have ended it since, and even another may have made one anew.
            match state.owners.get(&(held.file, held.owner)) {
                Some(owner) => *held = Arc::clone(&owner.held),
                None => state.add_owner(tree, held, handle),
            }
        }
        state.waits.insert(
            unique,
            Wait {
                wanted,
                handle,
                interrupted: false,
            },
        );
        Ok(())
    }

    /// The guest no longer wants the answer: its next `retry` is EINTR.
    pub(crate) fn interrupt(&self, unique: u64) {
        if let Some(wait) = self.state().waits.get_mut(&unique) {
            wait.interrupted = true;
        }
    }

    /// None: wait on. A request that is not known any more (the session began anew) ends as EINTR.
    pub(crate) fn retry(&self, tree: &T, unique: u64) -> Option<Result<()>> {
        let wanted = {
            let state = self.state();
            let wait = state.waits.get(&unique).filter(|wait| !wait.interrupted);
            wait.map(|wait| wait.wanted.clone())
        };
        let Some(wanted) = wanted else {
            self.forget(unique);
            return Some(Err(Errno::INTR));
        };
        match attempt(tree, &wanted) {
            Err(Errno::AGAIN) => None,
            answer => {
                self.forget(unique);
                Some(answer)
            }
        }
    }

    /// Nobody will ask again.
    pub(crate) fn abandon(&self, unique: u64) {
        self.forget(unique);
    }

    fn forget(&self, unique: u64) {
        let wait = self.state().waits.remove(&unique);
        drop(wait);
    }

    pub(crate) fn clear(&self) {
        let (owners, waits) = {
            let mut state = self.state();
            (
                std::mem::take(&mut state.owners),
                std::mem::take(&mut state.waits),
            )
        };
        drop((owners, waits));
    }
}

impl<T: Tree> State<T> {
    fn add_owner(&mut self, tree: &T, held: &Arc<Held<T>>, handle: u64) {
        let (file, owner) = (held.file, held.owner);
        let row = self
            .rows
            .put(tree.keep_locks(held.locks()), (file, owner, handle));
        let added = Owner {
            held: Arc::clone(held),
            handle,
            row,
        };
        self.owners.insert((file, owner), added);
    }

    /// The open file of the first of the holder's waits that is through one like that.
    fn waits_through(&self, held: &Arc<Held<T>>, is_meant: impl Fn(u64) -> bool) -> Option<u64> {
        let mut through = self.waits.values().filter_map(|wait| match &wait.wanted {
            Wanted::Range(wanted, _) => Arc::ptr_eq(wanted, held).then_some(wait.handle),
            Wanted::Whole(..) => None,
        });
        through.find(|handle| is_meant(*handle))
    }

    /// The owner is of that open file from now on.
    fn move_owner(&mut self, held: &Held<T>, handle: u64) {
        let Some(owner) = self.owners.get_mut(&(held.file, held.owner)) else {
            return;
        };
        owner.handle = handle;
        if let (Some(records), Some(row)) = (&self.rows.records, owner.row) {
            records.move_owner(row, handle);
        }
    }

    /// Whether those whom this request would wait for wait for its owner, themselves or by way of others.
    fn would_wait_for_itself(&self, asking: &Held<T>, range: LockRange) -> bool {
        let mut met = BTreeSet::new();
        let mut looks = 0;
        let mut open = vec![(asking.file, asking.owner, range)];
        while let Some((file, waiting, range)) = open.pop() {
            let of_file = self.owners.range((file, 0)..=(file, u64::MAX));
            for ((_, owner), there) in of_file.filter(|((_, owner), _)| *owner != waiting) {
                looks += 1;
                if looks > MOST_LOOKS {
                    return false;
                }
                if !there.held.is_in_the_way(range) {
                    continue;
                }
                if *owner == asking.owner {
                    return true;
                }
                if met.len() < MOST_IN_CIRCLE && met.insert(*owner) {
                    open.extend(self.waits_of(*owner));
                }
            }
        }
        false
    }

    fn waits_of(&self, owner: u64) -> impl Iterator<Item = (Identity, u64, LockRange)> {
        self.waits
            .values()
            .filter_map(move |wait| match &wait.wanted {
                Wanted::Range(held, range) if held.owner == owner && !wait.interrupted => {
                    Some((held.file, owner, *range))
                }
                Wanted::Range(..) | Wanted::Whole(..) => None,
            })
    }
}

/// Asks once; Errno::AGAIN when somebody else is in the way.
pub(crate) fn attempt<T: Tree>(tree: &T, wanted: &Wanted<T>) -> Result<()> {
    match wanted {
        Wanted::Range(held, range) => held.lock(tree, *range),
        Wanted::Whole(file, lock) => tree.lock_whole(file, *lock),
    }
}

/// flock(2)'s word for what the guest sent as a range.
pub(crate) fn whole(kind: LockKind) -> WholeLock {
    match kind {
        LockKind::Shared => WholeLock::Shared,
        LockKind::Exclusive => WholeLock::Exclusive,
        LockKind::Unlock => WholeLock::Unlock,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::memory::MemoryTree;

    /// Between the moment that a thread asked for the owner and the one that it waits, another closes the file.
    #[test]
    fn a_wait_whose_owner_ended_meanwhile_has_one_all_the_same() {
        let (tree, locks) = (MemoryTree::new(), Locks::<MemoryTree>::default());
        let file = Identity {
            device: 1,
            inode: 2,
            mount: 3,
        };
        let request = LockRequest {
            handle: 10,
            owner: 7,
            range: EVERYTHING,
            whole: false,
        };
        let owner = || locks.owner(&tree, file, &request, || Ok(())).unwrap();
        let wait = |unique, held: &Arc<Held<MemoryTree>>| {
            let wanted = Wanted::Range(Arc::clone(held), EVERYTHING);
            locks.wait(&tree, (unique, 20), wanted).unwrap();
        };
        let is_known = |held: &Arc<Held<MemoryTree>>| {
            let known = locks.known_owner(file, 7);
            known.is_some_and(|known| Arc::ptr_eq(&known, held))
        };
        let first = owner();
        locks.end_owner(&tree, file, 7).unwrap();
        wait(1, &first);
        assert!(is_known(&first));
        assert_eq!(locks.state().owners[&(file, 7)].handle, 20);
        locks.forget(1);
        locks.end_owner(&tree, file, 7).unwrap();
        let second = owner();
        wait(2, &first);
        assert!(is_known(&second) && locks.state().waits_through(&first, |_| true).is_none());
        assert_eq!(locks.state().waits_through(&second, |_| true), Some(20));
    }
}
