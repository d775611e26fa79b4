//! The numbers of the FUSE protocol and its bytes, little-endian as virtio has it.
//!
//! It knows no meaning: `request` turns bytes into wishes, `reply` answers into bytes.
//! Read first: include/uapi/linux/fuse.h of the kernel (7.39), whose names are kept here.

use std::ffi::CStr;

use rustix::io::Errno;

/// Protocol version spoken; a guest's kernel with another minor number takes the lower of the two.
pub(crate) const MAJOR: u32 = 7;
/// See `MAJOR`. 39 brought STATX.
pub(crate) const MINOR: u32 = 39;
/// Oldest minor version accepted (Linux 4.18): from there all layouts used here are the same.
pub(crate) const OLDEST_MINOR: u32 = 27;

/// Bytes of fuse_in_header.
pub(crate) const IN_HEADER: usize = 40;
/// Bytes of fuse_out_header.
pub(crate) const OUT_HEADER: usize = 16;
/// Bytes of fuse_write_in, which stands between the header and the data of a WRITE.
pub(crate) const WRITE_IN: usize = 40;
/// Bytes of fuse_entry_out.
pub(crate) const ENTRY_OUT: usize = 128;
/// Bytes of fuse_dirent without its name.
pub(crate) const DIRENT: usize = 24;

/// The node that is the share's own folder.
pub(crate) const ROOT: u64 = 1;

/// Numbers of the requests, `enum fuse_opcode`.
pub(crate) mod opcode {
    pub(crate) const LOOKUP: u32 = 1;
    pub(crate) const FORGET: u32 = 2;
    pub(crate) const GETATTR: u32 = 3;
    pub(crate) const SETATTR: u32 = 4;
    pub(crate) const READLINK: u32 = 5;
    pub(crate) const SYMLINK: u32 = 6;
    pub(crate) const MKNOD: u32 = 8;
    pub(crate) const MKDIR: u32 = 9;
    pub(crate) const UNLINK: u32 = 10;
    pub(crate) const RMDIR: u32 = 11;
    pub(crate) const RENAME: u32 = 12;
    pub(crate) const LINK: u32 = 13;
    pub(crate) const OPEN: u32 = 14;
    pub(crate) const READ: u32 = 15;
    pub(crate) const WRITE: u32 = 16;
    pub(crate) const STATFS: u32 = 17;
    pub(crate) const RELEASE: u32 = 18;
    pub(crate) const FSYNC: u32 = 20;
    pub(crate) const SETXATTR: u32 = 21;
    pub(crate) const GETXATTR: u32 = 22;
    pub(crate) const LISTXATTR: u32 = 23;
    pub(crate) const REMOVEXATTR: u32 = 24;
    pub(crate) const FLUSH: u32 = 25;
    pub(crate) const INIT: u32 = 26;
    pub(crate) const OPENDIR: u32 = 27;
    pub(crate) const READDIR: u32 = 28;
    pub(crate) const RELEASEDIR: u32 = 29;
    pub(crate) const FSYNCDIR: u32 = 30;
    pub(crate) const GETLK: u32 = 31;
    pub(crate) const SETLK: u32 = 32;
    pub(crate) const SETLKW: u32 = 33;
    pub(crate) const ACCESS: u32 = 34;
    pub(crate) const CREATE: u32 = 35;
    pub(crate) const INTERRUPT: u32 = 36;
    pub(crate) const DESTROY: u32 = 38;
    pub(crate) const IOCTL: u32 = 39;
    pub(crate) const BATCH_FORGET: u32 = 42;
    pub(crate) const FALLOCATE: u32 = 43;
    pub(crate) const READDIRPLUS: u32 = 44;
    pub(crate) const RENAME2: u32 = 45;
    pub(crate) const LSEEK: u32 = 46;
    pub(crate) const COPY_FILE_RANGE: u32 = 47;
    pub(crate) const SYNCFS: u32 = 50;
    pub(crate) const TMPFILE: u32 = 51;
    pub(crate) const STATX: u32 = 52;
}

