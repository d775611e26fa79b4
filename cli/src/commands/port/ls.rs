//! `sharectl port ls`: published ports and where they listen.

use control::api::{GuestAnswer, PortStatus};
use control::config::Config;
use control::paths::Daemon;

use crate::context::Context;
use crate::error::Outcome;
use crate::output::{comma_list, or_dash};

/// List published ports
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  sharectl port ls")]
pub(crate) struct Args {}

pub(crate) fn run(context: &Context, _: Args) -> Outcome {
    let config = context.config()?;
    let ports: Vec<PortStatus> = context
        .ask_if_up(Daemon::Netd, "/v1/ports")
        .unwrap_or_else(|| configured(&config));
    context.out.list(
        &["GUEST", "SPEC", "LISTENING", "ANSWER", "PROBLEM"],
        &ports,
        |port| {
            vec![
                port.guest.to_string(),
                port.spec.to_string(),
                comma_list(&port.listening),
                answers(port),
                or_dash(port.problems.join("; ")),
            ]
        },
    )
}

/// What the guest's ports say, each answer once.
fn answers(port: &PortStatus) -> String {
    let mut words: Vec<&str> = port
        .leads
        .iter()
        .map(|lead| match lead.answers {
            GuestAnswer::Serves => "serves",
            GuestAnswer::Refuses => "refuses",
            GuestAnswer::Silent => "silent",
            GuestAnswer::Absent => "absent",
            GuestAnswer::Unknown => "-",
        })
        .collect();
    words.sort_unstable();
    words.dedup();
    or_dash(words.join(", "))
}

/// The ports as they would be published.
pub(crate) fn configured(config: &Config) -> Vec<PortStatus> {
    let ports = config.guests.values().flat_map(|guest| {
        guest.publish.iter().map(|spec| PortStatus {
            guest: guest.name.clone(),
            spec: spec.clone(),
            listening: Vec::new(),
            leads: Vec::new(),
            problems: Vec::new(),
        })
    });
    ports.collect()
}
