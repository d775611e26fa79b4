//! Flags and numbers of 9P2000.L as the tree's words, and back. Values are those of Linux's generic headers,
//! whatever the machine (include/net/9p/9p.h).

use std::ffi::CStr;

use rustix::io::Errno;

use super::messages::Reply;
use super::wire::Qid;
use crate::sys::{LockKind, LockRange};
use crate::tree::name::LONGEST_NAME;
use crate::tree::owner::{GuestGid, GuestUid};
use crate::tree::{
    Attributes, Changes, Durability, ExtendedHow, Identity, Kind, Name, NewNode, NewTime, OpenHow,
    Result, Timestamp,
};

/// Room for a name with its NUL, which 9P's texts do not carry.
pub(super) type NameRoom = [u8; LONGEST_NAME + 1];

/// A name in a folder. EINVAL for what can never be one: NUL, slash, `.`, `..`, nothing.
pub(super) fn name<'r>(text: &[u8], room: &'r mut NameRoom) -> Result<Name<'r>> {
    Name::new(c_text(text, room, Errno::NAMETOOLONG)?)
}

/// The name of an extended attribute; ERANGE for one that is too long, as setxattr(2).
pub(super) fn extended_name<'r>(text: &[u8], room: &'r mut NameRoom) -> Result<&'r CStr> {
    if text.is_empty() {
        return Err(Errno::RANGE);
    }
    c_text(text, room, Errno::RANGE)
}

/// `text` with a NUL behind it.
pub(super) fn c_text<'r>(text: &[u8], room: &'r mut [u8], too_long: Errno) -> Result<&'r CStr> {
    let place = room.get_mut(..=text.len()).ok_or(too_long)?;
    if let Some((end, bytes)) = place.split_last_mut() {
        bytes.copy_from_slice(text);
        *end = 0;
    }
    CStr::from_bytes_with_nul(place).map_err(|_| Errno::INVAL)
}

/// P9_DOTL_*.
mod open_flag {
    pub(super) const ACCESS: u32 = 0o3;
    pub(super) const WRITE_ONLY: u32 = 0o1;
    pub(super) const READ_WRITE: u32 = 0o2;
    pub(super) const EXCLUSIVE: u32 = 0o200;
    pub(super) const TRUNCATE: u32 = 0o1000;
    pub(super) const APPEND: u32 = 0o2000;
    pub(super) const DATA_SYNC: u32 = 0o10_000;
    pub(super) const NO_ACCESS_TIME: u32 = 0o1_000_000;
    /// P9_DOTL_SYNC without the DSYNC that always comes with it.
    pub(super) const SYNC: u32 = 0o4_000_000;
}

/// What a file is opened for. EINVAL for an access mode that does not exist.
pub(super) fn open_how(flags: u32) -> Result<OpenHow> {
    let access = flags & open_flag::ACCESS;
    if access == open_flag::ACCESS {
        return Err(Errno::INVAL);
    }
    Ok(OpenHow {
        read: access != open_flag::WRITE_ONLY,
        write: access == open_flag::WRITE_ONLY || access == open_flag::READ_WRITE,
        truncate: flags & open_flag::TRUNCATE != 0,
        durability: match (
            flags & open_flag::SYNC != 0,
            flags & open_flag::DATA_SYNC != 0,
        ) {
            (true, _) => Durability::Everything,
            (false, true) => Durability::Data,
            (false, false) => Durability::Later,
        },
        keep_access_time: flags & open_flag::NO_ACCESS_TIME != 0,
        // The client's kernel takes set-id bits away itself, by a Tsetattr.
        drop_privileges: false,
    })
}

pub(super) fn appends(flags: u32) -> bool {
    flags & open_flag::APPEND != 0
}

/// Whether a write may be done in parts: see `fids::Use`.
pub(super) fn in_parts(flags: u32) -> bool {
    flags & (open_flag::APPEND | open_flag::SYNC | open_flag::DATA_SYNC) == 0
}

pub(super) fn must_be_new(flags: u32) -> bool {
    flags & open_flag::EXCLUSIVE != 0
}

