//! How far a thread has come with the request of a queue that it is at, for whoever has to do the request again.
//!
//! What the journal says can be behind what happened by one step, never ahead of it: the guest may then be
//! counted to know a node once more than it does, which ends with its mount, and is never short of one.
//! A thread without a journal (no keeper, a door that is not kept) writes nothing.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::sys::Shared;
use crate::tree::Timestamp;

/// Entries of one READDIRPLUS of 128 KiB, and one.
const MOST_TOLD: usize = 1024;
const TOLD: usize = 16;
/// Words of one journal.
pub(crate) const JOURNAL: usize = TOLD + 2 * MOST_TOLD;
/// Times that a request is begun before it is taken to be what kills us.
pub(in crate::keep) const MOST_ATTEMPTS: u64 = 3;

mod word {
    /// The request's queue and the head of its chain, 0: none is under way.
    pub(super) const UNDER_WAY: usize = 0;
    pub(super) const ATTEMPTS: usize = 1;
    /// When it was begun.
    pub(super) const SECONDS: usize = 2;
    pub(super) const NANOSECONDS: usize = 3;
    /// What stood at a name before, and one.
    pub(super) const INODE: usize = 4;
    /// Entries of a list of nodes to forget that are done.
    pub(super) const FORGOTTEN: usize = 5;
    /// Things that the guest will know once it is answered.
    pub(super) const TOLD: usize = 6;
}

/// What a request has made for its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    /// The guest is told of a node once more.
    Node(u64),
    File(u64),
    Folder(u64),
}

/// See the module's head.
#[derive(Clone, Debug)]
pub(crate) struct Journal {
    memory: Arc<Shared>,
    start: usize,
}

thread_local! {
    static OWN: RefCell<Option<Journal>> = const { RefCell::new(None) };
    static AGAIN: Cell<bool> = const { Cell::new(false) };
}

impl Journal {
    pub(super) fn new(memory: Arc<Shared>, start: usize) -> Self {
        Self { memory, start }
    }

    /// The calling thread writes what it does into this memory from now on: into the journal of the queue
    /// whose request it has begun last.
    pub(crate) fn of_thread(self) {
        OWN.set(Some(self));
    }

    fn select(&self) {
        OWN.with_borrow_mut(|own| {
            if let Some(own) = own {
                own.start = self.start;
            }
        });
    }

    fn word(&self, index: usize) -> &AtomicU64 {
        &self.memory.words()[self.start + index]
    }

    /// The request that was under way when the worker before us died.
    pub(crate) fn is_under_way(&self, queue: usize, head: u16) -> bool {
        self.word(word::UNDER_WAY).load(Ordering::Acquire) == request(queue, head)
    }

    /// A request begins. To be called before it is taken: what is said here is of no request until then.
    pub(crate) fn begin(&self, queue: usize, head: u16) {
        self.select();
        self.word(word::TOLD).store(0, Ordering::Relaxed);
        self.word(word::FORGOTTEN).store(0, Ordering::Relaxed);
        self.word(word::SECONDS).store(0, Ordering::Relaxed);
        self.word(word::INODE).store(0, Ordering::Relaxed);
        self.word(word::ATTEMPTS).store(1, Ordering::Relaxed);
        self.word(word::UNDER_WAY)
            .store(request(queue, head), Ordering::Release);
    }

    /// The request that was under way is done again in `work`. None: it has been tried too often, and is
    /// not.
    pub(crate) fn again<R>(&self, work: impl FnOnce() -> R) -> Option<R> {
        let attempts = self.word(word::ATTEMPTS).fetch_add(1, Ordering::AcqRel);
        if attempts >= MOST_ATTEMPTS {
            return None;
        }
        self.select();
        AGAIN.set(true);
        let done = work();
        AGAIN.set(false);
        Some(done)
    }
}

fn request(queue: usize, head: u16) -> u64 {
    ((queue as u64 + 1) << 16) | u64::from(head)
}

fn with<R>(work: impl FnOnce(&Journal) -> R) -> Option<R> {
    OWN.with_borrow(|own| own.as_ref().map(work))
}

/// Whether the calling thread does a request that was begun before.
pub(crate) fn is_again() -> bool {
    AGAIN.get()
}

/// The guest will know this once it is answered. To be called when it has been counted.
pub(crate) fn told(what: Told) {
    with(|journal| {
        let count = journal.word(word::TOLD).load(Ordering::Relaxed);
        let Some(place) = usize::try_from(count)
            .ok()
            .filter(|place| *place < MOST_TOLD)
        else {
            return;
        };
        let (kind, number) = match what {
            Told::Node(number) => (0, number),
            Told::File(number) => (1, number),
            Told::Folder(number) => (2, number),
        };
        journal
            .word(TOLD + 2 * place)
            .store(kind, Ordering::Relaxed);
        journal
            .word(TOLD + 2 * place + 1)
            .store(number, Ordering::Relaxed);
        journal.word(word::TOLD).store(count + 1, Ordering::Release);
    });
}

