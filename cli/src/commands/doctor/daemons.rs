//! Checks of the daemons: that they run and answer, of which version they are, what killed ones left behind.

use std::io::Read;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use control::api::DaemonStatus;
use control::lock;
use control::paths::{Daemon, Paths};

use super::facts::Facts;
use super::finding::{Finding, Subject};
use super::fix::Repair;
use crate::daemons;
use crate::error::Exit;
use crate::limited::{Ran, run};

const OURS: &str = env!("CARGO_PKG_VERSION");
/// For a program to print its version.
const VERSION_LIMIT: Duration = Duration::from_secs(3);

pub(super) fn running(facts: &Facts) -> Vec<Finding> {
    each(|daemon| one(facts, daemon))
}

fn one(facts: &Facts, daemon: Daemon) -> Finding {
    let subject = Subject::of("daemon", daemon);
    match facts.ask::<DaemonStatus>(daemon, "/v1/status") {
        Ok(status) if !is_same(&status.config, &facts.paths.config) => subject.warns(
            format!(
                "process {} reads {}, not {}",
                status.pid,
                status.config.display(),
                facts.paths.config.display()
            ),
            "sharectl down && sharectl up, or name its file: --config",
        ),
        Ok(status) if !status.problems.is_empty() => subject.warns(
            format!("process {}: {}", status.pid, status.problems.join("\n")),
            format!("sharectl logs {daemon}"),
        ),
        Ok(status) => subject.ok(format!(
            "process {} answers, version {}",
            status.pid, status.version
        )),
        Err(error) => match lock::holder(&facts.paths.lock(daemon)).ok().flatten() {
            Some(pid) => subject.fails(
                format!("process {pid} does not answer: {error}"),
                "sharectl down && sharectl up",
            ),
            None if error.exit == Exit::NotRunning => {
                let finding = subject.warns("is not running", "sharectl up");
                // With a configuration that is wrong it would not start.
                match &facts.config {
                    Ok(_) => finding.mended_by(Repair::Start),
                    Err(_) => finding,
                }
            }
            None => subject.fails(error.message, error.hint.unwrap_or_default()),
        },
    }
}

/// The same file, whichever way each came to it.
fn is_same(one: &Path, other: &Path) -> bool {
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    one == other || real(one) == real(other)
}

pub(super) fn versions(facts: &Facts) -> Vec<Finding> {
    let look = |daemon: Daemon| {
        let status = facts.ask::<DaemonStatus>(daemon, "/v1/status").ok();
        let replaced = status
            .as_ref()
            .is_some_and(|status| is_replaced(status.pid));
        let installed = daemons::program(daemon)
            .ok()
            .and_then(|path| installed(&path));
        let seen = Versions {
            running: status.map(|status| status.version),
            installed,
            replaced,
        };
        seen.judge(daemon)
    };
    each(look)
}

/// All daemons at once: one that hangs costs the others nothing.
fn each(look: impl Fn(Daemon) -> Finding + Sync) -> Vec<Finding> {
    std::thread::scope(|scope| {
        let look = &look;
        let looks = Daemon::ALL.map(|daemon| (daemon, scope.spawn(move || look(daemon))));
        let found = looks.into_iter().map(|(daemon, look)| {
            let failed = |_| Subject::of("daemon", daemon).skipped("the look at it broke off");
            look.join().unwrap_or_else(failed)
        });
        found.collect()
    })
}

/// What is known of one daemon's version.
#[derive(Debug, Default)]
struct Versions {
    running: Option<String>,
    /// What the program on disk says.
    installed: Option<String>,
    /// The program that runs is no longer on disk.
    replaced: bool,
}

impl Versions {
    fn judge(self, daemon: Daemon) -> Finding {
        let subject = Subject::of("version", daemon);
        let restart = format!("sharectl restart {daemon}");
        match (self.running, self.installed) {
            (_, Some(installed)) if installed != OURS => subject.fails(
                format!(
                    "the installed {} is version {installed}, this command {OURS}",
                    daemon.program()
                ),
                "install all programs of one version in one folder",
            ),
            (Some(running), _) if running != OURS => subject.fails(
                format!("version {running} runs, this command is {OURS}"),
                restart,
            ),
            (Some(running), _) if self.replaced => subject.warns(
                format!("version {running} runs, whose program was replaced on disk since"),
                restart,
            ),
            (Some(running), _) => subject.ok(format!("{running} runs, as this command is")),
            (None, Some(installed)) => {
                subject.ok(format!("{installed} is installed, as this command is"))
            }
            (None, None) => subject.skipped("neither runs nor is it installed"),
        }
    }
}

