//! What the host's own network already uses: subnets of its interfaces and of
//! its routing table, so that a guest network can keep clear of them.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::Ipv4Net;

use crate::config::{Config, Network, NetworkKind};
use crate::names::NetworkName;

/// The widest route that counts as one to somewhere: no range for private use is wider. A VPN that takes all
/// traffic by 0.0.0.0/1 and 128.0.0.0/1 is a default route in two halves.
const WIDEST: u8 = 8;

/// A subnet in use on the host and who uses it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsedSubnet {
    /// The addresses.
    pub subnet: Ipv4Net,
    /// Interface name.
    pub interface: String,
}

/// The IPv4 subnets of interfaces and routes, loopback and default routes left out.
///
/// # Errors
/// When the interfaces cannot be listed.
pub fn used_subnets() -> std::io::Result<Vec<UsedSubnet>> {
    let mut used = Vec::new();
    for interface in if_addrs::get_if_addrs()? {
        let if_addrs::IfAddr::V4(address) = &interface.addr else {
            continue;
        };
        if address.ip.is_loopback() {
            continue;
        }
        if let Ok(subnet) = Ipv4Net::with_netmask(address.ip, address.netmask) {
            used.push(UsedSubnet {
                subnet: subnet.trunc(),
                interface: interface.name.clone(),
            });
        }
    }
    // Without /proc the interfaces alone must do.
    let routes = std::fs::read_to_string("/proc/net/route").unwrap_or_default();
    for route in parse_routes(&routes) {
        if !used.contains(&route) {
            used.push(route);
        }
    }
    Ok(used)
}

/// A network of the configuration whose subnet the host uses too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clash {
    /// The network.
    pub network: NetworkName,
    /// nat or host-only.
    pub kind: NetworkKind,
    /// Its subnet.
    pub subnet: Ipv4Net,
    /// Who else has it.
    pub other: UsedSubnet,
}

impl std::fmt::Display for Clash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "network {} has {}, but {} of this host leads to {}",
            self.network, self.subnet, self.other.interface, self.other.subnet
        )
    }
}

impl Clash {
    /// The command that ends it.
    #[must_use]
    pub fn remedy(&self) -> String {
        format!("sharectl network renumber {}", self.network)
    }
}

/// Every network that clashes with the host, by name.
#[must_use]
pub fn clashes(config: &Config, used: &[UsedSubnet]) -> Vec<Clash> {
    let own = |network: &Network| network.kind != NetworkKind::Bridged;
    let clashes = config
        .networks
        .values()
        .filter(|n| own(n))
        .filter_map(|network| {
            // The host's own tap on the network is no clash.
            let tap = network.host_tap.map(|_| network.name.as_str());
            let others: Vec<UsedSubnet> = used
                .iter()
                .filter(|used| Some(used.interface.as_str()) != tap)
                .cloned()
                .collect();
            Some(Clash {
                network: network.name.clone(),
                kind: network.kind,
                subnet: network.subnet,
                other: clash(network.subnet, &others)?.clone(),
            })
        });
    clashes.collect()
}

/// The first used subnet that shares an address with `subnet`.
#[must_use]
pub fn clash(subnet: Ipv4Net, used: &[UsedSubnet]) -> Option<&UsedSubnet> {
    used.iter()
        .find(|u| u.subnet.contains(&subnet.network()) || subnet.contains(&u.subnet.network()))
}

/// The place of an address in another subnet, where that has one: its last part stays.
#[must_use]
pub fn moved(address: Ipv4Addr, from: Ipv4Net, to: Ipv4Net) -> Option<Ipv4Addr> {
    let part = u32::from(address).checked_sub(u32::from(from.network()))?;
    let there = Ipv4Addr::from(u32::from(to.network()).checked_add(part)?);
    // Beside the two ends: the gateway and host.internal.
    let (first, last) = (u32::from(to.network()) + 1, u32::from(to.broadcast()) - 1);
    (from.contains(&address) && (first + 1..last).contains(&u32::from(there))).then_some(there)
}

