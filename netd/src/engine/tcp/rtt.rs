//! Retransmission time-out from measured round trips (RFC 6298), one sample at a time (Karn's rule:
//! a segment sent twice is not measured).

use std::time::{Duration, Instant};

use super::seq::Seq;

/// Below this a time-out would fire on a guest that was merely not scheduled (Linux's TCP_RTO_MIN).
const SHORTEST: Duration = Duration::from_millis(200);
/// Below this even a probe would only be answered twice.
const SHORTEST_PROBE: Duration = Duration::from_millis(10);
const LONGEST: Duration = Duration::from_secs(60);
/// Before the first sample (RFC 6298 §2.1).
const INITIAL: Duration = Duration::from_secs(1);

/// The estimate.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rtt {
    /// Smoothed round trip and its variation, once there was a sample.
    estimate: Option<(Duration, Duration)>,
    /// Doublings since the last progress.
    backoff: u8,
    /// A sequence number being timed, and when it was sent.
    timed: Option<(Seq, Instant)>,
}

impl Rtt {
    /// The time-out now.
    pub(super) fn timeout(&self) -> Duration {
        let base = self
            .estimate
            .map_or(INITIAL, |(smoothed, variation)| smoothed + variation * 4);
        (base.max(SHORTEST) * 2_u32.pow(self.backoff.min(8).into())).min(LONGEST)
    }

    /// After this long without an answer the tail is probed (RFC 8985 §7.2), if that is before the time-out.
    pub(super) fn probe_timeout(&self) -> Duration {
        let probe = self.estimate.map_or(INITIAL, |(smoothed, variation)| {
            smoothed * 2 + variation * 4
        });
        probe.max(SHORTEST_PROBE).min(self.timeout())
    }

    /// Data up to `end` was sent for the first time.
    pub(super) fn sent(&mut self, end: Seq, now: Instant) {
        if self.timed.is_none() {
            self.timed = Some((end, now));
        }
    }

    /// Everything before `ack` has arrived.
    pub(super) fn acknowledged(&mut self, ack: Seq, now: Instant) {
        self.backoff = 0;
        if let Some((end, sent)) = self.timed
            && ack.at_or_after(end)
        {
            self.timed = None;
            self.sample(now.saturating_duration_since(sent));
        }
    }

    /// A segment is sent again: what was being timed is worth nothing.
    pub(super) fn resent(&mut self) {
        self.timed = None;
    }

    /// The timer fired.
    pub(super) fn expired(&mut self) {
        self.timed = None;
        self.backoff = self.backoff.saturating_add(1);
    }

    fn sample(&mut self, sample: Duration) {
        self.estimate = Some(match self.estimate {
            None => (sample, sample / 2),
            Some((smoothed, variation)) => (
                (smoothed * 7 + sample) / 8,
                (variation * 3 + smoothed.abs_diff(sample)) / 4,
            ),
        });
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
    fn the_timeout_follows_samples_and_doubles_on_expiry() {
        let start = Instant::now();
        let mut rtt = Rtt::default();
        assert_eq!(rtt.timeout(), INITIAL);
        rtt.sent(Seq(10), start);
        rtt.acknowledged(Seq(9), start + Duration::from_millis(100));
        assert_eq!(rtt.timeout(), INITIAL, "not yet covered");
        rtt.acknowledged(Seq(10), start + Duration::from_millis(400));
        assert_eq!(rtt.timeout(), Duration::from_millis(1200));
        rtt.expired();
        assert_eq!(rtt.timeout(), Duration::from_millis(2400));
        for _ in 0..20 {
            rtt.expired();
        }
        assert_eq!(rtt.timeout(), LONGEST);
        rtt.acknowledged(Seq(11), start);
        assert_eq!(rtt.timeout(), Duration::from_millis(1200));
    }

    #[test]
    fn a_segment_sent_twice_is_not_measured() {
        let start = Instant::now();
        let mut rtt = Rtt::default();
        rtt.sent(Seq(10), start);
        rtt.resent();
        rtt.acknowledged(Seq(10), start + Duration::from_secs(9));
        assert_eq!(rtt.timeout(), INITIAL);
    }
}
