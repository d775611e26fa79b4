//! `sharectl ps`: guests and containers with what of them works on this host, and why something does not.

mod engine;
mod join;
mod text;

use std::process::ExitCode;
use std::time::Duration;

use control::api::{HostLine, ShareStatus};
use control::config::Config;
use control::names::{GuestName, ShareName};
use control::paths::Daemon;

pub(crate) use self::join::View;
use self::join::{Facts, join};
use super::status::{Report, nothing_configured};
use crate::context::Context;
use crate::error::Outcome;
use crate::limited::within;

/// Show guests and containers, and why something of them does not work
///
/// The containers are those of the Docker engines that guests publish (port 2375, or a unix socket called
/// docker.sock) and of the engines in [hosts.source]. Below the table stands what does not work, and the command
/// that mends it. Works with every daemon down too, from the configuration; the exit code is 3 then.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  sharectl ps\n  sharectl ps dev\n  sharectl ps --all --format json"
)]
pub(crate) struct Args {
    /// Only these, with their containers
    #[arg(value_name = "GUEST")]
    guests: Vec<GuestName>,
    /// Containers that have ended, too
    #[arg(short, long)]
    all: bool,
}

pub(crate) fn run(context: &Context, args: Args) -> Outcome<ExitCode> {
    // What is wrong with the file is in the report; without it nobody knows which guests there are.
    let config = match Config::load(&context.paths.config) {
        Ok(config) => config,
        Err(_) if args.guests.is_empty() => nothing_configured(),
        Err(errors) => return Err(errors.into()),
    };
    for name in &args.guests {
        context.guest(&config, name)?;
    }
    let (report, lines, engines) = context.wait(async {
        tokio::join!(
            Report::gather(context),
            context.asking::<Vec<HostLine>>(Daemon::Hostsync, "/v1/hosts"),
            engine::ask_all(&config, &args.guests, args.all),
        )
    })?;
    let code = report.exit_code();
    let absent = absent(&report.shares);
    let view = join(Facts {
        config: &config,
        wanted: &args.guests,
        lines: lines.unwrap_or_else(|_| super::host::configured(&config)),
        report,
        engines,
        absent,
    });
    if context.out.is_json() {
        context.out.json(&view)?;
    } else if context.out.quiet {
        context.out.text(&text::names(&view))?;
    } else {
        context.out.text(&text::whole(&view))?;
    }
    Ok(code)
}

/// How long a folder may take to say that it is one: on a network that is gone it never does.
const FOLDER_LIMIT: Duration = Duration::from_millis(500);

/// Of the shares that are not served, those whose folder is not there. One that gives no answer is not among them.
fn absent(shares: &[ShareStatus]) -> Vec<ShareName> {
    let troubled = shares.iter().filter(|share| share.problem.is_some());
    // All at once: several may be on the same dead network.
    std::thread::scope(|scope| {
        let looks: Vec<_> = troubled
            .map(|share| {
                let path = share.path.clone();
                let look = scope.spawn(|| within(FOLDER_LIMIT, move || path.is_dir()));
                (&share.name, look)
            })
            .collect();
        looks
            .into_iter()
            .filter_map(|(name, look)| (look.join().ok()? == Some(false)).then(|| name.clone()))
            .collect()
    })
}
