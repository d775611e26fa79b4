//! File system test suites of others, run in a real guest on a virtiofs share: fsx and pjdfstest.
//!
//! The programs are installed by cargo into target/suites; the guest runs them with the
//! host's own libraries, since the host's root folder is a read-only share of its own there. Owners pass
//! unchanged, for pjdfstest acts as several users; so the daemons run as root here. What a
//! score means is said in docs/suites.md; `score` reads it, nothing here judges it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::daemons::{Kind, World};
use crate::guest::{Answer, Guest};
use crate::limit::wait_for;
use crate::user::User;
use crate::{command, place};

/// A program that cargo can install.
#[derive(Debug, Clone, Copy)]
pub struct Program {
    /// Its crate and its name.
    pub name: &'static str,
    /// The version that is known to work, so that scores can be compared.
    pub version: &'static str,
}

/// pjdfstest, the Rust edition: what POSIX says of names, owners, modes and times.
pub const PJDFSTEST: Program = Program {
    name: "pjdfstest",
    version: "0.2.2",
};
/// fsx: random reads, writes, truncations and the like on one file, compared with a copy in memory.
pub const FSX: Program = Program {
    name: "fsx",
    version: "0.3.2",
};
/// The virtiofs daemon to compare with; needs libcap-ng-dev and libseccomp-dev.
pub const VIRTIOFSD: Program = Program {
    name: "virtiofsd",
    version: "1.14.0",
};

/// Building any of them on two slow cores.
const BUILD_LIMIT: Duration = Duration::from_secs(1200);
const READY_LIMIT: Duration = Duration::from_secs(10);
/// All of pjdfstest in an emulated guest, many times over.
const SUITE_LIMIT: Duration = Duration::from_secs(400);

impl Program {
    /// The program, installed when it is not there yet.
    ///
    /// # Errors
    /// When it cannot be fetched or built.
    pub fn installed(self) -> Result<PathBuf> {
        let root = place::target().join("suites").join(self.version);
        let program = root.join("bin").join(self.name);
        if !program.is_file() {
            let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
            let mut line = Command::new(cargo);
            line.args(["install", "--quiet", "--locked", self.name])
                .args(["--version", self.version, "--root"])
                .arg(&root)
                .arg("--target-dir")
                .arg(place::target().join("suites/build"))
                // Not the workspace, whose configuration is not theirs.
                .current_dir(std::env::temp_dir());
            command::run(&mut line, BUILD_LIMIT)
                .with_context(|| format!("install {} {}", self.name, self.version))?;
        }
        Ok(program)
    }
}

/// Whose virtiofs the suites run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Server {
    /// Our own daemon.
    Sharefs,
    /// The peer.
    Virtiofsd,
}

/// A guest with the share to be tested at /mnt of the host's root.
#[derive(Debug)]
pub struct Bed {
    guest: Guest,
    folder: PathBuf,
    world: World,
    peer: Option<Peer>,
}

/// A daemon that is not of this project; it is killed when dropped.
#[derive(Debug)]
struct Peer(Child);

