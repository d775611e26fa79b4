//! Why a claim won nothing, in the user's words, and what would change it. Pure.

use std::cmp::Ordering;
use std::fmt;

use control::names::HostName;

use super::{Claim, Fact, Rules, Source};

/// Why a claim won nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// Another claim comes first.
    Taken {
        /// The winner.
        by: Claim,
        /// What decided.
        because: Because,
    },
    /// The name is the machine's own.
    Reserved,
    /// The name is not below its source's suffix.
    Outside {
        /// What it would have to be below.
        suffix: HostName,
    },
    /// Its time is over.
    Expired,
}

/// What decided between two claims.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Because {
    /// The winner is what the user wrote, or added.
    User,
    /// The winner's source has the larger priority.
    Priority {
        /// The winner's.
        winner: u16,
        /// The loser's.
        loser: u16,
    },
    /// The winner's claim is newer.
    Newer,
    /// The winner's claim lasts longer.
    Longer,
    /// Nothing that could be told apart but their names.
    Order,
}

impl Because {
    pub(super) fn between(winner: &Fact, loser: &Fact, rules: &Rules) -> Self {
        match (rules.priority(&winner.from), rules.priority(&loser.from)) {
            (None, _) | (_, None) => Self::User,
            (Some(winner), Some(loser)) if winner != loser => Self::Priority { winner, loser },
            _ => match winner.since.cmp(&loser.since) {
                Ordering::Greater => Self::Newer,
                Ordering::Equal | Ordering::Less if winner.until != loser.until => Self::Longer,
                Ordering::Equal | Ordering::Less => Self::Order,
            },
        }
    }
}

impl fmt::Display for Because {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User => f.write_str("what you wrote comes first"),
            Self::Priority { winner, loser } => {
                write!(f, "its priority {winner} is above {loser}")
            }
            Self::Newer => f.write_str("its claim is newer"),
            Self::Longer => f.write_str("its claim lasts longer"),
            Self::Order => f.write_str("it comes first by name"),
        }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Taken { by, because } => {
                write!(f, "{} has it ({}): {because}", by.from, by.address)
            }
            Self::Reserved => f.write_str("the name belongs to this machine"),
            Self::Outside { suffix } => write!(f, "the name is not below {suffix}"),
            Self::Expired => f.write_str("its time is over"),
        }
    }
}

impl Why {
    /// What would give `fact` its name; none where nothing is amiss.
    #[must_use]
    pub fn hint(&self, fact: &Fact) -> Option<String> {
        let star = if fact.below { "*." } else { "" };
        let name = format!("{star}{}", fact.name);
        match self {
            Self::Taken { by, .. } if by.address == fact.address => None,
            Self::Taken { by, because } => Some(match because {
                Because::User => format!("sharectl host rm '{name}'"),
                Because::Priority { winner, .. } => match place_of(&fact.from) {
                    Some(place) => {
                        format!(
                            "priority = {} or more for {place}",
                            winner.saturating_add(1)
                        )
                    }
                    None => format!("sharectl host rm '{name}'"),
                },
                Because::Newer | Because::Longer | Because::Order => {
                    match (place_of(&fact.from), place_of(&by.from)) {
                        (Some(ours), Some(theirs)) if ours != theirs => {
                            format!("a larger priority for {ours}, or another name for one of them")
                        }
                        _ => "another name for one of them".to_owned(),
                    }
                }
            }),
            Self::Reserved => Some("another name, such as one under .test".to_owned()),
            Self::Outside { .. } => Some(match place_of(&fact.from) {
                Some(place) => format!(
                    "another suffix for {place}, or: sharectl host add '{name}' {}",
                    fact.address
                ),
                None => format!("sharectl host add '{name}' {}", fact.address),
            }),
            Self::Expired => None,
        }
    }
}

/// Where the configuration speaks of a source.
fn place_of(from: &Source) -> Option<String> {
    match from {
        Source::Static | Source::Added => None,
        Source::Guest { .. } => Some("netd in [hosts.source]".to_owned()),
        Source::Lease { source, .. } | Source::Container { source, .. } => {
            Some(format!("{source} in [hosts.source]"))
        }
    }
}
