//! The routes of gvproxy's API that scripts and VM managers use, answered with our own means:
//! `/services/forwarder/{all,expose,unexpose}` and `/services/dhcp/leases` (gvisor-tap-vsock,
//! pkg/services/forwarder and pkg/services/dhcp). Not served: unix, npipe and ssh-tunnel forwards.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use control::failure::{Failure, FailureKind};
use control::mac::MacAddress;
use control::names::GuestName;
use control::port::{PortRange, PortSpec, Protocol};
use control::server::Api;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::services::state::State;

/// gvproxy's own field names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
struct Forward {
    /// `address:port` on the host; `:port` is every address.
    local: String,
    /// `address:port` of the guest.
    #[serde(default)]
    remote: String,
    /// tcp unless said otherwise.
    #[serde(default = "tcp")]
    protocol: String,
}

fn tcp() -> String {
    "tcp".to_owned()
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
        async |state: Arc<State>, _, forward: Forward| {
            let (guest, spec) = find_guest(&state, &forward).await?;
            state.publish(&guest, &spec).await.map(drop)
        },
    )
    .post(
        "/services/forwarder/unexpose",
        "gvproxy: take a port back",
        async |state: Arc<State>, _, forward: Forward| {
            let (local, protocol) = (local(&forward)?, protocol(&forward)?);
            let published = state.port_list().await;
            let found = published.iter().find(|port| {
                port.spec.protocol == protocol
                    && port.spec.host.count() == 1
                    && port.listening.contains(&local)
            });
            let port = found.ok_or_else(|| {
                Failure::not_found(format!("nothing is published on {local}/{protocol}"))
            })?;
            state.unpublish(&port.guest, &port.spec).await.map(drop)
        },
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
        for local in &port.listening {
            let guest_port = port
                .spec
                .pairs()
                .find(|(host, _)| *host == local.port())
                .map_or(0, |(_, guest)| guest);
            found.push(Forward {
                local: local.to_string(),
                remote: format!("{address}:{guest_port}"),
                protocol: port.spec.protocol.to_string(),
            });
        }
    }
    Ok(found)
}

async fn find_guest(state: &State, forward: &Forward) -> Result<(GuestName, PortSpec), Failure> {
    let (local, protocol) = (local(forward)?, protocol(forward)?);
    let remote: SocketAddr = forward.remote.parse().map_err(|_| {
        Failure::invalid(format!(
            "remote \"{}\" is not ADDRESS:PORT",
            forward.remote.escape_debug()
        ))
    })?;
    let one = |port: u16, what: &str| match port {
        0 => Err(Failure::invalid(format!("port 0 of {what} names no port"))),
        port => Ok(PortRange {
            first: port,
            last: port,
        }),
    };
    let spec = PortSpec {
        bind: Some(local.ip()),
        host: one(local.port(), "local")?,
        guest: one(remote.port(), "remote")?,
        protocol,
    };
    for network in state.networks() {
        let guests = network.services().await?.guests;
        if let Some((guest, _)) = guests
            .iter()
            .find(|(_, address)| IpAddr::V4(**address) == remote.ip())
        {
            return Ok((guest.clone(), spec));
        }
    }
    Err(Failure::not_found(format!(
        "no guest of the configuration has the address {}",
        remote.ip()
    )))
}

fn local(forward: &Forward) -> Result<SocketAddr, Failure> {
    let text = match forward.local.strip_prefix(':') {
        Some(port) => format!("0.0.0.0:{port}"),
        None => forward.local.clone(),
    };
    text.parse().map_err(|_| {
        Failure::invalid(format!(
            "local \"{}\" is not ADDRESS:PORT",
            forward.local.escape_debug()
        ))
    })
}

fn protocol(forward: &Forward) -> Result<Protocol, Failure> {
    match forward.protocol.as_str() {
        "tcp" => Ok(Protocol::Tcp),
        "udp" => Ok(Protocol::Udp),
        other => Err(Failure::new(
            FailureKind::Unsupported,
            format!(
                "protocol \"{}\" is not served, only tcp and udp",
                other.escape_debug()
            ),
        )),
    }
}
