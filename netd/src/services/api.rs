//! The control API: which request does what. See control::server for the protocol and its limits.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use control::api::{
    Changes, DaemonStatus, FlowStatus, GuestStatus, LinkStatus, NetworkStatus, PolicyAnswer,
    PortRequest, PortStatus,
};
use control::config::{Config, Network, NetworkKind};
use control::egress::FlowQuestion;
use control::events::timestamp;
use control::failure::Failure;
use control::host_interface::HostInterface;
use control::names::GuestName;
use control::server::{Api, Params};

use crate::datapath::{LinkSnapshot, Snapshot};
use crate::engine::services::LinkId;
use crate::services::captures;
use crate::services::journal::ClockPair;
use crate::services::metrics;
use crate::services::network::{LinkRecord, RunningNetwork, ServicesView};
use crate::services::presence;
use crate::services::state::State;
use crate::services::{dns_api, gvproxy, gvproxy_dns};

type Shared = Arc<State>;

/// All routes of netd.
#[must_use]
pub fn api(state: Shared) -> Api<Shared> {
    let events = state.events.clone();
    let api = Api::new("sharectl-netd", state)
        .get(
            "/v1/status",
            "The daemon and its problems",
            async |state: Shared, _| Ok(status(&state).await),
        )
        .get(
            "/v1/networks",
            "Networks with their counters",
            async |state: Shared, _| networks(&state).await,
        )
        .get(
            "/v1/guests",
            "Guests: configured, plugged in, or both",
            async |state: Shared, _| guests(&state).await,
        )
        .get(
            "/v1/guests/{name}",
            "One configured guest",
            async |state: Shared, params: Params| {
                let name: GuestName = params.required("name")?;
                state.guest(&name)?;
                let all = guests(&state).await?;
                let found = all
                    .into_iter()
                    .find(|guest| guest.name.as_ref() == Some(&name));
                found.ok_or_else(|| {
                    Failure::not_found(format!("the network of guest {name} does not run"))
                })
            },
        )
        .delete(
            "/v1/guests/{name}/link",
            "Unplug a guest",
            async |state: Shared, params: Params, (): ()| {
                let name: GuestName = params.required("name")?;
                state.detach(&name)
            },
        )
        .get("/v1/ports", "Published ports", async |state: Shared, _| {
            Ok::<Vec<PortStatus>, Failure>(state.port_list().await)
        })
        .post(
            "/v1/ports",
            "Publish a port until netd ends",
            async |state: Shared, _, request: PortRequest| {
                state.publish(&request.guest, &request.spec).await
            },
        )
        .delete(
            "/v1/ports",
            "Take a published port back",
            async |state: Shared, _, request: PortRequest| {
                state.unpublish(&request.guest, &request.spec).await
            },
        )
        .get(
            "/v1/flows",
            "Connections and mappings, the largest first; of one network with ?network=, of one guest with &guest=, at most &limit=",
            async |state: Shared, params: Params| flows(&state, &params).await,
        )
        .get(
            "/v1/guests/{name}/presence",
            "Whether the guest answers at its address: it is asked by ARP now",
            async |state: Shared, params: Params| presence::ask(&state, &params).await,
        )
        .get(
            "/v1/guests/{name}/policy",
            "What would become of the guest's flow ?flow=DESTINATION:PORT/PROTOCOL; nothing is sent",
            async |state: Shared, params: Params| policy(&state, &params).await,
        )
        .stream(
            "/v1/captures/{id}",
            "Frames of ?network= as a pcapng file; of one guest with &guest=, with &filter=, &snaplen= and &count=. The id is the reader's choice",
            "application/x-pcapng",
            async |state: Shared, params: Params| captures::start(&state, &params).await,
        )
        .delete(
            "/v1/captures/{id}",
            "End a capture; its reader gets what it has and the counts",
            async |state: Shared, params: Params, (): ()| {
                let id: String = params.required("id")?;
                captures::stop(&state, &id)
            },
        )
        .post(
            "/v1/reload",
            "Read the configuration again",
            async |state: Shared, _, (): ()| {
                let changes: Result<Changes, Failure> = state.reload().await;
                changes
            },
        )
        .text(
            "/metrics",
            "Counters as Prometheus text",
            async |state: Shared| Ok(metrics::page(&state).await),
        )
        .events(events);
    gvproxy_dns::add_routes(gvproxy::add_routes(dns_api::add_routes(api)))
}

