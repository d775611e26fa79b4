//! Which guest answers on which address: learned from ARP, neighbour discovery and from packets that guests send to us.
//! The lease table has the last word; ARP (RFC 826) and NDP (RFC 4861) only fill what it does not know.

use std::collections::HashMap;
use std::net::IpAddr;

use control::mac::MacAddress;

use crate::engine::services::LinkId;

/// Addresses kept; a /24 has 254. When full, a link that holds more than its share loses one of its own.
const CAPACITY: usize = 4_096;
const CAPACITY_PER_LINK: usize = 256;

/// The table.
#[derive(Debug, Default)]
pub struct Neighbours {
    entries: HashMap<IpAddr, (MacAddress, LinkId)>,
}

impl Neighbours {
    /// The guest behind an address.
    pub fn get(&self, address: IpAddr) -> Option<(MacAddress, LinkId)> {
        self.entries.get(&address).copied()
    }

    /// An address was seen; true if that is news.
    pub fn learn(&mut self, address: IpAddr, mac: MacAddress, link: LinkId) -> bool {
        match self.entries.get_mut(&address) {
            Some(entry) if *entry == (mac, link) => false,
            Some(entry) => {
                *entry = (mac, link);
                true
            }
            None => {
                let on_link = self
                    .entries
                    .values()
                    .filter(|entry| entry.1 == link)
                    .count();
                if on_link >= CAPACITY_PER_LINK || self.entries.len() >= CAPACITY {
                    let victim = self
                        .entries
                        .iter()
                        .find(|(_, entry)| entry.1 == link)
                        .map(|(address, _)| *address);
                    match victim {
                        Some(victim) => self.entries.remove(&victim),
                        None => return false,
                    };
                }
                self.entries.insert(address, (mac, link));
                true
            }
        }
    }

    /// A link is gone.
    pub fn forget(&mut self, link: LinkId) {
        self.entries.retain(|_, entry| entry.1 != link);
    }

    /// All entries, by address.
    pub fn list(&self) -> Vec<(IpAddr, MacAddress, LinkId)> {
        let mut list: Vec<_> = self
            .entries
            .iter()
            .map(|(address, (mac, link))| (*address, *mac, *link))
            .collect();
        list.sort_unstable_by_key(|entry| entry.0);
        list
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn a_link_that_claims_everything_stays_within_its_share() {
        let mut neighbours = Neighbours::default();
        let mac = MacAddress([2, 0, 0, 0, 0, 1]);
        neighbours.learn(Ipv4Addr::new(10, 0, 0, 1).into(), mac, LinkId(7));
        for n in 0..5_000_u32 {
            neighbours.learn(Ipv4Addr::from(0x0b00_0000 + n).into(), mac, LinkId(1));
        }
        assert!(neighbours.list().len() <= CAPACITY_PER_LINK + 1);
        assert_eq!(
            neighbours.get(Ipv4Addr::new(10, 0, 0, 1).into()),
            Some((mac, LinkId(7)))
        );
        assert!(!neighbours.learn(Ipv4Addr::new(10, 0, 0, 1).into(), mac, LinkId(7)));
        neighbours.forget(LinkId(7));
        assert_eq!(neighbours.get(Ipv4Addr::new(10, 0, 0, 1).into()), None);
    }
}
