//! The one thing that safe Rust cannot say here: that a descriptor which was inherited is ours.
//!
//! Read first: sd_listen_fds(3).
#![allow(
    unsafe_code,
    reason = "an inherited descriptor has a number and no owner"
)]

use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

/// `SD_LISTEN_FDS_START`: the first descriptor that a service manager passes.
const FIRST: i32 = 3;

/// The socket that a service manager listens on for this process, if it passed exactly one.
/// Only the first call can have it.
pub(crate) fn passed_socket() -> Option<OwnedFd> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    let number = |name: &str| std::env::var(name).ok()?.parse::<u32>().ok();
    let for_us = number("LISTEN_PID") == Some(std::process::id());
    if !for_us || number("LISTEN_FDS") != Some(1) || TAKEN.swap(true, Ordering::SeqCst) {
        return None;
    }
    // SAFETY: by the protocol the manager left this descriptor open for the process whose id is in
    // LISTEN_PID, which is this one; nothing else of ours knows the number, and `TAKEN` sees to it that
    // it gets one owner.
    Some(unsafe { OwnedFd::from_raw_fd(FIRST) })
}
