//! `sharectl host writer`: the part that is root's, which writes /etc/hosts for ordinary users.

use std::process::Stdio;

use clap::{Subcommand, ValueEnum};
use control::api::HostsFileStatus;
use control::paths::Daemon;

use super::once::round;
use super::writer_install;
use crate::context::Context;
use crate::daemons;
use crate::error::{CliError, Outcome};
use crate::output::or_dash;
use schemars::JsonSchema;
use serde::Serialize;

/// The service that writes /etc/hosts for ordinary users
#[derive(Debug, Subcommand)]
#[command(
    after_help = "Example:\n  sudo sharectl host writer install\n  sharectl host writer status"
)]
pub(crate) enum Command {
    Status(StatusArgs),
    Unit(UnitArgs),
    Install(writer_install::Args),
}

impl Command {
    pub(crate) fn run(self, context: &Context) -> Outcome {
        match self {
            Self::Status(args) => status(context, args),
            Self::Unit(args) => print(context, args),
            Self::Install(args) => writer_install::run(context, args),
        }
    }
}

/// Show how each hosts file would be written, and what this user may have there
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  sharectl host writer status")]
pub(crate) struct StatusArgs {}

/// Print the units of systemd that run the writer, or a policy to begin with
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  sharectl host writer unit service\n  sharectl host writer unit policy | sudo tee /etc/sharectl/hosts.toml"
)]
pub(crate) struct UnitArgs {
    /// Which
    what: Unit,
}

/// A file for the hosts writer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Unit {
    /// sharectl-hosts.socket: where users' daemons ask
    Socket,
    /// sharectl-hosts.service: the writer, confined
    Service,
    /// /etc/sharectl/hosts.toml: who may have which names
    Policy,
}

impl Unit {
    fn word(self) -> &'static str {
        match self {
            Self::Socket => "socket",
            Self::Service => "service",
            Self::Policy => "policy",
        }
    }
}

fn status(context: &Context, _: StatusArgs) -> Outcome {
    let files: Vec<HostsFileStatus> = round(context, "files")?;
    context
        .out
        .list(&["FILE", "WRITTEN", "NAMES", "NOTES"], &files, |file| {
            let notes = file.problem.iter().chain(&file.notes).cloned();
            vec![
                file.file.display().to_string(),
                file.way.clone(),
                file.names.to_string(),
                or_dash(notes.collect::<Vec<_>>().join("; ")),
            ]
        })
}

/// The text that was asked for, by its kind.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum WriterUnit {
    Socket(String),
    Service(String),
    Policy(String),
}

impl WriterUnit {
    fn of(what: Unit, text: String) -> Self {
        match what {
            Unit::Socket => Self::Socket(text),
            Unit::Service => Self::Service(text),
            Unit::Policy => Self::Policy(text),
        }
    }
}

fn print(context: &Context, args: UnitArgs) -> Outcome {
    let text = text(context, args.what.word())?;
    if context.out.is_json() {
        return context.out.json(&WriterUnit::of(args.what, text));
    }
    context.out.text(&text)
}

/// One of the texts that hostsync keeps.
pub(super) fn text(context: &Context, word: &str) -> Outcome<String> {
    let output = daemons::command(context, Daemon::Hostsync)?
        .args(["unit", word])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .output();
    let failed = |why: String| {
        CliError::failure(
            format!(
                "{} does not print its {word}: {why}",
                Daemon::Hostsync.program()
            ),
            "install all programs of one version in one folder",
        )
    };
    let output = output.map_err(|error| failed(error.to_string()))?;
    if !output.status.success() {
        return Err(failed(
            String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        ));
    }
    String::from_utf8(output.stdout).map_err(|error| failed(error.to_string()))
}
