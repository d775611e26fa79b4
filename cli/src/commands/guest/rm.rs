//! `sharectl guest rm`: a guest leaves the configuration.

use control::names::GuestName;
use control::paths::Daemon;

use crate::context::Context;
use crate::edit::document;
use crate::error::{CliError, Outcome};
use schemars::JsonSchema;
use serde::Serialize;

/// Take a guest out of the configuration; its disk and its VM are not touched
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  sharectl guest rm dev")]
pub(crate) struct Args {
    /// As in `sharectl guest ls`
    #[arg(value_name = "NAME")]
    guest: GuestName,
}

#[derive(Serialize, JsonSchema)]
pub(crate) struct RemovedGuest<'g> {
    removed: &'g GuestName,
}

pub(crate) fn run(context: &Context, args: Args) -> Outcome {
    context.change(|draft| {
        let config = draft.config()?;
        context.guest(&config, &args.guest)?;
        let naming: Vec<String> = config
            .shares
            .values()
            .filter(|share| {
                share
                    .guests
                    .as_ref()
                    .is_some_and(|guests| guests.contains(&args.guest))
            })
            .map(|share| share.name.to_string())
            .collect();
        if let Some(share) = naming.first() {
            return Err(CliError::conflict(
                format!(
                    "guest \"{}\" is named by share {}",
                    args.guest,
                    naming.join(", ")
                ),
                format!("take it out of guests = [...] there, or: sharectl share rm {share}"),
            ));
        }
        document::remove_entry(&mut draft.document, "guest", args.guest.as_str())?;
        Ok(())
    })?;
    context.reload(&Daemon::ALL)?;
    context.out.done(
        &format!("guest {} removed", args.guest),
        &RemovedGuest {
            removed: &args.guest,
        },
    )
}
