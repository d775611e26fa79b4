//! What is counted of one guest's use of this door, and of each share behind it. Kept over its connections, not over a
//! kill of the process.
//!
//! The counts of a share are on the path of every request. So each connection has some of its own (`Tally`), which
//! only its thread writes, alone in their cache lines; who asks adds up those of all connections.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::messages::kind_name;
use crate::count::{Count, OwnCount};

/// Questions have even numbers below this.
const KINDS: usize = 128;

/// Counts since the daemon started.
#[derive(Debug)]
pub(crate) struct Counters {
    requests: [AtomicU64; KINDS],
    /// Kinds of message that are not known here, answered EOPNOTSUPP.
    pub(crate) unknown: Count,
    /// Messages that could not be understood: answered EINVAL, or the connection ended where no frame could be.
    pub(crate) malformed: Count,
    /// Answers that were an error, what ever it was.
    pub(crate) errors: Count,
    /// Requests refused because too many locks wait.
    pub(crate) refused_waits: Count,
    /// Requests refused because a client has too many fids, or too many attribute values open.
    pub(crate) refused_fids: Count,
    /// Attaches of a share that is not the guest's.
    pub(crate) refused_attaches: Count,
    /// By name: those that were attached once.
    shares: Mutex<BTreeMap<String, Arc<OfShare>>>,
}

/// What was done with one share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Done {
    /// Requests, whatever became of them.
    pub(crate) operations: u64,
    pub(crate) bytes_read: u64,
    pub(crate) bytes_written: u64,
}

/// A share's, from all connections.
#[derive(Debug, Default)]
struct OfShare(Mutex<Parts>);

#[derive(Debug, Default)]
struct Parts {
    live: Vec<Arc<Counts>>,
    /// Of connections that have ended.
    ended: Done,
}

/// As much as processors fetch at once, so that no two connections write to the same.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Counts {
    operations: OwnCount,
    bytes_read: OwnCount,
    bytes_written: OwnCount,
}

/// One connection's counts of one share.
#[derive(Debug)]
pub(crate) struct Tally {
    counts: Arc<Counts>,
    share: Arc<OfShare>,
}

/// What one connection counts with as it uses one share.
#[derive(Debug)]
pub(crate) struct Counting {
    /// The guest's, of all shares and connections.
    pub(super) door: Arc<Counters>,
    pub(super) tally: Tally,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            requests: [const { AtomicU64::new(0) }; KINDS],
            unknown: Count::default(),
            malformed: Count::default(),
            errors: Count::default(),
            refused_waits: Count::default(),
            refused_fids: Count::default(),
            refused_attaches: Count::default(),
            shares: Mutex::default(),
        }
    }
}

