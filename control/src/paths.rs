//! Where the configuration, sockets, locks, logs and leases live.
//!
//! XDG Base Directory Specification 0.8; for root the system's own places.

use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::names::{GuestName, NetworkName, ShareName};

/// A daemon of this project.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Daemon {
    /// Networks.
    Netd,
    /// Shares.
    Sharefs,
    /// Hosts files.
    Hostsync,
}

impl Daemon {
    /// Every daemon, in the order in which they are started.
    pub const ALL: [Self; 3] = [Self::Netd, Self::Sharefs, Self::Hostsync];

    /// The short name, used in file names.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Netd => "netd",
            Self::Sharefs => "sharefs",
            Self::Hostsync => "hostsync",
        }
    }

    /// The program's name.
    #[must_use]
    pub fn program(self) -> &'static str {
        match self {
            Self::Netd => "sharectl-netd",
            Self::Sharefs => "sharectl-sharefs",
            Self::Hostsync => "sharectl-hostsync",
        }
    }
}

impl std::fmt::Display for Daemon {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

/// The three roots; all other places follow from them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    /// The configuration file.
    pub config: PathBuf,
    /// Sockets and locks; gone after a reboot.
    pub runtime: PathBuf,
    /// Leases, logs, backups; kept.
    pub state: PathBuf,
}

impl Paths {
    /// Flag, then environment, then the defaults of the user.
    #[must_use]
    pub fn from_env(config_flag: Option<PathBuf>) -> Self {
        Self::resolve(config_flag, rustix::process::getuid().as_raw(), |name| {
            std::env::var_os(name)
                .filter(|v| !v.is_empty())
                .map(PathBuf::from)
        })
    }

    /// The places that a program finds whose environment says nothing of them: what a service manager
    /// starts.
    #[must_use]
    pub fn at_login() -> Self {
        let uid = rustix::process::getuid().as_raw();
        Self::resolve(None, uid, |name| match name {
            "HOME" => std::env::var_os(name).map(PathBuf::from),
            "XDG_RUNTIME_DIR" => Some(format!("/run/user/{uid}").into()),
            _ => None,
        })
    }

    fn resolve(
        config_flag: Option<PathBuf>,
        uid: u32,
        variable: impl Fn(&str) -> Option<PathBuf>,
    ) -> Self {
        let root = uid == 0;
        let home = || variable("HOME").unwrap_or_else(|| PathBuf::from("/"));
        let config = config_flag
            .or_else(|| variable("SHARECTL_CONFIG"))
            .unwrap_or_else(|| {
                if root {
                    return PathBuf::from("/etc/sharectl/config.toml");
                }
                let base = variable("XDG_CONFIG_HOME").unwrap_or_else(|| home().join(".config"));
                base.join("sharectl/config.toml")
            });
        let runtime =
            variable("SHARECTL_RUNTIME_DIR").unwrap_or_else(|| match variable("XDG_RUNTIME_DIR") {
                Some(base) if !root => base.join("sharectl"),
                None if !root => PathBuf::from(format!("/tmp/sharectl-{uid}")),
                _ => PathBuf::from("/run/sharectl"),
            });
        let state = variable("SHARECTL_STATE_DIR").unwrap_or_else(|| {
            if root {
                return PathBuf::from("/var/lib/sharectl");
            }
            let base = variable("XDG_STATE_HOME").unwrap_or_else(|| home().join(".local/state"));
            base.join("sharectl")
        });
        Self {
            config,
            runtime,
            state,
        }
    }

    /// A daemon's control socket.
    #[must_use]
    pub fn control_socket(&self, daemon: Daemon) -> PathBuf {
        self.runtime.join(format!("{daemon}.sock"))
    }

    /// A daemon's lock file, which holds its pid.
    #[must_use]
    pub fn lock(&self, daemon: Daemon) -> PathBuf {
        self.runtime.join(format!("{daemon}.pid"))
    }

    /// Where `sharectl up` sends a daemon's log.
    #[must_use]
    pub fn log(&self, daemon: Daemon) -> PathBuf {
        self.state.join("logs").join(format!("{daemon}.log"))
    }

    /// The folder of a guest's sockets.
    #[must_use]
    pub fn guest(&self, guest: &GuestName) -> PathBuf {
        self.runtime.join("guest").join(guest.as_str())
    }

    /// Where the VMM listens for netd (`-netdev stream,server=on`).
    #[must_use]
    pub fn guest_net_socket(&self, guest: &GuestName) -> PathBuf {
        self.guest(guest).join("net.sock")
    }

    /// Where netd listens for the guest's VMM (`server=off`, passt's way).
    #[must_use]
    pub fn guest_link_socket(&self, guest: &GuestName) -> PathBuf {
        self.guest(guest).join("link.sock")
    }

    /// Where netd listens as the guest's network card (vhost-user).
    #[must_use]
    pub fn guest_vhost_socket(&self, guest: &GuestName) -> PathBuf {
        self.guest(guest).join("vhost.sock")
    }

    /// Where netd takes a frame a datagram (QEMU's `-netdev dgram`, vfkit, krunkit).
    #[must_use]
    pub fn guest_dgram_socket(&self, guest: &GuestName) -> PathBuf {
        self.guest(guest).join("dgram.sock")
    }

