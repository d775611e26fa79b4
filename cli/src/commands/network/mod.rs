//! `sharectl network`: networks that guests are plugged into.

mod create;
mod inspect;
mod ls;
mod renumber;
mod rm;

use clap::Subcommand;
use control::config::{Config, Network};
use control::names::NetworkName;

use crate::context::{Context, unknown};
use crate::error::Outcome;

pub(crate) use ls::configured;

/// Networks: create, remove, renumber, list, look at one
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    #[command(visible_alias = "add")]
    Create(create::Args),
    #[command(visible_alias = "remove")]
    Rm(rm::Args),
    Renumber(renumber::Args),
    #[command(visible_alias = "list")]
    Ls(ls::Args),
    Inspect(inspect::Args),
}

impl Command {
    pub(crate) fn run(self, context: &Context) -> Outcome {
        match self {
            Self::Create(args) => create::run(context, args),
            Self::Rm(args) => rm::run(context, args),
            Self::Renumber(args) => renumber::run(context, args),
            Self::Ls(args) => ls::run(context, args),
            Self::Inspect(args) => inspect::run(context, args),
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
