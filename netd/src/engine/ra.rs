//! Router advertisements: what one says (RFC 4861 section 4.2, RDNSS and DNSSL of RFC 8106) and when one is
//! due (section 6.2). Frames leave from the gateway's link-local address with hop limit 255.
//!
//! With no link up nothing is due. Whoever solicits from an address is answered alone and at once; when
//! that comes too often, and for those without an address, one answer goes to all, three seconds after
//! the last at the earliest (section 6.2.6).

use std::net::Ipv6Addr;
use std::time::{Duration, Instant};

use control::mac::MacAddress;
use control::names::HostName;
use ipnet::Ipv6Net;
use smoltcp::wire::{Icmpv6Message, Icmpv6Packet};

use crate::engine::checksum::checksum;
use crate::wire::name_list;

/// All nodes of a link, and the Ethernet group that carries it (RFC 2464 section 7).
pub const ALL_NODES: (Ipv6Addr, MacAddress) = (
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1),
    MacAddress([0x33, 0x33, 0, 0, 0, 1]),
);

/// Section 6.2.1: MaxRtrAdvInterval at its maximum, MinRtrAdvInterval at 0.75 of it; an idle guest costs
/// a wake-up in half an hour.
const LONGEST_INTERVAL: Duration = Duration::from_secs(1_800);
const SHORTEST_INTERVAL: Duration = Duration::from_secs(1_350);
/// AdvDefaultLifetime, and that of RFC 8106 section 5.1: three of the longest intervals.
const ROUTER_LIFETIME: u32 = 5_400;
/// Long enough for a guest that is paused for a day.
const VALID_LIFETIME: u32 = 86_400;
const PREFERRED_LIFETIME: u32 = 14_400;
/// MAX_INITIAL_RTR_ADVERTISEMENTS and MAX_INITIAL_RTR_ADVERT_INTERVAL (section 10).
const INITIAL: u8 = 3;
const INITIAL_INTERVAL: Duration = Duration::from_secs(16);
/// MIN_DELAY_BETWEEN_RAS.
const MULTICAST_GAP: Duration = Duration::from_secs(3);
/// Answers to one station each, in any second; beyond that one goes to all.
const ANSWERS_A_SECOND: u32 = 20;

/// What is advertised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advertisement {
    /// The guests' prefix: on-link, and for addresses of their own making.
    pub prefix: Ipv6Net,
    /// The way out; `false` on a host-only network.
    pub is_router: bool,
    /// M and O: addresses and the rest are to be had by DHCPv6.
    pub dhcp: bool,
    /// The MTU, where one is written.
    pub mtu: Option<u16>,
    /// The resolver.
    pub dns: Ipv6Addr,
    /// Where short names are looked for.
    pub search: Vec<HostName>,
}

/// The ends of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    /// The gateway's Ethernet address.
    pub source_mac: MacAddress,
    /// The gateway's link-local address.
    pub source: Ipv6Addr,
    /// The addressee's.
    pub destination_mac: MacAddress,
    /// The addressee.
    pub destination: Ipv6Addr,
}

/// Writes a frame that advertises `now`, if there is something, and takes `before` back.
pub fn write(
    frame: &mut Vec<u8>,
    ends: &Ends,
    now: Option<&Advertisement>,
    before: &[Advertisement],
) {
    let mut message = vec![134, 0, 0, 0, 64];
    message.push(match now {
        Some(Advertisement { dhcp: true, .. }) => 0xc0,
        Some(_) | None => 0,
    });
    let lifetime = match now {
        Some(now) if now.is_router => ROUTER_LIFETIME,
        Some(_) | None => 0,
    };
    message.extend_from_slice(&u16::try_from(lifetime).unwrap_or(0).to_be_bytes());
    // Reachable time and retransmission timer: the hosts' own.
    message.extend_from_slice(&[0; 8]);
    message.extend_from_slice(&[1, 1]);
    message.extend_from_slice(&ends.source_mac.0);
    for old in before {
        push_prefix(&mut message, old.prefix, 0, 0);
        push_dns(&mut message, old.dns, 0);
    }
    if let Some(now) = now {
        // RFC 8200 section 5: no less than 1280.
        if let Some(mtu) = now.mtu.filter(|mtu| *mtu >= 1280) {
            message.extend_from_slice(&[5, 1, 0, 0]);
            message.extend_from_slice(&u32::from(mtu).to_be_bytes());
        }
        push_prefix(&mut message, now.prefix, VALID_LIFETIME, PREFERRED_LIFETIME);
        push_dns(&mut message, now.dns, ROUTER_LIFETIME);
        push_search(&mut message, &now.search);
    }
    let length = u16::try_from(message.len()).unwrap_or(u16::MAX);
    frame.clear();
    frame.extend_from_slice(&ends.destination_mac.0);
    frame.extend_from_slice(&ends.source_mac.0);
    frame.extend_from_slice(&[0x86, 0xdd, 0x60, 0, 0, 0]);
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(&[58, 255]);
    frame.extend_from_slice(&ends.source.octets());
    frame.extend_from_slice(&ends.destination.octets());
    // RFC 8200 section 8.1: addresses, length, next header.
    let mut summed = frame[22..].to_vec();
    summed.extend_from_slice(&u32::from(length).to_be_bytes());
    summed.extend_from_slice(&[0, 0, 0, 58]);
    summed.extend_from_slice(&message);
    let sum = checksum(&summed).to_be_bytes();
    message[2..4].copy_from_slice(&sum);
    frame.extend_from_slice(&message);
}

