//! Old bytes of a hosts file + wanted names -> new bytes, or nothing to do, or a refusal. Pure.
//!
//! The file is bytes, never text. Ours is one block between two marker lines;
//! every byte outside it stays, be it a BOM, CRLF, Latin-1, a NUL or a missing
//! line break at the end. Where markers are damaged nothing is guessed: the
//! [`Refusal`] names the lines and the cure. Several writers may share one file,
//! each under its own [`Tag`]; a block of another tag is as foreign as a user's line.
//!
//! ```text
//! # BEGIN sharectl                <- or `# BEGIN sharectl TAG`
//! # Kept by sharectl: ...
//! # (line break note)             <- only if the file had no line break at its end
//! 127.64.10.3<TAB>local.test      <- one name a line, by address and name
//! # END sharectl
//! ```
//! It does not know why a name is wanted (`table.rs`) nor how a file is written (`writer.rs`).
//! Format of the rest: `hosts(5)`.

mod markers;
mod repair;
mod restore;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::net::IpAddr;

use control::names::HostName;
use serde::{Deserialize, Serialize};

pub use repair::{Known, Repaired, repair};
pub use restore::{fingerprint, restored};

use markers::Block;

/// Whose block it is, where several writers share one file: 1 to 32 lower-case
/// letters, digits, `.`, `_` and `-`. The plain tag has no text.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Tag(String);

/// A text that is no tag.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("tag {0:?} may only have 1 to 32 lower-case letters, digits, '.', '_' and '-'")]
pub struct BadTag(String);

impl Tag {
    /// The tag of blocks that say just `sharectl`.
    #[must_use]
    pub fn plain() -> Self {
        Self::default()
    }

    /// The tag as text; empty for the plain one.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Checks `text`.
    ///
    /// # Errors
    /// When it is empty, too long or has another character.
    pub fn parse(text: &str) -> Result<Self, BadTag> {
        if markers::is_tag(text.as_bytes()) {
            Ok(Self(text.to_owned()))
        } else {
            Err(BadTag(text.chars().take(64).collect()))
        }
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What shall become of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edit {
    /// The whole new content; `None` when the file is right as it is.
    pub new: Option<Vec<u8>>,
    /// Wanted names that stand in the block now, or will.
    pub written: BTreeMap<HostName, IpAddr>,
    /// Wanted names that the file gives an address elsewhere; they are not shadowed.
    pub left_out: Vec<LeftOut>,
}

/// A wanted name that a foreign line of the file already has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    /// The name.
    pub name: HostName,
    /// The first line that has it, from 1.
    pub line: usize,
    /// The first field of that line, as text for people.
    pub address: String,
}

/// Why a file is left alone. Line numbers count from 1.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// An END that closes nothing.
    #[error("line {line} ends a sharectl block that never began")]
    EndWithoutBegin {
        /// The END line.
        line: usize,
    },
    /// A BEGIN that nothing closes.
    #[error("line {line} begins a sharectl block that never ends")]
    BeginWithoutEnd {
        /// The BEGIN line.
        line: usize,
    },
    /// A BEGIN inside a block.
    #[error("line {second} begins a sharectl block inside the one from line {first}")]
    BeginInside {
        /// The BEGIN of the open block.
        first: usize,
        /// The BEGIN inside it.
        second: usize,
    },
    /// An END with another tag than its BEGIN.
    #[error("line {end} ends another sharectl block than line {begin} began")]
    OtherEnd {
        /// The BEGIN line.
        begin: usize,
        /// The END line.
        end: usize,
    },
    /// Two whole blocks of one tag.
    #[error("two sharectl blocks with the same name: lines {first} and {second}")]
    TwoBlocks {
        /// The BEGIN of the first.
        first: usize,
        /// The BEGIN of the second.
        second: usize,
    },
    /// Two bytes a character: our bytes would be noise in it.
    #[error("the file is UTF-16, hosts files are bytes in ASCII or a superset of it")]
    Utf16,
}

impl Refusal {
    /// What to do by hand.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::EndWithoutBegin { line } => {
                format!("remove line {line}, and the lines above it that belonged to the block")
            }
            Self::BeginWithoutEnd { line } => {
                format!("remove line {line}, and the lines below it that belonged to the block")
            }
            Self::BeginInside { first, second } => format!(
                "remove line {first} and those of the lines {} to {} that belonged to its block",
                first + 1,
                second - 1
            ),
            Self::OtherEnd { begin, end } => {
                format!("remove the lines {begin} to {end}, but keep what is yours between them")
            }
            Self::TwoBlocks { second, .. } => {
                format!("remove the block that begins on line {second}, up to its END line")
            }
            Self::Utf16 => "save the file as UTF-8".to_owned(),
        }
    }
}

