//! Damaged markers mended, and what was found said. Pure.
//!
//! The rule: a line goes only if it is certainly ours. That is a marker line, one of the two comments that we
//! write, and a name's line exactly as we write it, if it stands between whole markers, or next to a
//! marker that lost its other end and is known to be ours (`known`: what is wanted now, or stood in a
//! block before). Everything else is the user's: it stays where it is, or, if it stood inside a block,
//! moves behind it. The next sync writes the block anew, so a name that goes here comes back there.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use control::names::HostName;

use super::markers::{self, Marker};

/// Names with addresses that are ours.
pub type Known = BTreeSet<(HostName, IpAddr)>;

/// A file put right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repaired {
    /// The whole new content.
    pub new: Vec<u8>,
    /// What was wrong and what was done, a sentence each.
    pub found: Vec<String>,
}

/// One line and what it is to us.
struct Line<'a> {
    /// With its break; without a BOM.
    bytes: &'a [u8],
    number: usize,
    kind: Kind<'a>,
}

enum Kind<'a> {
    Begin(&'a [u8]),
    End(&'a [u8]),
    /// A comment that only we write.
    Comment,
    /// A name's line exactly as we write one.
    Name(HostName, IpAddr),
    Other,
}

/// What becomes of a line.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Stays,
    Goes,
    /// It goes behind the END line with this index.
    Behind(usize),
}

/// Puts the markers of `bytes` right; nothing when they are, and nothing of others stands between them.
#[must_use]
pub fn repair(bytes: &[u8], known: &Known) -> Option<Repaired> {
    if markers::is_utf16(bytes) {
        return None;
    }
    let bom: &[u8] = if bytes.starts_with(markers::BOM) {
        markers::BOM
    } else {
        b""
    };
    let lines = read(bytes.get(bom.len()..).unwrap_or_default());
    let mut fates = vec![Fate::Stays; lines.len()];
    let mut found = Vec::new();
    let mut seen: BTreeMap<&[u8], usize> = BTreeMap::new();
    // The index of the BEGIN line that no END has closed yet.
    let mut open: Option<usize> = None;
    for (index, line) in lines.iter().enumerate() {
        match line.kind {
            Kind::Begin(_) => {
                if let Some(begin) = open.replace(index) {
                    found.push(lose_begin(&lines, &mut fates, begin, known));
                }
            }
            Kind::End(end) => match open.take() {
                Some(begin) if tag_of(&lines, begin) == Some(end) => {
                    let first = seen.get(end).copied();
                    seen.entry(end).or_insert(line.number);
                    found.extend(close(&lines, &mut fates, (begin, index), first));
                }
                Some(begin) => {
                    found.push(lose_begin(&lines, &mut fates, begin, known));
                    found.push(lose_end(&lines, &mut fates, index, known));
                }
                None => found.push(lose_end(&lines, &mut fates, index, known)),
            },
            Kind::Comment | Kind::Name(..) | Kind::Other => {}
        }
    }
    if let Some(begin) = open {
        found.push(lose_begin(&lines, &mut fates, begin, known));
    }
    if found.is_empty() {
        return None;
    }
    let mut behind: BTreeMap<usize, Vec<&[u8]>> = BTreeMap::new();
    for (line, fate) in lines.iter().zip(&fates) {
        if let Fate::Behind(end) = fate {
            behind.entry(*end).or_default().push(line.bytes);
        }
    }
    let mut new = bom.to_vec();
    for (index, line) in lines.iter().enumerate() {
        if fates[index] == Fate::Stays {
            new.extend_from_slice(line.bytes);
        }
        for moved in behind.remove(&index).unwrap_or_default() {
            if !new.is_empty() && new != bom && !new.ends_with(b"\n") {
                new.push(b'\n');
            }
            new.extend_from_slice(moved);
        }
    }
    Some(Repaired { new, found })
}

fn read(body: &[u8]) -> Vec<Line<'_>> {
    let lines = body.split_inclusive(|byte| *byte == b'\n').enumerate();
    lines
        .map(|(index, bytes)| Line {
            bytes,
            number: index + 1,
            kind: match markers::marker(bytes) {
                Some(Marker::Begin(tag)) => Kind::Begin(tag),
                Some(Marker::End(tag)) => Kind::End(tag),
                None if markers::is_own_comment(bytes) => Kind::Comment,
                None => match own_name(bytes) {
                    Some((name, address)) => Kind::Name(name, address),
                    None => Kind::Other,
                },
            },
        })
        .collect()
}

/// A line just as `markers::render` makes it.
fn own_name(line: &[u8]) -> Option<(HostName, IpAddr)> {
    let text = std::str::from_utf8(line).ok()?;
    let text = text
        .strip_suffix("\r\n")
        .or_else(|| text.strip_suffix('\n'))?;
    let (address, name) = text.split_once('\t')?;
    let parsed: IpAddr = address.parse().ok()?;
    let host = HostName::parse(name).ok()?;
    (parsed.to_string() == address && host.as_str() == name).then_some((host, parsed))
}

