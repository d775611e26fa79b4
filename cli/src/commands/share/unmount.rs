//! `sharectl share unmount`: a share leaves the host's own tree; guests keep it.

use control::names::ShareName;
use control::paths::Daemon;

use super::mount::known;
use crate::context::Context;
use crate::edit::{Draft, document};
use crate::error::{CliError, Outcome};
use schemars::JsonSchema;
use serde::Serialize;
use std::path::Path;

/// Take a share's mount away from the host; guests keep the share
///
/// What programs have written goes to the files first; those that still have files open there get an
/// error ("transport endpoint is not connected").
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  sharectl share unmount d")]
pub(crate) struct Args {
    /// As in `sharectl share ls`
    #[arg(value_name = "NAME")]
    share: ShareName,
}

#[derive(Serialize, JsonSchema)]
pub(crate) struct Unmounted<'m> {
    /// Where it was.
    unmounted: &'m Path,
}

pub(crate) fn run(context: &Context, args: Args) -> Outcome {
    let name = &args.share;
    let mut draft = Draft::open(&context.paths.config)?;
    let Some(mount) = known(context, &draft, name)?.mount else {
        return Err(CliError::failure(
            format!("share {name} is not to be mounted on the host"),
            format!("guests mount it themselves; on the host: sharectl share mount {name} PATH"),
        ));
    };
    let place = ["share", name.as_str()];
    document::remove_value(&mut draft.document, &place, "mount")?;
    document::remove_value(&mut draft.document, &place, "mount-users")?;
    draft.commit(context)?;
    context.reload(&[Daemon::Sharefs])?;
    context.out.done(
        &format!("share {name} unmounted from {}", mount.path.display()),
        &Unmounted {
            unmounted: &mount.path,
        },
    )
}
