//! `sharectl host writer install`: the program and its units are put where systemd finds them, and started.
//!
//! The program is copied to a place of root's: what runs as root must not be a file that an
//! ordinary user can change, as in ~/.cargo/bin.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use control::paths::Daemon;
use schemars::JsonSchema;
use serde::Serialize;

use super::writer::text;
use crate::context::Context;
use crate::daemons;
use crate::error::{CliError, Outcome};

const UNITS: &str = "etc/systemd/system";
const PROGRAM: &str = "sharectl-hosts-writer";
/// There while systemd is the machine's service manager (sd_booted(3)).
const BOOTED: &str = "/run/systemd/system";

/// Install the writer for this machine and start it, once, as root
///
/// Without /etc/sharectl/hosts.toml every person's user may have names below "test"; `sharectl
/// host writer unit policy` prints that file to begin with. To take it away: sudo sharectl uninstall.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  sudo sharectl host writer install\n  sharectl host writer install --dry-run"
)]
pub(crate) struct Args {
    /// Put the files below this folder instead of / and start nothing; for packages
    #[arg(long, value_name = "FOLDER")]
    root: Option<PathBuf>,
    /// Change nothing, show what would be done
    #[arg(long)]
    dry_run: bool,
}

/// What the writer has on the machine whose `/` is `root`: its units, its program, its journal.
pub(crate) fn installed(root: &Path) -> Vec<PathBuf> {
    let places = [
        "etc/systemd/system/sharectl-hosts.socket",
        "etc/systemd/system/sharectl-hosts.service",
        "usr/local/libexec/sharectl",
        "var/lib/sharectl-hosts",
    ];
    let places = places.map(|place| root.join(place));
    let there = places.into_iter();
    there
        .filter(|place| place.symlink_metadata().is_ok())
        .collect()
}

/// One thing to do.
enum Step {
    Copy { from: PathBuf, to: PathBuf },
    Write { to: PathBuf, text: String },
    Run(&'static [&'static str]),
}

/// What was done, or would be.
#[derive(Serialize, JsonSchema)]
pub(crate) struct WriterSteps {
    done: bool,
    steps: Vec<String>,
}

pub(crate) fn run(context: &Context, args: Args) -> Outcome {
    let steps = plan(context, args.root.as_deref())?;
    if !args.dry_run {
        check(args.root.as_deref())?;
        steps.iter().try_for_each(Step::take)?;
    }
    let report = WriterSteps {
        done: !args.dry_run,
        steps: steps.iter().map(Step::to_string).collect(),
    };
    context.out.done(&report.steps.join("\n"), &report)
}

fn plan(context: &Context, root: Option<&Path>) -> Outcome<Vec<Step>> {
    let place = |path: &str| {
        root.unwrap_or_else(|| Path::new("/"))
            .join(path.trim_start_matches('/'))
    };
    let unit = |name: &str| place(&format!("{UNITS}/sharectl-hosts.{name}"));
    let hostsync = daemons::program(Daemon::Hostsync)?;
    let from = hostsync.with_file_name(PROGRAM);
    if !from.is_file() {
        return Err(CliError::failure(
            format!("{} is not there", from.display()),
            "install all programs in one folder, or build them: cargo build --workspace",
        ));
    }
    let mut steps = vec![
        Step::Copy {
            from,
            to: place(&text(context, "program")?),
        },
        Step::Write {
            to: unit("socket"),
            text: text(context, "socket")?,
        },
        Step::Write {
            to: unit("service"),
            text: text(context, "service")?,
        },
    ];
    if root.is_none() {
        steps.push(Step::Run(&["systemctl", "daemon-reload"]));
        let enable = &[
            "systemctl",
            "enable",
            "--now",
            "sharectl-hosts.socket",
            "sharectl-hosts.service",
        ];
        steps.push(Step::Run(enable));
        // One that ran before is the old program.
        steps.push(Step::Run(&[
            "systemctl",
            "restart",
            "sharectl-hosts.service",
        ]));
    }
    Ok(steps)
}

fn check(root: Option<&Path>) -> Outcome {
    if root.is_some() {
        return Ok(());
    }
    if !rustix::process::geteuid().is_root() {
        return Err(CliError::failure(
            "only root can install the hosts writer",
            "sudo sharectl host writer install",
        ));
    }
    if !Path::new(BOOTED).exists() {
        return Err(CliError::failure(
            "systemd does not run here, so it cannot start the hosts writer",
            format!(
                "have your service manager run {PROGRAM} as root; or --root FOLDER, for the files alone"
            ),
        ));
    }
    Ok(())
}

impl Step {
    fn take(&self) -> Outcome {
        match self {
            Self::Copy { from, to } => put(to, 0o755, &|new| fs::copy(from, new).map(drop)),
            Self::Write { to, text } => put(to, 0o644, &|new| fs::write(new, text)),
            Self::Run(line) => run_line(line),
        }
    }
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Copy { from, to } => write!(f, "cp {} {}", from.display(), to.display()),
            Self::Write { to, .. } => write!(f, "write {}", to.display()),
            Self::Run(line) => f.write_str(&line.join(" ")),
        }
    }
}

/// Makes a file whole or not at all, though the old one runs.
fn put(to: &Path, mode: u32, fill: &dyn Fn(&Path) -> std::io::Result<()>) -> Outcome {
    let new = to.with_extension("new");
    let make = || {
        if let Some(folder) = to.parent() {
            fs::create_dir_all(folder)?;
        }
        fill(&new)?;
        fs::set_permissions(&new, fs::Permissions::from_mode(mode))?;
        fs::rename(&new, to)
    };
    make().map_err(|error| {
        CliError::failure(
            format!("cannot make {}: {error}", to.display()),
            "do it as root: sudo sharectl host writer install",
        )
    })
}

fn run_line(line: &[&str]) -> Outcome {
    let (program, arguments) = line.split_first().unwrap_or((&"true", &[]));
    let failed = |why: String| {
        let hint = "systemctl status sharectl-hosts.socket sharectl-hosts.service";
        CliError::failure(format!("{}: {why}", line.join(" ")), hint)
    };
    let status = Command::new(program).args(arguments).status();
    let status = status.map_err(|error| failed(error.to_string()))?;
    if status.success() {
        Ok(())
    } else {
        Err(failed(status.to_string()))
    }
}
