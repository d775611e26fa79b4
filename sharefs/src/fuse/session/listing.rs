//! READDIR and READDIRPLUS: as many entries as the guest has room for.
//!
//! With PLUS each entry but `.` and `..` counts as a LOOKUP of it. An entry that cannot be looked up
//! (not allowed, gone meanwhile) is listed without its node: the guest asks when it needs it and gets the
//! reason then. The same when half of all nodes that may be known are: those that are left are for names that
//! somebody asks for.

use rustix::io::Errno;

use super::{Answer, LONGEST_REPLY, Session, State, Turn, node};
use crate::fuse::reply;
use crate::fuse::wire::{self, Output};
use crate::tree::{Entry, Identity, Name, Result, Tree};

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    pub(super) offset: u64,
    pub(super) room: u32,
    pub(super) plus: bool,
}

impl<T: Tree> Session<T> {
    pub(super) fn read_directory(
        &self,
        state: &State<T>,
        turn: &mut Turn<'_, '_>,
        handle: u64,
        wanted: Wanted,
    ) -> Result<Answer> {
        let directory = state.directories.find(handle).ok_or(Errno::BADF)?;
        let parent = node(state, turn.header.node)?;
        let room = usize::try_from(wanted.room)
            .unwrap_or_default()
            .min(LONGEST_REPLY);
        let mut output = Output::new(turn.reply);
        let each = &mut |entry: &Entry<'_>| {
            let length =
                reply::dirent_length(entry) + if wanted.plus { wire::ENTRY_OUT } else { 0 };
            if output.length() + length > room {
                return false;
            }
            if wanted.plus {
                self.entry_of(state, &mut output, &parent, entry);
            }
            reply::dirent(&mut output, entry);
            true
        };
        // An entry of the host's is as long as ours without PLUS, and a good sixth of it with.
        let about = if wanted.plus { room / 4 } else { room };
        self.tree.entries(&directory, wanted.offset, about, each)?;
        Ok(Answer::Built)
    }

    fn entry_of(
        &self,
        state: &State<T>,
        output: &mut Output<'_>,
        parent: &T::Node,
        entry: &Entry<'_>,
    ) {
        let found = match Name::new(entry.name) {
            Ok(_) if self.tree.is_short_of_nodes() => Err(Errno::NFILE),
            Ok(name) => {
                // A guess: what is mounted there, if anything, is another file.
                let likely = Identity {
                    inode: entry.inode,
                    ..self.tree.identity(parent)
                };
                let look_first = state.nodes.knows(likely);
                self.child_into(state, output, parent, name, look_first)
            }
            Err(error) => Err(error),
        };
        if found.is_err() {
            output.zeros(wire::ENTRY_OUT);
        }
    }
}
