//! Files: Tlopen, Tlcreate, Tread, Twrite, Tfsync, Tclunk.

use std::sync::Arc;

use rustix::io::Errno;

use super::{Answer, Attached, Slow, Turn, name_room};
use crate::keep::ninep::rows::KeptOpen;
use crate::ninep::convert;
use crate::ninep::fids::{Fid, Place, Use};
use crate::ninep::messages::{READ, Reply};
use crate::ninep::wire::{DATA_AT, head_of_data};
use crate::sys::{Sink, Source};
use crate::tree::{Kind, Result, Tree};

/// The client divides long reads and writes by the size of its frames.
const NO_UNIT: u32 = 0;

impl<T: Tree> Attached<T> {
    pub(super) fn open(&mut self, turn: &mut Turn<'_>, fid: u32, flags: u32) -> Result<Answer> {
        let qids = self.qids()?;
        let opened = self.fids.find_mut(fid)?;
        if !opened.is_unused() {
            return Err(Errno::BADF);
        }
        let node = &opened.place.node;
        let used = if opened.place.kind == Kind::Directory {
            Use::Directory(Arc::new(self.tree.open_directory(node)?))
        } else {
            let how = convert::open_how(flags)?;
            Use::File {
                open: Arc::new(self.tree.open(node, how)?),
                append: convert::appends(flags),
                writes: how.write,
                in_parts: convert::in_parts(flags),
            }
        };
        let qid = qids.of(&self.tree.attributes(node)?);
        opened.used = used;
        self.record(fid);
        turn.tell(&Reply::Open { qid, unit: NO_UNIT })
    }

    /// The fid was the folder and is the new file then.
    pub(super) fn create(
        &mut self,
        turn: &mut Turn<'_>,
        fid: u32,
        text: &[u8],
        (flags, mode, group): (u32, u32, u32),
    ) -> Result<Answer> {
        let mut room = name_room();
        let name = convert::name(text, &mut room)?;
        let how = convert::open_how(flags)?;
        let folder = self.fids.find(fid)?;
        if !folder.is_unused() {
            return Err(Errno::BADF);
        }
        let parent = Arc::clone(&folder.place);
        let caller = Self::caller(folder, group);
        let made = self
            .tree
            .create(caller, &parent.node, name, (mode & 0o7777, how));
        let (found, open) = match made {
            Err(Errno::EXIST) if !convert::must_be_new(flags) => {
                // Somebody else was first; what stands there is opened as any other, not followed.
                let found = self.tree.child(&parent.node, name)?;
                let open = self.tree.open(&found.node, how)?;
                (found, open)
            }
            made => made?,
        };
        let qid = self.qids()?.of(&found.attributes);
        let place = Place::below(&parent, name, found).recorded(&*self.tree, self.rows());
        let file = self.fids.find_mut(fid)?;
        file.place = Arc::new(place);
        file.used = Use::File {
            open: Arc::new(open),
            append: convert::appends(flags),
            writes: how.write,
            in_parts: convert::in_parts(flags),
        };
        self.record(fid);
        turn.tell(&Reply::Create { qid, unit: NO_UNIT })
    }

    /// From the file straight to its place in the answer.
    pub(super) fn read(
        &self,
        turn: &mut Turn<'_>,
        fid: u32,
        offset: u64,
        count: u32,
    ) -> Result<Answer> {
        let room = turn.out.get_mut(DATA_AT..).unwrap_or_default();
        let count = usize::try_from(count).unwrap_or(usize::MAX).min(room.len());
        let room = room.get_mut(..count).unwrap_or_default();
        let asked = self.fids.find(fid)?;
        let done = match &asked.used {
            Use::Reading(value) => {
                let from = usize::try_from(offset).unwrap_or(usize::MAX);
                let rest = value.get(from..).unwrap_or_default();
                let done = rest.len().min(count);
                let (into, from) = (room.get_mut(..done), rest.get(..done));
                into.unwrap_or_default()
                    .copy_from_slice(from.unwrap_or_default());
                done
            }
            Use::Nothing | Use::File { .. } | Use::Directory(_) | Use::Writing(_) => {
                let (open, _) = asked.file()?;
                let done = self.tree.read(open, &[Sink::from(room)], offset)?;
                self.tally.read(done);
                done
            }
        };
        let built = head_of_data(turn.out, READ + 1, turn.tag, done);
        built.map(Answer::Built).map_err(|_| Errno::MSGSIZE)
    }

