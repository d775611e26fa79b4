//! The values of the lease table: clients, leases, what became of them. No rule stands here.

use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::time::Instant;

use control::mac::MacAddress;
use control::names::{GuestName, HostName};
use ipnet::Ipv4Net;

use crate::engine::services::LinkId;

/// An address that belongs to one guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reservation {
    /// The guest.
    pub guest: GuestName,
    /// Its Ethernet address.
    pub mac: MacAddress,
    /// Its address.
    pub address: Ipv4Addr,
}

/// What may be given to whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseSettings {
    /// Every lease lies in it.
    pub subnet: Ipv4Net,
    /// For clients without a reservation.
    pub pool: RangeInclusive<Ipv4Addr>,
    /// Never given away: gateway, host.internal.
    pub kept: Vec<Ipv4Addr>,
    /// At most one for a guest, a MAC, an address.
    pub reservations: Vec<Reservation>,
}

/// A client as a message shows it.
#[derive(Clone, Copy, Debug)]
pub struct Client<'a> {
    /// `chaddr`.
    pub mac: MacAddress,
    /// Option 61.
    pub identifier: Option<&'a [u8]>,
    /// The link that its message came by.
    pub link: LinkId,
    /// The guest that the link belongs to, where known.
    pub link_guest: Option<&'a GuestName>,
}

/// A DHCPv6 client as a message and its frame show it.
#[derive(Clone, Copy, Debug)]
pub struct Ipv6Client<'a> {
    /// The frame's source: what a DUID says of hardware is not for us to read (RFC 8415 section 11).
    pub mac: MacAddress,
    /// Its DUID.
    pub duid: &'a [u8],
    /// Number of its identity association.
    pub iaid: u32,
    /// The link that its message came by.
    pub link: LinkId,
}

/// What tells clients apart: the MAC, and the identifier beside it (never alone: a guest could
/// name another's). A guest with a reservation is its MAC alone, so that its boot loader,
/// its initramfs and its system get the same address whatever identifiers they invent.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ClientKey {
    /// The Ethernet address.
    pub mac: MacAddress,
    /// Option 61, unless reserved.
    pub identifier: Option<Box<[u8]>>,
}

impl ClientKey {
    /// Whether both may be one client: a key without an identifier matches any of its MAC, so that a
    /// guest keeps its lease when it becomes known to the configuration, or no longer is.
    pub(super) fn matches(&self, other: &Self) -> bool {
        let identifiers = match (&self.identifier, &other.identifier) {
            (Some(mine), Some(theirs)) => mine == theirs,
            (None, _) | (_, None) => true,
        };
        self.mac == other.mac && identifiers
    }
}

/// See the table at the top of `engine::lease`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseState {
    /// Proposed to a client.
    Offered,
    /// Held by a client.
    Bound,
    /// In use by somebody whom we do not know.
    Declined,
    /// Kept for the station that holds its IPv6 side.
    Ipv6Only,
    /// Free, remembered for its last holder.
    Past,
}

/// One address of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Whose it is or was.
    pub client: ClientKey,
    /// The guest, where known.
    pub guest: Option<GuestName>,
    /// The checked name that the client gave itself.
    pub host_name: Option<HostName>,
    /// What holds now.
    pub state: LeaseState,
    /// When the state ends; for [`LeaseState::Past`] and [`LeaseState::Ipv6Only`]: when the lease ended.
    pub until: Instant,
    /// Its IPv6 side: the network's prefix with this address in the low 32 bits.
    pub ipv6: Option<Ipv6Hold>,
    /// Who must answer for it; unknown after a restart, until the client speaks again.
    pub link: Option<LinkId>,
    /// It was bound once, so it is worth remembering.
    pub(super) held: bool,
}

/// Who holds the IPv6 side of an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ipv6Hold {
    /// The client's DUID.
    pub duid: Box<[u8]>,
    /// Its identity association.
    pub iaid: u32,
    /// End of the valid lifetime, or of the time for which it is set aside.
    pub until: Instant,
    /// The client found it in use (RFC 8415 section 18.3.8): nobody's for a while.
    pub declined: bool,
}

/// An address to propose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// The address.
    pub address: Ipv4Addr,
    /// The client never had it and was not offered it just now: worth a probe.
    pub is_new: bool,
}

/// A lease as it was written down, for [`super::LeaseTable::restore`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedLease {
    /// Whose it is or was.
    pub client: ClientKey,
    /// The guest, where known.
    pub guest: Option<GuestName>,
    /// The client's name.
    pub host_name: Option<HostName>,
    /// When it ends or ended.
    pub until: Instant,
    /// Its IPv6 side.
    pub ipv6: Option<Ipv6Hold>,
}

/// Why a lease ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndReason {
    /// Its term passed.
    Expired,
    /// The client gave it back.
    Released,
    /// The client found the address in use.
    Declined,
    /// The configuration has no such address any more.
    Withdrawn,
}

impl EndReason {
    /// For people.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::Released => "released",
            Self::Declined => "declined",
            Self::Withdrawn => "withdrawn",
        }
    }
}

/// A change worth writing down and telling.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaseChange {
    /// Bound or renewed.
    Bound {
        /// The address.
        address: Ipv4Addr,
        /// The lease as it is now.
        lease: Lease,
        /// The same client held it just before, under the same name.
        renewed: bool,
    },
    /// Ended.
    Ended {
        /// The address.
        address: Ipv4Addr,
        /// Who held it.
        client: ClientKey,
        /// The guest, where known.
        guest: Option<GuestName>,
        /// Its IPv6 side, which stands.
        ipv6: Option<Ipv6Hold>,
        /// Why.
        reason: EndReason,
    },
    /// The IPv6 side was bound or renewed.
    Ipv6Bound {
        /// The IPv4 address.
        address: Ipv4Addr,
        /// Both sides as they are now.
        lease: Lease,
        /// The same client held it just before.
        renewed: bool,
    },
    /// The IPv6 side ended.
    Ipv6Ended {
        /// The IPv4 address.
        address: Ipv4Addr,
        /// What is left of the entry.
        lease: Lease,
        /// Why.
        reason: EndReason,
    },
}

impl LeaseChange {
    /// The IPv4 address of the entry that changed.
    #[must_use]
    pub fn address(&self) -> Ipv4Addr {
        match self {
            Self::Bound { address, .. }
            | Self::Ended { address, .. }
            | Self::Ipv6Bound { address, .. }
            | Self::Ipv6Ended { address, .. } => *address,
        }
    }
}

/// Why an address is not to be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Outside the subnet, or the gateway's, or outside the pool.
    #[error("the address is none that this client can have")]
    NotForClients,
    /// Reserved for, offered to or bound by somebody else.
    #[error("the address is somebody else's")]
    Taken,
    /// The client has another one reserved.
    #[error("another address is reserved for the client")]
    ReservedElsewhere,
    /// Nothing is free.
    #[error("no address is free")]
    Exhausted,
    /// The link holds as many addresses of the pool as are left for all others.
    #[error("the stations behind this link have their share of the pool")]
    LinkFull,
}

/// Numbers for the status page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeaseCounts {
    /// Offers out.
    pub offered: usize,
    /// Leases held.
    pub bound: usize,
    /// Addresses set aside.
    pub declined: usize,
    /// IPv6 addresses held.
    pub ipv6: usize,
    /// Addresses of the pool that nobody holds or was offered.
    pub free: usize,
}
