//! A stream socket whose bytes outlive the process that moves them: the buffers and the count of what was moved are
//! in shared memory.
//!
//! read(2) and write(2) tell how many bytes there were in a register, which is gone with the process. recvmmsg(2) and
//! sendmmsg(2) tell it in memory (`msg_len`), and the kernel writes it before the process can end: a call that
//! has moved something returns, also in a process that is being killed.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering, fence};

use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags};

use super::keep::Shared;

/// Words of a header: mmsghdr, and its one iovec.
pub(crate) const HEADER: usize =
    (size_of::<libc::mmsghdr>() + size_of::<libc::iovec>()).div_ceil(size_of::<u64>());
const IOVEC_AT: usize = size_of::<libc::mmsghdr>();
const COUNT_AT: usize = std::mem::offset_of!(libc::mmsghdr, msg_len);

const _: () = assert!(
    IOVEC_AT.is_multiple_of(align_of::<libc::iovec>())
        && align_of::<libc::mmsghdr>() <= align_of::<u64>()
);

/// A part of shared memory that one owner reads and writes as bytes. Nobody else may map that part meanwhile.
#[derive(Debug)]
pub(crate) struct Region {
    start: NonNull<u8>,
    length: usize,
}

// SAFETY: it is memory of its own, which stays mapped as long as the value lives.
unsafe impl Send for Region {}
// SAFETY: as above; bytes change through `&mut` only.
unsafe impl Sync for Region {}

impl Region {
    /// The bytes of so many words of `memory` behind `start`, which is at the start of a page. They are not to be
    /// reached as words, or by another `Region`, while this lives: who makes one answers for that.
    pub(crate) fn map(memory: &Shared, start: usize, words: usize) -> Result<Self, Errno> {
        let bytes = |words: usize| words.saturating_mul(size_of::<u64>());
        let end = start.saturating_add(words);
        if end > memory.words().len() {
            return Err(Errno::INVAL);
        }
        // SAFETY: a new mapping at a place that the kernel chooses touches no other memory; it lies within the
        // file, which nobody makes shorter.
        let mapped = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                bytes(words),
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED | MapFlags::NORESERVE,
                memory,
                bytes(start) as u64,
            )?
        };
        let start = NonNull::new(mapped.cast()).ok_or(Errno::NOMEM)?;
        Ok(Self {
            start,
            length: bytes(words),
        })
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: so many bytes are mapped for as long as `self` lives, all of them were written by the kernel or
        // are zero, and by the contract of `map` nobody changes them but through `&mut self`.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.length) }
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `self` is borrowed alone.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.length) }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and no reference into it outlives `self`.
        unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.length) }.ok();
    }
}

/// How many bytes the header's call has moved; 0 until it has.
pub(crate) fn counted(header: &[AtomicU64]) -> usize {
    let word = header.get(COUNT_AT / size_of::<u64>());
    let bytes = word
        .map_or(0, |word| word.load(Ordering::Acquire))
        .to_ne_bytes();
    let at = COUNT_AT % size_of::<u64>();
    let count = bytes.get(at..).and_then(|bytes| bytes.first_chunk());
    count.map_or(0, |count| {
        usize::try_from(u32::from_ne_bytes(*count)).unwrap_or_default()
    })
}

/// The header as one of a call that has moved nothing.
fn prepare(
    header: &[AtomicU64],
    start: *mut u8,
    length: usize,
) -> Result<*mut libc::mmsghdr, Errno> {
    if header.len() < HEADER {
        return Err(Errno::INVAL);
    }
    let place: *mut libc::mmsghdr = header.as_ptr().cast_mut().cast();
    // SAFETY: `header` has room for both, its words may be changed through a shared reference, and mmsghdr is plain
    // data for which zero is a value. Only one thread at a time makes calls with a header.
    unsafe {
        let vector: *mut libc::iovec = place.byte_add(IOVEC_AT).cast();
        let mut message: libc::mmsghdr = std::mem::zeroed();
        message.msg_hdr.msg_iov = vector;
        message.msg_hdr.msg_iovlen = 1;
        vector.write(libc::iovec {
            iov_base: start.cast(),
            iov_len: length,
        });
        place.write(message);
    }
    fence(Ordering::Release);
    Ok(place)
}

/// Receives what there is, at least a byte, into `room`; 0: the other end has closed. `begun` is called when `counted`
/// of the header is 0 and before anything can be received.
pub(crate) fn receive(
    socket: BorrowedFd<'_>,
    header: &[AtomicU64],
    room: &mut [u8],
    begun: impl FnOnce(),
) -> Result<usize, Errno> {
    let message = prepare(header, room.as_mut_ptr(), room.len())?;
    begun();
    // SAFETY: the header and `room` live across the call; the kernel writes inside of them only.
    let done = unsafe { libc::recvmmsg(socket.as_raw_fd(), message, 1, 0, std::ptr::null_mut()) };
    super::result(done as isize).map(|_| counted(header))
}

/// Sends as much of `bytes` as goes before the call is interrupted. `begun`: as in `receive`.
pub(crate) fn send(
    socket: BorrowedFd<'_>,
    header: &[AtomicU64],
    bytes: &[u8],
    begun: impl FnOnce(),
) -> Result<usize, Errno> {
    let message = prepare(header, bytes.as_ptr().cast_mut(), bytes.len())?;
    begun();
    // SAFETY: the header and `bytes` live across the call; the kernel writes the header's count and reads the rest.
    let done = unsafe { libc::sendmmsg(socket.as_raw_fd(), message, 1, libc::MSG_NOSIGNAL) };
    super::result(done as isize).map(|_| counted(header))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn what_was_moved_is_counted_in_the_memory_that_stays() {
        let memory = Shared::create("test", 4096).unwrap();
        let mut room = Region::map(&memory, 512, 1024).unwrap();
        assert!(Region::map(&memory, 512, 4096).is_err(), "beyond the end");
        let (near, far) = UnixStream::pair().unwrap();
        let header = &memory.words()[..HEADER];
        let sent = send(near.as_fd(), header, b"hello", || {
            assert_eq!(counted(header), 0);
        });
        assert_eq!((sent, counted(header)), (Ok(5), 5));
        let mut begun = false;
        let got = receive(far.as_fd(), header, &mut room.bytes_mut()[8..100], || {
            begun = counted(header) == 0;
        });
        assert_eq!((got, counted(header), begun), (Ok(5), 5, true));
        // Another process, with the same memory.
        drop(room);
        let room = Region::map(&memory, 512, 1024).unwrap();
        assert_eq!(&room.bytes()[8..14], b"hello\0");
        drop(near);
        let got = receive(far.as_fd(), header, &mut [0; 10], || ());
        assert_eq!((got, counted(header)), (Ok(0), 0));
        let refused = send(far.as_fd(), header, b"x", || ());
        assert_eq!((refused, counted(header)), (Err(Errno::PIPE), 0));
    }

    #[test]
    fn a_call_that_is_cut_short_says_how_far_it_came() {
        let memory = Shared::create("test", HEADER).unwrap();
        let (near, far) = UnixStream::pair().unwrap();
        near.set_nonblocking(true).unwrap();
        let bytes = vec![7; 64 << 20];
        let sent = send(near.as_fd(), memory.words(), &bytes, || ()).unwrap();
        assert!(sent > 0 && sent < bytes.len());
        assert_eq!(counted(memory.words()), sent);
        drop(near);
        let mut all = Vec::new();
        std::io::Read::read_to_end(&mut &far, &mut all).unwrap();
        assert_eq!(all.len(), sent);
    }
}
