//! The patterns of a share as a machine that is led down the folders, one name a step.
//!
//! A `Place` is all that matters of a path: how far each pattern has come. It has a fixed size, and equal
//! places mean equal rules for whatever is below, at any depth.

use control::pattern::progress::{Leads, Progress, advance, start};
use control::pattern::{Letters, PathPattern};

use crate::tree::Kind;

/// Both lists of a share.
#[derive(Debug)]
pub(crate) struct Rules {
    exclude: Vec<PathPattern>,
    read_only: Vec<PathPattern>,
    letters: Letters,
    /// All is frozen, whatever the patterns say.
    frozen: bool,
}

/// See the module's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    exclude: Progress,
    read_only: Progress,
    /// Nothing here can be changed.
    pub(super) frozen: bool,
}

impl Place {
    /// For a later process with the same rules.
    pub(super) fn as_words(self) -> ([u64; 4], bool) {
        let halves = |bits: Progress| {
            let low = u64::try_from(bits & Progress::from(u64::MAX)).unwrap_or_default();
            (low, u64::try_from(bits >> 64).unwrap_or_default())
        };
        let ((a, b), (c, d)) = (halves(self.exclude), halves(self.read_only));
        ([a, b, c, d], self.frozen)
    }

    pub(super) fn from_words([a, b, c, d]: [u64; 4], frozen: bool) -> Self {
        let whole = |low, high| Progress::from(low) | Progress::from(high) << 64;
        Self {
            exclude: whole(a, b),
            read_only: whole(c, d),
            frozen,
        }
    }
}

impl Rules {
    /// Lists of at most `MOST_STEPS` steps each; what is beyond would never match.
    pub(crate) fn new(
        exclude: Vec<PathPattern>,
        read_only: Vec<PathPattern>,
        letters: Letters,
    ) -> Self {
        Self {
            exclude,
            read_only,
            letters,
            frozen: false,
        }
    }

    /// The same, and nothing can be changed anywhere.
    pub(crate) fn frozen(self) -> Self {
        Self {
            read_only: Vec::new(),
            frozen: true,
            ..self
        }
    }

    /// Whether every place is like every other, and all may be changed.
    pub(super) fn are_none(&self) -> bool {
        self.exclude.is_empty() && self.read_only.is_empty() && !self.frozen
    }

    /// The share's own folder.
    pub(super) fn root(&self) -> Place {
        Place {
            exclude: start(&self.exclude),
            read_only: start(&self.read_only),
            frozen: self.frozen,
        }
    }

    /// One name further; None where it is excluded.
    pub(super) fn step(&self, from: Place, name: &[u8], kind: Kind) -> Option<Place> {
        let leads = match kind {
            Kind::Directory => Leads::ToFolder,
            Kind::File
            | Kind::SymbolicLink
            | Kind::BlockDevice
            | Kind::CharacterDevice
            | Kind::Fifo
            | Kind::Socket => Leads::ToFile,
        };
        let (exclude, excluded) = advance(&self.exclude, from.exclude, (name, leads), self.letters);
        if excluded == Some(true) {
            return None;
        }
        let (read_only, frozen) =
            advance(&self.read_only, from.read_only, (name, leads), self.letters);
        Some(Place {
            exclude,
            read_only,
            frozen: frozen.unwrap_or(from.frozen),
        })
    }
}
