//! Who may reach what: one pure function each way, asked once a flow.
//! It opens nothing; the packet thread does what the answer says.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use control::config::NINEP_PORT;
use control::port::Protocol;

use crate::engine::settings::{NetworkSettings, Reach};

/// Where a guest's flow leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// A service of the gateway on this port.
    Gateway(u16),
    /// The host's loopback, under the name of `host.internal`.
    HostLoopback(SocketAddr),
    /// Anywhere the host can reach.
    Remote(SocketAddr),
    /// The 9P socket of the guest that asks, if it has one.
    Shares,
    /// A service of the host that `host.internal` offers on this port.
    Offered(u16),
}

/// Why a flow is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// 0.0.0.0/8 and :: name no host (RFC 6890).
    ThisNetwork,
    /// 127.0.0.0/8 and ::1 would be the host's loopback; `host.internal` is the way there.
    Loopback,
    /// 224.0.0.0/4 and ff00::/8.
    Multicast,
    /// 240.0.0.0/4, 255.255.255.255, and IPv4 addresses in IPv6 clothes (RFC 4291 §2.5.5).
    Reserved,
    /// fe80::/10 of some other link.
    LinkLocal,
    /// A guest's address: guests reach each other on the switch, and no guest answered there.
    OwnSubnet,
    /// The network has no way out.
    HostOnly,
    /// The host is no router of a bridged network's LAN.
    Bridged,
    /// `host-loopback = false`.
    HostLoopbackOff,
    /// The gateway serves nothing on that port.
    NoService,
}

impl Refusal {
    /// For people.
    pub fn reason(self) -> &'static str {
        match self {
            Self::ThisNetwork => "the unspecified address names no host",
            Self::Loopback => {
                "loopback addresses are not reachable from a guest; host.internal is the host's"
            }
            Self::Multicast => "multicast does not leave the network",
            Self::Reserved => "reserved address",
            Self::LinkLocal => "link-local addresses do not leave the network",
            Self::OwnSubnet => "no guest answers on this address",
            Self::HostOnly => "the network is host-only",
            Self::Bridged => "the host does not route for a bridged network",
            Self::HostLoopbackOff => "host-loopback is off for this network",
            Self::NoService => "the gateway serves nothing on this port",
        }
    }

    /// Whether the guest is told "nobody listens there" (TCP: RST, UDP: port unreachable) rather than
    /// "administratively prohibited".
    pub fn looks_closed(self) -> bool {
        match self {
            Self::NoService | Self::HostLoopbackOff => true,
            Self::ThisNetwork
            | Self::Loopback
            | Self::Multicast
            | Self::Reserved
            | Self::LinkLocal
            | Self::OwnSubnet
            | Self::HostOnly
            | Self::Bridged => false,
        }
    }
}

/// A flow that a guest begins.
pub fn outbound(
    settings: &NetworkSettings,
    protocol: Protocol,
    destination: SocketAddr,
) -> Result<Target, Refusal> {
    let (address, port) = (destination.ip(), destination.port());
    if settings.reach == Reach::Bridged {
        // What the host serves to its LAN, the guest as a station of it gets too; the rest is the LAN's own.
        return if settings.is_host_internal(address) {
            Ok(Target::Remote(destination))
        } else {
            Err(Refusal::Bridged)
        };
    }
    if settings.is_gateway(address) {
        if protocol == Protocol::Tcp && port == NINEP_PORT && !settings.shares.is_empty() {
            return Ok(Target::Shares);
        }
        let served = match protocol {
            Protocol::Tcp => settings.tcp_services.contains(&port),
            Protocol::Udp => matches!(port, 53 | 67),
        };
        return if served {
            Ok(Target::Gateway(port))
        } else {
            Err(Refusal::NoService)
        };
    }
    if settings.is_host_internal(address) {
        if protocol == Protocol::Tcp && settings.services.contains_key(&port) {
            return Ok(Target::Offered(port));
        }
        let loopback = match address {
            IpAddr::V4(_) => IpAddr::from(Ipv4Addr::LOCALHOST),
            IpAddr::V6(_) => IpAddr::from(Ipv6Addr::LOCALHOST),
        };
        return if settings.host_loopback {
            Ok(Target::HostLoopback(SocketAddr::new(loopback, port)))
        } else {
            Err(Refusal::HostLoopbackOff)
        };
    }
    outside(settings, address)?;
    Ok(Target::Remote(destination))
}

