//! What the gateway's name server knows by itself, and which queries it passes on.
//!
//! It is the authority for the network's own domain and for the reverse names of its subnet: what is
//! not there does not exist. Other names that it knows (host.internal, a guest's further names) are
//! answered, all else is forwarded. A known name without an IPv6 address gets "no such record", never
//! "no such name": some resolvers would take the latter for both families (RFC 4074 section 4.2).
//! No sockets and no cache here; RFC 1035, RFC 2308, RFC 6303.

use std::collections::HashMap;
use std::net::Ipv4Addr;

use control::names::HostName;
use ipnet::Ipv4Net;

use crate::engine::services::DnsOutcome;
use crate::wire::dns::{BadQuery, NAME_LIMIT, Query, ResponseCode, bare_answer, encode_name, kind};

/// Addresses of guests change; a resolver in a guest shall notice soon.
const TTL: u32 = 10;
/// Names that leases bring; the oldest stay, later ones go without a name.
const LEASE_NAME_LIMIT: usize = 16_384;

type WireName = Box<[u8]>;

/// One name the configuration gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StaticName {
    /// The whole name.
    pub name: HostName,
    /// Its address.
    pub address: Ipv4Addr,
    /// This is what the address is called (PTR); one a guest.
    pub canonical: bool,
}

/// The names of one network. Keys are lower-case names in wire form.
#[derive(Clone, Debug)]
pub struct Zone {
    domain: WireName,
    subnet: Ipv4Net,
    server: WireName,
    /// What is not known here is refused and never asked elsewhere.
    closed: bool,
    fixed: HashMap<WireName, Ipv4Addr>,
    fixed_reverse: HashMap<Ipv4Addr, WireName>,
    /// Names that have no record but others below them (RFC 8020).
    parents: Vec<WireName>,
    leased: HashMap<WireName, Ipv4Addr>,
    leased_reverse: HashMap<Ipv4Addr, WireName>,
}

impl Zone {
    /// An empty zone; `server` is the gateway's own name.
    #[must_use]
    pub fn new(domain: &HostName, subnet: Ipv4Net, server: &HostName) -> Self {
        Self {
            domain: encode_name(domain).into(),
            subnet,
            server: encode_name(server).into(),
            closed: false,
            fixed: HashMap::new(),
            fixed_reverse: HashMap::new(),
            parents: Vec::new(),
            leased: HashMap::new(),
            leased_reverse: HashMap::new(),
        }
    }

    /// The network has moved, or become open or closed; names stay as they are until they are set again.
    pub fn place(&mut self, domain: &HostName, subnet: Ipv4Net, closed: bool) {
        self.domain = encode_name(domain).into();
        self.subnet = subnet;
        self.closed = closed;
    }

    /// Replaces the names of the configuration.
    pub fn set_static(&mut self, names: &[StaticName]) {
        self.fixed.clear();
        self.fixed_reverse.clear();
        self.parents.clear();
        for entry in names {
            let wire: WireName = encode_name(&entry.name).into();
            if entry.canonical {
                self.fixed_reverse.insert(entry.address, wire.clone());
            }
            if let Some(inside) = self.inside_domain(&wire) {
                let labels = label_offsets(&wire).skip(1).take_while(|at| *at < inside);
                self.parents
                    .extend(labels.filter_map(|at| wire.get(at..)).map(Into::into));
            }
            self.fixed.entry(wire).or_insert(entry.address);
        }
        self.parents.sort();
        self.parents.dedup();
    }

