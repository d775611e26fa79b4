//! What each source said last, how long that stands, and the same kept over restarts.
//!
//! While a source cannot be read its names stand as it said them last, for as long as the
//! configuration's `keep` says; then they end. Time is an argument; only [`Shelf`] touches files.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use control::api::SourceStatus;
use control::config::{Config, HostsSource, SourceKind};
use control::events::timestamp;
use control::names::SourceName;
use serde::{Deserialize, Serialize};

use super::Reading;
use crate::table::{Fact, Source};

/// What one source said, and whether it still says so.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// As it said them last, each as old as it is.
    facts: Vec<Fact>,
    /// Since when it cannot be read.
    away: Option<SystemTime>,
    #[serde(skip)]
    reason: String,
    #[serde(skip)]
    skipped: u64,
    #[serde(skip)]
    readings: u64,
}

/// All sources that the configuration has enabled.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Book {
    entries: BTreeMap<SourceName, Entry>,
}

/// What a message of a source means for the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It says something else than before.
    Facts,
    /// It went away, or came back with the same.
    Reach,
    /// Nothing changed.
    Nothing,
}

impl Book {
    /// Fits the book to the configuration: new sources come in, as not heard yet; others go, and
    /// of netd's names those of guests that are no longer configured while it cannot say so.
    pub fn follow(&mut self, config: &Config, now: SystemTime) {
        let enabled = |name: &SourceName| {
            let source = config.hosts.sources.get(name);
            source.is_some_and(|source| source.enabled)
        };
        self.entries.retain(|name, _| enabled(name));
        for source in config.hosts.sources.values().filter(|s| s.enabled) {
            let entry = self
                .entries
                .entry(source.name.clone())
                .or_insert_with(|| Entry {
                    away: Some(now),
                    ..Entry::default()
                });
            if entry.away.is_some() && entry.reason.is_empty() {
                entry.reason = "it was not heard yet".to_owned();
            }
            if source.kind == SourceKind::Netd && entry.away.is_some() {
                entry.facts.retain(|fact| match &fact.from {
                    Source::Guest { guest, .. } => config.guests.contains_key(guest),
                    Source::Static
                    | Source::Added
                    | Source::Lease { .. }
                    | Source::Container { .. } => false,
                });
            }
        }
    }

    /// After a restart nobody has been heard yet; who was there when the daemon ended is away from now on.
    pub fn restarted(&mut self, now: SystemTime) {
        for entry in self.entries.values_mut() {
            entry.away.get_or_insert(now);
        }
    }

    /// A source was read.
    pub fn hear(&mut self, source: &SourceName, reading: Reading, now: SystemTime) -> Change {
        let Some(entry) = self.entries.get_mut(source) else {
            return Change::Nothing;
        };
        let came_back = entry.away.take().is_some();
        entry.reason.clear();
        entry.skipped = reading.skipped;
        entry.readings += 1;
        let facts = aged(reading.facts, &entry.facts, now);
        if facts == entry.facts {
            return if came_back {
                Change::Reach
            } else {
                Change::Nothing
            };
        }
        entry.facts = facts;
        Change::Facts
    }

    /// A source cannot be read.
    pub fn lose(&mut self, source: &SourceName, reason: String, now: SystemTime) -> Change {
        let Some(entry) = self.entries.get_mut(source) else {
            return Change::Nothing;
        };
        let gone = entry.away.is_none();
        entry.away.get_or_insert(now);
        entry.reason = reason;
        if gone { Change::Reach } else { Change::Nothing }
    }

    /// All facts, those of sources that are away with their end.
    #[must_use]
    pub fn facts(&self, config: &Config) -> Vec<Fact> {
        let mut facts = Vec::new();
        for (name, entry) in &self.entries {
            let end = config
                .hosts
                .sources
                .get(name)
                .and_then(|source| entry.end(source));
            for fact in &entry.facts {
                let mut fact = fact.clone();
                fact.until = match (fact.until, end) {
                    (Some(one), Some(other)) => Some(one.min(other)),
                    (one, other) => one.or(other),
                };
                facts.push(fact);
            }
        }
        facts
    }

    /// Whether the source can be read.
    #[must_use]
    pub fn is_followed(&self, source: &SourceName) -> bool {
        self.entries
            .get(source)
            .is_some_and(|entry| entry.away.is_none())
    }

