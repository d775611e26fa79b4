//! `sharectl host restore` and `host repair`: a hosts file from before, and damaged markers mended.
//!
//! Both are done by a round of hostsync with this user's rights; a daemon that keeps the file waits meanwhile.

use std::path::PathBuf;

use control::api::{HostsBackup, HostsMended};

use super::once::{round, round_with};
use crate::context::Context;
use crate::error::Outcome;
use crate::output::printable;

/// Bring your own lines of a hosts file back as they were; sharectl's stay
///
/// Before it writes, sharectl keeps the file if your own lines in it changed: the first version for
/// ever, and the newest nine. The difference is shown; what is there now is kept, too, so that the
/// same command goes back again.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  sharectl host restore --list\n  sudo sharectl host restore /etc/hosts --backup 1 --dry-run"
)]
pub(crate) struct RestoreArgs {
    /// The number of a version, as --list shows it [default: the newest that differs]
    #[arg(long, value_name = "NUMBER")]
    backup: Option<u64>,
    /// Show which versions are kept, and where; change nothing
    #[arg(long, conflicts_with_all = ["backup", "dry_run", "file"])]
    list: bool,
    /// Change nothing, show the difference
    #[arg(long)]
    dry_run: bool,
    /// This file of the configuration alone [default: all]
    file: Option<PathBuf>,
}

/// Mend damaged markers in the hosts files; your own lines stay
///
/// Finds a BEGIN or END without its other half, doubled, reversed and nested blocks, and lines of
/// others inside a block, says what it found, and mends it: a line goes only if it is certainly
/// sharectl's.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  sharectl host repair --dry-run\n  sudo sharectl host repair /etc/hosts"
)]
pub(crate) struct RepairArgs {
    /// Change nothing, show what was found and the difference
    #[arg(long)]
    dry_run: bool,
    /// This file of the configuration alone [default: all]
    file: Option<PathBuf>,
}

pub(crate) fn restore(context: &Context, args: RestoreArgs) -> Outcome {
    if args.list {
        let backups: Vec<HostsBackup> = round(context, "backups")?;
        return context.out.list(
            &["FILE", "BACKUP", "KEPT", "AS NOW", "COPY"],
            &backups,
            |backup| {
                vec![
                    backup.file.display().to_string(),
                    backup.number.to_string(),
                    backup.kept.clone(),
                    if backup.current { "yes" } else { "no" }.to_owned(),
                    backup.path.display().to_string(),
                ]
            },
        );
    }
    let number = args.backup.map(|number| format!("--backup={number}"));
    mend(context, "restore", number, args.dry_run, args.file)
}

pub(crate) fn repair(context: &Context, args: RepairArgs) -> Outcome {
    mend(context, "repair", None, args.dry_run, args.file)
}

fn mend(
    context: &Context,
    verb: &str,
    option: Option<String>,
    dry_run: bool,
    file: Option<PathBuf>,
) -> Outcome {
    let file = file.map(|file| {
        let file = std::path::absolute(&file).unwrap_or(file);
        file.display().to_string()
    });
    let mut arguments = vec![verb];
    arguments.extend(option.as_deref());
    arguments.extend(dry_run.then_some("--dry-run"));
    arguments.extend(file.as_deref());
    let mended: Vec<HostsMended> = round_with(context, &arguments)?;
    if context.out.is_json() {
        return context.out.json(&mended);
    }
    for file in &mended {
        let name = file.file.display();
        for sentence in &file.found {
            context.out.note(&format!("{name}: {sentence}"));
        }
        context.out.text(&printable(&file.diff))?;
        match (file.diff.is_empty(), file.done) {
            (true, _) => context.out.note(&format!("{name}: nothing to do")),
            (false, true) => context.out.note(&format!("{name}: written")),
            (false, false) => context.out.note(&format!("{name}: not written, as asked")),
        }
    }
    Ok(())
}
