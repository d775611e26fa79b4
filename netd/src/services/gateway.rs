//! The gateway's services as the packet thread calls them: the DHCP server with its journal, and the
//! names that it and the configuration bring. What must ask others (forwarded DNS) runs elsewhere.
//!
//! The zone is shared with the DNS-over-TCP service; the lock is held for a lookup or one change.

use std::any::Any;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::Instant;

use control::config::{Config, Network, NetworkKind, RecordData, RecordName};
use control::mac::MacAddress;
use control::names::{GuestName, HostName};
use ipnet::IpNet;

use crate::engine::dhcp::{DhcpServer, DhcpSettings};
use crate::engine::dhcp6::{Dhcp6Arrival, Dhcp6Server, Dhcp6Settings, duid_of};
use crate::engine::dns::{Ipv6Side, Zone, ZoneSettings};
use crate::engine::dns_names::{Entry, NameTable, Source, Target};
use crate::engine::lease::{LeaseChange, LeaseSettings, Reservation, stable_hash};
use crate::engine::observed::{Observed, Sighting};
use crate::engine::ra::Advertisement;
use crate::engine::services::{
    DhcpArrival, DhcpReply, DnsClient, DnsOutcome, GatewayServices, LeaseEvent,
};
use crate::services::journal::{ClockPair, Journal};
use crate::services::network::Ipv6LeaseView;
use crate::services::resolver::{SharedCache, Transport, fit};
use crate::wire::dns::Query;

/// The zone of one network; clones share it.
#[derive(Clone, Debug)]
pub struct SharedZone(Arc<RwLock<Zone>>);

impl SharedZone {
    /// For a lookup.
    pub fn read(&self) -> RwLockReadGuard<'_, Zone> {
        // Changes are whole or not made: a panic between them leaves a usable zone.
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// For a change.
    pub fn change<T>(&self, change: impl FnOnce(&mut Zone) -> T) -> T {
        change(&mut self.0.write().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Everything the configuration says about one network's services.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewaySettings {
    /// DHCP.
    pub dhcp: DhcpSettings,
    /// DHCPv6, on a network with IPv6.
    pub dhcp6: Option<Dhcp6Settings>,
    /// Router advertisements, on a network with IPv6.
    pub advertisement: Option<Advertisement>,
    /// DNS.
    pub zone: ZoneSettings,
    /// Names that belong to the network itself: host.internal, gateway.internal.
    pub own_names: Vec<(HostName, Vec<IpAddr>)>,
    /// Names of each guest.
    pub guest_names: BTreeMap<GuestName, GuestNames>,
    /// The configuration's records.
    pub records: BTreeMap<RecordName, RecordData>,
}

/// What one guest is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestNames {
    /// NAME.DOMAIN first, which is what its address is called.
    pub names: Vec<HostName>,
    /// Every name below them is the guest, too.
    pub wildcard: bool,
}

impl GatewaySettings {
    /// The IPv6 side of an address.
    fn ipv6_of(&self, address: Ipv4Addr) -> Option<Ipv6Addr> {
        let prefix = u128::from(self.dhcp6.as_ref()?.prefix.network());
        Some((prefix | u128::from(u32::from(address))).into())
    }
}

/// DHCP and DNS of one network.
#[derive(Debug)]
pub struct Gateway {
    settings: GatewaySettings,
    dhcp: DhcpServer,
    dhcp6: Dhcp6Server,
    journal: Option<Journal>,
    zone: SharedZone,
    /// The host's own station, where it has one.
    host: Option<(Ipv4Addr, MacAddress)>,
    /// On a bridged network: where its stations are, by what others tell them.
    observed: Observed,
    /// Answers of others that are kept.
    kept: Option<Arc<SharedCache>>,
    /// Where each guest is now; only what differs from its reservation.
    moved: BTreeMap<GuestName, Ipv4Addr>,
    events: Vec<LeaseEvent>,
}

impl Gateway {
    /// Services without a journal yet; see [`Gateway::keep_journal`].
    #[must_use]
    pub fn new(settings: GatewaySettings) -> Self {
        let zone = Zone::new(settings.zone.clone());
        let gateway = Self {
            dhcp: DhcpServer::new(settings.dhcp.clone()),
            dhcp6: Dhcp6Server::new(settings.dhcp6.clone()),
            settings,
            journal: None,
            zone: SharedZone(Arc::new(RwLock::new(zone))),
            host: None,
            observed: Observed::default(),
            kept: None,
            moved: BTreeMap::new(),
            events: Vec::new(),
        };
        gateway.write_static_names();
        gateway
    }

