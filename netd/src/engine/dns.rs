//! What the gateway's name server knows by itself, and which queries it passes on.
//!
//! It is the authority for the network's own domain and for the reverse names of its subnet: what is
//! not there does not exist. Other names that it knows (host.internal, records, the host's own names) are
//! answered, all else is forwarded. A known name without an IPv6 address gets "no such record", never
//! "no such name": some resolvers would take the latter for both families (RFC 4074 section 4.2).
//! No sockets and no cache here; RFC 1035, RFC 2308, RFC 4592 (wildcards; here one also covers what lies
//! above a deeper name), RFC 6303, RFC 8482.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use control::names::HostName;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::engine::dns_names::{
    Entry, NameTable, Source, Target, WireName, fold, inside, label_offsets,
};
use crate::engine::dns_reserved::{Reserved, Reverse, reserved, reverse};
use crate::engine::services::DnsOutcome;
use crate::wire::dns::{
    Answer, BadQuery, NAME_LIMIT, Query, ResponseCode, bare_answer, encode_name, kind,
};

/// Addresses of guests change; a resolver in a guest shall notice soon.
const TTL: u32 = 10;
/// Names that leases bring; the oldest stay, later ones go without a name.
const LEASE_NAME_LIMIT: usize = 16_384;
/// Aliases of aliases; more is a circle.
const ALIAS_LIMIT: usize = 8;

static NETWORK: Source = Source::Network;
static LEASE: Source = Source::Lease;
static RESERVED: Source = Source::Reserved;

/// What a zone is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ZoneSettings {
    /// Guests are NAME.DOMAIN.
    pub domain: HostName,
    /// Guests are NAME.NETWORK.DOMAIN, too.
    pub network: HostName,
    /// The gateway's own name.
    pub server: HostName,
    /// Its reverse names are ours.
    pub subnet: Ipv4Net,
    /// An IPv4 address of the subnet in its low 32 bits is the same guest; none: no IPv6.
    pub prefix: Option<Ipv6Net>,
    /// What a loopback address in the host's hosts file means to a guest.
    pub host_internal: (Ipv4Addr, Option<Ipv6Addr>),
    /// Domains and subnets of our other networks: nothing is known of them here, and nobody is asked.
    pub siblings: (Vec<HostName>, Vec<IpNet>),
    /// Domains that a rule of the configuration gives to others: reserved names among them are passed on.
    pub rules: Vec<HostName>,
    /// Names that are not known here and have no rule are refused, not asked elsewhere: a host-only
    /// network would leak through its resolver (VMware's vmnet1 forwards nothing either).
    pub closed: bool,
}

/// Where an answer comes from.
#[derive(Debug, PartialEq, Eq)]
pub enum Lookup<'z> {
    /// From here.
    Here(Vec<u8>, &'z Source),
    /// It is an alias, written so far, of a name (wire form) that others must be asked for.
    Alias(Answer, &'z [u8], &'z Source),
    /// Others must be asked.
    Elsewhere,
}

/// Whether somebody has the IPv6 side of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ipv6Side {
    /// By DHCPv6.
    Used,
    /// Nobody, as far as is known.
    Unused,
}

/// Whether a rule of the configuration says that others shall be asked.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ruled {
    Yes,
    No,
}

/// The names of one network.
#[derive(Clone, Debug)]
pub struct Zone {
    settings: ZoneSettings,
    domain: WireName,
    network: WireName,
    server: WireName,
    sibling_domains: Vec<WireName>,
    rules: Vec<WireName>,
    /// The configuration's.
    fixed: NameTable,
    /// Added while the daemon runs.
    added: Arc<NameTable>,
    /// The host's own.
    hosts: Arc<NameTable>,
    leased: HashMap<WireName, Ipv4Addr>,
    leased_reverse: HashMap<Ipv4Addr, WireName>,
    /// Addresses whose IPv6 side is in use.
    ipv6_used: HashSet<Ipv4Addr>,
}

impl Zone {
    /// An empty zone.
    #[must_use]
    pub fn new(settings: ZoneSettings) -> Self {
        let wire = |names: &[HostName]| names.iter().map(|name| encode_name(name).into()).collect();
        Self {
            domain: encode_name(&settings.domain).into(),
            network: encode_name(&settings.network).into(),
            server: encode_name(&settings.server).into(),
            sibling_domains: wire(&settings.siblings.0),
            rules: wire(&settings.rules),
            settings,
            fixed: NameTable::default(),
            added: Arc::default(),
            hosts: Arc::default(),
            leased: HashMap::new(),
            leased_reverse: HashMap::new(),
            ipv6_used: HashSet::new(),
        }
    }

