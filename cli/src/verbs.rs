//! The command line as a whole: clap's tree with what all verbs of a kind have in common, and what each verb
//! does to the machine. A verb that is not in [`EFFECTS`] fails a test.

use clap::{Arg, ArgAction, ArgMatches, Command, CommandFactory};

use crate::{Cli, complete};

/// What a verb does to the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Effect {
    /// It looks.
    Reads,
    /// It changes something, by way of the context, which only notes it under `--dry-run`.
    Changes,
    /// It changes something, and has a `--dry-run` of its own that says more than a list of steps.
    ChangesItsWay,
}

/// Every verb, in the order of the help pages.
const EFFECTS: &[(&str, Effect)] = {
    use Effect::{Changes, ChangesItsWay, Reads};
    &[
        ("init", Changes),
        ("up", Changes),
        ("down", Changes),
        ("restart", Changes),
        ("status", Reads),
        ("ps", Reads),
        ("wait-ready", Reads),
        ("config check", Reads),
        ("config edit", Changes),
        ("config show", Reads),
        ("config schema", Reads),
        ("config path", Reads),
        ("network create", Changes),
        ("network rm", Changes),
        ("network renumber", Changes),
        ("network bridge-socket", Changes),
        ("network host-tap create", Changes),
        ("network host-tap rm", Changes),
        ("network host-tap unit", Reads),
        ("network ls", Reads),
        ("network inspect", Reads),
        ("network flows", Reads),
        ("network capture", Changes),
        ("network policy", Reads),
        ("network dns", Reads),
        ("guest add", Changes),
        ("guest rm", Changes),
        ("guest ls", Reads),
        ("guest args", Reads),
        ("guest mounts", Reads),
        ("guest mount", Changes),
        ("guest unmount", Changes),
        ("guest run", Changes),
        ("guest attach", Changes),
        ("guest detach", Changes),
        ("share add", Changes),
        ("share rm", Changes),
        ("share ls", Reads),
        ("share mount", Changes),
        ("share unmount", Changes),
        ("port publish", Changes),
        ("port unpublish", Changes),
        ("port ls", Reads),
        ("port explain", Reads),
        ("port offer", Changes),
        ("port withdraw", Changes),
        ("host ls", Reads),
        ("host add", Changes),
        ("host rm", Changes),
        ("host sync", ChangesItsWay),
        ("host diff", Reads),
        ("host dns enable", Changes),
        ("host dns disable", Changes),
        ("host dns status", Reads),
        ("host restore", ChangesItsWay),
        ("host repair", ChangesItsWay),
        ("host writer status", Reads),
        ("host writer unit", Reads),
        ("host writer install", ChangesItsWay),
        ("path to-guest", Reads),
        ("path to-host", Reads),
        ("path to-windows", Reads),
        ("path to-wsl", Reads),
        ("path convert", Reads),
        ("exec", ChangesItsWay),
        ("compose", ChangesItsWay),
        ("shell-hook", Reads),
        ("import vmx", ChangesItsWay),
        ("import vmware-networking", ChangesItsWay),
        ("import lima", ChangesItsWay),
        ("describe", Reads),
        ("events", Reads),
        ("logs", Reads),
        ("doctor", ChangesItsWay),
        ("service install", ChangesItsWay),
        ("service remove", ChangesItsWay),
        ("service status", Reads),
        ("service logs", Reads),
        ("service units", Changes),
        ("uninstall", ChangesItsWay),
        ("completions", Reads),
        ("man", Changes),
        ("schema", Reads),
    ]
};

const DRY_RUN: &str = "dry_run";

fn effect(verb: &str) -> Option<Effect> {
    let known = EFFECTS.iter().find(|(name, _)| *name == verb);
    known.map(|(_, effect)| *effect)
}

/// The whole tree: of the arguments' types, with `--dry-run` where [`EFFECTS`] wants it and with the names that a
/// shell completes.
pub(crate) fn command() -> Command {
    complete::with_names(with_dry_run(Cli::command(), ""))
}

fn with_dry_run(command: Command, verb: &str) -> Command {
    let command = match effect(verb) {
        Some(Effect::Changes) => command.arg(
            Arg::new(DRY_RUN)
                .long("dry-run")
                .action(ArgAction::SetTrue)
                .help("Say what would change, and change nothing"),
        ),
        Some(Effect::Reads | Effect::ChangesItsWay) | None => command,
    };
    command.mut_subcommands(|inner| {
        let name = format!("{verb} {}", inner.get_name());
        with_dry_run(inner, name.trim_start())
    })
}

/// The verb's own name, where one that people know from elsewhere may have been typed.
pub(crate) fn called(words: &[String]) -> String {
    let (mut names, mut level) = (Vec::new(), Some(command()));
    for word in words {
        level = level.and_then(|command| command.find_subcommand(word).cloned());
        names.push(
            level
                .as_ref()
                .map_or_else(|| word.clone(), |verb| verb.get_name().to_owned()),
        );
    }
    names.join(" ")
}

/// Whether the context is to note what the verb does, instead of doing it.
pub(crate) fn is_rehearsal(matches: &ArgMatches) -> bool {
    let (mut verb, mut level) = (String::new(), matches);
    while let Some((name, inner)) = level.subcommand() {
        verb = format!("{verb} {name}");
        level = inner;
    }
    effect(verb.trim_start()) == Some(Effect::Changes) && level.get_flag(DRY_RUN)
}

/// Every verb, in the order of the help pages.
#[cfg(test)]
pub(crate) fn names() -> Vec<&'static str> {
    EFFECTS.iter().map(|(name, _)| *name).collect()
}

/// Whether its `--dry-run` is the one that all have in common.
#[cfg(test)]
pub(crate) fn has_steps(verb: &str) -> bool {
    effect(verb) == Some(Effect::Changes)
}

#[cfg(test)]
mod tests;
