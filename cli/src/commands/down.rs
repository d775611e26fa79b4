//! `sharectl down`: the daemons stop.

use std::time::Duration;

use crate::context::Context;
use crate::daemons;
use crate::error::Outcome;

/// Stop the daemons, and take our block out of the hosts files first
///
/// Guests that run lose their network and their shares until the next
/// `sharectl up`. Configuration, leases and logs stay.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  sharectl down")]
pub(crate) struct Args {
    /// Leave the names in the hosts files
    #[arg(long)]
    keep_names: bool,
    /// How long to wait for each daemon to end, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    wait: u64,
}

pub(crate) fn run(context: &Context, args: Args) -> Outcome {
    let stopped = daemons::stop(context, Duration::from_secs(args.wait), args.keep_names)?;
    let names: Vec<&str> = stopped.iter().map(|daemon| daemon.name()).collect();
    let sentence = if names.is_empty() {
        "no daemon was running".to_owned()
    } else {
        format!("stopped {}", names.join(", "))
    };
    context
        .out
        .done(&sentence, &serde_json::json!({ "stopped": names }))
}
