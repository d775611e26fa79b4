//! Names: walking, making, linking, renaming, removing; and attributes.

use std::sync::Arc;

use rustix::io::Errno;

use super::{Answer, Attached, Turn, name_room};
use crate::ninep::convert::{self, ChangeFields};
use crate::ninep::fids::{Fid, Place};
use crate::ninep::messages::Reply;
use crate::ninep::wire::{Few, Qid, Text};
use crate::tree::{Found, Kind, Name, RenameHow, Result, Tree};

/// P9_DOTL_AT_REMOVEDIR.
const REMOVE_DIRECTORY: u32 = 0x200;
/// V9FS_MAGIC, what statfs(2) of a client shows.
const V9FS_MAGIC: u32 = 0x0102_1997;

impl<T: Tree> Attached<T> {
    /// walk(5): all names or none for the new fid, and as many qids as names were found. Only the first name's
    /// error is one of the message.
    pub(super) fn walk(
        &mut self,
        turn: &mut Turn<'_>,
        fid: u32,
        new_fid: u32,
        names: &[Text<'_>],
    ) -> Result<Answer> {
        if new_fid != fid {
            self.fids
                .check_new(new_fid)
                .inspect_err(|error| self.refused(*error))?;
        }
        let from = self.fids.find(fid)?;
        if new_fid == fid && !from.is_unused() {
            return Err(Errno::BADF);
        }
        let user = from.user;
        let mut place = Arc::clone(&from.place);
        let mut qids = Few::default();
        for text in names {
            match self.step(&place, text.0) {
                Ok((next, qid)) => {
                    place = next;
                    qids.push(qid)?;
                }
                Err(error) if qids.as_slice().is_empty() => return Err(error),
                Err(_) => return turn.tell(&Reply::Walk { qids }),
            }
        }
        if new_fid == fid {
            self.fids.find_mut(fid)?.place = place;
        } else {
            self.fids.add(new_fid, Fid::unused(place, user))?;
        }
        self.record(new_fid);
        turn.tell(&Reply::Walk { qids })
    }

    fn step(&self, from: &Arc<Place<T>>, text: &[u8]) -> Result<(Arc<Place<T>>, Qid)> {
        let qids = self.qids()?;
        if text == b".." {
            let above = from.parent(&self.tree)?;
            let attributes = self.tree.attributes(&above.node)?;
            return Ok((above, qids.of(&attributes)));
        }
        let mut room = name_room();
        let name = convert::name(text, &mut room)?;
        let found = self.tree.child(&from.node, name)?;
        let qid = qids.of(&found.attributes);
        let place = Place::below(from, name, found).recorded(&*self.tree, self.rows());
        Ok((Arc::new(place), qid))
    }

    /// What all makers share: a name in the folder of a fid, and the qid of what is there then.
    pub(super) fn make(
        &self,
        turn: &mut Turn<'_>,
        folder: u32,
        (text, told): (&[u8], fn(Qid) -> Reply<'static>),
        make: impl FnOnce(&T, &Fid<T>, Name<'_>) -> Result<Found<T::Node>>,
    ) -> Result<Answer> {
        let mut room = name_room();
        let name = convert::name(text, &mut room)?;
        let found = make(&self.tree, self.fids.find(folder)?, name)?;
        let qid = self.qids()?.of(&found.attributes);
        turn.tell(&told(qid))
    }

    pub(super) fn link(
        &self,
        turn: &mut Turn<'_>,
        folder: u32,
        fid: u32,
        text: &[u8],
    ) -> Result<Answer> {
        let mut room = name_room();
        let name = convert::name(text, &mut room)?;
        let (folder, linked) = (self.fids.find(folder)?, self.fids.find(fid)?);
        self.tree
            .link(&linked.place.node, &folder.place.node, name)?;
        turn.tell(&Reply::Link {})
    }

    pub(super) fn rename_at(
        &self,
        turn: &mut Turn<'_>,
        (folder, text): (u32, &[u8]),
        (new_folder, new_text): (u32, &[u8]),
    ) -> Result<Answer> {
        let (mut room, mut new_room) = (name_room(), name_room());
        let name = convert::name(text, &mut room)?;
        let new_name = convert::name(new_text, &mut new_room)?;
        let (from, to) = (self.fids.find(folder)?, self.fids.find(new_folder)?);
        self.tree.rename(
            (&from.place.node, name),
            (&to.place.node, new_name),
            RenameHow::default(),
        )?;
        turn.tell(&Reply::RenameAt {})
    }

    /// By the fid alone: the name it was walked to by, if that still leads to it.
    pub(super) fn rename(
        &mut self,
        turn: &mut Turn<'_>,
        fid: u32,
        new_folder: u32,
        text: &[u8],
    ) -> Result<Answer> {
        let mut room = name_room();
        let name = convert::name(text, &mut room)?;
        let to = Arc::clone(&self.fids.find(new_folder)?.place);
        let place = Arc::clone(&self.fids.find(fid)?.place);
        let (from, old) = place.way(&self.tree)?;
        self.tree
            .rename((&from.node, old), (&to.node, name), RenameHow::default())?;
        self.is_renamed(fid, new_folder, text)?;
        turn.tell(&Reply::Rename {})
    }

    /// The fid goes on under the new name; a name that somebody took away at once is found out at its use.
    pub(super) fn is_renamed(&mut self, fid: u32, folder: u32, text: &[u8]) -> Result<()> {
        let mut room = name_room();
        let name = convert::name(text, &mut room)?;
        let to = Arc::clone(&self.fids.find(folder)?.place);
        if let Ok(found) = self.tree.child(&to.node, name) {
            let place = Arc::clone(&self.fids.find(fid)?.place);
            let moved = place.moved(found.node, &to, name.as_c_str());
            let moved = moved.recorded(&*self.tree, self.rows());
            self.fids.find_mut(fid)?.place = Arc::new(moved);
            self.record(fid);
        }
        Ok(())
    }

    pub(super) fn remove_at(
        &self,
        turn: &mut Turn<'_>,
        folder: u32,
        text: &[u8],
        flags: u32,
    ) -> Result<Answer> {
        let mut room = name_room();
        let name = convert::name(text, &mut room)?;
        let folder = &self.fids.find(folder)?.place.node;
        match flags {
            0 => self.tree.remove_file(folder, name)?,
            REMOVE_DIRECTORY => self.tree.remove_directory(folder, name)?,
            _ => return Err(Errno::INVAL),
        }
        turn.tell(&Reply::RemoveAt {})
    }

    /// remove(5): the fid is clunked, whatever the answer.
    pub(super) fn remove(&mut self, turn: &mut Turn<'_>, fid: u32) -> Result<Answer> {
        let place = Arc::clone(&self.fids.find(fid)?.place);
        let ended = self.end_fid(fid)?;
        self.retire(ended);
        let (folder, name) = place.way(&self.tree)?;
        if place.kind == Kind::Directory {
            self.tree.remove_directory(&folder.node, name)?;
        } else {
            self.tree.remove_file(&folder.node, name)?;
        }
        turn.tell(&Reply::Remove {})
    }

    pub(super) fn read_link(&self, turn: &mut Turn<'_>, fid: u32) -> Result<Answer> {
        let place = &self.fids.find(fid)?.place;
        self.tree.read_link(&place.node, turn.text)?;
        let length = Reply::ReadLink {
            target: Text(turn.text),
        }
        .encode(turn.tag, turn.out);
        length.map(Answer::Built).map_err(|_| Errno::MSGSIZE)
    }

    pub(super) fn change(
        &self,
        turn: &mut Turn<'_>,
        fid: u32,
        fields: &ChangeFields,
    ) -> Result<Answer> {
        let changed = self.fids.find(fid)?;
        let file = changed.file().ok().map(|(file, _)| &**file);
        self.tree
            .change(&changed.place.node, file, &convert::changes(fields)?)?;
        turn.tell(&Reply::Change {})
    }

    pub(super) fn statistics(&self, turn: &mut Turn<'_>, fid: u32) -> Result<Answer> {
        let found = self.tree.statistics(&self.fids.find(fid)?.place.node)?;
        turn.tell(&Reply::Statistics {
            kind: V9FS_MAGIC,
            block_size: u32::try_from(found.block_size).unwrap_or(u32::MAX),
            blocks: found.blocks,
            free: found.free,
            available: found.available,
            files: found.files,
            free_files: found.free_files,
            id: 0,
            longest_name: u32::try_from(found.longest_name).unwrap_or(u32::MAX),
        })
    }
}