async fn status(state: &State) -> DaemonStatus {
    DaemonStatus {
        daemon: "netd".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        started: state.started.clone(),
        config: state.paths.config.clone(),
        newest_event: state.events.newest(),
        problems: state.problems().await,
    }
}

async fn networks(state: &State) -> Result<Vec<NetworkStatus>, Failure> {
    let mut found = Vec::new();
    for running in state.networks() {
        let (network, lan) = (running.config(), running.lan());
        let snapshot = running.snapshot().await?;
        found.push(NetworkStatus {
            kind: network.kind,
            dhcp: network.kind != NetworkKind::Bridged,
            interface: interface_of(&network, lan.as_ref()),
            subnet: lan
                .as_ref()
                .and_then(|lan| lan.address)
                .map_or(network.subnet, |address| address.trunc())
                .to_string(),
            gateway: network.gateway,
            host_internal: network.host_internal,
            ipv6: network.ipv6.map(|prefix| prefix.to_string()),
            domain: network.domain.clone(),
            guests: guest_links(&snapshot, &running.links()),
            socket: state.paths.network_socket(&network.name),
            listen: network.listen,
            resolvers: running.resolver().forwarding().servers().to_vec(),
            counters: metrics::counters(&running).await,
            name: network.name,
        });
    }
    Ok(found)
}

fn interface_of(network: &Network, lan: Option<&HostInterface>) -> Option<String> {
    let tap = || network.host_tap.map(|_| network.name.to_string());
    lan.map(|lan| lan.name.clone()).or_else(tap)
}

/// The host's own links are no guests.
fn guest_links(snapshot: &Snapshot, records: &BTreeMap<LinkId, LinkRecord>) -> usize {
    let ours = |link: &LinkSnapshot| {
        let transport = records.get(&link.link).map(|record| record.transport);
        matches!(transport, Some("uplink" | "host-tap"))
    };
    snapshot.links.iter().filter(|link| !ours(link)).count()
}

async fn guests(state: &State) -> Result<Vec<GuestStatus>, Failure> {
    let config = state.config();
    let mut found = Vec::new();
    for network in state.networks() {
        let view = network.services().await?;
        let snapshot = network.snapshot().await?;
        found.extend(configured_guests(&config, &network, &view, &snapshot));
        found.extend(other_guests(&network, &view, &snapshot));
    }
    Ok(found)
}

fn configured_guests(
    config: &Config,
    network: &RunningNetwork,
    view: &ServicesView,
    snapshot: &Snapshot,
) -> Vec<GuestStatus> {
    let records = network.links();
    let clock = ClockPair::read();
    config
        .guests_on(network.name())
        .map(|guest| {
            let lease = view
                .leases
                .iter()
                .find(|lease| lease.guest.as_ref() == Some(&guest.name));
            let links = snapshot
                .links
                .iter()
                .filter(|link| link.guest.as_ref() == Some(&guest.name));
            GuestStatus {
                name: Some(guest.name.clone()),
                network: network.name().clone(),
                mac: lease.map_or(guest.mac, |lease| lease.mac),
                address: view.guests.get(&guest.name).copied(),
                ipv6_address: view
                    .ipv6
                    .iter()
                    .find(|lease| lease.guest.as_ref() == Some(&guest.name))
                    .map(|lease| lease.address),
                host_address: Some(guest.host_address),
                names: config.names_of(guest).unwrap_or_default(),
                lease_until: lease.map(|lease| timestamp(clock.wall_of(lease.until))),
                links: links.map(|link| link_status(link, &records)).collect(),
            }
        })
        .collect()
}

