//! `sharectl path convert`: the flags of wslpath and cygpath. Called by one of these names, the whole command is this.

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use control::translation::Style;

use super::{Printer, Translator, Way};
use crate::context::Context;
use crate::error::Outcome;
use crate::translate::{Host, MachineArgs, bytes};

/// Translate paths with the flags of wslpath and cygpath
///
/// For scripts that call those: a link to sharectl with the name wslpath or cygpath is one of them.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  sharectl path convert -w /mnt/c/Users\n  ln -s \"$(command -v sharectl)\" ~/.local/bin/wslpath && wslpath -u 'C:\\Users'"
)]
pub(crate) struct Args {
    /// To a path of this Linux; the default
    #[arg(short, long, conflicts_with_all = ["windows", "mixed"])]
    unix: bool,
    /// To a path of Windows
    #[arg(short, long, conflicts_with = "mixed")]
    windows: bool,
    /// To a path of Windows with / instead of \
    #[arg(short, long)]
    mixed: bool,
    /// Absolute, also for a relative path
    #[arg(short, long)]
    absolute: bool,
    /// PATH is a list as in $PATH: with : to Windows, with ; from there
    #[arg(short, long)]
    path: bool,
    #[command(flatten)]
    machine: MachineArgs,
    /// What to translate
    #[arg(value_name = "PATH", required = true)]
    paths: Vec<OsString>,
}

/// The command under another name.
#[derive(Debug, Parser)]
#[command(version, about, long_about = None)]
struct Alone {
    #[command(flatten)]
    args: Args,
}

/// Reads the command line of a program called `name`; none if that is not one of those that are played here.
pub(crate) fn run_as(line: &[OsString]) -> Option<Result<Args, clap::Error>> {
    let name = Path::new(line.first()?).file_name()?;
    let known = ["wslpath", "cygpath"];
    let name = known.into_iter().find(|known| OsStr::new(known) == name)?;
    let line = std::iter::once(OsString::from(name)).chain(line.iter().skip(1).cloned());
    let command = <Alone as clap::CommandFactory>::command()
        .name(name)
        .bin_name(name);
    let matches = command.try_get_matches_from(line);
    Some(
        matches
            .and_then(|matches| <Alone as clap::FromArgMatches>::from_arg_matches(&matches))
            .map(|alone| alone.args),
    )
}

pub(crate) fn run(context: &Context, args: Args) -> Outcome<ExitCode> {
    let host = Host::new(args.machine)?;
    let way = match (args.windows, args.mixed) {
        (true, _) => Way::Windows(Style::Windows),
        (_, true) => Way::Windows(Style::Mixed),
        (false, false) => Way::Linux,
    };
    let translator = Translator {
        view: None,
        host: &host,
        way,
        absolute: args.absolute,
    };
    let mut printer = Printer {
        context,
        json: context.out.is_json().then(Vec::new),
        end: b'\n',
        all_done: true,
    };
    for path in &args.paths {
        if !args.path {
            printer.print(bytes(path), translator.translate(bytes(path)))?;
            continue;
        }
        let (from, to) = match way {
            Way::Windows(_) => (b':', b';'),
            Way::Linux | Way::Guest | Way::Host => (b';', b':'),
        };
        let parts = bytes(path).split(|byte| *byte == from);
        let parts = parts
            .filter(|part| !part.is_empty())
            .map(|part| translator.translate(part));
        let joined = parts
            .collect::<Result<Vec<_>, _>>()
            .map(|parts| super::Translated {
                path: parts
                    .into_iter()
                    .map(|part| part.path)
                    .collect::<Vec<_>>()
                    .join(&to),
                share: None,
            });
        printer.print(bytes(path), joined)?;
    }
    printer.finish()
}
