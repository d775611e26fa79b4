//! The writeback cache (FUSE_WRITEBACK_CACHE): the guest's kernel gathers what programs write and sends it later, in
//! large pieces. What that asks of a server:
//!
//! - A page that is written in part is read first, whoever has the file open: what is opened for writing is opened
//!   for reading here too. Where the host lets us write a file but not read it, its handle goes past the guest's
//!   cache (FOPEN_DIRECT_IO).
//! - The end of a file is the guest's: a WRITE goes to its place, also in a file that was opened to append
//!   (`request/fields.rs`).
//! - Size, time of modification and time of change of a file that the guest knows are the guest's: its kernel takes
//!   none of them from an answer. It sends the time of modification with SETATTR when it writes a file back; the
//!   time of change that comes with it cannot be set on Linux, the host's own is a moment later.
//! - Only the guest knows where a file has data that it has not sent. Its kernel does not send it before LSEEK, so that
//!   a program that copies the holes of a file would lose it; ENOSYS to LSEEK makes the kernel answer itself: all is
//!   data.
//!
//! Read first: Documentation/filesystems/fuse-io.rst and fs/fuse/file.c of the kernel.

use rustix::io::Errno;

use super::Session;
use crate::fuse::wire::{ability, open_flag};
use crate::tree::{Attributes, Changes, OpenHow, Result, Tree};

impl<T: Tree> Session<T> {
    /// Whether this mount's guest gathers writes.
    pub(super) fn writes_later(&self) -> bool {
        self.agreed(ability::WRITEBACK_CACHE)
    }

    /// What a program opens for writing, as its kernel needs it.
    pub(super) fn widened(&self, how: OpenHow) -> OpenHow {
        OpenHow {
            read: how.read || how.write && self.writes_later(),
            ..how
        }
    }

    /// Opens what is there, and says FOPEN_* for it.
    pub(super) fn open_widened(&self, node: &T::Node, how: OpenHow) -> Result<(T::File, u32)> {
        let flags = self.cache.file_flags();
        let wide = self.widened(how);
        match self.tree.open(node, wide) {
            Err(Errno::ACCESS) if wide.read != how.read => {
                Ok((self.tree.open(node, how)?, flags | open_flag::DIRECT_IO))
            }
            opened => Ok((opened?, flags)),
        }
    }

    /// Applies changes. A time of modification that comes with an open file or with a size is the kernel's own, for what
    /// it writes back; where the host lets us write a file and not date it, the host's own time will do.
    pub(super) fn apply(
        &self,
        node: &T::Node,
        open: Option<&T::File>,
        changes: &Changes,
    ) -> Result<Attributes> {
        let is_the_kernels = open.is_some() || changes.size.is_some();
        match self.tree.change(node, open, changes) {
            Err(Errno::PERM)
                if changes.modified.is_some() && is_the_kernels && self.writes_later() =>
            {
                let modified = None;
                let undated = Changes {
                    modified,
                    ..*changes
                };
                self.tree.change(node, open, &undated)
            }
            changed => changed,
        }
    }
}
