//! One name against one step of a pattern. Time is bounded by the two lengths multiplied.

use super::Piece;
use crate::fold;

/// Whether letters that differ only in case are one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Letters {
    /// They are two.
    Exact,
    /// They are one.
    Folded,
}

/// Whether the whole `name` is what `pieces` describe.
pub(super) fn matches(pieces: &[Piece], name: &[u8], letters: Letters) -> bool {
    let (mut piece, mut at) = (0, 0);
    // Where to go on when what follows the last `*` does not fit: it takes one character more.
    let mut retry = None;
    loop {
        let fits = match (pieces.get(piece), name.get(at..)) {
            (None, Some([]) | None) => return true,
            (Some(Piece::Run), _) => {
                retry = Some((piece, at));
                piece += 1;
                continue;
            }
            (None, Some(_)) | (Some(_), Some([]) | None) => None,
            (Some(one), Some(rest)) => {
                let (character, length) = first(rest);
                is_one(one, character, letters).then_some(length)
            }
        };
        match (fits, retry) {
            (Some(length), _) => {
                piece += 1;
                at += length;
            }
            (None, Some((run, start))) if start < name.len() => {
                let start = start + first(&name[start..]).1;
                retry = Some((run, start));
                piece = run + 1;
                at = start;
            }
            (None, _) => return false,
        }
    }
}

/// The first character and its length in bytes; a byte that is none is taken alone, and is no character.
fn first(bytes: &[u8]) -> (Option<char>, usize) {
    let valid = match std::str::from_utf8(&bytes[..bytes.len().min(4)]) {
        Ok(text) => text,
        Err(error) => std::str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or_default(),
    };
    match valid.chars().next() {
        Some(character) => (Some(character), character.len_utf8()),
        None => (None, 1),
    }
}

fn is_one(piece: &Piece, character: Option<char>, letters: Letters) -> bool {
    let same = |one: char, other: char| match letters {
        Letters::Exact => one == other,
        Letters::Folded => fold::character(one) == fold::character(other),
    };
    match piece {
        Piece::Any | Piece::Run => true,
        Piece::Character(wanted) => character.is_some_and(|is| same(is, *wanted)),
        Piece::Class { negated, ranges } => {
            let among = |is: char| {
                ranges
                    .iter()
                    .any(|(first, last)| (*first..=*last).contains(&is))
            };
            let found = character.is_some_and(|is| match letters {
                Letters::Exact => among(is),
                Letters::Folded => {
                    among(is) || among(fold::character(is)) || is.to_uppercase().all(among)
                }
            });
            found != *negated
        }
    }
}
