//! Reading a folder. The places between entries are the host file system's own cookies, which it keeps
//! valid while names come and go; nothing is remembered here that a change could make wrong.

use std::cell::Cell;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{FileType, OFlags, RawDir, SeekFrom};
use rustix::io::Errno;

use super::descriptors::Descriptor;
use super::{HostNode, HostTree, Pinned, kind};
use crate::tree::{Entry, Kind, Result};

/// An open folder.
#[derive(Debug)]
pub(crate) struct HostDirectory {
    open: Descriptor,
    _node: Pinned,
    /// For the share's own folder its inode: its `..` is itself, and what lies above stays unknown.
    root_inode: Option<u64>,
    /// Where the descriptor stands, when that is known; held while it is moved and read.
    position: Mutex<Option<u64>>,
}

/// Bytes that one getdents64(2) is given at most and at least (one entry has up to 280).
const MOST: usize = 64 * 1024;
const LEAST: usize = 1024;

thread_local! {
    static ROOM: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

impl HostTree {
    pub(super) fn open_folder(&self, node: &HostNode) -> Result<HostDirectory> {
        let record = node.record();
        if record.kind != Kind::Directory {
            return Err(Errno::NOTDIR);
        }
        if node.0.ground.closed {
            return Err(Errno::ACCESS);
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let _node = Pinned::new(node)?;
        let open = self.open_again(node, flags)?;
        let root_inode = record.is_root.then_some(record.identity.inode);
        Ok(HostDirectory {
            open,
            _node,
            root_inode,
            position: Mutex::new(Some(0)),
        })
    }
}

impl HostDirectory {
    /// One that an earlier process opened: where it stands is not known.
    pub(super) fn adopt(node: &HostNode, (open, _node): (Descriptor, Pinned)) -> Self {
        let record = node.record();
        Self {
            open,
            _node,
            root_inode: record.is_root.then_some(record.identity.inode),
            position: Mutex::new(None),
        }
    }

    pub(super) fn number(&self) -> RawFd {
        self.open.as_fd().as_raw_fd()
    }

    pub(super) fn entries(
        &self,
        from: u64,
        about: usize,
        each: &mut dyn FnMut(&Entry<'_>) -> bool,
    ) -> Result<()> {
        let mut position = self.position.lock().unwrap_or_else(PoisonError::into_inner);
        if position.take() != Some(from) {
            rustix::fs::seek(&self.open, SeekFrom::Start(from))?;
        }
        // Taken out: `each` may read another folder.
        let mut room = ROOM.take();
        room.reserve(MOST);
        let listed = self.list(
            from,
            &mut room.spare_capacity_mut()[..about.clamp(LEAST, MOST)],
            each,
        );
        ROOM.set(room);
        *position = listed?;
        Ok(())
    }

    /// Where it ends; None: before the last of what was read.
    fn list(
        &self,
        from: u64,
        room: &mut [MaybeUninit<u8>],
        each: &mut dyn FnMut(&Entry<'_>) -> bool,
    ) -> Result<Option<u64>> {
        let mut listing = RawDir::new(&self.open, room);
        let mut at = from;
        while let Some(entry) = listing.next() {
            let entry = entry?;
            let next = entry.next_entry_cookie();
            let inode = match self.root_inode {
                // The folder itself too: overlayfs lists it under another number than stat's.
                Some(inode) if [c".", c".."].contains(&entry.file_name()) => inode,
                _ => entry.ino(),
            };
            let of = entry.file_type();
            let kind = (of != FileType::Unknown).then(|| kind(of));
            if !each(&Entry {
                name: entry.file_name(),
                inode,
                kind,
                next,
            }) {
                return Ok(None);
            }
            at = next;
        }
        Ok(Some(at))
    }

    pub(super) fn sync(&self, data_only: bool) -> Result<()> {
        super::file::sync(&self.open, data_only)
    }
}
