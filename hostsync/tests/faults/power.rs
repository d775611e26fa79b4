//! The power goes: each prefix of an update's system calls, as strace saw them, on a model of a disk.
//!
//! The model is as strict as POSIX: what was written is on the disk after an fsync of that file, a name after
//! an fsync of its folder; until then each of them may be there or not, in any order, and a file that grew may have
//! zeros where its bytes should be. Every such disk is made for real, and a later run must bring it to
//! the new content with no line of the user's lost.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::{Path, PathBuf};

use super::Outcome::{self, Ran, Skipped};
use super::child::Job;
use super::scene::{ODD, Scene, expected, names};

/// Steps that no update comes to, though its writes are cut in small pieces.
const ALL: usize = 100_000;

/// One call that changes a disk.
#[derive(Debug, Clone)]
enum Call {
    Make(PathBuf),
    MakeFolder(PathBuf),
    Write {
        file: PathBuf,
        at: usize,
        bytes: Vec<u8>,
    },
    Cut(PathBuf, usize),
    Rename(PathBuf, PathBuf),
    Remove(PathBuf),
    Sync(PathBuf),
    SyncAll,
}

/// What is on the disk for certain, and what may be.
#[derive(Debug, Clone, Default)]
struct Disk {
    /// By file: its bytes, and changes of them that are not synced.
    files: Vec<(Vec<u8>, Vec<Change>)>,
    /// The names that programs see.
    live: BTreeMap<PathBuf, usize>,
    /// The names that are on the disk, and changes of them that are not synced, by folder.
    names: BTreeMap<PathBuf, usize>,
    renames: BTreeMap<PathBuf, Vec<NameChange>>,
    folders: BTreeSet<PathBuf>,
}

#[derive(Debug, Clone)]
enum Change {
    Write { at: usize, bytes: Vec<u8> },
    Cut(usize),
}

#[derive(Debug, Clone)]
enum NameChange {
    Set(PathBuf, usize),
    Gone(PathBuf),
    /// One step on a journalled disk and by POSIX: both names change or none.
    Moved(PathBuf, PathBuf, usize),
    Folder(PathBuf),
}

impl Disk {
    fn of(folder: &Path) -> Self {
        use std::os::unix::fs::MetadataExt;
        let mut disk = Self::default();
        let mut inodes = BTreeMap::new();
        let mut left = vec![folder.to_owned()];
        while let Some(path) = left.pop() {
            let found = std::fs::symlink_metadata(&path).unwrap();
            if found.is_dir() {
                left.extend(
                    std::fs::read_dir(&path)
                        .unwrap()
                        .map(|entry| entry.unwrap().path()),
                );
                disk.folders.insert(path);
            } else {
                let file = *inodes.entry(found.ino()).or_insert_with(|| {
                    disk.files.push((std::fs::read(&path).unwrap(), Vec::new()));
                    disk.files.len() - 1
                });
                disk.names.insert(path, file);
            }
        }
        disk.live = disk.names.clone();
        disk
    }

    fn pending(&mut self, path: &Path) -> &mut Vec<NameChange> {
        self.renames
            .entry(path.parent().unwrap().to_owned())
            .or_default()
    }

    fn apply(&mut self, call: &Call) {
        match call {
            Call::Make(path) => {
                if self.live.contains_key(path) {
                    return;
                }
                self.files.push((Vec::new(), Vec::new()));
                let file = self.files.len() - 1;
                self.live.insert(path.clone(), file);
                self.pending(path).push(NameChange::Set(path.clone(), file));
            }
            Call::MakeFolder(path) => self.pending(path).push(NameChange::Folder(path.clone())),
            Call::Write { file, at, bytes } => {
                let (at, bytes) = (*at, bytes.clone());
                let file = self.live[file];
                self.files[file].1.push(Change::Write { at, bytes });
            }
            Call::Cut(path, length) => {
                let file = self.live[path];
                self.files[file].1.push(Change::Cut(*length));
            }
            Call::Rename(from, to) => {
                let file = self.live.remove(from).unwrap();
                self.live.insert(to.clone(), file);
                assert_eq!(
                    from.parent(),
                    to.parent(),
                    "a rename across folders is not modelled"
                );
                self.pending(to)
                    .push(NameChange::Moved(from.clone(), to.clone(), file));
            }
            Call::Remove(path) => {
                self.live.remove(path).unwrap();
                self.pending(path).push(NameChange::Gone(path.clone()));
            }
            Call::Sync(path) => match self.live.get(path).copied() {
                Some(file) => {
                    let changes = std::mem::take(&mut self.files[file].1);
                    changes
                        .iter()
                        .for_each(|change| change.make(&mut self.files[file].0));
                }
                None => {
                    for change in self.renames.remove(path).unwrap_or_default() {
                        change.make(&mut self.names, &mut self.folders);
                    }
                }
            },
            Call::SyncAll => {
                for (bytes, changes) in &mut self.files {
                    std::mem::take(changes)
                        .iter()
                        .for_each(|change| change.make(bytes));
                }
                for change in std::mem::take(&mut self.renames).into_values().flatten() {
                    change.make(&mut self.names, &mut self.folders);
                }
            }
        }
    }

