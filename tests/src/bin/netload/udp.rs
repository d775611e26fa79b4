//! `netload udp`: packets at a given rate, in small bursts on an absolute schedule.
//!
//! How many arrived is asked from the server's counting port by the bench, on a way that does not
//! lead through the daemon under test.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use crate::{Options, now, report};

/// Pause between two bursts: short enough that a burst (49 packets at 195,000/s) fits every queue.
const TICK: Duration = Duration::from_micros(250);

pub(crate) fn send(options: &Options) -> anyhow::Result<()> {
    let to: SocketAddr = options.need("to")?;
    let rate: u64 = options.or("rate", 195_000)?;
    let size: usize = options.or("size", 64)?;
    let seconds: f64 = options.or("seconds", 3.0)?;
    let socket = UdpSocket::bind(("0.0.0.0", 0))?;
    socket.connect(to)?;
    let payload = vec![0; size];

    let start = now();
    let mut sent = 0_u64;
    let mut refused = 0_u64;
    loop {
        let elapsed = now().duration_since(start);
        if elapsed.as_secs_f64() >= seconds {
            break;
        }
        let due = due_packets(elapsed, rate);
        while sent < due {
            if socket.send(&payload).is_err() {
                refused += 1;
            }
            sent += 1;
        }
        std::thread::sleep(TICK);
    }
    let took = now().duration_since(start).as_secs_f64();
    report(&serde_json::json!({ "sent": sent, "refused": refused, "seconds": took }))
}

/// Packets that should have left after `elapsed` at `rate` packets a second.
fn due_packets(elapsed: Duration, rate: u64) -> u64 {
    let due = elapsed.as_nanos() * u128::from(rate) / 1_000_000_000;
    u64::try_from(due).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schedule_follows_the_rate_and_does_not_drift() {
        assert_eq!(due_packets(Duration::ZERO, 195_000), 0);
        assert_eq!(due_packets(TICK, 195_000), 48);
        assert_eq!(due_packets(Duration::from_secs(3), 195_000), 585_000);
    }
}