    /// Where QEMU takes netd's datagrams.
    #[must_use]
    pub fn guest_dgram_peer(&self, guest: &GuestName) -> PathBuf {
        self.guest(guest).join("dgram-vm.sock")
    }

    /// Where sharefs listens for the guest's virtiofs device of a share.
    #[must_use]
    pub fn guest_share_socket(&self, guest: &GuestName, share: &ShareName) -> PathBuf {
        self.guest(guest).join(format!("fs-{share}.sock"))
    }

    /// Where sharefs listens for the guest's virtiofs device of all its shares.
    #[must_use]
    pub fn guest_shares_socket(&self, guest: &GuestName) -> PathBuf {
        self.guest(guest).join("fs.sock")
    }

    /// Where sharefs listens for 9P clients of the guest; netd leads the guest's own there.
    #[must_use]
    pub fn guest_ninep_socket(&self, guest: &GuestName) -> PathBuf {
        self.guest(guest).join("9p.sock")
    }

    /// Where netd leads to a TCP port of the guest, for a mount of the guest's folder on the host.
    #[must_use]
    pub fn guest_port_socket(&self, guest: &GuestName, port: u16) -> PathBuf {
        self.guest(guest).join(format!("port-{port}.sock"))
    }

    /// Where netd listens for guests that the configuration does not name.
    #[must_use]
    pub fn network_socket(&self, network: &NetworkName) -> PathBuf {
        self.runtime.join("network").join(format!("{network}.sock"))
    }

    /// Where netd takes links that somebody else opened.
    #[must_use]
    pub fn link_socket(&self) -> PathBuf {
        self.runtime.join("link.sock")
    }

    /// A network's lease journal.
    #[must_use]
    pub fn leases(&self, network: &NetworkName) -> PathBuf {
        self.state.join("leases").join(format!("{network}.jsonl"))
    }
}

/// Makes a folder for this user alone (0700), with its parents, or checks that
/// it is one: a runtime folder in /tmp must not be somebody else's trap.
///
/// # Errors
/// When it cannot be made, is no folder, or belongs to another user.
pub fn make_private_folder(path: &Path) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    match std::fs::DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
    }
    let found = std::fs::symlink_metadata(path)?;
    if !found.is_dir() {
        return Err(io::Error::new(
            io::ErrorKind::NotADirectory,
            format!("{} is there and is no folder", path.display()),
        ));
    }
    let ours = rustix::process::geteuid().as_raw();
    if found.uid() != ours {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!(
                "{} belongs to user {}, not to {ours}",
                path.display(),
                found.uid()
            ),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(uid: u32, variables: &[(&str, &str)]) -> Paths {
        Paths::resolve(None, uid, |name| {
            variables
                .iter()
                .find(|(n, _)| *n == name)
                .map(|(_, v)| PathBuf::from(v))
        })
    }

    #[test]
    fn user_has_xdg_places() {
        let paths = resolve(
            1000,
            &[("HOME", "/home/ann"), ("XDG_RUNTIME_DIR", "/run/user/1000")],
        );
        assert_eq!(
            paths.config,
            Path::new("/home/ann/.config/sharectl/config.toml")
        );
        assert_eq!(paths.runtime, Path::new("/run/user/1000/sharectl"));
        assert_eq!(paths.state, Path::new("/home/ann/.local/state/sharectl"));
    }

    #[test]
    fn root_has_system_places_whatever_sudo_left_behind() {
        let paths = resolve(
            0,
            &[("HOME", "/root"), ("XDG_RUNTIME_DIR", "/run/user/1000")],
        );
        assert_eq!(paths.config, Path::new("/etc/sharectl/config.toml"));
        assert_eq!(paths.runtime, Path::new("/run/sharectl"));
        assert_eq!(paths.state, Path::new("/var/lib/sharectl"));
    }

    #[test]
    fn own_variables_win() {
        let paths = resolve(
            1000,
            &[
                ("SHARECTL_CONFIG", "/c"),
                ("SHARECTL_RUNTIME_DIR", "/r"),
                ("SHARECTL_STATE_DIR", "/s"),
            ],
        );
        assert_eq!(
            (paths.config, paths.runtime, paths.state),
            ("/c".into(), "/r".into(), "/s".into())
        );
    }

    #[test]
    fn longest_names_fit_a_socket_address() {
        const SUN_PATH: usize = 108;
        let paths = resolve(1000, &[("XDG_RUNTIME_DIR", "/run/user/4294967295")]);
        let guest = GuestName::parse(&"g".repeat(GuestName::LIMIT)).unwrap();
        let share = ShareName::parse(&"s".repeat(ShareName::LIMIT)).unwrap();
        let longest = paths.guest_share_socket(&guest, &share);
        assert!(
            longest.as_os_str().len() < SUN_PATH,
            "{}",
            longest.display()
        );
    }

    #[test]
    fn private_folder_is_made_once_and_files_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b");
        make_private_folder(&path).unwrap();
        make_private_folder(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(make_private_folder(&file).is_err());
    }
}
