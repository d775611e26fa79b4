//! The daemons that are measured, each started on an empty folder in memory as the same ordinary user.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use tests::daemons::World;
use tests::suites::VIRTIOFSD;
use tests::user::User;
use tests::{limit, place, programs};

use crate::bench::bed::Running;

/// Memory that is a file system on every Linux.
const MEMORY: &str = "/dev/shm";
const START_LIMIT: Duration = Duration::from_secs(15);

/// One column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Daemon {
    /// virtiofsd with its default options and extended attributes, which ours has always.
    Virtiofsd,
    /// Our own.
    Sharefs,
}

/// A daemon at work; it stops and its folder goes when this is dropped.
#[derive(Debug)]
pub(super) struct Serving {
    daemon: Running,
    socket: PathBuf,
    folder: Folder,
    log: PathBuf,
    _world: Option<World>,
}

#[derive(Debug)]
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        // Nobody else uses it; what is left is small and in memory.
        drop(std::fs::remove_dir_all(&self.0));
    }
}

impl Daemon {
    pub(super) const ALL: [Self; 2] = [Self::Virtiofsd, Self::Sharefs];

    /// The head of its column.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Virtiofsd => "virtiofsd",
            Self::Sharefs => "sharectl",
        }
    }

    /// Builds it or fetches it.
    ///
    /// # Errors
    /// When that fails.
    pub(super) fn install(self) -> Result<()> {
        match self {
            Self::Virtiofsd => VIRTIOFSD.installed().map(drop),
            Self::Sharefs => programs::prepare("release").map(drop),
        }
    }

    /// Starts it, on a processor that is not the driver's.
    ///
    /// # Errors
    /// When it is not ready in time, with what it said.
    pub(super) fn start(self) -> Result<Serving> {
        let user = User::unprivileged();
        let name = format!("sharectl-bench-{}", std::process::id());
        let folder = Folder(Path::new(MEMORY).join(name));
        std::fs::create_dir(&folder.0).with_context(|| format!("create {}", folder.0.display()))?;
        user.own(&folder.0)?;
        let log = place::staging()?.join(format!("{}.log", self.name()));
        let file = File::create(&log)?;
        let (world, socket, mut line) = match self {
            Self::Virtiofsd => virtiofsd(user, &folder.0)?,
            Self::Sharefs => sharefs(user, &folder.0)?,
        };
        let daemon = on_processor(Processor::First, || Running::start(&mut line, Some(file)))?;
        let mut serving = Serving {
            daemon,
            socket,
            folder,
            log,
            _world: world,
        };
        let ready = limit::wait_for("its socket", START_LIMIT, || {
            ensure!(serving.daemon.ended().is_none(), "it ended");
            Ok(serving.socket.exists().then_some(()))
        });
        ready.with_context(|| format!("{}\n{}", self.name(), serving.log()))?;
        Ok(serving)
    }
}

impl Serving {
    pub(super) fn socket(&self) -> &Path {
        &self.socket
    }

    /// The folder it shares.
    pub(super) fn folder(&self) -> &Path {
        &self.folder.0
    }

    /// The process whose work it is.
    pub(super) fn pid(&self) -> u32 {
        let started = self.daemon.id();
        tests::daemons::worker_of(started).unwrap_or(started)
    }

    /// What it said so far.
    pub(super) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

fn virtiofsd(user: User, folder: &Path) -> Result<(Option<World>, PathBuf, Command)> {
    let here = place::staging()?.join("virtiofsd");
    std::fs::create_dir_all(&here)?;
    user.own(&here)?;
    let (program, socket) = (here.join("virtiofsd"), here.join("fs.sock"));
    if !program.exists() {
        place::copy(&VIRTIOFSD.installed()?, &program)?;
    }
    drop(std::fs::remove_file(&socket));
    let mut line = user.command(program);
    line.arg("--socket-path")
        .arg(&socket)
        .arg("--shared-dir")
        .arg(folder)
        // Its namespaces cost nothing a request, and an ordinary user may not always make them.
        .args(["--sandbox", "none", "--xattr"]);
    Ok((None, socket, line))
}

fn sharefs(user: User, folder: &Path) -> Result<(Option<World>, PathBuf, Command)> {
    let config = format!(
        "[network.vmnet8]\ntype = \"nat\"\n\n[guest.bench]\n\n\
         [share.bench]\npath = \"{0}\"\nat = \"/mnt\"\nguest-owner = \"0:0\"\n",
        folder.display()
    );
    let world = World::of(user, &config)?;
    let socket = world.runtime().join("guest/bench/fs-bench.sock");
    let mut line = world.command(programs::folder()?.join("sharectl-sharefs"));
    // What a user's daemon logs, not what a test's does.
    line.env("SHARECTL_LOG", "info");
    Ok((Some(world), socket, line))
}

/// Which of the processors that we may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Processor {
    First,
    Last,
}

/// Does something, such as starting a program, on one processor.
///
/// # Errors
/// As `work`; or when the kernel refuses.
pub(super) fn on_processor<T>(which: Processor, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let all = sched_getaffinity(None).context("ask for our processors")?;
    let mut ours = (0..CpuSet::MAX_CPU).filter(|cpu| all.is_set(*cpu));
    let chosen = match which {
        Processor::First => ours.next(),
        Processor::Last => ours.next_back(),
    };
    let mut one = CpuSet::new();
    one.set(chosen.context("no processor")?);
    sched_setaffinity(None, &one).context("choose a processor")?;
    let done = work();
    sched_setaffinity(None, &all).context("take all processors again")?;
    done
}
