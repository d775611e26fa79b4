//! A mutex for each file: one at a time does what takes several steps with a file, or with the names of a folder, as far as they
//! have the [`KeyedMutex`] in common (all of the daemon in `owner_store`, one tree in `case`).
//!
//! Where something is read, thought about and written down, two at once lose what one of them did: the owner in a
//! record that another changes the mode in, or a name that came between two looks at a folder.

use std::collections::BTreeSet;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::Identity;

/// Locks files by device and inode. Not re-entrant.
#[derive(Debug, Default)]
pub(super) struct KeyedMutex {
    locked: Mutex<BTreeSet<(u64, u64)>>,
    unlocked: Condvar,
}

/// One file that is locked, or two.
#[derive(Debug)]
#[must_use]
pub(super) struct KeyedGuard<'a> {
    mutex: &'a KeyedMutex,
    files: [(u64, u64); 2],
}

impl KeyedMutex {
    pub(super) const fn new() -> Self {
        Self {
            locked: Mutex::new(BTreeSet::new()),
            unlocked: Condvar::new(),
        }
    }

    /// Waits for a file.
    pub(super) fn lock(&self, file: Identity) -> KeyedGuard<'_> {
        self.lock_both([file, file])
    }

    /// Waits for two, which may be one, and locks them at once: nobody waits with one of them in hand.
    pub(super) fn lock_both(&self, files: [Identity; 2]) -> KeyedGuard<'_> {
        let files = files.map(Identity::file);
        let is_locked =
            |locked: &mut BTreeSet<(u64, u64)>| files.iter().any(|file| locked.contains(file));
        let mut locked = self
            .unlocked
            .wait_while(self.set(), is_locked)
            .unwrap_or_else(PoisonError::into_inner);
        locked.extend(files);
        KeyedGuard { mutex: self, files }
    }

    fn set(&self) -> MutexGuard<'_, BTreeSet<(u64, u64)>> {
        self.locked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for KeyedGuard<'_> {
    fn drop(&mut self) {
        let mut locked = self.mutex.set();
        for file in &self.files {
            locked.remove(file);
        }
        drop(locked);
        self.mutex.unlocked.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    const fn file(inode: u64, mount: u64) -> Identity {
        Identity {
            device: 1,
            inode,
            mount,
        }
    }

    #[test]
    fn nobody_has_a_file_that_another_has_by_whichever_mount() {
        const ROUNDS: usize = 2_000;
        let mutex = KeyedMutex::new();
        let held: [AtomicBool; 4] = Default::default();
        // Of three files, each of which several want.
        let wanted = [
            [file(1, 1), file(2, 1)],
            [file(2, 2), file(3, 1)],
            [file(3, 2), file(1, 2)],
            [file(2, 1), file(2, 2)],
        ];
        std::thread::scope(|scope| {
            for files in wanted {
                let (mutex, held) = (&mutex, &held);
                let inodes = BTreeSet::from(files.map(|file| usize::try_from(file.inode).unwrap()));
                scope.spawn(move || {
                    for _ in 0..ROUNDS {
                        let _guard = mutex.lock_both(files);
                        for inode in &inodes {
                            assert!(!held[*inode].swap(true, Ordering::AcqRel));
                        }
                        std::thread::yield_now();
                        for inode in &inodes {
                            held[*inode].store(false, Ordering::Release);
                        }
                    }
                });
            }
        });
        assert!(mutex.set().is_empty());
    }

    #[test]
    fn who_wants_another_file_does_not_wait() {
        let mutex = KeyedMutex::new();
        let _both = mutex.lock_both([file(1, 1), file(2, 1)]);
        drop(mutex.lock(file(3, 1)));
    }
}
