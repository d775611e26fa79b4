//! Where the guests of a bridged network are. Nobody asks us for an address there: the LAN's own DHCP server
//! answers, and we read along (RFC 2131), on the guests' side of the switch only; a guest that sets its address
//! by hand is known by its ARP. Pure, and bounded: a guest cannot fill it with what is not its own address.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use control::mac::MacAddress;
use control::names::{GuestName, HostName};

use crate::engine::services::LeaseEvent;
use crate::wire::dhcp::{ClientMessage, MessageType, option};

/// Stations known at a time; the one that ends first gives way.
const CAPACITY: usize = 1_024;
/// Names of clients that have asked and were not answered yet.
const NAMES: usize = 256;
/// An address known by ARP counts for so long after it was seen.
const SEEN_TERM: Duration = Duration::from_secs(24 * 3600);
/// A server may say "for ever".
const LONGEST_TERM: Duration = Duration::from_secs(365 * 24 * 3600);

/// What was seen of a guest's station.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sighting<'a> {
    /// It asks a DHCP server.
    Request(&'a [u8]),
    /// A DHCP server answers it.
    Answer(&'a [u8]),
    /// It uses this address.
    Address(Ipv4Addr),
}

/// A station and its address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Station {
    /// Its address.
    pub address: Ipv4Addr,
    /// The guest, where known.
    pub guest: Option<GuestName>,
    /// What it calls itself.
    pub host_name: Option<HostName>,
    /// When this is no longer known.
    pub until: Instant,
    /// A server gave it the address.
    leased: bool,
}

/// The stations of one network.
#[derive(Debug, Default)]
pub struct Observed {
    stations: BTreeMap<MacAddress, Station>,
    names: BTreeMap<MacAddress, HostName>,
    events: Vec<LeaseEvent>,
}

impl Observed {
    /// Something was seen of `mac`, which sits on a guest's link.
    pub fn see(
        &mut self,
        mac: MacAddress,
        guest: Option<&GuestName>,
        sighting: Sighting<'_>,
        now: Instant,
    ) {
        match sighting {
            Sighting::Request(message) => self.request(mac, message),
            Sighting::Answer(message) => self.answer(mac, guest, message, now),
            Sighting::Address(address) => {
                let leased = self
                    .stations
                    .get(&mac)
                    .filter(|station| station.leased && station.until > now);
                let fresh = |station: &Station| {
                    station.address == address && station.until > now + SEEN_TERM / 2
                };
                let known = leased.is_some() || self.stations.get(&mac).is_some_and(fresh);
                let nobody = address.is_unspecified() || address.is_multicast();
                let foreign = self.owner_of(address).is_some_and(|owner| owner != mac);
                if !known && !nobody && !foreign {
                    self.bind(mac, address, guest, now + SEEN_TERM, false);
                }
            }
        }
    }

    fn request(&mut self, mac: MacAddress, message: &[u8]) {
        let Ok(message) = ClientMessage::decode(message) else {
            return;
        };
        if message.hardware != mac {
            return;
        }
        match message.kind {
            MessageType::Discover | MessageType::Request => {
                let text = message.host_name.and_then(|name| str::from_utf8(name).ok());
                let label = text.and_then(|text| HostName::parse(text).ok());
                if let Some(name) = label.filter(|name| !name.as_str().contains('.')) {
                    if self.names.len() >= NAMES && !self.names.contains_key(&mac) {
                        self.names.pop_first();
                    }
                    self.names.insert(mac, name);
                }
            }
            MessageType::Release | MessageType::Decline => self.end(mac, "released"),
            MessageType::Offer | MessageType::Ack | MessageType::Nak | MessageType::Inform => {}
        }
    }

    fn answer(&mut self, mac: MacAddress, guest: Option<&GuestName>, message: &[u8], now: Instant) {
        let Some(answer) = Answer::decode(message).filter(|answer| answer.hardware == mac) else {
            return;
        };
        match answer.kind {
            // Without an address it answers an INFORM (RFC 2131 section 4.3.5).
            ACK if !answer.address.is_unspecified() => {
                let term = answer.term.unwrap_or(SEEN_TERM).min(LONGEST_TERM);
                self.bind(mac, answer.address, guest, now + term, true);
            }
            NAK => self.end(mac, "refused by the LAN's server"),
            _other => {}
        }
    }

