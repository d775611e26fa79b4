//! `sharectl network ls`: networks, in the columns of `vmrun listHostNetworks`.

use control::api::NetworkStatus;
use control::config::{Config, NetworkKind};
use control::paths::{Daemon, Paths};

use crate::context::Context;
use crate::error::Outcome;

/// List networks
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  sharectl network ls")]
pub(crate) struct Args {}

pub(crate) fn run(context: &Context, _: Args) -> Outcome {
    let config = context.config()?;
    let networks: Vec<NetworkStatus> = context
        .ask_if_up(Daemon::Netd, "/v1/networks")
        .unwrap_or_else(|| configured(&config, &context.paths));
    context.out.list(
        &["NAME", "TYPE", "DHCP", "SUBNET", "GATEWAY", "GUESTS"],
        &networks,
        |network| {
            let (subnet, gateway) = places(network);
            vec![
                network.name.to_string(),
                network.kind.to_string(),
                network.dhcp.to_string(),
                subnet,
                gateway,
                network.guests.to_string(),
            ]
        },
    )
}

/// Subnet and gateway as people see them: a bridged network has the LAN's subnet, where the host knows it,
/// and no gateway of ours.
fn places(network: &NetworkStatus) -> (String, String) {
    match network.kind {
        NetworkKind::Nat | NetworkKind::HostOnly => {
            (network.subnet.clone(), network.gateway.to_string())
        }
        NetworkKind::Bridged => {
            let subnet = Some(&network.subnet).filter(|subnet| !subnet.starts_with("0.0.0.0"));
            let dash = || "-".to_owned();
            (subnet.cloned().unwrap_or_else(dash), dash())
        }
    }
}

/// The networks as they would run, with nobody plugged in.
pub(crate) fn configured(config: &Config, paths: &Paths) -> Vec<NetworkStatus> {
    let networks = config.networks.values().map(|network| NetworkStatus {
        name: network.name.clone(),
        kind: network.kind,
        dhcp: network.kind != NetworkKind::Bridged,
        interface: network
            .interface
            .clone()
            .or_else(|| network.host_tap.map(|_| network.name.to_string())),
        subnet: network.subnet.to_string(),
        gateway: network.gateway,
        host_internal: network.host_internal,
        ipv6: network.ipv6.map(|prefix| prefix.to_string()),
        domain: network.domain.clone(),
        guests: 0,
        socket: paths.network_socket(&network.name),
        listen: network.listen,
        resolvers: network.dns.clone(),
        counters: Default::default(),
    });
    networks.collect()
}
