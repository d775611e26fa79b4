//! `sharectl exec`: a program of the host that works on a guest's engine and files.

use std::ffi::{OsStr, OsString};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use control::names::GuestName;
use control::translation::words::{self, Map};
use schemars::JsonSchema;
use serde::Serialize;

use crate::context::Context;
use crate::docker;
use crate::error::{CliError, Outcome};
use crate::translate::{Host, MachineArgs, bytes, view};

/// Run a program of the host with a guest's engine and paths
///
/// DOCKER_HOST is the guest's published engine, if it is not set already. With --map, paths in
/// arguments and in the environment become the guest's: whole words, behind --option= and NAME=, the
/// source of -v and --mount, each part of A:B. What is in no share stays; a source of -v that would be
/// an empty folder in the guest, and a path that only Windows could mean, are refused. Variables that the program needs
/// on this host (PATH, HOME, DOCKER_..., XDG_...) are left alone. Terminal, signals and exit status are the program's own.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  sharectl exec --map -- docker run --rm -v \"$PWD:/app\" alpine ls /app\n  sharectl exec --map --dry-run -- docker run -v 'D:\\proj:/app' alpine"
)]
pub(crate) struct Args {
    /// Whose engine and shares; left out, the only guest's
    #[arg(long, value_name = "NAME")]
    guest: Option<GuestName>,
    /// Translate paths
    #[arg(long)]
    map: bool,
    /// A variable that keeps its value; may be repeated
    #[arg(long = "keep", value_name = "VARIABLE", requires = "map")]
    kept: Vec<OsString>,
    /// Show what would change and why, and run nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    machine: MachineArgs,
    /// The program and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    line: Vec<OsString>,
}

/// One change of the line or the environment.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Change {
    /// `argument 2`, `variable DATA`.
    pub place: String,
    /// Which rule found the path.
    pub rule: String,
    pub from: String,
    pub to: String,
}

pub(crate) fn run(context: &Context, args: Args) -> Outcome {
    let host = Host::new(args.machine)?;
    let config = host.config(context)?;
    let view = view(context, &config, args.guest.as_ref())?;
    let map = |path: &[u8]| {
        view.to_guest(path, host.base())
            .map(|answer| answer.names.to_linux())
    };
    let Some((program, arguments)) = args.line.split_first() else {
        return Err(CliError::usage(
            "the program to run is missing",
            "write it behind --",
        ));
    };
    let mut command = Command::new(program);
    let mut changes = Vec::new();
    if args.map {
        change_arguments(&mut command, &mut changes, arguments, &map)?;
        for (name, value) in std::env::vars_os().filter(|(name, _)| !args.kept.contains(name)) {
            let place = || format!("variable {}", name.display());
            if let Some((new, rule)) = words::variable(bytes(&name), bytes(&value), &map)
                .map_err(|error| at(place(), error.into()))?
            {
                let new = crate::translate::text(new);
                changes.push(Change::new(place(), rule, &value, &new));
                command.env(&name, new);
            }
        }
    } else {
        command.args(arguments);
    }
    point_at_engine(
        &mut command,
        &mut changes,
        docker::guest(&config, args.guest.as_ref()),
    );
    if args.dry_run {
        return show(context, &changes);
    }
    Err(replace_this_process(command))
}

fn change_arguments(
    command: &mut Command,
    changes: &mut Vec<Change>,
    arguments: &[OsString],
    map: &Map<'_>,
) -> Outcome {
    let mut previous: Option<&OsStr> = None;
    for (index, word) in arguments.iter().enumerate() {
        let place = || format!("argument {}", index + 1);
        let mapped = words::argument(previous.map(bytes), bytes(word), map);
        match mapped.map_err(|error| at(place(), error.into()))? {
            Some((new, rule)) => {
                let new = crate::translate::text(new);
                changes.push(Change::new(place(), rule, word, &new));
                command.arg(new);
            }
            None => drop(command.arg(word)),
        }
        previous = Some(word);
    }
    Ok(())
}

impl Change {
    pub(crate) fn new(
        place: String,
        rule: impl std::fmt::Display,
        from: &OsStr,
        to: &OsStr,
    ) -> Self {
        Self {
            place,
            rule: rule.to_string(),
            from: from.display().to_string(),
            to: to.display().to_string(),
        }
    }
}

/// DOCKER_HOST, unless the user or a context of Docker says where the engine is.
pub(crate) fn point_at_engine(
    command: &mut Command,
    changes: &mut Vec<Change>,
    guest: Option<&control::config::Guest>,
) {
    let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    if set("DOCKER_HOST") || set("DOCKER_CONTEXT") {
        return;
    }
    if let Some(engine) = guest.and_then(docker::host) {
        changes.push(Change::new(
            "variable DOCKER_HOST".to_owned(),
            "engine",
            OsStr::new(""),
            OsStr::new(&engine),
        ));
        command.env("DOCKER_HOST", engine);
    }
}

pub(crate) fn show(context: &Context, changes: &[Change]) -> Outcome {
    if changes.is_empty() && !context.out.is_json() {
        return context.out.text("nothing would change\n");
    }
    context
        .out
        .list(&["WHERE", "RULE", "FROM", "TO"], changes, |change| {
            let from = crate::output::or_dash(change.from.clone());
            vec![
                change.place.clone(),
                change.rule.clone(),
                from,
                change.to.clone(),
            ]
        })
}

fn at(place: String, error: CliError) -> CliError {
    CliError {
        message: format!("{place}: {}", error.message),
        ..error
    }
}

/// Only returns when the program cannot be started.
pub(crate) fn replace_this_process(mut command: Command) -> CliError {
    let error = command.exec();
    let program = Path::new(command.get_program()).display().to_string();
    CliError::failure(
        format!("cannot start {program}: {error}"),
        "is it installed and on the search path?",
    )
}