    fn bind(
        &mut self,
        mac: MacAddress,
        address: Ipv4Addr,
        guest: Option<&GuestName>,
        until: Instant,
        leased: bool,
    ) {
        // The server's word: whoever had the address before has it no more.
        if let Some(other) = self.owner_of(address).filter(|other| *other != mac) {
            self.end(other, "given to another station");
        }
        let renewed = self
            .stations
            .get(&mac)
            .is_some_and(|station| station.address == address);
        let known = self
            .stations
            .get(&mac)
            .and_then(|known| known.host_name.clone());
        let host_name = self.names.remove(&mac).or(known);
        if !renewed {
            self.end(mac, "has another address");
        }
        if self.stations.len() >= CAPACITY && !renewed {
            let first = self
                .stations
                .iter()
                .min_by_key(|(_, station)| station.until);
            if let Some(mac) = first.map(|(mac, _)| *mac) {
                self.end(mac, "crowded out");
            }
        }
        let station = Station {
            address,
            guest: guest.cloned(),
            host_name,
            until,
            leased,
        };
        self.events.push(LeaseEvent::Bound {
            mac,
            address,
            guest: station.guest.clone(),
            host_name: station.host_name.clone(),
            until,
            renewed,
        });
        self.stations.insert(mac, station);
    }

    fn end(&mut self, mac: MacAddress, reason: &'static str) {
        if let Some(station) = self.stations.remove(&mac) {
            self.events.push(LeaseEvent::Ended {
                mac,
                address: station.address,
                guest: station.guest,
                reason,
            });
        }
    }

    /// Stations whose time has come are forgotten.
    pub fn expire(&mut self, now: Instant) {
        let ended: Vec<MacAddress> = self
            .stations
            .iter()
            .filter(|(_, station)| station.until <= now)
            .map(|(mac, _)| *mac)
            .collect();
        for mac in ended {
            self.end(mac, "expired");
        }
    }

    /// When [`Observed::expire`] has something to do.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.stations.values().map(|station| station.until).min()
    }

    /// What has changed since the last call.
    pub fn drain_events(&mut self, events: &mut Vec<LeaseEvent>) {
        events.append(&mut self.events);
    }

    /// Who has an address.
    pub fn owner_of(&self, address: Ipv4Addr) -> Option<MacAddress> {
        let mut stations = self.stations.iter();
        let found = stations.find(|(_, station)| station.address == address);
        found.map(|(mac, _)| *mac)
    }

    /// All of them.
    pub fn stations(&self) -> impl Iterator<Item = (MacAddress, &Station)> {
        self.stations.iter().map(|(mac, station)| (*mac, station))
    }
}

const ACK: u8 = 5;
const NAK: u8 = 6;

/// The little of a server's message that matters here.
#[derive(Debug)]
struct Answer {
    hardware: MacAddress,
    address: Ipv4Addr,
    kind: u8,
    term: Option<Duration>,
}

impl Answer {
    fn decode(bytes: &[u8]) -> Option<Self> {
        // op BOOTREPLY, htype Ethernet, hlen 6; yiaddr, chaddr; the cookie before the options.
        if bytes.get(..3)? != [2, 1, 6] || bytes.get(236..240)? != [99, 130, 83, 99] {
            return None;
        }
        let hardware = MacAddress(bytes.get(28..34)?.try_into().ok()?);
        let address: [u8; 4] = bytes.get(16..20)?.try_into().ok()?;
        let (mut kind, mut term) = (None, None);
        let mut rest = bytes.get(240..)?;
        while let [code, after @ ..] = rest {
            match *code {
                option::PAD => rest = after,
                option::END => break,
                code => {
                    let (length, after) = after.split_first()?;
                    let (value, after) = after.split_at_checked(usize::from(*length))?;
                    match (code, value) {
                        (option::MESSAGE_TYPE, [number]) => kind = Some(*number),
                        (option::LEASE_TIME, value) => {
                            let seconds = value.try_into().ok().map(u32::from_be_bytes);
                            term = seconds.map(|seconds| Duration::from_secs(seconds.into()));
                        }
                        // The client's business.
                        (_other, _) => {}
                    }
                    rest = after;
                }
            }
        }
        Some(Self {
            hardware,
            address: address.into(),
            kind: kind?,
            term,
        })
    }
}

/// The station that a server's message is for.
pub fn addressee(message: &[u8]) -> Option<MacAddress> {
    Answer::decode(message).map(|answer| answer.hardware)
}

#[cfg(test)]
#[expect(
    clippy::disallowed_methods,
    reason = "any instant serves as the origin of a virtual clock"
)]
mod tests {
    use super::*;

    const MAC: MacAddress = MacAddress([2, 0, 0, 0, 0, 1]);
    const OTHER: MacAddress = MacAddress([2, 0, 0, 0, 0, 2]);

