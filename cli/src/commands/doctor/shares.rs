//! Checks of folders: those that are shared with guests, and what is mounted on the host.

use std::path::{Path, PathBuf};
use std::time::Duration;

use control::api::{GuestMountStatus, ShareStatus};
use control::config::Share;
use control::paths::Daemon;
use control::translation::wsl_conf::WslConf;

use super::facts::Facts;
use super::finding::{Finding, Subject};
use super::fix::Repair;
use super::ours::writable;
use super::{nothing, without_config};
use crate::limited::within;

/// For one folder: one of a server that is away may hang for ever.
const FOLDER_LIMIT: Duration = Duration::from_secs(3);
/// Where drives are mounted: a folder that is missing there may be a drive that is.
const DRIVES: [&str; 4] = ["/mnt", "/media", "/run/media", "/Volumes"];

pub(super) fn folders(facts: &Facts) -> Vec<Finding> {
    let Ok(config) = &facts.config else {
        return without_config("share");
    };
    if config.shares.is_empty() {
        return nothing("share", "none is configured");
    }
    let served: Vec<ShareStatus> = facts.ask(Daemon::Sharefs, "/v1/shares").unwrap_or_default();
    let drives = drives(&WslConf::parse(&facts.read("etc/wsl.conf")));
    // All at once: each has its own time.
    std::thread::scope(|scope| {
        let looks: Vec<_> = config
            .shares
            .values()
            .map(|share| {
                let live = served.iter().find(|live| live.name == share.name);
                let drives = &drives;
                scope.spawn(move || folder(share, live, drives))
            })
            .collect();
        looks
            .into_iter()
            .filter_map(|look| look.join().ok())
            .collect()
    })
}

/// Also those of Windows: their folder may be `/` itself, where `D:` is at `/d`.
fn drives(conf: &WslConf) -> Vec<PathBuf> {
    let of_windows = ('a'..='z').map(|letter| conf.automount_root.join(letter.to_string()));
    DRIVES.iter().map(PathBuf::from).chain(of_windows).collect()
}

fn folder(share: &Share, served: Option<&ShareStatus>, drives: &[PathBuf]) -> Finding {
    let subject = Subject::of("share", &share.name);
    let path = share.path.display();
    let read = {
        let path = share.path.clone();
        within(FOLDER_LIMIT, move || std::fs::read_dir(path).map(drop))
    };
    match read {
        None => {
            return subject.fails(
                format!("{path} does not answer within {} s", FOLDER_LIMIT.as_secs()),
                "see whether the server of that folder is there, or unmount it: umount -l",
            );
        }
        Some(Err(error)) => {
            let missing = error.kind() == std::io::ErrorKind::NotFound;
            let finding = subject.fails(
                format!("{path}: {error}"),
                format!(
                    "mkdir -p {path}, or mount the drive, or: sharectl share rm {}",
                    share.name
                ),
            );
            return match missing && may_be_made(&share.path, drives) {
                true => finding.mended_by(Repair::MakeFolder(share.path.clone())),
                false => finding,
            };
        }
        Some(Ok(())) => {}
    }
    if let Some(problem) = served.and_then(|served| served.problem.clone()) {
        return subject
            .fails(
                format!("{path} is there, but sharefs does not serve it: {problem}"),
                "sharectl logs sharefs",
            )
            .mended_by(Repair::Reload(Daemon::Sharefs));
    }
    if !share.read_only && !writable(&share.path) {
        return subject.warns(
            format!("{path} cannot be written by this user"),
            format!(
                "chown it, or say read-only = true in [share.{}]",
                share.name
            ),
        );
    }
    let rights = if share.read_only {
        "read"
    } else {
        "read and written"
    };
    subject.ok(format!("{path} can be {rights}"))
}

