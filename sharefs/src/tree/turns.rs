//! One at a time does what takes several steps with a file, or with the names of a folder, whichever guest, door or mount
//! asks for it.
//!
//! Where something is read, thought about and written down, two at once lose what one of them did: the owner in a
//! record that another changes the mode in (`owner_store`), or a name that came between two looks at a folder (`case`).

use std::collections::BTreeSet;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::Identity;

/// Files that it is somebody's turn with, by device and inode.
#[derive(Debug, Default)]
pub(super) struct Turns {
    taken: Mutex<BTreeSet<(u64, u64)>>,
    given_back: Condvar,
}

/// Somebody's turn with one file, or with two.
#[derive(Debug)]
#[must_use]
pub(super) struct Turn<'a> {
    turns: &'a Turns,
    files: [(u64, u64); 2],
}

impl Turns {
    pub(super) const fn new() -> Self {
        Self {
            taken: Mutex::new(BTreeSet::new()),
            given_back: Condvar::new(),
        }
    }

    /// Waits for the turn with a file.
    pub(super) fn one(&self, file: Identity) -> Turn<'_> {
        self.both([file, file])
    }

    /// Waits for the turns with two, which may be one, and takes them at once: nobody waits with one of them in hand.
    pub(super) fn both(&self, files: [Identity; 2]) -> Turn<'_> {
        let files = files.map(Identity::file);
        let is_taken =
            |taken: &mut BTreeSet<(u64, u64)>| files.iter().any(|file| taken.contains(file));
        let mut taken = self
            .given_back
            .wait_while(self.lock(), is_taken)
            .unwrap_or_else(PoisonError::into_inner);
        taken.extend(files);
        Turn { turns: self, files }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<(u64, u64)>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut taken = self.turns.lock();
        for file in &self.files {
            taken.remove(file);
        }
        drop(taken);
        self.turns.given_back.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn file(inode: u64) -> Identity {
        Identity {
            device: 1,
            inode,
            mount: 1,
        }
    }

    #[test]
    fn of_two_who_want_the_same_file_one_waits_and_others_do_not() {
        let turns = Turns::default();
        let both = turns.both([file(1), file(2)]);
        drop(turns.one(file(3)));
        // By another mount it is the same.
        let elsewhere = Identity {
            mount: 2,
            ..file(1)
        };
        let come = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for files in [[elsewhere; 2], [file(3), file(2)], [file(2), file(1)]] {
                let (turns, come) = (&turns, &come);
                scope.spawn(move || {
                    let _turn = turns.both(files);
                    come.fetch_add(1, Ordering::AcqRel);
                });
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
            assert_eq!(come.load(Ordering::Acquire), 0);
            drop(both);
        });
        assert_eq!(come.into_inner(), 3);
        assert!(turns.lock().is_empty());
    }
}
