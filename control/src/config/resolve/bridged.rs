//! Bridged networks: what only the LAN decides has no key, and the interface is a name.

use ipnet::Ipv4Net;

use super::super::problem::Findings;
use super::super::raw::{At, RawGuest, RawNetwork};
use super::super::{Network, NetworkKind};
use super::read_word;
use crate::names::NetworkName;

/// `IFNAMSIZ` less its final zero (linux/if.h).
const LONGEST_INTERFACE: usize = 15;

/// What the file says, else what VMware has under that name.
pub(super) fn kind(
    name: &NetworkName,
    raw: &RawNetwork,
    findings: &mut Findings<'_>,
) -> NetworkKind {
    let kinds = [
        ("nat", NetworkKind::Nat),
        ("host-only", NetworkKind::HostOnly),
        ("bridged", NetworkKind::Bridged),
    ];
    let owner = format!("network \"{name}\"");
    let written = raw
        .kind
        .as_ref()
        .and_then(|kind| read_word(findings, (&owner, "type"), kind, &kinds));
    written.unwrap_or_else(|| match name.as_str() {
        "vmnet0" => NetworkKind::Bridged,
        "vmnet1" => NetworkKind::HostOnly,
        _ => NetworkKind::Nat,
    })
}

/// The subnet of a network that has none of its own.
pub(super) fn no_subnet() -> Ipv4Net {
    Ipv4Net::default()
}

/// Keys that would do nothing are refused.
pub(super) fn check(owner: &str, raw: &RawNetwork, kind: NetworkKind, findings: &mut Findings<'_>) {
    let bridged = kind == NetworkKind::Bridged;
    let first =
        |list: &Option<Vec<At<String>>>| list.as_ref().and_then(|list| list.first().cloned());
    let (dns, ntp) = (first(&raw.dns), first(&raw.ntp));
    let (routes, search) = (first(&raw.routes), first(&raw.search));
    let of_the_lan = [
        ("subnet", raw.subnet.as_ref()),
        ("ipv6", raw.ipv6.as_ref()),
        ("lease-time", raw.lease_time.as_ref()),
        ("host-access", raw.host_access.as_ref()),
        ("dns", dns.as_ref()),
        ("ntp", ntp.as_ref()),
        ("routes", routes.as_ref()),
        ("search", search.as_ref()),
        ("services", raw.services.keys().next()),
        ("egress", raw.egress.as_ref()),
        ("egress-rules", raw.egress_rules.first()),
        ("egress-names", raw.egress_names.as_ref()),
    ];
    for (key, text) in of_the_lan {
        if let Some(text) = text.filter(|_| bridged) {
            findings.add(
                Some(text.offset()),
                format!("{owner}: {key} means nothing on a bridged network, where the LAN decides"),
                format!("remove {key}"),
            );
        }
    }
    if bridged && raw.host_loopback.is_some() {
        findings.add(
            raw.kind.as_ref().map(At::offset),
            format!("{owner}: host-loopback means nothing on a bridged network, which has no host.internal"),
            "remove host-loopback",
        );
    }
    let tap = raw
        .host_access
        .as_ref()
        .filter(|access| access.value() == "tap");
    let ruled = raw.egress.is_some() || !raw.egress_rules.is_empty();
    if let Some(text) = tap.filter(|_| ruled) {
        findings.add(
            Some(text.offset()),
            format!("{owner}: egress rules do not hold towards the host's tap, which guests reach directly"),
            "remove host-access, or the rules",
        );
    }
    if let Some(text) = raw.interface.as_ref().filter(|_| !bridged) {
        findings.add(
            Some(text.offset()),
            format!("{owner}: interface is for bridged networks, this one is {kind}"),
            "remove interface, or write type = \"bridged\"",
        );
    }
}

/// Rules for flows need flows: on a bridged network frames pass as they are.
pub(super) fn check_guest(
    owner: &str,
    raw: &RawGuest,
    network: &Network,
    findings: &mut Findings<'_>,
) {
    let rules = [
        ("egress", raw.egress.as_ref().map(At::offset)),
        ("egress-rules", raw.egress_rules.first().map(At::offset)),
        ("rate-limit", raw.rate_limit.as_ref().map(At::offset)),
    ];
    for (key, at) in rules {
        if at.is_some() && network.host_tap.is_some() && key != "rate-limit" {
            findings.add(
                at,
                format!(
                    "{owner}: {key} does not hold towards the host's tap of network \"{}\", which guests reach directly",
                    network.name
                ),
                format!("remove {key}, or host-access of the network"),
            );
        }
        if at.is_some() && network.kind == NetworkKind::Bridged {
            findings.add(
                at,
                format!(
                    "{owner}: {key} means nothing on the bridged network \"{}\", where the LAN decides",
                    network.name
                ),
                format!("remove {key}, or put the guest on a nat network"),
            );
        }
    }
}

/// A name that an interface can have (linux net/core/dev.c, dev_valid_name).
pub(super) fn interface(
    owner: &str,
    raw: &RawNetwork,
    findings: &mut Findings<'_>,
) -> Option<String> {
    let text = raw.interface.as_ref()?;
    let name = text.value();
    let good = (1..=LONGEST_INTERFACE).contains(&name.len())
        && !matches!(name.as_str(), "." | "..")
        && !name.contains(|c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control());
    if good {
        return Some(name.clone());
    }
    findings.add(
        Some(text.offset()),
        format!(
            "{owner}: interface \"{}\" is no name of an interface",
            name.escape_debug()
        ),
        "ip -brief link lists them; a name has 1 to 15 bytes",
    );
    None
}
