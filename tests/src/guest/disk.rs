//! A disk with a Debian of its own for guests: systemd, and Docker's engine from the distribution's package.
//!
//! The initramfs loads the modules and hands over to it (`sharectl.root` in init.sh). The package is unpacked into
//! the image and never on the host, whose systemd, engine and firewall it does not touch. What a guest writes
//! to its copy lasts for the guest's reboots.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use super::initramfs::{CHANNEL, DHCP_SCRIPT};
use crate::packages::{self, Need};
use crate::{command, debian, place};

/// What makes the image.
pub const NEEDS: &[Need] = &[Need {
    program: "mke2fs",
    package: "e2fsprogs",
}];

/// Modules for the disk itself and for the engine, which in a guest cannot be asked for later.
pub const MODULES: &[&str] = &[
    "virtio_blk",
    // The kernel would call modprobe for it.
    "crc32c_generic",
    "ext4",
    // systemd's.
    "autofs4",
    "overlay",
    "veth",
    "bridge",
    "br_netfilter",
    "nft_compat",
    "nft_chain_nat",
    "nf_conntrack_netlink",
    "xt_addrtype",
    "xt_conntrack",
    "xt_MASQUERADE",
    "xt_nat",
    "xt_tcpudp",
];

const PACKAGES: &str = "systemd,systemd-sysv,dbus,iproute2,busybox-static,apparmor,docker.io";

/// Room for images and layers, beside what is there.
const SIZE: &str = "1G";
const UNPACK_LIMIT: Duration = Duration::from_secs(180);

/// A copy of the disk at `to`, for one guest.
///
/// # Errors
/// When the image cannot be made, or there is no room for a copy.
pub fn copy(to: &Path) -> Result<()> {
    let mut line = Command::new("cp");
    line.args(["--sparse=always", "--reflink=auto"]);
    command::run(line.arg(image()?).arg(to), UNPACK_LIMIT)
        .with_context(|| format!("copy the disk to {}", to.display()))
        .map(drop)
}

/// The package's own client, for the host: it is a program that starts nothing.
///
/// # Errors
/// As [`copy`].
pub fn client() -> Result<PathBuf> {
    image()?;
    Ok(place::cache()?.join("docker"))
}

/// The image in the cache, made when it is not there or not by this very source. Root only: files have owners.
///
/// # Errors
/// When a package cannot be had.
pub fn image() -> Result<PathBuf> {
    let image = place::cache()?.join("docker.img");
    let made_of = place::cache()?.join("docker.made-of");
    let base = debian::Recipe::new(PACKAGES, debian::NO_MANUALS)?;
    let recipe = recipe(&base);
    if image.is_file() && fs::read_to_string(&made_of).is_ok_and(|text| text == recipe) {
        return Ok(image);
    }
    packages::ensure(NEEDS)?;
    let work = tempfile::Builder::new()
        .prefix("disk-")
        .tempdir_in(place::cache()?)?;
    let (root, archive) = (work.path().join("root"), work.path().join("root.tar"));
    base.make(&archive)?;
    fs::create_dir(&root)?;
    let mut unpack = Command::new("tar");
    unpack.arg("-xf").arg(&archive).arg("-C").arg(&root);
    command::run(&mut unpack, UNPACK_LIMIT).context("unpack the root")?;
    furnish(&root).context("furnish the root")?;
    let fresh = work.path().join("image");
    let mut make = Command::new("mke2fs");
    make.args(["-q", "-t", "ext4", "-d"]).arg(&root);
    command::run(make.arg(&fresh).arg(SIZE), UNPACK_LIMIT).context("make the disk")?;
    fs::copy(root.join("usr/bin/docker"), place::cache()?.join("docker"))?;
    fs::rename(&fresh, &image).context("keep the disk")?;
    fs::write(&made_of, recipe)?;
    Ok(image)
}

/// All that the image is made of but for the packages' versions.
fn recipe(base: &debian::Recipe) -> String {
    let units: String = UNITS.iter().map(|(_, text)| *text).collect();
    [&base.text(), SIZE, CHANNEL, DHCP_SCRIPT, &units].join("\n")
}

/// What makes it a machine of its own: an address, the channel, a mark at which the engine is not yet started.
fn furnish(root: &Path) -> Result<()> {
    for (path, script) in [("channel", CHANNEL), ("udhcpc", DHCP_SCRIPT)] {
        let path = root.join("etc").join(path).with_extension("sh");
        fs::write(&path, script)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    }
    let units = root.join("etc/systemd/system");
    for (name, text) in UNITS {
        fs::write(units.join(name), text)?;
        symlink(
            format!("/etc/systemd/system/{name}"),
            units.join("multi-user.target.wants").join(name),
        )?;
    }
    // There is no udev, so no device is ever announced that these would wait for; and nobody waits for timers.
    for name in MASKED {
        let unit = units.join(name);
        drop(fs::remove_file(&unit));
        symlink("/dev/null", unit)?;
    }
    for started in [
        "multi-user.target.wants/docker.service",
        "multi-user.target.wants/containerd.service",
        "sockets.target.wants/docker.socket",
    ] {
        drop(fs::remove_file(units.join(started)));
    }
    // systemd gives it an identity; its name is the one that the kernel was given.
    fs::write(root.join("etc/machine-id"), "")?;
    drop(fs::remove_file(root.join("etc/hostname")));
    drop(fs::remove_file(root.join("etc/resolv.conf")));
    Ok(())
}

const MASKED: [&str; 6] = [
    "serial-getty@ttyS0.service",
    "getty@tty1.service",
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "systemd-firstboot.service",
    "e2scrub_reap.service",
];

const UNITS: [(&str, &str); 2] = [
    (
        "channel.service",
        "[Unit]\nAfter=network.service\n[Service]\nExecStart=/etc/channel.sh\n",
    ),
    (
        "network.service",
        "[Unit]\nConditionPathExists=/sys/class/net/eth0\nBefore=network-online.target network.target\n\
         [Service]\nType=forking\nPIDFile=/run/udhcpc.pid\n\
         ExecStartPre=/bin/ip link set eth0 up\n\
         ExecStart=/bin/busybox udhcpc -i eth0 -b -S -t 30 -T 1 -A 1 -p /run/udhcpc.pid -O mtu -O search -s /etc/udhcpc.sh\n",
    ),
];
