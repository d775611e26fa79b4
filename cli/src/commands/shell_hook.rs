//! `sharectl shell-hook`: a shell's current folder as the guest has it, and the guest's Docker engine, at each prompt.
//!
//! What is printed is evaluated by the shell, so each value in it is quoted for that shell, and what the shell finds at
//! run time (the name of a folder) passes only through variables.

use clap::ValueEnum;
use control::names::GuestName;
use control::translation::quoted;

use crate::context::Context;
use crate::docker;
use crate::error::{CliError, Outcome};

/// Print what lets a shell follow you into a guest
///
/// At each prompt SHARECTL_PWD is the current folder as the guest has it, and is not set where no
/// share shows it; a program is started only when the folder has changed. DOCKER_HOST is the guest's published
/// engine, if it is not set already. `sharectl_unhook` takes all of it away again.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  eval \"$(sharectl shell-hook bash)\"                              # in ~/.bashrc; zsh likewise\n  sharectl shell-hook fish | source                               # in ~/.config/fish/config.fish\n  sharectl shell-hook pwsh | Out-String | Invoke-Expression       # in $PROFILE"
)]
pub(crate) struct Args {
    /// Whose prompt
    #[arg(value_enum)]
    shell: Shell,
    /// Whose shares and engine; left out, the only guest's
    #[arg(long, value_name = "NAME")]
    guest: Option<GuestName>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
    Pwsh,
}

pub(crate) fn run(context: &Context, args: Args) -> Outcome {
    let config = context.config()?;
    if let Some(name) = &args.guest {
        context.guest(&config, name)?;
    }
    let guest = docker::guest(&config, args.guest.as_ref());
    let engine = guest.and_then(docker::host);
    if engine.is_none() {
        let advice = docker::advice(guest, &context.paths.runtime);
        context.out.note(&format!(
            "no guest's Docker engine is published, so DOCKER_HOST stays as it is; where one listens on TCP port 2375: {advice}"
        ));
    }
    let program = std::env::current_exe().map_err(|error| {
        CliError::failure(
            format!("cannot find this program's own file: {error}"),
            "is /proc mounted?",
        )
    })?;
    let not_text = || {
        CliError::failure(
            "the path of sharectl or its configuration is not UTF-8",
            "move it",
        )
    };
    let mut words = vec![program.to_str().ok_or_else(not_text)?.to_owned()];
    words.push("--config".to_owned());
    words.push(
        context
            .paths
            .config
            .to_str()
            .ok_or_else(not_text)?
            .to_owned(),
    );
    words.extend(["path", "to-guest"].map(str::to_owned));
    if let Some(guest) = guest {
        words.extend(["--guest".to_owned(), guest.name.to_string()]);
    }
    let quote = args.shell.quote();
    let line = words
        .iter()
        .map(|word| quote(word))
        .collect::<Vec<_>>()
        .join(" ");
    let engine = engine.map_or_else(|| quote(""), |engine| quote(&engine));
    context
        .out
        .text(&fill(&args.shell.template(), &line, &engine))
}

/// The template with its two marks filled. What is put in is not looked at: a path may be called like a mark.
fn fill(template: &str, line: &str, engine: &str) -> String {
    let parts = template.split("@LINE@");
    let filled = parts.map(|part| part.split("@ENGINE@").collect::<Vec<_>>().join(engine));
    filled.collect::<Vec<_>>().join(line)
}

impl Shell {
    fn quote(self) -> fn(&str) -> String {
        match self {
            Self::Bash | Self::Zsh => |word| {
                if word.is_empty() {
                    "''".to_owned()
                } else {
                    quoted(word)
                }
            },
            Self::Fish => |word| format!("'{}'", word.replace('\\', r"\\").replace('\'', r"\'")),
            // Typographic quotes end a string of PowerShell, too.
            Self::Pwsh => |word| {
                let double = |c: char| matches!(c, '\'' | '\u{2018}'..='\u{201b}');
                let doubled: String = word
                    .chars()
                    .flat_map(|c| std::iter::repeat_n(c, 1 + usize::from(double(c))))
                    .collect();
                format!("'{doubled}'")
            },
        }
    }

    fn template(self) -> String {
        match self {
            Self::Bash => format!("{POSIX}{BASH}"),
            Self::Zsh => format!("{POSIX}{ZSH}"),
            Self::Fish => FISH.to_owned(),
            Self::Pwsh => PWSH.to_owned(),
        }
    }
}

/// A letter behind the answer keeps line breaks at the end of a folder's name, which `$( )` drops.
const POSIX: &str = r#"# sharectl shell-hook; sharectl_unhook takes it away
__sharectl_hook() {
  local last=$? mapped
  if [ "$PWD" != "${__sharectl_seen-}" ]; then
    __sharectl_seen=$PWD
    mapped=$(@LINE@ -- "$PWD" 2>/dev/null; printf x)
    if [ "$mapped" = x ]; then
      unset SHARECTL_PWD
    else
      export SHARECTL_PWD="${mapped%$'\n'x}"
    fi
  fi
  return "$last"
}
__sharectl_engine=@ENGINE@
if [ -z "${DOCKER_HOST-}" ] && [ -n "$__sharectl_engine" ]; then
  export DOCKER_HOST="$__sharectl_engine"
