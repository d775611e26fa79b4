//! Which guest answers on which address: learned from ARP, neighbour discovery and from packets that guests send to us.
//! The lease table has the last word; ARP (RFC 826) and NDP (RFC 4861) only fill what it does not know.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Instant;

use control::mac::MacAddress;

use crate::engine::services::LinkId;

/// Addresses kept; a /24 has 254, and a guest has a few of IPv6. When full, a link that holds more than its share
/// loses the one of its own that was seen longest ago: that is how temporary addresses (RFC 8981) end.
const CAPACITY: usize = 4_096;
const CAPACITY_PER_LINK: usize = 256;

#[derive(Clone, Copy, Debug)]
struct Entry {
    at: (MacAddress, LinkId),
    seen: Instant,
}

/// The table.
#[derive(Debug, Default)]
pub struct Neighbours {
    entries: HashMap<IpAddr, Entry>,
}

impl Neighbours {
    /// The guest behind an address.
    pub fn get(&self, address: IpAddr) -> Option<(MacAddress, LinkId)> {
        self.entries.get(&address).map(|entry| entry.at)
    }

    /// When somebody was last heard at an address.
    pub fn heard(&self, address: IpAddr) -> Option<Instant> {
        self.entries.get(&address).map(|entry| entry.seen)
    }

    /// An address was seen; true if that is news.
    pub fn learn(&mut self, address: IpAddr, at: (MacAddress, LinkId), now: Instant) -> bool {
        if let Some(entry) = self.entries.get_mut(&address) {
            entry.seen = now;
            return std::mem::replace(&mut entry.at, at) != at;
        }
        let of_link = || self.entries.iter().filter(|(_, entry)| entry.at.1 == at.1);
        if self.entries.len() >= CAPACITY || of_link().count() >= CAPACITY_PER_LINK {
            let oldest = of_link().min_by_key(|(_, entry)| entry.seen);
            match oldest.map(|(address, _)| *address) {
                Some(oldest) => drop(self.entries.remove(&oldest)),
                None => return false,
            }
        }
        self.entries.insert(address, Entry { at, seen: now });
        true
    }

    /// A link is gone.
    pub fn forget(&mut self, link: LinkId) {
        self.entries.retain(|_, entry| entry.at.1 != link);
    }

    /// All entries, by address.
    pub fn list(&self) -> Vec<(IpAddr, MacAddress, LinkId)> {
        let mut list: Vec<_> = self
            .entries
            .iter()
            .map(|(address, entry)| (*address, entry.at.0, entry.at.1))
            .collect();
        list.sort_unstable_by_key(|entry| entry.0);
        list
    }
}

#[cfg(test)]
#[expect(
    clippy::disallowed_methods,
    reason = "any instant serves as the origin of a virtual clock"
)]
mod tests {
    use std::net::Ipv4Addr;
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_link_that_claims_everything_stays_within_its_share() {
        let start = Instant::now();
        let mut neighbours = Neighbours::default();
        let mac = MacAddress([2, 0, 0, 0, 0, 1]);
        let (quiet, busy) = ((mac, LinkId(7)), (mac, LinkId(1)));
        let first = IpAddr::from(Ipv4Addr::new(10, 0, 0, 1));
        let used = IpAddr::from(Ipv4Addr::new(11, 0, 0, 0));
        neighbours.learn(first, quiet, start);
        for n in 0..5_000_u32 {
            let now = start + Duration::from_millis(n.into());
            neighbours.learn(Ipv4Addr::from(0x0b00_0001 + n).into(), busy, now);
            neighbours.learn(used, busy, now);
        }
        assert_eq!(neighbours.list().len(), CAPACITY_PER_LINK + 1);
        assert_eq!(neighbours.get(used), Some(busy), "in use, so it stays");
        assert_eq!(neighbours.get(first), Some(quiet));
        assert!(!neighbours.learn(first, quiet, start));
        neighbours.forget(LinkId(7));
        assert_eq!(neighbours.get(first), None);
    }

    #[test]
    fn who_was_heard_last_is_known_until_the_link_goes() {
        let start = Instant::now();
        let later = start + Duration::from_secs(1);
        let mut neighbours = Neighbours::default();
        let address = IpAddr::from(Ipv4Addr::new(10, 0, 0, 1));
        let place = (MacAddress([2, 0, 0, 0, 0, 1]), LinkId(7));
        assert_eq!(neighbours.heard(address), None);
        neighbours.learn(address, place, start);
        neighbours.learn(address, place, later);
        assert_eq!(neighbours.heard(address), Some(later));
        neighbours.forget(LinkId(7));
        assert_eq!(neighbours.heard(address), None);
    }
}
