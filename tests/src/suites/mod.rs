//! What programs of others make of a share in a real guest: fsx, pjdfstest, and everyday work (`works`).
//!
//! The guest runs the host's own programs, since the host's root folder is a read-only share of its own
//! there; what is tested is mounted at /mnt below it, from our daemon or from a peer by any of the doors
//! (`Server`). What a score means is said in docs/suites.md; nothing here judges it.

mod peer;
mod program;
mod score;
mod work;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::daemons::{Kind, World};
use crate::guest::{Answer, Guest};
use crate::user::User;
use peer::Peer;

pub use peer::DIOD;
pub use program::{FSX, PJDFSTEST, Program, VIRTIOFSD};
pub use score::{Score, score};
pub use work::{WORKS, Work, ready};

/// All of pjdfstest in an emulated guest, many times over.
const SUITE_LIMIT: Duration = Duration::from_secs(600);
const ADDRESS_LIMIT: Duration = Duration::from_secs(30);
/// Enough for rustc and for PostgreSQL; what is not touched is not there.
const MEMORY_MIB: u32 = 1024;

/// Whose files the suites run on, and by which door.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Server {
    /// Our daemon by virtiofs, as root, owners passed on.
    Sharefs,
    /// Our daemon by virtiofs, as root, with a writeback cache in the guest.
    SharefsWriteback,
    /// Our daemon by virtiofs, as an ordinary user who keeps owners beside the files.
    SharefsOfUser,
    /// Our daemon by 9P, as root, owners passed on.
    Ninep,
    /// The peer by virtiofs, as root.
    Virtiofsd,
    /// The peer by 9P, as root, through the same virtual network as ours.
    Diod,
    /// QEMU's own 9P device.
    Qemu,
}

impl Server {
    /// All, ours first.
    pub const ALL: [Self; 7] = [
        Self::Sharefs,
        Self::SharefsWriteback,
        Self::SharefsOfUser,
        Self::Ninep,
        Self::Virtiofsd,
        Self::Diod,
        Self::Qemu,
    ];

    /// As the tables have it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Sharefs => "sharefs",
            Self::SharefsWriteback => "sharefs-writeback",
            Self::SharefsOfUser => "sharefs-of-user",
            Self::Ninep => "sharefs-9p",
            Self::Virtiofsd => "virtiofsd",
            Self::Diod => "diod",
            Self::Qemu => "qemu-9p",
        }
    }

    /// Whether the daemon is of this project.
    #[must_use]
    pub fn is_ours(self) -> bool {
        match self {
            Self::Sharefs | Self::SharefsWriteback | Self::SharefsOfUser | Self::Ninep => true,
            Self::Virtiofsd | Self::Diod | Self::Qemu => false,
        }
    }

    /// What the guest's kernel calls such a file system.
    fn file_system(self) -> &'static str {
        match self {
            Self::Sharefs | Self::SharefsWriteback | Self::SharefsOfUser | Self::Virtiofsd => {
                "virtiofs"
            }
            Self::Ninep | Self::Diod | Self::Qemu => "9p",
        }
    }

    fn config(self) -> String {
        // Of an ordinary user's daemon root's programs would be nobody's, and set-uid mount(8) would run as nobody.
        let (host, tested) = match self {
            Self::Sharefs | Self::Virtiofsd | Self::Diod | Self::Qemu => (PASS, PASS.to_owned()),
            Self::Ninep => (PASS, format!("{PASS}ninep = true\n")),
            Self::SharefsWriteback => (PASS, format!("{PASS}writeback = true\n")),
            Self::SharefsOfUser => (
                "owner = \"squash\"\nguest-owner = \"0:0\"\n",
                "guest-owner = \"0:0\"\nowner-store = \"xattr\"\n".to_owned(),
            ),
        };
        let config = if self.has_devices() {
            CONFIG.replace("[guest.dev]", "[guest.dev]\ndevices = \"each\"")
        } else {
            CONFIG.to_owned()
        };
        if self.is_ours() {
            format!("{config}{host}{TESTED}{tested}")
        } else {
            format!("{config}{host}")
        }
    }

    /// Whether each share is a device of its own.
    fn has_devices(self) -> bool {
        self == Self::SharefsWriteback
    }

    /// The guest's commands that put the share at `AT`.
    fn mount(self, peer: Option<&Peer>) -> String {
        let ninep = |gateway: &str, more: &str| {
            format!("mount -t 9p -o trans=tcp,version=9p2000.L,{OF_NINEP},{more} {gateway} {AT}")
        };
        match (self, peer) {
            (Self::Ninep, _) => ninep(GATEWAY, "aname=tested"),
            (_, Some(Peer::Diod { port, folder, .. })) => {
                let folder = folder.display();
                ninep(HOST_INTERNAL, &format!("port={port},aname={folder}"))
            }
            (Self::Qemu, _) => {
                format!("mount -t 9p -o trans=virtio,version=9p2000.L,{OF_NINEP} tested {AT}")
            }
            // By the machine, which mounts each device.
            (Self::SharefsWriteback, _) => "true".to_owned(),
            (_, Some(Peer::Virtiofsd { .. })) => format!("mount -t virtiofs tested {AT}"),
            (_, None) => format!("mount --bind /run/sharectl/tested {AT}"),
        }
    }
}

