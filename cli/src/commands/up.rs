//! `sharectl up`: the daemons run.

use std::path::{Path, PathBuf};
use std::time::Duration;

use control::paths::Daemon;

use crate::context::Context;
use crate::daemons::{self, Logs, Started};
use crate::error::Outcome;
use crate::output::table;
use crate::project;
use crate::ready;
use control::api::DaemonStatus;
use schemars::JsonSchema;
use serde::Serialize;

/// Start the daemons, and wait until they answer
///
/// A daemon that runs already is left alone, but sharefs hands over to a newer
/// program if one was installed since; guests see a pause. Each writes its log to the state
/// folder, in as much detail as $SHARECTL_LOG says (warn, info, debug); see
/// `sharectl logs`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  sharectl up\n  sharectl up --wait=1m         # until ports and mounts are there, too\n  sharectl up --project         # and what the repository here asks for\n  sharectl up --keep-running  # without systemd, and started again after a failure\n  sharectl up --foreground    # in a container or a service unit"
)]
pub(crate) struct Args {
    /// Wait until what the configuration has the host do is there too: published ports, and
    /// mounts of shares; at most this long, a number and s, m or h [default: 30s]. Without it only
    /// the daemons are waited for, 10 s
    #[arg(long, value_name = "TIME", num_args = 0..=1, default_missing_value = "30s", value_parser = ready::time)]
    wait: Option<Duration>,
    /// Stay and supervise: logs come to standard error, a daemon that fails is
    /// started again, SIGTERM and Ctrl-C stop all
    #[arg(long)]
    foreground: bool,
    /// First merge what a repository asks for: shares, ports and names of the sharectl.toml in this
    /// folder, or of the nearest from the current one up to your home. It is shown, and you are asked
    #[arg(long, value_name = "FOLDER", num_args = 0..=1)]
    project: Option<Option<PathBuf>>,
    /// Accept the project without a question
    #[arg(long, requires = "project")]
    yes: bool,
    /// Let the project share folders and sockets that are outside of its own folder
    #[arg(long, requires = "project")]
    allow_outside: bool,
    /// With --foreground: each daemon's log goes to the state folder
    #[arg(long, requires = "foreground")]
    log_files: bool,
    /// Leave a supervisor behind that starts a daemon again when it fails;
    /// where systemd is, sharectl service install does more
    #[arg(long, conflicts_with = "foreground")]
    keep_running: bool,
}

/// How long the daemons may take where nothing is said.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// What runs, and where it has its things.
#[derive(Serialize, JsonSchema)]
pub(crate) struct AllUp<'u> {
    daemons: Vec<Running>,
    /// The folder of sockets.
    runtime: &'u Path,
    /// The folder of leases, logs and the like.
    state: &'u Path,
    config: &'u Path,
    /// With --project.
    project: Option<project::Up>,
}

#[derive(Serialize, JsonSchema)]
struct Running {
    daemon: String,
    pid: u32,
    /// By this command.
    started_now: bool,
    /// What ran before handed over to it.
    handed_over: bool,
    version: String,
    problems: Vec<String>,
}

fn rehearse(context: &Context, args: &Args) -> Outcome {
    let running = daemons::running(context);
    for daemon in Daemon::ALL {
        daemons::program(daemon)?;
        let pid = running.iter().find(|(known, _)| *known == daemon);
        match pid {
            Some((_, pid)) => context.would_act(format!("leave {daemon}, process {pid}, as it is")),
            None => context.would_act(format!("start {daemon}")),
        }
    }
    if args.foreground {
        context.would_act("stay, and start again what fails");
    } else if args.keep_running {
        context.would_act("leave a supervisor behind that starts again what fails");
    }
    Ok(())
}

pub(crate) fn run(context: &Context, args: Args) -> Outcome {
    let project = match &args.project {
        None => None,
        Some(folder) => Some(project::up(
            context,
            &project::Wish {
                folder: folder.clone(),
                yes: args.yes,
                outside: args.allow_outside,
            },
        )?),
    };
    let config = context.config()?;
    if context.is_rehearsal() {
        return rehearse(context, &args);
    }
    daemons::prepare(&context.paths)?;
    let limit = args.wait.unwrap_or(ANSWER_LIMIT);
    let deadline = ready::Deadline::after(limit);
    if args.foreground {
        let logs = if args.log_files {
            Logs::Files
        } else {
            Logs::Ours
        };
        return daemons::supervise(context, limit, logs);
    }
    if project.as_ref().is_some_and(|project| project.changed) {
        context.reload(&[])?;
    }
    let started = if args.keep_running {
        daemons::start_kept(context, limit)?
    } else {
        daemons::start(context, limit)?
    };
    if args.wait.is_some() {
        let wishes = ready::of_the_host(&config);
        ready::until(context, &wishes, &deadline).map_err(ready::Late::into_error)?;
    }
    if let Some(missing) = config.missing_folders(&context.paths.config) {
        context.out.warning(&missing.to_string());
    }
    if context.out.is_json() {
        let row = |(status, how): (DaemonStatus, Started)| Running {
            daemon: status.daemon,
            pid: status.pid,
            started_now: how == Started::Now,
            handed_over: how == Started::Replaced,
            version: status.version,
            problems: status.problems,
        };
        return context.out.json(&AllUp {
            daemons: started.into_iter().map(row).collect(),
            runtime: &context.paths.runtime,
            state: &context.paths.state,
            config: &context.paths.config,
            project,
        });
    }
    if let Some(project) = &project {
        let what = if project.changed {
            "is up"
        } else {
            "is up as before"
        };
        context.out.note(&format!(
            "project {} {what}; to take it away: {}",
            project.name,
            project::removal(&project.name)
        ));
    }
    for (status, _) in &started {
        for problem in &status.problems {
            context
                .out
                .warning(&format!("{}: {problem}", status.daemon));
        }
    }
    if context.out.quiet {
        return Ok(());
    }
    let rows: Vec<Vec<String>> = started
        .iter()
        .map(|(status, how)| {
            let how = match how {
                Started::Now => "started",
                Started::Before => "was running",
                Started::Replaced => "handed over",
            };
            vec![
                status.daemon.clone(),
                how.to_owned(),
                status.pid.to_string(),
                status.version.clone(),
            ]
        })
        .collect();
    context.out.text(&format!(
        "{}\nconfiguration  {}\nsockets        {}\nlogs           {}\n",
        table(&["DAEMON", "STATE", "PID", "VERSION"], &rows),
        context.paths.config.display(),
        context.paths.runtime.display(),
        context.paths.state.join("logs").display(),
    ))
}
