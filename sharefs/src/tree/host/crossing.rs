//! A step that leads onto another file system, and the one kind that is never taken: onto a mount of
//! our own.
//!
//! A thread that serves such a mount would ask the mount, and wait for a thread like itself. So no node
//! of any tree lies there, however the mount came to be below a shared folder (bind mounts, mounts that
//! were moved). It is told from the device number alone, which the kernel knows without asking us:
//! statx(2), AT_STATX_DONT_SYNC.

use std::ffi::CStr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{PoisonError, RwLock};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, StatxFlags};
use rustix::io::Errno;

use crate::tree::Result;

/// Device numbers of the mounts that this process serves. A fact of the process and not of one tree:
/// no tree may step there.
static OWN: RwLock<Vec<u64>> = RwLock::new(Vec::new());
/// How many there are, so that a process without mounts asks nothing.
static COUNT: AtomicUsize = AtomicUsize::new(0);

/// A mount of ours is there, until this is dropped.
#[derive(Debug)]
pub(crate) struct OwnMount(u64);

impl OwnMount {
    pub(crate) fn new(device: u64) -> Self {
        let mut own = OWN.write().unwrap_or_else(PoisonError::into_inner);
        own.push(device);
        COUNT.store(own.len(), Ordering::Release);
        Self(device)
    }
}

impl Drop for OwnMount {
    fn drop(&mut self) {
        let mut own = OWN.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(index) = own.iter().position(|device| *device == self.0) {
            own.swap_remove(index);
        }
        COUNT.store(own.len(), Ordering::Release);
    }
}

/// Whether this process serves a mount, so that each step has to be looked at.
pub(super) fn serves_mounts() -> bool {
    COUNT.load(Ordering::Acquire) > 0
}

/// One component below a folder, pinned. ELOOP where a mount of ours is.
pub(super) fn step(folder: &impl AsFd, name: &CStr) -> Result<OwnedFd> {
    const PINNED: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
    let plain = || rustix::fs::openat(folder, name, PINNED, Mode::empty());
    if !serves_mounts() {
        return plain();
    }
    let here = rustix::fs::openat2(folder, name, PINNED, Mode::empty(), ResolveFlags::NO_XDEV);
    match here {
        // The kernel's own word for "that is another mount"; ENOSYS before Linux 5.6.
        Err(Errno::XDEV | Errno::NOSYS) => {
            let place = plain()?;
            if is_own(&place)? {
                return Err(Errno::LOOP);
            }
            Ok(place)
        }
        answer => answer,
    }
}

/// The folder at `path`, reached from `outer` without leaving that: EXDEV where a link leads out of it, ELOOP where
/// `outer` itself has become a link since it was accepted.
pub(super) fn open_within(outer: &Path, path: &Path) -> Result<OwnedFd> {
    let below = path.strip_prefix(outer).map_err(|_| Errno::XDEV)?;
    let below = if below.as_os_str().is_empty() {
        Path::new(".")
    } else {
        below
    };
    let no_links = ResolveFlags::NO_SYMLINKS;
    let outer = rustix::fs::openat2(CWD, outer, super::FOLDER, Mode::empty(), no_links)?;
    let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    rustix::fs::openat2(&outer, below, super::FOLDER, Mode::empty(), beneath)
}

/// Whether a place lies on a mount of ours. Asks no file system.
pub(super) fn is_own(place: &impl AsFd) -> Result<bool> {
    if !serves_mounts() {
        return Ok(false);
    }
    let flags = AtFlags::EMPTY_PATH | AtFlags::NO_AUTOMOUNT | AtFlags::STATX_DONT_SYNC;
    let status = rustix::fs::statx(place, c"", flags, StatxFlags::empty())?;
    let device = rustix::fs::makedev(status.stx_dev_major, status.stx_dev_minor);
    let own = OWN.read().unwrap_or_else(PoisonError::into_inner);
    Ok(own.contains(&device))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_not_reached_through_a_link_that_leads_out() {
        use std::os::unix::fs::symlink;
        let scene = tempfile::tempdir().unwrap();
        let project = scene.path().canonicalize().unwrap().join("project");
        std::fs::create_dir_all(project.join("data")).unwrap();
        std::fs::create_dir(project.with_file_name("secret")).unwrap();
        symlink("../secret", project.join("out")).unwrap();
        symlink("/etc", project.join("far")).unwrap();
        symlink("data", project.join("in")).unwrap();
        symlink(&project, project.with_file_name("moved")).unwrap();
        let open = |outer: &Path, name: &str| open_within(outer, &outer.join(name)).map(drop);
        for inner in ["", "data", "in"] {
            assert_eq!(open(&project, inner), Ok(()), "{inner}");
        }
        for outer in ["out", "far"] {
            assert_eq!(open(&project, outer), Err(Errno::XDEV), "{outer}");
        }
        assert_eq!(open(&project.with_file_name("moved"), ""), Err(Errno::LOOP));
        assert_eq!(
            open_within(&project, Path::new("/etc")).map(drop),
            Err(Errno::XDEV)
        );
    }

    #[test]
    fn a_step_onto_a_mount_of_ours_is_not_taken_and_others_are() {
        let root = std::fs::File::open("/").unwrap();
        let sys = std::fs::metadata("/sys").unwrap();
        assert!(step(&root, c"sys").is_ok());
        let own = OwnMount::new(std::os::unix::fs::MetadataExt::dev(&sys));
        assert_eq!(step(&root, c"sys").unwrap_err(), Errno::LOOP);
        assert!(step(&root, c"usr").is_ok());
        assert!(step(&root, c"proc").is_ok(), "another mount");
        drop(own);
        assert!(step(&root, c"sys").is_ok());
    }
}
