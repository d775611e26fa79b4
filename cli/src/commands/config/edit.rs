//! `sharectl config edit`: the file in an editor, and in its place only when it is good.
//!
//! The user edits a copy beside the file. So what runs goes on with the old text however long that takes, an
//! editor that crashes loses nothing, and a change that somebody else made meanwhile is seen.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufRead, IsTerminal, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

use control::config::{Config, Surroundings};
use control::paths::Daemon;
use control::translation::quoted;
use tokio::signal::unix::{SignalKind, signal};

use crate::commands::init;
use crate::context::Context;
use crate::edit::{self, Exchanged};
use crate::error::{CliError, Outcome};
use schemars::JsonSchema;
use serde::Serialize;

/// A larger file is no configuration.
const LARGEST: u64 = 16 << 20;

/// Edit the configuration; it takes effect only if it is good
///
/// The editor is $VISUAL, else $EDITOR, else editor, nano or vi. It has a copy: the file changes when the
/// editor has ended and what it wrote is a good configuration, and the daemons that run follow at once. With
/// mistakes in it you are asked whether to edit again; what you wrote is never thrown away without a word of yours.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  sharectl config edit\n  EDITOR='code --wait' sharectl config edit"
)]
pub(crate) struct Args {}

/// What became of the file.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Edited<'c> {
    config: &'c Path,
    changed: bool,
}

pub(crate) fn run(context: &Context, _: Args) -> Outcome {
    let path = &context.paths.config;
    let old = read(path)?;
    let begin = match &old {
        Some(text) => text.clone(),
        None => init::template(context)?.1,
    };
    if context.is_rehearsal() {
        context.would_act(format!("open a copy of {} in {}", path.display(), editor()));
        return Ok(());
    }
    let copy = Copy::make(path, &begin)?;
    loop {
        let status = open(context, &copy.path)?;
        let text = copy.read()?;
        if !status.success() {
            return Err(copy.kept(
                text != begin,
                format!("{}: {status}; the configuration is unchanged", editor()),
                "does the editor run? EDITOR=nano sharectl config edit",
            ));
        }
        if text == begin {
            copy.remove();
            return context.out.done(
                "nothing was changed",
                &Edited {
                    config: path,
                    changed: false,
                },
            );
        }
        match Config::parse(&text, path, &Surroundings::of_process()) {
            Ok(config) => {
                put(context, &copy, old.as_deref(), &text)?;
                if let Some(missing) = config.missing_folders(path) {
                    context.out.warning(&missing.to_string());
                }
                context.reload(&Daemon::ALL)?;
                let sentence = format!("{} changed", path.display());
                return context.out.done(
                    &sentence,
                    &Edited {
                        config: path,
                        changed: true,
                    },
                );
            }
            Err(errors) => {
                let errors = CliError::from(errors);
                if !is_at_terminal() {
                    let hint = errors.hint.clone().unwrap_or_default();
                    return Err(copy.kept(true, errors.message, &hint));
                }
                crate::output::report(&errors);
                if !again(&copy.path)? {
                    return Err(copy.kept(
                        true,
                        "the configuration is unchanged".to_owned(),
                        "edit it again: sharectl config edit",
                    ));
                }
            }
        }
    }
}

/// None: there is no file yet.
fn read(path: &Path) -> Outcome<Option<String>> {
    match File::open(path).and_then(|file| read_all(&file)) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(CliError::failure(
            format!("cannot read {}: {error}", path.display()),
            "is it yours to read? --config names another file",
        )),
    }
}

