//! What lets a guest outlive its daemon: a process that keeps the descriptors, memory that keeps the state.
//!
//! `process` is the keeper. It is the process that was started; the worker, which does everything else,
//! is its child and shares its table of descriptors. A worker that is killed leaves all it had open open
//! under the same numbers: a guest's memory and events, the VMM's connection, nodes, files, locks. The
//! next worker finds in shared memory what each number is, closes the numbers that are nothing any more,
//! and goes on.
//!
//! | memory | one for each | written by | says |
//! |---|---|---|---|
//! | `Root` | daemon | doors | which connections there are, the daemon's lock, how often it was restarted |
//! | `config` | daemon | `daemon.rs` | the text of the configuration that is in force |
//! | `device::Connection` | VMM connected | `serve/relay.rs`, queues' threads | what the VMM has set up, requests taken and not answered |
//! | `mount::Mount` | mount on the host | `serve/mount.rs` | the kernel's descriptors, requests read and not answered |
//! | `device::Listing` | VMM connected, if it carries several shares | `fuse/many` | the shares' numbers |
//! | `ninep::Connection` | 9P client | `serve/ninep` | its socket, bytes that have come and that are to go |
//! | `ninep::rows::Rows` | 9P client, in `Connection` | `ninep/` | shares, fids, lock owners, requests answered later |
//! | `records::Records` | mount of a share | `fuse/session`, `tree/host` | nodes, open files, lock owners |
//! | `journal::Journal` | queue, in `Connection` | `fuse/session` | how far the request under way has come |
//!
//! All of it is words, each written by one store, in an order in which a reader finds no half of a thing:
//! a row's fields before the word that says it is there, that word before its descriptor is closed. A
//! descriptor that was opened and is in no row yet is closed by the next worker; the request that opened
//! it is done again. How a request is done again that may have been done is `fuse/again.rs`.
//!
//! Without a keeper (tests, a kernel that refuses) there is no memory, and everything works as before.

use std::collections::BTreeSet;
use std::os::fd::{IntoRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use rustix::io::Errno;

use crate::sys::{self, Shared};

pub(crate) mod config;
pub(crate) mod device;
pub(crate) mod fault;
pub(crate) mod journal;
pub(crate) mod mount;
pub(crate) mod ninep;
pub(crate) mod nodes;
mod pieces;
pub(crate) mod process;
pub(crate) mod records;

pub use process::{keep, ready};

/// "sharefs" and the layout of all the memory described here. A program with another number starts
/// empty: to be raised with every change of a layout.
const MAGIC: u64 = 0x7368_6172_6566_7306;

/// How this program keeps state: it goes on with that of a program of the same number.
#[must_use]
pub fn layout() -> u64 {
    MAGIC
}

/// Connections that can be kept; those beyond are served, and lost with their worker.
const MOST_CONNECTIONS: usize = 1024;
/// Workers that die one after the other before one of them serves: then its state is given up.
const MOST_FAILURES: u64 = 3;

mod word {
    pub(super) const MAGIC: usize = 0;
    /// Workers that followed one that was killed.
    pub(super) const RESTARTS: usize = 1;
    /// Programs that followed one that was told to make room.
    pub(super) const HANDOVERS: usize = 2;
    /// The descriptor of the daemon's lock, and one.
    pub(super) const LOCK: usize = 3;
    /// Workers that died before they served.
    pub(super) const FAILURES: usize = 4;
    /// How often the state was given up.
    pub(super) const GIVEN_UP: usize = 5;
    /// The descriptor of the configuration's text, and one (`config`).
    pub(super) const CONFIG: usize = 6;
    /// Programs that the keeper did not begin, and the layout of the last, 0 if it did not say.
    pub(super) const UNSUITED: usize = 7;
    pub(super) const UNSUITED_LAYOUT: usize = 8;
    /// Descriptors of connections' memory, and one.
    pub(super) const CONNECTIONS: usize = 64;
    pub(super) const ALL: usize = CONNECTIONS + super::MOST_CONNECTIONS;
}

/// One word of shared memory where a descriptor's number is left for the next worker.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    memory: Arc<Shared>,
    index: usize,
}

impl Place {
    pub(crate) fn new(memory: Arc<Shared>, index: usize) -> Self {
        Self { memory, index }
    }

    /// The number that is left there from now on. To be called before the descriptor is closed that was.
    pub(crate) fn put(&self, number: Option<RawFd>) {
        self.word().store(named(number), Ordering::Release);
    }

    /// That number is not left there any more, if it still was.
    pub(crate) fn withdraw(&self, number: RawFd) {
        let (success, failure) = (Ordering::AcqRel, Ordering::Relaxed);
        let left = named(Some(number));
        // Another has been left there since: it is to stay.
        self.word().compare_exchange(left, 0, success, failure).ok();
    }

    fn word(&self) -> &AtomicU64 {
        &self.memory.words()[self.index]
    }

    /// What the worker before us left there, if it was one's own.
    pub(crate) fn take(&self) -> Option<OwnedFd> {
        claim(self.word().load(Ordering::Acquire))
    }
}