/// Whether an address outside the network may be reached at all.
pub fn outside(settings: &NetworkSettings, address: IpAddr) -> Result<(), Refusal> {
    let refused = match address {
        IpAddr::V4(address) => never_v4(address),
        IpAddr::V6(address) => never_v6(address),
    };
    if let Some(refusal) = refused {
        Err(refusal)
    } else if settings.is_local(address) {
        Err(Refusal::OwnSubnet)
    } else if settings.reach == Reach::HostOnly {
        Err(Refusal::HostOnly)
    } else if settings.reach == Reach::Bridged {
        Err(Refusal::Bridged)
    } else {
        Ok(())
    }
}

fn never_v4(address: Ipv4Addr) -> Option<Refusal> {
    match address.octets() {
        [0, ..] => Some(Refusal::ThisNetwork),
        [127, ..] => Some(Refusal::Loopback),
        [224..240, ..] => Some(Refusal::Multicast),
        [240..=255, ..] => Some(Refusal::Reserved),
        _unicast => None,
    }
}

/// ::ffff:127.0.0.1 would be the host's loopback for a careless socket, so nothing of ::/96 and ::ffff:0:0/96 passes.
fn never_v6(address: Ipv6Addr) -> Option<Refusal> {
    if address.is_unspecified() {
        Some(Refusal::ThisNetwork)
    } else if address.is_loopback() {
        Some(Refusal::Loopback)
    } else if address.is_multicast() {
        Some(Refusal::Multicast)
    } else if matches!(address.segments(), [0, 0, 0, 0, 0, 0 | 0xffff, ..]) {
        Some(Refusal::Reserved)
    } else if address.is_unicast_link_local() {
        Some(Refusal::LinkLocal)
    } else {
        None
    }
}

