//! With whose rights something new is made on the host.
//!
//! A daemon of an ordinary user makes everything as that user. Only one that runs as root has a
//! choice, and then the effective user of the one thread that works is changed for the one call, so
//! that owner, group and quota are right from the start. Read first: credentials(7), setresuid(2).
//!
//! Everything else (chmod, chown, unlink, open) is done with the daemon's own rights: the guest's kernel
//! has asked the permission bits before (virtiofs mounts with `default_permissions`).

use std::sync::LazyLock;

use rustix::process::{Gid, Uid};
use rustix::thread::{set_thread_res_gid, set_thread_res_uid};

use crate::tree::owner::{HostGid, HostOwner, HostUid, OwnerMap};
use crate::tree::{Caller, Result};

/// Whose rights a share's new files are made with.
#[derive(Clone, Copy, Debug)]
pub(super) enum Rights {
    /// The daemon's own; it has no others.
    Own,
    /// The host owner's; the daemon is root.
    Owner(HostOwner),
    /// Those of the user in the guest; the daemon is root and owners pass as they are.
    Caller,
}

/// Whether the process's own group is root's, too. Asked before any thread acts as somebody else.
static GROUP_IS_ROOT: LazyLock<bool> = LazyLock::new(|| rustix::process::getegid().is_root());

impl Rights {
    pub(super) fn of(owners: &OwnerMap, daemon_is_root: bool) -> Self {
        LazyLock::force(&GROUP_IS_ROOT);
        match (daemon_is_root, *owners) {
            (false, _) => Self::Own,
            (true, OwnerMap::Map { host, .. } | OwnerMap::Squash { host, .. }) => Self::Owner(host),
            (true, OwnerMap::Pass) => Self::Caller,
        }
    }

    /// Whether the kernel leaves set-id bits alone when we write, as it does for root.
    pub(super) fn keeps_set_id_bits(self) -> bool {
        !matches!(self, Self::Own)
    }

    /// Whether all of a file's extended attributes are the guest's to set. For a root daemon that maps
    /// owners they are not: `security.capability` on a file would hand the host's owner root.
    pub(super) fn may_set_all_extended(self) -> bool {
        !matches!(self, Self::Owner(_))
    }

    /// Does `work` with these rights.
    pub(super) fn with<R>(self, caller: Caller, work: impl FnOnce() -> Result<R>) -> Result<R> {
        let owner = match self {
            Self::Own => return work(),
            Self::Owner(owner) => owner,
            Self::Caller => HostOwner {
                uid: HostUid(caller.uid.0),
                gid: HostGid(caller.gid.0),
            },
        };
        if (owner.uid.0, owner.gid.0) == (0, 0) && *GROUP_IS_ROOT {
            // Who has a choice is root, and acts as that already: four calls less for each new file.
            return work();
        }
        let _borrowed = Borrowed::take(owner)?;
        work()
    }
}

/// The thread acts as somebody else until this is dropped.
struct Borrowed;

impl Borrowed {
    fn take(owner: HostOwner) -> Result<Self> {
        let guard = Self;
        set_thread_res_gid(None, Gid::from_raw(owner.gid.0), None)?;
        set_thread_res_uid(None, Uid::from_raw(owner.uid.0), None)?;
        Ok(guard)
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        // Root is still the real and saved user, so neither can be refused; if it were, the thread
        // would go on with fewer rights, never with more.
        let user = set_thread_res_uid(None, Uid::ROOT, None);
        let group = set_thread_res_gid(None, Gid::ROOT, None);
        debug_assert!(user.is_ok() && group.is_ok());
    }
}
