//! `sharectl up --foreground`: the daemons as our children, started again when
//! they fail, stopped with us.

use std::process::ExitStatus;
use std::time::Duration;

use control::paths::Daemon;
use rustix::process::Pid;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::Instant;

use super::{command, write_to};
use crate::context::Context;
use crate::error::{CliError, Outcome};

/// The first pause before a failed daemon is started again; doubled each time.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// A daemon that lived as long as this begins again with the first pause.
const HEALTHY_AFTER: Duration = Duration::from_secs(60);
/// How long daemons may take to end before they are killed.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// What wakes the supervisor.
enum Wake {
    Due,
    Ended(Daemon, std::io::Result<ExitStatus>),
    Stop,
    Reload,
}

/// One daemon's life as seen from here.
enum Life {
    Running(tokio::process::Child),
    /// Failed; to be started again then.
    Pausing(Instant),
    /// Ended well, or was told to.
    Over,
}

struct Watched {
    daemon: Daemon,
    life: Life,
    began: Instant,
    pause: Duration,
}

/// Where the daemons' lines go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Logs {
    /// To our own standard error.
    Ours,
    /// Each to its file in the state folder.
    Files,
}

/// A daemon that runs already is nobody's child here.
pub(super) fn check_none_runs(context: &Context, verb: &str) -> Outcome {
    for daemon in Daemon::ALL {
        if let Ok(status) = context.status(daemon) {
            return Err(CliError::conflict(
                format!("{daemon} is running already, process {}", status.pid),
                format!("sharectl down, then: {verb}"),
            ));
        }
    }
    Ok(())
}

/// Runs all daemons until SIGTERM, SIGINT or the clean end of each.
pub(crate) fn supervise(context: &Context, limit: Duration, logs: Logs) -> Outcome {
    check_none_runs(context, "sharectl up --foreground")?;
    context.wait(watch(context, limit, logs))?
}

async fn watch(context: &Context, limit: Duration, logs: Logs) -> Outcome {
    let mut told = Told::listen()?;
    let mut all = Vec::new();
    let outcome = match start_all(context, (limit, logs), &mut told, &mut all).await {
        Ok(true) => keep_running(context, logs, &mut told, &mut all).await,
        Ok(false) => Ok(()),
        Err(error) => Err(error),
    };
    stop_all(&mut all).await;
    outcome
}

