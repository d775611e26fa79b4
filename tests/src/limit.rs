//! Time limits: every step of a whole-system test has one, and waiting is always for a condition.
//!
//! This is the one place of the harness that reads the clock.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How often a condition that cannot wake us is looked at again.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// A moment after which a step has failed.
#[derive(Clone, Copy, Debug)]
pub struct Deadline {
    started: Instant,
    limit: Duration,
}

impl Deadline {
    /// A deadline `limit` from now.
    #[must_use]
    pub fn after(limit: Duration) -> Self {
        Self {
            started: now(),
            limit,
        }
    }

    /// What is left; zero when it has passed.
    #[must_use]
    pub fn left(&self) -> Duration {
        self.limit.saturating_sub(self.elapsed())
    }

    /// Time since the deadline was set.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        now().saturating_duration_since(self.started)
    }

    /// Whether nothing is left.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.left().is_zero()
    }
}

/// The clock, for steps that report how long they took.
#[must_use]
#[expect(
    clippy::disallowed_methods,
    reason = "a harness measures real programs against the real clock"
)]
pub fn now() -> Instant {
    Instant::now()
}

/// Looks at a condition until it answers `Some`, at most for `limit`.
///
/// # Errors
/// When the limit passes, naming `what` was waited for; or whatever the condition itself reports.
pub fn wait_for<T>(
    what: &str,
    limit: Duration,
    mut condition: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let deadline = Deadline::after(limit);
    loop {
        if let Some(value) = condition()? {
            return Ok(value);
        }
        if deadline.passed() {
            bail!("waited {limit:?} in vain: {what}");
        }
        std::thread::sleep(LOOK_AGAIN.min(deadline.left()));
    }
}

/// Runs a fallible step again and again until it succeeds, at most for `limit`.
///
/// # Errors
/// The last failure of the step, with `what` was tried.
pub fn retry<T>(what: &str, limit: Duration, mut step: impl FnMut() -> Result<T>) -> Result<T> {
    let deadline = Deadline::after(limit);
    loop {
        match step() {
            Ok(value) => return Ok(value),
            Err(error) if deadline.passed() => {
                return Err(error.context(format!("tried for {limit:?}: {what}")));
            }
            Err(_) => std::thread::sleep(LOOK_AGAIN),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_that_never_holds_fails_with_its_name() {
        let error = wait_for::<()>("the moon", Duration::from_millis(1), || Ok(None)).unwrap_err();
        assert!(error.to_string().contains("the moon"), "{error}");
    }

    #[test]
    fn retry_reports_the_last_failure() {
        let mut tries = 0;
        let error = retry::<()>("a door", Duration::from_secs(1), || {
            tries += 1;
            bail!("knock {tries}")
        })
        .unwrap_err();
        assert!(tries > 1, "it tried only once");
        assert_eq!(error.root_cause().to_string(), format!("knock {tries}"));
    }
}
