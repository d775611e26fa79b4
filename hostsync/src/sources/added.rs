//! Names that somebody added for a time. Pure but for the [`Shelf`] that keeps them.
//!
//! They live in the state folder, not in the configuration: they end by themselves, and no
//! program writes into a file of the user's at a time that the user did not choose.

use std::time::{Duration, SystemTime};

use control::api::{EndedName, NewName};
use control::config::Config;
use control::failure::{Failure, FailureKind};
use control::names::HostName;
use serde::{Deserialize, Serialize};

use super::book::Shelf;
use crate::table::{Fact, Reserved, Source};

/// Names at a time.
const MOST_NAMES: usize = 4096;
/// A name for longer belongs into the configuration.
const LONGEST: Duration = Duration::from_secs(365 * 86_400);

/// The names added, until they end.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Added {
    facts: Vec<Fact>,
}

impl Added {
    /// The shelf in `folder` that keeps them.
    #[must_use]
    pub fn shelf(folder: &std::path::Path) -> Shelf {
        Shelf::new(folder, "added.json")
    }

    /// As facts.
    #[must_use]
    pub fn facts(&self) -> &[Fact] {
        &self.facts
    }

    /// Forgets those whose time is over; whether there were any.
    pub fn tidy(&mut self, now: SystemTime) -> bool {
        let before = self.facts.len();
        self.facts
            .retain(|fact| fact.until.is_some_and(|until| until > now));
        before != self.facts.len()
    }

    /// Adds a name, or gives one that was added another address and time.
    ///
    /// # Errors
    /// When the name is the machine's or the configuration's, or the time is none.
    pub fn add(
        &mut self,
        new: NewName,
        (config, reserved): (&Config, &Reserved),
        now: SystemTime,
    ) -> Result<(), Failure> {
        let NewName {
            name,
            wildcard,
            address,
            seconds,
        } = new;
        let star = if wildcard { "*." } else { "" };
        if reserved.holds(&name) {
            return Err(
                Failure::invalid(format!("the name {name} belongs to this machine"))
                    .with_hint("choose another, e.g. one under .test"),
            );
        }
        let fixed = if wildcard {
            &config.hosts.wildcards
        } else {
            &config.hosts.entries
        };
        if let Some(address) = fixed.get(&name) {
            return Err(Failure::new(
                FailureKind::Conflict,
                format!("{star}{name} is {address} already"),
            )
            .with_hint(format!(
                "take it away first: sharectl host rm '{star}{name}'"
            )));
        }
        let time = Duration::from_secs(seconds);
        let until = now
            .checked_add(time)
            .filter(|_| !time.is_zero() && time <= LONGEST);
        let Some(until) = until else {
            return Err(
                Failure::invalid(format!("{seconds} s is no time that a name can last"))
                    .with_hint("from 1 second to 365 days; without --for it lasts"),
            );
        };
        self.tidy(now);
        let known = self.find(&name, wildcard);
        if known.is_none() && self.facts.len() >= MOST_NAMES {
            return Err(Failure::new(
                FailureKind::Conflict,
                format!("{MOST_NAMES} names were added for a time already"),
            )
            .with_hint("sharectl host rm NAME, or wait until one ends"));
        }
        let fact = Fact {
            name,
            below: wildcard,
            address,
            from: Source::Added,
            since: Some(now),
            until: Some(until),
        };
        match known.and_then(|at| self.facts.get_mut(at)) {
            Some(old) => *old = fact,
            None => self.facts.push(fact),
        }
        Ok(())
    }

    /// Ends a name before its time.
    ///
    /// # Errors
    /// When it was not added, or has ended.
    pub fn end(&mut self, ended: &EndedName, now: SystemTime) -> Result<(), Failure> {
        self.tidy(now);
        match self.find(&ended.name, ended.wildcard) {
            Some(at) => {
                self.facts.remove(at);
                Ok(())
            }
            None => {
                let star = if ended.wildcard { "*." } else { "" };
                let message = format!("{star}{} was not added for a time", ended.name);
                Err(Failure::new(FailureKind::NotFound, message).with_hint("sharectl host ls"))
            }
        }
    }

    fn find(&self, name: &HostName, below: bool) -> Option<usize> {
        self.facts
            .iter()
            .position(|fact| fact.name == *name && fact.below == below)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use control::config::Surroundings;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn new(name: &str, seconds: u64) -> NewName {
        let (name, wildcard) = match name.strip_prefix("*.") {
            Some(name) => (name, true),
            None => (name, false),
        };
        NewName {
            name: name.parse().unwrap(),
            wildcard,
            address: "127.0.0.1".parse().unwrap(),
            seconds,
        }
    }

    #[test]
    fn names_are_added_prolonged_ended_and_forgotten_in_time() {
        let text = "[hosts.static]\n\"db.test\" = \"10.1.2.3\"\n\"*.x.test\" = \"10.1.2.3\"\n";
        let config =
            Config::parse(text, std::path::Path::new("c"), &Surroundings::of_process()).unwrap();
        let reserved = Reserved::for_machine("box");
        let around = (&config, &reserved);
        let mut added = Added::default();
        for (name, seconds, kind) in [
            ("db.test", 5, FailureKind::Conflict),
            ("*.x.test", 5, FailureKind::Conflict),
            ("localhost", 5, FailureKind::Invalid),
            ("box", 5, FailureKind::Invalid),
            ("a.test", 0, FailureKind::Invalid),
            ("a.test", u64::MAX, FailureKind::Invalid),
        ] {
            let refused = added.add(new(name, seconds), around, at(0)).unwrap_err();
            assert_eq!(refused.kind, kind, "{name}");
            assert!(refused.hint.is_some(), "{name}");
        }
        added.add(new("a.test", 60), around, at(0)).unwrap();
        added.add(new("*.a.test", 90), around, at(0)).unwrap();
        added.add(new("a.test", 120), around, at(30)).unwrap();
        let ends: Vec<_> = added.facts().iter().map(|fact| fact.until).collect();
        assert_eq!(ends, [Some(at(150)), Some(at(90))]);
        assert!(!added.tidy(at(89)) && added.tidy(at(90)));
        let ended = |name: &str| EndedName {
            name: name.parse().unwrap(),
            wildcard: false,
        };
        added.end(&ended("a.test"), at(100)).unwrap();
        assert_eq!(
            added.end(&ended("a.test"), at(100)).unwrap_err().kind,
            FailureKind::NotFound
        );
        for number in 0..MOST_NAMES {
            added
                .add(new(&format!("n{number}.test"), 9), around, at(200))
                .unwrap();
        }
        let full = added.add(new("one.test", 9), around, at(200)).unwrap_err();
        assert_eq!(full.kind, FailureKind::Conflict);
        added.add(new("n0.test", 9), around, at(200)).unwrap();
        added.add(new("one.test", 9), around, at(209)).unwrap();
        assert_eq!(added.facts().len(), 1);
    }
}
