//! The command line of compose, the files that it would read, and the file that is added.

use std::ffi::OsString;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};

use control::paths::make_private_folder;

use super::Files;
use crate::error::{CliError, Outcome};
use crate::translate::bytes;

/// Options in front of compose's verb that take a word.
const WITH_WORD: [&str; 19] = [
    "-f",
    "--file",
    "-p",
    "--project-name",
    "--profile",
    "--env-file",
    "--project-directory",
    "--workdir",
    "--ansi",
    "--progress",
    "--parallel",
    "-c",
    "--context",
    "-H",
    "--host",
    "--log-level",
    "--tlscacert",
    "--tlscert",
    "--tlskey",
];
/// In the order in which compose looks for them.
const FILES: [&str; 4] = [
    "compose.yaml",
    "compose.yml",
    "docker-compose.yaml",
    "docker-compose.yml",
];
const OVERRIDES: [&str; 4] = [
    "compose.override.yaml",
    "compose.override.yml",
    "docker-compose.override.yaml",
    "docker-compose.override.yml",
];
/// Verbs that look at no project, or only at what runs by its name.
const WITHOUT_PROJECT: [&str; 7] = ["version", "help", "ls", "--help", "-h", "--version", "-v"];
/// Projects whose added file is kept.
const MOST_KEPT: usize = 64;

/// Compose's command line, cut before its verb.
pub(super) struct Line {
    pub(super) global: Vec<OsString>,
    pub(super) rest: Vec<OsString>,
}

impl Line {
    pub(super) fn read(words: &[OsString]) -> Self {
        let mut words = words.iter().peekable();
        words.next_if(|word| *word == "--");
        let mut global = Vec::new();
        while let Some(word) = words.next_if(|word| {
            bytes(word).starts_with(b"-") && !WITHOUT_PROJECT.iter().any(|verb| word == verb)
        }) {
            global.push(word.clone());
            if WITH_WORD.iter().any(|option| word == option) {
                global.extend(words.next().cloned());
            }
        }
        Self {
            global,
            rest: words.cloned().collect(),
        }
    }

    pub(super) fn has_no_project(&self) -> bool {
        match self.rest.first() {
            Some(verb) => WITHOUT_PROJECT.iter().any(|word| verb == word),
            None => true,
        }
    }

    /// How many words of `run` come before the service's name: what follows is the service's own.
    pub(super) fn options_of_run(&self) -> usize {
        const WITH_WORD: [&str; 18] = [
            "-v",
            "--volume",
            "-e",
            "--env",
            "-l",
            "--label",
            "-p",
            "--publish",
            "-u",
            "--user",
            "-w",
            "--workdir",
            "--name",
            "--entrypoint",
            "--cap-add",
            "--cap-drop",
            "--pull",
            "--env-from-file",
        ];
        if self.rest.first().is_none_or(|verb| verb != "run") {
            return 0;
        }
        let mut count = 1;
        while let Some(word) = self
            .rest
            .get(count)
            .filter(|word| bytes(word).starts_with(b"-"))
        {
            count += if WITH_WORD.iter().any(|option| word == option) {
                2
            } else {
                1
            };
        }
        count
    }

    /// Whether the user says where the engine is.
    pub(super) fn names_engine(&self) -> bool {
        self.global.iter().any(|word| {
            ["--context", "--host"].iter().any(|name| word == name)
                // A short option's word may stand in the same argument.
                || ["--context=", "--host=", "-c", "-H"]
                    .iter()
                    .any(|start| bytes(word).starts_with(start.as_bytes()))
        })
    }

    /// Values of an option, in both ways to write it.
    fn values(&self, long: &str, short: &str) -> Files {
        let mut values = Vec::new();
        let mut words = self.global.iter();
        while let Some(word) = words.next() {
            let behind = bytes(word)
                .strip_prefix(long.as_bytes())
                .and_then(|rest| rest.strip_prefix(b"="));
            if let Some(value) = behind {
                values.push(PathBuf::from(crate::translate::text(value.to_vec())));
            } else if word == long || word == short {
                values.extend(words.next().map(PathBuf::from));
            } else if WITH_WORD.iter().any(|option| word == option) {
                words.next();
            }
        }
        values
    }

