//! `sharectl host`: names in the hosts files.

mod add;
mod diff;
mod dns;
mod ls;
mod mend;
mod once;
mod rm;
mod sync;
mod writer;
mod writer_install;

use clap::Subcommand;

use crate::context::Context;
use crate::error::Outcome;

pub(crate) use add::AddedName;
pub(crate) use dns::{Disabled, Enabled, ResolverSetup};
pub(crate) use ls::{configured, listed};
pub(crate) use once::{round, round_with};
pub(crate) use rm::RemovedName;
pub(crate) use writer::WriterUnit;
pub(crate) use writer_install::{WriterSteps, installed as installed_writer};

/// Names in the hosts files and in DNS: list, add, remove, write, compare, mend
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    #[command(visible_alias = "list")]
    Ls(ls::Args),
    Add(add::Args),
    Rm(rm::Args),
    Sync(sync::Args),
    Diff(diff::Args),
    #[command(subcommand)]
    Dns(dns::Command),
    Restore(mend::RestoreArgs),
    Repair(mend::RepairArgs),
    #[command(subcommand)]
    Writer(writer::Command),
}

impl Command {
    pub(crate) fn run(self, context: &Context) -> Outcome {
        match self {
            Self::Ls(args) => ls::run(context, args),
            Self::Add(args) => add::run(context, args),
            Self::Rm(args) => rm::run(context, args),
            Self::Sync(args) => sync::run(context, args),
            Self::Diff(args) => diff::run(context, args),
            Self::Dns(command) => command.run(context),
            Self::Restore(args) => mend::restore(context, args),
            Self::Repair(args) => mend::repair(context, args),
            Self::Writer(command) => command.run(context),
        }
    }
}
