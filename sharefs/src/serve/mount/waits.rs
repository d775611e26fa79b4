//! Requests of a mount that wait for a lock, and the one thread that asks for them again.
//!
//! A lock that is let go through the mount is seen at once, one that another process lets go within
//! `LAST_RETRY`. Here, unlike over virtiofs, the kernel says when a program no longer wants to wait
//! (INTERRUPT: a signal came). It may say so while another thread has read the request and the session does not
//! know it yet, so it is kept here too: with the request if that waits already, else remembered until it comes;
//! numbers of requests are never used again.

use std::os::fd::OwnedFd;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::io::Errno;

use crate::fuse::session::Serve;
use crate::fuse::wire;
use crate::keep::fault::{self, Point};
use crate::keep::mount::Mount;

/// How soon a lock is asked for again, at first and at last.
const FIRST_RETRY: Duration = Duration::from_millis(1);
/// See `FIRST_RETRY`.
const LAST_RETRY: Duration = Duration::from_millis(50);
/// Interrupted requests that are remembered: more than threads can have read and not put here.
const REMEMBERED: usize = 64;

/// See the module's head. The session bounds how many wait.
pub(super) struct Waits {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    waiting: Vec<Wait>,
    /// The last that were interrupted and did not wait here, in a ring.
    early: [u64; REMEMBERED],
    next_early: usize,
    /// Something came that may end a wait.
    nudged: bool,
    stopping: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Wait {
    unique: u64,
    /// Whose descriptor the answer goes to: the one that the request came from.
    queue: usize,
    /// Whoever asked no longer wants to wait.
    interrupted: bool,
    /// It was asked for by this thread before.
    asked_before: bool,
}

impl Default for Waits {
    fn default() -> Self {
        Self {
            state: Mutex::new(State {
                waiting: Vec::new(),
                early: [0; REMEMBERED],
                next_early: 0,
                nudged: false,
                stopping: false,
            }),
            changed: Condvar::new(),
        }
    }
}

impl Waits {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request waits from now on. True: it was interrupted already and does not.
    pub(super) fn add(&self, unique: u64, queue: usize) -> bool {
        let mut state = self.state();
        if state.early.contains(&unique) {
            return true;
        }
        state.waiting.push(Wait {
            unique,
            queue,
            interrupted: false,
            asked_before: false,
        });
        drop(state);
        self.changed.notify_one();
        false
    }

    /// Nobody wants to wait for this one any more; a request that waits here is answered at once.
    pub(super) fn interrupted(&self, unique: u64) {
        let mut state = self.state();
        let mut waiting = state.waiting.iter_mut();
        if let Some(wait) = waiting.find(|wait| wait.unique == unique) {
            wait.interrupted = true;
            state.nudged = true;
            drop(state);
            self.changed.notify_one();
            return;
        }
        let at = state.next_early;
        if let Some(place) = state.early.get_mut(at) {
            *place = unique;
        }
        state.next_early = (at + 1) % REMEMBERED;
    }

    /// A lock may have become free.
    pub(super) fn nudge(&self) {
        let mut state = self.state();
        if !state.waiting.is_empty() {
            state.nudged = true;
            drop(state);
            self.changed.notify_one();
        }
    }

    pub(super) fn stop(&self) {
        self.state().stopping = true;
        self.changed.notify_all();
    }

    /// The thread: until `stop`. What waits has its row in `memory`, until it is answered.
    pub(super) fn run(&self, session: &dyn Serve, devices: &[OwnedFd], memory: &Mount) {
        let mut asked = Vec::new();
        let mut pause = FIRST_RETRY;
        while self.next(&mut asked, pause) {
            let mut answered = false;
            for wait in &asked {
                let retried = memory.retry(wait.unique, || {
                    fault::at(Point::Retried);
                    session.retry(wait.unique)
                });
                if !wait.asked_before {
                    memory.outlived(wait.unique);
                }
                let answer = match retried {
                    Some(answer) => answer,
                    None if wait.interrupted => {
                        session.abandon(wait.unique);
                        wire::out_header(wait.unique, Some(Errno::INTR), 0)
                    }
                    None => continue,
                };
                // Taken out first: a number that is answered must not be found here.
                let is_other = |other: &Wait| other.unique != wait.unique;
                self.state().waiting.retain(is_other);
                answered = true;
                if let Some(device) = devices.get(wait.queue) {
                    // ENOENT: who asked was killed.
                    rustix::io::write(device, &answer).ok();
                }
                memory.end_wait(wait.unique);
            }
            pause = if answered {
                FIRST_RETRY
            } else {
                (pause * 2).min(LAST_RETRY)
            };
        }
    }

    /// Waits for a reason to ask; `asked` is what waits then. False: no more.
    fn next(&self, asked: &mut Vec<Wait>, pause: Duration) -> bool {
        let mut state = self.state();
        let idle = |state: &mut State| state.waiting.is_empty() && !state.stopping;
        state = self
            .changed
            .wait_while(state, idle)
            .unwrap_or_else(PoisonError::into_inner);
        let calm = |state: &mut State| !state.nudged && !state.stopping;
        (state, _) = self
            .changed
            .wait_timeout_while(state, pause, calm)
            .unwrap_or_else(PoisonError::into_inner);
        state.nudged = false;
        asked.clear();
        asked.extend_from_slice(&state.waiting);
        for wait in &mut state.waiting {
            wait.asked_before = true;
        }
        !state.stopping
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interrupt_that_overtakes_its_request_is_not_lost() {
        let waits = Waits::default();
        waits.interrupted(8);
        assert!(waits.add(8, 0), "interrupted before it waited");
        assert!(!waits.add(10, 1));
        waits.interrupted(10);
        let mut asked = Vec::new();
        assert!(waits.next(&mut asked, Duration::from_secs(60)), "at once");
        assert_eq!(
            asked,
            [Wait {
                unique: 10,
                queue: 1,
                interrupted: true,
                asked_before: false,
            }]
        );
        for unique in 100..100 + REMEMBERED as u64 {
            waits.interrupted(unique);
        }
        assert!(!waits.add(8, 0), "long ago, and numbers come once");
    }

    #[test]
    fn a_lock_that_is_let_go_ends_the_pause_only_where_somebody_waits() {
        let waits = Waits::default();
        waits.nudge();
        assert!(!waits.state().nudged);
        waits.add(2, 0);
        waits.nudge();
        let mut asked = Vec::new();
        assert!(waits.next(&mut asked, Duration::from_secs(60)));
        assert_eq!(asked.len(), 1);
        waits.stop();
        assert!(!waits.next(&mut asked, Duration::from_secs(60)));
    }
}
