//! What is measured of 9P: keys as in rows.rs, with `9p-` before them.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::clock::{median, now, spent};
use crate::folder::{DATA as DATA_SIZE, LISTED};
use crate::guest::Wait;
use crate::ninep::{self, Connection, Frame, OVERHEAD, ROOT};
use crate::rows::{Measured, micros, say};

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;
const DEPTH: u16 = 16;
const ROUND: usize = 32;
// Fids beside the root's.
const KNOWN: u32 = 1;
const DATA: u32 = 2;
const WORK: u32 = 3;
const PASSING: u32 = 4;

/// See the module's head.
pub(crate) struct Bench {
    connection: Connection,
    pid: u32,
    time: Duration,
    wanted: String,
}

impl Bench {
    pub(crate) fn new(connection: Connection, pid: u32, time: Duration, wanted: &str) -> Self {
        let wanted = wanted.to_owned();
        Self {
            connection,
            pid,
            time,
            wanted,
        }
    }

    pub(crate) fn run(&mut self) -> Result<()> {
        for (fid, name) in [(KNOWN, "known"), (DATA, "data"), (WORK, "work")] {
            self.connection.ask(&ninep::walk(ROOT, fid, name))?;
        }
        self.connection.ask(&ninep::open(DATA, false))?;
        for (key, frame) in [
            ("9p-getattr", ninep::getattr(KNOWN)),
            ("9p-statfs", ninep::statfs(ROOT)),
            ("9p-setattr", ninep::set_time(KNOWN)),
            ("9p-walk-nothing", ninep::walk_nothing(ROOT, PASSING)),
            ("9p-read-4k", ninep::read(DATA, 0, 4 * KIB)),
            ("9p-write-4k", ninep::write(DATA, 0, &[7; 4 * KIB])),
            ("9p-read-32k", ninep::read(DATA, 0, 32 * KIB)),
            ("9p-write-32k", ninep::write(DATA, 0, &[7; 32 * KIB])),
        ] {
            self.repeated(key, &frame)?;
        }
        self.names()?;
        self.listing()?;
        self.bulk("9p-read-1m", |at, size| ninep::read(DATA, at, size))?;
        let data = vec![7; MIB];
        self.bulk("9p-write-1m", |at, size| {
            ninep::write(DATA, at, data.get(..size).unwrap_or_default())
        })?;
        self.connection.learn_by(Wait::Asleep);
        self.sequence("9p-asleep-getattr", |link, _| {
            link.ask(&ninep::getattr(KNOWN)).map(drop)
        })?;
        self.sequence("9p-asleep-read-4k", |link, _| {
            link.ask(&ninep::read(DATA, 0, 4 * KIB)).map(drop)
        })
    }

    fn wants(&self, key: &str) -> bool {
        self.wanted.split(',').any(|part| key.contains(part))
    }

    fn names(&mut self) -> Result<()> {
        self.sequence("9p-stat", |link, _| {
            link.ask(&ninep::walk(ROOT, PASSING, "known"))?;
            link.ask(&ninep::getattr(PASSING))?;
            link.ask(&ninep::clunk(PASSING)).map(drop)
        })?;
        self.sequence("9p-open", |link, _| {
            link.ask(&ninep::walk(KNOWN, PASSING, ""))?;
            link.ask(&ninep::open(PASSING, false))?;
            link.ask(&ninep::clunk(PASSING)).map(drop)
        })?;
        self.sequence("9p-create", |link, _| {
            link.ask(&ninep::walk(WORK, PASSING, ""))?;
            link.ask(&ninep::create(PASSING, "new"))?;
            link.ask(&ninep::clunk(PASSING))?;
            link.remove(WORK, "new", false)
        })?;
        let small = [7; 4 * KIB];
        self.sequence("9p-untar", |link, turn| {
            link.ask(&ninep::walk(WORK, PASSING, ""))?;
            link.ask(&ninep::create(PASSING, &format!("untarred-{turn}")))?;
            link.ask(&ninep::write(PASSING, 0, &small))?;
            link.ask(&ninep::set_time(PASSING))?;
            link.ask(&ninep::clunk(PASSING)).map(drop)
        })?;
        self.sequence("9p-mkdir", |link, _| {
            link.ask(&ninep::mkdir(WORK, "folder"))?;
            link.remove(WORK, "folder", true)
        })?;
        self.connection.ask(&ninep::walk(WORK, PASSING, ""))?;
        self.connection.ask(&ninep::create(PASSING, "name-0"))?;
        self.connection.ask(&ninep::clunk(PASSING))?;
        self.sequence("9p-rename", |link, turn| {
            let [old, new] = [turn % 2, (turn + 1) % 2].map(|name| format!("name-{name}"));
            link.rename(WORK, &old, &new)
        })
    }

    /// A frame that can be repeated as it is: one at a time, and sixteen.
    fn repeated(&mut self, key: &str, frame: &Frame) -> Result<()> {
        if !self.wants(key) {
            return Ok(());
        }
        self.sequence(key, |link, _| link.ask(frame).map(drop))?;
        let many = self.keep_full(std::slice::from_ref(frame))?;
        say(&format!("{key}.16"), many.rate() / 1e3);
        say(&format!("{key}.16.cpu"), micros(many.each()));
        Ok(())
    }

