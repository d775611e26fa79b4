//! How long a queue's thread looks at its empty queue (or a 9P connection's at its socket) before it sleeps.
//!
//! Waking a sleeping thread costs the guest an exit, the host an event and a switch: more than most
//! requests. A guest that asks one thing after the other has the next answered at once if the thread is
//! still looking. What that may cost:
//! - at rest nothing: who has not been asked again within `WINDOW` sleeps until woken;
//! - a guest whose requests come further apart than `WINDOW` is looked for in a trial, and again behind one request,
//!   two, four, and so on up to `SELDOM`, as long as each trial is in vain. A sleeper alone would never learn that the guest
//!   asks sooner by now: what it sees of a pause has its own waking in it, which may take longer than `WINDOW`;
//! - looking may take half of the time (`SHARE`), looking in vain an eighth of it, beyond what the
//!   sleep that it saves would have cost (`SLEEP`), with `MOST` saved up at most;
//! - a look that another program interrupted ends looking for a while (`SHORT_REST`, each time twice as long up to
//!   `LONG_REST`): processors are short, and a sleeper that is woken gets one sooner than somebody who looks. A
//!   hypervisor that takes the processor away looks the same, so a single interruption does not count for much.
//!
//! The rest of a frame, of which a 9P client has sent a part, is looked for from the same savings, however far apart its
//! requests are: a socket hands a mebibyte over in some thirty pieces, and a sleeper would be woken for each. Only
//! behind a receive of `GOOD_PART` at least: who sends byte by byte is not looked for. Of such a look, as much as it takes to
//! copy what the last receive has brought (`COPIED`) is free: who moves bytes as fast as they can be copied keeps a
//! processor busy anyway, and the other end sleeps whenever this one does.
//!
//! Pure: the moments are arguments.

use std::time::{Duration, Instant};

/// The longest look. Between an answer and the next request a guest's kernel takes 5 to 30 µs.
const WINDOW: Duration = Duration::from_micros(50);
/// Processor time of a sleep: epoll, the event, the switch away and back.
const SLEEP: Duration = Duration::from_micros(5);
/// One of so many parts of the time may be spent looking.
const SHARE: u32 = 2;
/// What a look in vain is charged, times its length.
const IN_VAIN: u32 = 4;
/// What can be saved up: a burst after a rest is looked for at once.
const MOST: Duration = Duration::from_millis(2);
/// Pauses longer than that are counted as that, so that a rest does not hide a burst for long.
const LONGEST_PAUSE: Duration = WINDOW.saturating_mul(8);
/// A guest that is not expected within `WINDOW` is still looked for once in so many requests.
const SELDOM: u32 = 1024;
/// Bytes that a receive has brought, so that it is worth while to look for what follows: a sleep costs less than to copy
/// some pages.
const GOOD_PART: usize = 4096;
/// Bytes that are copied in a microsecond.
const COPIED: usize = 2048;
/// How long nobody looks after an interrupted look, and after the last of many.
const SHORT_REST: Duration = Duration::from_millis(1);
const LONG_REST: Duration = Duration::from_millis(100);
/// After so many looks without an interruption the next one is a single one.
const UNDISTURBED: u32 = 1024;

/// Of one thread and queue.
#[derive(Debug)]
pub(super) struct Patience {
    /// Where there is but one processor, looking keeps the guest from asking.
    possible: bool,
    /// From an empty queue to the next request, averaged.
    pause: Duration,
    /// When the queue was found empty, or the frame cut short.
    empty_since: Option<Instant>,
    /// It is a frame's rest that is waited for.
    is_rest: bool,
    /// What looking for it costs nothing.
    free: Duration,
    /// Looking that is paid for, as of `counted`.
    saved: Duration,
    counted: Option<Instant>,
    /// Requests until an unlikely one is looked for all the same, and how many they will be after the next look in
    /// vain.
    trial: u32,
    trial_in: u32,
    resting_until: Option<Instant>,
    /// Of the next interruption.
    rest: Duration,
    undisturbed: u32,
}

