//! The routes of gvproxy's API that scripts and VM managers use, answered with our own means:
//! `/services/forwarder/{all,expose,unexpose}` for tcp, udp and unix, and `/services/dhcp/leases` (gvisor-tap-vsock,
//! pkg/services/forwarder and pkg/services/dhcp), with its words for what goes wrong; DNS is in gvproxy_dns.rs. Not served: npipe (it is
//! Windows') and ssh-tunnel (a unix socket of the guest has no port; publish the guest's TCP port instead).

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use control::api::PortStatus;
use control::failure::{Failure, FailureKind};
use control::mac::MacAddress;
use control::names::GuestName;
use control::port::{Endpoint, HostSide, PortRange, PortSpec, Protocol};
use control::server::Api;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::services::state::State;

/// gvproxy's own field names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
struct Forward {
    /// `address:port` on the host, `:port` for every address, or a unix socket's path.
    local: String,
    /// `address:port` of the guest; for a unix socket `tcp://address:port`.
    #[serde(default)]
    remote: String,
    /// tcp, udp or unix; tcp unless said otherwise.
    #[serde(default)]
    protocol: String,
}

/// A [`Forward`]'s host side, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Local {
    /// More than one for `:port`: the first must be had, the others where they can.
    places: Vec<Endpoint>,
    protocol: Protocol,
}

pub(super) fn add_routes(api: Api<Arc<State>>) -> Api<Arc<State>> {
    api.get(
        "/services/forwarder/all",
        "gvproxy: published ports",
        async |state: Arc<State>, _| all(&state).await,
    )
    .post(
        "/services/forwarder/expose",
        "gvproxy: publish a port",
        async |state: Arc<State>, _, forward: Forward| expose(&state, &forward).await,
    )
    .post(
        "/services/forwarder/unexpose",
        "gvproxy: take a port back",
        async |state: Arc<State>, _, forward: Forward| unexpose(&state, &forward).await,
    )
    .get(
        "/services/dhcp/leases",
        "gvproxy: leases as address to MAC",
        async |state: Arc<State>, _| {
            let mut leases = BTreeMap::<Ipv4Addr, MacAddress>::new();
            for network in state.networks() {
                leases.extend(
                    network
                        .services()
                        .await?
                        .leases
                        .iter()
                        .map(|lease| (lease.address, lease.mac)),
                );
            }
            Ok::<_, Failure>(leases)
        },
    )
}

async fn all(state: &State) -> Result<Vec<Forward>, Failure> {
    let mut addresses = BTreeMap::new();
    for network in state.networks() {
        addresses.extend(network.services().await?.guests);
    }
    let mut found = Vec::new();
    for port in state.port_list().await {
        let Some(address) = addresses.get(&port.guest) else {
            continue;
        };
        found.extend(port.listening.iter().map(|place| match place {
            Endpoint::Address(local) => Forward {
                local: local.to_string(),
                remote: format!("{address}:{}", guest_port(&port, local.port())),
                protocol: port.spec.protocol.to_string(),
            },
            Endpoint::Unix(path) => Forward {
                local: path.display().to_string(),
                remote: format!("tcp://{address}:{}", port.spec.guest.first),
                protocol: "unix".to_owned(),
            },
        }));
    }
    found.sort();
    Ok(found)
}

/// Where a host port of an entry leads.
fn guest_port(port: &PortStatus, host: u16) -> u16 {
    let lead = port.leads.iter().find(|lead| lead.host == Some(host));
    lead.map_or(port.spec.guest.first, |lead| lead.guest)
}

async fn expose(state: &State, forward: &Forward) -> Result<(), Failure> {
    let local = local(forward)?;
    let (guest, port) = find_guest(state, forward).await?;
    let published = state.port_list().await;
    if local
        .places
        .iter()
        .any(|place| find(&published, &local, place).is_some())
    {
        return Err(Failure::conflict(format!(
            "proxy already running for {} on {}",
            word(forward),
            forward.local.escape_debug()
        ))
        .with_hint("see all: sharectl port ls"));
    }
    for (number, place) in local.places.iter().enumerate() {
        let spec = match place {
            Endpoint::Address(address) => PortSpec::single(*address, port, local.protocol),
            Endpoint::Unix(path) => PortSpec {
                host: HostSide::Unix(path.clone()),
                guest: PortRange {
                    first: port,
                    last: port,
                },
                protocol: Protocol::Tcp,
            },
        };
        match state.publish(&guest, &spec).await {
            Ok(_) => {}
            // The host may have no IPv6, or the port may be free in one family alone.
            Err(failure) if number > 0 => tracing::info!(%spec, %failure, "not in this family"),
            Err(failure) => return Err(failure),
        }
    }
    Ok(())
}

async fn unexpose(state: &State, forward: &Forward) -> Result<(), Failure> {
    let local = local(forward)?;
    let published = state.port_list().await;
    let mut found = false;
    for place in &local.places {
        if let Some(port) = find(&published, &local, place) {
            state.unpublish(&port.guest, &port.spec).await?;
            found = true;
        }
    }
    if found {
        return Ok(());
    }
    Err(Failure::not_found("proxy not found").with_hint(format!(
        "nothing is published on {} for {}: sharectl port ls",
        forward.local.escape_debug(),
        word(forward)
    )))
}

