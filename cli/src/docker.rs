//! The Docker engine of a guest, as clients on the host reach it: by what the guest publishes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use control::config::{Config, Guest};
use control::names::GuestName;
use control::port::{Endpoint, HostSide, PortSpec, Protocol};
use control::translation::quoted;

/// Where an engine listens by custom, without TLS.
const ENGINE_PORT: u16 = 2375;

/// What DOCKER_HOST has to be; none where the guest publishes no engine.
pub(crate) fn host(guest: &Guest) -> Option<String> {
    place(guest).map(|place| match place {
        Endpoint::Unix(path) => format!("unix://{}", path.display()),
        Endpoint::Address(address) => format!("tcp://{address}"),
    })
}

/// Where the guest's engine is reached on this host; none where the guest publishes no engine.
pub(crate) fn place(guest: &Guest) -> Option<Endpoint> {
    let sockets = guest.publish.iter().filter_map(|spec| match &spec.host {
        HostSide::Unix(path) => {
            let is_engine = spec.guest.first == ENGINE_PORT
                || path.file_name().is_some_and(|name| name == "docker.sock");
            is_engine.then(|| Endpoint::Unix(path.clone()))
        }
        HostSide::Ports { .. } => None,
    });
    // A socket is its owner's alone, a port everybody's on this host.
    sockets
        .chain(guest.publish.iter().filter_map(|spec| tcp(guest, spec)))
        .next()
}

fn tcp(guest: &Guest, spec: &PortSpec) -> Option<Endpoint> {
    let (Some(port), _) = spec.pairs().find(|(_, inside)| *inside == ENGINE_PORT)? else {
        return None;
    };
    let address = match spec.bind() {
        None => guest.host_address.into(),
        // All addresses are none to connect to.
        Some(IpAddr::V4(address)) if address.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        Some(IpAddr::V6(address)) if address.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        Some(address) => address,
    };
    (spec.protocol == Protocol::Tcp)
        .then(|| Endpoint::Address(std::net::SocketAddr::new(address, port)))
}

/// The guest that was named, or the only one.
pub(crate) fn guest<'c>(config: &'c Config, name: Option<&GuestName>) -> Option<&'c Guest> {
    match name {
        Some(name) => config.guests.get(name),
        None => Some(config.guests.values())
            .filter(|guests| guests.len() == 1)?
            .next(),
    }
}

/// What makes a guest's engine reachable, as a command.
pub(crate) fn advice(guest: Option<&Guest>, runtime: &std::path::Path) -> String {
    let name = guest.map_or("GUEST", |guest| guest.name.as_str());
    let socket = runtime.join("docker.sock").display().to_string();
    format!(
        "sharectl port publish {name} {}",
        quoted(&format!("unix:{socket}:{ENGINE_PORT}"))
    )
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use control::config::Surroundings;

    use super::*;

    #[test]
    fn the_published_engine_is_found() {
        for (publish, expected) in [
            (r#""8080:80""#, None),
            (r#""2375:2375""#, Some("tcp://127.64.0.1:2375")),
            (r#""127.0.0.1:12375:2375""#, Some("tcp://127.0.0.1:12375")),
            (r#""0.0.0.0:2375:2375""#, Some("tcp://127.0.0.1:2375")),
            (r#""[::]:2375:2375""#, Some("tcp://[::1]:2375")),
            (r#"":2375""#, None),
            (r#""2375:2375/udp""#, None),
            (
                r#""2375:2375", "unix:/run/x.sock:2375""#,
                Some("unix:///run/x.sock"),
            ),
            (
                r#""unix:/run/a/docker.sock:99""#,
                Some("unix:///run/a/docker.sock"),
            ),
            (r#""unix:/run/a/db.sock:99""#, None),
        ] {
            let text =
                format!("[guest.dev]\nhost-address = \"127.64.0.1\"\npublish = [{publish}]\n");
            let config = Config::parse(&text, Path::new("c"), &Surroundings::of_process()).unwrap();
            assert_eq!(
                host(guest(&config, None).unwrap()).as_deref(),
                expected,
                "{publish}"
            );
        }
    }
}
