//! Log lines on standard error, filtered by `SHARECTL_LOG`; a log file of our own is kept small.

use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use tracing_subscriber::EnvFilter;

/// Sends tracing's events to standard error. The filter is `$SHARECTL_LOG`
/// (`error`, `warn`, `info`, `debug`, `trace`, or per module), else `info`.
/// Calling it again does nothing.
pub fn init() {
    let filter = EnvFilter::try_from_env("SHARECTL_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let plain = std::env::var_os("NO_COLOR").is_some() || !io::stderr().is_terminal();
    let outcome = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(!plain)
        .with_target(false)
        .try_init();
    if outcome.is_err() {
        tracing::debug!("logging was set up before");
    }
}

/// Names the file that standard error goes to, where nobody else keeps it small (`sharectl up`).
pub const FILE_VARIABLE: &str = "SHARECTL_LOG_FILE";

/// More than months of ordinary life, in bytes.
const LARGE: u64 = 8 << 20;

/// The file to be kept small, if there is one.
#[must_use]
pub fn own_file() -> Option<PathBuf> {
    std::env::var_os(FILE_VARIABLE)
        .filter(|path| !path.is_empty())
        .map(PathBuf::from)
}

/// A log that has grown is kept once, as NAME.log.old, and begun anew.
///
/// # Errors
/// When it cannot be looked at or renamed; one that is not there is small.
pub fn set_aside_if_large(log: &Path) -> io::Result<bool> {
    match log.metadata() {
        Ok(found) if found.len() > LARGE => {
            std::fs::rename(log, log.with_extension("log.old"))?;
            Ok(true)
        }
        Ok(_) => Ok(false),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Opens a log to go on writing it.
///
/// # Errors
/// When it cannot be made or written.
pub fn open(log: &Path) -> io::Result<File> {
    File::options().append(true).create(true).open(log)
}

/// The same for the file that this process writes to, if it still is `log`.
///
/// # Errors
/// When the new file cannot be had; lines go to the old one then.
pub fn keep_small(log: &Path) -> io::Result<()> {
    let ours = rustix::fs::fstat(rustix::stdio::stderr())?;
    let Ok(named) = log.metadata() else {
        return Ok(());
    };
    if (named.dev(), named.ino()) != (ours.st_dev, ours.st_ino) || !set_aside_if_large(log)? {
        return Ok(());
    }
    let fresh = open(log)?;
    rustix::stdio::dup2_stdout(&fresh)?;
    rustix::stdio::dup2_stderr(&fresh)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_log_is_kept_once() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("netd.log");
        assert!(!set_aside_if_large(&log).unwrap());
        open(&log).unwrap().set_len(LARGE).unwrap();
        assert!(!set_aside_if_large(&log).unwrap());
        open(&log).unwrap().set_len(LARGE + 1).unwrap();
        assert!(set_aside_if_large(&log).unwrap());
        let old = folder.path().join("netd.log.old");
        assert_eq!(old.metadata().unwrap().len(), LARGE + 1);
        assert!(!log.exists());
    }

    #[test]
    fn a_file_that_is_not_ours_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("netd.log");
        open(&log).unwrap().set_len(LARGE + 1).unwrap();
        keep_small(&log).unwrap();
        assert!(log.exists());
    }
}
