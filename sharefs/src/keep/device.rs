//! What is kept of a VMM's connection: what the VMM has set up, which requests the guest waits for, and how
//! far the one has come that each thread is at. For a device of several shares, the numbers of the shares too.
//!
//! A request is known by its queue and the head of its descriptor chain. Its word is written before the
//! request is looked at, again when its answer is in the guest's memory, and cleared when the guest has
//! been told. How many requests were taken from a queue need not be written: it is how many the guest has
//! been told of, which is in the guest's memory, and those that are not cleared.

use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::io::Errno;

use super::journal::Journal;
use super::{Listed, MAGIC, Place, TakingUp, claim, named, number, packed, records};
use crate::sys::Shared;

/// Queues of a device, and requests of a queue: those of `serve/virtiofs.rs`.
pub(crate) const QUEUES: usize = 5;
pub(crate) const LONGEST_QUEUE: usize = 1024;
/// Longest path of a socket (sun_path).
const LONGEST_PATH: usize = 112;
pub(crate) const MOST_REGIONS: usize = 64;
/// Words of one region: guest address, length, VMM's address, offset in the file, file.
pub(crate) const REGION: usize = 5;
pub(crate) const VRING: usize = 16;
/// Bytes of the longest message of a VMM that is passed on.
pub(crate) const LONGEST_MESSAGE: usize = 4096;
pub(crate) const MOST_DESCRIPTORS: usize = 64;

mod word {
    use super::{LONGEST_MESSAGE, LONGEST_PATH, LONGEST_QUEUE, MOST_DESCRIPTORS, MOST_REGIONS};
    use super::{QUEUES, REGION, VRING};
    use crate::keep::journal::JOURNAL;

    pub(super) const MAGIC: usize = 0;
    pub(super) const PATH_LENGTH: usize = 1;
    pub(super) const PATH: usize = 2;
    /// The VMM's end of the world.
    pub(super) const SOCKET: usize = PATH + LONGEST_PATH / 8;
    /// Memory of the mount, or of the listing of shares.
    pub(super) const SESSION: usize = SOCKET + 1;
    pub(super) const SETTINGS: usize = 32;
    pub(super) const REGIONS: usize = 64;
    pub(super) const VRINGS: usize = REGIONS + MOST_REGIONS * REGION;
    pub(super) const MESSAGE: usize = VRINGS + QUEUES * VRING;
    pub(super) const MESSAGE_FILES: usize = MESSAGE + 4;
    pub(super) const MESSAGE_BYTES: usize = MESSAGE_FILES + MOST_DESCRIPTORS;
    pub(super) const TAKEN: usize = MESSAGE_BYTES + LONGEST_MESSAGE / 8;
    pub(super) const TICKETS: usize = TAKEN + QUEUES * LONGEST_QUEUE;
    pub(super) const TELLING: usize = TICKETS + QUEUES;
    pub(super) const JOURNALS: usize = TELLING + QUEUES;
    pub(super) const ALL: usize = JOURNALS + QUEUES * JOURNAL;
}

/// What the VMM said of the device as a whole.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Setting {
    /// SET_OWNER came.
    Owned,
    /// SET_FEATURES, and one.
    Features,
    /// SET_PROTOCOL_FEATURES, and one.
    Protocol,
    /// Memory regions that are known.
    Regions,
}

/// A word of a queue, and one; 0: never said.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Ring {
    Size,
    /// 1 when the three addresses and the log's are there.
    Addressed,
    Descriptors,
    Used,
    Available,
    Log,
    Flags,
    Base,
    /// A descriptor's word, or `NO_FILE`.
    Kick,
    Call,
    Error,
    Enabled,
}

/// In place of a descriptor: the VMM said that there is none.
pub(crate) const NO_FILE: u64 = u64::MAX;

const KIND: u64 = MAGIC ^ (2 << 56);
const LISTING_KIND: u64 = MAGIC ^ (3 << 56);

/// See the module's head.
#[derive(Clone, Debug)]
pub(crate) struct Connection(Arc<Shared>);

