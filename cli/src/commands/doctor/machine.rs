//! Checks of the machine: devices, QEMU, kernel settings, resolvers, limits.

use std::fs::File;
use std::io::ErrorKind;
use std::process::{Command, Stdio};

use rustix::process::{Resource, getrlimit};

use super::Check;
use crate::sys;

/// Descriptors for 5,000 flows of two guests, with their listeners and files.
const WANTED_FILES: u64 = 16_384;
/// QEMU that knows `-netdev stream`.
const OLDEST_QEMU: (u32, u32) = (7, 2);
/// KVM's version since 2007 (Documentation/virt/kvm/api.rst, 4.1).
const KVM_VERSION: i32 = 12;

pub(super) fn checks() -> Vec<Check> {
    vec![
        kvm(),
        qemu(),
        device(
            "tun",
            "/dev/net/tun",
            "sharectl guest attach needs it",
            "sudo modprobe tun; sudo chmod 666 /dev/net/tun",
        ),
        device(
            "fuse",
            "/dev/fuse",
            "host mounts need it; shares of guests do not",
            "sudo modprobe fuse; sudo chmod 666 /dev/fuse",
        ),
        ping(
            &read("/proc/sys/net/ipv4/ping_group_range"),
            rustix::process::getegid().as_raw(),
        ),
        resolvers(&read("/etc/resolv.conf")),
        open_files(),
    ]
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

fn open(path: &str) -> std::io::Result<File> {
    File::options().read(true).write(true).open(path)
}

fn kvm() -> Check {
    let name = "kvm";
    let path = "/dev/kvm";
    let slow = "guests run in software, which is ten times slower";
    match open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Check::warning(
            name,
            format!("{path} is not there; {slow}"),
            "turn virtualisation on in the firmware, or nested virtualisation in the VM this is; sudo modprobe kvm_intel or kvm_amd",
        ),
        Err(error) => Check::warning(
            name,
            format!("{path}: {error}; {slow}"),
            "sudo usermod -aG kvm $USER, then log in again",
        ),
        Ok(kvm) => match sys::kvm_api_version(&kvm) {
            Ok(KVM_VERSION) => Check::ok(
                name,
                format!(
                    "{path} opens and says version {KVM_VERSION}; whether a guest runs on it was not tried: if one hangs at once, use -accel tcg"
                ),
            ),
            Ok(version) => Check::warning(
                name,
                format!("{path} says version {version}, not {KVM_VERSION}; {slow}"),
                "use -accel tcg, or another kernel",
            ),
            Err(error) => Check::warning(
                name,
                format!("{path} opens but does not answer: {error}; {slow}"),
                "use -accel tcg",
            ),
        },
    }
}

fn qemu() -> Check {
    let name = "qemu";
    let program = "qemu-system-x86_64";
    let output = Command::new(program)
        .arg("--version")
        .stdin(Stdio::null())
        .output();
    let install = "sudo apt-get install qemu-system-x86";
    match output {
        Err(error) => Check::warning(
            name,
            format!("{program}: {error}; another VMM or architecture may do"),
            install,
        ),
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stdout);
            let line = text.lines().next().unwrap_or_default().to_owned();
            match qemu_version(&line) {
                Some(version) if version >= OLDEST_QEMU => Check::ok(name, line),
                Some(_) => Check::failed(
                    name,
                    format!("{line} has no -netdev stream, which came with 7.2"),
                    install,
                ),
                None => Check::warning(
                    name,
                    format!("{program} --version says \"{line}\""),
                    install,
                ),
            }
        }
    }
}

fn qemu_version(line: &str) -> Option<(u32, u32)> {
    let (_, rest) = line.split_once("version ")?;
    let mut numbers = rest.split(['.', ' ', '(']);
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn device(name: &'static str, path: &str, use_of_it: &str, fix: &str) -> Check {
    match open(path) {
        Ok(_) => Check::ok(name, format!("{path} opens")),
        Err(error) => Check::warning(name, format!("{path}: {error}; {use_of_it}"), fix),
    }
}

/// Whether this group may open ping sockets (icmp(7)): guests' pings go through them.
fn ping(setting: &str, gid: u32) -> Check {
    let name = "ping";
    let fix = "sudo sysctl net.ipv4.ping_group_range=\"0 2147483647\"";
    let mut numbers = setting
        .split_whitespace()
        .filter_map(|number| number.parse::<u32>().ok());
    match (numbers.next(), numbers.next()) {
        (Some(first), Some(last)) if (first..=last).contains(&gid) => Check::ok(
            name,
            format!(
                "group {gid} is in ping_group_range {first} to {last}: guests can ping the outside"
            ),
        ),
        (Some(first), Some(last)) => Check::warning(
            name,
            format!(
                "group {gid} is not in ping_group_range {first} to {last}: guests can ping the gateway and each other only"
            ),
            fix,
        ),
        _ => Check::warning(name, "net.ipv4.ping_group_range cannot be read", fix),
    }
}

fn resolvers(text: &str) -> Check {
    let name = "resolvers";
    let servers: Vec<&str> = text
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            (words.next() == Some("nameserver"))
                .then(|| words.next())
                .flatten()
        })
        .collect();
    let bad = servers.iter().find(|server| {
        server
            .split('%')
            .next()
            .is_none_or(|address| address.parse::<std::net::IpAddr>().is_err())
    });
    match bad {
        Some(server) => Check::failed(
            name,
            format!("/etc/resolv.conf names \"{server}\", which is no address"),
            "mend /etc/resolv.conf",
        ),
        None if servers.is_empty() => Check::warning(
            name,
            "/etc/resolv.conf names none: guests resolve only each other and this host's names",
            "name some in the file: dns = [\"9.9.9.9\"] in [network.NAME]",
        ),
        None => Check::ok(
            name,
            format!(
                "{} in /etc/resolv.conf; they were not asked",
                servers.join(", ")
            ),
        ),
    }
}

fn open_files() -> Check {
    let name = "open files";
    let limit = getrlimit(Resource::Nofile);
    let text =
        |value: Option<u64>| value.map_or_else(|| "no limit".to_owned(), |value| value.to_string());
    let seen = format!(
        "{} now, {} at most",
        text(limit.current),
        text(limit.maximum)
    );
    // The daemons raise theirs to the maximum.
    if limit.maximum.is_none_or(|maximum| maximum >= WANTED_FILES) {
        Check::ok(name, seen)
    } else {
        Check::warning(
            name,
            format!("{seen}; many connections at once need {WANTED_FILES}"),
            "ulimit -Hn 65536 as root, or LimitNOFILE=65536 in the unit",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::super::State;
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
        assert_eq!(ping("0\t2147483647\n", 1000).state, State::Ok);
        // The kernel's way to say nobody.
        assert_eq!(ping("1\t0\n", 0).state, State::Warning);
        assert_eq!(ping("", 0).state, State::Warning);
    }

    #[test]
    fn resolvers_are_listed_and_bad_ones_named() {
        assert_eq!(
            resolvers("# x\nnameserver 10.0.0.1\nnameserver fe80::1%eth0\n").state,
            State::Ok
        );
        assert_eq!(resolvers("search test\n").state, State::Warning);
        let bad = resolvers("nameserver gateway\n");
        assert_eq!(
            (bad.state, bad.evidence.contains("\"gateway\"")),
            (State::Failed, true)
        );
    }

    #[test]
    fn every_check_of_this_machine_ends() {
        assert_eq!(checks().len(), 7);
    }
}
