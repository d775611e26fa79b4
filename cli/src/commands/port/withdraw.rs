//! `sharectl port withdraw`: a service of the host is no longer offered.

use control::names::NetworkName;
use control::paths::Daemon;

use super::network_of;
use crate::context::Context;
use crate::edit::document;
use crate::error::{CliError, Outcome};
use crate::output::comma_list;
use schemars::JsonSchema;
use serde::Serialize;

/// Take an offered service away from guests; connections that exist go on
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  sharectl port withdraw 2375")]
pub(crate) struct Args {
    /// The port of host.internal
    port: u16,
    /// The network; may be left out where there is only one
    #[arg(long)]
    network: Option<NetworkName>,
}

#[derive(Serialize, JsonSchema)]
pub(crate) struct Withdrawn<'w> {
    network: &'w NetworkName,
    port: u16,
}

pub(crate) fn run(context: &Context, args: Args) -> Outcome {
    let port = args.port;
    let network = network_of(context, args.network)?;
    context.change(|draft| {
        let place = ["network", network.as_str(), "services"];
        if document::remove_value(&mut draft.document, &place, &port.to_string())? {
            return Ok(());
        }
        let config = draft.config()?;
        let offered = config
            .networks
            .get(&network)
            .map(|network| comma_list(network.services.keys()));
        Err(CliError::failure(
            format!("network {network} offers nothing on port {port}"),
            match offered.filter(|offered| !offered.is_empty()) {
                Some(offered) => format!("it offers {offered}"),
                None => "it offers nothing: sharectl port offer".to_owned(),
            },
        ))
    })?;
    context.reload(&[Daemon::Netd])?;
    context.out.done(
        &format!("port {port} of host.internal on {network} withdrawn"),
        &Withdrawn {
            network: &network,
            port,
        },
    )
}
