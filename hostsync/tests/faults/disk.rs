//! Full, mounted, read-only, immutable: what the disk refuses.

use std::path::Path;

use hostsync::writer::{How, Why, WriteError};
use rustix::fs::IFlags;
use rustix::mount::{MountFlags, MountPropagationFlags};

use super::Outcome::{self, Ran, Skipped};
use super::kill::kill_at_each_step;
use super::scene::{ODD, Scene, expected, names};

pub(crate) fn immutable() -> Outcome {
    for (flag, letter) in [(IFlags::IMMUTABLE, "i"), (IFlags::APPEND, "a")] {
        let scene = Scene::new(ODD);
        let file = std::fs::File::open(&scene.file).unwrap();
        let set = rustix::fs::ioctl_getflags(&file)
            .and_then(|flags| rustix::fs::ioctl_setflags(&file, flags | flag).map(|()| flags));
        let flags = match set {
            Ok(flags) => flags,
            Err(errno) => {
                return Skipped(format!("no '{letter}' attribute to be set here: {errno}"));
            }
        };
        let outcome = scene.sync(&names(1));
        // Before any assertion: the folder could not be removed otherwise.
        rustix::fs::ioctl_setflags(&file, flags).unwrap();
        let error = outcome.unwrap_err();
        assert!(matches!(error, WriteError::Immutable { .. }), "{error}");
        let path = scene.file.canonicalize().unwrap();
        assert_eq!(
            error.hint().unwrap(),
            format!("sudo chattr -{letter} '{}'", path.display())
        );
        scene.assert_bytes(ODD);
        scene.assert_no_litter();
    }
    Ran
}

/// Mounts a tmpfs of `size` bytes on the folder of the hosts file and makes the file anew.
fn on_small_disk(scene: &Scene, size: usize, content: &[u8]) {
    let folder = scene.file.parent().unwrap();
    let options = std::ffi::CString::new(format!("size={size}")).unwrap();
    rustix::mount::mount(
        "none",
        folder,
        "tmpfs",
        MountFlags::empty(),
        Some(options.as_c_str()),
    )
    .unwrap();
    std::fs::write(&scene.file, content).unwrap();
}

/// Fills the disk up to its last byte but `left` pages.
fn fill(folder: &Path, left: usize) {
    let block = vec![b'x'; 4096];
    let mut number = 0;
    while std::fs::write(folder.join(format!("fill{number}")), &block).is_ok() {
        number += 1;
        assert!(number < 10_000, "the disk is not small");
    }
    for number in (0..=number).rev().take(left + 1) {
        std::fs::remove_file(folder.join(format!("fill{number}"))).unwrap();
    }
}

fn remove_fill(folder: &Path) {
    for name in super::scene::listing(folder) {
        if name.starts_with("fill") {
            std::fs::remove_file(folder.join(name)).unwrap();
        }
    }
}

/// For each number of free pages: either the whole change or an error and the old bytes.
fn full(link: bool) {
    let mut full = 0;
    let mut done = 0;
    for left in 0..8 {
        let scene = Scene::new(b"");
        let content = ODD.repeat(60);
        on_small_disk(&scene, 256 << 10, &content);
        let folder = scene.file.parent().unwrap();
        if link {
            std::fs::hard_link(&scene.file, folder.join("fill-link")).unwrap();
        }
        fill(folder, left);
        // Some 20 KB more, so that it needs several pages.
        match scene.sync(&names(800)) {
            Ok(_) => {
                done += 1;
                scene.assert_bytes(&expected(&content, &names(800)));
            }
            Err(error) => {
                full += 1;
                assert!(matches!(error, WriteError::Full { .. }), "{error}");
                scene.assert_bytes(&content);
            }
        }
        remove_fill(folder);
        scene.assert_no_litter();
        scene.assert_no_journal();
        rustix::mount::unmount(folder, rustix::mount::UnmountFlags::empty()).unwrap();
    }
    assert!(full > 0, "the disk was never full");
    assert!(
        done > 0 || !link,
        "the space that was left was never enough"
    );
}

pub(crate) fn full_replacing() -> Outcome {
    full(false);
    Ran
}

pub(crate) fn full_in_place() -> Outcome {
    full(true);
    Ran
}

/// The hosts file is mounted on itself, as containers have it.
fn bound(content: &[u8]) -> Scene {
    let scene = Scene::new(content);
    let source = scene.folder.path().join("source");
    std::fs::write(&source, content).unwrap();
    rustix::mount::mount_bind(&source, &scene.file).unwrap();
    scene
}

pub(crate) fn bind_mounted() -> Outcome {
    let scene = bound(ODD);
    for count in [3, 1, 0] {
        assert_eq!(
            scene.sync(&names(count)).unwrap().how,
            How::InPlace(Why::MountPoint)
        );
        scene.assert_bytes(&expected(ODD, &names(count)));
        assert_eq!(
            std::fs::read(scene.folder.path().join("source")).unwrap(),
            scene.bytes()
        );
        scene.assert_no_litter();
        scene.assert_no_journal();
    }
    rustix::mount::unmount(&scene.file, rustix::mount::UnmountFlags::empty()).unwrap();
    Ran
}

pub(crate) fn kill_bind_mounted() -> Outcome {
    kill_at_each_step(&bound, false, 1, 3);
    Ran
}

pub(crate) fn read_only() -> Outcome {
    let scene = Scene::new(ODD);
    let folder = scene.file.parent().unwrap();
    rustix::mount::mount_bind(folder, folder).unwrap();
    rustix::mount::mount_change(folder, MountPropagationFlags::PRIVATE).unwrap();
    rustix::mount::mount_remount(folder, MountFlags::BIND | MountFlags::RDONLY, "").unwrap();
    let error = scene.sync(&names(1)).unwrap_err();
    assert!(matches!(error, WriteError::ReadOnly { .. }), "{error}");
    assert!(error.hint().unwrap().contains("DNS"), "{error}");
    scene.assert_bytes(ODD);
    assert_eq!(scene.sync(&names(0)).unwrap().how, How::Unchanged);

    // Without a file there, the folder is what refuses.
    let missing = scene.through(folder.join("missing"));
    let error = missing.sync(&names(1)).unwrap_err();
    assert!(matches!(error, WriteError::ReadOnly { .. }), "{error}");
    rustix::mount::unmount(folder, rustix::mount::UnmountFlags::empty()).unwrap();
    Ran
}
