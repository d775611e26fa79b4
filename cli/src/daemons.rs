//! Starting, watching and stopping the three daemons. A daemon is known by the
//! lock it holds (its pid is in it) and by what its control socket says; a pid
//! alone is never believed.

mod supervisor;

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use control::api::{Changes, DaemonStatus};
use control::failure::FailureKind;
use control::lock;
use control::logging;
use control::paths::{Daemon, Paths, make_private_folder};
use rustix::process::{Pid, PidfdFlags, Signal};

use crate::context::Context;
use crate::error::{CliError, Outcome};
use crate::service::{self, manager::Manager, units};
use crate::sys;

pub(crate) use supervisor::{Logs, supervise};

/// How often a condition is looked at while waiting for it.
const LOOK: Duration = Duration::from_millis(20);

/// Whether a daemon came to run by this command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Started {
    Now,
    Before,
    /// It ran before, and another program that was installed meanwhile has taken its place.
    Replaced,
}

/// Makes the folders the daemons need, for this user alone.
pub(crate) fn prepare(paths: &Paths) -> Outcome {
    for (folder, variable) in [
        (paths.runtime.clone(), "SHARECTL_RUNTIME_DIR"),
        (paths.state.clone(), "SHARECTL_STATE_DIR"),
        (paths.state.join("logs"), "SHARECTL_STATE_DIR"),
    ] {
        make_private_folder(&folder).map_err(|error| {
            CliError::failure(
                format!("cannot use the folder {}: {error}", folder.display()),
                format!("name another: export {variable}=FOLDER"),
            )
        })?;
    }
    Ok(())
}

/// The daemon's program: beside this one, else on the search path.
pub(crate) fn program(daemon: Daemon) -> Outcome<PathBuf> {
    let own = std::env::current_exe().ok();
    let beside = own
        .as_deref()
        .and_then(Path::parent)
        .map(|folder| folder.join(daemon.program()));
    let search = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&search).map(|folder| folder.join(daemon.program()));
    let found = beside
        .iter()
        .cloned()
        .chain(on_path)
        .find(|path| path.is_file());
    found.ok_or_else(|| {
        let place = beside
            .map(|path| path.display().to_string())
            .unwrap_or_default();
        CliError::failure(
            format!(
                "{} is neither {place} nor on the search path",
                daemon.program()
            ),
            "install all four programs in one folder, or build them: cargo build --workspace",
        )
    })
}

/// The command that runs a daemon with our places, whatever its environment says.
pub(crate) fn command(context: &Context, daemon: Daemon) -> Outcome<Command> {
    let mut command = Command::new(program(daemon)?);
    command
        .arg("--config")
        .arg(&context.paths.config)
        .env("SHARECTL_RUNTIME_DIR", &context.paths.runtime)
        .env("SHARECTL_STATE_DIR", &context.paths.state)
        .env_remove("NOTIFY_SOCKET")
        .env_remove("WATCHDOG_USEC")
        .env_remove("WATCHDOG_PID")
        .env_remove(logging::FILE_VARIABLE)
        .current_dir("/")
        .stdin(Stdio::null());
    Ok(command)
}

/// A daemon, or the supervisor of all, on its way up.
struct Rising {
    child: Child,
    program: &'static str,
    log: PathBuf,
    /// Where its part of the log begins, in bytes.
    log_start: u64,
}

/// The daemons that hold their lock, with their process ids.
pub(crate) fn running(context: &Context) -> Vec<(Daemon, u32)> {
    let held = |daemon| Some((daemon, lock::holder(&context.paths.lock(daemon)).ok()??));
    Daemon::ALL.into_iter().filter_map(held).collect()
}

/// Starts what does not run and waits until everything answers.
pub(crate) fn start(context: &Context, limit: Duration) -> Outcome<Vec<(DaemonStatus, Started)>> {
    // All programs are looked for before any is started.
    for daemon in Daemon::ALL {
        program(daemon)?;
    }
    let owner = service::owner(context)?;
    let mut rising = Vec::new();
    for daemon in Daemon::ALL {
        let held = lock::holder(&context.paths.lock(daemon)).ok().flatten();
        let (child, how) = match (held, owner) {
            (Some(_), _) => (None, Started::Before),
            (None, Some(manager)) => {
                let _progress = context.progress(format!("the unit of {daemon}"));
                start_unit(manager, daemon)?;
                (None, Started::Now)
            }
            (None, None) => (Some(spawn(context, daemon)?), Started::Now),
        };
        let replaced = held.filter(|pid| daemon == Daemon::Sharefs && replacement(*pid).is_some());
        let how = match replaced.map(|pid| hand_over(context, daemon, pid, limit)) {
            None => how,
            Some(Ok(())) => Started::Replaced,
            Some(Err(refused)) => {
                let message = refused.message;
                context.out.warning(&format!(
                    "{daemon} runs on as the program that was there before: {message}"
                ));
                how
            }
        };
        rising.push((daemon, child, how));
    }
    let mut ready = Vec::new();
    for (daemon, mut child, how) in rising {
        ready.push((wait_until_up(context, daemon, child.as_mut(), limit)?, how));
    }
    for (daemon, (status, how)) in Daemon::ALL.into_iter().zip(&mut ready) {
        settle(context, daemon, status, *how);
    }
    Ok(ready)
}

