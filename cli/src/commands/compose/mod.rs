//! `sharectl compose`: docker compose with bind sources as the guest's engine has them.
//!
//! Compose itself says what its files mean (`config`: variables, relative paths, `extends`, profiles); what has to
//! change is added as one more file, so that the user's own are read by compose as ever, and nothing of theirs is
//! written anywhere. The added file lies in the runtime folder, where it stays for whoever reads the labels of a project.

mod files;
mod model;

use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use control::names::GuestName;
use control::translation::words;

use super::exec::{Change, point_at_engine, replace_this_process, show};
use crate::context::Context;
use crate::docker;
use crate::error::{CliError, Outcome};
use crate::translate::{Host, MachineArgs, bytes, view};

/// What compose says about a project; a thousand services have less.
const LARGEST_MODEL: u64 = 64 << 20;

/// Run docker compose with volumes as a guest has them
///
/// The sources of binds, in any spelling and also relative, become paths of the guest, and so do volumes
/// that are a bind, secrets and configs from files. Build contexts, env_file and everything else that
/// the client reads stay on the host. The compose files are not touched: a file with what is different is
/// added with -f. A source that the guest does not have is refused, not made as an empty folder.
/// DOCKER_HOST is the guest's published engine, if it is not set already.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  sharectl compose up -d\n  sharectl compose --dry-run -f deploy/compose.yml up"
)]
pub(crate) struct Args {
    /// Whose engine and shares; left out, the only guest's
    #[arg(long, value_name = "NAME")]
    guest: Option<GuestName>,
    /// Show what would change, and run nothing; behind -- it is compose's own
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    machine: MachineArgs,
    /// Arguments of docker compose
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        required = true,
        value_name = "ARGUMENT"
    )]
    line: Vec<OsString>,
}

pub(crate) fn run(context: &Context, args: Args) -> Outcome {
    let host = Host::new(args.machine)?;
    let config = host.config(context)?;
    let view = view(context, &config, args.guest.as_ref())?;
    let map = |path: &[u8]| {
        view.to_guest(path, host.base())
            .map(|answer| answer.names.to_linux())
    };
    let line = files::Line::read(&args.line);
    let tool = tool()?;
    let mut changes = Vec::new();
    let mut command = start(&tool);
    let guest = docker::guest(&config, args.guest.as_ref());
    if line.has_no_project() {
        command.args(&args.line);
    } else {
        let said = ask(&tool, &line, context)?;
        let overlay = model::overlay(&said, &map, &mut changes)?;
        command.args(&line.global);
        if let Some(overlay) = &overlay {
            let files = line.files_in_use()?;
            for file in &files {
                command.arg("-f").arg(file);
            }
            // A dry run leaves nothing behind.
            if !args.dry_run {
                command
                    .arg("-f")
                    .arg(files::keep(&context.paths.runtime, files.first(), overlay)?);
            }
        }
        for (index, word) in line.rest.iter().enumerate() {
            let previous = index.checked_sub(1).and_then(|index| line.rest.get(index));
            let is_option = index < line.options_of_run();
            let mapped = match is_option {
                true => words::argument(previous.map(|word| bytes(word)), bytes(word), &map)?,
                false => None,
            };
            match mapped {
                Some((new, rule)) => {
                    let new = crate::translate::text(new);
                    changes.push(Change::new(
                        format!("argument {}", index + 1),
                        rule,
                        word,
                        &new,
                    ));
                    command.arg(new);
                }
                None => drop(command.arg(word)),
            }
        }
    }
    if !line.names_engine() {
        point_at_engine(&mut command, &mut changes, guest);
    }
    if args.dry_run {
        return show(context, &changes);
    }
    Err(replace_this_process(command))
}

/// The words that start compose: the plug-in of docker, or the program of its own.
fn tool() -> Outcome<Vec<OsString>> {
    let plugin = Command::new("docker")
        .args(["compose", "version"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    if plugin.is_ok_and(|status| status.success()) {
        return Ok(vec!["docker".into(), "compose".into()]);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let own = std::env::split_paths(&path).any(|folder| folder.join("docker-compose").is_file());
    if own {
        return Ok(vec!["docker-compose".into()]);
    }
    Err(CliError::failure(
        "neither docker compose nor docker-compose is installed",
        "apt-get install docker-compose, or Docker's package docker-compose-plugin",
    ))
}

fn start(tool: &[OsString]) -> Command {
    let mut words = tool.iter();
    let mut command = Command::new(
        words
            .next()
            .map_or_else(|| OsStr::new("docker"), OsString::as_os_str),
    );
    command.args(words);
    command
}

/// What compose makes of the files. Its complaints go to the terminal, its failure is ours.
fn ask(tool: &[OsString], line: &files::Line, context: &Context) -> Outcome<String> {
    let failed = |error: std::io::Error| {
        CliError::failure(
            format!("cannot ask compose: {error}"),
            "does it run by itself? docker compose config",
        )
    };
    let mut command = start(tool);
    // Without these the old compose takes D:\x for a name; /d/x, which it makes of it, is translated, too.
    command
        .env("COMPOSE_CONVERT_WINDOWS_PATHS", "1")
        .env("COMPOSE_FORCE_WINDOWS_HOST", "1");
    command
        .args(&line.global)
        .arg("config")
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    let mut child = command.spawn().map_err(failed)?;
    let mut said = Vec::new();
    if let Some(out) = child.stdout.take() {
        out.take(LARGEST_MODEL + 1)
            .read_to_end(&mut said)
            .map_err(failed)?;
    }
    if said.len() as u64 > LARGEST_MODEL {
        child.kill().map_err(failed)?;
        return Err(CliError::failure(
            "compose says more than 64 MiB about this project",
            "split it",
        ));
    }
    let status = child.wait().map_err(failed)?;
    if !status.success() {
        let shown = context.paths.config.display();
        return Err(CliError::failure(
            format!("compose cannot read its files: {status}"),
            format!("mend what it says above; shares come from {shown}"),
        ));
    }
    String::from_utf8(said).map_err(|_| {
        failed(std::io::Error::new(
            std::io::ErrorKind::InvalidData,
            "its answer is not UTF-8",
        ))
    })
}

/// Compose files, as they are named.
type Files = Vec<PathBuf>;
