//! The files that the measurements work on, made by the host's own calls before the guest comes.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

/// Folders of the tree that is walked cold, and files in each.
pub(crate) const WALK: (usize, usize) = (64, 63);
/// Files in the folder that is listed.
pub(crate) const LISTED: usize = 2000;
/// Bytes of the file that is read and written: a piece of 1 MiB for each of 16 requests.
pub(crate) const DATA: usize = 16 << 20;

/// The share, emptied when dropped.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
}

impl Folder {
    pub(crate) fn fill(path: &Path) -> Result<Self> {
        let mut found = fs::read_dir(path).with_context(|| format!("read {}", path.display()))?;
        ensure!(found.next().is_none(), "{} is not empty", path.display());
        let folder = Self {
            path: path.to_owned(),
        };
        folder
            .make()
            .with_context(|| format!("fill {}", path.display()))?;
        Ok(folder)
    }

    fn make(&self) -> Result<()> {
        let owner = fs::metadata(&self.path)?;
        let file = |path: PathBuf, content: &[u8]| -> Result<()> {
            fs::write(&path, content)?;
            give(&path, &owner)
        };
        let folder = |path: &Path| -> Result<()> {
            fs::create_dir(path)?;
            give(path, &owner)
        };
        file(self.path.join("data"), &vec![7; DATA])?;
        file(self.path.join("known"), b"known")?;
        file(self.path.join("small"), &[7; 4096])?;
        folder(&self.path.join("work"))?;
        folder(&self.path.join("walk"))?;
        for number in 0..WALK.0 {
            let path = self.path.join("walk").join(format!("d{number}"));
            folder(&path)?;
            for name in 0..WALK.1 {
                file(path.join(format!("file-{name}")), b"")?;
            }
        }
        folder(&self.path.join("listed"))?;
        for name in 0..LISTED {
            file(
                self.path.join("listed").join(format!("file-{name:05}")),
                b"",
            )?;
        }
        Ok(())
    }
}

/// To the user who owns the share: the daemon may run as that user and not as us.
pub(crate) fn give(path: &Path, owner: &fs::Metadata) -> Result<()> {
    use std::os::unix::fs::MetadataExt as _;
    Ok(std::os::unix::fs::lchown(
        path,
        Some(owner.uid()),
        Some(owner.gid()),
    )?)
}

impl Drop for Folder {
    fn drop(&mut self) {
        for entry in fs::read_dir(&self.path).into_iter().flatten().flatten() {
            // What cannot be removed makes the next run say that the folder is not empty.
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => fs::remove_dir_all(entry.path()).ok(),
                Ok(_) | Err(_) => fs::remove_file(entry.path()).ok(),
            };
        }
    }
}
