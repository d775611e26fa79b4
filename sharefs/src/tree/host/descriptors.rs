//! How many descriptors guests may make this daemon hold, all shares and guests together.
//!
//! Each node that a guest knows and each file it has open is a descriptor here. At the bound a guest
//! is answered EMFILE and it is counted; nothing is evicted, because a node without its descriptor
//! could not be found again when names change on the host.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use rustix::io::Errno;

use crate::tree::Result;

/// Kept for the daemon itself: sockets, event descriptors, logs, guest memory.
const KEPT_FOR_THE_DAEMON: usize = 512;
/// Whatever the system allows: doors number their nodes with 28 bits.
const MOST: usize = 1 << 27;

/// The common bound and its counters.
#[derive(Debug)]
pub(crate) struct Descriptors {
    limit: usize,
    held: AtomicUsize,
    refused: AtomicU64,
}

impl Descriptors {
    /// `limit`: how many may be held at once.
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            limit,
            held: AtomicUsize::new(0),
            refused: AtomicU64::new(0),
        })
    }

    /// Raises the process's soft limit to the hard one and leaves the daemon its share of it.
    pub(crate) fn of_process() -> Arc<Self> {
        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
        let old = getrlimit(Resource::Nofile);
        let raised = Rlimit {
            current: old.maximum,
            maximum: old.maximum,
        };
        let now = match setrlimit(Resource::Nofile, raised) {
            Ok(()) => raised,
            Err(_) => old,
        };
        let all = now
            .current
            .and_then(|limit| usize::try_from(limit).ok())
            .unwrap_or(usize::MAX);
        let for_guests = all.saturating_sub(KEPT_FOR_THE_DAEMON).max(all / 2);
        Self::new(for_guests.min(MOST))
    }

    /// Counts the descriptor that `open` makes; EMFILE at the bound, before it is made.
    pub(super) fn hold(
        self: &Arc<Self>,
        open: impl FnOnce() -> Result<OwnedFd>,
    ) -> Result<Descriptor> {
        if self.held.fetch_add(1, Ordering::Relaxed) >= self.limit {
            self.held.fetch_sub(1, Ordering::Relaxed);
            self.refused.fetch_add(1, Ordering::Relaxed);
            return Err(Errno::MFILE);
        }
        match open() {
            Ok(descriptor) => Ok(Descriptor {
                descriptor,
                counter: Arc::clone(self),
            }),
            Err(error) => {
                self.held.fetch_sub(1, Ordering::Relaxed);
                if matches!(error, Errno::MFILE | Errno::NFILE) {
                    self.refused.fetch_add(1, Ordering::Relaxed);
                }
                Err(error)
            }
        }
    }

    /// From here on the rest is kept for what guests ask for by name.
    pub(super) fn is_half_used(&self) -> bool {
        self.held() > self.limit / 2
    }

    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    pub(crate) fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// How often a guest was answered EMFILE.
    pub(crate) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }
}

/// A counted descriptor.
#[derive(Debug)]
pub(crate) struct Descriptor {
    descriptor: OwnedFd,
    counter: Arc<Descriptors>,
}

impl AsFd for Descriptor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        self.counter.held.fetch_sub(1, Ordering::Relaxed);
    }
}
