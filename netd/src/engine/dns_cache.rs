//! Answers of foreign name servers, kept for as long as they say. Pure; one entry is one whole message.
//! Times to live count down in what it gives (RFC 1035 section 7.3); nothing is ever served stale.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use crate::wire::dns::{HEADER, Query, walk_answer, without_options};

/// Entries; the one that would end first gives way.
const ENTRY_LIMIT: usize = 4_096;
/// A larger answer is not kept: at most 8 MiB for the whole cache.
const SIZE_LIMIT: usize = 2_048;
/// However long the answer says: what a VPN changed is noticed within five minutes at the worst.
const LONGEST: u32 = 300;

/// What makes two queries the same: name (case folded), type, class, RD, CD, AD, with EDNS, with DNSSEC.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key(Box<[u8]>);

impl Key {
    /// A query's key; `None` when the answer is for this client alone (RFC 7871).
    #[must_use]
    pub fn of(query: &Query<'_>) -> Option<Self> {
        if query.edns.is_some_and(|edns| edns.client_subnet) {
            return None;
        }
        let mut key = Vec::with_capacity(query.name.len() + 5);
        key.extend(query.name.iter().map(u8::to_ascii_lowercase));
        key.extend_from_slice(&query.kind.to_be_bytes());
        key.extend_from_slice(&query.class.to_be_bytes());
        let dnssec = query.edns.is_some_and(|edns| edns.dnssec);
        let flags = [
            query.recursion,
            query.checking_disabled,
            query.authentic || dnssec,
            query.edns.is_some(),
            dnssec,
        ];
        key.push(
            flags
                .iter()
                .fold(0, |bits, flag| bits << 1 | u8::from(*flag)),
        );
        Some(Self(key.into()))
    }
}

#[derive(Debug)]
struct Entry {
    message: Box<[u8]>,
    ttl_places: Vec<usize>,
    stored: Instant,
    end: (Instant, u64),
}

/// A bounded cache.
#[derive(Debug, Default)]
pub struct DnsCache {
    entries: HashMap<Key, Entry>,
    ends: BTreeMap<(Instant, u64), Key>,
    stored: u64,
    hits: u64,
}

impl DnsCache {
    /// The kept answer to a query, with its id and spelling.
    pub fn find(&mut self, query: &Query<'_>, now: Instant) -> Option<Vec<u8>> {
        let key = Key::of(query)?;
        let entry = self.entries.get(&key)?;
        if entry.end.0 <= now {
            let end = entry.end;
            self.entries.remove(&key);
            self.ends.remove(&end);
            return None;
        }
        let age = u32::try_from(now.saturating_duration_since(entry.stored).as_secs())
            .unwrap_or(u32::MAX);
        let mut message = entry.message.to_vec();
        for at in &entry.ttl_places {
            if let Some(place) = message.get_mut(*at..*at + 4)
                && let Some(ttl) = place.first_chunk().map(|four| u32::from_be_bytes(*four))
            {
                place.copy_from_slice(&ttl.saturating_sub(age).to_be_bytes());
            }
        }
        message
            .get_mut(..2)?
            .copy_from_slice(&query.id.to_be_bytes());
        let name = HEADER..HEADER + query.name.len();
        message.get_mut(name)?.copy_from_slice(query.name);
        self.hits += 1;
        Some(message)
    }

    /// Keeps an answer if it may be kept. The caller has checked that it answers this query.
    pub fn store(&mut self, query: &Query<'_>, answer: &[u8], now: Instant) {
        let Some(key) = Key::of(query).filter(|_| answer.len() <= SIZE_LIMIT) else {
            return;
        };
        let Some(answer) = without_options(query, answer) else {
            return;
        };
        let Some(walked) = walk_answer(&answer, query.question_end()).filter(|w| w.keep > 0) else {
            return;
        };
        if let Some(old) = self.entries.remove(&key) {
            self.ends.remove(&old.end);
        }
        if self.entries.len() >= ENTRY_LIMIT
            && let Some((_, first)) = self.ends.pop_first()
        {
            self.entries.remove(&first);
        }
        self.stored += 1;
        let end = (
            now + Duration::from_secs(walked.keep.min(LONGEST).into()),
            self.stored,
        );
        self.ends.insert(end, key.clone());
        let message = answer.into();
        self.entries.insert(
            key,
            Entry {
                message,
                ttl_places: walked.ttl_places,
                stored: now,
                end,
            },
        );
    }

    /// Other resolvers may know other answers.
    pub fn clear(&mut self) {
        self.entries.clear();
        self.ends.clear();
    }

    /// Entries kept now.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nothing is kept.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Queries answered since the start.
    #[must_use]
    pub fn hits(&self) -> u64 {
        self.hits
    }
}
