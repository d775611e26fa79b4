//! `sharectl host ls`: names, their addresses, and the files that have them.

use control::api::HostLine;
use control::config::Config;
use control::paths::Daemon;

use crate::context::Context;
use crate::error::Outcome;
use crate::output::{comma_list, or_dash};

/// List the names for the hosts files
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  sharectl host ls")]
pub(crate) struct Args {}

pub(crate) fn run(context: &Context, _: Args) -> Outcome {
    let config = context.config()?;
    let lines = listed(context, &config);
    context.out.list(
        &["NAME", "ADDRESS", "SOURCE", "WRITTEN TO", "LEFT OUT OF"],
        &lines,
        |line| {
            vec![
                line.name.to_string(),
                line.address.to_string(),
                line.source.clone(),
                comma_list(line.written.iter().map(|file| file.display())),
                or_dash(line.left_out.join("; ")),
            ]
        },
    )
}

/// What hostsync says, or what the configuration says while it is down.
pub(crate) fn listed(context: &Context, config: &Config) -> Vec<HostLine> {
    context
        .ask_if_up(Daemon::Hostsync, "/v1/hosts")
        .unwrap_or_else(|| configured(config))
}

/// The names that would be written.
fn configured(config: &Config) -> Vec<HostLine> {
    let line = |name: &control::names::HostName, address, source: String| HostLine {
        name: name.clone(),
        address,
        source,
        written: Vec::new(),
        left_out: Vec::new(),
    };
    let fixed = config
        .hosts
        .entries
        .iter()
        .map(|(name, address)| line(name, *address, "static".to_owned()));
    let guests = config.guests.values().flat_map(|guest| {
        let names = config.names_of(guest).unwrap_or_default();
        names.into_iter().map(move |name| {
            line(
                &name,
                guest.host_address.into(),
                format!("guest {}", guest.name),
            )
        })
    });
    fixed.chain(guests).collect()
}