/// Stations that the configuration does not name: by lease, else by what they were seen to send.
fn other_guests(
    network: &RunningNetwork,
    view: &ServicesView,
    snapshot: &Snapshot,
) -> Vec<GuestStatus> {
    let records = network.links();
    let clock = ClockPair::read();
    let domain = network.config().domain;
    let mut found = BTreeMap::new();
    let hosts = |link: &LinkSnapshot| {
        let transport = records.get(&link.link).map(|record| record.transport);
        transport == Some("host-tap")
    };
    let strangers = snapshot.links.iter().filter(|link| link.guest.is_none());
    for link in strangers.filter(|link| !hosts(link)) {
        for mac in &link.macs {
            let seen = snapshot
                .neighbours
                .iter()
                .filter(|(_, neighbour, _)| neighbour == mac)
                .find_map(|(address, _, _)| match address {
                    IpAddr::V4(address) => Some(*address),
                    IpAddr::V6(_) => None,
                });
            found.insert(*mac, (seen, None));
        }
    }
    for lease in view.leases.iter().filter(|lease| lease.guest.is_none()) {
        found.insert(lease.mac, (Some(lease.address), Some(lease)));
    }
    let strangers = view.ipv6.iter().filter(|lease| lease.guest.is_none());
    for lease in strangers.clone() {
        found.entry(lease.mac).or_insert((None, None));
    }
    found
        .into_iter()
        .map(|(mac, (address, lease))| {
            let name = lease.and_then(|lease| {
                lease
                    .host_name
                    .as_ref()
                    .filter(|name| network.holds_name(name, lease.address))
            });
            let links = snapshot
                .links
                .iter()
                .filter(|link| link.guest.is_none() && link.macs.contains(&mac));
            GuestStatus {
                name: None,
                network: network.name().clone(),
                mac,
                address,
                ipv6_address: strangers
                    .clone()
                    .find(|lease| lease.mac == mac)
                    .map(|lease| lease.address),
                host_address: None,
                names: name
                    .and_then(|name| name.under(&domain).ok())
                    .into_iter()
                    .collect(),
                lease_until: lease.map(|lease| timestamp(clock.wall_of(lease.until))),
                links: links.map(|link| link_status(link, &records)).collect(),
            }
        })
        .collect()
}

fn link_status(link: &LinkSnapshot, records: &BTreeMap<LinkId, LinkRecord>) -> LinkStatus {
    let counters = &link.counters;
    LinkStatus {
        id: link.link.0,
        transport: records
            .get(&link.link)
            .map_or(link.kind, |record| record.transport)
            .to_owned(),
        received_frames: counters.received_frames,
        received_bytes: counters.received_bytes,
        sent_frames: counters.sent_frames,
        sent_bytes: counters.sent_bytes,
        dropped_frames: counters.dropped + counters.malformed + counters.spoofed,
    }
}

/// In one answer, if nothing else is asked for.
const MOST_FLOWS: usize = 10_000;

async fn flows(state: &State, params: &Params) -> Result<Vec<FlowStatus>, Failure> {
    let networks = match params.optional("network")? {
        Some(name) => vec![state.network(&name)?],
        None => state.networks(),
    };
    let guest: Option<GuestName> = params.optional("guest")?;
    if let Some(guest) = &guest {
        state.guest(guest)?;
    }
    let limit = params.optional("limit")?.unwrap_or(MOST_FLOWS);
    let mut found = Vec::new();
    for network in networks {
        let flows = network.flows(guest.clone(), limit.min(MOST_FLOWS)).await?;
        found.extend(flows.into_iter().map(|flow| FlowStatus {
            network: network.name().clone(),
            protocol: flow.protocol.to_owned(),
            guest_name: flow.guest_name,
            guest: flow.guest,
            remote: flow.remote,
            name: flow.name,
            outbound: flow.outbound,
            state: flow.state.to_owned(),
            age: flow.age.as_secs(),
            idle: flow.idle.as_secs(),
            bytes_from_guest: flow.traffic.bytes_out,
            bytes_to_guest: flow.traffic.bytes_in,
            packets_from_guest: flow.traffic.packets_out,
            packets_to_guest: flow.traffic.packets_in,
            retransmits: flow.retransmits,
        }));
    }
    found.sort_by_key(|flow| std::cmp::Reverse(flow.bytes_from_guest + flow.bytes_to_guest));
    found.truncate(limit);
    Ok(found)
}

async fn policy(state: &State, params: &Params) -> Result<PolicyAnswer, Failure> {
    let name: GuestName = params.required("name")?;
    let guest = state.guest(&name)?;
    let question: FlowQuestion = params.required("flow")?;
    let flow = question.to_string();
    let checked = state
        .network(&guest.network)?
        .check(name.clone(), question)
        .await?;
    Ok(PolicyAnswer {
        guest: name,
        flow,
        verdict: checked.verdict,
        reason: checked.reason,
        addresses: checked.addresses,
    })
}
