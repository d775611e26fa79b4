//! From the text to checked values: each rule of the file in one place.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use ipnet::Ipv4Net;

use super::problem::{Findings, Problem};
use super::raw::{At, Mtu, RawConfig, RawGuest, RawHosts, RawNetwork, RawShare};
use super::{
    CachePolicy, Config, DEFAULT_DOMAIN, DEFAULT_LEASE_TIME, DEFAULT_NETWORK, Guest, Hosts,
    HostsFile, LARGEST_MTU, Network, NetworkKind, Owner, Share, Surroundings,
};
use crate::mac::{MacAddress, fnv1a};
use crate::names::{GuestName, HostName, NetworkName, ShareName};
use crate::port::PortSpec;

/// Smallest and largest prefix: below 8 nothing is private, above 29 no room is left for a guest.
const PREFIXES: std::ops::RangeInclusive<u8> = 8..=29;
/// RFC 791 section 3.1: every host must take 576 bytes.
const SMALLEST_MTU: u16 = 576;
/// Below a minute clients renew without rest.
const SHORTEST_LEASE: Duration = Duration::from_secs(60);
const LONGEST_LEASE: Duration = Duration::from_secs(30 * 24 * 3600);

pub(super) fn resolve(text: &str, surroundings: &Surroundings) -> Result<Config, Vec<Problem>> {
    let mut findings = Findings::new(text);
    let raw: RawConfig = match toml::from_str(text) {
        Ok(raw) => raw,
        Err(error) => {
            let hint = "sharectl config schema, or docs/config.toml, lists every key";
            findings.add(error.span().map(|s| s.start), error.message().trim(), hint);
            return Err(findings.finish());
        }
    };
    let networks = networks(&raw, &mut findings);
    let guests = guests(&raw, &networks, &mut findings);
    let shares = shares(&raw, &guests, surroundings, &mut findings);
    let hosts = hosts(&raw.hosts, surroundings, &mut findings);
    let config = Config {
        networks,
        guests,
        shares,
        hosts,
    };
    let problems = findings.finish();
    if problems.is_empty() {
        Ok(config)
    } else {
        Err(problems)
    }
}