/// The manager starts it, and returns when it is ready.
fn start_unit(manager: Manager, daemon: Daemon) -> Outcome {
    let unit = units::name(daemon);
    // A unit that failed too often would stay so.
    manager.systemctl(&["reset-failed", &unit]).ok();
    manager.systemctl(&["start", &unit]).map(drop)
}

/// The program that is installed now runs in place of the daemon that does, or does not.
pub(crate) fn restart(context: &Context, daemon: Daemon, limit: Duration) -> Outcome<DaemonStatus> {
    program(daemon)?;
    let before = context.status(daemon).ok();
    match before {
        Some(before) if daemon == Daemon::Sharefs => {
            hand_over(context, daemon, before.pid, limit)?;
            wait_until_up(context, daemon, None, limit)
        }
        Some(_) | None => {
            let unit = units::name(daemon);
            if let Some(manager) = service::owner(context)? {
                if !manager.runs(&unit) {
                    stop_one(context, daemon, limit)?;
                }
                manager.systemctl(&["reset-failed", &unit]).ok();
                let _progress = context.progress(format!("the unit of {daemon}"));
                manager.systemctl(&["restart", &unit])?;
                return wait_until_up(context, daemon, None, limit);
            }
            stop_one(context, daemon, limit)?;
            let mut rising = spawn(context, daemon)?;
            wait_until_up(context, daemon, Some(&mut rising), limit)
        }
    }
}

/// The program at the path of the one that a process runs, if that is another by now: one was installed since.
fn replacement(pid: u32) -> Option<PathBuf> {
    /// What the kernel writes behind the path then (proc_pid_exe(5)).
    const GONE: &[u8] = b" (deleted)";
    let link = format!("/proc/{pid}/exe");
    let shown = std::fs::read_link(&link).ok()?;
    let shown = shown.as_os_str().as_bytes();
    let path = Path::new(OsStr::from_bytes(shown.strip_suffix(GONE).unwrap_or(shown)));
    let (runs, installed) = (
        std::fs::metadata(&link).ok()?,
        std::fs::metadata(path).ok()?,
    );
    let is_same = (runs.dev(), runs.ino()) == (installed.dev(), installed.ino());
    (!is_same).then(|| path.to_owned())
}

/// Has the daemon be followed by the program that is installed, and waits until another process answers. An error too if
/// that is one of the program before, which goes on where its follower cannot be begun.
fn hand_over(context: &Context, daemon: Daemon, old: u32, limit: Duration) -> Outcome {
    let client = context.client(daemon);
    let _progress = context.progress(format!("another {daemon} to take over"));
    let new = context.wait(async {
        let asked = client.post::<_, ()>("/v1/restart", &()).await;
        // It may end before its answer is out.
        if let Err(refused) = asked
            && matches!(
                refused.kind,
                FailureKind::Unsupported | FailureKind::NotFound
            )
        {
            return Err(CliError::failure(
                refused.to_string(),
                "sharectl down && sharectl up, then restart the VMs that have shares",
            ));
        }
        let deadline = tokio::time::Instant::now() + limit;
        loop {
            let answer = client.get::<DaemonStatus>("/v1/status").await;
            if let Ok(status) = answer
                && status.pid != old
            {
                return Ok(status.pid);
            }
            if tokio::time::Instant::now() >= deadline {
                return Err(CliError::failure(
                    format!("no other {daemon} answers within {} s", limit.as_secs()),
                    format!("sharectl logs {daemon}"),
                ));
            }
            tokio::time::sleep(LOOK).await;
        }
    })??;
    replacement(new).map_or(Ok(()), |program| {
        Err(CliError::failure(
            format!(
                "{} could not be started, and the {daemon} that ran before goes on",
                program.display()
            ),
            format!("sharectl logs {daemon}"),
        ))
    })
}

