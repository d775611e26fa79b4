//! `sudo sharectl network bridge-socket`: opens what only root may and hands it to netd.

use control::api::{LinkAnswer, UplinkHandover};
use control::config::NetworkKind;
use control::names::NetworkName;
use control::paths::Daemon;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::find;
use crate::context::Context;
use crate::error::{CliError, Outcome};
use crate::tap::Handover;
use schemars::JsonSchema;
use serde::Serialize;

/// Give netd the socket that a bridged network needs
///
/// netd may listen on the host's interface only with the right CAP_NET_RAW. Instead of giving it the right,
/// this command opens one socket as root and hands it over; it serves until netd ends.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  sudo sharectl network bridge-socket vmnet0")]
pub(crate) struct Args {
    /// A bridged network of `sharectl network ls`
    #[arg(value_name = "NAME")]
    network: NetworkName,
}

#[derive(Serialize, JsonSchema)]
pub(crate) struct Bridged<'n> {
    /// The network that has its socket now.
    bridged: &'n NetworkName,
}

pub(crate) fn run(context: &Context, args: Args) -> Outcome {
    let config = context.config()?;
    let network = find(context, &config, &args.network)?;
    if network.kind != NetworkKind::Bridged {
        return Err(CliError::usage(
            format!(
                "network \"{}\" is {}, not bridged",
                network.name, network.kind
            ),
            "only a bridged network needs a socket",
        ));
    }
    if context.is_rehearsal() {
        context.status(Daemon::Netd)?;
        context.would_act(format!(
            "open a packet socket, and hand it to netd for network {}",
            network.name
        ));
        return Ok(());
    }
    let handover = Handover::connect(&context.paths.link_socket())?;
    let socket = rustix::net::socket_with(
        AddressFamily::PACKET,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        None,
    )
    .map_err(|errno| {
        let hint = match errno {
            Errno::PERM | Errno::ACCESS => "run it as root: sudo sharectl network bridge-socket",
            _ => "does this kernel have packet sockets? modprobe af_packet",
        };
        CliError::failure(format!("cannot open a packet socket: {errno}"), hint)
    })?;
    let message = serde_json::to_vec(&UplinkHandover {
        bridge: args.network.clone(),
    })?;
    match handover.exchange(&message, &socket)? {
        LinkAnswer::Ok(_) | LinkAnswer::Bridged(_) => context.out.done(
            &format!("netd has a socket for network {}", args.network),
            &Bridged {
                bridged: &args.network,
            },
        ),
        LinkAnswer::Error(failure) => Err(failure.into()),
    }
}
