//! What is known of a server's files, one for each whatever its names, and finding one again.
//!
//! Servers differ in what a fid is. To ours it is the file; to diod it is a path, and leads nowhere, or to another file,
//! when something has been renamed or removed. So a node remembers where it was seen last, each sighting gives
//! it a new fid, and who finds its fid wrong walks there once more.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::RemoteTree;
use super::fids::Fid;
use super::now;
use super::tree::walk;
use crate::tree::{Attributes, Identity, Kind, Result};

/// As many folders are gone through to find one again: no path has more names (PATH_MAX).
const DEEPEST: usize = 2048;

/// So long a fid that was right is taken to be so: as long as the kernel trusts a name (fuse/cache.rs).
const TRUSTED: Duration = Duration::from_secs(1);

/// All that the kernel knows, by identity.
#[derive(Default)]
pub(super) struct Known {
    nodes: Mutex<HashMap<Identity, Weak<RemoteNode>>>,
    /// Of renames so far: who has looked before one looks again.
    moves: AtomicU64,
}

/// A file of the server's.
pub(crate) struct RemoteNode {
    pub(super) identity: Identity,
    pub(super) kind: Kind,
    sighting: Mutex<Sighting>,
    known: Arc<Known>,
}

struct Sighting {
    /// Never opened.
    fid: Arc<Fid>,
    /// None: the root.
    place: Option<(Arc<RemoteNode>, Box<[u8]>)>,
    /// Fids by which it is open: they stay right.
    open: Vec<Weak<Fid>>,
    /// How often things had been renamed when that was.
    since: u64,
    /// When `fid` was found right, and how often things had been renamed by then.
    right: Option<(Instant, u64)>,
}

impl Known {
    fn nodes(&self) -> MutexGuard<'_, HashMap<Identity, Weak<RemoteNode>>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How often something was moved.
    pub(super) fn moves(&self) -> u64 {
        self.moves.load(Ordering::Acquire)
    }

    /// The node that was just seen by `fid` at `place`, when so often something had been moved. Where it was seen since the last
    /// of these moves, that stays: it may be what was moved.
    pub(super) fn seen(
        self: &Arc<Self>,
        (fid, moves): (Fid, u64),
        place: Option<(&Arc<RemoteNode>, &[u8])>,
        attributes: &Attributes,
    ) -> Arc<RemoteNode> {
        let place = place.map(|(folder, name)| (Arc::clone(folder), name.into()));
        let fid = Arc::new(fid);
        let mut nodes = self.nodes();
        if let Some(node) = nodes.get(&attributes.identity).and_then(Weak::upgrade) {
            drop(nodes);
            node.see(fid, place, Some(moves));
            return node;
        }
        let node = Arc::new(RemoteNode {
            identity: attributes.identity,
            kind: attributes.kind,
            sighting: Mutex::new(Sighting {
                fid,
                place,
                open: Vec::new(),
                since: moves,
                right: None,
            }),
            known: Arc::clone(self),
        });
        nodes.insert(node.identity, Arc::downgrade(&node));
        drop(nodes);
        node
    }
}

/// A guest can make folders without end below one another; dropped one by one, not one within the other.
impl Drop for RemoteNode {
    fn drop(&mut self) {
        let take = |sighting: &mut Mutex<Sighting>| {
            let sighting = sighting.get_mut().unwrap_or_else(PoisonError::into_inner);
            sighting.place.take()
        };
        let mut place = take(&mut self.sighting);
        while let Some((folder, _)) = place {
            place = Arc::into_inner(folder).and_then(|mut last| take(&mut last.sighting));
        }
        let mut nodes = self.known.nodes();
        // Another may have come meanwhile.
        if nodes
            .get(&self.identity)
            .is_some_and(|node| node.strong_count() == 0)
        {
            nodes.remove(&self.identity);
        }
    }
}

