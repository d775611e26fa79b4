//! Who holds which address, and until when. Pure: no socket, no clock, no file; the DHCP server asks it
//! and the journal writes down the [`LeaseChange`]s that it reports.
//!
//! An address is in one of these states; what is not in the table is free:
//!
//! | state | ends by | then |
//! |---|---|---|
//! | offered | [`OFFER_TIME`], or sooner when the pool is exhausted | free, or past if it was held before |
//! | bound | release, decline, its term | past |
//! | declined | [`DECLINE_TIME`] (somebody else uses it) | free |
//! | past | somebody else needing it | - it only keeps addresses stable |
//!
//! An offer reserves nothing against a client that has a better right, and ends by itself, so a guest
//! that invents hardware addresses cannot drain the pool by DISCOVER (RFC 2131 section 4.3.1).

mod record;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use control::mac::MacAddress;
use control::names::{GuestName, HostName};

pub use record::{
    Client, ClientKey, EndReason, Lease, LeaseChange, LeaseCounts, LeaseSettings, LeaseState,
    Refusal, Reservation, SavedLease,
};

/// How long a client has to take up an offer. Slow clients wait 10 s for further offers; thrice that.
pub const OFFER_TIME: Duration = Duration::from_secs(30);
/// An offer this old may go to somebody else when nothing is free.
const OFFER_GRACE: Duration = Duration::from_secs(3);
/// How long an address that a client declined is not given away (ISC and dnsmasq: some minutes too).
pub const DECLINE_TIME: Duration = Duration::from_secs(600);
/// Addresses in the table, all states together; only a network wider than /16 can reach it.
const ENTRY_LIMIT: usize = 65_536;

/// The addresses of one network.
#[derive(Debug)]
pub struct LeaseTable {
    settings: LeaseSettings,
    leases: BTreeMap<Ipv4Addr, Lease>,
    by_client: HashMap<ClientKey, Ipv4Addr>,
    /// Bound entries; of several for one MAC the latest.
    bound_by_mac: HashMap<MacAddress, Ipv4Addr>,
    /// Ends of offered, bound and declined entries.
    deadlines: BTreeSet<(Instant, Ipv4Addr)>,
    /// Past entries, oldest first.
    past: BTreeSet<(Instant, Ipv4Addr)>,
    /// Offered entries, oldest first.
    offers: BTreeSet<(Instant, Ipv4Addr)>,
    /// Declined entries, oldest first.
    declined: BTreeSet<(Instant, Ipv4Addr)>,
    /// Addresses of the pool that are nobody's reservation and not kept.
    capacity: usize,
    /// Entries among these.
    pool_entries: usize,
    changes: Vec<LeaseChange>,
}

impl LeaseTable {
    /// An empty table.
    #[must_use]
    pub fn new(settings: LeaseSettings) -> Self {
        let mut table = Self {
            settings,
            leases: BTreeMap::new(),
            by_client: HashMap::new(),
            bound_by_mac: HashMap::new(),
            deadlines: BTreeSet::new(),
            past: BTreeSet::new(),
            offers: BTreeSet::new(),
            declined: BTreeSet::new(),
            capacity: 0,
            pool_entries: 0,
            changes: Vec::new(),
        };
        table.count_capacity();
        table
    }

    /// Takes other settings. Leases whose address no longer exists end; the others run on, and a
    /// client that should have another address learns so when it renews.
    pub fn reconfigure(&mut self, settings: LeaseSettings) {
        self.settings = settings;
        let gone: Vec<_> = self
            .leases
            .keys()
            .copied()
            .filter(|address| !self.is_for_clients(*address))
            .collect();
        for address in gone {
            self.end(address, EndReason::Withdrawn);
            self.remove(address);
        }
        self.count_capacity();
        self.tie_to_guests();
    }

    /// Puts back leases that were written down; one whose `until` has passed becomes a memory.
    /// What contradicts the settings or an entry already there is left out.
    pub fn restore(
        &mut self,
        saved: impl IntoIterator<Item = (Ipv4Addr, SavedLease)>,
        now: Instant,
    ) {
        // A client that moved has two entries: the later one is where it is.
        let mut saved: Vec<_> = saved.into_iter().collect();
        saved.sort_by_key(|(_, lease)| std::cmp::Reverse(lease.until));
        for (address, saved) in saved {
            self.restore_one(address, saved, now);
        }
        self.tie_to_guests();
    }

