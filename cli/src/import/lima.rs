//! Lima's lima.yaml: mounts, forwarded ports, the network.

use control::mac::MacAddress;
use control::names::{GuestName, NetworkName, ShareName};
use serde::Deserialize;
use serde_saphyr::Spanned;

use super::{BadFile, GuestWish, NetworkWish, Plan, PortWish, ShareWish, Target, plain_name};

/// What is read of the file; the rest is Lima's own.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Lima {
    mounts: Option<Vec<Spanned<Mount>>>,
    port_forwards: Option<Vec<Spanned<Forward>>>,
    networks: Option<Vec<Spanned<Net>>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Mount {
    location: Option<String>,
    mount_point: Option<String>,
    writable: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Forward {
    guest_port: Option<u16>,
    guest_port_range: Option<[u16; 2]>,
    host_port: Option<u16>,
    host_port_range: Option<[u16; 2]>,
    #[serde(rename = "hostIP")]
    host_ip: Option<std::net::IpAddr>,
    proto: Option<String>,
    guest_socket: Option<String>,
    host_socket: Option<String>,
    ignore: Option<bool>,
    reverse: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Net {
    lima: Option<String>,
    socket: Option<String>,
    #[serde(rename = "vzNAT")]
    vz_nat: Option<bool>,
    mac_address: Option<String>,
}

/// Reads the file of the machine that is `guest` here.
pub(crate) fn read(text: &str, guest: GuestName) -> Result<Plan, BadFile> {
    let lima: Lima = serde_saphyr::from_str(text).map_err(|error| {
        let line = error
            .location()
            .map_or(1, |place| usize::try_from(place.line()).unwrap_or(1));
        let message = error.without_snippet().to_string();
        BadFile {
            line,
            message: message.lines().next().unwrap_or_default().to_owned(),
        }
    })?;
    let mut plan = Plan::default();
    networks(&mut plan, lima.networks.unwrap_or_default(), &guest)?;
    for mount in lima.mounts.unwrap_or_default() {
        share(&mut plan, line(&mount), mount.value, &guest);
    }
    for forward in lima.port_forwards.unwrap_or_default() {
        port(&mut plan, line(&forward), &forward.value, &guest)?;
    }
    Ok(plan)
}

fn line<T>(spanned: &Spanned<T>) -> usize {
    usize::try_from(spanned.referenced.line()).unwrap_or(1)
}

fn networks(
    plan: &mut Plan,
    networks: Vec<Spanned<Net>>,
    guest: &GuestName,
) -> Result<(), BadFile> {
    let mut wish = GuestWish {
        line: 1,
        name: guest.clone(),
        network: None,
        mac: None,
    };
    for (index, net) in networks.into_iter().enumerate() {
        let (line, net) = (line(&net), net.value);
        let called = net.lima.clone().or_else(|| net.socket.clone());
        let called = called.unwrap_or_else(|| {
            if net.vz_nat == Some(true) {
                "vzNAT".to_owned()
            } else {
                "user".to_owned()
            }
        });
        if index > 0 {
            plan.leave_out(
                line,
                format!("the network {called}"),
                "a guest has one card here",
            );
            continue;
        }
        wish.line = line;
        if let Some(text) = &net.mac_address {
            let mac: MacAddress =
                text.parse()
                    .map_err(|error: control::mac::MacError| BadFile {
                        line,
                        message: error.to_string(),
                    })?;
            wish.mac = Some(mac);
        }
        let name = match net.lima.as_deref() {
            Some("bridged") => "vmnet0",
            Some("host") => "vmnet1",
            Some("shared" | "user-v2") | None => continue,
            Some(_) => {
                plan.leave_out(line, format!("the network {called}"), "what it is stands in Lima's networks.yaml; the guest is on the default network");
                continue;
            }
        };
        if let Ok(name) = NetworkName::parse(name) {
            plan.networks.push(NetworkWish {
                name: name.clone(),
                fields: Vec::new(),
            });
            wish.network = Some(name);
        }
    }
    plan.guests.push(wish);
    Ok(())
}

fn share(plan: &mut Plan, line: usize, mount: Mount, guest: &GuestName) {
    let Some(location) = mount.location else {
        plan.leave_out(line, "a mount without location", "it names no folder");
        return;
    };
    let path = location.replace("{{.Home}}", "~");
    let at = mount.mount_point.filter(|at| *at != location);
    let template = |text: &str| text.contains("{{");
    if template(&path) || at.as_deref().is_some_and(template) {
        plan.leave_out(
            line,
            format!("the mount {location}"),
            "only Lima knows what stands for {{...}}",
        );
        return;
    }
    let last = path
        .trim_end_matches('/')
        .rsplit('/')
        .next()
        .unwrap_or_default();
    let name = if last == "~" { "home" } else { last };
    let Some(name) =
        plain_name(name, ShareName::LIMIT).and_then(|name| ShareName::parse(&name).ok())
    else {
        plan.leave_out(
            line,
            format!("the mount {location}"),
            "no name of a share can be made of it",
        );
        return;
    };
    plan.shares.push(ShareWish {
        line,
        name,
        path,
        at,
        // As Lima has it where nothing is said.
        read_only: mount.writable != Some(true),
        guest: guest.clone(),
    });
}

fn port(plan: &mut Plan, line: usize, forward: &Forward, guest: &GuestName) -> Result<(), BadFile> {
    if forward.ignore == Some(true) {
        plan.leave_out(
            line,
            "a port that is not forwarded",
            "nothing is forwarded here that is not named",
        );
        return Ok(());
    }
    if let Some(socket) = forward
        .guest_socket
        .as_ref()
        .or(forward.host_socket.as_ref())
    {
        plan.leave_out(
            line,
            format!("the socket {socket}"),
            "it ends at a socket in the guest, and TCP ports are published here: let its service listen on one, then sharectl port publish GUEST unix:/PATH:PORT",
        );
        return Ok(());
    }
    if forward.reverse == Some(true) {
        plan.leave_out(
            line,
            "a reverse forward",
            "services of the host are offered to all guests: sharectl port offer",
        );
        return Ok(());
    }
    let bad = |message: &str| BadFile {
        line,
        message: message.to_owned(),
    };
    let inside = forward
        .guest_port_range
        .or_else(|| forward.guest_port.map(|port| [port, port]));
    let [first, last] = inside
        .or(forward.host_port_range)
        .or_else(|| forward.host_port.map(|port| [port, port]))
        .ok_or_else(|| bad("this forward has no guestPort"))?;
    let [from, to] = forward
        .host_port_range
        .or_else(|| forward.host_port.map(|port| [port, port]))
        .unwrap_or([first, last]);
    if [first, 65535] == [1, last] {
        plan.leave_out(
            line,
            "all ports",
            "name those that you use: sharectl port publish",
        );
        return Ok(());
    }
    if first == 0 || from == 0 || first > last || to.checked_sub(from) != last.checked_sub(first) {
        return Err(bad(
            "the ports of this forward are not as many on both sides",
        ));
    }
    let range = |first: u16, last: u16| {
        if first == last {
            first.to_string()
        } else {
            format!("{first}-{last}")
        }
    };
    let address = match forward.host_ip {
        // Ours is where a guest's ports are, and localhost besides.
        None => String::new(),
        Some(address) if address.is_loopback() => String::new(),
        Some(std::net::IpAddr::V6(address)) => format!("[{address}]:"),
        Some(std::net::IpAddr::V4(address)) => format!("{address}:"),
    };
    let ends: &[&str] = match forward.proto.as_deref() {
        None | Some("tcp") => &[""],
        Some("udp") => &["/udp"],
        Some("any") => &["", "/udp"],
        Some(_) => return Err(bad("proto is none of tcp, udp, any")),
    };
    for end in ends {
        plan.ports.push(PortWish {
            line,
            target: Target::Guest(guest.clone()),
            spec: format!("{address}{}:{}{end}", range(from, to), range(first, last)),
        });
    }
    Ok(())
}
