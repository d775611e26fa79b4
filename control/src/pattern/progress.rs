//! How far the patterns of one list have come on the way down from the share's folder, one name a step.

use super::glob::{self, Letters};
use super::{MOST_STEPS, PathPattern, Step};

/// How far the patterns of one list have come: a bit for each step that may come next.
pub type Progress = u128;
const _: () = assert!(MOST_STEPS <= 128, "a bit for each step of a list");

/// What a name leads to, as far as patterns look at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leads {
    /// A folder, which patterns with a slash at their end mean, too.
    ToFolder,
    /// Anything else.
    ToFile,
}

/// The share's own folder. Lists have at most [`MOST_STEPS`] steps; what is beyond never matches.
#[must_use]
pub fn start(patterns: &[PathPattern]) -> Progress {
    let (mut progress, mut first) = (0, 0);
    for pattern in patterns {
        progress |= enter(pattern, first, 0);
        first += pattern.steps.len();
    }
    progress
}

/// The progress behind `name`, and what the last pattern says that it ends.
#[must_use]
pub fn advance(
    patterns: &[PathPattern],
    progress: Progress,
    (name, leads): (&[u8], Leads),
    letters: Letters,
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
                Step::Name(pieces) if !glob::matches(pieces, name, letters) => {}
                Step::Name(_) if index + 1 < pattern.steps.len() => {
                    next |= enter(pattern, first, index + 1);
                }
                Step::Name(_) if pattern.folders_only && leads != Leads::ToFolder => {}
                Step::Name(_) => said = Some(!pattern.negated),
            }
        }
        first += pattern.steps.len();
    }
    (next, said)
}

/// Whether a list hides what these names lead to, from the share's folder downwards, or a folder on the way: all but
/// the last are folders.
#[must_use]
pub fn hides<'n>(
    patterns: &[PathPattern],
    names: impl IntoIterator<Item = &'n [u8]>,
    last: Leads,
    letters: Letters,
) -> bool {
    let mut progress = start(patterns);
    let mut names = names.into_iter().peekable();
    while let Some(name) = names.next() {
        let leads = if names.peek().is_some() {
            Leads::ToFolder
        } else {
            last
        };
        let (next, said) = advance(patterns, progress, (name, leads), letters);
        if said == Some(true) {
            return true;
        }
        progress = next;
    }
    false
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_on_the_way_hides_what_is_below() {
        let list: Vec<PathPattern> = ["node_modules", "!keep", "out/", "/a/*.log", "!a/b.log"]
            .iter()
            .map(|text| text.parse().unwrap())
            .collect();
        for (path, last, letters, hidden) in [
            ("x/node_modules", Leads::ToFile, Letters::Exact, true),
            ("node_modules/x/y", Leads::ToFile, Letters::Exact, true),
            ("Node_Modules/x", Leads::ToFile, Letters::Exact, false),
            ("Node_Modules/x", Leads::ToFile, Letters::Folded, true),
            ("x/out", Leads::ToFile, Letters::Exact, false),
            ("x/out", Leads::ToFolder, Letters::Exact, true),
            ("out/x", Leads::ToFile, Letters::Exact, true),
            ("a/c.log", Leads::ToFile, Letters::Exact, true),
            ("a/b.log", Leads::ToFile, Letters::Exact, false),
            ("b/a/c.log", Leads::ToFile, Letters::Exact, false),
        ] {
            let names = path.split('/').map(str::as_bytes);
            assert_eq!(hides(&list, names, last, letters), hidden, "{path}");
        }
        assert!(!hides(&list, [], Leads::ToFolder, Letters::Exact));
    }
}
