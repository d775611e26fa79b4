//! `sharectl host diff`: what a sync would change.

use control::api::HostsDiff;
use control::paths::Daemon;

use super::once;
use crate::context::Context;
use crate::error::Outcome;

/// Show what `sharectl host sync` would change in each hosts file
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  sharectl host diff")]
pub(crate) struct Args {}

pub(crate) fn run(context: &Context, _: Args) -> Outcome {
    let diffs: Vec<HostsDiff> = if once::daemon_is_ours(context) {
        context.ask(Daemon::Hostsync, "/v1/diff")?
    } else {
        once::round(context, "diff")?
    };
    if context.out.is_json() {
        return context.out.json(&diffs);
    }
    for file in &diffs {
        if let Some(problem) = &file.problem {
            context
                .out
                .warning(&format!("{}: {problem}", file.file.display()));
        }
        context.out.text(&crate::output::printable(&file.diff))?;
        if file.diff.is_empty() && file.problem.is_none() {
            context
                .out
                .note(&format!("{} is as it should be", file.file.display()));
        }
    }
    Ok(())
}
