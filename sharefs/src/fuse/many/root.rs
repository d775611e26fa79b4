//! The folder of all shares, as the guest sees it: it can be read and entered, and every change is EROFS.
//!
//! Its listing needs no handle. The place behind an entry is the number of the share's root, so that a
//! reader goes on rightly while shares come and go.

use std::time::Duration;

use rustix::io::Errno;

use super::table::FIRST_SHARE;
use super::{Many, is_for_all};
use crate::fuse::exchange::{Answer, Turn, decode};
use crate::fuse::greeting;
use crate::fuse::greeting::Wishes;
use crate::fuse::reply::{self, Validity};
use crate::fuse::request::{Offer, Operation};
use crate::fuse::wire::{self, Output, ROOT, ability};
use crate::tree::owner::{GuestGid, GuestUid};
use crate::tree::{Attributes, Entry, Identity, Kind, Name, Result, Statistics};

/// How long the guest may take a share's name, and the folder's own times, for what they were.
const VALIDITY: Validity = Validity {
    entry: Duration::from_secs(1),
    attributes: Duration::from_secs(1),
};
/// Bytes of one listing: a kernel asks for a page to 128 KiB.
const LONGEST_LISTING: usize = 128 * 1024;

impl Many {
    /// Requests of the device as a whole, and those on the folder.
    pub(super) fn serve_own(&self, turn: &mut Turn<'_, '_>, body: &[u8]) -> Result<Answer> {
        let operation = decode(&self.counters, &turn.header, body, 0)?;
        if !is_for_all(turn.header.opcode) {
            self.shares.agreed()?;
        }
        let mut output = Output::new(turn.reply);
        let output = &mut output;
        match operation {
            Operation::Init(offer) => self.init(output, offer),
            Operation::Destroy => {
                self.begin(None);
                Ok(Answer::Empty)
            }
            Operation::Interrupt { unique } => {
                if let Some(part) = self.waiting_part(unique) {
                    part.interrupt(unique);
                }
                Ok(Answer::Silent)
            }
            Operation::Forget { lookups } => {
                self.forget(std::iter::once((turn.header.node, lookups)));
                Ok(Answer::Silent)
            }
            Operation::BatchForget(list) => {
                self.forget(list);
                Ok(Answer::Silent)
            }
            Operation::Lookup(name) => self.lookup(output, name),
            Operation::Attributes => {
                reply::attributes_out(output, &self.attributes(), VALIDITY, 0);
                Ok(Answer::Built)
            }
            Operation::ExtendedAttributes => {
                reply::statx(output, &self.attributes(), VALIDITY);
                Ok(Answer::Built)
            }
            Operation::OpenDirectory => {
                output.u64(0).u32(0).u32(0);
                Ok(Answer::Built)
            }
            Operation::ReadDirectory {
                offset, room, plus, ..
            } => {
                self.read_directory(output, offset, (room, plus));
                Ok(Answer::Built)
            }
            Operation::Statistics => {
                // No blocks: df leaves such file systems out.
                let statistics = Statistics {
                    block_size: 4096,
                    longest_name: 255,
                    ..Statistics::default()
                };
                reply::statistics(output, &statistics);
                Ok(Answer::Built)
            }
            Operation::ListExtended { room } => {
                if room == 0 {
                    output.u32(0).u32(0);
                }
                Ok(Answer::Built)
            }
            Operation::Access(wanted) if wanted.write => Err(Errno::ROFS),
            Operation::Access(_)
            | Operation::ReleaseDirectory { .. }
            | Operation::SyncDirectory { .. }
            | Operation::SyncAll => Ok(Answer::Empty),
            Operation::Rename { folder, .. } if folder != ROOT => Err(Errno::XDEV),
            Operation::Change { .. }
            | Operation::MakeSymbolicLink { .. }
            | Operation::MakeNode { .. }
            | Operation::MakeDirectory { .. }
            | Operation::RemoveFile(_)
            | Operation::RemoveDirectory(_)
            | Operation::Rename { .. }
            | Operation::Link { .. }
            | Operation::Create { .. }
            | Operation::CreateUnnamed { .. }
            | Operation::SetExtended { .. }
            | Operation::RemoveExtended { .. } => Err(Errno::ROFS),
            Operation::Open(_) => Err(Errno::ISDIR),
            Operation::ReadLink => Err(Errno::INVAL),
            // Never ENOSYS for what shares can do: the guest's kernel would not ask them either.
            Operation::Extended { .. } => Err(Errno::NODATA),
            Operation::Control => Err(Errno::NOTTY),
            Operation::Read { .. }
            | Operation::Write { .. }
            | Operation::Release { .. }
            | Operation::Flush { .. }
            | Operation::Sync { .. }
            | Operation::TestLock(_)
            | Operation::SetLock { .. }
            | Operation::Allocate { .. }
            | Operation::Seek { .. }
            | Operation::CopyRange { .. } => Err(Errno::BADF),
            Operation::Unknown => {
                self.counters.unknown.one();
                Err(Errno::NOSYS)
            }
        }
    }

