//! How many descriptors guests may make this daemon hold, and how many nodes, all shares and guests together.
//!
//! A file or folder that is open is a descriptor until it is closed. A node is one only while it is used
//! (`node.rs`): above a bound the ones not used for longest are let go of and found again when they are asked
//! for. So EMFILE is for guests that have too much open, and ENFILE for those that know more files than this
//! daemon has memory for.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::clock::Clock;
use crate::count::Count;
use crate::tree::Result;

/// Kept for the daemon itself: sockets, event descriptors, logs, guest memory.
const KEPT_FOR_THE_DAEMON: usize = 512;
/// Nodes held at once, whatever the system allows: each keeps a file, a name and an inode in the kernel's
/// memory, together about a KiB, which the kernel could use otherwise.
const MOST_HELD_NODES: usize = 1 << 17;
/// Descriptors that the process's table has room for from the start: half a MiB of the kernel's memory.
const TABLE: usize = 1 << 16;
/// Bytes of a node that is known, with its place in a session's table, its row for the next process, and a name of as
/// many bytes as most have.
const NODE: u64 = 544;
/// Nodes known at once: an eighth of the machine's memory, within these. Doors number them with 28 bits.
const FEWEST_NODES: usize = 1 << 20;
const MOST_NODES: usize = 1 << 24;
/// Attempts to have what others take at the same moment.
const ATTEMPTS: usize = 16;

/// The common bounds and what is counted.
#[derive(Debug)]
pub(crate) struct Descriptors {
    limit: usize,
    held: AtomicUsize,
    known_limit: usize,
    known: AtomicUsize,
    /// Of the nodes known: those without a descriptor.
    let_go: AtomicUsize,
    /// Of the nodes known: those that a next process goes on with.
    kept: AtomicUsize,
    /// Whether something may have been renamed in its folder of which no node was told.
    renamed: AtomicBool,
    pub(super) clock: Clock,
    /// How often a guest was answered EMFILE.
    pub(crate) refused: Count,
    /// How often a guest was answered ENFILE.
    pub(crate) refused_nodes: Count,
    /// Nodes that were let go of.
    pub(crate) evicted: Count,
    /// Nodes that were found again.
    pub(crate) reopened: Count,
    /// Nodes that were not: the host has changed what is there.
    pub(crate) stale: Count,
}

