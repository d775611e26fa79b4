//! What knows names of the host beside the file itself: `[hosts.source]`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::super::problem::Findings;
use super::super::raw::{At, RawSource, Table};
use super::super::{
    ContainerAddress, DEFAULT_DOMAIN, Guest, HostsSource, NETD_PRIORITY, SOURCE_KEEP,
    SOURCE_PRIORITY, SourceKind, Surroundings, duration,
};
use super::paths::read_folder;
use super::{is_reserved, read, read_word};
use crate::names::{GuestName, HostName, SourceName};
use crate::port::HostSide;

/// netd's place in `[hosts.source]`.
const NETD: &str = "netd";
/// Each holds a thread's worth of the daemon's time and an inotify instance.
const MOST_SOURCES: usize = 32;
const LARGEST_PRIORITY: i64 = 1000;
const LONGEST_KEEP: Duration = Duration::from_secs(365 * 86_400);

pub(super) fn sources(
    raw: &Table<RawSource>,
    guests: &BTreeMap<GuestName, Guest>,
    surroundings: &Surroundings,
    findings: &mut Findings<'_>,
) -> BTreeMap<SourceName, HostsSource> {
    let mut sources = BTreeMap::new();
    for (key, raw) in raw {
        if let Some(name) = read::<SourceName>(findings, "hosts", "source", key)
            && let Some(mut source) = source(name, (key, raw), surroundings, findings)
        {
            if source.address == ContainerAddress::Auto
                && let Some(guest) = guests.values().find(|guest| publishes(guest, &source))
            {
                source.address = ContainerAddress::Guest(guest.host_address);
            }
            sources.insert(source.name.clone(), source);
        }
    }
    if let Some((key, _)) = raw.iter().nth(MOST_SOURCES) {
        let message = format!("hosts: more than {MOST_SOURCES} sources");
        findings.add(Some(key.offset()), message, "take some out");
    }
    if let Ok(name) = SourceName::parse(NETD)
        && !sources.contains_key(&name)
        && let Some(source) = of_kind(name, SourceKind::Netd)
    {
        sources.insert(source.name.clone(), source);
    }
    sources
}

/// Whether this host has the source's socket from the guest.
fn publishes(guest: &Guest, source: &HostsSource) -> bool {
    source.kind.is_engine()
        && guest.publish.iter().any(|spec| match &spec.host {
            HostSide::Unix(socket) => Some(socket) == source.path.as_ref(),
            HostSide::Ports { .. } => false,
        })
}

/// A source with everything at its default; the path may be missing.
fn of_kind(name: SourceName, kind: SourceKind) -> Option<HostsSource> {
    let is_netd = kind == SourceKind::Netd;
    Some(HostsSource {
        name,
        kind,
        enabled: true,
        priority: if is_netd {
            NETD_PRIORITY
        } else {
            SOURCE_PRIORITY
        },
        suffix: match is_netd {
            true => None,
            false => Some(HostName::parse(DEFAULT_DOMAIN).ok()?),
        },
        keep: (!is_netd).then_some(SOURCE_KEEP),
        path: kind.usual_path().map(PathBuf::from),
        address: ContainerAddress::Auto,
    })
}

