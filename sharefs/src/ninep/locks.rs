//! Locks that a client's programs hold, and those they wait for. flock(2) and fcntl(2) both come as ranges.
//!
//! An owner is what the client names: a process of a client; each has an open file description of its own on
//! the host for each file, so that the host's kernel decides between processes, connections, other guests and
//! the host's programs. A wait is never the connection's: the request is put aside and asked again, until it
//! can be had or a Tflush takes it back.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use rustix::io::Errno;

use super::mount::Keeping;
use crate::keep::ninep::rows::{KeptOwner, KeptWait, Row};
use crate::sys::{LockKind, LockRange};
use crate::tree::{Identity, Result, Tree};

/// Requests that may wait at once on one connection in one share; more are answered ENOLCK.
pub(super) const MOST_WAITS: usize = 1024;
/// Longest name of a client: HOST_NAME_MAX and to spare.
const LONGEST_CLIENT: usize = 255;
/// As a client unlocks it.
const EVERYTHING: LockRange = LockRange {
    kind: LockKind::Unlock,
    start: 0,
    length: 0,
};

/// Whose a lock is: a file, and a process of a client.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct OwnerKey {
    file: Identity,
    process: u32,
    client: Box<[u8]>,
}

impl OwnerKey {
    /// ENAMETOOLONG for the name of a client that no host has.
    pub(super) fn new(file: Identity, process: u32, client: &[u8]) -> Result<Self> {
        if client.len() > LONGEST_CLIENT {
            return Err(Errno::NAMETOOLONG);
        }
        Ok(Self {
            file,
            process,
            client: client.into(),
        })
    }

    /// As an earlier process wrote it down.
    fn kept(kept: &KeptOwner) -> Self {
        Self {
            file: kept.file,
            process: kept.process,
            client: kept.client.clone().into(),
        }
    }
}

struct Owner<T: Tree> {
    locks: Arc<T::Locks>,
    /// The fid it first locked through: clunked, its locks are gone too. A client unlocks before in most cases,
    /// but not when the process that unlocks is another than the one that locked. An owner that has lost its locks and
    /// waits for one is of the fid that it waits through.
    fid: u32,
    /// Where it is written down, if it is.
    row: Option<Row>,
}

impl<T: Tree> Owner<T> {
    /// The fid of the first of its waits that is through a fid like that.
    fn waits_through(
        &self,
        waits: &BTreeMap<u16, Wait<T>>,
        is_meant: impl Fn(u32) -> bool,
    ) -> Option<u32> {
        let mut own = waits
            .values()
            .filter(|wait| Arc::ptr_eq(&wait.locks, &self.locks));
        own.find(|wait| is_meant(wait.fid)).map(|wait| wait.fid)
    }

    /// It is of that fid with the next commit.
    fn move_to(&mut self, fid: u32, tree: &T, (key, keeping): (&OwnerKey, Option<&Keeping>)) {
        if self.fid == fid {
            return;
        }
        self.fid = fid;
        if let (Some(keeping), Some(old)) = (keeping, self.row) {
            self.row = Some(self.put(tree, key, keeping));
            keeping.rows.end_owner(old);
        }
    }

    /// A row that says what it is now.
    fn put(&self, tree: &T, key: &OwnerKey, keeping: &Keeping) -> Row {
        match tree.keep_locks(&self.locks) {
            Some(open) => keeping.rows.put_owner(&KeptOwner {
                open,
                file: key.file,
                process: key.process,
                client: key.client.to_vec(),
                fid: self.fid,
                mount: keeping.place,
            }),
            None => keeping.rows.put_nowhere(),
        }
    }
}

/// A lock that cannot be had yet. Its owner is there for as long as it is.
struct Wait<T: Tree> {
    locks: Arc<T::Locks>,
    range: LockRange,
    fid: u32,
    row: Option<Row>,
}

/// A wait that ended without the lock: its tag, and where it is written down.
pub(super) type Ended = (u16, Option<Row>);

