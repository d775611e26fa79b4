//! What a guest's kernel may remember of a share, and what that costs when the host changes it too.
//!
//! | policy | names and attributes | file contents | for |
//! |---|---|---|---|
//! | never  | asked every time | not kept; shared writable mappings only on Linux 6.6 and later | folders that the host changes all the time and must be seen at once |
//! | auto   | good for one second | kept while open, dropped at the next open and when size or time of change differ | work on both sides: the default |
//! | always | good for a day, missing names too | kept | folders that only this guest changes: a change made on the host may go unseen until the guest forgets |

use std::time::Duration;

use super::reply::Validity;
use super::wire::open_flag;

/// The share's choice; see the table above.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cache {
    Never,
    Auto,
    Always,
}

/// `auto`: the longest time that a change on the host stays unseen.
const AUTO: Duration = Duration::from_secs(1);
/// `always`: long enough to be for ever to a build, short enough for a laptop that sleeps.
const ALWAYS: Duration = Duration::from_secs(24 * 60 * 60);

impl Cache {
    pub(crate) fn validity(self) -> Validity {
        let time = match self {
            Self::Never => Duration::ZERO,
            Self::Auto => AUTO,
            Self::Always => ALWAYS,
        };
        Validity {
            entry: time,
            attributes: time,
        }
    }

    /// Whether the guest may remember that a name is missing. With `auto` it may not: a file that the
    /// host has just made would be missing for a second, and programs that wait for it would fail.
    pub(crate) fn remembers_missing(self) -> bool {
        self == Self::Always
    }

    /// Whether contents may be kept at all between INIT's abilities.
    pub(crate) fn keeps_contents(self) -> bool {
        self != Self::Never
    }

    /// FOPEN_* for a file.
    pub(crate) fn file_flags(self) -> u32 {
        match self {
            Self::Never => open_flag::DIRECT_IO,
            Self::Auto => 0,
            Self::Always => open_flag::KEEP_CACHE,
        }
    }

    /// FOPEN_* for a directory.
    pub(crate) fn directory_flags(self) -> u32 {
        match self {
            Self::Never | Self::Auto => 0,
            Self::Always => open_flag::KEEP_CACHE | open_flag::CACHE_DIR,
        }
    }
}
