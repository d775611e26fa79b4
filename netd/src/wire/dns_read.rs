//! Answers taken apart, for people and for aliases: names expanded (RFC 1035 section 4.1.4), data as the
//! text of zone files (RFC 1035 section 5.1, RFC 3597 for types that are not known here).

use std::fmt::Write;
use std::net::{Ipv4Addr, Ipv6Addr};

use super::dns::{HEADER, NAME_LIMIT, Query, Record, kind};

/// A record of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadRecord<'a> {
    /// Its owner, in wire form, expanded.
    pub owner: Vec<u8>,
    /// Its type.
    pub kind: u16,
    /// Seconds.
    pub ttl: u32,
    message: &'a [u8],
    data: (usize, usize),
}

/// The records of the answer section; those behind broken bytes are left out.
pub fn answers<'a>(message: &'a [u8], query: &Query<'_>) -> impl Iterator<Item = ReadRecord<'a>> {
    let count = message
        .get(6..8)
        .and_then(|two| two.first_chunk())
        .map_or(0, |two| u16::from_be_bytes(*two));
    let mut at = query.question_end();
    (0..count).map_while(move |_| {
        let record = Record::at(message, at)?;
        let owner = expand(message, at)?;
        at = record.end;
        Some(ReadRecord {
            owner,
            kind: record.kind,
            ttl: record.ttl,
            message,
            data: (record.data, record.end),
        })
    })
}

/// The name at an offset, in wire form without pointers. Pointers only lead back, so this ends.
#[must_use]
pub fn expand(message: &[u8], start: usize) -> Option<Vec<u8>> {
    let mut name = Vec::new();
    let (mut at, mut limit) = (start, start);
    loop {
        let length = usize::from(*message.get(at)?);
        match length {
            0 => {
                name.push(0);
                return (name.len() <= NAME_LIMIT).then_some(name);
            }
            1..=63 => {
                name.extend_from_slice(message.get(at..at + 1 + length)?);
                at += 1 + length;
            }
            0xc0.. => {
                let low = usize::from(*message.get(at + 1)?);
                at = (length & 0x3f) << 8 | low;
                if at < HEADER || at >= limit {
                    return None;
                }
                limit = at;
            }
            _ => return None,
        }
        if name.len() > NAME_LIMIT {
            return None;
        }
    }
}

/// A name as people write it, with its final dot (RFC 1035 section 5.1 for what is no plain character).
#[must_use]
pub fn name_text(name: &[u8]) -> String {
    let mut text = String::new();
    let mut rest = name;
    while let Some((length, after)) = rest.split_first()
        && *length != 0
    {
        let (label, after) = after
            .split_at_checked(usize::from(*length))
            .unwrap_or((after, &[]));
        for byte in label {
            // Writing to a String cannot fail.
            match byte {
                b'.' | b'\\' | b'"' => write!(text, "\\{}", char::from(*byte)).ok(),
                0x21..=0x7e => write!(text, "{}", char::from(*byte)).ok(),
                _ => write!(text, "\\{byte:03}").ok(),
            };
        }
        text.push('.');
        rest = after;
    }
    if text.is_empty() {
        text.push('.');
    }
    text
}

/// A name as people write it, in wire form; `None` for what is none.
#[must_use]
pub fn parse_name(text: &str) -> Option<Vec<u8>> {
    let mut wire = Vec::new();
    let text = text.strip_suffix('.').unwrap_or(text);
    for label in text.split('.').filter(|_| !text.is_empty()) {
        let plain = label
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && byte != b'\\');
        let length = u8::try_from(label.len()).ok()?;
        if !plain || !(1..=63).contains(&length) {
            return None;
        }
        wire.push(length);
        wire.extend_from_slice(label.as_bytes());
    }
    wire.push(0);
    (wire.len() <= NAME_LIMIT).then_some(wire)
}

const KINDS: [(&str, u16); 12] = [
    ("A", kind::A),
    ("NS", kind::NS),
    ("CNAME", kind::CNAME),
    ("SOA", kind::SOA),
    ("PTR", kind::PTR),
    ("HINFO", kind::HINFO),
    ("MX", kind::MX),
    ("TXT", kind::TXT),
    ("AAAA", kind::AAAA),
    ("SRV", kind::SRV),
    ("SVCB", kind::SVCB),
    ("HTTPS", kind::HTTPS),
];

/// A type's name, or TYPE and its number (RFC 3597 section 5).
#[must_use]
pub fn kind_text(kind: u16) -> String {
    let known = KINDS.iter().find(|(_, number)| *number == kind);
    known.map_or_else(|| format!("TYPE{kind}"), |(name, _)| (*name).to_owned())
}

/// The type of a name, in any spelling.
#[must_use]
pub fn parse_kind(text: &str) -> Option<u16> {
    let text = text.to_ascii_uppercase();
    let known = KINDS.iter().find(|(name, _)| *name == text);
    match known {
        Some((_, number)) => Some(*number),
        None => text.strip_prefix("TYPE")?.parse().ok(),
    }
}