/// The mode of a Tmknod: its file type bits say what is made.
pub(super) fn new_node(mode: u32, device: (u32, u32)) -> Result<NewNode> {
    let kind = match mode & 0o170_000 {
        0 | 0o100_000 => Kind::File,
        0o010_000 => Kind::Fifo,
        0o140_000 => Kind::Socket,
        0o020_000 => Kind::CharacterDevice,
        0o060_000 => Kind::BlockDevice,
        _ => return Err(Errno::INVAL),
    };
    Ok(NewNode {
        kind,
        mode: mode & 0o7777,
        device,
    })
}

fn file_type(kind: Kind) -> u32 {
    match kind {
        Kind::File => 0o100_000,
        Kind::Directory => 0o040_000,
        Kind::SymbolicLink => 0o120_000,
        Kind::BlockDevice => 0o060_000,
        Kind::CharacterDevice => 0o020_000,
        Kind::Fifo => 0o010_000,
        Kind::Socket => 0o140_000,
    }
}

/// DT_* of a Treaddir's entry: the file type of the mode without its twelve low bits.
pub(super) fn entry_type(kind: Option<Kind>) -> u8 {
    kind.map_or(0, |kind| {
        u8::try_from(file_type(kind) >> 12).unwrap_or_default()
    })
}

/// P9_SETATTR_*.
mod change_flag {
    pub(super) const MODE: u32 = 1 << 0;
    pub(super) const USER: u32 = 1 << 1;
    pub(super) const GROUP: u32 = 1 << 2;
    pub(super) const SIZE: u32 = 1 << 3;
    pub(super) const ACCESSED: u32 = 1 << 4;
    pub(super) const MODIFIED: u32 = 1 << 5;
    pub(super) const ACCESSED_GIVEN: u32 = 1 << 7;
    pub(super) const MODIFIED_GIVEN: u32 = 1 << 8;
}

/// The fields of a Tsetattr.
#[derive(Clone, Copy, Debug)]
pub(super) struct ChangeFields {
    pub(super) valid: u32,
    pub(super) mode: u32,
    pub(super) user: u32,
    pub(super) group: u32,
    pub(super) size: u64,
    pub(super) accessed: (u64, u64),
    pub(super) modified: (u64, u64),
}

/// The time of change, bit 6, is nobody's to set: it moves by itself.
pub(super) fn changes(fields: &ChangeFields) -> Result<Changes> {
    let has = |flag| fields.valid & flag != 0;
    let time = |wanted, given, value| match (has(wanted), has(given)) {
        (false, _) => Ok(None),
        (true, false) => Ok(Some(NewTime::Now)),
        (true, true) => timestamp(value).map(|time| Some(NewTime::At(time))),
    };
    Ok(Changes {
        mode: has(change_flag::MODE).then_some(fields.mode & 0o7777),
        owner: has(change_flag::USER).then_some(GuestUid(fields.user)),
        group: has(change_flag::GROUP).then_some(GuestGid(fields.group)),
        size: has(change_flag::SIZE).then_some(fields.size),
        accessed: time(
            change_flag::ACCESSED,
            change_flag::ACCESSED_GIVEN,
            fields.accessed,
        )?,
        modified: time(
            change_flag::MODIFIED,
            change_flag::MODIFIED_GIVEN,
            fields.modified,
        )?,
        drop_privileges: false,
    })
}

fn timestamp((seconds, nanoseconds): (u64, u64)) -> Result<Timestamp> {
    match u32::try_from(nanoseconds) {
        Ok(nanoseconds) if nanoseconds < 1_000_000_000 => Ok(Timestamp {
            seconds: seconds.cast_signed(),
            nanoseconds,
        }),
        _ => Err(Errno::INVAL),
    }
}

/// XATTR_CREATE, XATTR_REPLACE.
pub(super) fn extended_how(flags: u32) -> Result<ExtendedHow> {
    match flags {
        0 => Ok(ExtendedHow::Either),
        1 => Ok(ExtendedHow::Create),
        2 => Ok(ExtendedHow::Replace),
        _ => Err(Errno::INVAL),
    }
}

/// P9_LOCK_TYPE_*; EINVAL for a range that no file has.
pub(super) fn lock_range(kind: u8, start: u64, length: u64) -> Result<LockRange> {
    let kind = match kind {
        0 => LockKind::Shared,
        1 => LockKind::Exclusive,
        2 => LockKind::Unlock,
        _ => return Err(Errno::INVAL),
    };
    let number = |value: u64| i64::try_from(value).map_err(|_| Errno::INVAL);
    Ok(LockRange {
        kind,
        start: number(start)?,
        length: number(length)?,
    })
}

