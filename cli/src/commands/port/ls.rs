//! `sharectl port ls`: published ports and where they listen.

use std::net::{IpAddr, SocketAddr};

use control::api::{GuestAnswer, PortStatus};
use control::config::Config;
use control::paths::Daemon;
use control::port::Endpoint;

use crate::context::Context;
use crate::error::Outcome;
use crate::output::or_dash;

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
                or_dash(listening(&port.listening)),
                answers(port),
                or_dash(port.problems.join("; ")),
            ]
        },
    )
}

/// The places, with neighbouring ports of one address as a range: address by address, each in the order of its first.
fn listening(places: &[Endpoint]) -> String {
    let mut runs: Vec<(IpAddr, u16, u16)> = Vec::new();
    let mut words: Vec<String> = Vec::new();
    for place in places {
        match place {
            Endpoint::Unix(_) => words.push(place.to_string()),
            Endpoint::Address(at) => {
                let (ip, port) = (at.ip(), at.port());
                let next = |(of, _, last): &&mut (IpAddr, u16, u16)| {
                    *of == ip && last.checked_add(1) == Some(port)
                };
                match runs.iter_mut().find(next) {
                    Some((_, _, last)) => *last = port,
                    None => runs.push((ip, port, port)),
                }
            }
        }
    }
    words.extend(runs.into_iter().map(|(ip, first, last)| {
        let place = SocketAddr::new(ip, first);
        if first == last {
            place.to_string()
        } else {
            format!("{place}-{last}")
        }
    }));
    words.join(", ")
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_of_one_address_that_follow_each_other_are_a_range() {
        let address = |text: &str| Endpoint::Address(text.parse().unwrap());
        let check = |places: &[Endpoint], expected: &str| {
            assert_eq!(listening(places), expected);
        };
        check(&[], "");
        check(&[address("127.0.0.1:80")], "127.0.0.1:80");
        let mut range = Vec::new();
        for port in 8080..8083 {
            range.push(address(&format!("127.1.0.1:{port}")));
            range.push(address(&format!("[::1]:{port}")));
        }
        range.push(address("127.1.0.1:9000"));
        check(
            &range,
            "127.1.0.1:8080-8082, [::1]:8080-8082, 127.1.0.1:9000",
        );
        let last = [address("127.0.0.1:65535"), address("127.0.0.1:1")];
        check(&last, "127.0.0.1:65535, 127.0.0.1:1");
        let socket = Endpoint::Unix("/run/docker.sock".into());
        check(&[socket], "unix:/run/docker.sock");
    }
}
