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

/// Leaves out what nobody reads in a guest. The root's own dpkg goes on to leave it out of every package.
pub(crate) const NO_MANUALS: &[&str] = &[
    "--dpkgopt=path-exclude=/usr/share/doc/*",
    "--dpkgopt=path-exclude=/usr/share/man/*",
];

/// What a root is made of, but for the packages' versions.
#[derive(Debug)]
pub(crate) struct Recipe {
    /// `debian` or `ubuntu`.
    id: String,
    codename: String,
    arguments: Vec<String>,
}

impl Recipe {
    /// The host's release with these packages (between commas) beside the least that a Debian needs, by
    /// mmdebstrap with these options.
    ///
    /// # Errors
    /// When the host's release is not known.
    pub(crate) fn new(packages: &str, options: &[&str]) -> Result<Self> {
        let release = fs::read_to_string("/etc/os-release").context("read /etc/os-release")?;
        let field = |name: &str| {
            let line = release.lines().find_map(|line| line.strip_prefix(name))?;
            Some(line.trim_start_matches('=').trim_matches('"').to_owned())
        };
        let (Some(id), Some(codename)) = (field("ID"), field("VERSION_CODENAME")) else {
            bail!("/etc/os-release names no release to make a root of");
        };
        let include = format!("--include={packages}");
        let arguments = ["--quiet", "--variant=minbase", &include]
            .iter()
            .chain(options)
            .map(|&word| word.to_owned())
            .collect();
        Ok(Self {
            id,
            codename,
            arguments,
        })
    }

    /// As lines, to be kept beside what was made: what another recipe made is made anew.
    pub(crate) fn text(&self) -> String {
        format!(
            "{} {}\n{}",
            self.id,
            self.codename,
            self.arguments.join("\n")
        )
    }

    /// Writes the root's archive; by its name, mmdebstrap knows the form.
    ///
    /// # Errors
    /// When the root cannot be made.
    pub(crate) fn make(&self, archive: &Path) -> Result<()> {
        packages::ensure(NEEDS)?;
        let mut line = Command::new("mmdebstrap");
        line.args(&self.arguments).arg(&self.codename).arg(archive);
        if self.id == "ubuntu" {
            line.args([
                "--components=main,universe",
                "http://archive.ubuntu.com/ubuntu",
            ]);
        }
        command::run(&mut line, MAKE_LIMIT)
            .with_context(|| format!("make a root of {} {}", self.id, self.codename))
            .map(drop)
    }
}
