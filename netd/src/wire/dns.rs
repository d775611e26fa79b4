//! DNS messages as a forwarding name server needs them: RFC 1035 section 4 (layout), RFC 6891 (EDNS).
//! Queries are read whole, local answers written, foreign answers only walked for their times to live;
//! records that pass through are never taken apart. No DNSSEC, no TSIG.

use std::net::{Ipv4Addr, Ipv6Addr};

use control::names::HostName;

/// The header, section 4.1.1.
pub const HEADER: usize = 12;
/// A name in wire form, final zero included (section 3.1).
pub const NAME_LIMIT: usize = 255;
/// The answer over UDP that everybody takes (section 4.2.1).
pub const PLAIN_UDP: usize = 512;
/// What we take and offer over UDP with EDNS: fits an unfragmented packet (DNS flag day 2020).
pub const EDNS_UDP: u16 = 1232;

/// Record and query types (the IANA registry's numbers).
pub mod kind {
    #![allow(missing_docs, reason = "the names are the registry's own")]
    pub const A: u16 = 1;
    pub const NS: u16 = 2;
    pub const CNAME: u16 = 5;
    pub const SOA: u16 = 6;
    pub const PTR: u16 = 12;
    pub const HINFO: u16 = 13;
    pub const MX: u16 = 15;
    pub const TXT: u16 = 16;
    pub const AAAA: u16 = 28;
    pub const SRV: u16 = 33;
    pub const OPT: u16 = 41;
    pub const SVCB: u16 = 64;
    pub const HTTPS: u16 = 65;
    pub const IXFR: u16 = 251;
    pub const MAILA: u16 = 254;
    pub const ANY: u16 = 255;
}

/// Class IN.
pub const IN: u16 = 1;
const ANY_CLASS: u16 = 255;

/// Response codes (section 4.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResponseCode {
    /// Found, or the name is there without such a record.
    NoError,
    /// The query cannot be read.
    FormatError,
    /// Nobody who should know answers.
    ServerFailure,
    /// There is no such name.
    NoSuchName,
    /// Not a kind of query that we serve.
    NotImplemented,
    /// Not served to this client.
    Refused,
}

impl ResponseCode {
    fn number(self) -> u8 {
        match self {
            Self::NoError => 0,
            Self::FormatError => 1,
            Self::ServerFailure => 2,
            Self::NoSuchName => 3,
            Self::NotImplemented => 4,
            Self::Refused => 5,
        }
    }
}

/// The query's OPT record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edns {
    /// The largest UDP answer that the client takes, bytes, at least 512.
    pub udp_size: u16,
    /// RFC 6891 section 6.1.3; we know version 0.
    pub version: u8,
    /// The client wants DNSSEC records.
    pub dnssec: bool,
    /// It says which part of the net it asks for (RFC 7871): the answer is for nobody else.
    pub client_subnet: bool,
}

/// One question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query<'a> {
    /// The whole message.
    pub bytes: &'a [u8],
    /// Copied into the answer.
    pub id: u16,
    /// RD: ask others for me.
    pub recursion: bool,
    /// CD: do not check DNSSEC.
    pub checking_disabled: bool,
    /// AD: tell whether the answer was checked (RFC 6840 section 5.7).
    pub authentic: bool,
    /// The name in wire form as the client spelled it, final zero included, no compression.
    pub name: &'a [u8],
    /// QTYPE.
    pub kind: u16,
    /// QCLASS.
    pub class: u16,
    /// The OPT record, if there is one.
    pub edns: Option<Edns>,
}

/// Bytes that are no query to be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadQuery {
    /// Too short, or an answer: silence, lest two servers talk to each other for ever.
    Silent,
    /// To be answered with this code, without a question section.
    Answer {
        /// The query's.
        id: u16,
        /// The query's opcode and RD, where they stand in the header: the answer has the same.
        flags: u8,
        /// What is wrong.
        code: ResponseCode,
    },
}

