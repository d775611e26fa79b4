//! Lease files of DHCP servers, each format behind one function from bytes to leases. Pure.
//!
//! A broken block is skipped and counted, never the file. A client is known by its Ethernet
//! address, not its client id, which a newly installed machine changes. Of several leases of one
//! client the one that ends last counts; one that is over counts for nothing.

mod bootpd;
mod dhcpd;
mod dnsmasq;
mod libvirt;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use control::config::SourceKind;
use control::mac::MacAddress;
use control::names::{HostName, SourceName};

use super::{Reading, names};
use crate::table::{Fact, Source};

/// A lease file of a busy lab is a hundred kilobytes; beyond this it is something else.
pub const LARGEST_FILE: u64 = 16 << 20;
/// Leases read of one file.
const MOST_LEASES: usize = 65_536;

/// One lease, as a server wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Lease {
    pub client: MacAddress,
    pub address: IpAddr,
    /// What the client calls itself, unchecked.
    pub name: String,
    /// When it began; not every format says so.
    pub since: Option<SystemTime>,
    /// When it ends; none: never.
    pub until: Option<SystemTime>,
}

/// What a file holds.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Leases {
    pub leases: Vec<Lease>,
    pub skipped: u64,
}

impl Leases {
    /// Takes one entry: a lease, nothing of interest, or something broken.
    fn take(&mut self, entry: Entry) {
        match entry {
            Entry::Lease(lease) if self.leases.len() < MOST_LEASES => self.leases.push(lease),
            Entry::Lease(_) | Entry::Broken => self.skipped += 1,
            Entry::Nameless => {}
        }
    }
}

/// One entry of a lease file.
#[derive(Debug)]
enum Entry {
    Lease(Lease),
    /// Right, but without a name or an Ethernet address: nothing for us.
    Nameless,
    Broken,
}

/// The names that a lease file gives, each below `suffix`.
#[must_use]
pub fn read(
    bytes: &[u8],
    kind: SourceKind,
    (source, suffix): (&SourceName, &HostName),
    now: SystemTime,
) -> Reading {
    let Leases { leases, skipped } = match kind {
        SourceKind::Dhcpd => dhcpd::parse(bytes),
        SourceKind::Dnsmasq => dnsmasq::parse(bytes),
        SourceKind::Libvirt => libvirt::parse(bytes),
        SourceKind::Bootpd => bootpd::parse(bytes),
        // These have no files.
        SourceKind::Netd | SourceKind::Docker | SourceKind::Podman => Leases::default(),
    };
    let mut reading = Reading {
        facts: Vec::new(),
        skipped,
    };
    for lease in newest(leases, now) {
        let Some(name) = names::below(&lease.name, suffix) else {
            reading.skipped += 1;
            continue;
        };
        reading.facts.push(Fact {
            name,
            below: false,
            address: lease.address,
            from: Source::Lease {
                source: source.clone(),
                client: lease.client.to_string(),
            },
            since: lease.since,
            until: lease.until,
        });
    }
    reading.bounded()
}

/// The lease of each client that ends last, in the order of the clients.
fn newest(leases: Vec<Lease>, now: SystemTime) -> impl Iterator<Item = Lease> {
    let mut newest: BTreeMap<[u8; 6], Lease> = BTreeMap::new();
    let over = |lease: &Lease| lease.until.is_some_and(|until| until <= now);
    for lease in leases.into_iter().filter(|lease| !over(lease)) {
        match newest.get(&lease.client.0) {
            Some(other) if ends_after(other, &lease) => {}
            Some(_) | None => drop(newest.insert(lease.client.0, lease)),
        }
    }
    newest.into_values()
}

/// Of two that end together the later one in the file counts.
fn ends_after(one: &Lease, other: &Lease) -> bool {
    match (one.until, other.until) {
        (None, Some(_)) => true,
        (Some(one), Some(other)) => one > other,
        (_, None) => false,
    }
}

/// `52:54:0:59:fc:d9`: octets may lack their leading zero.
fn client(text: &str) -> Option<MacAddress> {
    let mut octets = [0; 6];
    let mut parts = text.split(':');
    for octet in &mut octets {
        let part = parts.next().filter(|part| (1..=2).contains(&part.len()))?;
        *octet = u8::from_str_radix(part, 16).ok()?;
    }
    parts.next().is_none().then_some(MacAddress(octets))
}

/// Seconds since 1970, as servers write them.
fn from_epoch(seconds: u64) -> Option<SystemTime> {
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

/// A name that is none, in any format.
fn is_unknown(name: &str) -> bool {
    name.is_empty() || name == "*"
}
