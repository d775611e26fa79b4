//! A daemon as a child of the test: its log, memory, signals and end.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, ExitStatus};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};

use crate::limit::wait_for;
use crate::{blackbox, command};

/// For a daemon to end after SIGTERM.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// Which daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// sharectl-netd.
    Netd,
    /// sharectl-sharefs.
    Sharefs,
    /// sharectl-hostsync.
    Hostsync,
}

impl Kind {
    /// Every daemon, in the order of starting.
    pub const ALL: [Self; 3] = [Self::Netd, Self::Sharefs, Self::Hostsync];

    /// Its short name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Netd => "netd",
            Self::Sharefs => "sharefs",
            Self::Hostsync => "hostsync",
        }
    }
}

/// A running daemon. Dropping it kills it and hands its log to the black box.
#[derive(Debug)]
pub struct Daemon {
    pub(crate) kind: Kind,
    pub(crate) child: Child,
    pub(crate) log: PathBuf,
}

impl Daemon {
    /// The process that does the work. That of sharefs is the child of a keeper, which is what was started.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.worker().unwrap_or_else(|| self.child.id())
    }

    /// The process that was started.
    #[must_use]
    pub fn started(&self) -> u32 {
        self.child.id()
    }

    fn worker(&self) -> Option<u32> {
        if self.kind != Kind::Sharefs {
            return None;
        }
        worker_of(self.child.id())
    }

    /// What it logged so far, earlier lives included.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Whether it still runs.
    ///
    /// # Errors
    /// When the kernel refuses to tell.
    pub fn is_running(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// Resident memory in bytes.
    ///
    /// # Errors
    /// When it is gone.
    pub fn resident(&self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        let kib: u64 = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .and_then(|value| value.split_whitespace().next()?.parse().ok())
            .context("no VmRSS")?;
        Ok(kib * 1024)
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When it is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill_process(command::pid_of(&self.child)?, signal)
            .with_context(|| format!("signal {}", self.kind.name()))
    }

    /// SIGTERM, then waits for its end.
    ///
    /// # Errors
    /// When it has to be killed.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        command::wait(&mut self.child, STOP_LIMIT)?
            .with_context(|| format!("{} did not end within {STOP_LIMIT:?}", self.kind.name()))
    }

    /// SIGKILL to all of it: nothing is left that could go on.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn kill(&mut self) -> Result<()> {
        if let Some(worker) = self.worker() {
            // A keeper that stands still makes no other worker meanwhile.
            self.signal(Signal::STOP)?;
            let stat = format!("/proc/{}/stat", self.child.id());
            wait_for("the keeper to stand still", STOP_LIMIT, || {
                let stat = fs::read_to_string(&stat)?;
                Ok(stat.contains(") T ").then_some(()))
            })?;
            kill(worker)?;
            self.child.kill().context("kill")?;
            self.child.wait().context("wait")?;
            // It holds the daemon's lock until its last thread is gone; whoever adopts it may reap it late.
            return wait_for("the worker's end", STOP_LIMIT, || {
                let threads = fs::read_dir(format!("/proc/{worker}/task"));
                let threads = threads.map_or(0, Iterator::count);
                let stat = fs::read_to_string(format!("/proc/{worker}/stat"));
                let is_zombie = stat.is_ok_and(|stat| stat.contains(") Z "));
                Ok((threads == 0 || (threads == 1 && is_zombie)).then_some(()))
            });
        }
        self.child.kill().context("kill")?;
        self.child.wait().context("wait")?;
        Ok(())
    }
}

/// The process that does the work of a daemon with a keeper, by the process that was started.
#[must_use]
pub fn worker_of(keeper: u32) -> Option<u32> {
    let children = fs::read_to_string(format!("/proc/{keeper}/task/{keeper}/children"));
    children.ok()?.split_whitespace().next()?.parse().ok()
}

/// SIGKILL to a process that is there, or was a moment ago.
pub(super) fn kill(pid: u32) -> Result<()> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    match kill_process(pid.context("no process id")?, Signal::KILL) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(error) => Err(error).context("kill"),
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended, which the test has seen.
        drop(self.kill());
        drop(self.child.wait());
        blackbox::keep_file(format!("log of {}", self.kind.name()), &self.log);
    }
}
