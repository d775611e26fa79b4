//! Facts about names -> the names that shall stand in the hosts files. Pure.
//!
//! The rule, in full. A name has one address. It goes to the first claim in
//! this order: the configuration's static entries; then guests, by guest name
//! in byte order, then by network name; then the lower address. Whoever comes
//! later loses and is kept with the reason, so that `host ls` can say it.
//! Names that belong to the machine itself are given to nobody ([`Reserved`]).
//!
//! This file knows no file, no clock and no source: facts and `now` come in.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::time::SystemTime;

use control::names::{GuestName, HostName, NetworkName};
use serde::{Deserialize, Serialize};

/// Who says that a name has an address. The order is the order of precedence.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// `[hosts.static]` in the configuration.
    Static,
    /// A guest of a network.
    Guest {
        /// Its name in the configuration or, for others, the one netd gave it.
        guest: GuestName,
        /// The network it is on.
        network: NetworkName,
    },
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Static => f.write_str("static"),
            Self::Guest { guest, network } => write!(f, "guest {guest} on {network}"),
        }
    }
}

/// One source's claim to one name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fact {
    /// The name claimed.
    pub name: HostName,
    /// The address it shall have.
    pub address: IpAddr,
    /// Who claims it.
    pub from: Source,
    /// When the claim ends; `None` stands until it is taken back.
    pub until: Option<SystemTime>,
}

/// Names that no source may have, whatever it claims.
#[derive(Debug, Clone, Default)]
pub struct Reserved {
    machine: Vec<HostName>,
}

/// What Debian, Red Hat and macOS put in their hosts files for the machine itself.
const EVERY_MACHINE: [&str; 7] = [
    "localhost",
    "localhost.localdomain",
    "localhost4",
    "localhost4.localdomain4",
    "localhost6",
    "localhost6.localdomain6",
    "broadcasthost",
];

impl Reserved {
    /// Reserves the machine's own name, whole and its first label, beside the usual ones.
    /// A name that is no valid host name cannot be claimed, so it needs no reserving.
    #[must_use]
    pub fn for_machine(node_name: &str) -> Self {
        let first_label = node_name.split('.').next().unwrap_or_default();
        Self {
            machine: [node_name, first_label]
                .into_iter()
                .filter_map(|name| HostName::parse(name).ok())
                .collect(),
        }
    }

    /// Whether `name` is given to nobody.
    #[must_use]
    pub fn holds(&self, name: &HostName) -> bool {
        let text = name.as_str();
        EVERY_MACHINE.contains(&text)
            // RFC 6761 section 6.3: everything below localhost is loopback.
            || text.ends_with(".localhost")
            || text.starts_with("ip6-")
            || self.machine.contains(name)
    }
}

/// The claim that won a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The name's address.
    pub address: IpAddr,
    /// Who claimed it.
    pub from: Source,
}

/// A claim that won nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lost {
    /// The claim.
    pub fact: Fact,
    /// Why it stands nowhere.
    pub why: Why,
}

/// Why a claim won nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// Another source comes first.
    Taken {
        /// The winner.
        by: Claim,
    },
    /// The name is the machine's own.
    Reserved,
    /// Its time is over.
    Expired,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Taken { by } => write!(f, "{} has it ({})", by.from, by.address),
            Self::Reserved => f.write_str("the name belongs to this machine"),
            Self::Expired => f.write_str("its time is over"),
        }
    }
}

/// The outcome for every fact.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table {
    /// The names that shall stand, each once.
    pub wanted: BTreeMap<HostName, Claim>,
    /// The claims that won nothing, in order of name and precedence.
    pub lost: Vec<Lost>,
    /// When the table must be made anew because a winner's time is over.
    pub valid_until: Option<SystemTime>,
}

