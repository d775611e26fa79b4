//! Whether KVM answers: that /dev/kvm opens says little, where virtualisation is nested a guest may never run its
//! first instruction. So one is tried: a boot sector that writes a letter and ends QEMU.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::os::fd::AsRawFd;
use std::process::Command;
use std::time::Duration;

use rustix::fs::MemfdFlags;

use super::facts::Facts;
use super::finding::Finding;
use crate::limited::{Ran, run};
use crate::sys;

/// KVM's version since 2007 (Documentation/virt/kvm/api.rst, 4.1).
const VERSION: i32 = 12;
/// The boot sector runs within half a second where KVM works.
const TRIAL_LIMIT: Duration = Duration::from_secs(3);
const QEMU: &str = "qemu-system-x86_64";
const SLOW: &str = "guests run in software, which is ten times slower";
/// x86 real mode: out(0x3f8, 'U'); out(0x501, 0), where isa-debug-exit ends QEMU; hlt; jmp back.
const BOOT_CODE: [u8; 15] = [
    0xba, 0xf8, 0x03, 0xb0, b'U', 0xee, 0xba, 0x01, 0x05, 0xb0, 0x00, 0xee, 0xf4, 0xeb, 0xfd,
];

pub(super) fn check(facts: &Facts) -> Vec<Finding> {
    let subject = Finding::about("kvm", "kvm");
    let place = facts.root.join("dev/kvm");
    let path = "/dev/kvm";
    let version = match File::options().read(true).write(true).open(place) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return vec![subject.warns(
                format!("{path} is not there; {SLOW}"),
                "turn virtualisation on in the firmware, or nested virtualisation in the VM this is; sudo modprobe kvm_intel or kvm_amd",
            )];
        }
        Err(error) => {
            return vec![subject.warns(
                format!("{path}: {error}; {SLOW}"),
                "sudo usermod -aG kvm $USER, then log in again",
            )];
        }
        Ok(kvm) => sys::kvm_api_version(&kvm),
    };
    vec![match version {
        Ok(VERSION) => match trial("kvm", TRIAL_LIMIT) {
            Trial::Runs => subject.ok(format!("{path} says version {VERSION}, and a guest ran on it")),
            Trial::NotTried(why) => subject.ok(format!(
                "{path} says version {VERSION}; whether a guest runs on it was not tried: {why}"
            )),
            Trial::Failed(why) => subject.fails(
                format!("{path} says version {VERSION}, but a guest does not run on it: {why}; {SLOW} but works"),
                "use -accel tcg -smp 2",
            ),
        },
        Ok(version) => subject.warns(
            format!("{path} says version {version}, not {VERSION}; {SLOW}"),
            "use -accel tcg -smp 2, or another kernel",
        ),
        Err(error) => subject.warns(
            format!("{path} opens but does not answer: {error}; {SLOW}"),
            "use -accel tcg -smp 2",
        ),
    }]
}

#[derive(Debug, PartialEq, Eq)]
enum Trial {
    Runs,
    Failed(String),
    NotTried(String),
}

/// Runs the boot sector with this accelerator of QEMU's.
fn trial(accelerator: &str, limit: Duration) -> Trial {
    if std::env::consts::ARCH != "x86_64" {
        return Trial::NotTried("the trial is for x86_64".to_owned());
    }
    let disk = match boot_sector() {
        Ok(disk) => disk,
        Err(error) => return Trial::NotTried(format!("no memory for its disk: {error}")),
    };
    // QEMU opens it again by this process's number, so nothing is left in any folder.
    let file = format!("/proc/{}/fd/{}", std::process::id(), disk.as_raw_fd());
    let mut line = Command::new(QEMU);
    line.args(["-accel", accelerator, "-machine", "pc", "-m", "16"])
        .args(["-nodefaults", "-display", "none", "-serial", "stdio"])
        .args(["-device", "isa-debug-exit,iobase=0x501,iosize=1", "-drive"])
        .arg(format!("file={file},format=raw,if=floppy,readonly=on"));
    match run(line, limit) {
        Ran::Not(error) => Trial::NotTried(format!("{QEMU}: {error}")),
        Ran::TooLong => Trial::Failed(format!(
            "its first instructions did not run within {} s",
            limit.as_secs()
        )),
        Ran::Ended(output) if output.stdout.contains(&b'U') => Trial::Runs,
        Ran::Ended(output) => {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            let last = said.trim().lines().next_back();
            Trial::Failed(last.map_or_else(|| output.status.to_string(), str::to_owned))
        }
    }
}

fn boot_sector() -> std::io::Result<File> {
    let mut sector = BOOT_CODE.to_vec();
    sector.resize(510, 0);
    sector.extend([0x55, 0xaa]);
    let mut file = File::from(rustix::fs::memfd_create(
        "boot-sector",
        MemfdFlags::CLOEXEC,
    )?);
    file.write_all(&sector)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::super::facts::tests::Bed;
    use super::super::finding::State;
    use super::*;

    #[test]
    fn what_is_no_kvm_is_told_apart() {
        let bed = Bed::with("");
        let missing = &check(&bed.facts)[0];
        assert!(missing.evidence.contains("is not there"), "{missing:?}");
        bed.file("dev/kvm", "");
        let file = &check(&bed.facts)[0];
        assert_eq!(file.state, State::Warn);
        assert!(
            file.evidence.contains("opens but does not answer"),
            "{file:?}"
        );
    }

    /// Needs QEMU; where it is missing that is what is said.
    #[test]
    fn the_boot_sector_speaks_under_software_emulation_and_not_under_what_nobody_has() {
        let patient = Duration::from_secs(60);
        match trial("tcg", patient) {
            Trial::Runs => {
                let Trial::Failed(why) = trial("steam", patient) else {
                    panic!("it ran by steam");
                };
                assert!(why.contains("steam"), "{why}");
                let hasty = trial("tcg", Duration::ZERO);
                assert!(
                    matches!(&hasty, Trial::Failed(why) if why.contains("within 0 s")),
                    "{hasty:?}"
                );
            }
            Trial::NotTried(why) => assert!(!why.is_empty()),
            Trial::Failed(why) => panic!("{why}"),
        }
    }
}
