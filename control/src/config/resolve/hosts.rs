//! Hosts files and the names that always stand there.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::super::problem::Findings;
use super::super::raw::{At, RawHosts};
use super::super::{Hosts, HostsFile, Surroundings, WindowsAddress};
use super::paths::read_folder;
use super::{is_reserved, read, read_address};
use crate::names::HostName;

pub(super) fn hosts(
    raw: &RawHosts,
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
    let mut entries = BTreeMap::new();
    for (key, value) in &raw.entries {
        let name = read::<HostName>(findings, "hosts", "static", key);
        let key_name = key.value().escape_debug().to_string();
        let address: Option<IpAddr> =
            read_address(findings, ("hosts: static", &key_name), value, "127.0.0.1");
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
    let windows_address = raw.windows_address.as_ref();
    Hosts {
        files,
        windows_address: windows_address.map_or_else(WindowsAddress::default, |text| {
            read_windows_address(findings, text)
        }),
        entries,
    }
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
