//! Projects: what a repository's `sharectl.toml` asks for is accepted by `up --project` and taken away by
//! `down --project`. The user's own configuration is never written for one.

use std::fs;
use std::io::{self, BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};

use control::config::{
    Acceptance, Config, LARGEST_PROJECT, PROJECT_FILE, ProjectText, Surroundings, Texts,
    differences, guest_of, own_text, projects_folder, read_text,
};
use control::names::{GuestName, ProjectName};
use control::paths::Daemon;
use control::translation::quoted;
use schemars::JsonSchema;
use serde::Serialize;

use crate::context::Context;
use crate::edit;
use crate::error::{CliError, Outcome};
use crate::output::printable;
use crate::rehearsal::Step;
use crate::suggest::nearest;

/// A longer name than this leaves no room for a number behind it.
const LONGEST_STEM: usize = 27;

/// How a project is accepted.
#[derive(Debug, Clone)]
pub(crate) struct Wish {
    /// Its folder; none: the current one, or the nearest above it that has a project's file.
    pub folder: Option<PathBuf>,
    /// Nobody is asked.
    pub yes: bool,
    /// Its shares and sockets may lie outside of its folder.
    pub outside: bool,
}

/// A project that is up.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Up {
    pub name: ProjectName,
    pub folder: PathBuf,
    /// Where what was accepted is kept.
    pub file: PathBuf,
    /// Whether this changed anything.
    pub changed: bool,
}

/// Accepts what a repository asks for. Under `--dry-run` it is only noted.
pub(crate) fn up(context: &Context, wish: &Wish) -> Outcome<Up> {
    let folder = find(wish.folder.as_deref())?;
    let source = folder.join(PROJECT_FILE);
    let Some(text) = read_text(&source, LARGEST_PROJECT)? else {
        return Err(CliError::failure(
            format!("there is no {}", source.display()),
            "name the project's folder: sharectl up --project FOLDER",
        ));
    };
    let config = &context.paths.config;
    let mut texts = Texts::read(config)?;
    let guest = match guest_of(&text, &source)? {
        Some(guest) => guest,
        None => only_guest(context, &source)?,
    };
    let known = texts
        .projects
        .iter()
        .position(|project| folder_of(project).as_deref() == Some(&folder));
    let name = match known.and_then(|at| texts.projects.get(at)) {
        Some(project) => project.name.clone(),
        None => new_name(&folder, &texts)?,
    };
    let file = projects_folder(config).join(format!("{name}.toml"));
    let old = known
        .map(|at| texts.projects.remove(at).text)
        .unwrap_or_default();
    let acceptance = Acceptance {
        folder: folder.clone(),
        guest,
        outside: wish.outside,
    };
    let new = acceptance.text(&text);
    let mut up = Up {
        name: name.clone(),
        folder,
        file: file.clone(),
        changed: old != new,
    };
    if !up.changed {
        return Ok(up);
    }
    // Mistakes are told with the lines of the repository's own file.
    texts.projects.push(ProjectText {
        name,
        file: source,
        text: new.clone(),
    });
    texts
        .projects
        .sort_by(|one, other| one.name.cmp(&other.name));
    let merged = Config::of_texts(&texts, config, &Surroundings::of_process())
        .map_err(|errors| CliError::failure(errors.to_string(), "nothing was accepted"))?;
    if context.is_rehearsal() {
        context.would(Step::write(&file, &old, &new));
        return Ok(up);
    }
    if !wish.yes && !is_accepted(&up, &old, &text, &merged)? {
        context.out.note("nothing was accepted");
        up.changed = false;
        return Err(CliError::failure(
            "nothing was accepted",
            "answer y, or give --yes",
        ));
    }
    edit::replace(&file, new.as_bytes(), None).map_err(|error| {
        CliError::failure(
            format!("cannot write {}: {error}", file.display()),
            "the folder must be writable, for what was accepted is kept there",
        )
    })?;
    Ok(up)
}

/// Takes projects away; gives their names.
pub(crate) fn down(context: &Context, what: Option<&str>, all: bool) -> Outcome<Vec<ProjectName>> {
    let config = &context.paths.config;
    let texts = Texts::read(config)?;
    let gone: Vec<&ProjectText> = if all {
        texts.projects.iter().collect()
    } else {
        vec![one(&texts, what)?]
    };
    for project in &gone {
        if context.is_rehearsal() {
            context.would(Step::write(&project.file, &project.text, ""));
            continue;
        }
        match fs::remove_file(&project.file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(CliError::failure(
                    format!("cannot remove {}: {error}", project.file.display()),
                    "is its folder yours to write?",
                ));
            }
            Ok(()) | Err(_) => {}
        }
    }
    if !context.is_rehearsal() {
        // Only where it is empty now.
        fs::remove_dir(projects_folder(config)).ok();
    }
    context.reload(&Daemon::ALL)?;
    Ok(gone.iter().map(|project| project.name.clone()).collect())
}

