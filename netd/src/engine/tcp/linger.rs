//! What is left of a connection that we closed first: enough to acknowledge the guest's FIN again if our
//! last ACK was lost. TIME-WAIT (RFC 9293 §3.6.1) without the flow, its socket or a timer: entries are
//! dropped when a new one needs room or an old one is looked at.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::time::{Duration, Instant};

use super::segment::{Outgoing, Segment};
use super::seq::Seq;

/// Several retransmissions of a FIN on a local link.
const TIME: Duration = Duration::from_secs(4);
/// Entries kept: the rest is answered by RST, which does a closed guest no harm.
const CAPACITY: usize = 4_096;

/// The entries, oldest first.
#[derive(Debug)]
pub struct Linger<K> {
    entries: HashMap<K, (Seq, Seq, Instant)>,
    order: VecDeque<(K, Instant)>,
}

impl<K> Default for Linger<K> {
    fn default() -> Self {
        Self {
            entries: HashMap::new(),
            order: VecDeque::new(),
        }
    }
}

impl<K: Copy + Eq + Hash> Linger<K> {
    /// A flow ended orderly with these numbers.
    pub fn insert(&mut self, key: K, (seq, ack): (Seq, Seq), now: Instant) {
        while let Some((oldest, until)) = self.order.front().copied()
            && (until <= now || self.order.len() >= CAPACITY)
        {
            self.order.pop_front();
            if self
                .entries
                .get(&oldest)
                .is_some_and(|entry| entry.2 == until)
            {
                self.entries.remove(&oldest);
            }
        }
        let until = now + TIME;
        self.entries.insert(key, (seq, ack, until));
        self.order.push_back((key, until));
    }

    /// The answer to a segment of a flow that is gone, if it is one of ours and not a new connection.
    pub fn answer(&mut self, key: &K, segment: &Segment, now: Instant) -> Option<Outgoing> {
        let (seq, ack, until) = *self.entries.get(key)?;
        if segment.syn || until <= now {
            self.entries.remove(key);
            return None;
        }
        if segment.rst {
            return None;
        }
        Some(Outgoing {
            seq,
            ack: Some(ack),
            window: u16::MAX,
            ..Outgoing::default()
        })
    }

    /// Whether a segment of this flow is expected and harmless.
    pub fn knows(&self, key: &K) -> bool {
        self.entries.contains_key(key)
    }

    /// Entries held, for bounds in tests.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Nothing held.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}
