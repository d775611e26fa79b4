//! `sharectl share mount`: a share on the host itself, now and after every start.

use control::api::ShareStatus;
use control::config::{MountUsers, Share};
use control::names::ShareName;
use control::paths::Daemon;

use crate::context::{Context, unknown};
use crate::edit::{Draft, document};
use crate::error::{CliError, Outcome};
use crate::ready::{WaitArgs, Wish};

/// Mount a share on the host too, so that the host has the path its guests have
///
/// sharefs mounts it now and whenever it starts. As an ordinary user it needs the package fuse3; only
/// that user may enter the mount, unless --all-users is given.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  sharectl share mount d /mnt/d\n  sharectl share mount d ~/d --dry-run"
)]
pub(crate) struct Args {
    /// As in `sharectl share ls`
    #[arg(value_name = "NAME")]
    share: ShareName,
    /// Where, instead of the guests' path
    #[arg(value_name = "PATH")]
    path: Option<String>,
    /// Let every user of the host enter it, as the files' permissions say
    #[arg(long)]
    all_users: bool,
    #[command(flatten)]
    wait: WaitArgs,
}

pub(crate) fn run(context: &Context, args: Args) -> Outcome {
    let name = &args.share;
    let mut draft = Draft::open(&context.paths.config)?;
    let before = known(context, &draft, name)?;
    let path = match args.path {
        Some(typed) => absolute(&typed)?,
        None => match before.mount {
            Some(mount) => mount.path.display().to_string(),
            None if before.at == before.path => {
                return Err(CliError::usage(
                    format!(
                        "guests have share {name} at the host's own path {}",
                        before.at.display()
                    ),
                    format!(
                        "say where the host shall have it too: sharectl share mount {name} PATH"
                    ),
                ));
            }
            None => before.at.display().to_string(),
        },
    };
    let place = ["share", name.as_str()];
    document::set_value(&mut draft.document, &place, "mount", path)?;
    if args.all_users {
        document::set_value(&mut draft.document, &place, "mount-users", "all")?;
    }
    let config = draft.commit(context)?;
    context.reload(&[Daemon::Sharefs])?;
    if context.is_rehearsal() {
        return Ok(());
    }
    args.wait
        .until(context, &[Wish::ShareOnHost(name.clone())])?;
    let Some(mount) = config
        .shares
        .get(name)
        .and_then(|share| share.mount.as_ref())
    else {
        return Ok(());
    };
    let shares: Result<Vec<ShareStatus>, CliError> = context.ask(Daemon::Sharefs, "/v1/shares");
    let live = shares.ok().and_then(|shares| {
        let share = shares.into_iter().find(|share| share.name == *name)?;
        Some(share.mount.is_some_and(|mount| mount.mounted))
    });
    if live == Some(false) {
        return Err(CliError::failure(
            format!(
                "share {name} could not be mounted at {}",
                mount.path.display()
            ),
            format!(
                "the reason stands above; again: sharectl share mount {name}, or forget it: \
                 sharectl share unmount {name}"
            ),
        ));
    }
    let done = match live {
        Some(_) => "mounted",
        None => "will be mounted",
    };
    let users = match mount.users {
        MountUsers::Own => "for sharefs' own user",
        MountUsers::All => "for all users",
    };
    let sentence = format!("share {name} {done} at {} {users}", mount.path.display());
    context.out.done(&sentence, mount)
}

/// The share as the file has it now.
pub(super) fn known(context: &Context, draft: &Draft, name: &ShareName) -> Outcome<Share> {
    let mut config = draft.config()?;
    if let Some(share) = config.shares.remove(name) {
        return Ok(share);
    }
    let names = config.shares.keys().map(ShareName::as_str);
    Err(unknown(
        "share",
        name.as_str(),
        names,
        &context.paths.config,
        "sharectl share add FOLDER",
    ))
}

/// As the file wants it: absolute, or `~/…` for whoever sharefs runs as.
pub(crate) fn absolute(typed: &str) -> Outcome<String> {
    if typed.starts_with('/') || typed.starts_with("~/") {
        return Ok(typed.to_owned());
    }
    let full = std::path::absolute(typed).map_err(|error| {
        CliError::usage(
            format!("\"{typed}\" is no path: {error}"),
            "write it like /mnt/d",
        )
    })?;
    full.into_os_string().into_string().map_err(|path| {
        CliError::failure(
            format!("{} is not UTF-8, which the file must be", path.display()),
            "mount it at another path",
        )
    })
}
