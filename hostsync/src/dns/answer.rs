//! A question's bytes and the zones in, an answer's bytes out. Pure.
//!
//! Authoritative for its domains, never recursive: a question about anything else is refused, so
//! that whoever asks goes elsewhere. RFC 1035, RFC 2308 (no such name, no such record), RFC 4592
//! (wildcards), RFC 6891 (EDNS), RFC 8482 (ANY).

use std::net::IpAddr;

use control::names::HostName;
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, NS, PTR, SOA};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

use super::zones::{Known, Zones};

/// Names change at any time, and asking costs nothing on loopback.
const TTL: u32 = 5;
/// Without EDNS (RFC 1035 section 2.3.4).
const PLAIN_LIMIT: usize = 512;
/// With EDNS: no packet of it is cut on its way.
const EDNS_LIMIT: u16 = 1232;
/// The header of a message.
const HEADER: usize = 12;

/// How the question came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// An answer that is too long is cut, and says so.
    Udp,
    /// Every answer fits.
    Tcp,
}

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was about a name of ours.
    Answered,
    /// It was about a name of others.
    Refused,
    /// It was no question, or none that can be understood.
    Malformed,
}

/// Answers one message; no bytes where silence is right.
#[must_use]
pub fn answer(bytes: &[u8], zones: &Zones, transport: Transport) -> (Option<Vec<u8>>, Outcome) {
    let Ok(asked) = Message::from_vec(bytes) else {
        return (malformed(bytes), Outcome::Malformed);
    };
    // Two servers would answer each other for ever.
    if asked.metadata.message_type != MessageType::Query {
        return (None, Outcome::Malformed);
    }
    let mut reply = Message::response(asked.metadata.id, asked.metadata.op_code);
    reply.metadata.recursion_desired = asked.metadata.recursion_desired;
    reply.queries.clone_from(&asked.queries);
    let mut limit = PLAIN_LIMIT;
    let outcome = if let Some(edns) = &asked.edns
        && edns.version() != 0
    {
        reply.metadata.response_code = ResponseCode::BADVERS;
        Outcome::Malformed
    } else if asked.metadata.op_code != OpCode::Query {
        reply.metadata.response_code = ResponseCode::NotImp;
        Outcome::Malformed
    } else if let [query] = asked.queries.as_slice() {
        fill(&mut reply, query, zones)
    } else {
        reply.metadata.response_code = ResponseCode::FormErr;
        Outcome::Malformed
    };
    if let Some(edns) = &asked.edns {
        limit = usize::from(edns.max_payload().clamp(512, EDNS_LIMIT));
        let mut ours = Edns::new();
        ours.set_max_payload(EDNS_LIMIT);
        ours.set_rcode_high(reply.metadata.response_code.high());
        reply.set_edns(ours);
    }
    let mut written = reply.to_vec().ok();
    if transport == Transport::Udp && written.as_ref().is_some_and(|bytes| bytes.len() > limit) {
        written = reply.truncate().to_vec().ok();
    }
    (written, outcome)
}

/// What can be said of bytes that are no message: their number came, and a format error.
fn malformed(bytes: &[u8]) -> Option<Vec<u8>> {
    let header = bytes.get(..HEADER)?;
    let [high, low, flags, ..] = header else {
        return None;
    };
    if flags & 0x80 != 0 {
        return None;
    }
    let id = u16::from_be_bytes([*high, *low]);
    let reply = Message::error_msg(id, OpCode::Query, ResponseCode::FormErr);
    reply.to_vec().ok()
}

/// Names that stand for addresses (RFC 1035 section 3.5, RFC 3596 section 2.5). Not all of arpa is: home.arpa has
/// names like others (RFC 8375).
fn is_reverse(name: &str) -> bool {
    ["in-addr.arpa", "ip6.arpa"].iter().any(|tree| {
        let above = name.strip_suffix(tree);
        above.is_some_and(|above| above.is_empty() || above.ends_with('.'))
    })
}

