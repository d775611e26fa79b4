//! Picks the kernel modules a guest needs out of an unpacked kernel package, in loading order.
//!
//! A module names those it depends on in its `.modinfo` section (`depends=a,b`), so neither depmod
//! nor modules.dep (which a package does not carry) is needed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::disk;
use crate::command;

/// The modules that guests load by name; what is compiled into the kernel is left out.
const WANTED: &[&str] = &[
    "virtio_pci",
    "virtio_net",
    "e1000",
    "virtiofs",
    "9p",
    "9pnet_virtio",
    "9pnet_fd",
    "af_packet",
];

/// A module, ready to be loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Module {
    pub(super) name: String,
    /// Every module to load for this one, itself last.
    pub(super) order: Vec<String>,
    pub(super) content: Vec<u8>,
}

/// All that some guest loads by name: [`WANTED`] and those of a guest with a disk.
pub(super) fn wanted() -> impl Iterator<Item = &'static str> {
    WANTED.iter().chain(disk::MODULES).copied()
}

/// Finds what is [`wanted`] and all it depends on below `tree` (`lib/modules/RELEASE`).
pub(super) fn pick(tree: &Path) -> Result<Vec<Module>> {
    let files = index(tree)?;
    let built_in = built_in(tree)?;
    let mut picked: BTreeMap<String, Module> = BTreeMap::new();
    for name in wanted() {
        if files.contains_key(name) {
            take(name, &files, &mut picked)?;
        } else if !built_in.contains(name) {
            bail!("the guest kernel has no module {name}, and it is not built in");
        }
    }
    Ok(picked.into_values().collect())
}

fn take(
    name: &str,
    files: &BTreeMap<String, PathBuf>,
    picked: &mut BTreeMap<String, Module>,
) -> Result<Vec<String>> {
    if let Some(module) = picked.get(name) {
        return Ok(module.order.clone());
    }
    let path = files
        .get(name)
        .with_context(|| format!("no file for kernel module {name}"))?;
    let content = plain(path)?;
    let mut order = Vec::new();
    for dependency in depends(&content) {
        for part in take(&dependency, files, picked)? {
            if !order.contains(&part) {
                order.push(part);
            }
        }
    }
    order.push(name.to_owned());
    let module = Module {
        name: name.to_owned(),
        order: order.clone(),
        content,
    };
    picked.insert(name.to_owned(), module);
    Ok(order)
}

/// What the module says it depends on.
fn depends(content: &[u8]) -> Vec<String> {
    let key: &[u8] = b"\0depends=";
    let Some(start) = content.windows(key.len()).position(|part| part == key) else {
        return Vec::new();
    };
    let rest = content.get(start + key.len()..).unwrap_or_default();
    let list = rest.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(list)
        .split(',')
        .filter(|name| !name.is_empty())
        .map(canonical)
        .collect()
}

/// File names may have a dash where the kernel says underscore.
fn canonical(name: &str) -> String {
    name.replace('-', "_")
}

fn index(tree: &Path) -> Result<BTreeMap<String, PathBuf>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![tree.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let entries =
            fs::read_dir(&folder).with_context(|| format!("list {}", folder.display()))?;
        for entry in entries {
            let entry = entry?;
            let path = entry.path();
            if entry.file_type()?.is_dir() {
                folders.push(path);
            } else if let Some((name, _)) = entry.file_name().to_string_lossy().split_once(".ko") {
                found.insert(canonical(name), path);
            }
        }
    }
    Ok(found)
}

fn built_in(tree: &Path) -> Result<BTreeSet<String>> {
    let path = tree.join("modules.builtin");
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    Ok(text
        .lines()
        .filter_map(|line| line.rsplit('/').next()?.strip_suffix(".ko"))
        .map(canonical)
        .collect())
}

/// The module's bytes, unpacked: Debian 13 has .ko.xz, Ubuntu .ko.zst.
fn plain(path: &Path) -> Result<Vec<u8>> {
    let unpacker = match path.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        _ => return fs::read(path).with_context(|| format!("read {}", path.display())),
    };
    let unpacked = path.with_extension("");
    if !unpacked.exists() {
        command::run(
            Command::new(unpacker).arg("-dkq").arg(path),
            Duration::from_secs(30),
        )?;
    }
    fs::read(&unpacked).with_context(|| format!("read {}", unpacked.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(modules: &[(&str, &str)]) -> tempfile::TempDir {
        let tree = tempfile::tempdir().unwrap();
        fs::write(
            tree.path().join("modules.builtin"),
            "kernel/net/packet/af_packet.ko\n",
        )
        .unwrap();
        for (file, depends) in modules {
            let content = format!("ELF\0license=GPL\0depends={depends}\0name=x\0");
            fs::write(tree.path().join(file), content).unwrap();
        }
        tree
    }

    #[test]
    fn dependencies_come_first_and_dashes_become_underscores() {
        let tree = tree(&[("virtio-net.ko", "a-b"), ("a_b.ko", "c"), ("c.ko", "")]);
        let files = index(tree.path()).unwrap();
        let mut picked = BTreeMap::new();
        let order = take("virtio_net", &files, &mut picked).unwrap();
        assert_eq!(order, ["c", "a_b", "virtio_net"]);
    }

    #[test]
    fn a_module_that_is_nowhere_is_an_error_but_a_built_in_one_is_not() {
        let all: Vec<_> = wanted()
            .filter(|name| *name != "af_packet")
            .map(|name| (format!("{name}.ko"), ""))
            .collect();
        let all: Vec<_> = all.iter().map(|(file, on)| (file.as_str(), *on)).collect();
        assert!(pick(tree(&all).path()).is_ok());
        let error = pick(tree(&all[1..]).path()).unwrap_err();
        assert!(error.to_string().contains("virtio_pci"), "{error}");
    }
}
