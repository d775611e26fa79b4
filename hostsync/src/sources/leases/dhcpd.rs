//! ISC's `dhcpd.leases(5)`, which VMware's server writes too: blocks appended as leases change, so
//! the last block about an address is what holds. Times are UTC.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::SystemTime;

use control::mac::MacAddress;

use super::{Entry, Lease, Leases, client, from_epoch, is_unknown};

/// Addresses told apart; a file with more is not a lease file.
const MOST_ADDRESSES: usize = 65_536;

pub(super) fn parse(bytes: &[u8]) -> Leases {
    let mut leases = Leases::default();
    // The last block about each address, with its place in the file.
    let mut last: BTreeMap<IpAddr, (usize, Block)> = BTreeMap::new();
    let mut words = Words { rest: bytes };
    let mut number = 0;
    let mut at_block = false;
    loop {
        if !std::mem::take(&mut at_block) {
            match words.next() {
                None => break,
                Some(Word::Plain(b"lease")) => {}
                Some(_) => continue,
            }
        }
        number += 1;
        match block(&mut words) {
            Ended::Whole(address, block) => {
                if last.len() < MOST_ADDRESSES || last.contains_key(&address) {
                    last.insert(address, (number, block));
                } else {
                    leases.skipped += 1;
                }
            }
            Ended::Broken => leases.skipped += 1,
            Ended::ByTheNext => {
                leases.skipped += 1;
                at_block = true;
            }
        }
    }
    let mut ordered: Vec<(usize, IpAddr, Block)> = last
        .into_iter()
        .map(|(address, (number, block))| (number, address, block))
        .collect();
    ordered.sort_by_key(|(number, ..)| *number);
    for (_, address, block) in ordered {
        leases.take(block.entry(address));
    }
    leases
}

/// What a block says, as far as it matters here.
#[derive(Debug, Default)]
struct Block {
    starts: Option<SystemTime>,
    ends: Option<SystemTime>,
    hardware: Option<MacAddress>,
    name: Option<String>,
    /// `binding state` other than active, or `abandoned`.
    inactive: bool,
}

impl Block {
    fn entry(self, address: IpAddr) -> Entry {
        match (self.hardware, self.name) {
            (Some(client), Some(name)) if !self.inactive && !is_unknown(&name) => {
                Entry::Lease(Lease {
                    client,
                    address,
                    name,
                    since: self.starts,
                    until: self.ends,
                })
            }
            _ => Entry::Nameless,
        }
    }

    /// One statement, without its semicolon; none: it cannot be understood.
    fn learn(&mut self, statement: &[Word<'_>]) -> Option<()> {
        let texts: Vec<&[u8]> = statement.iter().map(Word::bytes).collect();
        match texts.as_slice() {
            [b"starts", rest @ ..] => self.starts = time(rest)?,
            [b"ends", rest @ ..] => self.ends = time(rest)?,
            [b"hardware", b"ethernet", mac] => {
                self.hardware = Some(client(std::str::from_utf8(mac).ok()?)?);
            }
            [b"client-hostname", name] => {
                self.name = Some(String::from_utf8(unescaped(name)).ok()?);
            }
            [b"binding", b"state", state] => self.inactive = *state != b"active",
            [b"abandoned"] => self.inactive = true,
            // Everything else that a server may write is of no interest.
            _ => {}
        }
        Some(())
    }
}

enum Ended {
    Whole(IpAddr, Block),
    Broken,
    /// Another `lease` begins where this one should have ended.
    ByTheNext,
}

/// Reads `ADDRESS { statements }` behind `lease`.
fn block(words: &mut Words<'_>) -> Ended {
    let mut address: Option<IpAddr> = None;
    let opened = match words.next() {
        Some(Word::Plain(text)) => {
            address = std::str::from_utf8(text).ok().and_then(|t| t.parse().ok());
            words.next()
        }
        other => other,
    };
    match opened {
        Some(Word::Open) => {}
        Some(Word::Plain(b"lease")) => return Ended::ByTheNext,
        Some(_) | None => return Ended::Broken,
    }
    let (mut block, mut understood) = (Block::default(), address.is_some());
    let mut statement: Vec<Word<'_>> = Vec::new();
    let mut depth = 0_usize;
    loop {
        match words.next() {
            None => return Ended::Broken,
            // `on expiry { ... }` and the like are programs, not facts.
            Some(Word::Open) => {
                depth += 1;
                statement.clear();
            }
            Some(Word::Close) if depth == 0 => {
                return match address {
                    Some(address) if understood => Ended::Whole(address, block),
                    Some(_) | None => Ended::Broken,
                };
            }
            Some(Word::Close) => {
                depth -= 1;
                statement.clear();
            }
            Some(Word::End) => {
                if depth == 0 {
                    understood &= block.learn(&statement).is_some();
                }
                statement.clear();
            }
            // In a program of its own only what looks like a block is one.
            Some(Word::Plain(b"lease"))
                if statement.is_empty() && (depth == 0 || words.clone().next_is_address()) =>
            {
                return Ended::ByTheNext;
            }
            // No statement that matters is longer.
            Some(word) if statement.len() < 8 => statement.push(word),
            Some(_) => {}
        }
    }
}

/// `3 2020/05/13 12:00:37` (the day of the week first), `epoch 1589371237`, or `never`.
#[expect(
    clippy::option_option,
    reason = "not understood, never, or at a time: three outcomes"
)]
fn time(words: &[&[u8]]) -> Option<Option<SystemTime>> {
    let text = |word: &[u8]| std::str::from_utf8(word).ok().map(str::to_owned);
    match words {
        [b"never"] => Some(None),
        [b"epoch", seconds] => Some(Some(from_epoch(text(seconds)?.parse().ok()?)?)),
        [_, date, clock] => {
            let civil: jiff::civil::DateTime =
                format!("{}T{}", text(date)?.replace('/', "-"), text(clock)?)
                    .parse()
                    .ok()?;
            let zoned = civil.to_zoned(jiff::tz::TimeZone::UTC).ok()?;
            Some(Some(zoned.timestamp().into()))
        }
        _ => None,
    }
}

