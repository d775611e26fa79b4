//! Links, owners, rights: what the file is besides its bytes.

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use hostsync::writer::{How, Why, WriteError};
use rustix::fs::XattrFlags;

use super::Outcome::{self, Ran, Skipped};
use super::child::{Job, NEVER};
use super::scene::{ODD, Scene, expected, listing, names};

pub(crate) fn odd_bytes_survive_on_disk() -> Outcome {
    for content in [ODD, b"", b"plain\n", b"\xEF\xBB\xBF"] {
        let scene = Scene::new(content);
        assert_eq!(scene.sync(&names(3)).unwrap().how, How::Replaced);
        scene.assert_bytes(&expected(content, &names(3)));
        assert!(scene.bytes().starts_with(content));
        scene.sync(&names(0)).unwrap();
        scene.assert_bytes(content);
        scene.assert_no_litter();
    }
    Ran
}

pub(crate) fn symlink_stays() -> Outcome {
    let scene = Scene::new(ODD);
    let (first, second) = (
        scene.folder.path().join("first"),
        scene.folder.path().join("second"),
    );
    symlink("second", &first).unwrap();
    symlink("etc/../etc/hosts", &second).unwrap();
    let linked = scene.through(first.clone());
    let report = linked.sync(&names(2)).unwrap();
    assert_eq!(report.path, scene.file.canonicalize().unwrap());
    scene.assert_bytes(&expected(ODD, &names(2)));
    assert!(first.is_symlink() && second.is_symlink() && !scene.file.is_symlink());
    scene.assert_no_litter();

    let ring = scene.folder.path().join("ring");
    symlink("ring", &ring).unwrap();
    let ring = scene.through(ring);
    assert!(
        ring.sync(&names(1))
            .unwrap_err()
            .to_string()
            .contains("links"),
        "a ring has no end"
    );
    Ran
}

pub(crate) fn dangling_symlink() -> Outcome {
    let scene = Scene::new(ODD);
    std::fs::remove_file(&scene.file).unwrap();
    let link = scene.folder.path().join("link");
    symlink("etc/hosts", &link).unwrap();
    let linked = scene.through(link.clone());
    assert_eq!(linked.sync(&names(0)).unwrap().how, How::Unchanged);
    assert!(!scene.file.exists(), "nothing to say makes no file");
    assert_eq!(linked.sync(&names(1)).unwrap().how, How::Created);
    scene.assert_bytes(&expected(b"", &names(1)));
    assert!(link.is_symlink());
    assert_eq!(scene.file.metadata().unwrap().mode() & 0o7777, 0o644);
    scene.assert_no_litter();

    let nowhere = scene.through(scene.folder.path().join("no/hosts"));
    let error = nowhere.sync(&names(1)).unwrap_err();
    assert!(matches!(error, WriteError::NoFolder { .. }), "{error}");
    assert!(error.hint().unwrap().starts_with("mkdir -p "));
    Ran
}

pub(crate) fn hard_links_stay_together() -> Outcome {
    let scene = Scene::linked(ODD);
    for count in [4, 1, 9, 0] {
        assert_eq!(
            scene.sync(&names(count)).unwrap().how,
            How::InPlace(Why::HardLinks)
        );
        scene.assert_bytes(&expected(ODD, &names(count)));
        assert_eq!(
            std::fs::read(scene.folder.path().join("second")).unwrap(),
            scene.bytes()
        );
        scene.assert_no_journal();
    }
    assert_eq!(scene.file.metadata().unwrap().nlink(), 2);
    let names_kept = listing(&scene.journals);
    let before = names_kept.iter().find(|name| name.ends_with(".before"));
    let backup = scene.journals.join(before.unwrap());
    assert_eq!(
        std::fs::read(backup).unwrap(),
        expected(ODD, &names(9)),
        "the backup is one change old"
    );
    Ran
}

