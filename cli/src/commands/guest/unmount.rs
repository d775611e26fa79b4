//! `sharectl guest unmount`: a guest's folder leaves the host.

use control::config::{Config, Guest, GuestMount};
use control::paths::Daemon;

use crate::commands::share::absolute;
use crate::context::Context;
use crate::edit::{Draft, document};
use crate::error::{CliError, Outcome};
use schemars::JsonSchema;
use serde::Serialize;
use std::path::PathBuf;

/// Take a guest's folder off the host, and forget it
///
/// What programs have written goes to the guest first; those that still have files open there get an error
/// ("transport endpoint is not connected").
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  sharectl guest unmount ~/vm/dev\n  sharectl guest unmount dev")]
pub(crate) struct Args {
    /// Where it is mounted, or the guest for all that is mounted of it
    #[arg(value_name = "FOLDER|GUEST")]
    what: String,
}

#[derive(Serialize, JsonSchema)]
pub(crate) struct UnmountedFolders<'f> {
    /// Where they were.
    unmounted: Vec<&'f PathBuf>,
}

pub(crate) fn run(context: &Context, args: Args) -> Outcome {
    let mut draft = Draft::open(&context.paths.config)?;
    let config = draft.config()?;
    let found = found(&config, &args.what)?;
    if found.is_empty() {
        let mounted = config.guests.values().flat_map(|guest| &guest.mounts);
        let mounted: Vec<_> = mounted
            .map(|mount| mount.at.display().to_string())
            .collect();
        let hint = if mounted.is_empty() {
            "no guest has a folder on the host; one gets there by: sharectl guest mount dev:/ FOLDER"
                .to_owned()
        } else {
            format!("there are: {}", mounted.join(", "))
        };
        return Err(CliError::failure(
            format!("no folder of a guest is to be mounted at {}", args.what),
            hint,
        ));
    }
    for (guest, mount) in &found {
        let places = ["guest", guest.name.as_str(), "mounts"];
        document::remove_value(&mut draft.document, &places, &mount.key)?;
    }
    draft.commit(context)?;
    context.reload(&[Daemon::Netd, Daemon::Sharefs])?;
    let places: Vec<_> = found.iter().map(|(_, mount)| &mount.at).collect();
    let sentences: Vec<_> = found
        .iter()
        .map(|(guest, mount)| {
            let (path, at) = (mount.path.display(), mount.at.display());
            format!("{}:{path} unmounted from {at}", guest.name)
        })
        .collect();
    context.out.done(
        &sentences.join("\n"),
        &UnmountedFolders { unmounted: places },
    )
}

/// Those of a guest with this name, else the one at this place.
fn found<'c>(config: &'c Config, what: &str) -> Outcome<Vec<(&'c Guest, &'c GuestMount)>> {
    let all = config
        .guests
        .values()
        .flat_map(|guest| guest.mounts.iter().map(move |mount| (guest, mount)));
    let of_guest: Vec<_> = all
        .clone()
        .filter(|(guest, _)| guest.name.as_str() == what)
        .collect();
    if !of_guest.is_empty() {
        return Ok(of_guest);
    }
    let typed = absolute(what)?;
    let is_there = |mount: &GuestMount| {
        mount.key == typed || mount.at.as_os_str() == typed.trim_end_matches('/')
    };
    Ok(all.filter(|(_, mount)| is_there(mount)).collect())
}
