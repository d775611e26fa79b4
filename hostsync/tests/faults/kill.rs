//! Errors and sudden death at each single step of an update.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;

use hostsync::writer::{How, Mended, Step, Steps};
use rustix::io::Errno;

use super::Outcome::{self, Ran};
use super::child::{Job, PIECE};
use super::scene::{ODD, Scene, expected, listing, names};

/// Fails the step with number `left`, once.
struct FailAt {
    left: usize,
    failed: bool,
    errno: Errno,
}

impl Steps for &mut FailAt {
    fn before(&mut self, _step: Step) -> Result<(), Errno> {
        if self.left == 0 && !self.failed {
            self.failed = true;
            return Err(self.errno);
        }
        self.left = self.left.saturating_sub(1);
        Ok(())
    }

    fn piece(&self) -> usize {
        PIECE
    }
}

/// Fails each step in turn until an update gets through without meeting the failure.
fn error_at_each_step(make: fn(&[u8]) -> Scene) {
    for errno in [Errno::IO, Errno::NOSPC, Errno::DQUOT, Errno::ROFS] {
        one_error_at_each_step(make, errno);
    }
}

fn one_error_at_each_step(make: fn(&[u8]) -> Scene, errno: Errno) {
    let (old, new) = (ODD.to_vec(), expected(ODD, &names(3)));
    for step in 0.. {
        assert!(step < 1_000, "no end of steps");
        let scene = make(&old);
        let mut fail = FailAt {
            left: step,
            failed: false,
            errno,
        };
        let outcome = scene.sync_with(&names(3), &mut fail);
        if !fail.failed {
            outcome.unwrap();
            scene.assert_bytes(&new);
            assert!(step > 8, "only {step} steps");
            return;
        }
        let bytes = scene.bytes();
        assert!(
            bytes == old || bytes == new,
            "torn after {errno} at step {step}"
        );
        if outcome.is_ok() {
            assert_eq!(bytes, new, "success claimed after {errno} at step {step}");
        }
        scene.assert_no_litter();
        scene.sync(&names(3)).unwrap();
        scene.assert_bytes(&new);
        scene.assert_no_journal();
    }
}

pub(crate) fn error_at_each_step_replacing() -> Outcome {
    error_at_each_step(Scene::new);
    Ran
}

pub(crate) fn error_at_each_step_in_place() -> Outcome {
    error_at_each_step(Scene::linked);
    Ran
}

/// Kills a process at each step of changing `first` names to `second`; then a later run must
/// reach the new content (`forward`), or take all names back to the original bytes.
pub(crate) fn kill_at_each_step(
    make: &dyn Fn(&[u8]) -> Scene,
    whole: bool,
    first: usize,
    second: usize,
) {
    for forward in [true, false] {
        let mut torn = 0;
        for step in 0.. {
            assert!(step < 1_000, "no end of steps");
            let scene = make(ODD);
            scene.sync(&names(first)).unwrap();
            let (old, new) = (scene.bytes(), expected(ODD, &names(second)));

            let status = Job::of(&scene, second, step).run();
            let bytes = scene.bytes();
            let is_whole = bytes == old || bytes == new;
            torn += usize::from(!is_whole);
            assert!(is_whole || !whole, "torn by a kill at step {step}");

            let after = if forward { names(second) } else { names(0) };
            let report = scene.sync(&after).unwrap();
            assert_eq!(
                report.mended == Some(Mended::RolledBack),
                !is_whole,
                "step {step}"
            );
            scene.assert_bytes(&expected(ODD, &after));
            scene.assert_no_journal();
            if step_left_new_file_is_swept(&scene, &after) {
                scene.assert_no_litter();
            }
            if status.success() {
                assert!(step > 8, "only {step} steps");
                break;
            }
            assert_eq!(status.signal(), Some(9), "step {step}: {status}");
        }
        assert_eq!(
            torn > 0,
            !whole,
            "the kills must reach the middle of a write in place"
        );
    }
}