/// How a mount of one share begins.
#[derive(Clone, Debug)]
pub(crate) enum Keeping {
    /// For this process alone.
    Not,
    /// New, and left there for the next one.
    New(Place),
    /// As an earlier process left it there, or not at all.
    Left(Place),
}

/// A descriptor's number as a word; 0 is none.
pub(crate) fn named(number: Option<RawFd>) -> u64 {
    number
        .and_then(|number| u64::try_from(number).ok())
        .map_or(0, |number| number + 1)
}

/// The number that a word names.
pub(crate) fn number(word: u64) -> Option<RawFd> {
    RawFd::try_from(word.checked_sub(1)?).ok()
}

/// Of this process, once it is a worker with a keeper.
struct Keep {
    root: Arc<Shared>,
    /// Descriptors that the worker before us left, by whoever they are named, and not claimed yet.
    unclaimed: Mutex<BTreeSet<RawFd>>,
    keeper: rustix::process::Pid,
    /// The configuration's text; see `config`.
    config: Mutex<Option<Shared>>,
}

static KEEP: OnceLock<Keep> = OnceLock::new();

fn unclaimed(keep: &Keep) -> MutexGuard<'_, BTreeSet<RawFd>> {
    keep.unclaimed
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
}

/// Whether what happens here is kept for a worker behind us.
pub(crate) fn is_on() -> bool {
    KEEP.get().is_some()
}

/// Takes over a descriptor that a word of the worker before us names. Each can be had once.
pub(crate) fn claim(word: u64) -> Option<OwnedFd> {
    let number = number(word)?;
    #[cfg(test)]
    if !is_on() {
        // The worker before us is this process, and still has it.
        return sys::duplicate(number).ok();
    }
    let ours = unclaimed(KEEP.get()?).remove(&number);
    ours.then(|| sys::take_back(number))
}

/// It is not what the word says that named it, so somebody else's may name it rightly: it can be claimed again, and is
/// closed as nobody's when all is taken up. Never at once: who gives it back may be listed still, and a number that is
/// listed is not to become another file's.
pub(crate) fn give_back(open: OwnedFd) {
    let Some(keep) = KEEP.get() else {
        return;
    };
    let mut unclaimed = unclaimed(keep);
    // Looked at under the lock that the last of `TakingUp` takes behind its count.
    if TAKING_UP.load(Ordering::Acquire) > 0 {
        unclaimed.insert(open.into_raw_fd());
    }
}

/// The worker begins: what it was left is looked through, and what nobody names is closed.
///
/// `inherited`: descriptors that were there before the first worker, and are none of ours.
fn enter(root: Arc<Shared>, inherited: &BTreeSet<RawFd>) -> Result<(), Errno> {
    let words = root.words();
    let mut named = BTreeSet::new();
    if words[word::FAILURES].fetch_add(1, Ordering::AcqRel) >= MOST_FAILURES {
        words[word::GIVEN_UP].fetch_add(1, Ordering::Relaxed);
        words[word::FAILURES].store(0, Ordering::Release);
        words[word::LOCK].store(0, Ordering::Release);
        for connection in &words[word::CONNECTIONS..] {
            connection.store(0, Ordering::Release);
        }
        tracing::error!(
            "the state of sharefs could not be taken up again: guests must be restarted"
        );
    }
    for index in [word::LOCK, word::CONFIG] {
        named.extend(number(words[index].load(Ordering::Acquire)));
    }
    for connection in &words[word::CONNECTIONS..] {
        let left = connection.load(Ordering::Acquire);
        named.extend(device::names(left));
        named.extend(mount::names(left));
        named.extend(ninep::names(left));
    }
    let open = process::open_descriptors()?;
    named.retain(|number| open.contains(number) && !inherited.contains(number));
    for number in open {
        let known = number <= 2 || number == root.number() || inherited.contains(&number);
        if named.contains(&number) {
            sys::set_inherited(number, false);
        } else if !known {
            sys::close_left_open(number);
        }
    }
    let Some(keeper) = rustix::process::getppid() else {
        return Err(Errno::SRCH);
    };
    let keep = Keep {
        root,
        unclaimed: Mutex::new(named),
        keeper,
        config: Mutex::new(None),
    };
    KEEP.set(keep).map_err(|_| Errno::EXIST)
}

/// Everything that is configured has taken up what it was left; the rest is closed. The worker serves.
pub(crate) fn begin_to_serve() {
    let Some(keep) = KEEP.get() else {
        return;
    };
    let words = keep.root.words();
    for (index, word) in words.iter().enumerate().skip(word::CONNECTIONS) {
        // A connection whose door is not configured any more.
        let left = number(word.load(Ordering::Acquire));
        if left.is_some_and(|number| unclaimed(keep).contains(&number)) {
            Place::new(Arc::clone(&keep.root), index).put(None);
        }
    }
    words[word::FAILURES].store(0, Ordering::Release);
    fault::begin();
    *serves() = true;
    SERVING.notify_all();
    drop(TakingUp(()));
}

static SERVES: Mutex<bool> = Mutex::new(false);
static SERVING: Condvar = Condvar::new();

