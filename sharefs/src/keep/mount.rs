//! What is kept of a mount on the host: the kernel's descriptors, and the requests it waits for the answers of.
//!
//! A request is gone from the kernel's queue once it is read, and the kernel waits for its answer for as long as
//! the descriptor is open that it was read from. So each thread reads into kept memory, a slot of its own: the
//! kernel itself writes the request's number there, and no instruction of ours lies between. The slot is cleared
//! when the answer is written. A request that waits for a lock leaves its slot for a row, which counts the processes
//! that died of it. Whether the kernel still waits for what is found there is asked of the kernel (`serve/mount.rs`).
//!
//! The memory is the same where nothing is kept, and only not listed then.

use std::os::fd::{BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::io::Errno;

use super::journal::{JOURNAL, Journal, MOST_ATTEMPTS};
use super::{Listed, MAGIC, Place, bytes_of, claim, named, number, packed, records};
use crate::sys::{Shared, Source};

/// Threads of one mount, each with a slot.
pub(crate) const MOST_SLOTS: usize = 4;
/// Bytes of one slot: a WRITE of 256 pages with its headers. The kernel needs room for as much as it was told that a
/// WRITE may have (max_write), and for 8 KiB.
pub(crate) const LONGEST_REQUEST: usize = 1024 * 1024 + 4096;
/// Requests that wait for locks: more than a session lets wait (`fuse/locks.rs`).
const MOST_WAITS: usize = 1024 + MOST_SLOTS;
/// In place of a request's number: its row is being written.
const BEING_WRITTEN: u64 = u64::MAX;
/// Bytes of a request that waits: fuse_in_header and fuse_lk_in.
pub(crate) const LONGEST_WAIT: usize = 40 + 48;
/// The request's number, its queue, its length, how many processes died while they asked for its lock, and itself.
const WAIT: usize = WAIT_REQUEST + LONGEST_WAIT / 8;
const WAIT_REQUEST: usize = 4;
const LONGEST_NAME: usize = 64;
/// PATH_MAX.
const LONGEST_PATH: usize = 4096;
const PAGE: usize = 4096 / size_of::<u64>();

mod word {
    use super::{JOURNAL, LONGEST_NAME, LONGEST_PATH, LONGEST_REQUEST, MOST_SLOTS, MOST_WAITS};
    use super::{PAGE, WAIT};

    pub(super) const MAGIC: usize = 0;
    pub(super) const NAME_LENGTH: usize = 1;
    pub(super) const PATH_LENGTH: usize = 2;
    /// The mount's device number.
    pub(super) const DEVICE: usize = 3;
    /// Of the share and of how it is mounted.
    pub(super) const OPTIONS: usize = 4;
    /// Memory of the session.
    pub(super) const SESSION: usize = 5;
    /// The number of the request that waits whose lock is being asked for.
    pub(super) const RETRIED: usize = 6;
    /// Descriptors of /dev/fuse, one a slot, each and one.
    pub(super) const QUEUES: usize = 8;
    pub(super) const NAME: usize = QUEUES + MOST_SLOTS;
    pub(super) const PATH: usize = NAME + LONGEST_NAME / 8;
    pub(super) const WAITS: usize = PATH + LONGEST_PATH / 8;
    pub(super) const JOURNALS: usize = WAITS + MOST_WAITS * WAIT;
    /// On pages of their own, so that the kernel copies whole pages to whole pages.
    pub(super) const SLOTS: usize = (JOURNALS + MOST_SLOTS * JOURNAL).next_multiple_of(PAGE);
    pub(super) const SLOT: usize = (LONGEST_REQUEST / 8).next_multiple_of(PAGE);
    pub(super) const ALL: usize = SLOTS + MOST_SLOTS * SLOT;
}

const KIND: u64 = MAGIC ^ (4 << 56);

/// See the module's head.
#[derive(Clone, Debug)]
pub(crate) struct Mount(Arc<Shared>);

/// A request that waits for a lock.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Waiting {
    /// Its number.
    pub(crate) unique: u64,
    /// Where it was read.
    pub(crate) queue: usize,
    pub(crate) request: Vec<u8>,
}

