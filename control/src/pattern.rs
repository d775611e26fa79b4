//! Patterns for places in a share, as they are written: `node_modules`, `.git/objects/**`, `!keep.log`.
//!
//! Words and meaning are those of gitignore(5). Patterns are read and shown here; [`progress`] follows them down
//! the folders, for sharefs' `tree/places` and for paths as text.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Serialize, Serializer};

mod glob;
pub mod progress;

pub use glob::Letters;

/// Bytes of one pattern: PATH_MAX of Linux, beyond which no place has a path.
const LONGEST: usize = 4096;
/// Steps of one list of patterns, all its components together: what a place remembers has a fixed size.
pub const MOST_STEPS: usize = 128;

/// One pattern, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathPattern {
    text: String,
    /// `!`: what this matches is taken out again.
    pub negated: bool,
    /// A `/` at the end: only folders are meant.
    pub folders_only: bool,
    /// From the share's own folder downwards; never empty.
    pub steps: Vec<Step>,
}

/// What one step of a pattern stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// `**`: any number of folders, none too.
    AnyFolders,
    /// One name.
    Name(Vec<Piece>),
}

/// A piece of a name's pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// This character.
    Character(char),
    /// `?`: any one.
    Any,
    /// `*`: any number of any.
    Run,
    /// `[a-z]`: one of these; `[!a-z]`: any other.
    Class {
        /// Any one that is not among them.
        negated: bool,
        /// First and last of each range.
        ranges: Vec<(char, char)>,
    },
}

/// Why a text is no pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// Nothing that could name a place.
    #[error("\"{0}\" names no place: write a name or a path below the share, as \"node_modules\"")]
    Empty(String),
    /// `.` or `..`.
    #[error("\"{0}\": a part of it is . or .., which no name in a folder is")]
    Dots(String),
    /// `[` that nothing ends, or a `\` at the end.
    #[error("\"{0}\": {1}")]
    Open(String, &'static str),
    /// A NUL or a pattern beyond any path.
    #[error("\"{0}...\" is longer than 4096 bytes or holds a NUL")]
    Unusable(String),
}

impl FromStr for PathPattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        if text.len() > LONGEST || text.contains('\0') {
            return Err(PatternError::Unusable(
                text.chars().filter(|c| *c != '\0').take(40).collect(),
            ));
        }
        let shown = || text.escape_debug().to_string();
        let (negated, rest) = match text.strip_prefix('!') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (folders_only, rest) = match rest.strip_suffix('/') {
            Some(rest) => (true, rest),
            None => (false, rest),
        };
        // A slash that is not the last character fixes a pattern to the share's own folder.
        let anchored = rest.contains('/');
        let rest = rest.strip_prefix('/').unwrap_or(rest);
        let mut steps = Vec::new();
        if !anchored {
            steps.push(Step::AnyFolders);
        }
        for part in rest.split('/') {
            let step = match part {
                "" => return Err(PatternError::Empty(shown())),
                "." | ".." => return Err(PatternError::Dots(shown())),
                "**" => Step::AnyFolders,
                name => Step::Name(
                    pieces(name).map_err(|problem| PatternError::Open(shown(), problem))?,
                ),
            };
            // `**/**` says no more than `**`.
            if step != Step::AnyFolders || steps.last() != Some(&Step::AnyFolders) {
                steps.push(step);
            }
        }
        // `a/**` is everything inside `a`, and not `a` itself.
        if steps.last() == Some(&Step::AnyFolders) {
            steps.push(Step::Name(vec![Piece::Run]));
        }
        Ok(Self {
            text: text.to_owned(),
            negated,
            folders_only,
            steps,
        })
    }
}

