//! One request after the other is done again, and nothing new until all are: when a process dies of one, it is known of
//! which, and no other request is counted to have killed it.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Of the threads of a mount, or the connections of a door, that are taken up.
pub(super) struct Turns {
    state: Mutex<State>,
    changed: Condvar,
    /// Nobody waits longer: a request may take its time.
    patience: Duration,
}

struct State {
    /// Threads that have not had their turn.
    to_come: usize,
    is_taken: bool,
}

impl Turns {
    pub(super) fn new(threads: usize, patience: Duration) -> Self {
        Self {
            state: Mutex::new(State {
                to_come: threads,
                is_taken: false,
            }),
            changed: Condvar::new(),
            patience,
        }
    }

    /// Does `work` in the calling thread's turn, and returns when all threads have had theirs.
    pub(super) fn take(&self, work: impl FnOnce()) {
        self.wait_while(|state| state.is_taken).is_taken = true;
        work();
        let mut state = self.state();
        state.is_taken = false;
        state.to_come = state.to_come.saturating_sub(1);
        drop(state);
        self.changed.notify_all();
        drop(self.wait_while(|state| state.to_come > 0));
    }

    /// A turn that nobody will take.
    pub(super) fn pass(&self) {
        let mut state = self.state();
        state.to_come = state.to_come.saturating_sub(1);
        drop(state);
        self.changed.notify_all();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_while(&self, reason: impl Fn(&State) -> bool) -> MutexGuard<'_, State> {
        let wait = self
            .changed
            .wait_timeout_while(self.state(), self.patience, |state| reason(state));
        wait.unwrap_or_else(PoisonError::into_inner).0
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn turns_do_not_overlap_and_nobody_goes_on_before_the_last() {
        let turns = Turns::new(4, Duration::from_secs(60));
        let (inside, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    turns.take(|| {
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "alone");
                        std::thread::yield_now();
                        inside.fetch_sub(1, Ordering::SeqCst);
                        done.fetch_add(1, Ordering::SeqCst);
                    });
                    assert_eq!(done.load(Ordering::SeqCst), 4);
                });
            }
        });
    }

    #[test]
    fn one_that_never_comes_keeps_nobody_for_ever() {
        let turns = Turns::new(2, Duration::from_millis(10));
        turns.take(|| ());
    }
}
