//! One at a time changes the names of a folder, or reads all of them to know them.
//!
//! What is known of a folder is carried from its stamp before a change to the one behind it. Two changes between the same
//! stamps, or one between a reading and its being written down, would be carried as one, and a name that is
//! gone be known for good. The kernel lets them into the folder one after the other anyway.

use std::collections::BTreeSet;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::tree::Identity;

/// Folders that it is somebody's turn in.
#[derive(Debug, Default)]
pub(super) struct Turns {
    taken: Mutex<BTreeSet<Identity>>,
    given_back: Condvar,
}

/// Somebody's turn in one folder, or in two.
#[derive(Debug)]
#[must_use]
pub(super) struct Turn<'a> {
    turns: &'a Turns,
    folders: [Identity; 2],
}

impl Turns {
    /// Waits for the turn in a folder.
    pub(super) fn one(&self, folder: Identity) -> Turn<'_> {
        self.both([folder, folder])
    }

    /// Waits for the turns in two folders, which may be one, and takes them at once: nobody waits with one of them in hand.
    pub(super) fn both(&self, folders: [Identity; 2]) -> Turn<'_> {
        let is_taken =
            |taken: &mut BTreeSet<Identity>| folders.iter().any(|folder| taken.contains(folder));
        let mut taken = self
            .given_back
            .wait_while(self.lock(), is_taken)
            .unwrap_or_else(PoisonError::into_inner);
        taken.extend(folders);
        Turn {
            turns: self,
            folders,
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<Identity>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut taken = self.turns.lock();
        for folder in &self.folders {
            taken.remove(folder);
        }
        drop(taken);
        self.turns.given_back.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn folder(inode: u64) -> Identity {
        Identity {
            device: 1,
            inode,
            mount: 1,
        }
    }

    #[test]
    fn of_two_who_share_a_folder_one_waits_and_others_do_not() {
        let turns = Turns::default();
        let both = turns.both([folder(1), folder(2)]);
        drop(turns.one(folder(3)));
        let come = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for folders in [[1, 1], [3, 2], [2, 1]] {
                let (turns, come) = (&turns, &come);
                scope.spawn(move || {
                    let _turn = turns.both(folders.map(folder));
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
