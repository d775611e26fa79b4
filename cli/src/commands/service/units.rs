//! `sharectl service units`: the units as a package brings them.

use std::path::PathBuf;

use control::paths::Daemon;

use crate::context::Context;
use crate::error::{CliError, Outcome};
use crate::rehearsal::Step;
use crate::service::units::{self, Scope, Site};
use schemars::JsonSchema;
use serde::Serialize;

/// Write the units for whoever makes a package, with no place of a user in them
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  sharectl service units --programs /usr/bin --into usr/lib/systemd/user"
)]
pub(crate) struct Args {
    /// Where the programs are going to be
    #[arg(long, value_name = "FOLDER")]
    programs: PathBuf,
    /// Where the units are written
    #[arg(long, value_name = "FOLDER")]
    into: PathBuf,
}

#[derive(Serialize, JsonSchema)]
pub(crate) struct WrittenUnits {
    /// The files' names.
    units: Vec<String>,
}

pub(crate) fn run(context: &Context, args: Args) -> Outcome {
    let Args { programs, into } = args;
    if !programs.is_absolute() {
        return Err(CliError::usage(
            format!(
                "--programs {}: a unit needs the whole path",
                programs.display()
            ),
            "--programs /usr/bin",
        ));
    }
    let failed = |error: std::io::Error| {
        CliError::failure(
            format!("cannot write units into {}: {error}", into.display()),
            "name a folder that you may write",
        )
    };
    let site = Site {
        scope: Scope::User,
        programs,
        config: None,
        runtime: None,
        state: None,
    };
    let units = Daemon::ALL.map(|daemon| units::daemon(&site, daemon));
    if context.is_rehearsal() {
        for unit in &units {
            let file = into.join(&unit.name);
            let old = std::fs::read_to_string(&file).unwrap_or_default();
            context.would(Step::write(&file, &old, &unit.text));
        }
        return Ok(());
    }
    std::fs::create_dir_all(&into).map_err(failed)?;
    for unit in &units {
        std::fs::write(into.join(&unit.name), &unit.text).map_err(failed)?;
    }
    let names = units.map(|unit| unit.name);
    context.out.done(
        &format!("written: {}", names.join(", ")),
        &WrittenUnits {
            units: names.to_vec(),
        },
    )
}
