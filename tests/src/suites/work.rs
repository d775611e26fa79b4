//! Everyday work of programs whose authors know what a file system owes them: a script each in `works`, which
//! stops at the first thing that is not as it should be.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use super::Server;
use crate::command;
use crate::daemons::World;
use crate::packages::{self, Need};

/// A script, and what it needs.
#[derive(Debug)]
pub struct Work {
    /// As the tables have it.
    pub name: &'static str,
    /// For `sh -eu` in the guest's host root, with the share at /mnt; SIZE is how much is to be done.
    pub script: &'static str,
    /// Programs of the host.
    pub needs: &'static [Need],
    /// What an emulated guest does in about a minute.
    pub size: usize,
    /// What SIZE counts.
    pub unit: &'static str,
}

const fn need(program: &'static str, package: &'static str) -> Need {
    Need { program, package }
}

/// All, quickest first.
pub const WORKS: &[Work] = &[
    Work {
        name: "sqlite",
        script: include_str!("works/sqlite.sh"),
        needs: &[need("sqlite3", "sqlite3")],
        size: 30,
        unit: "transactions a writer",
    },
    Work {
        name: "git",
        script: include_str!("works/git.sh"),
        needs: &[need("git", "git")],
        size: 150,
        unit: "files",
    },
    Work {
        name: "tar",
        script: include_str!("works/tar.sh"),
        needs: &[],
        size: 2000,
        unit: "files",
    },
    Work {
        name: "npm",
        script: include_str!("works/npm.sh"),
        needs: &[need("npm", "npm")],
        size: 4,
        unit: "packages",
    },
    Work {
        name: "cargo",
        script: include_str!("works/cargo.sh"),
        needs: &[need("cc", "gcc")],
        size: 1,
        unit: "crate",
    },
    Work {
        name: "postgresql",
        script: include_str!("works/postgresql.sh"),
        needs: &[],
        size: 50,
        unit: "transactions a client",
    },
    Work {
        name: "stress-ng",
        script: include_str!("works/stress.sh"),
        needs: &[need("stress-ng", "stress-ng")],
        size: 1,
        unit: "seconds a stressor",
    },
];

/// For a work of its own size; more for more.
const LIMIT: Duration = Duration::from_secs(600);

impl Work {
    /// The work of this name.
    #[must_use]
    pub fn of(name: &str) -> Option<&'static Self> {
        WORKS.iter().find(|work| work.name == name)
    }

    /// Why it cannot be done here, after what is missing of `needs` was installed.
    #[must_use]
    pub fn hindrance(&self, server: Server) -> Option<String> {
        match self.name {
            "postgresql" if postgresql().is_none() => Some(
                "PostgreSQL is not here: apt-get install --no-install-recommends postgresql \
                 (it starts a database)"
                    .to_owned(),
            ),
            "cargo" => match toolchain() {
                Err(error) => Some(format!("{error:#}")),
                Ok(folder) if server == Server::SharefsOfUser && !is_for_all(&folder) => Some(
                    format!("an ordinary user may not read {}", folder.display()),
                ),
                Ok(_) => None,
            },
            _ => None,
        }
    }

    pub(super) fn limit(&self, size: usize) -> Duration {
        let times = size.div_ceil(self.size.max(1)).clamp(1, 20);
        LIMIT * u32::try_from(times).unwrap_or(1)
    }

    /// Words for env(1).
    pub(super) fn environment(&self, size: usize) -> Result<String> {
        let mut path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned();
        match self.name {
            "postgresql" => {
                let folder = postgresql().context("PostgreSQL is not installed")?;
                path = format!("{}:{path}", folder.display());
            }
            "cargo" => path = format!("{}:{path}", toolchain()?.display()),
            _ => {}
        }
        Ok(format!(
            "SIZE={size} HOME=/tmp TMPDIR=/tmp LC_ALL=C CARGO_HOME=/tmp/cargo PATH={path}"
        ))
    }

    /// What has to be in the share before.
    pub(super) fn prepare(&self, world: &World, folder: &Path, size: usize) -> Result<()> {
        if self.name != "tar" {
            return Ok(());
        }
        let here = folder.join("tar");
        fs::create_dir_all(&here)?;
        world.user().own(&here)?;
        let work = tempfile::tempdir()?;
        plant(&work.path().join("tree"), size)?;
        let archive = here.join("tree.tar");
        let mut line = Command::new("tar");
        line.args(["--owner=0", "--group=0", "--numeric-owner", "-cf"])
            .arg(&archive)
            .arg("-C")
            .arg(work.path())
            .arg("tree");
        command::run(&mut line, LIMIT)?;
        world.user().own(&archive)
    }

    /// What the host has to find afterwards.
    pub(super) fn check(&self, folder: &Path) -> Result<()> {
        if self.name != "tar" {
            return Ok(());
        }
        let here = folder.join("tar");
        let mut line = Command::new("tar");
        line.arg("-df")
            .arg(here.join("tree.tar"))
            .arg("-C")
            .arg(&here);
        // Modes and owners may be kept beside the files; bytes are bytes.
        let differs = command::output(&mut line, LIMIT)?.stdout;
        let content: Vec<_> = differs
            .lines()
            .filter(|line| !line.ends_with(" differs") || line.ends_with("Contents differ"))
            .collect();
        anyhow::ensure!(content.is_empty(), "the host sees: {content:?}");
        fs::remove_dir_all(&here).with_context(|| format!("remove {}", here.display()))
    }
}

