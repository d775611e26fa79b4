//! What is counted of one guest's use of this door. Kept over its connections.

use std::sync::atomic::{AtomicU64, Ordering};

use super::messages::kind_name;
use crate::count::Count;

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
    pub(crate) bytes_read: Count,
    pub(crate) bytes_written: Count,
    /// Requests refused because too many locks wait.
    pub(crate) refused_waits: Count,
    /// Requests refused because a client has too many fids, or too many attribute values open.
    pub(crate) refused_fids: Count,
    /// Attaches of a share that is not the guest's.
    pub(crate) refused_attaches: Count,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            requests: [const { AtomicU64::new(0) }; KINDS],
            unknown: Count::default(),
            malformed: Count::default(),
            errors: Count::default(),
            bytes_read: Count::default(),
            bytes_written: Count::default(),
            refused_waits: Count::default(),
            refused_fids: Count::default(),
            refused_attaches: Count::default(),
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
}
