//! The IPv6 prefix of each network: written, or derived as RFC 4193 section 3.2 means it: one that no other
//! network in the world is likely to have, and the same after every start.

use std::collections::BTreeMap;

use ipnet::Ipv6Net;

use super::super::Surroundings;
use super::super::problem::Findings;
use super::super::raw::{At, RawNetwork};
use crate::mac::fnv1a;
use crate::names::NetworkName;

/// Locally assigned unique local addresses (RFC 4193 section 3.1).
const LOCAL: u128 = 0xfd << 120;
/// SLAAC needs 64 bits for the interface (RFC 4862 section 5.5.3).
const PREFIX: u8 = 64;

/// The prefixes of the networks that have one.
pub(super) fn prefixes(
    named: &[(NetworkName, &RawNetwork)],
    surroundings: &Surroundings,
    findings: &mut Findings<'_>,
) -> BTreeMap<NetworkName, Ipv6Net> {
    let mut prefixes: BTreeMap<NetworkName, Ipv6Net> = BTreeMap::new();
    for (name, raw) in named {
        let owner = format!("network \"{name}\"");
        let prefix = match &raw.ipv6 {
            Some(text) if text.value() == "off" => continue,
            Some(text) if text.value() != "auto" => {
                let Some(prefix) = read(findings, &owner, text) else {
                    continue;
                };
                if let Some((other, _)) = prefixes.iter().find(|(_, theirs)| **theirs == prefix) {
                    findings.add(
                        Some(text.offset()),
                        format!("{owner}: ipv6 {prefix} is that of network \"{other}\" too"),
                        "give each network a prefix of its own",
                    );
                }
                prefix
            }
            Some(_) | None => derived(name, surroundings.machine.as_deref()),
        };
        prefixes.insert(name.clone(), prefix);
    }
    prefixes
}

fn read(findings: &mut Findings<'_>, owner: &str, text: &At<String>) -> Option<Ipv6Net> {
    let example = "write \"auto\", \"off\" or a prefix like \"fd12:3456:789a::/64\"";
    let problem = match text.value().parse::<Ipv6Net>() {
        Err(_) => "is not ADDRESS/64",
        Ok(prefix) if prefix.prefix_len() != PREFIX => "must be a /64, guests need it",
        Ok(prefix) if prefix.addr() != prefix.network() => "has bits set beyond its prefix",
        Ok(prefix) if u128::from(prefix.addr()) >> 120 != LOCAL >> 120 => {
            "is not in fd00::/8, guests would lose the real one"
        }
        Ok(prefix) => return Some(prefix),
    };
    findings.add(
        Some(text.offset()),
        format!(
            "{owner}: ipv6 \"{}\" {problem}",
            text.value().escape_debug()
        ),
        example,
    );
    None
}

/// fd00::/8 (RFC 4193 §3.1), then the 40 bits of the global ID from the machine and the network's name.
fn derived(name: &NetworkName, machine: Option<&str>) -> Ipv6Net {
    let seed = format!("sharectl\0{}\0{name}", machine.unwrap_or_default());
    // Each bit of the seed must reach each bit that is taken (the last step of MurmurHash3); the hash keeps
    // 40 of the id's 128 bits, so that nobody reads the id out of an address (machine-id(5)).
    let mut hash = fnv1a(seed.as_bytes());
    hash = (hash ^ hash >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ hash >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    let global = u128::from(hash >> 24);
    Ipv6Net::new_assert((LOCAL | global << 80).into(), PREFIX)
}
