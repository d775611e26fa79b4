//! The `sharectl` command: arguments to a verb, the verb's outcome to an exit
//! code. It holds no state of its own: what is configured stands in the file,
//! what runs is asked of the daemons.
#![allow(
    rustdoc::broken_intra_doc_links,
    reason = "the comments of arguments are help texts, where brackets mean optional"
)]

mod commands;
mod complete;
mod context;
mod daemons;
mod docker;
mod edit;
mod error;
mod import;
mod limited;
mod mounts;
mod output;
mod progress;
mod project;
mod ready;
mod rehearsal;
mod resolver;
mod service;
mod suggest;
mod sys;
mod tap;
mod translate;
mod verbs;
mod vmm;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{FromArgMatches, Parser};
use control::paths::Paths;

use crate::commands::Command;
use crate::context::Context;
use crate::error::{CliError, Outcome};
use crate::output::{Format, Output};

/// Networks, host folders and names for virtual machines, without root.
///
/// Exit codes: 0 done, 1 failed, 2 wrong usage, 3 a daemon is not running,
/// 4 somebody else has it already, 5 what was waited for did not come in time.
#[derive(Debug, Parser)]
#[command(
    name = "sharectl",
    version,
    propagate_version = true,
    arg_required_else_help = true,
    after_help = "Example:\n  sharectl init && sharectl up\n  sharectl guest add dev --name local.test --publish 8080:80\n  sharectl guest run dev -- qemu-system-x86_64 -m 2G disk.qcow2"
)]
struct Cli {
    /// The configuration file, instead of $SHARECTL_CONFIG or ~/.config/sharectl/config.toml
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// How results are written
    #[arg(long, global = true, value_enum, default_value_t = Format::Table)]
    format: Format,
    /// Only names in lists, and no word about what went well
    #[arg(short, long, global = true)]
    quiet: bool,
    #[command(subcommand)]
    command: Command,
}

impl Cli {
    /// The command under the name of wslpath or cygpath.
    fn convert(args: commands::path::ConvertArgs) -> Self {
        Self {
            config: None,
            format: Format::Table,
            quiet: false,
            command: Command::Path(commands::path::Command::Convert(args)),
        }
    }
}

fn main() -> ExitCode {
    let line: Vec<OsString> = std::env::args_os().collect();
    let parsed = match commands::path::run_as(&line) {
        Some(args) => args.map(|args| (Cli::convert(args), false)),
        None => match complete::answered(&line) {
            Some(code) => return code,
            None => parse(line),
        },
    };
    let (cli, rehearsal) = match parsed {
        Ok(parsed) => parsed,
        Err(error) => {
            // Help and version go to standard output and are no failure; a
            // closed pipe there is none either.
            error.print().ok();
            return if error.use_stderr() {
                ExitCode::from(2)
            } else {
                ExitCode::SUCCESS
            };
        }
    };
    match run(cli, rehearsal) {
        Ok(code) => code,
        Err(error) => {
            output::report(&error);
            if error.quiet {
                ExitCode::SUCCESS
            } else {
                ExitCode::from(error.exit as u8)
            }
        }
    }
}

/// The arguments, and whether what they ask for is only to be noted.
fn parse(line: Vec<OsString>) -> Result<(Cli, bool), clap::Error> {
    let matches = verbs::command().try_get_matches_from(line)?;
    let cli = Cli::from_arg_matches(&matches);
    let cli = cli.map_err(|error| error.format(&mut verbs::command()))?;
    Ok((cli, verbs::is_rehearsal(&matches)))
}

fn run(cli: Cli, rehearsal: bool) -> Outcome<ExitCode> {
    // Daemons are started in another folder: what they are told must not depend on this one.
    let flag = cli.config.map(std::path::absolute).transpose();
    let flag =
        flag.map_err(|error| CliError::usage(format!("--config: {error}"), "give it a file name"))?;
    let out = Output {
        format: cli.format,
        quiet: cli.quiet,
        rehearsal,
    };
    let context = Context::new(Paths::from_env(flag), out);
    let code = cli.command.run(&context)?;
    context.show_rehearsal()?;
    Ok(code)
}
