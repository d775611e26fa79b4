//! An interface of this host as a bridged network needs it: is it there and up, can it carry guests' frames,
//! and which IPv4 address does the host have on it.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use ipnet::Ipv4Net;

use crate::mac::MacAddress;

/// Ethernet (linux/if_arp.h).
const ETHERNET: &str = "1";
/// IFF_UP (linux/if.h).
const UP: u32 = 1;

/// What is known of an interface now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostInterface {
    /// Its name.
    pub name: String,
    /// The kernel's number.
    pub index: u32,
    /// Its Ethernet address.
    pub mac: MacAddress,
    /// The largest IP packet.
    pub mtu: u16,
    /// The host's first address on it, with the prefix.
    pub address: Option<Ipv4Net>,
}

/// Why an interface cannot serve.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InterfaceError {
    /// No interface was named and none leads to everywhere.
    #[error("this host has no default route, so no interface of it leads to a LAN")]
    NoDefault,
    /// There is none of that name.
    #[error("this host has no interface {0}")]
    Missing(String),
    /// It is switched off.
    #[error("interface {0} is down")]
    Down(String),
    /// One address only: the access point would drop guests' frames.
    #[error(
        "interface {0} is Wi-Fi, whose access point takes frames of one Ethernet address only: guests cannot be bridged to it"
    )]
    Wireless(String),
    /// A tunnel or the loopback.
    #[error("interface {0} is no Ethernet, so guests cannot be bridged to it")]
    NotEthernet(String),
}

impl InterfaceError {
    /// What to do about it, for the network `network`.
    #[must_use]
    pub fn hint(&self, network: &str) -> String {
        match self {
            Self::NoDefault => {
                format!(
                    "name one: interface = \"...\" in [network.{network}]; ip -brief link lists them"
                )
            }
            Self::Missing(_) => {
                "it is used as soon as it is there; ip -brief link lists them".to_owned()
            }
            Self::Down(name) => format!("sudo ip link set {name} up; it is used at once"),
            Self::Wireless(_) | Self::NotEthernet(_) => format!(
                "use a cable and name its interface, or type = \"nat\" in [network.{network}]"
            ),
        }
    }
}

/// The interface of that name, or without one that of the default route, if guests can be bridged to it.
///
/// # Errors
/// Why not.
pub fn bridgeable(wanted: Option<&str>) -> Result<HostInterface, InterfaceError> {
    let name = match wanted {
        Some(name) => name.to_owned(),
        None => default_interface(&fs::read_to_string("/proc/net/route").unwrap_or_default())
            .ok_or(InterfaceError::NoDefault)?,
    };
    look(Path::new("/sys/class/net"), name)
}

fn look(interfaces: &Path, name: String) -> Result<HostInterface, InterfaceError> {
    let folder = interfaces.join(&name);
    let field = |what: &str| -> Option<String> {
        let text = fs::read_to_string(folder.join(what)).ok()?;
        Some(text.trim().to_owned())
    };
    // A name with a slash is none (and would lead elsewhere).
    let plain = !name.contains('/') && name != ".." && !name.is_empty();
    let missing = || InterfaceError::Missing(name.clone());
    let Some(kind) = field("type").filter(|_| plain) else {
        return Err(missing());
    };
    if kind != ETHERNET {
        return Err(InterfaceError::NotEthernet(name));
    }
    if folder.join("wireless").exists() || folder.join("phy80211").exists() {
        return Err(InterfaceError::Wireless(name));
    }
    let flags =
        field("flags").and_then(|text| u32::from_str_radix(text.trim_start_matches("0x"), 16).ok());
    if flags.ok_or_else(missing)? & UP == 0 {
        return Err(InterfaceError::Down(name));
    }
    let number = |what| field(what)?.parse::<u32>().ok();
    Ok(HostInterface {
        index: number("ifindex").ok_or_else(missing)?,
        mac: field("address")
            .and_then(|text| text.parse().ok())
            .ok_or_else(missing)?,
        mtu: u16::try_from(number("mtu").ok_or_else(missing)?).unwrap_or(u16::MAX),
        address: address_of(&name),
        name,
    })
}

