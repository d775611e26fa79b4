//! libvirt's `virbr0.status`: a JSON array of leases; the file may be empty.
//!
//! libvirt writes it anew at each change, so a reader may see half of it: the objects are found
//! by their braces and read one by one, and those that are whole count.

use serde::Deserialize;

use super::{Entry, Lease, Leases, client, from_epoch, is_unknown};

/// One object; other keys are of no interest.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Raw {
    ip_address: String,
    #[serde(default)]
    mac_address: Option<String>,
    #[serde(default)]
    hostname: Option<String>,
    #[serde(default)]
    expiry_time: u64,
}

pub(super) fn parse(bytes: &[u8]) -> Leases {
    let mut leases = Leases::default();
    for object in objects(bytes) {
        let entry = match object {
            Some(bytes) => serde_json::from_slice(bytes).ok().and_then(entry),
            None => None,
        };
        leases.take(entry.unwrap_or(Entry::Broken));
    }
    leases
}

fn entry(raw: Raw) -> Option<Entry> {
    let address = raw.ip_address.parse().ok()?;
    let (Some(mac), Some(name)) = (raw.mac_address, raw.hostname) else {
        return Some(Entry::Nameless);
    };
    if is_unknown(&name) {
        return Some(Entry::Nameless);
    }
    Some(Entry::Lease(Lease {
        client: client(&mac)?,
        address,
        name,
        since: None,
        until: match raw.expiry_time {
            0 => None,
            seconds => Some(from_epoch(seconds)?),
        },
    }))
}

/// The outermost `{...}`; a last one without its end as nothing.
fn objects(bytes: &[u8]) -> Vec<Option<&[u8]>> {
    let mut found = Vec::new();
    let (mut start, mut depth) = (0, 0_usize);
    let (mut in_text, mut escaped) = (false, false);
    for (at, byte) in bytes.iter().enumerate() {
        if in_text {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_text = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' if depth > 0 => in_text = true,
            b'{' => {
                if depth == 0 {
                    start = at;
                }
                depth += 1;
            }
            b'}' if depth > 0 => {
                depth -= 1;
                if depth == 0 {
                    found.push(bytes.get(start..=at));
                }
            }
            _ => {}
        }
    }
    if depth > 0 {
        found.push(None);
    }
    found
}