    /// A lease brings a name below the domain. The configuration's names and earlier leases' come
    /// first; `false` when the name is somebody else's.
    pub fn add_lease(&mut self, label: &HostName, address: Ipv4Addr) -> bool {
        let mut wire = encode_name(label);
        wire.pop();
        wire.extend_from_slice(&self.domain);
        let wire: WireName = wire.into();
        if wire.len() > NAME_LIMIT || self.fixed.contains_key(&wire) {
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
        let name = self.leased_reverse.get(&address);
        let label = encode_name(label);
        name.is_some_and(|name| {
            label
                .split_last()
                .is_some_and(|(_, label)| name.starts_with(label))
        })
    }

    /// The lease of an address ended, or has no name any more.
    pub fn remove_lease(&mut self, address: Ipv4Addr) {
        if let Some(wire) = self.leased_reverse.remove(&address) {
            self.leased.remove(&wire);
        }
    }

    /// Whether a query can be answered here, and the answer.
    #[must_use]
    pub fn handle(&self, bytes: &[u8]) -> DnsOutcome {
        match Query::decode(bytes) {
            Ok(query) => match self.answer(&query) {
                Some(answer) => DnsOutcome::Answer(answer),
                None if self.closed => DnsOutcome::Answer(query.failure(ResponseCode::Refused)),
                None => DnsOutcome::Forward,
            },
            Err(BadQuery::Silent) => DnsOutcome::Drop,
            Err(BadQuery::Answer { id, code }) => DnsOutcome::Answer(bare_answer(id, code)),
        }
    }

    /// The answer, or `None` when others must be asked.
    #[must_use]
    pub fn answer(&self, query: &Query<'_>) -> Option<Vec<u8>> {
        if let Some(edns) = query.edns
            && edns.version != 0
        {
            return Some(bad_version(query));
        }
        if !query.is_internet() {
            return Some(query.failure(ResponseCode::Refused));
        }
        let mut buffer = [0; NAME_LIMIT];
        let name = buffer.get_mut(..query.name.len())?;
        name.copy_from_slice(query.name);
        // Label lengths are below 64, no letter: folding the whole is right.
        name.make_ascii_lowercase();
        let name = &*name;
        if let Some(address) = reverse_address(name).filter(|a| self.subnet.contains(a)) {
            return Some(self.answer_reverse(query, address));
        }
        if let Some(address) = self.address_of(name) {
            return Some(self.answer_known(query, Some(address)));
        }
        if let Some(inside) = self.inside_domain(name) {
            let exists = inside == 0 || self.parents.iter().any(|parent| **parent == *name);
            if exists {
                return Some(self.answer_known(query, None));
            }
            let mut answer = query.answer(ResponseCode::NoSuchName, true);
            answer.start_of_authority(inside, &self.server, TTL, false);
            return Some(answer.finish());
        }
        // A guest by its bare name; other types go on, since the name may be a top-level domain.
        if matches!(query.kind, kind::A | kind::AAAA) && label_offsets(name).count() == 1 {
            let mut full = [0; NAME_LIMIT];
            let label = name.len() - 1;
            let length = label + self.domain.len();
            let full = full.get_mut(..length)?;
            full.get_mut(..label)?.copy_from_slice(name.get(..label)?);
            full.get_mut(label..)?.copy_from_slice(&self.domain);
            let address = self.address_of(full)?;
            return Some(self.answer_known(query, Some(address)));
        }
        None
    }

    fn address_of(&self, name: &[u8]) -> Option<Ipv4Addr> {
        let fixed = self.fixed.get(name);
        fixed.or_else(|| self.leased.get(name)).copied()
    }

    fn answer_known(&self, query: &Query<'_>, address: Option<Ipv4Addr>) -> Vec<u8> {
        let mut answer = query.answer(ResponseCode::NoError, true);
        match (query.kind, address) {
            (kind::A | kind::ANY, Some(address)) => answer.address(address, TTL),
            (asked, _) => {
                let inside = self.inside_domain(&query.name.to_ascii_lowercase());
                let is_soa = asked == kind::SOA && inside == Some(0);
                answer.start_of_authority(inside.unwrap_or(0), &self.server, TTL, is_soa);
            }
        }
        answer.finish()
    }

    fn answer_reverse(&self, query: &Query<'_>, address: Ipv4Addr) -> Vec<u8> {
        let name = self
            .fixed_reverse
            .get(&address)
            .or_else(|| self.leased_reverse.get(&address));
        let code = match name {
            Some(_) => ResponseCode::NoError,
            None => ResponseCode::NoSuchName,
        };
        let mut answer = query.answer(code, true);
        match name {
            Some(name) if matches!(query.kind, kind::PTR | kind::ANY) => answer.pointer(name, TTL),
            // The reverse zone starts at the address itself: small, but a zone.
            _ => answer.start_of_authority(0, &self.server, TTL, false),
        }
        answer.finish()
    }

    /// Where the domain starts in a name that is the domain or lies below it.
    fn inside_domain(&self, name: &[u8]) -> Option<usize> {
        let start = name.len().checked_sub(self.domain.len())?;
        let ends_so = name.get(start..) == Some(&*self.domain);
        (ends_so && label_offsets(name).any(|at| at == start)).then_some(start)
    }
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

/// Where each label of a wire-form name starts.
fn label_offsets(name: &[u8]) -> impl Iterator<Item = usize> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let start = at;
        let length = usize::from(*name.get(start)?);
        at += 1 + length;
        (length != 0).then_some(start)
    })
}

/// `4.3.2.1.in-addr.arpa` to 1.2.3.4.
fn reverse_address(name: &[u8]) -> Option<Ipv4Addr> {
    let labels = name.strip_suffix(b"\x07in-addr\x04arpa\0")?;
    let mut octets = [0; 4];
    let mut rest = labels;
    for octet in octets.iter_mut().rev() {
        let (length, tail) = rest.split_first()?;
        let (digits, tail) = tail.split_at_checked(usize::from(*length))?;
        // One spelling only: no sign, no leading zero.
        let plain = digits.iter().all(u8::is_ascii_digit)
            && (digits.len() == 1 || digits.first() != Some(&b'0'));
        *octet = std::str::from_utf8(digits)
            .ok()
            .filter(|_| plain)?
            .parse()
            .ok()?;
        rest = tail;
    }
    rest.is_empty().then(|| octets.into())
}

#[cfg(test)]
#[path = "dns_tests.rs"]
mod tests;
