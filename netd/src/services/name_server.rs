//! The gateway's name server in whole: first what the zone knows, then what is kept, then others. One way for
//! datagrams, streams and `sharectl network dns`, so that all three are told the same.

use std::net::IpAddr;

use control::api::{DnsAnswer, DnsRecord};
use control::names::NetworkName;

use crate::engine::dns::Lookup;
use crate::engine::dns_names::{Source, fold};
use crate::services::gateway::SharedZone;
use crate::services::resolver::{Origin, Resolver, Transport, fit};
use crate::wire::dns::{
    Answer, BadQuery, HEADER, IN, NAME_LIMIT, Query, ResponseCode, bare_answer, kind,
};
use crate::wire::dns_read::{answers, kind_text, name_text};

/// One network's name server.
#[derive(Debug)]
pub struct NameServer {
    zone: SharedZone,
    resolver: Resolver,
}

/// What the zone has to say, without holding it.
enum Known {
    Answer(Vec<u8>, Source),
    /// An alias, written so far; the name that it leads to; whose it is.
    Alias(Answer, Vec<u8>, Source),
    Nothing,
}

impl NameServer {
    /// Answers from `zone`, and asks others by `resolver`.
    #[must_use]
    pub fn new(zone: SharedZone, resolver: Resolver) -> Self {
        Self { zone, resolver }
    }

    /// What it knows itself.
    #[must_use]
    pub fn zone(&self) -> &SharedZone {
        &self.zone
    }

    /// How it asks others.
    #[must_use]
    pub fn resolver(&self) -> &Resolver {
        &self.resolver
    }

    /// The answer to a message; `None` for what is no query.
    pub async fn answer(&self, bytes: &[u8], transport: Transport) -> Option<Vec<u8>> {
        match Query::decode(bytes) {
            Ok(query) => {
                let (answer, _) = self.find(&query).await;
                Some(fit(&query, answer, transport))
            }
            Err(BadQuery::Silent) => None,
            Err(BadQuery::Answer { id, flags, code }) => Some(bare_answer(id, flags, code)),
        }
    }

    /// The answer to a query, and in a few words where it comes from.
    async fn find(&self, query: &Query<'_>) -> (Vec<u8>, String) {
        match self.known(query) {
            Known::Answer(answer, source) => (answer, source_text(&source)),
            Known::Alias(answer, target, source) => {
                let (answer, from) = self.follow_alias(query, answer, &target).await;
                (answer, format!("{}, then {from}", source_text(&source)))
            }
            Known::Nothing => {
                let (answer, origin) = self.resolver.answer(query).await;
                (answer, self.origin_text(query, &origin))
            }
        }
    }

    fn known(&self, query: &Query<'_>) -> Known {
        match self.zone.read().lookup(query) {
            Lookup::Here(answer, source) => Known::Answer(answer, source.clone()),
            Lookup::Alias(answer, target, source) => {
                Known::Alias(answer, target.to_vec(), source.clone())
            }
            Lookup::Elsewhere => Known::Nothing,
        }
    }

    /// Asks others what an alias leads to, and writes their addresses behind it.
    async fn follow_alias(
        &self,
        query: &Query<'_>,
        mut answer: Answer,
        target: &[u8],
    ) -> (Vec<u8>, String) {
        let asked = question(target, query.kind, query.edns.is_some());
        let Ok(inner) = Query::decode(&asked) else {
            return (
                query.failure(ResponseCode::ServerFailure),
                "nobody".to_owned(),
            );
        };
        let (reply, origin) = self.resolver.answer(&inner).await;
        answer.set_code_of(&reply);
        for record in answers(&reply, &inner) {
            if let Some(data) = record.plain_data() {
                answer.foreign(&record.owner, record.kind, record.ttl, &data);
            }
        }
        (answer.finish(), self.origin_text(&inner, &origin))
    }

