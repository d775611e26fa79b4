//! Whose files these are: the host's owners as a guest sees them, and a guest's wishes on the host.
//!
//! Pure. It does not change to a user's rights; that is host/credentials.rs.
//!
//! | policy | files of the host owner | files of anybody else | chown by the guest |
//! |---|---|---|---|
//! | map    | shown as the guest owner | shown as nobody (65534) | to the guest owner: done or already so; else EPERM |
//! | squash | shown as the guest owner | shown as the guest owner | to the guest owner: nothing to do; else EPERM |
//! | pass   | shown as they are | shown as they are | asked of the host as it is |
//!
//! "The host owner" is the user the daemon runs as; for a daemon that runs as root it is the owner of
//! the share's own folder, and new files are made with that owner's rights. Unmapped owners are shown
//! as nobody and not as themselves, because a number that means one person on the host and another in
//! the guest would give the wrong one access in the guest's eyes.

use rustix::io::Errno;

/// A user as the host numbers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HostUid(pub(crate) u32);
/// A group as the host numbers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HostGid(pub(crate) u32);
/// A user as a guest numbers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GuestUid(pub(crate) u32);
/// A group as a guest numbers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GuestGid(pub(crate) u32);

/// What an owner without a counterpart is shown as: the kernel's overflow id.
const NOBODY: u32 = 65534;

/// How owners cross the boundary; see the table above.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OwnerMap {
    Map { host: HostOwner, guest: GuestOwner },
    Squash { host: HostOwner, guest: GuestOwner },
    Pass,
}

/// The host's side of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HostOwner {
    pub(crate) uid: HostUid,
    pub(crate) gid: HostGid,
}

/// The guest's side of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GuestOwner {
    pub(crate) uid: GuestUid,
    pub(crate) gid: GuestGid,
}

/// What a chown comes to on the host; None leaves that half as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct HostChange {
    pub(crate) uid: Option<HostUid>,
    pub(crate) gid: Option<HostGid>,
}

impl OwnerMap {
    /// The owner that a guest sees.
    pub(crate) fn shown(&self, owner: HostOwner) -> GuestOwner {
        match *self {
            Self::Pass => GuestOwner {
                uid: GuestUid(owner.uid.0),
                gid: GuestGid(owner.gid.0),
            },
            Self::Squash { guest, .. } => guest,
            Self::Map { host, guest } => GuestOwner {
                uid: if owner.uid == host.uid {
                    guest.uid
                } else {
                    GuestUid(NOBODY)
                },
                gid: if owner.gid == host.gid {
                    guest.gid
                } else {
                    GuestGid(NOBODY)
                },
            },
        }
    }

    /// What to ask of the host when a guest wants `uid` and `gid` for a file of `current`.
    ///
    /// EPERM when the guest names an owner that has no counterpart here.
    pub(crate) fn wanted(
        &self,
        current: HostOwner,
        uid: Option<GuestUid>,
        gid: Option<GuestGid>,
    ) -> Result<HostChange, Errno> {
        let shown = self.shown(current);
        let mut change = HostChange::default();
        if let Some(uid) = uid {
            change.uid = match *self {
                Self::Pass => Some(HostUid(uid.0)),
                _ if uid == shown.uid => None,
                Self::Map { host, guest } if uid == guest.uid => Some(host.uid),
                Self::Map { .. } | Self::Squash { .. } => return Err(Errno::PERM),
            };
        }
        if let Some(gid) = gid {
            change.gid = match *self {
                Self::Pass => Some(HostGid(gid.0)),
                _ if gid == shown.gid => None,
                Self::Map { host, guest } if gid == guest.gid => Some(host.gid),
                Self::Map { .. } | Self::Squash { .. } => return Err(Errno::PERM),
            };
        }
        Ok(change)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: HostOwner = HostOwner {
        uid: HostUid(1001),
        gid: HostGid(1002),
    };
    const OTHER: HostOwner = HostOwner {
        uid: HostUid(0),
        gid: HostGid(7),
    };
    const GUEST: GuestOwner = GuestOwner {
        uid: GuestUid(0),
        gid: GuestGid(500),
    };
    const MAP: OwnerMap = OwnerMap::Map {
        host: HOST,
        guest: GUEST,
    };
    const SQUASH: OwnerMap = OwnerMap::Squash {
        host: HOST,
        guest: GUEST,
    };

    fn guest(uid: u32, gid: u32) -> GuestOwner {
        GuestOwner {
            uid: GuestUid(uid),
            gid: GuestGid(gid),
        }
    }

    #[test]
    fn owners_are_shown_as_the_table_says() {
        let half = HostOwner {
            uid: HostUid(1001),
            gid: HostGid(7),
        };
        for (map, owner, shown) in [
            (MAP, HOST, guest(0, 500)),
            (MAP, OTHER, guest(65534, 65534)),
            (MAP, half, guest(0, 65534)),
            (SQUASH, HOST, guest(0, 500)),
            (SQUASH, OTHER, guest(0, 500)),
            (OwnerMap::Pass, HOST, guest(1001, 1002)),
            (OwnerMap::Pass, OTHER, guest(0, 7)),
        ] {
            assert_eq!(map.shown(owner), shown, "{map:?} {owner:?}");
        }
    }

    #[test]
    fn wishes_reach_the_host_as_the_table_says() {
        let ask = |uid: u32, gid: u32| HostChange {
            uid: Some(HostUid(uid)),
            gid: Some(HostGid(gid)),
        };
        let nothing = HostChange::default();
        for (map, current, uid, gid, expected) in [
            (MAP, HOST, 0, 500, Ok(nothing)),
            (MAP, OTHER, 0, 500, Ok(ask(1001, 1002))),
            (MAP, OTHER, 65534, 65534, Ok(nothing)),
            (MAP, HOST, 65534, 500, Err(Errno::PERM)),
            (MAP, HOST, 0, 1, Err(Errno::PERM)),
            (SQUASH, OTHER, 0, 500, Ok(nothing)),
            (SQUASH, OTHER, 1, 500, Err(Errno::PERM)),
            (OwnerMap::Pass, HOST, 5, 6, Ok(ask(5, 6))),
        ] {
            let got = map.wanted(current, Some(GuestUid(uid)), Some(GuestGid(gid)));
            assert_eq!(got, expected, "{map:?} {current:?} {uid} {gid}");
        }
        assert_eq!(MAP.wanted(HOST, None, None), Ok(nothing));
    }
}
