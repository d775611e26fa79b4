//! Networks: subnets that are private and apart, and what follows from them.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use ipnet::{Ipv4Net, Ipv6Net};

use super::super::problem::Findings;
use super::super::raw::{At, Mtu, RawConfig, RawNetwork};
use super::super::{
    DEFAULT_DOMAIN, DEFAULT_LEASE_TIME, DEFAULT_NETWORK, HostAccess, LARGEST_MTU, Network,
    NetworkKind, Surroundings, duration,
};
use super::{bridged, dhcp, egress, ipv6, read, read_address, read_word, services};
use crate::mac::fnv1a;
use crate::names::{HostName, NetworkName};

/// Smallest and largest prefix: below 8 nothing is private, above 29 no room is left for a guest.
const PREFIXES: std::ops::RangeInclusive<u8> = 8..=29;
/// RFC 791 section 3.1: every host must take 576 bytes.
const SMALLEST_MTU: u16 = 576;
/// Below a minute clients renew without rest.
const SHORTEST_LEASE: Duration = Duration::from_secs(60);
const LONGEST_LEASE: Duration = Duration::from_secs(30 * 24 * 3600);

pub(super) fn networks(
    raw: &RawConfig,
    surroundings: &Surroundings,
    findings: &mut Findings<'_>,
) -> BTreeMap<NetworkName, Network> {
    let mut named: Vec<(NetworkName, &RawNetwork)> = Vec::new();
    for (key, network) in &raw.network {
        if let Some(name) = read(findings, "network", "name", key) {
            named.push((name, network));
        }
    }
    let unnamed = RawNetwork::default();
    if raw.network.is_empty()
        && let Ok(name) = NetworkName::parse(DEFAULT_NETWORK)
    {
        named.push((name, &unnamed));
    }
    // Written subnets first, so that a derived one gives way to them.
    let mut taken: Vec<(NetworkName, Ipv4Net)> = Vec::new();
    for (name, network) in &named {
        let Some(text) = &network.subnet else {
            continue;
        };
        if bridged::kind(name, network, &mut Findings::new("")) == NetworkKind::Bridged {
            continue;
        }
        let owner = format!("network \"{name}\"");
        let Some(subnet) = read_subnet(findings, &owner, text) else {
            continue;
        };
        if let Some((other, theirs)) = taken.iter().find(|(_, t)| overlap(*t, subnet)) {
            findings.add(
                Some(text.offset()),
                format!("{owner}: subnet {subnet} overlaps {theirs} of network \"{other}\""),
                "give each network a subnet of its own",
            );
        }
        taken.push((name.clone(), subnet));
    }
    let mut prefixes = ipv6::prefixes(&named, surroundings, findings);
    let mut networks = BTreeMap::new();
    for (name, raw) in named {
        let kind = bridged::kind(&name, raw, findings);
        bridged::check(&format!("network \"{name}\""), raw, kind, findings);
        let written = taken.iter().find(|(n, _)| *n == name).map(|(_, s)| *s);
        let ipv6 = prefixes.remove(&name);
        if kind == NetworkKind::Bridged {
            let network = network(
                name.clone(),
                raw,
                (kind, bridged::no_subnet(), None),
                findings,
            );
            networks.insert(name, network);
            continue;
        }
        let subnet = written.unwrap_or_else(|| {
            let subnet = derived_subnet(&name, &taken);
            taken.push((name.clone(), subnet));
            subnet
        });
        networks.insert(
            name.clone(),
            network(name, raw, (kind, subnet, ipv6), findings),
        );
    }
    networks
}

