//! Folders of guests on the host: where, as whom, and that no two of them, and no share, are in one another.
//!
//! Only the words of the file are judged here, as in mounts.rs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::super::problem::Findings;
use super::super::raw::{At, RawConfig, RawGuest, RawGuestMount, RawGuestMountTable};
use super::super::{Guest, GuestMount, NINEP_PORT, Network, NetworkKind, Share, Surroundings};
use super::paths::{plain, read_folder};
use crate::names::{GuestName, ShareName};

pub(super) fn read(
    raw: &RawGuest,
    network: &Network,
    owner: &str,
    surroundings: &Surroundings,
    findings: &mut Findings<'_>,
) -> Vec<GuestMount> {
    let mut mounts = Vec::new();
    for (at, wanted) in &raw.mounts {
        if network.kind == NetworkKind::Bridged && raw.vsock.is_none() {
            findings.add(
                Some(at.offset()),
                format!(
                    "{owner}: mounts: netd leads to no guest on the bridged network \"{}\"",
                    network.name
                ),
                "put the guest on a nat or host-only network",
            );
            continue;
        }
        let Some(place) = read_folder(findings, (owner, "mounts"), at, surroundings) else {
            continue;
        };
        if place == Path::new("/") {
            findings.add(
                Some(at.offset()),
                format!("{owner}: mounts: \"/\" would hide the whole host"),
                "write it like \"~/vm/dev\" = \"/\"",
            );
            continue;
        }
        match one((at.value(), place), wanted.value(), surroundings) {
            Ok(mount) => mounts.push(mount),
            Err((message, hint)) => {
                let message = format!("{owner}: mounts: {message}");
                findings.add(Some(wanted.offset()), message, hint);
            }
        }
    }
    mounts
}

/// The longest text that a server is sent.
const LONGEST: usize = 1024;

fn one(
    (key, at): (&str, PathBuf),
    wanted: &RawGuestMount,
    surroundings: &Surroundings,
) -> Result<GuestMount, (String, &'static str)> {
    let table = match wanted {
        RawGuestMount::Path(path) => &RawGuestMountTable {
            path: path.clone(),
            export: None,
            port: None,
            owner: None,
            user: None,
            read_only: false,
        },
        RawGuestMount::Table(table) => table,
    };
    let path = Path::new(&table.path);
    let path = Some(path)
        .filter(|path| path.is_absolute())
        .and_then(plain)
        .ok_or_else(|| {
            (
                format!(
                    "\"{}\" is not an absolute path without ..",
                    table.path.escape_debug()
                ),
                "write the guest's path like \"/\" or \"/home/ann\"",
            )
        })?;
    let port = match table.port {
        None => NINEP_PORT,
        Some(port) => u16::try_from(port)
            .ok()
            .filter(|port| *port > 0)
            .ok_or_else(|| {
                (
                    format!("port = {port} is no port"),
                    "write a number from 1 to 65535",
                )
            })?,
    };
    let owner = match &table.owner {
        None => (surroundings.uid, surroundings.gid),
        Some(text) => text
            .split_once(':')
            .and_then(|(uid, gid)| Some((uid.parse().ok()?, gid.parse().ok()?)))
            .ok_or_else(|| {
                (
                    format!("owner \"{}\" is not UID:GID", text.escape_debug()),
                    "write it like \"1000:1000\"",
                )
            })?,
    };
    let user = match (&table.user, owner.0) {
        (Some(user), _) => user.clone(),
        (None, 0) => "root".to_owned(),
        (None, uid) => uid.to_string(),
    };
    let (export, below) = match &table.export {
        None => (path.display().to_string(), Vec::new()),
        Some(export) => {
            // It is absolute and has no `..`.
            let below = path.strip_prefix("/").unwrap_or(&path);
            let names = below
                .iter()
                .filter_map(|name| Some(name.to_str()?.to_owned()));
            (export.clone(), names.collect())
        }
    };
    for (key, text) in [("user", &user), ("export", &export)] {
        if text.len() > LONGEST || text.contains(char::is_control) {
            return Err((
                format!(
                    "{key} \"{}\" is longer than {LONGEST} bytes or has control characters",
                    text.escape_debug()
                ),
                "write what the guest's server knows it by",
            ));
        }
    }
    Ok(GuestMount {
        key: key.to_owned(),
        at,
        path,
        export,
        below,
        port,
        owner,
        user,
        read_only: table.read_only,
    })
}

/// A guest's folder inside a shared folder would go to guests again; two mounts in one another hide each other.
pub(super) fn check(
    raw: &RawConfig,
    guests: &BTreeMap<GuestName, Guest>,
    shares: &BTreeMap<ShareName, Share>,
    findings: &mut Findings<'_>,
) {
    let mut seen: Vec<(PathBuf, String)> = Vec::new();
    for share in shares.values() {
        let owner = format!("share \"{}\"", share.name);
        seen.push((share.path.clone(), format!("the folder of {owner}")));
        if let Some(mount) = &share.mount {
            seen.push((mount.path.clone(), format!("the mount of {owner}")));
        }
    }
    for guest in guests.values() {
        for mount in &guest.mounts {
            let clash = seen
                .iter()
                .find(|(other, _)| mount.at.starts_with(other) || other.starts_with(&mount.at));
            if let Some((other, whose)) = clash {
                findings.add(
                    offset(raw, &guest.name),
                    format!(
                        "guest \"{}\": mounts: {} and {}, {whose}, are in one another",
                        guest.name,
                        mount.at.display(),
                        other.display()
                    ),
                    "mount it outside of all shared folders and other mounts, e.g. at ~/vm/NAME",
                );
            }
            let whose = format!("a mount of guest \"{}\"", guest.name);
            seen.push((mount.at.clone(), whose));
        }
    }
}

fn offset(raw: &RawConfig, name: &GuestName) -> Option<usize> {
    let (_, guest) = raw
        .guest
        .iter()
        .find(|(key, _)| key.value() == name.as_str())?;
    guest.mounts.keys().next().map(At::offset)
}
