//! `sharectl port`: ports of the host that lead to guests.

mod explain;
mod ls;
mod offer;
mod publish;
mod unpublish;
mod withdraw;

use clap::Subcommand;
use control::names::NetworkName;

use crate::context::{Context, unknown};
use crate::error::{CliError, Outcome};
use crate::output::comma_list;

pub(crate) use explain::{Explanation, Publication};
pub(crate) use ls::configured;
pub(crate) use offer::Offered;
pub(crate) use publish::Published;
pub(crate) use unpublish::Unpublished;
pub(crate) use withdraw::Withdrawn;

/// Published ports: publish, unpublish, list, explain; offer
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Publish(publish::Args),
    Unpublish(unpublish::Args),
    #[command(visible_alias = "list")]
    Ls(ls::Args),
    Explain(explain::Args),
    Offer(offer::Args),
    Withdraw(withdraw::Args),
}

/// The network that was named, else the only one there is.
fn network_of(context: &Context, named: Option<NetworkName>) -> Outcome<NetworkName> {
    let config = context.config()?;
    match named {
        Some(name) if config.networks.contains_key(&name) => Ok(name),
        Some(name) => {
            let known = config.networks.keys().map(NetworkName::as_str);
            let add = format!("[network.{name}]");
            Err(unknown(
                "network",
                name.as_str(),
                known,
                &context.paths.config,
                &add,
            ))
        }
        None => {
            let mut names = config.networks.keys();
            match (names.next(), names.next()) {
                (Some(only), None) => Ok(only.clone()),
                _several => Err(CliError::usage(
                    "which network is meant?",
                    format!("--network, one of: {}", comma_list(config.networks.keys())),
                )),
            }
        }
    }
}

impl Command {
    pub(crate) fn run(self, context: &Context) -> Outcome {
        match self {
            Self::Publish(args) => publish::run(context, args),
            Self::Unpublish(args) => unpublish::run(context, args),
            Self::Ls(args) => ls::run(context, args),
            Self::Explain(args) => explain::run(context, args),
            Self::Offer(args) => offer::run(context, args),
            Self::Withdraw(args) => withdraw::run(context, args),
        }
    }
}