impl Patience {
    pub(super) fn new(processors: usize) -> Self {
        Self {
            possible: processors > 1,
            pause: LONGEST_PAUSE,
            empty_since: None,
            is_rest: false,
            free: SLEEP,
            saved: Duration::ZERO,
            counted: None,
            trial: 1,
            trial_in: 1,
            resting_until: None,
            rest: SHORT_REST,
            undisturbed: 0,
        }
    }

    /// The queue is empty. Until when to look; None: sleep.
    pub(super) fn emptied(&mut self, now: Instant) -> Option<Instant> {
        self.begin(now);
        if !self.may_look(now, WINDOW) {
            return None;
        }
        if self.pause > WINDOW {
            self.trial = self.trial.saturating_sub(1);
            if self.trial > 0 {
                return None;
            }
            self.trial = self.trial_in;
        }
        Some(now + WINDOW)
    }

    /// A frame has begun to come, its rest has not, and the last receive has brought so many bytes. Until when to look;
    /// None: sleep.
    pub(super) fn cut_short(&mut self, now: Instant, bytes: usize) -> Option<Instant> {
        self.begin(now);
        self.is_rest = true;
        let copying = Duration::from_micros((bytes / COPIED) as u64);
        self.free = copying.max(SLEEP).min(WINDOW);
        // No average says that it is likely, so a look in vain must be paid for beforehand.
        let may_look = bytes >= GOOD_PART && self.may_look(now, WINDOW * IN_VAIN);
        may_look.then(|| now + WINDOW)
    }

    fn begin(&mut self, now: Instant) {
        self.empty_since = Some(now);
        self.is_rest = false;
        let passed = now.saturating_duration_since(self.counted.unwrap_or(now));
        self.saved = (self.saved + passed / SHARE).min(MOST);
        self.counted = Some(now);
    }

    fn may_look(&self, now: Instant, price: Duration) -> bool {
        let resting = self.resting_until.is_some_and(|until| now < until);
        self.possible && !resting && self.saved >= price
    }

    /// A request came: to a thread that looked, or woke it. Nothing to learn for one that did neither.
    pub(super) fn asked(&mut self, now: Instant, looking: bool) {
        let Some(since) = self.empty_since.take() else {
            return;
        };
        let pause = now.saturating_duration_since(since);
        if looking {
            // This one is seen as it is. What was averaged had a waking in it, or was a single rest.
            self.pause = self.pause.min(WINDOW);
            (self.trial, self.trial_in) = (1, 1);
            self.undisturbed = self.undisturbed.saturating_add(1);
            self.pay(pause.saturating_sub(SLEEP), pause, now);
        }
        let most = if looking { WINDOW } else { LONGEST_PAUSE };
        self.pause = (self.pause * 3 + pause.min(most)) / 4;
    }

    /// More of a frame that was cut short came, which says nothing of how far apart requests are.
    pub(super) fn went_on(&mut self, now: Instant, looking: bool) {
        if let Some(since) = self.empty_since.take()
            && looking
        {
            let pause = now.saturating_duration_since(since);
            self.pay(pause.saturating_sub(self.free), pause, now);
        }
    }

    /// Nothing came; the thread will sleep.
    pub(super) fn in_vain(&mut self, now: Instant) {
        if let Some(since) = self.empty_since {
            let looked = now.saturating_duration_since(since);
            if !self.is_rest {
                self.trial = self.trial_in;
                self.trial_in = (self.trial_in * 2).min(SELDOM);
            }
            self.pay(looked * IN_VAIN, looked, now);
        }
    }