/// A daemon that was started before the others may miss them for a moment.
fn settle(context: &Context, daemon: Daemon, status: &mut DaemonStatus, how: Started) {
    const LOOKS: usize = 50;
    for _ in 0..LOOKS {
        if status.problems.is_empty() || how == Started::Before {
            return;
        }
        // Nothing else is to be done meanwhile.
        let pause = async { tokio::time::sleep(LOOK).await };
        if context.wait(pause).is_err() {
            return;
        }
        if let Ok(newer) = context.status(daemon) {
            *status = newer;
        }
    }
}

fn spawn(context: &Context, daemon: Daemon) -> Outcome<Rising> {
    let path = context.paths.log(daemon);
    let failed = |error: std::io::Error| {
        CliError::failure(
            format!(
                "cannot start {} with its log in {}: {error}",
                daemon.program(),
                path.display()
            ),
            "sharectl doctor",
        )
    };
    let mut command = command(context, daemon)?;
    let log_start = write_to(&mut command, &path).map_err(failed)?;
    let child = sys::in_own_session(&mut command).spawn().map_err(failed)?;
    Ok(Rising {
        child,
        program: daemon.program(),
        log: path,
        log_start,
    })
}

/// Sends a program's lines to a log of ours, which it keeps small; gives the log's length until now.
fn write_to(command: &mut Command, log: &Path) -> std::io::Result<u64> {
    logging::set_aside_if_large(log)?;
    let file = logging::open(log)?;
    let length = file.metadata()?.len();
    command
        .env(logging::FILE_VARIABLE, log)
        .stdout(file.try_clone()?)
        .stderr(file);
    Ok(length)
}

/// Starts a supervisor behind the terminal and waits until everything answers.
pub(crate) fn start_kept(
    context: &Context,
    limit: Duration,
) -> Outcome<Vec<(DaemonStatus, Started)>> {
    if let Some(manager) = service::owner(context)? {
        return Err(CliError::conflict(
            "the service manager keeps the daemons running",
            format!(
                "sharectl up, or {}",
                manager.line(&["status", "'sharectl*'"])
            ),
        ));
    }
    supervisor::check_none_runs(context, "sharectl up --keep-running")?;
    let log = context.paths.state.join("logs/supervisor.log");
    let failed = |error: std::io::Error| {
        CliError::failure(
            format!(
                "cannot start a supervisor with its log in {}: {error}",
                log.display()
            ),
            "sharectl doctor",
        )
    };
    let mut command = Command::new(std::env::current_exe().map_err(failed)?);
    command
        .arg("--config")
        .arg(&context.paths.config)
        .args(["up", "--foreground", "--log-files", "--wait"])
        .arg(limit.as_secs().to_string())
        .env("SHARECTL_RUNTIME_DIR", &context.paths.runtime)
        .env("SHARECTL_STATE_DIR", &context.paths.state)
        .env_remove("NOTIFY_SOCKET")
        .current_dir("/")
        .stdin(Stdio::null());
    let log_start = write_to(&mut command, &log).map_err(failed)?;
    let child = sys::in_own_session(&mut command).spawn().map_err(failed)?;
    let mut rising = Rising {
        child,
        program: "the supervisor",
        log: log.clone(),
        log_start,
    };
    let mut ready = Vec::new();
    for daemon in Daemon::ALL {
        let status = wait_until_up(context, daemon, Some(&mut rising), limit)?;
        ready.push((status, Started::Now));
    }
    for (daemon, (status, how)) in Daemon::ALL.into_iter().zip(&mut ready) {
        settle(context, daemon, status, *how);
    }
    Ok(ready)
}

fn wait_until_up(
    context: &Context,
    daemon: Daemon,
    mut rising: Option<&mut Rising>,
    limit: Duration,
) -> Outcome<DaemonStatus> {
    let client = context.client(daemon);
    let _progress = context.progress(format!("{daemon} to answer"));
    context.wait(async {
        let deadline = tokio::time::Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(tokio::time::Instant::now());
            let answer = tokio::time::timeout(left, client.get::<DaemonStatus>("/v1/status")).await;
            if let Ok(Ok(status)) = answer {
                return Ok(status);
            }
            if let Some(rising) = rising.as_deref_mut()
                && let Ok(Some(ended)) = rising.child.try_wait()
            {
                return Err(CliError::failure(
                    format!("{} ended at once, {ended}{}", rising.program, said(rising)),
                    format!("sharectl doctor, and sharectl logs {daemon}"),
                ));
            }
            if left.is_zero() {
                let why = match answer {
                    Ok(Err(failure)) => format!(": {failure}"),
                    Ok(Ok(_)) | Err(_) => String::new(),
                };
                return Err(CliError::failure(
                    format!("{daemon} does not answer within {} s{why}", limit.as_secs()),
                    format!("sharectl logs {daemon}, then: sharectl down && sharectl up"),
                ));
            }
            tokio::time::sleep(LOOK.min(left)).await;
        }
    })?
}

