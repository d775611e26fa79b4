//! `sharectl port offer`: a service of the host on host.internal.

use control::names::NetworkName;
use control::paths::Daemon;
use control::port::Endpoint;

use super::network_of;
use crate::context::Context;
use crate::edit::document;
use crate::error::{CliError, Outcome};
use schemars::JsonSchema;
use serde::Serialize;

/// Offer a service of the host to guests, as a TCP port of host.internal
///
/// The other way round of publish. What listens on the host's 127.0.0.1 is
/// there already, unless the network has host-loopback = false; this is for unix
/// sockets, for other ports, and for single services of a closed network.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  sharectl port offer 2375 unix:/run/user/1000/docker.sock\n  sharectl port offer 5432 127.0.0.1:15432 --network vmnet8"
)]
pub(crate) struct Args {
    /// The port of host.internal
    #[arg(value_parser = clap::value_parser!(u16).range(1..))]
    port: u16,
    /// ADDRESS:PORT, or unix:/PATH
    target: Endpoint,
    /// The network; may be left out where there is only one
    #[arg(long)]
    network: Option<NetworkName>,
}

/// A service of host.internal.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Offered<'o> {
    network: &'o NetworkName,
    port: u16,
    target: &'o Endpoint,
}

pub(crate) fn run(context: &Context, args: Args) -> Outcome {
    let Args { port, target, .. } = args;
    let network = network_of(context, args.network)?;
    context.change(|draft| {
        let config = draft.config()?;
        let offered = config
            .networks
            .get(&network)
            .and_then(|network| network.services.get(&port));
        if let Some(other) = offered {
            return Err(CliError::conflict(
                format!("port {port} of host.internal on {network} leads to {other} already"),
                format!("take it away first: sharectl port withdraw {port} --network {network}"),
            ));
        }
        Ok(document::set_value(
            &mut draft.document,
            &["network", network.as_str(), "services"],
            &port.to_string(),
            target.to_string(),
        )?)
    })?;
    context.reload(&[Daemon::Netd])?;
    context.out.done(
        &format!("host.internal:{port} on {network} -> {target}"),
        &Offered {
            network: &network,
            port,
            target: &target,
        },
    )
}
