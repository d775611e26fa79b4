//! A daemon as a child of the test: its log, memory, signals and end.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, ExitStatus};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Signal, kill_process};

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
    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
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

    /// SIGKILL, as a crash would.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill().context("kill")?;
        self.child.wait().context("wait")?;
        Ok(())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended, which the test has seen.
        drop(self.child.kill());
        drop(self.child.wait());
        blackbox::keep_file(format!("log of {}", self.kind.name()), &self.log);
    }
}