impl RemoteNode {
    fn sighting(&self) -> MutexGuard<'_, Sighting> {
        self.sighting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// With `moves` only if it was not seen when more had been moved.
    fn see(&self, fid: Arc<Fid>, place: Option<(Arc<Self>, Box<[u8]>)>, moves: Option<u64>) {
        // A folder is not looked for below itself, whatever a server says: those in a circle would never be dropped.
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
        let _folders = (self.kind == Kind::Directory)
            .then(|| ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner));
        let is_circle = place
            .as_ref()
            .is_some_and(|(folder, _)| self.is_above(folder));
        let mut sighting = self.sighting();
        if let Some(moves) = moves {
            if moves < sighting.since {
                drop(sighting);
                return;
            }
            sighting.since = moves;
        }
        sighting.right = None;
        let old_fid = std::mem::replace(&mut sighting.fid, fid);
        let old_place = match place {
            Some(place) if !is_circle && sighting.place.is_some() => sighting.place.replace(place),
            Some(_) | None => None,
        };
        drop(sighting);
        // Outside of the lock: they may be the last of others.
        drop((old_fid, old_place));
    }

    /// Whether it is the folder or above it, or that is too far up to be told.
    fn is_above(&self, folder: &Arc<Self>) -> bool {
        let mut at = Arc::clone(folder);
        for _ in 0..DEEPEST {
            if at.identity == self.identity {
                return true;
            }
            let above = at.sighting().place.clone();
            match above {
                Some((above, _)) => at = above,
                None => return false,
            }
        }
        true
    }

    /// By which it is asked for.
    pub(super) fn fid(&self) -> Arc<Fid> {
        Arc::clone(&self.sighting().fid)
    }

    pub(super) fn opened(&self, fid: &Arc<Fid>) {
        let mut sighting = self.sighting();
        sighting.open.retain(|open| open.strong_count() > 0);
        sighting.open.push(Arc::downgrade(fid));
    }

    fn open_fids(&self) -> Vec<Arc<Fid>> {
        let sighting = self.sighting();
        sighting.open.iter().filter_map(Weak::upgrade).collect()
    }
}

impl RemoteTree {
    /// Does something with a node's fid; once more with another where the first leads nowhere any more.
    pub(super) fn with<R>(&self, node: &RemoteNode, work: impl Fn(&Fid) -> Result<R>) -> Result<R> {
        match work(&node.fid()) {
            // Nearly always it is the name that is not there, and the folder is right.
            Err(Errno::NOENT | Errno::STALE | Errno::NOTDIR)
                if !self.is_right(node) && self.find(node).is_ok() =>
            {
                work(&node.fid())
            }
            said => said,
        }
    }

    pub(super) fn has_moved(&self) {
        self.known.moves.fetch_add(1, Ordering::AcqRel);
    }

    /// Whether the node's fid is the node still.
    fn is_right(&self, node: &RemoteNode) -> bool {
        let moves = self.known.moves();
        let (fid, right) = {
            let sighting = node.sighting();
            (Arc::clone(&sighting.fid), sighting.right)
        };
        if right.is_some_and(|(when, before)| before == moves && when.elapsed() < TRUSTED) {
            return true;
        }
        let found = self.attributes_of(&fid);
        let is_right = found.is_ok_and(|found| found.identity == node.identity);
        if is_right {
            let mut sighting = node.sighting();
            // Another has not been asked.
            if Arc::ptr_eq(&sighting.fid, &fid) {
                sighting.right = Some((now(), moves));
            }
        }
        is_right
    }

    /// The attributes, of this file and no other.
    pub(super) fn attributes_now(&self, node: &RemoteNode) -> Result<Attributes> {
        let own = |fid: &Fid| {
            let attributes = self.attributes_of(fid)?;
            if attributes.identity == node.identity && attributes.kind == node.kind {
                Ok(attributes)
            } else {
                Err(Errno::STALE)
            }
        };
        match self.with(node, own) {
            // Without a name; who has it open still knows it.
            Err(error @ (Errno::NOENT | Errno::STALE)) => node
                .open_fids()
                .iter()
                .find_map(|fid| own(fid).ok())
                .ok_or(error),
            said => said,
        }
    }

    /// Walks to where the node was seen last, from the nearest folder above it that is still right; ESTALE if it
    /// is not there.
    fn find(&self, node: &RemoteNode) -> Result<()> {
        let mut names = Vec::new();
        let mut lost = Vec::new();
        let mut place = node.sighting().place.clone();
        // Upwards, until a folder is what it was.
        let from = loop {
            let Some((folder, name)) = place else {
                return Err(Errno::STALE);
            };
            if names.len() >= DEEPEST {
                return Err(Errno::STALE);
            }
            names.push(name);
            if self.is_right(&folder) {
                break folder.fid();
            }
            place = folder.sighting().place.clone();
            lost.push(folder);
        };
        // And down again: each folder on the way has a new fid then.
        let mut fid = from;
        for name in names.into_iter().rev() {
            let next = Arc::new(walk(&self.line, fid.number(), &[&name])?);
            let found = self.attributes_of(&next)?;
            let wanted = match lost.pop() {
                Some(folder) => {
                    if found.identity == folder.identity {
                        folder.see(Arc::clone(&next), None, None);
                    }
                    folder.identity
                }
                None => {
                    if found.identity == node.identity {
                        node.see(Arc::clone(&next), None, None);
                    }
                    node.identity
                }
            };
            if found.identity != wanted {
                return Err(Errno::STALE);
            }
            fid = next;
        }
        Ok(())
    }
}
