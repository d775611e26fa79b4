//! `sharectl down`: the daemons stop.

use std::time::Duration;

use crate::context::Context;
use crate::daemons;
use crate::error::Outcome;
use crate::project;
use crate::ready;
use crate::rehearsal::Step;
use control::names::ProjectName;
use schemars::JsonSchema;
use serde::Serialize;

/// Stop the daemons, and take our block out of the hosts files first
///
/// Guests that run lose their network and their shares until the next
/// `sharectl up`. Configuration, leases and logs stay.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  sharectl down\n  sharectl down --project    # what the repository here asked for"
)]
pub(crate) struct Args {
    /// Leave the names in the hosts files
    #[arg(long)]
    keep_names: bool,
    /// Take a project away instead, and stop nothing: by its folder or its name, or the one that the
    /// current folder belongs to
    #[arg(long, value_name = "PROJECT", num_args = 0..=1, conflicts_with = "keep_names")]
    project: Option<Option<String>>,
    /// Every project
    #[arg(long, requires = "project")]
    all: bool,
    /// How long to wait for each daemon to end: a number and s, m or h
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = ready::time)]
    wait: Duration,
}

/// Either of two, as --project says.
#[derive(Serialize, JsonSchema)]
#[serde(untagged)]
pub(crate) enum Stopped {
    /// Daemons that ran.
    Daemons { stopped: Vec<&'static str> },
    /// With --project: those that were taken away.
    Projects { projects: Vec<ProjectName> },
}

/// There is nothing to stop.
const NOBODY: &str = "no daemon is running";

pub(crate) fn run(context: &Context, args: Args) -> Outcome {
    if let Some(what) = &args.project {
        let names = project::down(context, what.as_deref(), args.all)?;
        if context.is_rehearsal() {
            return Ok(());
        }
        let shown: Vec<String> = names.iter().map(ToString::to_string).collect();
        let sentence = match shown.as_slice() {
            [] => "no project was up".to_owned(),
            shown => format!("taken away: {}", shown.join(", ")),
        };
        return context
            .out
            .done(&sentence, &Stopped::Projects { projects: names });
    }
    if context.is_rehearsal() {
        if !args.keep_names {
            context.would_act("take sharectl's lines out of the hosts files");
        }
        let running = daemons::running(context).into_iter().rev();
        let running: Vec<&str> = running.map(|(daemon, _)| daemon.name()).collect();
        if running.is_empty() {
            let what = NOBODY.to_owned();
            context.would(Step::Note { what });
        } else {
            context.would_act(format!("stop {}", running.join(", ")));
        }
        return Ok(());
    }
    let stopped = daemons::stop(context, args.wait, args.keep_names)?;
    let names: Vec<&str> = stopped.iter().map(|daemon| daemon.name()).collect();
    let sentence = match names.as_slice() {
        [] => NOBODY.to_owned(),
        names => format!("stopped {}", names.join(", ")),
    };
    context
        .out
        .done(&sentence, &Stopped::Daemons { stopped: names })
}
