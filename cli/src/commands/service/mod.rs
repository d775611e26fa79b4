//! `sharectl service`: the daemons as units of systemd.

mod install;
mod logs;
mod remove;
mod status;
mod units;

use std::process::ExitCode;

use clap::Subcommand;

use crate::context::Context;
use crate::error::Outcome;

pub(crate) use install::Installation;
pub(crate) use remove::RemovedService;
pub(crate) use status::Row;
pub(crate) use units::WrittenUnits;

/// The daemons as systemd units: install, remove, look at them
#[derive(Debug, Subcommand)]
#[command(after_help = "Example:\n  sharectl service install")]
pub(crate) enum Command {
    Install(install::Args),
    Remove(remove::Args),
    Status(status::Args),
    Logs(logs::Args),
    Units(units::Args),
}

impl Command {
    pub(crate) fn run(self, context: &Context) -> Outcome<ExitCode> {
        let done = |()| ExitCode::SUCCESS;
        match self {
            Self::Install(args) => install::run(context, args).map(done),
            Self::Remove(args) => remove::run(context, args).map(done),
            Self::Status(args) => status::run(context, args),
            Self::Logs(args) => logs::run(context, args).map(done),
            Self::Units(args) => units::run(context, args).map(done),
        }
    }
}
