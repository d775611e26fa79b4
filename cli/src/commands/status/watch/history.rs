//! From counters to rates: what each guest and each door of a share has carried in the last minutes.
//!
//! Pure: looks go in with the time they were taken. Bounded: a ring of rates for each that was seen in the
//! last look, and a ring of events.

use std::collections::{BTreeMap, VecDeque};

use control::api::{GuestStatus, ShareDoor, ShareStatus, ShareTraffic};
use control::events::Event;
use control::names::{GuestName, ShareName};
use control::paths::Daemon;
use tokio::time::Instant;

use super::sample::Sample;

/// Rates that are kept of each.
pub(super) const KEPT: usize = 240;
/// Events that are kept of all daemons together.
const EVENTS: usize = 1_000;

/// Rates a second, the oldest first.
pub(super) type Rates = VecDeque<u64>;

/// A share as one guest, or the host, reaches it in one way.
pub(super) type Door = (ShareName, Option<GuestName>, ShareDoor);

pub(super) fn door(share: &ShareStatus, traffic: &ShareTraffic) -> Door {
    (share.name.clone(), traffic.guest.clone(), traffic.door)
}

/// All that was seen.
#[derive(Default)]
pub(super) struct History {
    pub(super) last: Option<Sample>,
    pub(super) events: VecDeque<(Daemon, Event)>,
    /// Bytes to and from each guest, by [`label`].
    pub(super) to_guest: Tracks<String>,
    pub(super) from_guest: Tracks<String>,
    /// Requests for files, and bytes of them.
    pub(super) operations: Tracks<Door>,
    pub(super) read: Tracks<Door>,
    pub(super) written: Tracks<Door>,
    at: Option<Instant>,
}

impl History {
    pub(super) fn add(&mut self, mut sample: Sample, at: Instant) {
        let elapsed = self.at.map(|before| at.duration_since(before).as_millis());
        let elapsed = elapsed.and_then(|millis| u64::try_from(millis).ok());
        self.at = Some(at);
        let guests = &sample.report.guests;
        let carried = |bytes: fn(&control::api::LinkStatus) -> u64| {
            let sum = move |guest: &GuestStatus| guest.links.iter().map(bytes).sum();
            guests.iter().map(move |guest| (label(guest), sum(guest)))
        };
        self.to_guest.add(carried(|link| link.sent_bytes), elapsed);
        self.from_guest
            .add(carried(|link| link.received_bytes), elapsed);
        let shares = &sample.report.shares;
        let done = |count: fn(&ShareTraffic) -> u64| {
            let lines = shares
                .iter()
                .flat_map(|share| share.traffic.iter().map(move |line| (share, line)));
            lines.map(move |(share, line)| (door(share, line), count(line)))
        };
        self.operations.add(done(|line| line.operations), elapsed);
        self.read.add(done(|line| line.bytes_read), elapsed);
        self.written.add(done(|line| line.bytes_written), elapsed);
        self.events.extend(sample.events.drain(..));
        let excess = self.events.len().saturating_sub(EVENTS);
        self.events.drain(..excess);
        self.last = Some(sample);
    }
}

/// What a guest is called, with a name or without.
pub(super) fn label(guest: &GuestStatus) -> String {
    let name = guest.name.as_ref().map(ToString::to_string);
    name.unwrap_or_else(|| guest.mac.to_string())
}

/// A counter's last value and its rates, for each of many.
pub(super) struct Tracks<K> {
    tracks: BTreeMap<K, Track>,
    /// Of all together.
    total: Rates,
}

#[derive(Default)]
struct Track {
    count: u64,
    rates: Rates,
}

impl<K: Ord> Default for Tracks<K> {
    fn default() -> Self {
        Self {
            tracks: BTreeMap::new(),
            total: Rates::new(),
        }
    }
}

impl<K: Ord> Tracks<K> {
    /// The rates of one; none if it was not in the last look.
    pub(super) fn rates<Q: Ord + ?Sized>(&self, of: &Q) -> Option<&Rates>
    where
        K: std::borrow::Borrow<Q>,
    {
        self.tracks.get(of).map(|track| &track.rates)
    }

    pub(super) fn total(&self) -> &Rates {
        &self.total
    }

    /// `elapsed` is in milliseconds, none at the first look. One that is named twice has one counter.
    fn add(&mut self, counters: impl Iterator<Item = (K, u64)>, elapsed: Option<u64>) {
        let mut before = std::mem::take(&mut self.tracks);
        let mut sum = 0;
        for (key, count) in counters {
            if self.tracks.contains_key(&key) {
                continue;
            }
            let known = before.remove(&key);
            // What has a counter below its last one began anew; of that, and of what is new, only
            // the next look can tell a rate.
            let grown = known
                .as_ref()
                .and_then(|track| count.checked_sub(track.count));
            let mut track = known.unwrap_or_default();
            track.count = count;
            if let Some(elapsed) = elapsed {
                let rate = grown.unwrap_or(0).saturating_mul(1_000) / elapsed.max(1);
                push(&mut track.rates, rate);
                sum += rate;
            }
            self.tracks.insert(key, track);
        }
        if elapsed.is_some() {
            push(&mut self.total, sum);
        }
    }
}

fn push(rates: &mut Rates, rate: u64) {
    if rates.len() == KEPT {
        rates.pop_front();
    }
    rates.push_back(rate);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(looks: &[&[(&str, u64)]], of: &str, expected: Option<&[u64]>, total: &[u64]) {
        let mut tracks = Tracks::default();
        for (number, look) in looks.iter().enumerate() {
            let elapsed = (number > 0).then_some(500);
            let counters = look.iter().map(|(key, count)| ((*key).to_owned(), *count));
            tracks.add(counters, elapsed);
        }
        let rates = tracks
            .rates(of)
            .map(|rates| rates.iter().copied().collect());
        assert_eq!(rates, expected.map(<[u64]>::to_vec), "{looks:?}");
        assert_eq!(Vec::from(tracks.total().clone()), total, "{looks:?}");
    }

    #[test]
    fn rates_are_what_a_counter_grew_by_in_a_second() {
        check(&[&[("a", 7)]], "a", Some(&[]), &[]);
        check(
            &[&[("a", 0)], &[("a", 10)], &[("a", 10)]],
            "a",
            Some(&[20, 0]),
            &[20, 0],
        );
        check(
            &[&[("a", 0), ("b", 5)], &[("a", 1), ("b", 6)]],
            "b",
            Some(&[2]),
            &[4],
        );
    }

    #[test]
    fn what_comes_begins_anew_or_goes_has_no_rate_of_its_own() {
        check(
            &[&[], &[("a", 900)], &[("a", 901)]],
            "a",
            Some(&[0, 2]),
            &[0, 2],
        );
        check(&[&[("a", 900)], &[("a", 3)]], "a", Some(&[0]), &[0]);
        check(&[&[("a", 1)], &[]], "a", None, &[0]);
        check(&[&[("a", 0)], &[("a", 1), ("a", 1)]], "a", Some(&[2]), &[2]);
    }

    #[test]
    fn rates_are_bounded() {
        let mut rates = Rates::new();
        for rate in 0..1_000 {
            push(&mut rates, rate);
        }
        assert_eq!((rates.len(), rates[0]), (KEPT, 1_000 - KEPT as u64));
    }
}
