//! The few things that no safe crate offers: memory shared with a guest as scatter lists, locks of
//! one open file description.
//!
//! Everything unsafe of this crate is here. It decides nothing: callers have checked lengths,
//! and errors go back as they came. Read first: preadv(2), fcntl(2) "Open file description locks".
#![allow(unsafe_code, reason = "the one file of this crate where it is allowed")]

use std::marker::PhantomData;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};

use rustix::io::Errno;
use vm_memory::VolatileSlice;

mod device;
mod extended;
mod handle;
mod keep;
mod stream;

pub(crate) use device::{clone_connection, ignore_termination};
pub(crate) use extended::{GETXATTRAT, extended_at};
pub(crate) use handle::{FileHandle, Handle};
#[cfg(test)]
pub(crate) use keep::duplicate;
pub(crate) use keep::{
    Awaited, Shared, Side, clone_with_descriptors, close_left_open, ignore_broken_pipes,
    is_inherited, set_inherited,
};
pub(crate) use stream::{HEADER, Region, counted, receive, send};

/// Bytes that a guest gave us to read; it may change them while we look.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub(crate) struct Source<'a> {
    range: libc::iovec,
    memory: PhantomData<&'a [u8]>,
}

/// Room that a guest gave us to fill; it may look at it, and scribble on it, meanwhile.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub(crate) struct Sink<'a> {
    range: libc::iovec,
    memory: PhantomData<&'a [u8]>,
}

// SAFETY: both are a start and a length inside memory that stays mapped for 'a. All use goes through
// copies and system calls that keep no reference, so it does not matter which thread makes them.
unsafe impl Send for Source<'_> {}
// SAFETY: as above.
unsafe impl Sync for Source<'_> {}
// SAFETY: as above; two threads writing one place at once is the same as the guest writing there.
unsafe impl Send for Sink<'_> {}
// SAFETY: as above.
unsafe impl Sync for Sink<'_> {}

/// What `Source` and `Sink` have in common.
pub(crate) trait Segment: Copy {
    /// The part of guest memory that this is.
    fn range(&self) -> libc::iovec;
    /// The same memory with a new start and length, which lie inside the old.
    fn with_range(range: libc::iovec) -> Self;

    /// Length in bytes.
    fn len(&self) -> usize {
        self.range().iov_len
    }
}

impl Segment for Source<'_> {
    fn range(&self) -> libc::iovec {
        self.range
    }
    fn with_range(range: libc::iovec) -> Self {
        Self {
            range,
            memory: PhantomData,
        }
    }
}

impl Segment for Sink<'_> {
    fn range(&self) -> libc::iovec {
        self.range
    }
    fn with_range(range: libc::iovec) -> Self {
        Self {
            range,
            memory: PhantomData,
        }
    }
}

impl<'a> From<&'a [u8]> for Source<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Self::with_range(libc::iovec {
            iov_base: bytes.as_ptr().cast_mut().cast(),
            iov_len: bytes.len(),
        })
    }
}

impl<'a> From<&'a mut [u8]> for Sink<'a> {
    fn from(bytes: &'a mut [u8]) -> Self {
        Self::with_range(libc::iovec {
            iov_base: bytes.as_mut_ptr().cast(),
            iov_len: bytes.len(),
        })
    }
}

impl<'a> From<VolatileSlice<'a>> for Source<'a> {
    fn from(slice: VolatileSlice<'a>) -> Self {
        let start = slice.ptr_guard().as_ptr().cast_mut().cast();
        Self::with_range(libc::iovec {
            iov_base: start,
            iov_len: slice.len(),
        })
    }
}

impl<'a> From<VolatileSlice<'a>> for Sink<'a> {
    fn from(slice: VolatileSlice<'a>) -> Self {
        let start = slice.ptr_guard_mut().as_ptr().cast();
        Self::with_range(libc::iovec {
            iov_base: start,
            iov_len: slice.len(),
        })
    }
}

/// All bytes of a list.
pub(crate) fn total<S: Segment>(list: &[S]) -> usize {
    list.iter().map(Segment::len).sum()
}

/// Does `work` with the part of the list that starts at `offset` and has at most `length` bytes.
///
/// The segments at its edges are cut for that long and whole again behind.
pub(crate) fn window<S: Segment, R>(
    list: &mut [S],
    offset: usize,
    length: usize,
    work: impl FnOnce(&[S]) -> R,
) -> R {
    let mut first = 0;
    let mut head = offset;
    while let Some(segment) = list.get(first)
        && head >= segment.len()
    {
        head -= segment.len();
        first += 1;
    }
    let mut end = first;
    let mut left = length.saturating_add(head);
    let mut last_length = 0;
    while let Some(segment) = list.get(end)
        && left > 0
    {
        last_length = left.min(segment.len());
        left -= last_length;
        end += 1;
    }
    if first == end {
        return work(&[]);
    }
    let (whole_first, whole_last) = (list[first], list[end - 1]);
    list[end - 1] = cut(whole_last, 0, last_length);
    list[first] = cut(list[first], head, usize::MAX);
    let answer = work(&list[first..end]);
    list[end - 1] = whole_last;
    list[first] = whole_first;
    answer
}

