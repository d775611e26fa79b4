//! `sharectl port`: ports of the host that lead to guests.

mod ls;
mod publish;
mod unpublish;

use clap::Subcommand;

use crate::context::Context;
use crate::error::Outcome;

pub(crate) use ls::configured;

/// Published ports: publish, unpublish, list
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Publish(publish::Args),
    Unpublish(unpublish::Args),
    #[command(visible_alias = "list")]
    Ls(ls::Args),
}

impl Command {
    pub(crate) fn run(self, context: &Context) -> Outcome {
        match self {
            Self::Publish(args) => publish::run(context, args),
            Self::Unpublish(args) => unpublish::run(context, args),
            Self::Ls(args) => ls::run(context, args),
        }
    }
}
