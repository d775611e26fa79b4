//! What a daemon is told by signals. Whoever waits for them also gives the service manager its signs of life,
//! and keeps the own log small.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Interval, MissedTickBehavior};

use crate::logging;
use crate::notify::Watchdog;

/// How often the size of a log is looked at.
const LOG_PAUSE: Duration = Duration::from_secs(10);

/// The signals a daemon obeys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// SIGTERM or SIGINT: stop cleanly.
    Stop,
    /// SIGHUP: read the configuration again.
    Reload,
}

/// A source of orders.
#[derive(Debug)]
pub struct Orders {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
    watchdog: Watchdog,
    log: Option<(PathBuf, Interval)>,
}

impl Orders {
    /// Takes over SIGTERM, SIGINT and SIGHUP for this process.
    ///
    /// # Errors
    /// When the signals cannot be caught, or outside a tokio runtime's reach.
    pub fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
            watchdog: Watchdog::of_manager(),
            log: logging::own_file().map(|file| {
                let mut due = tokio::time::interval(LOG_PAUSE);
                due.set_missed_tick_behavior(MissedTickBehavior::Delay);
                (file, due)
            }),
        })
    }

    /// Waits for the next order. Safe to drop and call again.
    ///
    /// A loop that no longer comes here no longer obeys and, by the manager's watchdog, is started anew.
    pub async fn next(&mut self) -> Order {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return Order::Stop,
                _ = self.interrupt.recv() => return Order::Stop,
                _ = self.hang_up.recv() => return Order::Reload,
                () = self.watchdog.give_sign() => {}
                () = keep_log_small(&mut self.log) => {}
            }
        }
    }
}

async fn keep_log_small(log: &mut Option<(PathBuf, Interval)>) {
    let Some((file, due)) = log else {
        return std::future::pending().await;
    };
    due.tick().await;
    if let Err(error) = logging::keep_small(file) {
        tracing::warn!(%error, log = %file.display(), "the log cannot be begun anew");
    }
}
