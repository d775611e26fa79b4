//! The slow lane of a connection: what may take seconds is done here, one after the other, while the
//! connection's own thread goes on.
//!
//! Each job is written down until it is answered, so that a follower of this process can do it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::io::Errno;

use super::ledger::{Ledger, held};
use crate::confine::calls;
use crate::keep::ninep::rows::{Row, Rows};
use crate::ninep::counters::Counters;
use crate::ninep::messages::Reply;
use crate::ninep::session::{Session, Slow};
use crate::tree::Result;

/// Jobs that wait their turn; with more, the connection waits.
const MOST_JOBS: usize = 64;

/// What is to be answered, and where that is written down, if it is.
pub(super) struct Job {
    pub(super) tag: u16,
    pub(super) work: Work,
    pub(super) row: Option<Row>,
}

pub(super) enum Work {
    Slow(Slow),
    /// It cannot be done any more.
    Fail(Errno),
    /// A Tflush of a job before it: the order is the answer.
    Flush,
}

enum Order {
    Job(Job),
    /// Tells when all before it is answered.
    Mark(SyncSender<()>),
}

/// Its thread is there from the start, because a thread that has heard a client can start none.
pub(super) struct Lane {
    orders: SyncSender<Order>,
    /// Tags that are not answered yet.
    open: Arc<Mutex<Vec<u16>>>,
    failed: Arc<AtomicBool>,
}

impl Lane {
    pub(super) fn start(
        ledger: Arc<Mutex<Ledger>>,
        rows: Option<Arc<Rows>>,
        counters: Arc<Counters>,
    ) -> std::io::Result<Self> {
        let (orders, list) = sync_channel(MOST_JOBS);
        let lane = Self {
            orders,
            open: Arc::default(),
            failed: Arc::default(),
        };
        let (open, failed) = (Arc::clone(&lane.open), Arc::clone(&lane.failed));
        let work = move || {
            if let Err(error) = calls::confine_stream_thread() {
                tracing::warn!(%error, "a 9p client is served without this stage of the sandbox");
            }
            // What cannot be answered is not done away with before the connection is: its row says what is open for
            // it, and a number that is closed is another's at once.
            let mut unanswered = Vec::new();
            for order in list {
                let job = match order {
                    Order::Job(job) => job,
                    Order::Mark(reached) => {
                        // Whoever asked waits for it, or is gone.
                        reached.send(()).ok();
                        continue;
                    }
                };
                if failed.load(Ordering::Relaxed) {
                    unanswered.push(job);
                    continue;
                }
                let (tag, is_flush) = (job.tag, matches!(job.work, Work::Flush));
                if finish(&job, &ledger, rows.as_deref(), &counters).is_err() {
                    failed.store(true, Ordering::Relaxed);
                    unanswered.push(job);
                }
                // Behind the answer: a Tflush that comes meanwhile is answered here, too.
                // Once: its tag may be another job's by now.
                let mut open = locked(&open);
                let at = open.iter().position(|open| *open == tag);
                if let Some(at) = at.filter(|_| !is_flush) {
                    open.remove(at);
                }
            }
        };
        // Not waited for: it ends when its connection has ended and the last job is done.
        std::thread::Builder::new()
            .name("9p-slow".to_owned())
            .spawn(work)?;
        Ok(lane)
    }

    /// Takes the job; false when there is nobody to do it. Not to be called by who holds the ledger: there may be no
    /// room before something is answered.
    pub(super) fn take(&self, job: Job) -> bool {
        if !matches!(job.work, Work::Flush) {
            locked(&self.open).push(job.tag);
        }
        self.orders.send(Order::Job(job)).is_ok()
    }

    /// Whether the Tflush of the request `old` is answered here, behind that request.
    pub(super) fn has(&self, old: u16) -> bool {
        locked(&self.open).contains(&old)
    }

    /// Waits until all is answered: the session begins anew.
    pub(super) fn finish(&self) {
        let (mark, reached) = sync_channel(1);
        if self.orders.send(Order::Mark(mark)).is_ok() {
            reached.recv().ok();
        }
    }

    /// The same, and not for longer than that.
    pub(super) fn finish_within(&self, patience: Duration) {
        let (mark, reached) = sync_channel(1);
        if self.orders.send(Order::Mark(mark)).is_ok() {
            reached.recv_timeout(patience).ok();
        }
    }

    /// Whether an answer could not be sent.
    pub(super) fn failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }
}

/// Does it and answers it. The job is to be dropped behind that: its row says what is open for it until the commit.
fn finish(
    Job { tag, work, row }: &Job,
    ledger: &Mutex<Ledger>,
    rows: Option<&Rows>,
    counters: &Counters,
) -> Result<()> {
    let result = match work {
        Work::Slow(slow) => Some(match (rows, row) {
            (Some(rows), Some(row)) => {
                let done = rows.attempt_slow(*row, || slow.run());
                done.unwrap_or_else(|| {
                    tracing::error!(
                        "a request that ended sharefs several times is answered with EIO"
                    );
                    Err(Errno::IO)
                })
            }
            (_, _) => slow.run(),
        }),
        Work::Fail(error) => Some(Err(*error)),
        Work::Flush => None,
    };
    let mut ledger = held(ledger);
    let room = ledger.room(SHORT)?;
    let length = match result {
        Some(result) => Session::finished(counters, *tag, result, room),
        None => Reply::Flush {}.encode(*tag, room).unwrap_or_default(),
    };
    if let (Some(rows), Some(row)) = (rows, row) {
        rows.end_slow(*row);
    }
    ledger.answer(length);
    ledger.send()
}

/// Room for an answer that says nothing more.
const SHORT: usize = 64;

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
