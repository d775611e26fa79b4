//! When to write: soon after a change, but not often. Pure.
//!
//! A burst of changes becomes one write, 200 ms after its last one; a burst that
//! does not end is written all the same after 400 ms, and never more than five times
//! a second. Where another program undoes each write (two daemons that keep the same
//! file), every further write waits twice as long, up to half a minute.

use std::time::{Duration, Instant};

/// How long it must be quiet after a change.
const QUIET: Duration = Duration::from_millis(200);
/// How long a change waits at most, however unquiet it is.
const LONGEST: Duration = Duration::from_millis(400);
/// The least time between two writes, also when asked for at once.
const APART: Duration = Duration::from_millis(200);

/// The most that a write waits where another program undoes each one.
const LONGEST_DISPUTE: Duration = Duration::from_secs(30);
/// A dispute is over when nobody undid a write for so long.
const PEACE: Duration = Duration::from_secs(120);
/// So many writes undone in a row are no accident: an editor undoes one.
const DISPUTED: u32 = 4;

/// What has changed since the last write began.
#[derive(Debug, Clone, Copy, Default)]
pub struct Pace {
    pending: Option<Pending>,
    began: Option<Instant>,
    undone: u32,
    last_undone: Option<Instant>,
}

#[derive(Debug, Clone, Copy)]
struct Pending {
    first: Instant,
    last: Instant,
    at_once: bool,
    /// Nothing of ours changed, only a file.
    foreign: bool,
}

impl Pace {
    /// What shall stand in the files changed.
    pub fn change(&mut self, now: Instant) {
        self.touch(now).foreign = false;
    }

    /// A file changed, by us or by somebody else.
    pub fn file_changed(&mut self, now: Instant) {
        self.touch(now);
    }

    fn touch(&mut self, now: Instant) -> &mut Pending {
        let pending = self.pending.get_or_insert(Pending {
            first: now,
            last: now,
            at_once: false,
            foreign: true,
        });
        pending.last = now;
        pending
    }

    /// The write that is done restored what somebody else had changed. Says whether that has
    /// become a dispute by it.
    pub fn was_undone(&mut self, now: Instant) -> bool {
        let last = self.last_undone.replace(now);
        if last.is_none_or(|last| now.saturating_duration_since(last) > PEACE) {
            self.undone = 0;
        }
        self.undone = self.undone.saturating_add(1);
        self.undone == DISPUTED
    }

    /// While another program undoes what is written, again and again: when that is over, if it
    /// does not happen once more.
    #[must_use]
    pub fn dispute_ends(&self) -> Option<Instant> {
        let last = self.last_undone?;
        (self.undone >= DISPUTED).then(|| last + PEACE)
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
        let calm = self
            .last_undone
            .is_none_or(|undone| pending.last.saturating_duration_since(undone) > PEACE);
        let apart = if pending.foreign && !calm {
            APART
                .saturating_mul(1 << self.undone.min(16))
                .min(LONGEST_DISPUTE)
        } else {
            APART
        };
        Some(self.began.map_or(wish, |began| wish.max(began + apart)))
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

    /// Another program takes our block out at once whenever we have written it.
    fn fight(pace: &mut Pace, t: Instant, rounds: u32) -> Vec<Duration> {
        let mut now = t;
        let mut at = Vec::new();
        for _ in 0..rounds {
            pace.file_changed(now);
            now = pace.due().unwrap_or(now);
            pace.begin(now);
            pace.was_undone(now);
            at.push(now.duration_since(t));
        }
        at
    }

    #[test]
    fn a_dispute_calms_down_and_is_told_once() {
        let (mut pace, t) = (Pace::default(), start());
        let at = fight(&mut pace, t, 12);
        assert!(
            at[1] < Duration::from_secs(1),
            "an editor's undo is mended soon: {at:?}"
        );
        let last = at[11].saturating_sub(at[10]);
        assert_eq!(last, LONGEST_DISPUTE, "{at:?}");
        assert_eq!(pace.dispute_ends(), Some(t + at[11] + PEACE));

        let (mut pace, told) = (Pace::default(), 4);
        let says: Vec<bool> = (0..6).map(|n| pace.was_undone(t + n * 100 * MS)).collect();
        assert_eq!(says.iter().position(|says| *says), Some(told - 1));
        assert_eq!(says.iter().filter(|says| **says).count(), 1);
    }

    #[test]
    fn a_dispute_delays_neither_a_change_of_ours_nor_a_question() {
        let (mut pace, t) = (Pace::default(), start());
        let now = t + fight(&mut pace, t, 12)[11];
        pace.file_changed(now);
        assert_eq!(pace.due(), Some(now + LONGEST_DISPUTE));
        pace.change(now + MS);
        assert!(pace.due().is_some_and(|due| due <= now + 400 * MS));
        pace.begin(now + 400 * MS);
        pace.file_changed(now + 400 * MS);
        pace.ask(now + 500 * MS);
        assert!(pace.due().is_some_and(|due| due <= now + 600 * MS));
    }

    #[test]
    fn after_a_time_of_peace_one_undone_write_is_mended_soon() {
        let (mut pace, t) = (Pace::default(), start());
        let now = t + fight(&mut pace, t, 12)[11] + PEACE + MS;
        pace.file_changed(now);
        assert_eq!(pace.due(), Some(now + QUIET));
        pace.begin(now + QUIET);
        assert!(!pace.was_undone(now + QUIET));
        assert_eq!(pace.dispute_ends(), None);
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
