//! What the packet path asks of the gateway's own services (DHCP, DNS), as a trait so that
//! the two can be written and tested apart. Implementations are pure: no socket, no clock,
//! no lock; they run inside the packet thread, so a call must take microseconds.

use std::any::Any;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Instant;

use control::mac::MacAddress;
use control::names::GuestName;

use crate::engine::dhcp6::Dhcp6Arrival;
use crate::engine::observed::Sighting;
use crate::engine::ra::Advertisement;

/// One attached guest NIC; never reused while the daemon lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LinkId(pub u32);

/// Where a DHCP message came from.
#[derive(Clone, Copy, Debug)]
pub struct DhcpArrival<'a> {
    /// The frame's source address (the client says its own again in `chaddr`).
    pub source: MacAddress,
    /// The IP source: 0.0.0.0 while the client has no address.
    pub source_address: Ipv4Addr,
    /// The link that carried it.
    pub link: LinkId,
    /// The guest that the link belongs to, where known.
    pub guest: Option<&'a GuestName>,
}

/// Where a DHCP answer goes (RFC 2131 §4.1); always from the gateway's UDP port 67.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DhcpDestination {
    /// To 255.255.255.255 port 68, Ethernet broadcast.
    Broadcast,
    /// To port 67 of a relay agent, at the Ethernet address that its message came from.
    Relay {
        /// Ethernet destination.
        mac: MacAddress,
        /// IP destination.
        address: Ipv4Addr,
    },
    /// To port 68 of an address that the client may not answer ARP for yet.
    Unicast {
        /// Ethernet destination.
        mac: MacAddress,
        /// IP destination.
        address: Ipv4Addr,
    },
}

/// A DHCP answer: the UDP payload and where it goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DhcpReply {
    /// The BOOTP/DHCP message.
    pub payload: Vec<u8>,
    /// Its addressee.
    pub destination: DhcpDestination,
    /// An address that nobody had so far: worth asking the wire for before the answer leaves (RFC 2131
    /// section 2.2). Who answers there is told by [`GatewayServices::address_in_use`].
    pub probe: Option<Ipv4Addr>,
}

/// Who asks a name.
#[derive(Clone, Copy, Debug)]
pub struct DnsClient<'a> {
    /// The asking address.
    pub address: IpAddr,
    /// The guest, where known.
    pub guest: Option<&'a GuestName>,
}

/// What to do with a DNS query that came over UDP to the gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DnsOutcome {
    /// Answered from what the daemon knows.
    Answer(Vec<u8>),
    /// What somebody else answered before: for whoever may ask outside for this name.
    Kept(Vec<u8>),
    /// Someone else must be asked: becomes [`crate::datapath::Notice::DnsQuery`].
    Forward,
    /// Not a query; counted.
    Drop,
}

/// A change of the lease table, in the order it happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaseEvent {
    /// A lease was given or renewed.
    Bound {
        /// The client's Ethernet address.
        mac: MacAddress,
        /// The leased address.
        address: Ipv4Addr,
        /// The guest, where known.
        guest: Option<GuestName>,
        /// The host name that the client asked for, checked.
        host_name: Option<control::names::HostName>,
        /// When it ends if it is not renewed.
        until: Instant,
        /// Whether the same client held the same address just before.
        renewed: bool,
    },
    /// A lease ended: expiry, release, decline.
    Ended {
        /// The client's Ethernet address.
        mac: MacAddress,
        /// The address that is free again.
        address: Ipv4Addr,
        /// The guest, where known.
        guest: Option<GuestName>,
        /// For people: "expired", "released", "declined", "withdrawn".
        reason: &'static str,
    },
    /// DHCPv6 gave or renewed an address.
    Ipv6Bound {
        /// The client's Ethernet address.
        mac: MacAddress,
        /// The address.
        address: Ipv6Addr,
        /// The guest, where known.
        guest: Option<GuestName>,
        /// When it ends if it is not renewed.
        until: Instant,
        /// Whether the same client held the same address just before.
        renewed: bool,
    },
    /// An address of DHCPv6 ended.
    Ipv6Ended {
        /// The client's Ethernet address.
        mac: MacAddress,
        /// The address that is free again.
        address: Ipv6Addr,
        /// The guest, where known.
        guest: Option<GuestName>,
        /// As for [`LeaseEvent::Ended`].
        reason: &'static str,
    },
}

/// The gateway's services. `handle_*` takes input, `poll_timeout` says when time itself matters.
pub trait GatewayServices {
    /// A UDP datagram to port 67.
    fn dhcp(
        &mut self,
        payload: &[u8],
        arrival: &DhcpArrival<'_>,
        now: Instant,
    ) -> Option<DhcpReply>;
    /// A UDP datagram over IPv6 to port 547; the answer goes back to where it came from.
    fn dhcp6(&mut self, payload: &[u8], arrival: &Dhcp6Arrival, now: Instant) -> Option<Vec<u8>>;
    /// What routers of this network advertise; `None` = it has no IPv6.
    fn advertisement(&self) -> Option<&Advertisement>;
    /// A station answered at an address that was to be offered.
    fn address_in_use(&mut self, address: Ipv4Addr, now: Instant);
    /// A UDP datagram to port 53 of the gateway.
    fn dns(&mut self, query: &[u8], client: &DnsClient<'_>, now: Instant) -> DnsOutcome;
    /// The next moment at which [`GatewayServices::handle_timeout`] wants to run; `None` = never.
    fn poll_timeout(&self) -> Option<Instant>;
    /// Time has come (lease expiry).
    fn handle_timeout(&mut self, now: Instant);
    /// Lease changes since the last call are pushed to `events`; called after every entry above.
    fn drain_lease_events(&mut self, events: &mut Vec<LeaseEvent>);
    /// The address that this MAC holds by lease or reservation.
    fn address_of(&self, mac: MacAddress) -> Option<Ipv4Addr>;
    /// The MAC that this address belongs to by lease or reservation: nobody else may use it.
    fn owner_of(&self, address: Ipv4Addr) -> Option<MacAddress>;
    /// Something of a guest's station was seen on a bridged network, where others give addresses.
    fn observe(
        &mut self,
        _mac: MacAddress,
        _guest: Option<&GuestName>,
        _sighting: Sighting<'_>,
        _now: Instant,
    ) {
    }
    /// For [`crate::datapath::Command::Services`]: the concrete services behind the trait.
    fn as_any_mut(&mut self) -> &mut dyn Any;
}

/// A network without DHCP and DNS: for tests and measurements.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoServices;

impl GatewayServices for NoServices {
    fn dhcp(&mut self, _: &[u8], _: &DhcpArrival<'_>, _: Instant) -> Option<DhcpReply> {
        None
    }
    fn dhcp6(&mut self, _: &[u8], _: &Dhcp6Arrival, _: Instant) -> Option<Vec<u8>> {
        None
    }
    fn advertisement(&self) -> Option<&Advertisement> {
        None
    }
    fn address_in_use(&mut self, _: Ipv4Addr, _: Instant) {}
    fn dns(&mut self, _: &[u8], _: &DnsClient<'_>, _: Instant) -> DnsOutcome {
        DnsOutcome::Drop
    }
    fn poll_timeout(&self) -> Option<Instant> {
        None
    }
    fn handle_timeout(&mut self, _: Instant) {}
    fn drain_lease_events(&mut self, _: &mut Vec<LeaseEvent>) {}
    fn address_of(&self, _: MacAddress) -> Option<Ipv4Addr> {
        None
    }
    fn owner_of(&self, _: Ipv4Addr) -> Option<MacAddress> {
        None
    }
    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
}