fn read_all(file: &File) -> io::Result<String> {
    let mut bytes = Vec::new();
    file.take(LARGEST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LARGEST {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            "it has more than 16 MiB",
        ));
    }
    String::from_utf8(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

fn put(context: &Context, copy: &Copy, old: Option<&str>, text: &str) -> Outcome {
    let path = &context.paths.config;
    match edit::exchange(path, old, text) {
        Ok(Exchanged::Done) => {
            copy.remove();
            Ok(())
        }
        Ok(Exchanged::ChangedMeanwhile) => {
            let kept = copy.kept(
                true,
                format!("{} was changed while you edited it", path.display()),
                "",
            );
            Err(CliError::conflict(
                kept.message,
                format!(
                    "bring both together: diff {} {}",
                    quoted(&path.display().to_string()),
                    quoted(&copy.path.display().to_string())
                ),
            ))
        }
        Err(error) => Err(copy.kept(
            true,
            format!("cannot write {}: {error}; it is unchanged", path.display()),
            "the folder must be writable, for the new file is made beside the old one",
        )),
    }
}

/// What the editor writes.
struct Copy {
    path: PathBuf,
}

impl Copy {
    /// Its name ends as the file's does, by which editors know the language.
    fn make(config: &Path, text: &str) -> Outcome<Self> {
        let real = config.canonicalize().unwrap_or_else(|_| config.to_owned());
        let name = real.file_name().unwrap_or_default().to_os_string();
        let mut new = OsString::from(format!(".edit-{}-", std::process::id()));
        new.push(name);
        let path = real.with_file_name(new);
        let make = || {
            if let Some(folder) = path.parent() {
                fs::create_dir_all(folder)?;
            }
            let mut file = File::options()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&path)?;
            file.write_all(text.as_bytes())
        };
        make().map_err(|error| {
            CliError::failure(
                format!("cannot make {}: {error}", path.display()),
                "the folder must be writable, for the copy is made beside the file",
            )
        })?;
        Ok(Self { path })
    }

    fn read(&self) -> Outcome<String> {
        let text = File::open(&self.path).and_then(|file| read_all(&file));
        text.map_err(|error| {
            CliError::failure(
                format!("cannot read {}: {error}", self.path.display()),
                "the configuration is unchanged; edit again: sharectl config edit",
            )
        })
    }

    /// A failure that says where the copy is, if there is something of the user's in it.
    fn kept(&self, is_changed: bool, mut message: String, hint: &str) -> CliError {
        if is_changed {
            message.push_str(&format!("\nwhat you wrote is in {}", self.path.display()));
        } else {
            self.remove();
        }
        CliError::failure(message, hint)
    }

    fn remove(&self) {
        // It is ours alone, and one that stays does no harm.
        fs::remove_file(&self.path).ok();
    }
}

/// Of git(1)'s rules: a command line of the shell's.
fn editor() -> String {
    let named = ["VISUAL", "EDITOR"].map(|name| std::env::var(name).unwrap_or_default());
    let is_there = |program: &&str| {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
    };
    named
        .into_iter()
        .find(|line| !line.trim().is_empty())
        .or_else(|| {
            ["editor", "nano"]
                .iter()
                .find(|p| is_there(p))
                .map(|p| (*p).to_owned())
        })
        .unwrap_or_else(|| "vi".to_owned())
}

/// Runs the editor to its end. Ctrl-C in it is the editor's own business.
fn open(context: &Context, file: &Path) -> Outcome<ExitStatus> {
    let line = editor();
    let run = async {
        let _interrupts = signal(SignalKind::interrupt())?;
        let mut shell = tokio::process::Command::new("sh");
        shell
            .arg("-c")
            .arg(format!("{line} \"$@\""))
            .arg(&line)
            .arg(file);
        shell.status().await
    };
    context.wait(run)?.map_err(|error: io::Error| {
        CliError::failure(
            format!("cannot run the editor {line}: {error}"),
            "name another: EDITOR=nano sharectl config edit",
        )
    })
}

fn is_at_terminal() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// Whether to edit again. No answer is no.
fn again(copy: &Path) -> Outcome<bool> {
    let mut err = io::stderr();
    write!(
        err,
        "edit again? [Y/n] (n leaves it in {}) ",
        copy.display()
    )?;
    err.flush()?;
    let mut answer = String::new();
    let count = io::stdin().lock().read_line(&mut answer)?;
    let answer = answer.trim().to_lowercase();
    Ok(count > 0 && matches!(answer.as_str(), "" | "y" | "yes"))
}
