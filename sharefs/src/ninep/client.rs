//! 9P2000.L from the client's side: the tree's words as flags and numbers, and a server's answers as the tree's
//! words. Counterpart of convert.rs.
//!
//! A server in a guest is no more trusted than the guest: what cannot be true of a file is EIO for the one call
//! that asked, and nothing that it sends becomes a name, a length or a kind unchecked.

use std::ffi::CStr;

use rustix::io::Errno;

use super::messages::Request;
use super::wire::{Field, HEADER, Input, NoRoom, Qid, Text, head};
use crate::tree::name::LONGEST_NAME;
use crate::tree::owner::{GuestGid, GuestUid};
use crate::tree::{
    Attributes, Changes, Durability, Entry, ExtendedHow, Identity, Kind, NewNode, NewTime, OpenHow,
    Result, Statistics, Timestamp,
};

/// In front of the data of a Twrite: header, fid, offset, count.
pub(crate) const WRITTEN_AT: usize = HEADER + 4 + 8 + 4;
/// Twrite.
const WRITE: u8 = 118;
/// What is left of the longest message for data, in both directions (P9_IOHDRSZ).
pub(crate) const OVERHEAD: u32 = 24;
/// No fid: attach without authentication.
pub(crate) const NO_FID: u32 = u32::MAX;
/// P9_GETATTR_ALL less the two that no server knows: basic, and the time of birth.
pub(crate) const ALL_ATTRIBUTES: u64 = 0xfff;
/// P9_DOTL_AT_REMOVEDIR.
pub(crate) const REMOVE_DIRECTORY: u32 = 0x200;
/// P9_DOTL_DIRECTORY.
pub(crate) const OPEN_DIRECTORY: u32 = 0o200_000;
/// P9_DOTL_APPEND, P9_DOTL_CREATE with EXCL.
pub(crate) const APPEND: u32 = 0o2000;
/// See `APPEND`.
pub(crate) const CREATE_NEW: u32 = 0o300;
/// XATTR_REPLACE: with no value it is what removes.
pub(crate) const REPLACE: u32 = 2;
/// P9_LOCK_*, the status in an Rlock.
pub(crate) const LOCK_SUCCESS: u8 = 0;
/// See `LOCK_SUCCESS`.
pub(crate) const LOCK_BLOCKED: u8 = 1;
/// Somebody has to reclaim locks first: ask again.
pub(crate) const LOCK_GRACE: u8 = 3;

/// Two users, and two groups, that change places: the one that the guest's server acts as is shown as the host's
/// own, so that what is the user's there is the user's here. No owner is lost by it, and it undoes itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Swap {
    pub(crate) users: (u32, u32),
    pub(crate) groups: (u32, u32),
}

fn swapped((one, other): (u32, u32), number: u32) -> u32 {
    if number == one {
        other
    } else if number == other {
        one
    } else {
        number
    }
}

impl Swap {
    pub(crate) fn user(self, number: u32) -> u32 {
        swapped(self.users, number)
    }

    pub(crate) fn group(self, number: u32) -> u32 {
        swapped(self.groups, number)
    }
}

/// The header of a Twrite whose `count` bytes stand in `room` at [`WRITTEN_AT`] already; the length of the frame.
pub(crate) fn head_of_write(
    room: &mut [u8],
    tag: u16,
    (fid, offset): (u32, u64),
    count: usize,
) -> std::result::Result<usize, NoRoom> {
    let number = u32::try_from(count).map_err(|_| NoRoom)?;
    let [a, b, c, d] = fid.to_le_bytes();
    let [e, f, g, h, i, j, k, l] = offset.to_le_bytes();
    let [m, n, o, p] = number.to_le_bytes();
    let place = room.get_mut(HEADER..WRITTEN_AT).ok_or(NoRoom)?;
    place.copy_from_slice(&[a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]);
    let length = WRITTEN_AT + count;
    head(room, WRITE, tag, length)?;
    Ok(length)
}

/// P9_DOTL_* of what a file is opened for.
pub(crate) fn open_flags(how: OpenHow) -> u32 {
    let access = match (how.read, how.write) {
        (_, false) => 0,
        (false, true) => 0o1,
        (true, true) => 0o2,
    };
    let durability = match how.durability {
        Durability::Later => 0,
        Durability::Data => 0o10_000,
        Durability::Everything => 0o4_010_000,
    };
    let truncate = if how.truncate { 0o1000 } else { 0 };
    let keep = if how.keep_access_time { 0o1_000_000 } else { 0 };
    access | durability | truncate | keep
}

