//! The Debian and Ubuntu packages that tests and demo need, and how what is missing gets installed.
//!
//! Only packages that start no service and change nothing on the host. The guest's kernel is not here:
//! it is unpacked into a folder, never installed (see `guest::kernel`).

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::{command, user};

/// Fetching some hundred MB over a slow line.
const INSTALL_LIMIT: Duration = Duration::from_secs(900);

/// A program and the package that brings it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Need {
    /// Name on the PATH, or an absolute path.
    pub program: &'static str,
    /// Package of that program.
    pub package: &'static str,
}

const fn need(program: &'static str, package: &'static str) -> Need {
    Need { program, package }
}

/// What a guest under QEMU needs.
pub const GUEST: &[Need] = &[
    need("qemu-system-x86_64", "qemu-system-x86"),
    need("busybox", "busybox-static"),
    need("setpriv", "util-linux"),
    need("dpkg-deb", "dpkg"),
    need("xz", "xz-utils"),
    need("zstd", "zstd"),
    need("curl", "curl"),
];

/// What the tests need besides: real kernel clients in network namespaces.
pub const CLIENTS: &[Need] = &[
    need("ip", "iproute2"),
    need("udhcpc", "udhcpc"),
    need("dhclient", "isc-dhcp-client"),
    need("dhcpcd", "dhcpcd-base"),
    need("iperf3", "iperf3"),
    need("socat", "socat"),
    need("ping", "iputils-ping"),
    need("dnsmasq", "dnsmasq-base"),
    need("dig", "bind9-dnsutils"),
    need("unshare", "util-linux"),
];

/// What the tests of DHCP and router advertisements need beside the clients.
pub const CONFIGURATION: &[Need] = &[need("rdisc6", "ndisc6"), need("perfdhcp", "kea-admin")];

/// What loses packets on purpose.
pub const FILTERS: &[Need] = &[need("nft", "nftables")];

/// What reads captures.
pub const READERS: &[Need] = &[
    need("tcpdump", "tcpdump"),
    need("tshark", "tshark"),
    need("capinfos", "wireshark-common"),
];

/// A terminal that can be looked at.
pub const TERMINALS: &[Need] = &[need("tmux", "tmux")];

/// What the tests of DNS need beside the clients; the base package of dnsmasq starts no service.
pub const NAMES: &[Need] = &[need("dnsperf", "dnsperf")];

/// What the tests of containers' names need: an engine that starts no service by itself.
pub const CONTAINERS: &[Need] = &[
    need("podman", "podman"),
    need("runc", "runc"),
    need("/usr/lib/cni/bridge", "containernetworking-plugins"),
    need("iptables", "iptables"),
    need("busybox", "busybox-static"),
];

/// What the tests of mounts on the host need.
pub const MOUNTS: &[Need] = &[
    need("fusermount3", "fuse3"),
    need("git", "git"),
    need("sqlite3", "sqlite3"),
    need("perl", "perl-base"),
];

/// What the tests of the hosts writer need: systemd's own judgement of its units, and a trace of its system calls.
pub const HOSTS: &[Need] = &[need("systemd-analyze", "systemd"), need("strace", "strace")];

/// Shells whose prompts follow a guest's paths; bash is there.
pub const SHELLS: &[Need] = &[need("zsh", "zsh"), need("fish", "fish")];

/// What reads compose files; it needs no engine for that.
pub const COMPOSE: &[Need] = &[need("docker-compose", "docker-compose")];

/// Another 9P server, with clients of its own. Its service stays off (DIOD_ENABLE=false in /etc/default/diod).
pub const NINEP: &[Need] = &[
    need("diod", "diod"),
    need("diodls", "diod"),
    need("setfattr", "attr"),
];

/// A file system that tells when its disk fails.
pub const CHECKSUMS: &[Need] = &[need("mkfs.btrfs", "btrfs-progs")];

/// What the tests of access control lists need.
pub const LISTS: &[Need] = &[need("setfacl", "acl")];

/// libvirt for an ordinary user's own session: these packages start no service.
pub const LIBVIRT: &[Need] = &[
    need("libvirtd", "libvirt-daemon"),
    need("virsh", "libvirt-clients"),
];

/// What of `needs` this machine lacks, as package names, each once.
#[must_use]
pub fn missing(needs: &[Need]) -> Vec<&'static str> {
    let mut packages: Vec<_> = needs
        .iter()
        .filter(|need| find(need.program).is_none())
        .map(|need| need.package)
        .collect();
    packages.sort_unstable();
    packages.dedup();
    packages
}

/// Where a program is, also in the sbin folders that an ordinary user's PATH leaves out.
#[must_use]
pub fn find(program: &str) -> Option<std::path::PathBuf> {
    if program.starts_with('/') {
        return Some(program.into()).filter(|path: &std::path::PathBuf| path.is_file());
    }
    let path = std::env::var("PATH").unwrap_or_default();
    path.split(':')
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"])
        .map(|folder| Path::new(folder).join(program))
        .find(|path| path.is_file())
}

/// Installs packages. `apt-get update` runs only if the first try fails.
///
/// # Errors
/// When this user may not install, with the one line to type; or what apt-get says.
pub fn install(packages: &[&str]) -> Result<()> {
    if packages.is_empty() {
        return Ok(());
    }
    if !user::is_root() && !may_sudo() {
        bail!(
            "missing: {0}; this user may not install, please type: \
             sudo apt-get update && sudo apt-get install --no-install-recommends {0}",
            packages.join(" ")
        );
    }
    if apt(&install_arguments(packages)).is_ok() {
        return Ok(());
    }
    refresh()?;
    apt(&install_arguments(packages)).with_context(|| format!("install {}", packages.join(" ")))
}

/// Installs what of `needs` is missing.
///
/// # Errors
/// As [`install`].
pub fn ensure(needs: &[Need]) -> Result<()> {
    install(&missing(needs))
}

/// Renews apt's lists.
///
/// # Errors
/// When this user may not, or a mirror fails.
pub fn refresh() -> Result<()> {
    apt(&["-q", "update"]).context("renew the package lists")
}

fn install_arguments<'a>(packages: &[&'a str]) -> Vec<&'a str> {
    let mut arguments = vec!["-q", "-y", "--no-install-recommends", "install"];
    arguments.extend(packages);
    arguments
}

fn apt(arguments: &[&str]) -> Result<()> {
    let mut line = if user::is_root() {
        Command::new("apt-get")
    } else if may_sudo() {
        let mut line = Command::new("sudo");
        line.args(["-n", "--preserve-env=DEBIAN_FRONTEND", "apt-get"]);
        line
    } else {
        bail!(
            "not root and no password-less sudo; please type: sudo apt-get {}",
            arguments.join(" ")
        );
    };
    line.env("DEBIAN_FRONTEND", "noninteractive")
        .args(["-o", "DPkg::Lock::Timeout=300"])
        .args(arguments);
    command::run(&mut line, INSTALL_LIMIT).map(drop)
}

fn may_sudo() -> bool {
    find("sudo").is_some()
        && command::run(
            Command::new("sudo").args(["-n", "true"]),
            Duration::from_secs(10),
        )
        .is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_missing_is_named_and_each_package_once() {
        let needs = [
            need("sh", "dash"),
            need("no-such-program-1", "one"),
            need("no-such-program-2", "one"),
        ];
        assert_eq!(missing(&needs), ["one"]);
    }
}
