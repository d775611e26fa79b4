//! Whether a mount point will do, and making it one.
//!
//! Looked at by the helper alone, which may wait for any file system, its daemon's too.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::helper::{is_dead, mounts};
use super::{MountAsk, Refusal, TYPE, attach, table};

/// The mount point without links, there, empty and free.
pub(super) fn ready(wanted: &MountAsk) -> Result<PathBuf, Refusal> {
    let mut path = resolved(wanted, &wanted.path)?;
    free(wanted, &path)?;
    apart(wanted, &path)?;
    match fs::symlink_metadata(&path) {
        Ok(status) if status.is_dir() => {}
        Ok(_) => {
            return Err(Refusal::new(
                format!("the mount point {} is not a folder", path.display()),
                format!("choose another: {} PATH", wanted.again),
            ));
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            make(&path)?;
            path = resolved(wanted, &path)?;
        }
        Err(error) => return Err(cannot_look(wanted, &path, &error)),
    }
    let shown = path.display();
    let mut entries = fs::read_dir(&path).map_err(|error| cannot_look(wanted, &path, &error))?;
    if entries.next().is_some() {
        return Err(Refusal::new(
            format!("the mount point {shown} is not empty, and a mount would hide what is in it"),
            format!("empty it, or choose another: {} PATH", wanted.again),
        ));
    }
    Ok(path)
}

/// The path as the kernel's list will have it. Its last part may be missing; what is mounted there is
/// not touched.
fn resolved(wanted: &MountAsk, path: &Path) -> Result<PathBuf, Refusal> {
    let (Some(above), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Refusal::new(
            format!("{} is no mount point", path.display()),
            "write it like /mnt/d",
        ));
    };
    let above = match above.canonicalize() {
        Ok(above) => above,
        // Made later, with the folders that are missing.
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(path.to_owned()),
        Err(error) => return Err(cannot_look(wanted, above, &error)),
    };
    let full = above.join(name);
    if fs::read_link(&full).is_ok() {
        return full
            .canonicalize()
            .map_err(|error| cannot_look(wanted, &full, &error));
    }
    Ok(full)
}

/// Nothing is mounted there, or only what a dead daemon has left, which goes.
fn free(wanted: &MountAsk, path: &Path) -> Result<(), Refusal> {
    let there = mounts()?;
    let Some(mount) = table::at(&there, path) else {
        return Ok(());
    };
    if is_dead(mount) {
        tracing::info!(path = %path.display(), "a dead mount is replaced");
        attach::detach(path)?;
        return free(wanted, path);
    }
    let shown = path.display();
    let (what, hint) = if mount.kind == TYPE {
        let what = format!("{} by another sharefs", mount.source);
        (
            what,
            format!(
                "is a second daemon running? {}",
                attach::line_to_unmount(path)
            ),
        )
    } else {
        (
            format!("{} ({}) by somebody else", mount.source, mount.kind),
            format!(
                "{}, or choose another: {} PATH",
                attach::line_to_unmount(path),
                wanted.again
            ),
        )
    };
    Err(Refusal::new(
        format!("{shown} has a mount already: {what}"),
        hint,
    ))
}

fn make(path: &Path) -> Result<(), Refusal> {
    fs::create_dir_all(path).map_err(|error| {
        let shown = path.display();
        let user = rustix::process::geteuid().as_raw();
        Refusal::new(
            format!("there is no folder {shown}, and it cannot be made: {error}"),
            format!("sudo mkdir -p {shown} && sudo chown {user} {shown}"),
        )
    })
}

/// The mount point is in none of the folders, and none of them below it, also where bind mounts give one
/// folder two paths.
fn apart(wanted: &MountAsk, path: &Path) -> Result<(), Refusal> {
    let own = identity(path);
    for folder in &wanted.folders {
        // A folder that is not there is not shared either.
        let Ok(real) = folder.canonicalize() else {
            continue;
        };
        let shared = identity(&real);
        let within = |inner: &Path, outer: Option<(u64, u64)>| {
            outer.is_some() && inner.ancestors().any(|above| identity(above) == outer)
        };
        let why = if within(path, shared) {
            "is in the shared folder"
        } else if within(&real, own) {
            "would hide the shared folder"
        } else {
            continue;
        };
        return Err(Refusal::new(
            format!(
                "the mount point {} {why} {}",
                path.display(),
                folder.display()
            ),
            format!(
                "mount it outside of all shared folders: {} PATH",
                wanted.again
            ),
        ));
    }
    Ok(())
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    let status = fs::metadata(path).ok()?;
    Some((status.dev(), status.ino()))
}

fn cannot_look(wanted: &MountAsk, path: &Path, error: &std::io::Error) -> Refusal {
    Refusal::new(
        format!("cannot look at {}: {error}", path.display()),
        format!("choose another mount point: {} PATH", wanted.again),
    )
}

#[cfg(test)]
mod tests {
    use control::config::MountUsers;

    use super::super::Judge;
    use super::*;

    fn wanted(path: &Path, folders: &[&Path]) -> MountAsk {
        MountAsk {
            source: "d".to_owned(),
            again: "sharectl share mount d".to_owned(),
            path: path.to_owned(),
            users: MountUsers::Own,
            read_only: false,
            judge: Judge::Kernel,
            folders: folders.iter().map(|path| (*path).to_owned()).collect(),
        }
    }

    #[test]
    fn mount_points_are_made_and_those_that_will_not_do_say_why() {
        let scratch = tempfile::tempdir().unwrap();
        let root = scratch.path().canonicalize().unwrap();
        let shared = root.join("shared");
        fs::create_dir_all(shared.join("inner")).unwrap();
        fs::create_dir(root.join("full")).unwrap();
        fs::write(root.join("full/x"), "").unwrap();
        std::os::unix::fs::symlink(shared.join("inner"), root.join("link")).unwrap();
        std::os::unix::fs::symlink(&root, root.join("round")).unwrap();

        let new = ready(&wanted(&root.join("a/b"), &[&shared])).unwrap();
        assert!(new.is_dir());
        let round = ready(&wanted(&root.join("round/a/b"), &[&shared])).unwrap();
        assert_eq!(round, root.join("a/b"), "links are followed");
        for (path, folder, said) in [
            ("full", &shared, "is not empty"),
            ("full/x", &shared, "is not a folder"),
            ("shared/inner", &shared, "is in the shared folder"),
            ("shared", &shared, "is in the shared folder"),
            ("link", &shared, "is in the shared folder"),
            ("round/shared/new", &shared, "is in the shared folder"),
            (
                "shared",
                &shared.join("inner"),
                "would hide the shared folder",
            ),
        ] {
            let refusal = ready(&wanted(&root.join(path), &[folder])).unwrap_err();
            assert!(refusal.message.contains(said), "{path}: {refusal}");
        }
        let refusal = ready(&wanted(Path::new("/proc"), &[&shared])).unwrap_err();
        assert!(refusal.message.contains("has a mount already"), "{refusal}");
        let refusal = ready(&wanted(Path::new("/proc/no/such"), &[&shared])).unwrap_err();
        assert!(refusal.message.contains("cannot be made"), "{refusal}");
        assert!(refusal.hint.starts_with("sudo mkdir -p /proc/no/such && "));
    }
}