/// Says what the file must become so that the block of `tag` has just `wanted`.
///
/// Applying it twice is applying it once. With nothing to write the block goes,
/// and the file is byte for byte what it was before the block first came.
///
/// # Errors
/// [`Refusal`] when the markers of any tag are damaged or the file is UTF-16.
pub fn edit(old: &[u8], wanted: &BTreeMap<HostName, IpAddr>, tag: &Tag) -> Result<Edit, Refusal> {
    if markers::is_utf16(old) {
        return Err(Refusal::Utf16);
    }
    let block = markers::find(old, tag.0.as_bytes())?;
    let foreign = block.as_ref().map_or((old, &[][..], 0), |block| {
        (&old[..block.start], &old[block.end..], block.end_line)
    });
    // Most names of a long file are nobody's business: only those that could be wanted are looked at closely.
    let texts: HashSet<&[u8]> = wanted.keys().map(|name| name.as_str().as_bytes()).collect();
    let could_be = |field: &[u8]| {
        let field = field.strip_suffix(b".").unwrap_or(field);
        if field.iter().any(u8::is_ascii_uppercase) {
            texts.contains(field.to_ascii_lowercase().as_slice())
        } else {
            texts.contains(field)
        }
    };
    let taken = names_in(foreign.0, 0, &could_be)
        .chain(names_in(foreign.1, foreign.2, &could_be))
        .filter(|taken| wanted.contains_key(&taken.name));
    let mut left_out: BTreeMap<HostName, LeftOut> = BTreeMap::new();
    for one in taken {
        // The file's first line for a name is the one that resolvers take.
        left_out.entry(one.name.clone()).or_insert(one);
    }
    let written: BTreeMap<HostName, IpAddr> = wanted
        .iter()
        .filter(|(name, _)| !left_out.contains_key(*name))
        .map(|(name, address)| (name.clone(), *address))
        .collect();

    let new = match block {
        None if written.is_empty() => None,
        None => Some(appended(old, &written, tag)),
        Some(block) if written.is_empty() => Some(removed(old, &block)),
        Some(block) => Some(replaced(old, &block, &written, tag)),
    };
    Ok(Edit {
        new: new.filter(|new| new != old),
        written,
        left_out: left_out.into_values().collect(),
    })
}

/// The names that stand in the block of `tag` now; none where the markers are damaged.
#[must_use]
pub fn present(bytes: &[u8], tag: &Tag) -> BTreeMap<HostName, IpAddr> {
    let Ok(Some(block)) = markers::find(bytes, tag.0.as_bytes()) else {
        return BTreeMap::new();
    };
    let inside = bytes.get(block.start..block.end).unwrap_or_default();
    names_in(inside, 0, &|_| true)
        .filter_map(|line| Some((line.name, line.address.parse().ok()?)))
        .collect()
}

/// The tags that begin a block, in the order of the file; for counting and looking, so damage is no matter.
#[must_use]
pub fn tags(bytes: &[u8]) -> Vec<Tag> {
    let begun = markers::begun(bytes);
    let text = |tag: &[u8]| Tag(String::from_utf8_lossy(tag).into_owned());
    begun.map(text).collect()
}

/// The names on the lines of `bytes` that pass `is_meant`, lower-cased; `offset` lines come before them.
fn names_in<'a>(
    bytes: &'a [u8],
    offset: usize,
    is_meant: &'a impl Fn(&[u8]) -> bool,
) -> impl Iterator<Item = LeftOut> + 'a {
    bytes
        .split(|byte| *byte == b'\n')
        .enumerate()
        .flat_map(move |(index, line)| {
            let line = line.strip_prefix(markers::BOM).unwrap_or(line);
            let code = line.split(|byte| *byte == b'#').next().unwrap_or_default();
            let mut fields = code
                .split(|byte| byte.is_ascii_whitespace())
                .filter(|field| !field.is_empty());
            let address = fields.next().unwrap_or_default();
            // What is no valid name cannot be wanted, so it cannot be shadowed.
            fields
                .filter(|field| is_meant(field))
                .filter_map(|field| HostName::parse(std::str::from_utf8(field).ok()?).ok())
                .map(move |name| LeftOut {
                    name,
                    line: offset + index + 1,
                    address: String::from_utf8_lossy(address).into_owned(),
                })
                .collect::<Vec<_>>()
        })
}

fn appended(old: &[u8], written: &BTreeMap<HostName, IpAddr>, tag: &Tag) -> Vec<u8> {
    let break_bytes = markers::first_break(old);
    let body = old.strip_prefix(markers::BOM).unwrap_or(old);
    let unended = !body.is_empty() && !body.ends_with(b"\n");
    let mut new = old.to_vec();
    if unended {
        new.extend_from_slice(break_bytes);
    }
    markers::render(&mut new, written, tag.0.as_str(), break_bytes, unended);
    new
}

fn replaced(old: &[u8], block: &Block, written: &BTreeMap<HostName, IpAddr>, tag: &Tag) -> Vec<u8> {
    let (before, after) = (&old[..block.start], &old[block.end..]);
    // A line that came after the block needs the break, so it is no longer ours to take back.
    let unended = block.unended && after.is_empty();
    let mut new = before.to_vec();
    markers::render(
        &mut new,
        written,
        tag.0.as_str(),
        block.break_bytes,
        unended,
    );
    new.extend_from_slice(after);
    new
}

fn removed(old: &[u8], block: &Block) -> Vec<u8> {
    let (mut before, after) = (&old[..block.start], &old[block.end..]);
    if block.unended && after.is_empty() {
        before = before.strip_suffix(block.break_bytes).unwrap_or(before);
    }
    [before, after].concat()
}