fn source(
    name: SourceName,
    (key, raw): (&At<String>, &RawSource),
    surroundings: &Surroundings,
    findings: &mut Findings<'_>,
) -> Option<HostsSource> {
    let owner = format!("hosts: source \"{name}\"");
    let word = raw.kind.as_ref().unwrap_or(key);
    let kind = read_word(findings, (&owner, "type"), word, &SourceKind::WORDS)?;
    if (kind == SourceKind::Netd) != (name.as_str() == NETD) {
        let message = format!("{owner}: there is one source of type netd, and it is called so");
        findings.add(Some(word.offset()), message, "give one of the other types");
        return None;
    }
    let mut source = of_kind(name, kind)?;
    source.enabled = raw.enabled.unwrap_or(true);
    if let Some(raw) = &raw.priority {
        source.priority = read_priority(findings, &owner, raw).unwrap_or(source.priority);
    }
    if let Some(raw) = &raw.keep {
        source.keep = read_keep(findings, &owner, raw);
    }
    let pointless = |findings: &mut Findings<'_>, key: &str, raw: &At<String>| {
        let message = format!("{owner}: {key} has no meaning for type {kind}");
        findings.add(Some(raw.offset()), message, "leave it out");
    };
    match &raw.suffix {
        Some(raw) if kind == SourceKind::Netd => pointless(findings, "suffix", raw),
        Some(raw) => {
            source.suffix = read::<HostName>(findings, &owner, "suffix", raw);
            if source.suffix.as_ref().is_some_and(is_reserved) {
                let message = format!("{owner}: suffix \"{}\" is the host's own", raw.value());
                findings.add(Some(raw.offset()), message, "take one such as \"test\"");
            }
        }
        None => {}
    }
    match &raw.path {
        Some(raw) if kind == SourceKind::Netd => pointless(findings, "path", raw),
        Some(raw) => source.path = read_folder(findings, (&owner, "path"), raw, surroundings),
        None if kind != SourceKind::Netd && source.path.is_none() => {
            let hint = "write path = \"/etc/vmware/vmnet8/dhcpd/dhcpd.leases\" or where yours is";
            findings.add(
                Some(key.offset()),
                format!("{owner}: type {kind} needs a path"),
                hint,
            );
        }
        None => {}
    }
    if let Some(path) = &source.path
        && path
            .parent()
            .is_some_and(|folder| folder.to_string_lossy().contains('*'))
    {
        let message = format!(
            "{owner}: path \"{}\" may have a * in its last part only",
            path.display()
        );
        let hint = "name the folder in full, or write a source for each";
        findings.add(Some(key.offset()), message, hint);
    }
    match &raw.address {
        Some(raw) if kind.is_engine() => {
            source.address = read_container_address(findings, &owner, raw)?;
        }
        Some(raw) => pointless(findings, "address", raw),
        None => {}
    }
    Some(source)
}

fn read_priority(findings: &mut Findings<'_>, owner: &str, raw: &At<i64>) -> Option<u16> {
    let value = *raw.value();
    let priority = u16::try_from(value)
        .ok()
        .filter(|_| value <= LARGEST_PRIORITY);
    if priority.is_none() {
        let message = format!("{owner}: priority = {value} is not possible");
        let hint = format!("write 0 to {LARGEST_PRIORITY}; the larger number gets the name");
        findings.add(Some(raw.offset()), message, hint);
    }
    priority
}

fn read_keep(findings: &mut Findings<'_>, owner: &str, raw: &At<String>) -> Option<Duration> {
    if raw.value() == "forever" {
        return None;
    }
    let time = duration(raw.value()).filter(|time| *time <= LONGEST_KEEP);
    if time.is_none() {
        let message = format!(
            "{owner}: keep \"{}\" is not possible",
            raw.value().escape_debug()
        );
        let hint = "write a number and s, m, h or d, e.g. \"1h\", or \"forever\"";
        findings.add(Some(raw.offset()), message, hint);
    }
    time
}

fn read_container_address(
    findings: &mut Findings<'_>,
    owner: &str,
    raw: &At<String>,
) -> Option<ContainerAddress> {
    Some(match raw.value().as_str() {
        "auto" => ContainerAddress::Auto,
        "container" => ContainerAddress::Container,
        "published" => ContainerAddress::Published,
        text => {
            let Ok(address) = text.parse() else {
                let message = format!(
                    "{owner}: address \"{}\" is not known",
                    raw.value().escape_debug()
                );
                let hint = "write \"auto\", \"container\", \"published\" or an address";
                findings.add(Some(raw.offset()), message, hint);
                return None;
            };
            ContainerAddress::Fixed(address)
        }
    })
}