/// A mount that an earlier process served.
#[derive(Debug)]
pub(crate) struct Left {
    /// Dropped before what it lists.
    pub(crate) listed: Listed,
    pub(crate) memory: Mount,
    /// Of /dev/fuse, one a slot.
    pub(crate) queues: Vec<OwnedFd>,
}

impl Mount {
    /// For a mount that ends with this process.
    pub(crate) fn alone() -> Result<Self, Errno> {
        Ok(Self(Arc::new(Shared::create("sharefs-fuse", word::ALL)?)))
    }

    /// For the share's mount at that path, with that device number. Without `Listed` where nothing can be kept.
    pub(crate) fn create(
        name: &str,
        (path, device): (&Path, u64),
        options: u64,
    ) -> Result<(Self, Option<Listed>), Errno> {
        let mount = Self::alone()?;
        let path = path.as_os_str().as_bytes();
        if !super::is_on() || name.len() > LONGEST_NAME || path.len() > LONGEST_PATH {
            return Ok((mount, None));
        }
        mount.put_bytes(word::NAME, name.as_bytes());
        mount.set(word::NAME_LENGTH, name.len() as u64);
        mount.put_bytes(word::PATH, path);
        mount.set(word::PATH_LENGTH, path.len() as u64);
        mount.set(word::DEVICE, device);
        mount.set(word::OPTIONS, options);
        mount.set(word::MAGIC, KIND);
        let listed = Listed::new(mount.0.number());
        Ok((mount, listed))
    }

    /// All that the worker before us served.
    pub(crate) fn left() -> Vec<Left> {
        let all = super::left_of(word::ALL, |memory| {
            memory.words()[word::MAGIC].load(Ordering::Acquire) == KIND
        });
        let with_queues = all.into_iter().filter_map(|(memory, listed)| {
            let memory = Self(Arc::new(memory));
            let words = (0..MOST_SLOTS).map(|slot| memory.get(word::QUEUES + slot));
            let queues: Vec<OwnedFd> = words.map_while(claim).collect();
            (!queues.is_empty()).then_some(Left {
                listed,
                memory,
                queues,
            })
        });
        with_queues.collect()
    }

    fn get(&self, index: usize) -> u64 {
        self.0.words()[index].load(Ordering::Acquire)
    }

    fn set(&self, index: usize, value: u64) {
        self.0.words()[index].store(value, Ordering::Release);
    }

    fn put_bytes(&self, start: usize, bytes: &[u8]) {
        for (index, part) in bytes.chunks(8).enumerate() {
            self.set(start + index, packed(part));
        }
    }

    fn bytes(&self, start: usize, length: u64, longest: usize) -> Vec<u8> {
        let length = usize::try_from(length).map_or(longest, |length| length.min(longest));
        bytes_of(&self.0.words()[start..start + length.div_ceil(8)], length)
    }

    /// The share's.
    pub(crate) fn name(&self) -> String {
        let name = self.bytes(word::NAME, self.get(word::NAME_LENGTH), LONGEST_NAME);
        String::from_utf8_lossy(&name).into_owned()
    }

    /// Where it is mounted.
    pub(crate) fn path(&self) -> PathBuf {
        let path = self.bytes(word::PATH, self.get(word::PATH_LENGTH), LONGEST_PATH);
        std::ffi::OsString::from_vec(path).into()
    }

    /// Its device number.
    pub(crate) fn device(&self) -> u64 {
        self.get(word::DEVICE)
    }

    pub(crate) fn options(&self) -> u64 {
        self.get(word::OPTIONS)
    }

    /// Where the session's memory is left.
    pub(crate) fn session(&self) -> Place {
        Place::new(Arc::clone(&self.0), word::SESSION)
    }

    /// Whether a session was left there: the kernel's INIT was answered.
    pub(crate) fn has_session(&self) -> bool {
        self.get(word::SESSION) != 0
    }

    /// Requests come from these from now on, one a slot.
    pub(crate) fn put_queues(&self, queues: &[RawFd]) {
        for (slot, queue) in queues.iter().enumerate().take(MOST_SLOTS) {
            self.set(word::QUEUES + slot, named(Some(*queue)));
        }
    }

