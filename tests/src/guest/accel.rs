//! Chooses QEMU's accelerator by trying: KVM may be there and still hang.
//!
//! The trial is a boot sector that prints one letter to the serial port and ends. `SHARECTL_ACCEL`
//! (`kvm` or `tcg`) overrides; the answer is kept until the next boot of this machine.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::user::User;
use crate::{command, place};

/// Names the accelerator to use without trying.
pub const VARIABLE: &str = "SHARECTL_ACCEL";

/// With KVM the boot sector runs within half a second.
const TRIAL_LIMIT: Duration = Duration::from_secs(5);

/// x86 real mode: out(0x3f8, 'U'); out(0x501, 0), where isa-debug-exit ends QEMU; hlt; jmp back.
const BOOT_CODE: &[u8] = &[
    0xba, 0xf8, 0x03, 0xb0, b'U', 0xee, 0xba, 0x01, 0x05, 0xb0, 0x00, 0xee, 0xf4, 0xeb, 0xfd,
];

/// How QEMU runs a guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accelerator {
    /// The processor itself.
    Kvm,
    /// QEMU's software emulation.
    Tcg,
}

impl Accelerator {
    /// The value of QEMU's `-accel`.
    #[must_use]
    pub fn argument(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg,thread=multi",
        }
    }

    /// The value of QEMU's `-smp` for a guest of one processor.
    ///
    /// Where there can never be a second one, software emulation leaves out the barrier in the guest's locked
    /// instructions (QEMU's `tcg_cpu_init_cflags`: parallel means `maxcpus` above one). But the device's thread reads the
    /// same rings: then a kick or an interrupt of virtio is lost now and then, and that queue stands still for ever.
    #[must_use]
    pub fn one_processor(self) -> &'static str {
        match self {
            Self::Kvm => "1",
            Self::Tcg => "1,maxcpus=2",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        match text {
            "kvm" => Some(Self::Kvm),
            "tcg" => Some(Self::Tcg),
            _ => None,
        }
    }
}

/// The accelerator for guests on this machine.
///
/// # Errors
/// When the override is neither kvm nor tcg, or the answer cannot be kept.
pub fn chosen() -> Result<Accelerator> {
    if let Ok(text) = std::env::var(VARIABLE) {
        return Accelerator::parse(&text)
            .with_context(|| format!("{VARIABLE} is {text:?}, not kvm or tcg"));
    }
    let kept = place::cache()?.join("accelerator");
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let known = fs::read_to_string(&kept).unwrap_or_default();
    if let Some((answer, when)) = known.split_once(' ')
        && when == boot
        && let Some(accelerator) = Accelerator::parse(answer)
    {
        return Ok(accelerator);
    }
    let (accelerator, word) = if kvm_works() {
        (Accelerator::Kvm, "kvm")
    } else {
        (Accelerator::Tcg, "tcg")
    };
    fs::write(&kept, format!("{word} {boot}"))
        .with_context(|| format!("write {}", kept.display()))?;
    Ok(accelerator)
}

fn kvm_works() -> bool {
    fs::exists("/dev/kvm").unwrap_or(false) && boots("kvm").is_ok()
}

/// Boots the boot sector with this accelerator.
fn boots(accelerator: &str) -> Result<()> {
    let disk = boot_sector(accelerator, BOOT_CODE)?;
    let output = trial(accelerator, &disk, &[])?;
    if !output.stdout.contains('U') {
        bail!("the boot sector did not speak: {}", output.stderr);
    }
    Ok(())
}

/// A floppy that begins with this code, in a file of this name.
fn boot_sector(name: &str, code: &[u8]) -> Result<PathBuf> {
    let mut sector = code.to_vec();
    sector.resize(510, 0);
    sector.extend([0x55, 0xaa]);
    let disk = place::staging()?.join(format!("boot-sector-{name}"));
    fs::write(&disk, sector).with_context(|| format!("write {}", disk.display()))?;
    Ok(disk)
}

fn trial(accelerator: &str, disk: &Path, more: &[&str]) -> Result<command::Output> {
    let mut line = User::unprivileged().command("qemu-system-x86_64");
    trial_arguments(&mut line, accelerator)
        .arg(format!(
            "file={},format=raw,if=floppy,readonly=on",
            disk.display()
        ))
        .args(more);
    command::output(&mut line, TRIAL_LIMIT)
}

fn trial_arguments<'a>(line: &'a mut Command, accelerator: &str) -> &'a mut Command {
    line.args(["-accel", accelerator, "-machine", "pc", "-m", "16"])
        .args(["-nodefaults", "-display", "none", "-serial", "stdio"])
        .args(["-device", "isa-debug-exit,iobase=0x501,iosize=1"])
        .arg("-drive")
}

#[cfg(test)]
mod tests {
    use anyhow::ensure;

    use super::*;
    use crate::{packages, whole_system};

    #[test]
    fn the_boot_sector_speaks_under_software_emulation() {
        whole_system(|| {
            packages::ensure(packages::GUEST)?;
            boots("tcg")
        });
    }

    /// x86 real mode: xor ax, ax; mov ds, ax; lock add dword [0x5000], 0; mfence; out(0x501, 0); hlt. A locked addition
    /// of nothing is Linux's `smp_mb`, by which a driver orders what it offers and what it then reads of the device.
    const BARRIERS: &[u8] = &[
        0x31, 0xc0, 0x8e, 0xd8, 0xf0, 0x66, 0x83, 0x06, 0x00, 0x50, 0x00, 0x0f, 0xae, 0xf0, 0xba,
        0x01, 0x05, 0xb0, 0x00, 0xee, 0xf4,
    ];

    #[test]
    fn a_guest_of_one_processor_keeps_its_memory_barriers_in_software_emulation() {
        whole_system(|| {
            packages::ensure(packages::GUEST)?;
            let disk = boot_sector("barriers", BARRIERS)?;
            let processors = Accelerator::Tcg.one_processor();
            let shown = ["-smp", processors, "-d", "op", "-dfilter", "0x7c00+0x20"];
            let operations = trial("tcg,thread=multi", &disk, &shown)?.stderr;
            for operation in [" atomic_", " mb "] {
                ensure!(operations.contains(operation), "{operation}: {operations}");
            }
            Ok(())
        });
    }

    #[test]
    fn an_accelerator_nobody_has_does_not_boot() {
        whole_system(|| {
            packages::ensure(packages::GUEST)?;
            ensure!(boots("steam").is_err());
            Ok(())
        });
    }
}