impl<'a> Query<'a> {
    /// Reads a query.
    ///
    /// # Errors
    /// [`BadQuery`] says what to answer, if anything.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, BadQuery> {
        let header: &[u8; HEADER] = bytes.first_chunk().ok_or(BadQuery::Silent)?;
        let [i, d, high, low, counts @ ..] = *header;
        let id = u16::from_be_bytes([i, d]);
        if high & 0x80 != 0 {
            return Err(BadQuery::Silent);
        }
        let flags = high & 0x79;
        let bad = |code| BadQuery::Answer { id, flags, code };
        if high & 0x78 != 0 {
            return Err(bad(ResponseCode::NotImplemented));
        }
        // One question, no answers, no authority; the additional section is walked for OPT.
        let [0, 1, 0, 0, 0, 0, additional_high, additional] = counts else {
            return Err(bad(ResponseCode::FormatError));
        };
        let format_error = || bad(ResponseCode::FormatError);
        let name_end = plain_name_end(bytes, HEADER).ok_or_else(format_error)?;
        let name = bytes.get(HEADER..name_end).ok_or_else(format_error)?;
        let mut at = name_end + 4;
        let kind = word(bytes, name_end).ok_or_else(format_error)?;
        let class = word(bytes, name_end + 2).ok_or_else(format_error)?;
        let mut edns = None;
        for _ in 0..u16::from_be_bytes([additional_high, additional]) {
            let record = Record::at(bytes, at).ok_or_else(format_error)?;
            if record.kind == kind::OPT {
                // RFC 6891 section 6.1.1: more than one is an error.
                if edns.is_some() {
                    return Err(format_error());
                }
                let [_, version, flags, _] = record.ttl.to_be_bytes();
                let options = bytes
                    .get(record.data..record.end)
                    .ok_or_else(format_error)?;
                edns = Some(Edns {
                    udp_size: record.class.max(512),
                    version,
                    dnssec: flags & 0x80 != 0,
                    client_subnet: has_client_subnet(options).ok_or_else(format_error)?,
                });
            }
            at = record.end;
        }
        Ok(Self {
            bytes,
            id,
            recursion: high & 1 != 0,
            checking_disabled: low & 0x10 != 0,
            authentic: low & 0x20 != 0,
            name,
            kind,
            class,
            edns,
        })
    }

    /// Whether the question is about the Internet class.
    #[must_use]
    pub fn is_internet(&self) -> bool {
        self.class == IN || self.class == ANY_CLASS
    }

    /// The most bytes of an answer over UDP: what the client takes, and no more than fits one
    /// packet on any link (a fragment that is lost costs seconds, TCP costs a round trip).
    #[must_use]
    pub fn udp_limit(&self) -> usize {
        self.edns
            .map_or(PLAIN_UDP, |edns| edns.udp_size.min(EDNS_UDP).into())
    }

    /// The offset after the question.
    #[must_use]
    pub fn question_end(&self) -> usize {
        HEADER + self.name.len() + 4
    }

    /// An answer to be filled: id, question and RD copied, RA set.
    #[must_use]
    pub fn answer(&self, code: ResponseCode, authoritative: bool) -> Answer {
        let mut bytes = Vec::with_capacity(self.question_end() + 128);
        let flags = 0x80 | (u8::from(authoritative) << 2) | u8::from(self.recursion);
        let low = 0x80 | (u8::from(self.checking_disabled) << 4) | code.number();
        bytes.extend_from_slice(&self.id.to_be_bytes());
        bytes.extend_from_slice(&[flags, low, 0, 1, 0, 0, 0, 0, 0, 0]);
        let question = self.bytes.get(HEADER..self.question_end());
        bytes.extend_from_slice(question.unwrap_or(&[0, 0, 0, 0, 0]));
        Answer {
            bytes,
            owner: HEADER,
            edns: self.edns,
        }
    }

    /// `answer(code, false)` and nothing else.
    #[must_use]
    pub fn failure(&self, code: ResponseCode) -> Vec<u8> {
        self.answer(code, false).finish()
    }

    /// The same answer cut to header and question with TC set, so that the client comes by TCP.
    #[must_use]
    pub fn truncated(&self, full: &[u8]) -> Vec<u8> {
        let mut answer = self.answer(ResponseCode::NoError, false);
        if let (Some(flags), Some(theirs)) = (answer.bytes.get_mut(2..4), full.get(2..4)) {
            flags.copy_from_slice(theirs);
            if let Some(first) = flags.first_mut() {
                *first |= 0x02;
            }
        }
        answer.finish()
    }
}