/// The single entry that listens at a place.
fn find<'p>(
    published: &'p [PortStatus],
    local: &Local,
    place: &Endpoint,
) -> Option<&'p PortStatus> {
    published.iter().find(|port| {
        port.spec.protocol == local.protocol
            && port.spec.guest.count() == 1
            && port.listening.contains(place)
    })
}

fn word(forward: &Forward) -> String {
    match forward.protocol.as_str() {
        "" => "tcp".to_owned(),
        other => other.escape_debug().to_string(),
    }
}

/// The guest with the remote address, and its port.
async fn find_guest(state: &State, forward: &Forward) -> Result<(GuestName, u16), Failure> {
    let invalid = || {
        Failure::invalid(format!(
            "invalid remote addr \"{}\"",
            forward.remote.escape_debug()
        ))
        .with_hint("tcp and udp: ADDRESS:PORT of the guest; unix: tcp://ADDRESS:PORT")
    };
    let remote = if forward.protocol == "unix" {
        match forward.remote.split_once("://") {
            Some(("tcp", rest)) => rest.trim_end_matches('/'),
            Some((scheme, _)) => {
                return Err(Failure::new(
                    FailureKind::Unsupported,
                    format!(
                        "a unix forwarder leads to tcp://ADDRESS:PORT of a guest, not to {}://",
                        scheme.escape_debug()
                    ),
                ));
            }
            None => return Err(invalid()),
        }
    } else {
        &forward.remote
    };
    let (address, port) = remote.rsplit_once(':').ok_or_else(invalid)?;
    let port: u16 = port
        .parse()
        .ok()
        .filter(|port| *port != 0)
        .ok_or_else(invalid)?;
    if address.is_empty() {
        // gvproxy takes the caller's address; ours comes over a unix socket and has none.
        let config = state.config();
        let mut guests = config.guests.keys();
        return match (guests.next(), guests.next()) {
            (Some(only), None) => Ok((only.clone(), port)),
            _none_or_several => Err(invalid()),
        };
    }
    let address: Ipv4Addr = address.parse().map_err(|_| invalid())?;
    for network in state.networks() {
        let guests = network.services().await?.guests;
        if let Some((guest, _)) = guests.iter().find(|(_, theirs)| **theirs == address) {
            return Ok((guest.clone(), port));
        }
    }
    Err(Failure::not_found(format!(
        "no guest of the configuration has the address {address}"
    )))
}

fn local(forward: &Forward) -> Result<Local, Failure> {
    let shown = forward.local.escape_debug();
    let protocol = match forward.protocol.as_str() {
        "" | "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        "unix" => {
            let path = format!("unix:{}", forward.local);
            let place: Endpoint = path
                .parse()
                .map_err(|error: control::port::EndpointError| {
                    Failure::invalid(error.to_string())
                })?;
            return Ok(Local {
                places: vec![place],
                protocol: Protocol::Tcp,
            });
        }
        "npipe" => {
            return Err(Failure::new(
                FailureKind::Unsupported,
                "protocol npipe is for Windows; on this host use unix",
            ));
        }
        other => {
            return Err(Failure::invalid(format!(
                "unknown protocol {}",
                other.escape_debug()
            )));
        }
    };
    let bad = || Failure::invalid(format!("local \"{shown}\" is not ADDRESS:PORT or :PORT"));
    let (address, port) = forward.local.rsplit_once(':').ok_or_else(bad)?;
    let port: u16 = port
        .parse()
        .ok()
        .filter(|port| *port != 0)
        .ok_or_else(bad)?;
    let (v4, v6) = (Ipv4Addr::UNSPECIFIED, Ipv6Addr::UNSPECIFIED);
    let addresses: Vec<IpAddr> = match address {
        "" => vec![v4.into(), v6.into()],
        "localhost" => vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
        one => {
            let one = one
                .strip_prefix('[')
                .and_then(|one| one.strip_suffix(']'))
                .unwrap_or(one);
            vec![one.parse().map_err(|_| bad())?]
        }
    };
    let places = addresses
        .into_iter()
        .map(|address| Endpoint::Address(SocketAddr::new(address, port)))
        .collect();
    Ok(Local { places, protocol })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn understood(local_text: &str, protocol: &str) -> Result<Vec<String>, String> {
        let forward = Forward {
            local: local_text.to_owned(),
            remote: String::new(),
            protocol: protocol.to_owned(),
        };
        let places = local(&forward).map_err(|failure| failure.message)?.places;
        Ok(places.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn gvproxys_places_are_understood() {
        for (text, protocol, places) in [
            (":8080", "", &["0.0.0.0:8080", "[::]:8080"][..]),
            ("127.0.0.1:53", "udp", &["127.0.0.1:53"]),
            ("[::1]:53", "tcp", &["[::1]:53"]),
            ("localhost:80", "tcp", &["127.0.0.1:80", "[::1]:80"]),
            ("/run/x.sock", "unix", &["unix:/run/x.sock"]),
        ] {
            assert_eq!(understood(text, protocol).unwrap(), places, "{text}");
        }
        for (text, protocol, message) in [
            ("8080", "tcp", "local \"8080\" is not"),
            (":0", "tcp", "local \":0\" is not"),
            ("example:80", "tcp", "is not ADDRESS:PORT"),
            ("run/x.sock", "unix", "must be absolute"),
            ("x", "npipe", "npipe is for Windows"),
            ("x", "sctp", "unknown protocol sctp"),
        ] {
            let error = understood(text, protocol).unwrap_err();
            assert!(error.contains(message), "{error}");
        }
    }
}