impl ReadRecord<'_> {
    /// The data with its name expanded, for types whose data is an address or a name.
    #[must_use]
    pub fn plain_data(&self) -> Option<Vec<u8>> {
        match self.kind {
            kind::A | kind::AAAA => Some(self.bytes().to_vec()),
            kind::CNAME | kind::PTR | kind::NS => expand(self.message, self.data.0),
            _ => None,
        }
    }

    fn bytes(&self) -> &[u8] {
        self.message.get(self.data.0..self.data.1).unwrap_or(&[])
    }

    /// The data as text.
    #[must_use]
    pub fn text(&self) -> String {
        self.known_text().unwrap_or_else(|| {
            let bytes = self.bytes();
            let mut text = format!("\\# {} ", bytes.len());
            for byte in bytes {
                write!(text, "{byte:02x}").ok();
            }
            text
        })
    }

    fn known_text(&self) -> Option<String> {
        let bytes = self.bytes();
        let word = |at: usize| {
            let two = bytes.get(at..)?.first_chunk()?;
            Some(u16::from_be_bytes(*two))
        };
        let name = |at: usize| expand(self.message, self.data.0 + at).map(|name| name_text(&name));
        Some(match self.kind {
            kind::A => Ipv4Addr::from(*<&[u8; 4]>::try_from(bytes).ok()?).to_string(),
            kind::AAAA => Ipv6Addr::from(*<&[u8; 16]>::try_from(bytes).ok()?).to_string(),
            kind::CNAME | kind::PTR | kind::NS => name(0)?,
            kind::MX => format!("{} {}", word(0)?, name(2)?),
            kind::SRV => format!("{} {} {} {}", word(0)?, word(2)?, word(4)?, name(6)?),
            kind::TXT | kind::HINFO => {
                let mut parts = Vec::new();
                let mut rest = bytes;
                while let Some((length, after)) = rest.split_first() {
                    let (part, after) = after.split_at_checked(usize::from(*length))?;
                    parts.push(format!("\"{}\"", part.escape_ascii()));
                    rest = after;
                }
                parts.join(" ")
            }
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::op::{Message, MessageType, OpCode, Query as TheirQuery};
    use hickory_proto::rr::rdata::{A, CNAME, MX, TXT};
    use hickory_proto::rr::{Name, RData, Record as TheirRecord, RecordType};

    #[test]
    fn records_of_a_foreign_server_read_as_it_would_print_them() {
        let name = |text: &str| Name::from_ascii(text).unwrap();
        let mut asked = Message::new(7, MessageType::Query, OpCode::Query);
        asked.add_query(TheirQuery::query(name("www.example.com."), RecordType::A));
        let mut reply = Message::response(7, OpCode::Query);
        reply.add_query(asked.queries[0].clone());
        for (owner, data) in [
            (
                "www.example.com.",
                RData::CNAME(CNAME(name("web.example.com."))),
            ),
            ("web.example.com.", RData::A(A::new(192, 0, 2, 7))),
            (
                "example.com.",
                RData::MX(MX::new(10, name("mail.example.com."))),
            ),
            (
                "example.com.",
                RData::TXT(TXT::new(vec!["a \"b\"".to_owned()])),
            ),
        ] {
            reply.add_answer(TheirRecord::from_rdata(name(owner), 60, data));
        }
        let (asked, reply) = (asked.to_vec().unwrap(), reply.to_vec().unwrap());
        let query = Query::decode(&asked).unwrap();
        let shown: Vec<String> = answers(&reply, &query)
            .map(|r| format!("{} {} {}", name_text(&r.owner), kind_text(r.kind), r.text()))
            .collect();
        assert_eq!(
            shown,
            [
                "www.example.com. CNAME web.example.com.",
                "web.example.com. A 192.0.2.7",
                "example.com. MX 10 mail.example.com.",
                "example.com. TXT \"a \\\"b\\\"\"",
            ]
        );
    }

    #[test]
    fn pointers_that_lead_forward_or_round_are_no_name() {
        let mut message = vec![0; HEADER];
        message.extend_from_slice(&[0xc0, 12, 1, b'a', 0xc0, 14, 0xc0, 20, 1, b'b', 0]);
        assert_eq!(expand(&message, 12), None, "to itself");
        assert_eq!(expand(&message, 14), None, "round");
        assert_eq!(expand(&message, 18), None, "forward");
        assert_eq!(expand(&message, 20), Some(b"\x01b\0".to_vec()));
        assert_eq!(expand(&message, 99), None);
    }

    #[test]
    fn names_are_written_as_they_are_read() {
        for text in ["a.b.", ".", "_sip._tcp.example.com."] {
            assert_eq!(name_text(&parse_name(text).unwrap()), text);
        }
        for text in ["a..b", ".a", "a b", "a\\b", &"x".repeat(64)] {
            assert_eq!(parse_name(text), None, "{text}");
        }
        assert_eq!(name_text(b"\x03a.\x07\0"), "a\\.\\007.");
        assert_eq!(
            (parse_kind("aaaa"), parse_kind("TYPE65")),
            (Some(28), Some(65))
        );
        assert_eq!(
            (kind_text(257), parse_kind("no")),
            ("TYPE257".to_owned(), None)
        );
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_read_or_not(bytes: Vec<u8>, at in 0_usize..64) {
            let _name = expand(&bytes, at);
            let question = [&[0_u8; 4][..], &[0, 1], &[0; 6], &[0, 0, 1, 0, 1]].concat();
            let query = Query::decode(&question).unwrap();
            let message = [&question[..6], &[0, 9, 0, 0, 0, 0], &[0, 0, 1, 0, 1], &bytes].concat();
            for record in answers(&message, &query) {
                let _text = (record.text(), record.plain_data(), name_text(&record.owner));
            }
        }
    }
}
