//! A VMM may cut the file behind its guest's memory short while we have it mapped; touching the
//! lost pages is a SIGBUS, which would end the daemon and with it what it does for every other guest.
//!
//! While a range is registered here, a fault inside it is mended by mapping an empty page of our own
//! in its place: that guest gets nonsense, the others notice nothing. A fault elsewhere ends the
//! process as it would have without us. The signal for files that grow too large is dealt with too. Read first: sigaction(2) SA_SIGINFO, signal-safety(7).

#![allow(unsafe_code, reason = "the one file of this crate where it is allowed")]

use std::sync::atomic::{AtomicUsize, Ordering};

/// Ranges that can be guarded at once: guests times memory regions, one daemon.
const SLOTS: usize = 4096;

struct Slot {
    start: AtomicUsize,
    /// 0: the slot is free. Written last when taken, first when given back.
    length: AtomicUsize,
}

static RANGES: [Slot; SLOTS] = [const {
    Slot {
        start: AtomicUsize::new(0),
        length: AtomicUsize::new(0),
    }
}; SLOTS];
static MENDED: AtomicUsize = AtomicUsize::new(0);

/// A range of mapped guest memory that is guarded until this is dropped.
#[derive(Debug)]
pub struct Guarded {
    slot: usize,
}

/// Guards `length` bytes at `start`; None when all slots are taken.
pub fn guard(start: *const u8, length: usize) -> Option<Guarded> {
    let slot = RANGES.iter().position(|slot| {
        let taken = slot
            .length
            .compare_exchange(0, 1, Ordering::AcqRel, Ordering::Relaxed);
        taken.is_ok()
    })?;
    RANGES[slot].start.store(start.addr(), Ordering::Release);
    RANGES[slot].length.store(length.max(1), Ordering::Release);
    Some(Guarded { slot })
}

impl Drop for Guarded {
    fn drop(&mut self) {
        RANGES[self.slot].start.store(0, Ordering::Release);
        RANGES[self.slot].length.store(0, Ordering::Release);
    }
}

/// Pages replaced so far, since the daemon started.
pub fn mended() -> usize {
    MENDED.load(Ordering::Relaxed)
}

/// Puts the handler in place, once a process, before the first guest.
///
/// # Errors
/// What sigaction(2) says.
pub fn install() -> std::io::Result<()> {
    // SAFETY: sigaction is plain data, zero is a valid start; the handler below only makes one
    // system call and touches atomics, which is all a signal handler may do.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) =
            on_bus_error;
        action.sa_sigaction = handler as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        libc::sigemptyset(&raw mut action.sa_mask);
        if libc::sigaction(libc::SIGBUS, &raw const action, std::ptr::null_mut()) != 0 {
            return Err(std::io::Error::last_os_error());
        }
        // A guest that writes past the user's limit on file sizes is answered EFBIG; the signal that
        // comes with it would end the daemon.
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
    }
    Ok(())
}

/// Sizes of pages that guest memory may consist of, on x86-64 and most of arm64: a mapping of huge
/// pages can only be replaced by whole ones.
const PAGES: [usize; 3] = [4096, 2 << 20, 1 << 30];

extern "C" fn on_bus_error(
    _: libc::c_int,
    information: *mut libc::siginfo_t,
    _: *mut libc::c_void,
) {
    // SAFETY: with SA_SIGINFO the kernel hands over a valid siginfo; si_addr is what it filled in.
    let address = unsafe { (*information).si_addr() }.addr();
    for slot in &RANGES {
        let length = slot.length.load(Ordering::Acquire);
        let start = slot.start.load(Ordering::Acquire);
        if start != 0 && address.wrapping_sub(start) < length && mend(address, start, length) {
            MENDED.fetch_add(1, Ordering::Relaxed);
            return;
        }
    }
    // SAFETY: resetting a signal to its default is allowed in a handler; the instruction is then
    // run again, faults again and ends the process with the signal it deserves.
    unsafe {
        libc::signal(libc::SIGBUS, libc::SIG_DFL);
    }
}

/// Puts an empty page of our own where `address` is, inside the range.
fn mend(address: usize, start: usize, length: usize) -> bool {
    PAGES.iter().any(|&size| {
        let page = address & !(size - 1);
        // The last page of a range may reach beyond its end, never before its start.
        if page < start || page - start >= length || size > PAGES[0] && page - start + size > length
        {
            return false;
        }
        let rights = libc::PROT_READ | libc::PROT_WRITE;
        let kind = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
        // SAFETY: the page lies in a range that a guest's mapping owns for as long as it is in the
        // table, and it has just proved to have nothing behind it. mmap makes one system call and
        // nothing else, so it may be called in a signal handler.
        let mapped = unsafe { libc::mmap(page as *mut libc::c_void, size, rights, kind, -1, 0) };
        mapped != libc::MAP_FAILED
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;

    #[test]
    fn memory_cut_short_reads_as_zero_and_the_process_lives() {
        install().unwrap();
        let file = rustix::fs::memfd_create("guest", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&file, 8192).unwrap();
        // SAFETY: a fresh shared mapping of our own, unmapped nowhere.
        let start = unsafe {
            let rights = libc::PROT_READ | libc::PROT_WRITE;
            libc::mmap(
                std::ptr::null_mut(),
                8192,
                rights,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                0,
            )
        };
        assert_ne!(start, libc::MAP_FAILED);
        let guarded = guard(start.cast(), 8192).unwrap();
        rustix::fs::ftruncate(&file, 0).unwrap();
        let before = mended();
        // SAFETY: the mapping exists; the page behind it does not, which is what is tested.
        let (first, second) = unsafe {
            let bytes = start.cast::<u8>();
            bytes.add(4097).write_volatile(7);
            (bytes.read_volatile(), bytes.add(4097).read_volatile())
        };
        assert_eq!((first, second), (0, 7));
        assert_eq!(mended() - before, 2);
        drop(guarded);
    }
}
