//! mount(2) for root, fusermount3 for everybody else.
//!
//! fusermount3 is set-uid root: it opens /dev/fuse, mounts, and sends the descriptor over the socket that
//! _FUSE_COMMFD names. Always nosuid and nodev, and for shares `default_permissions`: the kernel asks the
//! permission bits before it asks us.

use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Stdio};

use control::config::MountUsers;
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::{Judge, MountAsk, Refusal, TYPE, receive};

const DEVICE: &str = "/dev/fuse";

/// Mounts at `path`; the descriptor is the connection's /dev/fuse.
pub(super) fn attach(wanted: &MountAsk, path: &Path) -> Result<OwnedFd, Refusal> {
    if !Path::new(DEVICE).exists() {
        return Err(Refusal::new(
            format!("there is no {DEVICE}"),
            "sudo modprobe fuse (in a container: start it with --device /dev/fuse)",
        ));
    }
    if rustix::process::geteuid().is_root() {
        by_the_kernel(wanted, path)
    } else {
        by_fusermount(wanted, path)
    }
}

fn by_the_kernel(wanted: &MountAsk, path: &Path) -> Result<OwnedFd, Refusal> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    let device = rustix::fs::openat(CWD, DEVICE, flags, Mode::empty())
        .map_err(|error| Refusal::new(format!("cannot open {DEVICE}: {error}"), RIGHTS))?;
    let options = format!(
        "fd={},rootmode=40000,user_id=0,group_id=0{}{}",
        std::os::fd::AsRawFd::as_raw_fd(&device),
        permissions(wanted),
        allow_other(wanted),
    );
    let options = CString::new(options).unwrap_or_default();
    let mut flags = MountFlags::NOSUID | MountFlags::NODEV;
    flags.set(MountFlags::RDONLY, wanted.read_only);
    rustix::mount::mount(
        wanted.source.as_str(),
        path,
        TYPE,
        flags,
        Some(options.as_c_str()),
    )
    .map_err(|error| {
        Refusal::new(
            format!("cannot mount at {}: {error}", path.display()),
            if error == Errno::PERM {
                RIGHTS
            } else {
                "see: dmesg | tail"
            },
        )
    })?;
    Ok(device)
}

/// For a root that is not allowed what root is.
const RIGHTS: &str = "mounting needs CAP_SYS_ADMIN and /dev/fuse (in a container: --cap-add SYS_ADMIN \
     --device /dev/fuse)";

fn permissions(wanted: &MountAsk) -> &'static str {
    match wanted.judge {
        Judge::Kernel => ",default_permissions",
        Judge::Server => "",
    }
}

fn allow_other(wanted: &MountAsk) -> &'static str {
    match wanted.users {
        MountUsers::Own => "",
        MountUsers::All => ",allow_other",
    }
}

fn by_fusermount(wanted: &MountAsk, path: &Path) -> Result<OwnedFd, Refusal> {
    let (ours, theirs) = rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )
    .map_err(|error| Refusal::new(format!("cannot make a socket: {error}"), "ulimit -n"))?;
    let options = format!(
        "fsname={},subtype=sharectl,nosuid,nodev{}{}{}",
        wanted.source,
        permissions(wanted),
        if wanted.read_only { ",ro" } else { "" },
        allow_other(wanted),
    );
    let mut line = Command::new("fusermount3");
    line.args(["-o", &options, "--"])
        .arg(path)
        // Standard input is as good a number as another, and needs no descriptor to be inherited.
        .env("_FUSE_COMMFD", "0")
        .stdin(Stdio::from(theirs));
    run(line, path)?;
    let sent = receive(&ours, super::PATIENCE);
    sent.ok()
        .flatten()
        .and_then(|(_, device)| device)
        .ok_or_else(|| {
            Refusal::new(
                "fusermount3 mounted, but sent no descriptor".to_owned(),
                line_to_unmount(path),
            )
        })
}

/// Unmounts, at once or, where programs use it, as soon as they let go; what they wrote to mapped memory
/// goes to the file first.
pub(super) fn detach(path: &Path) -> Result<(), Refusal> {
    if rustix::process::geteuid().is_root() {
        let busy = match rustix::mount::unmount(path, UnmountFlags::NOFOLLOW) {
            Err(Errno::BUSY) => true,
            answer => return answer.map_err(|error| cannot_unmount(path, &error)),
        };
        debug_assert!(busy);
        write_back(path);
        let flags = UnmountFlags::DETACH | UnmountFlags::NOFOLLOW;
        return rustix::mount::unmount(path, flags).map_err(|error| cannot_unmount(path, &error));
    }
    let unmount = |options: &[&str]| {
        let mut line = Command::new("fusermount3");
        line.args(options).arg("--").arg(path).stdin(Stdio::null());
        run(line, path)
    };
    unmount(&["-u"]).or_else(|_| {
        write_back(path);
        unmount(&["-u", "-z"])
    })
}

