//! `sharectl status`: what runs, and what is wrong.

mod watch;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use control::api::{
    DaemonStatus, GuestStatus, HostsFileStatus, PortStatus, ShareDevice, ShareStatus,
};
use control::config::{Config, Hosts, WindowsAddress};
use control::lock;
use control::names::GuestName;
use control::paths::Daemon;
use schemars::JsonSchema;
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
///
/// With --watch it is drawn on the whole terminal again and again, with what flows through networks
/// and what is done in shares, by whom and by which door: 1 to 5 choose a page, the arrows move,
/// p pauses, q ends. With --format json it is a line of JSON each time instead.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  sharectl status\n  sharectl status --watch\n  sharectl status --format json"
)]
pub(crate) struct Args {
    /// Go on looking until q
    #[arg(short, long)]
    watch: bool,
    /// How often --watch looks: 0.2s to 60s
    #[arg(long, value_name = "TIME", default_value = "1s", requires = "watch", value_parser = interval)]
    interval: Duration,
}

fn interval(text: &str) -> Result<Duration, String> {
    let seconds = text.strip_suffix('s').unwrap_or(text).trim();
    let seconds: f64 = seconds
        .parse()
        .map_err(|_| "write seconds, such as 2s or 0.5s".to_owned())?;
    if (0.2..=60.0).contains(&seconds) {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err("from 0.2s to 60s".to_owned())
    }
}

/// What the daemons say, or the configuration where one of them does not.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Report {
    config: ConfigReport,
    daemons: Vec<DaemonReport>,
    pub guests: Vec<GuestStatus>,
    pub ports: Vec<PortStatus>,
    pub shares: Vec<ShareStatus>,
    hosts_files: Vec<HostsFileStatus>,
    /// Everything that is wrong, in one place.
    pub problems: Vec<String>,
}

#[derive(Serialize, JsonSchema)]
struct ConfigReport {
    file: std::path::PathBuf,
    exists: bool,
    good: bool,
}

#[derive(Serialize, JsonSchema)]
struct DaemonReport {
    daemon: &'static str,
    state: &'static str,
    #[serde(flatten)]
    status: Option<DaemonInner>,
}

#[derive(Serialize, JsonSchema)]
struct DaemonInner {
    pid: u32,
    version: String,
    started: String,
}

pub(crate) fn run(context: &Context, args: Args) -> Outcome<ExitCode> {
    if args.watch {
        return watch::run(context, args.interval).map(|()| ExitCode::SUCCESS);
    }
    let report = context.wait(Report::gather(context))?;
    if context.out.is_json() {
        context.out.json(&report)?;
    } else {
        context.out.text(&as_text(&report))?;
    }
    Ok(report.exit_code())
}

impl Report {
    /// Failure for a configuration that is wrong, 3 for a daemon that does not run.
    pub(crate) fn exit_code(&self) -> ExitCode {
        let all_run = self.daemons.iter().all(|daemon| daemon.status.is_some());
        match (self.config.good, all_run) {
            (false, _) => ExitCode::FAILURE,
            (true, false) => ExitCode::from(Exit::NotRunning as u8),
            (true, true) => ExitCode::SUCCESS,
        }
    }

    /// The daemons that do not run.
    pub(crate) fn not_running(&self) -> impl Iterator<Item = &'static str> {
        let down = self.daemons.iter();
        down.filter(|daemon| daemon.state == "not running")
            .map(|daemon| daemon.daemon)
    }

    /// Asks all daemons at once.
    pub(crate) async fn gather(context: &Context) -> Self {
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
        let (netd, sharefs, hostsync) = tokio::join!(
            look_at(context, Daemon::Netd),
            look_at(context, Daemon::Sharefs),
            look_at(context, Daemon::Hostsync),
        );
        let mut daemons = Vec::new();
        for (daemon, wrong) in [netd, sharefs, hostsync] {
            daemons.push(daemon);
            problems.extend(wrong);
        }
        let up = |daemon: Daemon| {
            let mut running = daemons.iter().filter(|report| report.status.is_some());
            running.any(|report| report.daemon == daemon.name())
        };
        let (netd_up, sharefs_up) = (up(Daemon::Netd), up(Daemon::Sharefs));
        let (guests, ports, shares, hosts_files) = tokio::join!(
            live(context, netd_up, Daemon::Netd, "/v1/guests"),
            live(context, netd_up, Daemon::Netd, "/v1/ports"),
            live(context, sharefs_up, Daemon::Sharefs, "/v1/shares"),
            live(context, up(Daemon::Hostsync), Daemon::Hostsync, "/v1/files"),
        );
        let mut or_problem = |wrong: Option<String>| problems.extend(wrong);
        let guests = guests.unwrap_or_else(|wrong| {
            or_problem(wrong);
            guest::configured(&config)
        });
        let ports = ports.unwrap_or_else(|wrong| {
            or_problem(wrong);
            port::configured(&config)
        });
        let shares = shares.unwrap_or_else(|wrong| {
            or_problem(wrong);
            share::configured(&config)
        });
        let hosts_files = hosts_files.unwrap_or_else(|wrong| {
            or_problem(wrong);
            Vec::new()
        });
        problems.extend(absent_devices(&guests, &shares));
        problems.dedup();
        Self {
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
        }
    }
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
pub(crate) fn nothing_configured() -> Config {
    Config {
        networks: BTreeMap::new(),
        guests: BTreeMap::new(),
        shares: BTreeMap::new(),
        hosts: Hosts {
            files: Vec::new(),
            windows_address: WindowsAddress::default(),
            entries: BTreeMap::new(),
            wildcards: BTreeMap::new(),
            sources: BTreeMap::new(),
            dns: None,
        },
        projects: Default::default(),
    }
}

/// What a daemon that runs answers; else what is wrong, if that is not known already.
async fn live<T: DeserializeOwned>(
    context: &Context,
    up: bool,
    daemon: Daemon,
    path: &str,
) -> Result<T, Option<String>> {
    if !up {
        return Err(None);
    }
    let answer = context.asking(daemon, path).await;
    answer.map_err(|error| Some(format!("{daemon}: {error}")))
}

/// How a daemon is, and what is wrong with it.
async fn look_at(context: &Context, daemon: Daemon) -> (DaemonReport, Vec<String>) {
    let answer: Result<DaemonStatus, CliError> = context.asking(daemon, "/v1/status").await;
    let mut problems = Vec::new();
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
                    "{daemon} is version {}, this command {}: sharectl restart {daemon}",
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
    let report = DaemonReport {
        daemon: daemon.name(),
        state,
        status,
    };
    (report, problems)
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