    /// Where the thread of a queue reads.
    pub(crate) fn slot(&self, index: usize) -> Slot {
        let index = index.min(MOST_SLOTS - 1);
        Slot {
            memory: Arc::clone(&self.0),
            start: word::SLOTS + index * word::SLOT,
            journal: word::JOURNALS + index * JOURNAL,
        }
    }

    fn waits_row(&self, index: usize) -> &[AtomicU64] {
        let start = word::WAITS + index * WAIT;
        &self.0.words()[start..start + WAIT]
    }

    /// The request, read from that queue, waits for a lock, and leaves its slot.
    pub(crate) fn put_wait(&self, queue: usize, unique: u64, request: &[u8]) {
        if request.len() > LONGEST_WAIT {
            return;
        }
        let (success, failure) = (Ordering::AcqRel, Ordering::Relaxed);
        let mut rows = (0..MOST_WAITS).map(|index| self.waits_row(index));
        let is_had = |row: &&[AtomicU64]| {
            let had = row[0].compare_exchange(0, BEING_WRITTEN, success, failure);
            had.is_ok()
        };
        let Some(row) = rows.find(is_had) else {
            return;
        };
        for (word, part) in row[WAIT_REQUEST..].iter().zip(request.chunks(8)) {
            word.store(packed(part), Ordering::Relaxed);
        }
        row[3].store(0, Ordering::Relaxed);
        row[2].store(request.len() as u64, Ordering::Relaxed);
        row[1].store(queue as u64, Ordering::Relaxed);
        row[0].store(unique, Ordering::Release);
    }

    fn row_of_wait(&self, unique: u64) -> Option<&[AtomicU64]> {
        let mut rows = (0..MOST_WAITS).map(|index| self.waits_row(index));
        rows.find(|row| row[0].load(Ordering::Acquire) == unique)
    }

    /// It is answered.
    pub(crate) fn end_wait(&self, unique: u64) {
        if let Some(row) = self.row_of_wait(unique) {
            row[0].store(0, Ordering::Release);
        }
    }

    /// The lock of a request that an earlier process left waiting is asked for in `work`. None: processes have died
    /// of it too often, and it is not.
    pub(crate) fn wait_again<R>(&self, unique: u64, work: impl FnOnce() -> R) -> Option<R> {
        let Some(row) = self.row_of_wait(unique) else {
            return Some(work());
        };
        if row[3].fetch_add(1, Ordering::AcqRel) >= MOST_ATTEMPTS {
            return None;
        }
        let done = work();
        // Nobody died of it here; of what those before did is seen when it is asked for once more (`outlived`). The
        // row is another's only once this one is answered, which the caller does.
        row[3].fetch_sub(1, Ordering::AcqRel);
        Some(done)
    }

    /// The same for a lock that is asked for again in the process that put the request aside, some twenty times a
    /// second: a death is counted by `begin_again`.
    pub(crate) fn retry<R>(&self, unique: u64, work: impl FnOnce() -> R) -> R {
        self.set(word::RETRIED, unique);
        let done = work();
        self.set(word::RETRIED, 0);
        done
    }

    /// Nobody died of that, so whoever died before did not either, or only of the moment. To be said once in a process: only
    /// what an earlier one left is counted to have killed anybody.
    pub(crate) fn outlived(&self, unique: u64) {
        if let Some(row) = self.row_of_wait(unique) {
            row[3].store(0, Ordering::Release);
        }
    }

    /// Requests that wait, the oldest first.
    pub(crate) fn waits(&self) -> Vec<Waiting> {
        let rows = (0..MOST_WAITS).map(|index| self.waits_row(index));
        let mut all: Vec<_> = rows
            .filter_map(|row| {
                let unique = row[0].load(Ordering::Acquire);
                let length = usize::try_from(row[2].load(Ordering::Relaxed)).ok()?;
                let waiting = Waiting {
                    unique,
                    queue: usize::try_from(row[1].load(Ordering::Relaxed)).ok()?,
                    request: bytes_of(&row[WAIT_REQUEST..], length),
                };
                (unique != 0 && unique != BEING_WRITTEN).then_some(waiting)
            })
            .collect();
        all.sort_unstable_by_key(|waiting| waiting.unique);
        all
    }

