//! VMware's networks: `/etc/vmware/networking` (Linux, Fusion) and `nat.conf` (Windows, and all others), told apart by
//! what is in them.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use control::mac::MacAddress;
use control::names::{GuestName, NetworkName};
use ipnet::Ipv4Net;

use super::{BadFile, NetworkWish, Plan, PortWish, Target};

/// Reads the file. Ports lead to `guest`, or to whoever has the address that they lead to.
pub(crate) fn read(text: &str, guest: Option<&GuestName>) -> Result<Plan, BadFile> {
    let text = text.trim_start_matches('\u{feff}');
    let mut lines = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    match lines.next() {
        Some(line) if line.starts_with('[') => nat_conf(text, guest),
        _networking => networking(text, guest),
    }
}

/// What is said of one vmnet.
#[derive(Debug, Default)]
struct Net {
    line: usize,
    subnet: Option<Ipv4Addr>,
    mask: Option<Ipv4Addr>,
    nat: Option<bool>,
    interface: Option<String>,
}

fn networking(text: &str, guest: Option<&GuestName>) -> Result<Plan, BadFile> {
    let mut plan = Plan::default();
    let mut nets: BTreeMap<u32, Net> = BTreeMap::new();
    for (index, line) in text.lines().enumerate() {
        let number = index + 1;
        let bad = |what: &str| bad(number, line, what);
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            [] => {}
            [first, ..] if first.starts_with('#') || first.starts_with("VERSION=") => {}
            ["answer", key, rest @ ..] => {
                let value = rest.join(" ");
                let Some((vnet, key)) = key
                    .strip_prefix("VNET_")
                    .and_then(|key| key.split_once('_'))
                else {
                    plan.leave_out(number, line.trim(), "it is of VMware's own set-up");
                    continue;
                };
                let vnet: u32 = vnet
                    .parse()
                    .map_err(|_| bad("has no number behind VNET_"))?;
                let net = nets.entry(vnet).or_default();
                if net.line == 0 {
                    net.line = number;
                }
                let address = || value.parse().map_err(|_| bad("has no IPv4 address"));
                match key {
                    "HOSTONLY_SUBNET" => net.subnet = Some(address()?),
                    "HOSTONLY_NETMASK" => net.mask = Some(address()?),
                    "NAT" => net.nat = Some(value.eq_ignore_ascii_case("yes")),
                    "DHCP" if value.eq_ignore_ascii_case("yes") => {}
                    "DHCP" => plan.leave_out(number, format!("vmnet{vnet} without DHCP"), "networks have DHCP here; a guest with an address of its own need not ask"),
                    "VIRTUAL_ADAPTER" if value.eq_ignore_ascii_case("yes") => plan.leave_out(
                        number,
                        format!("the host's interface on vmnet{vnet}"),
                        format!("it needs root once: host-access = \"tap\" in [network.vmnet{vnet}], and sudo sharectl network host-tap create vmnet{vnet}"),
                    ),
                    // Off, how VMware calls it, and hashes of files it has made.
                    "VIRTUAL_ADAPTER" | "DISPLAY_NAME" | "DHCP_CFG_HASH" => {}
                    _another => plan.leave_out(number, line.trim(), "there is no such setting here"),
                }
            }
            [
                "add_nat_portfwd",
                _vnet,
                protocol,
                port,
                address,
                inside,
                ..,
            ] => {
                let address: Ipv4Addr = address.parse().map_err(|_| bad("has no IPv4 address"))?;
                let port: u16 = port.parse().map_err(|_| bad("has no port"))?;
                let inside: u16 = inside
                    .parse()
                    .map_err(|_| bad("has no port of the guest"))?;
                forward(
                    &mut plan,
                    number,
                    (protocol, port),
                    (address, inside),
                    guest,
                )
                .map_err(bad)?;
            }
            ["add_bridge_mapping", interface, vnet, ..] => {
                let vnet: u32 = vnet.parse().map_err(|_| bad("has no number of a vmnet"))?;
                let net = nets.entry(vnet).or_default();
                net.line = number;
                net.interface = Some((*interface).to_owned());
            }
            ["add_dhcp_mac_to_ip", _vnet, mac, address] => {
                let mac: MacAddress = mac.parse().map_err(|_| bad("has no MAC address"))?;
                let address = address.parse().map_err(|_| bad("has no IPv4 address"))?;
                plan.reservations.push((number, mac, address));
            }
            [
                "add_nat_portfwd" | "add_bridge_mapping" | "add_dhcp_mac_to_ip",
                ..,
            ] => return Err(bad("has too few words")),
            _another => plan.leave_out(number, line.trim(), "there is no such setting here"),
        }
    }
    for (vnet, net) in nets {
        wish(&mut plan, vnet, net)?;
    }
    Ok(plan)
}

