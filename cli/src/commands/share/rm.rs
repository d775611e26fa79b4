//! `sharectl share rm`: a folder leaves the configuration.

use control::names::ShareName;
use control::paths::Daemon;

use crate::context::{Context, unknown};
use crate::edit::document;
use crate::error::Outcome;
use schemars::JsonSchema;
use serde::Serialize;

/// Stop sharing a folder; its files are not touched
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  sharectl share rm src")]
pub(crate) struct Args {
    /// As in `sharectl share ls`
    #[arg(value_name = "NAME")]
    share: ShareName,
}

#[derive(Serialize, JsonSchema)]
pub(crate) struct RemovedShare<'s> {
    removed: &'s ShareName,
}

pub(crate) fn run(context: &Context, args: Args) -> Outcome {
    let name = &args.share;
    context.change(|draft| {
        if document::remove_entry(&mut draft.document, "share", name.as_str())? {
            return Ok(());
        }
        let config = draft.config()?;
        let known = config.shares.keys().map(ShareName::as_str);
        Err(unknown(
            "share",
            name.as_str(),
            known,
            &context.paths.config,
            "sharectl share add FOLDER",
        ))
    })?;
    context.reload(&[Daemon::Sharefs])?;
    context.out.done(
        &format!("share {name} removed"),
        &RemovedShare { removed: name },
    )
}