    fn pay(&mut self, price: Duration, looked: Duration, now: Instant) {
        self.saved = self.saved.saturating_sub(price);
        if looked > WINDOW * 2 {
            if self.undisturbed >= UNDISTURBED {
                self.rest = SHORT_REST;
            }
            self.undisturbed = 0;
            self.resting_until = Some(now + self.rest);
            self.rest = (self.rest * 2).min(LONG_REST);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plays requests `pause` apart for a second, each answered in 2 µs; how often a request was
    /// awaited looking, how often asleep, and the time looked in all.
    fn play(processors: usize, pauses: &[u64]) -> (u32, u32, Duration) {
        play_both(processors, None, pauses, Duration::ZERO)
    }

    /// The same of pieces of a frame, of so many bytes each.
    fn play_rests(processors: usize, piece: usize, pauses: &[u64]) -> (u32, u32, Duration) {
        play_both(processors, Some(piece), pauses, Duration::ZERO)
    }

    /// Both, where a sleeper takes `waking` to wake.
    fn play_both(
        processors: usize,
        piece: Option<usize>,
        pauses: &[u64],
        waking: Duration,
    ) -> (u32, u32, Duration) {
        let mut patience = Patience::new(processors);
        #[expect(clippy::disallowed_methods, reason = "any moment will do")]
        let begin = Instant::now();
        let mut now = begin;
        let (mut awake, mut asleep, mut looked) = (0, 0, Duration::ZERO);
        for pause in pauses.iter().cycle() {
            if now.duration_since(begin) > Duration::from_secs(1) {
                break;
            }
            let next = now + Duration::from_micros(*pause);
            let look = match piece {
                Some(bytes) => patience.cut_short(now, bytes),
                None => patience.emptied(now),
            };
            let finds_it = look.is_some_and(|until| next <= until);
            if finds_it {
                looked += next - now;
                awake += 1;
                now = next;
            } else {
                if let Some(until) = look {
                    patience.in_vain(until);
                    looked += until - now;
                }
                now = next + waking;
                asleep += 1;
            }
            match piece {
                Some(_) => patience.went_on(now, finds_it),
                None => patience.asked(now, finds_it),
            }
            now += Duration::from_micros(2);
        }
        (awake, asleep, looked)
    }

    #[test]
    fn a_guest_that_asks_at_once_is_awaited_looking() {
        for pause in [1, 3, 5] {
            let (awake, asleep, _) = play(2, &[pause]);
            assert!(asleep < 150, "{pause}: {asleep}");
            assert!(awake > 100_000, "{pause}: {awake}");
        }
    }

    #[test]
    fn who_asks_seldom_costs_next_to_nothing() {
        for pause in [60, 100, 1000, 100_000] {
            let (awake, _, looked) = play(2, &[pause]);
            assert_eq!(awake, 0, "{pause}");
            assert!(looked < Duration::from_millis(2), "{pause}: {looked:?}");
        }
    }

    #[test]
    fn a_long_waking_is_not_taken_for_the_guests_pause() {
        for waking in [10, 60, 200].map(Duration::from_micros) {
            let (awake, asleep, _) = play_both(2, None, &[1], waking);
            assert!(asleep < 150, "{waking:?}: {asleep}");
            assert!(awake > 100_000, "{waking:?}: {awake}");
            // Nor does a rest now and then make sleepers of all.
            let mut pauses = [1; 500];
            pauses[499] = 2000;
            let (awake, asleep, _) = play_both(2, None, &pauses, waking);
            assert!(asleep * 100 < awake, "{waking:?}: {asleep} of {awake}");
        }
    }

    #[test]
    fn looking_stays_within_its_share_whatever_a_guest_does() {
        for pauses in [
            &[20][..],
            &[45],
            &[10, 10, 60],
            &[1, 1, 1, 1, 1, 400],
            &[30, 10, 90],
        ] {
            let (awake, _, looked) = play(2, pauses);
            let free = SLEEP * awake;
            assert!(
                looked.saturating_sub(free) <= Duration::from_millis(505),
                "{pauses:?}: {looked:?} of a second, {awake} times"
            );
        }
        let (awake, asleep, looked) = play(2, &[1, 1, 1, 1, 1, 1, 1, 1, 1, 200]);
        assert!(awake > asleep);
        let in_vain = looked.saturating_sub(SLEEP * awake);
        assert!(in_vain <= Duration::from_millis(130), "{in_vain:?}");
    }

    #[test]
    fn one_processor_is_left_to_the_guest() {
        assert_eq!(play(1, &[1]).0, 0);
        let nothing = (0, Duration::ZERO);
        let (awake, _, looked) = play_rests(1, 1 << 20, &[1]);
        assert_eq!((awake, looked), nothing);
    }

    #[test]
    fn the_rest_of_a_good_part_is_awaited_looking_and_of_a_small_one_asleep() {
        for pause in [1, 3, 5] {
            let (awake, asleep, _) = play_rests(2, GOOD_PART, &[pause]);
            assert!(
                asleep < 150 && awake > 100_000,
                "{pause}: {awake}, {asleep}"
            );
        }
        for pause in [1, 5, 20, 60, 110] {
            for piece in [1, 100, GOOD_PART - 1] {
                let (awake, _, looked) = play_rests(2, piece, &[pause]);
                assert_eq!((awake, looked), (0, Duration::ZERO), "{piece} by {pause}");
            }
        }
    }

    #[test]
    fn who_sends_as_fast_as_can_be_copied_is_awaited_looking() {
        let large = 32 << 10;
        for pause in [1, 8, 15] {
            let (awake, asleep, _) = play_rests(2, large, &[pause]);
            assert!(asleep * 100 < awake, "{pause}: {awake}, {asleep}");
        }
        let (awake, asleep, looked) = play_rests(2, large, &[45]);
        assert!(asleep > 0, "slower than that it has to be paid for");
        let free = Duration::from_micros(16) * awake;
        assert!(looked.saturating_sub(free) <= Duration::from_millis(505));
    }

    #[test]
    fn looking_for_rests_stays_within_its_share_whatever_a_client_does() {
        for pauses in [
            &[20][..],
            &[45],
            &[49],
            &[51],
            &[99],
            &[10, 10, 60],
            &[1, 1, 1, 1, 1, 400],
        ] {
            let (awake, _, looked) = play_rests(2, GOOD_PART, pauses);
            let free = SLEEP * awake;
            assert!(
                looked.saturating_sub(free) <= Duration::from_millis(505),
                "{pauses:?}: {looked:?} of a second, {awake} times"
            );
        }
        for pause in [51, 60, 100, 1000] {
            let (awake, _, looked) = play_rests(2, GOOD_PART, &[pause]);
            assert_eq!(awake, 0);
            assert!(
                looked <= Duration::from_millis(130),
                "{pause}, in vain: {looked:?}"
            );
        }
    }

    #[test]
    fn rests_say_nothing_of_how_far_apart_requests_are() {
        let mut patience = Patience::new(2);
        #[expect(clippy::disallowed_methods, reason = "any moment will do")]
        let mut now = Instant::now();
        for _ in 0..1000 {
            let looking = patience.cut_short(now, GOOD_PART).is_some();
            now += Duration::from_micros(3);
            patience.went_on(now, looking);
        }
        patience.cut_short(now, GOOD_PART);
        patience.in_vain(now + WINDOW);
        let Patience {
            pause,
            trial,
            trial_in,
            ..
        } = patience;
        assert_eq!((pause, trial, trial_in), (LONGEST_PAUSE, 1, 1));
    }

    #[test]
    fn interrupted_looks_end_looking_for_a_while_and_for_longer_each_time() {
        let mut patience = Patience::new(2);
        #[expect(clippy::disallowed_methods, reason = "any moment will do")]
        let mut now = Instant::now();
        let step = Duration::from_micros(2);
        let ask = |patience: &mut Patience, now: &mut Instant| {
            let looking = patience.emptied(*now).is_some();
            *now += step;
            patience.asked(*now, looking);
            looking
        };
        for _ in 0..10_000 {
            ask(&mut patience, &mut now);
        }
        let mut rests = Vec::new();
        for _ in 0..9 {
            assert!(patience.emptied(now).is_some());
            now += WINDOW * 3;
            patience.in_vain(now);
            patience.asked(now, false);
            let begin = now;
            while !ask(&mut patience, &mut now) {}
            rests.push((now - begin).as_millis());
        }
        assert_eq!(rests, [1, 2, 4, 8, 16, 32, 64, 100, 100]);
        for _ in 0..UNDISTURBED {
            ask(&mut patience, &mut now);
        }
        patience.emptied(now);
        now += WINDOW * 3;
        patience.in_vain(now);
        let begin = now;
        while !ask(&mut patience, &mut now) {}
        assert!(now - begin < SHORT_REST * 2);
    }
}