/// proc_pid_exe(5): a program whose file was removed or replaced has this behind its name.
fn is_replaced(pid: u32) -> bool {
    let program = std::fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
    program.to_string_lossy().ends_with(" (deleted)")
}

/// `sharectl-netd 0.1.0`.
fn installed(program: &Path) -> Option<String> {
    let mut line = Command::new(program);
    line.arg("--version");
    let Ran::Ended(output) = run(line, VERSION_LIMIT) else {
        return None;
    };
    let text = String::from_utf8(output.stdout).ok()?;
    text.split_whitespace().nth(1).map(str::to_owned)
}

/// Sockets of a daemon that nobody has, and process numbers of one that is gone.
pub(super) fn leftovers(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    for daemon in Daemon::ALL {
        // The lock lives as long as any process of the daemon does.
        if !matches!(lock::holder(&facts.paths.lock(daemon)), Ok(None)) {
            continue;
        }
        if let Some(pid) = written_pid(&facts.paths.lock(daemon)) {
            let file = facts.paths.lock(daemon);
            findings.push(
                Subject::of("socket", format!("{daemon}.pid"))
                    .warns(
                        format!("{} names process {pid}, which is gone", file.display()),
                        format!("truncate -s 0 {}", file.display()),
                    )
                    .mended_by(Repair::ClearLock(daemon)),
            );
        }
        for socket in sockets(&facts.paths, daemon) {
            let below = socket.strip_prefix(&facts.paths.runtime).unwrap_or(&socket);
            let subject = Subject::of("socket", below.display());
            let shown = socket.display();
            findings.push(if answers(&socket) {
                subject.warns(
                    format!(
                        "somebody answers at {shown}, though no {daemon} holds {}",
                        facts.paths.lock(daemon).display()
                    ),
                    format!("ss -xlp | grep {shown}"),
                )
            } else {
                subject
                    .warns(
                        format!("{shown} is left of a {daemon} that was killed"),
                        format!("rm {shown}, or: sharectl up"),
                    )
                    .mended_by(Repair::RemoveSocket(daemon, socket))
            });
        }
    }
    if findings.is_empty() {
        let shown = facts.paths.runtime.display();
        findings.push(
            Finding::about("socket", "sockets")
                .ok(format!("none is left in {shown} without its daemon")),
        );
    }
    findings
}

/// What a daemon that was killed could not take out of its lock file.
fn written_pid(file: &Path) -> Option<String> {
    let mut text = String::new();
    std::fs::File::open(file)
        .and_then(|file| file.take(32).read_to_string(&mut text))
        .ok()?;
    let pid = text.trim();
    (!pid.is_empty()).then(|| pid.escape_debug().to_string())
}

/// The sockets that are this daemon's: `control::paths` has the list. Those at which a VMM listens are its own.
fn sockets(paths: &Paths, daemon: Daemon) -> Vec<PathBuf> {
    let mut found = vec![paths.control_socket(daemon)];
    let below = |folder: &str| {
        let entries = std::fs::read_dir(paths.runtime.join(folder));
        let mut paths: Vec<PathBuf> = entries
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .collect();
        paths.sort();
        paths
    };
    if daemon == Daemon::Netd {
        found.push(paths.link_socket());
        found.extend(below("network"));
    }
    for guest in below("guest") {
        let Some(name) = guest.file_name().map(PathBuf::from) else {
            continue;
        };
        let sockets = below(&Path::new("guest").join(name).display().to_string());
        found.extend(
            sockets
                .into_iter()
                .filter(|socket| owner(socket) == Some(daemon)),
        );
    }
    let is_socket = |path: &PathBuf| {
        let found = std::fs::symlink_metadata(path);
        found.is_ok_and(|found| found.file_type().is_socket())
    };
    found.retain(is_socket);
    found
}