/// A guest with the share to be tested at /mnt of the host's root.
#[derive(Debug)]
pub struct Bed {
    guest: Guest,
    folder: PathBuf,
    world: World,
    // Dropped last: the guest uses it until then.
    _peer: Option<Peer>,
}

const GATEWAY: &str = "192.168.130.1";
const HOST_INTERNAL: &str = "192.168.130.254";
/// Where the guest has the share.
const AT: &str = "/mnt/tested";

/// With the default, cache=none, v9fs of Linux 6.1 lets no file be mapped to be written and shared (EINVAL).
const OF_NINEP: &str = "msize=1048576,cache=mmap";

const CONFIG: &str = r#"
[network.vmnet8]
type = "nat"
subnet = "192.168.130.0/24"

[guest.dev]

[share.host]
path = "/"
at = "/host"
read-only = true
"#;

const PASS: &str = "owner = \"pass\"\n";

const TESTED: &str = r#"
[share.tested]
path = "@shared/tested"
at = "/mnt/tested"
"#;

impl Bed {
    /// Starts daemons and guest; root only.
    ///
    /// # Errors
    /// When one does not start.
    pub fn new(server: Server) -> Result<Self> {
        let user = match server {
            Server::SharefsOfUser => User::unprivileged(),
            Server::Sharefs
            | Server::SharefsWriteback
            | Server::Ninep
            | Server::Virtiofsd
            | Server::Diod
            | Server::Qemu => User::ourselves(),
        };
        let mut world = World::of(user, &server.config())?;
        let folder = world.share_folder("tested")?;
        world.start(Kind::Netd)?;
        world.start(Kind::Sharefs)?;
        let peer = Peer::of(server, &world.path("peer"), &folder)?;
        let machine = if server.has_devices() {
            world.machine_of_devices("dev", &[("host", "/host"), ("tested", AT)])?
        } else {
            world.machine("dev", &[("host", "/host")])?
        };
        let mut machine = machine.memory(MEMORY_MIB).module("9p").module("9pnet_fd");
        if let Some(Peer::Virtiofsd { socket, .. }) = &peer {
            machine = machine.arguments([
                "-chardev".to_owned(),
                format!("socket,id=peer,path={}", socket.display()),
                "-device".to_owned(),
                "vhost-user-fs-pci,chardev=peer,tag=tested,vectors=0".to_owned(),
            ]);
        }
        if server == Server::Qemu {
            machine = machine.module("9pnet_virtio").arguments([
                "-fsdev".to_owned(),
                format!(
                    "local,id=peer,path={},security_model=passthrough,multidevs=remap",
                    folder.display()
                ),
                "-device".to_owned(),
                "virtio-9p-pci,fsdev=peer,mount_tag=tested".to_owned(),
            ]);
        }
        let guest = machine.boot()?;
        guest.address(ADDRESS_LIMIT)?;
        guest.ok(&format!("mkdir -p {AT} && {}", server.mount(peer.as_ref())))?;
        let mounted = guest.ok(&format!("grep ' {AT} ' /proc/mounts | cut -d ' ' -f 3"))?;
        ensure!(
            mounted == server.file_system(),
            "{AT} is {mounted:?} in the guest"
        );
        guest.ok(&format!(
            "mount --bind {AT} /host/mnt && mount -t proc proc /host/proc && \
             mount --bind /dev /host/dev && mount -t tmpfs tmp /host/tmp && chmod 1777 /host/tmp"
        ))?;
        Ok(Self {
            guest,
            folder,
            world,
            _peer: peer,
        })
    }