    /// Restores leases from the journal at `path` and goes on writing there.
    ///
    /// # Errors
    /// As [`Journal::open`].
    pub fn keep_journal(
        &mut self,
        path: &std::path::Path,
        clock: ClockPair,
    ) -> std::io::Result<()> {
        self.journal = Some(Journal::open(path, self.dhcp.table_mut(), clock)?);
        let mut named = Vec::new();
        for (address, lease) in self.dhcp.table().leases() {
            if lease.until <= clock.monotonic {
                continue;
            }
            if let Some(guest) = &lease.guest {
                self.moved.insert(guest.clone(), address);
            } else if let Some(name) = &lease.host_name {
                named.push((name.clone(), address));
            }
        }
        self.zone.change(|zone| {
            for (name, address) in &named {
                zone.add_lease(name, *address);
            }
        });
        let restored: Vec<_> = self.dhcp.table().leases().map(|(at, _)| at).collect();
        for address in restored {
            self.follow_ipv6(address);
        }
        self.write_static_names();
        Ok(())
    }

    /// Answers at once what others answered before.
    pub fn keep_answers(&mut self, kept: Arc<SharedCache>) {
        self.kept = Some(kept);
    }

    /// Other settings; leases run on where they can, those of another subnet end.
    pub fn reconfigure(&mut self, settings: GatewaySettings) {
        self.dhcp.reconfigure(settings.dhcp.clone());
        self.dhcp6.reconfigure(settings.dhcp6.clone());
        let other_domain = self.settings.dhcp.domain != settings.dhcp.domain;
        self.zone
            .change(|zone| zone.reconfigure(settings.zone.clone()));
        self.settings = settings;
        let guests = &self.settings.guest_names;
        self.moved.retain(|guest, _| guests.contains_key(guest));
        for (address, lease) in self.dhcp.table().leases() {
            if let Some(guest) = lease
                .guest
                .as_ref()
                .filter(|_| self.dhcp.table().owner_of(address) == Some(lease.client.mac))
            {
                self.moved.insert(guest.clone(), address);
            }
        }
        self.take_changes();
        self.write_static_names();
        if other_domain {
            let leases = self.dhcp.table().leases();
            let unnamed = leases.filter(|(_, lease)| lease.guest.is_none());
            let named: Vec<_> = unnamed
                .filter_map(|(address, lease)| Some((lease.host_name.clone()?, address)))
                .collect();
            self.zone.change(|zone| {
                for (name, address) in &named {
                    zone.remove_lease(*address);
                    zone.add_lease(name, *address);
                }
            });
        }
    }

    /// The zone, to share.
    #[must_use]
    pub fn zone(&self) -> SharedZone {
        self.zone.clone()
    }

    /// The DHCP server, to look at.
    #[must_use]
    pub fn dhcp_server(&self) -> &DhcpServer {
        &self.dhcp
    }

    /// The DHCPv6 server, to look at.
    #[must_use]
    pub fn dhcp6_server(&self) -> &Dhcp6Server {
        &self.dhcp6
    }

    /// Addresses that DHCPv6 gave.
    #[must_use]
    pub fn ipv6_leases(&self) -> Vec<Ipv6LeaseView> {
        let table = self.dhcp.table();
        table
            .leases()
            .filter(|(address, _)| table.holds_ipv6(*address))
            .filter_map(|(address, lease)| {
                Some(Ipv6LeaseView {
                    address: self.settings.ipv6_of(address)?,
                    mac: lease.client.mac,
                    guest: lease.guest.clone(),
                })
            })
            .collect()
    }

