//! /dev/fuse: one more descriptor of a connection. And a process that termination signals do not end.

use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;

/// `_IOR(229, 0, uint32_t)`, in include/uapi/linux/fuse.h: FUSE_DEV_IOC_CLONE.
const CLONE: libc::Ioctl = 0x8004_e500_u32 as libc::Ioctl;

/// Makes `fresh`, a /dev/fuse that was just opened, one more queue of the connection that `of` is.
pub(crate) fn clone_connection(fresh: BorrowedFd<'_>, of: BorrowedFd<'_>) -> Result<(), Errno> {
    let number = of.as_raw_fd();
    // SAFETY: the kernel reads one u32 that lives across the call and keeps nothing; on a descriptor
    // that is no /dev/fuse it answers ENOTTY.
    match unsafe { libc::ioctl(fresh.as_raw_fd(), CLONE, &raw const number) } {
        0 => Ok(()),
        _ => Err(super::last_error()),
    }
}

/// The process, and what it starts, no longer ends by SIGINT, SIGTERM or SIGHUP.
///
/// A service manager sends them to all processes of a service at once; who calls this ends when
/// somebody else says so.
pub(crate) fn ignore_termination() {
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: SIG_IGN runs no code of ours; the old dispositions are of no use to anybody.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
}
