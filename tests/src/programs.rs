//! The project's own programs, built and copied to where the unprivileged user may run them.
//!
//! A test binary does not depend on the programs it drives, so cargo is asked to build them; with
//! `SHARECTL_PROGRAMS=FOLDER` those of a folder are taken as they are.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::{command, place};

/// Names a folder with programs that are built already.
pub const VARIABLE: &str = "SHARECTL_PROGRAMS";

/// A cold release build on two cores.
const BUILD_LIMIT: Duration = Duration::from_secs(1200);

/// Every program of the project, with its package.
pub const ALL: [(&str, &str); 5] = [
    ("sharectl", "cli"),
    ("sharectl-netd", "netd"),
    ("sharectl-sharefs", "sharefs"),
    ("sharectl-hostsync", "hostsync"),
    ("sharectl-hosts-writer", "hostsync"),
];

/// The folder with all programs, made at the first call of a process.
///
/// # Errors
/// When one does not build.
pub fn folder() -> Result<PathBuf> {
    prepared(profile(), Cargo::Quiet)
}

/// Whether cargo's own progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cargo {
    /// On standard error, as cargo does it.
    Shown,
    /// Only when it fails.
    Quiet,
}

/// As [`folder`], for a command that a person waits for: with a profile of its choice, if nothing is
/// staged yet, and cargo's progress shown.
///
/// # Errors
/// When one does not build.
pub fn prepare(profile: &str) -> Result<PathBuf> {
    prepared(profile, Cargo::Shown)
}

fn prepared(profile: &str, cargo: Cargo) -> Result<PathBuf> {
    static READY: Mutex<bool> = Mutex::new(false);
    let staged = place::staging()?.join("bin");
    let mut ready = READY.lock().unwrap_or_else(PoisonError::into_inner);
    if !*ready {
        let from = match std::env::var_os(VARIABLE) {
            Some(folder) => folder.into(),
            None => build(profile, cargo)?,
        };
        stage(&from, &staged)?;
        *ready = true;
    }
    Ok(staged)
}

fn stage(from: &Path, into: &Path) -> Result<()> {
    fs::create_dir_all(into).with_context(|| format!("create {}", into.display()))?;
    for (program, _) in ALL {
        let source = from.join(program);
        place::copy(&source, &into.join(program))?;
    }
    Ok(())
}

/// Builds all programs with a profile (`dev`, `release`); gives the folder they are in.
///
/// # Errors
/// When one does not build.
pub fn build(profile: &str, shown: Cargo) -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut line = Command::new(cargo);
    line.current_dir(place::workspace())
        .args(["build", "--locked", "--profile", profile])
        .arg("--target-dir")
        .arg(place::target());
    for (_, package) in ALL {
        line.args(["--package", package]);
    }
    if shown == Cargo::Shown {
        let mut child = line.spawn().context("start cargo")?;
        let status = command::wait(&mut child, BUILD_LIMIT)?.context("the build takes too long")?;
        ensure!(status.success(), "the programs do not build: {status}");
    } else {
        command::run(line.arg("--quiet"), BUILD_LIMIT).context("build the programs")?;
    }
    let folder = if profile == "dev" { "debug" } else { profile };
    Ok(place::target().join(folder))
}

/// Builds an example of a package, which is no program of the project's and is run from where it was built.
///
/// # Errors
/// When it does not build.
pub fn example(package: &str, name: &str) -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut line = Command::new(cargo);
    line.current_dir(place::workspace())
        .args(["build", "--locked", "--quiet", "--profile", profile()])
        .args(["--package", package, "--example", name])
        .arg("--target-dir")
        .arg(place::target());
    command::run(&mut line, BUILD_LIMIT).with_context(|| format!("build {name}"))?;
    let folder = if profile() == "dev" {
        "debug"
    } else {
        profile()
    };
    Ok(place::target().join(folder).join("examples").join(name))
}

/// The profile that this very program was built with.
fn profile() -> &'static str {
    if cfg!(debug_assertions) {
        "dev"
    } else {
        "release"
    }
}
