//! `sharectl service install`: from login on, everything is there.

use control::names::GuestName;

use crate::context::Context;
use crate::error::{CliError, Outcome};
use crate::service::manager;
use crate::service::units::Scope;
use crate::service::{Plan, Step, Wish};
use schemars::JsonSchema;
use serde::Serialize;
use std::path::Path;

/// Have the service manager start the daemons, at login or at boot
///
/// Writes a systemd unit for each daemon, switches it on and starts it: units
/// of your own manager (systemctl --user), or as root the machine's. A daemon
/// that fails, or no longer answers its watchdog, is started again. `sharectl
/// up`, `down` and `logs` then go through systemd.
///
/// Units that you edited are not written over; changes of your own belong into
/// drop-ins (systemctl --user edit sharectl-netd).
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  sharectl service install --linger\n  sharectl service install --guest dev --with 'qemu-system-x86_64 -m 2G -display none disk.qcow2'\n  sharectl service install --dry-run"
)]
pub(crate) struct Args {
    /// A shell command to start when network and shares are ready, and to stop before them
    #[arg(long, value_name = "COMMAND")]
    with: Option<String>,
    /// The command is this guest's VM: it is started by `sharectl guest run`
    #[arg(long, value_name = "NAME", requires = "with")]
    guest: Option<GuestName>,
    /// Also have your manager start at boot, without a login
    #[arg(long)]
    linger: bool,
    /// As root: units of root's own user manager instead of the machine's
    #[arg(long)]
    user: bool,
    /// Write over units that were edited
    #[arg(long)]
    force: bool,
    /// Do not start what does not run
    #[arg(long)]
    no_start: bool,
    /// Only say what would be done, with the units' texts
    #[arg(long)]
    dry_run: bool,
}

/// Either of two, as --dry-run says.
#[derive(Serialize, JsonSchema)]
#[serde(untagged)]
pub(crate) enum Installation<'i> {
    Done {
        units: Vec<&'i str>,
        /// Those that did not run.
        started: bool,
    },
    Planned {
        steps: Vec<InstallStep<'i>>,
    },
}

/// One thing to do.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case", tag = "do")]
pub(crate) enum InstallStep<'i> {
    Write {
        file: &'i Path,
        about: &'i str,
        text: &'i str,
    },
    /// It is there as it should be.
    Keep { file: &'i Path, about: &'i str },
    /// A command line.
    Run { line: &'i str, why: &'i str },
}

pub(crate) fn run(context: &Context, args: Args) -> Outcome {
    let config = context.config()?;
    if let Some(guest) = &args.guest {
        context.guest(&config, guest)?;
    }
    if args
        .with
        .as_deref()
        .is_some_and(|line| line.trim().is_empty())
    {
        return Err(CliError::usage(
            "--with is empty",
            "give it the VM's command line, in quotes",
        ));
    }
    let root = rustix::process::geteuid().is_root();
    let scope = if root && !args.user {
        Scope::System
    } else {
        Scope::User
    };
    if scope == Scope::System && args.linger {
        return Err(CliError::usage(
            "--linger is for a user's manager; the machine's starts at boot",
            "leave it out",
        ));
    }
    let wish = Wish {
        scope,
        machine: args.with.map(|line| (args.guest, line)),
        linger: args.linger,
        force: args.force,
        start: !args.no_start,
    };
    let plan = Plan::make(context, &wish)?;
    if args.dry_run {
        return show(context, &plan);
    }
    if let Err(error) = plan.manager_answers() {
        show(context, &plan)?;
        return Err(error);
    }
    let progress = context.progress("the service manager");
    plan.carry_out(context)?;
    drop(progress);
    let names = plan.names();
    context.out.done(
        &format!("installed {}", names.join(", ")),
        &Installation::Done {
            units: names,
            started: wish.start,
        },
    )?;
    if scope == Scope::User && !wish.linger && !manager::lingers() {
        context.out.note(
            "they start when you log in, and stop when you log out; from boot on: sharectl service install --linger",
        );
    }
    Ok(())
}

fn show(context: &Context, plan: &Plan) -> Outcome {
    if context.out.is_json() {
        let steps: Vec<_> = plan
            .steps
            .iter()
            .map(|step| match step {
                Step::Write { file, unit } => InstallStep::Write {
                    file,
                    about: &unit.about,
                    text: &unit.text,
                },
                Step::Keep { file, about } => InstallStep::Keep { file, about },
                Step::Run { line, why } => InstallStep::Run { line, why },
            })
            .collect();
        return context.out.json(&Installation::Planned { steps });
    }
    let mut text = String::new();
    for step in &plan.steps {
        match step {
            Step::Write { file, unit } => {
                text.push_str(&format!("write {}   ({})\n", file.display(), unit.about));
                for line in unit.text.lines() {
                    text.push_str(format!("    {line}").trim_end());
                    text.push('\n');
                }
            }
            Step::Keep { file, about } => {
                text.push_str(&format!("keep  {}   ({about})\n", file.display()));
            }
            Step::Run { line, why } => text.push_str(&format!("run   {line}   ({why})\n")),
        }
    }
    context.out.text(&text)
}
