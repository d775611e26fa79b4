//! What is measured, row by row: one JSON line each, with a key that the table knows.
//!
//! `KEY.1` is the median time of an operation with one request at a time, in µs; `KEY.16` the rate with
//! sixteen under way, in thousands a second or in GB/s; `KEY.cpu` the daemon's processor time, in µs an
//! operation or seconds a GB.

use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::clock::{median, now, spent};
use crate::folder::{Folder, LISTED, WALK};
use crate::fuse::{self, ROOT, Request};
use crate::guest::{Guest, SLOTS, Wait};
use crate::paced;

const KIB: usize = 1024;
const MIB: usize = 1024 * 1024;
/// Operations between two looks at the clock's end and two batches of FORGET.
const ROUND: usize = 32;

/// A guest at work on one daemon.
pub(crate) struct Bench {
    pub(crate) guest: Guest,
    pub(crate) pid: u32,
    time: Duration,
    wanted: String,
    /// Nodes that the guest was told of once more and will forget.
    told: Vec<(u64, u64)>,
}

/// What one measurement came to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Measured {
    /// Of one operation.
    pub(crate) median: Duration,
    pub(crate) operations: usize,
    pub(crate) whole: Duration,
    pub(crate) processor: Duration,
}

impl Bench {
    pub(crate) fn new(guest: Guest, pid: u32, time: Duration, wanted: &str) -> Result<Self> {
        spent(pid).context("the daemon's processor time")?;
        Ok(Self {
            guest,
            pid,
            time,
            wanted: wanted.to_owned(),
            told: Vec::new(),
        })
    }

    pub(crate) fn run(&mut self, _: &Folder) -> Result<()> {
        let known = self.node(ROOT, "known")?;
        let small = self.node(ROOT, "small")?;
        let data = self.node(ROOT, "data")?;
        let work = self.node(ROOT, "work")?;
        let handle = fuse::number(&self.guest.ask(&fuse::open(data))?, 0);

        self.walk()?;
        for (key, request) in [
            ("getattr", fuse::getattr(known)),
            ("lookup", fuse::lookup(ROOT, "known")),
            ("lookup-nothing", fuse::lookup_nothing(ROOT)),
            ("setattr", fuse::set_time(known)),
            ("statfs", fuse::statfs()),
            ("getxattr", fuse::getxattr(known)),
            ("flush", fuse::flush(data, handle)),
        ] {
            self.metadata(key, &request)?;
        }
        self.listing("readdirplus", true)?;
        self.listing("readdir", false)?;
        self.names(small, work)?;
        for (key, size) in [("4k", 4 * KIB), ("64k", 64 * KIB), ("1m", MIB)] {
            self.data(&format!("read-{key}"), size, |at| {
                fuse::read(data, handle, at, size)
            })?;
            self.data(&format!("write-{key}"), size, |at| {
                fuse::write(data, handle, at, size)
            })?;
        }
        self.guest.learn_by(Wait::Asleep);
        let getattr = fuse::getattr(known);
        if let Some(measured) = self.ask_again("getattr-event", &getattr)? {
            say("getattr-event.1", micros(measured.median));
        }
        let read = fuse::read(data, handle, 0, 4 * KIB);
        if let Some(measured) = self.ask_again("read-4k-event", &read)? {
            say("read-4k-event.1", micros(measured.median));
        }
        if self.wants("paced") {
            for (key, pause) in paced::PAUSES {
                let cost = paced::cost(self, &getattr, *pause)?;
                say(&format!("paced-{key}.cpu"), micros(cost));
            }
        }
        if self.wants("idle") {
            say("idle.cpu", paced::idle(self.pid)?);
        }
        Ok(())
    }

    fn wants(&self, key: &str) -> bool {
        self.wanted.split(',').any(|part| key.contains(part))
    }

    /// LOOKUP, which counts once.
    pub(crate) fn node(&mut self, parent: u64, name: &str) -> Result<u64> {
        let answer = self.guest.ask(&fuse::lookup(parent, name))?;
        Ok(fuse::number(&answer, 0))
    }

    /// A request that can be repeated as it is: one at a time, and sixteen.
    fn metadata(&mut self, key: &str, request: &Request) -> Result<()> {
        if let Some(one) = self.ask_again(key, request)? {
            say(&format!("{key}.1"), micros(one.median));
            say(&format!("{key}.cpu"), micros(one.each()));
            let many = self.keep_full(|_| request.clone())?;
            say(&format!("{key}.16"), many.rate() / 1e3);
            say(&format!("{key}.16.cpu"), micros(many.each()));
        }
        Ok(())
    }