    /// The host has a station of its own on the network.
    pub fn set_host(&mut self, address: Ipv4Addr, mac: MacAddress) {
        self.host = Some((address, mac));
    }

    /// The stations of a bridged network.
    #[must_use]
    pub fn observed(&self) -> &Observed {
        &self.observed
    }

    /// Where a guest is: its lease, else its reservation.
    #[must_use]
    pub fn address_of_guest(&self, guest: &GuestName) -> Option<Ipv4Addr> {
        let reserved = || {
            let reservations = &self.settings.dhcp.leases.reservations;
            reservations
                .iter()
                .find(|r| r.guest == *guest)
                .map(|r| r.address)
        };
        let seen = || {
            let mut stations = self.observed.stations();
            let found = stations.find(|(_, station)| station.guest.as_ref() == Some(guest));
            found.map(|(_, station)| station.address)
        };
        self.moved
            .get(guest)
            .copied()
            .or_else(seen)
            .or_else(reserved)
    }

    /// Where each configured guest is.
    #[must_use]
    pub fn guest_addresses(&self) -> BTreeMap<GuestName, Ipv4Addr> {
        let guests = self.settings.guest_names.keys();
        guests
            .filter_map(|guest| Some((guest.clone(), self.address_of_guest(guest)?)))
            .collect()
    }

    fn write_static_names(&self) {
        let mut names = NameTable::default();
        let settings = &self.settings;
        for (name, addresses) in &settings.own_names {
            for address in addresses {
                names.call(*address, name);
            }
            let target = Target::addresses(addresses.iter().copied());
            let source = Source::Network;
            names.add(name, Entry { target, source });
        }
        let prefix = self.zone.read();
        for (guest, called) in &settings.guest_names {
            let Some(address) = self.address_of_guest(guest) else {
                continue;
            };
            let v6 = prefix.v6_of(address).map(IpAddr::from);
            let entry = Entry {
                target: Target::addresses([Some(address.into()), v6].into_iter().flatten()),
                source: Source::Guest(guest.clone()),
            };
            if let Some(first) = called.names.first() {
                names.call(address.into(), first);
            }
            let qualified = guest.as_host_name().under(&settings.zone.network).ok();
            for name in called.names.iter().chain(&qualified) {
                names.add(name, entry.clone());
                if called.wildcard {
                    names.add_below(name, entry.clone());
                }
            }
        }
        drop(prefix);
        for (record, data) in &settings.records {
            let target = match data {
                RecordData::Addresses(addresses) => Target::addresses(addresses.iter().copied()),
                RecordData::Alias(name) => Target::alias(name),
            };
            let source = Source::Record;
            let entry = Entry { target, source };
            if record.below {
                names.add_below(&record.name, entry);
                continue;
            }
            if let RecordData::Addresses(addresses) = data {
                for address in addresses {
                    names.call(*address, &record.name);
                }
            }
            names.add(&record.name, entry);
        }
        self.zone.change(|zone| zone.set_fixed(names));
    }

    /// Names have an AAAA while the IPv6 side of their address is held; `true` if that changed.
    fn follow_ipv6(&self, address: Ipv4Addr) -> bool {
        let side = if self.dhcp.table().holds_ipv6(address) {
            Ipv6Side::Used
        } else {
            Ipv6Side::Unused
        };
        self.zone.change(|zone| zone.set_ipv6_used(address, side))
    }

