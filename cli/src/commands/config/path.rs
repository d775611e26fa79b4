//! `sharectl config path`: where the file and the folders are.

use std::path::Path;

use schemars::JsonSchema;
use serde::Serialize;

use crate::context::Context;
use crate::error::Outcome;

/// Print the path of the configuration file
///
/// With --format json also the folders of sockets and of state.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  $EDITOR \"$(sharectl config path)\"")]
pub(crate) struct Args {}

/// Where things are.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Places<'p> {
    config: &'p Path,
    /// Sockets.
    runtime: &'p Path,
    state: &'p Path,
}

pub(crate) fn run(context: &Context, _: Args) -> Outcome {
    let paths = &context.paths;
    if context.out.is_json() {
        return context.out.json(&Places {
            config: &paths.config,
            runtime: &paths.runtime,
            state: &paths.state,
        });
    }
    context.out.text(&format!("{}\n", paths.config.display()))
}