    fn init(&self, output: &mut Output<'_>, offer: Offer) -> Result<Answer> {
        // Each share decides for its own files; a symbolic link's target cannot change while it is known.
        let wishes = Wishes {
            keeps_contents: true,
            // Each share is a mount of its own in the guest, and Linux heeds no lists on such (it does not set
            // SB_POSIXACL, fs/fuse/inode.c, fuse_fill_super_submount).
            lists: false,
            // It is agreed on for all shares or for none, and each share says for itself.
            writeback: false,
        };
        if let Some(agreed) = greeting::answer(output, offer, wishes)? {
            self.begin(Some(agreed));
        }
        Ok(Answer::Built)
    }

    fn begin(&self, agreed: Option<u64>) {
        let ended = self.shares.begin(agreed);
        self.waits().clear();
        drop(ended);
    }

    /// A share by its name, mounted if it is not, and mounted anew if its folder is another one by now.
    fn lookup(&self, output: &mut Output<'_>, name: Name<'_>) -> Result<Answer> {
        let name = name.as_c_str().to_bytes();
        let number = self.shares.number_of(name).ok_or(Errno::NOENT)?;
        let (space, mut part) = self.shares.of_node(number)?;
        let mut seen = part.look()?;
        if seen.is_none() {
            (_, part) = self.shares.mount(number, Some(space))?;
            seen = part.look()?;
        }
        // None: replaced a second time within this request.
        let attributes = seen.ok_or(Errno::STALE)?;
        let flags = match self.shares.agreed()? & ability::SUBMOUNTS {
            0 => 0,
            _ => wire::ATTR_SUBMOUNT,
        };
        let validity = Validity {
            attributes: part.validity().attributes,
            ..VALIDITY
        };
        reply::entry(output, number, &attributes, validity, flags);
        Ok(Answer::Built)
    }

    fn attributes(&self) -> Attributes {
        let changed = self.shares.changed();
        Attributes {
            identity: Identity {
                device: 0,
                inode: ROOT,
                mount: 0,
            },
            kind: Kind::Directory,
            mode: 0o555,
            links: u32::try_from(self.shares.count())
                .unwrap_or(u32::MAX)
                .saturating_add(2),
            owner: GuestUid(0),
            group: GuestGid(0),
            size: 0,
            blocks: 0,
            block_size: 4096,
            device: (0, 0),
            accessed: changed,
            modified: changed,
            changed,
            born: None,
        }
    }

    /// With PLUS the entries have no nodes: the guest looks at each share when it needs it.
    fn read_directory(&self, output: &mut Output<'_>, from: u64, (room, plus): (u32, bool)) {
        let room = usize::try_from(room)
            .unwrap_or(LONGEST_LISTING)
            .min(LONGEST_LISTING);
        let node_room = if plus { wire::ENTRY_OUT } else { 0 };
        let mut put = |entry: &Entry<'_>| {
            if output.length() + node_room + reply::dirent_length(entry) > room {
                return false;
            }
            output.zeros(node_room);
            reply::dirent(output, entry);
            true
        };
        for (name, place) in [(c".", ROOT), (c"..", FIRST_SHARE - 1)] {
            let entry = Entry {
                name,
                inode: ROOT,
                kind: Some(Kind::Directory),
                next: place,
            };
            if place > from && !put(&entry) {
                return;
            }
        }
        self.shares.list(from, |number, name| {
            put(&Entry {
                name,
                inode: number,
                kind: Some(Kind::Directory),
                next: number,
            })
        });
    }
}