pub(crate) fn looks_stay() -> Outcome {
    let scene = Scene::new(ODD);
    let root = rustix::process::geteuid().is_root();
    if root {
        std::os::unix::fs::chown(&scene.file, Some(1234), Some(4321)).unwrap();
    }
    std::fs::set_permissions(&scene.file, PermissionsExt::from_mode(0o640)).unwrap();
    let file = std::fs::File::open(&scene.file).unwrap();
    let attributes =
        rustix::fs::fsetxattr(&file, "user.note", b"kept \0 bytes", XattrFlags::empty());
    let before = scene.file.metadata().unwrap();

    let report = scene.sync(&names(2)).unwrap();
    assert_eq!(report.how, How::Replaced);
    let after = scene.file.metadata().unwrap();
    assert_eq!(
        (after.mode(), after.uid(), after.gid()),
        (before.mode(), before.uid(), before.gid())
    );
    assert_ne!(after.ino(), before.ino(), "it was replaced");
    if let Err(errno) = attributes {
        return Skipped(format!(
            "the folder for temporary files has no user attributes: {errno}"
        ));
    }
    let file = std::fs::File::open(&scene.file).unwrap();
    let mut value = [0; 64];
    let length = rustix::fs::fgetxattr(&file, "user.note", &mut value[..]).unwrap();
    assert_eq!(&value[..length], b"kept \0 bytes");
    Ran
}

pub(crate) fn unchanged_is_not_written() -> Outcome {
    let scene = Scene::new(ODD);
    scene.sync(&names(2)).unwrap();
    let before = scene.file.metadata().unwrap();
    assert_eq!(scene.sync(&names(2)).unwrap().how, How::Unchanged);
    let after = scene.file.metadata().unwrap();
    assert_eq!(
        (before.ino(), before.ctime_nsec()),
        (after.ino(), after.ctime_nsec())
    );
    Ran
}

pub(crate) fn no_file() -> Outcome {
    let scene = Scene::new(ODD);
    std::fs::remove_file(&scene.file).unwrap();
    std::fs::create_dir(&scene.file).unwrap();
    assert!(matches!(
        scene.sync(&names(1)),
        Err(WriteError::NotRegular { .. })
    ));
    std::fs::remove_dir(&scene.file).unwrap();
    // A pipe must not make us wait for whoever opens its other end.
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &scene.file,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    assert!(matches!(
        scene.sync(&names(1)),
        Err(WriteError::NotRegular { .. })
    ));
    Ran
}

/// A prefix that makes a command an ordinary user's; none if this process is one already.
fn as_ordinary_user(scene: &Scene) -> Result<Vec<&'static str>, String> {
    if !rustix::process::geteuid().is_root() {
        return Ok(Vec::new());
    }
    std::fs::set_permissions(scene.folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let prefix = vec![
        "setpriv",
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
    ];
    let probe = std::process::Command::new(prefix[0])
        .args(&prefix[1..])
        .args(["test", "-x"])
        .arg(std::env::current_exe().unwrap())
        .status();
    match probe {
        Ok(status) if status.success() => Ok(prefix),
        Ok(_) => Err("the test program is in a folder that only root may enter".to_owned()),
        Err(error) => Err(format!("no setpriv: {error}")),
    }
}

pub(crate) fn denied() -> Outcome {
    let scene = Scene::new(ODD);
    let prefix = match as_ordinary_user(&scene) {
        Ok(prefix) => prefix,
        Err(why) => return Skipped(why),
    };
    // Even in a folder where it may make files: read-only is an owner's wish.
    std::fs::set_permissions(
        scene.file.parent().unwrap(),
        PermissionsExt::from_mode(0o777),
    )
    .unwrap();
    std::fs::set_permissions(&scene.file, PermissionsExt::from_mode(0o444)).unwrap();
    let output = Job::of(&scene, 2, NEVER)
        .command_under(&prefix)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("has no write permission on it"), "{text}");
    assert!(
        text.contains("hint: do it as the file's owner or as root"),
        "{text}"
    );
    scene.assert_bytes(ODD);
    scene.assert_no_litter();

    // What is right already needs no right.
    let output = Job::of(&scene, 0, NEVER)
        .command_under(&prefix)
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "Unchanged\n");
    Ran
}