    /// How each source is.
    #[must_use]
    pub fn status(&self, config: &Config) -> Vec<SourceStatus> {
        let sources = &config.hosts.sources;
        let known = self
            .entries
            .iter()
            .filter_map(|(name, entry)| Some((sources.get(name)?, entry)));
        known
            .map(|(source, entry)| SourceStatus {
                name: source.name.clone(),
                kind: source.kind,
                path: source.path.clone(),
                priority: source.priority,
                suffix: source.suffix.clone(),
                names: entry.facts.len(),
                skipped: entry.skipped,
                readings: entry.readings,
                away_since: entry.away.map(timestamp),
                reason: entry.away.map(|_| entry.reason.clone()),
                until: entry.end(source).map(timestamp),
            })
            .collect()
    }
}

impl Entry {
    /// When its names end because it is away.
    fn end(&self, source: &HostsSource) -> Option<SystemTime> {
        self.away?.checked_add(source.keep?)
    }
}

/// The new facts, each as old as the same claim was before, or as its source says, or new now.
fn aged(mut facts: Vec<Fact>, before: &[Fact], now: SystemTime) -> Vec<Fact> {
    let known: BTreeMap<_, _> = before
        .iter()
        .map(|fact| {
            (
                (&fact.name, fact.below, &fact.from, fact.address),
                fact.since,
            )
        })
        .collect();
    for fact in &mut facts {
        // A guest of ours has its names by right, however long it runs.
        if matches!(fact.from, Source::Guest { .. }) {
            continue;
        }
        let age = known.get(&(&fact.name, fact.below, &fact.from, fact.address));
        let told = fact.since.map_or(now, |since| since.min(now));
        fact.since = age.copied().flatten().or(Some(told));
    }
    facts
}

/// The file in the state folder that holds a book as JSON.
#[derive(Debug, Clone)]
pub struct Shelf {
    path: PathBuf,
}

impl Shelf {
    /// `name` in `folder`, which is made when first needed.
    #[must_use]
    pub fn new(folder: &Path, name: &str) -> Self {
        Self {
            path: folder.join(name),
        }
    }

