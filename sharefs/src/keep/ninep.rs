//! What is kept of a 9P connection: its socket, the bytes that have come and those that are to go, and rows of what
//! its client knows (`rows`).
//!
//! A stream has no queue: bytes are gone from the socket once they are received, and a byte that is sent twice is
//! two bytes. So both calls leave their count in this memory (`sys/stream.rs`), and places in the two streams
//! are numbers that only grow:
//!
//! - `received`: where the last receive landed, and its count. `sent`: the same.
//! - a *commit* says in one store that so much of what was received is dealt with (`head`), and that so much is
//!   answered (`end`). The next one is written beside it, and its number is the store.
//!
//! A request that is behind `head` is done and its answer stands in the buffer; the one at `head` is not
//! answered, whatever it did. Rows carry the number of the commit that they begin and end with, so that
//! what a follower finds is what was so at the last commit.
//!
//! The memory is the same where nothing is kept, and only not listed then.

use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::io::Errno;

use super::journal::{JOURNAL, Journal};
use super::{Listed, MAGIC, bytes_of, claim, named, number, packed};
use crate::sys::{self, Region, Shared};

mod kept;
pub(crate) mod rows;

use rows::Rows;

/// Bytes of the longest frame (`ninep/session.rs`).
pub(crate) const LONGEST_FRAME: usize = 1024 * 1024 + 4096;
/// Room beside the longest frame, so that small ones come and go many at a time.
const BESIDE: usize = 128 * 1024;
/// Bytes: what has begun to come is moved to the front when it does not fit in behind, and may not overlap itself then.
const INPUT: usize = 2 * LONGEST_FRAME + BESIDE;
const OUTPUT: usize = LONGEST_FRAME + BESIDE;
/// sun_path of unix(7), in whole words.
const LONGEST_PATH: usize = 112;
const PAGE: usize = 4096 / size_of::<u64>();

mod word {
    use super::{INPUT, JOURNAL, LONGEST_PATH, OUTPUT, PAGE, rows, sys};

    pub(super) const MAGIC: usize = 0;
    /// The client's socket, and one.
    pub(super) const SOCKET: usize = 1;
    pub(super) const PATH_LENGTH: usize = 2;
    /// Things that the client knows and no row says: while there are any, the connection ends with its worker.
    pub(super) const UNKEPT: usize = 3;
    /// The number of the last commit, which is in the slot of that parity.
    pub(super) const COMMIT: usize = 4;
    /// `head` of the request that the journal is about, and one.
    pub(super) const BEGUN: usize = 5;
    /// Receives and sends so far: the last is in the slot of that parity.
    pub(super) const RECEIVES: usize = 6;
    pub(super) const SENDS: usize = 7;
    /// Of the client's socket: another one may have its number.
    pub(super) const SOCKET_INODE: usize = 8;

    pub(super) const COMMITS: usize = 9;
    pub(super) const COMMIT_SLOT: usize = 4;
    /// Where the first byte lands, in the stream and in the buffer; the call's header.
    pub(super) const MOVE_SLOT: usize = 2 + sys::HEADER;
    pub(super) const RECEIVED: usize = COMMITS + 2 * COMMIT_SLOT;
    pub(super) const SENT: usize = RECEIVED + 2 * MOVE_SLOT;
    pub(super) const PATH: usize = SENT + 2 * MOVE_SLOT;
    pub(super) const JOURNALS: usize = PATH + LONGEST_PATH / 8;
    pub(super) const ROWS: usize = (JOURNALS + JOURNAL).next_multiple_of(PAGE);
    pub(super) const INPUT_AT: usize = (ROWS + rows::ALL).next_multiple_of(PAGE);
    pub(super) const INPUT_WORDS: usize = (INPUT / 8).next_multiple_of(PAGE);
    pub(super) const OUTPUT_AT: usize = INPUT_AT + INPUT_WORDS;
    pub(super) const OUTPUT_WORDS: usize = (OUTPUT / 8).next_multiple_of(PAGE);
    pub(super) const ALL: usize = OUTPUT_AT + OUTPUT_WORDS;
    /// Words that the kernel writes are among these.
    pub(super) const HOT: usize = JOURNALS;
}

