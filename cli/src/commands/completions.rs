//! `sharectl completions`: what a shell needs to complete our words.

use clap::CommandFactory;
use clap_complete::Shell;

use crate::context::Context;
use crate::error::Outcome;

/// Print a shell's completion script
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  sharectl completions bash > ~/.local/share/bash-completion/completions/sharectl"
)]
pub(crate) struct Args {
    /// Whose script
    #[arg(value_enum)]
    shell: Shell,
}

pub(crate) fn run(context: &Context, args: Args) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(
        args.shell,
        &mut crate::Cli::command(),
        "sharectl",
        &mut script,
    );
    context.out.bytes(&script)
}
