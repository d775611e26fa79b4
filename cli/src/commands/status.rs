//! `sharectl status`: what runs, and what is wrong.

use std::collections::BTreeMap;
use std::process::ExitCode;

use control::api::{
    DaemonStatus, GuestStatus, HostsFileStatus, PortStatus, ShareDevice, ShareStatus,
};
use control::config::{Config, Hosts, WindowsAddress};
use control::lock;
use control::names::GuestName;
use control::paths::Daemon;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{guest, port, share};
use crate::context::Context;
use crate::error::{CliError, Exit, Outcome};
use crate::output::{comma_list, table};

/// Show the daemons, guests and shares, and what is wrong with them
///
/// Works with every daemon down too: then it shows what is configured, and the
/// exit code is 3.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  sharectl status\n  sharectl status --format json")]
pub(crate) struct Args {}

#[derive(Serialize)]
struct Report {
    config: ConfigReport,
    daemons: Vec<DaemonReport>,
    guests: Vec<GuestStatus>,
    ports: Vec<PortStatus>,
    shares: Vec<ShareStatus>,
    hosts_files: Vec<HostsFileStatus>,
    /// Everything that is wrong, in one place.
    problems: Vec<String>,
}

#[derive(Serialize)]
struct ConfigReport {
    file: std::path::PathBuf,
    exists: bool,
    good: bool,
}

#[derive(Serialize)]
struct DaemonReport {
    daemon: &'static str,
    state: &'static str,
    #[serde(flatten)]
    status: Option<DaemonInner>,
}

#[derive(Serialize)]
struct DaemonInner {
    pid: u32,
    version: String,
    started: String,
}

pub(crate) fn run(context: &Context, _: Args) -> Outcome<ExitCode> {
    let mut problems = Vec::new();
    let loaded = Config::load(&context.paths.config);
    let good = loaded.is_ok();
    let config = loaded.unwrap_or_else(|errors| {
        problems.push(errors.to_string());
        nothing_configured()
    });
    if let Some(missing) = config.missing_folders(&context.paths.config) {
        problems.push(missing.to_string());
    }
    let daemons: Vec<DaemonReport> = Daemon::ALL
        .iter()
        .map(|daemon| look_at(context, *daemon, &mut problems))
        .collect();
    let netd_up = daemons.first().is_some_and(|netd| netd.status.is_some());
    let sharefs_up = daemons
        .get(1)
        .is_some_and(|sharefs| sharefs.status.is_some());
    let guests = live(context, netd_up, Daemon::Netd, "/v1/guests", &mut problems)
        .unwrap_or_else(|| guest::configured(&config));
    let ports = live(context, netd_up, Daemon::Netd, "/v1/ports", &mut problems)
        .unwrap_or_else(|| port::configured(&config));
    let shares = live(
        context,
        sharefs_up,
        Daemon::Sharefs,
        "/v1/shares",
        &mut problems,
    )
    .unwrap_or_else(|| share::configured(&config));
    let hostsync_up = daemons
        .get(2)
        .is_some_and(|hostsync| hostsync.status.is_some());
    let hosts_files = live(
        context,
        hostsync_up,
        Daemon::Hostsync,
        "/v1/files",
        &mut problems,
    )
    .unwrap_or_default();
    problems.extend(absent_devices(&guests, &shares));
    problems.dedup();
    let report = Report {
        config: ConfigReport {
            file: context.paths.config.clone(),
            exists: context.paths.config.exists(),
            good,
        },
        daemons,
        guests,
        ports,
        shares,
        hosts_files,
        problems,
    };
    if context.out.is_json() {
        context.out.json(&report)?;
    } else {
        context.out.text(&as_text(&report))?;
    }
    let all_run = report.daemons.iter().all(|daemon| daemon.status.is_some());
    Ok(match (report.config.good, all_run) {
        (false, _) => ExitCode::FAILURE,
        (true, false) => ExitCode::from(Exit::NotRunning as u8),
        (true, true) => ExitCode::SUCCESS,
    })
}