    fn data(&mut self, key: &str, size: usize, request: impl Fn(usize) -> Request) -> Result<()> {
        let Some(one) = self.ask_again(key, &request(0))? else {
            return Ok(());
        };
        say(&format!("{key}.1"), micros(one.median));
        let many = self.keep_full(|slot| request(slot * size))?;
        if size < 64 * KIB {
            say(&format!("{key}.16"), many.rate() / 1e3);
            say(&format!("{key}.16.cpu"), micros(many.each()));
        } else {
            let gigabyte = 1e9 / size as f64;
            say(&format!("{key}.16"), many.rate() / gigabyte);
            say(
                &format!("{key}.16.cpu"),
                many.each().as_secs_f64() * gigabyte,
            );
        }
        Ok(())
    }

    /// The same request again and again, one at a time. None where the row is not wanted.
    fn ask_again(&mut self, key: &str, request: &Request) -> Result<Option<Measured>> {
        if !self.wants(key) {
            return Ok(None);
        }
        self.guest.put(0, request)?;
        self.one_at_a_time(|bench, _| {
            bench.guest.offer(0)?;
            bench.guest.tell()?;
            bench.guest.take()?;
            bench.guest.check(0, request)
        })
        .with_context(|| key.to_owned())
        .map(Some)
    }

    /// Runs an operation until time is up.
    fn one_at_a_time(
        &mut self,
        mut operation: impl FnMut(&mut Self, usize) -> Result<()>,
    ) -> Result<Measured> {
        for turn in 0..ROUND {
            operation(self, turn)?;
        }
        let mut times = Vec::new();
        let (begin, before) = (now(), spent(self.pid)?);
        while begin.elapsed() < self.time {
            for _ in 0..ROUND {
                let begin = now();
                operation(self, ROUND + times.len())?;
                times.push(begin.elapsed());
            }
            // Nobody waits for it, but its processor time is the operation's: the kernel counts that of a thread that
            // does not sleep at its ticks only, which are too coarse to take it out.
            self.forget()?;
        }
        let whole = begin.elapsed();
        let processor = spent(self.pid)?.saturating_sub(before);
        Ok(Measured {
            operations: times.len(),
            median: median(&mut times),
            whole,
            processor,
        })
    }

    /// Sixteen requests under way until time is up.
    fn keep_full(&mut self, request: impl Fn(usize) -> Request) -> Result<Measured> {
        let requests: Vec<Request> = (0..usize::from(SLOTS)).map(request).collect();
        for (slot, request) in (0..SLOTS).zip(&requests) {
            self.guest.put(slot, request)?;
            self.guest.offer(slot)?;
        }
        self.guest.tell()?;
        let (begin, before) = (now(), spent(self.pid)?);
        let mut operations = 0;
        while begin.elapsed() < self.time {
            for _ in 0..ROUND {
                // All that are there, then one word for them.
                loop {
                    let slot = self.guest.take()?;
                    let request = requests.get(usize::from(slot)).context("no such slot")?;
                    self.guest.check(slot, request)?;
                    self.guest.offer(slot)?;
                    operations += 1;
                    if !self.guest.is_there()? {
                        break;
                    }
                }
                self.guest.tell()?;
            }
        }
        let (whole, processor) = (begin.elapsed(), spent(self.pid)?.saturating_sub(before));
        for _ in 0..SLOTS {
            self.guest.take()?;
        }
        Ok(Measured {
            median: Duration::ZERO,
            operations,
            whole,
            processor,
        })
    }

    fn forget(&mut self) -> Result<()> {
        for nodes in self.told.chunks(128) {
            self.guest.ask(&fuse::batch_forget(nodes))?;
        }
        self.told.clear();
        Ok(())
    }

    /// A tree that the daemon has not seen yet, by LOOKUP of each name.
    fn walk(&mut self) -> Result<()> {
        if !self.wants("walk") {
            return Ok(());
        }
        let tree = self.node(ROOT, "walk")?;
        let begin = now();
        for folder in 0..WALK.0 {
            let folder = self.node(tree, &format!("d{folder}"))?;
            self.told.push((folder, 1));
            for name in 0..WALK.1 {
                let file = self.node(folder, &format!("file-{name}"))?;
                self.told.push((file, 1));
            }
        }
        say(
            "walk",
            self.told.len() as f64 / begin.elapsed().as_secs_f64() / 1e3,
        );
        self.forget()
    }

