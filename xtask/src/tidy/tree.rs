//! The text files of the workspace, read once.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

/// Folders that hold nothing of ours, at any depth.
const SKIPPED: &[&str] = &["target", ".git"];

/// Endings of the files that rules are about.
const ENDINGS: &[&str] = &["rs", "md", "toml", "sh"];

/// A text file.
#[derive(Debug, Clone)]
pub(super) struct File {
    /// Path relative to the workspace, with slashes.
    pub(super) path: String,
    pub(super) text: String,
}

impl File {
    pub(super) fn is(&self, ending: &str) -> bool {
        self.path.rsplit('.').next() == Some(ending)
    }

    /// The folder it lies in; empty for the workspace itself.
    pub(super) fn folder(&self) -> &str {
        self.path.rsplit_once('/').map_or("", |(folder, _)| folder)
    }
}

/// All of them, and every other path for the question whether it exists.
#[derive(Debug, Default)]
pub(super) struct Tree {
    pub(super) files: Vec<File>,
    paths: Vec<String>,
}

impl Tree {
    pub(super) fn read(root: &Path) -> Result<Self> {
        let mut tree = Self::default();
        tree.add(root, "")?;
        tree.files.sort_by(|a, b| a.path.cmp(&b.path));
        tree.paths.sort();
        Ok(tree)
    }

    #[cfg(test)]
    pub(super) fn of(files: &[(&str, &str)]) -> Self {
        let mut tree = Self::default();
        for (path, text) in files {
            tree.files.push(File {
                path: (*path).to_owned(),
                text: (*text).to_owned(),
            });
            let mut part = *path;
            tree.paths.push(part.to_owned());
            while let Some((folder, _)) = part.rsplit_once('/') {
                tree.paths.push(folder.to_owned());
                part = folder;
            }
        }
        tree.paths.sort();
        tree
    }

    /// Whether a file or folder of this path is there.
    pub(super) fn has(&self, path: &str) -> bool {
        let path = path.trim_end_matches('/');
        self.paths
            .binary_search_by(|known| known.as_str().cmp(path))
            .is_ok()
    }

    fn add(&mut self, root: &Path, folder: &str) -> Result<()> {
        let here = root.join(folder);
        for entry in fs::read_dir(&here).with_context(|| format!("list {}", here.display()))? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if SKIPPED.contains(&name.as_str()) {
                continue;
            }
            let path = if folder.is_empty() {
                name.clone()
            } else {
                format!("{folder}/{name}")
            };
            self.paths.push(path.clone());
            if entry.file_type()?.is_dir() {
                self.add(root, &path)?;
            } else if ENDINGS
                .iter()
                .any(|ending| name.ends_with(&format!(".{ending}")))
            {
                let text = fs::read_to_string(entry.path())
                    .with_context(|| format!("read {path} as UTF-8"))?;
                self.files.push(File { path, text });
            }
        }
        Ok(())
    }
}
