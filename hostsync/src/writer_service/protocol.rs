//! What a client and the writer say to each other: one JSON value a line, each way, over a
//! unix stream socket. A request is answered before the next one is read.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use control::failure::Failure;
use control::names::HostName;
use serde::{Deserialize, Serialize};

use crate::section::{LeftOut, Tag};
use crate::writer::{How, Mended};

/// Where the writer listens. Not in `/run/sharectl`, which is a root daemon's own.
pub const SOCKET: &str = "/run/sharectl-hosts.sock";
/// Names the socket where it is not there; for tests.
pub const SOCKET_VARIABLE: &str = "SHARECTL_HOSTS_SOCKET";
/// Names that one block may have.
pub const MOST_NAMES: usize = 256;
/// The longest line: so many names, each with a long address.
pub const LONGEST: usize = 128 << 10;
/// The longest tag that a client may add to its user's.
pub const LONGEST_TAG: usize = 16;

/// What a client wants.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// To know what it may have.
    Hello,
    /// To know which of these names it would not get; nothing is written.
    Judge {
        /// The names.
        names: BTreeMap<HostName, IpAddr>,
    },
    /// That its block has just these names; with none, the block goes.
    Set {
        /// The file it means; the writer has one and refuses for any other.
        file: PathBuf,
        /// Which of the user's blocks, where several daemons of one user run.
        #[serde(default)]
        tag: String,
        /// The names.
        names: BTreeMap<HostName, IpAddr>,
    },
}

/// The writer's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "kebab-case")]
pub enum Answer {
    /// To [`Request::Hello`].
    Hello(Hello),
    /// To [`Request::Judge`].
    Judged {
        /// The names that it would not get.
        refused: Vec<Refused>,
    },
    /// To [`Request::Set`].
    Done(Done),
    /// Nothing was done.
    Refused(Failure),
}

/// What the writer is and what this client may have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Its version.
    pub version: String,
    /// The file it writes.
    pub file: PathBuf,
    /// The user that the kernel says the client is.
    pub uid: u32,
    /// What names this user may have.
    pub suffixes: Vec<HostName>,
    /// How long names stay when their client is gone, in seconds; none: until taken back.
    pub grace: Option<u64>,
    /// What it has counted since its start.
    pub counts: Counts,
}

/// Counters since the writer's start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Requests for names.
    pub sets: u64,
    /// Times that the file was changed.
    pub writes: u64,
    /// Names that were not given.
    pub names_refused: u64,
    /// Requests that were refused whole.
    pub refused: u64,
    /// Connections closed because of a bound: too many, too slow, too much.
    pub dropped: u64,
}

/// What became of a [`Request::Set`]. Names that are neither refused nor left out stand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// How the file was written.
    pub how: How,
    /// What an interrupted write had left.
    pub mended: Option<Mended>,
    /// Names that this user may not have.
    pub refused: Vec<Refused>,
    /// Names that the file has elsewhere: on a user's line, or in another user's block.
    pub left_out: Vec<LeftOut>,
    /// Whether the names go when the connection does.
    pub hold: bool,
}

/// A name that is not given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// The name.
    pub name: HostName,
    /// Why.
    pub why: String,
}

/// The tag of a user's block: `uid-1000`, or `uid-1000.TAG` for a daemon with a tag of its own.
///
/// # Errors
/// When the client's tag is too long or no tag.
pub fn block_tag(uid: u32, tag: &str) -> Result<Tag, Failure> {
    let bad = |why: String| {
        Failure::invalid(why).with_hint(format!(
            "give --tag at most {LONGEST_TAG} lower-case letters, digits, '.', '_' and '-'"
        ))
    };
    if tag.is_empty() {
        return Tag::parse(&format!("uid-{uid}")).map_err(|error| bad(error.to_string()));
    }
    if tag.len() > LONGEST_TAG {
        let shown: String = tag.chars().take(64).collect();
        return Err(bad(format!("tag {shown:?} is too long")));
    }
    Tag::parse(&format!("uid-{uid}.{tag}")).map_err(|error| bad(error.to_string()))
}

/// The user whose block has this tag, if it is one of the writer's.
#[must_use]
pub fn owner_of(tag: &str) -> Option<u32> {
    let rest = tag.strip_prefix("uid-")?;
    let number = rest.split('.').next().unwrap_or(rest);
    let uid: u32 = number.parse().ok()?;
    // "uid-01" and "uid-+1" are nobody's.
    (uid.to_string() == number).then_some(uid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_lead_back_to_their_user() {
        for (uid, tag) in [
            (0, ""),
            (1000, ""),
            (1000, "two"),
            (u32::MAX, "sixteen-letters."),
        ] {
            let block = block_tag(uid, tag).unwrap().to_string();
            assert_eq!(owner_of(&block), Some(uid), "{block}");
        }
        for tag in ["UPPER", "a b", "seventeen-letters", "\n"] {
            assert!(block_tag(1, tag).is_err(), "{tag:?}");
        }
        for tag in ["uid-", "uid-01", "uid-+1", "uid-4294967296", "user-1", ""] {
            assert_eq!(owner_of(tag), None, "{tag}");
        }
    }

    #[test]
    fn unknown_words_are_refused() {
        for text in [
            r#"{"do":"set","file":"/etc/hosts","names":{"a b":"127.0.0.1"}}"#,
            r#"{"do":"set","file":"/etc/hosts","names":{"a.test\n10.0.0.1 b":"127.0.0.1"}}"#,
            r#"{"do":"set","file":"/etc/hosts","names":{"a.test":"127.0.0.1\n"}}"#,
            r#"{"do":"set","file":"/etc/hosts","names":{},"uid":0}"#,
            r#"{"do":"restore"}"#,
            "{}",
        ] {
            assert!(serde_json::from_str::<Request>(text).is_err(), "{text}");
        }
    }
}