/// All locks of one connection in one share.
pub(super) struct Locks<T: Tree> {
    owners: HashMap<OwnerKey, Owner<T>>,
    /// By tag, which answers them.
    waits: BTreeMap<u16, Wait<T>>,
    pub(super) keeping: Option<Keeping>,
}

impl<T: Tree> Default for Locks<T> {
    fn default() -> Self {
        Self {
            owners: HashMap::new(),
            waits: BTreeMap::new(),
            keeping: None,
        }
    }
}

impl<T: Tree> Locks<T> {
    /// The holder of this owner's locks, made by `open` at the first.
    pub(super) fn owner(
        &mut self,
        key: OwnerKey,
        fid: u32,
        open: impl FnOnce() -> Result<T::Locks>,
    ) -> Result<Arc<T::Locks>> {
        if let Some(owner) = self.owners.get(&key) {
            return Ok(Arc::clone(&owner.locks));
        }
        let locks = Arc::new(open()?);
        let owner = Owner {
            locks: Arc::clone(&locks),
            fid,
            row: None,
        };
        self.owners.insert(key, owner);
        Ok(locks)
    }

    /// The owner has locks, or waits for some: it is written down.
    pub(super) fn record_owner(&mut self, tree: &T, key: &OwnerKey) {
        let (Some(keeping), Some(owner)) = (&self.keeping, self.owners.get_mut(key)) else {
            return;
        };
        if owner.row.is_none() {
            owner.row = Some(owner.put(tree, key, keeping));
        }
    }

    /// What an earlier process wrote down: `locks` is the holder.
    pub(super) fn adopt_owner(&mut self, kept: &KeptOwner, row: usize, locks: T::Locks) {
        let owner = Owner {
            locks: Arc::new(locks),
            fid: kept.fid,
            row: Some(Row::At(row)),
        };
        self.owners.insert(OwnerKey::kept(kept), owner);
    }

    /// The same of a wait for `range`. ESTALE where its owner is not there.
    pub(super) fn adopt_wait(
        &mut self,
        (kept, row): (&KeptWait, usize),
        file: Identity,
        range: LockRange,
    ) -> Result<()> {
        let key = OwnerKey::new(file, kept.process, &kept.client)?;
        let wait = Wait {
            locks: self.known_owner(&key).ok_or(Errno::STALE)?,
            range,
            fid: kept.fid,
            row: Some(Row::At(row)),
        };
        self.waits.insert(kept.tag, wait);
        Ok(())
    }

    /// The holder, if this owner has locked anything.
    pub(super) fn known_owner(&self, key: &OwnerKey) -> Option<Arc<T::Locks>> {
        self.owners.get(key).map(|owner| Arc::clone(&owner.locks))
    }

    /// All of the owner's locks on the file have ended. It stays where it waits for one: what is had then would be
    /// nobody's.
    pub(super) fn end_owner(&mut self, tree: &T, key: &OwnerKey) {
        let Some(owner) = self.owners.get_mut(key) else {
            return;
        };
        let keeping = self.keeping.as_ref();
        match owner.waits_through(&self.waits, |_| true) {
            Some(fid) => owner.move_to(fid, tree, (key, keeping)),
            None => {
                if let Some(owner) = self.owners.remove(key) {
                    end_owner(keeping, owner);
                }
            }
        }
    }

