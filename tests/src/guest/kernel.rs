//! Gets the distribution's kernel for guests without installing it: download the package, unpack it
//! into the cache, keep the kernel and the few modules of use.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::modules::{self, Module};
use crate::{command, packages, place};

/// 70 MB over a slow line.
const DOWNLOAD_LIMIT: Duration = Duration::from_secs(600);
const UNPACK_LIMIT: Duration = Duration::from_secs(120);

/// Packages that depend on the newest kernel image: Debian's, then Ubuntu's.
const META_PACKAGES: &[&str] = &["linux-image-amd64", "linux-image-generic"];

/// Names a kernel package (a .deb file) to boot guests with, instead of the distribution's own: to see
/// what another version of Linux does.
const VARIABLE: &str = "SHARECTL_GUEST_KERNEL";

/// A kernel and its modules.
#[derive(Debug)]
pub(super) struct Unpacked {
    pub(super) kernel: PathBuf,
    pub(super) modules: Vec<Module>,
}

/// The kernel from the cache, or a fresh one.
pub(super) fn unpacked() -> Result<Unpacked> {
    let given = std::env::var_os(VARIABLE).map(PathBuf::from);
    let name = match given.as_deref().and_then(Path::file_stem) {
        Some(stem) => format!("kernel-{}", stem.to_string_lossy()),
        None => "kernel".to_owned(),
    };
    let folder = place::cache()?.join(name);
    if !is_whole(&folder) {
        fetch(&folder, given.as_deref()).context("get a kernel for guests")?;
    }
    Ok(Unpacked {
        kernel: folder.join("kernel"),
        modules: load(&folder.join("modules"))?,
    })
}

/// A disk that was full leaves an empty file, and an earlier version picked other modules.
fn is_whole(folder: &Path) -> bool {
    let kernel = folder.join("kernel").metadata();
    let picked = fs::read_to_string(folder.join("picked"));
    kernel.is_ok_and(|kernel| kernel.is_file() && kernel.len() > 0)
        && picked.is_ok_and(|picked| picked == wanted())
}

/// The names of the modules that are picked, as they are kept beside them.
fn wanted() -> String {
    modules::wanted().collect::<Vec<_>>().join("\n")
}

fn fetch(folder: &Path, given: Option<&Path>) -> Result<()> {
    if std::env::consts::ARCH != "x86_64" {
        bail!(
            "guests need an x86-64 host, this one is {}",
            std::env::consts::ARCH
        );
    }
    let work = tempfile::Builder::new()
        .prefix("kernel-")
        .tempdir_in(place::cache()?)?;
    let tree = work.path().join("tree");
    if let Some(package) = given {
        unpack(package, &tree)?;
    } else {
        for package in image_packages()? {
            download(&package, work.path())?;
        }
        for entry in fs::read_dir(work.path())? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "deb") {
                unpack(&path, &tree)?;
            }
        }
    }
    let kernel = only_entry(&tree.join("boot"), "vmlinuz-")?;
    // Debian 13 unpacks modules below usr/lib, Debian 12 and Ubuntu below lib.
    let modules = [tree.join("lib/modules"), tree.join("usr/lib/modules")]
        .into_iter()
        .find(|folder| folder.is_dir())
        .context("the kernel package holds no modules")?;
    let picked = modules::pick(&only_entry(&modules, "")?)?;

    let ready = work.path().join("ready");
    fs::create_dir_all(ready.join("modules"))?;
    for module in &picked {
        let at = ready.join("modules").join(&module.name);
        fs::write(at.with_extension("ko"), &module.content)?;
        fs::write(at.with_extension("order"), module.order.join("\n"))?;
    }
    fs::write(ready.join("picked"), wanted())?;
    let configuration = fs::read_to_string(only_entry(&tree.join("boot"), "config-")?)?;
    let compressed = fs::read(&kernel)?;
    let plain = if configuration.contains("CONFIG_PVH=y") {
        unpack_image(&compressed)
    } else {
        None
    };
    fs::write(ready.join("kernel"), plain.unwrap_or(compressed))?;
    if !is_whole(folder) {
        // Half a kernel, or none: make room.
        drop(fs::remove_dir_all(folder));
    }
    // Another process may have been faster; its kernel is as good.
    if let Err(error) = fs::rename(&ready, folder)
        && !is_whole(folder)
    {
        return Err(error).with_context(|| format!("move to {}", folder.display()));
    }
    Ok(())
}