/// What the program advises a user whose right is missing, root can do word by word.
pub(crate) fn advice_works() -> Outcome {
    let scene = Scene::new(ODD);
    let prefix = match as_ordinary_user(&scene) {
        Ok(prefix) if prefix.is_empty() => {
            return Skipped("only root can follow the advice".to_owned());
        }
        Ok(prefix) => prefix,
        Err(why) => return Skipped(why),
    };
    let config = scene.folder.path().join("it's a config.toml");
    let text = format!(
        "[guest.dev]\n[hosts]\nfiles = [\"{}\"]\n",
        scene.file.display()
    );
    std::fs::write(&config, text).unwrap();
    let output = std::process::Command::new(prefix[0])
        .args(&prefix[1..])
        .arg(env!("CARGO_BIN_EXE_sharectl-hostsync"))
        .arg("sync")
        .arg("--config")
        .arg(&config)
        .env("SHARECTL_RUNTIME_DIR", scene.folder.path().join("run"))
        .env("SHARECTL_STATE_DIR", scene.folder.path().join("state"))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    let (_, advice) = text
        .trim_end()
        .rsplit_once("try: sudo ")
        .unwrap_or_else(|| panic!("{text}"));
    scene.assert_bytes(ODD);
    let status = std::process::Command::new("sh")
        .args(["-c", advice])
        .env(
            "SHARECTL_RUNTIME_DIR",
            scene.folder.path().join("run-of-root"),
        )
        .env(
            "SHARECTL_STATE_DIR",
            scene.folder.path().join("state-of-root"),
        )
        .status()
        .unwrap();
    assert!(status.success(), "{advice}");
    assert!(String::from_utf8_lossy(&scene.bytes()).contains("\tdev.test\r\n"));
    Ran
}

pub(crate) fn folder_denied() -> Outcome {
    let scene = Scene::new(ODD);
    let prefix = match as_ordinary_user(&scene) {
        Ok(prefix) => prefix,
        Err(why) => return Skipped(why),
    };
    let state = scene.folder.path().join("state");
    std::fs::create_dir(&state).unwrap();
    std::fs::set_permissions(&state, PermissionsExt::from_mode(0o777)).unwrap();
    std::fs::set_permissions(&scene.file, PermissionsExt::from_mode(0o666)).unwrap();
    std::fs::set_permissions(
        scene.file.parent().unwrap(),
        PermissionsExt::from_mode(0o555),
    )
    .unwrap();
    let output = Job::of(&scene, 2, NEVER)
        .command_under(&prefix)
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "InPlace(Folder)\n");
    scene.assert_bytes(&expected(ODD, &names(2)));

    if prefix.is_empty() {
        std::fs::set_permissions(
            scene.file.parent().unwrap(),
            PermissionsExt::from_mode(0o755),
        )
        .unwrap();
        return Ran;
    }
    // Where the folder lets us, but a new file could not have the owner, likewise.
    std::fs::set_permissions(
        scene.file.parent().unwrap(),
        PermissionsExt::from_mode(0o777),
    )
    .unwrap();
    let output = Job::of(&scene, 3, NEVER)
        .command_under(&prefix)
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "InPlace(Owner)\n");
    scene.assert_bytes(&expected(ODD, &names(3)));
    scene.assert_no_litter();
    Ran
}

pub(crate) fn damaged() -> Outcome {
    let content = b"a\n# BEGIN sharectl\nb\n";
    let scene = Scene::new(content);
    let error = scene.sync(&names(1)).unwrap_err();
    assert!(
        error
            .to_string()
            .ends_with("is left alone: line 2 begins a sharectl block that never ends"),
        "{error}"
    );
    assert!(
        error
            .hint()
            .unwrap()
            .starts_with("sharectl host repair; or by hand: remove line 2"),
        "{error}"
    );
    scene.assert_bytes(content);
    scene.assert_no_litter();
    Ran
}