    /// The guest itself, where the share is at /mnt/tested and, in the host's root at /host, at /mnt.
    #[must_use]
    pub fn guest(&self) -> &Guest {
        &self.guest
    }

    /// Runs fsx with this seed; an answer of status 0 is a pass.
    ///
    /// # Errors
    /// When the guest does not answer.
    pub fn fsx(&self, seed: u32, operations: u32) -> Result<Answer> {
        let program = self.bring(FSX)?;
        let shell = format!(
            "chroot /host sh -c 'cd /mnt && {program} -q -N {operations} -S {seed} -P /tmp fsx-file 2>&1'"
        );
        self.guest.run_within(SUITE_LIMIT, &shell)
    }

    /// Runs all of pjdfstest, or the tests whose name begins so.
    ///
    /// # Errors
    /// When it does not come to an end.
    pub fn pjdfstest(&self, pattern: &str) -> Result<Score> {
        let program = self.bring(PJDFSTEST)?;
        self.world
            .write(&self.folder.join("pjdfstest.toml"), SETTINGS)?;
        let shell = format!(
            "mkdir -p {WORK} && chroot /host {program} -c /mnt/pjdfstest.toml -p /mnt/w -s /tmp {pattern} 2>&1"
        );
        let answer = self.guest.run_within(SUITE_LIMIT, &shell)?;
        score(&answer.stdout)
    }

    /// Does some everyday work on the share, of about `size` where it has one; an answer of status 0 is a pass.
    ///
    /// # Errors
    /// When its files cannot be made, or the guest does not answer.
    pub fn work(&self, work: &Work, size: usize) -> Result<Answer> {
        work.prepare(&self.world, &self.folder, size)?;
        let answer = self.script(work.script, &work.environment(size)?, work.limit(size))?;
        if answer.status == 0 {
            work.check(&self.folder)?;
        }
        Ok(answer)
    }

    /// Runs a shell script of the host's programs, which stops at the first command that fails; the share is
    /// at /mnt. `environment`: words for env(1).
    ///
    /// # Errors
    /// When the guest does not answer within `limit`.
    pub fn script(&self, text: &str, environment: &str, limit: Duration) -> Result<Answer> {
        let script = self.folder.join("work.sh");
        if script.exists() {
            // A guest that gathers writes would go on with the length of the last one.
            std::fs::remove_file(&script)?;
        }
        self.world.write(&script, text)?;
        // By their paths, or busybox takes itself for them.
        let shell = format!(
            "chroot /host /usr/bin/env -i PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin TMPDIR=/tmp {environment} \
             /bin/sh -eu /mnt/work.sh 2>&1"
        );
        self.guest.run_within(limit, &shell)
    }

    /// Puts a program into the share; its path in the host's root of the guest.
    fn bring(&self, program: Program) -> Result<String> {
        let from = program.installed()?;
        let to = self.folder.join(program.name);
        if !to.exists() {
            std::fs::copy(&from, &to)
                .with_context(|| format!("copy {} to {}", from.display(), to.display()))?;
            self.world.user().own(&to)?;
        }
        Ok(format!("/mnt/{}", program.name))
    }
}

/// Where pjdfstest works. It counts in pieces of a path, and with some lengths of this one it subtracts
/// too much and fails all its tests of paths that are too long ("capacity overflow").
const WORK: &str = "/mnt/tested/w";

/// Two users whom every Debian has, and what the tests may try besides.
const SETTINGS: &str = r#"
[features]
posix_fallocate = {}
rename_ctime = {}
utimensat = {}
utime_now = {}
stat_st_birthtime = {}

[settings]
naptime = 0.02
allow_remount = false
expected_failures = []

[dummy_auth]
entries = [["nobody", "nogroup"], ["daemon", "daemon"]]
"#;
