//! Where engine time meets calendar time.
//!
//! Leases run on the monotonic clock: it takes no part in steps of the calendar, and it stands while
//! the host sleeps, as do the guests' own clocks, so no lease ends here that its holder still counts on.
//! (The boot-time clock would run on and end all of them on waking.) What is written down has both:
//! the calendar for after the machine's next start, and the monotonic clock with the name of this start.

use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

/// The year 2514: far enough, and within every clock's range.
const MOST_SECONDS: u64 = 1 << 34;

/// The clocks, read at one moment.
#[derive(Clone, Copy, Debug)]
pub struct ClockPair {
    /// What the engine counts in.
    pub monotonic: Instant,
    /// What people read.
    pub wall: SystemTime,
    /// Which start of the machine it is, and how long ago by the monotonic clock.
    pub(super) boot: Option<(u64, Duration)>,
}

/// A moment as it is written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Written {
    /// Seconds since 1970.
    pub(super) calendar: u64,
    /// Seconds since the machine's start.
    pub(super) uptime: Option<u64>,
}

impl ClockPair {
    /// Now.
    #[must_use]
    #[expect(
        clippy::disallowed_methods,
        reason = "the journal is where engine time meets calendar time"
    )]
    pub fn read() -> Self {
        let monotonic = Instant::now();
        let uptime = Duration::try_from(clock_gettime(ClockId::Monotonic)).ok();
        Self {
            monotonic,
            wall: SystemTime::now(),
            boot: boot().zip(uptime),
        }
    }

    /// An engine time as calendar time.
    #[must_use]
    pub fn wall_of(&self, at: Instant) -> SystemTime {
        match at.checked_duration_since(self.monotonic) {
            Some(ahead) => self.wall + ahead,
            None => self.wall - self.monotonic.saturating_duration_since(at),
        }
    }

    pub(super) fn write(&self, at: Instant) -> Written {
        let since = self.wall_of(at).duration_since(UNIX_EPOCH);
        let uptime = self.boot.map(|(_, now)| {
            match at.checked_duration_since(self.monotonic) {
                Some(ahead) => now + ahead,
                None => now.saturating_sub(self.monotonic.saturating_duration_since(at)),
            }
            .as_secs()
        });
        Written {
            calendar: since.map_or(0, |since| since.as_secs()),
            uptime,
        }
    }

    /// What was written as engine time: by the uptime if it is of this start of the machine. What lies
    /// before the machine's start is now.
    pub(super) fn read_back(&self, boot: Option<u64>, written: Written) -> Instant {
        if let (Some((this, now)), Some(uptime)) = (self.boot, written.uptime)
            && boot == Some(this)
        {
            let at = Duration::from_secs(uptime.min(MOST_SECONDS));
            return match at.checked_sub(now) {
                Some(ahead) => self.monotonic + ahead,
                None => self.before(now - at),
            };
        }
        let at = UNIX_EPOCH + Duration::from_secs(written.calendar.min(MOST_SECONDS));
        match at.duration_since(self.wall) {
            Ok(ahead) => self.monotonic + ahead,
            Err(behind) => self.before(behind.duration()),
        }
    }

    fn before(&self, by: Duration) -> Instant {
        self.monotonic.checked_sub(by).unwrap_or(self.monotonic)
    }
}

/// The kernel's name of this start of the machine, the first half of it.
fn boot() -> Option<u64> {
    static BOOT: OnceLock<Option<u64>> = OnceLock::new();
    *BOOT.get_or_init(|| {
        let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
        u64::from_str_radix(digits.get(..16)?, 16).ok()
    })
}
