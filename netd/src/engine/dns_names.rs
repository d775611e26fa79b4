//! A table of names in wire form, lower case: what stands behind each, who says so, and the way back from
//! addresses. The first to claim a name or an address keeps it, so callers add what goes first, first. Pure.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use control::names::{GuestName, HostName};

use crate::wire::dns::{NAME_LIMIT, encode_name};

/// A name in wire form, final zero included, lower case.
pub type WireName = Box<[u8]>;

/// More addresses of one name would not help anybody, and an answer's counts are bytes.
const ADDRESS_LIMIT: usize = 32;

/// Who says what a name means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The network itself: host.internal, gateway.internal.
    Network,
    /// The configuration's guests.
    Guest(GuestName),
    /// A name that a guest gave itself by DHCP.
    Lease,
    /// `[network.X.records]`.
    Record,
    /// Added over the control socket, until the daemon ends.
    Added,
    /// The host's hosts file.
    HostsFile,
    /// Nobody's: our domain and what standards reserve.
    Reserved,
}

/// What stands behind a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Its addresses; a family may be missing.
    Addresses {
        /// A.
        v4: Vec<Ipv4Addr>,
        /// AAAA.
        v6: Vec<Ipv6Addr>,
    },
    /// Another name.
    Alias(WireName),
}

impl Target {
    /// These addresses, in order.
    pub fn addresses(addresses: impl IntoIterator<Item = IpAddr>) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for address in addresses {
            match address {
                IpAddr::V4(address) => v4.push(address),
                IpAddr::V6(address) => v6.push(address),
            }
        }
        v4.truncate(ADDRESS_LIMIT);
        v6.truncate(ADDRESS_LIMIT);
        Self::Addresses { v4, v6 }
    }

    /// A name, as target.
    #[must_use]
    pub fn alias(name: &HostName) -> Self {
        Self::Alias(encode_name(name).into())
    }
}

/// A name's target and its source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What it means.
    pub target: Target,
    /// Who says so.
    pub source: Source,
}

/// One layer of names.
#[derive(Clone, Debug, Default)]
pub struct NameTable {
    exact: HashMap<WireName, Entry>,
    /// Every name below the key.
    below: HashMap<WireName, Entry>,
    reverse: HashMap<IpAddr, WireName>,
    /// Domains that have nothing but what this table names.
    zones: HashSet<WireName>,
    /// Names without a record of their own, but with others below them (RFC 8020).
    parents: HashSet<WireName>,
}

impl NameTable {
    /// A name, unless it is taken. Addresses of the same source join those that are there.
    pub fn add(&mut self, name: &HostName, entry: Entry) {
        let wire: WireName = encode_name(name).into();
        self.parents.extend(parents(&wire).map(WireName::from));
        let Some(known) = self.exact.get_mut(&wire) else {
            self.exact.insert(wire, entry);
            return;
        };
        if let (
            true,
            Target::Addresses { v4, v6 },
            Target::Addresses {
                v4: more4,
                v6: more6,
            },
        ) = (
            known.source == entry.source && entry.source == Source::HostsFile,
            &mut known.target,
            &entry.target,
        ) {
            join(v4, more4);
            join(v6, more6);
        }
    }

    /// Every name below `name`, unless that is taken.
    pub fn add_below(&mut self, name: &HostName, entry: Entry) {
        self.below.entry(encode_name(name).into()).or_insert(entry);
    }

    /// What an address is called, unless it has a name.
    pub fn call(&mut self, address: IpAddr, name: &HostName) {
        self.reverse
            .entry(address)
            .or_insert_with(|| encode_name(name).into());
    }

    /// Whatever this table does not name below `name` does not exist.
    pub fn own(&mut self, name: &HostName) {
        self.zones.insert(encode_name(name).into());
    }

    /// A name without a record of its own that is there all the same.
    pub fn add_parent(&mut self, name: &HostName) {
        self.parents.insert(encode_name(name).into());
    }

    /// What stands behind exactly this name.
    #[must_use]
    pub fn find(&self, name: &[u8]) -> Option<&Entry> {
        self.exact.get(name)
    }

    /// What stands behind every name below one of this name's parents, the nearest first.
    #[must_use]
    pub fn find_below(&self, name: &[u8]) -> Option<&Entry> {
        if self.below.is_empty() {
            return None;
        }
        parents(name).find_map(|parent| self.below.get(parent))
    }

    /// What an address is called.
    #[must_use]
    pub fn name_of(&self, address: IpAddr) -> Option<&[u8]> {
        self.reverse.get(&address).map(|name| &**name)
    }

    /// Where the domain starts that this table owns and that the name is, or lies below.
    #[must_use]
    pub fn zone_of(&self, name: &[u8]) -> Option<usize> {
        if self.zones.is_empty() {
            return None;
        }
        label_offsets(name).find(|at| {
            name.get(*at..)
                .is_some_and(|zone| self.zones.contains(zone))
        })
    }

    /// Whether there are names below this one.
    #[must_use]
    pub fn is_parent(&self, name: &[u8]) -> bool {
        self.parents.contains(name)
    }

    /// Names in it.
    #[must_use]
    pub fn len(&self) -> usize {
        self.exact.len() + self.below.len()
    }

    /// Whether it names nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

fn join<T: Copy + PartialEq>(known: &mut Vec<T>, more: &[T]) {
    for address in more {
        if known.len() < ADDRESS_LIMIT && !known.contains(address) {
            known.push(*address);
        }
    }
}

/// Where each label of a wire-form name starts.
pub fn label_offsets(name: &[u8]) -> impl Iterator<Item = usize> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let start = at;
        let length = usize::from(*name.get(start)?);
        at += 1 + length;
        (length != 0).then_some(start)
    })
}

/// The names above this one, nearest first, without the root.
pub fn parents(name: &[u8]) -> impl Iterator<Item = &[u8]> {
    label_offsets(name).skip(1).filter_map(|at| name.get(at..))
}

/// Where `domain` starts in a name that is the domain or lies below it.
#[must_use]
pub fn inside(name: &[u8], domain: &[u8]) -> Option<usize> {
    let start = name.len().checked_sub(domain.len())?;
    let ends_so = name.get(start..) == Some(domain);
    (ends_so && label_offsets(name).any(|at| at == start)).then_some(start)
}

/// The name in lower case, in `buffer`. Label lengths are below 64, no letters: folding the whole is right.
pub fn fold<'b>(name: &[u8], buffer: &'b mut [u8; NAME_LIMIT]) -> Option<&'b [u8]> {
    let folded = buffer.get_mut(..name.len())?;
    folded.copy_from_slice(name);
    folded.make_ascii_lowercase();
    Some(folded)
}
