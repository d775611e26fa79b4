//! tmp
use crate::context::Context;
use crate::error::Outcome;
/// Tmp
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}
pub(crate) fn run(_: &Context, _: Args) -> Outcome<std::process::ExitCode> {
    Ok(std::process::ExitCode::SUCCESS)
}