/// The source address that a guest sees of a client of its published port, in the family of the guest's own
/// address: the client's own where the guest's answer would come back to us, else `host.internal`; nothing where
/// the network does not have the family.
pub fn client_seen_as(
    settings: &NetworkSettings,
    client: SocketAddr,
    guest: IpAddr,
) -> Option<IpAddr> {
    let address = client.ip().to_canonical();
    // On a bridged network the guest's answer to anybody but the host would go to the LAN.
    let comes_back = settings.reach != Reach::Bridged
        && address.is_ipv4() == guest.is_ipv4()
        && !settings.is_local(address)
        && match address {
            IpAddr::V4(address) => never_v4(address).is_none(),
            IpAddr::V6(address) => never_v6(address).is_none(),
        };
    if comes_back {
        Some(address)
    } else {
        settings.host_internal_like(guest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Answer = Result<Target, Refusal>;

    fn settings(reach: Reach) -> NetworkSettings {
        NetworkSettings::new("test", reach, "192.168.130.0/24".parse().unwrap())
    }

    #[test]
    fn each_destination_has_its_answer() {
        let remote = |text: &str| Ok(Target::Remote(text.parse().unwrap()));
        let loopback = |port| {
            Ok(Target::HostLoopback(SocketAddr::from((
                Ipv4Addr::LOCALHOST,
                port,
            ))))
        };
        let table: [(&str, Protocol, Answer, Answer); 15] = [
            // destination, protocol, on a nat network, on a host-only network
            (
                "93.184.216.34:443",
                Protocol::Tcp,
                remote("93.184.216.34:443"),
                Err(Refusal::HostOnly),
            ),
            (
                "10.1.2.3:53",
                Protocol::Udp,
                remote("10.1.2.3:53"),
                Err(Refusal::HostOnly),
            ),
            (
                "192.168.131.1:80",
                Protocol::Tcp,
                remote("192.168.131.1:80"),
                Err(Refusal::HostOnly),
            ),
            (
                "192.168.130.1:53",
                Protocol::Tcp,
                Ok(Target::Gateway(53)),
                Ok(Target::Gateway(53)),
            ),
            (
                "192.168.130.1:53",
                Protocol::Udp,
                Ok(Target::Gateway(53)),
                Ok(Target::Gateway(53)),
            ),
            (
                "192.168.130.1:67",
                Protocol::Udp,
                Ok(Target::Gateway(67)),
                Ok(Target::Gateway(67)),
            ),
            (
                "192.168.130.1:67",
                Protocol::Tcp,
                Err(Refusal::NoService),
                Err(Refusal::NoService),
            ),
            (
                "192.168.130.1:80",
                Protocol::Tcp,
                Err(Refusal::NoService),
                Err(Refusal::NoService),
            ),
            (
                "192.168.130.254:8080",
                Protocol::Tcp,
                loopback(8080),
                loopback(8080),
            ),
            (
                "192.168.130.7:80",
                Protocol::Tcp,
                Err(Refusal::OwnSubnet),
                Err(Refusal::OwnSubnet),
            ),
            (
                "127.0.0.1:22",
                Protocol::Tcp,
                Err(Refusal::Loopback),
                Err(Refusal::Loopback),
            ),
            (
                "0.0.0.0:22",
                Protocol::Tcp,
                Err(Refusal::ThisNetwork),
                Err(Refusal::ThisNetwork),
            ),
            (
                "224.0.0.251:5353",
                Protocol::Udp,
                Err(Refusal::Multicast),
                Err(Refusal::Multicast),
            ),
            (
                "255.255.255.255:9",
                Protocol::Udp,
                Err(Refusal::Reserved),
                Err(Refusal::Reserved),
            ),
            (
                "192.168.130.255:9",
                Protocol::Udp,
                Err(Refusal::OwnSubnet),
                Err(Refusal::OwnSubnet),
            ),
        ];
        for (destination, protocol, nat, host_only) in table {
            let destination = destination.parse().unwrap();
            assert_eq!(
                outbound(&settings(Reach::Nat), protocol, destination),
                nat,
                "{destination} nat"
            );
            assert_eq!(
                outbound(&settings(Reach::HostOnly), protocol, destination),
                host_only,
                "{destination}"
            );
        }
    }

    #[test]
    fn only_the_host_itself_is_reached_by_us_on_a_bridged_network() {
        let settings = NetworkSettings {
            gateway: Ipv4Addr::BROADCAST,
            host_internal: Ipv4Addr::new(192, 168, 130, 5),
            ..settings(Reach::Bridged)
        };
        let host = "192.168.130.5:22".parse().unwrap();
        assert_eq!(
            outbound(&settings, Protocol::Tcp, host),
            Ok(Target::Remote(host))
        );
        for other in ["192.168.130.6:22", "9.9.9.9:53", "127.0.0.1:22"] {
            let refused = outbound(&settings, Protocol::Udp, other.parse().unwrap());
            assert_eq!(refused, Err(Refusal::Bridged), "{other}");
        }
        let guest = "192.168.130.7".parse().unwrap();
        let seen = client_seen_as(&settings, "9.9.9.9:4000".parse().unwrap(), guest);
        assert_eq!(seen, Some(settings.host_internal.into()));
    }

    #[test]
    fn host_internal_is_closed_when_loopback_is_off() {
        let settings = NetworkSettings {
            host_loopback: false,
            ..settings(Reach::Nat)
        };
        let destination = "192.168.130.254:80".parse().unwrap();
        assert_eq!(
            outbound(&settings, Protocol::Tcp, destination),
            Err(Refusal::HostLoopbackOff)
        );
        assert!(Refusal::HostLoopbackOff.looks_closed());
        let services = [(80, "unix:/run/x.sock".parse().unwrap())].into();
        let settings = NetworkSettings {
            services,
            ..settings
        };
        let offered = |protocol| outbound(&settings, protocol, destination);
        assert_eq!(offered(Protocol::Tcp), Ok(Target::Offered(80)));
        assert_eq!(offered(Protocol::Udp), Err(Refusal::HostLoopbackOff));
    }

    #[test]
    fn shares_are_at_the_gateway_where_a_guest_has_any() {
        let settings = settings(Reach::HostOnly);
        let destination = "192.168.130.1:564".parse().unwrap();
        let ask = |settings: &NetworkSettings, protocol| outbound(settings, protocol, destination);
        assert_eq!(ask(&settings, Protocol::Tcp), Err(Refusal::NoService));
        let shares = [("dev".parse().unwrap(), "/run/9p.sock".into())].into();
        let settings = NetworkSettings { shares, ..settings };
        assert_eq!(ask(&settings, Protocol::Tcp), Ok(Target::Shares));
        assert_eq!(ask(&settings, Protocol::Udp), Err(Refusal::NoService));
    }

    #[test]
    fn a_client_keeps_its_address_where_answers_come_back() {
        let settings = settings(Reach::Nat);
        let guest = "192.168.130.7".parse().unwrap();
        let seen = |client: &str| {
            let seen = client_seen_as(&settings, client.parse().unwrap(), guest);
            seen.unwrap().to_string()
        };
        assert_eq!(seen("198.51.100.7:4000"), "198.51.100.7");
        assert_eq!(seen("127.0.0.1:4000"), "192.168.130.254");
        assert_eq!(seen("127.64.3.4:4000"), "192.168.130.254");
        assert_eq!(seen("192.168.130.9:4000"), "192.168.130.254");
        assert_eq!(seen("[::1]:4000"), "192.168.130.254");
        assert_eq!(seen("[::ffff:198.51.100.7]:4000"), "198.51.100.7");
    }
}
