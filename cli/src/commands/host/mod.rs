//! `sharectl host`: names in the hosts files.

mod add;
mod diff;
mod dns;
mod ls;
mod once;
mod rm;
mod sync;

use clap::Subcommand;

use crate::context::Context;
use crate::error::Outcome;

pub(crate) use ls::listed;
pub(crate) use once::round;

/// Names in the hosts files and in DNS: list, add, remove, write, compare
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    #[command(visible_alias = "list")]
    Ls(ls::Args),
    Add(add::Args),
    Rm(rm::Args),
    Sync(sync::Args),
    Diff(diff::Args),
    #[command(subcommand)]
    Dns(dns::Command),
}

impl Command {
    pub(crate) fn run(self, context: &Context) -> Outcome {
        match self {
            Self::Ls(args) => ls::run(context, args),
            Self::Add(args) => add::run(context, args),
            Self::Rm(args) => rm::run(context, args),
            Self::Sync(args) => sync::run(context, args),
            Self::Diff(args) => diff::run(context, args),
            Self::Dns(command) => command.run(context),
        }
    }
}