pub(super) fn lock_kind(kind: LockKind) -> u8 {
    match kind {
        LockKind::Shared => 0,
        LockKind::Exclusive => 1,
        LockKind::Unlock => 2,
    }
}

/// Qids of one share. A client takes equal paths for the same file and shows them as inode numbers: on the
/// mount that the share's folder is on they are the host's own; those of another mount below it are turned
/// by bits that follow from the mount, so that equal numbers of two file systems stay apart.
#[derive(Clone, Copy, Debug)]
pub(super) struct Qids {
    device: u64,
    mount: u64,
}

impl Qids {
    pub(super) fn new(root: Identity) -> Self {
        Self {
            device: root.device,
            mount: root.mount,
        }
    }

    pub(super) fn path(self, place: Identity) -> u64 {
        if (place.device, place.mount) == (self.device, self.mount) {
            return place.inode;
        }
        place.inode ^ mixed(mixed(place.device) ^ place.mount)
    }

    pub(super) fn of(self, attributes: &Attributes) -> Qid {
        Qid {
            kind: qid_kind(attributes.kind),
            version: version(attributes),
            path: self.path(attributes.identity),
        }
    }

    /// Of a directory's entry, which is on the directory's own mount as far as is known.
    pub(super) fn of_entry(self, folder: Identity, inode: u64, kind: Option<Kind>) -> Qid {
        Qid {
            kind: kind.map_or(0, qid_kind),
            version: 0,
            path: self.path(Identity { inode, ..folder }),
        }
    }
}

/// The finalizer of splitmix64: each bit of the input moves half of the output's.
fn mixed(number: u64) -> u64 {
    let number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ number >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ number >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ number >> 31
}

/// QTDIR, QTSYMLINK, QTFILE.
fn qid_kind(kind: Kind) -> u8 {
    match kind {
        Kind::Directory => 0x80,
        Kind::SymbolicLink => 0x02,
        Kind::File | Kind::BlockDevice | Kind::CharacterDevice | Kind::Fifo | Kind::Socket => 0,
    }
}

/// Never 0: a client that caches would not cache such a file (v9fs, P9L_DIRECT).
fn version(attributes: &Attributes) -> u32 {
    let time = attributes.modified;
    let [a, b, c, d, e, f, g, h] = time.seconds.to_le_bytes();
    let seconds = u32::from_le_bytes([a, b, c, d]) ^ u32::from_le_bytes([e, f, g, h]);
    let mixed = seconds.rotate_left(13) ^ time.nanoseconds;
    mixed.max(1)
}

/// P9_STATS_BASIC, and BTIME.
const BASIC: u64 = 0x7ff;
const BORN: u64 = 0x800;

/// Rgetattr.
pub(super) fn attributes(qid: Qid, found: &Attributes) -> Reply<'static> {
    let born = found.born.unwrap_or_default();
    let seconds = |time: Timestamp| time.seconds.cast_unsigned();
    let nanoseconds = |time: Timestamp| u64::from(time.nanoseconds);
    Reply::Attributes {
        valid: BASIC | if found.born.is_some() { BORN } else { 0 },
        qid,
        mode: file_type(found.kind) | found.mode,
        user: found.owner.0,
        group: found.group.0,
        links: found.links.into(),
        device: device(found.device),
        size: found.size,
        block_size: found.block_size.into(),
        blocks: found.blocks,
        accessed: seconds(found.accessed),
        accessed_nanoseconds: nanoseconds(found.accessed),
        modified: seconds(found.modified),
        modified_nanoseconds: nanoseconds(found.modified),
        changed: seconds(found.changed),
        changed_nanoseconds: nanoseconds(found.changed),
        born: seconds(born),
        born_nanoseconds: nanoseconds(born),
        generation: 0,
        data_version: 0,
    }
}

/// new_encode_dev() of the kernel, which v9fs undoes.
fn device((major, minor): (u32, u32)) -> u64 {
    let (major, minor) = (u64::from(major), u64::from(minor));
    minor & 0xff | major << 8 | (minor & !0xff) << 12
}
