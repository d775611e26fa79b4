//! Where facts come from: the configuration, netd, lease files, container engines, requests.
//!
//! Each source is followed by a task of its own that sends [`News`]; what it said last, and how
//! long that stands, is kept in [`book`]. Parsers are pure: bytes and the time in, facts out.

pub mod added;
mod again;
pub mod book;
pub mod config;
pub mod engine;
pub mod follow;
pub mod leases;
pub mod names;
pub mod netd;

use std::time::SystemTime;

use control::names::SourceName;

use crate::table::Fact;

/// The most names of one source; a file of more is the work of a broken or hostile client.
pub const MOST_FACTS: usize = 8192;

/// Reads the wall clock; the daemon's loop has the only one that does.
pub type Clock = fn() -> SystemTime;

/// What a source says.
#[derive(Debug)]
pub struct News {
    /// Which.
    pub source: SourceName,
    /// What.
    pub said: Said,
}

/// What a source says.
#[derive(Debug, PartialEq, Eq)]
pub enum Said {
    /// All of it, as it is now.
    Reading(Reading),
    /// It cannot be read, for this reason; what it said last stands for a while.
    Away(String),
}

/// All that a source knows at one time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reading {
    /// At most [`MOST_FACTS`].
    pub facts: Vec<Fact>,
    /// Entries that could not be used: broken, without a name that can be written, or too many.
    pub skipped: u64,
}

impl Reading {
    /// Cuts what is too much.
    #[must_use]
    pub fn bounded(mut self) -> Self {
        let over = self.facts.len().saturating_sub(MOST_FACTS);
        self.skipped = self.skipped.saturating_add(over as u64);
        self.facts.truncate(MOST_FACTS);
        self
    }
}
