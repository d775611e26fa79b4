//! Which node is let go of when too many are held: about the one that was not used for longest.
//!
//! A hand goes round the nodes that are held. One that was used since the hand last passed is spared once;
//! the next that was not is let go of (second chance). To use a node costs a flag, and only a node that is
//! held anew or let go of takes the lock here.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::node::{Attempt, Inner};

/// Nodes that are looked at under one hold of the lock.
const AT_ONCE: usize = 16;

/// See the module's head.
#[derive(Debug)]
pub(super) struct Clock {
    limit: usize,
    held: AtomicUsize,
    /// Of these, nodes that are held for as long as they are known.
    always: AtomicUsize,
    face: Mutex<Face>,
    /// Counts what may have made a node free to go.
    changes: AtomicU64,
    /// `changes` when a whole round found none that was.
    nothing_at: AtomicU64,
}

#[derive(Debug, Default)]
struct Face {
    places: Vec<Option<Weak<Inner>>>,
    free: Vec<u32>,
    hand: usize,
}

impl Clock {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            held: AtomicUsize::new(0),
            always: AtomicUsize::new(0),
            face: Mutex::default(),
            changes: AtomicU64::new(1),
            nothing_at: AtomicU64::new(0),
        }
    }

    fn face(&self) -> MutexGuard<'_, Face> {
        self.face.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_full(&self) -> bool {
        self.held.load(Ordering::Relaxed) >= self.limit
    }

    /// Whether one node more may be held for as long as it is known, which then counts: half of all that may be held.
    pub(super) fn may_hold_always(&self) -> bool {
        let may = self.always.fetch_add(1, Ordering::Relaxed) < self.limit / 2;
        if !may {
            self.hold_no_longer();
        }
        may
    }

    pub(super) fn hold_no_longer(&self) {
        self.always.fetch_sub(1, Ordering::Relaxed);
    }

    /// A node is held from now on; where it stands.
    pub(super) fn add(&self, node: Weak<Inner>) -> u32 {
        self.held.fetch_add(1, Ordering::Relaxed);
        let mut face = self.face();
        let place = match face.free.pop() {
            Some(place) => {
                face.places[place as usize] = Some(node);
                place
            }
            None => {
                face.places.push(Some(node));
                // Bounded by the descriptors of a process.
                u32::try_from(face.places.len() - 1).unwrap_or(u32::MAX)
            }
        };
        drop(face);
        self.changed();
        place
    }

    /// It is not held any more, or can never be let go of.
    pub(super) fn remove(&self, place: u32) {
        let node = {
            let mut face = self.face();
            let node = face.places.get_mut(place as usize).and_then(Option::take);
            if node.is_some() {
                face.free.push(place);
            }
            node
        };
        if node.is_some() {
            self.held.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Something may be free to go that was not.
    pub(super) fn changed(&self) {
        self.changes.fetch_add(1, Ordering::Relaxed);
    }

    /// Lets go of one node. False: all are in use.
    pub(super) fn let_one_go(&self) -> bool {
        let changes = self.changes.load(Ordering::Relaxed);
        if self.nothing_at.load(Ordering::Relaxed) == changes {
            return false;
        }
        let mut left = self.face().places.len() * 2;
        let mut all_stay = true;
        while left > 0 {
            // Those that were spared are dropped behind the lock: to drop the last of a node takes it too.
            let (candidate, _spared) = self.next(&mut left);
            match candidate.map_or(Attempt::Stays, |node| node.let_go()) {
                Attempt::Gone => return true,
                Attempt::Stays => {}
                Attempt::Busy => all_stay = false,
            }
        }
        if all_stay {
            self.nothing_at.store(changes, Ordering::Relaxed);
        }
        false
    }

    /// The next that was not used lately, and those that the hand passed on its way.
    fn next(&self, left: &mut usize) -> (Option<Arc<Inner>>, [Option<Arc<Inner>>; AT_ONCE]) {
        let mut spared = [const { None }; AT_ONCE];
        let mut face = self.face();
        let face = &mut *face;
        for place in &mut spared {
            if *left == 0 || face.places.is_empty() {
                *left = 0;
                break;
            }
            *left -= 1;
            face.hand = (face.hand + 1) % face.places.len();
            let Some(node) = face.places[face.hand].as_ref().and_then(Weak::upgrade) else {
                continue;
            };
            if !node.was_used() {
                return (Some(node), spared);
            }
            *place = Some(node);
        }
        (None, spared)
    }
}