/// The answer to bytes that are no readable query.
#[must_use]
pub fn bare_answer(id: u16, flags: u8, code: ResponseCode) -> Vec<u8> {
    let [high, low] = id.to_be_bytes();
    vec![
        high,
        low,
        0x80 | flags,
        0x80 | code.number(),
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
    ]
}

/// An answer being written. Owner names are pointers to the question, or to the last alias' target.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    bytes: Vec<u8>,
    owner: usize,
    edns: Option<Edns>,
}

impl Answer {
    /// An address of the asked name, or of what it is an alias of.
    pub fn address(&mut self, address: Ipv4Addr, ttl: u32) {
        self.record(self.owner, kind::A, ttl, &address.octets());
        self.count(6);
    }

    /// An IPv6 address, likewise.
    pub fn address6(&mut self, address: Ipv6Addr, ttl: u32) {
        self.record(self.owner, kind::AAAA, ttl, &address.octets());
        self.count(6);
    }

    /// The name so far is an alias of `target` (wire form); what follows is about that.
    pub fn alias(&mut self, target: &[u8], ttl: u32) {
        self.record(self.owner, kind::CNAME, ttl, target);
        self.owner = self.bytes.len() - target.len();
        self.count(6);
    }

    /// The name (wire form) behind the asked reverse name.
    pub fn pointer(&mut self, name: &[u8], ttl: u32) {
        self.record(HEADER, kind::PTR, ttl, name);
        self.count(6);
    }

    /// A record of any name (wire form).
    pub fn foreign(&mut self, owner: &[u8], kind: u16, ttl: u32, data: &[u8]) {
        self.bytes.extend_from_slice(owner);
        self.record_rest(kind, ttl, data);
        self.count(6);
    }

    /// Any record of the name so far.
    pub fn other(&mut self, kind: u16, ttl: u32, data: &[u8]) {
        self.record(self.owner, kind, ttl, data);
        self.count(6);
    }

    /// The asked zone's SOA, as answer.
    pub fn start_of_authority(&mut self, server: &[u8], ttl: u32) {
        self.authority(HEADER, server, ttl);
        self.count(6);
    }

    /// "No", with the zone's SOA in the authority section to say how long that holds (RFC 2308). The
    /// zone's name is the asked name's end from offset `suffix` on.
    pub fn nothing(&mut self, suffix: usize, server: &[u8], ttl: u32) {
        // Behind an alias the name itself serves as zone.
        let within = if self.owner == HEADER { suffix } else { 0 };
        self.authority(self.owner + within, server, ttl);
        self.count(8);
    }

    fn authority(&mut self, owner: usize, server: &[u8], ttl: u32) {
        let mut data = Vec::with_capacity(2 * server.len() + 32);
        data.extend_from_slice(server);
        data.extend_from_slice(b"\x0ahostmaster");
        data.extend_from_slice(server);
        // serial, refresh, retry, expire; then how long a "no" holds
        for number in [1, 3600, 600, 86_400, ttl] {
            data.extend_from_slice(&number.to_be_bytes());
        }
        self.record(owner, kind::SOA, ttl, &data);
    }

    /// Another response code than the one it was begun with.
    pub fn set_code(&mut self, code: ResponseCode) {
        self.set_code_number(code.number());
    }

    /// The response code of another message.
    pub fn set_code_of(&mut self, message: &[u8]) {
        self.set_code_number(message.get(3).map_or(0, |low| low & 0x0f));
    }

