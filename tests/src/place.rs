//! Where the harness keeps things: the workspace, its target folder, a cache that outlives a run and
//! a staging folder that does not.
//!
//! The staging folder exists because the daemons and QEMU run as a user who may not enter the
//! checkout (it may lie in root's home): programs and guest images are copied there. Its name holds
//! our process id, so that folders of dead runs are recognised and swept.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anyhow::{Context, Result};

const STAGING_PREFIX: &str = "sharectl-run-";

/// The root of the workspace.
#[must_use]
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .map_or_else(|| PathBuf::from("."), Path::to_path_buf)
}

/// The target folder that this very program was built into.
#[must_use]
pub fn target() -> PathBuf {
    // <target>/<profile>/xtask or <target>/<profile>/deps/some_test-0123
    let here = std::env::current_exe().unwrap_or_default();
    here.ancestors()
        .find(|folder| folder.join("CACHEDIR.TAG").is_file())
        .map_or_else(|| workspace().join("target"), Path::to_path_buf)
}

/// A folder in target/ for what is costly to make again (guest kernel, initramfs, probe answers).
///
/// # Errors
/// When it cannot be made.
pub fn cache() -> Result<PathBuf> {
    let folder = target().join("guest");
    fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    Ok(folder)
}

/// This process's own folder, readable by everybody, swept by a later run when we are gone.
///
/// # Errors
/// When it cannot be made.
pub fn staging() -> Result<PathBuf> {
    static MADE: OnceLock<PathBuf> = OnceLock::new();
    if let Some(folder) = MADE.get() {
        return Ok(folder.clone());
    }
    sweep();
    let folder = std::env::temp_dir().join(format!("{STAGING_PREFIX}{}", std::process::id()));
    fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755))?;
    Ok(MADE.get_or_init(|| folder).clone())
}

/// Puts a file of the target folder into the staging folder: by a hard link where that is possible,
/// for unstripped programs are large.
///
/// # Errors
/// When neither link nor copy can be made.
pub fn copy(from: &Path, to: &Path) -> Result<()> {
    // One that an earlier try left may be the same file: a copy onto it would empty both.
    drop(fs::remove_file(to));
    if fs::hard_link(from, to).is_err() {
        fs::copy(from, to)
            .with_context(|| format!("copy {} to {}", from.display(), to.display()))?;
    }
    Ok(())
}

/// Removes this process's staging folder; for programs that end well (tests leave it to the sweep).
pub fn clear_staging() {
    let folder = std::env::temp_dir().join(format!("{STAGING_PREFIX}{}", std::process::id()));
    drop(fs::remove_dir_all(folder));
}

/// Removes the staging folders of processes that are no more.
pub fn sweep() {
    let Ok(entries) = fs::read_dir(std::env::temp_dir()) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let owner = name
            .to_str()
            .and_then(|name| name.strip_prefix(STAGING_PREFIX))
            .and_then(|pid| pid.parse::<u32>().ok());
        if owner.is_some_and(|pid| !is_alive(pid)) {
            drop(fs::remove_dir_all(entry.path()));
        }
    }
}

/// Whether a process of this id exists.
#[must_use]
pub fn is_alive(pid: u32) -> bool {
    Path::new("/proc").join(pid.to_string()).is_dir()
}
