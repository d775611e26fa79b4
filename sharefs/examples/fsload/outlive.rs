//! A guest that knows many files, on a daemon whose process is killed again and again: each file is found by its
//! number, as the guest's kernel would ask for it, wherever it was renamed to, and is never another one.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::folder::give;
use crate::fuse::{self, ROOT};
use crate::rows::{Bench, say};

/// Files in a folder, and folders in one above it.
const EACH: usize = 100;
const GROUP: usize = 10;
/// Sizes of files go round; those of files that the host puts in their place are larger.
const SIZES: usize = 101;
/// Where a GETATTR's answer has the size, and a LOOKUP's: behind the node, its generation and times (fuse.h).
const SIZE: usize = 16 + 8;
const ENTRY_SIZE: usize = 40 + 8;
/// Of the file that is no more.
const STALE: i32 = 116;

/// A folder or file as the guest knows it.
struct Known {
    node: u64,
    above: u64,
    name: String,
    /// On the host.
    path: PathBuf,
}

impl Known {
    fn find(bench: &mut Bench, above: (u64, &Path), name: String) -> Result<Self> {
        Ok(Self {
            node: bench.node(above.0, &name)?,
            above: above.0,
            path: above.1.join(&name),
            name,
        })
    }

    /// Says it has another name. Paths of what is in it are not told.
    fn rename(&mut self, bench: &mut Bench, name: String) -> Result<()> {
        let renamed = fuse::rename(self.above, &self.name, &name);
        bench.guest.ask(&renamed)?;
        self.path.set_file_name(&name);
        self.name = name;
        Ok(())
    }
}

struct Scene {
    groups: Vec<Known>,
    folders: Vec<Known>,
    files: Vec<Known>,
    /// Files that are others on the host by now.
    replaced: Vec<usize>,
}

/// So many files; the process is killed three times.
pub(crate) fn run(bench: &mut Bench, folder: &Path, files: usize) -> Result<()> {
    let keeper = parent(bench.pid)?;
    let top = folder.join("tree");
    let owner = fs::metadata(folder)?;
    for number in 0..files {
        let group = top.join(format!("g{}", number / (EACH * GROUP)));
        let folder = group.join(format!("d{}", number / EACH));
        if number % EACH == 0 {
            fs::create_dir_all(&folder)?;
            for path in [&top, &group, &folder] {
                give(path, &owner)?;
            }
        }
        let file = folder.join(format!("f{number}"));
        fs::write(&file, vec![0; size(number)])?;
        give(&file, &owner)?;
    }
    let mut scene = look(bench, &top, files)?;
    scene.check(bench).context("before any death")?;
    scene.rename(bench, 0, "renamed")?;
    scene.replace()?;
    for (round, name) in ["again", "once more", "and again"].into_iter().enumerate() {
        follow(bench, keeper)?;
        scene
            .check(bench)
            .with_context(|| format!("behind death {}", round + 1))?;
        scene.rename(bench, round, name)?;
        scene.check(bench)?;
    }
    scene.look_again(bench)?;
    say("outlive", files as f64);
    Ok(())
}

fn size(number: usize) -> usize {
    number % SIZES
}

fn look(bench: &mut Bench, path: &Path, files: usize) -> Result<Scene> {
    let top = bench.node(ROOT, "tree")?;
    let mut scene = Scene {
        groups: Vec::new(),
        folders: Vec::new(),
        files: Vec::new(),
        replaced: (0..files).step_by(97).collect(),
    };
    for number in 0..files {
        let above = |known: &[Known]| {
            let last = known.last().context("nothing above")?;
            Ok::<_, anyhow::Error>((last.node, last.path.clone()))
        };
        if number % (EACH * GROUP) == 0 {
            let name = format!("g{}", scene.groups.len());
            scene.groups.push(Known::find(bench, (top, path), name)?);
        }
        if number % EACH == 0 {
            let (node, path) = above(&scene.groups)?;
            let name = format!("d{}", scene.folders.len());
            scene.folders.push(Known::find(bench, (node, &path), name)?);
        }
        let (node, path) = above(&scene.folders)?;
        let name = format!("f{number}");
        scene.files.push(Known::find(bench, (node, &path), name)?);
    }
    Ok(scene)
}