/// Whether an empty folder is surely what was there: its parent is there, this user's to write, and no place where
/// drives are mounted.
fn may_be_made(path: &Path, drives: &[PathBuf]) -> bool {
    // Where it would really be made: a symbolic link may lead to a drive.
    let parent = path.parent().and_then(|parent| parent.canonicalize().ok());
    let Some(parent) = parent.filter(|parent| parent.is_dir()) else {
        return false;
    };
    let on_a_drive = |place: &Path| drives.iter().any(|folder| place.starts_with(folder));
    let dangling = path.symlink_metadata().is_ok();
    !on_a_drive(path) && !on_a_drive(&parent) && !dangling && writable(&parent)
}

pub(super) fn host_mounts(facts: &Facts) -> Vec<Finding> {
    let Ok(config) = &facts.config else {
        return without_config("host-mount");
    };
    let wanted: Vec<_> = config
        .shares
        .values()
        .filter_map(|share| Some((share, share.mount.as_ref()?)))
        .collect();
    if wanted.is_empty() {
        return nothing("host-mount", "no share is to be mounted on this host");
    }
    let served = facts.ask::<Vec<ShareStatus>>(Daemon::Sharefs, "/v1/shares");
    let look = |(share, mount): (&Share, &control::config::HostMount)| {
        let subject = Subject::of("host-mount", &share.name);
        let Ok(served) = &served else {
            return subject.skipped("sharefs does not run");
        };
        let live = served.iter().find(|live| live.name == share.name);
        match live.and_then(|live| live.mount.as_ref()) {
            None => subject
                .warns(
                    format!("sharefs does not know of {} yet", mount.path.display()),
                    "sharectl logs sharefs",
                )
                .mended_by(Repair::Reload(Daemon::Sharefs)),
            Some(live) if !live.mounted => subject.fails(
                format!(
                    "{} is not mounted: {}",
                    live.path.display(),
                    live.problem
                        .as_deref()
                        .unwrap_or("sharefs does not say why")
                ),
                format!(
                    "sharectl share mount {} {}",
                    share.name,
                    live.path.display()
                ),
            ),
            Some(live) => alive(subject, &live.path, live.requests),
        }
    };
    wanted.into_iter().map(look).collect()
}

pub(super) fn guest_mounts(facts: &Facts) -> Vec<Finding> {
    let Ok(config) = &facts.config else {
        return without_config("guest-mount");
    };
    if config.guests.values().all(|guest| guest.mounts.is_empty()) {
        return nothing(
            "guest-mount",
            "no guest's folder is to be mounted on this host",
        );
    }
    match facts.ask::<Vec<GuestMountStatus>>(Daemon::Sharefs, "/v1/guest-mounts") {
        Err(_) => nothing("guest-mount", "sharefs does not run"),
        Ok(mounts) if mounts.is_empty() => vec![
            Finding::about("guest-mount", "guest mount")
                .warns("sharefs does not know of any yet", "sharectl logs sharefs")
                .mended_by(Repair::Reload(Daemon::Sharefs)),
        ],
        Ok(mounts) => mounts.iter().map(guest_mount).collect(),
    }
}

fn guest_mount(status: &GuestMountStatus) -> Finding {
    let place = status.mount.at.display();
    let subject = Subject::of("guest-mount", place);
    let why = status
        .problem
        .as_deref()
        .unwrap_or("sharefs does not say why");
    let guest = &status.guest;
    match (status.mounted, status.away) {
        (true, _) => alive(subject, &status.mount.at, status.requests),
        (false, true) => subject.skipped(format!("guest {guest} is away: {why}")),
        (false, false) => subject.fails(
            format!(
                "{} of guest {guest} is not mounted: {why}",
                status.mount.path.display()
            ),
            format!("sharectl describe {guest}, and sharectl logs sharefs"),
        ),
    }
}

