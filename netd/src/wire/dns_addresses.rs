//! The addresses that a DNS answer gives for the name that was asked, through its chain of aliases
//! (RFC 1035 section 3.6.2). Only what belongs to the question counts: records about other names, which
//! whoever serves an alias could add at will, are passed over.

use std::net::IpAddr;

use super::dns::{HEADER, Record, kind};

/// CNAME, RFC 1035 section 3.2.2.
const CNAME: u16 = 5;
/// Records looked at; real answers have a handful.
const RECORDS: usize = 256;
/// Aliases followed; resolvers give up earlier.
const ALIASES: usize = 16;
/// A name in text form.
const TEXT: usize = 255;

/// What an answer says about the asked name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// Lower-case, without a final dot.
    pub name: String,
    /// Each with its time to live in seconds: the smallest on the way.
    pub addresses: Vec<(IpAddr, u32)>,
}

struct Found {
    owner: String,
    ttl: u32,
    data: Data,
}

enum Data {
    Address(IpAddr),
    Alias(String),
}

/// Reads an answer; `None` when it is broken, no success, or about nothing that has addresses.
#[must_use]
pub fn addresses(message: &[u8]) -> Option<Addresses> {
    let header: &[u8; HEADER] = message.first_chunk()?;
    let [_, _, high, low, 0, 1, count_high, count_low, ..] = *header else {
        return None;
    };
    let (is_answer, code) = (high & 0x80 != 0, low & 0x0f);
    if !is_answer || code != 0 {
        return None;
    }
    let name = text_name(message, HEADER)?;
    let mut at = question_end(message)?;
    let mut found = Vec::new();
    let count = usize::from(u16::from_be_bytes([count_high, count_low]));
    for _ in 0..count.min(RECORDS) {
        let record = Record::at(message, at)?;
        let data = message.get(record.data..record.end)?;
        let data = match record.kind {
            kind::A => Some(Data::Address(IpAddr::from(*data.first_chunk::<4>()?))),
            kind::AAAA => Some(Data::Address(IpAddr::from(*data.first_chunk::<16>()?))),
            CNAME => text_name(message, record.data).map(Data::Alias),
            _other => None,
        };
        if let Some(data) = data {
            found.push(Found {
                owner: text_name(message, at)?,
                ttl: record.ttl,
                data,
            });
        }
        at = record.end;
    }
    let mut addresses = Vec::new();
    let mut current = name.as_str();
    let mut ttl = u32::MAX;
    for _ in 0..ALIASES {
        let own = found.iter().filter(|record| record.owner == current);
        let mut alias = None;
        for record in own {
            match &record.data {
                Data::Address(address) => addresses.push((*address, ttl.min(record.ttl))),
                Data::Alias(target) => alias = Some((target, record.ttl)),
            }
        }
        let Some((target, its_ttl)) = alias.filter(|_| addresses.is_empty()) else {
            break;
        };
        current = target;
        ttl = ttl.min(its_ttl);
    }
    Some(Addresses { name, addresses })
}

/// The asked name of a query or an answer as text, lower-case and without a final dot.
#[must_use]
pub fn asked_name(message: &[u8]) -> Option<String> {
    text_name(message, HEADER)
}

fn question_end(message: &[u8]) -> Option<usize> {
    let mut at = HEADER;
    loop {
        let length = usize::from(*message.get(at)?);
        match length {
            0 => return Some(at + 5),
            1..=63 => at += 1 + length,
            // A question's name is the first of the message: there is nothing to point to.
            _ => return None,
        }
    }
}

