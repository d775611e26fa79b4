//! Offers of DHCPv4 that wait until nobody has answered at the offered address (RFC 2131 section 2.2,
//! by an ARP probe as in RFC 5227 section 2.1). Only for addresses that are new to a client: renewals,
//! reservations and addresses that a client had before never wait.

use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use control::mac::MacAddress;

use super::context::Place;
use crate::engine::services::DhcpReply;

/// A station on a virtual wire answers ARP within a millisecond, one that is emulated and busy within
/// some tens. Clients wait a second or more for offers.
const WAIT: Duration = Duration::from_millis(150);
/// Offers that wait; beyond it they leave unprobed, as on a wire without ARP.
const WAITING: usize = 512;
/// Addresses that one DISCOVER may find taken; then the client has to ask again.
pub(super) const TRIES: u8 = 4;

/// An offer that waits.
pub(super) struct Pending {
    pub(super) address: Ipv4Addr,
    pub(super) client: MacAddress,
    pub(super) place: Place,
    /// The IP source of the question, and the question, for another try.
    pub(super) source: Ipv4Addr,
    pub(super) query: Vec<u8>,
    pub(super) reply: DhcpReply,
    pub(super) tries_left: u8,
}

/// In order of time, since all wait equally long.
#[derive(Default)]
pub(super) struct Probes {
    waiting: VecDeque<(Instant, Pending)>,
}

impl Probes {
    /// Gives the offer back if there is no room.
    pub(super) fn hold(&mut self, pending: Pending, now: Instant) -> Result<(), DhcpReply> {
        if self.waiting.len() >= WAITING {
            return Err(pending.reply);
        }
        self.waiting.push_back((now + WAIT, pending));
        Ok(())
    }

    /// Whether an offer of this address waits.
    pub(super) fn holds(&self, address: Ipv4Addr) -> bool {
        self.waiting
            .iter()
            .any(|(_, pending)| pending.address == address)
    }

    /// A station says that it has this address: the offer of it, unless it is for that station.
    pub(super) fn claimed(&mut self, address: Ipv4Addr, mac: MacAddress) -> Option<Pending> {
        let place = self
            .waiting
            .iter()
            .position(|(_, pending)| pending.address == address && pending.client != mac)?;
        self.waiting.remove(place).map(|(_, pending)| pending)
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.waiting.front().map(|(until, _)| *until)
    }

    /// The next offer that has waited long enough.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<Pending> {
        self.waiting
            .pop_front_if(|(until, _)| *until <= now)
            .map(|(_, pending)| pending)
    }

    pub(super) fn clear(&mut self) {
        self.waiting.clear();
    }
}