/// Reads one value with its own parser; a failure becomes a finding at its place.
fn read<T>(findings: &mut Findings<'_>, owner: &str, key: &str, raw: &At<String>) -> Option<T>
where
    T: FromStr,
    T::Err: std::fmt::Display,
{
    match raw.value().parse() {
        Ok(value) => Some(value),
        Err(error) => {
            findings.add(Some(raw.offset()), format!("{owner}: {key}: {error}"), "");
            None
        }
    }
}

/// One word out of a closed list.
fn read_word<T: Copy>(
    findings: &mut Findings<'_>,
    (owner, key): (&str, &str),
    raw: &At<String>,
    words: &[(&str, T)],
) -> Option<T> {
    let found = words.iter().find(|(word, _)| word == raw.value());
    if found.is_none() {
        let known: Vec<_> = words
            .iter()
            .map(|(word, _)| format!("\"{word}\""))
            .collect();
        findings.add(
            Some(raw.offset()),
            format!(
                "{owner}: {key} = \"{}\" is not known",
                raw.value().escape_debug()
            ),
            format!("write one of {}", known.join(", ")),
        );
    }
    found.map(|(_, value)| *value)
}

fn networks(raw: &RawConfig, findings: &mut Findings<'_>) -> BTreeMap<NetworkName, Network> {
    let mut named: Vec<(NetworkName, &RawNetwork, Option<usize>)> = Vec::new();
    for (key, network) in &raw.network {
        if let Some(name) = read(findings, "network", "name", key) {
            named.push((name, network, Some(key.offset())));
        }
    }
    let unnamed = RawNetwork::default();
    if raw.network.is_empty() {
        if let Ok(name) = NetworkName::parse(DEFAULT_NETWORK) {
            named.push((name, &unnamed, None));
        }
    }
    // Written subnets first, so that a derived one gives way to them.
    let mut taken: Vec<(NetworkName, Ipv4Net)> = Vec::new();
    for (name, network, _) in &named {
        let Some(text) = &network.subnet else {
            continue;
        };
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
    let mut networks = BTreeMap::new();
    for (name, raw, _) in named {
        let written = taken.iter().find(|(n, _)| *n == name).map(|(_, s)| *s);
        let subnet = written.unwrap_or_else(|| {
            let subnet = derived_subnet(&name, &taken);
            taken.push((name.clone(), subnet));
            subnet
        });
        networks.insert(name.clone(), network(name, raw, subnet, findings));
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
    subnet: Ipv4Net,
    findings: &mut Findings<'_>,
) -> Network {
    let owner = format!("network \"{name}\"");
    let kinds = [
        ("nat", NetworkKind::Nat),
        ("host-only", NetworkKind::HostOnly),
    ];
    let kind = raw
        .kind
        .as_ref()
        .and_then(|k| read_word(findings, (&owner, "type"), k, &kinds))
        .unwrap_or(NetworkKind::Nat);
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
        .filter_map(|d| read_resolver(findings, &owner, d))
        .collect();
    let listen = raw
        .listen
        .as_ref()
        .and_then(|l| read(findings, &owner, "listen", l));
    let base = u32::from(subnet.network());
    let last = u32::from(subnet.broadcast());
    Network {
        kind,
        subnet,
        gateway: (base + 1).into(),
        host_internal: (last - 1).into(),
        pool: (base + (last - base).div_ceil(2)).into()..=(last - 2).into(),
        domain: domain.unwrap_or_else(default_domain),
        mtu,
        host_loopback: raw.host_loopback.unwrap_or(true),
        lease_time: lease_time.unwrap_or(DEFAULT_LEASE_TIME),
        dns,
        listen,
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

/// A number and one of s, m, h, d.
fn duration(text: &str) -> Option<Duration> {
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86400,
        _ => return None,
    };
    let number: u64 = number.parse().ok()?;
    Some(Duration::from_secs(number.checked_mul(seconds)?))
}

fn read_resolver(findings: &mut Findings<'_>, owner: &str, raw: &At<String>) -> Option<SocketAddr> {
    const DNS_PORT: u16 = 53;
    let text = raw.value();
    let address = text
        .parse::<IpAddr>()
        .map(|ip| SocketAddr::new(ip, DNS_PORT))
        .or_else(|_| text.parse());
    if address.is_err() {
        let message = format!(
            "{owner}: dns: \"{}\" is not ADDRESS or ADDRESS:PORT",
            text.escape_debug()
        );
        findings.add(
            Some(raw.offset()),
            message,
            "write it like \"10.0.0.53\" or \"127.0.0.1:5353\"",
        );
    }
    address.ok()
}

fn guests(
    raw: &RawConfig,
    networks: &BTreeMap<NetworkName, Network>,
    findings: &mut Findings<'_>,
) -> BTreeMap<GuestName, Guest> {
    let mut guests: BTreeMap<GuestName, Guest> = BTreeMap::new();
    let mut claims = Claims::default();
    // Written addresses first, so that derived ones give way to them.
    let written: Vec<Ipv4Addr> = raw
        .guest
        .values()
        .filter_map(|g| g.host_address.as_ref()?.value().parse().ok())
        .collect();
    for (key, raw) in &raw.guest {
        let Some(name) = read::<GuestName>(findings, "guest", "name", key) else {
            continue;
        };
        let owner = format!("guest \"{name}\"");
        let Some(network) = network_of(raw, key.offset(), &owner, networks, findings) else {
            continue;
        };
        let mac = raw
            .mac
            .as_ref()
            .and_then(|m| read(findings, &owner, "mac", m));
        let mac = mac.unwrap_or_else(|| MacAddress::derived(&name));
        let mac_offset = raw.mac.as_ref().map_or(key.offset(), At::offset);
        claims.claim(
            findings,
            mac_offset,
            &owner,
            format!("the Ethernet address {mac}"),
        );
        let address = raw.address.as_ref().and_then(|a| {
            let address = read_guest_address(findings, &owner, a, network)?;
            claims.claim(
                findings,
                a.offset(),
                &owner,
                format!("the address {address}"),
            );
            Some(address)
        });
        let host_address = match &raw.host_address {
            Some(text) => {
                let address = read_host_address(findings, &owner, text);
                if let Some(address) = address {
                    claims.claim(
                        findings,
                        text.offset(),
                        &owner,
                        format!("the host address {address}"),
                    );
                }
                address
            }
            None => None,
        };
        let used =
            |a: Ipv4Addr| written.contains(&a) || guests.values().any(|g| g.host_address == a);
        let host_address = host_address.unwrap_or_else(|| derived_host_address(&name, used));
        let names = guest_names(raw, &owner, findings);
        match name.as_host_name().under(&network.domain) {
            Ok(own) => claims.claim(findings, key.offset(), &owner, format!("the name {own}")),
            Err(error) => findings.add(
                Some(key.offset()),
                format!("{owner}: {error}"),
                "shorten the domain",
            ),
        }
        for (name, text) in names.iter().zip(&raw.names) {
            claims.claim(findings, text.offset(), &owner, format!("the name {name}"));
        }
        let publish = published(raw, &owner, host_address, &mut claims, findings);
        guests.insert(
            name.clone(),
            Guest {
                network: network.name.clone(),
                mac,
                address,
                host_address,
                names,
                publish,
                name,
            },
        );
    }
    guests
}

/// What only one guest may have, and who has it.
#[derive(Default)]
struct Claims {
    owners: BTreeMap<String, String>,
    ports: Vec<(PortSpec, IpAddr, String)>,
}

impl Claims {
    fn claim(&mut self, findings: &mut Findings<'_>, offset: usize, owner: &str, what: String) {
        if let Some(other) = self.owners.get(&what) {
            let message = if other == owner {
                format!("{owner} has {what} twice")
            } else {
                format!("{owner} and {other} both have {what}")
            };
            findings.add(Some(offset), message, "change or remove one of the two");
            return;
        }
        self.owners.insert(what, owner.to_owned());
    }

    fn claim_port(
        &mut self,
        findings: &mut Findings<'_>,
        offset: usize,
        owner: &str,
        (spec, bind): (&PortSpec, IpAddr),
    ) {
        let clash = self.ports.iter().find(|(other, theirs, _)| {
            other.protocol == spec.protocol
                && other.host.overlaps(spec.host)
                && (*theirs == bind || theirs.is_unspecified() || bind.is_unspecified())
        });
        if let Some((other, _, whose)) = clash {
            findings.add(
                Some(offset),
                format!(
                    "{owner}: publish \"{spec}\" takes a host port that \"{other}\" of {whose} has"
                ),
                "choose another host port, or another address in front of it",
            );
        }
        self.ports.push((spec.clone(), bind, owner.to_owned()));
    }
}

fn network_of<'n>(
    raw: &RawGuest,
    offset: usize,
    owner: &str,
    networks: &'n BTreeMap<NetworkName, Network>,
    findings: &mut Findings<'_>,
) -> Option<&'n Network> {
    let known = || {
        networks
            .keys()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(", ")
    };
    if let Some(text) = &raw.network {
        let found = networks.values().find(|n| n.name.as_str() == text.value());
        if found.is_none() {
            let message = format!(
                "{owner}: network \"{}\" is not in this file",
                text.value().escape_debug()
            );
            findings.add(
                Some(text.offset()),
                message,
                format!("write one of: {}", known()),
            );
        }
        return found;
    }
    let only = if networks.len() == 1 {
        networks.values().next()
    } else {
        None
    };
    let found = only.or_else(|| {
        networks
            .values()
            .find(|n| n.name.as_str() == DEFAULT_NETWORK)
    });
    if found.is_none() {
        let message = format!("{owner} does not say which network it is on");
        findings.add(
            Some(offset),
            message,
            format!("add network = \"...\", one of: {}", known()),
        );
    }
    found
}

fn read_guest_address(
    findings: &mut Findings<'_>,
    owner: &str,
    raw: &At<String>,
    network: &Network,
) -> Option<Ipv4Addr> {
    let address: Ipv4Addr = read(findings, owner, "address", raw)?;
    let usable = network.subnet.contains(&address)
        && address != network.subnet.network()
        && address != network.subnet.broadcast()
        && address != network.gateway
        && address != network.host_internal;
    if usable {
        return Some(address);
    }
    let first = u32::from(network.gateway) + 1;
    let last = u32::from(network.host_internal) - 1;
    findings.add(
        Some(raw.offset()),
        format!(
            "{owner}: address {address} is not free for a guest on network \"{}\"",
            network.name
        ),
        format!(
            "take one from {} to {}",
            Ipv4Addr::from(first),
            Ipv4Addr::from(last)
        ),
    );
    None
}

fn read_host_address(
    findings: &mut Findings<'_>,
    owner: &str,
    raw: &At<String>,
) -> Option<Ipv4Addr> {
    let address: Ipv4Addr = read(findings, owner, "host-address", raw)?;
    let [_, second, third, fourth] = address.octets();
    let shared = second == 0 && third == 0;
    if address.is_loopback() && !shared && !matches!(fourth, 0 | 255) {
        return Some(address);
    }
    findings.add(
        Some(raw.offset()),
        format!("{owner}: host-address {address} cannot be a guest's own"),
        "take one from 127.1.0.1 to 127.255.255.254; 127.0.0.x is shared by all programs",
    );
    None
}

/// 127.64.0.0/10 from a place that follows from the name, the next free one.
fn derived_host_address(name: &GuestName, used: impl Fn(Ipv4Addr) -> bool) -> Ipv4Addr {
    let mut hash = fnv1a(name.as_str().as_bytes());
    loop {
        let [a, b, c, ..] = hash.to_le_bytes();
        // 1..=254 in the last place: no address that looks like a network or a broadcast.
        let address = Ipv4Addr::new(127, 64 | (a & 63), b, 1 + c % 254);
        if !used(address) {
            return address;
        }
        hash = fnv1a(&hash.to_le_bytes());
    }
}

fn guest_names(raw: &RawGuest, owner: &str, findings: &mut Findings<'_>) -> Vec<HostName> {
    let mut names = Vec::new();
    for text in &raw.names {
        if let Some(name) = read::<HostName>(findings, owner, "names", text) {
            if is_reserved(&name) {
                let message = format!("{owner}: the name {name} belongs to the host itself");
                findings.add(
                    Some(text.offset()),
                    message,
                    "choose another, e.g. one under .test",
                );
            }
            names.push(name);
        }
    }
    names
}

/// Names that must keep their meaning on every machine (RFC 6761 section 6.3).
fn is_reserved(name: &HostName) -> bool {
    let text = name.as_str();
    text == "localhost"
        || text.ends_with(".localhost")
        || text.starts_with("localhost.")
        || text == "host.internal"
}

fn published(
    raw: &RawGuest,
    owner: &str,
    host_address: Ipv4Addr,
    claims: &mut Claims,
    findings: &mut Findings<'_>,
) -> Vec<PortSpec> {
    let mut specs = Vec::new();
    for text in &raw.publish {
        if let Some(spec) = read::<PortSpec>(findings, owner, "publish", text) {
            let bind = spec.bind.unwrap_or(IpAddr::V4(host_address));
            claims.claim_port(findings, text.offset(), owner, (&spec, bind));
            specs.push(spec);
        }
    }
    specs
}

fn shares(
    raw: &RawConfig,
    guests: &BTreeMap<GuestName, Guest>,
    surroundings: &Surroundings,
    findings: &mut Findings<'_>,
) -> BTreeMap<ShareName, Share> {
    let mut shares: BTreeMap<ShareName, Share> = BTreeMap::new();
    for (key, raw) in &raw.share {
        let Some(name) = read::<ShareName>(findings, "share", "name", key) else {
            continue;
        };
        let owner = format!("share \"{name}\"");
        let Some(path) = read_folder(findings, (&owner, "path"), &raw.path, surroundings) else {
            continue;
        };
        let at = match &raw.at {
            Some(at) => match read_guest_path(findings, &owner, at) {
                Some(at) => at,
                None => continue,
            },
            None => path.clone(),
        };
        let seen_by = raw.guests.as_ref().map(|list| {
            list.iter()
                .filter_map(|text| known_guest(findings, &owner, text, raw_names(guests)))
                .collect()
        });
        let share = Share {
            owner: share_owner(findings, &owner, raw, surroundings),
            path,
            at,
            read_only: raw.read_only,
            guests: seen_by,
            cache: share_cache(findings, &owner, raw),
            line: findings.line(raw.path.offset()),
            name: name.clone(),
        };
        let meets = |other: &Share| match (&share.guests, &other.guests) {
            (Some(ours), Some(theirs)) => ours.iter().any(|g| theirs.contains(g)),
            (None, _) | (_, None) => true,
        };
        if let Some(other) = shares.values().find(|o| o.at == share.at && meets(o)) {
            findings.add(
                Some(raw.at.as_ref().map_or(raw.path.offset(), At::offset)),
                format!(
                    "{owner} and share \"{}\" are both mounted at {}",
                    other.name,
                    share.at.display()
                ),
                "change at = \"...\" of one, or give them different guests",
            );
        }
        shares.insert(name, share);
    }
    shares
}

fn raw_names(guests: &BTreeMap<GuestName, Guest>) -> Vec<&GuestName> {
    guests.keys().collect()
}

fn known_guest(
    findings: &mut Findings<'_>,
    owner: &str,
    text: &At<String>,
    known: Vec<&GuestName>,
) -> Option<GuestName> {
    let name: GuestName = read(findings, owner, "guests", text)?;
    if known.contains(&&name) {
        return Some(name);
    }
    let message = format!("{owner}: guest \"{name}\" is not in this file");
    findings.add(
        Some(text.offset()),
        message,
        format!("sharectl guest add {name}, or remove it here"),
    );
    None
}

/// A host folder: absolute, below `~`, or on a Windows drive, which WSL mounts at `/mnt/x`.
fn read_folder(
    findings: &mut Findings<'_>,
    (owner, key): (&str, &str),
    raw: &At<String>,
    surroundings: &Surroundings,
) -> Option<PathBuf> {
    let text = raw.value();
    let path = if let Some(path) = windows_drive(text) {
        Some(path)
    } else if text == "~" || text.starts_with("~/") {
        let below = text.trim_start_matches('~').trim_start_matches('/');
        surroundings.home.as_ref().map(|home| home.join(below))
    } else {
        Some(PathBuf::from(text)).filter(|p| p.is_absolute())
    };
    match path.and_then(|p| plain(&p)) {
        Some(path) => Some(path),
        None => {
            let message = format!(
                "{owner}: {key} \"{}\" is not an absolute path without ..",
                text.escape_debug()
            );
            findings.add(Some(raw.offset()), message, "write /mnt/d, ~/src or 'D:\\'");
            None
        }
    }
}

fn read_guest_path(findings: &mut Findings<'_>, owner: &str, raw: &At<String>) -> Option<PathBuf> {
    let path = Some(PathBuf::from(raw.value())).filter(|p| p.is_absolute());
    let path = path.and_then(|p| plain(&p)).filter(|p| p != Path::new("/"));
    if path.is_none() {
        let message = format!(
            "{owner}: at \"{}\" is not an absolute path below /",
            raw.value().escape_debug()
        );
        findings.add(Some(raw.offset()), message, "write it like /mnt/d");
    }
    path
}

/// `D:\x\y` and `D:/x/y` as `/mnt/d/x/y`.
fn windows_drive(text: &str) -> Option<PathBuf> {
    let mut characters = text.chars();
    let drive = characters.next().filter(char::is_ascii_alphabetic)?;
    if characters.next()? != ':' {
        return None;
    }
    let rest = characters.as_str();
    if !(rest.is_empty() || rest.starts_with(['\\', '/'])) {
        return None;
    }
    let mut path = PathBuf::from(format!("/mnt/{}", drive.to_ascii_lowercase()));
    path.extend(rest.split(['\\', '/']).filter(|part| !part.is_empty()));
    Some(path)
}

/// The path without `.`, doubled or final slashes; none where it has `..` or a NUL or line break.
fn plain(path: &Path) -> Option<PathBuf> {
    use std::path::Component;
    let unprintable = path.to_str().is_none_or(|p| p.contains(['\0', '\n', '\r']));
    if unprintable || path.components().any(|c| c == Component::ParentDir) {
        return None;
    }
    Some(path.components().collect())
}

fn share_owner(
    findings: &mut Findings<'_>,
    owner: &str,
    raw: &RawShare,
    surroundings: &Surroundings,
) -> Owner {
    let numbers = raw.guest_owner.as_ref().and_then(|text| {
        let numbers = text
            .value()
            .split_once(':')
            .and_then(|(uid, gid)| Some((uid.parse().ok()?, gid.parse().ok()?)));
        if numbers.is_none() {
            let message = format!(
                "{owner}: guest-owner \"{}\" is not UID:GID",
                text.value().escape_debug()
            );
            findings.add(Some(text.offset()), message, "write it like \"1000:1000\"");
        }
        numbers
    });
    let (uid, gid) = numbers.unwrap_or((surroundings.uid, surroundings.gid));
    let kinds = [
        ("map", Owner::Map { uid, gid }),
        ("pass", Owner::Pass),
        ("squash", Owner::Squash { uid, gid }),
    ];
    let kind = raw
        .owner
        .as_ref()
        .and_then(|o| read_word(findings, (owner, "owner"), o, &kinds));
    if let (Some(Owner::Pass), Some(text)) = (kind, &raw.guest_owner) {
        let message = format!("{owner}: guest-owner has no meaning with owner = \"pass\"");
        findings.add(
            Some(text.offset()),
            message,
            "remove guest-owner, or write owner = \"map\"",
        );
    }
    kind.unwrap_or(Owner::Map { uid, gid })
}

fn share_cache(findings: &mut Findings<'_>, owner: &str, raw: &RawShare) -> CachePolicy {
    let kinds = [
        ("never", CachePolicy::Never),
        ("auto", CachePolicy::Auto),
        ("always", CachePolicy::Always),
    ];
    raw.cache
        .as_ref()
        .and_then(|c| read_word(findings, (owner, "cache"), c, &kinds))
        .unwrap_or(CachePolicy::Auto)
}

fn hosts(raw: &RawHosts, surroundings: &Surroundings, findings: &mut Findings<'_>) -> Hosts {
    let mut files = Vec::new();
    for text in raw.files.iter().flatten() {
        if text.value() == "auto" {
            files.push(HostsFile::Auto);
        } else if let Some(path) = read_folder(findings, ("hosts", "files"), text, surroundings) {
            files.push(HostsFile::Path(path));
        }
    }
    if raw.files.is_none() {
        files.push(HostsFile::Auto);
    }
    let mut entries = BTreeMap::new();
    for (key, value) in &raw.entries {
        let name = read::<HostName>(findings, "hosts", "static", key);
        let address = read::<IpAddr>(findings, "hosts", "static", value);
        let (Some(name), Some(address)) = (name, address) else {
            continue;
        };
        if is_reserved(&name) {
            let message = format!("hosts: the name {name} belongs to the host itself");
            findings.add(
                Some(key.offset()),
                message,
                "choose another, e.g. one under .test",
            );
        }
        entries.insert(name, address);
    }
    Hosts { files, entries }
}
