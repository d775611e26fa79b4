//! Hosts files and the names that always stand there.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use super::super::problem::Findings;
use super::super::raw::{At, RawHosts};
use super::super::{
    DNS_PORT, Guest, Hosts, HostsDns, HostsFile, RecordName, Surroundings, WindowsAddress,
};
use super::paths::read_folder;
use super::{is_reserved, read, read_address, sources};
use crate::names::GuestName;

pub(super) fn hosts(
    raw: &RawHosts,
    guests: &BTreeMap<GuestName, Guest>,
    surroundings: &Surroundings,
    findings: &mut Findings<'_>,
) -> Hosts {
    let mut files = Vec::new();
    for text in raw.files.iter().flatten() {
        if text.value() == "auto" {
            files.push(HostsFile::Auto);
        } else if text.value() == "windows" {
            files.push(HostsFile::Windows);
        } else if let Some(path) = read_folder(findings, ("hosts", "files"), text, surroundings) {
            files.push(HostsFile::Path(path));
        }
    }
    if raw.files.is_none() {
        files.push(HostsFile::Auto);
    }
    let (mut entries, mut wildcards) = (BTreeMap::new(), BTreeMap::new());
    for (key, value) in &raw.entries {
        let name = read::<RecordName>(findings, "hosts", "static", key);
        let key_name = key.value().escape_debug().to_string();
        let address: Option<IpAddr> =
            read_address(findings, ("hosts: static", &key_name), value, "127.0.0.1");
        let (Some(name), Some(address)) = (name, address) else {
            continue;
        };
        if is_reserved(&name.name) {
            let message = format!("hosts: the name {name} belongs to the host itself");
            findings.add(
                Some(key.offset()),
                message,
                "choose another, e.g. one under .test",
            );
        }
        if name.below {
            wildcards.insert(name.name, address);
        } else {
            entries.insert(name.name, address);
        }
    }
    let windows_address = raw.windows_address.as_ref();
    Hosts {
        files,
        windows_address: windows_address.map_or_else(WindowsAddress::default, |text| {
            read_windows_address(findings, text)
        }),
        entries,
        wildcards,
        sources: sources::sources(&raw.source, guests, surroundings, findings),
        dns: raw.dns.as_ref().and_then(|text| read_dns(findings, text)),
    }
}

/// "off", "on", or where to listen.
fn read_dns(findings: &mut Findings<'_>, raw: &At<String>) -> Option<HostsDns> {
    let address = match raw.value().as_str() {
        "off" => return None,
        "on" => return Some(HostsDns::USUAL),
        text => text
            .parse::<IpAddr>()
            .map(|ip| SocketAddr::new(ip, DNS_PORT))
            .or_else(|_| text.parse::<SocketAddr>()),
    };
    let Ok(listen) = address else {
        let message = format!("hosts: dns \"{}\" is not known", raw.value().escape_debug());
        let hint = "write \"off\", \"on\", or an address such as \"127.0.0.153:1053\"";
        findings.add(Some(raw.offset()), message, hint);
        return None;
    };
    // Everybody who reaches it learns the names of guests and containers.
    if !listen.ip().is_loopback() || listen.port() == 0 {
        let message = format!("hosts: dns \"{listen}\" is no port of the host's loopback");
        let hint = "write \"on\", or an address such as \"127.0.0.153:1053\"";
        findings.add(Some(raw.offset()), message, hint);
    }
    Some(HostsDns {
        listen,
        well_known: None,
    })
}

fn read_windows_address(findings: &mut Findings<'_>, raw: &At<String>) -> WindowsAddress {
    match (raw.value().as_str(), raw.value().parse()) {
        ("localhost", _) => WindowsAddress::Localhost,
        ("wsl", _) => WindowsAddress::Wsl,
        (_, Ok(address)) => WindowsAddress::Address(address),
        (text, Err(_)) => {
            let message = format!(
                "hosts: windows-address \"{}\" is not known",
                text.escape_debug()
            );
            let hint = "write \"localhost\", \"wsl\", or an address";
            findings.add(Some(raw.offset()), message, hint);
            WindowsAddress::default()
        }
    }
}
