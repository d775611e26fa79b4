//! Who may reach what: one pure function each way, asked once a flow.
//! It opens nothing; the packet thread does what the answer says.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};

use control::port::Protocol;

use crate::engine::settings::{NetworkSettings, Reach};

/// Where a guest's flow leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// A service of the gateway on this port.
    Gateway(u16),
    /// The host's loopback, under the name of `host.internal`.
    HostLoopback(SocketAddrV4),
    /// Anywhere the host can reach.
    Remote(SocketAddrV4),
}

/// Why a flow is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// 0.0.0.0/8 names no host (RFC 6890).
    ThisNetwork,
    /// 127.0.0.0/8 would be the host's loopback; `host.internal` is the way there.
    Loopback,
    /// 224.0.0.0/4.
    Multicast,
    /// 240.0.0.0/4 and 255.255.255.255.
    Reserved,
    /// A guest's address: guests reach each other on the switch, and no guest answered there.
    OwnSubnet,
    /// The network has no way out.
    HostOnly,
    /// `host-loopback = false`.
    HostLoopbackOff,
    /// The gateway serves nothing on that port.
    NoService,
}

impl Refusal {
    /// For people.
    pub fn reason(self) -> &'static str {
        match self {
            Self::ThisNetwork => "0.0.0.0/8 names no host",
            Self::Loopback => {
                "127.0.0.0/8 is not reachable from a guest; host.internal is the host's loopback"
            }
            Self::Multicast => "multicast does not leave the network",
            Self::Reserved => "reserved address",
            Self::OwnSubnet => "no guest answers on this address",
            Self::HostOnly => "the network is host-only",
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
            | Self::OwnSubnet
            | Self::HostOnly => false,
        }
    }
}

/// A flow that a guest begins.
pub fn outbound(
    settings: &NetworkSettings,
    protocol: Protocol,
    destination: SocketAddrV4,
) -> Result<Target, Refusal> {
    let address = *destination.ip();
    if address == settings.gateway {
        let served = match protocol {
            Protocol::Tcp => settings.tcp_services.contains(&destination.port()),
            Protocol::Udp => matches!(destination.port(), 53 | 67),
        };
        return if served {
            Ok(Target::Gateway(destination.port()))
        } else {
            Err(Refusal::NoService)
        };
    }
    if address == settings.host_internal {
        return if settings.host_loopback {
            Ok(Target::HostLoopback(SocketAddrV4::new(
                Ipv4Addr::LOCALHOST,
                destination.port(),
            )))
        } else {
            Err(Refusal::HostLoopbackOff)
        };
    }
    outside(settings, address)?;
    Ok(Target::Remote(destination))
}

/// Whether an address outside the network may be reached at all.
pub fn outside(settings: &NetworkSettings, address: Ipv4Addr) -> Result<(), Refusal> {
    let [first, ..] = address.octets();
    if first == 0 {
        Err(Refusal::ThisNetwork)
    } else if first == 127 {
        Err(Refusal::Loopback)
    } else if (224..240).contains(&first) {
        Err(Refusal::Multicast)
    } else if first >= 240 {
        Err(Refusal::Reserved)
    } else if settings.subnet.contains(&address) {
        Err(Refusal::OwnSubnet)
    } else if settings.reach == Reach::HostOnly {
        Err(Refusal::HostOnly)
    } else {
        Ok(())
    }
}

/// The source address that a guest sees of a client of its published port: the client's own where the guest's
/// answer would come back to us, else `host.internal`.
pub fn client_seen_as(settings: &NetworkSettings, client: SocketAddr) -> Ipv4Addr {
    let address = match client.ip() {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(address) => address.to_ipv4_mapped(),
    };
    match address {
        Some(address)
            if !address.is_loopback()
                && !address.is_unspecified()
                && !address.is_multicast()
                && !settings.subnet.contains(&address) =>
        {
            address
        }
        Some(_) | None => settings.host_internal,
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
            Ok(Target::HostLoopback(SocketAddrV4::new(
                Ipv4Addr::LOCALHOST,
                port,
            )))
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
    }

    #[test]
    fn a_client_keeps_its_address_where_answers_come_back() {
        let settings = settings(Reach::Nat);
        let seen = |client: &str| client_seen_as(&settings, client.parse().unwrap()).to_string();
        assert_eq!(seen("198.51.100.7:4000"), "198.51.100.7");
        assert_eq!(seen("127.0.0.1:4000"), "192.168.130.254");
        assert_eq!(seen("127.64.3.4:4000"), "192.168.130.254");
        assert_eq!(seen("192.168.130.9:4000"), "192.168.130.254");
        assert_eq!(seen("[::1]:4000"), "192.168.130.254");
        assert_eq!(seen("[::ffff:198.51.100.7]:4000"), "198.51.100.7");
    }
}