    /// Other settings; leases and what was added stay, the configuration's names are to be set anew.
    pub fn reconfigure(&mut self, settings: ZoneSettings) {
        let (added, hosts) = (Arc::clone(&self.added), Arc::clone(&self.hosts));
        let old = std::mem::replace(self, Self::new(settings));
        (self.added, self.hosts) = (added, hosts);
        self.fixed = old.fixed;
        (self.leased, self.leased_reverse) = (old.leased, old.leased_reverse);
        self.ipv6_used = old.ipv6_used;
    }

    /// Replaces the names of the configuration.
    pub fn set_fixed(&mut self, mut names: NameTable) {
        names.add_parent(&self.settings.network);
        self.fixed = names;
    }

    /// Replaces what was added while the daemon runs.
    pub fn set_added(&mut self, names: Arc<NameTable>) {
        self.added = names;
    }

    /// Replaces the host's names.
    pub fn set_hosts(&mut self, names: Arc<NameTable>) {
        self.hosts = names;
    }

    /// The IPv6 address of whoever has this IPv4 address, if it took that too: a guest that configures itself
    /// by router advertisements alone never answers there, and clients try IPv6 first.
    #[must_use]
    pub fn v6_of(&self, address: Ipv4Addr) -> Option<Ipv6Addr> {
        let prefix = self.settings.prefix?;
        self.ipv6_used
            .contains(&address)
            .then(|| in_prefix(prefix, address))
    }

    /// The IPv6 side of an address came into use, or went out of it; `false` if that was known.
    pub fn set_ipv6_used(&mut self, address: Ipv4Addr, side: Ipv6Side) -> bool {
        match side {
            Ipv6Side::Used => self.ipv6_used.insert(address),
            Ipv6Side::Unused => self.ipv6_used.remove(&address),
        }
    }

    /// A lease brings a name below the domain. The configuration's names and earlier leases' come
    /// first; `false` when the name is somebody else's.
    pub fn add_lease(&mut self, label: &HostName, address: Ipv4Addr) -> bool {
        let mut wire = encode_name(label);
        wire.pop();
        wire.extend_from_slice(&self.domain);
        let wire: WireName = wire.into();
        if wire.len() > NAME_LIMIT || self.find_written(&wire).is_some() {
            return false;
        }
        match self.leased.get(&wire) {
            Some(holder) if *holder != address => return false,
            Some(_) => return true,
            None if self.leased.len() >= LEASE_NAME_LIMIT => return false,
            None => {}
        }
        self.remove_lease(address);
        self.leased_reverse.insert(address, wire.clone());
        self.leased.insert(wire, address);
        true
    }

    /// Whether a lease's name stands for this address.
    #[must_use]
    pub fn holds_lease(&self, label: &HostName, address: Ipv4Addr) -> bool {
        let Some(name) = self.leased_reverse.get(&address) else {
            return false;
        };
        let label = encode_name(label);
        let named_so = label
            .split_last()
            .is_some_and(|(_, label)| name.starts_with(label));
        named_so && self.find_written(name).is_none()
    }

    /// The lease of an address ended, or has no name any more.
    pub fn remove_lease(&mut self, address: Ipv4Addr) {
        if let Some(wire) = self.leased_reverse.remove(&address) {
            self.leased.remove(&wire);
        }
    }

    /// Whether a query can be answered here, and the answer; it may be too long for UDP.
    #[must_use]
    pub fn handle(&self, bytes: &[u8]) -> DnsOutcome {
        match Query::decode(bytes) {
            Ok(query) => match self.lookup(&query) {
                Lookup::Here(answer, _) => DnsOutcome::Answer(answer),
                Lookup::Alias(..) | Lookup::Elsewhere => DnsOutcome::Forward,
            },
            Err(BadQuery::Silent) => DnsOutcome::Drop,
            Err(BadQuery::Answer { id, flags, code }) => {
                DnsOutcome::Answer(bare_answer(id, flags, code))
            }
        }
    }

