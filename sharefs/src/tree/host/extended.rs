//! Extended attributes. O_PATH descriptors have no f*xattr calls; the magic link of the descriptor names
//! the file itself, a symbolic link too, so nothing is opened and nothing is followed. Reading, which
//! kernels do before each write of some kinds, takes the short way to it.

use std::ffi::CStr;
use std::io::Write;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::fs::XattrFlags;
use rustix::io::Errno;
use rustix::path::DecInt;

use super::credentials::Rights;
use crate::sys;
use crate::tree::{ExtendedHow, Result};

/// `descriptors`: the folder /proc/self/fd.
pub(super) fn get(
    descriptors: BorrowedFd<'_>,
    place: BorrowedFd<'_>,
    name: &CStr,
    into: &mut [u8],
) -> Result<usize> {
    let number = DecInt::from_fd(place);
    match sys::extended_at(descriptors, number.as_c_str(), name, into) {
        // Linux before 6.13; or a filter around us that does not know the call.
        Err(Errno::NOSYS | Errno::PERM) => {}
        read => return read,
    }
    let path = MagicLink::of(place);
    match into {
        [] => rustix::fs::getxattr_query(path.as_c_str(), name),
        room => rustix::fs::getxattr(path.as_c_str(), name, room),
    }
}

pub(super) fn set(
    place: BorrowedFd<'_>,
    name: &CStr,
    value: &[u8],
    how: ExtendedHow,
) -> Result<()> {
    let flags = match how {
        ExtendedHow::Either => XattrFlags::empty(),
        ExtendedHow::Create => XattrFlags::CREATE,
        ExtendedHow::Replace => XattrFlags::REPLACE,
    };
    rustix::fs::setxattr(MagicLink::of(place).as_c_str(), name, value, flags)
}

pub(super) fn list(place: BorrowedFd<'_>, into: &mut [u8]) -> Result<usize> {
    let path = MagicLink::of(place);
    match into {
        [] => rustix::fs::listxattr_query(path.as_c_str()),
        room => rustix::fs::listxattr(path.as_c_str(), room),
    }
}

pub(super) fn remove(place: BorrowedFd<'_>, name: &CStr) -> Result<()> {
    rustix::fs::removexattr(MagicLink::of(place).as_c_str(), name)
}

/// Whether a guest may set it; lists of `acl.rs` apart.
pub(super) fn may_change(name: &CStr, rights: Rights) -> Result<()> {
    if rights.may_set_all_extended() || name.to_bytes().starts_with(b"user.") {
        return Ok(());
    }
    Err(Errno::PERM)
}

/// `/proc/self/fd/N`, without an allocation.
struct MagicLink([u8; 32]);

impl MagicLink {
    fn of(place: BorrowedFd<'_>) -> Self {
        let mut path = [0; 32];
        // 14 bytes and at most 10 digits: there is always room, and a NUL behind.
        let written = write!(&mut path[..31], "/proc/self/fd/{}", place.as_raw_fd());
        debug_assert!(written.is_ok());
        Self(path)
    }

    fn as_c_str(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.0).unwrap_or_default()
    }
}
