//! `sharectl config schema`: the file's form for editors and programs.

use crate::context::Context;
use crate::error::Outcome;

/// Print the JSON Schema of the configuration file
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  sharectl config schema > sharectl.schema.json\n  sharectl config schema --project"
)]
pub(crate) struct Args {
    /// That of a repository's sharectl.toml instead
    #[arg(long)]
    project: bool,
}

pub(crate) fn run(context: &Context, args: Args) -> Outcome {
    let schema = if args.project {
        control::config::project_schema()
    } else {
        control::config::schema()
    };
    context.out.json(&schema)
}