/// Backslashes taken out: `\"`, `\\` and octal `\011`.
fn unescaped(text: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, tail)) = rest.split_first() {
        rest = tail;
        if *first != b'\\' {
            plain.push(*first);
            continue;
        }
        let octal = tail.get(..3).and_then(|digits| {
            let text = std::str::from_utf8(digits).ok()?;
            u8::from_str_radix(text, 8).ok()
        });
        match (octal, tail.split_first()) {
            (Some(byte), _) => {
                plain.push(byte);
                rest = tail.get(3..).unwrap_or_default();
            }
            (None, Some((byte, after))) => {
                plain.push(*byte);
                rest = after;
            }
            (None, None) => {}
        }
    }
    plain
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Word<'b> {
    Plain(&'b [u8]),
    /// Between quotes, with its backslashes.
    Quoted(&'b [u8]),
    Open,
    Close,
    End,
}

impl<'b> Word<'b> {
    fn bytes(&self) -> &'b [u8] {
        match self {
            Self::Plain(text) | Self::Quoted(text) => text,
            Self::Open | Self::Close | Self::End => b"",
        }
    }
}

/// The words of a file; `#` begins a comment.
#[derive(Clone)]
struct Words<'b> {
    rest: &'b [u8],
}

impl<'b> Words<'b> {
    fn next(&mut self) -> Option<Word<'b>> {
        loop {
            let first = *self.rest.first()?;
            let single = match first {
                b'{' => Some(Word::Open),
                b'}' => Some(Word::Close),
                b';' => Some(Word::End),
                _ => None,
            };
            if single.is_some() {
                self.rest = self.rest.get(1..)?;
                return single;
            }
            if first.is_ascii_whitespace() {
                self.rest = self.rest.get(1..)?;
            } else if first == b'#' {
                self.skip_line();
            } else if first == b'"' {
                return Some(self.quoted());
            } else {
                let ends = |byte: &u8| byte.is_ascii_whitespace() || b"{};#\"".contains(byte);
                let length = self.rest.iter().position(ends).unwrap_or(self.rest.len());
                let (word, rest) = self.rest.split_at(length);
                self.rest = rest;
                return Some(Word::Plain(word));
            }
        }
    }

    /// Whether an address comes next.
    fn next_is_address(mut self) -> bool {
        let Some(Word::Plain(text)) = self.next() else {
            return false;
        };
        std::str::from_utf8(text).is_ok_and(|text| text.parse::<IpAddr>().is_ok())
    }

    fn skip_line(&mut self) {
        let length = self.rest.iter().position(|byte| *byte == b'\n');
        self.rest = length.map_or(&[], |length| self.rest.get(length..).unwrap_or_default());
    }

    /// A text ends with its line at the latest, so that a missing quote harms one line only.
    fn quoted(&mut self) -> Word<'b> {
        let text = self.rest.get(1..).unwrap_or_default();
        let mut escaped = false;
        for (at, byte) in text.iter().enumerate() {
            match byte {
                b'\n' => {
                    self.rest = text.get(at..).unwrap_or_default();
                    return Word::Quoted(b"");
                }
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => {
                    self.rest = text.get(at + 1..).unwrap_or_default();
                    return Word::Quoted(text.get(..at).unwrap_or_default());
                }
                _ => {}
            }
        }
        self.rest = &[];
        Word::Quoted(b"")
    }
}