    /// No more than this is under way when another process begins to serve: rows that were never whole are free again.
    pub(crate) fn begin_again(&self) {
        for row in (0..MOST_WAITS).map(|index| self.waits_row(index)) {
            if row[0].load(Ordering::Acquire) == BEING_WRITTEN {
                row[0].store(0, Ordering::Release);
            }
        }
        // A request that had its row already was about to leave its slot.
        let waits = self.waits();
        for slot in (0..MOST_SLOTS).map(|index| self.slot(index)) {
            if waits.iter().any(|wait| wait.unique == slot.unique()) {
                slot.clear();
            }
        }
        let retried = self.get(word::RETRIED);
        // With requests under way, one of those is as likely what was died of, and is counted in its journal.
        let is_idle = (0..MOST_SLOTS).all(|index| self.slot(index).unique() == 0);
        if is_idle
            && retried != 0
            && let Some(row) = self.row_of_wait(retried)
        {
            row[3].fetch_add(1, Ordering::AcqRel);
        }
        self.set(word::RETRIED, 0);
    }

    fn names(&self) -> Vec<RawFd> {
        let queues = (0..MOST_SLOTS).filter_map(|slot| number(self.get(word::QUEUES + slot)));
        let mut all: Vec<RawFd> = queues.collect();
        if let Some(session) = number(self.get(word::SESSION)) {
            all.push(session);
            all.extend(records::names_behind(session));
        }
        all
    }
}

/// Memory that the kernel writes one thread's requests to.
#[derive(Debug)]
pub(crate) struct Slot {
    memory: Arc<Shared>,
    start: usize,
    journal: usize,
}

impl Slot {
    /// The kernel gives a process that is being killed no more pages, and answers a request with EIO that it can
    /// not copy to us. So they are all there before the first is read.
    pub(crate) fn prepare(&self) {
        self.memory.populate(self.start, word::SLOT);
    }

    /// Reads the next request; its length.
    pub(crate) fn read(&self, device: BorrowedFd<'_>) -> Result<usize, Errno> {
        self.memory.read(device, self.start, LONGEST_REQUEST)
    }

    /// The first so many bytes.
    pub(crate) fn request(&self, length: usize) -> Source<'_> {
        self.memory.source(self.start, length.min(LONGEST_REQUEST))
    }

    /// The number of the request that is there; 0: none (fuse_in_header: length, opcode, unique).
    pub(crate) fn unique(&self) -> u64 {
        self.memory.words()[self.start + 1].load(Ordering::Acquire)
    }

    /// The length that it says it has.
    pub(crate) fn length(&self) -> usize {
        let length = self.memory.words()[self.start].load(Ordering::Relaxed) & 0xffff_ffff;
        usize::try_from(length).map_or(LONGEST_REQUEST, |length| length.min(LONGEST_REQUEST))
    }

    /// The request is answered, or none was to be.
    pub(crate) fn clear(&self) {
        self.memory.words()[self.start + 1].store(0, Ordering::Release);
    }

    /// How far the request has come.
    pub(crate) fn journal(&self) -> Journal {
        Journal::new(Arc::clone(&self.memory), self.journal)
    }
}

