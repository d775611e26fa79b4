//! `sharectl network flows`: connections and exchanges that pass through netd now.

use control::api::FlowStatus;
use control::names::{GuestName, NetworkName};
use control::paths::Daemon;

use super::find;
use crate::context::Context;
use crate::error::Outcome;
use crate::output::{bytes, seconds};

/// Show connections and exchanges, the largest first
///
/// Bytes and packets are payload from and to the guest; "out" was begun by the guest, "in" came to
/// a published port. A name is what the guest's last DNS answer with that address was about.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  sharectl network flows\n  sharectl network flows vmnet8 --guest dev --json"
)]
pub(crate) struct Args {
    /// Only of this network
    #[arg(value_name = "NETWORK")]
    network: Option<NetworkName>,
    /// Only of this guest
    #[arg(long, value_name = "NAME")]
    guest: Option<GuestName>,
    /// All, not only the 100 largest
    #[arg(long)]
    all: bool,
    /// As --format json
    #[arg(long)]
    json: bool,
}

/// What fits a few screens.
const USUAL: usize = 100;

pub(crate) fn run(context: &Context, args: Args) -> Outcome {
    let config = context.config()?;
    let mut path = "/v1/flows?".to_owned();
    if let Some(network) = &args.network {
        find(context, &config, network)?;
        path.push_str(&format!("network={network}&"));
    }
    if let Some(guest) = &args.guest {
        context.guest(&config, guest)?;
        path.push_str(&format!("guest={guest}&"));
    }
    if !args.all {
        // One more than is shown tells whether there are more.
        path.push_str(&format!("limit={}", USUAL + 1));
    }
    let mut flows: Vec<FlowStatus> = context.ask(Daemon::Netd, &path)?;
    if !args.all && flows.len() > USUAL {
        flows.truncate(USUAL);
        context
            .out
            .note(&format!("only the {USUAL} largest; all of them: --all"));
    }
    if args.json {
        return context.out.json(&flows);
    }
    let header = [
        "PROTO", "DIR", "GUEST", "FROM", "REMOTE", "NAME", "STATE", "AGE", "IDLE", "SENT",
        "RECEIVED", "PACKETS", "RETRANS",
    ];
    context.out.list(&header, &flows, |flow| {
        let dash = || "-".to_owned();
        let many = flow.remote.ip().is_unspecified();
        vec![
            flow.protocol.clone(),
            if flow.outbound { "out" } else { "in" }.to_owned(),
            flow.guest_name
                .as_ref()
                .map_or_else(dash, ToString::to_string),
            flow.guest.to_string(),
            if many {
                "*".to_owned()
            } else {
                flow.remote.to_string()
            },
            flow.name.clone().unwrap_or_else(dash),
            flow.state.clone(),
            seconds(flow.age),
            seconds(flow.idle),
            bytes(flow.bytes_from_guest),
            bytes(flow.bytes_to_guest),
            format!("{}/{}", flow.packets_from_guest, flow.packets_to_guest),
            flow.retransmits.to_string(),
        ]
    })
}