    /// The disks that may be found after a power cut now.
    fn after_power_cut(&self) -> Vec<BTreeMap<PathBuf, Vec<u8>>> {
        let mut found = Vec::new();
        for names in self.possible_names() {
            for contents in self.possible_contents() {
                let disk = names
                    .iter()
                    .map(|(path, file)| (path.clone(), contents[*file].clone()));
                found.push(disk.collect());
            }
        }
        found
    }

    fn possible_names(&self) -> Vec<BTreeMap<PathBuf, usize>> {
        let mut ways = vec![(self.names.clone(), self.folders.clone())];
        for changes in self.renames.values() {
            let mut more = Vec::new();
            for (names, folders) in &ways {
                // Every subset, in order; more than a few changes are never pending.
                assert!(changes.len() <= 8, "{changes:?}");
                for mask in 0_u32..1 << changes.len() {
                    let (mut names, mut folders) = (names.clone(), folders.clone());
                    for (index, change) in changes.iter().enumerate() {
                        if mask >> index & 1 == 1 {
                            change.make(&mut names, &mut folders);
                        }
                    }
                    more.push((names, folders));
                }
            }
            ways = more;
        }
        // What is in a folder that is not there is not there.
        let there = |(names, folders): (BTreeMap<PathBuf, usize>, BTreeSet<PathBuf>)| {
            let reachable = |path: &Path| {
                let mut above = path.ancestors().skip(1);
                let top = self.folders.iter().next().unwrap();
                above
                    .by_ref()
                    .take_while(|folder| *folder != top)
                    .all(|folder| folders.contains(folder))
            };
            names
                .into_iter()
                .filter(|(path, _)| reachable(path))
                .collect()
        };
        ways.into_iter().map(there).collect()
    }

    fn possible_contents(&self) -> Vec<Vec<Vec<u8>>> {
        let longest = self
            .files
            .iter()
            .map(|(_, changes)| changes.len())
            .max()
            .unwrap_or(0);
        let mut ways: Vec<Vec<Vec<u8>>> = Vec::new();
        let mut add = |choose: &dyn Fn(usize, usize) -> bool, zeros: bool| {
            let one = |(bytes, changes): &(Vec<u8>, Vec<Change>)| {
                let mut bytes = bytes.clone();
                for (index, change) in changes.iter().enumerate() {
                    if choose(index, changes.len()) {
                        change.make(&mut bytes);
                    } else if zeros {
                        change.grow(&mut bytes);
                    }
                }
                bytes
            };
            ways.push(self.files.iter().map(one).collect());
        };
        for zeros in [false, true] {
            add(&|_, _| false, zeros);
            add(&|_, _| true, zeros);
            add(&|index, _| index % 2 == 0, zeros);
            add(&|index, _| index % 2 == 1, zeros);
            add(&|index, count| index + 1 == count, zeros);
            add(&|index, _| index * 2 < longest, zeros);
        }
        ways
    }
}

impl Change {
    fn make(&self, to: &mut Vec<u8>) {
        match self {
            Self::Write { at, bytes } => {
                self.grow(to);
                to[*at..at + bytes.len()].copy_from_slice(bytes);
            }
            Self::Cut(length) => to.resize(*length, 0),
        }
    }

    /// The length is on the disk, the bytes are not.
    fn grow(&self, to: &mut Vec<u8>) {
        if let Self::Write { at, bytes } = self
            && to.len() < at + bytes.len()
        {
            to.resize(at + bytes.len(), 0);
        }
    }
}

