//! `sharectl network`: networks that guests are plugged into.

mod inspect;
mod ls;

use clap::Subcommand;

use crate::context::Context;
use crate::error::Outcome;

pub(crate) use ls::configured;

/// Networks: list, look at one
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    #[command(visible_alias = "list")]
    Ls(ls::Args),
    Inspect(inspect::Args),
}

impl Command {
    pub(crate) fn run(self, context: &Context) -> Outcome {
        match self {
            Self::Ls(args) => ls::run(context, args),
            Self::Inspect(args) => inspect::run(context, args),
        }
    }
}
