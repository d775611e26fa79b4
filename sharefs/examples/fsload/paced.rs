//! What a daemon costs when little is asked of it: a request now and then, and nothing at all.
//!
//! A daemon that looks at its queue instead of sleeping is quick and looks cheap under load; here is where it pays.

use std::time::Duration;

use anyhow::Result;

use crate::clock::{now, spent};
use crate::fuse::Request;
use crate::rows::Bench;

/// From one request to the next.
pub(crate) const PAUSES: &[(&str, Duration)] = &[
    ("100us", Duration::from_micros(100)),
    ("1ms", Duration::from_millis(1)),
];

/// For how long a daemon is watched at rest.
const REST: Duration = Duration::from_secs(1);
/// From the last request to rest.
const SETTLE: Duration = Duration::from_millis(200);
const LENGTH: Duration = Duration::from_millis(500);

/// Processor time of the daemon for one of such requests.
pub(crate) fn cost(bench: &mut Bench, request: &Request, pause: Duration) -> Result<Duration> {
    bench.guest.put(0, request)?;
    let (begin, before) = (now(), spent(bench.pid)?);
    let mut requests = 0;
    while begin.elapsed() < LENGTH {
        requests += 1;
        while begin.elapsed() < pause * requests {
            // Asleep the machine's clock would decide when the next comes.
            std::hint::spin_loop();
        }
        bench.guest.offer(0)?;
        bench.guest.tell()?;
        bench.guest.take()?;
        bench.guest.check(0, request)?;
    }
    Ok(spent(bench.pid)?.saturating_sub(before) / requests)
}

/// Per cent of a processor that the daemon uses while nothing is asked.
pub(crate) fn idle(pid: u32) -> Result<f64> {
    std::thread::sleep(SETTLE);
    let before = spent(pid)?;
    std::thread::sleep(REST);
    let used = spent(pid)?.saturating_sub(before);
    Ok(100.0 * used.as_secs_f64() / REST.as_secs_f64())
}
