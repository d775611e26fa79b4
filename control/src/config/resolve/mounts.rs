//! Mounts on the host: where, for whom, and that none of them shows a share inside a share.
//!
//! Only the words of the file are judged here; links and bind mounts are seen when the mount is made
//! (sharefs/src/mounter/place.rs).

use std::collections::BTreeMap;
use std::path::Path;

use super::super::problem::Findings;
use super::super::raw::{At, RawConfig, RawShare};
use super::super::{HostMount, MountUsers, Share, Surroundings};
use super::paths::read_folder;
use super::read_word;
use crate::names::ShareName;

pub(super) fn read(
    findings: &mut Findings<'_>,
    owner: &str,
    raw: &RawShare,
    surroundings: &Surroundings,
) -> Option<HostMount> {
    let kinds = [("own", MountUsers::Own), ("all", MountUsers::All)];
    let users = raw
        .mount_users
        .as_ref()
        .and_then(|word| read_word(findings, (owner, "mount-users"), word, &kinds));
    let text = raw.mount.as_ref()?;
    let path = read_folder(findings, (owner, "mount"), text, surroundings)?;
    if path == Path::new("/") {
        findings.add(
            Some(text.offset()),
            format!("{owner}: mount = \"/\" would hide the whole host"),
            "write it like /mnt/d",
        );
        return None;
    }
    Some(HostMount {
        path,
        users: users.unwrap_or(MountUsers::Own),
    })
}

/// A mount inside a shared folder would be shared again and again, a folder shared out of a mount would
/// have the daemon wait for itself.
pub(super) fn check(
    raw: &RawConfig,
    shares: &BTreeMap<ShareName, Share>,
    findings: &mut Findings<'_>,
) {
    for share in shares.values() {
        let Some(mount) = &share.mount else {
            continue;
        };
        let (name, place) = (&share.name, mount.path.display());
        let offset = raw
            .share
            .iter()
            .find(|(key, _)| key.value() == name.as_str())
            .and_then(|(_, raw)| raw.mount.as_ref())
            .map(At::offset);
        for other in shares.values() {
            let folder = other.path.display();
            if mount.path.starts_with(&other.path) || other.path.starts_with(&mount.path) {
                let why = if mount.path == other.path {
                    "is the folder itself"
                } else if mount.path.starts_with(&other.path) {
                    "is inside the folder"
                } else {
                    "would hide the folder"
                };
                findings.add(
                    offset,
                    format!(
                        "share \"{name}\": mount = \"{place}\" {why} {folder} of share \"{}\"",
                        other.name
                    ),
                    "mount it outside of all shared folders, e.g. at /mnt/NAME",
                );
            }
            let other_mount = other.mount.as_ref().filter(|_| other.name < share.name);
            if let Some(theirs) = other_mount
                && (theirs.path.starts_with(&mount.path) || mount.path.starts_with(&theirs.path))
            {
                findings.add(
                    offset,
                    format!(
                        "share \"{name}\" and share \"{}\" are mounted in one another: {place} and {}",
                        other.name,
                        theirs.path.display()
                    ),
                    "change mount = \"...\" of one",
                );
            }
        }
    }
}