    fn message(op: u8, mac: MacAddress, address: [u8; 4], kind: u8, options: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; 240];
        bytes[..3].copy_from_slice(&[op, 1, 6]);
        bytes[16..20].copy_from_slice(&address);
        bytes[28..34].copy_from_slice(&mac.0);
        bytes[236..].copy_from_slice(&[99, 130, 83, 99]);
        bytes.extend_from_slice(&[53, 1, kind]);
        bytes.extend_from_slice(options);
        bytes.push(255);
        bytes
    }

    /// What a table says, in one line each.
    fn told(table: &mut Observed) -> Vec<String> {
        let mut events = Vec::new();
        table.drain_events(&mut events);
        let text = |event: LeaseEvent| match event {
            LeaseEvent::Bound {
                address,
                host_name,
                renewed,
                ..
            } => format!(
                "{address} {} {renewed}",
                host_name.map_or_else(|| "-".to_owned(), |name| name.to_string())
            ),
            LeaseEvent::Ended {
                address, reason, ..
            } => format!("{address} {reason}"),
            LeaseEvent::Ipv6Bound { .. } | LeaseEvent::Ipv6Ended { .. } => "IPv6".to_owned(),
        };
        events.into_iter().map(text).collect()
    }

    #[test]
    fn a_lease_is_read_along_with_its_name_and_term() {
        let now = Instant::now();
        let mut table = Observed::default();
        let ask = message(1, MAC, [0; 4], 3, b"\x0c\x03web");
        table.see(MAC, None, Sighting::Request(&ask), now);
        let ack = message(2, MAC, [10, 0, 0, 9], 5, &[51, 4, 0, 0, 0, 60]);
        table.see(MAC, None, Sighting::Answer(&ack), now);
        table.see(MAC, None, Sighting::Answer(&ack), now);
        // While a lease holds, another address in ARP does not count.
        table.see(MAC, None, Sighting::Address([10, 0, 0, 77].into()), now);
        assert_eq!(
            told(&mut table),
            ["10.0.0.9 web false", "10.0.0.9 web true"]
        );
        assert_eq!(table.poll_timeout(), Some(now + Duration::from_secs(60)));
        table.expire(now + Duration::from_secs(60));
        assert_eq!(told(&mut table), ["10.0.0.9 expired"]);
    }

    #[test]
    fn an_address_belongs_to_whom_the_server_gave_it() {
        let now = Instant::now();
        let mut table = Observed::default();
        table.see(MAC, None, Sighting::Address([10, 0, 0, 9].into()), now);
        table.see(OTHER, None, Sighting::Address([10, 0, 0, 9].into()), now);
        assert_eq!(told(&mut table), ["10.0.0.9 - false"]);
        let ack = message(2, OTHER, [10, 0, 0, 9], 5, &[]);
        table.see(MAC, None, Sighting::Answer(&ack), now);
        assert_eq!(told(&mut table), Vec::<String>::new());
        table.see(OTHER, None, Sighting::Answer(&ack), now);
        assert_eq!(
            told(&mut table),
            ["10.0.0.9 given to another station", "10.0.0.9 - false"]
        );
        let release = message(1, OTHER, [0; 4], 7, &[]);
        table.see(OTHER, None, Sighting::Request(&release), now);
        assert_eq!(told(&mut table), ["10.0.0.9 released"]);
    }

    #[test]
    fn a_guest_that_invents_stations_fills_no_more_than_the_table() {
        let now = Instant::now();
        let mut table = Observed::default();
        for number in 0..5_000_u32 {
            let [a, b, c, d] = number.to_be_bytes();
            let mac = MacAddress([2, 1, a, b, c, d]);
            let name = message(1, mac, [0; 4], 1, b"\x0c\x01x");
            table.see(mac, None, Sighting::Request(&name), now);
            table.see(
                mac,
                None,
                Sighting::Address(Ipv4Addr::from(0x0a00_0000 + number)),
                now,
            );
        }
        assert_eq!(table.stations().count(), CAPACITY);
        assert!(table.names.len() <= NAMES);
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_an_ordinary_value(
            bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..400),
            cookie in proptest::bool::ANY,
        ) {
            let mut bytes = bytes;
            if cookie && bytes.len() > 240 {
                bytes[..3].copy_from_slice(&[2, 1, 6]);
                bytes[236..240].copy_from_slice(&[99, 130, 83, 99]);
            }
            let mut table = Observed::default();
            let mac = addressee(&bytes).unwrap_or(MAC);
            let now = Instant::now();
            table.see(mac, None, Sighting::Answer(&bytes), now);
            table.see(mac, None, Sighting::Request(&bytes), now);
        }
    }
}