fn read_subnet(findings: &mut Findings<'_>, owner: &str, text: &At<String>) -> Option<Ipv4Net> {
    let example = "write it like 192.168.130.0/24";
    let Ok(subnet) = text.value().parse::<Ipv4Net>() else {
        let message = format!(
            "{owner}: subnet \"{}\" is not ADDRESS/PREFIX",
            text.value().escape_debug()
        );
        findings.add(Some(text.offset()), message, example);
        return None;
    };
    if subnet.addr() != subnet.network() {
        let message = format!("{owner}: subnet {subnet} has bits set beyond its prefix");
        findings.add(
            Some(text.offset()),
            message,
            format!("write {}", subnet.trunc()),
        );
        return None;
    }
    if !PREFIXES.contains(&subnet.prefix_len()) {
        let message = format!(
            "{owner}: subnet {subnet} has prefix {}, it must be 8 to 29",
            subnet.prefix_len()
        );
        findings.add(Some(text.offset()), message, example);
        return None;
    }
    if !for_private_use(subnet) {
        let message = format!(
            "{owner}: subnet {subnet} is not for private use, guests would lose the real one"
        );
        let hint = "take one in 10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16 or 100.64.0.0/10";
        findings.add(Some(text.offset()), message, hint);
        return None;
    }
    Some(subnet)
}

/// RFC 1918, RFC 6598, and the ranges for tests and documents of RFC 2544 and RFC 5737.
fn for_private_use(subnet: Ipv4Net) -> bool {
    const RANGES: [([u8; 4], u8); 8] = [
        ([10, 0, 0, 0], 8),
        ([172, 16, 0, 0], 12),
        ([192, 168, 0, 0], 16),
        ([100, 64, 0, 0], 10),
        ([198, 18, 0, 0], 15),
        ([192, 0, 2, 0], 24),
        ([198, 51, 100, 0], 24),
        ([203, 0, 113, 0], 24),
    ];
    RANGES.iter().any(|(address, prefix)| {
        Ipv4Net::new((*address).into(), *prefix).is_ok_and(|range| range.contains(&subnet))
    })
}

fn overlap(a: Ipv4Net, b: Ipv4Net) -> bool {
    a.contains(&b.network()) || b.contains(&a.network())
}

/// The first of 192.168.130.0/24 .. 192.168.249.0/24, from a place that follows
/// from the name, that no other network has; vmnet8 begins at 130.
fn derived_subnet(name: &NetworkName, taken: &[(NetworkName, Ipv4Net)]) -> Ipv4Net {
    const FIRST: u8 = 130;
    const COUNT: u8 = 120;
    let start = if name.as_str() == DEFAULT_NETWORK {
        0
    } else {
        u8::try_from(fnv1a(name.as_str().as_bytes()) % u64::from(COUNT)).unwrap_or(0)
    };
    let candidate = |step: u8| {
        let third = FIRST + (start + step) % COUNT;
        Ipv4Net::new_assert(Ipv4Addr::new(192, 168, third, 0), 24)
    };
    (0..COUNT)
        .map(candidate)
        .find(|c| !taken.iter().any(|(_, t)| overlap(*t, *c)))
        .unwrap_or_else(|| candidate(0))
}

