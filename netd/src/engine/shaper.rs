//! A guest's rate limit: one token bucket a direction. Pure; the packet thread asks before it moves bytes.
//!
//! Tokens are bytes of payload. What can wait (TCP) takes only what is there; what cannot (UDP, echo) may
//! take the bucket below zero as deep as its short queue would be long, and is dropped beyond that.

use std::time::{Duration, Instant};

use control::rate::{BitRate, RateLimit};

/// What may pass at once after a pause, as time: long enough for a busy machine to be late by that much and
/// lose nothing, short enough that nobody sees a burst.
const BURST: Duration = Duration::from_millis(40);
/// The least a bucket holds: four full packets of an ordinary link.
const SMALLEST_BURST: i64 = 6_000;
/// How long a datagram would wait in the queue that the debt stands for.
const QUEUE: Duration = Duration::from_millis(50);
/// The least that the queue holds: one datagram of the largest size.
const SMALLEST_QUEUE: i64 = 65_535;
/// Waiting for tokens ends when this share of a burst is there: fewer wake-ups, larger frames.
const WORTH_WAKING: i64 = 4;

/// One direction.
#[derive(Clone, Copy, Debug)]
pub struct Bucket {
    rate: u64,
    burst: i64,
    queue: i64,
    tokens: i64,
    /// Tokens are counted up to here.
    at: Instant,
}

impl Bucket {
    /// Full.
    #[must_use]
    pub fn new(rate: BitRate, now: Instant) -> Self {
        let rate = rate.bytes_per_second();
        let burst = share(rate, BURST).max(SMALLEST_BURST);
        Self {
            rate,
            burst,
            queue: share(rate, QUEUE).max(SMALLEST_QUEUE),
            tokens: burst,
            at: now,
        }
    }

    fn refill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.at);
        let fresh = share(self.rate, passed);
        if self.tokens.saturating_add(fresh) >= self.burst {
            self.tokens = self.burst;
            self.at = now;
        } else if fresh > 0 {
            self.tokens += fresh;
            // Only the time that whole tokens stand for: nothing is lost in many small steps.
            self.at += time(self.rate, fresh);
        }
    }

    /// Bytes that may pass now.
    pub fn available(&mut self, now: Instant) -> usize {
        self.refill(now);
        usize::try_from(self.tokens).unwrap_or(0)
    }

    /// These bytes passed.
    pub fn spend(&mut self, bytes: usize) {
        self.tokens = self
            .tokens
            .saturating_sub(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// A datagram that cannot wait: true if it passes.
    pub fn pass(&mut self, bytes: usize, now: Instant) -> bool {
        self.refill(now);
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        let passes = self.tokens.saturating_sub(bytes) >= -self.queue;
        if passes {
            self.tokens -= bytes;
        }
        passes
    }

    /// When it is worth to look again.
    #[must_use]
    pub fn ready_at(&self) -> Instant {
        let missing = (self.burst / WORTH_WAKING).saturating_sub(self.tokens);
        self.at + time(self.rate, missing.max(1))
    }
}

/// Bytes that pass in a time.
fn share(rate: u64, time: Duration) -> i64 {
    let bytes = u128::from(rate) * time.as_nanos() / 1_000_000_000;
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// The time that bytes take.
fn time(rate: u64, bytes: i64) -> Duration {
    let bytes = u128::try_from(bytes).unwrap_or(0);
    let nanos = (bytes * 1_000_000_000).div_ceil(u128::from(rate.max(1)));
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

/// Both directions of a guest.
#[derive(Clone, Copy, Debug)]
pub struct Shaper {
    /// From the guest.
    pub up: Option<Bucket>,
    /// To the guest.
    pub down: Option<Bucket>,
}

impl Shaper {
    /// `None` where nothing is limited.
    #[must_use]
    pub fn new(limit: &RateLimit, now: Instant) -> Option<Self> {
        let bucket = |rate| Bucket::new(rate, now);
        (limit.up.is_some() || limit.down.is_some()).then(|| Self {
            up: limit.up.map(bucket),
            down: limit.down.map(bucket),
        })
    }
}

#[cfg(test)]
#[expect(
    clippy::disallowed_methods,
    reason = "any instant serves as the origin of a virtual clock"
)]
mod tests {
    use super::*;

    fn full(text: &str) -> (Bucket, Instant) {
        let now = Instant::now();
        (Bucket::new(text.parse().unwrap(), now), now)
    }

    /// What passes in ten seconds of a sender that always has more and looks as often as it is told.
    fn carried(text: &str, step: Option<Duration>) -> f64 {
        let (mut bucket, start) = full(text);
        let (mut now, mut total) = (start, 0_usize);
        while now < start + Duration::from_secs(10) {
            let take = bucket.available(now).min(65_536);
            bucket.spend(take);
            total += take;
            now = match step {
                Some(step) => now + step,
                // A loop that is a millisecond late, as epoll's is.
                None if take == 0 => bucket.ready_at().max(now) + Duration::from_millis(1),
                None => now,
            };
        }
        total as f64 * 8.0 / 10.0
    }

    #[test]
    fn what_passes_is_the_rate() {
        for (text, rate) in [
            ("256kbit/s", 256e3),
            ("1Mbit/s", 1e6),
            ("20Mbit/s", 20e6),
            ("100Mbit/s", 100e6),
            ("10Gbit/s", 10e9),
        ] {
            for step in [
                None,
                Some(Duration::from_micros(7)),
                Some(Duration::from_millis(2)),
            ] {
                if step == Some(Duration::from_millis(2)) && rate > 1e8 {
                    // 64 KiB each two milliseconds is less than that.
                    continue;
                }
                let carried = carried(text, step);
                let error = (carried / rate - 1.0).abs();
                assert!(error < 0.04, "{text} by {step:?}: {carried}");
            }
        }
    }

    #[test]
    fn datagrams_pass_as_far_as_the_queue_goes() {
        let (mut bucket, now) = full("8Mbit/s");
        let passed = (0..1_000).filter(|_| bucket.pass(1_000, now)).count();
        // 40 ms of burst, and a queue of 50 ms that is one largest datagram at least.
        assert_eq!(passed, 40 + 65);
        assert_eq!(bucket.available(now), 0);
        let later = now + Duration::from_secs(1);
        assert_eq!(bucket.available(later), 40_000);
        // The largest datagram passes at the slowest rate.
        let (mut slow, now) = full("64kbit/s");
        assert!(slow.pass(65_507, now) && !slow.pass(65_507, now));
    }

    #[test]
    fn waiting_ends_when_there_is_something_to_take() {
        let (mut bucket, now) = full("1Mbit/s");
        let all = bucket.available(now);
        bucket.spend(all);
        let ready = bucket.ready_at();
        assert_eq!(bucket.available(now), 0);
        assert!(bucket.available(ready) >= 1_500);
        assert!(Shaper::new(&RateLimit::default(), now).is_none());
    }
}