    fn origin_text(&self, query: &Query<'_>, origin: &Origin) -> String {
        let forwarding = self.resolver.forwarding();
        let mut buffer = [0; NAME_LIMIT];
        let servers = fold(query.name, &mut buffer).map(|name| forwarding.servers_for(name));
        let rule = servers
            .and_then(|servers| servers.rule)
            .map_or_else(String::new, |domain| format!(" by the rule for {domain}"));
        let none = servers.is_none_or(|servers| servers.addresses.is_empty());
        match origin {
            Origin::Cache => format!("cache{rule}"),
            Origin::Server(server) => format!("resolver {server}{rule}"),
            Origin::Joined => format!("resolver{rule}"),
            Origin::Nobody if none => "nobody: there is no resolver to ask".to_owned(),
            Origin::Nobody => format!("nobody: no resolver answered{rule}"),
        }
    }

    /// What a guest would be told about a name (wire form), and where that comes from.
    pub async fn explain(&self, network: &NetworkName, name: &[u8], asked: u16) -> DnsAnswer {
        let bytes = question(name, asked, true);
        let mut found = DnsAnswer {
            network: network.clone(),
            name: name_text(name),
            kind: kind_text(asked),
            code: "FORMERR".to_owned(),
            source: source_text(&Source::Reserved),
            records: Vec::new(),
        };
        if let Ok(query) = Query::decode(&bytes) {
            let (answer, source) = self.find(&query).await;
            found.code = code_text(answer.get(3).map_or(2, |low| low & 0x0f)).to_owned();
            found.source = source;
            found.records = answers(&answer, &query)
                .map(|record| DnsRecord {
                    name: name_text(&record.owner),
                    kind: kind_text(record.kind),
                    ttl: record.ttl,
                    data: record.text(),
                })
                .collect();
        }
        found
    }
}

/// A query, as a guest's resolver would write it.
fn question(name: &[u8], kind: u16, edns: bool) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER + name.len() + 15);
    bytes.extend_from_slice(&[0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, u8::from(edns)]);
    bytes.extend_from_slice(name);
    bytes.extend_from_slice(&kind.to_be_bytes());
    bytes.extend_from_slice(&IN.to_be_bytes());
    if edns {
        bytes.extend_from_slice(&[0, 0, 41, 0x04, 0xd0, 0, 0, 0, 0, 0, 0]);
    }
    bytes
}

/// The reverse name of an address, in wire form.
#[must_use]
pub fn reverse_name(address: IpAddr) -> Vec<u8> {
    let mut wire = Vec::new();
    let mut label = |text: &str| {
        // At most "in-addr".
        wire.push(u8::try_from(text.len()).unwrap_or(0));
        wire.extend_from_slice(text.as_bytes());
    };
    match address {
        IpAddr::V4(address) => {
            for octet in address.octets().iter().rev() {
                label(&octet.to_string());
            }
            label("in-addr");
        }
        IpAddr::V6(address) => {
            for octet in address.octets().iter().rev() {
                label(&format!("{:x}", octet & 0xf));
                label(&format!("{:x}", octet >> 4));
            }
            label("ip6");
        }
    }
    label("arpa");
    wire.push(0);
    wire
}

/// The types that are asked where nobody says one.
pub const PLAIN_KINDS: [u16; 2] = [kind::A, kind::AAAA];

fn source_text(source: &Source) -> String {
    match source {
        Source::Network => "network".to_owned(),
        Source::Guest(name) => format!("guest {name}"),
        Source::Lease => "lease".to_owned(),
        Source::Record => "record".to_owned(),
        Source::Added => "added".to_owned(),
        Source::HostsFile => "hosts file".to_owned(),
        Source::Reserved => "reserved".to_owned(),
    }
}

fn code_text(code: u8) -> &'static str {
    match code {
        0 => "NOERROR",
        1 => "FORMERR",
        2 => "SERVFAIL",
        3 => "NXDOMAIN",
        4 => "NOTIMP",
        5 => "REFUSED",
        _ => "OTHER",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::dns_reserved::reverse;

    #[test]
    fn reverse_names_are_read_back() {
        for address in ["192.0.2.7", "2001:db8::a:7", "::1"] {
            let address: IpAddr = address.parse().unwrap();
            let found = reverse(&reverse_name(address)).unwrap();
            assert_eq!(found.address(), Some(address));
        }
    }
}
