//! The marker lines of the managed block: finding them in bytes and writing them.
//!
//! A marker is a whole line: `# BEGIN sharectl` or `# END sharectl`, then at most
//! one tag, then at most blanks. Anything else is a comment of somebody else's.

use std::collections::BTreeMap;
use std::net::IpAddr;

use control::names::HostName;

use super::Refusal;

/// UTF-8's byte order mark, as Windows' editors write it.
pub(super) const BOM: &[u8] = b"\xEF\xBB\xBF";

const BEGIN: &[u8] = b"# BEGIN sharectl";
const END: &[u8] = b"# END sharectl";
pub(super) const WARNING: &str = "# Kept by sharectl: a change between these two lines is lost. \
                       `sharectl host ls` says where a name comes from.";
const UNENDED: &str =
    "# The file had no line break at its end; it goes back to that with this block.";
const TAG_LIMIT: usize = 32;

/// One whole block of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Block {
    /// Offset of the BEGIN line's first byte (after a BOM).
    pub(super) start: usize,
    /// Offset behind the END line and its line break.
    pub(super) end: usize,
    /// The number of the END line, from 1.
    pub(super) end_line: usize,
    /// The line break that the block is written with.
    pub(super) break_bytes: &'static [u8],
    /// Whether the break before the block is ours to take back.
    pub(super) unended: bool,
}

/// A marker line, with its tag.
pub(super) enum Marker<'a> {
    Begin(&'a [u8]),
    End(&'a [u8]),
}

struct Open<'a> {
    tag: &'a [u8],
    line: usize,
    start: usize,
    break_bytes: &'static [u8],
    unended: bool,
}

/// Finds the block of `tag`, after checking the markers of every tag.
pub(super) fn find(bytes: &[u8], tag: &[u8]) -> Result<Option<Block>, Refusal> {
    let mut open: Option<Open<'_>> = None;
    let mut seen: BTreeMap<&[u8], usize> = BTreeMap::new();
    let mut found = None;
    let mut offset = 0;
    for (index, raw) in bytes.split_inclusive(|byte| *byte == b'\n').enumerate() {
        let line = index + 1;
        let mut start = offset;
        offset += raw.len();
        let mut text = raw;
        if index == 0 && raw.starts_with(BOM) {
            text = &raw[BOM.len()..];
            start += BOM.len();
        }
        match (marker(text), open.take()) {
            (None, None) => {}
            (None, Some(mut block)) => {
                block.unended |= trimmed(text) == UNENDED.as_bytes();
                open = Some(block);
            }
            (Some(Marker::Begin(tag)), None) => {
                if let Some(first) = seen.insert(tag, line) {
                    return Err(Refusal::TwoBlocks {
                        first,
                        second: line,
                    });
                }
                let break_bytes = own_break(text);
                open = Some(Open {
                    tag,
                    line,
                    start,
                    break_bytes,
                    unended: false,
                });
            }
            (Some(Marker::Begin(_)), Some(block)) => {
                return Err(Refusal::BeginInside {
                    first: block.line,
                    second: line,
                });
            }
            (Some(Marker::End(_)), None) => return Err(Refusal::EndWithoutBegin { line }),
            (Some(Marker::End(end)), Some(block)) if end != block.tag => {
                return Err(Refusal::OtherEnd {
                    begin: block.line,
                    end: line,
                });
            }
            (Some(Marker::End(end)), Some(block)) => {
                if end == tag {
                    found = Some(Block {
                        start: block.start,
                        end: offset,
                        end_line: line,
                        break_bytes: block.break_bytes,
                        unended: block.unended,
                    });
                }
            }
        }
    }
    match open {
        Some(block) => Err(Refusal::BeginWithoutEnd { line: block.line }),
        None => Ok(found),
    }
}

/// The tags of all BEGIN lines.
pub(super) fn begun(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let body = bytes.strip_prefix(BOM).unwrap_or(bytes);
    let lines = body.split_inclusive(|byte| *byte == b'\n');
    lines.filter_map(|line| match marker(line)? {
        Marker::Begin(tag) => Some(tag),
        Marker::End(_) => None,
    })
}

/// The lines that are in no block; for bytes whose markers are whole.
pub(super) fn outside(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut inside = false;
    let lines = bytes.split_inclusive(|byte| *byte == b'\n');
    lines.filter(move |line| {
        let text = line.strip_prefix(BOM).unwrap_or(line);
        match marker(text) {
            Some(Marker::Begin(_)) => {
                inside = true;
                false
            }
            Some(Marker::End(_)) => {
                inside = false;
                false
            }
            None => !inside,
        }
    })
}

/// Whether the line is one of the comments that stand in a block.
pub(super) fn is_own_comment(line: &[u8]) -> bool {
    let text = trimmed(line);
    text == WARNING.as_bytes() || text == UNENDED.as_bytes()
}

/// Appends the block to `out`, every line with `break_bytes`.
pub(super) fn render(
    out: &mut Vec<u8>,
    written: &BTreeMap<HostName, IpAddr>,
    tag: &str,
    break_bytes: &[u8],
    unended: bool,
) {
    let mut line = |parts: &[&[u8]]| {
        for part in parts {
            out.extend_from_slice(part);
        }
        out.extend_from_slice(break_bytes);
    };
    let space: &[u8] = if tag.is_empty() { b"" } else { b" " };
    line(&[BEGIN, space, tag.as_bytes()]);
    line(&[WARNING.as_bytes()]);
    if unended {
        line(&[UNENDED.as_bytes()]);
    }
    let mut lines: Vec<(&IpAddr, &HostName)> = written
        .iter()
        .map(|(name, address)| (address, name))
        .collect();
    lines.sort();
    for (address, name) in lines {
        line(&[
            address.to_string().as_bytes(),
            b"\t",
            name.as_str().as_bytes(),
        ]);
    }
    line(&[END, space, tag.as_bytes()]);
}

/// The break of the file's first ended line; LF where there is none.
pub(super) fn first_break(bytes: &[u8]) -> &'static [u8] {
    bytes
        .split_inclusive(|byte| *byte == b'\n')
        .next()
        .map_or(b"\n", own_break)
}

/// Whether the bytes are UTF-16: its byte order mark and the NULs of its ASCII half.
pub(super) fn is_utf16(bytes: &[u8]) -> bool {
    (bytes.starts_with(b"\xFF\xFE") || bytes.starts_with(b"\xFE\xFF")) && bytes.contains(&0)
}

/// Whether `text` can be a tag.
pub(super) fn is_tag(text: &[u8]) -> bool {
    (1..=TAG_LIMIT).contains(&text.len())
        && text
            .iter()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(byte))
}

fn own_break(line: &[u8]) -> &'static [u8] {
    if line.ends_with(b"\r\n") {
        b"\r\n"
    } else {
        b"\n"
    }
}

/// A line without its break and the blanks before it.
fn trimmed(line: &[u8]) -> &[u8] {
    line.trim_ascii_end()
}

pub(super) fn marker(line: &[u8]) -> Option<Marker<'_>> {
    let line = trimmed(line);
    let (rest, kind): (_, fn(&[u8]) -> Marker<'_>) = match line.strip_prefix(BEGIN) {
        Some(rest) => (rest, |tag| Marker::Begin(tag)),
        None => (line.strip_prefix(END)?, |tag| Marker::End(tag)),
    };
    match rest.split_first() {
        None => Some(kind(b"")),
        Some((b' ', tag)) if is_tag(tag) => Some(kind(tag)),
        Some(_) => None,
    }
}
