//! The clock, and the processor time of the daemon that is measured.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

#[expect(clippy::disallowed_methods, reason = "this program measures time")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Processor time of all threads of a process so far.
///
/// From schedstat, which counts nanoseconds; the ticks of /proc/PID/stat are 10 ms.
pub(crate) fn spent(pid: u32) -> Result<Duration> {
    let tasks = format!("/proc/{pid}/task");
    let mut total = 0;
    for task in std::fs::read_dir(&tasks).with_context(|| format!("read {tasks}"))? {
        // A thread may end between the two looks.
        let Ok(text) = std::fs::read_to_string(task?.path().join("schedstat")) else {
            continue;
        };
        let running = text.split(' ').next().unwrap_or_default();
        total += running
            .parse::<u64>()
            .with_context(|| format!("{tasks}: {text}"))?;
    }
    Ok(Duration::from_nanos(total))
}

/// The middle of some times.
pub(crate) fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}