fn tag_of<'a>(lines: &[Line<'a>], begin: usize) -> Option<&'a [u8]> {
    match lines.get(begin)?.kind {
        Kind::Begin(tag) => Some(tag),
        Kind::End(_) | Kind::Comment | Kind::Name(..) | Kind::Other => None,
    }
}

/// A BEGIN that nothing closes: it goes, with what follows it and is known to be ours.
fn lose_begin(lines: &[Line<'_>], fates: &mut [Fate], begin: usize, known: &Known) -> String {
    fates[begin] = Fate::Goes;
    let after = begin + 1..lines.len();
    let (gone, doubtful) = take(lines, fates, after, known);
    let number = lines[begin].number;
    sentence(
        &format!("line {number} began a block that nothing ended"),
        gone,
        doubtful,
    )
}

/// An END that nothing began: it goes, with what stands right above it and is known to be ours.
fn lose_end(lines: &[Line<'_>], fates: &mut [Fate], end: usize, known: &Known) -> String {
    fates[end] = Fate::Goes;
    let (gone, doubtful) = take(lines, fates, (0..end).rev(), known);
    let number = lines[end].number;
    sentence(
        &format!("line {number} ended a block that nothing began"),
        gone,
        doubtful,
    )
}

/// Follows the lines as long as they look like ours; those that are known go. Gives how many did, and the
/// numbers of those that only look so.
fn take(
    lines: &[Line<'_>],
    fates: &mut [Fate],
    order: impl Iterator<Item = usize>,
    known: &Known,
) -> (usize, Vec<usize>) {
    let (mut gone, mut doubtful) = (0, Vec::new());
    for index in order {
        let ours = match &lines[index].kind {
            Kind::Comment => true,
            Kind::Name(name, address) => known.contains(&(name.clone(), *address)),
            Kind::Begin(_) | Kind::End(_) | Kind::Other => break,
        };
        if fates[index] != Fate::Stays {
            break;
        }
        if ours {
            fates[index] = Fate::Goes;
            gone += 1;
        } else {
            doubtful.push(lines[index].number);
        }
    }
    (gone, doubtful)
}

/// A whole block: what is not ours inside moves out; a second one of its tag goes.
fn close(
    lines: &[Line<'_>],
    fates: &mut [Fate],
    (begin, end): (usize, usize),
    first: Option<usize>,
) -> Vec<String> {
    let mut found = Vec::new();
    if let Some(first) = first {
        fates[begin] = Fate::Goes;
        fates[end] = Fate::Goes;
        found.push(format!(
            "lines {} to {} were a second block of the same name as the one that ends on line {first}; it is gone",
            lines[begin].number, lines[end].number
        ));
    }
    for index in begin + 1..end {
        match lines[index].kind {
            Kind::Other if lines[index].bytes.trim_ascii().is_empty() => fates[index] = Fate::Goes,
            Kind::Other => {
                fates[index] = Fate::Behind(end);
                found.push(format!(
                    "line {} stood inside a block and is not sharectl's; it is below the block now",
                    lines[index].number
                ));
            }
            Kind::Comment | Kind::Name(..) if first.is_some() => fates[index] = Fate::Goes,
            Kind::Comment | Kind::Name(..) | Kind::Begin(_) | Kind::End(_) => {}
        }
    }
    found
}

fn sentence(what: &str, gone: usize, doubtful: Vec<usize>) -> String {
    let lines = match gone {
        0 => "it is gone".to_owned(),
        1 => "it is gone, with one line that was sharectl's".to_owned(),
        more => format!("it is gone, with {more} lines that were sharectl's"),
    };
    if doubtful.is_empty() {
        return format!("{what}; {lines}");
    }
    let numbers: Vec<String> = doubtful.iter().map(usize::to_string).collect();
    let stay = numbers.join(", ");
    format!("{what}; {lines}; what stood on line {stay} may be yours and stays")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::section::{Tag, edit};

    fn known() -> Known {
        let name = |name: &str| (name.parse().unwrap(), [127, 64, 0, 1].into());
        [name("a.test"), name("b.test")].into()
    }

    /// `input` becomes `output`, with so many findings. `B`, `E` are the plain markers, `W` our comment.
    fn check(input: &str, output: &str, findings: usize) {
        let spell = |text: &str| {
            text.replace("B\n", "# BEGIN sharectl\n")
                .replace("Bx\n", "# BEGIN sharectl x\n")
                .replace("E\n", "# END sharectl\n")
                .replace("Ex\n", "# END sharectl x\n")
                .replace("W\n", &format!("{}\n", markers::WARNING))
                .replace("a.\n", "127.64.0.1\ta.test\n")
                .replace("b.\n", "127.64.0.1\tb.test\n")
                .replace("u.\n", "10.0.0.1\tuser.test\n")
        };
        let (input, output) = (spell(input), spell(output));
        let repaired = repair(input.as_bytes(), &known());
        let (new, count) = match &repaired {
            Some(repaired) => (
                String::from_utf8_lossy(&repaired.new).into_owned(),
                repaired.found.len(),
            ),
            None => (input, 0),
        };
        assert_eq!(new, output, "{repaired:?}");
        assert_eq!(count, findings, "{repaired:?}");
    }

    #[test]
    fn whole_files_are_left_alone() {
        check("", "", 0);
        check(
            "mine\nB\nW\na.\nu.\nE\nBx\nb.\nEx\nmine",
            "mine\nB\nW\na.\nu.\nE\nBx\nb.\nEx\nmine",
            0,
        );
    }

    #[test]
    fn each_damage_is_mended_and_the_user_s_lines_stay() {
        // No END: known lines right behind go; one that looks like ours stays, what follows it may go.
        check("mine\nB\nW\na.\nb.\nmine\na.\n", "mine\nmine\na.\n", 1);
        check("B\nW\na.\nu.\nb.\nmine\n", "u.\nmine\n", 1);
        // No BEGIN.
        check("mine\na.\nb.\nE\nmine\n", "mine\nmine\n", 1);
        check("u.\na.\nE\n", "u.\n", 1);
        // Reversed.
        check("E\na.\nmine\nB\n", "a.\nmine\n", 2);
        // Doubled.
        check("B\na.\nE\nmine\nB\nb.\nE\n", "B\na.\nE\nmine\n", 1);
        check(
            "B\na.\nE\nB\nhand made\nb.\nE\nmine\n",
            "B\na.\nE\nhand made\nmine\n",
            2,
        );
        // Nested, with one name or two.
        check("B\na.\nB\nb.\nE\nE\nmine\n", "B\nb.\nE\nmine\n", 2);
        check("B\na.\nBx\nb.\nEx\nmine\nE\n", "Bx\nb.\nEx\nmine\n", 2);
        // Another END.
        check(
            "mine\nB\nW\na.\nu.\nE\nBx\nE\n",
            "mine\nB\nW\na.\nu.\nE\n",
            2,
        );
        check("B\na.\nmine\nEx\n", "mine\n", 2);
        // Edited by hand inside.
        check(
            "B\nW\na.\n1.2.3.4 x y # mine\n\nb.\nE\nz\n",
            "B\nW\na.\nb.\nE\n1.2.3.4 x y # mine\nz\n",
            1,
        );
    }

    #[test]
    fn findings_name_the_lines() {
        let repaired = repair(
            b"mine\n# BEGIN sharectl\n127.64.0.1\ta.test\n10.0.0.1\tuser.test\n",
            &known(),
        )
        .unwrap();
        assert_eq!(
            repaired.found,
            [
                "line 2 began a block that nothing ended; it is gone, with one line that was sharectl's; \
              what stood on line 4 may be yours and stays"
            ]
        );
    }

    #[test]
    fn an_end_without_a_line_break_gets_one_before_a_line_that_moves() {
        let repaired = repair(b"# BEGIN sharectl\nby hand\n# END sharectl", &known()).unwrap();
        assert_eq!(repaired.new, b"# BEGIN sharectl\n# END sharectl\nby hand\n");
    }

    #[test]
    fn bytes_that_are_no_text_stay() {
        let input = b"\xEF\xBB\xBF# END sharectl\r\ncaf\xE9 \0\r\nend";
        assert_eq!(
            repair(input, &known()).unwrap().new,
            b"\xEF\xBB\xBFcaf\xE9 \0\r\nend"
        );
        assert_eq!(repair(b"\xFF\xFE#\0", &known()), None);
    }

    proptest! {
        #[test]
        fn any_file_is_mended_once_and_no_line_of_others_is_lost(
            parts in proptest::collection::vec(0..9_usize, 0..40), cut in 0..3_usize,
        ) {
            let words: [&[u8]; 9] = [
                b"# BEGIN sharectl\n", b"# END sharectl\n", b"# BEGIN sharectl x\n", b"# END sharectl x\n",
                b"127.64.0.1\ta.test\n", b"10.0.0.1\tuser.test\n", b"10.0.0.1 by.hand alias\n", b"caf\xE9\n",
                b"# BEGIN sharectl of ours\n",
            ];
            let mut old: Vec<u8> = parts.iter().flat_map(|part| words[*part].to_vec()).collect();
            old.truncate(old.len().saturating_sub(cut));
            let new = repair(&old, &known()).map_or_else(|| old.clone(), |repaired| repaired.new);
            for tag in [Tag::plain(), Tag::parse("x").unwrap()] {
                prop_assert!(edit(&new, &BTreeMap::new(), &tag).is_ok());
            }
            prop_assert_eq!(repair(&new, &known()), None, "mended twice");
            let count = |bytes: &[u8], word: &[u8]| {
                bytes.split(|byte| *byte == b'\n').filter(|line| *line == word).count()
            };
            for word in [&b"10.0.0.1 by.hand alias"[..], b"caf\xE9", b"# BEGIN sharectl of ours"] {
                prop_assert_eq!(count(&new, word), count(&old, word));
            }
        }
    }
}
