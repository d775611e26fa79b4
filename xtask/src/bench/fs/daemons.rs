//! The daemons that are measured, each started on an empty folder in memory as the same ordinary user.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use tests::daemons::World;
use tests::suites::{DIOD, VIRTIOFSD};
use tests::user::User;
use tests::{limit, packages, place, programs};

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
    /// diod at a unix socket, for its own user only.
    Diod,
    /// Ours by 9P.
    Ninep,
    /// Ours by virtiofs, with options of the share that lay a layer around it.
    Layered(Layer),
}

/// What a share can ask for besides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layer {
    None,
    Exclude,
    Windows,
    Insensitive,
    OwnerStore,
}

impl Layer {
    pub(super) const ALL: [Self; 5] = [
        Self::None,
        Self::Exclude,
        Self::Windows,
        Self::Insensitive,
        Self::OwnerStore,
    ];

    /// Lines of the share.
    fn options(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Exclude => "exclude = [\".git/objects/**\", \"node_modules\", \"*.secret\"]\n",
            Self::Windows => "names = \"windows\"\n",
            Self::Insensitive => "case = \"insensitive\"\n",
            Self::OwnerStore => "owner-store = \"xattr\"\n",
        }
    }
}

/// How a daemon is spoken to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Speech {
    Virtiofs,
    Ninep { share: String, user: u32 },
}

/// A daemon at work; it stops and its folder goes when this is dropped.
#[derive(Debug)]
pub(super) struct Serving {
    daemon: Running,
    socket: PathBuf,
    speech: Speech,
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
    /// The head of its column.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Virtiofsd => "virtiofsd",
            Self::Sharefs | Self::Ninep => "sharectl",
            Self::Diod => "diod",
            Self::Layered(Layer::None) => "plain",
            Self::Layered(Layer::Exclude) => "exclude",
            Self::Layered(Layer::Windows) => "names windows",
            Self::Layered(Layer::Insensitive) => "case insensitive",
            Self::Layered(Layer::OwnerStore) => "owner-store",
        }
    }

    /// Builds it or fetches it.
    ///
    /// # Errors
    /// When that fails.
    pub(super) fn install(self) -> Result<()> {
        match self {
            Self::Virtiofsd => VIRTIOFSD.installed().map(drop),
            Self::Diod => packages::ensure(&[DIOD]),
            Self::Sharefs | Self::Ninep | Self::Layered(_) => {
                programs::prepare("release").map(drop)
            }
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
        let mut speech = Speech::Virtiofs;
        let (world, socket, mut line) = match self {
            Self::Virtiofsd => virtiofsd(user, &folder.0)?,
            Self::Sharefs => sharefs(user, &folder.0, "")?,
            Self::Layered(layer) => sharefs(user, &folder.0, layer.options())?,
            Self::Diod => {
                speech = Speech::Ninep {
                    share: folder.0.display().to_string(),
                    user: user.uid,
                };
                diod(user, &folder.0)?
            }
            Self::Ninep => {
                speech = Speech::Ninep {
                    share: "bench".to_owned(),
                    user: 0,
                };
                let (world, socket, line) = sharefs(user, &folder.0, "ninep = true\n")?;
                (world, socket.with_file_name("9p.sock"), line)
            }
        };
        let daemon = on_processor(Processor::First, || Running::start(&mut line, Some(file)))?;
        let mut serving = Serving {
            daemon,
            socket,
            speech,
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

    /// What it expects there.
    pub(super) fn speech(&self) -> &Speech {
        &self.speech
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

fn diod(user: User, folder: &Path) -> Result<(Option<World>, PathBuf, Command)> {
    let here = place::staging()?.join("diod");
    std::fs::create_dir_all(&here)?;
    user.own(&here)?;
    let socket = here.join("diod.sock");
    drop(std::fs::remove_file(&socket));
    let program = packages::find(DIOD.program).context("diod is not installed")?;
    let mut line = user.command(program);
    line.args(["--foreground", "--no-auth", "--no-userdb"])
        .args(["--config-file", "/dev/null", "--logdest", "stderr"])
        .arg("--listen")
        .arg(&socket)
        .arg("--export")
        .arg(folder);
    Ok((None, socket, line))
}

fn sharefs(user: User, folder: &Path, more: &str) -> Result<(Option<World>, PathBuf, Command)> {
    let config = format!(
        "[network.vmnet8]\ntype = \"nat\"\n\n[guest.bench]\n\n\
         [share.bench]\npath = \"{0}\"\nat = \"/mnt\"\nguest-owner = \"0:0\"\n{more}",
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
