//! `sharectl share ls`: shares and who uses them.

use control::api::ShareStatus;
use control::config::Config;
use control::paths::Daemon;

use crate::context::Context;
use crate::error::Outcome;
use crate::output::comma_list;

/// List shares
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  sharectl share ls")]
pub(crate) struct Args {}

pub(crate) fn run(context: &Context, _: Args) -> Outcome {
    let config = context.config()?;
    let shares: Vec<ShareStatus> = context
        .ask_if_up(Daemon::Sharefs, "/v1/shares")
        .unwrap_or_else(|| configured(&config));
    context.out.list(
        &[
            "NAME",
            "FOLDER",
            "AT",
            "MODE",
            "GUESTS",
            "IN USE BY",
            "STATE",
        ],
        &shares,
        |share| {
            let named = config
                .shares
                .get(&share.name)
                .and_then(|share| share.guests.as_ref());
            let connected = share.devices.iter().filter(|device| device.connected);
            vec![
                share.name.to_string(),
                share.path.display().to_string(),
                share.at.display().to_string(),
                if share.read_only { "ro" } else { "rw" }.to_owned(),
                named.map_or_else(|| "all".to_owned(), comma_list),
                comma_list(connected.map(|device| &device.guest)),
                share.problem.clone().unwrap_or_else(|| "ok".to_owned()),
            ]
        },
    )
}

/// The shares as they would be served.
pub(crate) fn configured(config: &Config) -> Vec<ShareStatus> {
    let shares = config.shares.values().map(|share| ShareStatus {
        name: share.name.clone(),
        path: share.path.clone(),
        at: share.at.clone(),
        read_only: share.read_only,
        cache: share.cache,
        ninep: share.ninep,
        problem: Some(if share.path.is_dir() {
            "not served".to_owned()
        } else {
            format!("{} is not a folder on this host", share.path.display())
        }),
        devices: Vec::new(),
    });
    shares.collect()
}
