//! A VMware machine's .vmx: its network card and its shared folders.

use std::collections::BTreeMap;

use control::mac::MacAddress;
use control::names::{GuestName, NetworkName, ShareName};

use super::{BadFile, GuestWish, NetworkWish, Plan, ShareWish, plain_name};

/// Keys of a .vmx do not differ by case.
type Entries = BTreeMap<String, (usize, String)>;

/// Reads the file. `name` is the guest's, instead of the machine's own.
pub(crate) fn read(text: &str, name: Option<GuestName>) -> Result<Plan, BadFile> {
    let entries = entries(text)?;
    let mut plan = Plan::default();
    if let Some((line, _)) = entries
        .get("encryption.data")
        .or_else(|| entries.get("encryption.keysafe"))
    {
        return Err(BadFile {
            line: *line,
            message: "the machine is encrypted; what is in it can only be read in VMware"
                .to_owned(),
        });
    }
    let name = match name {
        Some(name) => name,
        None => name_of(&entries)?,
    };
    let line = entries.get("displayname").map_or(1, |(line, _)| *line);
    let mut guest = GuestWish {
        line,
        name: name.clone(),
        network: None,
        mac: None,
    };
    let mut has_card = false;
    for card in numbers(&entries, "ethernet") {
        let entry = |key: &str| entries.get(&format!("ethernet{card}.{key}"));
        let Some((line, _)) = entry("present").filter(|(_, value)| is_true(value)) else {
            continue;
        };
        if has_card {
            plan.leave_out(
                *line,
                format!("the network card ethernet{card}"),
                "a guest has one card here",
            );
            continue;
        }
        has_card = true;
        (guest.line, guest.network) = (*line, network(entry("connectiontype"), entry("vnet"))?);
        let address = entry("address").or_else(|| entry("generatedaddress"));
        guest.mac = address.map(|(line, text)| mac(*line, text)).transpose()?;
    }
    if let Some(network) = &guest.network {
        plan.networks.push(NetworkWish {
            name: network.clone(),
            fields: Vec::new(),
        });
    }
    plan.guests.push(guest);
    for folder in numbers(&entries, "sharedfolder") {
        let entry = |key: &str| entries.get(&format!("sharedfolder{folder}.{key}"));
        let Some((line, path)) = entry("hostpath") else {
            continue;
        };
        let on = |key: &str, default: bool| entry(key).map_or(default, |(_, value)| is_true(value));
        if !on("present", true) || !on("enabled", true) || !on("readaccess", true) {
            plan.leave_out(
                *line,
                format!("the folder {path}"),
                "it is switched off in VMware",
            );
            continue;
        }
        let called = entry("guestname").map_or_else(|| path.as_str(), |(_, name)| name.as_str());
        let last = called
            .rsplit(['/', '\\'])
            .find(|part| !part.is_empty())
            .unwrap_or(called);
        let Some(share) =
            plain_name(last, ShareName::LIMIT).and_then(|name| ShareName::parse(&name).ok())
        else {
            plan.leave_out(
                *line,
                format!("the folder {path}"),
                format!("no name of a share can be made of \"{last}\""),
            );
            continue;
        };
        plan.shares.push(ShareWish {
            line: *line,
            name: share,
            path: path.clone(),
            // Where VMware's own tools have it, so that paths in the guest stay.
            at: Some(format!("/mnt/hgfs/{last}")),
            read_only: !on("writeaccess", false),
            guest: name.clone(),
        });
    }
    Ok(plan)
}

/// `key = "value"`
fn entries(text: &str) -> Result<Entries, BadFile> {
    let mut entries = Entries::new();
    for (index, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let bad = |what: &str| BadFile {
            line: index + 1,
            message: format!(
                "\"{}\" {what}",
                line.chars().take(60).collect::<String>().escape_debug()
            ),
        };
        let (key, value) = line
            .split_once('=')
            .ok_or_else(|| bad("is not key = \"value\""))?;
        let value = value.trim();
        let value = match value.strip_prefix('"') {
            Some(rest) => rest
                .strip_suffix('"')
                .ok_or_else(|| bad("has no quote at its end"))?,
            None => value,
        };
        entries.insert(
            key.trim().to_ascii_lowercase(),
            (index + 1, unescaped(value)),
        );
    }
    Ok(entries)
}

/// `|22` is a quote, and any byte may be written so.
fn unescaped(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let digits = after
            .get(..2)
            .filter(|_| *first == b'|')
            .and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The numbers of `ethernet0.`, `ethernet1.` in order.
fn numbers(entries: &Entries, prefix: &str) -> Vec<u32> {
    let number = |key: &String| key.strip_prefix(prefix)?.split_once('.')?.0.parse().ok();
    let mut numbers: Vec<u32> = entries.keys().filter_map(number).collect();
    numbers.sort_unstable();
    numbers.dedup();
    numbers
}

fn name_of(entries: &Entries) -> Result<GuestName, BadFile> {
    let (line, text) = entries
        .get("displayname")
        .map_or((1, ""), |(line, text)| (*line, text.as_str()));
    plain_name(text, GuestName::LIMIT)
        .and_then(|name| GuestName::parse(&name).ok())
        .ok_or_else(|| BadFile {
            line,
            message: format!(
                "no name of a guest can be made of displayName \"{}\"; give one: --guest NAME",
                text.escape_debug()
            ),
        })
}

/// VMware's kinds are networks by name here as there.
fn network(
    kind: Option<&(usize, String)>,
    vnet: Option<&(usize, String)>,
) -> Result<Option<NetworkName>, BadFile> {
    let (line, kind) = kind.map_or((1, "bridged"), |(line, kind)| (*line, kind.as_str()));
    let name = match kind.to_ascii_lowercase().as_str() {
        "bridged" => "vmnet0".to_owned(),
        "hostonly" => "vmnet1".to_owned(),
        "nat" => "vmnet8".to_owned(),
        "custom" => match vnet {
            Some((_, vnet)) => vnet
                .rsplit('/')
                .next()
                .unwrap_or_default()
                .to_ascii_lowercase(),
            None => return Ok(None),
        },
        other => {
            return Err(BadFile {
                line,
                message: format!(
                    "connectionType \"{}\" is none of bridged, hostonly, nat, custom",
                    other.escape_debug()
                ),
            });
        }
    };
    let line = vnet.map_or(line, |(line, _)| *line);
    NetworkName::parse(&name)
        .map(Some)
        .map_err(|error| BadFile {
            line,
            message: error.to_string(),
        })
}

fn mac(line: usize, text: &str) -> Result<MacAddress, BadFile> {
    text.parse()
        .map_err(|error: control::mac::MacError| BadFile {
            line,
            message: error.to_string(),
        })
}

fn is_true(text: &str) -> bool {
    text.eq_ignore_ascii_case("true")
}
