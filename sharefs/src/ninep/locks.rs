//! Locks that a client's programs hold, and those they wait for. flock(2) and fcntl(2) both come as ranges.
//!
//! An owner is what the client names: a process of a client; each has an open file description of its own on
//! the host for each file, so that the host's kernel decides between processes, connections, other guests and
//! the host's programs. A wait is never the connection's: the request is put aside and asked again, until it
//! can be had or a Tflush takes it back.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use rustix::io::Errno;

use crate::sys::LockRange;
use crate::tree::{Identity, Result, Tree};

/// Requests that may wait at once on one connection in one share; more are answered ENOLCK.
pub(super) const MOST_WAITS: usize = 1024;
/// Longest name of a client: HOST_NAME_MAX and to spare.
const LONGEST_CLIENT: usize = 255;

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
}

struct Owner<T: Tree> {
    locks: Arc<T::Locks>,
    /// The fid it first locked through: clunked, the owner is gone too. A client unlocks before in most cases,
    /// but not when the process that unlocks is another than the one that locked.
    fid: u32,
}

/// A lock that cannot be had yet.
struct Wait<T: Tree> {
    locks: Arc<T::Locks>,
    range: LockRange,
    fid: u32,
}

/// All locks of one connection in one share.
pub(super) struct Locks<T: Tree> {
    owners: HashMap<OwnerKey, Owner<T>>,
    /// By tag, which answers them.
    waits: BTreeMap<u16, Wait<T>>,
}

impl<T: Tree> Default for Locks<T> {
    fn default() -> Self {
        Self {
            owners: HashMap::new(),
            waits: BTreeMap::new(),
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
        };
        self.owners.insert(key, owner);
        Ok(locks)
    }

    /// The holder, if this owner has locked anything.
    pub(super) fn known_owner(&self, key: &OwnerKey) -> Option<Arc<T::Locks>> {
        self.owners.get(key).map(|owner| Arc::clone(&owner.locks))
    }

    /// All of the owner's locks on the file end.
    pub(super) fn end_owner(&mut self, key: &OwnerKey) {
        self.owners.remove(key);
    }

    /// The fid is clunked: what was locked through it ends, and what waits is answered EINTR.
    pub(super) fn end_fid(&mut self, fid: u32) -> Vec<u16> {
        if self.owners.is_empty() && self.waits.is_empty() {
            return Vec::new();
        }
        self.owners.retain(|_, owner| owner.fid != fid);
        let waiting = self.waits.iter().filter(|(_, wait)| wait.fid == fid);
        let ended: Vec<u16> = waiting.map(|(tag, _)| *tag).collect();
        ended.iter().for_each(|tag| self.forget(*tag));
        ended
    }

    /// Puts a request aside. ENOLCK when too many wait, EINVAL when its tag waits already.
    pub(super) fn wait(
        &mut self,
        tag: u16,
        fid: u32,
        locks: Arc<T::Locks>,
        range: LockRange,
    ) -> Result<()> {
        if self.waits.contains_key(&tag) {
            return Err(Errno::INVAL);
        }
        if self.waits.len() >= MOST_WAITS {
            return Err(Errno::NOLCK);
        }
        self.waits.insert(tag, Wait { locks, range, fid });
        Ok(())
    }

    /// Nobody wants the answer any more.
    pub(super) fn forget(&mut self, tag: u16) {
        self.waits.remove(&tag);
    }

    /// Asks again for each: those that have an answer now, by tag.
    pub(super) fn retry(&mut self, tree: &T, mut answered: impl FnMut(u16, Result<()>)) {
        self.waits
            .retain(|tag, wait| match tree.lock(&wait.locks, wait.range) {
                Err(Errno::AGAIN) => true,
                answer => {
                    answered(*tag, answer);
                    false
                }
            });
    }

    pub(super) fn waiting(&self) -> usize {
        self.waits.len()
    }
}
