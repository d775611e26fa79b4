//! When to write: soon after a change, but not often. Pure.
//!
//! A burst of changes becomes one write, 200 ms after its last one; a burst that
//! does not end is written all the same after 400 ms, and never more than five times
//! a second.

use std::time::{Duration, Instant};

/// How long it must be quiet after a change.
const QUIET: Duration = Duration::from_millis(200);
/// How long a change waits at most, however unquiet it is.
const LONGEST: Duration = Duration::from_millis(400);
/// The least time between two writes, also when asked for at once.
const APART: Duration = Duration::from_millis(200);

/// What has changed since the last write began.
#[derive(Debug, Clone, Copy, Default)]
pub struct Pace {
    pending: Option<Pending>,
    began: Option<Instant>,
}

#[derive(Debug, Clone, Copy)]
struct Pending {
    first: Instant,
    last: Instant,
    at_once: bool,
}

impl Pace {
    /// Something changed.
    pub fn change(&mut self, now: Instant) {
        let pending = self.pending.get_or_insert(Pending {
            first: now,
            last: now,
            at_once: false,
        });
        pending.last = now;
    }

    /// Somebody waits for the write.
    pub fn ask(&mut self, now: Instant) {
        self.change(now);
        if let Some(pending) = &mut self.pending {
            pending.at_once = true;
        }
    }

    /// When the next write is due; `None` while nothing has changed.
    #[must_use]
    pub fn due(&self) -> Option<Instant> {
        let pending = self.pending?;
        let wish = if pending.at_once {
            pending.first
        } else {
            (pending.last + QUIET).min(pending.first + LONGEST)
        };
        Some(self.began.map_or(wish, |began| wish.max(began + APART)))
    }

    /// A write of all that has changed until now begins.
    pub fn begin(&mut self, now: Instant) {
        self.pending = None;
        self.began = Some(now);
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

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn one_change_is_written_when_it_has_been_quiet() {
        let (mut pace, t) = (Pace::default(), start());
        assert_eq!(pace.due(), None);
        pace.change(t);
        pace.change(t + 150 * MS);
        assert_eq!(pace.due(), Some(t + 350 * MS));
        pace.begin(t + 350 * MS);
        assert_eq!(pace.due(), None);
    }

    #[test]
    fn a_question_does_not_wait_for_quiet_but_keeps_its_distance() {
        let (mut pace, t) = (Pace::default(), start());
        pace.ask(t);
        assert_eq!(pace.due(), Some(t));
        pace.begin(t);
        pace.ask(t + 10 * MS);
        assert_eq!(pace.due(), Some(t + 200 * MS));
    }

    #[test]
    fn a_thousand_changes_a_second_make_few_writes_and_lose_none() {
        let (mut pace, t) = (Pace::default(), start());
        let mut writes = Vec::new();
        for number in 0..10_000 {
            let now = t + number * MS;
            pace.change(now);
            if pace.due().is_some_and(|due| due <= now) {
                pace.begin(now);
                writes.push(number);
            }
        }
        assert!(
            (20..=50).contains(&writes.len()),
            "{} writes in 10 s",
            writes.len()
        );
        // The last change is still to be written, soon.
        pace.change(t + 10_000 * MS);
        assert!(pace.due().is_some_and(|due| due <= t + 10_200 * MS));
    }
}