/// Whether who serves a mount answers: a question that the kernel must pass on.
fn alive(subject: Subject, at: &Path, requests: u64) -> Finding {
    let shown = at.display();
    match within(FOLDER_LIMIT, statfs(at.to_owned())) {
        None => subject.fails(
            format!(
                "{shown} is mounted but does not answer within {} s",
                FOLDER_LIMIT.as_secs()
            ),
            "see whether the guest hangs; then: sharectl restart sharefs",
        ),
        Some(Err(error)) => subject.fails(
            format!("{shown} is mounted, but: {error}"),
            "sharectl restart sharefs",
        ),
        Some(Ok(())) => subject.ok(format!("{shown} answers; {requests} requests so far")),
    }
}

fn statfs(at: PathBuf) -> impl FnOnce() -> std::io::Result<()> + Send + 'static {
    move || Ok(rustix::fs::statfs(&at).map(drop)?)
}

#[cfg(test)]
mod tests {
    use super::super::facts::tests::Bed;
    use super::super::finding::State;
    use super::*;

    #[test]
    fn every_share_without_a_folder_is_named_and_only_a_safe_one_is_made() {
        let bed = Bed::with(
            "[share.a]\npath = \"@/gone\"\n[share.b]\npath = \"/nonexistent/b\"\n\
             [share.c]\npath = \"@/run\"\n[share.d]\npath = \"/mnt/d\"\n",
        );
        let findings = folders(&bed.facts);
        let seen: Vec<(&str, State, bool)> = findings
            .iter()
            .map(|found| (found.id.as_str(), found.state, found.repair.is_some()))
            .collect();
        assert_eq!(seen[0], ("share.a", State::Fail, true));
        assert_eq!(seen[1], ("share.b", State::Fail, false));
        assert_eq!(seen[2], ("share.c", State::Ok, false));
        assert!(
            findings[1]
                .fix
                .as_ref()
                .unwrap()
                .contains("sharectl share rm b")
        );
        let links = tempfile::tempdir().unwrap();
        let usual = drives(&WslConf::default());
        let usually = |path: &Path| may_be_made(path, &usual);
        assert!(!usually(Path::new("/mnt/d")), "it may be a drive");
        let elsewhere = links.path().join("drives");
        std::fs::create_dir_all(elsewhere.join("d")).unwrap();
        let conf = WslConf::parse(&format!("[automount]\nroot={}\n", elsewhere.display()));
        assert!(usually(&elsewhere.join("d/src")));
        assert!(
            !may_be_made(&elsewhere.join("d/src"), &drives(&conf)),
            "a drive of Windows, where wsl.conf has them"
        );
        std::os::unix::fs::symlink("/mnt", links.path().join("away")).unwrap();
        assert!(usually(&links.path().join("src")));
        assert!(
            !usually(&links.path().join("away/src")),
            "it may be on a drive"
        );
        assert_eq!(seen.len(), 4);
    }

    fn mount(mounted: bool, away: bool) -> Finding {
        guest_mount(&GuestMountStatus {
            guest: control::names::GuestName::parse("dev").unwrap(),
            mount: control::config::GuestMount {
                key: "~/vm".to_owned(),
                at: "/".into(),
                path: "/srv".into(),
                export: "/".to_owned(),
                below: Vec::new(),
                port: 564,
                owner: (0, 0),
                user: "root".to_owned(),
                read_only: false,
            },
            mounted,
            problem: (!mounted).then(|| "connection refused".to_owned()),
            away,
            requests: 3,
        })
    }

    #[test]
    fn a_guest_that_is_away_is_no_fault_and_one_that_refuses_is() {
        assert_eq!(mount(false, true).state, State::Skipped);
        let refused = mount(false, false);
        assert_eq!(
            (refused.state, refused.id.as_str()),
            (State::Fail, "guest-mount./")
        );
        assert!(
            refused.evidence.contains("connection refused"),
            "{refused:?}"
        );
        let alive = mount(true, false);
        assert!(alive.evidence.contains("3 requests"), "{alive:?}");
    }
}