/// A tree as a kernel's source is: files of 0 to some 60 KiB in folders of twenty, links and programs among them.
fn plant(tree: &Path, files: usize) -> Result<()> {
    fs::create_dir(tree)?;
    let pattern: Vec<u8> = (0..61_440_u32)
        .map(|byte| byte.to_le_bytes()[0] ^ byte.to_le_bytes()[1])
        .collect();
    let mut folder = tree.to_owned();
    for number in 0..files {
        if number % 20 == 0 {
            let above = tree.join(format!("part-{}", number / 400));
            folder = above.join(format!("folder-{}", number / 20));
            fs::create_dir_all(&folder)?;
        }
        let path = folder.join(format!("file-{number}.c"));
        if number % 97 == 0 {
            symlink(format!("file-{}.c", number + 1), &path)?;
            continue;
        }
        // Most are small.
        let length = if number % 50 == 1 {
            number * 7919 % 61_440
        } else {
            number * 7919 % 6000
        };
        fs::write(&path, pattern.get(..length).unwrap_or_default())?;
        if number % 31 == 0 {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        }
    }
    Ok(())
}

/// The newest PostgreSQL's folder of programs, as Debian has them.
fn postgresql() -> Option<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir("/usr/lib/postgresql")
        .ok()?
        .flatten()
        .map(|entry| entry.path().join("bin"))
        .filter(|folder| folder.join("initdb").is_file())
        .collect();
    found.sort();
    found.pop()
}

/// The folder of cargo and rustc themselves, not of what chooses between several.
fn toolchain() -> Result<PathBuf> {
    let mut line = Command::new("rustc");
    line.args(["--print", "sysroot"]);
    let root = command::run(&mut line, Duration::from_secs(30)).context("ask for the toolchain")?;
    Ok(Path::new(root.trim()).join("bin"))
}

/// Whether everybody may enter the folder.
fn is_for_all(folder: &Path) -> bool {
    folder.ancestors().all(|folder| {
        fs::metadata(folder).is_ok_and(|status| status.permissions().mode() & 0o001 != 0)
    })
}

/// Installs what a work needs.
///
/// # Errors
/// What apt-get says.
pub fn ready(work: &Work) -> Result<()> {
    packages::ensure(work.needs)
}