/// A leftover new file goes with the next run that writes; one more write makes sure of one.
fn step_left_new_file_is_swept(scene: &Scene, names_now: &super::scene::Names) -> bool {
    let how = scene.sync(&names(40)).unwrap().how;
    scene.sync(names_now).unwrap();
    how == How::Replaced
}

pub(crate) fn kill_at_each_step_replacing() -> Outcome {
    kill_at_each_step(&Scene::new, true, 1, 3);
    Ran
}

pub(crate) fn kill_at_each_step_in_place() -> Outcome {
    kill_at_each_step(&Scene::linked, false, 1, 3);
    kill_at_each_step(&Scene::linked, false, 3, 1);
    Ran
}

/// Leaves a file that a kill has torn.
fn torn_scene() -> Scene {
    for step in 0.. {
        let scene = Scene::linked(ODD);
        scene.sync(&names(6)).unwrap();
        let (old, new) = (scene.bytes(), expected(ODD, &names(2)));
        Job::of(&scene, 2, step).run();
        let bytes = scene.bytes();
        if bytes != old && bytes != new {
            return scene;
        }
    }
    unreachable!("the count has no end");
}

pub(crate) fn kill_while_mending() -> Outcome {
    for step in 0.. {
        assert!(step < 1_000, "no end of steps");
        let scene = torn_scene();
        let status = Job::of(&scene, 4, step).run();
        if !status.success() {
            scene.sync(&names(4)).unwrap();
        }
        scene.assert_bytes(&expected(ODD, &names(4)));
        scene.assert_no_journal();
        if status.success() {
            return Ran;
        }
    }
    Ran
}

fn copy(scene: &Scene, kind: &str) -> std::path::PathBuf {
    let name = listing(&scene.journals)
        .into_iter()
        .find(|name| name.ends_with(kind));
    scene
        .journals
        .join(name.unwrap_or_else(|| panic!("no {kind} in {:?}", listing(&scene.journals))))
}

fn overwrite(file: &Path, bytes: &[u8]) {
    use std::io::Write;
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .truncate(true)
        .open(file)
        .unwrap();
    file.write_all(bytes).unwrap();
}

/// After a power cut each page of the file may be the old one, the new one or never written.
pub(crate) fn torn_pages() -> Outcome {
    const PAGE: usize = 16;
    for mask in 0_u32..64 {
        let scene = torn_scene();
        let (before, after) = (
            std::fs::read(copy(&scene, ".before")).unwrap(),
            std::fs::read(copy(&scene, ".after")).unwrap(),
        );
        let longest = before.len().max(after.len());
        let mixture: Vec<u8> = (0..longest)
            .map(|at| {
                let page = u32::try_from(at / PAGE).unwrap() % 6;
                let (first, second) = if mask >> page & 1 == 0 {
                    (&before, &after)
                } else {
                    (&after, &before)
                };
                first.get(at).copied().unwrap_or_else(|| second[at])
            })
            .collect();
        overwrite(&scene.file, &mixture);
        let report = scene.sync(&names(5)).unwrap();
        assert!(
            matches!(report.mended, Some(Mended::RolledBack | Mended::Whole)),
            "{:?}",
            report.mended
        );
        scene.assert_bytes(&expected(ODD, &names(5)));
        scene.assert_no_journal();
    }
    Ran
}

pub(crate) fn change_after_a_crash() -> Outcome {
    let scene = torn_scene();
    let before = std::fs::read(copy(&scene, ".before")).unwrap();
    let theirs = b"a user mended it by hand\n";
    overwrite(&scene.file, theirs);
    let report = scene.sync(&names(5)).unwrap();
    scene.assert_bytes(&expected(theirs, &names(5)));
    let Some(Mended::ChangedByOthers { backup }) = report.mended else {
        panic!("{:?}", report.mended);
    };
    assert_eq!(
        std::fs::read(backup).unwrap(),
        before,
        "what was there before is kept"
    );
    assert_eq!(scene.sync(&names(5)).unwrap().mended, None);
    Ran
}