    /// Journal first, then names, then news: the answer leaves after this.
    fn take_changes(&mut self) {
        let changes: Vec<LeaseChange> = self.dhcp.table_mut().take_changes().collect();
        if changes.is_empty() {
            return;
        }
        if let Some(journal) = &mut self.journal {
            let clock = ClockPair::read();
            for change in &changes {
                journal.append(change, clock);
            }
            journal.compact_if_grown(self.dhcp.table(), clock);
        }
        let mut guests_moved = false;
        for change in changes {
            guests_moved |= self.follow_ipv6(change.address());
            match change {
                LeaseChange::Bound {
                    address,
                    lease,
                    renewed,
                } => {
                    if let Some(guest) = &lease.guest {
                        guests_moved |= self.address_of_guest(guest) != Some(address);
                        self.moved.insert(guest.clone(), address);
                    } else if !renewed {
                        self.zone.change(|zone| match &lease.host_name {
                            Some(name) => {
                                zone.add_lease(name, address);
                            }
                            None => zone.remove_lease(address),
                        });
                    }
                    self.events.push(LeaseEvent::Bound {
                        mac: lease.client.mac,
                        address,
                        guest: lease.guest,
                        host_name: lease.host_name,
                        until: lease.until,
                        renewed,
                    });
                }
                LeaseChange::Ended {
                    address,
                    client,
                    guest,
                    ipv6: _,
                    reason,
                } => {
                    if let Some(guest) = &guest
                        && self.moved.get(guest) == Some(&address)
                    {
                        self.moved.remove(guest);
                        guests_moved |= self.address_of_guest(guest) != Some(address);
                    }
                    self.zone.change(|zone| zone.remove_lease(address));
                    self.events.push(LeaseEvent::Ended {
                        mac: client.mac,
                        address,
                        guest,
                        reason: reason.word(),
                    });
                }
                LeaseChange::Ipv6Bound {
                    address,
                    lease,
                    renewed,
                } => {
                    let until = lease.ipv6.as_ref().map(|hold| hold.until);
                    if let (Some(address), Some(until)) = (self.settings.ipv6_of(address), until) {
                        self.events.push(LeaseEvent::Ipv6Bound {
                            mac: lease.client.mac,
                            address,
                            guest: lease.guest,
                            until,
                            renewed,
                        });
                    }
                }
                LeaseChange::Ipv6Ended {
                    address,
                    lease,
                    reason,
                } => {
                    if let Some(address) = self.settings.ipv6_of(address) {
                        self.events.push(LeaseEvent::Ipv6Ended {
                            mac: lease.client.mac,
                            address,
                            guest: lease.guest,
                            reason: reason.word(),
                        });
                    }
                }
            }
        }
        if guests_moved {
            self.write_static_names();
        }
    }
}

impl GatewayServices for Gateway {
    fn dhcp(
        &mut self,
        payload: &[u8],
        arrival: &DhcpArrival<'_>,
        now: Instant,
    ) -> Option<DhcpReply> {
        let reply = self.dhcp.handle(payload, arrival, now);
        self.take_changes();
        reply
    }

    fn dhcp6(&mut self, payload: &[u8], arrival: &Dhcp6Arrival, now: Instant) -> Option<Vec<u8>> {
        let reply = self
            .dhcp6
            .handle(self.dhcp.table_mut(), payload, arrival, now);
        self.take_changes();
        reply
    }

    fn advertisement(&self) -> Option<&Advertisement> {
        self.settings.advertisement.as_ref()
    }

    fn address_in_use(&mut self, address: Ipv4Addr, now: Instant) {
        self.dhcp.found_in_use(address, now);
        self.take_changes();
    }