/// Whose a socket in a guest's folder is.
fn owner(socket: &Path) -> Option<Daemon> {
    let name = socket.file_name()?.to_str()?;
    match name {
        "link.sock" | "vhost.sock" | "dgram.sock" => Some(Daemon::Netd),
        "fs.sock" | "9p.sock" => Some(Daemon::Sharefs),
        _ if name.starts_with("port-") => Some(Daemon::Netd),
        _ if name.starts_with("fs-") => Some(Daemon::Sharefs),
        // net.sock and dgram-vm.sock are the VMM's; the rest is not ours.
        _others => None,
    }
}

/// Whether a process has the socket. Only asked where no daemon runs that would take it for a guest.
pub(super) fn answers(socket: &Path) -> bool {
    let datagrams = || {
        UnixDatagram::unbound()
            .and_then(|ours| ours.connect(socket))
            .is_ok()
    };
    match UnixStream::connect(socket) {
        Ok(_) => true,
        // EPROTOTYPE: it is a socket for datagrams.
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::PROTOTYPE.raw_os_error()) => {
            datagrams()
        }
        Err(error) => {
            error.kind() != std::io::ErrorKind::ConnectionRefused
                && error.kind() != std::io::ErrorKind::NotFound
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::super::facts::tests::Bed;
    use super::super::finding::State;
    use super::*;

    #[test]
    fn a_daemon_that_does_not_run_is_started_unless_the_configuration_is_wrong() {
        let mut bed = Bed::with("");
        let findings = running(&bed.facts);
        assert_eq!(findings[0].id, "daemon.netd");
        assert!(
            findings
                .iter()
                .all(|found| found.repair == Some(Repair::Start))
        );
        let wrong = control::config::Config::parse(
            "x = 1",
            Path::new("c"),
            &control::config::Surroundings::of_process(),
        );
        bed.facts.config = wrong;
        assert!(
            running(&bed.facts)
                .iter()
                .all(|found| found.repair.is_none())
        );
    }

    #[test]
    fn versions_that_differ_are_told_from_each_other() {
        let versions = |running: Option<&str>, installed: Option<&str>, replaced| {
            let seen = Versions {
                running: running.map(str::to_owned),
                installed: installed.map(str::to_owned),
                replaced,
            };
            let found = seen.judge(Daemon::Netd);
            (found.state, found.fix)
        };
        let restart = Some("sharectl restart netd".to_owned());
        assert_eq!(versions(Some(OURS), Some(OURS), false), (State::Ok, None));
        assert_eq!(
            versions(Some("0.0.9"), Some(OURS), false),
            (State::Fail, restart.clone())
        );
        assert_eq!(
            versions(Some(OURS), Some(OURS), true),
            (State::Warn, restart)
        );
        assert_eq!(versions(None, Some("0.0.9"), false).0, State::Fail);
        assert_eq!(versions(None, None, false).0, State::Skipped);
    }

    #[test]
    fn what_a_killed_daemon_left_is_found_and_what_is_a_vmms_is_not() {
        let bed = Bed::with("");
        let at = |name: &str| bed.facts.paths.runtime.join(name);
        std::fs::create_dir_all(at("guest/dev")).unwrap();
        for name in ["netd.sock", "guest/dev/link.sock", "guest/dev/net.sock"] {
            drop(UnixListener::bind(at(name)).unwrap());
        }
        drop(UnixDatagram::bind(at("guest/dev/dgram.sock")).unwrap());
        std::fs::write(at("netd.pid"), "4711\n").unwrap();
        let _alive = UnixListener::bind(at("sharefs.sock")).unwrap();
        let findings = leftovers(&bed.facts);
        let ids: Vec<&str> = findings.iter().map(|found| found.id.as_str()).collect();
        assert_eq!(
            ids,
            [
                "socket.netd.pid",
                "socket.netd.sock",
                "socket.guest/dev/dgram.sock",
                "socket.guest/dev/link.sock",
                "socket.sharefs.sock",
            ]
        );
        assert_eq!(findings.last().unwrap().repair, None, "somebody has it");

        // Whoever holds the lock has them all.
        let _lock = lock::acquire(&bed.facts.paths.lock(Daemon::Netd)).unwrap();
        assert!(
            leftovers(&bed.facts)
                .iter()
                .all(|found| found.id == "socket.sharefs.sock")
        );
    }
}
