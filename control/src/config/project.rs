//! Projects: what a repository's `sharectl.toml` asks for, and what of it was accepted.
//!
//! A repository is not trusted. What it asks for takes effect when a person has accepted it by
//! `sharectl up --project`, and then as it was at that time: the accepted text is kept beside the
//! configuration, and what changes in the repository afterwards changes nothing.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::Serialize;

use super::problem::{ConfigErrors, Findings};
use super::raw::RawProject;
use crate::names::{GuestName, HostName, ProjectName, ShareName};
use crate::port::PortSpec;

/// What a project's file is called.
pub const PROJECT_FILE: &str = "sharectl.toml";

/// A project that is up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Project {
    /// By which it is taken away.
    pub name: ProjectName,
    /// Its folder, as it was accepted.
    pub folder: PathBuf,
    /// Where the accepted text is kept.
    pub file: PathBuf,
    /// The guest that its shares, ports and names are for.
    pub guest: GuestName,
    /// The ports that it publishes.
    pub ports: Vec<PortSpec>,
    /// The names that it gives the guest.
    pub names: Vec<HostName>,
    /// Its shares, by their names in [`super::Config::shares`].
    pub shares: Vec<ShareName>,
    /// Whether it may share what is outside of its folder.
    pub outside: bool,
}

/// What is said of a project where it is accepted, beside its own file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acceptance {
    /// The project's folder: absolute, without symbolic links or control characters.
    pub folder: PathBuf,
    /// For which guest.
    pub guest: String,
    /// Shares, sockets and names outside of what is the project's own are allowed.
    pub outside: bool,
}

/// The line between the project's own text and ours.
const BORDER: &str =
    "\n# --- accepted by `sharectl up --project`; what is above is the project's own file ---\n";

impl Acceptance {
    /// The text that is kept: the project's own, and what was said of it.
    #[must_use]
    pub fn text(&self, own: &str) -> String {
        // TOML's basic strings have JSON's escapes (TOML 1.0, String).
        let folder = serde_json::Value::from(self.folder.display().to_string());
        let guest = serde_json::Value::from(self.guest.as_str());
        let outside = self.outside;
        format!("{own}{BORDER}[project]\nfolder = {folder}\nguest = {guest}\noutside = {outside}\n")
    }
}

/// The project's own part of a text that was accepted.
#[must_use]
pub fn own_text(accepted: &str) -> &str {
    accepted
        .rfind(BORDER)
        .and_then(|at| accepted.get(..at))
        .unwrap_or(accepted)
}

/// The guest that a project's file names; none where it leaves that open.
///
/// # Errors
/// When the text is no project's file.
pub fn guest_of(text: &str, file: &Path) -> Result<Option<String>, ConfigErrors> {
    let refused = |offset: Option<usize>, message: &str| {
        let mut findings = Findings::new(text);
        let hint = "sharectl config schema --project lists every key";
        findings.add(offset, message, hint);
        ConfigErrors {
            file: file.to_owned(),
            problems: findings.finish(),
        }
    };
    let raw: RawProject = toml::from_str(text)
        .map_err(|error| refused(error.span().map(|span| span.start), error.message().trim()))?;
    if raw.project.is_some() {
        let at = text.find("[project]");
        let message = "the table [project] is written by sharectl up --project, where it keeps what was accepted";
        return Err(refused(at, message));
    }
    Ok(raw.guest.map(|guest| guest.value().clone()))
}

/// The JSON Schema of a project's file.
#[must_use]
pub fn project_schema() -> serde_json::Value {
    let mut schema = schemars::schema_for!(RawProject);
    schema.insert("title".to_owned(), "sharectl project".into());
    schema.to_value()
}
