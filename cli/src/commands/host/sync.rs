//! `sharectl host sync`: the hosts files are brought in step now.

use control::api::Changes;
use control::paths::Daemon;

use super::once;
use crate::context::Context;
use crate::error::{CliError, Outcome};

/// Write the hosts files now, where they are not as they should be
///
/// Works without a daemon too: as root, with an ordinary user's --config, it
/// writes /etc/hosts once.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  sharectl host sync --dry-run\n  sudo sharectl host sync --config ~/.config/sharectl/config.toml"
)]
pub(crate) struct Args {
    /// Write nothing, show what would be changed
    #[arg(long)]
    dry_run: bool,
}

pub(crate) fn run(context: &Context, args: Args) -> Outcome {
    if args.dry_run {
        return super::diff::run(context, super::diff::Args {});
    }
    let done: Changes = if once::daemon_is_ours(context) {
        let done: Option<Changes> = context.post(Daemon::Hostsync, "/v1/sync", &())??;
        done.unwrap_or_default()
    } else {
        once::round(context, "sync")?
    };
    if done.problems.is_empty() {
        let sentence = if done.changes.is_empty() {
            "nothing had to change".to_owned()
        } else {
            done.changes.join("\n")
        };
        return context.out.done(&sentence, &done);
    }
    if context.out.is_json() {
        context.out.json(&done)?;
    } else if !done.changes.is_empty() && !context.out.quiet {
        context
            .out
            .text(&format!("{}\n", done.changes.join("\n")))?;
    }
    Err(CliError::failure(
        done.problems.join("\n"),
        "sharectl doctor; /etc/hosts needs root or, once, sudo sharectl host writer install",
    ))
}