/// Answers one question.
fn fill(reply: &mut Message, query: &Query, zones: &Zones) -> Outcome {
    let refuse = |reply: &mut Message| {
        reply.metadata.response_code = ResponseCode::Refused;
        Outcome::Refused
    };
    if query.query_class != DNSClass::IN {
        return refuse(reply);
    }
    let owner = &query.name;
    let text = plain(owner);
    if is_reverse(&text) {
        return match fill_reverse(reply, query, zones) {
            Some(()) => Outcome::Answered,
            None => refuse(reply),
        };
    }
    let Some(apex) = zones.apex_of(&text) else {
        return refuse(reply);
    };
    let is_apex = apex.as_str() == text;
    reply.metadata.authoritative = true;
    let known = zones.find(&text);
    match (query.query_type, known) {
        (RecordType::SOA, _) if is_apex => {
            reply.answers.extend(soa(apex));
        }
        (RecordType::NS, _) if is_apex => {
            let server = Name::from_ascii("localhost.").ok();
            let data = server.map(|server| RData::NS(NS(server)));
            reply.answers.extend(data.map(|data| record(owner, data)));
        }
        (wanted, Known::Address(address)) => {
            let data = match (wanted, address) {
                (RecordType::A | RecordType::ANY, IpAddr::V4(address)) => {
                    Some(RData::A(A(address)))
                }
                (RecordType::AAAA | RecordType::ANY, IpAddr::V6(address)) => {
                    Some(RData::AAAA(AAAA(address)))
                }
                // The name is there, a record of that kind is not.
                _ => None,
            };
            reply.answers.extend(data.map(|data| record(owner, data)));
        }
        (_, Known::Parent) => {}
        (_, Known::Nothing) if is_apex => {}
        (_, Known::Nothing) => reply.metadata.response_code = ResponseCode::NXDomain,
    }
    if reply.answers.is_empty() {
        // How long "no" may be remembered: RFC 2308 section 3.
        reply.authorities.extend(soa(apex));
    }
    Outcome::Answered
}

/// The names of an address; nothing where it is not ours.
fn fill_reverse(reply: &mut Message, query: &Query, zones: &Zones) -> Option<()> {
    let net = query.name.parse_arpa_name().ok()?;
    if net.prefix_len() != net.max_prefix_len() {
        return None;
    }
    let names = zones.names_of(net.addr());
    if names.is_empty() {
        return None;
    }
    reply.metadata.authoritative = true;
    if matches!(query.query_type, RecordType::PTR | RecordType::ANY) {
        for name in names {
            let data = RData::PTR(PTR(absolute(name)?));
            reply.answers.push(record(&query.name, data));
        }
    }
    Some(())
}

fn record(owner: &Name, data: RData) -> Record {
    Record::from_rdata(owner.clone(), TTL, data)
}

fn absolute(name: &HostName) -> Option<Name> {
    Name::from_ascii(format!("{name}.")).ok()
}

/// The start of authority: nobody transfers the zone, so only its last number matters.
fn soa(apex: &HostName) -> Option<Record> {
    let (serial, refresh, retry, expire) = (1, 3600, 600, 86_400);
    let server = Name::from_ascii("localhost.").ok()?;
    let person = Name::from_ascii("nobody.invalid.").ok()?;
    let data = SOA::new(server, person, serial, refresh, retry, expire, TTL);
    Some(record(&absolute(apex)?, RData::SOA(data)))
}

/// The name in lower case without the final dot. Bytes that no host name has (a dot inside a
/// label among them) become one that no name of ours has either.
fn plain(name: &Name) -> String {
    let mut text = String::new();
    for label in name {
        if !text.is_empty() {
            text.push('.');
        }
        text.extend(label.iter().map(|byte| {
            let fits = byte.is_ascii_graphic() && *byte != b'.';
            if fits {
                char::from(byte.to_ascii_lowercase())
            } else {
                '\u{1}'
            }
        }));
    }
    text
}

#[cfg(test)]
mod tests;
