//! The text of the configuration that is in force: a worker that follows another goes on with it where the file has
//! mistakes by then. Guests that wait for it cannot wait for whoever mends the file.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use super::{KEEP, MAGIC, Place, bytes_of, claim, named, number, packed, peek, word};
use crate::sys::Shared;

const KIND: u64 = MAGIC ^ (5 << 56);
/// Kind, and length in bytes.
const HEAD: usize = 2;
/// No configuration is as long (`control::config`).
const LONGEST: usize = 32 << 20;

/// This is in force from now on.
pub(crate) fn put(text: &str) {
    let Some(keep) = KEEP.get() else {
        return;
    };
    let memory = match written(text) {
        Ok(memory) => memory,
        Err(error) => {
            // The one before is better than none.
            tracing::warn!(%error, "the configuration is not kept for a worker that follows");
            return;
        }
    };
    Place::new(Arc::clone(&keep.root), word::CONFIG).put(Some(memory.number()));
    // Closed when it is not named any more.
    let mut own = keep.config.lock().unwrap_or_else(PoisonError::into_inner);
    *own = Some(memory);
}

/// What was in force in the worker before us. To be called by each worker, once.
pub(crate) fn left() -> Option<String> {
    let keep = KEEP.get()?;
    let left = number(keep.root.words()[word::CONFIG].load(Ordering::Acquire))?;
    let length = length_of(&peek(left, HEAD)?)?;
    let memory = Shared::adopt(claim(named(Some(left)))?, words(length)).ok()?;
    let text = read(&memory);
    *keep.config.lock().unwrap_or_else(PoisonError::into_inner) = Some(memory);
    text
}

fn words(length: usize) -> usize {
    HEAD + length.div_ceil(8)
}

fn written(text: &str) -> Result<Shared, rustix::io::Errno> {
    let memory = Shared::create("sharefs-config", words(text.len()))?;
    let all = memory.words();
    for (word, part) in all[HEAD..].iter().zip(text.as_bytes().chunks(8)) {
        word.store(packed(part), Ordering::Relaxed);
    }
    all[1].store(text.len() as u64, Ordering::Relaxed);
    all[0].store(KIND, Ordering::Release);
    Ok(memory)
}

fn length_of(memory: &Shared) -> Option<usize> {
    let words = memory.words();
    let length = usize::try_from(words[1].load(Ordering::Relaxed)).ok()?;
    (words[0].load(Ordering::Acquire) == KIND && length <= LONGEST).then_some(length)
}

fn read(memory: &Shared) -> Option<String> {
    let bytes = bytes_of(&memory.words()[HEAD..], length_of(memory)?);
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_of_any_length_is_read_as_it_was_written() {
        for text in ["", "x", "[share.d]\npath = \"/ä\"\n"] {
            let memory = written(text).unwrap();
            assert_eq!(length_of(&memory), Some(text.len()));
            assert_eq!(read(&memory).as_deref(), Some(text));
        }
        let other = Shared::create("test", HEAD).unwrap();
        assert_eq!(read(&other), None);
    }
}
