//! A request that is done again because the process that was at it died, and what it writes down before it is begun,
//! so that this can be.
//!
//! What the client knows is as it was before the request (`keep/ninep/rows.rs`); what the share's files are may be
//! as after it, or between. So:
//!
//! | request | done again |
//! |---|---|
//! | Tmkdir, Tmknod, Tsymlink, Tlcreate | what stands there since the request was begun, and is empty, is removed; then as ever |
//! | Tlink | EEXIST is right if it is the same file |
//! | Tunlinkat, Tremove | ENOENT: it is done |
//! | Trenameat | ENOENT, and the new name is there: it is done |
//! | Trename | ENOENT, and the new name is the same file: it is done |
//! | Twrite that appends | the file was so long before: what is there of the data is not written again |
//! | Tclunk that sets an attribute | EEXIST is right if the value is the same; ENODATA, if it was to be removed |
//! | all others | as ever: twice is the same as once |
//!
//! Where nothing was noted of the moment before, nothing was done, and whoever does it again notes it: it may die, too.
//!
//! What another program does to the same name in the same moment can be taken for ours, or ours for its.

use rustix::io::Errno;

use super::{Answer, Attached, Turn, name_room};
use crate::keep::journal;
use crate::ninep::convert;
use crate::ninep::fids::Use;
use crate::ninep::messages::{Reply, Request};
use crate::tree::{Result, Tree, undo};

impl<T: Tree> Attached<T> {
    /// What has to be known of the moment before.
    pub(super) fn note(&self, request: &Request<'_>) {
        match *request {
            Request::Directory { .. }
            | Request::Node { .. }
            | Request::SymbolicLink { .. }
            | Request::Create { .. } => journal::note_moment(),
            Request::Write { fid, .. } => {
                if let Ok(written) = self.fids.find(fid)
                    && let Ok((_, true)) = written.file()
                    && let Ok(before) = self.tree.attributes(&written.place.node)
                {
                    journal::note_inode(before.size);
                }
            }
            // The table above says why nothing is needed.
            Request::Version { .. }
            | Request::Authenticate { .. }
            | Request::Attach { .. }
            | Request::Flush { .. }
            | Request::Walk { .. }
            | Request::Open { .. }
            | Request::Read { .. }
            | Request::Clunk { .. }
            | Request::Remove { .. }
            | Request::Statistics { .. }
            | Request::Rename { .. }
            | Request::ReadLink { .. }
            | Request::Attributes { .. }
            | Request::Change { .. }
            | Request::ExtendedWalk { .. }
            | Request::ExtendedCreate { .. }
            | Request::Entries { .. }
            | Request::Sync { .. }
            | Request::Lock { .. }
            | Request::TestLock { .. }
            | Request::Link { .. }
            | Request::RenameAt { .. }
            | Request::RemoveAt { .. } => {}
        }
    }

    /// The answer, for a request that was done before or is only to be finished. None: it is to be done as ever.
    pub(super) fn again(
        &mut self,
        request: &Request<'_>,
        turn: &mut Turn<'_>,
    ) -> Result<Option<Answer>> {
        let answer = match *request {
            Request::Directory { fid, name, .. }
            | Request::Node { fid, name, .. }
            | Request::SymbolicLink { fid, name, .. }
            | Request::Create { fid, name, .. } => {
                let mut room = name_room();
                let name = convert::name(name.0, &mut room)?;
                match journal::moment() {
                    Some(moment) => {
                        let folder = &self.fids.find(fid)?.place.node;
                        undo::unmake(&*self.tree, folder, name, moment);
                    }
                    // Whoever died had done nothing. Who dies from now on may have.
                    None => journal::note_moment(),
                }
                return Ok(None);
            }
            Request::Link { folder, fid, name } => match self.link(turn, folder, fid, name.0) {
                Err(Errno::EXIST) if self.is_there(folder, name.0, fid)? => {
                    turn.tell(&Reply::Link {})
                }
                other => other,
            },
            Request::RemoveAt {
                folder,
                name,
                flags,
            } => match self.remove_at(turn, folder, name.0, flags) {
                Err(Errno::NOENT) => turn.tell(&Reply::RemoveAt {}),
                other => other,
            },
            Request::Remove { fid } => match self.remove(turn, fid) {
                Err(Errno::NOENT) => turn.tell(&Reply::Remove {}),
                other => other,
            },
            Request::RenameAt {
                folder,
                name,
                new_folder,
                new_name,
            } => match self.rename_at(turn, (folder, name.0), (new_folder, new_name.0)) {
                Err(Errno::NOENT) => {
                    let mut room = name_room();
                    let new_name = convert::name(new_name.0, &mut room)?;
                    let to = self.fids.find(new_folder)?;
                    self.tree.look(&to.place.node, new_name)?;
                    turn.tell(&Reply::RenameAt {})
                }
                other => other,
            },
            Request::Rename { fid, folder, name } => match self.rename(turn, fid, folder, name.0) {
                Err(Errno::NOENT) if self.is_there(folder, name.0, fid)? => {
                    self.is_renamed(fid, folder, name.0)?;
                    turn.tell(&Reply::Rename {})
                }
                other => other,
            },
            Request::Write { fid, data, .. } => {
                let written = self.fids.find(fid)?;
                let Use::File {
                    open, append: true, ..
                } = &written.used
                else {
                    return Ok(None);
                };
                let Some(before) = journal::inode() else {
                    // Whoever died had done nothing. Who dies from now on may have.
                    self.note(request);
                    return Ok(None);
                };
                let file = (&written.place.node, &**open);
                let Some(count) = undo::append_again(&*self.tree, file, before, data.0)? else {
                    return Ok(None);
                };
                turn.tell(&Reply::Write {
                    count: u32::try_from(count).unwrap_or(u32::MAX),
                })
            }
            // Twice is the same as once, or (Tclunk) the table is where it is set.
            Request::Version { .. }
            | Request::Authenticate { .. }
            | Request::Attach { .. }
            | Request::Flush { .. }
            | Request::Walk { .. }
            | Request::Open { .. }
            | Request::Read { .. }
            | Request::Clunk { .. }
            | Request::Statistics { .. }
            | Request::ReadLink { .. }
            | Request::Attributes { .. }
            | Request::Change { .. }
            | Request::ExtendedWalk { .. }
            | Request::ExtendedCreate { .. }
            | Request::Entries { .. }
            | Request::Sync { .. }
            | Request::Lock { .. }
            | Request::TestLock { .. } => return Ok(None),
        };
        answer.map(Some)
    }

    /// Whether that name leads to the file of the fid.
    fn is_there(&self, folder: u32, text: &[u8], fid: u32) -> Result<bool> {
        let mut room = name_room();
        let name = convert::name(text, &mut room)?;
        let there = self.tree.look(&self.fids.find(folder)?.place.node, name)?;
        let file = self.tree.identity(&self.fids.find(fid)?.place.node);
        Ok(there.identity.file() == file.file())
    }
}
