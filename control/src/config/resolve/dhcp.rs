//! What a network's DHCP tells beyond addresses: time servers, routes, search domains.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::Ipv4Net;

use super::super::Route;
use super::super::problem::Findings;
use super::super::raw::{At, RawNetwork};
use super::{read, read_address};
use crate::names::HostName;

/// An option has 255 bytes: so many routes of 9 bytes, with the default one, and time servers fit.
const MOST_ROUTES: usize = 24;
const MOST_SERVERS: usize = 8;
/// Resolvers of old systems look at six.
const MOST_DOMAINS: usize = 6;

pub(super) fn time_servers(
    owner: &str,
    raw: &RawNetwork,
    findings: &mut Findings<'_>,
) -> Vec<IpAddr> {
    let list = bounded(findings, (owner, "ntp"), raw.ntp.as_deref(), MOST_SERVERS);
    list.iter()
        .filter_map(|text| read_address(findings, (owner, "ntp"), text, "192.168.1.5"))
        .collect()
}

pub(super) fn search(owner: &str, raw: &RawNetwork, findings: &mut Findings<'_>) -> Vec<HostName> {
    let list = bounded(
        findings,
        (owner, "search"),
        raw.search.as_deref(),
        MOST_DOMAINS,
    );
    list.iter()
        .filter_map(|text| read(findings, owner, "search", text))
        .collect()
}

pub(super) fn routes(
    owner: &str,
    raw: &RawNetwork,
    subnet: Ipv4Net,
    findings: &mut Findings<'_>,
) -> Vec<Route> {
    let list = bounded(
        findings,
        (owner, "routes"),
        raw.routes.as_deref(),
        MOST_ROUTES,
    );
    list.iter()
        .filter_map(|text| route(owner, text, subnet, findings))
        .collect()
}

fn route(
    owner: &str,
    text: &At<String>,
    subnet: Ipv4Net,
    findings: &mut Findings<'_>,
) -> Option<Route> {
    let example = "write it like \"10.8.0.0/16 via 192.168.130.9\"";
    let shown = text.value().escape_debug().to_string();
    let parts: Vec<&str> = text.value().split_whitespace().collect();
    let parsed = match parts[..] {
        [destination, "via", via] => destination
            .parse::<Ipv4Net>()
            .ok()
            .zip(via.parse::<Ipv4Addr>().ok()),
        _ => None,
    };
    let problem = match parsed {
        None => format!("{owner}: routes: \"{shown}\" is not SUBNET via ADDRESS"),
        Some((destination, _)) if destination.addr() != destination.network() => {
            format!("{owner}: routes: {destination} has bits set beyond its prefix")
        }
        Some((_, via)) if !subnet.contains(&via) => {
            format!("{owner}: routes: {via} is not on the network ({subnet})")
        }
        Some((destination, via)) => return Some(Route { destination, via }),
    };
    findings.add(Some(text.offset()), problem, example);
    None
}

/// The list, or nothing where it is longer than the messages of DHCP can carry.
fn bounded<'a>(
    findings: &mut Findings<'_>,
    (owner, key): (&str, &str),
    list: Option<&'a [At<String>]>,
    most: usize,
) -> &'a [At<String>] {
    let list = list.unwrap_or_default();
    match list.get(most) {
        Some(beyond) => {
            let message = format!("{owner}: {key} has {} entries", list.len());
            let hint = format!("at most {most} fit into a DHCP option");
            findings.add(Some(beyond.offset()), message, hint);
            &[]
        }
        None => list,
    }
}
