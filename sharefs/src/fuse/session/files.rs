//! Files: OPEN, CREATE, READ, WRITE and what can be done with an open file; extended attributes.

use std::ffi::CStr;
use std::sync::Arc;

use rustix::io::Errno;

use super::{Answer, LONGEST_DATA, Session, State, Turn, file, node};
use crate::fuse::request::Whence;
use crate::fuse::wire::{self, Output};
use crate::keep::journal::{self, Told};
use crate::sys;
use crate::tree::{Found, Name, OpenHow, Result, Tree, WholeLock};

/// The flags of a WRITE.
#[derive(Clone, Copy, Debug)]
pub(super) struct WriteHow {
    pub(super) append: bool,
    pub(super) drop_privileges: bool,
}

/// XATTR_SIZE_MAX and XATTR_LIST_MAX.
const LONGEST_EXTENDED: u32 = 64 * 1024;

impl<T: Tree> Session<T> {
    pub(super) fn open(
        &self,
        state: &State<T>,
        turn: &mut Turn<'_, '_>,
        how: OpenHow,
    ) -> Result<Answer> {
        let number = turn.header.node;
        let open = self.open_widened(&node(state, number)?, how)?;
        self.opened(state, &mut Output::new(turn.reply), open, number);
        Ok(Answer::Built)
    }

    /// fuse_open_out.
    fn opened(
        &self,
        state: &State<T>,
        output: &mut Output<'_>,
        (open, flags): (T::File, u32),
        node: u64,
    ) {
        let kept = self.tree.keep_file(&open).map(|open| (open, node));
        let handle = state.files.add(Arc::new(open), kept);
        journal::told(Told::File(handle));
        output.u64(handle).u32(flags).u32(0);
    }