impl Connection {
    /// Of a VMM that came to the door at `path` through `socket`. None where nothing can be kept.
    pub(crate) fn create(path: &Path, socket: RawFd) -> Option<(Self, Listed)> {
        if !super::is_on() {
            return None;
        }
        let bytes = path.as_os_str().as_bytes();
        if bytes.len() > LONGEST_PATH {
            return None;
        }
        let shared = Shared::create("sharefs-device", word::ALL).ok()?;
        let connection = Self(Arc::new(shared));
        for (index, part) in bytes.chunks(8).enumerate() {
            connection.set(word::PATH + index, packed(part));
        }
        connection.set(word::PATH_LENGTH, bytes.len() as u64);
        connection.set(word::SOCKET, named(Some(socket)));
        connection.set(word::MAGIC, KIND);
        let listed = Listed::new(connection.0.number())?;
        Some((connection, listed))
    }

    /// The connection that a worker before us had at that door, with the VMM's socket.
    pub(crate) fn left_at(path: &Path) -> Option<(Self, Listed, OwnedFd, TakingUp)> {
        let is_here = |memory: &Shared| path_in(memory.words()) == path.as_os_str().as_bytes();
        let left = super::left_of(word::ALL, is_here);
        left.into_iter().find_map(|(memory, listed)| {
            let connection = Self(Arc::new(memory));
            let socket = claim(connection.get(word::SOCKET))?;
            Some((connection, listed, socket, TakingUp::new()))
        })
    }

    fn bytes(&self, start: usize, length: usize) -> Vec<u8> {
        super::bytes_of(&self.0.words()[start..start + length.div_ceil(8)], length)
    }

    fn get(&self, index: usize) -> u64 {
        self.0.words()[index].load(Ordering::Acquire)
    }

    fn set(&self, index: usize, value: u64) {
        self.0.words()[index].store(value, Ordering::Release);
    }

    /// Where the session's memory is left.
    pub(crate) fn session(&self) -> Place {
        Place::new(Arc::clone(&self.0), word::SESSION)
    }

    pub(crate) fn setting(&self, which: Setting) -> u64 {
        self.get(word::SETTINGS + which as usize)
    }

    pub(crate) fn put_setting(&self, which: Setting, value: u64) {
        self.set(word::SETTINGS + which as usize, value);
    }

    pub(crate) fn region(&self, index: usize) -> [u64; REGION] {
        std::array::from_fn(|field| self.get(word::REGIONS + index * REGION + field))
    }

    pub(crate) fn put_region(&self, index: usize, region: [u64; REGION]) {
        for (field, value) in region.into_iter().enumerate() {
            self.set(word::REGIONS + index * REGION + field, value);
        }
    }

    pub(crate) fn ring(&self, queue: usize, which: Ring) -> u64 {
        self.get(word::VRINGS + queue * VRING + which as usize)
    }

    pub(crate) fn put_ring(&self, queue: usize, which: Ring, value: u64) {
        self.set(word::VRINGS + queue * VRING + which as usize, value);
    }

    /// A message of the VMM's came, which is not done yet. It is the record's from now on.
    pub(crate) fn put_message(&self, bytes: &[u8], files: &[RawFd]) {
        for (index, part) in bytes.chunks(8).enumerate() {
            self.set(word::MESSAGE_BYTES + index, packed(part));
        }
        for (index, file) in files.iter().enumerate() {
            self.set(word::MESSAGE_FILES + index, named(Some(*file)));
        }
        self.set(word::MESSAGE + 1, files.len() as u64);
        self.set(word::MESSAGE + 2, 0);
        self.set(word::MESSAGE, bytes.len() as u64);
    }

    /// Its answer is being sent: it will not be sent a second time.
    pub(crate) fn message_is_answered(&self) {
        self.set(word::MESSAGE + 2, 1);
    }

    pub(crate) fn end_message(&self) {
        self.set(word::MESSAGE, 0);
    }