const _: () = assert!(word::HOT <= PAGE && INPUT.is_multiple_of(8) && OUTPUT.is_multiple_of(8));

const KIND: u64 = MAGIC ^ (6 << 56);

/// See the module's head.
#[derive(Clone, Debug)]
pub(crate) struct Connection(Arc<Shared>);

/// How far a connection has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Commit {
    /// Bytes of requests that are dealt with.
    pub(crate) head: u64,
    /// Bytes of answers.
    pub(crate) end: u64,
    /// Where the last of them ends in the buffer.
    pub(crate) end_at: u64,
    /// The longest frame that was agreed on; 0: none was.
    pub(crate) longest: u64,
}

/// One of the two streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    In,
    Out,
}

/// What one receive or send has moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Moved {
    /// The place in the stream of its first byte.
    pub(crate) from: u64,
    /// The same in the buffer.
    pub(crate) at: usize,
    pub(crate) count: usize,
}

/// A connection that an earlier process served. To be dropped as a whole: fields go in their order.
#[derive(Debug)]
pub(crate) struct Left {
    /// Dropped before what it lists.
    pub(crate) listed: Listed,
    pub(crate) memory: Connection,
    pub(crate) socket: UnixStream,
}

impl Connection {
    /// For a connection that ends with this process.
    pub(crate) fn alone() -> Result<Self, Errno> {
        let shared = Shared::create("sharefs-9p", word::ALL)?;
        // What the kernel writes a count to is to be there in a process that is being killed, too.
        shared.hold(0, word::HOT);
        Ok(Self(Arc::new(shared)))
    }

    /// For a client that has come by the door at that path. Without `Listed` where nothing can be kept.
    pub(crate) fn create(
        door: &Path,
        socket: &UnixStream,
    ) -> Result<(Self, Option<Listed>), Errno> {
        let connection = Self::alone()?;
        let path = door.as_os_str().as_bytes();
        if !super::is_on() || path.len() > LONGEST_PATH {
            return Ok((connection, None));
        }
        for (index, part) in path.chunks(8).enumerate() {
            connection.set(word::PATH + index, packed(part));
        }
        connection.set(word::PATH_LENGTH, path.len() as u64);
        connection.set_socket(socket)?;
        connection.set(word::MAGIC, KIND);
        let listed = Listed::new(connection.0.number());
        Ok((connection, listed))
    }

    /// All that the worker before us served at the door of that path, as far as they can go on.
    pub(crate) fn left(door: &Path) -> Vec<Left> {
        let door = door.as_os_str().as_bytes();
        let all = super::left_of(word::ALL, |memory| {
            let words = memory.words();
            is_whole(words) && path_in(words) == door
        });
        let with_sockets = all.into_iter().filter_map(|(shared, listed)| {
            shared.hold(0, word::HOT);
            let memory = Self(Arc::new(shared));
            let Some(socket) = memory.socket_left() else {
                // Before the memory is closed.
                drop(listed);
                return None;
            };
            Some(Left {
                listed,
                memory,
                socket,
            })
        });
        with_sockets.collect()
    }

    fn set_socket(&self, socket: &UnixStream) -> Result<(), Errno> {
        self.set(word::SOCKET_INODE, inode(socket)?);
        self.set(word::SOCKET, named(Some(socket.as_raw_fd())));
        Ok(())
    }

    /// The client's socket. None where its number is none, or another's.
    fn socket_left(&self) -> Option<UnixStream> {
        let socket = claim(self.get(word::SOCKET))?;
        if inode(&socket) == Ok(self.get(word::SOCKET_INODE)) {
            Some(socket.into())
        } else {
            super::give_back(socket);
            None
        }
    }

    fn get(&self, index: usize) -> u64 {
        self.0.words()[index].load(Ordering::Acquire)
    }

    fn set(&self, index: usize, value: u64) {
        self.0.words()[index].store(value, Ordering::Release);
    }

    /// The bytes of a stream. Each is to be had once at a time.
    pub(crate) fn buffer(&self, way: Way) -> Result<Region, Errno> {
        let (at, words) = match way {
            Way::In => (word::INPUT_AT, word::INPUT_WORDS),
            Way::Out => (word::OUTPUT_AT, word::OUTPUT_WORDS),
        };
        Region::map(&self.0, at, words)
    }

