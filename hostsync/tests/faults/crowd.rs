//! Many writers at once, ours and others'.

use std::io::Write;
use std::path::PathBuf;

use hostsync::section::Tag;
use hostsync::writer::{How, Step, Steps, WriteError, Writer};
use rustix::io::Errno;

use super::Outcome::{self, Ran};
use super::child::{Job, NEVER};
use super::scene::{self, ODD, Scene, expected, names};

const WRITERS: usize = 60;

/// An editor that changes the file right before we look again.
struct Editor {
    file: PathBuf,
    times: usize,
    replaces: bool,
}

impl Steps for Editor {
    fn before(&mut self, step: Step) -> Result<(), Errno> {
        if step != Step::LookAgain || self.times == 0 {
            return Ok(());
        }
        self.times -= 1;
        let mut bytes = std::fs::read(&self.file).unwrap();
        bytes.splice(0..0, *b"# edited\n");
        if self.replaces {
            let new = self.file.with_extension("editor");
            std::fs::write(&new, bytes).unwrap();
            std::fs::rename(&new, &self.file).unwrap();
        } else {
            std::fs::OpenOptions::new()
                .write(true)
                .open(&self.file)
                .unwrap()
                .write_all(&bytes)
                .unwrap();
        }
        Ok(())
    }
}

pub(crate) fn editors_changes_are_kept() -> Outcome {
    for replaces in [true, false] {
        for (scene, how) in [
            (Scene::new(b"one\n"), true),
            (Scene::linked(b"one\n"), false),
        ] {
            let editor = Editor {
                file: scene.file.clone(),
                times: 3,
                replaces,
            };
            let report = scene.sync_with(&names(2), editor).unwrap();
            // A replaced file has lost its second link, so it is replaced from then on.
            assert_eq!(report.how == How::Replaced, how || replaces);
            scene.assert_bytes(&expected(b"# edited\n# edited\n# edited\none\n", &names(2)));
            scene.assert_no_litter();
        }
    }
    Ran
}

pub(crate) fn restless_file() -> Outcome {
    let scene = Scene::new(b"one\n");
    let editor = Editor {
        file: scene.file.clone(),
        times: usize::MAX,
        replaces: true,
    };
    let error = scene.sync_with(&names(2), editor).unwrap_err();
    assert!(matches!(error, WriteError::Busy { .. }), "{error}");
    scene.assert_no_litter();
    assert!(
        scene.bytes().starts_with(b"# edited\n# edited\n"),
        "the editor's words stand"
    );
    Ran
}

/// Sixty processes, each with a tag, names and a journal folder of its own, as sixty users have.
fn crowd(scene: &Scene, original: &[u8]) {
    let tag = |number: usize| format!("user-{number}");
    let mut children: Vec<_> = (0..WRITERS)
        .map(|number| {
            let journals = scene.journals.join(number.to_string());
            let tag = tag(number);
            let job = Job {
                file: &scene.file,
                journals: &journals,
                tag: &tag,
                names: 2,
                steps: NEVER,
            };
            (
                number,
                job.command()
                    .stdout(std::process::Stdio::null())
                    .spawn()
                    .unwrap(),
            )
        })
        .collect();
    for (number, child) in &mut children {
        assert!(child.wait().unwrap().success(), "writer {number} failed");
    }

    let all = scene.bytes();
    assert!(all.starts_with(original), "{}", scene::show(&all));
    let text = String::from_utf8_lossy(&all);
    for number in 0..WRITERS {
        let tag = tag(number);
        for line in [
            format!("# BEGIN sharectl {tag}\n"),
            format!(
                "127.64.0.1\t{tag}.guest0.test\n127.64.0.1\t{tag}.guest1.test\n# END sharectl {tag}\n"
            ),
        ] {
            assert_eq!(text.matches(&line).count(), 1, "{line} in\n{text}");
        }
    }
    let block_lines = 5;
    let lines = original.iter().filter(|byte| **byte == b'\n').count() + WRITERS * block_lines;
    assert_eq!(
        all.iter().filter(|byte| **byte == b'\n').count(),
        lines,
        "{text}"
    );

    for number in (0..WRITERS).rev() {
        let tag = Tag::parse(&tag(number)).unwrap();
        scene::update(Writer::new(&scene.journals), &scene.file, &names(0), &tag).unwrap();
    }
    scene.assert_bytes(original);
    scene.assert_no_litter();
}

fn long_file() -> Vec<u8> {
    let mut content = b"# caf\xE9\n".to_vec();
    for line in 0..200 {
        writeln!(content, "10.0.{line}.1\thost{line}.example").unwrap();
    }
    content
}

pub(crate) fn sixty_writers_replace() -> Outcome {
    let scene = Scene::new(&long_file());
    crowd(&scene, &long_file());
    Ran
}

pub(crate) fn sixty_writers_in_place() -> Outcome {
    let scene = Scene::linked(&long_file());
    crowd(&scene, &long_file());
    assert_eq!(
        std::fs::read(scene.folder.path().join("second")).unwrap(),
        long_file()
    );
    Ran
}

pub(crate) fn sixty_writers_create() -> Outcome {
    let scene = Scene::new(ODD);
    std::fs::remove_file(&scene.file).unwrap();
    crowd(&scene, b"");
    Ran
}
