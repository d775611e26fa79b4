//! Checks of what is sharectl's own: configuration, folders, daemons, shares,
//! hosts files, and subnets against the host's network.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use control::api::HostsFileStatus;
use control::config::{Config, Network, NetworkKind};
use control::host_interface;
use control::host_network::{self, UsedSubnet};
use control::lock;
use control::paths::Daemon;
use rustix::fs::{Access, AtFlags, CWD};

use super::Check;
use crate::commands::host;
use crate::context::Context;
use crate::daemons;
use crate::error::Exit;

/// `sun_path` of a unix socket's address, with its final zero.
const SOCKET_PATH_SIZE: usize = 108;
/// The longest name below the runtime folder: `guest/` 24 `/fs-` 31 `.sock`.
const LONGEST_BELOW: usize = 6 + 24 + 4 + 31 + 5 + 1;

pub(super) fn checks(context: &Context) -> Vec<Check> {
    let config = Config::load(&context.paths.config);
    let mut checks = vec![
        configuration(context, &config),
        runtime_folder(&context.paths.runtime),
        state_folder(&context.paths.state),
        programs(),
    ];
    checks.extend(
        Daemon::ALL
            .into_iter()
            .map(|daemon| running(context, daemon)),
    );
    if let Ok(config) = &config {
        checks.push(shares(config));
        checks.push(hosts_files(context));
        checks.push(subnets(
            config,
            &host_network::used_subnets().unwrap_or_default(),
        ));
        checks.extend(config.networks.values().filter_map(uplink));
        checks.extend(config.networks.values().filter_map(host_tap));
        checks.push(low_ports(
            config,
            &read("/proc/sys/net/ipv4/ip_unprivileged_port_start"),
        ));
    }
    checks
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

fn configuration(
    context: &Context,
    config: &Result<Config, control::config::ConfigErrors>,
) -> Check {
    let name = "configuration";
    let path = context.paths.config.display();
    match config {
        Ok(_) if !context.paths.config.exists() => Check::warning(
            name,
            format!("{path} is not there; the built-in defaults hold"),
            "sharectl init",
        ),
        Ok(config) => Check::ok(
            name,
            format!(
                "{path}: {} guests, {} shares",
                config.guests.len(),
                config.shares.len()
            ),
        ),
        Err(errors) => Check::failed(
            name,
            errors.to_string(),
            format!("mend {path}, then: sharectl config check"),
        ),
    }
}

fn runtime_folder(folder: &Path) -> Check {
    let name = "runtime folder";
    let shown = folder.display();
    let length = folder.as_os_str().len() + 1 + LONGEST_BELOW;
    if length > SOCKET_PATH_SIZE {
        return Check::failed(
            name,
            format!(
                "{shown} is too long a path: sockets below it may need {length} of {SOCKET_PATH_SIZE} bytes"
            ),
            "export SHARECTL_RUNTIME_DIR=/run/user/$UID/sharectl",
        );
    }
    match std::fs::symlink_metadata(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Check::ok(
            name,
            format!("{shown} is not there yet; sharectl up makes it"),
        ),
        Err(error) => Check::failed(
            name,
            format!("{shown}: {error}"),
            "export SHARECTL_RUNTIME_DIR=FOLDER",
        ),
        Ok(found) if !found.is_dir() => Check::failed(
            name,
            format!("{shown} is no folder"),
            format!("rm {shown}, or export SHARECTL_RUNTIME_DIR=FOLDER"),
        ),
        Ok(found) if found.permissions().mode() & 0o077 != 0 => Check::failed(
            name,
            format!(
                "{shown} is open to other users (mode {:o})",
                found.permissions().mode() & 0o777
            ),
            format!("chmod 700 {shown}"),
        ),
        Ok(found) => Check::ok(
            name,
            format!(
                "{shown}, of user {}, mode {:o}",
                found.uid(),
                found.permissions().mode() & 0o777
            ),
        ),
    }
}

fn writable(path: &Path) -> bool {
    rustix::fs::accessat(CWD, path, Access::WRITE_OK, AtFlags::EACCESS).is_ok()
}

fn state_folder(folder: &Path) -> Check {
    let name = "state folder";
    let there: Option<&Path> = folder.ancestors().find(|path| path.exists());
    match there {
        Some(there) if writable(there) => {
            Check::ok(name, format!("{} can be written", folder.display()))
        }
        Some(_) | None => Check::failed(
            name,
            format!("{} cannot be written by this user", folder.display()),
            "export SHARECTL_STATE_DIR=FOLDER, or run as the user whose folder it is",
        ),
    }
}

fn programs() -> Check {
    let name = "programs";
    let mut found = Vec::new();
    for daemon in Daemon::ALL {
        match daemons::program(daemon) {
            Ok(path) => found.push(path.display().to_string()),
            Err(error) => {
                return Check::failed(name, error.message, error.hint.unwrap_or_default());
            }
        }
    }
    Check::ok(name, found.join(", "))
}

fn running(context: &Context, daemon: Daemon) -> Check {
    let name = daemon.name();
    match context.status(daemon) {
        Ok(status) if status.version != env!("CARGO_PKG_VERSION") => Check::failed(
            name,
            format!(
                "process {} is version {}, this command {}",
                status.pid,
                status.version,
                env!("CARGO_PKG_VERSION")
            ),
            format!("sharectl restart {daemon}"),
        ),
        Ok(status) if !status.problems.is_empty() => Check::warning(
            name,
            format!("process {}: {}", status.pid, status.problems.join("\n")),
            format!("sharectl logs {daemon}"),
        ),
        Ok(status) => Check::ok(
            name,
            format!("process {} answers, version {}", status.pid, status.version),
        ),
        Err(error) => match lock::holder(&context.paths.lock(daemon)).ok().flatten() {
            Some(pid) => Check::failed(
                name,
                format!("process {pid} does not answer: {error}"),
                "sharectl down && sharectl up",
            ),
            None if error.exit == Exit::NotRunning => {
                let stale = context.paths.control_socket(daemon).exists();
                let socket = if stale {
                    "; its socket is left from before, which does no harm"
                } else {
                    ""
                };
                Check::warning(name, format!("is not running{socket}"), "sharectl up")
            }
            None => Check::failed(name, error.message, error.hint.unwrap_or_default()),
        },
    }
}

fn shares(config: &Config) -> Check {
    let name = "shares' folders";
    for share in config.shares.values() {
        let path = share.path.display();
        if let Err(error) = std::fs::read_dir(&share.path) {
            return Check::failed(
                name,
                format!("share {}: {path}: {error}", share.name),
                format!(
                    "mkdir -p {path}, or mount the drive, or: sharectl share rm {}",
                    share.name
                ),
            );
        }
        if !share.read_only && !writable(&share.path) {
            return Check::warning(
                name,
                format!(
                    "share {}: {path} cannot be written by this user",
                    share.name
                ),
                format!(
                    "chown it, or say read-only = true in [share.{}]",
                    share.name
                ),
            );
        }
    }
    Check::ok(
        name,
        format!("{} shares, every folder can be read", config.shares.len()),
    )
}

/// As hostsync itself sees them, with this user's rights.
fn hosts_files(context: &Context) -> Check {
    let name = "hosts files";
    let files: Vec<HostsFileStatus> = match host::round(context, "files") {
        Ok(files) => files,
        Err(error) => {
            let fix = error.hint.clone().unwrap_or_default();
            return Check::warning(name, error.to_string(), fix);
        }
    };
    for file in &files {
        if let Some(problem) = &file.problem {
            let (why, fix) = problem
                .split_once("; try: ")
                .unwrap_or((problem, "name a file of your own in [hosts] files"));
            return Check::warning(
                name,
                format!("{why}; names then resolve in guests only"),
                fix,
            );
        }
    }
    let seen = files
        .iter()
        .map(|file| format!("{} {}", file.file.display(), file.way));
    Check::ok(
        name,
        format!("written: {}", crate::output::comma_list(seen)),
    )
}

fn subnets(config: &Config, used: &[UsedSubnet]) -> Check {
    let name = "subnets";
    if let Some(clash) = host_network::clashes(config, used).first() {
        // Guests of a host-only network lose nothing but the host's own neighbours.
        return match clash.kind {
            NetworkKind::Nat => Check::failed(name, clash.to_string(), clash.remedy()),
            NetworkKind::HostOnly | NetworkKind::Bridged => {
                Check::warning(name, clash.to_string(), clash.remedy())
            }
        };
    }
    let own = |network: &&Network| network.kind != NetworkKind::Bridged;
    let subnets = config.networks.values().filter(own);
    let all = crate::output::comma_list(subnets.map(|network| network.subnet));
    Check::ok(
        name,
        format!(
            "{all} clash with none of {} interfaces and routes",
            used.len()
        ),
    )
}

/// Can guests be bridged to the interface that is meant? Whether netd may open it, its status says.
fn uplink(network: &Network) -> Option<Check> {
    let name = "bridged network";
    if network.kind != NetworkKind::Bridged {
        return None;
    }
    Some(
        match host_interface::bridgeable(network.interface.as_deref()) {
            Ok(interface) => {
                let host = interface.address.map_or_else(
                    || {
                        "without an IPv4 address: guests and host do not reach each other"
                            .to_owned()
                    },
                    |address| format!("{}, where the host is {}", address.trunc(), address.addr()),
                );
                Check::ok(
                    name,
                    format!("{} on {}, {host}", network.name, interface.name),
                )
            }
            Err(error) => {
                let fix = error.hint(network.name.as_str());
                Check::failed(name, format!("{}: {error}", network.name), fix)
            }
        },
    )
}

/// Is the host's interface on the network there, this user's, and has it its address?
fn host_tap(network: &Network) -> Option<Check> {
    let name = "host's tap";
    let address = network.host_tap?;
    let missing = match host_interface::host_tap(network.name.as_str()) {
        None => Some(format!("there is no tap {}", network.name)),
        Some(tap) => {
            let user = rustix::process::geteuid();
            let ours = user.is_root() || tap.owner == Some(user.as_raw());
            if !ours {
                let owner = tap
                    .owner
                    .map_or_else(|| "root".to_owned(), |owner| owner.to_string());
                Some(format!(
                    "tap {} belongs to user {owner}, not to this one",
                    network.name
                ))
            } else if !tap.up {
                Some(format!("tap {} is down", network.name))
            } else if !tap.has(address) {
                Some(format!(
                    "tap {} does not have the address {address}",
                    network.name
                ))
            } else {
                None
            }
        }
    };
    Some(match missing {
        Some(evidence) => Check::failed(
            name,
            evidence,
            format!("sudo sharectl network host-tap create {}", network.name),
        ),
        None => Check::ok(name, format!("{} has {address}", network.name)),
    })
}

fn low_ports(config: &Config, setting: &str) -> Check {
    let name = "low ports";
    // Without the setting the kernel's default holds (ip-sysctl.rst).
    let first: u16 = setting.trim().parse().unwrap_or(1024);
    let root = rustix::process::geteuid().is_root();
    let low = config
        .guests
        .values()
        .flat_map(|guest| guest.publish.iter().map(move |spec| (guest, spec)));
    let low: Vec<String> = low
        .filter(|(_, spec)| spec.host_ports().is_some_and(|ports| ports.first < first))
        .map(|(guest, spec)| format!("{spec} of {}", guest.name))
        .collect();
    match low.len() {
        0 => Check::ok(
            name,
            format!("ports from {first} on are free for all; no guest publishes a lower one"),
        ),
        _ if root => Check::ok(
            name,
            format!("{} need root, which this user is", low.join(", ")),
        ),
        _ => Check::failed(
            name,
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
    use control::config::Surroundings;

    use super::super::State;
    use super::*;

    fn config(text: &str) -> Config {
        Config::parse(text, Path::new("c.toml"), &Surroundings::of_process()).unwrap()
    }

    #[test]
    fn clash_names_both_sides_and_the_command_that_ends_it() {
        let used = [UsedSubnet {
            subnet: "192.168.0.0/16".parse().unwrap(),
            interface: "tun0".to_owned(),
        }];
        let check = subnets(&config(""), &used);
        assert_eq!(check.state, State::Failed);
        assert_eq!(
            check.evidence,
            "network vmnet8 has 192.168.130.0/24, but tun0 of this host leads to 192.168.0.0/16"
        );
        assert_eq!(check.fix.unwrap(), "sharectl network renumber vmnet8");
        assert_eq!(subnets(&config(""), &[]).state, State::Ok);
    }

    #[test]
    fn low_ports_are_named_with_their_guest() {
        let config = config("[guest.web]\npublish = [\"80\", \"8080\"]\n");
        let check = low_ports(&config, "1024\n");
        assert!(
            check.evidence.contains("80:80 of web") || check.evidence.contains("80 of web"),
            "{check:?}"
        );
        assert_eq!(low_ports(&config, "80\n").state, State::Ok);
    }

    #[test]
    fn open_and_overlong_runtime_folders_fail() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
        assert_eq!(runtime_folder(folder.path()).state, State::Failed);
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o700)).unwrap();
        assert_eq!(runtime_folder(folder.path()).state, State::Ok);
        assert_eq!(
            runtime_folder(&folder.path().join("x".repeat(60))).state,
            State::Failed
        );
    }

    #[test]
    fn share_without_folder_fails_with_the_way_out() {
        let check = shares(&config("[share.d]\npath = \"/nonexistent/d\"\n"));
        assert_eq!(check.state, State::Failed);
        assert!(check.fix.unwrap().contains("sharectl share rm d"));
    }
}
