//! Guests: each with addresses, names and ports that nobody else has.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use super::super::problem::Findings;
use super::super::raw::{At, RawConfig, RawGuest};
use super::super::{
    DEFAULT_NETWORK, Devices, Guest, LinkChoice, Network, NetworkKind, Surroundings,
};
use super::paths::read_folder;
use super::projects::{self, RawAccepted};
use super::{bridged, egress, guest_mounts, is_reserved, read, read_address};
use crate::mac::{MacAddress, fnv1a};
use crate::names::{GuestName, HostName, NetworkName};
use crate::port::{HostSide, PortSpec};

pub(super) fn guests(
    raw: &RawConfig,
    networks: &BTreeMap<NetworkName, Network>,
    (projects, surroundings): (&[RawAccepted], &Surroundings),
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
        let mac_offset = raw.mac.as_ref().map_or_else(|| key.offset(), At::offset);
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
        bridged::check_guest(&owner, raw, network, findings);
        let names = guest_names(&raw.names, &owner, findings);
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
        let publish = published(&raw.publish, &owner, host_address, &mut claims, findings);
        let links = ("link", &LinkChoice::ALL[..]);
        let link = choice(links, raw.link.as_ref(), &owner, findings);
        let all = ("devices", &Devices::ALL[..]);
        let devices = choice(all, raw.devices.as_ref(), &owner, findings);
        let vsock = raw.vsock.as_ref().and_then(|text| {
            let path = read_folder(findings, (&owner, "vsock"), text, surroundings)?;
            let socket = format!("the vsock socket {}", path.display());
            claims.claim(findings, text.offset(), &owner, socket);
            Some(path)
        });
        guests.insert(
            name.clone(),
            Guest {
                vsock,
                link,
                devices,
                network: network.name.clone(),
                mac,
                address,
                host_address,
                names,
                wildcard: raw.wildcard,
                publish,
                egress: egress::of_guest(raw, &owner, findings),
                rate_limit: egress::rate_limit(raw.rate_limit.as_ref(), &owner, findings),
                mounts: guest_mounts::read(raw, network, &owner, surroundings, findings),
                name,
            },
        );
    }
    // Last, so that a clash is told at the project's line.
    for project in projects {
        add_project(project, &mut guests, networks, &mut claims, findings);
    }
    guests
}

/// Gives a project's guest what the project asks for.
fn add_project(
    project: &RawAccepted,
    guests: &mut BTreeMap<GuestName, Guest>,
    networks: &BTreeMap<NetworkName, Network>,
    claims: &mut Claims,
    findings: &mut Findings<'_>,
) {
    let owner = project.owner();
    let text = &project.guest;
    let mut all = guests.values_mut();
    let Some(guest) = all.find(|guest| guest.name.as_str() == text.value()) else {
        let name = text.value().escape_debug();
        findings.add(
            Some(text.offset()),
            format!("{owner}: guest \"{name}\" is not in the configuration"),
            format!("sharectl guest add {name}"),
        );
        return;
    };
    for text in &project.raw.names {
        let Some(name) = guest_names(std::slice::from_ref(text), &owner, findings).pop() else {
            continue;
        };
        let domain = networks.get(&guest.network).map(|network| &network.domain);
        if !project.outside && !domain.is_some_and(|domain| name.is_within(domain)) {
            let domain = domain.map_or_else(String::new, ToString::to_string);
            findings.add(
                Some(text.offset()),
                format!("{owner}: the name {name} is not within {domain}, where the guest's own names are"),
                format!("write NAME.{domain}, or accept it: sharectl up --project --allow-outside"),
            );
        }
        claims.claim(findings, text.offset(), &owner, format!("the name {name}"));
        guest.names.push(name);
    }
    let ports = published(
        &project.raw.ports,
        &owner,
        guest.host_address,
        claims,
        findings,
    );
    projects::check_sockets(project, &ports, findings);
    guest.publish.extend(ports);
}

/// One of the words that `key` may be; its default where the text is none of them.
fn choice<T: Copy + Default>(
    (key, words): (&str, &[(&str, T)]),
    text: Option<&At<String>>,
    owner: &str,
    findings: &mut Findings<'_>,
) -> T {
    let Some(text) = text else {
        return T::default();
    };
    if let Some((_, choice)) = words.iter().find(|(word, _)| word == text.value()) {
        return *choice;
    }
    let words: Vec<_> = words
        .iter()
        .map(|(word, _)| format!("\"{word}\""))
        .collect();
    findings.add(
        Some(text.offset()),
        format!(
            "{owner}: {key} \"{}\" is not known",
            text.value().escape_debug()
        ),
        format!("one of {}", words.join(", ")),
    );
    T::default()
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
            if let (HostSide::Unix(path), HostSide::Unix(other)) = (&spec.host, &other.host) {
                return path == other;
            }
            let ports = (other.host_ports(), spec.host_ports());
            let overlap = matches!(ports, (Some(a), Some(b)) if a.overlaps(b));
            let everywhere = theirs.is_unspecified() || bind.is_unspecified();
            other.protocol == spec.protocol
                && overlap
                && (*theirs == bind || (everywhere && theirs.is_ipv4() == bind.is_ipv4()))
        });
        if let Some((other, _, whose)) = clash {
            let (what, hint) = match &spec.host {
                HostSide::Ports { .. } => (
                    "host port",
                    "choose another host port, or another address in front of it",
                ),
                HostSide::Unix(_) => ("socket", "choose another path"),
            };
            findings.add(
                Some(offset),
                format!(
                    "{owner}: publish \"{spec}\" takes a {what} that \"{other}\" of {whose} has"
                ),
                hint,
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
    let address: Ipv4Addr = read_address(findings, (owner, "address"), raw, "192.168.130.10")?;
    if network.kind == NetworkKind::Bridged {
        findings.add(
            Some(raw.offset()),
            format!(
                "{owner}: address {address} cannot be kept for it on the bridged network \"{}\"",
                network.name
            ),
            "reserve it at the LAN's DHCP server, for the guest's mac",
        );
        return None;
    }
    let usable = Some(address) != network.host_tap
        && network.subnet.contains(&address)
        && address != network.subnet.network()
        && address != network.subnet.broadcast()
        && address != network.gateway
        && address != network.host_internal;
    if usable {
        return Some(address);
    }
    let first = u32::from(network.gateway) + 1;
    let last = u32::from(network.host_tap.unwrap_or(network.host_internal)) - 1;
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
    let address: Ipv4Addr = read_address(findings, (owner, "host-address"), raw, "127.64.0.10")?;
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

fn guest_names(texts: &[At<String>], owner: &str, findings: &mut Findings<'_>) -> Vec<HostName> {
    let mut names = Vec::new();
    for text in texts {
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

fn published(
    texts: &[At<String>],
    owner: &str,
    host_address: Ipv4Addr,
    claims: &mut Claims,
    findings: &mut Findings<'_>,
) -> Vec<PortSpec> {
    let mut specs = Vec::new();
    for text in texts {
        if let Some(spec) = read::<PortSpec>(findings, owner, "publish", text) {
            let bind = spec.bind().unwrap_or(IpAddr::V4(host_address));
            claims.claim_port(findings, text.offset(), owner, (&spec, bind));
            specs.push(spec);
        }
    }
    specs
}