/// One name's pattern; a run of `*` is one.
fn pieces(name: &str) -> Result<Vec<Piece>, &'static str> {
    let mut pieces = Vec::new();
    let mut rest = name.chars().peekable();
    while let Some(next) = rest.next() {
        let piece = match next {
            '*' if pieces.last() == Some(&Piece::Run) => continue,
            '*' => Piece::Run,
            '?' => Piece::Any,
            '[' => class(&mut rest)?,
            '\\' => Piece::Character(rest.next().ok_or("nothing stands behind the last \\")?),
            other => Piece::Character(other),
        };
        pieces.push(piece);
    }
    Ok(pieces)
}

/// What stands behind a `[`, up to its `]`; a `]` that comes first is one of the class.
fn class(rest: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Result<Piece, &'static str> {
    const OPEN: &str = "nothing closes a [; a [ of the name is written \\[";
    let negated = rest.next_if(|c| matches!(c, '!' | '^')).is_some();
    let mut ranges = Vec::new();
    loop {
        let first = match rest.next().ok_or(OPEN)? {
            ']' if !ranges.is_empty() => return Ok(Piece::Class { negated, ranges }),
            '\\' => rest.next().ok_or(OPEN)?,
            other => other,
        };
        let mut ahead = rest.clone();
        let is_range = ahead.next() == Some('-') && ahead.next().is_some_and(|c| c != ']');
        let mut last = first;
        if is_range {
            rest.next();
            last = match rest.next().ok_or(OPEN)? {
                '\\' => rest.next().ok_or(OPEN)?,
                other => other,
            };
        }
        if first > last {
            return Err("a range in [] ends before it starts");
        }
        ranges.push((first, last));
    }
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

impl Serialize for PathPattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl JsonSchema for PathPattern {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "PathPattern".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "minLength": 1,
            "examples": ["node_modules", ".git/objects/**", "!keep.log"],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Step {
        Step::Name(text.chars().map(Piece::Character).collect())
    }

    #[test]
    fn patterns_mean_what_gitignore_says() {
        let any = Step::AnyFolders;
        let inside = Step::Name(vec![Piece::Run]);
        for (text, negated, folders_only, steps) in [
            ("a", false, false, vec![any.clone(), name("a")]),
            ("!a/", true, true, vec![any.clone(), name("a")]),
            ("/a", false, false, vec![name("a")]),
            ("a/b", false, false, vec![name("a"), name("b")]),
            ("**/a", false, false, vec![any.clone(), name("a")]),
            (
                "a/**",
                false,
                false,
                vec![name("a"), any.clone(), inside.clone()],
            ),
            (
                "a/**/**/b/",
                false,
                true,
                vec![name("a"), any.clone(), name("b")],
            ),
            ("**", false, false, vec![any.clone(), inside]),
            (r"\!a\*", false, false, vec![any, name("!a*")]),
        ] {
            let read: PathPattern = text.parse().unwrap();
            assert_eq!(
                (read.negated, read.folders_only, &read.steps),
                (negated, folders_only, &steps),
                "{text}"
            );
            assert_eq!(read.to_string(), text);
        }
        let read: PathPattern = "x[!a-c\\]-]?**".parse().unwrap();
        let class = Piece::Class {
            negated: true,
            ranges: vec![('a', 'c'), (']', ']'), ('-', '-')],
        };
        let pieces = vec![Piece::Character('x'), class, Piece::Any, Piece::Run];
        assert_eq!(read.steps[1], Step::Name(pieces));
    }

    #[test]
    fn what_is_no_pattern_is_refused_with_its_text() {
        for text in [
            "", "/", "!", "!/", "a//b", "a/../b", "./a", "a/.", "[", "a[b", "[z-a]", "a\\", "[]",
            "[a-",
        ] {
            let error = text.parse::<PathPattern>().unwrap_err();
            assert!(
                error.to_string().contains(&text.escape_debug().to_string()),
                "{error}"
            );
        }
        assert!("a\0".parse::<PathPattern>().is_err());
        assert!("a".repeat(5000).parse::<PathPattern>().is_err());
    }
}
