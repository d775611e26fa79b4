//! How many errors a network tells its guests: enough for every honest program, not enough to be a weapon
//! (RFC 4443 §2.4 (f), RFC 1812 §4.3.2.8). A token bucket.

use std::time::{Duration, Instant};

/// Errors told in one go, and in each second after that.
const BURST: u32 = 1_000;
const REFILL: Duration = Duration::from_millis(1);

/// The bucket.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    left: u32,
    refilled: Instant,
}

impl Budget {
    /// A full one.
    pub fn new(now: Instant) -> Self {
        Self {
            left: BURST,
            refilled: now,
        }
    }

    /// Takes one; false = none left.
    pub fn take(&mut self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.refilled);
        let earned = u32::try_from(passed.as_nanos() / REFILL.as_nanos()).unwrap_or(u32::MAX);
        if earned > 0 {
            self.left = self.left.saturating_add(earned).min(BURST);
            self.refilled = now;
        }
        let some = self.left > 0;
        self.left -= u32::from(some);
        some
    }
}

#[cfg(test)]
#[expect(
    clippy::disallowed_methods,
    reason = "any instant serves as the origin of a virtual clock"
)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_gets_its_burst_and_then_the_rate() {
        let start = Instant::now();
        let mut budget = Budget::new(start);
        let taken = |budget: &mut Budget, now| (0..5_000).filter(|_| budget.take(now)).count();
        assert_eq!(taken(&mut budget, start), 1_000);
        assert_eq!(taken(&mut budget, start + Duration::from_millis(10)), 10);
        assert_eq!(taken(&mut budget, start + Duration::from_secs(60)), 1_000);
    }
}
