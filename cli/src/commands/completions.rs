//! `sharectl completions`: what a shell needs to complete our words.

use clap_complete::env::Shells;

use crate::complete::VARIABLE;
use crate::context::Context;
use crate::error::{CliError, Outcome};

/// Print a shell's completion script
///
/// The script asks sharectl for the words: verbs and options, and the names of guests, shares,
/// networks, hosts and ports that the configuration has or a daemon knows now.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  sharectl completions bash > ~/.local/share/bash-completion/completions/sharectl\n  sharectl completions zsh > ~/.zfunc/_sharectl    # ~/.zfunc in fpath, before compinit\n  sharectl completions fish > ~/.config/fish/completions/sharectl.fish\n  sharectl completions pwsh >> ~/.config/powershell/profile.ps1"
)]
pub(crate) struct Args {
    /// Whose script
    #[arg(value_enum)]
    shell: Shell,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
    #[value(name = "pwsh", alias = "powershell")]
    Pwsh,
    Elvish,
}

impl Shell {
    fn name(self) -> &'static str {
        match self {
            Self::Bash => "bash",
            Self::Zsh => "zsh",
            Self::Fish => "fish",
            Self::Pwsh => "powershell",
            Self::Elvish => "elvish",
        }
    }
}

pub(crate) fn run(context: &Context, args: Args) -> Outcome {
    let name = args.shell.name();
    let shells = Shells::builtins();
    let Some(shell) = shells.completer(name) else {
        return Err(CliError::failure(
            format!("there is no script for {name}"),
            "bash, zsh, fish and pwsh have one",
        ));
    };
    let mut script = Vec::new();
    shell.write_registration(VARIABLE, "sharectl", "sharectl", "sharectl", &mut script)?;
    if args.shell == Shell::Zsh {
        let script = String::from_utf8_lossy(&script).replace(ZSH_REGISTERS, ZSH_AT_ONCE);
        return context.out.text(&script);
    }
    context.out.bytes(&script)
}

/// The last line of zsh's script, which is right for a script that is sourced.
const ZSH_REGISTERS: &str = "\ncompdef _clap_dynamic_completer_sharectl sharectl\n";
/// A file of fpath is run as the function `_sharectl` when the first word is completed: it has to answer then, too.
const ZSH_AT_ONCE: &str = r#"
if [[ $funcstack[1] == _sharectl ]]; then
    compdef _clap_dynamic_completer_sharectl sharectl
    _clap_dynamic_completer_sharectl "$@"
else
    compdef _clap_dynamic_completer_sharectl sharectl
fi
"#;
