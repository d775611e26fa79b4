//! Memory that outlives a process, and processes that share one table of descriptors.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

use rustix::fs::MemfdFlags;
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags};
use rustix::process::{Pid, Signal};

use super::{Segment, Source};

/// Words of shared memory behind a descriptor: whoever holds the descriptor finds them as they were
/// left. Pages that nobody wrote to cost nothing.
#[derive(Debug)]
pub(crate) struct Shared {
    descriptor: OwnedFd,
    start: NonNull<AtomicU64>,
    length: usize,
}

// SAFETY: the memory is reached as atomic words only, and stays mapped as long as the value lives.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    /// So many words, all zero.
    pub(crate) fn create(name: &str, length: usize) -> Result<Self, Errno> {
        let descriptor = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC)?;
        rustix::fs::ftruncate(&descriptor, bytes(length) as u64)?;
        Self::map(descriptor, length)
    }

    /// The words that another process made; EINVAL if there are fewer.
    pub(crate) fn adopt(descriptor: OwnedFd, length: usize) -> Result<Self, Errno> {
        let there = rustix::fs::fstat(&descriptor)?.st_size;
        if u64::try_from(there).unwrap_or_default() < bytes(length) as u64 {
            return Err(Errno::INVAL);
        }
        Self::map(descriptor, length)
    }

    fn map(descriptor: OwnedFd, length: usize) -> Result<Self, Errno> {
        // SAFETY: a new mapping at a place that the kernel chooses touches no other memory. The file is
        // as long as the mapping, and nobody who has its descriptor makes it shorter.
        let start = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                bytes(length),
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED | MapFlags::NORESERVE,
                &descriptor,
                0,
            )?
        };
        let start = NonNull::new(start.cast()).ok_or(Errno::NOMEM)?;
        Ok(Self {
            descriptor,
            start,
            length,
        })
    }

    pub(crate) fn words(&self) -> &[AtomicU64] {
        // SAFETY: the mapping has `length` words, page-aligned, for as long as `self` lives; atomic words
        // may be changed by others meanwhile.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.length) }
    }

    /// read(2) of a descriptor into the words from `start` on, at most `length` bytes of them: what the kernel has
    /// copied is there, whatever becomes of this process.
    pub(crate) fn read(
        &self,
        from: BorrowedFd<'_>,
        start: usize,
        length: usize,
    ) -> Result<usize, Errno> {
        let room = self.range(start, length);
        // SAFETY: the range is mapped for as long as `self` lives, and the kernel only writes inside it.
        let done = unsafe { libc::read(from.as_raw_fd(), room.iov_base, room.iov_len) };
        super::result(done)
    }

    /// The words from `start` on as bytes, `length` at most.
    pub(crate) fn source(&self, start: usize, length: usize) -> Source<'_> {
        Source::with_range(self.range(start, length))
    }

    /// All pages of so many words are there from now on (MADV_POPULATE_WRITE; before Linux 5.14 as they are used).
    pub(crate) fn populate(&self, start: usize, words: usize) {
        let range = self.range(start, bytes(words));
        // SAFETY: the range is inside the mapping, and what is in its pages stays.
        let advised = unsafe {
            rustix::mm::madvise(
                range.iov_base,
                range.iov_len,
                rustix::mm::Advice::LinuxPopulateWrite,
            )
        };
        advised.ok();
    }

    /// So many words are there from now on, and stay in memory as far as this process may have them so (RLIMIT_MEMLOCK).
    pub(crate) fn hold(&self, start: usize, words: usize) {
        self.populate(start, words);
        let range = self.range(start, bytes(words));
        // SAFETY: the range is inside the mapping; to be in memory changes nothing of it.
        let held = unsafe { rustix::mm::mlock(range.iov_base, range.iov_len) };
        held.ok();
    }

    /// Cut to what is mapped.
    fn range(&self, start: usize, length: usize) -> libc::iovec {
        let words = self.words().get(start..).unwrap_or_default();
        libc::iovec {
            iov_base: words.as_ptr().cast_mut().cast(),
            iov_len: length.min(bytes(words.len())),
        }
    }

    /// The descriptor's number, by which another process of the same table finds it.
    pub(crate) fn number(&self) -> RawFd {
        self.descriptor.as_raw_fd()
    }
}

