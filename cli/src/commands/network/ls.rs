//! `sharectl network ls`: networks, in the columns of `vmrun listHostNetworks`.

use control::api::NetworkStatus;
use control::config::Config;
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
            vec![
                network.name.to_string(),
                network.kind.to_string(),
                network.dhcp.to_string(),
                network.subnet.clone(),
                network.gateway.to_string(),
                network.guests.to_string(),
            ]
        },
    )
}

/// The networks as they would run, with nobody plugged in.
pub(crate) fn configured(config: &Config, paths: &Paths) -> Vec<NetworkStatus> {
    let networks = config.networks.values().map(|network| NetworkStatus {
        name: network.name.clone(),
        kind: network.kind,
        dhcp: true,
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
