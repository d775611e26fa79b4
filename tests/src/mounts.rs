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
    for_everybody("/dev/fuse", FUSE)?;
    let options = Path::new("/etc/fuse.conf");
    if options.exists() {
        let empty = place::staging()?.join("fuse.conf");
        fs::write(&empty, "").with_context(|| format!("write {}", empty.display()))?;
        mount_bind(&empty, options).context("mount an empty /etc/fuse.conf")?;
    }
    let User { uid, gid, .. } = User::unprivileged();
    known(
        "passwd",
        &format!("sharectl-test:x:{uid}:{gid}::/:/bin/sh\n"),
    )?;
    known("group", &format!("sharectl-test:x:{gid}:\n"))
}

/// Puts a device of these numbers over that of this path, for every user to open.
///
/// # Errors
/// A [`Skip`] when this machine has no such device; else when the kernel refuses.
pub fn for_everybody(path: &str, (major, minor): (u32, u32)) -> Result<()> {
    if !Path::new(path).exists() {
        return Err(Skip::because(format!("there is no {path}")));
    }
    let device = place::staging()?.join(format!("device-{major}-{minor}"));
    if !device.exists() {
        let number = makedev(major, minor);
        let mode = Mode::from_raw_mode(0o666);
        rustix::fs::mknodat(CWD, &device, FileType::CharacterDevice, mode, number)
            .with_context(|| format!("make a {path}"))?;
        fs::set_permissions(&device, fs::Permissions::from_mode(0o666))?;
    }
    mount_bind(&device, path).with_context(|| format!("mount a {path} for all users"))
}

/// Puts a copy with one more line over a file of /etc.
fn known(file: &str, line: &str) -> Result<()> {
    let original = Path::new("/etc").join(file);
    let copy = place::staging()?.join(file);
    let text = fs::read_to_string(&original).with_context(|| format!("read /etc/{file}"))?;
    fs::write(&copy, text + line).with_context(|| format!("write {}", copy.display()))?;
    mount_bind(&copy, &original)
        .with_context(|| format!("mount an /etc/{file} with the tests' user"))
}

#[expect(
    deprecated,
    reason = "the other one is unsafe for FILES, and this is NEWNS alone"
)]
fn unshare() -> rustix::io::Result<()> {
    rustix::thread::unshare(UnshareFlags::NEWNS)
}