    fn listing(&mut self, key: &str, plus: bool) -> Result<()> {
        if !self.wants(key) {
            return Ok(());
        }
        let folder = self.node(ROOT, "listed")?;
        let (mut entries, mut taken) = (0, Duration::ZERO);
        let begin = now();
        while begin.elapsed() < self.time {
            let start = now();
            let handle = fuse::number(&self.guest.ask(&fuse::opendir(folder))?, 0);
            let mut from = 0;
            for _ in 0..=LISTED {
                let request = fuse::readdir(plus, folder, handle, from);
                let answer = self.guest.ask(&request)?;
                let found = fuse::entries(&answer, plus);
                let Some(&(_, behind)) = found.last() else {
                    break;
                };
                from = behind;
                entries += found.len();
                let nodes = found.iter().filter(|(node, _)| *node != 0);
                self.told.extend(nodes.map(|(node, _)| (*node, 1)));
            }
            self.guest.ask(&fuse::releasedir(folder, handle))?;
            taken += start.elapsed();
            self.forget()?;
        }
        anyhow::ensure!(entries >= LISTED, "only {entries} entries were listed");
        say(
            key,
            f64::from(u32::try_from(entries)?) / taken.as_secs_f64() / 1e3,
        );
        Ok(())
    }

    /// What programs do with names: each operation is several requests.
    fn names(&mut self, small: u64, work: u64) -> Result<()> {
        self.sequence("open", |bench, _| {
            let handle = bench.open(small)?;
            bench.guest.ask(&fuse::release(small, handle)).map(drop)
        })?;
        self.sequence("open-read", |bench, _| {
            let handle = bench.open(small)?;
            bench.guest.ask(&fuse::read(small, handle, 0, 4 * KIB))?;
            bench.guest.ask(&fuse::flush(small, handle))?;
            bench.guest.ask(&fuse::release(small, handle)).map(drop)
        })?;
        self.sequence("create", |bench, _| {
            let (node, handle) = bench.create(work, "new")?;
            bench.guest.ask(&fuse::release(node, handle))?;
            bench.guest.ask(&fuse::unlink(work, "new")).map(drop)
        })?;
        self.sequence("untar", |bench, turn| {
            let name = format!("untarred-{turn}");
            let (node, handle) = bench.create(work, &name)?;
            bench.guest.ask(&fuse::write(node, handle, 0, 4 * KIB))?;
            bench.guest.ask(&fuse::flush(node, handle))?;
            bench.guest.ask(&fuse::set_time(node))?;
            bench.guest.ask(&fuse::release(node, handle)).map(drop)
        })?;
        self.sequence("mkdir", |bench, _| {
            let made = bench.guest.ask(&fuse::mkdir(work, "folder"))?;
            bench.told.push((fuse::number(&made, 0), 1));
            bench.guest.ask(&fuse::rmdir(work, "folder")).map(drop)
        })?;
        let (node, handle) = self.create(work, "name-0")?;
        self.guest.ask(&fuse::release(node, handle))?;
        self.sequence("rename", |bench, turn| {
            let [old, new] = [turn % 2, (turn + 1) % 2].map(|name| format!("name-{name}"));
            bench.guest.ask(&fuse::rename(work, &old, &new)).map(drop)
        })
    }

    fn sequence(
        &mut self,
        key: &str,
        operation: impl FnMut(&mut Self, usize) -> Result<()>,
    ) -> Result<()> {
        if self.wants(key) {
            let measured = self
                .one_at_a_time(operation)
                .with_context(|| key.to_owned())?;
            say(&format!("{key}.1"), micros(measured.median));
            say(&format!("{key}.cpu"), micros(measured.each()));
        }
        Ok(())
    }

    fn open(&mut self, node: u64) -> Result<u64> {
        Ok(fuse::number(&self.guest.ask(&fuse::open(node))?, 0))
    }

    fn create(&mut self, parent: u64, name: &str) -> Result<(u64, u64)> {
        let made = self.guest.ask(&fuse::create(parent, name))?;
        let node = fuse::number(&made, 0);
        self.told.push((node, 1));
        Ok((node, fuse::number(&made, 128)))
    }
}

impl Measured {
    /// Operations a second.
    pub(crate) fn rate(&self) -> f64 {
        self.operations as f64 / self.whole.as_secs_f64()
    }

    /// Processor time of the daemon for one operation.
    pub(crate) fn each(&self) -> Duration {
        self.processor / u32::try_from(self.operations.max(1)).unwrap_or(u32::MAX)
    }
}

pub(crate) fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

#[expect(
    clippy::print_stdout,
    reason = "the figures are what this program is for"
)]
pub(crate) fn say(row: &str, value: f64) {
    println!("{{\"row\": \"{row}\", \"value\": {value}}}");
}