/// The mode of a Tmknod.
pub(crate) fn node_mode(new: NewNode) -> u32 {
    let kind = match new.kind {
        Kind::File | Kind::Directory | Kind::SymbolicLink => 0o100_000,
        Kind::BlockDevice => 0o060_000,
        Kind::CharacterDevice => 0o020_000,
        Kind::Fifo => 0o010_000,
        Kind::Socket => 0o140_000,
    };
    kind | new.mode & 0o7777
}

/// A Tsetattr; None when there is nothing to change.
pub(crate) fn change(fid: u32, changes: &Changes, swap: Swap) -> Option<Request<'static>> {
    let mut valid = 0;
    let mut mark = |bits: u32, wanted: bool| valid |= if wanted { bits } else { 0 };
    mark(1 << 0, changes.mode.is_some());
    mark(1 << 1, changes.owner.is_some());
    mark(1 << 2, changes.group.is_some());
    mark(1 << 3, changes.size.is_some());
    let mut time = |bit: u32, wanted: Option<NewTime>| match wanted {
        None => (0, 0),
        Some(NewTime::Now) => {
            mark(1 << bit, true);
            (0, 0)
        }
        Some(NewTime::At(at)) => {
            // The bit that says "to this", three above: ATIME_SET, MTIME_SET.
            mark(1 << bit | 1 << (bit + 3), true);
            (at.seconds.cast_unsigned(), u64::from(at.nanoseconds))
        }
    };
    let (accessed, modified) = (time(4, changes.accessed), time(5, changes.modified));
    (valid != 0).then(|| Request::Change {
        fid,
        valid,
        mode: changes.mode.unwrap_or(0) & 0o7777,
        user: changes.owner.map_or(u32::MAX, |owner| swap.user(owner.0)),
        group: changes.group.map_or(u32::MAX, |group| swap.group(group.0)),
        size: changes.size.unwrap_or(0),
        accessed: accessed.0,
        accessed_nanoseconds: accessed.1,
        modified: modified.0,
        modified_nanoseconds: modified.1,
    })
}

/// XATTR_CREATE, XATTR_REPLACE.
pub(crate) fn extended_flags(how: ExtendedHow) -> u32 {
    match how {
        ExtendedHow::Either => 0,
        ExtendedHow::Create => 1,
        ExtendedHow::Replace => REPLACE,
    }
}

/// S_IFMT.
fn kind(mode: u32) -> Result<Kind> {
    match mode & 0o170_000 {
        0o100_000 => Ok(Kind::File),
        0o040_000 => Ok(Kind::Directory),
        0o120_000 => Ok(Kind::SymbolicLink),
        0o060_000 => Ok(Kind::BlockDevice),
        0o020_000 => Ok(Kind::CharacterDevice),
        0o010_000 => Ok(Kind::Fifo),
        0o140_000 => Ok(Kind::Socket),
        _ => Err(Errno::IO),
    }
}

/// What tells two files of a server apart. A number that comes again as another kind is another file, so that no
/// file becomes a directory under whoever holds it.
pub(crate) fn identity(qid: Qid, kind: Kind) -> Identity {
    let apart = match kind {
        Kind::Directory => 1,
        Kind::SymbolicLink => 2,
        Kind::File | Kind::BlockDevice | Kind::CharacterDevice | Kind::Fifo | Kind::Socket => 0,
    };
    Identity {
        device: 0,
        inode: qid.path,
        mount: apart,
    }
}

/// Fields of an Rgetattr that become [`Attributes`].
pub(crate) struct Told {
    pub(crate) qid: Qid,
    pub(crate) valid: u64,
    pub(crate) mode: u32,
    pub(crate) owner: (u32, u32),
    pub(crate) links: u64,
    pub(crate) device: u64,
    pub(crate) size: u64,
    pub(crate) blocks: (u64, u64),
    pub(crate) accessed: (u64, u64),
    pub(crate) modified: (u64, u64),
    pub(crate) changed: (u64, u64),
    pub(crate) born: (u64, u64),
}

/// P9_GETATTR_BTIME.
const BORN: u64 = 0x800;

pub(crate) fn attributes(told: &Told, swap: Swap) -> Result<Attributes> {
    let kind = kind(told.mode)?;
    if i64::try_from(told.size).is_err() {
        return Err(Errno::IO);
    }
    let (block_size, blocks) = told.blocks;
    Ok(Attributes {
        identity: identity(told.qid, kind),
        kind,
        mode: told.mode & 0o7777,
        links: u32::try_from(told.links).unwrap_or(u32::MAX),
        owner: GuestUid(swap.user(told.owner.0)),
        group: GuestGid(swap.group(told.owner.1)),
        size: told.size,
        blocks,
        // Only advice; what no file system has is not passed on.
        block_size: u32::try_from(block_size)
            .ok()
            .filter(|size| (512..=1 << 24).contains(size))
            .unwrap_or(4096),
        device: device(told.device),
        accessed: timestamp(told.accessed)?,
        modified: timestamp(told.modified)?,
        changed: timestamp(told.changed)?,
        born: match told.valid & BORN {
            0 => None,
            _ => timestamp(told.born).ok(),
        },
    })
}