impl Drop for Peer {
    fn drop(&mut self) {
        // It may have ended with the guest.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

const CONFIG: &str = r#"
[network.vmnet8]
type = "nat"

[guest.dev]

[share.host]
path = "/"
at = "/host"
read-only = true
owner = "pass"
"#;

const TESTED: &str = r#"
[share.tested]
path = "@shared/tested"
at = "/mnt/tested"
owner = "pass"
"#;

impl Bed {
    /// Starts daemons and guest; root only.
    ///
    /// # Errors
    /// When one does not start.
    pub fn new(server: Server) -> Result<Self> {
        let config = match server {
            Server::Sharefs => format!("{CONFIG}{TESTED}"),
            Server::Virtiofsd => CONFIG.to_owned(),
        };
        let mut world = World::of(User::ourselves(), &config)?;
        let folder = world.share_folder("tested")?;
        world.start(Kind::Netd)?;
        world.start(Kind::Sharefs)?;
        let mut machine = world.machine("dev", &[("tested", "/mnt/tested"), ("host", "/host")])?;
        let mut peer = None;
        if server == Server::Virtiofsd {
            let socket = world.path("virtiofsd.sock");
            peer = Some(Peer(virtiofsd(&socket, &folder)?));
            wait_for("virtiofsd's socket", READY_LIMIT, || {
                Ok(socket.exists().then_some(()))
            })?;
            machine = machine.arguments([
                "-chardev".to_owned(),
                format!("socket,id=peer,path={}", socket.display()),
                "-device".to_owned(),
                "vhost-user-fs-pci,chardev=peer,tag=tested,vectors=0".to_owned(),
            ]);
        }
        let guest = machine.boot()?;
        guest.ok(
            "mount --bind /mnt/tested /host/mnt && mount -t proc proc /host/proc && \
             mount --bind /dev /host/dev && mount -t tmpfs tmp /host/tmp",
        )?;
        Ok(Self {
            guest,
            folder,
            world,
            peer,
        })
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

    /// Whether the peer, if there is one, still runs.
    ///
    /// # Errors
    /// When that cannot be asked.
    pub fn is_served(&mut self) -> Result<bool> {
        match &mut self.peer {
            Some(Peer(child)) => Ok(child.try_wait()?.is_none()),
            None => self.world.daemon(Kind::Sharefs)?.is_running(),
        }
    }

    /// Puts a program into the share; its path in the host's root of the guest.
    fn bring(&self, program: Program) -> Result<String> {
        let from = program.installed()?;
        let to = self.folder.join(program.name);
        if !to.exists() {
            std::fs::copy(&from, &to)
                .with_context(|| format!("copy {} to {}", from.display(), to.display()))?;
        }
        Ok(format!("/mnt/{}", program.name))
    }
}

fn virtiofsd(socket: &Path, folder: &Path) -> Result<Child> {
    let log = socket.with_extension("log");
    Command::new(VIRTIOFSD.installed()?)
        .arg("--socket-path")
        .arg(socket)
        .arg("--shared-dir")
        .arg(folder)
        .args(["--sandbox", "none", "--xattr"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(log)?)
        .spawn()
        .context("start virtiofsd")
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

/// What pjdfstest said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Score {
    /// Tests that passed.
    pub passed: usize,
    /// Tests that cannot be run on this system.
    pub skipped: usize,
    /// Those that failed, by name, with what the suite says of it.
    pub failed: Vec<(String, String)>,
}

/// Reads pjdfstest's output: a line a test, what is to be said of it on indented ones, a summary.
///
/// # Errors
/// When it did not come to its end, or its own count differs.
pub fn score(text: &str) -> Result<Score> {
    let mut score = Score::default();
    let mut of_a_failure = false;
    for line in text.lines() {
        if let Some(reason) = line.strip_prefix('\t') {
            if let Some((_, said)) = score.failed.last_mut().filter(|_| of_a_failure) {
                said.push_str(reason);
            }
            continue;
        }
        if let Some(summary) = line.strip_prefix("Summary: ") {
            let own = format!(
                "{} failed, {} skipped, {} passed,",
                score.failed.len(),
                score.skipped,
                score.passed
            );
            ensure!(summary.starts_with(&own), "{own} read, but {summary}");
            return Ok(score);
        }
        of_a_failure = false;
        match line.rsplit_once(' ') {
            Some((_, "ok")) => score.passed += 1,
            Some((_, "skipped")) => score.skipped += 1,
            Some((name, "FAILED")) => {
                score.failed.push((name.trim().to_owned(), String::new()));
                of_a_failure = true;
            }
            _ => {}
        }
    }
    let end: Vec<&str> = text.lines().rev().take(5).collect();
    bail!("pjdfstest did not come to its end: {end:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "\
unlink::remove_type::fifo                                                     ok
unlink::enametoolong_path                                                 FAILED
\tcapacity overflow
chown::erofs_named                                                       skipped
\tRemounts (allow_remount) are not allowed in the configuration file

Summary: 1 failed, 1 skipped, 1 passed, 0 expected failures, 3 total
Error: Some tests have failed
";

    #[test]
    fn a_score_names_what_failed_and_why() {
        let read = score(OUTPUT).unwrap();
        assert_eq!((read.passed, read.skipped), (1, 1));
        let failed = [(
            "unlink::enametoolong_path".to_owned(),
            "capacity overflow".to_owned(),
        )];
        assert_eq!(read.failed, failed);
    }

    #[test]
    fn a_run_that_was_cut_short_or_miscounted_is_no_score() {
        let cut = OUTPUT.split("Summary").next().unwrap();
        assert!(score(cut).is_err());
        assert!(score("").is_err());
        assert!(score(&OUTPUT.replace("1 passed", "2 passed")).is_err());
    }
}
