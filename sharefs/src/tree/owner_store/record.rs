//! What is kept of a file beside it: the value of the extended attribute `user.sharectl.owner`.
//!
//! Text, so that `getfattr -d` shows it: version, owner, group, type and mode in octal as stat(2) has
//! them, device. `1 0 0 100755 0:0`; a disk: `1 0 6 60660 8:0`. Whoever may write the host's file may
//! write the attribute, so it is read as any other input: what is not exactly what this program writes
//! counts as absent.

use std::ffi::CStr;

use crate::tree::owner::{GuestGid, GuestUid};
use crate::tree::{Attributes, Kind};

/// All names that begin so are this program's, and no guest's.
pub(super) const RESERVED: &[u8] = b"user.sharectl.";
/// The attribute's name.
pub(super) const NAME: &CStr = c"user.sharectl.owner";
/// Longer than any record.
pub(super) const ROOM: usize = 64;

const VERSION: u32 = 1;
/// chown(2)'s "leave it": nobody's number.
const NOBODY_AT_ALL: u32 = u32::MAX;
/// Major numbers have 12 bits and minor numbers 20 in Linux.
const LARGEST_DEVICE: (u32, u32) = (0xfff, 0xf_ffff);

/// See the module's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) owner: GuestUid,
    pub(super) group: GuestGid,
    pub(super) kind: Kind,
    /// 0o7777 at most.
    pub(super) mode: u32,
    pub(super) device: (u32, u32),
}

impl Record {
    /// What the host's file says by itself.
    pub(super) fn of(attributes: &Attributes) -> Self {
        Self {
            owner: attributes.owner,
            group: attributes.group,
            kind: attributes.kind,
            mode: attributes.mode,
            device: attributes.device,
        }
    }

    pub(super) fn encode(&self) -> String {
        let mode = type_bits(self.kind) | self.mode;
        let (major, minor) = self.device;
        format!(
            "{VERSION} {} {} {mode:o} {major}:{minor}",
            self.owner.0, self.group.0
        )
    }

    /// None for whatever `encode` does not write.
    pub(super) fn decode(value: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(value).ok()?;
        let mut fields = text.split(' ').skip(1);
        let (owner, group, mode) = (fields.next()?, fields.next()?, fields.next()?);
        let (major, minor) = fields.next()?.split_once(':')?;
        let mode = u32::from_str_radix(mode, 8).ok()?;
        let record = Self {
            owner: GuestUid(owner.parse().ok()?),
            group: GuestGid(group.parse().ok()?),
            kind: kind_of(mode & !0o7777)?,
            mode: mode & 0o7777,
            device: (major.parse().ok()?, minor.parse().ok()?),
        };
        (record.encode() == text && record.is_possible()).then_some(record)
    }

    fn is_possible(&self) -> bool {
        let device = if is_device(self.kind) {
            LARGEST_DEVICE
        } else {
            (0, 0)
        };
        let fits = self.device.0 <= device.0 && self.device.1 <= device.1;
        fits && self.owner.0 != NOBODY_AT_ALL && self.group.0 != NOBODY_AT_ALL
    }

    /// Whether a file of the host may have this record: only what is kept as an empty file is anything
    /// else than it is.
    pub(super) fn suits(&self, host: Kind) -> bool {
        match host {
            Kind::Directory => self.kind == Kind::Directory,
            Kind::File => !matches!(self.kind, Kind::Directory | Kind::SymbolicLink),
            Kind::SymbolicLink
            | Kind::BlockDevice
            | Kind::CharacterDevice
            | Kind::Fifo
            | Kind::Socket => false,
        }
    }

    /// The permission bits of the file on the host: the guest's, never set-id, and the daemon, which is
    /// the file's owner there, can always read and write it.
    pub(super) fn host_mode(&self) -> u32 {
        let own = if self.kind == Kind::Directory {
            0o700
        } else {
            0o600
        };
        self.mode & 0o777 | own
    }

    /// The file as the guest sees it.
    pub(super) fn shown(&self, host: &Attributes) -> Attributes {
        // Permission bits that are not those written with the record were changed on the host since:
        // they are the newer word, and set-id bits were not meant for them.
        let untouched = host.mode == self.host_mode();
        Attributes {
            owner: self.owner,
            group: self.group,
            kind: self.kind,
            mode: if untouched { self.mode } else { host.mode },
            device: self.device,
            ..*host
        }
    }

