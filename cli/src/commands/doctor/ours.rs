//! Checks of what must be there before anything runs: the configuration, the folders, the programs.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use control::paths::Daemon;
use rustix::fs::{Access, AtFlags, CWD};

use super::facts::Facts;
use super::finding::Finding;
use super::fix::Repair;
use crate::daemons;

/// `sun_path` of a unix socket's address, with its final zero.
const SOCKET_PATH_SIZE: usize = 108;
/// The longest name below the runtime folder: `guest/` 24 `/fs-` 31 `.sock`.
const LONGEST_BELOW: usize = 6 + 24 + 4 + 31 + 5 + 1;

pub(super) fn configuration(facts: &Facts) -> Vec<Finding> {
    let subject = Finding::about("config", "configuration");
    let path = facts.paths.config.display();
    vec![match &facts.config {
        Ok(_) if !facts.paths.config.exists() => subject.warns(
            format!("{path} is not there; the built-in defaults hold"),
            "sharectl init",
        ),
        Ok(config) => subject.ok(format!(
            "{path}: {} guests, {} shares",
            config.guests.len(),
            config.shares.len()
        )),
        Err(errors) => subject.fails(
            errors.to_string(),
            format!("mend {path}, then: sharectl config check"),
        ),
    }]
}

pub(super) fn runtime_folder(facts: &Facts) -> Vec<Finding> {
    let subject = Finding::about("runtime-folder", "runtime folder");
    let folder = &facts.paths.runtime;
    let shown = folder.display();
    let length = folder.as_os_str().len() + 1 + LONGEST_BELOW;
    let another = "export SHARECTL_RUNTIME_DIR=FOLDER";
    if length > SOCKET_PATH_SIZE {
        return vec![subject.fails(
            format!(
                "{shown} is too long a path: sockets below it may need {length} of {SOCKET_PATH_SIZE} bytes"
            ),
            "export SHARECTL_RUNTIME_DIR=/run/user/$UID/sharectl",
        )];
    }
    vec![match std::fs::symlink_metadata(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            subject.ok(format!("{shown} is not there yet; sharectl up makes it"))
        }
        Err(error) => subject.fails(format!("{shown}: {error}"), another),
        Ok(found) if !found.is_dir() => subject.fails(
            format!("{shown} is no folder"),
            format!("rm {shown}, or {another}"),
        ),
        Ok(found) if found.uid() != rustix::process::geteuid().as_raw() => {
            subject.fails(format!("{shown} belongs to user {}", found.uid()), another)
        }
        Ok(found) if found.permissions().mode() & 0o077 != 0 => subject
            .fails(
                format!(
                    "{shown} is open to other users (mode {:o})",
                    found.permissions().mode() & 0o777
                ),
                format!("chmod 700 {shown}"),
            )
            .mended_by(Repair::Close(folder.clone())),
        Ok(found) => subject.ok(format!(
            "{shown}, of user {}, mode {:o}",
            found.uid(),
            found.permissions().mode() & 0o777
        )),
    }]
}

/// Whether this user may write there.
pub(super) fn writable(path: &Path) -> bool {
    rustix::fs::accessat(CWD, path, Access::WRITE_OK, AtFlags::EACCESS).is_ok()
}

pub(super) fn state_folder(facts: &Facts) -> Vec<Finding> {
    let subject = Finding::about("state-folder", "state folder");
    let folder = &facts.paths.state;
    let shown = folder.display();
    vec![match std::fs::metadata(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            subject.ok(format!("{shown} is not there yet; sharectl up makes it"))
        }
        Ok(found) if found.is_dir() && writable(folder) => {
            subject.ok(format!("{shown} can be written"))
        }
        _not_ours => subject.fails(
            format!("{shown} cannot be written by this user"),
            "export SHARECTL_STATE_DIR=FOLDER",
        ),
    }]
}

pub(super) fn programs(_: &Facts) -> Vec<Finding> {
    let subject = Finding::about("programs", "programs");
    let mut seen = Vec::new();
    for daemon in Daemon::ALL {
        match daemons::program(daemon) {
            Ok(path) => seen.push(path.display().to_string()),
            Err(error) => {
                return vec![subject.fails(error.message, error.hint.unwrap_or_default())];
            }
        }
    }
    vec![subject.ok(seen.join(", "))]
}

#[cfg(test)]
mod tests {
    use super::super::facts::tests::Bed;
    use super::super::finding::State;
    use super::*;

    #[test]
    fn open_and_overlong_runtime_folders_fail() {
        let mut bed = Bed::with("");
        let folder = bed.facts.paths.runtime.clone();
        let set = |mode| {
            std::fs::set_permissions(&folder, PermissionsExt::from_mode(mode)).unwrap();
        };
        set(0o755);
        let open = &runtime_folder(&bed.facts)[0];
        assert_eq!(open.state, State::Fail);
        assert_eq!(open.repair, Some(Repair::Close(folder.clone())));
        set(0o700);
        assert_eq!(runtime_folder(&bed.facts)[0].state, State::Ok);
        bed.facts.paths.runtime = folder.join("x".repeat(60));
        let long = &runtime_folder(&bed.facts)[0];
        assert_eq!((long.state, long.repair.is_some()), (State::Fail, false));
    }

    #[test]
    fn a_state_folder_that_is_a_file_fails_and_a_missing_one_does_not() {
        let mut bed = Bed::with("");
        assert_eq!(state_folder(&bed.facts)[0].state, State::Ok);
        bed.facts.paths.state = bed.folder.path().join("none");
        assert_eq!(state_folder(&bed.facts)[0].state, State::Ok);
        std::fs::write(&bed.facts.paths.state, "").unwrap();
        assert_eq!(state_folder(&bed.facts)[0].state, State::Fail);
    }
}