    /// Straight from the connection's buffer into the file.
    pub(super) fn write(
        &mut self,
        turn: &mut Turn<'_>,
        fid: u32,
        offset: u64,
        data: &[u8],
    ) -> Result<Answer> {
        let written = self.fids.find_mut(fid)?;
        let done = if let Use::Writing(value) = &mut written.used {
            // In order and no more than was announced: what else would the value be?
            if offset != value.bytes.len() as u64 {
                return Err(Errno::INVAL);
            }
            if data.len() > value.length - value.bytes.len() {
                return Err(Errno::NOSPC);
            }
            value.bytes.extend_from_slice(data);
            self.record(fid);
            data.len()
        } else {
            let (open, append) = written.file()?;
            let rest = data.get(turn.ahead..).unwrap_or_default();
            let offset = offset.saturating_add(turn.ahead as u64);
            let done = self
                .tree
                .write(open, &[Source::from(rest)], offset, append)?;
            self.tally.written(done);
            turn.ahead + done
        };
        turn.tell(&Reply::Write {
            count: u32::try_from(done).unwrap_or(u32::MAX),
        })
    }

    /// See `Mount::write_part`.
    pub(super) fn write_to_file(&self, fid: u32, offset: u64, data: &[u8]) -> Result<usize> {
        let Use::File {
            open,
            in_parts: true,
            ..
        } = &self.fids.find(fid)?.used
        else {
            return Ok(0);
        };
        let written = self.tree.write(open, &[Source::from(data)], offset, false);
        match written {
            Ok(done) => self.tally.written(done),
            // The answer, so `serve` will not hear of it.
            Err(_) => self.tally.operation(),
        }
        written
    }

    pub(super) fn sync(&self, fid: u32, data_only: Option<u32>) -> Result<Answer> {
        let data_only = data_only.is_some_and(|flag| flag != 0);
        let tree = Arc::clone(&self.tree);
        let synced = self.fids.find(fid)?;
        let of = tree.identity(&synced.place.node);
        let kept = |number, kind| KeptOpen {
            number,
            file: of,
            kind,
        };
        Ok(Answer::Slow(match &synced.used {
            Use::Directory(directory) => {
                let directory = Arc::clone(directory);
                Slow {
                    open: tree
                        .keep_directory(&directory)
                        .map(|number| kept(number, Kind::Directory)),
                    work: Box::new(move || tree.sync_directory(&directory, data_only)),
                }
            }
            Use::Nothing | Use::File { .. } | Use::Reading(_) | Use::Writing(_) => {
                let (file, _) = synced.file()?;
                let file = Arc::clone(file);
                Slow {
                    open: tree.keep_file(&file).map(|number| kept(number, Kind::File)),
                    work: Box::new(move || tree.sync(&file, data_only)),
                }
            }
        }))
    }

    pub(super) fn clunk(&mut self, turn: &mut Turn<'_>, fid: u32) -> Result<Answer> {
        let ended = self.end_fid(fid)?;
        let done = match &ended.used {
            Use::Writing(value) => self.set_extended(&ended.place.node, value),
            Use::File {
                open, writes: true, ..
            } => self.tree.flush(open),
            Use::Nothing | Use::File { .. } | Use::Directory(_) | Use::Reading(_) => Ok(()),
        };
        self.retire(ended);
        done?;
        turn.tell(&Reply::Clunk {})
    }

    /// The number is free from here on, whatever is still said of it.
    pub(super) fn end_fid(&mut self, fid: u32) -> Result<Fid<T>> {
        let ended = self.fids.remove(fid)?;
        if let (Some(rows), Some(row)) = (self.rows(), ended.row) {
            rows.end_fid(row);
            rows.slow_is_over(fid);
        }
        self.ended.extend(self.locks.end_fid(&self.tree, fid));
        self.free_value(&ended.used);
        Ok(ended)
    }
}
