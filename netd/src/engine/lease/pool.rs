//! The pool: addresses that are nobody's reservation, and how much of it one link may have.
//!
//! A link holds no more addresses than are still free ("dynamic threshold", Choudhury and Hahne 1998):
//! one link alone gets half of the pool, two a third each, and a link that holds none always finds one.
//! So a guest that invents stations, in whatever number, leaves addresses for those behind other links.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use super::{
    ClientKey, ENTRY_LIMIT, Lease, LeaseState, LeaseTable, OFFER_TIME, Refusal, stable_hash,
};
use crate::engine::services::LinkId;

/// An offer this old may go to somebody else when nothing is free.
const OFFER_GRACE: Duration = Duration::from_secs(3);

/// How full the pool is.
#[derive(Debug, Default)]
pub(super) struct Pool {
    /// Addresses there are, less reservations and what is kept.
    pub(super) capacity: usize,
    /// Entries of the table among them.
    pub(super) entries: usize,
    /// Those that are not just memories.
    taken: usize,
    by_link: HashMap<LinkId, usize>,
    /// Links that were refused one.
    full: BTreeSet<LinkId>,
}

impl Pool {
    pub(super) fn add(&mut self, lease: &Lease) {
        self.entries += 1;
        if lease.state != LeaseState::Past {
            self.taken += 1;
            if let Some(link) = lease.link {
                *self.by_link.entry(link).or_default() += 1;
            }
        }
    }

    pub(super) fn remove(&mut self, lease: &Lease) {
        self.entries = self.entries.saturating_sub(1);
        if lease.state == LeaseState::Past {
            return;
        }
        self.taken = self.taken.saturating_sub(1);
        let Some(link) = lease.link else {
            return;
        };
        if let Some(count) = self.by_link.get_mut(&link) {
            *count -= 1;
            if *count == 0 {
                self.by_link.remove(&link);
            }
        }
    }

    /// Addresses that nobody holds or was offered.
    pub(super) fn free(&self) -> usize {
        self.capacity.saturating_sub(self.taken)
    }

    #[cfg(test)]
    pub(super) fn taken(&self) -> usize {
        self.taken
    }

    fn held_by(&self, link: LinkId) -> usize {
        self.by_link.get(&link).copied().unwrap_or(0)
    }
}

impl LeaseTable {
    /// Links that hold their whole share of the pool and were refused more, with what they hold.
    #[must_use]
    pub fn full_links(&self) -> BTreeMap<LinkId, usize> {
        let full = self.pool.full.iter();
        full.map(|link| (*link, self.pool.held_by(*link)))
            .filter(|(_, held)| *held > 0 && *held >= self.pool.free())
            .collect()
    }

    /// Whether a link may have an address of the pool that is not in use yet.
    pub(super) fn may_take(&mut self, link: LinkId, address: Ipv4Addr) -> Result<(), Refusal> {
        let is_in_use = self
            .leases
            .get(&address)
            .is_some_and(|lease| lease.state != LeaseState::Past);
        if is_in_use || !self.counts_in_pool(address) || self.pool.held_by(link) < self.pool.free()
        {
            return Ok(());
        }
        let Pool { full, by_link, .. } = &mut self.pool;
        full.retain(|link| by_link.contains_key(link));
        full.insert(link);
        Err(Refusal::LinkFull)
    }

    /// A free address of the pool, always the same one for a client as long as it is free.
    pub(super) fn any_free(&mut self, key: &ClientKey, now: Instant) -> Result<Ipv4Addr, Refusal> {
        if self.pool.entries >= self.pool.capacity || self.leases.len() >= ENTRY_LIMIT {
            self.make_room(now)?;
        }
        let first = u32::from(*self.settings.pool.start());
        let size = pool_size(&self.settings.pool);
        let start = u32::try_from(hash(key) % u64::from(size.max(1))).unwrap_or(0);
        // No longer than there are entries, reservations and kept addresses to step over.
        (0..size)
            .map(|step| {
                let offset = (u64::from(start) + u64::from(step)) % u64::from(size);
                Ipv4Addr::from(first + u32::try_from(offset).unwrap_or(0))
            })
            .find(|address| {
                !self.leases.contains_key(address)
                    && self.is_for_clients(*address)
                    && self.reservation_at(*address).is_none()
            })
            .ok_or(Refusal::Exhausted)
    }

    /// Frees the oldest memory of the pool, else the oldest offer past its grace.
    pub(super) fn make_room(&mut self, now: Instant) -> Result<(), Refusal> {
        let oldest_past = self.past.iter().map(|(_, address)| *address);
        let stale = now + OFFER_TIME - OFFER_GRACE;
        let stale_offers = self
            .offers
            .iter()
            .take_while(|(until, _)| *until <= stale)
            .map(|(_, address)| *address);
        let victim = oldest_past.chain(stale_offers).find(|address| {
            let is_held = |lease: &Lease| lease.ipv6.is_some();
            self.counts_in_pool(*address) && !self.leases.get(address).is_some_and(is_held)
        });
        let victim = victim.ok_or(Refusal::Exhausted)?;
        self.remove(victim);
        Ok(())
    }

    pub(super) fn counts_in_pool(&self, address: Ipv4Addr) -> bool {
        self.settings.pool.contains(&address)
            && self.is_for_clients(address)
            && self.reservation_at(address).is_none()
    }

    /// Counts the pool anew, for new settings.
    pub(super) fn count_pool(&mut self) {
        let range = &self.settings.pool;
        let in_pool = |address: &Ipv4Addr| range.contains(address);
        let mut barred: BTreeSet<Ipv4Addr> =
            self.settings.kept.iter().copied().filter(in_pool).collect();
        barred.extend(
            self.settings
                .reservations
                .iter()
                .map(|r| r.address)
                .filter(in_pool),
        );
        let subnet = &self.settings.subnet;
        barred.extend(
            [subnet.network(), subnet.broadcast()]
                .iter()
                .filter(|a| in_pool(a)),
        );
        let mut pool = Pool {
            capacity: usize::try_from(pool_size(range)).unwrap_or(usize::MAX) - barred.len(),
            ..Pool::default()
        };
        for (address, lease) in &self.leases {
            if self.counts_in_pool(*address) {
                pool.add(lease);
            }
        }
        self.pool = pool;
    }
}

fn pool_size(pool: &RangeInclusive<Ipv4Addr>) -> u32 {
    if pool.is_empty() {
        return 0;
    }
    (u32::from(*pool.end()) - u32::from(*pool.start())).saturating_add(1)
}

/// The same from release to release, so an address survives even a lost journal.
fn hash(key: &ClientKey) -> u64 {
    let identifier = key.identifier.as_deref().unwrap_or(&[]);
    stable_hash(key.mac.0.iter().chain(identifier))
}
