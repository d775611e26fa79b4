//! Versions of a hosts file from before our writes, for `sharectl host restore`.
//!
//! In the journal folder, for `/etc/hosts`: `etc-hosts-HASH.backup-NNNNNN-VERSION`, plain bytes; the number counts
//! up, VERSION is what the file's owner tells versions apart by. A version that is the newest already is not
//! kept again: names of ours that come and go would push out what the user wrote. The first version, from
//! before sharectl, stays for ever; of the others the newest.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::io::Errno;

use super::in_place::{key, make_folder, sync_folder, write_synced};
use super::target::Target;
use super::{Step, Steps, WriteError};

/// How many versions of a file are kept: the first, and the newest.
pub const KEPT: usize = 10;

/// One kept version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backup {
    /// Counts up from 1, for each file.
    pub number: u64,
    /// Where it is.
    pub path: PathBuf,
    /// When it was kept.
    pub kept: SystemTime,
    /// What tells it from others.
    pub version: u64,
}

/// The kept versions, the oldest first.
pub(super) fn list(folder: &Path, target: &Target) -> Vec<Backup> {
    let prefix = format!("{}.backup-", key(&target.path));
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Vec::new();
    };
    let one = |entry: std::fs::DirEntry| {
        let name = entry.file_name();
        let (number, version) = name.to_str()?.strip_prefix(&prefix)?.split_once('-')?;
        Some(Backup {
            number: number.parse().ok()?,
            version: u64::from_str_radix(version, 16).ok()?,
            kept: entry.metadata().ok()?.modified().ok()?,
            path: entry.path(),
        })
    };
    let mut backups: Vec<Backup> = entries.flatten().filter_map(one).collect();
    backups.sort_by_key(|backup| backup.number);
    backups
}

/// Keeps `old` if its version is not the newest one already.
pub(super) fn keep(
    folder: &Path,
    target: &Target,
    (old, version): (&[u8], u64),
    steps: &mut dyn Steps,
) -> Result<(), WriteError> {
    let backups = list(folder, target);
    let newest = backups.last();
    if newest.is_some_and(|newest| newest.version == version) {
        return Ok(());
    }
    let number = newest.map_or(1, |newest| newest.number.saturating_add(1));
    let name = format!("{}.backup-{number:06}-{version:016x}", key(&target.path));
    let path = folder.join(name);
    // Under another name until it is whole; one that a kill left is overwritten next time.
    let unfinished = folder.join(format!("{}.new-backup", key(&target.path)));
    let io = |error: std::io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
    make_folder(folder)
        .and_then(|()| steps.before(Step::KeepBackup))
        .and_then(|()| write_synced(&unfinished, old))
        .and_then(|()| std::fs::rename(&unfinished, &path).map_err(io))
        .and_then(|()| sync_folder(folder))
        .map_err(|errno| WriteError::Journal {
            path: folder.to_owned(),
            errno,
        })?;
    let surplus = (backups.len() + 1).saturating_sub(KEPT);
    for backup in backups.iter().skip(1).take(surplus) {
        // One that stays a while longer does no harm.
        std::fs::remove_file(&backup.path).ok();
    }
    Ok(())
}