    /// The last commit.
    pub(crate) fn commit(&self) -> Commit {
        let slot = self.commit_slot(self.get(word::COMMIT));
        Commit {
            head: slot[0].load(Ordering::Relaxed),
            end: slot[1].load(Ordering::Relaxed),
            end_at: slot[2].load(Ordering::Relaxed),
            longest: slot[3].load(Ordering::Relaxed),
        }
    }

    /// One store from which on all is as it says, and rows are as they were written since the last one.
    pub(crate) fn put_commit(&self, new: Commit) {
        let number = self.get(word::COMMIT) + 1;
        let slot = self.commit_slot(number);
        let fields = [new.head, new.end, new.end_at, new.longest];
        for (word, field) in slot.iter().zip(fields) {
            word.store(field, Ordering::Relaxed);
        }
        self.set(word::COMMIT, number);
    }

    fn commit_slot(&self, number: u64) -> &[AtomicU64] {
        let start = word::COMMITS + parity(number) * word::COMMIT_SLOT;
        &self.0.words()[start..start + word::COMMIT_SLOT]
    }

    /// What the last call has moved.
    pub(crate) fn moved(&self, way: Way) -> Moved {
        let slot = self.move_slot(way, self.get(way.counter()));
        Moved {
            from: slot[0].load(Ordering::Relaxed),
            at: usize::try_from(slot[1].load(Ordering::Relaxed)).unwrap_or_default(),
            count: sys::counted(&slot[2..]),
        }
    }

    /// A call that is to move something from or to that place; `call` gets its header, and what is to be done once that
    /// is prepared: before anything can have moved, and before it is the last call.
    pub(crate) fn begin_move<R>(
        &self,
        way: Way,
        (from, at): (u64, usize),
        call: impl FnOnce(&[AtomicU64], &dyn Fn()) -> R,
    ) -> R {
        let number = self.get(way.counter()) + 1;
        let slot = self.move_slot(way, number);
        slot[0].store(from, Ordering::Relaxed);
        slot[1].store(at as u64, Ordering::Relaxed);
        call(&slot[2..], &|| self.set(way.counter(), number))
    }

    fn move_slot(&self, way: Way, number: u64) -> &[AtomicU64] {
        let start = match way {
            Way::In => word::RECEIVED,
            Way::Out => word::SENT,
        };
        let start = start + parity(number) * word::MOVE_SLOT;
        &self.0.words()[start..start + word::MOVE_SLOT]
    }

    /// How far the request at the head has come.
    pub(crate) fn journal(&self) -> Journal {
        Journal::new(Arc::clone(&self.0), word::JOURNALS)
    }

    /// The request at `head` is begun; the journal is about it.
    pub(crate) fn begin_request(&self, journal: &Journal, head: u64) {
        journal.begin(0, 0);
        self.set(word::BEGUN, head + 1);
    }

    /// Whether it was begun.
    pub(crate) fn is_begun(&self, head: u64) -> bool {
        self.get(word::BEGUN) == head + 1
    }

    /// Rows of what the client knows, none yet.
    pub(crate) fn rows(&self) -> Arc<Rows> {
        Rows::begin(Arc::clone(&self.0))
    }

    /// The rows that an earlier process left.
    pub(crate) fn rows_left(&self) -> Arc<Rows> {
        Rows::adopt(Arc::clone(&self.0))
    }
}

impl Way {
    fn counter(self) -> usize {
        match self {
            Self::In => word::RECEIVES,
            Self::Out => word::SENDS,
        }
    }
}

/// Of a socket, which is in no folder: no other one has it. EPROTOTYPE for what is none.
fn inode(socket: &(impl AsFd + ?Sized)) -> Result<u64, Errno> {
    let status = rustix::fs::fstat(socket)?;
    if rustix::fs::FileType::from_raw_mode(status.st_mode) != rustix::fs::FileType::Socket {
        return Err(Errno::PROTOTYPE);
    }
    Ok(status.st_ino)
}

fn parity(number: u64) -> usize {
    usize::from(number & 1 == 1)
}

