//! Checks of published ports: who else has one, and whether this user may have it.

use std::net::{IpAddr, SocketAddr};

use control::api::PortStatus;
use control::config::{Config, Guest};
use control::lock;
use control::paths::Daemon;
use control::port::PortSpec;
use control::port_owner::{self, PortOwner};

use super::facts::Facts;
use super::finding::{Finding, Subject};
use super::fix::Repair;
use super::{nothing, without_config};

/// Of a range so many are looked at one by one; each costs a read of the kernel's table.
const MOST_PORTS: usize = 64;

pub(super) fn published(facts: &Facts) -> Vec<Finding> {
    let Ok(config) = &facts.config else {
        return without_config("port");
    };
    let live: Option<Vec<PortStatus>> = facts.ask(Daemon::Netd, "/v1/ports").ok();
    // One that runs has the ports, and is nobody to be stopped for them.
    let netd = lock::holder(&facts.paths.lock(Daemon::Netd)).ok().flatten();
    if let (None, Some(pid)) = (&live, netd) {
        return nothing("port", &format!("netd, process {pid}, does not answer"));
    }
    let specs = config
        .guests
        .values()
        .flat_map(|guest| guest.publish.iter().map(move |spec| (guest, spec)));
    let findings: Vec<Finding> = specs
        .map(|(guest, spec)| {
            let held = live.as_ref().map(|ports| {
                let found = ports
                    .iter()
                    .find(|port| port.guest == guest.name && port.spec == *spec);
                Held {
                    known: found.is_some(),
                    problems: found.map_or_else(Vec::new, |port| port.problems.clone()),
                }
            });
            let owners = match &held {
                Some(held) if held.known && held.problems.is_empty() => Vec::new(),
                Some(_) | None => owners(guest, spec),
            };
            judge(
                Subject::of("port", format!("{}.{spec}", guest.name)),
                spec,
                held,
                &owners,
            )
        })
        .collect();
    match findings.is_empty() {
        true => nothing("port", "no guest publishes one"),
        false => findings,
    }
}

/// What netd says of one.
#[derive(Debug)]
struct Held {
    /// It has heard of it.
    known: bool,
    problems: Vec<String>,
}

/// Who has a port that netd needs; localhost's is taken only where it is free anyway.
fn owners(guest: &Guest, spec: &PortSpec) -> Vec<PortOwner> {
    let Some(range) = spec.host_ports() else {
        return Vec::new();
    };
    let bind = spec.bind().unwrap_or(IpAddr::V4(guest.host_address));
    let mut found = Vec::new();
    for port in (range.first..=range.last).take(MOST_PORTS) {
        found.extend(port_owner::in_the_way(
            spec.protocol,
            SocketAddr::new(bind, port),
        ));
    }
    found
}

/// `held` is none while netd does not run.
fn judge(subject: Subject, spec: &PortSpec, held: Option<Held>, owners: &[PortOwner]) -> Finding {
    let port = spec.host_ports().map_or(0, |range| range.first);
    if let Some(owner) = owners.first() {
        let all: Vec<String> = owners
            .iter()
            .map(|owner| format!("{} is in use by {owner}", owner.address))
            .collect();
        let look = owner.look_up(spec.protocol);
        let fix = owner.stop().unwrap_or(look);
        return subject.fails(
            all.join("\n"),
            format!(
                "{fix}, or publish another; sharectl port explain {}/{}",
                owner.address.port(),
                spec.protocol
            ),
        );
    }
    match held {
        None => subject.skipped("netd does not run; nobody is in the way"),
        Some(held) if !held.problems.is_empty() => subject
            .fails(
                format!("{}; it is free now", held.problems.join("\n")),
                format!("sharectl port explain {port}/{}", spec.protocol),
            )
            .mended_by(Repair::Reload(Daemon::Netd)),
        Some(held) if !held.known => subject
            .warns(
                "netd does not know of it yet",
                format!("sharectl port explain {port}/{}", spec.protocol),
            )
            .mended_by(Repair::Reload(Daemon::Netd)),
        Some(_) => subject.ok("netd has it"),
    }
}