impl Counters {
    /// A frame of this kind has come.
    pub(super) fn request(&self, kind: u8) {
        if let Some(count) = self.requests.get(usize::from(kind)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Names and counts of those that have come at least once.
    pub(crate) fn requests(&self) -> impl Iterator<Item = (&'static str, u64)> {
        (0..).zip(&self.requests).filter_map(|(kind, count)| {
            let count = count.load(Ordering::Relaxed);
            Some((kind_name(kind)?, count)).filter(|(_, count)| *count > 0)
        })
    }

    /// For a connection that attaches this share.
    pub(crate) fn of_share(self: &Arc<Self>, share: &str) -> Counting {
        let mut shares = locked(&self.shares);
        let known = match shares.get(share) {
            Some(known) => Arc::clone(known),
            None => Arc::clone(shares.entry(share.to_owned()).or_default()),
        };
        Counting {
            door: Arc::clone(self),
            tally: Tally::new(known),
        }
    }

    /// Each share that was attached once, and what was done with it.
    pub(crate) fn shares(&self) -> Vec<(String, Done)> {
        let shares = locked(&self.shares);
        let done = shares
            .iter()
            .map(|(name, share)| (name.clone(), share.done()));
        done.collect()
    }

    /// What was done with one of them.
    pub(crate) fn done(&self, share: &str) -> Option<Done> {
        locked(&self.shares).get(share).map(|share| share.done())
    }
}

impl OfShare {
    fn done(&self) -> Done {
        let parts = locked(&self.0);
        let live = parts.live.iter();
        live.fold(parts.ended, |sum, counts| sum.and(counts.done()))
    }
}

impl Done {
    /// Of both together.
    pub(crate) fn and(self, other: Self) -> Self {
        Self {
            operations: self.operations + other.operations,
            bytes_read: self.bytes_read + other.bytes_read,
            bytes_written: self.bytes_written + other.bytes_written,
        }
    }
}

impl Counts {
    fn done(&self) -> Done {
        Done {
            operations: self.operations.get(),
            bytes_read: self.bytes_read.get(),
            bytes_written: self.bytes_written.get(),
        }
    }
}

impl Tally {
    fn new(share: Arc<OfShare>) -> Self {
        let counts: Arc<Counts> = Arc::default();
        locked(&share.0).live.push(Arc::clone(&counts));
        Self { counts, share }
    }

    pub(super) fn operation(&self) {
        self.counts.operations.one();
    }

    pub(super) fn read(&self, bytes: usize) {
        self.counts.bytes_read.add(bytes as u64);
    }

    pub(super) fn written(&self, bytes: usize) {
        self.counts.bytes_written.add(bytes as u64);
    }
}

impl Drop for Tally {
    /// What was counted stays.
    fn drop(&mut self) {
        let mut parts = locked(&self.share.0);
        parts
            .live
            .retain(|counts| !Arc::ptr_eq(counts, &self.counts));
        parts.ended = parts.ended.and(self.counts.done());
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn done(operations: u64, bytes_read: u64, bytes_written: u64) -> Option<Done> {
        Some(Done {
            operations,
            bytes_read,
            bytes_written,
        })
    }

    #[test]
    fn shares_are_counted_apart_and_over_their_connections() {
        let counters: Arc<Counters> = Arc::default();
        let (a, again, b) = (
            counters.of_share("a"),
            counters.of_share("a"),
            counters.of_share("b"),
        );
        a.tally.operation();
        a.tally.read(7);
        again.tally.operation();
        again.tally.written(5);
        b.tally.operation();
        assert_eq!(counters.done("a"), done(2, 7, 5));
        assert_eq!(counters.done("b"), done(1, 0, 0));
        drop(a);
        assert_eq!(counters.done("a"), done(2, 7, 5));
        again.tally.read(1);
        drop((again, b));
        counters.of_share("a").tally.operation();
        let shares = counters.shares();
        let names: Vec<&str> = shares.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["a", "b"]);
        assert_eq!(counters.done("a"), done(3, 8, 5));
        assert_eq!(counters.done("b"), done(1, 0, 0));
        assert_eq!(counters.done("c"), None);
        let live = |share: &str| {
            let shares = locked(&counters.shares);
            locked(&shares[share].0).live.len()
        };
        assert_eq!(
            (live("a"), live("b")),
            (0, 0),
            "nothing of what ended is held"
        );
    }

    #[test]
    fn counts_of_two_connections_share_no_cache_line() {
        const CONNECTIONS: usize = 64;
        let counters: Arc<Counters> = Arc::default();
        let all: Vec<Counting> = (0..CONNECTIONS).map(|_| counters.of_share("a")).collect();
        let lines = |counting: &Counting| {
            let first = Arc::as_ptr(&counting.tally.counts).addr();
            let last = first + size_of::<Counts>() - 1;
            first / 128..=last / 128
        };
        let taken: Vec<usize> = all.iter().flat_map(lines).collect();
        let apart: std::collections::BTreeSet<usize> = taken.iter().copied().collect();
        assert_eq!((taken.len(), apart.len()), (CONNECTIONS, CONNECTIONS));
    }
}
