//! Chooses QEMU's accelerator by trying: KVM may be there and still hang.
//!
//! The trial is a boot sector that prints one letter to the serial port and ends. `SHARECTL_ACCEL`
//! (`kvm` or `tcg`) overrides; the answer is kept until the next boot of this machine.

use std::fs;
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
    let mut sector = BOOT_CODE.to_vec();
    sector.resize(510, 0);
    sector.extend([0x55, 0xaa]);
    let disk = place::staging()?.join(format!("boot-sector-{accelerator}"));
    fs::write(&disk, sector).with_context(|| format!("write {}", disk.display()))?;
    let mut line = User::unprivileged().command("qemu-system-x86_64");
    trial_arguments(&mut line, accelerator).arg(format!(
        "file={},format=raw,if=floppy,readonly=on",
        disk.display()
    ));
    let output = command::output(&mut line, TRIAL_LIMIT)?;
    if !output.stdout.contains('U') {
        bail!("the boot sector did not speak: {}", output.stderr);
    }
    Ok(())
}

fn trial_arguments<'a>(line: &'a mut Command, accelerator: &str) -> &'a mut Command {
    line.args(["-accel", accelerator, "-machine", "pc", "-m", "16"])
        .args(["-nodefaults", "-display", "none", "-serial", "stdio"])
        .args(["-device", "isa-debug-exit,iobase=0x501,iosize=1"])
        .arg("-drive")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_boot_sector_speaks_under_software_emulation() {
        if crate::packages::find("qemu-system-x86_64").is_some() {
            boots("tcg").unwrap();
        }
    }

    #[test]
    fn an_accelerator_nobody_has_does_not_boot() {
        if crate::packages::find("qemu-system-x86_64").is_some() {
            boots("steam").unwrap_err();
        }
    }
}
