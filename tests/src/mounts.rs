//! A mount namespace for one test: what is mounted in it is nobody else's, and gone when its processes are.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result};
use rustix::fs::{CWD, FileType, Mode, makedev};
use rustix::mount::{MountPropagationFlags, mount_bind, mount_change};
use rustix::thread::UnshareFlags;

use crate::place;
use crate::skip::Skip;
use crate::user::{self, User};

/// Major and minor number of /dev/fuse, in the kernel's Documentation/admin-guide/devices.txt.
const FUSE: (u32, u32) = (10, 229);

/// Moves this thread, and what it starts from now on, into a mount namespace of its own. In it every user
/// may open /dev/fuse, as on most machines, and the user of the tests has the name that fusermount3 wants.
///
/// # Errors
/// A [`Skip`] when this user may not.
pub fn private() -> Result<()> {
    if !user::is_root() {
        return Err(Skip::because("mount namespaces need root"));
    }
    unshare().context("unshare the mount namespace")?;
    let flags = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", flags).context("make all mounts private")?;
    let device = place::staging()?.join("fuse");
    if !device.exists() {
        let number = makedev(FUSE.0, FUSE.1);
        let mode = Mode::from_raw_mode(0o666);
        rustix::fs::mknodat(CWD, &device, FileType::CharacterDevice, mode, number)
            .context("make a /dev/fuse")?;
        fs::set_permissions(&device, fs::Permissions::from_mode(0o666))?;
    }
    if !Path::new("/dev/fuse").exists() {
        return Err(Skip::because("this kernel has no /dev/fuse"));
    }
    mount_bind(&device, "/dev/fuse").context("mount a /dev/fuse for all users")?;
    let options = Path::new("/etc/fuse.conf");
    if options.exists() {
        let empty = place::staging()?.join("fuse.conf");
        fs::write(&empty, "").with_context(|| format!("write {}", empty.display()))?;
        mount_bind(&empty, options).context("mount an empty /etc/fuse.conf")?;
    }
    let users = place::staging()?.join("passwd");
    let User { uid, gid, .. } = User::unprivileged();
    let mut text = fs::read_to_string("/etc/passwd").context("read /etc/passwd")?;
    text.push_str(&format!("sharectl-test:x:{uid}:{gid}::/:/bin/sh\n"));
    fs::write(&users, text).with_context(|| format!("write {}", users.display()))?;
    mount_bind(&users, "/etc/passwd").context("mount an /etc/passwd with the tests' user")
}

#[expect(
    deprecated,
    reason = "the other one is unsafe for FILES, and this is NEWNS alone"
)]
fn unshare() -> rustix::io::Result<()> {
    rustix::thread::unshare(UnshareFlags::NEWNS)
}