    /// The files that have to be named, because one more is: none where the line names them itself.
    pub(super) fn files_in_use(&self) -> Outcome<Files> {
        let named = self.values("--file", "-f");
        if named.iter().any(|file| file == Path::new("-")) {
            return Err(CliError::usage(
                "a compose file on standard input cannot be read twice",
                "write it to a file, and name that with -f",
            ));
        }
        if !named.is_empty() {
            return Ok(Vec::new());
        }
        let folder = self.values("--project-directory", "--workdir").pop();
        let folder = match folder {
            Some(folder) => folder,
            None => std::env::current_dir().map_err(|error| {
                CliError::failure(
                    format!("cannot find the current folder: {error}"),
                    "go to another one",
                )
            })?,
        };
        let mut env_files = self.values("--env-file", "--env-file");
        if env_files.is_empty() {
            env_files.push(folder.join(".env"));
        }
        if let Some(list) = variable(&env_files, "COMPOSE_FILE") {
            let separator =
                variable(&env_files, "COMPOSE_PATH_SEPARATOR").unwrap_or_else(|| ":".to_owned());
            return Ok(list
                .split(&separator)
                .filter(|file| !file.is_empty())
                .map(PathBuf::from)
                .collect());
        }
        let first = |folder: &Path, names: &[&str]| {
            names
                .iter()
                .map(|name| folder.join(name))
                .find(|file| file.is_file())
        };
        for folder in folder.ancestors() {
            if let Some(file) = first(folder, &FILES) {
                return Ok(std::iter::once(file)
                    .chain(first(folder, &OVERRIDES))
                    .collect());
            }
        }
        Err(CliError::failure(
            format!("no compose file is in {} or above", folder.display()),
            "name it: -f FILE",
        ))
    }
}

/// Of the environment, else of the last of the files that has it.
fn variable(files: &[PathBuf], name: &str) -> Option<String> {
    let own = std::env::var(name).ok().filter(|value| !value.is_empty());
    own.or_else(|| files.iter().rev().find_map(|file| line_of(file, name)))
}

fn line_of(file: &Path, name: &str) -> Option<String> {
    let text = std::fs::read_to_string(file).ok()?;
    let mut lines = text.lines().rev();
    let value = lines.find_map(|line| {
        line.trim()
            .strip_prefix(name)?
            .trim_start()
            .strip_prefix('=')
    })?;
    let value = value.trim().trim_matches(['"', '\'']);
    (!value.is_empty()).then(|| value.to_owned())
}

/// Writes the added file of a project, the same for the same project.
pub(super) fn keep(runtime: &Path, project: Option<&PathBuf>, overlay: &str) -> Outcome<PathBuf> {
    let failed = |error: io::Error| {
        CliError::failure(
            format!("cannot write the file to add: {error}"),
            "is the disk full? sharectl doctor",
        )
    };
    let folder = runtime.join("compose");
    make_private_folder(&folder).map_err(failed)?;
    let mut hasher = DefaultHasher::new();
    std::env::current_dir()
        .unwrap_or_default()
        .hash(&mut hasher);
    project.hash(&mut hasher);
    let file = folder.join(format!("{:016x}.json", hasher.finish()));
    crate::edit::replace(&file, overlay.as_bytes(), None).map_err(failed)?;
    forget_oldest(&folder).map_err(failed)?;
    Ok(file)
}

fn forget_oldest(folder: &Path) -> io::Result<()> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        files.push((entry.metadata()?.modified()?, entry.path()));
    }
    files.sort();
    let too_many = files.len().saturating_sub(MOST_KEPT);
    files
        .iter()
        .take(too_many)
        .try_for_each(|(_, file)| std::fs::remove_file(file))
}