/// VMs that are plugged into a network but not into their shares. A VM that ran while sharefs was
/// started again is one: QEMU does not connect a vhost-user-fs device a second time.
fn absent_devices(guests: &[GuestStatus], shares: &[ShareStatus]) -> Vec<String> {
    let running = |name: &GuestName| {
        let mut links = guests
            .iter()
            .filter(|guest| guest.name.as_ref() == Some(name))
            .flat_map(|guest| &guest.links);
        // A namespace's tap has no virtiofs device to miss.
        links.any(|link| link.transport != "tap")
    };
    let mut absent = Vec::new();
    // A guest that mounts a share by 9P has no device of it either.
    let by_device = |share: &&ShareStatus| share.problem.is_none() && !share.ninep;
    for share in shares.iter().filter(by_device) {
        for device in &share.devices {
            if !device.connected && running(&device.guest) {
                let what = if is_for_all(device) {
                    "the device of its shares".to_owned()
                } else {
                    format!("its device of share {}", share.name)
                };
                let sentence = format!(
                    "guest {0} runs without {what}: restart its VM, with what \
                     `sharectl guest args {0}` adds (a mount of before sharefs' restart stays dead)",
                    device.guest
                );
                // One device may stand for many shares.
                if !absent.contains(&sentence) {
                    absent.push(sentence);
                }
            }
        }
    }
    absent
}

/// Whether the device carries all of the guest's shares.
fn is_for_all(device: &ShareDevice) -> bool {
    device.socket.file_name() == Some("fs.sock".as_ref())
}

/// What can be shown of a file that is wrong: nothing.
fn nothing_configured() -> Config {
    Config {
        networks: BTreeMap::new(),
        guests: BTreeMap::new(),
        shares: BTreeMap::new(),
        hosts: Hosts {
            files: Vec::new(),
            windows_address: WindowsAddress::default(),
            entries: BTreeMap::new(),
        },
    }
}

fn live<T: DeserializeOwned>(
    context: &Context,
    up: bool,
    daemon: Daemon,
    path: &str,
    problems: &mut Vec<String>,
) -> Option<T> {
    if !up {
        return None;
    }
    context
        .ask(daemon, path)
        .map_err(|error| problems.push(format!("{daemon}: {error}")))
        .ok()
}

fn look_at(context: &Context, daemon: Daemon, problems: &mut Vec<String>) -> DaemonReport {
    let answer: Result<DaemonStatus, CliError> = context.status(daemon);
    let (state, status) = match answer {
        Ok(status) => {
            problems.extend(
                status
                    .problems
                    .iter()
                    .map(|problem| format!("{daemon}: {problem}")),
            );
            if status.version != env!("CARGO_PKG_VERSION") {
                problems.push(format!(
                    "{daemon} is version {}, this command {}: sharectl down && sharectl up",
                    status.version,
                    env!("CARGO_PKG_VERSION")
                ));
            }
            let inner = DaemonInner {
                pid: status.pid,
                version: status.version,
                started: status.started,
            };
            ("running", Some(inner))
        }
        Err(error) => {
            let holder = lock::holder(&context.paths.lock(daemon)).ok().flatten();
            match holder {
                Some(pid) => {
                    problems.push(format!("{daemon}, process {pid}, does not answer: {error}"));
                    ("not answering", None)
                }
                None if error.exit == Exit::NotRunning => ("not running", None),
                None => {
                    problems.push(format!("{daemon}: {error}"));
                    ("unknown", None)
                }
            }
        }
    };
    DaemonReport {
        daemon: daemon.name(),
        state,
        status,
    }
}