fn timestamp((seconds, nanoseconds): (u64, u64)) -> Result<Timestamp> {
    match u32::try_from(nanoseconds) {
        Ok(nanoseconds) if nanoseconds < 1_000_000_000 => Ok(Timestamp {
            seconds: seconds.cast_signed(),
            nanoseconds,
        }),
        _ => Err(Errno::IO),
    }
}

/// new_decode_dev() of the kernel, as v9fs reads it.
fn device(number: u64) -> (u32, u32) {
    let number = u32::try_from(number & 0xffff_ffff).unwrap_or_default();
    (
        (number & 0xfff00) >> 8,
        number & 0xff | number >> 12 & 0xfff00,
    )
}

/// Rstatfs: type and id of the guest's file system mean nothing here.
pub(crate) fn statistics(
    (block_size, longest_name): (u32, u32),
    [blocks, free, available, files, free_files]: [u64; 5],
) -> Result<Statistics> {
    if block_size == 0 {
        return Err(Errno::IO);
    }
    Ok(Statistics {
        block_size: block_size.into(),
        blocks,
        free,
        available,
        files,
        free_files,
        longest_name: u64::from(longest_name).min(LONGEST_NAME as u64),
    })
}

/// Each entry of an Rreaddir's data that was asked for behind `from`, until `each` says no.
///
/// EIO for what is no entry, for a name that no folder can hold, and for a directory that does not move on and
/// would be read for ever. All is looked at first: what is passed on is good to its end.
pub(crate) fn entries(
    data: &[u8],
    from: u64,
    each: &mut dyn FnMut(&Entry<'_>) -> bool,
) -> Result<()> {
    let mut last = from;
    walk_entries(data, &mut |entry| {
        let name = entry.name.to_bytes();
        let is_good = !name.is_empty() && name.len() <= LONGEST_NAME && !name.contains(&b'/');
        // Only the way on can be judged: hashes are in no order.
        let moves = entry.next != from && entry.next != last;
        last = entry.next;
        is_good && moves
    })
    .and_then(|good| if good { Ok(()) } else { Err(Errno::IO) })?;
    walk_entries(data, each).map(drop)
}

/// Whether `each` took them all.
fn walk_entries(data: &[u8], each: &mut dyn FnMut(&Entry<'_>) -> bool) -> Result<bool> {
    let mut input = Input::new(data);
    let mut room = [0; LONGEST_NAME + 1];
    while !input.is_empty() {
        let read = |input: &mut Input<'_>| {
            let qid = Qid::take(input)?;
            let next = u64::take(input)?;
            let kind = u8::take(input)?;
            Ok::<_, super::wire::Malformed>((qid, next, kind))
        };
        let (qid, next, kind) = read(&mut input).map_err(|_| Errno::IO)?;
        let Text(text) = Text::take(&mut input).map_err(|_| Errno::IO)?;
        let name = super::convert::c_text(text, &mut room, Errno::IO).map_err(|_| Errno::IO)?;
        let entry = Entry {
            name,
            inode: qid.path,
            kind: entry_kind(kind),
            next,
        };
        if !each(&entry) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// DT_*; None: not told.
fn entry_kind(number: u8) -> Option<Kind> {
    kind(u32::from(number) << 12).ok()
}

/// The target of a link: PATH_MAX with its NUL, none in it, and not empty.
pub(crate) fn link_target(text: &[u8]) -> Result<&[u8]> {
    match text {
        [] => Err(Errno::IO),
        text if text.len() >= 4096 || text.contains(&0) => Err(Errno::IO),
        text => Ok(text),
    }
}

/// Names as listxattr(2) gives them: each closed by a NUL, none empty.
pub(crate) fn is_name_list(bytes: &[u8]) -> bool {
    match bytes.split_last() {
        None => true,
        Some((0, names)) => names.split(|byte| *byte == 0).all(|name| !name.is_empty()),
        Some(_) => false,
    }
}

/// A name of the tree as text of a message.
pub(crate) fn text(name: &CStr) -> Text<'_> {
    Text(name.to_bytes())
}
