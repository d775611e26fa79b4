//! How many processes died of a request that is answered later: it is not tried for ever, as in `keep/journal.rs`, which
//! counts for the request at the head.
//!
//! A wait is asked for again up to a thousand times a second by the connection's thread, and what the slow lane is at
//! may take seconds. So a process that dies while both are is more likely to have died of the latter: that is
//! counted, and the wait is not. What a follower lives through is cleared. A job of the lane may be at it, in good health,
//! while another request kills; that one is given up at its third, and so the job is begun twice as often.

use std::sync::atomic::Ordering;

use super::{LIFE, Row, Rows, Table, is_live, row, rows};
use crate::keep::fault::{self, Point};
use crate::keep::journal::MOST_ATTEMPTS;
use crate::sys::Shared;

/// Processes that may be killed with a job of the slow lane begun.
pub(super) const MOST_JOBS: u64 = 2 * MOST_ATTEMPTS;
/// Nobody died of it.
pub(super) const NONE: u64 = 0;
/// Of a wait: its lock is being asked for. Above it is how many died of that.
const UNDER_WAY: u64 = 1;
const ONE_DEATH: u64 = 2;
/// Words of rows.
const OF_WAIT: usize = LIFE + 6;
const OF_SLOW: usize = LIFE + 6;

impl Rows {
    /// A lock that is waited for is asked for again in `work`. None: processes have died of it too often, and it is not.
    pub(crate) fn retry<R>(&self, at: Row, work: impl FnOnce() -> R) -> Option<R> {
        let Row::At(index) = at else {
            return Some(work());
        };
        let word = &row(&self.memory, Table::Waits, index)[OF_WAIT];
        let before = word.load(Ordering::Relaxed);
        if before / ONE_DEATH >= MOST_ATTEMPTS {
            return None;
        }
        word.store(before | UNDER_WAY, Ordering::Release);
        fault::at(Point::Retried);
        let done = work();
        word.store(NONE, Ordering::Release);
        Some(done)
    }

    /// The same of a job of the slow lane, which is answered behind `work`.
    pub(crate) fn attempt_slow<R>(&self, at: Row, work: impl FnOnce() -> R) -> Option<R> {
        if let Row::At(index) = at {
            let word = &row(&self.memory, Table::Slow, index)[OF_SLOW];
            if word.fetch_add(1, Ordering::AcqRel) >= MOST_JOBS {
                return None;
            }
        }
        fault::at(Point::Slow);
        Some(work())
    }
}

/// Another process begins to serve: the one before died of what it was at.
pub(super) fn begin_again(memory: &Shared) {
    let last = super::committed(memory);
    let mut slow = rows(memory, Table::Slow).filter(|(_, row)| is_live(row, last));
    let is_slow = slow.any(|(_, row)| row[OF_SLOW].load(Ordering::Relaxed) != 0);
    for (_, row) in rows(memory, Table::Waits).filter(|(_, row)| is_live(row, last)) {
        let left = row[OF_WAIT].load(Ordering::Relaxed);
        if left & UNDER_WAY != 0 {
            let deaths = if is_slow { 0 } else { ONE_DEATH };
            // One store: this process may die, too.
            row[OF_WAIT].store(left - UNDER_WAY + deaths, Ordering::Release);
        }
    }
}