fn cut<S: Segment>(segment: S, offset: usize, length: usize) -> S {
    let range = segment.range();
    let offset = offset.min(range.iov_len);
    S::with_range(libc::iovec {
        iov_base: range.iov_base.cast::<u8>().wrapping_add(offset).cast(),
        iov_len: length.min(range.iov_len - offset),
    })
}

/// Copies from the start of the list into `bytes`; how many bytes there were, at most `bytes.len()`.
pub(crate) fn gather(list: &[Source<'_>], bytes: &mut [u8]) -> usize {
    let mut done = 0;
    for segment in list {
        if done == bytes.len() {
            break;
        }
        let count = segment.len().min(bytes.len() - done);
        // SAFETY: the segment's first `count` bytes are mapped for its lifetime, and `bytes` has
        // `count` bytes left at `done`; a private buffer never overlaps guest memory.
        unsafe {
            let to = bytes.as_mut_ptr().add(done);
            std::ptr::copy_nonoverlapping(segment.range.iov_base.cast::<u8>(), to, count);
        }
        done += count;
    }
    done
}

/// Copies `bytes` to the list, `offset` bytes behind its start; how many found room.
pub(crate) fn scatter(list: &[Sink<'_>], mut offset: usize, bytes: &[u8]) -> usize {
    let mut done = 0;
    for segment in list {
        if offset >= segment.len() {
            offset -= segment.len();
            continue;
        }
        let count = (segment.len() - offset).min(bytes.len() - done);
        // SAFETY: `offset + count` lies inside the segment, which is mapped for its lifetime;
        // `bytes` has `count` bytes left at `done` and never overlaps guest memory.
        unsafe {
            let to = segment.range.iov_base.cast::<u8>().add(offset);
            std::ptr::copy_nonoverlapping(bytes.as_ptr().add(done), to, count);
        }
        done += count;
        offset = 0;
        if done == bytes.len() {
            break;
        }
    }
    done
}

/// Longest list that one call takes (UIO_MAXIOV); what lies behind is left for the next.
const LONGEST_LIST: usize = 1024;

/// preadv(2) straight into the guest's memory.
pub(crate) fn read_at(
    file: BorrowedFd<'_>,
    list: &[Sink<'_>],
    offset: u64,
) -> Result<usize, Errno> {
    let offset = i64::try_from(offset).map_err(|_| Errno::INVAL)?;
    let count = list_length(list.len());
    // SAFETY: Sink is a transparent iovec, the ranges are mapped for the call, and the kernel only
    // writes inside them; memory that went away meanwhile is EFAULT, not a signal.
    let done = unsafe { libc::preadv64(file.as_raw_fd(), list.as_ptr().cast(), count, offset) };
    result(done)
}

/// pwritev(2), or pwritev2(2) with RWF_APPEND, straight from the guest's memory.
pub(crate) fn write_at(
    file: BorrowedFd<'_>,
    list: &[Source<'_>],
    offset: u64,
    append: bool,
) -> Result<usize, Errno> {
    let offset = i64::try_from(offset).map_err(|_| Errno::INVAL)?;
    let count = list_length(list.len());
    let flags = if append { libc::RWF_APPEND } else { 0 };
    // SAFETY: as in read_at; the kernel only reads the ranges.
    let done =
        unsafe { libc::pwritev64v2(file.as_raw_fd(), list.as_ptr().cast(), count, offset, flags) };
    result(done)
}

fn list_length(length: usize) -> libc::c_int {
    libc::c_int::try_from(length.min(LONGEST_LIST)).unwrap_or(0)
}

fn result(done: isize) -> Result<usize, Errno> {
    usize::try_from(done).map_err(|_| last_error())
}

fn last_error() -> Errno {
    let code = std::io::Error::last_os_error().raw_os_error();
    Errno::from_raw_os_error(code.unwrap_or(libc::EIO))
}

/// A range for `lock`: as struct flock, `length` 0 reaches to the end of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LockRange {
    pub(crate) kind: LockKind,
    pub(crate) start: i64,
    pub(crate) length: i64,
}

/// F_RDLCK, F_WRLCK, F_UNLCK.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LockKind {
    Shared,
    Exclusive,
    Unlock,
}

/// F_OFD_SETLK; `Errno::AGAIN` when somebody else holds it.
pub(crate) fn lock(file: BorrowedFd<'_>, range: LockRange) -> Result<(), Errno> {
    let mut lock = to_flock(range);
    // SAFETY: the kernel reads one flock that lives across the call.
    match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw mut lock) } {
        0 => Ok(()),
        _ => match last_error() {
            Errno::ACCESS => Err(Errno::AGAIN),
            error => Err(error),
        },
    }
}

