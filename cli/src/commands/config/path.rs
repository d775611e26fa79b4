//! `sharectl config path`: where the file and the folders are.

use crate::context::Context;
use crate::error::Outcome;

/// Print the path of the configuration file
///
/// With --format json also the folders of sockets and of state.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  $EDITOR \"$(sharectl config path)\"")]
pub(crate) struct Args {}

pub(crate) fn run(context: &Context, _: Args) -> Outcome {
    let paths = &context.paths;
    if context.out.is_json() {
        return context.out.json(&serde_json::json!({
            "config": paths.config,
            "runtime": paths.runtime,
            "state": paths.state,
        }));
    }
    context.out.text(&format!("{}\n", paths.config.display()))
}
