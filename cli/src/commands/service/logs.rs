//! `sharectl service logs`: the units' journal.

use control::paths::Daemon;

use crate::commands::logs::DaemonArg;
use crate::context::Context;
use crate::error::{CliError, Outcome};
use crate::service;

/// Show what the units wrote to the journal
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  sharectl service logs netd -f\n  sharectl service logs -n 20")]
pub(crate) struct Args {
    /// Only of this daemon
    #[arg(value_enum)]
    daemon: Option<DaemonArg>,
    /// Go on with what is written from now
    #[arg(short, long)]
    follow: bool,
    /// How many lines to begin with
    #[arg(short = 'n', long, value_name = "COUNT", default_value_t = 100)]
    lines: usize,
}

pub(crate) fn run(context: &Context, args: Args) -> Outcome {
    let Some(manager) = service::owner(context)? else {
        return Err(CliError::not_running(
            "no service is installed, or its manager does not answer",
            "sharectl service status; daemons of sharectl up: sharectl logs",
        ));
    };
    let daemons: Vec<Daemon> = args
        .daemon
        .map_or_else(|| Daemon::ALL.to_vec(), |daemon| vec![daemon.into()]);
    service::logs(context, manager, &daemons, (args.lines, args.follow))
}
