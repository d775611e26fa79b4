//! Who runs what: the daemons and QEMU as an ordinary user, even when the test itself is root.
//!
//! As root the user is a fixed number that owns nothing on this machine; else it is ourselves.
//! Either way nothing below can gain privileges again, unless a test asks for it, and dies with the thread
//! that started it.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

/// The user and group that root becomes; in the range Debian leaves to nobody.
const NOBODY_IN_PARTICULAR: u32 = 64123;

/// The user that daemons and guests run as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Whether we are root and become this user.
    become_user: bool,
    /// Set-uid programs give it the rights that they are for.
    set_uid: bool,
}

/// Whether this process is root.
#[must_use]
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

impl User {
    /// The user for daemons and guests.
    #[must_use]
    pub fn unprivileged() -> Self {
        if is_root() {
            Self {
                uid: NOBODY_IN_PARTICULAR,
                gid: NOBODY_IN_PARTICULAR,
                become_user: true,
                set_uid: false,
            }
        } else {
            Self::ourselves()
        }
    }

    /// The person who called `sudo`, when that is how we became root; else [`Self::unprivileged`].
    #[must_use]
    pub fn invoking() -> Self {
        let number = |name| std::env::var(name).ok()?.parse::<u32>().ok();
        match (number("SUDO_UID"), number("SUDO_GID")) {
            (Some(uid), Some(gid)) if is_root() && uid != 0 => Self {
                uid,
                gid,
                become_user: true,
                set_uid: false,
            },
            _ => Self::unprivileged(),
        }
    }

    /// Whoever runs this process.
    #[must_use]
    pub fn ourselves() -> Self {
        Self {
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            become_user: false,
            set_uid: false,
        }
    }

    /// The same user, for whom set-uid programs (fusermount3) do what they are for.
    #[must_use]
    pub fn with_set_uid(self) -> Self {
        Self {
            set_uid: true,
            ..self
        }
    }

    /// A command line that runs `program` as this user. The process keeps its id: setpriv(1) execs.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("setpriv");
        if self.become_user {
            command
                .arg(format!("--reuid={}", self.uid))
                .arg(format!("--regid={}", self.gid));
            match kvm_group() {
                Some(group) => command.arg(format!("--groups={group}")),
                None => command.arg("--clear-groups"),
            };
        }
        if !self.set_uid {
            command.arg("--no-new-privs");
        }
        command.args(["--pdeathsig=KILL", "--"]).arg(program);
        command
    }

    /// Gives a file or folder to this user.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn own(&self, path: &Path) -> Result<()> {
        if self.become_user {
            chown(path, Some(self.uid), Some(self.gid))
                .with_context(|| format!("chown {} to {}", path.display(), self.uid))?;
        }
        Ok(())
    }
}

/// The group that may use /dev/kvm, when there is one besides root.
fn kvm_group() -> Option<u32> {
    let group = fs::metadata("/dev/kvm").ok()?.gid();
    (group != 0).then_some(group)
}