/// F_OFD_GETLK: the lock that stands in the way, if any.
pub(crate) fn blocking_lock(
    file: BorrowedFd<'_>,
    range: LockRange,
) -> Result<Option<LockRange>, Errno> {
    let mut lock = to_flock(range);
    // SAFETY: the kernel reads and writes one flock that lives across the call.
    if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_GETLK, &raw mut lock) } != 0 {
        return Err(last_error());
    }
    let kind = match i32::from(lock.l_type) {
        libc::F_RDLCK => LockKind::Shared,
        libc::F_WRLCK => LockKind::Exclusive,
        _ => return Ok(None),
    };
    Ok(Some(LockRange {
        kind,
        start: lock.l_start,
        length: lock.l_len,
    }))
}

fn to_flock(range: LockRange) -> libc::flock {
    // SAFETY: flock is plain integers; zero is a value of each, and l_pid must be zero here.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    let kind = match range.kind {
        LockKind::Shared => libc::F_RDLCK,
        LockKind::Exclusive => libc::F_WRLCK,
        LockKind::Unlock => libc::F_UNLCK,
    };
    lock.l_type = libc::c_short::try_from(kind).unwrap_or_default();
    lock.l_whence = libc::c_short::try_from(libc::SEEK_SET).unwrap_or_default();
    lock.l_start = range.start;
    lock.l_len = range.length;
    lock
}

/// close(2) that tells what it has to say (a file system over the network may).
pub(crate) fn close(descriptor: OwnedFd) -> Result<(), Errno> {
    // SAFETY: the descriptor is owned and given up here, whatever the answer.
    match unsafe { libc::close(descriptor.into_raw_fd()) } {
        0 => Ok(()),
        _ => Err(last_error()),
    }
}

/// A descriptor of one's own for the same socket, for a type that lends none.
pub(crate) fn borrow(of: &impl AsRawFd) -> std::io::Result<OwnedFd> {
    // SAFETY: the owner is borrowed for the whole call, so its descriptor is open during it.
    let lent = unsafe { BorrowedFd::borrow_raw(of.as_raw_fd()) };
    lent.try_clone_to_owned()
}

/// Makes reads and writes of a descriptor that a VMM gave us answer EAGAIN instead of waiting for it.
pub(crate) fn make_nonblocking(of: &impl AsRawFd) {
    // SAFETY: the owner is borrowed for the whole call, so its descriptor is open during it.
    let lent = unsafe { BorrowedFd::borrow_raw(of.as_raw_fd()) };
    if let Ok(flags) = rustix::fs::fcntl_getfl(lent)
        && !flags.contains(rustix::fs::OFlags::NONBLOCK)
    {
        // What cannot be so (a regular file) never waits.
        rustix::fs::fcntl_setfl(lent, flags | rustix::fs::OFlags::NONBLOCK).ok();
    }
}

/// Processors of this machine that are online, whether we may use them or not: a guest may use others.
pub(crate) fn processors() -> usize {
    // SAFETY: it takes a number and gives one.
    let count = unsafe { libc::sysconf(libc::_SC_NPROCESSORS_ONLN) };
    usize::try_from(count).unwrap_or(1)
}

/// Takes back a descriptor whose owner let go of it with `into_raw_fd` and will not close it.
///
/// vhost-user-backend 0.24 does so with each worker's exit event; without this a daemon would
/// lose one descriptor a connection. The caller calls it once a descriptor, after that owner is gone.
pub(crate) fn take_back(descriptor: RawFd) -> OwnedFd {
    // SAFETY: by the contract above nobody else owns or uses the descriptor.
    unsafe { OwnedFd::from_raw_fd(descriptor) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_gathered_scattered_cut_and_skipped_across_segments() {
        let (one, two) = (*b"hello ", *b"world");
        let mut sources = [
            Source::from(&one[..]),
            Source::from(&[][..]),
            Source::from(&two[..]),
        ];
        let mut all = [0; 11];
        assert_eq!(gather(&sources, &mut all), 11);
        assert_eq!(&all, b"hello world");
        let mut part = [0; 8];
        for (offset, length, expected) in [
            (7, 9, &b"orld"[..]),
            (4, 4, b"o wo"),
            (0, 3, b"hel"),
            (1, 2, b"el"),
            (6, 1, b"w"),
            (11, 5, b""),
        ] {
            let count = window(&mut sources, offset, length, |list| gather(list, &mut part));
            assert_eq!(&part[..count], expected, "{offset} {length}");
        }
        assert_eq!(window(&mut sources, 99, 1, |list| list.len()), 0);
        assert_eq!(total(&sources), 11, "the list is whole again");

        let (mut left, mut right) = ([0; 3], [0; 3]);
        let mut sinks = [Sink::from(&mut left[..]), Sink::from(&mut right[..])];
        assert_eq!(scatter(&sinks, 2, b"abc"), 3);
        assert_eq!(scatter(&sinks, 5, b"xyz"), 1, "no room behind the end");
        assert_eq!(window(&mut sinks, 0, 4, total), 4);
        assert_eq!((left, right), ([0, 0, b'a'], [b'b', b'c', b'x']));
    }
}