    /// What was kept last. A file that cannot be used is as good as none, and said so.
    #[must_use]
    pub fn load<T: for<'de> Deserialize<'de> + Default>(&self) -> T {
        let bytes = match std::fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return T::default(),
            Err(error) => {
                tracing::warn!(file = %self.path.display(), %error, "what was kept cannot be read");
                return T::default();
            }
        };
        serde_json::from_slice(&bytes).unwrap_or_else(|error| {
            tracing::warn!(file = %self.path.display(), %error, "what was kept cannot be used");
            T::default()
        })
    }

    /// Keeps `value`, in one step that a power cut does not halve.
    ///
    /// # Errors
    /// When the file cannot be written; the old one stands.
    pub fn store<T: Serialize>(&self, value: &T) -> io::Result<()> {
        let folder = self.path.parent().unwrap_or(&self.path);
        std::fs::create_dir_all(folder)?;
        let new = self.path.with_extension("new");
        let mut file = std::fs::File::create(&new)?;
        io::Write::write_all(&mut file, &serde_json::to_vec_pretty(value)?)?;
        file.sync_data()?;
        std::fs::rename(&new, &self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use control::config::Surroundings;
    use std::time::Duration;

    fn config(text: &str) -> Config {
        let surroundings = Surroundings {
            home: None,
            uid: 1,
            gid: 1,
            machine: None,
            drives: Default::default(),
        };
        Config::parse(text, Path::new("c.toml"), &surroundings).unwrap()
    }

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn lease(name: &str, until: Option<u64>) -> Fact {
        Fact {
            name: name.parse().unwrap(),
            below: false,
            address: "10.0.0.1".parse().unwrap(),
            from: Source::Lease {
                source: lan(),
                client: "m".to_owned(),
            },
            since: None,
            until: until.map(at),
        }
    }

    fn lan() -> SourceName {
        "lan".parse().unwrap()
    }

    fn netd() -> SourceName {
        "netd".parse().unwrap()
    }

    fn reading(facts: &[Fact]) -> Reading {
        Reading {
            facts: facts.to_vec(),
            skipped: 0,
        }
    }

    const LAN: &str =
        "[hosts.source]\nlan = { type = \"dnsmasq\", path = \"/l\", keep = \"10m\" }\n";

    #[test]
    fn names_of_a_source_that_is_away_end_when_it_has_been_for_too_long() {
        let config = config(LAN);
        let mut book = Book::default();
        book.follow(&config, at(0));
        let facts = [lease("a.test", None), lease("b.test", Some(200))];
        assert_eq!(book.hear(&lan(), reading(&facts), at(10)), Change::Facts);
        assert_eq!(book.hear(&lan(), reading(&facts), at(20)), Change::Nothing);
        let ends = |book: &Book| -> Vec<Option<SystemTime>> {
            book.facts(&config).iter().map(|fact| fact.until).collect()
        };
        assert_eq!(ends(&book), [None, Some(at(200))]);

        assert_eq!(book.lose(&lan(), "gone".to_owned(), at(100)), Change::Reach);
        assert_eq!(
            book.lose(&lan(), "gone".to_owned(), at(105)),
            Change::Nothing
        );
        // Ten minutes after it went, not after the last try.
        assert_eq!(ends(&book), [Some(at(700)), Some(at(200))]);
        let status = &book.status(&config)[0];
        let times = (status.away_since.clone(), status.until.clone());
        assert_eq!(times, (Some(timestamp(at(100))), Some(timestamp(at(700)))));
        assert_eq!(status.reason.as_deref(), Some("gone"));

        // A restart does not make them younger, nor is the time away forgotten.
        let mut again: Book = serde_json::from_str(&serde_json::to_string(&book).unwrap()).unwrap();
        again.restarted(at(300));
        again.follow(&config, at(300));
        assert_eq!(ends(&again), ends(&book));
        assert_eq!(again.hear(&lan(), reading(&facts), at(310)), Change::Reach);
        assert_eq!(ends(&again), [None, Some(at(200))]);
        assert_eq!(
            again.facts(&config)[0].since,
            Some(at(10)),
            "as old as it is"
        );
    }

    #[test]
    fn a_claim_is_as_old_as_it_has_been_made_without_a_break() {
        let config = config(LAN);
        let mut book = Book::default();
        book.follow(&config, at(0));
        let since = |book: &Book| book.facts(&config)[0].since;
        let mut told = lease("a.test", Some(500));
        told.since = Some(at(5));
        book.hear(&lan(), reading(&[told.clone()]), at(10));
        assert_eq!(since(&book), Some(at(5)), "as the source says");
        told.since = Some(at(50));
        told.until = Some(at(900));
        book.hear(&lan(), reading(&[told.clone()]), at(60));
        assert_eq!(since(&book), Some(at(5)), "renewed");
        book.hear(&lan(), reading(&[]), at(70));
        told.since = Some(at(9_999));
        book.hear(&lan(), reading(&[told]), at(80));
        assert_eq!(
            since(&book),
            Some(at(80)),
            "no source is ahead of the clock"
        );
    }

    #[test]
    fn sources_that_left_the_configuration_are_forgotten_and_strangers_with_them() {
        let with_guests = config("[guest.dev]\n[guest.web]\n");
        let mut book = Book::default();
        book.follow(&with_guests, at(0));
        let facts = super::super::config::guest_facts(&with_guests);
        book.hear(&netd(), reading(&facts), at(1));
        assert!(book.is_followed(&netd()) && book.facts(&with_guests)[0].since.is_none());
        // While netd is there it knows better.
        let fewer = config("[guest.web]\n");
        book.follow(&fewer, at(2));
        assert_eq!(book.facts(&fewer).len(), 2);
        book.lose(&netd(), "gone".to_owned(), at(3));
        book.follow(&fewer, at(4));
        assert_eq!(book.facts(&fewer)[0].name.as_str(), "web.test");
        // netd's names stand for ever.
        assert_eq!(book.facts(&fewer)[0].until, None);
        let off = config("[guest.web]\n[hosts.source]\nnetd = { enabled = false }\n");
        book.follow(&off, at(5));
        assert_eq!(book.facts(&off), []);
        assert_eq!(book.hear(&netd(), reading(&facts), at(6)), Change::Nothing);
        assert_eq!(book.lose(&netd(), "x".to_owned(), at(6)), Change::Nothing);
    }

    #[test]
    fn a_shelf_keeps_values_and_a_broken_one_is_empty() {
        let folder = tempfile::tempdir().unwrap();
        let shelf = Shelf::new(&folder.path().join("hosts"), "known.json");
        assert_eq!(shelf.load::<Book>(), Book::default());
        let config = config(LAN);
        let mut book = Book::default();
        book.follow(&config, at(0));
        book.hear(&lan(), reading(&[lease("a.test", Some(7))]), at(1));
        shelf.store(&book).unwrap();
        assert_eq!(shelf.load::<Book>().facts(&config), book.facts(&config));
        std::fs::write(&shelf.path, "[{").unwrap();
        assert_eq!(shelf.load::<Book>(), Book::default());
    }
}
