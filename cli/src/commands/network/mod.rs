//! `sharectl network`: networks that guests are plugged into.

mod bridge_socket;
mod capture;
mod create;
mod dns;
mod flows;
mod host_tap;
mod inspect;
mod ls;
mod policy;
mod renumber;
mod rm;

use std::process::ExitCode;

use clap::Subcommand;
use control::config::{Config, Network};
use control::names::NetworkName;

use crate::context::{Context, unknown};
use crate::error::Outcome;

pub(crate) use bridge_socket::Bridged;
pub(crate) use host_tap::{MadeTap, RemovedTap, TapUnit};
pub(crate) use inspect::Inspection;
pub(crate) use ls::configured;
pub(crate) use renumber::Renumbered;
pub(crate) use rm::RemovedNetwork;

/// Networks: create, remove, renumber, list, look inside
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    #[command(visible_alias = "add")]
    Create(create::Args),
    #[command(visible_alias = "remove")]
    Rm(rm::Args),
    Renumber(renumber::Args),
    BridgeSocket(bridge_socket::Args),
    #[command(subcommand)]
    HostTap(host_tap::Command),
    #[command(visible_alias = "list")]
    Ls(ls::Args),
    Inspect(inspect::Args),
    Flows(flows::Args),
    Capture(capture::Args),
    Policy(policy::Args),
    Dns(dns::Args),
}

impl Command {
    pub(crate) fn run(self, context: &Context) -> Outcome<ExitCode> {
        let done = |()| ExitCode::SUCCESS;
        match self {
            Self::Create(args) => create::run(context, args).map(done),
            Self::Rm(args) => rm::run(context, args).map(done),
            Self::Renumber(args) => renumber::run(context, args).map(done),
            Self::BridgeSocket(args) => bridge_socket::run(context, args).map(done),
            Self::HostTap(command) => command.run(context).map(done),
            Self::Ls(args) => ls::run(context, args).map(done),
            Self::Inspect(args) => inspect::run(context, args).map(done),
            Self::Flows(args) => flows::run(context, args).map(done),
            Self::Capture(args) => capture::run(context, args).map(done),
            Self::Policy(args) => policy::run(context, args),
            Self::Dns(args) => dns::run(context, args).map(done),
        }
    }
}

/// The network of the configuration, or the one that was probably meant.
fn find<'c>(context: &Context, config: &'c Config, name: &NetworkName) -> Outcome<&'c Network> {
    config.networks.get(name).ok_or_else(|| {
        let known = config.networks.keys().map(NetworkName::as_str);
        let add = format!("sharectl network create {name}");
        unknown("network", name.as_str(), known, &context.paths.config, &add)
    })
}
