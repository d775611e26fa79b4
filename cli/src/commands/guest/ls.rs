//! `sharectl guest ls`: guests with their addresses.

use std::net::IpAddr;

use control::api::GuestStatus;
use control::config::Config;
use control::paths::Daemon;

use crate::context::Context;
use crate::error::Outcome;
use crate::output::{comma_list, or_dash};

/// List guests: those of the configuration and those plugged in
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  sharectl guest ls\n  sharectl guest ls --format json")]
pub(crate) struct Args {}

pub(crate) fn run(context: &Context, _: Args) -> Outcome {
    let config = context.config()?;
    let guests = listed(context, &config);
    context.out.list(
        &["NAME", "NETWORK", "ADDRESS", "MAC", "HOST", "LINK", "NAMES"],
        &guests,
        |guest| {
            vec![
                guest
                    .name
                    .as_ref()
                    .map_or_else(|| "-".to_owned(), ToString::to_string),
                guest.network.to_string(),
                comma_list(
                    guest
                        .address
                        .map(IpAddr::V4)
                        .into_iter()
                        .chain(guest.ipv6_address.map(IpAddr::V6)),
                ),
                guest.mac.to_string(),
                or_dash(
                    guest
                        .host_address
                        .map(|address| address.to_string())
                        .unwrap_or_default(),
                ),
                comma_list(guest.links.iter().map(|link| &link.transport)),
                comma_list(&guest.names),
            ]
        },
    )
}

/// What netd says, or what the configuration says while netd is down.
pub(crate) fn listed(context: &Context, config: &Config) -> Vec<GuestStatus> {
    context
        .ask_if_up(Daemon::Netd, "/v1/guests")
        .unwrap_or_else(|| configured(config))
}

/// The guests as they would be, unplugged.
pub(crate) fn configured(config: &Config) -> Vec<GuestStatus> {
    let guests = config.guests.values().map(|guest| GuestStatus {
        name: Some(guest.name.clone()),
        network: guest.network.clone(),
        mac: guest.mac,
        address: guest.address,
        ipv6_address: None,
        host_address: Some(guest.host_address),
        names: config.names_of(guest).unwrap_or_default(),
        lease_until: None,
        links: Vec::new(),
    });
    guests.collect()
}