pub(super) fn low(facts: &Facts) -> Vec<Finding> {
    let Ok(config) = &facts.config else {
        return without_config("low-ports");
    };
    let setting = facts.read("proc/sys/net/ipv4/ip_unprivileged_port_start");
    vec![judge_low(
        config,
        &setting,
        rustix::process::geteuid().is_root(),
    )]
}

fn judge_low(config: &Config, setting: &str, root: bool) -> Finding {
    let subject = Finding::about("low-ports", "low ports");
    // Without the setting the kernel's default holds (ip-sysctl.rst).
    let first: u16 = setting.trim().parse().unwrap_or(1024);
    let low = config
        .guests
        .values()
        .flat_map(|guest| guest.publish.iter().map(move |spec| (guest, spec)));
    let low: Vec<String> = low
        .filter(|(_, spec)| spec.host_ports().is_some_and(|ports| ports.first < first))
        .map(|(guest, spec)| format!("{spec} of {}", guest.name))
        .collect();
    match low.len() {
        0 => subject.ok(format!(
            "ports from {first} on are free for all; no guest publishes a lower one"
        )),
        _ if root => subject.ok(format!("{} need root, which this user is", low.join(", "))),
        _ => subject.fails(
            format!(
                "{} cannot be published by this user: ports below {first} need a right",
                low.join(", ")
            ),
            "sudo sysctl net.ipv4.ip_unprivileged_port_start=80, or publish a higher port",
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::super::facts::tests::Bed;
    use super::super::finding::State;
    use super::*;

    #[test]
    fn who_has_a_port_is_named_with_the_command_that_ends_it() {
        let taken = TcpListener::bind("127.64.0.9:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        let bed = Bed::with(&format!(
            "[guest.dev]\nhost-address = \"127.64.0.9\"\npublish = [\"{port}:80\", \":81\"]\n"
        ));
        let findings = published(&bed.facts);
        let found = &findings[0];
        assert_eq!(found.id, format!("port.dev.{port}:80"));
        assert_eq!(found.state, State::Fail);
        let pid = format!("pid {}", std::process::id());
        assert!(found.evidence.contains(&pid), "{found:?}");
        let kill = format!("kill {}", std::process::id());
        assert!(found.fix.as_ref().unwrap().starts_with(&kill), "{found:?}");
        assert_eq!(findings[1].state, State::Skipped, "a free one is chosen");
    }

    #[test]
    fn a_port_that_became_free_is_had_by_a_reload() {
        let spec: PortSpec = "8080:80".parse().unwrap();
        let look = |known, problems: &[&str]| {
            let held = Held {
                known,
                problems: problems.iter().map(|text| (*text).to_owned()).collect(),
            };
            judge(Subject::of("port", "dev.8080:80"), &spec, Some(held), &[])
        };
        let found = look(true, &["cannot bind tcp 127.64.0.1:8080"]);
        assert_eq!(found.repair, Some(Repair::Reload(Daemon::Netd)));
        assert_eq!(look(false, &[]).state, State::Warn);
        assert_eq!(look(true, &[]).state, State::Ok);
    }

    #[test]
    fn low_ports_are_named_with_their_guest() {
        let bed = Bed::with("[guest.web]\npublish = [\"80\", \"8080\"]\n");
        let config = bed.facts.config.as_ref().unwrap();
        let found = judge_low(config, "1024\n", false);
        assert_eq!(found.state, State::Fail);
        assert!(
            found.evidence.contains("of web") && !found.evidence.contains("8080"),
            "{found:?}"
        );
        assert_eq!(judge_low(config, "80\n", false).state, State::Ok);
        assert_eq!(judge_low(config, "", true).state, State::Ok);
    }
}