    /// Takes the bits away that a write by somebody else than root takes (and a chown by anybody):
    /// set-user-id, and set-group-id of what the group may run. Folders keep theirs.
    pub(super) fn drop_set_id_bits(&mut self) {
        if self.kind != Kind::Directory {
            let group_runs = self.mode & 0o010 != 0;
            self.mode &= !(if group_runs { 0o6000 } else { 0o4000 });
        }
    }
}

fn is_device(kind: Kind) -> bool {
    matches!(kind, Kind::BlockDevice | Kind::CharacterDevice)
}

/// inode(7), "The file type and mode".
const TYPES: [(Kind, u32); 7] = [
    (Kind::Fifo, 0o010_000),
    (Kind::CharacterDevice, 0o020_000),
    (Kind::Directory, 0o040_000),
    (Kind::BlockDevice, 0o060_000),
    (Kind::File, 0o100_000),
    (Kind::SymbolicLink, 0o120_000),
    (Kind::Socket, 0o140_000),
];

fn type_bits(kind: Kind) -> u32 {
    let found = TYPES.iter().find(|(known, _)| *known == kind);
    found.map_or(0, |(_, bits)| *bits)
}

fn kind_of(bits: u32) -> Option<Kind> {
    let found = TYPES.iter().find(|(_, known)| *known == bits);
    found.map(|(kind, _)| *kind)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DISK: Record = Record {
        owner: GuestUid(0),
        group: GuestGid(6),
        kind: Kind::BlockDevice,
        mode: 0o660,
        device: (8, 0),
    };

    #[test]
    fn the_form_is_fixed() {
        assert_eq!(DISK.encode(), "1 0 6 60660 8:0");
        assert_eq!(Record::decode(b"1 0 6 60660 8:0"), Some(DISK));
        for bad in [
            &b""[..],
            b"1",
            b"2 0 6 60660 8:0",
            b"1 0 6 60660 8:0\n",
            b"1 0 6 060660 8:0",
            b"1 +0 6 60660 8:0",
            b"1 0 6 60660 8:0 more",
            b"1 0 6 60660 4096:0",
            b"1 0 6 60660 8:1048576",
            b"1 4294967295 6 60660 8:0",
            b"1 4294967296 6 60660 8:0",
            b"1 0 6 170660 8:0",
            b"1 0 6 100660 8:0",
            b"1 0 6 660 0:0",
            b"1  6 60660 8:0",
            b"\xff 0 6 60660 8:0",
        ] {
            assert_eq!(Record::decode(bad), None, "{}", bad.escape_ascii());
        }
    }

    #[test]
    fn a_record_that_does_not_suit_its_file_is_none_of_it() {
        let with = |kind| Record { kind, ..DISK };
        assert!(with(Kind::Socket).suits(Kind::File) && with(Kind::File).suits(Kind::File));
        assert!(with(Kind::Directory).suits(Kind::Directory));
        assert!(!with(Kind::Directory).suits(Kind::File) && !DISK.suits(Kind::Directory));
        assert!(!with(Kind::SymbolicLink).suits(Kind::File) && !DISK.suits(Kind::BlockDevice));
    }

    #[test]
    fn set_id_bits_fall_as_the_kernel_lets_them() {
        let kinds = [
            (Kind::File, 0o6755, 0o755),
            (Kind::File, 0o2644, 0o2644),
            (Kind::Directory, 0o2755, 0o2755),
        ];
        for (kind, mode, left) in kinds {
            let mut record = Record { kind, mode, ..DISK };
            record.drop_set_id_bits();
            assert_eq!(record.mode, left, "{kind:?} {mode:o}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            owner in 0..u32::MAX, group in 0..u32::MAX, mode in 0..=0o7777_u32,
            kind in prop::sample::select(TYPES.map(|(kind, _)| kind).to_vec()),
            device in (0..=0xfff_u32, 0..=0xf_ffff_u32),
        ) {
            let device = if is_device(kind) { device } else { (0, 0) };
            let record = Record { owner: GuestUid(owner), group: GuestGid(group), kind, mode, device };
            prop_assert!(record.encode().len() < ROOM);
            prop_assert_eq!(Record::decode(record.encode().as_bytes()), Some(record));
        }

        #[test]
        fn only_what_is_written_is_read(bytes in prop::collection::vec(prop::sample::select(b"01 678:+x".to_vec()), 0..24)) {
            if let Some(record) = Record::decode(&bytes) {
                prop_assert_eq!(record.encode().into_bytes(), bytes);
            }
        }
    }
}