impl NameChange {
    fn make(&self, names: &mut BTreeMap<PathBuf, usize>, folders: &mut BTreeSet<PathBuf>) {
        match self {
            Self::Set(path, file) => drop(names.insert(path.clone(), *file)),
            Self::Gone(path) => drop(names.remove(path)),
            Self::Moved(from, to, file) => {
                names.remove(from);
                names.insert(to.clone(), *file);
            }
            Self::Folder(path) => drop(folders.insert(path.clone())),
        }
    }
}

/// Runs the update under strace; its calls below `folder`, or why there is no trace.
fn trace(job: &Job<'_>, folder: &Path) -> Result<Vec<Call>, String> {
    let log = tempfile::NamedTempFile::new().unwrap();
    let path = log.path().to_str().unwrap().to_owned();
    let calls = "trace=open,openat,creat,write,pwrite64,writev,ftruncate,truncate,rename,renameat,renameat2,unlink,\
                 unlinkat,mkdir,mkdirat,fsync,fdatasync,syncfs,sync,link,linkat,copy_file_range,sendfile";
    let strace = [
        "strace",
        "-f",
        "-y",
        "-xx",
        "-s",
        "1000000",
        "-e",
        calls,
        "-e",
        "signal=none",
        "-o",
        &path,
    ];
    match job.command_under(&strace).output() {
        Ok(output) if output.status.success() => {}
        Ok(output) => {
            return Err(format!(
                "strace: {}",
                String::from_utf8_lossy(&output.stderr)
            ));
        }
        Err(error) => return Err(format!("no strace: {error}")),
    }
    let text = std::fs::read_to_string(log.path()).unwrap();
    let mut positions = BTreeMap::new();
    Ok(text
        .lines()
        .filter_map(|line| parse(line, folder, &mut positions))
        .collect())
}

/// One line of strace: `PID name(arguments) = result`. What it cannot read it does not pass over.
fn parse(line: &str, folder: &Path, positions: &mut BTreeMap<String, usize>) -> Option<Call> {
    let (_, line) = line.split_once(' ')?;
    let (name, rest) = line.trim_start().split_once('(')?;
    let (arguments, result) = rest.rsplit_once(") ")?;
    let result = result.trim_start().strip_prefix('=')?.trim();
    if result.starts_with('-') || result.starts_with('?') {
        return None;
    }
    let parts: Vec<&str> = arguments.split(", ").collect();
    // `3<\x2f...>`, and a word in quotes; either is hexadecimal.
    let descriptor = |part: &str| {
        let (number, path) = part.trim_end_matches('>').split_once('<')?;
        Some((
            number.to_owned(),
            PathBuf::from(String::from_utf8(bytes(path)).ok()?),
        ))
    };
    let word =
        |part: &str| PathBuf::from(String::from_utf8(bytes(part.trim_matches('"'))).unwrap());
    let at = |folder: &str, name: &str| match descriptor(folder) {
        Some((_, folder)) => folder.join(word(name)),
        None => word(name),
    };
    let inside = |path: &PathBuf| path.starts_with(folder);
    let number = |part: &str| part.parse::<usize>().unwrap();
    let call = match name {
        "openat" | "open" | "creat" => {
            let (number, path) = descriptor(result)?;
            positions.insert(number, 0);
            if !inside(&path) || !arguments.contains("O_CREAT") {
                return None;
            }
            // O_TRUNC on a file that was there is met in the tests by files that are new.
            Call::Make(path)
        }
        "write" | "pwrite64" => {
            let (number_text, file) = descriptor(parts[0])?;
            if !inside(&file) {
                return None;
            }
            let bytes = bytes(parts[1].trim_matches('"'));
            assert_eq!(
                bytes.len(),
                number(result),
                "a short write is not modelled: {line}"
            );
            let position = positions.entry(number_text).or_default();
            let at = if name == "pwrite64" {
                number(parts[3])
            } else {
                *position
            };
            if name == "write" {
                *position += bytes.len();
            }
            Call::Write { file, at, bytes }
        }
        "ftruncate" => Call::Cut(descriptor(parts[0])?.1, number(parts[1])),
        "rename" => Call::Rename(word(parts[0]), word(parts[1])),
        "renameat" | "renameat2" => Call::Rename(at(parts[0], parts[1]), at(parts[2], parts[3])),
        "unlink" => Call::Remove(word(parts[0])),
        "unlinkat" => Call::Remove(at(parts[0], parts[1])),
        "mkdir" => Call::MakeFolder(word(parts[0])),
        "mkdirat" => Call::MakeFolder(at(parts[0], parts[1])),
        "fsync" | "fdatasync" => Call::Sync(descriptor(parts[0])?.1),
        "syncfs" | "sync" => Call::SyncAll,
        other => panic!("{other} is not modelled: {line}"),
    };
    let path = match &call {
        Call::Make(path) | Call::MakeFolder(path) | Call::Cut(path, _) | Call::Remove(path) => path,
        Call::Write { file, .. } => file,
        Call::Rename(_, path) | Call::Sync(path) => path,
        Call::SyncAll => return Some(call),
    };
    inside(path).then_some(call)
}

