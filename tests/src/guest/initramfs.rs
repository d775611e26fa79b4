//! The guest's whole user space: busybox, the modules of use, `init` and the DHCP client's script.

use std::fs;

use anyhow::{Context, Result};

use super::cpio::Archive;
use super::modules::Module;
use crate::packages;

const INIT: &str = include_str!("init.sh");
pub(super) const CHANNEL: &str = include_str!("channel.sh");
pub(super) const DHCP_SCRIPT: &str = include_str!("udhcpc.sh");

/// Makes the archive.
pub(super) fn build(modules: &[Module]) -> Result<Vec<u8>> {
    let busybox = packages::find("busybox").context("busybox is not installed")?;
    let busybox = fs::read(&busybox).with_context(|| format!("read {}", busybox.display()))?;
    let mut archive = Archive::default();
    for folder in [
        "bin", "dev", "etc", "modules", "mnt", "proc", "root", "run", "sys", "tmp", "www",
    ] {
        archive.folder(folder);
    }
    // The kernel opens /dev/console before init can mount anything.
    archive.device("dev/console", 5, 1);
    archive.file("bin/busybox", 0o755, &busybox);
    archive.link("bin/sh", "busybox");
    archive.link("sbin", "bin");
    archive.file("init", 0o755, INIT.as_bytes());
    archive.file("etc/channel.sh", 0o755, CHANNEL.as_bytes());
    archive.file("etc/udhcpc.sh", 0o755, DHCP_SCRIPT.as_bytes());
    archive.file(
        "etc/passwd",
        0o644,
        b"root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/tmp:/bin/sh\n",
    );
    archive.file("etc/group", 0o644, b"root:x:0:\nuser:x:1000:\n");
    for module in modules {
        let path = format!("modules/{}", module.name);
        archive.file(&format!("{path}.ko"), 0o644, &module.content);
        let order = module.order.join("\n") + "\n";
        archive.file(&format!("{path}.order"), 0o644, order.as_bytes());
    }
    Ok(archive.finish())
}
