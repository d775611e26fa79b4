//! Rate limits at work: which bucket a link has, and which flows wait for it. A network without limits
//! pays one branch.
//!
//! TCP waits: bytes stay in the host's socket or in the guest until there are tokens. Datagrams and echo
//! requests that find the bucket's short queue full are dropped and counted.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use control::names::GuestName;
use control::rate::RateLimit;

use super::context::{Context, Place};
use super::messages::Notice;
use crate::engine::services::LinkId;
use crate::engine::shaper::{Bucket, Shaper};

/// A full segment of an ordinary link: less is not worth a packet while there is more to come.
const WORTH_SENDING: usize = 1_460;
/// Drops of one guest are told this often.
const TELL: Duration = Duration::from_secs(10);

/// Which way bytes go, from the guest's view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// From the guest.
    Up,
    /// To the guest.
    Down,
}

/// Whether a flow waits for tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Throttle {
    /// It does not.
    #[default]
    No,
    /// It found none just now.
    Wanted,
    /// It is in the list of those that wait.
    Listed,
}

/// Both ways.
pub(super) const WAYS: [Way; 2] = [Way::Up, Way::Down];

#[derive(Debug)]
struct Limited {
    guest: GuestName,
    shaper: Shaper,
    /// TCP flows that wait for tokens, by slot.
    waiting: [VecDeque<u32>; 2],
    dropped: u64,
    told: Option<Instant>,
}

impl Limited {
    fn bucket(&mut self, way: Way) -> Option<&mut Bucket> {
        match way {
            Way::Up => self.shaper.up.as_mut(),
            Way::Down => self.shaper.down.as_mut(),
        }
    }
}

/// The limits of one network.
#[derive(Debug, Default)]
pub(super) struct Shapers {
    guests: Vec<Limited>,
    /// By link.
    links: Vec<Option<usize>>,
}

impl Shapers {
    /// New limits; gives the flows that waited for the old ones.
    pub(super) fn set<'l>(
        &mut self,
        limits: &BTreeMap<GuestName, RateLimit>,
        links: impl Iterator<Item = Option<&'l GuestName>>,
        now: Instant,
    ) -> Vec<u32> {
        let old = std::mem::take(&mut self.guests);
        self.guests = limits
            .iter()
            .filter_map(|(guest, limit)| {
                Some(Limited {
                    guest: guest.clone(),
                    shaper: Shaper::new(limit, now)?,
                    waiting: Default::default(),
                    dropped: 0,
                    told: None,
                })
            })
            .collect();
        self.links.clear();
        for guest in links {
            self.plug(guest);
        }
        old.into_iter()
            .flat_map(|one| one.waiting)
            .flatten()
            .collect()
    }

    /// The next link's guest.
    pub(super) fn plug(&mut self, guest: Option<&GuestName>) {
        let limited =
            guest.and_then(|guest| self.guests.iter().position(|one| one.guest == *guest));
        self.links.push(limited);
    }

    fn of(&mut self, link: LinkId) -> Option<&mut Limited> {
        let index = (*self.links.get(link.0 as usize)?)?;
        self.guests.get_mut(index)
    }

    /// When a flow that waits may go on.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let ready = self.guests.iter().flat_map(|one| {
            let [up, down] = &one.waiting;
            let of = |waiting: &VecDeque<u32>, bucket: Option<Bucket>| {
                bucket
                    .filter(|_| !waiting.is_empty())
                    .map(|bucket| bucket.ready_at())
            };
            [of(up, one.shaper.up), of(down, one.shaper.down)]
        });
        ready.flatten().min()
    }

    /// Flows that may go on, each time another one first; with the way each waited for.
    pub(super) fn ready(&mut self, now: Instant) -> Vec<(u32, Way)> {
        let mut found = Vec::new();
        for one in &mut self.guests {
            for way in WAYS {
                let due = one
                    .bucket(way)
                    .is_some_and(|bucket| bucket.ready_at() <= now);
                let waiting = &mut one.waiting[way as usize];
                if due && !waiting.is_empty() {
                    waiting.rotate_left(1);
                    found.extend(waiting.drain(..).map(|slot| (slot, way)));
                }
            }
        }
        found
    }
}

impl Context {
    /// The settings' limits take effect; gives the flows that waited for the old ones.
    pub(super) fn set_rates(&mut self) -> Vec<u32> {
        let links = self
            .links
            .iter()
            .map(|link| link.as_deref().and_then(|link| link.guest.as_ref()));
        self.shapers.set(&self.settings.rates, links, self.now)
    }

    /// Bytes of TCP payload that may pass now; a few are none.
    pub(super) fn allowance(&mut self, way: Way, place: Option<Place>, wanted: usize) -> usize {
        if self.shapers.guests.is_empty() {
            return usize::MAX;
        }
        let now = self.now;
        let limited = place.and_then(|place| self.shapers.of(place.link));
        let Some(bucket) = limited.and_then(|limited| limited.bucket(way)) else {
            return usize::MAX;
        };
        let available = bucket.available(now);
        if available < wanted.min(WORTH_SENDING) {
            0
        } else {
            available
        }
    }

    /// These bytes of payload passed.
    pub(super) fn spend(&mut self, way: Way, place: Option<Place>, bytes: usize) {
        if !self.shapers.guests.is_empty()
            && let Some(place) = place
            && let Some(limited) = self.shapers.of(place.link)
            && let Some(bucket) = limited.bucket(way)
        {
            bucket.spend(bytes);
        }
    }

    /// A flow waits until there are tokens.
    pub(super) fn throttle(&mut self, way: Way, link: LinkId, slot: u32) {
        if let Some(limited) = self.shapers.of(link) {
            limited.waiting[way as usize].push_back(slot);
        }
    }

    /// Whether what cannot wait may pass; counted and told if not.
    pub(super) fn passes(&mut self, way: Way, link: LinkId, bytes: usize) -> bool {
        if self.shapers.guests.is_empty() {
            return true;
        }
        let now = self.now;
        let Some(limited) = self.shapers.of(link) else {
            return true;
        };
        if limited
            .bucket(way)
            .is_none_or(|bucket| bucket.pass(bytes, now))
        {
            return true;
        }
        limited.dropped += 1;
        let due = limited
            .told
            .is_none_or(|told| now.saturating_duration_since(told) >= TELL);
        let notice = due.then(|| {
            limited.told = Some(now);
            Notice::Limited {
                guest: limited.guest.clone(),
                dropped: limited.dropped,
            }
        });
        if let Some(notice) = notice {
            self.notify(notice);
        }
        if let Some(link) = self.link(link) {
            link.counters.limited += 1;
        }
        false
    }
}