/// The project that is meant: by its name, its folder, or the current folder.
fn one<'t>(texts: &'t Texts, what: Option<&str>) -> Outcome<&'t ProjectText> {
    let all = || texts.projects.iter();
    let by_folder =
        |folder: &Path| all().find(|project| folder_of(project).as_deref() == Some(folder));
    let found = match what {
        Some(word) => {
            let by_name = all().find(|project| project.name.as_str() == word);
            by_name.or_else(|| {
                // A folder may be gone by now.
                let folder = fs::canonicalize(word).or_else(|_| std::path::absolute(word));
                by_folder(&folder.ok()?)
            })
        }
        None => {
            let here = fs::canonicalize(".").unwrap_or_default();
            here.ancestors().find_map(by_folder)
        }
    };
    found.ok_or_else(|| {
        let (said, near) = match what {
            Some(word) => (
                format!("no project \"{word}\" is up"),
                nearest(word, all().map(|project| project.name.as_str())),
            ),
            None => (
                "no project is up that this folder belongs to".to_owned(),
                None,
            ),
        };
        let names: Vec<&str> = all().map(|project| project.name.as_str()).collect();
        let hint = match (near, names.is_empty()) {
            (Some(near), _) => format!("did you mean \"{near}\"?"),
            (None, true) => "none is; sharectl up --project accepts one".to_owned(),
            (None, false) => format!("those that are: {}", names.join(", ")),
        };
        CliError::failure(said, hint)
    })
}

/// Where the accepted text says that the project is.
fn folder_of(project: &ProjectText) -> Option<PathBuf> {
    let document: toml_edit::DocumentMut = project.text.parse().ok()?;
    let folder = document.get("project")?.get("folder")?.as_str()?;
    Some(PathBuf::from(folder))
}

/// The project's folder, without symbolic links: that of `named`, or the nearest from here up to the user's home.
fn find(named: Option<&Path>) -> Outcome<PathBuf> {
    let start = named.unwrap_or_else(|| Path::new("."));
    let folder = start.canonicalize().map_err(|error| {
        CliError::failure(
            format!("{}: {error}", start.display()),
            "name the project's folder: sharectl up --project FOLDER",
        )
    })?;
    if named.is_some() {
        return Ok(folder);
    }
    let home = std::env::var_os("HOME").and_then(|home| Path::new(&home).canonicalize().ok());
    let above = folder
        .ancestors()
        .take_while(|folder| *folder == start || Some(*folder) != home.as_deref());
    for folder in above {
        if folder.join(PROJECT_FILE).is_file() {
            return Ok(folder.to_owned());
        }
    }
    Err(CliError::failure(
        format!(
            "there is no {PROJECT_FILE} in {} or above",
            folder.display()
        ),
        "name the project's folder: sharectl up --project FOLDER",
    ))
}

fn only_guest(context: &Context, source: &Path) -> Outcome<String> {
    let config = context.config()?;
    let mut guests = config.guests.keys();
    match (guests.next(), guests.next()) {
        (Some(guest), None) => Ok(guest.to_string()),
        (None, _) => Err(CliError::failure(
            format!(
                "{} is for a guest, and none is configured",
                source.display()
            ),
            "add one: sharectl guest add dev",
        )),
        (Some(_), Some(_)) => {
            let all: Vec<&str> = config.guests.keys().map(GuestName::as_str).collect();
            Err(CliError::failure(
                format!(
                    "{} does not say for which guest it is, and there are: {}",
                    source.display(),
                    all.join(", ")
                ),
                format!("write into it: guest = \"{}\"", all[0]),
            ))
        }
    }
}

/// After the folder; a number makes it another than those that are up.
fn new_name(folder: &Path, texts: &Texts) -> Outcome<ProjectName> {
    let called = folder.file_name().unwrap_or_default().to_string_lossy();
    let mut stem: String = called
        .to_lowercase()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .take(LONGEST_STEM)
        .collect();
    stem = stem.trim_matches('-').to_owned();
    if stem.is_empty() {
        stem = "project".to_owned();
    }
    let numbered = (2..=999).map(|number| format!("{stem}-{number}"));
    let mut names = std::iter::once(stem.clone()).chain(numbered);
    let is_taken = |name: &String| {
        let mut taken = texts.projects.iter();
        taken.any(|project| project.name.as_str() == name)
    };
    let name = names.find(|name| !is_taken(name)).unwrap_or_default();
    ProjectName::parse(&name).map_err(|error| {
        CliError::failure(
            format!("no name can be made for {}: {error}", folder.display()),
            "call the folder by letters and digits",
        )
    })
}

/// Shows what it asks for, and asks.
fn is_accepted(up: &Up, old: &str, text: &str, merged: &Config) -> Outcome<bool> {
    if !io::stdin().is_terminal() {
        return Err(CliError::usage(
            format!(
                "nothing was accepted of {}: there is no terminal to ask on",
                up.folder.join(PROJECT_FILE).display()
            ),
            "--yes accepts it, --dry-run only shows it",
        ));
    }
    let mut err = io::stderr();
    let shown = match old {
        "" => asked_for(up, merged),
        old => differences(own_text(old), text, &up.folder.join(PROJECT_FILE)),
    };
    write!(
        err,
        "{}accept this for project {}? [y/N] ",
        printable(&shown),
        up.name
    )?;
    err.flush()?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// What a project adds, a line each.
fn asked_for(up: &Up, merged: &Config) -> String {
    let Some(project) = merged.projects.get(&up.name) else {
        return String::new();
    };
    let mut lines = vec![format!(
        "{} asks for guest {}:",
        up.folder.display(),
        project.guest
    )];
    for share in &project.shares {
        let Some(share) = merged.shares.get(share) else {
            continue;
        };
        let mode = if share.read_only { ", read-only" } else { "" };
        lines.push(format!(
            "  share  {} at {}{mode}",
            share.path.display(),
            share.at.display()
        ));
    }
    lines.extend(project.ports.iter().map(|port| format!("  port   {port}")));
    lines.extend(project.names.iter().map(|name| format!("  name   {name}")));
    lines.iter().map(|line| format!("{line}\n")).collect()
}

/// How it is taken away again.
pub(crate) fn removal(name: &ProjectName) -> String {
    format!("sharectl down --project {}", quoted(name.as_str()))
}
