//! What a daemon is told by signals. Whoever waits for them also gives the service manager its signs of life.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::notify::Watchdog;

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
            }
        }
    }
}
