//! `sharectl network inspect`: one network with everything in it.

use control::api::{FlowStatus, GuestStatus, NetworkStatus};
use control::names::NetworkName;
use control::paths::Daemon;
use schemars::JsonSchema;
use serde::Serialize;

use crate::commands::{guest, network};
use crate::context::Context;
use crate::error::Outcome;

/// Show a network: configuration, guests, connections, counters, as JSON
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  sharectl network inspect vmnet8")]
pub(crate) struct Args {
    /// As in `sharectl network ls`
    #[arg(value_name = "NAME")]
    network: NetworkName,
}

#[derive(Serialize, JsonSchema)]
pub(crate) struct Inspection<'c> {
    running: bool,
    configuration: &'c control::config::Network,
    network: Option<NetworkStatus>,
    guests: Vec<GuestStatus>,
    flows: Vec<FlowStatus>,
}

pub(crate) fn run(context: &Context, args: Args) -> Outcome {
    let config = context.config()?;
    let configuration = network::find(context, &config, &args.network)?;
    let live: Option<Vec<NetworkStatus>> = context.ask_if_up(Daemon::Netd, "/v1/networks");
    let running = live.is_some();
    let networks = live.unwrap_or_else(|| network::configured(&config, &context.paths));
    let mut guests = if running {
        guest::listed(context, &config)
    } else {
        guest::configured(&config)
    };
    guests.retain(|guest| guest.network == args.network);
    let mut flows: Vec<FlowStatus> = if running {
        context
            .ask_if_up(Daemon::Netd, "/v1/flows")
            .unwrap_or_default()
    } else {
        Vec::new()
    };
    flows.retain(|flow| flow.network == args.network);
    context.out.json(&Inspection {
        running,
        configuration,
        network: networks
            .into_iter()
            .find(|network| network.name == args.network),
        guests,
        flows,
    })
}