/// Applies the rule above. The order of `facts` does not matter, nor do repeats.
#[must_use]
pub fn decide(facts: &[Fact], reserved: &Reserved, now: SystemTime) -> Table {
    let mut ordered: Vec<&Fact> = facts.iter().collect();
    // Of two equal claims the longer one stands: `None` is for ever.
    ordered.sort_by_key(|fact| {
        let ends = fact
            .until
            .map_or((0, None), |until| (1, Some(std::cmp::Reverse(until))));
        (&fact.name, &fact.from, fact.address, ends)
    });
    ordered.dedup_by(|later, first| {
        later.name == first.name && later.from == first.from && later.address == first.address
    });

    let mut table = Table::default();
    for fact in ordered {
        let why = if reserved.holds(&fact.name) {
            Some(Why::Reserved)
        } else if fact.until.is_some_and(|until| until <= now) {
            Some(Why::Expired)
        } else {
            table
                .wanted
                .get(&fact.name)
                .map(|winner| Why::Taken { by: winner.clone() })
        };
        if let Some(why) = why {
            table.lost.push(Lost {
                fact: fact.clone(),
                why,
            });
            continue;
        }
        table.valid_until = match (table.valid_until, fact.until) {
            (Some(first), Some(second)) => Some(first.min(second)),
            (first, second) => first.or(second),
        };
        let claim = Claim {
            address: fact.address,
            from: fact.from.clone(),
        };
        table.wanted.insert(fact.name.clone(), claim);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn fact(name: &str, address: &str, guest: &str) -> Fact {
        let from = if guest.is_empty() {
            Source::Static
        } else {
            Source::Guest {
                guest: GuestName::parse(guest).unwrap(),
                network: NetworkName::parse("vmnet8").unwrap(),
            }
        };
        Fact {
            name: HostName::parse(name).unwrap(),
            address: address.parse().unwrap(),
            from,
            until: None,
        }
    }

    fn check(facts: &[Fact], wanted: &[(&str, &str)], lost: &[&str]) {
        let table = decide(facts, &Reserved::for_machine("box.lan"), at(100));
        let names: Vec<(&str, String)> = table
            .wanted
            .iter()
            .map(|(name, claim)| (name.as_str(), claim.address.to_string()))
            .collect();
        let names: Vec<(&str, &str)> = names
            .iter()
            .map(|(name, address)| (*name, address.as_str()))
            .collect();
        assert_eq!(names, wanted);
        let reasons: Vec<String> = table
            .lost
            .iter()
            .map(|lost| format!("{} {}: {}", lost.fact.name, lost.fact.address, lost.why))
            .collect();
        assert_eq!(reasons, lost);
    }

    #[test]
    fn static_entry_comes_before_a_guest() {
        check(
            &[
                fact("local.test", "127.64.0.1", "aa"),
                fact("local.test", "10.0.0.9", ""),
            ],
            &[("local.test", "10.0.0.9")],
            &["local.test 127.64.0.1: static has it (10.0.0.9)"],
        );
    }

    #[test]
    fn first_guest_by_name_keeps_a_contested_name() {
        check(
            &[
                fact("local.test", "127.64.0.2", "web"),
                fact("local.test", "127.64.0.1", "dev"),
            ],
            &[("local.test", "127.64.0.1")],
            &["local.test 127.64.0.2: guest dev on vmnet8 has it (127.64.0.1)"],
        );
    }

    #[test]
    fn the_machines_own_names_are_given_to_nobody() {
        let own = "the name belongs to this machine";
        let mut lost = Vec::new();
        let mut facts = Vec::new();
        for name in [
            "a.localhost",
            "box",
            "box.lan",
            "broadcasthost",
            "ip6-allnodes",
            "localhost",
            "localhost.localdomain",
        ] {
            facts.push(fact(name, "127.64.0.1", "dev"));
            lost.push(format!("{name} 127.64.0.1: {own}"));
        }
        let lost: Vec<&str> = lost.iter().map(String::as_str).collect();
        check(&facts, &[], &lost);
    }

    #[test]
    fn an_expired_claim_frees_the_name_for_the_next() {
        let mut old = fact("a.test", "127.64.0.1", "dev");
        old.until = Some(at(100));
        let mut young = fact("a.test", "127.64.0.2", "web");
        young.until = Some(at(101));
        let facts = [old, young];
        check(
            &facts,
            &[("a.test", "127.64.0.2")],
            &["a.test 127.64.0.1: its time is over"],
        );
        let table = decide(&facts, &Reserved::default(), at(0));
        assert_eq!(table.valid_until, Some(at(100)));
    }

    proptest! {
        #[test]
        fn order_and_repeats_do_not_matter_and_every_fact_is_accounted_for(
            picks in proptest::collection::vec((0usize..6, 0u8..4, 0usize..4, proptest::option::of(90u64..120)), 0..30),
            turn in 0usize..30,
        ) {
            let names = ["a.test", "b.test", "localhost", "box", "c.test", "d.example"];
            let guests = ["", "alpha", "beta", "gamma"];
            let facts: Vec<Fact> = picks
                .iter()
                .map(|(name, last, guest, until)| {
                    let mut one = fact(names[*name], &format!("127.64.0.{last}"), guests[*guest]);
                    one.until = until.map(at);
                    one
                })
                .collect();
            let reserved = Reserved::for_machine("box");
            let table = decide(&facts, &reserved, at(100));

            let mut turned = facts.clone();
            turned.rotate_left(if facts.is_empty() { 0 } else { turn % facts.len() });
            turned.extend(facts.iter().take(3).cloned());
            prop_assert_eq!(&table, &decide(&turned, &reserved, at(100)));

            for fact in &facts {
                let won = table.wanted.get(&fact.name).is_some_and(|claim| claim.from == fact.from && claim.address == fact.address);
                let lost = table.lost.iter().any(|lost| lost.fact.name == fact.name && lost.fact.from == fact.from && lost.fact.address == fact.address);
                prop_assert!(won != lost, "{:?} neither won nor lost, or both", fact);
                if !reserved.holds(&fact.name) && fact.until.is_none_or(|until| until > at(100)) {
                    let winner = &table.wanted[&fact.name];
                    prop_assert!(winner.from <= fact.from);
                }
            }
            prop_assert!(table.wanted.keys().all(|name| !reserved.holds(name)));
        }
    }
}
