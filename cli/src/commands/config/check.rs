//! `sharectl config check`: is the file good?

use crate::context::Context;
use crate::error::{CliError, Outcome};
use schemars::JsonSchema;
use serde::Serialize;
use std::path::Path;

/// Check the configuration: every mistake with its line and its fix
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  sharectl config check\n  sharectl config check --config new.toml"
)]
pub(crate) struct Args {}

/// A file without a mistake; one with mistakes is an error.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Checked<'c> {
    config: &'c Path,
    good: bool,
}

pub(crate) fn run(context: &Context, _: Args) -> Outcome {
    let path = &context.paths.config;
    if !path.exists() {
        return Err(CliError::failure(
            format!("there is no configuration file {}", path.display()),
            "make one: sharectl init",
        ));
    }
    let config = context.config()?;
    if let Some(missing) = config.missing_folders(path) {
        return Err(missing.into());
    }
    let sentence = format!(
        "{}: good; networks: {}, guests: {}, shares: {}, static names: {}",
        path.display(),
        config.networks.len(),
        config.guests.len(),
        config.shares.len(),
        config.hosts.entries.len()
    );
    context.out.done(
        &sentence,
        &Checked {
            config: path,
            good: true,
        },
    )
}