fn wish(plan: &mut Plan, vnet: u32, net: Net) -> Result<(), BadFile> {
    let name = NetworkName::parse(&format!("vmnet{vnet}")).map_err(|error| BadFile {
        line: net.line,
        message: error.to_string(),
    })?;
    let mut fields = Vec::new();
    if let Some(interface) = net.interface {
        fields.push(("type", "bridged".to_owned()));
        fields.push(("interface", interface));
    } else {
        let kind = match net.nat {
            Some(true) => "nat",
            Some(false) => "host-only",
            None => "",
        };
        if !kind.is_empty() {
            fields.push(("type", kind.to_owned()));
        }
        if let Some(subnet) = net.subnet {
            let mask = net.mask.unwrap_or(Ipv4Addr::new(255, 255, 255, 0));
            let subnet = Ipv4Net::with_netmask(subnet, mask).map_err(|_| BadFile {
                line: net.line,
                message: format!("{mask} is not the mask of a network"),
            })?;
            fields.push(("subnet", subnet.trunc().to_string()));
        }
    }
    if !fields.is_empty() {
        plan.networks.push(NetworkWish { name, fields });
    }
    Ok(())
}

fn nat_conf(text: &str, guest: Option<&GuestName>) -> Result<Plan, BadFile> {
    let mut plan = Plan::default();
    let mut section = String::new();
    let mut told: Vec<String> = Vec::new();
    for (index, whole) in text.lines().enumerate() {
        let number = index + 1;
        let line = whole.trim();
        let bad = |what: &str| bad(number, line, what);
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        if let Some(rest) = line.strip_prefix('[') {
            section = rest
                .strip_suffix(']')
                .ok_or_else(|| bad("has no ] at its end"))?
                .to_ascii_lowercase();
            continue;
        }
        let (key, value) = line
            .split_once('=')
            .ok_or_else(|| bad("is not key = value"))?;
        let protocol = match section.as_str() {
            "incomingtcp" => "tcp",
            "incomingudp" => "udp",
            other => {
                if !told.iter().any(|told| told == other) {
                    told.push(other.to_owned());
                    plan.leave_out(
                        number,
                        format!("the section [{other}]"),
                        "it is of VMware's own NAT",
                    );
                }
                continue;
            }
        };
        let port: u16 = key
            .trim()
            .parse()
            .map_err(|_| bad("does not begin with a port"))?;
        let (address, inside) = value
            .trim()
            .split_once(':')
            .ok_or_else(|| bad("is not PORT = ADDRESS:PORT"))?;
        let address: Ipv4Addr = address
            .trim()
            .parse()
            .map_err(|_| bad("has no IPv4 address"))?;
        let inside: u16 = inside
            .trim()
            .parse()
            .map_err(|_| bad("has no port of the guest"))?;
        forward(
            &mut plan,
            number,
            (protocol, port),
            (address, inside),
            guest,
        )
        .map_err(bad)?;
    }
    Ok(plan)
}

/// VMware listens on all of the host's addresses, and so does this.
fn forward(
    plan: &mut Plan,
    line: usize,
    (protocol, port): (&str, u16),
    (address, inside): (Ipv4Addr, u16),
    guest: Option<&GuestName>,
) -> Result<(), &'static str> {
    let end = match protocol {
        "tcp" => "",
        "udp" => "/udp",
        _neither => return Err("names neither tcp nor udp"),
    };
    if port == 0 || inside == 0 {
        return Err("has the port 0");
    }
    plan.ports.push(PortWish {
        line,
        target: guest.map_or(Target::Address(address), |guest| {
            Target::Guest(guest.clone())
        }),
        spec: format!("0.0.0.0:{port}:{inside}{end}"),
    });
    Ok(())
}

fn bad(line: usize, text: &str, what: &str) -> BadFile {
    let shown: String = text.trim().chars().take(60).collect();
    BadFile {
        line,
        message: format!("\"{}\" {what}", shown.escape_debug()),
    }
}
