//! `sharectl share ls`: shares and who uses them.

use control::api::{ShareMount, ShareStatus};
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
            "ON THE HOST",
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
                on_the_host(share),
                share.problem.clone().unwrap_or_else(|| "ok".to_owned()),
            ]
        },
    )
}

/// Where the host has it mounted, or where not and why.
pub(crate) fn on_the_host(share: &ShareStatus) -> String {
    let Some(mount) = &share.mount else {
        return "-".to_owned();
    };
    let place = mount.path.display();
    match (&mount.problem, mount.mounted) {
        (Some(problem), _) => format!("not at {place}: {problem}"),
        (None, true) => place.to_string(),
        (None, false) => format!("not at {place}"),
    }
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
        ninep_guests: Vec::new(),
        problem: Some(if share.path.is_dir() {
            "not served".to_owned()
        } else {
            format!("{} is not a folder on this host", share.path.display())
        }),
        devices: Vec::new(),
        mount: share.mount.as_ref().map(|mount| ShareMount {
            path: mount.path.clone(),
            users: mount.users,
            mounted: false,
            problem: None,
            requests: 0,
        }),
        traffic: Vec::new(),
    });
    shares.collect()
}