impl AsFd for Shared {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and no reference into it outlives `self`. The kernel refuses
        // nothing that was mapped so.
        unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), bytes(self.length)) }.ok();
    }
}

fn bytes(words: usize) -> usize {
    words.saturating_mul(size_of::<u64>())
}

/// Which of the two the caller is after `clone_with_descriptors`.
#[derive(Debug)]
pub(crate) enum Side {
    Parent(Pid),
    Child,
}

/// A child that shares our table of descriptors: what either opens or closes is open or closed in both,
/// and what one has open when it ends stays open in the other.
pub(crate) fn clone_with_descriptors() -> Result<Side, Errno> {
    let flags = libc::CLONE_FILES | libc::SIGCHLD;
    // SAFETY: without CLONE_VM this is fork(2) but for the descriptors. The caller has one thread, so no
    // lock is held by a thread that the child lacks; the libc's handlers at fork are for those that do.
    match unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) } {
        0 => Ok(Side::Child),
        child => i32::try_from(child)
            .ok()
            .and_then(Pid::from_raw)
            .map(Side::Parent)
            .ok_or_else(super::last_error),
    }
}

/// The signals that a keeper hears, all blocked until it asks for them.
#[derive(Clone, Copy)]
pub(crate) struct Awaited {
    set: libc::sigset_t,
    before: libc::sigset_t,
}

impl Awaited {
    /// Blocks them for the calling thread, which is the process's only one.
    pub(crate) fn block(signals: &[Signal]) -> Self {
        // SAFETY: sigset_t is plain data, and each call is given one that lives across it.
        unsafe {
            let mut set: libc::sigset_t = std::mem::zeroed();
            let mut before: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut set);
            for signal in signals {
                libc::sigaddset(&raw mut set, signal.as_raw());
            }
            libc::sigprocmask(libc::SIG_BLOCK, &raw const set, &raw mut before);
            Self { set, before }
        }
    }

    /// Waits for one of them.
    pub(crate) fn next(&self) -> Option<Signal> {
        let mut number = 0;
        // SAFETY: both live across the call.
        match unsafe { libc::sigwait(&raw const self.set, &raw mut number) } {
            0 => Signal::from_named_raw(number),
            _ => None,
        }
    }

    /// Lets them through, all of them: a process that was started with some of them blocked (by a keeper
    /// before us, say) has them open from here on.
    pub(crate) fn release(&self) {
        let mut mask = self.before;
        // SAFETY: as above.
        unsafe {
            for number in 1..libc::SIGRTMIN() {
                if libc::sigismember(&raw const self.set, number) == 1 {
                    libc::sigdelset(&raw mut mask, number);
                }
            }
            libc::sigprocmask(libc::SIG_SETMASK, &raw const mask, std::ptr::null_mut());
        }
    }
}

/// A second descriptor of what a number of this process stands for; EBADF where it is not open.
#[cfg(test)]
pub(crate) fn duplicate(number: RawFd) -> Result<OwnedFd, Errno> {
    // SAFETY: the kernel looks the number up, and nothing is kept of it.
    rustix::io::fcntl_dupfd_cloexec(unsafe { BorrowedFd::borrow_raw(number) }, 0)
}

/// Closes a number that belongs to no value of this process: what a process before us left open.
pub(crate) fn close_left_open(number: RawFd) {
    // SAFETY: by the contract above nobody here owns it; if it is not open, nothing happens.
    unsafe { libc::close(number) };
}

/// A write that nobody reads is an error, and no signal that ends the process: as Rust's start has it.
pub(crate) fn ignore_broken_pipes() {
    // SAFETY: the kernel reads two numbers; nothing of ours runs at the signal.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
}

/// Whether a program that is started from here gets the descriptor; not of one that is not open.
pub(crate) fn is_inherited(number: RawFd) -> bool {
    // SAFETY: the kernel reads a number; one that is not open is EBADF.
    let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
    flags >= 0 && flags & libc::FD_CLOEXEC == 0
}

/// A program that is started from here gets the descriptor, or does not.
pub(crate) fn set_inherited(number: RawFd, inherited: bool) {
    let flags = if inherited { 0 } else { libc::FD_CLOEXEC };
    // SAFETY: the kernel reads a number; one that is not open is EBADF.
    unsafe { libc::fcntl(number, libc::F_SETFD, flags) };
}