fn address_of(interface: &str) -> Option<Ipv4Net> {
    let interfaces = if_addrs::get_if_addrs().ok()?;
    let found = interfaces.into_iter().filter(|i| i.name == interface);
    found
        .filter_map(|i| match i.addr {
            if_addrs::IfAddr::V4(address) => {
                Ipv4Net::with_netmask(address.ip, address.netmask).ok()
            }
            if_addrs::IfAddr::V6(_) => None,
        })
        .next()
}

/// Of the default routes in `/proc/net/route` the one of the lowest metric.
fn default_interface(routes: &str) -> Option<String> {
    let default = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [interface, destination, _, _, _, _, metric, mask, ..] = fields.as_slice() else {
            return None;
        };
        let metric: u32 = metric.parse().ok()?;
        (*destination == "00000000" && *mask == "00000000")
            .then(|| (metric, (*interface).to_owned()))
    };
    let routes = routes.lines().skip(1).filter_map(default);
    routes.min().map(|(_, interface)| interface)
}

/// The tap of a network on this host, as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostTap {
    /// The kernel's number: another one is another interface of that name.
    pub index: u32,
    /// Its Ethernet address, which is the host's on the network.
    pub mac: MacAddress,
    /// The user who may open it; none: root alone.
    pub owner: Option<u32>,
    /// Switched on.
    pub up: bool,
    /// The addresses on it.
    pub addresses: Vec<IpAddr>,
}

/// Looks at the tap `name`; `None` if there is no such tap.
#[must_use]
pub fn host_tap(name: &str) -> Option<HostTap> {
    let folder: PathBuf = Path::new("/sys/class/net").join(name);
    let field = |what: &str| -> Option<String> {
        let text = fs::read_to_string(folder.join(what)).ok()?;
        Some(text.trim().to_owned())
    };
    field("tun_flags")?;
    let flags =
        field("flags").and_then(|text| u32::from_str_radix(text.trim_start_matches("0x"), 16).ok());
    let interfaces = if_addrs::get_if_addrs().unwrap_or_default();
    Some(HostTap {
        index: field("ifindex")?.parse().ok()?,
        mac: field("address")?.parse().ok()?,
        owner: field("owner")?.parse().ok(),
        up: flags.unwrap_or(0) & UP != 0,
        addresses: interfaces
            .into_iter()
            .filter(|interface| interface.name == name)
            .map(|interface| interface.ip())
            .collect(),
    })
}

impl HostTap {
    /// Whether the address stands on it.
    #[must_use]
    pub fn has(&self, address: Ipv4Addr) -> bool {
        self.addresses.contains(&IpAddr::V4(address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_interface_is_that_of_the_lowest_metric() {
        let text = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
                    wlan0\t00000000\t0102A8C0\t0003\t0\t0\t600\t00000000\t0\t0\t0\n\
                    eth0\t00000000\t0102A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0\n\
                    tun0\t0000A8C0\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n";
        assert_eq!(default_interface(text).as_deref(), Some("eth0"));
        assert_eq!(default_interface("Iface\n"), None);
    }

    #[test]
    fn each_interface_that_cannot_serve_says_why() {
        let folder = tempfile::tempdir().unwrap();
        let make = |name: &str, kind: &str, flags: &str| {
            let interface = folder.path().join(name);
            fs::create_dir(&interface).unwrap();
            for (file, text) in [
                ("type", kind),
                ("flags", flags),
                ("ifindex", "7"),
                ("address", "52:54:00:00:00:01"),
                ("mtu", "1500"),
            ] {
                fs::write(interface.join(file), format!("{text}\n")).unwrap();
            }
        };
        make("eth0", "1", "0x1003");
        make("off0", "1", "0x1002");
        make("tun0", "65534", "0x1003");
        make("wlan0", "1", "0x1003");
        fs::create_dir(folder.path().join("wlan0/phy80211")).unwrap();
        let look = |name: &str| look(folder.path(), name.to_owned());
        assert_eq!(look("eth0").unwrap().index, 7);
        let name = |name: &str| name.to_owned();
        for (found, expected) in [
            (look("off0"), InterfaceError::Down(name("off0"))),
            (look("tun0"), InterfaceError::NotEthernet(name("tun0"))),
            (look("wlan0"), InterfaceError::Wireless(name("wlan0"))),
            (look("eth1"), InterfaceError::Missing(name("eth1"))),
            (look("../eth0"), InterfaceError::Missing(name("../eth0"))),
        ] {
            assert_eq!(found.unwrap_err(), expected);
        }
    }
}