    /// The fid is clunked: what was locked through it ends, and what waits is answered EINTR.
    pub(super) fn end_fid(&mut self, tree: &T, fid: u32) -> Vec<Ended> {
        if self.owners.is_empty() && self.waits.is_empty() {
            return Vec::new();
        }
        let (keeping, waits) = (self.keeping.as_ref(), &self.waits);
        let gone = self.owners.extract_if(|key, owner| {
            if owner.fid != fid {
                return false;
            }
            match owner.waits_through(waits, |through| through != fid) {
                Some(other) if tree.lock(&owner.locks, EVERYTHING).is_ok() => {
                    owner.move_to(other, tree, (key, keeping));
                    false
                }
                Some(_) | None => true,
            }
        });
        let gone: Vec<Owner<T>> = gone.map(|(_, owner)| owner).collect();
        let is_over = |wait: &Wait<T>| {
            wait.fid == fid
                || gone
                    .iter()
                    .any(|owner| Arc::ptr_eq(&owner.locks, &wait.locks))
        };
        let ended = self.waits.extract_if(.., |_, wait| is_over(wait));
        let ended = ended.map(|(tag, wait)| (tag, wait.row));
        let ended: Vec<Ended> = ended.collect();
        for (_, row) in &ended {
            if let (Some(keeping), Some(row)) = (keeping, row) {
                keeping.rows.wait_is_over(*row);
            }
        }
        gone.into_iter().for_each(|owner| end_owner(keeping, owner));
        ended
    }

    /// All rows end: the connection begins anew.
    pub(super) fn end_rows(&self) {
        let Some(Keeping { rows, .. }) = &self.keeping else {
            return;
        };
        let owners = self.owners.values().filter_map(|owner| owner.row);
        owners.for_each(|row| rows.end_owner(row));
        let waits = self.waits.values().filter_map(|wait| wait.row);
        waits.for_each(|row| rows.end_wait(row));
    }

    /// Puts a request aside. ENOLCK when too many wait, EINVAL when its tag waits already.
    pub(super) fn wait(
        &mut self,
        locks: Arc<T::Locks>,
        range: LockRange,
        asked: &KeptWait,
    ) -> Result<()> {
        let (tag, fid) = (asked.tag, asked.fid);
        if self.waits.contains_key(&tag) {
            return Err(Errno::INVAL);
        }
        if self.waits.len() >= MOST_WAITS {
            return Err(Errno::NOLCK);
        }
        let keeping = self.keeping.as_ref();
        let wait = Wait {
            locks,
            range,
            fid,
            row: keeping.map(|keeping| keeping.rows.put_wait(asked)),
        };
        self.waits.insert(tag, wait);
        Ok(())
    }

    /// Nobody wants the answer any more.
    pub(super) fn forget(&mut self, tag: u16) {
        if let Some(wait) = self.waits.remove(&tag) {
            end_wait(self.keeping.as_ref(), wait.row);
        }
    }

    /// Asks again for each: those that have an answer now, by tag.
    pub(super) fn retry(&mut self, tree: &T, mut answered: impl FnMut(u16, Result<()>)) {
        let keeping = self.keeping.as_ref();
        self.waits.retain(|tag, wait| {
            let ask = || tree.lock(&wait.locks, wait.range);
            let answer = match (keeping, wait.row) {
                (Some(keeping), Some(row)) => keeping.rows.retry(row, ask),
                (_, _) => Some(ask()),
            };
            if answer == Some(Err(Errno::AGAIN)) {
                return true;
            }
            let answer = answer.unwrap_or_else(|| {
                tracing::error!("a lock that ended sharefs several times is answered with EIO");
                Err(Errno::IO)
            });
            answered(*tag, answer);
            end_wait(keeping, wait.row);
            false
        });
    }

    pub(super) fn waiting(&self) -> usize {
        self.waits.len()
    }
}

/// Nobody wants the answer any more, or it is given.
pub(super) fn end_wait(keeping: Option<&Keeping>, row: Option<Row>) {
    if let (Some(keeping), Some(row)) = (keeping, row) {
        keeping.rows.end_wait(row);
    }
}

/// What it holds is let go of with the commit, which a follower may have to make: it must find the holder until then.
fn end_owner<T: Tree>(keeping: Option<&Keeping>, owner: Owner<T>) {
    if let (Some(keeping), Some(row)) = (keeping, owner.row) {
        keeping.rows.end_owner(row);
        keeping.rows.retire(owner.locks);
    }
}
