//! The Ethernet switch between links and the gateway: who sits where, and where a frame goes.
//! Addresses that belong to a configured guest are pinned to that guest's link; all others are learned.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use control::mac::MacAddress;

use crate::engine::services::LinkId;

/// Addresses of the whole network; a guest that invents more pushes out the one seen longest ago.
const CAPACITY: usize = 1_024;
/// Addresses of one link.
const CAPACITY_PER_LINK: usize = 128;
/// A learned address that was silent for so long may move or be forgotten (IEEE 802.1Q's 300 s).
const AGE: Duration = Duration::from_secs(300);

/// Where a frame goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// To us.
    Gateway,
    /// To one link.
    Link(LinkId),
    /// To every other link and to us (broadcast, multicast).
    Everyone,
    /// To every other link: an address nobody has spoken from yet.
    Unknown,
    /// Back where it came from: nobody.
    Nobody,
}

/// What a source address told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Learned {
    /// Known there already.
    Known,
    /// New on this link.
    New,
    /// It belongs to the gateway, to another guest, or is no unicast address: drop the frame.
    Spoofed,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    link: LinkId,
    seen: Instant,
    pinned: bool,
}

/// The table.
#[derive(Debug)]
pub struct Switch {
    gateway: MacAddress,
    entries: HashMap<MacAddress, Entry>,
}

fn is_group(mac: MacAddress) -> bool {
    mac.0[0] & 1 == 1
}

impl Switch {
    /// An empty table.
    pub fn new(gateway: MacAddress) -> Self {
        Self {
            gateway,
            entries: HashMap::new(),
        }
    }

    /// The gateway has another address now.
    pub fn set_gateway(&mut self, gateway: MacAddress) {
        self.gateway = gateway;
        self.entries.remove(&gateway);
    }

    /// `mac` belongs to the guest on `link` and to nobody else.
    pub fn pin(&mut self, mac: MacAddress, link: LinkId, now: Instant) {
        if mac != self.gateway && !is_group(mac) {
            self.entries.insert(
                mac,
                Entry {
                    link,
                    seen: now,
                    pinned: true,
                },
            );
        }
    }

    /// A frame from `mac` came in on `link`.
    pub fn learn(&mut self, mac: MacAddress, link: LinkId, now: Instant) -> Learned {
        if mac == self.gateway || is_group(mac) || mac == MacAddress([0; 6]) {
            return Learned::Spoofed;
        }
        if let Some(entry) = self.entries.get_mut(&mac) {
            if entry.link == link {
                entry.seen = now;
                return Learned::Known;
            }
            if entry.pinned {
                return Learned::Spoofed;
            }
            // A guest that moved to another link: the newer word counts, as in any switch.
            *entry = Entry {
                link,
                seen: now,
                pinned: false,
            };
            return Learned::New;
        }
        self.make_room(link, now);
        self.entries.insert(
            mac,
            Entry {
                link,
                seen: now,
                pinned: false,
            },
        );
        Learned::New
    }

    fn make_room(&mut self, link: LinkId, now: Instant) {
        let on_link = self
            .entries
            .values()
            .filter(|entry| entry.link == link)
            .count();
        if on_link < CAPACITY_PER_LINK && self.entries.len() < CAPACITY {
            return;
        }
        self.entries
            .retain(|_, entry| entry.pinned || now.saturating_duration_since(entry.seen) < AGE);
        let crowded = on_link >= CAPACITY_PER_LINK;
        let oldest = self
            .entries
            .iter()
            .filter(|(_, entry)| !entry.pinned && (!crowded || entry.link == link))
            .min_by_key(|(_, entry)| entry.seen)
            .map(|(mac, _)| *mac);
        if let Some(oldest) = oldest {
            self.entries.remove(&oldest);
        }
    }

    /// Where a frame to `mac` that came in on `from` goes.
    pub fn destination(&self, mac: MacAddress, from: LinkId) -> Destination {
        if mac == self.gateway {
            Destination::Gateway
        } else if is_group(mac) {
            Destination::Everyone
        } else {
            match self.entries.get(&mac) {
                Some(entry) if entry.link == from => Destination::Nobody,
                Some(entry) => Destination::Link(entry.link),
                None => Destination::Unknown,
            }
        }
    }

    /// A link is gone.
    pub fn forget(&mut self, link: LinkId) {
        self.entries.retain(|_, entry| entry.link != link);
    }

    /// Addresses on a link, sorted.
    pub fn macs(&self, link: LinkId) -> Vec<MacAddress> {
        let mut macs: Vec<_> = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.link == link)
            .map(|(mac, _)| *mac)
            .collect();
        macs.sort_unstable_by_key(|mac| mac.0);
        macs
    }
}

#[cfg(test)]
#[expect(
    clippy::disallowed_methods,
    reason = "any instant serves as the origin of a virtual clock"
)]
mod tests {
    use super::*;

    const GATEWAY: MacAddress = MacAddress([0x52, 0x55, 10, 0, 0, 1]);
    const A: LinkId = LinkId(1);
    const B: LinkId = LinkId(2);

    fn mac(n: u16) -> MacAddress {
        let [high, low] = n.to_be_bytes();
        MacAddress([2, 0, 0, 0, high, low])
    }

    #[test]
    fn frames_go_where_the_address_was_seen() {
        let now = Instant::now();
        let mut switch = Switch::new(GATEWAY);
        assert_eq!(switch.destination(mac(1), A), Destination::Unknown);
        assert_eq!(switch.learn(mac(1), A, now), Learned::New);
        assert_eq!(switch.learn(mac(1), A, now), Learned::Known);
        assert_eq!(switch.destination(mac(1), B), Destination::Link(A));
        assert_eq!(switch.destination(mac(1), A), Destination::Nobody);
        assert_eq!(switch.destination(GATEWAY, A), Destination::Gateway);
        assert_eq!(
            switch.destination(MacAddress([0xff; 6]), A),
            Destination::Everyone
        );
        switch.forget(A);
        assert_eq!(switch.destination(mac(1), B), Destination::Unknown);
    }

    #[test]
    fn nobody_speaks_for_the_gateway_or_for_a_configured_guest() {
        let now = Instant::now();
        let mut switch = Switch::new(GATEWAY);
        switch.pin(mac(1), A, now);
        assert_eq!(switch.learn(GATEWAY, B, now), Learned::Spoofed);
        assert_eq!(switch.learn(mac(1), B, now), Learned::Spoofed);
        assert_eq!(switch.learn(mac(1), A, now), Learned::Known);
        assert_eq!(
            switch.learn(MacAddress([0xff; 6]), A, now),
            Learned::Spoofed
        );
    }

    #[test]
    fn a_guest_that_invents_addresses_pushes_out_its_own_only() {
        let now = Instant::now();
        let mut switch = Switch::new(GATEWAY);
        switch.learn(mac(0), B, now);
        for n in 1..10_000_u16 {
            switch.learn(mac(n), A, now + Duration::from_millis(n.into()));
        }
        assert_eq!(switch.macs(A).len(), CAPACITY_PER_LINK);
        assert_eq!(switch.destination(mac(0), A), Destination::Link(B));
        assert_eq!(switch.destination(mac(9_999), B), Destination::Link(A));
    }
}