    /// The message that was not done when the worker before us died, the words of its files, and whether it
    /// was answered.
    pub(crate) fn message(&self) -> Option<(Vec<u8>, Vec<u64>, bool)> {
        let length = usize::try_from(self.get(word::MESSAGE)).ok()?;
        let files = usize::try_from(self.get(word::MESSAGE + 1)).ok()?;
        if length == 0 || length > LONGEST_MESSAGE || files > MOST_DESCRIPTORS {
            return None;
        }
        let files = (0..files).map(|index| self.get(word::MESSAGE_FILES + index));
        let answered = self.get(word::MESSAGE + 2) != 0;
        Some((
            self.bytes(word::MESSAGE_BYTES, length),
            files.collect(),
            answered,
        ))
    }

    /// Of each queue: one thread serves several, and each is taken up by itself.
    pub(crate) fn journals(&self) -> [Journal; QUEUES] {
        std::array::from_fn(|queue| {
            let start = word::JOURNALS + queue * super::journal::JOURNAL;
            Journal::new(Arc::clone(&self.0), start)
        })
    }

    fn taken(&self, queue: usize, head: u16) -> Option<&AtomicU64> {
        let head = usize::from(head);
        let inside = queue < QUEUES && head < LONGEST_QUEUE;
        inside.then(|| &self.0.words()[word::TAKEN + queue * LONGEST_QUEUE + head])
    }

    /// The request is ours from now on.
    pub(crate) fn take(&self, queue: usize, head: u16) {
        let Some(word) = self.taken(queue, head) else {
            return;
        };
        let tickets = &self.0.words()[word::TICKETS + queue];
        let ticket = tickets.load(Ordering::Relaxed) + 1;
        tickets.store(ticket, Ordering::Relaxed);
        word.store(ticket << 1, Ordering::Release);
    }

    /// Its answer, of so many bytes, is in the guest's memory: it is not to be done again. `told`: of how
    /// many requests the guest had been told before.
    pub(crate) fn answered(&self, queue: usize, head: u16, length: u32, told: u16) {
        let Some(word) = self.taken(queue, head) else {
            return;
        };
        let telling = 1 << 63 | u64::from(head) << 16 | u64::from(told);
        self.set(word::TELLING + queue, telling);
        word.store(u64::from(length) << 1 | 1, Ordering::Release);
    }

    /// The guest has been told.
    pub(crate) fn end(&self, queue: usize, head: u16) {
        if let Some(word) = self.taken(queue, head) {
            word.store(0, Ordering::Release);
        }
    }

    /// The queue is stopped: nobody waits for its requests.
    pub(crate) fn end_all(&self, queue: usize) {
        for head in 0..LONGEST_QUEUE {
            self.end(queue, u16::try_from(head).unwrap_or_default());
        }
    }

    /// The requests of a queue that the guest waits for, in the order in which they were taken, and the one
    /// whose answer, of so many bytes, it has not been told of. `told`: how many it has been told of.
    pub(crate) fn unanswered(&self, queue: usize, told: u16) -> (Option<(u16, u32)>, Vec<u16>) {
        let mut answered = None;
        let mut open = Vec::new();
        for head in 0..LONGEST_QUEUE {
            let head = u16::try_from(head).unwrap_or_default();
            let word = self
                .taken(queue, head)
                .map_or(0, |word| word.load(Ordering::Acquire));
            if word & 1 == 1 {
                let telling = self.get(word::TELLING + queue);
                if telling == 1 << 63 | u64::from(head) << 16 | u64::from(told) {
                    answered = Some((head, u32::try_from(word >> 1).unwrap_or_default()));
                } else {
                    self.end(queue, head);
                }
            } else if word != 0 {
                open.push((word, head));
            }
        }
        open.sort_unstable();
        (answered, open.into_iter().map(|(_, head)| head).collect())
    }

    fn names(&self) -> Vec<RawFd> {
        let mut all: Vec<u64> = vec![self.get(word::SOCKET)];
        all.extend((0..MOST_REGIONS).map(|index| self.region(index)[REGION - 1]));
        for queue in 0..QUEUES {
            all.extend([Ring::Kick, Ring::Call, Ring::Error].map(|which| self.ring(queue, which)));
        }
        all.extend(self.message().into_iter().flat_map(|(_, files, _)| files));
        let mut numbers: Vec<RawFd> = all.into_iter().filter_map(number).collect();
        if let Some(session) = number(self.get(word::SESSION)) {
            numbers.push(session);
            numbers.extend(records::names_behind(session));
            numbers.extend(listing_names(session));
        }
        numbers
    }
}

