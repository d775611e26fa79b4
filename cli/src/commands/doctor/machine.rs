//! Checks of the machine: QEMU, devices, kernel settings, limits.

use std::fs::File;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustix::process::{Resource, getrlimit};

use super::facts::Facts;
use super::finding::{Finding, Subject};
use crate::limited::{Ran, run};

/// Descriptors for 5,000 flows of two guests, with their listeners and files.
const WANTED_FILES: u64 = 16_384;
/// QEMU that knows `-netdev stream`.
const OLDEST_QEMU: (u32, u32) = (7, 2);
/// For a program to print its version.
const VERSION_LIMIT: Duration = Duration::from_secs(5);

pub(super) fn qemu(_: &Facts) -> Vec<Finding> {
    let subject = Finding::about("qemu", "qemu");
    let program = "qemu-system-x86_64";
    let install = "sudo apt-get install qemu-system-x86";
    let mut line = Command::new(program);
    line.arg("--version");
    let output = match run(line, VERSION_LIMIT) {
        Ran::Ended(output) => output,
        Ran::Not(error) => {
            let evidence = format!("{program}: {error}; another VMM or architecture may do");
            return vec![subject.warns(evidence, install)];
        }
        Ran::TooLong => {
            let evidence = format!(
                "{program} --version takes more than {} s",
                VERSION_LIMIT.as_secs()
            );
            return vec![subject.warns(evidence, install)];
        }
    };
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().next().unwrap_or_default().to_owned();
    vec![match qemu_version(&line) {
        Some(version) if version >= OLDEST_QEMU => subject.ok(line),
        Some(_) => subject.fails(
            format!("{line} has no -netdev stream, which came with 7.2"),
            install,
        ),
        None => subject.warns(format!("{program} --version says \"{line}\""), install),
    }]
}

fn qemu_version(line: &str) -> Option<(u32, u32)> {
    let (_, rest) = line.split_once("version ")?;
    let mut numbers = rest.split(['.', ' ', '(']);
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

pub(super) fn tun(facts: &Facts) -> Vec<Finding> {
    vec![device(
        facts,
        "tun",
        "/dev/net/tun",
        "sharectl guest attach needs it",
    )]
}

pub(super) fn fuse(facts: &Facts) -> Vec<Finding> {
    let need = "host mounts need it; shares of guests do not";
    let mut findings = vec![device(facts, "fuse", "/dev/fuse", need)];
    let search = std::env::var_os("PATH").unwrap_or_default();
    let helper = std::env::split_paths(&search)
        .map(|folder| folder.join("fusermount3"))
        .find(|program| program.is_file());
    let subject = Subject::of("fuse", "fusermount3");
    findings.push(match helper {
        Some(program) => subject.ok(program.display().to_string()),
        None if rustix::process::geteuid().is_root() => {
            subject.skipped("root mounts without fusermount3")
        }
        None => subject.warns(
            format!("fusermount3 is not on the search path; {need}"),
            "sudo apt-get install fuse3",
        ),
    });
    findings
}

fn device(facts: &Facts, name: &str, path: &str, need: &str) -> Finding {
    let subject = Finding::about(name, name);
    let place = facts.root.join(path.trim_start_matches('/'));
    match open(&place) {
        Ok(_) => subject.ok(format!("{path} opens")),
        Err(error) => subject.warns(
            format!("{path}: {error}; {need}"),
            format!("sudo modprobe {name}; sudo chmod 666 {path}"),
        ),
    }
}

fn open(path: &Path) -> std::io::Result<File> {
    File::options().read(true).write(true).open(path)
}

pub(super) fn ping(facts: &Facts) -> Vec<Finding> {
    let setting = facts.read("proc/sys/net/ipv4/ping_group_range");
    vec![judge_ping(&setting, rustix::process::getegid().as_raw())]
}

/// Whether this group may open ping sockets (icmp(7)): guests' pings go through them.
fn judge_ping(setting: &str, gid: u32) -> Finding {
    let subject = Finding::about("ping", "ping");
    let fix = "sudo sysctl net.ipv4.ping_group_range=\"0 2147483647\"";
    let mut numbers = setting
        .split_whitespace()
        .filter_map(|number| number.parse::<u32>().ok());
    match (numbers.next(), numbers.next()) {
        (Some(first), Some(last)) if (first..=last).contains(&gid) => subject.ok(format!(
            "group {gid} is in ping_group_range {first} to {last}: guests can ping the outside"
        )),
        (Some(first), Some(last)) => subject.warns(
            format!(
                "group {gid} is not in ping_group_range {first} to {last}: guests can ping the gateway and each other only"
            ),
            fix,
        ),
        _ => subject.warns("net.ipv4.ping_group_range cannot be read", fix),
    }
}

pub(super) fn open_files(_: &Facts) -> Vec<Finding> {
    let subject = Finding::about("open-files", "open files");
    let limit = getrlimit(Resource::Nofile);
    let text =
        |value: Option<u64>| value.map_or_else(|| "no limit".to_owned(), |value| value.to_string());
    let seen = format!(
        "{} now, {} at most",
        text(limit.current),
        text(limit.maximum)
    );
    // The daemons raise theirs to the maximum.
    vec![
        if limit.maximum.is_none_or(|maximum| maximum >= WANTED_FILES) {
            subject.ok(seen)
        } else {
            subject.warns(
                format!("{seen}; many connections at once need {WANTED_FILES}"),
                "ulimit -Hn 65536 as root, or LimitNOFILE=65536 in the unit",
            )
        },
    ]
}

#[cfg(test)]
mod tests {
    use super::super::facts::tests::Bed;
    use super::super::finding::State;
    use super::*;

    #[test]
    fn versions_of_qemu_are_read() {
        for (line, version) in [
            (
                "QEMU emulator version 7.2.19 (Debian 1:7.2+dfsg-7)",
                Some((7, 2)),
            ),
            ("QEMU emulator version 10.0.0", Some((10, 0))),
            ("something else", None),
        ] {
            assert_eq!(qemu_version(line), version, "{line}");
        }
    }

    #[test]
    fn ping_follows_the_group_range() {
        assert_eq!(judge_ping("0\t2147483647\n", 1000).state, State::Ok);
        // The kernel's way to say nobody.
        assert_eq!(judge_ping("1\t0\n", 0).state, State::Warn);
        assert_eq!(judge_ping("", 0).state, State::Warn);
    }

    #[test]
    fn a_device_that_is_missing_is_told_with_what_needs_it() {
        let bed = Bed::with("");
        let missing = &tun(&bed.facts)[0];
        assert!(
            missing.evidence.contains("guest attach needs it"),
            "{missing:?}"
        );
        assert!(missing.fix.as_ref().unwrap().contains("modprobe tun"));
        bed.file("dev/net/tun", "");
        assert_eq!(tun(&bed.facts)[0].state, State::Ok);
    }
}