fn unpack(package: &Path, tree: &Path) -> Result<()> {
    let mut line = Command::new("dpkg-deb");
    line.arg("-x").arg(package).arg(tree);
    command::run(&mut line, UNPACK_LIMIT)?;
    Ok(())
}

/// The newest kernel image package, and on Ubuntu the modules that are packaged apart.
fn image_packages() -> Result<Vec<String>> {
    let found = find_image().or_else(|| {
        // A fresh machine has no package lists yet.
        packages::refresh().ok()?;
        find_image()
    });
    let Some(image) = found else {
        bail!("apt knows none of {}", META_PACKAGES.join(", "));
    };
    let apart = depends(&image, "linux-modules-");
    Ok([image].into_iter().chain(apart).collect())
}

fn find_image() -> Option<String> {
    META_PACKAGES
        .iter()
        .find_map(|meta| depends(meta, "linux-image-").into_iter().next())
}

fn depends(package: &str, prefix: &str) -> Vec<String> {
    let mut ask = Command::new("apt-cache");
    ask.args(["depends", "--important", package]);
    let answer = command::run(&mut ask, Duration::from_secs(60)).unwrap_or_default();
    answer
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "))
        .filter(|name| name.starts_with(prefix))
        .map(str::to_owned)
        .collect()
}

fn download(package: &str, into: &Path) -> Result<()> {
    let mut line = Command::new("apt-get");
    // As root, apt would drop to its own user, who may not write here.
    line.args(["-q", "-o", "APT::Sandbox::User=root", "download", package])
        .current_dir(into);
    if command::run(&mut line, DOWNLOAD_LIMIT).is_err() {
        // The lists may name a version that the mirror has replaced.
        packages::refresh()?;
        command::run(&mut line, DOWNLOAD_LIMIT)?;
    }
    Ok(())
}

fn only_entry(folder: &Path, prefix: &str) -> Result<PathBuf> {
    let entries = fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))?;
    for entry in entries {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(prefix) {
            return Ok(entry.path());
        }
    }
    bail!("nothing named {prefix}* in {}", folder.display())
}

/// The ELF kernel inside a bzImage (Documentation/arch/x86/boot.rst: `payload_offset`), which QEMU
/// starts directly (PVH). Unpacking it here instead of in the guest halves an emulated boot. `None`
/// when it is packed in a way not known here; the bzImage boots as well.
fn unpack_image(image: &[u8]) -> Option<Vec<u8>> {
    let number = |at: usize| -> Option<usize> {
        let bytes = image.get(at..at + 4)?.try_into().ok()?;
        usize::try_from(u32::from_le_bytes(bytes)).ok()
    };
    let setup = (usize::from(*image.get(0x1f1)?) + 1) * 512;
    let start = setup + number(0x248)?;
    let payload = image.get(start..start + number(0x24c)?)?;
    let unpacker = match payload {
        [0xfd, b'7', b'z', b'X', b'Z', ..] => "xz -dc --single-stream",
        [0x28, 0xb5, 0x2f, 0xfd, ..] => "zstd -dcq",
        [0x1f, 0x8b, ..] => "gzip -dcq",
        _ => return None,
    };
    let work = tempfile::tempdir().ok()?;
    let (packed, plain) = (work.path().join("packed"), work.path().join("plain"));
    fs::write(&packed, payload).ok()?;
    let shell = format!("{unpacker} < {} > {}", packed.display(), plain.display());
    // Behind the stream stands its length, which some unpackers complain about.
    command::output(Command::new("sh").args(["-c", &shell]), UNPACK_LIMIT).ok()?;
    let kernel = fs::read(plain).ok()?;
    kernel.starts_with(b"\x7fELF").then_some(kernel)
}

fn load(folder: &Path) -> Result<Vec<Module>> {
    let mut modules = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))? {
        let path = entry?.path();
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        if path.extension().is_some_and(|extension| extension == "ko") {
            let order = fs::read_to_string(path.with_extension("order"))?;
            modules.push(Module {
                name: name.into_owned(),
                order: order.lines().map(str::to_owned).collect(),
                content: fs::read(&path)?,
            });
        }
    }
    modules.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(modules)
}
