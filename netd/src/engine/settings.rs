//! What one virtual network is told to be: addresses, kind, limits.
//! Plain values, checked where they were parsed; nothing here opens a socket or reads a file.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::time::Duration;

use control::mac::MacAddress;
use control::names::GuestName;
use control::port::Endpoint;
use control::rate::RateLimit;
use ipnet::{Ipv4Net, Ipv6Net};

use crate::engine::ends::Addresses;

use crate::engine::policy::Policies;

/// Whether guests may leave the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Anything the host itself can reach, but for the ranges `engine::nat` refuses.
    Nat,
    /// Guests, the gateway and `host.internal` only.
    HostOnly,
    /// The host's LAN, as stations of it: `host_internal` is the host's own address there, and `gateway_mac` its
    /// interface's. Nothing is at `gateway`.
    Bridged,
}

/// Bounds on everything a guest can make grow. Each has a counter in [`crate::engine::counters`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// TCP flows of the whole network; of the guest with most of them, the oldest half-open, else the longest idle
    /// one gives way.
    pub tcp_flows: usize,
    /// TCP connections of one guest still waiting for the host's `connect`.
    pub dials_per_guest: usize,
    /// How long a `connect` on the host may take before the guest is told "host unreachable".
    pub dial_time: Duration,
    /// An open connection without a byte is probed after this long (RFC 5382 REQ-5: at least 2 h 4 min).
    pub tcp_idle: Duration,
    /// A connection closed on one side without a byte is ended after this long (RFC 5382: at least 4 min).
    pub tcp_half_closed_idle: Duration,
    /// UDP mappings of the whole network; the longest idle one of the guest with most of them gives way.
    pub udp_mappings: usize,
    /// A UDP mapping without a packet ends after this long (RFC 4787 REQ-5: at least 2 min).
    pub udp_idle: Duration,
    /// Echo mappings (one a guest's ping) of the whole network.
    pub echo_mappings: usize,
    /// Bytes of payload that may rest in this network's buffers, all flows together.
    pub buffer_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            tcp_flows: 16_384,
            dials_per_guest: 1_024,
            dial_time: Duration::from_secs(60),
            tcp_idle: Duration::from_secs(7_440),
            tcp_half_closed_idle: Duration::from_secs(600),
            udp_mappings: 4_096,
            udp_idle: Duration::from_secs(180),
            echo_mappings: 256,
            buffer_bytes: 256 << 20,
        }
    }
}

/// The IPv6 side of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv6Settings {
    /// The guests' prefix, a /64.
    pub prefix: Ipv6Net,
    /// PREFIX::1: neighbour discovery, DNS, echo.
    pub gateway: Ipv6Addr,
    /// PREFIX::2: stands for the host's loopback services.
    pub host_internal: Ipv6Addr,
    /// The gateway's link-local address, which routers speak from (RFC 4861 section 6.1.2).
    pub link_local: Ipv6Addr,
}

impl Ipv6Settings {
    /// The usual places in `prefix`; the link-local address follows from the gateway's MAC (RFC 4291 appendix A).
    pub fn new(prefix: Ipv6Net, gateway_mac: MacAddress) -> Self {
        let at = |low: u128| Ipv6Addr::from(u128::from(prefix.network()) | low);
        let [a, b, c, d, e, f] = gateway_mac.0;
        let interface = u64::from_be_bytes([a ^ 2, b, c, 0xff, 0xfe, d, e, f]);
        Self {
            prefix,
            gateway: at(1),
            host_internal: at(2),
            link_local: Ipv6Addr::from(0xfe80_u128 << 112 | u128::from(interface)),
        }
    }
}

