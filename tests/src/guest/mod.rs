//! Throwaway Linux guests: Debian's kernel, a busybox initramfs of our own, QEMU.
//!
//! [`Machine`] describes a guest, [`Guest`] is one that runs. A guest boots in about five seconds
//! with QEMU's software emulation and obeys shell commands over its second serial port.

pub mod accel;
mod channel;
mod cpio;
pub mod disk;
mod initramfs;
mod kernel;
mod machine;
mod modules;

pub use channel::{Answer, Channel};
pub use machine::{Guest, Machine, Mount};

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::OnceLock;

use anyhow::{Context, Result};

use crate::{packages, place};

/// The files a guest boots from, readable by every user of this machine.
#[derive(Debug, Clone)]
pub struct Image {
    /// The kernel.
    pub kernel: PathBuf,
    /// The initramfs.
    pub initramfs: PathBuf,
}

/// Makes (once a process) the files that every guest boots from; installs QEMU when it is missing.
///
/// # Errors
/// When a package or the kernel cannot be had.
pub fn image() -> Result<Image> {
    static MADE: OnceLock<Image> = OnceLock::new();
    if let Some(image) = MADE.get() {
        return Ok(image.clone());
    }
    packages::ensure(packages::GUEST)?;
    let files = kernel::unpacked()?;
    let image = Image {
        kernel: place::staging()?.join("vmlinuz"),
        initramfs: place::staging()?.join("initramfs.cpio"),
    };
    place::copy(&files.kernel, &image.kernel)?;
    let archive = initramfs::build(&files.modules)?;
    std::fs::write(&image.initramfs, archive)
        .with_context(|| format!("write {}", image.initramfs.display()))?;
    Ok(MADE.get_or_init(|| image).clone())
}

/// A file with the script that busybox's DHCP client calls, for use in a network namespace too.
///
/// # Errors
/// When it cannot be written.
pub fn dhcp_script() -> Result<PathBuf> {
    let path = place::staging()?.join("udhcpc.sh");
    if !path.exists() {
        // Whole at once: another thread may be about to run it.
        let fresh = path.with_extension("new");
        std::fs::write(&fresh, initramfs::DHCP_SCRIPT)?;
        std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o755))?;
        std::fs::rename(&fresh, &path)?;
    }
    Ok(path)
}