/// `\x2f\x61` as bytes.
fn bytes(text: &str) -> Vec<u8> {
    let mut pairs = text.split("\\x");
    assert_eq!(pairs.next(), Some(""), "not hexadecimal: {text}");
    pairs
        .map(|pair| u8::from_str_radix(pair, 16).unwrap())
        .collect()
}

/// Makes a disk for real, in the place of the scene's. Files with two names have two names.
fn make(scene: &Scene, disk: &BTreeMap<PathBuf, Vec<u8>>, second: Option<&Path>) {
    for folder in ["etc", "state"] {
        std::fs::remove_dir_all(scene.folder.path().join(folder)).ok();
    }
    if let Some(second) = second {
        std::fs::remove_file(second).unwrap();
    }
    std::fs::create_dir_all(scene.file.parent().unwrap()).unwrap();
    for (path, bytes) in disk
        .iter()
        .filter(|(path, _)| Some(path.as_path()) != second)
    {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
    if let Some(second) = second {
        std::fs::hard_link(&scene.file, second).unwrap();
    }
}

fn power_cuts(make_scene: fn(&[u8]) -> Scene, in_place: bool) -> Outcome {
    let scene = make_scene(ODD);
    // strace shows paths without links.
    let top = scene.folder.path().canonicalize().unwrap();
    assert_eq!(
        top,
        scene.folder.path(),
        "the temporary folder is behind a link"
    );
    let old = expected(ODD, &names(1));
    std::fs::write(&scene.file, &old).unwrap();
    let new = expected(ODD, &names(3));
    let second = scene.folder.path().join("second");
    let second = in_place.then_some(second.as_path());
    let mut disk = Disk::of(&top);
    let calls = match trace(&Job::of(&scene, 3, ALL), &top) {
        Ok(calls) => calls,
        Err(why) => return Skipped(why),
    };
    scene.assert_bytes(&new);
    let syncs = calls
        .iter()
        .filter(|call| matches!(call, Call::Sync(_)))
        .count();
    assert!(syncs >= 3, "only {syncs} syncs in {calls:?}");

    let mut seen = HashSet::new();
    let mut torn = 0;
    for (count, call) in std::iter::once(None)
        .chain(calls.iter().map(Some))
        .enumerate()
    {
        if let Some(call) = call {
            disk.apply(call);
        }
        for state in disk.after_power_cut() {
            if !seen.insert(state.clone()) {
                continue;
            }
            let found = &state[&scene.file];
            let whole = *found == old || *found == new;
            torn += usize::from(!whole);
            assert!(
                whole || in_place,
                "torn by a power cut after call {count}: {call:?}"
            );
            make(&scene, &state, second);
            let report = scene.sync(&names(5));
            let why = || {
                format!(
                    "after call {count} of {}: {call:?}\n{state:#?}",
                    calls.len()
                )
            };
            assert!(report.is_ok(), "{report:?} {}", why());
            assert_eq!(
                scene.bytes().escape_ascii().to_string(),
                expected(ODD, &names(5)).escape_ascii().to_string(),
                "{}",
                why()
            );
            scene.assert_no_journal();
        }
    }
    assert_eq!(torn > 0, in_place, "{} disks, {torn} torn", seen.len());
    assert!(seen.len() > 10, "only {} disks", seen.len());
    println!("{} calls, {} disks, {torn} torn", calls.len(), seen.len());
    Ran
}

pub(crate) fn replacing() -> Outcome {
    power_cuts(Scene::new, false)
}

pub(crate) fn in_place() -> Outcome {
    power_cuts(Scene::linked, true)
}
