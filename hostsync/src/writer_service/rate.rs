//! How often a user may ask: a token bucket each. Pure.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Requests that may come at once, after a rest.
const BURST: u32 = 20;
/// One more every so often; hostsync writes at most five times a second.
const EVERY: Duration = Duration::from_millis(200);
/// Users remembered; a machine where more ask at once forgets the one that rested longest.
const MOST_USERS: usize = 256;

/// The buckets of all users that asked lately.
#[derive(Debug, Default)]
pub(super) struct Rates {
    /// When each bucket will be full again.
    full_at: BTreeMap<u32, Instant>,
}

impl Rates {
    /// Takes a token of user `uid`; says how long to wait when there is none.
    pub(super) fn take(&mut self, uid: u32, now: Instant) -> Result<(), Duration> {
        self.full_at.retain(|_, full| *full > now);
        let full = self.full_at.get(&uid).copied().unwrap_or(now);
        let owed = full.saturating_duration_since(now) + EVERY;
        let most = EVERY * BURST;
        if let Some(wait) = owed.checked_sub(most).filter(|wait| !wait.is_zero()) {
            return Err(wait);
        }
        if self.full_at.len() >= MOST_USERS && !self.full_at.contains_key(&uid) {
            let rested = self.full_at.iter().min_by_key(|(_, full)| **full);
            if let Some(uid) = rested.map(|(uid, _)| *uid) {
                self.full_at.remove(&uid);
            }
        }
        self.full_at.insert(uid, now + owed);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start() -> Instant {
        #[expect(
            clippy::disallowed_methods,
            reason = "an origin for arithmetic, nothing is measured"
        )]
        Instant::now()
    }

    #[test]
    fn a_burst_passes_then_five_a_second_and_users_do_not_share() {
        let (mut rates, t) = (Rates::default(), start());
        assert!((0..BURST).all(|_| rates.take(1, t).is_ok()));
        assert_eq!(rates.take(1, t), Err(EVERY));
        assert_eq!(rates.take(2, t), Ok(()));
        assert_eq!(rates.take(1, t + EVERY), Ok(()));
        assert!(rates.take(1, t + EVERY).is_err());
        let later = t + Duration::from_secs(60);
        assert!((0..BURST).all(|_| rates.take(1, later).is_ok()));
    }

    #[test]
    fn users_remembered_are_bounded() {
        let (mut rates, t) = (Rates::default(), start());
        for uid in 0..10_000 {
            rates.take(uid, t).unwrap();
        }
        assert!(rates.full_at.len() <= MOST_USERS);
    }
}
