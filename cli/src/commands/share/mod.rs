//! `sharectl share`: folders of the host that guests see.

mod add;
mod ls;
mod mount;
mod rm;
mod unmount;

use clap::Subcommand;

use crate::context::Context;
use crate::error::Outcome;

pub(crate) use ls::{configured, on_the_host};

/// Shares: add, remove, list, mount folders of the host that guests see
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Add(Box<add::Args>),
    Rm(rm::Args),
    #[command(visible_alias = "list")]
    Ls(ls::Args),
    Mount(mount::Args),
    #[command(visible_alias = "umount")]
    Unmount(unmount::Args),
}

impl Command {
    pub(crate) fn run(self, context: &Context) -> Outcome {
        match self {
            Self::Add(args) => add::run(context, *args),
            Self::Rm(args) => rm::run(context, args),
            Self::Ls(args) => ls::run(context, args),
            Self::Mount(args) => mount::run(context, args),
            Self::Unmount(args) => unmount::run(context, args),
        }
    }
}
