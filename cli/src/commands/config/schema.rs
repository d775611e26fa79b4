//! `sharectl config schema`: the file's form for editors and programs.

use crate::context::Context;
use crate::error::Outcome;

/// Print the JSON Schema of the configuration file
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  sharectl config schema > sharectl.schema.json")]
pub(crate) struct Args {}

pub(crate) fn run(context: &Context, _: Args) -> Outcome {
    context.out.json(&control::config::schema())
}
