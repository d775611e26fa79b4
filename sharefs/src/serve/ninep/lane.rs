//! The slow lane of a connection: what may take seconds is done here, one after the other, while the
//! connection's own thread goes on.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use super::buffers::Sender;
use crate::confine::calls;
use crate::ninep::counters::Counters;
use crate::ninep::messages::Reply;
use crate::ninep::session::{Session, Slow};

/// Jobs that wait their turn; with more, the connection waits.
const MOST_JOBS: usize = 64;

enum Job {
    Slow(u16, Slow),
    /// A Tflush of a job before it: the order is the answer.
    Flush(u16),
    /// Tells when all before it is answered.
    Mark(SyncSender<()>),
}

/// Its thread is there from the start, because a thread that has heard a client can start none.
pub(super) struct Lane {
    jobs: SyncSender<Job>,
    /// Tags that are not answered yet.
    open: Arc<Mutex<Vec<u16>>>,
    failed: Arc<AtomicBool>,
}

impl Lane {
    pub(super) fn start(sender: Arc<Sender>, counters: Arc<Counters>) -> std::io::Result<Self> {
        let (jobs, list) = sync_channel(MOST_JOBS);
        let lane = Self {
            jobs,
            open: Arc::default(),
            failed: Arc::default(),
        };
        let (open, failed) = (Arc::clone(&lane.open), Arc::clone(&lane.failed));
        let work = move || {
            if let Err(error) = calls::confine_thread() {
                tracing::warn!(%error, "a 9p client is served without this stage of the sandbox");
            }
            for job in list {
                let (mut room, mut answered) = ([0; 16], None);
                let length = match job {
                    Job::Slow(tag, slow) => {
                        let result = slow.run();
                        answered = Some(tag);
                        Session::finished(&counters, tag, result, &mut room)
                    }
                    Job::Flush(tag) => Reply::Flush {}.encode(tag, &mut room).unwrap_or_default(),
                    Job::Mark(reached) => {
                        // Whoever asked waits for it, or is gone.
                        reached.send(()).ok();
                        continue;
                    }
                };
                if sender.send(room.get(..length).unwrap_or_default()).is_err() {
                    failed.store(true, Ordering::Relaxed);
                }
                // Behind the answer: a Tflush that comes meanwhile is answered here, too.
                locked(&open).retain(|open| Some(*open) != answered);
            }
        };
        // Not waited for: it ends when its connection has ended and the last job is done.
        std::thread::Builder::new()
            .name("9p-slow".to_owned())
            .spawn(work)?;
        Ok(lane)
    }

    /// Takes the job; false when there is nobody to do it.
    pub(super) fn take(&self, tag: u16, slow: Slow) -> bool {
        locked(&self.open).push(tag);
        self.jobs.send(Job::Slow(tag, slow)).is_ok()
    }

    /// Whether the Tflush `tag` of the request `old` is answered here, behind that request.
    pub(super) fn flush(&self, tag: u16, old: u16) -> bool {
        let is_here = locked(&self.open).contains(&old);
        is_here && self.jobs.send(Job::Flush(tag)).is_ok()
    }

    /// Waits until all is answered: the session begins anew.
    pub(super) fn finish(&self) {
        let (mark, reached) = sync_channel(1);
        if self.jobs.send(Job::Mark(mark)).is_ok() {
            reached.recv().ok();
        }
    }

    /// Whether an answer could not be sent.
    pub(super) fn failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
