//! `sharectl network rm`: a network leaves the configuration.

use control::names::{GuestName, NetworkName};
use control::paths::Daemon;

use super::find;
use crate::context::Context;
use crate::edit::document;
use crate::error::{CliError, Outcome};
use crate::output::comma_list;
use schemars::JsonSchema;
use serde::Serialize;

/// Take a network out of the configuration
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  sharectl network rm lab\n  sharectl network rm lab --move-to vmnet8"
)]
pub(crate) struct Args {
    /// As in `sharectl network ls`
    #[arg(value_name = "NAME")]
    network: NetworkName,
    /// The network that its guests are on from now on; they get addresses there
    #[arg(long, value_name = "NETWORK")]
    move_to: Option<NetworkName>,
}

#[derive(Serialize, JsonSchema)]
pub(crate) struct RemovedNetwork<'n> {
    removed: &'n NetworkName,
    /// Guests that are on another network now.
    moved: &'n [GuestName],
}

pub(crate) fn run(context: &Context, args: Args) -> Outcome {
    let mut moved: Vec<GuestName> = Vec::new();
    context.change(|draft| {
        let config = draft.config()?;
        find(context, &config, &args.network)?;
        moved = config
            .guests_on(&args.network)
            .map(|guest| guest.name.clone())
            .collect();
        match &args.move_to {
            Some(to) => {
                find(context, &config, to)?;
            }
            None if moved.is_empty() => {}
            None => {
                return Err(CliError::conflict(
                    format!("network \"{}\" has guests: {}", args.network, comma_list(&moved)),
                    format!(
                        "move them: sharectl network rm {} --move-to NETWORK, or: sharectl guest rm NAME",
                        args.network
                    ),
                ));
            }
        }
        if !document::remove_entry(&mut draft.document, "network", args.network.as_str())? {
            return Err(CliError::failure(
                format!(
                    "network \"{}\" is the built-in one: the file does not name it",
                    args.network
                ),
                "it goes when the file names another: sharectl network create NAME",
            ));
        }
        if let Some(to) = &args.move_to {
            for guest in &moved {
                let place = ["guest", guest.as_str()];
                // An address of the old subnet means nothing there.
                document::remove_value(&mut draft.document, &place, "address")?;
                document::set_value(&mut draft.document, &place, "network", to.as_str())?;
            }
        }
        Ok(())
    })?;
    context.reload(&Daemon::ALL)?;
    let mut sentence = format!("network {} removed", args.network);
    if let (Some(to), false) = (&args.move_to, moved.is_empty()) {
        sentence.push_str(&format!("; {} now on {to}", comma_list(&moved)));
    }
    context.out.done(
        &sentence,
        &RemovedNetwork {
            removed: &args.network,
            moved: &moved,
        },
    )
}
