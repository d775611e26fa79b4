//! Short texts in shared memory: handles and names of nodes that have no descriptor.
//!
//! A text is a chain of pieces of one size, so that nothing is ever too scattered to be used again. Which pieces are
//! free is written nowhere: a worker that takes the memory over finds it from the rows that lead to texts. So there
//! is nothing that a death could leave half done: a chain is whole before a row leads to it, and used again only
//! when none does any more.

use std::sync::atomic::{AtomicU64, Ordering};

use super::fault;

/// Words of a piece: one that leads to the next, and three of text.
pub(super) const PIECE: usize = 4;
const TEXT: usize = (PIECE - 1) * 8;
/// Room for four pieces a node.
pub(super) const MOST_PIECES: usize = 1 << 26;

/// Which pieces of a memory are free.
#[derive(Debug, Default)]
pub(super) struct Pieces {
    free: Vec<u32>,
    /// All from here on are free, too.
    end: u32,
}

/// A word that leads to a text. From its low end: 32 bits of the first piece and one, 16 of length in bytes, 8 that are
/// the writer's. 0 leads nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lead(u64);

impl Lead {
    pub(super) const NOWHERE: Self = Self(0);

    pub(super) fn of(word: u64) -> Self {
        Self(word)
    }

    pub(super) fn word(self) -> u64 {
        self.0
    }

    pub(super) fn mark(self) -> u8 {
        self.0.to_le_bytes()[6]
    }

    fn first(self) -> Option<u32> {
        piece_of(self.0)
    }

    fn length(self) -> usize {
        usize::from(u16::try_from(self.0 >> 32 & 0xffff).unwrap_or_default())
    }

    /// The pieces of its chain. One that leads outside of the memory ends it. A piece is looked into only for the
    /// next one: who gives a short text back touches no memory of it.
    fn chain(self, words: &[AtomicU64]) -> impl Iterator<Item = (u32, &[AtomicU64])> {
        let mut before: Option<&[AtomicU64]> = None;
        (0..self.length().div_ceil(TEXT)).map_while(move |_| {
            let piece = match before {
                Some(before) => piece_of(before[0].load(Ordering::Relaxed))?,
                None => self.first()?,
            };
            let here = piece_in(words, piece)?;
            before = Some(here);
            Some((piece, here))
        })
    }

    /// Whether it leads to that text.
    pub(super) fn says(self, words: &[AtomicU64], mark: u8, text: &[u8]) -> bool {
        let parts = text.chunks(TEXT);
        let is_long = self.mark() == mark && self.length() == text.len();
        is_long
            && self.chain(words).zip(parts).all(|((_, piece), part)| {
                let words = piece[1..].iter().zip(part.chunks(8));
                words
                    .into_iter()
                    .all(|(word, bytes)| word.load(Ordering::Relaxed) == super::packed(bytes))
            })
    }

    /// The text. None where the chain is broken: no row leads to such, unless somebody else wrote the memory.
    pub(super) fn read(self, words: &[AtomicU64]) -> Option<Vec<u8>> {
        self.first()?;
        let mut text = Vec::with_capacity(self.length());
        for (_, piece) in self.chain(words) {
            for word in &piece[1..] {
                let bytes = word.load(Ordering::Relaxed).to_le_bytes();
                let rest = self.length() - text.len();
                text.extend_from_slice(&bytes[..rest.min(bytes.len())]);
            }
        }
        (text.len() == self.length()).then_some(text)
    }
}

fn piece_of(word: u64) -> Option<u32> {
    u32::try_from(word & 0xffff_ffff).ok()?.checked_sub(1)
}

fn piece_in(words: &[AtomicU64], piece: u32) -> Option<&[AtomicU64]> {
    let start = usize::try_from(piece).ok()?.checked_mul(PIECE)?;
    words.get(start..start + PIECE)
}

impl Pieces {
    /// Those of a memory in which these lead to texts.
    pub(super) fn left(words: &[AtomicU64], leads: impl Iterator<Item = Lead>) -> Self {
        let mut used = Vec::new();
        for lead in leads {
            for (piece, _) in lead.chain(words) {
                let piece = piece as usize;
                if used.len() <= piece {
                    used.resize(piece + 1, false);
                }
                used[piece] = true;
            }
        }
        let places = (0..).zip(&used);
        Self {
            free: places
                .filter_map(|(piece, used)| (!used).then_some(piece))
                .collect(),
            end: u32::try_from(used.len()).unwrap_or(u32::MAX),
        }
    }