    fn set_code_number(&mut self, number: u8) {
        if let Some(low) = self.bytes.get_mut(3) {
            *low = *low & 0xf0 | number;
        }
    }

    fn record(&mut self, owner: usize, kind: u16, ttl: u32, data: &[u8]) {
        let owner = u16::try_from(owner).unwrap_or(0) | 0xc000;
        self.bytes.extend_from_slice(&owner.to_be_bytes());
        self.record_rest(kind, ttl, data);
    }

    fn record_rest(&mut self, kind: u16, ttl: u32, data: &[u8]) {
        self.bytes.extend_from_slice(&kind.to_be_bytes());
        self.bytes.extend_from_slice(&IN.to_be_bytes());
        self.bytes.extend_from_slice(&ttl.to_be_bytes());
        let length = u16::try_from(data.len()).unwrap_or(0);
        self.bytes.extend_from_slice(&length.to_be_bytes());
        self.bytes.extend_from_slice(data);
    }

    /// One more in the section whose count stands at `at`; never over a handful.
    fn count(&mut self, at: usize) {
        if let Some(low) = self.bytes.get_mut(at + 1) {
            *low = low.saturating_add(1);
        }
    }

    /// The message, with an OPT record if the query had one.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        if let Some(edns) = self.edns {
            self.bytes.extend_from_slice(&opt_record(edns.dnssec));
            self.count(10);
        }
        self.bytes
    }
}

/// Our OPT record, without options: the root as owner, our size, version 0, DO as the client had it (RFC 3225).
fn opt_record(dnssec: bool) -> [u8; 11] {
    let [high, low] = EDNS_UDP.to_be_bytes();
    let flags = u8::from(dnssec) << 7;
    [0, 0, 41, high, low, 0, 0, flags, 0, 0, 0]
}

/// Whether a client-subnet option (number 8) is among an OPT record's options; `None` when they are broken.
fn has_client_subnet(mut options: &[u8]) -> Option<bool> {
    let mut found = false;
    while !options.is_empty() {
        let (header, rest) = options.split_first_chunk::<4>()?;
        let [code_high, code, high, low] = *header;
        found |= [code_high, code] == [0, 8];
        let length = usize::from(u16::from_be_bytes([high, low]));
        options = rest.get(length..)?;
    }
    Some(found)
}

/// An answer for whoever asks the same: what its OPT record says to one client (a cookie, say) taken out.
/// `None` when that cannot be done (OPT not last, or an extended error code in it).
#[must_use]
pub fn without_options(query: &Query<'_>, answer: &[u8]) -> Option<Vec<u8>> {
    let count = |at| word(answer, at);
    let additional = count(10)?;
    let records = count(6)?.checked_add(count(8)?)?.checked_add(additional)?;
    let mut at = query.question_end();
    let mut opt = None;
    for _ in 0..records {
        if opt.is_some() {
            return None;
        }
        let record = Record::at(answer, at)?;
        if record.kind == kind::OPT {
            if record.ttl >> 16 != 0 {
                return None;
            }
            opt = Some(at);
        }
        at = record.end;
    }
    let mut plain = answer.get(..opt.unwrap_or(at))?.to_vec();
    let mut left = additional - u16::from(opt.is_some());
    if let Some(edns) = query.edns {
        plain.extend_from_slice(&opt_record(edns.dnssec));
        left += 1;
    }
    plain.get_mut(10..12)?.copy_from_slice(&left.to_be_bytes());
    Some(plain)
}

/// A resource record of a message, by offsets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its type.
    pub kind: u16,
    /// Its class; for OPT a size.
    pub class: u16,
    /// Its time to live in seconds; for OPT flags.
    pub ttl: u32,
    /// Where the time to live stands.
    pub ttl_at: usize,
    /// Where its data starts.
    pub data: usize,
    /// The offset after it.
    pub end: usize,
}