fn as_text(report: &Report) -> String {
    let dash = || "-".to_owned();
    let daemons: Vec<Vec<String>> = report
        .daemons
        .iter()
        .map(|daemon| {
            let status = daemon.status.as_ref();
            vec![
                daemon.daemon.to_owned(),
                daemon.state.to_owned(),
                status.map_or_else(dash, |status| status.pid.to_string()),
                status.map_or_else(dash, |status| status.version.clone()),
                status.map_or_else(dash, |status| status.started.clone()),
            ]
        })
        .collect();
    let mut text = table(&["DAEMON", "STATE", "PID", "VERSION", "SINCE"], &daemons);
    let absent = if report.config.exists {
        ""
    } else {
        "  (not there: built-in defaults)"
    };
    text.push_str(&format!(
        "\nconfiguration  {}{absent}\n",
        report.config.file.display()
    ));
    if !report.guests.is_empty() {
        let guests: Vec<Vec<String>> = report
            .guests
            .iter()
            .map(|guest| {
                let ports = report
                    .ports
                    .iter()
                    .filter(|port| Some(&port.guest) == guest.name.as_ref());
                vec![
                    guest
                        .name
                        .as_ref()
                        .map_or_else(|| "-".to_owned(), ToString::to_string),
                    if guest.links.is_empty() {
                        "unplugged"
                    } else {
                        "plugged in"
                    }
                    .to_owned(),
                    guest
                        .address
                        .map_or_else(dash, |address| address.to_string()),
                    comma_list(&guest.names),
                    comma_list(ports.map(|port| &port.spec)),
                ]
            })
            .collect();
        text.push_str(&format!(
            "\n{}",
            table(&["GUEST", "LINK", "ADDRESS", "NAMES", "PORTS"], &guests)
        ));
    }
    if !report.shares.is_empty() {
        let shares: Vec<Vec<String>> = report
            .shares
            .iter()
            .map(|share| {
                vec![
                    share.name.to_string(),
                    share.path.display().to_string(),
                    share.at.display().to_string(),
                    share.problem.clone().unwrap_or_else(|| "ok".to_owned()),
                ]
            })
            .collect();
        text.push_str(&format!(
            "\n{}",
            table(&["SHARE", "FOLDER", "AT", "STATE"], &shares)
        ));
    }
    if !report.hosts_files.is_empty() {
        let files: Vec<Vec<String>> = report
            .hosts_files
            .iter()
            .map(|file| {
                vec![
                    file.file.display().to_string(),
                    file.way.clone(),
                    file.names.to_string(),
                    if file.problem.is_some() {
                        "not as it should be"
                    } else {
                        "ok"
                    }
                    .to_owned(),
                ]
            })
            .collect();
        text.push_str(&format!(
            "\n{}",
            table(&["HOSTS FILE", "WRITTEN", "NAMES", "STATE"], &files)
        ));
        for file in &report.hosts_files {
            for note in &file.notes {
                let line = format!("{}: {note}", file.file.display());
                text.push_str(&format!("\nnote: {}\n", crate::output::printable(&line)));
            }
        }
    }
    for problem in &report.problems {
        text.push_str(&format!("\nproblem: {}", crate::output::printable(problem)));
    }
    if !report.problems.is_empty() {
        text.push('\n');
    }
    if report
        .daemons
        .iter()
        .any(|daemon| daemon.state == "not running")
    {
        text.push_str("\nstart what is not running: sharectl up\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is said of a guest with one link and two shares with one device each.
    fn check((transport, socket): (&str, &str), connected: bool, expected: &[&str]) {
        let guest: GuestStatus = serde_json::from_value(serde_json::json!({
            "name": "dev", "network": "vmnet8", "mac": "52:54:00:00:00:01", "address": null,
            "host_address": null, "names": [], "lease_until": null,
            "links": [{
                "id": 1, "transport": transport, "received_frames": 0, "received_bytes": 0,
                "sent_frames": 0, "sent_bytes": 0, "dropped_frames": 0,
            }],
        }))
        .unwrap();
        let share = |name: &str| -> ShareStatus {
            serde_json::from_value(serde_json::json!({
            "name": name, "path": "/src", "at": "/src", "read_only": false, "cache": "auto",
            "problem": null, "devices": [{
                "guest": "dev", "socket": socket, "connected": connected, "requests": 0, "malformed": 0,
            }],
        }))
        .unwrap()
        };
        let absent = absent_devices(&[guest], &[share("src"), share("d")]);
        let what: Vec<_> = absent
            .iter()
            .filter_map(|text| text.split(':').next())
            .collect();
        assert_eq!(what, expected, "{transport} {socket} {connected}");
    }

    #[test]
    fn vm_without_its_device_is_a_problem() {
        check(("stream", "/r/fs.sock"), true, &[]);
        check(("tap", "/r/fs.sock"), false, &[]);
        check(
            ("stream", "/r/fs.sock"),
            false,
            &["guest dev runs without the device of its shares"],
        );
        check(
            ("stream", "/r/fs-x.sock"),
            false,
            &[
                "guest dev runs without its device of share src",
                "guest dev runs without its device of share d",
            ],
        );
    }
}
