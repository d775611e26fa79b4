//! Treaddir: as many entries as there is room for. The offsets are the host file system's own cookies, which
//! stay valid while names come and go.

use rustix::io::Errno;

use super::{Answer, Attached, Turn};
use crate::ninep::convert;
use crate::ninep::fids::Use;
use crate::ninep::messages::ENTRIES;
use crate::ninep::wire::{DATA_AT, Field, Output, Text, head_of_data};
use crate::tree::{Entry, Result, Tree};

/// `qid[13] offset[8] type[1]`, and the length of the name.
const ENTRY: usize = 13 + 8 + 1 + 2;

impl<T: Tree> Attached<T> {
    pub(super) fn entries(
        &self,
        turn: &mut Turn<'_>,
        fid: u32,
        offset: u64,
        count: u32,
    ) -> Result<Answer> {
        let listed = self.fids.find(fid)?;
        let Use::Directory(directory) = &listed.used else {
            return Err(Errno::BADF);
        };
        let qids = self.qids()?;
        let folder = self.tree.identity(&listed.place.node);
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        let end = count.saturating_add(DATA_AT).min(turn.out.len());
        let mut length = DATA_AT;
        let mut full = false;
        let each = &mut |entry: &Entry<'_>| {
            let name = entry.name.to_bytes();
            if length + ENTRY + name.len() > end {
                full = true;
                return false;
            }
            // An output that begins where the last one ended, without a header of its own.
            let place = turn.out.get_mut(length..end).unwrap_or_default();
            let mut output = Output::bare(place);
            qids.of_entry(folder, entry.inode, entry.kind)
                .put(&mut output);
            entry.next.put(&mut output);
            convert::entry_type(entry.kind).put(&mut output);
            Text(name).put(&mut output);
            length += output.length();
            true
        };
        // An entry of the host's is about as long as ours.
        self.tree.entries(directory, offset, end - DATA_AT, each)?;
        if full && length == DATA_AT {
            // Nothing would mean the end of the directory.
            return Err(Errno::INVAL);
        }
        let built = head_of_data(turn.out, ENTRIES + 1, turn.tag, length - DATA_AT);
        built.map(Answer::Built).map_err(|_| Errno::MSGSIZE)
    }
}