fi
__sharectl_forget() {
  if [ -n "$__sharectl_engine" ] && [ "${DOCKER_HOST-}" = "$__sharectl_engine" ]; then
    unset DOCKER_HOST
  fi
  unset SHARECTL_PWD __sharectl_seen __sharectl_engine
  unset -f __sharectl_hook __sharectl_forget sharectl_unhook
}
"#;

/// PROMPT_COMMAND is a text, or since bash 5.1 a list.
const BASH: &str = r#"case " ${PROMPT_COMMAND[*]-} " in
  *__sharectl_hook*) ;;
  *) case "$(declare -p PROMPT_COMMAND 2>/dev/null)" in
       "declare -a"*) PROMPT_COMMAND=(__sharectl_hook "${PROMPT_COMMAND[@]}") ;;
       *) PROMPT_COMMAND="__sharectl_hook${PROMPT_COMMAND:+;$PROMPT_COMMAND}" ;;
     esac ;;
esac
sharectl_unhook() {
  local index
  for index in "${!PROMPT_COMMAND[@]}"; do
    if [ "${PROMPT_COMMAND[index]}" = __sharectl_hook ]; then
      unset "PROMPT_COMMAND[index]"
    else
      PROMPT_COMMAND[index]=${PROMPT_COMMAND[index]#__sharectl_hook;}
    fi
  done
  __sharectl_forget
}
"#;

const ZSH: &str = r#"autoload -Uz add-zsh-hook
add-zsh-hook precmd __sharectl_hook
sharectl_unhook() {
  add-zsh-hook -d precmd __sharectl_hook
  __sharectl_forget
}
"#;

const FISH: &str = r#"# sharectl shell-hook; sharectl_unhook takes it away
function __sharectl_hook --on-event fish_prompt
    if test "$PWD" != "$__sharectl_seen"
        set -g __sharectl_seen $PWD
        set -l mapped (@LINE@ -0 -- $PWD 2>/dev/null | string split0)
        if set -q mapped[1]
            set -gx SHARECTL_PWD $mapped[1]
        else
            set -e SHARECTL_PWD
        end
    end
end
set -g __sharectl_engine @ENGINE@
if test -z "$DOCKER_HOST" -a -n "$__sharectl_engine"
    set -gx DOCKER_HOST $__sharectl_engine
end
function sharectl_unhook
    if test -n "$__sharectl_engine" -a "$DOCKER_HOST" = "$__sharectl_engine"
        set -e DOCKER_HOST
    end
    set -e SHARECTL_PWD
    set -e __sharectl_seen
    set -e __sharectl_engine
    functions -e __sharectl_hook sharectl_unhook
end
"#;

const PWSH: &str = r#"# sharectl shell-hook; sharectl_unhook takes it away
if (-not (Test-Path Function:\__sharectl_prompt)) {
  $function:global:__sharectl_prompt = $function:prompt
}
function global:prompt {
  $last = $global:LASTEXITCODE
  $folder = $PWD.ProviderPath
  if ($folder -cne $global:__sharectl_seen) {
    $global:__sharectl_seen = $folder
    $mapped = & @LINE@ -- $folder 2>$null
    if ($LASTEXITCODE -eq 0) { $env:SHARECTL_PWD = $mapped -join "`n" }
    else { Remove-Item Env:SHARECTL_PWD -ErrorAction Ignore }
  }
  $global:LASTEXITCODE = $last
  __sharectl_prompt
}
$global:__sharectl_engine = @ENGINE@
if (-not $env:DOCKER_HOST -and $global:__sharectl_engine) { $env:DOCKER_HOST = $global:__sharectl_engine }
function global:sharectl_unhook {
  if ($env:DOCKER_HOST -ceq $global:__sharectl_engine) { Remove-Item Env:DOCKER_HOST -ErrorAction Ignore }
  Remove-Item Env:SHARECTL_PWD -ErrorAction Ignore
  $function:global:prompt = $function:__sharectl_prompt
  Remove-Item Function:\__sharectl_prompt, Function:\sharectl_unhook
  Remove-Variable -Scope Global -Name __sharectl_seen, __sharectl_engine -ErrorAction Ignore
}
"#;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_stays_one_word_in_each_shell() {
        for (shell, word, expected) in [
            (
                Shell::Bash,
                "a'b$(c)\n",
                r"'a'\''b$(c)
'",
            ),
            (Shell::Zsh, "", "''"),
            (Shell::Fish, r"a'b\$(c)", r"'a\'b\\$(c)'"),
            (Shell::Pwsh, "a'b\u{2019}$(c)", "'a''b\u{2019}\u{2019}$(c)'"),
        ] {
            assert_eq!(shell.quote()(word), expected);
        }
    }

    #[test]
    fn what_is_put_in_is_no_template() {
        let filled = fill("a @LINE@ b @ENGINE@ @LINE@", "/x/@ENGINE@", "/y/@LINE@");
        assert_eq!(filled, "a /x/@ENGINE@ b /y/@LINE@ /x/@ENGINE@");
    }
}