impl Scene {
    fn rename(&mut self, bench: &mut Bench, round: usize, name: &str) -> Result<()> {
        for (number, file) in self.files.iter_mut().enumerate() {
            if number % 7 == round && number % 97 != 0 {
                file.rename(bench, format!("{name} {number}"))?;
            }
        }
        for (number, folder) in self.folders.iter_mut().enumerate() {
            if number % 3 == round % 3 {
                folder.rename(bench, format!("{name} {number}"))?;
            }
        }
        for (number, group) in self.groups.iter_mut().enumerate() {
            if number % 2 == round % 2 {
                group.rename(bench, format!("{name} {number}"))?;
            }
        }
        Ok(())
    }

    /// As the host has it now.
    fn path(&self, number: usize) -> Option<PathBuf> {
        let group = &self.groups.get(number / (EACH * GROUP))?.path;
        let folder = &self.folders.get(number / EACH)?.name;
        Some(group.join(folder).join(&self.files.get(number)?.name))
    }

    /// The host takes files away and puts others in their place, by the same names and, where its file system does
    /// so, with the same inode numbers.
    fn replace(&self) -> Result<()> {
        for number in &self.replaced {
            let path = self.path(*number).context("no such file")?;
            fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))?;
            fs::write(&path, vec![0; SIZES + number])?;
        }
        Ok(())
    }

    fn is_replaced(&self, number: usize) -> bool {
        self.replaced.binary_search(&number).is_ok()
    }

    fn check(&self, bench: &mut Bench) -> Result<()> {
        for (number, file) in self.files.iter().enumerate() {
            let request = fuse::Request {
                errors: if self.is_replaced(number) {
                    &[0, STALE]
                } else {
                    &[]
                },
                ..fuse::getattr(file.node)
            };
            let said = bench
                .guest
                .ask(&request)
                .with_context(|| format!("file {number}"))?;
            // What was held stays what it was, without its name.
            let right = fuse::number(&said, SIZE) == size(number) as u64;
            ensure!(
                right || said.is_empty(),
                "file {number} is another one: {} bytes",
                fuse::number(&said, SIZE)
            );
            if number % 29 == 0 && !self.is_replaced(number) {
                let handle = fuse::number(&bench.guest.ask(&fuse::open(file.node))?, 0);
                let read = bench.guest.ask(&fuse::read(file.node, handle, 0, SIZES))?;
                ensure!(read.len() == size(number), "file {number} is not read");
                bench.guest.ask(&fuse::release(file.node, handle))?;
            }
        }
        for known in self.groups.iter().chain(&self.folders) {
            bench.guest.ask(&fuse::getattr(known.node))?;
        }
        Ok(())
    }

    /// By its name each is the node that it was, and what was replaced is a new one.
    fn look_again(&self, bench: &mut Bench) -> Result<()> {
        for (number, file) in self.files.iter().enumerate() {
            let said = bench.guest.ask(&fuse::lookup(file.above, &file.name))?;
            let (node, bytes) = (fuse::number(&said, 0), fuse::number(&said, ENTRY_SIZE));
            let (same, expected) = if self.is_replaced(number) {
                (false, SIZES + number)
            } else {
                (true, size(number))
            };
            ensure!(
                (node == file.node) == same && bytes == expected as u64,
                "file {number}: node {node} of {bytes} bytes, was {}",
                file.node
            );
        }
        Ok(())
    }
}

/// Kills the process that works now, and waits until the one that follows it answers.
pub(crate) fn follow(bench: &mut Bench, keeper: u32) -> Result<()> {
    let worker = i32::try_from(child(keeper)?).ok().and_then(Pid::from_raw);
    kill_process(worker.context("no such process")?, Signal::KILL)?;
    bench.guest.ask(&fuse::getattr(ROOT))?;
    bench.pid = child(keeper)?;
    Ok(())
}

/// The process that stays.
pub(crate) fn parent(pid: u32) -> Result<u32> {
    let path = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("PPid:"));
    Ok(line.context("no PPid")?.trim().parse()?)
}

fn child(pid: u32) -> Result<u32> {
    let path = format!("/proc/{pid}/task/{pid}/children");
    let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    Ok(text
        .split_whitespace()
        .next()
        .context("no child")?
        .parse()?)
}