    fn restore_one(&mut self, address: Ipv4Addr, saved: SavedLease, now: Instant) {
        let client = Client {
            mac: saved.client.mac,
            identifier: saved.client.identifier.as_deref(),
            link_guest: saved.guest.as_ref(),
        };
        let key = self.key_of(&client);
        if !self.is_for_clients(address)
            || self.leases.contains_key(&address)
            || self.by_client.contains_key(&key)
            || self.leases.len() >= ENTRY_LIMIT
        {
            return;
        }
        let state = if saved.until > now {
            LeaseState::Bound
        } else {
            LeaseState::Past
        };
        let lease = Lease {
            client: key,
            guest: saved.guest,
            host_name: saved.host_name,
            state,
            until: saved.until,
            held: true,
        };
        self.insert(address, lease);
    }

    /// The address to propose to a client, and holds it for it for [`OFFER_TIME`]. In this order: its
    /// reservation, what it holds, what it held, what it wishes (option 50), any.
    ///
    /// # Errors
    /// [`Refusal::Exhausted`].
    pub fn offer(
        &mut self,
        client: &Client<'_>,
        wish: Option<Ipv4Addr>,
        now: Instant,
    ) -> Result<Ipv4Addr, Refusal> {
        self.expire(now);
        let key = self.key_of(client);
        let current = self.current(&key);
        // Only after a reload can a client hold an address that it may not keep.
        let offered = || {
            self.offers
                .iter()
                .map(|(_, address)| *address)
                .find(|address| self.is_of(&key, *address))
        };
        let chosen = self
            .reservation_of(client)
            .map(|r| r.address)
            .into_iter()
            .chain(current)
            .chain(wish)
            .chain(current.and_then(|_| offered()))
            .find(|address| self.may_hold(client, &key, *address).is_ok());
        let address = match chosen {
            Some(address) => address,
            None => self.any_free(&key, now)?,
        };
        let mut held = false;
        let mut host_name = None;
        if let Some(old) = self
            .leases
            .get(&address)
            .filter(|old| old.client.matches(&key))
        {
            if old.state == LeaseState::Bound {
                return Ok(address);
            }
            held = old.held;
            host_name.clone_from(&old.host_name);
        }
        // A client has one address; a bound one elsewhere stays until the client takes the new one.
        if let Some(old) = current.filter(|old| *old != address)
            && self
                .leases
                .get(&old)
                .is_some_and(|lease| lease.state != LeaseState::Bound)
        {
            self.remove(old);
        }
        let lease = Lease {
            guest: self.guest_at(address, client),
            host_name,
            client: key,
            state: LeaseState::Offered,
            until: now + OFFER_TIME,
            held,
        };
        self.remove(address);
        self.insert(address, lease);
        Ok(address)
    }

    /// Gives or prolongs a lease.
    ///
    /// # Errors
    /// Why the client cannot have this address.
    pub fn bind(
        &mut self,
        client: &Client<'_>,
        address: Ipv4Addr,
        host_name: Option<HostName>,
        until: Instant,
        now: Instant,
    ) -> Result<(), Refusal> {
        self.expire(now);
        let key = self.key_of(client);
        self.may_hold(client, &key, address)?;
        let is_new = !self.leases.contains_key(&address);
        if is_new && self.leases.len() >= ENTRY_LIMIT {
            self.make_room(now)?;
        }
        let guest = self.guest_at(address, client);
        let renewed = self.leases.get(&address).is_some_and(|old| {
            old.state == LeaseState::Bound
                && old.client.matches(&key)
                && old.host_name == host_name
                && old.guest == guest
        });
        if let Some(old) = self.current(&key).filter(|old| *old != address) {
            self.end(old, EndReason::Released);
            self.remove(old);
        }
        let lease = Lease {
            client: key,
            guest,
            host_name,
            state: LeaseState::Bound,
            until,
            held: true,
        };
        self.remove(address);
        self.changes.push(LeaseChange::Bound {
            address,
            lease: lease.clone(),
            renewed,
        });
        self.insert(address, lease);
        Ok(())
    }

    /// The client gives its address back; `false` if it did not hold it.
    pub fn release(&mut self, client: &Client<'_>, address: Ipv4Addr, now: Instant) -> bool {
        self.expire(now);
        if !self.holds(client, address) {
            return false;
        }
        self.end(address, EndReason::Released);
        self.make_past(address, now);
        true
    }

