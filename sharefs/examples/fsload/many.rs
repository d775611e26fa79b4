//! A guest that knows more files than a process may hold descriptors: what each costs the daemon in memory, and
//! how fast it is found, and found again, also by a process that follows one that was killed.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};

use crate::clock::{now, spent};
use crate::fuse::{self, ROOT};
use crate::outlive;
use crate::rows::{Bench, say};

/// Files in a folder.
const EACH: usize = 1000;
/// GETATTRs of files that were not asked for lately, and then of few again and again.
const ASKED: usize = 200_000;
/// Few enough to be held by any daemon.
const FEW: usize = 500;

/// So many files, and the rows about them; they are removed with the folder.
pub(crate) fn run(bench: &mut Bench, folder: &Path, files: usize, kill: bool) -> Result<()> {
    let many = folder.join("many");
    for number in 0..files {
        let folder = many.join((number / EACH).to_string());
        if number % EACH == 0 {
            fs::create_dir_all(&folder)?;
        }
        fs::write(folder.join(format!("file-{number}")), b"")?;
    }
    let before = resident(bench.pid)?;
    let top = bench.node(ROOT, "many")?;
    let mut nodes = Vec::with_capacity(files);
    let mut folder = 0;
    let (begin, processor) = (now(), spent(bench.pid)?);
    for number in 0..files {
        if number % EACH == 0 {
            folder = bench.node(top, &(number / EACH).to_string())?;
        }
        nodes.push(bench.node(folder, &format!("file-{number}"))?);
    }
    say(
        "many-lookup",
        files as f64 / begin.elapsed().as_secs_f64() / 1e3,
    );
    let each = |spent: std::time::Duration, times: usize| spent.as_secs_f64() * 1e6 / times as f64;
    say(
        "many-lookup.cpu",
        each(spent(bench.pid)?.saturating_sub(processor), files),
    );
    let bytes = resident(bench.pid)?.saturating_sub(before);
    say("many-resident", bytes as f64 / (1 << 20) as f64);
    say("many-bytes", bytes as f64 / files as f64);
    // A stride that is prime to any such number goes everywhere, and seldom to the same.
    for (key, step, among) in [("many-getattr", 7919, files), ("few-getattr", 1, FEW)] {
        let (begin, processor) = (now(), spent(bench.pid)?);
        for turn in 0..ASKED {
            let node = nodes.get(turn * step % among).context("no such node")?;
            bench.guest.ask(&fuse::getattr(*node))?;
        }
        say(key, ASKED as f64 / begin.elapsed().as_secs_f64() / 1e3);
        let taken = spent(bench.pid)?.saturating_sub(processor);
        say(&format!("{key}.cpu"), each(taken, ASKED));
    }
    if kill {
        find_again(bench, &many, &nodes)?;
    }
    let begin = now();
    for nodes in nodes.chunks(128) {
        let list: Vec<(u64, u64)> = nodes.iter().map(|node| (*node, 1)).collect();
        bench.guest.ask(&fuse::batch_forget(&list))?;
    }
    say(
        "many-forget",
        files as f64 / begin.elapsed().as_secs_f64() / 1e3,
    );
    Ok(())
}

/// The process dies, and the next one is asked for every file: how long until it answers, in ms, and how fast it
/// finds them.
fn find_again(bench: &mut Bench, many: &Path, nodes: &[u64]) -> Result<()> {
    let keeper = outlive::parent(bench.pid)?;
    let begin = now();
    outlive::follow(bench, keeper)?;
    say("many-pause", begin.elapsed().as_secs_f64() * 1e3);
    let begin = now();
    for (number, node) in nodes.iter().enumerate() {
        let said = bench.guest.ask(&fuse::getattr(*node))?;
        if number % 97 == 0 {
            let folder = many.join((number / EACH).to_string());
            let inode = fs::metadata(folder.join(format!("file-{number}")))?.ino();
            ensure!(fuse::number(&said, INODE) == inode, "another file's answer");
        }
    }
    say(
        "many-found",
        nodes.len() as f64 / begin.elapsed().as_secs_f64() / 1e3,
    );
    let bytes = resident(bench.pid)?;
    say("many-resident-again", bytes as f64 / (1 << 20) as f64);
    Ok(())
}

/// Where a GETATTR's answer has the inode's number: behind how long it is good (fuse_attr_out).
const INODE: usize = 16;

/// Bytes of a process's memory that are in use.
fn resident(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kibibytes = line.and_then(|line| line.trim().strip_suffix(" kB"));
    let kibibytes = kibibytes.context("no VmRSS")?.trim().parse::<u64>()?;
    Ok(kibibytes * 1024)
}
