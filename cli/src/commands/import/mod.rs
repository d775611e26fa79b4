//! `sharectl import`: what another tool knows, as a difference of the configuration to accept.

use std::io::{self, BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};

use clap::Subcommand;
use control::names::GuestName;
use control::paths::Daemon;

use crate::context::Context;
use crate::edit::Draft;
use crate::error::{CliError, Outcome};
use crate::import::{BadFile, LeftOut, Plan, difference, lima, networking, plain_name, vmx};
use crate::output::printable;
use crate::translate;
use schemars::JsonSchema;
use serde::Serialize;

/// No such file has a megabyte.
const LARGEST_FILE: usize = 1 << 20;

/// Take over what VMware or Lima knows, as a difference to accept
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Take over a VMware machine's network card and shared folders
    ///
    /// Shows the difference of the configuration, and what has no counterpart here; writes after the question, or with --yes.
    #[command(after_help = "Example:\n  sharectl import vmx ~/vmware/dev/dev.vmx --dry-run")]
    Vmx(Args),
    /// Take over VMware's networks and forwarded ports
    ///
    /// FILE is /etc/vmware/networking or a nat.conf. Ports lead to the guest that has the address they lead to, or to --guest. Shows the difference, and writes after the question, or with --yes.
    #[command(
        after_help = "Example:\n  sharectl import vmware-networking /etc/vmware/networking\n  sharectl import vmware-networking /etc/vmware/vmnet8/nat/nat.conf --guest dev --yes"
    )]
    VmwareNetworking(Args),
    /// Take over a Lima machine's mounts, forwarded ports and network
    ///
    /// Shows the difference of the configuration, and what has no counterpart here; writes after the question, or with --yes.
    #[command(after_help = "Example:\n  sharectl import lima ~/.lima/dev/lima.yaml")]
    Lima(Args),
}

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The other tool's file; it is only read
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The guest here, instead of one that is called as the machine is
    #[arg(long, value_name = "NAME")]
    guest: Option<GuestName>,
    /// Write without a question
    #[arg(long, conflicts_with = "dry_run")]
    yes: bool,
    /// Show the difference, and write nothing
    #[arg(long)]
    dry_run: bool,
}

impl Command {
    pub(crate) fn run(self, context: &Context) -> Outcome {
        match self {
            Self::Vmx(args) => run(context, args, |text, args| {
                vmx::read(text, args.guest.clone())
            }),
            Self::VmwareNetworking(args) => run(context, args, |text, args| {
                networking::read(text, args.guest.as_ref())
            }),
            Self::Lima(args) => {
                let guest = machine_of(&args)?;
                run(context, args, |text, _| lima::read(text, guest.clone()))
            }
        }
    }
}

/// What was taken over.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Imported<'i> {
    /// Of the configuration, unified.
    diff: &'i str,
    written: bool,
    /// What has no counterpart here.
    left_out: &'i [LeftOut],
}

/// What would be written, and what cannot be.
struct Proposal {
    old: String,
    draft: Draft,
    left_out: Vec<LeftOut>,
}

fn run(
    context: &Context,
    args: Args,
    read: impl Fn(&str, &Args) -> Result<Plan, BadFile>,
) -> Outcome {
    let bytes = translate::read(&args.file)?;
    let shown = args.file.display().to_string();
    if bytes.len() > LARGEST_FILE {
        return Err(CliError::failure(
            format!("{shown} is larger than {LARGEST_FILE} bytes"),
            "is it the right file?",
        ));
    }
    // Old machines have other encodings in comments and names.
    let text = String::from_utf8_lossy(&bytes);
    let propose = || -> Outcome<Proposal> {
        let plan = read(&text, &args).map_err(|bad| {
            CliError::failure(
                format!("{shown}:{}: {}", bad.line, bad.message),
                "mend that line in a copy, and import the copy",
            )
        })?;
        let mut draft = Draft::open(&context.paths.config)?;
        let old = draft.document.to_string();
        let config = draft.config()?;
        if let Some(guest) = args.guest.as_ref().filter(|_| plan.guests.is_empty()) {
            context.guest(&config, guest)?;
        }
        let left_out = plan.apply(&mut draft.document, &config)?;
        draft.config().map_err(|error| CliError {
            message: format!(
                "what {shown} says makes no good configuration: {}",
                error.message
            ),
            hint: Some(
                "take over by hand what fits; --dry-run does not help here, nothing was written"
                    .to_owned(),
            ),
            ..error
        })?;
        Ok(Proposal {
            old,
            draft,
            left_out,
        })
    };
    let proposal = propose()?;
    let new = proposal.draft.document.to_string();
    let diff = difference(
        &proposal.old,
        &new,
        &context.paths.config.display().to_string(),
    );
    if !context.out.is_json() {
        context.out.text(&printable(&diff))?;
        for LeftOut { line, what, why } in &proposal.left_out {
            context
                .out
                .warning(&format!("{shown}:{line}: {what} is left out: {why}"));
        }
    }
    let says_something = !diff.is_empty();
    if !says_something {
        context.out.note("the configuration has all of it already");
    }
    // Nobody else waits for the file while somebody reads.
    let left_out = proposal.left_out;
    drop(proposal.draft);
    let accepted = says_something && !args.dry_run && (args.yes || asked(context)?);
    if accepted {
        let again = propose()?;
        if again.draft.document.to_string() != new {
            return Err(CliError::conflict(
                "the configuration has changed meanwhile; nothing was written",
                "run it again",
            ));
        }
        again.draft.commit(context)?;
    }
    if context.out.is_json() {
        context.out.json(&Imported {
            diff: &diff,
            written: accepted,
            left_out: &left_out,
        })?;
    } else if accepted {
        context
            .out
            .done(&format!("{} written", context.paths.config.display()), &())?;
    }
    if accepted {
        context.reload(&Daemon::ALL)?;
    }
    Ok(())
}

/// The answer of the person at the terminal.
fn asked(context: &Context) -> Outcome<bool> {
    let input = io::stdin();
    if !input.is_terminal() {
        return Err(CliError::usage(
            "nothing was written: there is no terminal to ask on",
            "--yes accepts the difference, --dry-run only shows it",
        ));
    }
    let mut err = io::stderr();
    write!(
        err,
        "write this to {}? [y/N] ",
        context.paths.config.display()
    )?;
    err.flush()?;
    let mut answer = String::new();
    input.lock().read_line(&mut answer)?;
    let accepted = matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes");
    if !accepted {
        context.out.note("nothing was written");
    }
    Ok(accepted)
}

/// Lima's machine is called as its folder is, or as its template.
fn machine_of(args: &Args) -> Outcome<GuestName> {
    if let Some(guest) = &args.guest {
        return Ok(guest.clone());
    }
    let stem = args.file.file_stem().filter(|stem| *stem != "lima");
    let absolute = std::path::absolute(&args.file).ok();
    let folder = absolute
        .as_deref()
        .and_then(Path::parent)
        .and_then(Path::file_name);
    let name = stem.or(folder).and_then(|name| name.to_str());
    name.and_then(|name| plain_name(name, GuestName::LIMIT))
        .and_then(|name| GuestName::parse(&name).ok())
        .ok_or_else(|| {
            CliError::usage(
                "no name of a guest can be made of the file's",
                "give one: --guest NAME",
            )
        })
}
