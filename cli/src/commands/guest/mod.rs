//! `sharectl guest`: machines and namespaces that are plugged into a network.

mod add;
mod args;
mod attach;
mod detach;
mod ls;
mod mount;
mod mounts;
mod rm;
mod run;
mod unmount;
mod wiring;

use clap::Subcommand;

use crate::context::Context;
use crate::error::Outcome;

pub(crate) use attach::Attached;
pub(crate) use ls::{configured, listed};
pub(crate) use mount::MountedFolder;
pub(crate) use rm::RemovedGuest;
pub(crate) use unmount::UnmountedFolders;

/// Guests: add, remove, list, start, plug in
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Add(add::Args),
    Rm(rm::Args),
    #[command(visible_alias = "list")]
    Ls(ls::Args),
    Args(args::Args),
    Mounts(mounts::Args),
    Mount(mount::Args),
    Unmount(unmount::Args),
    Run(run::Args),
    Attach(attach::Args),
    Detach(detach::Args),
}

impl Command {
    pub(crate) fn run(self, context: &Context) -> Outcome {
        match self {
            Self::Add(args) => add::run(context, args),
            Self::Rm(args) => rm::run(context, args),
            Self::Ls(args) => ls::run(context, args),
            Self::Args(args) => args::run(context, args),
            Self::Mounts(args) => mounts::run(context, args),
            Self::Mount(args) => mount::run(context, args),
            Self::Unmount(args) => unmount::run(context, args),
            Self::Run(args) => run::run(context, args),
            Self::Attach(args) => attach::run(context, args),
            Self::Detach(args) => detach::run(context, args),
        }
    }
}