/// Whether it is a connection's memory, and says all that the client knows.
fn is_whole(words: &[AtomicU64]) -> bool {
    let get = |index: usize| words[index].load(Ordering::Acquire);
    get(word::MAGIC) == KIND && get(word::UNKEPT) == 0
}

fn path_in(words: &[AtomicU64]) -> Vec<u8> {
    let length = usize::try_from(words[word::PATH_LENGTH].load(Ordering::Acquire));
    let length = length.map_or(LONGEST_PATH, |length| length.min(LONGEST_PATH));
    bytes_of(&words[word::PATH..], length)
}

/// All descriptors that a word of the root leads to; for the sweep. Of a connection that cannot go on, none but the
/// memory's own.
pub(super) fn names(left: u64) -> Vec<RawFd> {
    let Some(own) = number(left) else {
        return Vec::new();
    };
    let Some(memory) = super::peek(own, word::ALL) else {
        return Vec::new();
    };
    if memory.words()[word::MAGIC].load(Ordering::Acquire) != KIND {
        return Vec::new();
    }
    let mut names = vec![own];
    if is_whole(memory.words()) {
        names.extend(number(memory.words()[word::SOCKET].load(Ordering::Acquire)));
        names.extend(rows::names(&memory));
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_is_the_last_or_the_one_before_and_never_a_mixture() {
        let kept = Connection::alone().unwrap();
        assert_eq!(kept.commit(), Commit::default());
        for turn in 1..5 {
            let new = Commit {
                head: turn * 10,
                end: turn * 20,
                end_at: turn,
                longest: 8192,
            };
            // A process that dies before the last store of it has written beside the one that is in force.
            let slot = kept.commit_slot(kept.get(word::COMMIT) + 1);
            let before = kept.commit();
            slot.iter()
                .for_each(|word| word.store(u64::MAX, Ordering::Relaxed));
            assert_eq!(kept.commit(), before);
            kept.put_commit(new);
            assert_eq!(kept.commit(), new);
        }
    }

    #[test]
    fn a_socket_that_has_the_number_of_the_clients_is_not_taken_for_it() {
        let kept = Connection::alone().unwrap();
        let (near, other) = UnixStream::pair().unwrap();
        assert!(kept.socket_left().is_none(), "nothing is written down");
        kept.set_socket(&near).unwrap();
        assert!(kept.socket_left().is_some());
        kept.set(word::SOCKET, named(Some(other.as_raw_fd())));
        assert!(kept.socket_left().is_none());
        let file = std::fs::File::open("/").unwrap();
        kept.set(word::SOCKET, named(Some(file.as_raw_fd())));
        assert!(kept.socket_left().is_none());
    }

    #[test]
    fn a_call_that_was_begun_and_moved_nothing_leaves_what_was_moved_before() {
        let kept = Connection::alone().unwrap();
        let (near, far) = UnixStream::pair().unwrap();
        use std::os::fd::AsFd;
        let mut room = kept.buffer(Way::In).unwrap();
        sys::send(
            near.as_fd(),
            &[const { AtomicU64::new(0) }; sys::HEADER],
            b"abc",
            || (),
        )
        .unwrap();
        let got = kept.begin_move(Way::In, (100, 7), |header, begun| {
            // Prepared and not begun: the one before is still the last.
            assert_eq!(kept.moved(Way::In), Moved::default());
            sys::receive(far.as_fd(), header, &mut room.bytes_mut()[7..], begun)
        });
        let moved = Moved {
            from: 100,
            at: 7,
            count: 3,
        };
        assert_eq!((got, kept.moved(Way::In)), (Ok(3), moved));
        kept.begin_move(Way::In, (103, 10), |_, _| ());
        assert_eq!(kept.moved(Way::In), moved);
        far.set_nonblocking(true).unwrap();
        let nothing = kept.begin_move(Way::In, (103, 10), |header, begun| {
            sys::receive(far.as_fd(), header, &mut room.bytes_mut()[10..], begun)
        });
        assert_eq!(nothing, Err(Errno::AGAIN));
        let now = kept.moved(Way::In);
        assert_eq!((now.from, now.at, now.count), (103, 10, 0), "the same end");
        assert_eq!(kept.moved(Way::Out), Moved::default());
    }
}
