//! `sharectl host ls`: names, their addresses, and the files that have them.

use std::time::SystemTime;

use control::api::{HostLine, NameOrigin, SourceStatus};
use control::config::Config;
use control::events::read_timestamp;
use control::names::HostName;
use control::paths::Daemon;

use crate::context::Context;
use crate::error::Outcome;
use crate::output::{comma_list, or_dash, seconds};

/// List the names for the hosts files, who says so, and why one is missing
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  sharectl host ls")]
pub(crate) struct Args {}

pub(crate) fn run(context: &Context, _: Args) -> Outcome {
    let config = context.config()?;
    let lines = listed(context, &config);
    #[expect(clippy::disallowed_methods, reason = "ages are shown as of now")]
    let now = SystemTime::now();
    context.out.list(
        &[
            "NAME",
            "ADDRESS",
            "SOURCE",
            "AGE",
            "LEFT",
            "WRITTEN TO",
            "LEFT OUT OF",
        ],
        &lines,
        |line| cells(line, now),
    )?;
    if !context.out.is_json() {
        warn_of_sources(context);
    }
    Ok(())
}

fn cells(line: &HostLine, now: SystemTime) -> Vec<String> {
    let time = |text: &Option<String>| text.as_deref().and_then(read_timestamp);
    let span = |from: SystemTime, to: SystemTime| {
        seconds(to.duration_since(from).unwrap_or_default().as_secs())
    };
    let star = if line.wildcard { "*." } else { "" };
    let mut left_out = line.left_out.join("; ");
    if let Some(hint) = &line.hint {
        left_out.push_str(&format!(" (hint: {hint})"));
    }
    vec![
        format!("{star}{}", line.name),
        line.address.to_string(),
        line.source.clone(),
        or_dash(time(&line.since).map_or_else(String::new, |since| span(since, now))),
        or_dash(time(&line.until).map_or_else(String::new, |until| span(now, until))),
        comma_list(line.written.iter().map(|file| file.display())),
        or_dash(left_out),
    ]
}

/// Names may be old whose source cannot be read.
fn warn_of_sources(context: &Context) {
    // That the daemon is down, or too old to know, was said or matters little beside the names.
    let Ok(sources) = context.ask::<Vec<SourceStatus>>(Daemon::Hostsync, "/v1/sources") else {
        return;
    };
    for source in sources {
        if let (Some(since), Some(reason)) = (source.away_since, source.reason) {
            let ends = source
                .until
                .map_or_else(String::new, |until| format!(", its names end at {until}"));
            context.out.warning(&format!(
                "{} cannot be read since {since}{ends}: {reason}",
                source.name
            ));
        }
    }
}

/// What hostsync says, or what the configuration says while it is down.
pub(crate) fn listed(context: &Context, config: &Config) -> Vec<HostLine> {
    context
        .ask_if_up(Daemon::Hostsync, "/v1/hosts")
        .unwrap_or_else(|| configured(config))
}

/// The names that would be written.
pub(crate) fn configured(config: &Config) -> Vec<HostLine> {
    let line =
        |name: &HostName, address, (source, origin): (String, NameOrigin), wildcard| HostLine {
            name: name.clone(),
            address,
            source,
            origin: Some(origin),
            written: Vec::new(),
            left_out: Vec::new(),
            wildcard,
            priority: None,
            since: None,
            until: None,
            hint: None,
        };
    let hosts = &config.hosts;
    let plain = hosts.entries.iter().map(|entry| (entry, false));
    let below = hosts.wildcards.iter().map(|entry| (entry, true));
    let fixed = plain.chain(below).map(|((name, address), below)| {
        let from = ("static".to_owned(), NameOrigin::Static);
        line(name, *address, from, below)
    });
    let guests = config.guests.values().flat_map(|guest| {
        let names = config.names_of(guest).unwrap_or_default();
        names.into_iter().map(move |name| {
            let from = (
                format!("guest {}", guest.name),
                NameOrigin::Guest {
                    guest: guest.name.clone(),
                    network: guest.network.clone(),
                },
            );
            line(&name, guest.host_address.into(), from, false)
        })
    });
    fixed.chain(guests).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn ages_ends_and_remedies_are_told() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(10_000);
        let at = |seconds: u64| {
            let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
            Some(control::events::timestamp(time))
        };
        let line = HostLine {
            name: "demo.test".parse().unwrap(),
            address: "127.0.0.1".parse().unwrap(),
            source: "added".to_owned(),
            origin: Some(NameOrigin::Added),
            written: Vec::new(),
            left_out: vec!["static has it".to_owned()],
            wildcard: true,
            priority: None,
            since: at(9_000),
            until: at(11_740),
            hint: Some("sharectl host rm".to_owned()),
        };
        assert_eq!(
            cells(&line, now),
            [
                "*.demo.test",
                "127.0.0.1",
                "added",
                "16m40s",
                "29m0s",
                "-",
                "static has it (hint: sharectl host rm)"
            ]
        );
    }
}
