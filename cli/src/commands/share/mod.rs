//! `sharectl share`: folders of the host that guests see.

mod add;
mod ls;
mod mount;
mod rm;
mod unmount;

use clap::Subcommand;
use control::config::{Config, Guest, NetworkKind, Share};

use crate::context::Context;
use crate::error::Outcome;

pub(crate) use ls::{configured, on_the_host};
pub(crate) use mount::absolute;
pub(crate) use rm::RemovedShare;
pub(crate) use unmount::Unmounted;

/// What mounts a share by 9P in this guest; None where it may not. A bridged network has no gateway of ours.
pub(crate) fn ninep_mount(config: &Config, guest: &Guest, share: &Share) -> Option<String> {
    let mut seen = config.ninep_shares_of(&guest.name);
    let network = config.networks.get(&guest.network)?;
    if network.kind == NetworkKind::Bridged || !seen.any(|seen| seen.name == share.name) {
        return None;
    }
    Some(format!(
        "mount -t 9p -o trans=tcp,version=9p2000.L,msize=1048576,cache=mmap,aname={} {} {}",
        share.name,
        network.gateway,
        share.at.display()
    ))
}

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
