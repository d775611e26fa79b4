//! name_to_handle_at(2) and open_by_handle_at(2), which rustix does not offer.

use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::io::Errno;

use super::last_error;

/// MAX_HANDLE_SZ: no file system's handle is longer.
const LONGEST: usize = 128;
const ROOM: libc::c_uint = 128;
/// AT_HANDLE_FID: a handle that only tells files apart, which more file systems have (Linux 6.5).
const TELLS_APART: libc::c_int = 0x200;

/// struct file_handle of linux/fcntl.h with room for any.
#[repr(C)]
struct Raw {
    length: libc::c_uint,
    kind: libc::c_int,
    bytes: [u8; LONGEST],
}

/// What a file system calls a file, whatever its names are: with the generation of its inode, so that it
/// never means another file. Plain bytes, good for as long as the file system is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FileHandle {
    /// The type's four bytes, then the handle's.
    bytes: Box<[u8]>,
}

/// What a handle is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Handle {
    /// To open the file again, by who may.
    Opens,
    /// Only to tell whether it is the same file.
    TellsApart,
}

impl FileHandle {
    /// The handle of the file that a descriptor (O_PATH too) is; EOPNOTSUPP where there are none.
    pub(crate) fn of(place: BorrowedFd<'_>) -> Result<(Self, Handle), Errno> {
        match Self::ask(place, 0) {
            // EINVAL: a kernel that does not know the flag.
            Err(Errno::OPNOTSUPP) => match Self::ask(place, TELLS_APART) {
                Err(Errno::INVAL) => Err(Errno::OPNOTSUPP),
                asked => Ok((asked?, Handle::TellsApart)),
            },
            asked => Ok((asked?, Handle::Opens)),
        }
    }

    /// Of bytes that a process before us wrote down.
    pub(crate) fn from_bytes(bytes: Vec<u8>) -> Self {
        let bytes = bytes.into_boxed_slice();
        Self { bytes }
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn ask(place: BorrowedFd<'_>, flags: libc::c_int) -> Result<Self, Errno> {
        let mut raw = Raw {
            length: ROOM,
            kind: 0,
            bytes: [0; LONGEST],
        };
        let mut mount: libc::c_int = 0;
        let empty: &CStr = c"";
        // SAFETY: the path ends with a NUL; the kernel writes one `Raw` of the length it says, and one int.
        let done = unsafe {
            libc::syscall(
                libc::SYS_name_to_handle_at,
                place.as_raw_fd(),
                empty.as_ptr(),
                &raw mut raw,
                &raw mut mount,
                libc::AT_EMPTY_PATH | flags,
            )
        };
        if done != 0 {
            return Err(last_error());
        }
        let length = usize::try_from(raw.length).unwrap_or(LONGEST).min(LONGEST);
        let mut bytes = Vec::with_capacity(4 + length);
        bytes.extend_from_slice(&raw.kind.to_ne_bytes());
        bytes.extend_from_slice(&raw.bytes[..length]);
        Ok(Self {
            bytes: bytes.into_boxed_slice(),
        })
    }

    /// A descriptor that can neither read nor write. `entrance`: anything open for reading on the same
    /// mount. EPERM without CAP_DAC_READ_SEARCH; ESTALE when the file is gone.
    pub(crate) fn open(&self, entrance: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
        let (kind, bytes) = self.bytes.split_first_chunk().ok_or(Errno::STALE)?;
        let mut raw = Raw {
            length: libc::c_uint::try_from(bytes.len()).map_err(|_| Errno::STALE)?,
            kind: libc::c_int::from_ne_bytes(*kind),
            bytes: [0; LONGEST],
        };
        let room = raw.bytes.get_mut(..bytes.len()).ok_or(Errno::STALE)?;
        room.copy_from_slice(bytes);
        let flags = libc::O_PATH | libc::O_NOFOLLOW | libc::O_CLOEXEC;
        // SAFETY: the kernel reads one `Raw` with as many bytes as it says.
        let opened = unsafe {
            libc::syscall(
                libc::SYS_open_by_handle_at,
                entrance.as_raw_fd(),
                &raw const raw,
                flags,
            )
        };
        let opened = libc::c_int::try_from(opened).map_err(|_| Errno::IO)?;
        if opened < 0 {
            return Err(last_error());
        }
        // SAFETY: the kernel has just made it for us.
        Ok(unsafe { OwnedFd::from_raw_fd(opened) })
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use rustix::fs::{CWD, Mode, OFlags};

    use super::*;

    #[test]
    fn a_handle_is_of_one_file_and_opens_it_where_that_is_allowed() {
        let folder = tempfile::tempdir().unwrap();
        let pinned = |name: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, name).unwrap();
            rustix::fs::openat(CWD, &path, OFlags::PATH, Mode::empty()).unwrap()
        };
        let (a, b) = (pinned("a"), pinned("b"));
        let Ok((first, good_for)) = FileHandle::of(a.as_fd()) else {
            eprintln!("no handles on this file system: nothing to see here");
            return;
        };
        assert_eq!(FileHandle::of(a.as_fd()).unwrap().0, first);
        assert_ne!(FileHandle::of(b.as_fd()).unwrap().0, first);
        std::fs::rename(folder.path().join("a"), folder.path().join("c")).unwrap();
        assert_eq!(
            FileHandle::of(a.as_fd()).unwrap().0,
            first,
            "whatever its name"
        );
        let entrance = std::fs::File::open(folder.path()).unwrap();
        if good_for == Handle::Opens && rustix::process::geteuid().is_root() {
            let again = first.open(entrance.as_fd()).unwrap();
            let inode = |of: &OwnedFd| rustix::fs::fstat(of).unwrap().st_ino;
            assert_eq!(inode(&again), inode(&a));
        }
    }
}
