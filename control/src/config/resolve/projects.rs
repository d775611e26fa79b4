//! Projects: which text is whose, and that none reaches beyond its own folder unless that was accepted.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use super::super::problem::{Findings, Part};
use super::super::raw::{At, RawProject, RawShare, Table};
use super::super::{Guest, Project, Share, Texts};
use crate::names::{GuestName, ProjectName, ShareName};
use crate::port::{HostSide, PortSpec};

/// A project as it was accepted.
pub(super) struct RawAccepted {
    name: ProjectName,
    file: PathBuf,
    /// Absolute.
    pub(super) folder: PathBuf,
    pub(super) outside: bool,
    pub(super) guest: At<String>,
    pub(super) shares: Table<RawShare>,
    /// Without its shares.
    pub(super) raw: RawProject,
}

impl RawAccepted {
    /// What it is called in messages.
    pub(super) fn owner(&self) -> String {
        format!("project \"{}\" ({})", self.name, self.folder.display())
    }

    /// A folder of the project: relative to its own, and inside of that unless more was accepted.
    pub(super) fn folder_of(
        &self,
        raw: &At<String>,
        owner: &str,
        findings: &mut Findings<'_>,
    ) -> Option<PathBuf> {
        let text = raw.value();
        let path = below(&self.folder, text).filter(|path| path != Path::new("/"));
        let Some(path) = path else {
            findings.add(
                Some(raw.offset()),
                format!(
                    "{owner}: path \"{}\" is not a path from the project's folder",
                    text.escape_debug()
                ),
                "write it like \".\" or \"data\"",
            );
            return None;
        };
        if !self.outside && !path.starts_with(&self.folder) {
            findings.add(
                Some(raw.offset()),
                format!("{owner}: {} is outside of the project's folder", path.display()),
                "share a folder of the project, or accept it: sharectl up --project --allow-outside",
            );
            return None;
        }
        Some(path)
    }
}

/// `text` from `folder` on, by its words alone; none where it has what no path here may have.
fn below(folder: &Path, text: &str) -> Option<PathBuf> {
    if text.is_empty() || text.contains(['\0', '\n', '\r']) {
        return None;
    }
    let mut path = PathBuf::new();
    for part in folder.join(text).components() {
        match part {
            // The folder above / is / (POSIX, path resolution).
            Component::ParentDir => drop(path.pop()),
            Component::CurDir => {}
            Component::Prefix(_) | Component::RootDir | Component::Normal(_) => path.push(part),
        }
    }
    Some(path)
}

/// All texts behind one another, and where each begins. A project's text is read with as many spaces in front
/// as there are bytes before it, so that the places of its values are those in the whole.
pub(super) fn join(texts: &Texts) -> (String, Vec<Part>) {
    let mut whole = texts.main.clone().unwrap_or_default();
    let mut parts = Vec::new();
    for project in &texts.projects {
        whole.push('\n');
        parts.push(Part {
            start: whole.len(),
            file: project.file.clone(),
            hint: format!(
                "take the project away: sharectl down --project {}",
                project.name
            ),
        });
        whole.push_str(&project.text);
    }
    (whole, parts)
}

/// What was accepted, in the order of the texts; what is no project's text becomes a finding.
pub(super) fn read(texts: &Texts, findings: &mut Findings<'_>) -> Vec<RawAccepted> {
    let mut start = texts.main.as_ref().map_or(0, String::len);
    let mut read = Vec::new();
    for project in &texts.projects {
        start += 1;
        let placed = format!("{}{}", " ".repeat(start), project.text);
        let here = start;
        start += project.text.len();
        let mut raw: RawProject = match toml::from_str(&placed) {
            Ok(raw) => raw,
            Err(error) => {
                let offset = error.span().map_or(here, |span| span.start.max(here));
                let hint = "sharectl config schema --project lists every key";
                findings.add(Some(offset), error.message().trim(), hint);
                continue;
            }
        };
        let Some(accepted) = raw.project.take() else {
            let message = format!(
                "project \"{}\" has no table [project]: nobody accepted it",
                project.name
            );
            findings.add(Some(here), message, "");
            continue;
        };
        let folder = PathBuf::from(accepted.folder.value());
        if !folder.is_absolute() {
            let message = format!(
                "project \"{}\": folder {} is not absolute",
                project.name,
                folder.display()
            );
            findings.add(Some(accepted.folder.offset()), message, "");
            continue;
        }
        let shares = std::mem::take(&mut raw.share);
        read.push(RawAccepted {
            name: project.name.clone(),
            file: project.file.clone(),
            folder,
            outside: accepted.outside,
            guest: accepted.guest,
            shares: shares
                .into_iter()
                .map(|(key, share)| (key, share.into_share()))
                .collect(),
            raw,
        });
    }
    read
}

/// A socket is a file that the daemon makes and removes: of a project, only in its own folder.
pub(super) fn check_sockets(
    project: &RawAccepted,
    ports: &[PortSpec],
    findings: &mut Findings<'_>,
) {
    let foreign = ports.iter().find_map(|port| match &port.host {
        HostSide::Unix(path) if !project.outside && !path.starts_with(&project.folder) => {
            Some(path)
        }
        HostSide::Unix(_) | HostSide::Ports { .. } => None,
    });
    if let (Some(path), Some(first)) = (foreign, project.raw.ports.first()) {
        findings.add(
            Some(first.offset()),
            format!(
                "{}: the socket {} is outside of the project's folder",
                project.owner(),
                path.display()
            ),
            "write a path in it, or accept it: sharectl up --project --allow-outside",
        );
    }
}

/// The projects as they take effect.
pub(super) fn accepted(
    projects: &[RawAccepted],
    guests: &BTreeMap<GuestName, Guest>,
    shares: &BTreeMap<ShareName, Share>,
) -> BTreeMap<ProjectName, Project> {
    let accepted = projects.iter().filter_map(|project| {
        let mut all = guests.keys();
        let guest = all.find(|guest| guest.as_str() == project.guest.value())?;
        let texts = |texts: &[At<String>]| -> Vec<String> {
            texts.iter().map(|text| text.value().clone()).collect()
        };
        let ports = texts(&project.raw.ports);
        let names = texts(&project.raw.names);
        let mine = |name: &&ShareName| {
            let mut keys = project.shares.keys();
            keys.any(|key| key.value() == name.as_str())
        };
        let accepted = Project {
            name: project.name.clone(),
            folder: project.folder.clone(),
            file: project.file.clone(),
            guest: guest.clone(),
            ports: ports.iter().filter_map(|text| text.parse().ok()).collect(),
            names: names.iter().filter_map(|text| text.parse().ok()).collect(),
            shares: shares.keys().filter(mine).cloned().collect(),
            outside: project.outside,
        };
        Some((project.name.clone(), accepted))
    });
    accepted.collect()
}