/// The door's; empty if this is no connection's memory.
fn path_in(words: &[AtomicU64]) -> Vec<u8> {
    if words[word::MAGIC].load(Ordering::Acquire) != KIND {
        return Vec::new();
    }
    let length = usize::try_from(words[word::PATH_LENGTH].load(Ordering::Acquire));
    let length = length.map_or(LONGEST_PATH, |length| length.min(LONGEST_PATH));
    super::bytes_of(&words[word::PATH..], length)
}

/// All descriptors that a word of the root leads to; for the sweep.
pub(super) fn names(connection: u64) -> Vec<RawFd> {
    let Some(left) = number(connection) else {
        return Vec::new();
    };
    let Some(memory) = super::peek(left, word::ALL) else {
        return Vec::new();
    };
    let seen = Connection(Arc::new(memory));
    if seen.get(word::MAGIC) != KIND {
        return Vec::new();
    }
    let mut names = seen.names();
    names.push(left);
    names
}

/// Names of shares that a device can have had; the numbers of those beyond are not kept.
const MOST_NAMES: usize = 1024;
/// A share's name has 63 bytes at most.
const LONGEST_NAME: usize = 64;
const ENTRY: usize = 2 + LONGEST_NAME / 8;
const ENTRIES: usize = 16;
const LISTING: usize = ENTRIES + MOST_NAMES * ENTRY;

/// The shares of one device: their order, which gives the numbers of their roots, and which of them are
/// mounted.
#[derive(Clone, Debug)]
pub(crate) struct Listing(Arc<Shared>);

impl Listing {
    pub(crate) fn create() -> Result<Self, Errno> {
        let shared = Shared::create("sharefs-shares", LISTING)?;
        shared.words()[0].store(LISTING_KIND, Ordering::Release);
        Ok(Self(Arc::new(shared)))
    }

    pub(crate) fn adopt(left: OwnedFd) -> Option<Self> {
        let shared = Shared::adopt(left, LISTING).ok()?;
        let right = shared.words()[0].load(Ordering::Acquire) == LISTING_KIND;
        right.then(|| Self(Arc::new(shared)))
    }

    pub(crate) fn number(&self) -> RawFd {
        self.0.number()
    }

    fn word(&self, index: usize) -> &AtomicU64 {
        &self.0.words()[index]
    }

    /// What INIT agreed on; None: not mounted.
    pub(crate) fn agreed(&self) -> Option<u64> {
        self.word(1).load(Ordering::Acquire).checked_sub(1)
    }

    pub(crate) fn put_agreed(&self, agreed: Option<u64>) {
        let value = agreed.map_or(0, |agreed| agreed + 1);
        self.word(1).store(value, Ordering::Release);
    }

    /// The last space that was given.
    pub(crate) fn last_space(&self) -> u32 {
        u32::try_from(self.word(2).load(Ordering::Acquire)).unwrap_or(u32::MAX)
    }

    pub(crate) fn put_last_space(&self, space: u32) {
        self.word(2).store(space.into(), Ordering::Release);
    }

    /// The names, in their order, each with the space of its share if that is mounted.
    pub(crate) fn names(&self) -> Vec<(Vec<u8>, Option<u32>)> {
        let count = usize::try_from(self.word(3).load(Ordering::Acquire)).unwrap_or_default();
        (0..count.min(MOST_NAMES))
            .map(|index| {
                let start = ENTRIES + index * ENTRY;
                let bytes =
                    super::bytes_of(&self.0.words()[start + 2..start + ENTRY], LONGEST_NAME);
                let space =
                    u32::try_from(self.word(start).load(Ordering::Acquire)).unwrap_or_default();
                (
                    bytes.into_iter().take_while(|byte| *byte != 0).collect(),
                    (space != 0).then_some(space),
                )
            })
            .collect()
    }