/// What the supervisor itself is told.
struct Told {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Told {
    fn listen() -> Outcome<Self> {
        let listen = |kind| {
            signal(kind).map_err(|error| {
                CliError::failure(
                    format!("cannot wait for signals: {error}"),
                    "sharectl doctor",
                )
            })
        };
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hang_up: listen(SignalKind::hangup())?,
        })
    }

    async fn stop(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Starts every daemon and waits until each answers; false when told to stop meanwhile.
async fn start_all(
    context: &Context,
    (limit, logs): (Duration, Logs),
    told: &mut Told,
    all: &mut Vec<Watched>,
) -> Outcome<bool> {
    for daemon in Daemon::ALL {
        all.push(Watched {
            daemon,
            life: Life::Running(spawn(context, daemon, logs)?),
            began: Instant::now(),
            pause: FIRST_PAUSE,
        });
    }
    let answers = async {
        for daemon in Daemon::ALL {
            wait_for_answer(context, daemon, limit).await?;
        }
        Outcome::Ok(())
    };
    tokio::select! {
        answered = answers => answered?,
        () = told.stop() => return Ok(false),
        // At the beginning an end is a mistake that another start repeats.
        (daemon, ended) = any_end(all) => {
            let how = ended.map_or_else(|error| error.to_string(), |status| status.to_string());
            return Err(CliError::failure(
                format!("{} ended at once, {how}", daemon.program()),
                "its log is above; sharectl doctor",
            ));
        }
    }
    control::notify::ready().map_err(|error| {
        CliError::failure(
            format!("cannot tell the service manager that all is ready: {error}"),
            "is $NOTIFY_SOCKET right?",
        )
    })?;
    context
        .out
        .note("netd, sharefs and hostsync answer; Ctrl-C stops them");
    Ok(true)
}

/// Until told to stop, or until every daemon ended well.
async fn keep_running(
    context: &Context,
    logs: Logs,
    told: &mut Told,
    all: &mut [Watched],
) -> Outcome {
    while !all.iter().all(|watched| matches!(watched.life, Life::Over)) {
        let due = next_start(all);
        let wake = tokio::select! {
            _ = told.terminate.recv() => Wake::Stop,
            _ = told.interrupt.recv() => Wake::Stop,
            _ = told.hang_up.recv() => Wake::Reload,
            (daemon, ended) = any_end(all) => Wake::Ended(daemon, ended),
            () = wait_until(due) => Wake::Due,
        };
        match wake {
            Wake::Stop => return Ok(()),
            Wake::Reload => send_to_all(all, rustix::process::Signal::HUP),
            Wake::Ended(daemon, ended) => note_end(context, all, daemon, ended),
            Wake::Due => start_due(context, logs, all)?,
        }
    }
    Ok(())
}

fn spawn(context: &Context, daemon: Daemon, logs: Logs) -> Outcome<tokio::process::Child> {
    let mut command = command(context, daemon)?;
    if logs == Logs::Files {
        let log = context.paths.log(daemon);
        write_to(&mut command, &log).map_err(|error| {
            CliError::failure(
                format!("cannot write {}: {error}", log.display()),
                "is the disk full?",
            )
        })?;
    }
    let mut command = tokio::process::Command::from(command);
    // A group of its own: Ctrl-C comes to us alone, and we tell them in order.
    command.process_group(0).kill_on_drop(true);
    command.spawn().map_err(|error| {
        CliError::failure(
            format!("cannot start {}: {error}", daemon.program()),
            "sharectl doctor",
        )
    })
}

async fn wait_for_answer(context: &Context, daemon: Daemon, limit: Duration) -> Outcome {
    let client = context.client(daemon);
    let deadline = Instant::now() + limit;
    while client
        .get::<control::api::DaemonStatus>("/v1/status")
        .await
        .is_err()
    {
        if Instant::now() >= deadline {
            return Err(CliError::failure(
                format!("{daemon} does not answer within {} s", limit.as_secs()),
                "its log is above",
            ));
        }
        tokio::time::sleep(super::LOOK).await;
    }
    Ok(())
}

/// Waits for the first child to end; for ever when none runs.
async fn any_end(all: &mut [Watched]) -> (Daemon, std::io::Result<ExitStatus>) {
    let waits = all
        .iter_mut()
        .filter_map(|watched| match &mut watched.life {
            Life::Running(child) => {
                let daemon = watched.daemon;
                Some(Box::pin(async move { (daemon, child.wait().await) }))
            }
            Life::Pausing(_) | Life::Over => None,
        });
    let mut waits: Vec<_> = waits.collect();
    std::future::poll_fn(|cx| {
        for wait in &mut waits {
            if let std::task::Poll::Ready(ended) = wait.as_mut().poll(cx) {
                return std::task::Poll::Ready(ended);
            }
        }
        std::task::Poll::Pending
    })
    .await
}

fn next_start(all: &[Watched]) -> Option<Instant> {
    let due = all.iter().filter_map(|watched| match watched.life {
        Life::Pausing(until) => Some(until),
        Life::Running(_) | Life::Over => None,
    });
    due.min()
}

async fn wait_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

fn start_due(context: &Context, logs: Logs, all: &mut [Watched]) -> Outcome {
    let now = Instant::now();
    for watched in all {
        if let Life::Pausing(until) = watched.life
            && until <= now
        {
            watched.life = Life::Running(spawn(context, watched.daemon, logs)?);
            watched.began = now;
        }
    }
    Ok(())
}

fn note_end(
    context: &Context,
    all: &mut [Watched],
    daemon: Daemon,
    ended: std::io::Result<ExitStatus>,
) {
    let Some(watched) = all.iter_mut().find(|watched| watched.daemon == daemon) else {
        return;
    };
    if ended.as_ref().is_ok_and(ExitStatus::success) {
        context.out.note(&format!("{daemon} ended"));
        watched.life = Life::Over;
        return;
    }
    let now = Instant::now();
    if now - watched.began >= HEALTHY_AFTER {
        watched.pause = FIRST_PAUSE;
    }
    let how = ended.map_or_else(|error| error.to_string(), |status| status.to_string());
    context.out.warning(&format!(
        "{daemon} ended, {how}; starting it again in {} ms",
        watched.pause.as_millis()
    ));
    watched.life = Life::Pausing(now + watched.pause);
    watched.pause = (watched.pause * 2).min(LONGEST_PAUSE);
}

fn send_to_all(all: &[Watched], what: rustix::process::Signal) {
    for watched in all.iter().rev() {
        if let Life::Running(child) = &watched.life
            && let Some(pid) = child
                .id()
                .and_then(|id| Pid::from_raw(i32::try_from(id).ok()?))
        {
            // It may have ended this moment, and is not reaped yet: the pid is still its own.
            rustix::process::kill_process(pid, what).ok();
        }
    }
}

async fn stop_all(all: &mut [Watched]) {
    send_to_all(all, rustix::process::Signal::TERM);
    for watched in all {
        if let Life::Running(child) = &mut watched.life
            && tokio::time::timeout(STOP_LIMIT, child.wait())
                .await
                .is_err()
        {
            child.kill().await.ok();
        }
        watched.life = Life::Over;
    }
}
