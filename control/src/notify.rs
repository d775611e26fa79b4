//! Telling systemd about readiness and health: the datagram protocol of `sd_notify(3)`.
//!
//! Health is said by the loop whose standstill it is to show, never by a thread beside it: [`Watchdog`] is
//! awaited where the loop awaits its orders ([`crate::signals`]).

use std::ffi::OsString;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use tokio::time::{Interval, MissedTickBehavior};

/// Says `READY=1` to the manager named by `$NOTIFY_SOCKET`; without one, does nothing.
///
/// # Errors
/// When there is a manager and it cannot be reached.
pub fn ready() -> io::Result<()> {
    send("READY=1")
}

/// Says `STOPPING=1`.
///
/// # Errors
/// As [`ready`].
pub fn stopping() -> io::Result<()> {
    send("STOPPING=1")
}

/// The sign of life that the manager waits for (`WatchdogSec=`, `sd_watchdog_enabled(3)`).
#[derive(Debug)]
pub struct Watchdog {
    due: Option<Interval>,
}

impl Watchdog {
    /// What the manager asked of this process; without a manager, or without its watchdog, never due.
    #[must_use]
    pub fn of_manager() -> Self {
        let meant = [std::process::id(), std::os::unix::process::parent_id()];
        let period = period(&meant, |name| std::env::var_os(name));
        let due = period.map(|period| {
            let mut due = tokio::time::interval(period);
            due.set_missed_tick_behavior(MissedTickBehavior::Delay);
            due
        });
        Self { due }
    }

    /// Waits until a sign is due and gives it. Safe to drop and call again.
    pub async fn give_sign(&mut self) {
        let Some(due) = &mut self.due else {
            return std::future::pending().await;
        };
        due.tick().await;
        if let Err(error) = send("WATCHDOG=1") {
            // The manager is busy or away; if it stays so, it acts on our silence.
            tracing::debug!(%error, "the service manager could not be given a sign of life");
        }
    }
}

/// Half of what the manager waits, as `sd_watchdog_enabled(3)` recommends. A process whose parent only keeps
/// it alive gives the signs in the parent's name (`NotifyAccess=all`), for the work is where a standstill shows.
fn period(meant: &[u32], variable: impl Fn(&str) -> Option<OsString>) -> Option<Duration> {
    let number = |name| -> Option<u64> { variable(name)?.to_str()?.parse().ok() };
    // Whoever else inherited the variables is not who is meant.
    let ours = |pid| meant.iter().any(|meant| u64::from(*meant) == pid);
    if variable("WATCHDOG_PID").is_some() && !number("WATCHDOG_PID").is_some_and(ours) {
        return None;
    }
    let limit = number("WATCHDOG_USEC").filter(|limit| *limit > 1)?;
    Some(Duration::from_micros(limit / 2))
}

/// How long a manager with a full queue is waited for.
const LIMIT: Duration = Duration::from_secs(2);

fn send(state: &str) -> io::Result<()> {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else {
        return Ok(());
    };
    let bytes = path.as_encoded_bytes();
    let address = match bytes.split_first() {
        Some((b'@', name)) => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(&path)?,
    };
    let socket = UnixDatagram::unbound()?;
    // A manager that does not read must not hold up the daemon.
    socket.set_write_timeout(Some(LIMIT))?;
    socket.send_to_addr(state.as_bytes(), &address)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_process_that_is_meant_gives_signs() {
        let second = Some(Duration::from_secs(1));
        for (variables, expected) in [
            (&[][..], None),
            (&[("WATCHDOG_USEC", "2000000")][..], second),
            (
                &[("WATCHDOG_USEC", "2000000"), ("WATCHDOG_PID", "7")],
                second,
            ),
            (
                &[("WATCHDOG_USEC", "2000000"), ("WATCHDOG_PID", "6")],
                second,
            ),
            (&[("WATCHDOG_USEC", "2000000"), ("WATCHDOG_PID", "8")], None),
            (&[("WATCHDOG_USEC", "2000000"), ("WATCHDOG_PID", "")], None),
            (&[("WATCHDOG_USEC", "0")], None),
            (&[("WATCHDOG_USEC", "soon")], None),
        ] {
            let found = period(&[7, 6], |name| {
                let found = variables.iter().find(|(known, _)| *known == name);
                found.map(|(_, value)| value.into())
            });
            assert_eq!(found, expected, "{variables:?}");
        }
    }
}
