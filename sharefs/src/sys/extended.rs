//! getxattrat(2), which neither rustix nor the C library offers yet.

use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;

use super::result;

/// struct xattr_args of linux/xattr.h.
#[repr(C, align(8))]
struct Arguments {
    value: u64,
    size: u32,
    flags: u32,
}

/// The same number on every architecture.
pub(crate) const GETXATTRAT: libc::c_long = 464;

/// The attribute of what `path` leads to from `folder`; with an empty `into` its length. ENOSYS before
/// Linux 6.13.
pub(crate) fn extended_at(
    folder: BorrowedFd<'_>,
    path: &CStr,
    name: &CStr,
    into: &mut [u8],
) -> Result<usize, Errno> {
    let arguments = Arguments {
        value: into.as_mut_ptr() as u64,
        size: u32::try_from(into.len()).unwrap_or(u32::MAX),
        flags: 0,
    };
    let no_flags: libc::c_uint = 0;
    // SAFETY: both texts end with a NUL; the kernel reads one `Arguments` of the size that is said and
    // writes at most `size` bytes to `value`, which is the start of a slice that is at least as long.
    let done = unsafe {
        libc::syscall(
            GETXATTRAT,
            folder.as_raw_fd(),
            path.as_ptr(),
            no_flags,
            name.as_ptr(),
            &raw const arguments,
            size_of::<Arguments>(),
        )
    };
    result(isize::try_from(done).map_err(|_| Errno::IO)?)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn an_attribute_is_read_as_by_its_path_or_the_call_is_unknown() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a"), "").unwrap();
        let there = std::fs::File::open(folder.path()).unwrap();
        let path = folder.path().join("a");
        if rustix::fs::setxattr(&path, c"user.x", b"value", rustix::fs::XattrFlags::empty())
            .is_err()
        {
            // Some file systems keep none; then there is nothing to read either.
            return;
        }
        let mut room = [0; 16];
        match extended_at(there.as_fd(), c"a", c"user.x", &mut room) {
            Err(Errno::NOSYS | Errno::PERM) => {}
            read => assert_eq!(
                (read, room.starts_with(b"value")),
                (Ok(5), true),
                "what was set"
            ),
        }
        let missing = extended_at(there.as_fd(), c"a", c"user.y", &mut []);
        assert!(
            matches!(missing, Err(Errno::NODATA | Errno::NOSYS | Errno::PERM)),
            "{missing:?}"
        );
    }
}
