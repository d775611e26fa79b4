//! Access control lists (acl(5)) as extended attributes, whose users and groups are numbers: the host's in the
//! file, the guest's in what it reads and sets.
//!
//! They cross as owners do (`tree/owner.rs`): who has no counterpart is shown as nobody, and cannot be named in
//! a list that is set (EPERM). Read first: include/uapi/linux/posix_acl_xattr.h.

use std::ffi::CStr;

use rustix::io::Errno;

use crate::tree::Result;
use crate::tree::owner::{GuestGid, GuestUid, HostGid, HostOwner, HostUid, OwnerMap};

/// What a file's permissions are beyond its mode.
pub(crate) const ACCESS: &CStr = c"system.posix_acl_access";
/// What new files in a folder get.
pub(crate) const DEFAULT: &CStr = c"system.posix_acl_default";

/// ACL_USER and ACL_GROUP: the two kinds of entries that name somebody.
const USER: u16 = 0x02;
const GROUP: u16 = 0x08;
const HEAD: usize = 4;
const ENTRY: usize = 8;

/// Whether the attribute is a list of this kind.
pub(super) fn is_list(name: &CStr) -> bool {
    name == ACCESS || name == DEFAULT
}

/// The list as the guest may see it, in place.
pub(super) fn show(owners: &OwnerMap, list: &mut [u8]) {
    let show = |kind: u16, id: u32| {
        let shown = owners.shown(HostOwner {
            uid: HostUid(id),
            gid: HostGid(id),
        });
        Ok(if kind == USER {
            shown.uid.0
        } else {
            shown.gid.0
        })
    };
    // It cannot fail: the host's kernel gave it, and to show refuses nothing.
    translate(list, show).ok();
}

/// The list as the host is to have it, in place. EINVAL for what is none, EPERM for somebody who is nobody here.
pub(super) fn want(owners: &OwnerMap, list: &mut [u8]) -> Result<()> {
    if list.len() < HEAD || !(list.len() - HEAD).is_multiple_of(ENTRY) {
        return Err(Errno::INVAL);
    }
    translate(list, |kind, id| match *owners {
        OwnerMap::Pass => Ok(id),
        OwnerMap::Map { host, guest } | OwnerMap::Squash { host, guest } => {
            if kind == USER && GuestUid(id) == guest.uid {
                Ok(host.uid.0)
            } else if kind == GROUP && GuestGid(id) == guest.gid {
                Ok(host.gid.0)
            } else {
                Err(Errno::PERM)
            }
        }
    })
}

fn translate(list: &mut [u8], number: impl Fn(u16, u32) -> Result<u32>) -> Result<()> {
    let entries = list.get_mut(HEAD..).unwrap_or_default();
    for entry in entries.chunks_exact_mut(ENTRY) {
        let [a, b, _, _, id @ ..] = entry else { break };
        let kind = u16::from_le_bytes([*a, *b]);
        if let (USER | GROUP, Ok(bytes)) = (kind, <[u8; 4]>::try_from(&*id)) {
            let new = number(kind, u32::from_le_bytes(bytes))?;
            id.copy_from_slice(&new.to_le_bytes());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::owner::GuestOwner;

    const OWNER: u16 = 0x01;

    fn list(entries: &[(u16, u16, u32)]) -> Vec<u8> {
        let mut bytes = 2_u32.to_le_bytes().to_vec();
        for (kind, rights, id) in entries {
            bytes.extend(kind.to_le_bytes());
            bytes.extend(rights.to_le_bytes());
            bytes.extend(id.to_le_bytes());
        }
        bytes
    }

    #[test]
    fn those_who_are_named_cross_as_owners_do() {
        let map = OwnerMap::Map {
            host: HostOwner {
                uid: HostUid(1001),
                gid: HostGid(1002),
            },
            guest: GuestOwner {
                uid: GuestUid(0),
                gid: GuestGid(500),
            },
        };
        let host = list(&[
            (OWNER, 7, u32::MAX),
            (USER, 6, 1001),
            (USER, 5, 8),
            (GROUP, 4, 1002),
        ]);
        let mut shown = host.clone();
        show(&map, &mut shown);
        let nobody = (USER, 5, 65534);
        let expected = list(&[(OWNER, 7, u32::MAX), (USER, 6, 0), nobody, (GROUP, 4, 500)]);
        assert_eq!(shown, expected);
        assert_eq!(want(&map, &mut shown), Err(Errno::PERM));
        let mut wanted = list(&[(OWNER, 7, u32::MAX), (USER, 6, 0), (GROUP, 4, 500)]);
        assert_eq!(want(&map, &mut wanted), Ok(()));
        assert_eq!(
            wanted,
            list(&[(OWNER, 7, u32::MAX), (USER, 6, 1001), (GROUP, 4, 1002)])
        );
        let mut passed = host.clone();
        show(&OwnerMap::Pass, &mut passed);
        assert_eq!(
            (want(&OwnerMap::Pass, &mut passed), &passed),
            (Ok(()), &host)
        );
    }

    #[test]
    fn what_is_no_list_is_refused_and_breaks_nothing() {
        for length in [0, 3, 5, 11, 13] {
            let mut bytes = vec![0xff; length];
            assert_eq!(
                want(&OwnerMap::Pass, &mut bytes),
                Err(Errno::INVAL),
                "{length}"
            );
            show(&OwnerMap::Pass, &mut bytes);
        }
        assert_eq!(want(&OwnerMap::Pass, &mut list(&[])), Ok(()));
    }
}