    /// One more name, behind all others.
    pub(crate) fn push_name(&self, index: usize, name: &[u8]) {
        if index >= MOST_NAMES || name.len() > LONGEST_NAME {
            return;
        }
        let start = ENTRIES + index * ENTRY;
        for (place, part) in name.chunks(8).enumerate() {
            self.word(start + 2 + place)
                .store(packed(part), Ordering::Relaxed);
        }
        self.word(3).store(index as u64 + 1, Ordering::Release);
    }

    pub(crate) fn put_space(&self, index: usize, space: Option<u32>) {
        if index < MOST_NAMES {
            let value = space.map_or(0, u64::from);
            self.word(ENTRIES + index * ENTRY)
                .store(value, Ordering::Release);
        }
    }

    /// Where the memory of that share's mount is left.
    pub(crate) fn session(&self, index: usize) -> Option<Place> {
        (index < MOST_NAMES).then(|| Place::new(Arc::clone(&self.0), ENTRIES + index * ENTRY + 1))
    }
}

fn listing_names(left: RawFd) -> Vec<RawFd> {
    let Some(memory) = super::peek(left, LISTING) else {
        return Vec::new();
    };
    let words = memory.words();
    if words[0].load(Ordering::Acquire) != LISTING_KIND {
        return Vec::new();
    }
    let sessions = (0..MOST_NAMES)
        .filter_map(|index| number(words[ENTRIES + index * ENTRY + 1].load(Ordering::Acquire)));
    sessions
        .flat_map(|session| {
            let mut names = records::names_behind(session);
            names.push(session);
            names
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection() -> Connection {
        Connection(Arc::new(Shared::create("test", word::ALL).unwrap()))
    }

    #[test]
    fn what_was_taken_and_not_told_is_left_in_the_order_it_was_taken() {
        let kept = connection();
        for head in [9, 3, 1023, 5] {
            kept.take(1, head);
        }
        kept.take(2, 4);
        kept.answered(1, 3, 80, 17);
        // The guest has been told of 17: it does not know of this answer.
        assert_eq!(kept.unanswered(1, 17), (Some((3, 80)), vec![9, 1023, 5]));
        // It has been told of 18: it does.
        assert_eq!(kept.unanswered(1, 18), (None, vec![9, 1023, 5]));
        kept.end(1, 9);
        assert_eq!(kept.unanswered(1, 18), (None, vec![1023, 5]));
        kept.end_all(1);
        assert_eq!(kept.unanswered(1, 18), (None, vec![]));
        assert_eq!(kept.unanswered(2, 0), (None, vec![4]));
        kept.take(QUEUES, 0);
        kept.take(0, u16::MAX);
    }

    #[test]
    fn a_message_is_there_until_it_is_done() {
        let kept = connection();
        assert!(kept.message().is_none());
        kept.put_message(b"thirteen byte", &[5, 0]);
        let (bytes, files, answered) = kept.message().unwrap();
        assert_eq!(
            (&bytes[..], &files[..], answered),
            (&b"thirteen byte"[..], &[6, 1][..], false)
        );
        kept.message_is_answered();
        assert!(kept.message().unwrap().2);
        kept.end_message();
        assert!(kept.message().is_none());
    }

    #[test]
    fn the_names_of_shares_keep_their_places() {
        let listing = Listing(Arc::new(Shared::create("test", LISTING).unwrap()));
        listing.push_name(0, b"a");
        listing.push_name(1, b"a-name-of-more-than-eight-bytes");
        listing.put_space(1, Some(7));
        let expected = [
            (b"a".to_vec(), None),
            (b"a-name-of-more-than-eight-bytes".to_vec(), Some(7)),
        ];
        assert_eq!(listing.names(), expected);
        listing.put_agreed(Some(0));
        assert_eq!(listing.agreed(), Some(0));
        listing.put_agreed(None);
        assert_eq!(listing.agreed(), None);
        listing.push_name(MOST_NAMES, b"one too many");
        assert_eq!(listing.names().len(), 2);
    }
}
