//! `dnsmasq.leases`: a line a lease, `EXPIRY MAC ADDRESS NAME CLIENT-ID`; `*` is unknown, expiry
//! 0 is never. Below a line `duid ...` stand DHCPv6 leases, whose second field is no MAC.

use super::{Entry, Lease, Leases, client, from_epoch, is_unknown};

pub(super) fn parse(bytes: &[u8]) -> Leases {
    let mut leases = Leases::default();
    for line in bytes.split(|byte| *byte == b'\n') {
        let Ok(line) = std::str::from_utf8(line) else {
            leases.take(Entry::Broken);
            continue;
        };
        let mut words = line.split_ascii_whitespace();
        match words.next() {
            None => {}
            // One name has one address here, and IPv4 is the one that every client knows.
            Some("duid") => break,
            Some(expiry) => leases.take(entry(expiry, words).unwrap_or(Entry::Broken)),
        }
    }
    leases
}

fn entry<'w>(expiry: &str, mut words: impl Iterator<Item = &'w str>) -> Option<Entry> {
    let until = match expiry.parse::<u64>().ok()? {
        0 => None,
        seconds => Some(from_epoch(seconds)?),
    };
    // The hardware type stands in front where it is not Ethernet: "06-52:54:...".
    let hardware = words.next()?;
    let address = words.next()?.parse().ok()?;
    let name = words.next()?;
    if is_unknown(name) || hardware.contains('-') {
        return Some(Entry::Nameless);
    }
    Some(Entry::Lease(Lease {
        client: client(hardware)?,
        address,
        name: name.to_owned(),
        since: None,
        until,
    }))
}
