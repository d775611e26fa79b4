//! Facts about names -> the names that shall stand in the hosts files, and in DNS. Pure.
//!
//! The rule, in full. A name has one address; `*.NAME` is a name of its own. Nobody gets a name
//! of the machine itself ([`Reserved`]), a name that is not below its source's suffix, or one
//! whose time is over. A name goes to the first of its claims in this order:
//!
//! 1. what the user said: `[hosts.static]`, then names added for a time; these never lose to a source;
//! 2. the claim whose source has the larger priority;
//! 3. the newer claim: a machine made today takes the name of one that is gone, though its lease
//!    still runs. A claim that is only renewed stays as old as it is, so two machines with one
//!    name do not take it from each other for ever;
//! 4. the claim that lasts longer; then guests by name and network, leases and containers by
//!    source and by whose they are, all in byte order; then the lower address.
//!
//! Whoever comes later loses and is kept with the reason, so that `host ls` can say it.
//! This file knows no file, no clock and no source: facts, [`Rules`] and `now` come in.

mod why;

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::time::SystemTime;

use control::api::NameOrigin;
use control::names::{GuestName, HostName, NetworkName, SourceName};
use serde::{Deserialize, Serialize};

pub use why::{Because, Why};

/// Who says that a name has an address. The order is the order of precedence among equals.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// `[hosts.static]` in the configuration.
    Static,
    /// Added by request, for a time.
    Added,
    /// A guest of a network.
    Guest {
        /// Its name in the configuration or, for others, the one netd gave it.
        guest: GuestName,
        /// The network it is on.
        network: NetworkName,
    },
    /// A lease that a DHCP server gave.
    Lease {
        /// Where it stands.
        source: SourceName,
        /// The client's Ethernet address: client ids change when a machine is installed anew.
        client: String,
    },
    /// A container that runs.
    Container {
        /// Its engine.
        source: SourceName,
        /// Its name there.
        container: String,
    },
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Static => f.write_str("static"),
            Self::Added => f.write_str("added"),
            Self::Guest { guest, network } => write!(f, "guest {guest} on {network}"),
            Self::Lease { source, client } => write!(f, "{source}: {client}"),
            Self::Container { source, container } => write!(f, "{source}: {container}"),
        }
    }
}

impl Source {
    /// As the control protocol has it.
    #[must_use]
    pub fn origin(&self) -> NameOrigin {
        match self.clone() {
            Self::Static => NameOrigin::Static,
            Self::Added => NameOrigin::Added,
            Self::Guest { guest, network } => NameOrigin::Guest { guest, network },
            Self::Lease { source, client } => NameOrigin::Lease { source, client },
            Self::Container { source, container } => NameOrigin::Container { source, container },
        }
    }
}

/// One source's claim to one name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fact {
    /// The name claimed.
    pub name: HostName,
    /// Every name below it is claimed, and not the name itself.
    #[serde(default)]
    pub below: bool,
    /// The address it shall have.
    pub address: IpAddr,
    /// Who claims it.
    pub from: Source,
    /// Since when this is claimed; `None` is longer ago than anything.
    #[serde(default)]
    pub since: Option<SystemTime>,
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

/// What decides between claims, beside the claims themselves.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    /// Names that are given to nobody.
    pub reserved: Reserved,
    /// Guests' place among the sources.
    pub guests: u16,
    /// By source: its place among them, and the domain that its names must be below.
    pub sources: BTreeMap<SourceName, (u16, Option<HostName>)>,
}

impl Rules {
    /// The place of whoever claims; none: the user, before all others.
    #[must_use]
    pub fn priority(&self, from: &Source) -> Option<u16> {
        match from {
            Source::Static | Source::Added => None,
            Source::Guest { .. } => Some(self.guests),
            Source::Lease { source, .. } | Source::Container { source, .. } => {
                Some(self.sources.get(source).map_or(0, |(place, _)| *place))
            }
        }
    }

    /// The domain that a claim is outside of.
    fn outside(&self, fact: &Fact) -> Option<&HostName> {
        let (Source::Lease { source, .. } | Source::Container { source, .. }) = &fact.from else {
            return None;
        };
        let (_, suffix) = self.sources.get(source)?;
        // The suffix itself belongs to no single machine, nor does all that is below it.
        suffix
            .as_ref()
            .filter(|suffix| !fact.name.is_within(suffix) || fact.name == **suffix)
    }
}