    /// Writes a text down, to which nothing leads yet. None: there is no room.
    pub(super) fn put(&mut self, words: &[AtomicU64], mark: u8, text: &[u8]) -> Option<Lead> {
        let length = u16::try_from(text.len()).ok()?;
        // From the last piece to the first, so that each knows its next.
        let mut next = 0;
        for part in text.chunks(TEXT).rev() {
            let Some((piece, here)) = self.take(words) else {
                self.give_back(words, Lead(next | u64::from(length) << 32));
                return None;
            };
            fault::store(&here[0], next);
            for (word, bytes) in here[1..].iter().zip(part.chunks(8)) {
                fault::store(word, super::packed(bytes));
            }
            next = u64::from(piece) + 1;
        }
        Some(Lead(next | u64::from(length) << 32 | u64::from(mark) << 48))
    }

    fn take<'w>(&mut self, words: &'w [AtomicU64]) -> Option<(u32, &'w [AtomicU64])> {
        let piece = match self.free.pop() {
            Some(piece) => piece,
            None => {
                let piece = self.end;
                piece_in(words, piece)?;
                self.end += 1;
                piece
            }
        };
        Some((piece, piece_in(words, piece)?))
    }

    /// Nothing leads to it any more.
    pub(super) fn give_back(&mut self, words: &[AtomicU64], lead: Lead) {
        self.free.extend(lead.chain(words).map(|(piece, _)| piece));
    }

    #[cfg(test)]
    pub(super) fn used(&self) -> usize {
        self.end as usize - self.free.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory(pieces: usize) -> Vec<AtomicU64> {
        (0..pieces * PIECE).map(|_| AtomicU64::new(0)).collect()
    }

    #[test]
    fn texts_of_any_length_are_read_as_they_were_written_and_their_room_is_used_again() {
        let words = memory(40);
        let mut pieces = Pieces::default();
        for _ in 0..3 {
            let texts: Vec<Vec<u8>> = [1, 24, 25, 255]
                .map(|length| vec![length; length.into()])
                .into();
            let leads: Vec<Lead> = (0..)
                .zip(&texts)
                .map(|(mark, text)| pieces.put(&words, mark, text).unwrap())
                .collect();
            for (mark, (lead, text)) in (0..).zip(leads.iter().zip(&texts)) {
                assert_eq!((lead.mark(), lead.read(&words)), (mark, Some(text.clone())));
                assert!(lead.says(&words, mark, text) && !lead.says(&words, 9, text));
                let other = [&text[1..], b"x"].concat();
                assert!(!lead.says(&words, mark, &other) && !lead.says(&words, mark, &text[1..]));
            }
            assert_eq!(pieces.used(), 1 + 1 + 2 + 11);
            leads
                .iter()
                .for_each(|lead| pieces.give_back(&words, *lead));
            assert_eq!(pieces.used(), 0);
        }
        assert_eq!(Lead::NOWHERE.read(&words), None);
    }

    #[test]
    fn what_does_not_fit_takes_nothing() {
        let words = memory(3);
        let mut pieces = Pieces::default();
        let kept = pieces.put(&words, 0, b"here").unwrap();
        assert_eq!(pieces.put(&words, 0, &[7; 73]), None);
        assert_eq!(pieces.used(), 1);
        assert!(pieces.put(&words, 0, &[7; 48]).is_some());
        assert_eq!(kept.read(&words).as_deref(), Some(&b"here"[..]));
    }

    #[test]
    fn what_no_row_leads_to_is_free_to_the_next_worker() {
        let words = memory(20);
        let mut pieces = Pieces::default();
        let [a, b, c] = [30, 60, 10].map(|length| pieces.put(&words, 0, &vec![1; length]).unwrap());
        let mut next = Pieces::left(&words, [a, c].into_iter());
        assert_eq!(next.used(), 3);
        let again = next.put(&words, 0, &[2; 72]).unwrap();
        assert_eq!(next.used(), 6);
        assert_eq!(again.read(&words), Some(vec![2; 72]));
        assert_eq!(a.read(&words), Some(vec![1; 30]));
        assert_eq!(c.read(&words), Some(vec![1; 10]));
        assert_ne!(b.read(&words), Some(vec![1; 60]), "its room was used again");
        // Nobody writes such; it must not be followed out of the memory.
        assert_eq!(Lead::of(u64::MAX).read(&words), None);
    }
}