/// syncfs(2). A mount that is dead has nothing to write, and no mount must keep us from unmounting it.
fn write_back(path: &Path) {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let synced = rustix::fs::openat(CWD, path, flags, Mode::empty()).and_then(rustix::fs::syncfs);
    if let Err(error) = synced {
        tracing::debug!(path = %path.display(), %error, "not written back");
    }
}

fn cannot_unmount(path: &Path, error: &Errno) -> Refusal {
    Refusal::new(
        format!("cannot unmount {}: {error}", path.display()),
        line_to_unmount(path),
    )
}

/// For whoever has to do it by hand.
pub(super) fn line_to_unmount(path: &Path) -> String {
    format!("sudo umount -l {}", path.display())
}

/// Runs fusermount3 to its end.
fn run(mut line: Command, path: &Path) -> Result<(), Refusal> {
    let output = line.stdout(Stdio::null()).stderr(Stdio::piped()).output();
    let output = output.map_err(|error| {
        if error.kind() == std::io::ErrorKind::NotFound {
            return Refusal::new(
                "an ordinary user mounts by fusermount3, which is not there",
                "sudo apt-get install fuse3",
            );
        }
        Refusal::new(format!("cannot start fusermount3: {error}"), "ulimit -u")
    })?;
    if output.status.success() {
        return Ok(());
    }
    Err(judge(&String::from_utf8_lossy(&output.stderr), path))
}

/// fusermount3's words, and what to do about those that are known.
fn judge(said: &str, path: &Path) -> Refusal {
    let said = said.trim().trim_start_matches("fusermount3: ");
    let shown = path.display();
    let hint = if said.contains("user_allow_other") {
        "echo user_allow_other | sudo tee -a /etc/fuse.conf, or mount-users = \"own\"".to_owned()
    } else if said.contains("Operation not permitted") || said.contains("must be set-uid") {
        "fusermount3 has no rights: it must be set-uid root, and sharefs must not run with \
         NoNewPrivileges"
            .to_owned()
    } else if said.contains("could not determine username") {
        "fusermount3 wants a line in /etc/passwd for the user that sharefs runs as".to_owned()
    } else if said.contains("/dev/fuse") {
        "sudo chmod 666 /dev/fuse, which is how distributions have it".to_owned()
    } else if said.contains("user has no write access") || said.contains("not owned by user") {
        let user = rustix::process::geteuid().as_raw();
        format!("sudo chown {user} {shown}")
    } else {
        "fusermount3(1) has more".to_owned()
    };
    Refusal::new(format!("fusermount3 at {shown}: {said}"), hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fusermount3_says_comes_with_a_command() {
        let path = Path::new("/mnt/d");
        for (said, hint) in [
            (
                "fusermount3: option allow_other only allowed if 'user_allow_other' is set in /etc/fuse.conf\n",
                "echo user_allow_other",
            ),
            (
                "fusermount3: mount failed: Operation not permitted\n",
                "set-uid",
            ),
            (
                "fusermount3: failed to open /dev/fuse: Permission denied\n",
                "sudo chmod 666 /dev/fuse",
            ),
            (
                "fusermount3: user has no write access to mountpoint /mnt/d\n",
                "sudo chown",
            ),
            ("fusermount3: something new", "fusermount3(1)"),
        ] {
            let refusal = judge(said, path);
            assert!(refusal.hint.contains(hint), "{refusal}");
            assert!(
                refusal.message.starts_with("fusermount3 at /mnt/d: "),
                "{refusal}"
            );
            assert!(!refusal.message.contains('\n'));
        }
    }

    #[test]
    fn a_machine_without_fusermount3_is_told_the_package() {
        let mut line = Command::new("fusermount3");
        line.env("PATH", "/nowhere");
        let refusal = run(line, Path::new("/mnt/d")).unwrap_err();
        assert!(refusal.message.contains("which is not there"), "{refusal}");
        assert_eq!(refusal.hint, "sudo apt-get install fuse3");
    }
}