    pub(super) fn create(
        &self,
        state: &State<T>,
        turn: &mut Turn<'_, '_>,
        (parent, name): (&T::Node, Name<'_>),
        (mode, how): (u32, OpenHow),
        must_be_new: bool,
    ) -> Result<Answer> {
        let new = (mode, self.widened(how));
        let made = self.tree.create(turn.header.caller, parent, name, new);
        let (found, open) = match made {
            Err(Errno::EXIST) if !must_be_new => {
                // Somebody else was first; what stands there is opened as any other, not followed.
                let found = self.tree.child(parent, name)?;
                let open = self.open_widened(&found.node, how)?;
                (found, open)
            }
            made => {
                let (found, open) = made?;
                (found, (open, self.cache.file_flags()))
            }
        };
        self.created(state, turn, parent, found, open);
        Ok(Answer::Built)
    }

    pub(super) fn create_unnamed(
        &self,
        state: &State<T>,
        turn: &mut Turn<'_, '_>,
        parent: &T::Node,
        (mode, how): (u32, OpenHow),
    ) -> Result<Answer> {
        let how = self.widened(how);
        let (found, open) = self
            .tree
            .create_unnamed(turn.header.caller, parent, mode, how)?;
        let open = (open, self.cache.file_flags());
        self.created(state, turn, parent, found, open);
        Ok(Answer::Built)
    }

    fn created(
        &self,
        state: &State<T>,
        turn: &mut Turn<'_, '_>,
        parent: &T::Node,
        found: Found<T::Node>,
        open: (T::File, u32),
    ) {
        let mut output = Output::new(turn.reply);
        let number = self.entry_into(state, &mut output, parent, found).0;
        self.opened(state, &mut output, open, number);
    }

    /// From the file straight into the guest's memory, behind room for the header.
    pub(super) fn read(
        &self,
        state: &State<T>,
        turn: &mut Turn<'_, '_>,
        handle: u64,
        (offset, size): (u64, u32),
    ) -> Result<Answer> {
        let open = file(state, handle)?;
        let size = usize::try_from(size.min(LONGEST_DATA)).unwrap_or_default();
        let done = sys::window(turn.answer, wire::OUT_HEADER, size, |room| {
            self.tree.read(&open, room, offset)
        })?;
        self.counters.bytes_read.add(done as u64);
        Ok(Answer::Placed(done))
    }

    /// Straight from the guest's memory into the file.
    pub(super) fn write(
        &self,
        state: &State<T>,
        turn: &mut Turn<'_, '_>,
        handle: u64,
        (offset, size): (u64, u32),
        how: WriteHow,
    ) -> Result<Answer> {
        let open = file(state, handle)?;
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        let head = wire::IN_HEADER + wire::WRITE_IN;
        if size > sys::total(turn.request).saturating_sub(head) {
            self.counters.malformed.one();
            return Err(Errno::INVAL);
        }
        let done = sys::window(turn.request, head, size, |data| {
            self.tree.write(&open, data, offset, how.append)
        })?;
        if how.drop_privileges {
            self.tree.drop_privileges(&open)?;
        }
        self.counters.bytes_written.add(done as u64);
        written(turn, done);
        Ok(Answer::Built)
    }

    pub(super) fn copy_range(
        &self,
        state: &State<T>,
        turn: &mut Turn<'_, '_>,
        (from, read_at): (u64, u64),
        (to, write_at): (u64, u64),
        length: u64,
    ) -> Result<Answer> {
        let (from, to) = (file(state, from)?, file(state, to)?);
        // One answer must not keep the queue for minutes: the guest asks again for the rest.
        let length = usize::try_from(length.min(LONGEST_COPY)).unwrap_or_default();
        let done = self
            .tree
            .copy_range((&from, read_at), (&to, write_at), length)?;
        written(turn, done);
        Ok(Answer::Built)
    }

    pub(super) fn seek(
        &self,
        state: &State<T>,
        turn: &mut Turn<'_, '_>,
        handle: u64,
        offset: u64,
        whence: Whence,
    ) -> Result<Answer> {
        let Whence::Hole(what) = whence else {
            return Err(Errno::INVAL);
        };
        if self.writes_later() {
            return Err(Errno::NOSYS);
        }
        let found = self.tree.seek(&*file(state, handle)?, offset, what)?;
        Output::new(turn.reply).u64(found);
        Ok(Answer::Built)
    }

    pub(super) fn flush(
        &self,
        state: &State<T>,
        number: u64,
        handle: u64,
        owner: u64,
    ) -> Result<Answer> {
        let open = file(state, handle)?;
        let identity = self.tree.identity(&node(state, number)?);
        let unlocked = state.locks.end_owner(&self.tree, identity, owner);
        self.tree.flush(&open)?;
        unlocked?;
        Ok(Answer::Empty)
    }

    pub(super) fn release(
        &self,
        state: &State<T>,
        handle: u64,
        unlock_whole: bool,
    ) -> Result<Answer> {
        let open = state.files.remove(handle).ok_or(Errno::BADF)?;
        if unlock_whole {
            // A request that waits for this file's lock may hold it open a little longer.
            self.tree.lock_whole(&open, WholeLock::Unlock)?;
        }
        state.locks.end_handle(&self.tree, handle)?;
        Ok(Answer::Empty)
    }

    /// GETXATTR with a name, LISTXATTR without. Room 0 asks for the length only.
    pub(super) fn extended(
        &self,
        state: &State<T>,
        turn: &mut Turn<'_, '_>,
        name: Option<&CStr>,
        room: u32,
    ) -> Result<Answer> {
        let asked = node(state, turn.header.node)?;
        let mut output = Output::new(turn.reply);
        let room = usize::try_from(room.min(LONGEST_EXTENDED)).unwrap_or_default();
        let into = output.room(room);
        let length = match name {
            Some(name) => self.tree.extended(&asked, name, into)?,
            None => self.tree.list_extended(&asked, into)?,
        };
        if room == 0 {
            output.u32(u32::try_from(length).unwrap_or(u32::MAX)).u32(0);
        } else {
            output.cut(length);
        }
        Ok(Answer::Built)
    }
}

/// Bytes that one COPY_FILE_RANGE copies: some tenths of a second on a disk that cannot share blocks.
const LONGEST_COPY: u64 = 64 * 1024 * 1024;

/// fuse_write_out.
fn written(turn: &mut Turn<'_, '_>, done: usize) {
    Output::new(turn.reply)
        .u32(u32::try_from(done).unwrap_or(u32::MAX))
        .u32(0);
}