    /// A MiB after the other, in pieces as large as was agreed: how v9fs moves much.
    fn bulk(&mut self, key: &str, piece: impl Fn(usize, usize) -> Frame) -> Result<()> {
        if !self.wants(key) {
            return Ok(());
        }
        // Whole pages, as kernels ask.
        let size = (self.connection.longest - OVERHEAD).min(MIB) / 4096 * 4096;
        ensure!(size > 0, "frames of {} bytes", self.connection.longest);
        let pieces = |bytes: usize| -> Vec<Frame> {
            let starts = (0..bytes).step_by(size);
            starts.map(|at| piece(at, size.min(bytes - at))).collect()
        };
        let once = pieces(MIB);
        self.sequence(key, |link, _| {
            once.iter().try_for_each(|frame| link.ask(frame).map(drop))
        })?;
        // Both daemons are given the same bytes of the file, whatever the size of a piece: a MiB, which the processor's own
        // caches hold, and all of it, which they do not.
        for (key, bytes) in [
            (format!("{key}.16.near"), MIB),
            (format!("{key}.16"), DATA_SIZE),
        ] {
            let turns = pieces(bytes);
            let many = self.keep_full(&turns)?;
            let gigabyte = 1e9 * turns.len() as f64 / bytes as f64;
            say(&key, many.rate() / gigabyte);
            say(&format!("{key}.cpu"), many.each().as_secs_f64() * gigabyte);
        }
        Ok(())
    }

    fn sequence(
        &mut self,
        key: &str,
        mut operation: impl FnMut(&mut Connection, usize) -> Result<()>,
    ) -> Result<()> {
        if !self.wants(key) {
            return Ok(());
        }
        for turn in 0..ROUND {
            operation(&mut self.connection, turn).with_context(|| key.to_owned())?;
        }
        let mut times = Vec::new();
        let (begin, before) = (now(), spent(self.pid)?);
        while begin.elapsed() < self.time {
            for _ in 0..ROUND {
                let begin = now();
                operation(&mut self.connection, ROUND + times.len())
                    .with_context(|| key.to_owned())?;
                times.push(begin.elapsed());
            }
        }
        let measured = Measured {
            operations: times.len(),
            median: median(&mut times),
            whole: begin.elapsed(),
            processor: spent(self.pid)?.saturating_sub(before),
        };
        say(&format!("{key}.1"), micros(measured.median));
        say(&format!("{key}.cpu"), micros(measured.each()));
        Ok(())
    }

    /// Sixteen under way until time is up: these in turn, again and again.
    fn keep_full(&mut self, frames: &[Frame]) -> Result<Measured> {
        let mut turns = frames.iter().cycle();
        let mut asked: Vec<&Frame> = turns.by_ref().take(usize::from(DEPTH)).collect();
        let all: Vec<(u16, &Frame)> = (0..DEPTH).zip(asked.iter().copied()).collect();
        self.connection.send(&all)?;
        let (begin, before) = (now(), spent(self.pid)?);
        let mut operations = 0;
        while begin.elapsed() < self.time {
            // All answers that came at once, then as many frames.
            let mut next = Vec::new();
            loop {
                let (tag, answer) = self.connection.receive()?;
                let slot = asked.get_mut(usize::from(tag)).context("no such tag")?;
                ninep::check(slot, answer)?;
                *slot = turns.next().context("nothing to ask")?;
                next.push((tag, *slot));
                if !self.connection.is_there() {
                    break;
                }
            }
            operations += next.len();
            self.connection.send(&next)?;
        }
        let (whole, processor) = (begin.elapsed(), spent(self.pid)?.saturating_sub(before));
        for _ in 0..DEPTH {
            self.connection.receive()?;
        }
        Ok(Measured {
            median: Duration::ZERO,
            operations,
            whole,
            processor,
        })
    }

    fn listing(&mut self) -> Result<()> {
        const KEY: &str = "9p-readdir";
        if !self.wants(KEY) {
            return Ok(());
        }
        let room = u32::try_from(self.connection.longest - OVERHEAD)?;
        let (mut listed, mut taken) = (0, Duration::ZERO);
        let begin = now();
        while begin.elapsed() < self.time {
            let start = now();
            self.connection.ask(&ninep::walk(ROOT, PASSING, "listed"))?;
            self.connection.ask(&ninep::open(PASSING, true))?;
            let (mut all, mut from) = (0, 0);
            for _ in 0..=LISTED {
                let body = self.connection.ask(&ninep::readdir(PASSING, from, room))?;
                let (count, behind) = ninep::entries(body)?;
                if count == 0 {
                    break;
                }
                (all, from) = (all + count, behind);
            }
            self.connection.ask(&ninep::clunk(PASSING))?;
            taken += start.elapsed();
            ensure!(all >= LISTED, "only {all} entries were listed");
            listed += all;
        }
        let listed = f64::from(u32::try_from(listed)?);
        say(KEY, listed / taken.as_secs_f64() / 1e3);
        Ok(())
    }
}
