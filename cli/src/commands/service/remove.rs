//! `sharectl service remove`: what `install` wrote goes again.

use crate::context::Context;
use crate::error::Outcome;
use crate::service::removal;
use schemars::JsonSchema;
use serde::Serialize;

/// Stop the units, and take away what install wrote
///
/// Names are taken out of the hosts files first. Configuration, leases and
/// drop-ins of your own stay; a unit that you edited is switched off and stays.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  sharectl service remove --dry-run\n  sharectl service remove")]
pub(crate) struct Args {
    /// Remove units that were edited, too
    #[arg(long)]
    force: bool,
    /// Leave the names in the hosts files
    #[arg(long)]
    keep_names: bool,
    /// Only say what would be removed
    #[arg(long)]
    dry_run: bool,
}

/// What went, or would go.
#[derive(Serialize, JsonSchema)]
pub(crate) struct RemovedService {
    removed: Vec<UnitThing>,
    /// What stays, and why.
    left: Vec<UnitThing>,
    /// Nothing was done.
    dry_run: bool,
}

#[derive(Serialize, JsonSchema)]
struct UnitThing {
    what: String,
    why: String,
}

pub(crate) fn run(context: &Context, args: Args) -> Outcome {
    let removal = if args.dry_run {
        removal::list(context, args.force)?
    } else {
        let _progress = context.progress("the service manager");
        removal::carry_out(context, args.force, args.keep_names)?
    };
    let Some(removal) = removal else {
        return context.out.done(
            "no service is installed",
            &RemovedService {
                removed: Vec::new(),
                left: Vec::new(),
                dry_run: args.dry_run,
            },
        );
    };
    if context.out.is_json() {
        let rows = |rows: Vec<(String, String)>| -> Vec<_> {
            let row = |(what, why)| UnitThing { what, why };
            rows.into_iter().map(row).collect()
        };
        return context.out.json(&RemovedService {
            removed: rows(removal.removed),
            left: rows(removal.left),
            dry_run: args.dry_run,
        });
    }
    let verb = if args.dry_run {
        "would remove"
    } else {
        "removed"
    };
    let mut text = String::new();
    for (what, why) in &removal.removed {
        text.push_str(&format!("{verb} {what}   ({why})\n"));
    }
    for (what, why) in &removal.left {
        text.push_str(&format!("left {what}   ({why})\n"));
    }
    if context.out.quiet {
        return Ok(());
    }
    context.out.text(&text)
}
