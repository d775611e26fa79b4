//! `sharectl config`: the configuration file itself.

mod check;
mod edit;
mod path;
mod schema;
mod show;

use clap::Subcommand;

use crate::context::Context;
use crate::error::Outcome;

pub(crate) use check::Checked;
pub(crate) use edit::Edited;
pub(crate) use path::Places;

/// The configuration: edit it, check it, show what it means, its schema and place
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Check(check::Args),
    Edit(edit::Args),
    Show(show::Args),
    Schema(schema::Args),
    Path(path::Args),
}

impl Command {
    pub(crate) fn run(self, context: &Context) -> Outcome {
        match self {
            Self::Check(args) => check::run(context, args),
            Self::Edit(args) => edit::run(context, args),
            Self::Show(args) => show::run(context, args),
            Self::Schema(args) => schema::run(context, args),
            Self::Path(args) => path::run(context, args),
        }
    }
}
