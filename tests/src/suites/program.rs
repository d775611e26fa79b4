//! Programs of others that cargo installs into target/suites, each of the version that its scores were taken with.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

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
