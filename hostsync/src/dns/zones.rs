//! A table -> what DNS says of it: whose domains are ours, which names are in them. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use control::config::Config;
use control::names::HostName;

use crate::table::Table;

/// Names that one address is answered with when it is asked for its name.
const MOST_NAMES_OF_AN_ADDRESS: usize = 16;

/// What is known of the names of a domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    /// The name has this address.
    Address(IpAddr),
    /// Nothing stands at it, but there are names below it.
    Parent,
    /// There is no such name.
    Nothing,
}

/// Everything that is answered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Zones {
    /// Domains that are ours as a whole, none inside another.
    apexes: BTreeSet<HostName>,
    names: BTreeMap<HostName, IpAddr>,
    below: BTreeMap<HostName, IpAddr>,
    /// Names that have others below them.
    parents: BTreeSet<String>,
    reverse: BTreeMap<IpAddr, Vec<HostName>>,
}

impl Zones {
    /// The domains are those that networks and sources have their names below. A name of the
    /// user's that is in none of them is a domain of its own: nothing beside it is hidden.
    #[must_use]
    pub fn new(table: &Table, config: &Config) -> Self {
        let names = table.wanted.keys().chain(table.below.keys());
        let mut zones = Self {
            apexes: config.host_domains(names),
            ..Self::default()
        };
        for (name, claim) in &table.wanted {
            zones.names.insert(name.clone(), claim.address);
            zones.add_parents(name.as_str());
            let names = zones.reverse.entry(claim.address).or_default();
            if names.len() < MOST_NAMES_OF_AN_ADDRESS {
                names.push(name.clone());
            }
        }
        for (name, claim) in &table.below {
            zones.below.insert(name.clone(), claim.address);
            zones.parents.insert(name.to_string());
            zones.add_parents(name.as_str());
        }
        zones
    }

    fn add_parents(&mut self, name: &str) {
        let mut rest = name;
        while let Some((_, parent)) = rest.split_once('.') {
            // Those above it are there already.
            if !self.parents.insert(parent.to_owned()) {
                return;
            }
            rest = parent;
        }
    }

    /// The domain of ours that a name (lower case, no final dot) is in.
    #[must_use]
    pub fn apex_of(&self, name: &str) -> Option<&HostName> {
        let mut rest = name;
        loop {
            // What is no host name can still be below one.
            if let Ok(key) = HostName::parse(rest)
                && let Some(apex) = self.apexes.get(&key)
            {
                return Some(apex);
            }
            rest = rest.split_once('.')?.1;
        }
    }

    /// What stands at a name. A name of its own comes before a wildcard, and of wildcards the
    /// closest; a wildcard also covers what lies above a deeper name, as netd's do.
    #[must_use]
    pub fn find(&self, name: &str) -> Known {
        if let Ok(key) = HostName::parse(name)
            && let Some(address) = self.names.get(&key)
        {
            return Known::Address(*address);
        }
        let mut rest = name;
        while let Some((_, parent)) = rest.split_once('.') {
            if let Ok(key) = HostName::parse(parent)
                && let Some(address) = self.below.get(&key)
            {
                return Known::Address(*address);
            }
            rest = parent;
        }
        if self.parents.contains(name) {
            Known::Parent
        } else {
            Known::Nothing
        }
    }

    /// The names of an address; none: it is not ours.
    #[must_use]
    pub fn names_of(&self, address: IpAddr) -> &[HostName] {
        self.reverse.get(&address).map_or(&[], Vec::as_slice)
    }

    /// The domains that are answered for.
    #[must_use]
    pub fn domains(&self) -> Vec<HostName> {
        self.apexes.iter().cloned().collect()
    }
}