    fn dns(&mut self, bytes: &[u8], _client: &DnsClient<'_>, now: Instant) -> DnsOutcome {
        let fitting = |answer: Vec<u8>| match Query::decode(bytes) {
            Ok(query) => fit(&query, answer, Transport::Udp),
            Err(_) => answer,
        };
        match self.zone.read().handle(bytes) {
            DnsOutcome::Answer(answer) => DnsOutcome::Answer(fitting(answer)),
            DnsOutcome::Forward => {
                let kept = || {
                    let query = Query::decode(bytes).ok()?;
                    self.kept.as_ref()?.find_at_once(&query, now)
                };
                kept().map_or(DnsOutcome::Forward, |answer| {
                    DnsOutcome::Kept(fitting(answer))
                })
            }
            outcome @ (DnsOutcome::Kept(_) | DnsOutcome::Drop) => outcome,
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let (given, seen) = (
            self.dhcp.table().poll_timeout(),
            self.observed.poll_timeout(),
        );
        given.into_iter().chain(seen).min()
    }

    fn observe(
        &mut self,
        mac: MacAddress,
        guest: Option<&GuestName>,
        sighting: Sighting<'_>,
        now: Instant,
    ) {
        self.observed.see(mac, guest, sighting, now);
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.observed.expire(now);
        self.dhcp.table_mut().expire(now);
        self.take_changes();
    }

    fn drain_lease_events(&mut self, events: &mut Vec<LeaseEvent>) {
        events.append(&mut self.events);
        self.observed.drain_events(events);
    }

    fn address_of(&self, mac: MacAddress) -> Option<Ipv4Addr> {
        self.dhcp.table().address_of(mac)
    }

    fn owner_of(&self, address: Ipv4Addr) -> Option<MacAddress> {
        let host = self.host.filter(|(taken, _)| *taken == address);
        let given = host.map(|(_, mac)| mac);
        given
            .or_else(|| self.dhcp.table().owner_of(address))
            .or_else(|| self.observed.owner_of(address))
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
}

/// What the configuration says about one network's services. `known` says which address a MAC
/// has already, so that guests for which the file names none keep theirs.
#[must_use]
pub fn settings_of(
    config: &Config,
    network: &Network,
    known: &BTreeMap<MacAddress, Ipv4Addr>,
) -> GatewaySettings {
    let mut kept = vec![network.gateway, network.host_internal];
    kept.extend(network.host_tap);
    let own = |name: &str, v4: Ipv4Addr, v6: Option<Ipv6Addr>| {
        let addresses = [Some(v4.into()), v6.map(IpAddr::from)];
        let addresses = addresses.into_iter().flatten().collect();
        HostName::parse(name).ok().map(|name| (name, addresses))
    };
    let own_names = [
        own("gateway.internal", network.gateway, network.gateway_ipv6()),
        // IPv4 only: most services of a host listen on 127.0.0.1 and not on ::1, and not every client tries
        // the other family when one is refused. PREFIX::2 itself leads to ::1.
        own("host.internal", network.host_internal, None),
    ];
    GatewaySettings {
        dhcp: DhcpSettings {
            gateway: network.gateway,
            router: (network.kind == NetworkKind::Nat).then_some(network.gateway),
            domain: network.domain.clone(),
            search: search_list(network),
            time_servers: network.ntp.iter().filter_map(ipv4).collect(),
            routes: network
                .routes
                .iter()
                .map(|route| (route.destination, route.via))
                .collect(),
            // Without a word in the file the NIC's own is right: virtio's host_mtu, or 1500.
            mtu: network.mtu,
            term: network.lease_time,
            leases: LeaseSettings {
                subnet: network.subnet,
                pool: network.pool.clone(),
                reservations: reservations(config, network, known, &kept),
                kept,
            },
        },
        dhcp6: dhcp6_settings(network),
        advertisement: advertisement(network),
        zone: zone_settings(config, network),
        own_names: own_names.into_iter().flatten().collect(),
        guest_names: config
            .guests_on(&network.name)
            .map(|guest| {
                let called = GuestNames {
                    names: config.names_of(guest).unwrap_or_default(),
                    wildcard: guest.wildcard,
                };
                (guest.name.clone(), called)
            })
            .collect(),
        records: network.names.records.clone(),
    }
}

fn zone_settings(config: &Config, network: &Network) -> ZoneSettings {
    let others = || {
        let networks = config.networks.values();
        networks.filter(|other| other.name != network.name)
    };
    let subnets = others().map(|other| IpNet::V4(other.subnet));
    let prefixes = others().filter_map(|other| other.ipv6.map(IpNet::V6));
    let domain = &network.domain;
    let named = |name: &str| HostName::parse(name).unwrap_or_else(|_| domain.clone());
    let label = named(network.name.as_str().trim_end_matches('-'));
    ZoneSettings {
        domain: domain.clone(),
        network: label.under(domain).unwrap_or_else(|_| domain.clone()),
        server: named("gateway.internal"),
        subnet: network.subnet,
        prefix: network.ipv6,
        host_internal: (network.host_internal, network.host_internal_ipv6()),
        siblings: (
            others().map(|other| other.domain.clone()).collect(),
            subnets.chain(prefixes).collect(),
        ),
        rules: network.names.rules.keys().cloned().collect(),
        closed: network.kind == NetworkKind::HostOnly && network.dns.is_empty(),
    }
}

/// Option 119, option 24 and DNSSL: the domain, then what else the file names.
fn search_list(network: &Network) -> Vec<HostName> {
    let own = [&network.domain].into_iter();
    own.chain(&network.search).cloned().collect()
}

fn dhcp6_settings(network: &Network) -> Option<Dhcp6Settings> {
    let prefix = network.ipv6?;
    Some(Dhcp6Settings {
        prefix,
        duid: duid_of(prefix, network.name.as_str()),
        dns: network.gateway_ipv6()?,
        domain: network.domain.clone(),
        search: search_list(network),
        time_servers: network.ntp.iter().filter_map(ipv6).collect(),
        term: network.lease_time,
    })
}

fn advertisement(network: &Network) -> Option<Advertisement> {
    Some(Advertisement {
        prefix: network.ipv6?,
        is_router: network.kind == NetworkKind::Nat,
        dhcp: true,
        mtu: network.mtu,
        dns: network.gateway_ipv6()?,
        search: search_list(network),
    })
}

fn ipv6(address: &IpAddr) -> Option<Ipv6Addr> {
    match address {
        IpAddr::V4(_) => None,
        IpAddr::V6(address) => Some(*address),
    }
}

fn ipv4(address: &IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(address) => Some(*address),
        IpAddr::V6(_) => None,
    }
}

/// Every configured guest has an address of its own: the file's, else the one it has, else one of the
/// lower half that follows from its name, else any that is left.
fn reservations(
    config: &Config,
    network: &Network,
    known: &BTreeMap<MacAddress, Ipv4Addr>,
    kept: &[Ipv4Addr],
) -> Vec<Reservation> {
    if network.kind == NetworkKind::Bridged {
        return Vec::new();
    }
    let mut taken: Vec<Ipv4Addr> = kept.to_vec();
    taken.extend(
        config
            .guests_on(&network.name)
            .filter_map(|guest| guest.address),
    );
    let first = u32::from(network.subnet.network()) + 1;
    let last = u32::from(network.subnet.broadcast()) - 1;
    let lower_half_end = u32::from(*network.pool.start()).clamp(first + 1, last);
    let mut reservations = Vec::new();
    for guest in config.guests_on(&network.name) {
        let had = known.get(&guest.mac).copied().filter(|address| {
            let number = u32::from(*address);
            (first..=last).contains(&number) && !taken.contains(address)
        });
        let address = guest.address.or(had).or_else(|| {
            let width = lower_half_end - first;
            let hash = stable_hash(guest.name.as_str().as_bytes());
            let start = u32::try_from(hash % u64::from(width.max(1))).unwrap_or(0);
            let lower = (0..width).map(|step| first + (start + step) % width);
            lower
                .chain(lower_half_end..=last)
                .map(Ipv4Addr::from)
                .find(|address| !taken.contains(address))
        });
        // More guests than addresses: the rest share the pool, which will run dry and say so.
        if let Some(address) = address {
            taken.push(address);
            reservations.push(Reservation {
                guest: guest.name.clone(),
                mac: guest.mac,
                address,
            });
        }
    }
    reservations
}