/// One network as the packet thread sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkSettings {
    /// For logs and thread names.
    pub name: String,
    /// NAT or host-only.
    pub reach: Reach,
    /// The guests' subnet.
    pub subnet: Ipv4Net,
    /// Our address: ARP, DHCP, DNS, echo.
    pub gateway: Ipv4Addr,
    /// The Ethernet address behind `gateway` and `host_internal`.
    pub gateway_mac: MacAddress,
    /// The address that stands for the host's loopback services.
    pub host_internal: Ipv4Addr,
    /// The IPv6 side, if there is one.
    pub ipv6: Option<Ipv6Settings>,
    /// Whether `host_internal` reaches 127.0.0.1 of the host.
    pub host_loopback: bool,
    /// The largest IP packet on this network, bytes (68..=65520).
    pub mtu: u16,
    /// TCP ports of the gateway address that the daemon serves itself ([`crate::datapath::Notice::ServiceStream`]).
    pub tcp_services: Vec<u16>,
    /// Services of the host, by their TCP port on `host_internal`.
    pub services: BTreeMap<u16, Endpoint>,
    /// The 9P sockets of guests that have one, which the gateway leads them to.
    pub shares: BTreeMap<GuestName, PathBuf>,
    /// Which flows guests may begin.
    pub egress: Policies,
    /// How fast guests may be; only those that are limited.
    pub rates: BTreeMap<GuestName, RateLimit>,
    /// Bounds.
    pub limits: Limits,
}

impl NetworkSettings {
    /// The gateway's own address, of either family.
    pub fn is_gateway(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => address == self.gateway,
            IpAddr::V6(address) => self
                .ipv6
                .is_some_and(|ours| address == ours.gateway || address == ours.link_local),
        }
    }

    /// The address that stands for the host's loopback, of either family.
    pub fn is_host_internal(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => address == self.host_internal,
            IpAddr::V6(address) => self.ipv6.is_some_and(|ours| address == ours.host_internal),
        }
    }

    /// An address that no guest may use.
    pub fn is_ours(&self, address: IpAddr) -> bool {
        self.is_gateway(address) || self.is_host_internal(address)
    }

    /// An address on the network's own cable.
    pub fn is_local(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => self.subnet.contains(&address),
            IpAddr::V6(address) => {
                address.is_unicast_link_local()
                    || self.ipv6.is_some_and(|ours| ours.prefix.contains(&address))
            }
        }
    }

    /// The IPv4 address that says whose an address is: itself, or that of the guest that a PREFIX::IPV4 belongs to.
    /// None for addresses that guests choose by themselves (SLAAC, link-local).
    pub fn ipv4_of(&self, address: IpAddr) -> Option<Ipv4Addr> {
        match address {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(address) => {
                let prefix = self.ipv6?.prefix;
                let low = u32::try_from(u128::from(address) ^ u128::from(prefix.network())).ok()?;
                let address = Ipv4Addr::from(low);
                self.subnet.contains(&address).then_some(address)
            }
        }
    }

    /// The address of `host.internal` in the family of `like`, if the network has that family.
    pub fn host_internal_like(&self, like: IpAddr) -> Option<IpAddr> {
        match like {
            IpAddr::V4(_) => Some(self.host_internal.into()),
            IpAddr::V6(_) => self.ipv6.map(|ours| ours.host_internal.into()),
        }
    }

    /// Payload of the largest TCP segment between these.
    pub fn segment_size(&self, addresses: Addresses) -> u16 {
        let headers = match addresses {
            Addresses::V4 { .. } => 40,
            Addresses::V6 { .. } => 60,
        };
        self.mtu.saturating_sub(headers)
    }

    /// Settings with the usual places: gateway on the first address of the subnet, `host_internal` on the last,
    /// a gateway MAC made from the gateway's address (locally administered), DNS over TCP served.
    pub fn new(name: impl Into<String>, reach: Reach, subnet: Ipv4Net) -> Self {
        let first = u32::from(subnet.network()).saturating_add(1);
        let last = u32::from(subnet.broadcast()).saturating_sub(1);
        let gateway = Ipv4Addr::from(first);
        let [a, b, c, d] = gateway.octets();
        Self {
            name: name.into(),
            reach,
            subnet,
            gateway,
            gateway_mac: MacAddress([0x52, 0x55, a, b, c, d]),
            host_internal: Ipv4Addr::from(last),
            ipv6: None,
            host_loopback: true,
            mtu: 65_520,
            tcp_services: vec![53],
            services: BTreeMap::new(),
            shares: BTreeMap::new(),
            egress: Policies::default(),
            rates: BTreeMap::new(),
            limits: Limits::default(),
        }
    }
}