/// Takes out one thing that the request had made before. None: there is no more.
pub(crate) fn take_told() -> Option<Told> {
    with(|journal| {
        let count = journal.word(word::TOLD).load(Ordering::Acquire);
        let place = usize::try_from(count.checked_sub(1)?).ok()?;
        let place = TOLD + 2 * place.min(MOST_TOLD - 1);
        let kind = journal.word(place).load(Ordering::Relaxed);
        let number = journal.word(place + 1).load(Ordering::Relaxed);
        journal.word(word::TOLD).store(count - 1, Ordering::Release);
        Some(match kind {
            0 => Told::Node(number),
            1 => Told::File(number),
            _ => Told::Folder(number),
        })
    })
    .flatten()
}

/// The request will make something that was not there, or take something away: from this moment on.
pub(crate) fn note_moment() {
    with(|journal| {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::RealtimeCoarse);
        let nanoseconds = u64::try_from(now.tv_nsec).unwrap_or_default();
        journal
            .word(word::NANOSECONDS)
            .store(nanoseconds, Ordering::Relaxed);
        let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
        journal
            .word(word::SECONDS)
            .store(seconds, Ordering::Release);
    });
}

/// When the request was first begun.
pub(crate) fn moment() -> Option<Timestamp> {
    with(|journal| {
        let seconds = journal.word(word::SECONDS).load(Ordering::Acquire);
        let nanoseconds = journal.word(word::NANOSECONDS).load(Ordering::Relaxed);
        (seconds != 0).then(|| Timestamp {
            seconds: i64::try_from(seconds).unwrap_or(i64::MAX),
            nanoseconds: u32::try_from(nanoseconds).unwrap_or_default(),
        })
    })
    .flatten()
}

/// What stands at the name that the request is about to change; of a file that is appended to, its length.
pub(crate) fn note_inode(inode: u64) {
    with(|journal| {
        journal
            .word(word::INODE)
            .store(inode.wrapping_add(1), Ordering::Release)
    });
}

/// What stood there when the request was first begun.
pub(crate) fn inode() -> Option<u64> {
    with(|journal| {
        journal
            .word(word::INODE)
            .load(Ordering::Acquire)
            .checked_sub(1)
    })
    .flatten()
}

/// Whether anything is written at all.
pub(crate) fn is_on() -> bool {
    with(|_| ()).is_some()
}

/// Entries of the list that were forgotten before.
pub(crate) fn forgotten() -> usize {
    with(|journal| journal.word(word::FORGOTTEN).load(Ordering::Acquire))
        .and_then(|count| usize::try_from(count).ok())
        .unwrap_or_default()
}

/// One more is forgotten now.
pub(crate) fn forget_one() {
    with(|journal| {
        let count = journal.word(word::FORGOTTEN).load(Ordering::Relaxed);
        journal
            .word(word::FORGOTTEN)
            .store(count + 1, Ordering::Release);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_journal_says_how_far_its_request_came_and_nothing_of_the_one_before() {
        let memory = Arc::new(Shared::create("test", JOURNAL).unwrap());
        let journal = Journal::new(Arc::clone(&memory), 0);
        journal.clone().of_thread();
        journal.begin(1, 7);
        assert!(journal.is_under_way(1, 7) && !journal.is_under_way(0, 7));
        let made = [Told::Node(u64::MAX), Told::File(3 << 32), Told::Folder(0)];
        made.into_iter().for_each(told);
        note_moment();
        note_inode(u64::MAX - 1);
        forget_one();
        // Another process, with the same memory.
        let next = Journal::new(memory, 0);
        let again = next.again(|| {
            assert!(is_again());
            assert!(moment().is_some());
            assert_eq!((inode(), forgotten()), (Some(u64::MAX - 1), 1));
            std::iter::from_fn(take_told).collect::<Vec<_>>()
        });
        let mut backwards = made;
        backwards.reverse();
        assert_eq!(again.as_deref(), Some(&backwards[..]));
        assert!(!is_again());
        journal.begin(1, 8);
        assert_eq!((moment(), inode(), forgotten()), (None, None, 0));
        assert_eq!(take_told(), None);
    }

    #[test]
    fn a_request_that_kills_is_not_tried_for_ever() {
        let memory = Arc::new(Shared::create("test", JOURNAL).unwrap());
        let journal = Journal::new(memory, 0);
        journal.begin(0, 0);
        let tried = (0..9).filter(|_| journal.again(|| ()).is_some()).count();
        assert_eq!(tried as u64, MOST_ATTEMPTS - 1);
    }
}
