//! The book, chapter by chapter, as a reader would follow it: every command that it prints, with a real guest.

use std::collections::BTreeMap;
use std::fs;

use tests::book::{self, Stage};
use tests::guest::{Machine, disk};
use tests::user::User;
use tests::{Context, Result, ensure, packages, whole_system};

/// Every chapter, each with a test below.
const CHAPTERS: [&str; 9] = [
    "introduction.md",
    "qemu.md",
    "libvirt.md",
    "cloud-hypervisor.md",
    "docker.md",
    "namespace.md",
    "wsl.md",
    "everyday.md",
    "troubleshooting.md",
];

fn text(chapter: &str) -> Result<String> {
    let path = book::folder().join(chapter);
    fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
}

/// What most chapters start: a VM of the name `dev`.
fn machine() -> Machine {
    Machine::new("dev").module("virtiofs")
}

/// Plays a chapter and says how much of it was run.
#[expect(clippy::print_stderr, reason = "what was not run is to be seen")]
fn play(chapter: &str, mut stage: Stage) -> Result<()> {
    let played = stage
        .play(&text(chapter)?)
        .with_context(|| chapter.to_owned())?;
    eprintln!(
        "{chapter}: {} blocks run, {} for Windows, {} for KVM",
        played.run, played.windows, played.kvm
    );
    ensure!(played.run > 0, "nothing of {chapter} was run");
    Ok(())
}

#[test]
fn every_chapter_has_a_test_and_every_fence_a_class() {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(book::folder()).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        files.insert(name, fs::read_to_string(&path).unwrap());
    }
    assert_eq!(book::chapters(&files["SUMMARY.md"]), CHAPTERS);
    assert_eq!(book::problems(&files), []);
}

#[test]
fn introduction() {
    whole_system(|| play("introduction.md", Stage::new(machine())?));
}

#[test]
fn qemu_by_hand() {
    whole_system(|| play("qemu.md", Stage::new(machine())?));
}

/// A Debian with its own systemd and engine, from a disk.
#[test]
fn a_vm_with_docker() {
    whole_system(|| {
        packages::ensure(packages::COMPOSE)?;
        let stage = Stage::new(machine().disk())?;
        stage.give(&disk::client()?, "bin/docker")?;
        let image = stage.home("debian.img");
        disk::copy(&image)?;
        stage.own(&image)?;
        play("docker.md", stage)
    });
}

#[test]
fn a_namespace_as_guest() {
    whole_system(|| play("namespace.md", Stage::new(machine())?));
}

#[test]
fn wsl() {
    whole_system(|| play("wsl.md", Stage::new(machine())?));
}

/// Its reader may mount: fusermount3 is set-uid.
#[test]
fn everyday_commands() {
    whole_system(|| {
        packages::ensure(packages::TERMINALS)?;
        packages::ensure(packages::MOUNTS)?;
        packages::ensure(packages::NINEP)?;
        let reader = User::unprivileged().with_set_uid();
        play("everyday.md", Stage::of(reader, machine())?)
    });
}

#[test]
fn troubleshooting() {
    whole_system(|| play("troubleshooting.md", Stage::new(machine())?));
}

#[test]
fn cloud_hypervisor() {
    whole_system(|| play("cloud-hypervisor.md", Stage::new(machine())?));
}

#[test]
fn libvirt() {
    whole_system(|| {
        packages::ensure(packages::LIBVIRT)?;
        play("libvirt.md", Stage::new(machine())?)
    });
}
