//! `sharectl share add`: a folder for the configuration.

use control::config::{Devices, SHARES_FOLDER};
use control::names::{GuestName, ShareName};
use control::paths::Daemon;
use control::pattern::PathPattern;
use toml_edit::{Array, Value};

use crate::context::Context;
use crate::edit::document;
use crate::error::{CliError, Outcome};
use crate::import::plain_name;
use crate::output::comma_list;

/// Share a folder of the host with guests
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  sharectl share add ~/src\n  sharectl share add 'D:\\' --at /mnt/d --guest dev"
)]
pub(crate) struct Args {
    /// The host's folder, or a Windows drive such as D:\
    #[arg(value_name = "FOLDER")]
    path: String,
    /// Where guests mount it, instead of the same path as on the host
    #[arg(long, value_name = "PATH")]
    at: Option<String>,
    /// Its name, instead of the folder's own
    #[arg(long)]
    name: Option<ShareName>,
    /// Refuse every change from guests
    #[arg(long)]
    read_only: bool,
    /// What does not exist for guests, as in .gitignore; may be repeated
    #[arg(long, value_name = "PATTERN")]
    exclude: Vec<PathPattern>,
    /// What guests cannot change, as in .gitignore; may be repeated
    #[arg(long = "read-only-path", value_name = "PATTERN")]
    read_only_paths: Vec<PathPattern>,
    /// Which names the folder can hold; windows for a folder on a Windows file system
    #[arg(long, value_parser = ["plain", "windows"])]
    names: Option<String>,
    /// Whether names that differ only in case are two or one
    #[arg(long, value_parser = ["exact", "insensitive"])]
    case: Option<String>,
    /// A guest that sees it, instead of all; may be repeated
    #[arg(long = "guest", value_name = "NAME")]
    guests: Vec<GuestName>,
    /// How owners appear: map (yours), squash (one for all files), pass (unchanged; needs root)
    #[arg(long, value_parser = ["map", "squash", "pass"])]
    owner: Option<String>,
    /// The owner in the guest, for map and squash
    #[arg(long, value_name = "UID:GID")]
    guest_owner: Option<String>,
    /// Keep owners, modes and devices that the files cannot have in an extended attribute
    #[arg(long, value_parser = ["none", "xattr"])]
    owner_store: Option<String>,
    /// How long guests trust what they have seen
    #[arg(long, value_parser = ["never", "auto", "always"])]
    cache: Option<String>,
}

pub(crate) fn run(context: &Context, args: Args) -> Outcome {
    let path = absolute(&args.path)?;
    let name = match args.name {
        Some(name) => name,
        None => name_of(&path)?,
    };
    let config = context.change(|draft| {
        let config = draft.config()?;
        for guest in &args.guests {
            context.guest(&config, guest)?;
        }
        if config.shares.contains_key(&name) {
            return Err(CliError::conflict(
                format!(
                    "share \"{name}\" is in {} already",
                    context.paths.config.display()
                ),
                "give this one another name: --name NAME",
            ));
        }
        let mut fields: Vec<(&str, Value)> = vec![("path", path.clone().into())];
        fields.extend(args.at.map(|at| ("at", at.into())));
        if args.read_only {
            fields.push(("read-only", true.into()));
        }
        for (key, patterns) in [
            ("exclude", &args.exclude),
            ("read-only-paths", &args.read_only_paths),
        ] {
            if !patterns.is_empty() {
                let patterns: Array = patterns.iter().map(PathPattern::to_string).collect();
                fields.push((key, Value::Array(patterns)));
            }
        }
        fields.extend(args.names.map(|names| ("names", names.into())));
        fields.extend(args.case.map(|case| ("case", case.into())));
        if !args.guests.is_empty() {
            let guests: Array = args.guests.iter().map(GuestName::as_str).collect();
            fields.push(("guests", Value::Array(guests)));
        }
        fields.extend(args.owner.map(|owner| ("owner", owner.into())));
        fields.extend(args.guest_owner.map(|owner| ("guest-owner", owner.into())));
        fields.extend(args.owner_store.map(|store| ("owner-store", store.into())));
        fields.extend(args.cache.map(|cache| ("cache", cache.into())));
        document::add_entry(&mut draft.document, "share", name.as_str(), fields)?;
        match draft.config()?.shares.get(&name) {
            Some(share) if !share.path.is_dir() => Err(CliError::failure(
                format!("{} is not a folder on this host", share.path.display()),
                format!("make it first: mkdir -p {}", share.path.display()),
            )),
            Some(_) | None => Ok(()),
        }
    })?;
    context.reload(&[Daemon::Sharefs])?;
    let Some(share) = config.shares.get(&name) else {
        return Ok(());
    };
    let seen_by = share
        .guests
        .as_ref()
        .map_or_else(|| "all guests".to_owned(), comma_list);
    let mode = if share.read_only {
        "read-only"
    } else {
        "read and write"
    };
    let sentence = format!(
        "share {name} added: {} at {} in {seen_by}, {mode}",
        share.path.display(),
        share.at.display()
    );
    context.out.done(&sentence, share)?;
    let uses = |devices| {
        config
            .guests_of(share)
            .any(|guest| guest.devices == devices)
    };
    let at = share.at.display();
    if uses(Devices::One) || !uses(Devices::Each) {
        context.out.note(&format!(
            "a VM that runs with shares has it now, others from their next start; in the guest: mkdir -p {at} && mount --bind {SHARES_FOLDER}/{name} {at}"
        ));
    }
    if uses(Devices::Each) {
        context.out.note(&format!(
            "a VM with a device a share sees it from its next start; in the guest: mkdir -p {at} && mount -t virtiofs {name} {at}"
        ));
    }
    Ok(())
}

/// As the file wants it: absolute, `~/…`, or a Windows path.
fn absolute(typed: &str) -> Outcome<String> {
    let windows = typed.as_bytes().get(1) == Some(&b':') || typed.starts_with(r"\\");
    if windows || typed.starts_with('/') || typed == "~" || typed.starts_with("~/") {
        return Ok(typed.to_owned());
    }
    // The folder's real place, without `.` and `..` in it.
    let absolute = std::path::Path::new(typed)
        .canonicalize()
        .map_err(|error| {
            CliError::failure(
                format!("cannot find the folder {typed}: {error}"),
                format!("make it first: mkdir -p {typed}"),
            )
        })?;
    absolute.into_os_string().into_string().map_err(|path| {
        CliError::failure(
            format!("{} is not UTF-8, which the file must be", path.display()),
            "share a folder above it",
        )
    })
}

/// The last part of the path in the letters a share's name may have.
fn name_of(path: &str) -> Outcome<ShareName> {
    let last = path
        .split(['/', '\\'])
        .rfind(|part| !part.is_empty())
        .unwrap_or_default();
    let name = plain_name(last, ShareName::LIMIT).unwrap_or_default();
    ShareName::parse(&name).map_err(|_| {
        CliError::usage(
            format!("no share name can be made of {path}"),
            "give it one: --name NAME",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_from_paths() {
        for (path, expected) in [
            ("/home/ann/src", "src"),
            (r"D:\", "d"),
            ("~/My Documents (old)/", "my-documents-old"),
            ("/srv/.git", "git"),
        ] {
            assert_eq!(name_of(path).unwrap().as_str(), expected, "{path}");
        }
        assert!(name_of("/").is_err());
        assert!(name_of("/…").is_err());
    }
}
