//! `sharectl man`: the manual pages, from the same text as the help pages.

use std::path::{Path, PathBuf};

use crate::context::Context;
use crate::error::{CliError, Outcome};
use crate::suggest::nearest;
use schemars::JsonSchema;
use serde::Serialize;

/// Print a manual page, or write all of them
///
/// The package has them in place already: man sharectl-guest-run.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  sharectl man guest run | man -l -\n  sharectl man --into ~/.local/share/man/man1"
)]
pub(crate) struct Args {
    /// The verb whose page is printed [default: the page of sharectl itself]
    #[arg(value_name = "VERB")]
    verb: Vec<String>,
    /// Write the pages of all verbs into this folder instead
    #[arg(long, value_name = "FOLDER", conflicts_with = "verb")]
    into: Option<PathBuf>,
}

/// One page.
struct Page {
    /// `sharectl-guest-run`.
    name: String,
    /// `guest run`.
    verb: String,
    command: clap::Command,
}

/// What was written.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Pages<'p> {
    /// How many.
    pages: usize,
    folder: &'p Path,
}

pub(crate) fn run(context: &Context, args: Args) -> Outcome {
    let pages = pages();
    if let Some(folder) = args.into {
        let failed = |error: std::io::Error| {
            CliError::failure(
                format!(
                    "cannot write manual pages into {}: {error}",
                    folder.display()
                ),
                "name a folder that you may write",
            )
        };
        if context.is_rehearsal() {
            context.would_act(format!(
                "write {} pages into {}",
                pages.len(),
                folder.display()
            ));
            return Ok(());
        }
        std::fs::create_dir_all(&folder).map_err(failed)?;
        let count = pages.len();
        for page in pages {
            let file = folder.join(format!("{}.1", page.name));
            std::fs::write(file, render(page)?).map_err(failed)?;
        }
        return context.out.done(
            &format!("{count} pages written into {}", folder.display()),
            &Pages {
                pages: count,
                folder: &folder,
            },
        );
    }
    let name = std::iter::once("sharectl")
        .chain(args.verb.iter().map(String::as_str))
        .collect::<Vec<_>>()
        .join("-");
    let typed = args.verb.join(" ");
    // Word by word: a noun that is right makes no verb of it likelier.
    let is_near = |verb: &&str| {
        let words = verb.split(' ');
        words.clone().count() == args.verb.len()
            && words
                .zip(&args.verb)
                .all(|(word, typed)| nearest(typed, [word]).is_some())
    };
    let verbs = pages.iter().map(|page| page.verb.as_str());
    let hint = match nearest(&typed, verbs.filter(is_near)) {
        Some(near) => format!("did you mean \"{near}\"?"),
        None => "sharectl --help lists them".to_owned(),
    };
    match pages.into_iter().find(|page| page.name == name) {
        Some(page) => context.out.bytes(&render(page)?),
        None => Err(CliError::usage(format!("no verb \"{typed}\""), hint)),
    }
}

/// Every verb's page, a noun before its verbs.
fn pages() -> Vec<Page> {
    let mut root = crate::verbs::command().disable_help_subcommand(true);
    // Global options reach the verbs now.
    root.build();
    let mut pages = Vec::new();
    collect("", &root, &mut pages);
    pages
}

fn collect(verb: &str, command: &clap::Command, pages: &mut Vec<Page>) {
    let name = format!("sharectl {verb}");
    pages.push(Page {
        name: name.trim_end().replace(' ', "-"),
        verb: verb.to_owned(),
        command: command.clone(),
    });
    for inner in command.get_subcommands().filter(|verb| !verb.is_hide_set()) {
        let verb = format!("{verb} {}", inner.get_name());
        collect(verb.trim_start(), inner, pages);
    }
}

fn render(page: Page) -> Outcome<Vec<u8>> {
    let mut text = Vec::new();
    // The title names the page; the synopsis, which is built already, the command as typed.
    let Page { name, command, .. } = page;
    let version = format!("sharectl {}", env!("CARGO_PKG_VERSION"));
    clap_mangen::Man::new(command.display_name(name.clone()))
        .title(name)
        .source(version)
        .manual("sharectl")
        .render(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_verb_has_a_page_with_its_options_and_its_example() {
        let pages = pages();
        assert!(pages.iter().any(|page| page.name == "sharectl-guest-run"));
        for page in pages {
            let name = page.name.clone();
            let noun = page.command.has_subcommands();
            let flags: Vec<String> = page
                .command
                .get_arguments()
                .filter(|argument| !argument.is_hide_set())
                .filter_map(|argument| argument.get_long().map(str::to_owned))
                .collect();
            let text = String::from_utf8(render(page).unwrap()).unwrap();
            assert!(text.contains(&format!(".TH {name} 1")), "{name}: {text}");
            // As roff writes them.
            let shown = text.replace("\\-", "-");
            for flag in flags {
                assert!(shown.contains(&format!("--{flag}")), "{name}: --{flag}");
            }
            // A noun says no more than its verbs.
            assert!(noun || shown.contains("Example:"), "{name}");
        }
    }
}
