//! `sharectl restart`: the installed programs take over from the running daemons.

use std::time::Duration;

use control::api::DaemonStatus;
use control::paths::Daemon;

use super::logs::DaemonArg;
use crate::context::Context;
use crate::daemons;
use crate::error::Outcome;
use crate::output::table;
use crate::ready;
use schemars::JsonSchema;
use serde::Serialize;

/// Have the installed programs take over from the running daemons
///
/// Guests with shares see a pause: sharefs hands over what they have open,
/// locked and mounted. After netd, guests are plugged in again by themselves,
/// and connections that are open through it are lost. A daemon that does not
/// run is started.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  sharectl restart sharefs   # after an upgrade, with guests at work"
)]
pub(crate) struct Args {
    /// Only this daemon
    #[arg(value_enum)]
    daemon: Option<DaemonArg>,
    /// How long to wait for each daemon: a number and s, m or h
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = ready::time)]
    wait: Duration,
}

/// Who runs now.
#[derive(Serialize, JsonSchema)]
pub(crate) struct AllRestarted {
    daemons: Vec<Restarted>,
}

#[derive(Serialize, JsonSchema)]
struct Restarted {
    daemon: String,
    pid: u32,
    version: String,
    problems: Vec<String>,
}

pub(crate) fn run(context: &Context, args: Args) -> Outcome {
    let wanted: Vec<Daemon> = match args.daemon {
        Some(daemon) => vec![daemon.into()],
        None => Daemon::ALL.to_vec(),
    };
    if context.is_rehearsal() {
        for daemon in wanted {
            daemons::program(daemon)?;
            context.would_act(match context.status(daemon) {
                Ok(running) => format!("restart {daemon}, process {}", running.pid),
                Err(_) => format!("start {daemon}"),
            });
        }
        return Ok(());
    }
    daemons::prepare(&context.paths)?;
    let limit = args.wait;
    let mut restarted: Vec<DaemonStatus> = Vec::new();
    for daemon in wanted {
        restarted.push(daemons::restart(context, daemon, limit)?);
    }
    if context.out.is_json() {
        let row = |status: DaemonStatus| Restarted {
            daemon: status.daemon,
            pid: status.pid,
            version: status.version,
            problems: status.problems,
        };
        let daemons = restarted.into_iter().map(row).collect();
        return context.out.json(&AllRestarted { daemons });
    }
    if context.out.quiet {
        return Ok(());
    }
    let row = |status: &DaemonStatus| {
        vec![
            status.daemon.clone(),
            status.pid.to_string(),
            status.version.clone(),
        ]
    };
    let rows: Vec<Vec<String>> = restarted.iter().map(row).collect();
    context
        .out
        .text(&table(&["DAEMON", "PID", "VERSION"], &rows))
}
