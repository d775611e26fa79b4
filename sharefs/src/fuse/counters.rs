//! What is counted of one guest's use of one share. Kept over reconnections of its VMM.

use std::sync::atomic::{AtomicU64, Ordering};

use super::wire::opcode_name;
use crate::count::Count;

/// Numbers below this have a counter of their own; the largest known is 52.
const OPCODES: usize = 64;

/// Counts since the daemon started.
#[derive(Debug)]
pub(crate) struct Counters {
    requests: [AtomicU64; OPCODES],
    /// Requests whose number is not known here, answered ENOSYS.
    pub(crate) unknown: Count,
    /// Requests that could not be understood, answered EINVAL, or not at all where even the header
    /// was cut or there was no room for an answer.
    pub(crate) malformed: Count,
    /// Answers that were an error, what ever it was.
    pub(crate) errors: Count,
    /// Bytes read by the guest.
    pub(crate) bytes_read: Count,
    /// Bytes written by the guest.
    pub(crate) bytes_written: Count,
    /// Descriptor chains that name memory the guest does not have.
    pub(crate) bad_chains: Count,
    /// Waiting lock requests refused because too many wait.
    pub(crate) refused_waits: Count,
    /// Waiting lock requests refused because they would wait for themselves.
    pub(crate) deadlocks: Count,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            requests: [const { AtomicU64::new(0) }; OPCODES],
            unknown: Count::default(),
            malformed: Count::default(),
            errors: Count::default(),
            bytes_read: Count::default(),
            bytes_written: Count::default(),
            bad_chains: Count::default(),
            refused_waits: Count::default(),
            deadlocks: Count::default(),
        }
    }
}

impl Counters {
    /// A request with a readable header has come.
    pub(crate) fn request(&self, opcode: u32) {
        let own = usize::try_from(opcode)
            .ok()
            .and_then(|opcode| self.requests.get(opcode));
        if let Some(count) = own {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Names and counts of those that have come at least once.
    pub(crate) fn requests(&self) -> impl Iterator<Item = (&'static str, u64)> {
        (0..).zip(&self.requests).filter_map(|(opcode, count)| {
            let count = count.load(Ordering::Relaxed);
            Some((opcode_name(opcode)?, count)).filter(|(_, count)| *count > 0)
        })
    }
}