    /// The client found its address in use; `false` if it was neither offered nor bound to it.
    /// At most a quarter of the pool is set aside, then the oldest comes back.
    pub fn decline(&mut self, client: &Client<'_>, address: Ipv4Addr, now: Instant) -> bool {
        self.expire(now);
        if !self.holds(client, address) {
            return false;
        }
        self.end(address, EndReason::Declined);
        let Some(mut lease) = self.remove(address) else {
            return false;
        };
        lease.state = LeaseState::Declined;
        lease.until = now + DECLINE_TIME;
        self.insert(address, lease);
        while self.declined.len() > (self.capacity / 4).max(1) {
            let Some((_, oldest)) = self.declined.first().copied() else {
                break;
            };
            self.remove(oldest);
        }
        true
    }

    /// The client took another server's offer.
    pub fn forget_offer(&mut self, client: &Client<'_>) {
        let key = self.key_of(client);
        if let Some(address) = self.by_client.get(&key).copied()
            && let Some(lease) = self.leases.get(&address)
            && lease.state == LeaseState::Offered
        {
            let (held, until) = (lease.held, lease.until);
            if held {
                self.make_past(address, until);
            } else {
                self.remove(address);
            }
        }
    }

    /// When [`LeaseTable::expire`] has something to do.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.deadlines.first().map(|(until, _)| *until)
    }

    /// Ends what has ended.
    pub fn expire(&mut self, now: Instant) {
        while let Some((until, address)) = self
            .deadlines
            .first()
            .copied()
            .filter(|(until, _)| *until <= now)
        {
            self.end(address, EndReason::Expired);
            let worth_remembering = self
                .leases
                .get(&address)
                .is_some_and(|lease| lease.held && lease.state != LeaseState::Declined);
            if worth_remembering {
                self.make_past(address, until);
            } else {
                self.remove(address);
            }
        }
    }

    /// Changes since the last call, in order.
    pub fn take_changes(&mut self) -> std::vec::Drain<'_, LeaseChange> {
        self.changes.drain(..)
    }

    /// Everything in the table, by address.
    pub fn leases(&self) -> impl Iterator<Item = (Ipv4Addr, &Lease)> {
        self.leases.iter().map(|(address, lease)| (*address, lease))
    }

    /// The settings in force.
    #[must_use]
    pub fn settings(&self) -> &LeaseSettings {
        &self.settings
    }

    /// The address that a MAC holds, else its reservation.
    #[must_use]
    pub fn address_of(&self, mac: MacAddress) -> Option<Ipv4Addr> {
        let reserved = self.settings.reservations.iter().find(|r| r.mac == mac);
        self.bound_by_mac
            .get(&mac)
            .copied()
            .or_else(|| reserved.map(|r| r.address))
    }

    /// The MAC that an address belongs to: its holder, else the one it is reserved for.
    #[must_use]
    pub fn owner_of(&self, address: Ipv4Addr) -> Option<MacAddress> {
        match self.leases.get(&address) {
            Some(lease) if lease.state == LeaseState::Bound => Some(lease.client.mac),
            _ => self.reservation_at(address).map(|r| r.mac),
        }
    }

    /// Numbers for the status page.
    #[must_use]
    pub fn counts(&self) -> LeaseCounts {
        let in_pool_past = self
            .past
            .iter()
            .filter(|(_, address)| self.counts_in_pool(*address))
            .count();
        LeaseCounts {
            offered: self.offers.len(),
            bound: self.deadlines.len() - self.offers.len() - self.declined.len(),
            declined: self.declined.len(),
            free: (self.capacity + in_pool_past).saturating_sub(self.pool_entries),
        }
    }

    fn key_of(&self, client: &Client<'_>) -> ClientKey {
        let reserved = self
            .settings
            .reservations
            .iter()
            .any(|r| r.mac == client.mac);
        let identifier = if reserved {
            None
        } else {
            client.identifier.map(Box::from)
        };
        ClientKey {
            mac: client.mac,
            identifier,
        }
    }

    /// By MAC, else by the link (a guest whose NIC has another MAC than the configuration says),
    /// there only while nobody else holds the address.
    fn reservation_of(&self, client: &Client<'_>) -> Option<&Reservation> {
        let all = &self.settings.reservations;
        all.iter().find(|r| r.mac == client.mac).or_else(|| {
            let mine = all.iter().find(|r| Some(&r.guest) == client.link_guest)?;
            let key = self.key_of(client);
            let taken = self
                .leases
                .get(&mine.address)
                .is_some_and(|l| !l.client.matches(&key) && l.state != LeaseState::Past);
            (!taken).then_some(mine)
        })
    }

    fn reservation_at(&self, address: Ipv4Addr) -> Option<&Reservation> {
        self.settings
            .reservations
            .iter()
            .find(|r| r.address == address)
    }

    /// The guest behind a lease: by address, else by MAC. Other stations behind a guest's link (a bridge
    /// inside it, containers with MACs of their own) are not the guest.
    fn guest_at(&self, address: Ipv4Addr, client: &Client<'_>) -> Option<GuestName> {
        let by_mac = || {
            let all = &self.settings.reservations;
            all.iter().find(|r| r.mac == client.mac)
        };
        self.reservation_at(address)
            .or_else(by_mac)
            .map(|r| r.guest.clone())
    }

    /// After a restart or a reload the configuration may say otherwise whose a lease is.
    fn tie_to_guests(&mut self) {
        let reservations = &self.settings.reservations;
        for lease in self.leases.values_mut() {
            let by_mac = reservations.iter().find(|r| r.mac == lease.client.mac);
            let by_name = || {
                reservations
                    .iter()
                    .find(|r| Some(&r.guest) == lease.guest.as_ref())
            };
            lease.guest = by_mac.or_else(by_name).map(|r| r.guest.clone());
        }
    }

    /// What a client holds, was offered or held last.
    fn current(&self, key: &ClientKey) -> Option<Ipv4Addr> {
        self.by_client.get(key).copied().or_else(|| {
            let bound = self.bound_by_mac.get(&key.mac).copied()?;
            self.is_of(key, bound).then_some(bound)
        })
    }

    fn is_of(&self, key: &ClientKey, address: Ipv4Addr) -> bool {
        self.leases
            .get(&address)
            .is_some_and(|lease| lease.client.matches(key))
    }

    fn is_for_clients(&self, address: Ipv4Addr) -> bool {
        let subnet = &self.settings.subnet;
        subnet.contains(&address)
            && address != subnet.network()
            && address != subnet.broadcast()
            && !self.settings.kept.contains(&address)
    }

    fn may_hold(
        &self,
        client: &Client<'_>,
        key: &ClientKey,
        address: Ipv4Addr,
    ) -> Result<(), Refusal> {
        if !self.is_for_clients(address) {
            return Err(Refusal::NotForClients);
        }
        let others = |lease: &&Lease| {
            (!lease.client.matches(key) && lease.state != LeaseState::Past)
                || lease.state == LeaseState::Declined
        };
        let mine = self.reservation_of(client);
        if mine.is_some_and(|r| r.address == address) {
            // An offer to somebody else gives way to the one with the right.
            let taken = self.leases.get(&address).filter(others);
            return match taken {
                Some(lease) if lease.state != LeaseState::Offered => Err(Refusal::Taken),
                _ => Ok(()),
            };
        }
        if self
            .reservation_at(address)
            .is_some_and(|r| r.mac != client.mac)
        {
            return Err(Refusal::Taken);
        }
        if let Some(reserved) = mine
            && self.leases.get(&reserved.address).filter(others).is_none()
        {
            return Err(Refusal::ReservedElsewhere);
        }
        if !self.settings.pool.contains(&address) {
            return Err(Refusal::NotForClients);
        }
        match self.leases.get(&address).filter(others) {
            Some(_) => Err(Refusal::Taken),
            None => Ok(()),
        }
    }

    fn holds(&self, client: &Client<'_>, address: Ipv4Addr) -> bool {
        let key = self.key_of(client);
        self.leases.get(&address).is_some_and(|lease| {
            lease.client.matches(&key)
                && matches!(lease.state, LeaseState::Offered | LeaseState::Bound)
        })
    }

    /// A free address of the pool, always the same one for a client as long as it is free.
    fn any_free(&mut self, key: &ClientKey, now: Instant) -> Result<Ipv4Addr, Refusal> {
        if self.pool_entries >= self.capacity || self.leases.len() >= ENTRY_LIMIT {
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
    fn make_room(&mut self, now: Instant) -> Result<(), Refusal> {
        let oldest_past = self.past.iter().map(|(_, address)| *address);
        let stale = now + OFFER_TIME - OFFER_GRACE;
        let stale_offers = self
            .offers
            .iter()
            .take_while(|(until, _)| *until <= stale)
            .map(|(_, address)| *address);
        let victim = oldest_past
            .chain(stale_offers)
            .find(|address| self.counts_in_pool(*address));
        let victim = victim.ok_or(Refusal::Exhausted)?;
        self.remove(victim);
        Ok(())
    }

    fn counts_in_pool(&self, address: Ipv4Addr) -> bool {
        self.settings.pool.contains(&address)
            && self.is_for_clients(address)
            && self.reservation_at(address).is_none()
    }

    fn count_capacity(&mut self) {
        let pool = &self.settings.pool;
        let in_pool = |address: &Ipv4Addr| pool.contains(address);
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
        self.capacity = usize::try_from(pool_size(pool)).unwrap_or(usize::MAX) - barred.len();
        self.pool_entries = self
            .leases
            .keys()
            .filter(|address| self.counts_in_pool(**address))
            .count();
    }

    /// Reports the end of a bound lease; of any other state there is nothing to tell.
    fn end(&mut self, address: Ipv4Addr, reason: EndReason) {
        if let Some(lease) = self.leases.get(&address)
            && lease.state == LeaseState::Bound
        {
            let (client, guest) = (lease.client.clone(), lease.guest.clone());
            self.changes.push(LeaseChange::Ended {
                address,
                client,
                guest,
                reason,
            });
        }
    }

    fn make_past(&mut self, address: Ipv4Addr, ended: Instant) {
        if let Some(mut lease) = self.remove(address) {
            lease.state = LeaseState::Past;
            lease.until = ended;
            self.insert(address, lease);
        }
    }

    /// With [`LeaseTable::remove`] the only writer of the table and its indexes.
    fn insert(&mut self, address: Ipv4Addr, lease: Lease) {
        let entry = (lease.until, address);
        match lease.state {
            LeaseState::Past => {
                self.past.insert(entry);
            }
            LeaseState::Offered => {
                self.offers.insert(entry);
                self.deadlines.insert(entry);
            }
            LeaseState::Declined => {
                self.declined.insert(entry);
                self.deadlines.insert(entry);
            }
            LeaseState::Bound => {
                self.deadlines.insert(entry);
                self.bound_by_mac.insert(lease.client.mac, address);
            }
        }
        // The lease that a client holds counts before one that it is offered or remembered for;
        // a declined address is no way back at all.
        let current = self.by_client.get(&lease.client);
        let current = current
            .and_then(|address| self.leases.get(address))
            .map(|l| l.state);
        let counts = match lease.state {
            LeaseState::Bound => true,
            LeaseState::Offered => current != Some(LeaseState::Bound),
            LeaseState::Past => current.is_none(),
            LeaseState::Declined => false,
        };
        if counts {
            self.by_client.insert(lease.client.clone(), address);
        }
        if self.counts_in_pool(address) {
            self.pool_entries += 1;
        }
        self.leases.insert(address, lease);
    }

    fn remove(&mut self, address: Ipv4Addr) -> Option<Lease> {
        let lease = self.leases.remove(&address)?;
        let entry = (lease.until, address);
        self.deadlines.remove(&entry);
        self.past.remove(&entry);
        self.offers.remove(&entry);
        self.declined.remove(&entry);
        if self.by_client.get(&lease.client) == Some(&address) {
            self.by_client.remove(&lease.client);
        }
        if lease.state == LeaseState::Bound
            && self.bound_by_mac.get(&lease.client.mac) == Some(&address)
        {
            self.bound_by_mac.remove(&lease.client.mac);
        }
        if self.counts_in_pool(address) {
            self.pool_entries = self.pool_entries.saturating_sub(1);
        }
        Some(lease)
    }
}

fn pool_size(pool: &RangeInclusive<Ipv4Addr>) -> u32 {
    if pool.is_empty() {
        return 0;
    }
    (u32::from(*pool.end()) - u32::from(*pool.start())).saturating_add(1)
}

/// FNV-1a: the same from release to release, so an address survives even a lost journal.
fn hash(key: &ClientKey) -> u64 {
    let identifier = key.identifier.as_deref().unwrap_or(&[]);
    stable_hash(key.mac.0.iter().chain(identifier))
}

/// FNV-1a over bytes.
pub(crate) fn stable_hash<'a>(bytes: impl IntoIterator<Item = &'a u8>) -> u64 {
    bytes.into_iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
#[path = "lease_tests.rs"]
mod tests;