/// All descriptors that a word of the root leads to; for the sweep.
pub(super) fn names(left: u64) -> Vec<RawFd> {
    let Some(own) = number(left) else {
        return Vec::new();
    };
    let Some(memory) = super::peek(own, word::ALL) else {
        return Vec::new();
    };
    let seen = Mount(Arc::new(memory));
    if seen.get(word::MAGIC) != KIND {
        return Vec::new();
    }
    let mut names = seen.names();
    names.push(own);
    names
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;
    use crate::sys;

    #[test]
    fn a_request_is_in_its_slot_from_the_moment_it_is_read_until_it_is_cleared() {
        let mount = Mount::alone().unwrap();
        let slot = mount.slot(1);
        slot.prepare();
        assert_eq!(slot.unique(), 0);
        let (read, write) = rustix::pipe::pipe().unwrap();
        let mut request = vec![7; 48];
        request[..4].copy_from_slice(&48_u32.to_le_bytes());
        request[8..16].copy_from_slice(&1234_u64.to_le_bytes());
        rustix::io::write(&write, &request).unwrap();
        assert_eq!(slot.read(read.as_fd()), Ok(48));
        // Another process, with the same memory.
        let slot = mount.slot(1);
        assert_eq!((slot.unique(), slot.length()), (1234, 48));
        let mut bytes = vec![0; 100];
        let count = sys::gather(&[slot.request(48)], &mut bytes);
        assert_eq!(bytes[..count], request[..]);
        slot.clear();
        assert_eq!((slot.unique(), mount.slot(0).unique()), (0, 0));
        rustix::io::write(&write, &u32::MAX.to_le_bytes()).unwrap();
        slot.read(read.as_fd()).unwrap();
        assert_eq!(slot.length(), LONGEST_REQUEST, "no length is believed");
    }

    #[test]
    fn requests_that_wait_are_left_in_the_order_they_came_until_they_are_answered() {
        let mount = Mount::alone().unwrap();
        mount.put_wait(1, 30, b"thirty");
        mount.put_wait(0, 10, b"ten, of eleven words at most");
        mount.put_wait(1, 20, &[1; 88]);
        mount.put_wait(3, 40, &[1; 89]);
        let numbers = |mount: &Mount| {
            let all = mount.waits().into_iter();
            all.map(|wait| (wait.unique, wait.queue, wait.request.len()))
                .collect::<Vec<_>>()
        };
        assert_eq!(numbers(&mount), [(10, 0, 28), (20, 1, 88), (30, 1, 6)]);
        assert_eq!(mount.waits()[2].request, b"thirty");
        mount.end_wait(20);
        mount.end_wait(7);
        assert_eq!(numbers(&mount), [(10, 0, 28), (30, 1, 6)]);
    }

    #[test]
    fn a_wait_that_kills_whoever_asks_for_its_lock_is_asked_for_three_times_and_no_other_is_counted()
     {
        let mount = Mount::alone().unwrap();
        mount.put_wait(0, 10, b"ten");
        mount.put_wait(0, 20, b"twenty");
        // Other processes, with the same memory, that the first one kills in all ways there are.
        let death: fn() = || panic!("of it");
        let died = |work: &dyn Fn()| {
            let work = std::panic::AssertUnwindSafe(work);
            std::panic::catch_unwind(work).unwrap_err();
            mount.begin_again();
        };
        for _ in 0..100 {
            assert_eq!(mount.wait_again(10, || 1), Some(1), "nobody died");
            assert_eq!(mount.retry(10, || 1), 1, "nor here");
            mount.begin_again();
        }
        // Two deaths that were of the moment, again and again.
        for _ in 0..100 {
            died(&|| mount.retry(10, death));
            died(&|| assert!(mount.wait_again(10, death).is_none()));
            assert_eq!(mount.wait_again(10, || 1), Some(1));
            assert_eq!(mount.retry(10, || 1), 1);
            mount.outlived(10);
        }
        // A request of another thread that kills while the lock is asked for: both are there.
        for _ in 0..100 {
            let slot = mount.slot(1);
            mount.0.words()[slot.start + 1].store(77, Ordering::Release);
            died(&|| mount.retry(10, death));
            mount.slot(1).clear();
        }
        assert_eq!(mount.wait_again(10, || 1), Some(1), "not its own deaths");
        died(&|| assert!(mount.wait_again(10, death).is_none()));
        died(&|| mount.retry(10, death));
        died(&|| assert!(mount.wait_again(10, death).is_none()));
        assert_eq!(mount.wait_again(10, || 1), None);
        assert_eq!(mount.wait_again(20, || 1), Some(1));
        // One that kills only when it is asked for once more.
        for _ in 0..3 {
            assert_eq!(mount.wait_again(20, || 1), Some(1));
            died(&|| mount.retry(20, death));
        }
        assert_eq!(mount.wait_again(20, || 1), None);
        mount.end_wait(10);
        mount.put_wait(0, 30, b"thirty, in the same row");
        assert_eq!(mount.wait_again(30, || 1), Some(1));
    }

    #[test]
    fn every_wait_that_a_session_allows_has_a_row() {
        let mount = Mount::alone().unwrap();
        for unique in 1..=1024 {
            mount.put_wait(0, unique, b"x");
        }
        assert_eq!(mount.waits().len(), 1024);
    }
}