/// The claim that won a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The name's address.
    pub address: IpAddr,
    /// Who claimed it.
    pub from: Source,
    /// Since when.
    pub since: Option<SystemTime>,
    /// When it ends.
    pub until: Option<SystemTime>,
}

impl Claim {
    fn of(fact: &Fact) -> Self {
        Self {
            address: fact.address,
            from: fact.from.clone(),
            since: fact.since,
            until: fact.until,
        }
    }

    /// Whether it says the same, if not for the same time.
    #[must_use]
    pub fn agrees(&self, other: &Self) -> bool {
        self.address == other.address && self.from == other.from
    }
}

/// A claim that won nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lost {
    /// The claim.
    pub fact: Fact,
    /// Why it stands nowhere.
    pub why: Why,
}

impl Lost {
    /// What tells it from the others, and does not change with time.
    #[must_use]
    pub fn key(
        &self,
    ) -> (
        &HostName,
        bool,
        &Source,
        IpAddr,
        std::mem::Discriminant<Why>,
    ) {
        let fact = &self.fact;
        let why = std::mem::discriminant(&self.why);
        (&fact.name, fact.below, &fact.from, fact.address, why)
    }
}

/// The outcome for every fact.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table {
    /// The names that shall stand, each once.
    pub wanted: BTreeMap<HostName, Claim>,
    /// The domains whose every name leads somewhere: for DNS.
    pub below: BTreeMap<HostName, Claim>,
    /// The claims that won nothing, in order of name and precedence.
    pub lost: Vec<Lost>,
    /// When the table must be made anew because a winner's time is over.
    pub valid_until: Option<SystemTime>,
}

/// Applies the rule above. The order of `facts` does not matter, nor do repeats.
#[must_use]
pub fn decide(facts: &[Fact], rules: &Rules, now: SystemTime) -> Table {
    let mut ordered = merged(facts);
    // `None` comes first: the user does, and what is for ever.
    let place = |fact: &Fact| rules.priority(&fact.from).map(Reverse);
    let added = |fact: &Fact| fact.from == Source::Added;
    let ends = |fact: &Fact| fact.until.map(Reverse);
    ordered.sort_by(|one, other| {
        (&one.name, one.below)
            .cmp(&(&other.name, other.below))
            .then_with(|| place(one).cmp(&place(other)))
            .then_with(|| added(one).cmp(&added(other)))
            .then_with(|| other.since.cmp(&one.since))
            .then_with(|| ends(one).cmp(&ends(other)))
            .then_with(|| one.from.cmp(&other.from))
            .then_with(|| one.address.cmp(&other.address))
    });

    let mut table = Table::default();
    let mut first: Option<Fact> = None;
    for fact in ordered {
        let winner = first
            .as_ref()
            .filter(|first| (&first.name, first.below) == (&fact.name, fact.below));
        let why = if rules.reserved.holds(&fact.name) {
            Some(Why::Reserved)
        } else if let Some(suffix) = rules.outside(&fact) {
            Some(Why::Outside {
                suffix: suffix.clone(),
            })
        } else if fact.until.is_some_and(|until| until <= now) {
            Some(Why::Expired)
        } else {
            winner.map(|winner| Why::Taken {
                by: Claim::of(winner),
                because: Because::between(winner, &fact, rules),
            })
        };
        if let Some(why) = why {
            table.lost.push(Lost { fact, why });
            continue;
        }
        table.valid_until = match (table.valid_until, fact.until) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        };
        let names = if fact.below {
            &mut table.below
        } else {
            &mut table.wanted
        };
        names.insert(fact.name.clone(), Claim::of(&fact));
        first = Some(fact);
    }
    table
}

/// Repeats of one claim as one, which is as old as the oldest and lasts as long as the longest.
fn merged(facts: &[Fact]) -> Vec<Fact> {
    let mut claims: BTreeMap<(&HostName, bool, &Source, IpAddr), Fact> = BTreeMap::new();
    for fact in facts {
        let key = (&fact.name, fact.below, &fact.from, fact.address);
        claims
            .entry(key)
            .and_modify(|claim| {
                claim.since = claim.since.min(fact.since);
                claim.until = match (claim.until, fact.until) {
                    (Some(one), Some(other)) => Some(one.max(other)),
                    // For ever.
                    (None, _) | (_, None) => None,
                };
            })
            .or_insert_with(|| fact.clone());
    }
    claims.into_values().collect()
}

#[cfg(test)]
mod tests;
