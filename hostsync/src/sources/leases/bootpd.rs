//! macOS's `dhcpd_leases`: blocks in braces, a `key=value` a line, in any order:
//! `name`, `ip_address`, `hw_address=1,d:ea:d0:66:77:88` (type, octets without leading zeros) and
//! `lease=0x5fd78ae2`, when it ends.

use super::{Entry, Lease, Leases, client, from_epoch, is_unknown};

/// Ethernet, by IANA's numbers of hardware types; `ff` in front of a DUID is another.
const ETHERNET: &str = "1";

pub(super) fn parse(bytes: &[u8]) -> Leases {
    let text = String::from_utf8_lossy(bytes);
    let mut leases = Leases::default();
    let mut block: Option<Vec<(&str, &str)>> = None;
    for line in text.lines().map(str::trim) {
        match (line, &mut block) {
            ("{", open) => {
                // The one before has no end.
                if open.replace(Vec::new()).is_some() {
                    leases.take(Entry::Broken);
                }
            }
            ("}", open) => {
                let fields = open.take();
                let entry = fields.as_deref().and_then(entry);
                leases.take(entry.unwrap_or(Entry::Broken));
            }
            ("", _) | (_, None) => {}
            (line, Some(fields)) => fields.extend(line.split_once('=')),
        }
    }
    if block.is_some() {
        leases.take(Entry::Broken);
    }
    leases
}

fn entry(fields: &[(&str, &str)]) -> Option<Entry> {
    let field = |key: &str| {
        let found = fields.iter().find(|(name, _)| name.trim() == key);
        found.map(|(_, value)| value.trim())
    };
    let address = field("ip_address")?.parse().ok()?;
    let (kind, hardware) = field("hw_address")?.split_once(',')?;
    let name = field("name").unwrap_or_default();
    if kind != ETHERNET || is_unknown(name) {
        return Some(Entry::Nameless);
    }
    let until = match field("lease") {
        Some(text) => {
            let digits = text.strip_prefix("0x")?;
            Some(from_epoch(u64::from_str_radix(digits, 16).ok()?)?)
        }
        None => None,
    };
    Some(Entry::Lease(Lease {
        client: client(hardware)?,
        address,
        name: name.to_owned(),
        since: None,
        until,
    }))
}
