//! The slow lane of a connection: what may take seconds is done here, one after the other, while the
//! connection's own thread goes on.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use super::buffers::Sender;
use crate::ninep::counters::Counters;
use crate::ninep::messages::Reply;
use crate::ninep::session::{Session, Slow};

/// Jobs that wait their turn; with more, the connection waits.
const MOST_JOBS: usize = 64;

enum Job {
    Slow(u16, Slow),
    /// A Tflush of a job before it: the order is the answer.
    Flush(u16),
}

/// Started at the first use.
pub(super) struct Lane {
    sender: Arc<Sender>,
    counters: Arc<Counters>,
    running: Option<Running>,
}

struct Running {
    jobs: SyncSender<Job>,
    /// Tags that are not answered yet.
    open: Arc<Mutex<Vec<u16>>>,
    failed: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Lane {
    pub(super) fn new(sender: Arc<Sender>, counters: Arc<Counters>) -> Self {
        Self {
            sender,
            counters,
            running: None,
        }
    }

    /// Takes the job; false when there is nobody to do it.
    pub(super) fn take(&mut self, tag: u16, slow: Slow) -> bool {
        if self.running.is_none() {
            self.running = self.start().ok();
        }
        let Some(running) = &self.running else {
            return false;
        };
        locked(&running.open).push(tag);
        running.jobs.send(Job::Slow(tag, slow)).is_ok()
    }

    /// Whether the Tflush `tag` of the request `old` is answered here, behind that request.
    pub(super) fn flush(&self, tag: u16, old: u16) -> bool {
        self.running.as_ref().is_some_and(|running| {
            let is_here = locked(&running.open).contains(&old);
            is_here && running.jobs.send(Job::Flush(tag)).is_ok()
        })
    }

    /// Waits until all is answered: the session begins anew.
    pub(super) fn finish(&mut self) {
        if let Some(Running { jobs, thread, .. }) = self.running.take() {
            drop(jobs);
            let ended: std::thread::Result<()> = thread.join();
            debug_assert!(ended.is_ok());
        }
    }

    /// Whether an answer could not be sent.
    pub(super) fn failed(&self) -> bool {
        let running = self.running.as_ref();
        running.is_some_and(|running| running.failed.load(Ordering::Relaxed))
    }

    fn start(&self) -> std::io::Result<Running> {
        let (jobs, list) = sync_channel(MOST_JOBS);
        let open = Arc::new(Mutex::new(Vec::new()));
        let failed = Arc::new(AtomicBool::new(false));
        let (sender, counters) = (Arc::clone(&self.sender), Arc::clone(&self.counters));
        let (still_open, has_failed) = (Arc::clone(&open), Arc::clone(&failed));
        let work = move || {
            for job in list {
                let mut room = [0; 16];
                let length = match job {
                    Job::Slow(tag, slow) => {
                        let result = slow.run();
                        locked(&still_open).retain(|open| *open != tag);
                        Session::finished(&counters, tag, result, &mut room)
                    }
                    Job::Flush(tag) => Reply::Flush {}.encode(tag, &mut room).unwrap_or_default(),
                };
                if sender.send(room.get(..length).unwrap_or_default()).is_err() {
                    has_failed.store(true, Ordering::Relaxed);
                }
            }
        };
        let thread = std::thread::Builder::new()
            .name("9p-slow".to_owned())
            .spawn(work)?;
        Ok(Running {
            jobs,
            open,
            failed,
            thread,
        })
    }
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