fn network(
    name: NetworkName,
    raw: &RawNetwork,
    (kind, subnet, ipv6): (NetworkKind, Ipv4Net, Option<Ipv6Net>),
    findings: &mut Findings<'_>,
) -> Network {
    let owner = format!("network \"{name}\"");
    let accesses = [("loopback", HostAccess::Loopback), ("tap", HostAccess::Tap)];
    let host_access = raw
        .host_access
        .as_ref()
        .and_then(|access| read_word(findings, (&owner, "host-access"), access, &accesses))
        .unwrap_or(HostAccess::Loopback);
    let interface = bridged::interface(&owner, raw, findings);
    let domain = raw
        .domain
        .as_ref()
        .and_then(|d| read(findings, &owner, "domain", d));
    let mtu = raw.mtu.as_ref().and_then(|m| read_mtu(findings, &owner, m));
    let lease_time = raw
        .lease_time
        .as_ref()
        .and_then(|t| read_lease_time(findings, &owner, t));
    let dns = raw
        .dns
        .iter()
        .flatten()
        .filter_map(|d| read_resolver(findings, &(format!("{owner}: dns"), d.offset()), d.value()))
        .collect();
    let listen = raw
        .listen
        .as_ref()
        .and_then(|l| read_address(findings, (&owner, "listen"), l, "127.0.0.1:4100"));
    let egress = egress::of_network(raw, &owner, findings);
    // A bridged network's subnet is everything, which has no places.
    let places = match kind {
        NetworkKind::Nat | NetworkKind::HostOnly => {
            (u32::from(subnet.network()), u32::from(subnet.broadcast()))
        }
        NetworkKind::Bridged => (0, 0),
    };
    let (base, last) = places;
    let inside = |address: u32| match kind {
        NetworkKind::Nat | NetworkKind::HostOnly => Ipv4Addr::from(address),
        NetworkKind::Bridged => Ipv4Addr::UNSPECIFIED,
    };
    let host_tap = (host_access == HostAccess::Tap).then(|| inside(last.wrapping_sub(2)));
    let pool_end = last.wrapping_sub(if host_tap.is_some() { 3 } else { 2 });
    Network {
        kind,
        interface,
        subnet,
        gateway: inside(base + 1),
        host_internal: inside(last.wrapping_sub(1)),
        host_access,
        host_tap,
        pool: inside(base + (last - base).div_ceil(2))..=inside(pool_end),
        ipv6,
        domain: domain.unwrap_or_else(default_domain),
        mtu,
        host_loopback: raw.host_loopback.unwrap_or(true),
        lease_time: lease_time.unwrap_or(DEFAULT_LEASE_TIME),
        dns,
        ntp: dhcp::time_servers(&owner, raw, findings),
        routes: dhcp::routes(&owner, raw, subnet, findings),
        search: dhcp::search(&owner, raw, findings),
        services: services::services(&raw.services, &owner, findings),
        names: super::dns::dns(raw, &owner, findings),
        listen,
        egress,
        name,
    }
}

#[expect(clippy::expect_used, reason = "a constant; a test reads it")]
fn default_domain() -> HostName {
    HostName::parse(DEFAULT_DOMAIN).expect("the built-in domain is a name")
}

fn read_mtu(findings: &mut Findings<'_>, owner: &str, raw: &At<Mtu>) -> Option<u16> {
    let shown = match raw.value() {
        Mtu::Word(word) if word == "auto" => return None,
        Mtu::Word(word) => format!("\"{}\"", word.escape_debug()),
        Mtu::Bytes(bytes) => match u16::try_from(*bytes) {
            Ok(mtu) if (SMALLEST_MTU..=LARGEST_MTU).contains(&mtu) => return Some(mtu),
            _ => bytes.to_string(),
        },
    };
    findings.add(
        Some(raw.offset()),
        format!("{owner}: mtu = {shown} is not possible"),
        format!("write \"auto\" or {SMALLEST_MTU} to {LARGEST_MTU}"),
    );
    None
}

fn read_lease_time(findings: &mut Findings<'_>, owner: &str, raw: &At<String>) -> Option<Duration> {
    let time = duration(raw.value()).filter(|t| (SHORTEST_LEASE..=LONGEST_LEASE).contains(t));
    if time.is_none() {
        let message = format!(
            "{owner}: lease-time \"{}\" is not possible",
            raw.value().escape_debug()
        );
        findings.add(
            Some(raw.offset()),
            message,
            "write 60s to 30d, e.g. \"12h\"",
        );
    }
    time
}

pub(super) fn read_resolver(
    findings: &mut Findings<'_>,
    (owner, offset): &(String, usize),
    text: &str,
) -> Option<SocketAddr> {
    const DNS_PORT: u16 = 53;
    let address = text
        .parse::<IpAddr>()
        .map(|ip| SocketAddr::new(ip, DNS_PORT))
        .or_else(|_| text.parse());
    if address.is_err() {
        let message = format!(
            "{owner}: \"{}\" is not ADDRESS or ADDRESS:PORT",
            text.escape_debug()
        );
        findings.add(
            Some(*offset),
            message,
            "write it like \"10.0.0.53\" or \"127.0.0.1:5353\"",
        );
    }
    address.ok()
}
