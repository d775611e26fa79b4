//! The patterns of a share as a machine that is led down the folders, one name a step.
//!
//! A `Place` is all that matters of a path: how far each pattern has come. It has a fixed size, and equal
//! places mean equal rules for whatever is below, at any depth.

use control::pattern::{MOST_STEPS, PathPattern, Step};

use super::glob::{self, Letters};
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

/// How far the patterns of one list have come: a bit for each step that may come next.
type Progress = u128;
const _: () = assert!(MOST_STEPS <= 128, "a bit for each step of a list");

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
        let (exclude, excluded) = self.advance(&self.exclude, from.exclude, name, kind);
        if excluded == Some(true) {
            return None;
        }
        let (read_only, frozen) = self.advance(&self.read_only, from.read_only, name, kind);
        Some(Place {
            exclude,
            read_only,
            frozen: frozen.unwrap_or(from.frozen),
        })
    }

    /// The progress behind `name`, and what the last pattern says that it ends.
    fn advance(
        &self,
        patterns: &[PathPattern],
        progress: Progress,
        name: &[u8],
        kind: Kind,
    ) -> (Progress, Option<bool>) {
        let (mut next, mut said) = (0, None);
        let mut first = 0;
        for pattern in patterns {
            for (index, step) in pattern.steps.iter().enumerate() {
                if progress & bit(first + index) == 0 {
                    continue;
                }
                match step {
                    Step::AnyFolders => next |= enter(pattern, first, index),
                    Step::Name(pieces) if !glob::matches(pieces, name, self.letters) => {}
                    Step::Name(_) if index + 1 < pattern.steps.len() => {
                        next |= enter(pattern, first, index + 1);
                    }
                    Step::Name(_) if pattern.folders_only && kind != Kind::Directory => {}
                    Step::Name(_) => said = Some(!pattern.negated),
                }
            }
            first += pattern.steps.len();
        }
        (next, said)
    }
}

fn start(patterns: &[PathPattern]) -> Progress {
    let (mut progress, mut first) = (0, 0);
    for pattern in patterns {
        progress |= enter(pattern, first, 0);
        first += pattern.steps.len();
    }
    progress
}

/// The step at `index` comes next; where that may be no folder at all, the one behind it, too.
fn enter(pattern: &PathPattern, first: usize, index: usize) -> Progress {
    match pattern.steps.get(index) {
        Some(Step::AnyFolders) => bit(first + index) | bit(first + index + 1),
        Some(Step::Name(_)) => bit(first + index),
        None => 0,
    }
}

fn bit(index: usize) -> Progress {
    u32::try_from(index)
        .ok()
        .and_then(|index| 1_u128.checked_shl(index))
        .unwrap_or(0)
}
