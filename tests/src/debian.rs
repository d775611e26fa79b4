//! Roots of the host's own release of Debian (or Ubuntu), as mmdebstrap makes them.
//!
//! The install step of `cargo xtask test` asks for those that are kept, and alone uses the network.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::command;
use crate::packages::{self, Need};

/// What makes a root.
pub const NEEDS: &[Need] = &[Need {
    program: "mmdebstrap",
    package: "mmdebstrap",
}];

/// Fetching and unpacking some hundred MB.
const MAKE_LIMIT: Duration = Duration::from_secs(600);

/// Writes the archive of a root with these packages (between commas) beside the least that a Debian needs; by its
/// name, mmdebstrap knows the form.
///
/// # Errors
/// When the release is not known, or the root cannot be made.
pub(crate) fn root(archive: &Path, packages: &str) -> Result<()> {
    packages::ensure(NEEDS)?;
    let release = fs::read_to_string("/etc/os-release").context("read /etc/os-release")?;
    let field = |name: &str| {
        let line = release.lines().find_map(|line| line.strip_prefix(name))?;
        Some(line.trim_start_matches('=').trim_matches('"').to_owned())
    };
    let (Some(id), Some(codename)) = (field("ID"), field("VERSION_CODENAME")) else {
        bail!("/etc/os-release names no release to make a root of");
    };
    let mut line = Command::new("mmdebstrap");
    line.args(["--quiet", "--variant=minbase"])
        .arg(format!("--include={packages}"))
        // Nobody reads them there.
        .args([
            "--dpkgopt=path-exclude=/usr/share/doc/*",
            "--dpkgopt=path-exclude=/usr/share/man/*",
        ])
        .arg(&codename)
        .arg(archive);
    if id == "ubuntu" {
        line.args([
            "--components=main,universe",
            "http://archive.ubuntu.com/ubuntu",
        ]);
    }
    command::run(&mut line, MAKE_LIMIT)
        .with_context(|| format!("make a root of {id} {codename}"))
        .map(drop)
}