/// The last lines that the daemon wrote before it ended.
fn said(rising: &Rising) -> String {
    const LINES: usize = 5;
    let mut text = String::new();
    let read = File::open(&rising.log).and_then(|mut log| {
        log.seek(SeekFrom::Start(rising.log_start))?;
        log.take(64 << 10).read_to_string(&mut text)
    });
    let lines: Vec<&str> = text.lines().collect();
    if read.is_err() || lines.is_empty() {
        return String::new();
    }
    let last = &lines[lines.len().saturating_sub(LINES)..];
    format!(", having said:\n  {}", last.join("\n  "))
}

/// Stops what runs, the last started first.
pub(crate) fn stop(context: &Context, limit: Duration, keep_names: bool) -> Outcome<Vec<Daemon>> {
    if !keep_names {
        clear_names(context)?;
    }
    let owner = service::owner(context)?;
    let mut stopped = Vec::new();
    for daemon in Daemon::ALL.into_iter().rev() {
        let unit = units::name(daemon);
        if let Some(manager) = owner.filter(|manager| manager.runs(&unit)) {
            let _progress = context.progress(format!("the unit of {daemon}"));
            manager.systemctl(&["stop", &unit])?;
            stopped.push(daemon);
        } else if stop_one(context, daemon, limit)? {
            stopped.push(daemon);
        }
    }
    Ok(stopped)
}

/// Takes our block out of the hosts files.
pub(crate) fn clear_names(context: &Context) -> Outcome {
    let client = context.client(Daemon::Hostsync);
    let limit = Duration::from_secs(10);
    let _progress = context.progress("hostsync to take the names away");
    let answer = context.wait(async {
        tokio::time::timeout(limit, client.post::<_, Changes>("/v1/clear", &())).await
    })?;
    let problems = match answer {
        Ok(Ok(done)) => done.problems,
        // A hostsync that was killed left its block behind.
        Ok(Err(failure)) if failure.kind == FailureKind::NotRunning => {
            let done: Outcome<Changes> = crate::commands::host::round(context, "clear");
            done.map_or_else(|error| vec![error.message], |done| done.problems)
        }
        Ok(Err(failure)) => vec![failure.to_string()],
        Err(_) => vec![format!(
            "hostsync does not answer within {} s",
            limit.as_secs()
        )],
    };
    for problem in problems {
        context
            .out
            .warning(&format!("names may be left in the hosts files: {problem}"));
    }
    Ok(())
}

/// Stops one that runs as nobody's unit; false when none did.
pub(crate) fn stop_one(context: &Context, daemon: Daemon, limit: Duration) -> Outcome<bool> {
    let path = context.paths.lock(daemon);
    let holder = || {
        lock::holder(&path)
            .ok()
            .flatten()
            .and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?))
    };
    let Some(pid) = holder() else {
        return Ok(false);
    };
    let failed = |error: rustix::io::Errno| {
        CliError::failure(
            format!(
                "cannot stop {daemon}, process {}: {error}",
                pid.as_raw_nonzero()
            ),
            "run the command as the user who ran sharectl up, or as root",
        )
    };
    let descriptor = match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
        Ok(descriptor) => descriptor,
        // The next worker of one that was killed writes itself down in a moment.
        Err(rustix::io::Errno::SRCH) if context.status(daemon).is_ok() && holder() != Some(pid) => {
            return stop_one(context, daemon, limit);
        }
        Err(rustix::io::Errno::SRCH) => return Ok(false),
        Err(errno) => return Err(failed(errno)),
    };
    // The lock is still held with this pid in it, so the descriptor is our daemon's.
    if holder() != Some(pid) {
        return Ok(false);
    }
    rustix::process::pidfd_send_signal(&descriptor, Signal::TERM).map_err(failed)?;
    let mut ended = [rustix::event::PollFd::new(
        &descriptor,
        rustix::event::PollFlags::IN,
    )];
    let _progress = context.progress(format!("{daemon} to end"));
    let timeout = limit.try_into().ok();
    match rustix::event::poll(&mut ended, timeout.as_ref()) {
        Ok(0) => Err(CliError::failure(
            format!(
                "{daemon}, process {}, does not end within {} s",
                pid.as_raw_nonzero(),
                limit.as_secs()
            ),
            format!(
                "sharectl logs {daemon}; if it is stuck: kill -9 {}",
                pid.as_raw_nonzero()
            ),
        )),
        Ok(_) => Ok(true),
        Err(errno) => Err(failed(errno)),
    }
}