    /// The answer, or where it must come from.
    #[must_use]
    pub fn lookup(&self, query: &Query<'_>) -> Lookup<'_> {
        let refuse = |code| Lookup::Here(query.failure(code), &RESERVED);
        if query.edns.is_some_and(|edns| edns.version != 0) {
            return Lookup::Here(bad_version(query), &RESERVED);
        }
        // Zone transfers and mail types of RFC 973 are nothing that a forwarder passes on.
        if !query.is_internet() || (kind::IXFR..=kind::MAILA).contains(&query.kind) {
            return refuse(ResponseCode::Refused);
        }
        if query.kind == kind::OPT {
            return refuse(ResponseCode::FormatError);
        }
        let mut buffer = [0; NAME_LIMIT];
        let Some(name) = fold(query.name, &mut buffer) else {
            return refuse(ResponseCode::FormatError);
        };
        if let Some(found) = self.lookup_written(query, name) {
            return found;
        }
        if let Some(reverse) = reverse(name)
            && let Some(found) = self.lookup_reverse(query, name, &reverse)
        {
            return found;
        }
        if self.is_ruled(name) {
            return self.pass_on(query, Ruled::Yes);
        }
        if let Some(zone) = self.zone_of(name) {
            return Lookup::Here(self.answer_nothing(query, name, zone), &RESERVED);
        }
        if let Some(found) = self.lookup_bare(query, name) {
            return found;
        }
        match reserved(name) {
            Some(Reserved::Loopback) => {
                let target = Target::addresses([
                    IpAddr::V4(Ipv4Addr::LOCALHOST),
                    IpAddr::V6(Ipv6Addr::LOCALHOST),
                ]);
                let mut answer = query.answer(ResponseCode::NoError, true);
                self.write(&mut answer, query, &target, &RESERVED);
                Lookup::Here(answer.finish(), &RESERVED)
            }
            Some(Reserved::Nothing(zone)) => {
                Lookup::Here(self.answer_nothing(query, name, zone), &RESERVED)
            }
            None => self.pass_on(query, Ruled::No),
        }
    }

    /// Others are asked, but not for everything there is of a name (RFC 8482 section 4.2).
    fn pass_on(&self, query: &Query<'_>, ruled: Ruled) -> Lookup<'_> {
        if self.settings.closed && ruled == Ruled::No {
            return Lookup::Here(query.failure(ResponseCode::Refused), &RESERVED);
        }
        if query.kind != kind::ANY {
            return Lookup::Elsewhere;
        }
        let mut answer = query.answer(ResponseCode::NoError, false);
        answer.other(kind::HINFO, 3_600, b"\x07RFC8482\x00");
        Lookup::Here(answer.finish(), &RESERVED)
    }

    /// What is written somewhere about exactly this name.
    fn find_written(&self, name: &[u8]) -> Option<&Entry> {
        let layers = [&self.fixed, &*self.added, &*self.hosts];
        layers.into_iter().find_map(|layer| layer.find(name))
    }

    fn find_below(&self, name: &[u8]) -> Option<&Entry> {
        self.fixed
            .find_below(name)
            .or_else(|| self.added.find_below(name))
    }

    /// A leased name, as NAME.DOMAIN or NAME.NETWORK.DOMAIN.
    fn find_lease(&self, name: &[u8]) -> Option<Ipv4Addr> {
        if let Some(address) = self.leased.get(name) {
            return Some(*address);
        }
        let start = inside(name, &self.network)?;
        let mut short = name.get(..start)?.to_vec();
        short.extend_from_slice(&self.domain);
        self.leased.get(&*short).copied()
    }

    /// Names that are somebody's, and what aliases lead to.
    fn lookup_written(&self, query: &Query<'_>, name: &[u8]) -> Option<Lookup<'_>> {
        let entry = match self.find_written(name) {
            Some(entry) => entry,
            None => match self.find_lease(name) {
                Some(address) => return Some(self.answer_lease(query, address)),
                None => self.find_below(name)?,
            },
        };
        let source = &entry.source;
        let mut answer = query.answer(ResponseCode::NoError, true);
        let mut target = &entry.target;
        for _ in 0..ALIAS_LIMIT {
            let Target::Alias(next) = target else {
                self.write(&mut answer, query, target, source);
                return Some(Lookup::Here(answer.finish(), source));
            };
            answer.alias(next, TTL);
            if query.kind == kind::CNAME {
                return Some(Lookup::Here(answer.finish(), source));
            }
            if let Some(entry) = self.find_written(next).or_else(|| self.find_below(next)) {
                target = &entry.target;
                continue;
            }
            if let Some(address) = self.find_lease(next) {
                self.write(&mut answer, query, &self.target_of(address), &LEASE);
            } else if self.is_elsewhere(next) {
                if self.settings.closed && !self.is_ruled(next) {
                    return Some(Lookup::Here(query.failure(ResponseCode::Refused), source));
                }
                return Some(Lookup::Alias(answer, next, source));
            } else {
                // RFC 6604 section 3: the code is the last name's.
                answer.set_code(ResponseCode::NoSuchName);
            }
            return Some(Lookup::Here(answer.finish(), source));
        }
        Some(Lookup::Here(
            query.failure(ResponseCode::ServerFailure),
            source,
        ))
    }

    /// Whether others must be asked for a name that is written nowhere.
    fn is_elsewhere(&self, name: &[u8]) -> bool {
        self.is_ruled(name) || (self.zone_of(name).is_none() && reserved(name).is_none())
    }

    /// Whether a rule of the configuration gives the name to others.
    fn is_ruled(&self, name: &[u8]) -> bool {
        self.rules.iter().any(|rule| inside(name, rule).is_some())
    }

    fn target_of(&self, address: Ipv4Addr) -> Target {
        let both = [Some(address.into()), self.v6_of(address).map(IpAddr::from)];
        Target::addresses(both.into_iter().flatten())
    }

    fn answer_lease(&self, query: &Query<'_>, address: Ipv4Addr) -> Lookup<'_> {
        let mut answer = query.answer(ResponseCode::NoError, true);
        self.write(&mut answer, query, &self.target_of(address), &LEASE);
        Lookup::Here(answer.finish(), &LEASE)
    }

    /// A guest by its bare name; other types go on, since the name may be a top-level domain.
    fn lookup_bare(&self, query: &Query<'_>, name: &[u8]) -> Option<Lookup<'_>> {
        if !matches!(query.kind, kind::A | kind::AAAA) || label_offsets(name).count() != 1 {
            return None;
        }
        let mut full = name.get(..name.len() - 1)?.to_vec();
        full.extend_from_slice(&self.domain);
        match self.fixed.find(&full) {
            Some(entry) if matches!(entry.target, Target::Addresses { .. }) => {
                let mut answer = query.answer(ResponseCode::NoError, true);
                self.write(&mut answer, query, &entry.target, &entry.source);
                Some(Lookup::Here(answer.finish(), &entry.source))
            }
            Some(_) => None,
            None => {
                let address = self.leased.get(&*full)?;
                Some(self.answer_lease(query, *address))
            }
        }
    }

    /// The addresses that were asked for, or why there are none.
    fn write(&self, answer: &mut Answer, query: &Query<'_>, target: &Target, source: &Source) {
        let Target::Addresses { v4, v6 } = target else {
            return;
        };
        let (mut any, of_host) = (false, *source == Source::HostsFile);
        let (host4, host6) = self.settings.host_internal;
        if matches!(query.kind, kind::A | kind::ANY) {
            for address in v4 {
                let here = of_host && address.is_loopback();
                answer.address(if here { host4 } else { *address }, TTL);
                any = true;
            }
        }
        if matches!(query.kind, kind::AAAA | kind::ANY) {
            for address in v6 {
                let here = of_host && address.is_loopback();
                if let Some(address) = if here { host6 } else { Some(*address) } {
                    answer.address6(address, TTL);
                    any = true;
                }
            }
        }
        if !any {
            let mut buffer = [0; NAME_LIMIT];
            let zone = fold(query.name, &mut buffer).and_then(|name| self.zone_of(name));
            answer.nothing(zone.unwrap_or(0), &self.server, TTL);
        }
    }

    /// Where the domain starts that we answer for, and that the name is or lies below.
    fn zone_of(&self, name: &[u8]) -> Option<usize> {
        let siblings = || {
            let siblings = &self.sibling_domains;
            siblings.iter().find_map(|domain| inside(name, domain))
        };
        inside(name, &self.domain)
            .or_else(|| self.added.zone_of(name))
            .or_else(siblings)
    }

    /// A name of a domain of ours that nobody has.
    fn answer_nothing(&self, query: &Query<'_>, name: &[u8], zone: usize) -> Vec<u8> {
        let layers = [&self.fixed, &*self.added, &*self.hosts];
        let there = zone == 0 || layers.iter().any(|layer| layer.is_parent(name));
        let code = if there {
            ResponseCode::NoError
        } else {
            ResponseCode::NoSuchName
        };
        let mut answer = query.answer(code, true);
        if query.kind == kind::SOA && zone == 0 {
            answer.start_of_authority(&self.server, TTL);
        } else {
            answer.nothing(zone, &self.server, TTL);
        }
        answer.finish()
    }

    fn lookup_reverse(
        &self,
        query: &Query<'_>,
        name: &[u8],
        reverse: &Reverse,
    ) -> Option<Lookup<'_>> {
        if let Some(address) = reverse.address()
            && let Some((found, source)) = self.name_of(address)
        {
            let mut answer = query.answer(ResponseCode::NoError, true);
            if matches!(query.kind, kind::PTR | kind::ANY) {
                answer.pointer(found, TTL);
            } else {
                answer.nothing(0, &self.server, TTL);
            }
            return Some(Lookup::Here(answer.finish(), source));
        }
        let ours = self.is_ours(&reverse.net);
        if !ours && (self.is_ruled(name) || !reverse.is_nobodys()) {
            return None;
        }
        // Between a subnet and its addresses there are names without records.
        let there = reverse.whole && reverse.address().is_none();
        let code = if there {
            ResponseCode::NoError
        } else {
            ResponseCode::NoSuchName
        };
        let mut answer = query.answer(code, true);
        // The zone starts at the name itself: small, but a zone.
        answer.nothing(0, &self.server, TTL);
        Some(Lookup::Here(answer.finish(), &RESERVED))
    }

    /// Whether a part of the net is one of our networks', or in one.
    fn is_ours(&self, net: &IpNet) -> bool {
        let own = [
            Some(IpNet::V4(self.settings.subnet)),
            self.settings.prefix.map(IpNet::V6),
        ];
        let siblings = self.settings.siblings.1.iter();
        own.iter()
            .flatten()
            .chain(siblings)
            .any(|ours| ours.contains(net))
    }

    /// What an address is called.
    fn name_of(&self, address: IpAddr) -> Option<(&[u8], &Source)> {
        // A guest's IPv6 address is called what its IPv4 address is.
        let v4 = match address {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(address) => self.settings.prefix.and_then(|prefix| {
                let [.., a, b, c, d] = address.octets();
                let v4 = Ipv4Addr::new(a, b, c, d);
                (in_prefix(prefix, v4) == address && self.settings.subnet.contains(&v4))
                    .then_some(v4)
            }),
        };
        let fixed = |address| self.fixed.name_of(address);
        if let Some(name) = fixed(address).or_else(|| v4.and_then(|v4| fixed(v4.into()))) {
            let source = self
                .fixed
                .find(name)
                .map_or(&NETWORK, |entry| &entry.source);
            return Some((name, source));
        }
        if let Some(name) = v4.and_then(|v4| self.leased_reverse.get(&v4)) {
            return Some((name, &LEASE));
        }
        if address.is_loopback() {
            let name: &[u8] = b"\x09localhost\0";
            return is_localhost(address).then_some((name, &RESERVED));
        }
        [
            (&self.added, &Source::Added),
            (&self.hosts, &Source::HostsFile),
        ]
        .into_iter()
        .find_map(|(layer, source)| Some((layer.name_of(address)?, source)))
    }
}

/// 127.0.0.1 and ::1 have a name; the rest of 127.0.0.0/8 has none.
fn is_localhost(address: IpAddr) -> bool {
    address == IpAddr::V4(Ipv4Addr::LOCALHOST) || address == IpAddr::V6(Ipv6Addr::LOCALHOST)
}

/// The address of `prefix` with an IPv4 address in its low 32 bits.
fn in_prefix(prefix: Ipv6Net, address: Ipv4Addr) -> Ipv6Addr {
    let low = u128::from(u32::from(address));
    Ipv6Addr::from(u128::from(prefix.network()) | low)
}

/// RFC 6891 section 6.1.3: extended code 16, its upper bits in the OPT record.
fn bad_version(query: &Query<'_>) -> Vec<u8> {
    let mut bytes = query.failure(ResponseCode::NoError);
    // The OPT record is the last eleven bytes: name, type (2), size (2), then the upper bits.
    if let Some(upper) = bytes.len().checked_sub(6).and_then(|at| bytes.get_mut(at)) {
        *upper = 1;
    }
    bytes
}

#[cfg(test)]
#[path = "dns_tests.rs"]
mod tests;