/// Names of the requests for counters; None for a number that has none here.
pub(crate) fn opcode_name(number: u32) -> Option<&'static str> {
    Some(match number {
        opcode::LOOKUP => "lookup",
        opcode::FORGET => "forget",
        opcode::GETATTR => "getattr",
        opcode::SETATTR => "setattr",
        opcode::READLINK => "readlink",
        opcode::SYMLINK => "symlink",
        opcode::MKNOD => "mknod",
        opcode::MKDIR => "mkdir",
        opcode::UNLINK => "unlink",
        opcode::RMDIR => "rmdir",
        opcode::RENAME => "rename",
        opcode::LINK => "link",
        opcode::OPEN => "open",
        opcode::READ => "read",
        opcode::WRITE => "write",
        opcode::STATFS => "statfs",
        opcode::RELEASE => "release",
        opcode::FSYNC => "fsync",
        opcode::SETXATTR => "setxattr",
        opcode::GETXATTR => "getxattr",
        opcode::LISTXATTR => "listxattr",
        opcode::REMOVEXATTR => "removexattr",
        opcode::FLUSH => "flush",
        opcode::INIT => "init",
        opcode::OPENDIR => "opendir",
        opcode::READDIR => "readdir",
        opcode::RELEASEDIR => "releasedir",
        opcode::FSYNCDIR => "fsyncdir",
        opcode::GETLK => "getlk",
        opcode::SETLK => "setlk",
        opcode::SETLKW => "setlkw",
        opcode::ACCESS => "access",
        opcode::CREATE => "create",
        opcode::INTERRUPT => "interrupt",
        opcode::DESTROY => "destroy",
        opcode::IOCTL => "ioctl",
        opcode::BATCH_FORGET => "batch_forget",
        opcode::FALLOCATE => "fallocate",
        opcode::READDIRPLUS => "readdirplus",
        opcode::RENAME2 => "rename2",
        opcode::LSEEK => "lseek",
        opcode::COPY_FILE_RANGE => "copy_file_range",
        opcode::SYNCFS => "syncfs",
        opcode::TMPFILE => "tmpfile",
        opcode::STATX => "statx",
        _ => return None,
    })
}

/// Abilities negotiated by INIT: FUSE_* of fuse_init_in, `flags` below and `flags2` above bit 32.
pub(crate) mod ability {
    pub(crate) const ASYNC_READ: u64 = 1 << 0;
    pub(crate) const POSIX_LOCKS: u64 = 1 << 1;
    pub(crate) const ATOMIC_O_TRUNC: u64 = 1 << 3;
    pub(crate) const BIG_WRITES: u64 = 1 << 5;
    pub(crate) const DONT_MASK: u64 = 1 << 6;
    pub(crate) const FLOCK_LOCKS: u64 = 1 << 10;
    pub(crate) const AUTO_INVAL_DATA: u64 = 1 << 12;
    pub(crate) const DO_READDIRPLUS: u64 = 1 << 13;
    pub(crate) const READDIRPLUS_AUTO: u64 = 1 << 14;
    pub(crate) const ASYNC_DIO: u64 = 1 << 15;
    pub(crate) const WRITEBACK_CACHE: u64 = 1 << 16;
    pub(crate) const PARALLEL_DIROPS: u64 = 1 << 18;
    pub(crate) const POSIX_ACL: u64 = 1 << 20;
    pub(crate) const MAX_PAGES: u64 = 1 << 22;
    pub(crate) const CACHE_SYMLINKS: u64 = 1 << 23;
    pub(crate) const SUBMOUNTS: u64 = 1 << 27;
    pub(crate) const HANDLE_KILLPRIV_V2: u64 = 1 << 28;
    pub(crate) const SETXATTR_EXT: u64 = 1 << 29;
    pub(crate) const INIT_EXT: u64 = 1 << 30;
    pub(crate) const DIRECT_IO_ALLOW_MMAP: u64 = 1 << 36;
}

/// What the guest's kernel may do with an open file, FOPEN_*.
pub(crate) mod open_flag {
    pub(crate) const DIRECT_IO: u32 = 1 << 0;
    pub(crate) const KEEP_CACHE: u32 = 1 << 1;
    pub(crate) const CACHE_DIR: u32 = 1 << 3;
}

