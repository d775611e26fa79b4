//! The texts that together are the configuration: the user's own file, and what `sharectl up --project`
//! accepted of repositories, a file each in the folder beside it.
//!
//! The user's file is never written for a project, so taking a project away leaves it as it was by every byte.

use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::problem::{ConfigErrors, Problem};
use crate::names::ProjectName;

/// Thousands of guests fit; a device or a disk image named by mistake does not.
const LARGEST_FILE: u64 = 8 << 20;
/// A project names a handful of folders and ports.
pub const LARGEST_PROJECT: u64 = 64 << 10;
/// Projects that are up at a time.
pub const MOST_PROJECTS: usize = 64;

/// All texts, as they were at one look.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Texts {
    /// The user's file; none where it is not there.
    pub main: Option<String>,
    /// What was accepted of projects, in the order of their names.
    pub projects: Vec<ProjectText>,
}

/// What was accepted of one project.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProjectText {
    /// By which it is taken away.
    pub name: ProjectName,
    /// Where the text is, for messages.
    pub file: PathBuf,
    /// The project's own file, with the table `[project]` behind it.
    pub text: String,
}

/// The folder of accepted projects that belongs to a configuration file: `config.toml` has `config.projects.d`.
#[must_use]
pub fn projects_folder(config: &Path) -> PathBuf {
    config.with_extension("projects.d")
}

impl Texts {
    /// Reads the file at `path` and the projects beside it.
    ///
    /// # Errors
    /// When one of them cannot be read, is too large, or is not UTF-8.
    pub fn read(path: &Path) -> Result<Self, ConfigErrors> {
        Ok(Self {
            main: read_text(path, LARGEST_FILE)?,
            projects: read_projects(&projects_folder(path))?,
        })
    }

    /// `main` as if it were the file at `path`, with the projects beside that.
    ///
    /// # Errors
    /// As [`Texts::read`].
    pub fn read_around(main: impl Into<String>, path: &Path) -> Result<Self, ConfigErrors> {
        Ok(Self {
            main: Some(main.into()),
            projects: read_projects(&projects_folder(path))?,
        })
    }

    /// A text alone.
    #[must_use]
    pub fn of_main(text: impl Into<String>) -> Self {
        Self {
            main: Some(text.into()),
            projects: Vec::new(),
        }
    }

    /// All in one text, for [`Texts::unpack`].
    #[must_use]
    pub fn pack(&self) -> String {
        // Strings and paths that are UTF-8 (`name_of`) have a form in JSON.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// What [`Texts::pack`] made; none where it is something else.
    #[must_use]
    pub fn unpack(packed: &str) -> Option<Self> {
        serde_json::from_str(packed).ok()
    }

    /// What differs from `new`, as unified diffs; `path` is what the user's file is called in them.
    #[must_use]
    pub fn diff(&self, new: &Self, path: &Path) -> String {
        let mut out = differences(
            self.main.as_deref().unwrap_or_default(),
            new.main.as_deref().unwrap_or_default(),
            path,
        );
        let text_of = |texts: &Self, name: &ProjectName| {
            let found = texts.projects.iter().find(|project| project.name == *name);
            found
                .map(|project| project.text.clone())
                .unwrap_or_default()
        };
        let mut known: Vec<&ProjectText> = self.projects.iter().chain(&new.projects).collect();
        known.sort_by_key(|project| &project.name);
        known.dedup_by_key(|project| &project.name);
        for ProjectText { name, file, .. } in known {
            out.push_str(&differences(
                &text_of(self, name),
                &text_of(new, name),
                file,
            ));
        }
        out
    }
}

/// The unified diff of two texts with one line around each change; empty where they are equal.
#[must_use]
pub fn differences(old: &str, new: &str, file: &Path) -> String {
    if old == new {
        return String::new();
    }
    let file = file.display().to_string();
    let diff = similar::TextDiff::from_lines(old, new);
    diff.unified_diff()
        .context_radius(1)
        .header(&file, &file)
        .to_string()
}

fn read_projects(folder: &Path) -> Result<Vec<ProjectText>, ConfigErrors> {
    let failed = |error| {
        whole(
            folder,
            format!("cannot read the accepted projects: {error}"),
        )
    };
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        Err(error) => return Err(failed(error)),
    };
    let mut projects = Vec::new();
    for entry in entries {
        let file = entry.map_err(failed)?.path();
        // Others are what an editor or a write that broke off left behind.
        let Some(name) = name_of(&file) else {
            continue;
        };
        // Taken away since the folder was listed.
        let Some(text) = read_text(&file, LARGEST_PROJECT)? else {
            continue;
        };
        projects.push(ProjectText { name, file, text });
        if projects.len() > MOST_PROJECTS {
            return Err(whole(
                folder,
                format!("more than {MOST_PROJECTS} projects are up; sharectl down --project --all"),
            ));
        }
    }
    projects.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(projects)
}

fn name_of(file: &Path) -> Option<ProjectName> {
    if file.extension()? != "toml" {
        return None;
    }
    ProjectName::parse(file.file_stem()?.to_str()?).ok()
}

/// The text of the file at `path`; none if it is not there.
///
/// # Errors
/// When it cannot be read, has more than `most` bytes, or is not UTF-8.
pub fn read_text(path: &Path, most: u64) -> Result<Option<String>, ConfigErrors> {
    let failed = |error| whole(path, format!("cannot read the configuration: {error}"));
    let mut bytes = Vec::new();
    match std::fs::File::open(path) {
        Ok(file) => drop(
            file.take(most + 1)
                .read_to_end(&mut bytes)
                .map_err(failed)?,
        ),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    }
    if bytes.len() as u64 > most {
        return Err(whole(
            path,
            format!("no configuration is larger than {most} bytes"),
        ));
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        let good = error.utf8_error().valid_up_to();
        let lines = error.as_bytes().iter().take(good);
        let line = 1 + lines.filter(|byte| **byte == b'\n').count();
        ConfigErrors::one(path, Some(line), "this line is not UTF-8")
    })?;
    Ok(Some(text))
}

fn whole(path: &Path, message: String) -> ConfigErrors {
    ConfigErrors::one(path, None, message)
}

impl ConfigErrors {
    /// One mistake.
    #[must_use]
    pub fn one(file: &Path, line: Option<usize>, message: impl Into<String>) -> Self {
        Self {
            file: file.to_owned(),
            problems: vec![Problem {
                file: None,
                line,
                message: message.into(),
                hint: None,
            }],
        }
    }
}
