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
//! | IPv6 only | the end of its IPv6 side | past |
//! | past | somebody else needing it | - it only keeps addresses stable |
//!
//! An offer reserves nothing against a client that has a better right, and ends by itself, so a guest
//! that invents hardware addresses cannot drain the pool by DISCOVER (RFC 2131 section 4.3.1); nor by
//! REQUEST, since a link holds no more of the pool than is still free (`pool`). Each address has an IPv6
//! side with a holder and an end of its own (`ipv6`); an address with either side in use is nobody else's.

mod ipv6;
mod pool;
mod record;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use control::mac::MacAddress;
use control::names::{GuestName, HostName};

use crate::engine::services::LinkId;

use pool::Pool;
pub use record::{
    Client, ClientKey, EndReason, Ipv6Client, Ipv6Hold, Lease, LeaseChange, LeaseCounts,
    LeaseSettings, LeaseState, Offer, Refusal, Reservation, SavedLease,
};

/// How long a client has to take up an offer. Slow clients wait 10 s for further offers; thrice that.
pub const OFFER_TIME: Duration = Duration::from_secs(30);
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
    /// Entries that are or were a MAC's; of several the latest.
    latest_by_mac: HashMap<MacAddress, Ipv4Addr>,
    /// Bound entries of guests.
    by_guest: HashMap<GuestName, Ipv4Addr>,
    /// Holders of IPv6 sides, and when these end.
    by_duid: HashMap<(MacAddress, Box<[u8]>), Ipv4Addr>,
    ipv6_deadlines: BTreeSet<(Instant, Ipv4Addr)>,
    /// Ends of offered, bound and declined entries.
    deadlines: BTreeSet<(Instant, Ipv4Addr)>,
    /// Past entries, oldest first.
    past: BTreeSet<(Instant, Ipv4Addr)>,
    /// Offered entries, oldest first.
    offers: BTreeSet<(Instant, Ipv4Addr)>,
    /// Declined entries, oldest first.
    declined: BTreeSet<(Instant, Ipv4Addr)>,
    pool: Pool,
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
            latest_by_mac: HashMap::new(),
            by_guest: HashMap::new(),
            by_duid: HashMap::new(),
            ipv6_deadlines: BTreeSet::new(),
            deadlines: BTreeSet::new(),
            past: BTreeSet::new(),
            offers: BTreeSet::new(),
            declined: BTreeSet::new(),
            pool: Pool::default(),
            changes: Vec::new(),
        };
        table.count_pool();
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
            self.end_ipv6(address, EndReason::Withdrawn);
            self.remove(address);
        }
        self.count_pool();
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
            link: LinkId(u32::MAX),
            link_guest: saved.guest.as_ref(),
        };
        let key = self.key_of(&client);
        let ipv6 = saved.ipv6.filter(|hold| {
            let holder = (key.mac, hold.duid.clone());
            hold.until > now && !self.by_duid.contains_key(&holder)
        });
        if !self.is_for_clients(address)
            || self.leases.contains_key(&address)
            || self.by_client.contains_key(&key)
            || self.leases.len() >= ENTRY_LIMIT
        {
            return;
        }
        let state = match &ipv6 {
            _ if saved.until > now => LeaseState::Bound,
            Some(_) => LeaseState::Ipv6Only,
            None => LeaseState::Past,
        };
        let lease = Lease {
            client: key,
            guest: saved.guest,
            host_name: saved.host_name,
            state,
            until: saved.until,
            ipv6,
            link: None,
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
    ) -> Result<Offer, Refusal> {
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
            .reservation_of(client.mac)
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
        let old = self.leases.get(&address);
        let mine = old.filter(|old| old.client.matches(&key));
        if mine.is_some_and(|old| old.state == LeaseState::Bound) {
            let is_new = false;
            return Ok(Offer { address, is_new });
        }
        let (held, host_name, ipv6) = match mine {
            Some(old) => (old.held, old.host_name.clone(), old.ipv6.clone()),
            None => (false, None, None),
        };
        let is_new = mine.is_none() && self.reservation_at(address).is_none();
        self.may_take(client.link, address)?;
        // A client has one address; a bound one elsewhere stays until the client takes the new one.
        if let Some(old) = current.filter(|old| *old != address)
            && let Some(lease) = self.leases.get(&old)
            && lease.state != LeaseState::Bound
            && lease.ipv6.is_none()
        {
            self.remove(old);
        }
        let lease = Lease {
            guest: self.guest_of(client, address),
            host_name,
            client: key,
            state: LeaseState::Offered,
            until: now + OFFER_TIME,
            ipv6,
            link: Some(client.link),
            held,
        };
        self.remove(address);
        self.insert(address, lease);
        Ok(Offer { address, is_new })
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
        self.may_take(client.link, address)?;
        let is_new = !self.leases.contains_key(&address);
        if is_new && self.leases.len() >= ENTRY_LIMIT {
            self.make_room(now)?;
        }
        let guest = self.guest_of(client, address);
        let mine = self.leases.get(&address);
        let ipv6 = mine
            .filter(|old| old.client.matches(&key))
            .and_then(|old| old.ipv6.clone());
        let renewed = self.leases.get(&address).is_some_and(|old| {
            old.state == LeaseState::Bound
                && old.client.matches(&key)
                && old.host_name == host_name
                && old.guest == guest
        });
        if let Some(old) = self.current(&key).filter(|old| *old != address) {
            self.end(old, EndReason::Released);
            // Its IPv6 side, if there is one, follows when the client renews that.
            match self
                .leases
                .get(&old)
                .is_some_and(|lease| lease.ipv6.is_some())
            {
                true => self.vacate(old, now),
                false => drop(self.remove(old)),
            }
        }
        // Whoever stood in for the guest is a station like others now.
        if let Some(guest) = &guest
            && let Some(other) = self.by_guest.get(guest).filter(|other| **other != address)
            && let Some(lease) = self.leases.get_mut(other)
        {
            lease.guest = None;
        }
        let lease = Lease {
            client: key,
            guest,
            host_name,
            state: LeaseState::Bound,
            until,
            ipv6,
            link: Some(client.link),
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
        self.vacate(address, now);
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
        self.end_ipv6(address, EndReason::Declined);
        self.set_aside(address, now);
        true
    }

    /// Somebody answers at an address that was offered: it is as if the client had declined it.
    pub fn found_in_use(&mut self, address: Ipv4Addr, now: Instant) {
        let lease = self.leases.get(&address);
        if lease.is_some_and(|lease| lease.state == LeaseState::Offered && lease.ipv6.is_none()) {
            // Not the asking link's to answer for.
            if let Some(mut lease) = self.remove(address) {
                lease.link = None;
                self.insert(address, lease);
            }
            self.set_aside(address, now);
        }
    }

    fn set_aside(&mut self, address: Ipv4Addr, now: Instant) {
        let Some(mut lease) = self.remove(address) else {
            return;
        };
        lease.state = LeaseState::Declined;
        lease.until = now + DECLINE_TIME;
        self.insert(address, lease);
        while self.declined.len() > (self.pool.capacity / 4).max(1) {
            let Some((_, oldest)) = self.declined.first().copied() else {
                break;
            };
            self.remove(oldest);
        }
    }

    /// The client took another server's offer.
    pub fn forget_offer(&mut self, client: &Client<'_>) {
        let key = self.key_of(client);
        if let Some(address) = self.by_client.get(&key).copied()
            && let Some(lease) = self.leases.get(&address)
            && lease.state == LeaseState::Offered
        {
            let until = lease.until;
            self.vacate(address, until);
        }
    }

    /// When [`LeaseTable::expire`] has something to do.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let first = [&self.deadlines, &self.ipv6_deadlines].map(|d| d.first().map(|(at, _)| *at));
        first.into_iter().flatten().min()
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
            self.vacate(address, until);
        }
        while let Some((_, address)) = self
            .ipv6_deadlines
            .first()
            .copied()
            .filter(|(until, _)| *until <= now)
        {
            self.end_ipv6(address, EndReason::Expired);
        }
    }

    /// Changes since the last call, in order.
    pub fn take_changes(&mut self) -> std::vec::Drain<'_, LeaseChange> {
        self.changes.drain(..)
    }

    /// What the table has of an address.
    #[must_use]
    pub fn lease(&self, address: Ipv4Addr) -> Option<&Lease> {
        self.leases.get(&address)
    }

    /// Addresses in the table.
    #[must_use]
    pub fn entries(&self) -> usize {
        self.leases.len()
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

    /// The MAC that an address belongs to: the holder of either side of it, else the one it is reserved for.
    #[must_use]
    pub fn owner_of(&self, address: Ipv4Addr) -> Option<MacAddress> {
        match self.leases.get(&address) {
            Some(lease) if matches!(lease.state, LeaseState::Bound | LeaseState::Ipv6Only) => {
                Some(lease.client.mac)
            }
            _ => self.reservation_at(address).map(|r| r.mac),
        }
    }

    /// Numbers for the status page.
    #[must_use]
    pub fn counts(&self) -> LeaseCounts {
        LeaseCounts {
            offered: self.offers.len(),
            bound: self.deadlines.len() - self.offers.len() - self.declined.len(),
            declined: self.declined.len(),
            ipv6: self.ipv6_deadlines.len(),
            free: self.pool.free(),
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

    /// The configured MAC's alone: another station behind a guest's link never gets the guest's address.
    fn reservation_of(&self, mac: MacAddress) -> Option<&Reservation> {
        self.settings.reservations.iter().find(|r| r.mac == mac)
    }

    fn reservation_at(&self, address: Ipv4Addr) -> Option<&Reservation> {
        self.settings
            .reservations
            .iter()
            .find(|r| r.address == address)
    }

    /// The guest behind a lease: by MAC; else, on a guest's own link, the first station stands in for it
    /// (a NIC with another MAC than the configuration says) until the configured MAC has a lease.
    fn guest_of(&self, client: &Client<'_>, address: Ipv4Addr) -> Option<GuestName> {
        let by_mac = self.reservation_of(client.mac).map(|r| &r.guest);
        let stands_in = client
            .link_guest
            .filter(|guest| self.by_guest.get(*guest).is_none_or(|at| *at == address));
        by_mac.or(stands_in).cloned()
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
        self.by_guest = self
            .leases
            .iter()
            .filter(|(_, lease)| lease.state == LeaseState::Bound)
            .filter_map(|(address, lease)| Some((lease.guest.clone()?, *address)))
            .collect();
    }

    /// What a client holds, was offered or held last.
    fn current(&self, key: &ClientKey) -> Option<Ipv4Addr> {
        let by_mac = [&self.bound_by_mac, &self.latest_by_mac];
        let by_mac = by_mac.into_iter().filter_map(|index| index.get(&key.mac));
        self.by_client
            .get(key)
            .into_iter()
            .chain(by_mac)
            .copied()
            .find(|address| self.is_of(key, *address))
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
        let mine = self.reservation_of(client.mac);
        if mine.is_some_and(|r| r.address == address) {
            // An offer to somebody else gives way to the one with the right.
            let taken = self.leases.get(&address).filter(others);
            return match taken {
                Some(lease) if lease.state != LeaseState::Offered || lease.ipv6.is_some() => {
                    Err(Refusal::Taken)
                }
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

    /// Reports the end of a bound lease; of any other state there is nothing to tell.
    fn end(&mut self, address: Ipv4Addr, reason: EndReason) {
        if let Some(lease) = self.leases.get(&address)
            && lease.state == LeaseState::Bound
        {
            let lease = lease.clone();
            self.changes.push(LeaseChange::Ended {
                address,
                client: lease.client,
                guest: lease.guest,
                ipv6: lease.ipv6,
                reason,
            });
        }
    }

    /// Nobody holds the IPv4 side any more.
    fn vacate(&mut self, address: Ipv4Addr, ended: Instant) {
        let Some(mut lease) = self.remove(address) else {
            return;
        };
        lease.state = if lease.ipv6.is_some() {
            LeaseState::Ipv6Only
        } else if lease.held && lease.state != LeaseState::Declined {
            LeaseState::Past
        } else {
            return;
        };
        lease.until = ended;
        self.insert(address, lease);
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
                if let Some(guest) = &lease.guest {
                    self.by_guest.insert(guest.clone(), address);
                }
            }
            LeaseState::Ipv6Only => {}
        }
        if let Some(hold) = &lease.ipv6 {
            self.ipv6_deadlines.insert((hold.until, address));
            let holder = (lease.client.mac, hold.duid.clone());
            self.by_duid.insert(holder, address);
        }
        if lease.state != LeaseState::Declined {
            self.latest_by_mac.insert(lease.client.mac, address);
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
            LeaseState::Past | LeaseState::Ipv6Only => current.is_none(),
            LeaseState::Declined => false,
        };
        if counts {
            self.by_client.insert(lease.client.clone(), address);
        }
        if self.counts_in_pool(address) {
            self.pool.add(&lease);
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
        for index in [&mut self.bound_by_mac, &mut self.latest_by_mac] {
            if index.get(&lease.client.mac) == Some(&address) {
                index.remove(&lease.client.mac);
            }
        }
        if let Some(guest) = &lease.guest
            && self.by_guest.get(guest) == Some(&address)
        {
            self.by_guest.remove(guest);
        }
        if let Some(hold) = &lease.ipv6 {
            self.ipv6_deadlines.remove(&(hold.until, address));
            let holder = (lease.client.mac, hold.duid.clone());
            if self.by_duid.get(&holder) == Some(&address) {
                self.by_duid.remove(&holder);
            }
        }
        if self.counts_in_pool(address) {
            self.pool.remove(&lease);
        }
        Some(lease)
    }
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