impl Record {
    /// The record at an offset; `None` when it runs out of the message.
    #[must_use]
    pub fn at(bytes: &[u8], start: usize) -> Option<Self> {
        let at = skip_name(bytes, start)?;
        let ttl_at = at + 4;
        let ttl = u32::from_be_bytes(*bytes.get(ttl_at..)?.first_chunk()?);
        let data = at + 10;
        let end = data + usize::from(word(bytes, at + 8)?);
        (end <= bytes.len()).then_some(Self {
            kind: word(bytes, at)?,
            class: word(bytes, at + 2)?,
            ttl,
            ttl_at,
            data,
            end,
        })
    }
}

/// A foreign answer, walked once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Walked {
    /// Where each time to live stands (OPT has none).
    pub ttl_places: Vec<usize>,
    /// How long the answer may be kept, seconds; 0 = not at all.
    pub keep: u32,
}

/// Walks an answer; `None` when it is broken. `keep` follows RFC 2181 section 5.2 (the smallest time
/// to live) and RFC 2308 section 5 (for "no": the SOA's last field, without SOA not at all).
#[must_use]
pub fn walk_answer(bytes: &[u8], question_end: usize) -> Option<Walked> {
    let answers = word(bytes, 6)?;
    let records = answers
        .checked_add(word(bytes, 8)?)?
        .checked_add(word(bytes, 10)?)?;
    // Each takes eleven bytes at least.
    if usize::from(records) * 11 > bytes.len() {
        return None;
    }
    let mut ttl_places = Vec::with_capacity(records.into());
    let mut smallest = u32::MAX;
    let mut negative = None;
    let mut at = question_end;
    for _ in 0..records {
        let record = Record::at(bytes, at)?;
        at = record.end;
        if record.kind == kind::OPT {
            continue;
        }
        ttl_places.push(record.ttl_at);
        smallest = smallest.min(record.ttl);
        if record.kind == kind::SOA {
            let last = bytes.get(record.end.checked_sub(4)?..record.end)?;
            let minimum = u32::from_be_bytes(*last.first_chunk()?);
            negative = Some(minimum.min(record.ttl));
        }
    }
    let code = bytes.get(3)? & 0x0f;
    let truncated = bytes.get(2)? & 0x02 != 0;
    let keep = match (code, answers) {
        _ if truncated => 0,
        (0, 1..) => smallest,
        (0 | 3, _) => negative.map_or(0, |negative| negative.min(smallest)),
        _ => 0,
    };
    Some(Walked { ttl_places, keep })
}

/// A host name in wire form.
#[must_use]
pub fn encode_name(name: &HostName) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(name.as_str().len() + 2);
    for label in name.as_str().split('.') {
        // HostName's labels have 1 to 63 bytes.
        bytes.push(u8::try_from(label.len()).unwrap_or(0));
        bytes.extend_from_slice(label.as_bytes());
    }
    bytes.push(0);
    bytes
}

/// The end of an uncompressed name at `start`; `None` for a pointer, a bad label or one too long.
fn plain_name_end(bytes: &[u8], start: usize) -> Option<usize> {
    let mut at = start;
    loop {
        let length = usize::from(*bytes.get(at)?);
        at += 1 + length;
        if length > 63 || at - start > NAME_LIMIT {
            return None;
        }
        if length == 0 {
            return Some(at);
        }
    }
}

/// The end of a name that may end in a pointer (section 4.1.4); the pointer is not followed.
fn skip_name(bytes: &[u8], start: usize) -> Option<usize> {
    let mut at = start;
    loop {
        let length = usize::from(*bytes.get(at)?);
        match length {
            0 => return Some(at + 1),
            1..=63 => at += 1 + length,
            0xc0.. => return Some(at + 2),
            _ => return None,
        }
        if at - start > NAME_LIMIT {
            return None;
        }
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    bytes
        .get(at..)?
        .first_chunk()
        .map(|two| u16::from_be_bytes(*two))
}

#[cfg(test)]
#[path = "dns_tests.rs"]
mod tests;