impl Descriptors {
    #[cfg(test)]
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        Self::with_nodes(limit, MOST_NODES)
    }

    /// `limit`: how many may be held at once, three quarters of them for nodes. `known`: how many nodes may be
    /// known at once.
    pub(crate) fn with_nodes(limit: usize, known: usize) -> Arc<Self> {
        Arc::new(Self {
            limit,
            held: AtomicUsize::new(0),
            known_limit: known,
            known: AtomicUsize::new(0),
            let_go: AtomicUsize::new(0),
            kept: AtomicUsize::new(0),
            renamed: AtomicBool::new(false),
            clock: Clock::new((limit - limit / 4).clamp(1, MOST_HELD_NODES)),
            refused: Count::default(),
            refused_nodes: Count::default(),
            evicted: Count::default(),
            reopened: Count::default(),
            stale: Count::default(),
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
        make_room(all.min(TABLE));
        let machine = rustix::system::sysinfo();
        let memory = machine.totalram.saturating_mul(machine.mem_unit.into());
        let known = usize::try_from(memory / 8 / NODE).unwrap_or(MOST_NODES);
        Self::with_nodes(for_guests, known.clamp(FEWEST_NODES, MOST_NODES))
    }

    /// Counts the descriptor that `open` makes; EMFILE at the bound, before it is made.
    pub(super) fn hold(
        self: &Arc<Self>,
        mut open: impl FnMut() -> Result<OwnedFd>,
    ) -> Result<Descriptor> {
        let mut made_room = 0;
        loop {
            let error = if self.held.fetch_add(1, Ordering::Relaxed) < self.limit {
                match open() {
                    Ok(descriptor) => {
                        return Ok(Descriptor {
                            descriptor,
                            counter: Arc::clone(self),
                        });
                    }
                    Err(error) => error,
                }
            } else {
                Errno::MFILE
            };
            self.held.fetch_sub(1, Ordering::Relaxed);
            if !matches!(error, Errno::MFILE | Errno::NFILE) {
                return Err(error);
            }
            made_room += 1;
            if made_room == ATTEMPTS || !self.clock.let_one_go() {
                self.refused.one();
                return Err(error);
            }
        }
    }

    /// The same for a node's, of which there is a bound of its own.
    pub(super) fn hold_node(
        self: &Arc<Self>,
        open: impl FnMut() -> Result<OwnedFd>,
    ) -> Result<Descriptor> {
        if self.clock.is_full() && !self.clock.let_one_go() {
            self.refused.one();
            return Err(Errno::MFILE);
        }
        self.hold(open)
    }

    /// An earlier process opened it, within the same bound: it is counted, and never refused.
    pub(super) fn hold_adopted(self: &Arc<Self>, descriptor: OwnedFd) -> Descriptor {
        self.held.fetch_add(1, Ordering::Relaxed);
        Descriptor {
            descriptor,
            counter: Arc::clone(self),
        }
    }

    /// One node more is known.
    pub(super) fn know(self: &Arc<Self>) -> Result<Known> {
        if self.known.fetch_add(1, Ordering::Relaxed) >= self.known_limit {
            self.known.fetch_sub(1, Ordering::Relaxed);
            self.refused_nodes.one();
            return Err(Errno::NFILE);
        }
        Ok(Known(Arc::clone(self)))
    }

    /// From here on the rest is kept for what guests ask for by name.
    pub(super) fn is_half_known(&self) -> bool {
        self.known() > self.known_limit / 2
    }

    /// A node has no descriptor any more, or has one again.
    pub(super) fn count_let_go(&self, is_let_go: bool) {
        if is_let_go {
            self.let_go.fetch_add(1, Ordering::Relaxed);
        } else {
            self.let_go.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// A node is written down for a next process, or not any more.
    pub(super) fn count_kept(&self, is_kept: bool) {
        if is_kept {
            self.kept.fetch_add(1, Ordering::Relaxed);
        } else {
            self.kept.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Something is renamed, or was by an earlier process.
    pub(super) fn note_rename(&self) {
        if !self.renamed.load(Ordering::Relaxed) {
            self.renamed.store(true, Ordering::Release);
        }
    }

    pub(super) fn are_names_doubted(&self) -> bool {
        self.renamed.load(Ordering::Acquire)
    }

    /// Nodes known, and those among them that have no descriptor.
    pub(crate) fn known(&self) -> usize {
        self.known.load(Ordering::Relaxed)
    }

    pub(crate) fn let_go(&self) -> usize {
        self.let_go.load(Ordering::Relaxed)
    }

    /// Nodes that a next process goes on with.
    pub(crate) fn kept(&self) -> usize {
        self.kept.load(Ordering::Relaxed)
    }

    pub(crate) fn known_limit(&self) -> usize {
        self.known_limit
    }

    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    pub(crate) fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }
}

/// Makes the kernel's table of our descriptors so long at once. Where threads share the table it doubles only when
/// every processor has passed a point of rest (synchronize_rcu), some milliseconds each time, and a guest that
/// walks a tree would wait for each of them.
fn make_room(descriptors: usize) {
    let Ok(last) = i32::try_from(descriptors.saturating_sub(1)) else {
        return;
    };
    // The table stays as long as it was. Without that, it grows when it must.
    if let Ok(any) = rustix::fs::open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()) {
        drop(rustix::io::fcntl_dupfd_cloexec(&any, last));
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

/// A node that counts as known until this is dropped.
#[derive(Debug)]
pub(super) struct Known(Arc<Descriptors>);

impl Known {
    pub(super) fn counter(&self) -> &Arc<Descriptors> {
        &self.0
    }
}

impl Drop for Known {
    fn drop(&mut self) {
        self.0.known.fetch_sub(1, Ordering::Relaxed);
    }
}
