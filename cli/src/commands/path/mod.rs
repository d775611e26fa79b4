//! `sharectl path`: one place in the spellings of the host, its guests, WSL and Windows.

mod convert;

use std::ffi::OsString;
use std::io::{self, BufRead, IsTerminal, Read};
use std::process::ExitCode;

use clap::Subcommand;
use control::config::Config;
use control::names::GuestName;
use control::translation::{Answer, Names, Spelling, Style, TranslationError, View};
use schemars::JsonSchema;
use serde::Serialize;

use crate::context::Context;
use crate::error::{CliError, Outcome};
use crate::output::report;
use crate::translate::{Host, MachineArgs, bytes, view};

pub(crate) use convert::{Args as ConvertArgs, run_as};

/// No path is longer (control::translation says so, too); a list without ends is cut off there.
const LONGEST: u64 = 64 << 10;

/// Paths as the host, a guest, WSL and Windows spell them
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Print where a guest has a file of the host
    ///
    /// PATH may be written as on the host, or as Windows, WSL, Docker Desktop, Git Bash or VMware write
    /// it: D:\x, //d/x, /mnt/d/x, \\wsl.localhost\Debian\x, /host_mnt/d/x, /mnt/hgfs/d/x. A path that is
    /// the guest's already stays. A relative path stays relative. Exit code 1: some path is in no share.
    #[command(
        after_help = "Example:\n  sharectl path to-guest --guest dev 'D:\\proj' ~/src\n  git ls-files -z | sharectl path to-guest -0"
    )]
    ToGuest(Args),
    /// Print where the host has a file of a guest
    #[command(after_help = "Example:\n  sharectl path to-host --guest dev /mnt/d/proj/a.out")]
    ToHost(Args),
    /// Print a path as Windows has it
    ///
    /// On a mounted Windows drive that is D:\x, elsewhere \\wsl.localhost\DISTRIBUTION\x. With --guest, PATH may be the guest's.
    #[command(
        after_help = "Example:\n  sharectl path to-windows /mnt/c/Users\n  sharectl path to-windows --mountinfo theirs.txt --distro Debian /root"
    )]
    ToWindows(WindowsArgs),
    /// Print a path as this Linux has it
    ///
    /// Drives are looked for in the mounts, never assumed. With --guest, PATH may be the guest's.
    #[command(
        after_help = "Example:\n  sharectl path to-wsl 'C:\\Users\\Ann'\n  cd \"$(sharectl path to-wsl 'D:\\proj')\""
    )]
    ToWsl(Args),
    Convert(convert::Args),
}

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Whose shares count; left out, the only guest's, or all
    #[arg(long, value_name = "NAME")]
    guest: Option<GuestName>,
    /// Print absolute paths, also for relative ones
    #[arg(short, long)]
    absolute: bool,
    /// Paths on standard input, and those that are printed, end with a NUL instead of a line break
    #[arg(short = '0', long)]
    null: bool,
    /// The same as --format json
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    machine: MachineArgs,
    /// Paths; without any, they are read from standard input
    #[arg(value_name = "PATH")]
    paths: Vec<OsString>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct WindowsArgs {
    /// Write / instead of \
    #[arg(short, long)]
    mixed: bool,
    #[command(flatten)]
    args: Args,
}

/// To whose spelling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Guest,
    Host,
    Linux,
    Windows(Style),
}

impl Command {
    pub(crate) fn run(self, context: &Context) -> Outcome<ExitCode> {
        match self {
            Self::ToGuest(args) => run(context, args, Way::Guest),
            Self::ToHost(args) => run(context, args, Way::Host),
            Self::ToWsl(args) => run(context, args, Way::Linux),
            Self::ToWindows(WindowsArgs { mixed, args }) => {
                let style = if mixed { Style::Mixed } else { Style::Windows };
                run(context, args, Way::Windows(style))
            }
            Self::Convert(args) => convert::run(context, args),
        }
    }
}

fn run(context: &Context, args: Args, way: Way) -> Outcome<ExitCode> {
    let host = Host::new(args.machine)?;
    let is_of_shares = args.guest.is_some() || matches!(way, Way::Guest | Way::Host);
    let config = if is_of_shares {
        Some(host.config(context)?)
    } else {
        None
    };
    let translator = Translator {
        view: config
            .as_ref()
            .map(|config: &Config| view(context, config, args.guest.as_ref()))
            .transpose()?,
        host: &host,
        way,
        absolute: args.absolute,
    };
    let mut printer = Printer {
        context,
        json: (args.json || context.out.is_json()).then(Vec::new),
        end: if args.null { b'\0' } else { b'\n' },
        all_done: true,
    };
    if !args.paths.is_empty() {
        for path in &args.paths {
            printer.print(bytes(path), translator.translate(bytes(path)))?;
        }
        return printer.finish();
    }
    let mut input = io::stdin().lock();
    if input.is_terminal() {
        return Err(CliError::usage(
            "no path is given",
            "write paths behind the verb, or a list of them to standard input",
        ));
    }
    loop {
        let mut path = Vec::new();
        let read = (&mut input)
            .take(LONGEST + 2)
            .read_until(printer.end, &mut path);
        let read = read.map_err(|error| {
            CliError::failure(format!("cannot read the list: {error}"), "is it a file?")
        })?;
        if read == 0 {
            return printer.finish();
        }
        if path.last() == Some(&printer.end) {
            path.pop();
        } else if path.len() as u64 > LONGEST {
            return Err(CliError::failure(
                format!("a path of the list is longer than {LONGEST} bytes"),
                "with -0 paths end with a NUL, else with a line break",
            ));
        }
        let outcome = translator.translate(&path);
        printer.print(&path, outcome)?;
    }
}