/// A /24 that clashes with nothing: 192.168.130.0 to 192.168.249.0, then 10.130.0.0 and up.
#[must_use]
pub fn free_subnet(used: &[UsedSubnet]) -> Option<Ipv4Net> {
    let in_192 = (130..250).map(|third| Ipv4Addr::new(192, 168, third, 0));
    let in_10 = (130..250)
        .flat_map(|second| (0..=255).map(move |third| Ipv4Addr::new(10, second, third, 0)));
    in_192
        .chain(in_10)
        .filter_map(|address| Ipv4Net::new(address, 24).ok())
        .find(|candidate| clash(*candidate, used).is_none())
}

/// `/proc/net/route`: interface, destination and mask as hex in the machine's byte order.
fn parse_routes(text: &str) -> Vec<UsedSubnet> {
    let parse = |line: &str| {
        let mut fields = line.split_whitespace();
        let interface = fields.next()?;
        let destination = u32::from_str_radix(fields.next()?, 16).ok()?;
        let mask = u32::from_str_radix(fields.nth(5)?, 16).ok()?;
        let subnet =
            Ipv4Net::with_netmask(destination.to_ne_bytes().into(), mask.to_ne_bytes().into())
                .ok()?;
        let counts = subnet.prefix_len() >= WIDEST && !IpAddr::V4(subnet.addr()).is_loopback();
        counts.then(|| UsedSubnet {
            subnet,
            interface: interface.to_owned(),
        })
    };
    text.lines().skip(1).filter_map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_endian = "little")]
    #[test]
    fn routes_read_and_default_routes_whole_or_in_halves_are_left_out() {
        let text = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
                    eth0\t00000000\t0102A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
                    tun0\t0000A8C0\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n\
                    tun1\t00000080\t00000000\t0001\t0\t0\t0\t00000080\t0\t0\t0\n\
                    bad line\n";
        let used = parse_routes(text);
        assert_eq!(used.len(), 1);
        assert_eq!(used[0].subnet.to_string(), "192.168.0.0/16");
        assert_eq!(used[0].interface, "tun0");
        assert_eq!(free_subnet(&used).unwrap().to_string(), "10.130.0.0/24");
    }

    #[test]
    fn clash_is_found_both_ways_round() {
        let used = [UsedSubnet {
            subnet: "192.168.130.128/25".parse().unwrap(),
            interface: "vpn0".to_owned(),
        }];
        assert!(clash("192.168.130.0/24".parse().unwrap(), &used).is_some());
        assert!(clash("192.168.130.200/30".parse().unwrap(), &used).is_some());
        assert!(clash("192.168.131.0/24".parse().unwrap(), &used).is_none());
        assert_eq!(free_subnet(&used).unwrap().to_string(), "192.168.131.0/24");
    }

    #[test]
    fn an_address_keeps_its_last_part_where_there_is_room() {
        for (address, from, to, there) in [
            (
                "192.168.130.9",
                "192.168.130.0/24",
                "10.9.0.0/24",
                Some("10.9.0.9"),
            ),
            ("10.1.2.9", "10.1.0.0/16", "10.9.0.0/16", Some("10.9.2.9")),
            ("192.168.130.9", "192.168.130.0/24", "10.9.0.0/29", None),
            ("192.168.130.254", "192.168.130.0/24", "10.9.0.0/24", None),
            ("192.168.131.9", "192.168.130.0/24", "10.9.0.0/24", None),
        ] {
            let found = moved(
                address.parse().unwrap(),
                from.parse().unwrap(),
                to.parse().unwrap(),
            );
            assert_eq!(
                found,
                there.map(|there| there.parse().unwrap()),
                "{address}"
            );
        }
    }

    #[test]
    fn this_machine_can_be_asked() {
        used_subnets().unwrap();
    }
}