/// Section 4.6.2, flags L and A.
fn push_prefix(message: &mut Vec<u8>, prefix: Ipv6Net, valid: u32, preferred: u32) {
    message.extend_from_slice(&[3, 4, prefix.prefix_len(), 0xc0]);
    message.extend_from_slice(&valid.to_be_bytes());
    message.extend_from_slice(&preferred.to_be_bytes());
    message.extend_from_slice(&[0; 4]);
    message.extend_from_slice(&prefix.network().octets());
}

/// RFC 8106 section 5.1.
fn push_dns(message: &mut Vec<u8>, server: Ipv6Addr, lifetime: u32) {
    message.extend_from_slice(&[25, 3, 0, 0]);
    message.extend_from_slice(&lifetime.to_be_bytes());
    message.extend_from_slice(&server.octets());
}

/// RFC 8106 section 5.2: padded to units of eight bytes.
fn push_search(message: &mut Vec<u8>, search: &[HostName]) {
    const LIMIT: usize = 512;
    let mut names = name_list::plain(search, LIMIT);
    if names.is_empty() {
        return;
    }
    names.resize(names.len().next_multiple_of(8), 0);
    message.extend_from_slice(&[31, u8::try_from(1 + names.len() / 8).unwrap_or(0), 0, 0]);
    message.extend_from_slice(&ROUTER_LIFETIME.to_be_bytes());
    message.extend_from_slice(&names);
}

/// Whether an ICMPv6 message, whose checksum was verified, is a valid solicitation (section 6.1.1).
#[must_use]
pub fn is_solicitation(source: Ipv6Addr, hop_limit: u8, message: &[u8]) -> bool {
    let Ok(packet) = Icmpv6Packet::new_checked(message) else {
        return false;
    };
    if packet.msg_type() != Icmpv6Message::RouterSolicit
        || hop_limit != 255
        || packet.msg_code() != 0
        || message.len() < 8
    {
        return false;
    }
    let mut options = message.get(8..).unwrap_or_default();
    while let [kind, length, ..] = *options {
        let length = usize::from(length) * 8;
        // Without an address there is no link-layer address to tell.
        if length == 0 || length > options.len() || (kind == 1 && source.is_unspecified()) {
            return false;
        }
        options = options.get(length..).unwrap_or_default();
    }
    options.is_empty()
}

/// How a solicitation is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// To the station alone, now.
    Alone,
    /// By the next one to all, which is scheduled.
    WithAll,
}

/// When advertisements are due.
#[derive(Debug, Default)]
pub struct Schedule {
    /// Links that are up.
    links: usize,
    /// Of the first ones that follow each other quickly.
    initial_left: u8,
    next: Option<Instant>,
    last: Option<Instant>,
    /// The second in which answers are counted, and how many there were.
    answers: Option<(Instant, u32)>,
}

impl Schedule {
    /// A link came up: its guest may wait for an advertisement that it did not solicit.
    pub fn link_up(&mut self, now: Instant) {
        self.links += 1;
        if self.links == 1 {
            self.announce(now);
        } else {
            self.initial_left = self.initial_left.max(1);
            self.bring_forward(now);
        }
    }

    /// A link went down.
    pub fn link_down(&mut self) {
        self.links = self.links.saturating_sub(1);
        if self.links == 0 {
            self.next = None;
            self.initial_left = 0;
        }
    }

    /// One left out of turn.
    pub fn sent(&mut self, now: Instant) {
        self.last = Some(now);
        self.next = None;
    }

    /// What is advertised changed (section 6.2.4).
    pub fn announce(&mut self, now: Instant) {
        if self.links > 0 {
            self.initial_left = INITIAL;
            self.bring_forward(now);
        }
    }

    /// A valid solicitation.
    pub fn solicited(&mut self, source: Ipv6Addr, now: Instant) -> Answer {
        const SECOND: Duration = Duration::from_secs(1);
        let (since, count) = match self.answers {
            Some((since, count)) if now.saturating_duration_since(since) < SECOND => {
                (since, count + 1)
            }
            Some(_) | None => (now, 1),
        };
        self.answers = Some((since, count));
        if source.is_unspecified() || count > ANSWERS_A_SECOND {
            self.bring_forward(now);
            Answer::WithAll
        } else {
            Answer::Alone
        }
    }

    /// When [`Schedule::take_due`] has something.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.next
    }

    /// Whether one to all is due; `random` places the one after it (section 6.2.4).
    pub fn take_due(&mut self, now: Instant, random: u32) -> bool {
        if self.next.is_none_or(|next| next > now) {
            return false;
        }
        self.last = Some(now);
        self.initial_left = self.initial_left.saturating_sub(1);
        let spread =
            (LONGEST_INTERVAL - SHORTEST_INTERVAL).mul_f64(f64::from(random) / 2_f64.powi(32));
        let interval = match self.initial_left {
            0 => SHORTEST_INTERVAL + spread,
            _ => INITIAL_INTERVAL,
        };
        self.next = Some(now + interval);
        true
    }

    /// The next one as soon as the last allows.
    fn bring_forward(&mut self, now: Instant) {
        let earliest = self.last.map_or(now, |last| now.max(last + MULTICAST_GAP));
        self.next = Some(self.next.map_or(earliest, |next| next.min(earliest)));
    }
}

#[cfg(test)]
#[path = "ra_tests.rs"]
mod tests;