/// What is asked of each path.
struct Translator<'t> {
    view: Option<View<'t>>,
    host: &'t Host,
    way: Way,
    absolute: bool,
}

/// A path in its new spelling, and the share it is in.
struct Translated {
    path: Vec<u8>,
    share: Option<String>,
}

impl Translator<'_> {
    fn translate(&self, path: &[u8]) -> Result<Translated, TranslationError> {
        let base = self.host.base();
        let written = |answer: Answer| Translated {
            path: match answer.relative {
                Some(relative) if !self.absolute => relative,
                Some(_) | None => answer.names.to_linux(),
            },
            share: Some(answer.share.to_string()),
        };
        match (self.way, &self.view) {
            (Way::Guest, Some(view)) => view.to_guest(path, base).map(written),
            (Way::Host, Some(view)) => view.to_host(path, base).map(written),
            // From the guest by way of the host.
            (Way::Linux | Way::Windows(_), Some(view)) => {
                let on_host = view.to_host(path, base).map(written)?;
                let mut translated = self.of_host(&on_host.path)?;
                translated.share = on_host.share;
                Ok(translated)
            }
            (_, None) => self.of_host(path),
        }
    }

    fn of_host(&self, path: &[u8]) -> Result<Translated, TranslationError> {
        let base = self.host.base();
        let mut spelling = Spelling::read(path)?;
        if let (Spelling::Relative(below), true) = (&spelling, self.absolute) {
            let unknown =
                || TranslationError::NoCurrentFolder(String::from_utf8_lossy(path).into_owned());
            let mut names = Names::of_path(base.folder.ok_or_else(unknown)?);
            names.list.extend(below.list.iter().cloned());
            names.slash = below.slash;
            spelling = Spelling::Linux(names.collapsed());
        }
        let path = match self.way {
            Way::Windows(style) => base
                .machine
                .to_windows(&spelling, path, base.files, style)?
                .into_bytes(),
            Way::Linux | Way::Guest | Way::Host => {
                let names = base.machine.to_linux(&spelling, path, base.files)?;
                match spelling {
                    Spelling::Relative(_) => names.to_relative(),
                    Spelling::Drive(..)
                    | Spelling::Unc(..)
                    | Spelling::Wsl(..)
                    | Spelling::Linux(_) => names.to_linux(),
                }
            }
        };
        Ok(Translated { path, share: None })
    }
}

/// What became of one path.
#[derive(Serialize, JsonSchema)]
#[serde(untagged)]
pub(crate) enum Row {
    Translated {
        path: String,
        translated: String,
        /// That it is in, where it went through one.
        share: Option<String>,
    },
    Refused {
        path: String,
        error: String,
        hint: String,
    },
}

/// Writes what comes out, a path at a time or at the end as JSON.
struct Printer<'p> {
    context: &'p Context,
    json: Option<Vec<Row>>,
    end: u8,
    all_done: bool,
}

impl Printer<'_> {
    fn print(&mut self, path: &[u8], outcome: Result<Translated, TranslationError>) -> Outcome {
        self.all_done &= outcome.is_ok();
        if let Some(rows) = &mut self.json {
            let path = String::from_utf8_lossy(path);
            rows.push(match outcome {
                Ok(done) => Row::Translated {
                    path: path.into_owned(),
                    translated: String::from_utf8_lossy(&done.path).into_owned(),
                    share: done.share,
                },
                Err(error) => Row::Refused {
                    path: path.into_owned(),
                    error: error.to_string(),
                    hint: error.hint(),
                },
            });
            return Ok(());
        }
        match outcome {
            Ok(done) => {
                let mut line = done.path;
                line.push(self.end);
                self.context.out.bytes(&line)
            }
            Err(error) => {
                report(&error.into());
                Ok(())
            }
        }
    }

    fn finish(self) -> Outcome<ExitCode> {
        if let Some(rows) = &self.json {
            self.context.out.json(rows)?;
        }
        Ok(if self.all_done {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }
}