/// FUSE_ATTR_SUBMOUNT: the guest makes a mount of its own of this directory.
pub(crate) const ATTR_SUBMOUNT: u32 = 1;

/// Bytes of a request, read from the front; every step knows what is left.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Input<'a> {
    rest: &'a [u8],
}

/// A request is shorter than its kind must be, or a text in it has no end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("request ends too early")]
pub(crate) struct Truncated;

impl From<Truncated> for Errno {
    fn from(_: Truncated) -> Self {
        Self::INVAL
    }
}

impl<'a> Input<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Truncated> {
        let (first, rest) = self.rest.split_first_chunk::<N>().ok_or(Truncated)?;
        self.rest = rest;
        Ok(*first)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Truncated> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Truncated> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub(crate) fn i64(&mut self) -> Result<i64, Truncated> {
        Ok(i64::from_le_bytes(self.array()?))
    }

    /// Padding and fields that mean nothing here.
    pub(crate) fn skip(&mut self, count: usize) -> Result<(), Truncated> {
        self.rest = self.rest.get(count..).ok_or(Truncated)?;
        Ok(())
    }

    /// A text up to and with its NUL.
    pub(crate) fn text(&mut self) -> Result<&'a CStr, Truncated> {
        let text = CStr::from_bytes_until_nul(self.rest).map_err(|_| Truncated)?;
        self.skip(text.count_bytes() + 1)?;
        Ok(text)
    }

    pub(crate) fn bytes(&mut self, count: usize) -> Result<&'a [u8], Truncated> {
        let bytes = self.rest.get(..count).ok_or(Truncated)?;
        self.skip(count)?;
        Ok(bytes)
    }
}

/// Bytes of an answer, behind room for the header that is filled in last.
#[derive(Debug)]
pub(crate) struct Output<'a> {
    bytes: &'a mut Vec<u8>,
}

impl<'a> Output<'a> {
    pub(crate) fn new(bytes: &'a mut Vec<u8>) -> Self {
        bytes.clear();
        bytes.resize(OUT_HEADER, 0);
        Self { bytes }
    }

    pub(crate) fn u16(&mut self, value: u16) -> &mut Self {
        self.raw(&value.to_le_bytes())
    }

    pub(crate) fn u32(&mut self, value: u32) -> &mut Self {
        self.raw(&value.to_le_bytes())
    }

    pub(crate) fn u64(&mut self, value: u64) -> &mut Self {
        self.raw(&value.to_le_bytes())
    }

    pub(crate) fn i64(&mut self, value: i64) -> &mut Self {
        self.raw(&value.to_le_bytes())
    }

    pub(crate) fn zeros(&mut self, count: usize) -> &mut Self {
        self.bytes.resize(self.bytes.len() + count, 0);
        self
    }

    pub(crate) fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(bytes);
        self
    }

    /// Bytes behind the header so far.
    pub(crate) fn length(&self) -> usize {
        self.bytes.len() - OUT_HEADER
    }

    /// Takes back all behind the first `length` bytes of the body.
    pub(crate) fn cut(&mut self, length: usize) {
        self.bytes.truncate(OUT_HEADER + length);
    }

    /// `count` bytes of room for somebody else to fill.
    pub(crate) fn room(&mut self, count: usize) -> &mut [u8] {
        let start = self.bytes.len();
        self.bytes.resize(start + count, 0);
        &mut self.bytes[start..]
    }
}

/// Requests that a kernel sends without room for an answer.
pub(crate) fn is_unanswered(number: u32) -> bool {
    matches!(
        number,
        opcode::FORGET | opcode::BATCH_FORGET | opcode::INTERRUPT
    )
}

/// fuse_out_header for `length` bytes behind it.
pub(crate) fn out_header(unique: u64, error: Option<Errno>, length: usize) -> [u8; OUT_HEADER] {
    let mut header = [0; OUT_HEADER];
    let whole = u32::try_from(OUT_HEADER + length).unwrap_or(u32::MAX);
    let code = error.map_or(0, |error| -error.raw_os_error());
    header[..4].copy_from_slice(&whole.to_le_bytes());
    header[4..8].copy_from_slice(&code.to_le_bytes());
    header[8..].copy_from_slice(&unique.to_le_bytes());
    header
}
