//! `sharectl guest detach`: the guest's link is closed.

use control::api::Changes;
use control::names::GuestName;
use control::paths::Daemon;

use crate::context::Context;
use crate::error::Outcome;

/// Unplug a guest: its tap goes; a VM that listens is dialled again
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  sharectl guest detach dev")]
pub(crate) struct Args {
    /// As in `sharectl guest ls`
    #[arg(value_name = "NAME")]
    guest: GuestName,
}

pub(crate) fn run(context: &Context, args: Args) -> Outcome {
    let config = context.config()?;
    context.guest(&config, &args.guest)?;
    let path = format!("/v1/guests/{}/link", args.guest);
    let answer: Option<Changes> = context.delete(Daemon::Netd, &path, &())??;
    context
        .out
        .done(&format!("guest {} unplugged", args.guest), &answer)
}