fn serves() -> MutexGuard<'static, bool> {
    SERVES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits until `begin_to_serve`, or for so long: a request that kills each worker that takes it up is answered with an
/// error after some (`journal`), and is not to be taken for a state that cannot be taken up at all.
pub(crate) fn wait_until_serving(limit: Duration) {
    if !is_on() {
        return;
    }
    let waited = SERVING.wait_timeout_while(serves(), limit, |serves| !*serves);
    drop(waited.unwrap_or_else(PoisonError::into_inner));
}

/// Something that an earlier worker left is being taken up, until this is dropped: what nobody has claimed
/// when the last of them is done belongs to nobody, and is closed.
pub(crate) struct TakingUp(());

/// How many there are; the start of the worker is one.
static TAKING_UP: AtomicUsize = AtomicUsize::new(1);

impl TakingUp {
    fn new() -> Self {
        TAKING_UP.fetch_add(1, Ordering::AcqRel);
        Self(())
    }
}

impl Drop for TakingUp {
    fn drop(&mut self) {
        if TAKING_UP.fetch_sub(1, Ordering::AcqRel) > 1 {
            return;
        }
        if let Some(keep) = KEEP.get() {
            let rest = std::mem::take(&mut *unclaimed(keep));
            for number in rest {
                drop(sys::take_back(number));
            }
        }
    }
}

/// A place for a new connection; None without a keeper, or when there are too many.
fn place_for_connection(number: RawFd) -> Option<Place> {
    let keep = KEEP.get()?;
    let words = keep.root.words();
    let mut places = words.iter().enumerate().skip(word::CONNECTIONS);
    places
        .find(|(_, word)| {
            let (success, failure) = (Ordering::AcqRel, Ordering::Relaxed);
            let wanted = named(Some(number));
            word.compare_exchange(0, wanted, success, failure).is_ok()
        })
        .map(|(index, _)| Place::new(Arc::clone(&keep.root), index))
}

/// Keeps a connection's memory listed for as long as it lives.
#[derive(Debug)]
pub(crate) struct Listed(Place);

impl Listed {
    /// Of the memory behind that descriptor. None without a keeper, or when there are too many.
    fn new(memory: RawFd) -> Option<Self> {
        place_for_connection(memory).map(Self)
    }

    /// In that place, as if a keeper looked there.
    #[cfg(test)]
    pub(crate) fn at(place: Place) -> Self {
        Self(place)
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.0.put(None);
    }
}

/// Memory of so many words that the worker before us left in the list, and that `is_wanted`.
fn left_of(length: usize, is_wanted: impl Fn(&Shared) -> bool) -> Vec<(Shared, Listed)> {
    let Some(keep) = KEEP.get() else {
        return Vec::new();
    };
    let words = keep.root.words();
    let all = (word::CONNECTIONS..words.len()).filter_map(|index| {
        let left = number(words[index].load(Ordering::Acquire))?;
        if !is_wanted(&peek(left, length)?) {
            return None;
        }
        let memory = Shared::adopt(claim(named(Some(left)))?, length).ok()?;
        Some((memory, Listed(Place::new(Arc::clone(&keep.root), index))))
    });
    all.collect()
}

/// A text in one word (FNV-1a): another word, another text.
pub(crate) fn word_of(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// Up to eight bytes in a word.
fn packed(part: &[u8]) -> u64 {
    let mut bytes = [0; 8];
    bytes[..part.len()].copy_from_slice(part);
    u64::from_le_bytes(bytes)
}

/// The first so many bytes of words.
fn bytes_of(words: &[AtomicU64], length: usize) -> Vec<u8> {
    let all = words
        .iter()
        .flat_map(|word| word.load(Ordering::Relaxed).to_le_bytes());
    all.take(length).collect()
}

/// The daemon's lock, as the worker before us held it.
pub fn kept_lock() -> Option<OwnedFd> {
    let keep = KEEP.get()?;
    Place::new(Arc::clone(&keep.root), word::LOCK).take()
}

/// The next worker gets the lock from us, and nobody else in between.
pub fn keep_lock(number: Option<RawFd>) {
    if let Some(keep) = KEEP.get() {
        Place::new(Arc::clone(&keep.root), word::LOCK).put(number);
    }
}

/// What /metrics says of it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Numbers {
    pub(crate) restarts: u64,
    pub(crate) handovers: u64,
    pub(crate) given_up: u64,
}

pub(crate) fn numbers() -> Numbers {
    let of = |index: usize| {
        let keep = KEEP.get();
        keep.map_or(0, |keep| keep.root.words()[index].load(Ordering::Relaxed))
    };
    Numbers {
        restarts: of(word::RESTARTS),
        handovers: of(word::HANDOVERS),
        given_up: of(word::GIVEN_UP),
    }
}

/// Shared memory behind a number that somebody else's value may own by and by: looked at through a
/// descriptor of its own.
fn peek(number: RawFd, length: usize) -> Option<Shared> {
    let own = rustix::fs::openat(
        rustix::fs::CWD,
        format!("/proc/self/fd/{number}"),
        rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    );
    Shared::adopt(own.ok()?, length).ok()
}