/// A name at an offset, pointers followed (section 4.1.4): each must lead further back, so that it ends.
fn text_name(message: &[u8], start: usize) -> Option<String> {
    let mut text = String::new();
    let (mut at, mut lowest) = (start, start);
    loop {
        let length = usize::from(*message.get(at)?);
        match length {
            0 => return Some(text),
            1..=63 => {
                if !text.is_empty() {
                    text.push('.');
                }
                for byte in message.get(at + 1..at + 1 + length)? {
                    // What is no host name keeps a form of its own, so that it equals none; a dot
                    // inside a label is such a byte.
                    match byte {
                        b'.' | b'\\' | 0..=b' ' | 0x7f.. => text.push_str(&format!("\\{byte:03}")),
                        byte => text.push(char::from(byte.to_ascii_lowercase())),
                    }
                }
                if text.len() > 4 * TEXT {
                    return None;
                }
                at += 1 + length;
            }
            0xc0.. => {
                let low = usize::from(*message.get(at + 1)?);
                let to = (length & 0x3f) << 8 | low;
                if to >= lowest {
                    return None;
                }
                (at, lowest) = (to, to);
            }
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Question "www.a.test", then records (owner, kind, ttl, data); names without pointers.
    fn message(records: &[(&str, u16, u32, &[u8])]) -> Vec<u8> {
        let count = u8::try_from(records.len()).unwrap();
        let mut bytes = vec![1, 2, 0x81, 0x80, 0, 1, 0, count, 0, 0, 0, 0];
        bytes.extend(wire("WWW.a.test"));
        bytes.extend([0, 1, 0, 1]);
        for (owner, kind, ttl, data) in records {
            bytes.extend(wire(owner));
            bytes.extend(kind.to_be_bytes());
            bytes.extend([0, 1]);
            bytes.extend(ttl.to_be_bytes());
            bytes.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
            bytes.extend_from_slice(data);
        }
        bytes
    }

    fn wire(name: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        for label in name.split('.') {
            bytes.push(u8::try_from(label.len()).unwrap());
            bytes.extend_from_slice(label.as_bytes());
        }
        bytes.push(0);
        bytes
    }

    fn check(records: &[(&str, u16, u32, &[u8])], expected: &[(&str, u32)]) {
        let found = addresses(&message(records)).unwrap();
        assert_eq!(found.name, "www.a.test");
        let expected: Vec<(IpAddr, u32)> = expected
            .iter()
            .map(|(address, ttl)| (address.parse().unwrap(), *ttl))
            .collect();
        assert_eq!(found.addresses, expected);
    }

    #[test]
    fn aliases_are_followed_and_strangers_passed_over() {
        let v6 = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
        check(
            &[("www.a.test", 1, 30, &[192, 0, 2, 1])],
            &[("192.0.2.1", 30)],
        );
        check(
            &[
                ("cdn.b.test", 1, 30, &[192, 0, 2, 1]),
                ("www.A.test", 5, 20, &wire("CDN.b.test")),
                ("cdn.b.test", 28, 300, &v6),
                ("bank.test", 1, 300, &[192, 0, 2, 66]),
            ],
            &[("192.0.2.1", 20), ("2001:db8::1", 20)],
        );
        check(&[("bank.test", 1, 300, &[192, 0, 2, 66])], &[]);
        // A chain that bites its tail ends.
        check(
            &[
                ("www.a.test", 5, 20, &wire("x.test")),
                ("x.test", 5, 20, &wire("www.a.test")),
            ],
            &[],
        );
    }

    #[test]
    fn pointers_lead_back_and_nowhere_else() {
        let mut bytes = message(&[("www.a.test", 1, 30, &[192, 0, 2, 1])]);
        // The owner as a pointer to the question.
        let owner = bytes.len() - 14 - 12;
        bytes.splice(owner..owner + 12, [0xc0, 12]);
        assert_eq!(addresses(&bytes).unwrap().addresses.len(), 1);
        // To itself.
        let at = u8::try_from(owner).unwrap();
        bytes.splice(owner..owner + 2, [0xc0, at]);
        assert_eq!(addresses(&bytes), None);
    }

    #[test]
    fn a_dot_inside_a_label_makes_another_name() {
        let mut bytes = message(&[]);
        // "www.a.test" as the two labels "www.a" and "test".
        bytes[HEADER] = 5;
        bytes[HEADER + 4] = b'.';
        assert_eq!(asked_name(&bytes).unwrap(), "www\\046a.test");
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            let _read = addresses(&bytes);
            let mut with_header = message(&[]);
            with_header[7] = 9;
            with_header.extend(bytes);
            let _read = addresses(&with_header);
        }
    }
}
