//! The keeper: the process that was started, and stays.
//!
//! It has one thread and does nothing but wait: a worker that was killed is followed by the next, one that
//! ended by itself ends the keeper with its exit code. Signals for the daemon are passed on. SIGUSR1 is
//! the worker's word that it is ready, which a service manager takes from the main process only. SIGUSR2
//! makes it begin the program that is installed now in its own place: the process, its number and all
//! descriptors stay, the worker is followed by one of the new program. That program is asked before whether it
//! keeps state in the same way; one that does not is not begun, and the worker lives on.
//!
//! It hears no guest, so it keeps the rights it was started with, which the next worker gives up again. If
//! the keeper itself is killed, the worker is told to stop (PR_SET_PDEATHSIG): two halves of a daemon that
//! go on apart could not be stopped or replaced by anybody.

use std::collections::{BTreeSet, VecDeque};
use std::ffi::OsString;
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus};

use super::{KEEP, MAGIC, word};
use crate::sys::{self, Awaited, Shared, Side};
use crate::tree::host::descriptors::Descriptors;

/// The hidden option by which a program is told the number of the memory it takes over.
const OPTION: &str = "--kept";
/// And by which it says how it keeps state.
const LAYOUT_OPTION: &str = "--kept-layout";
/// So long it may take to say so.
const PATIENCE: Duration = Duration::from_secs(5);
/// Deaths that cost no pause while there were no more of them within `SOON`.
const FREE_DEATHS: usize = 10;
const SOON: Duration = Duration::from_secs(1);
/// Longer than that nobody waits for the next worker.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Runs `work` in a process that may be killed and is followed by another then. Returns in the worker
/// when `work` does, and in the keeper when the last worker has ended.
///
/// To be called first of all, while the process has one thread and has opened nothing.
///
/// `kept`: the memory's descriptor, from the program before us in this process (`OPTION`).
pub fn keep(kept: Option<RawFd>, work: impl FnOnce() -> ExitCode) -> ExitCode {
    let (root, inherited) = match begin(kept) {
        Ok(begun) => begun,
        Err(error) => {
            tracing::warn!(%error, "sharefs runs without a keeper: guests do not outlive a crash of it");
            return work();
        }
    };
    // As it was started: the program that is there when it is wanted may be another.
    let program = std::env::current_exe();
    let signals = Awaited::block(&[
        Signal::CHILD,
        Signal::TERM,
        Signal::INT,
        Signal::HUP,
        Signal::USR1,
        Signal::USR2,
    ]);
    let own = rustix::process::getpid();
    let mut deaths = Deaths::default();
    loop {
        let worker = match sys::clone_with_descriptors() {
            Ok(Side::Parent(worker)) => worker,
            Ok(Side::Child) => {
                signals.release();
                if let Err(error) = become_worker(own, root, &inherited) {
                    tracing::error!(%error, "sharefs cannot begin to serve");
                    return ExitCode::FAILURE;
                }
                return work();
            }
            Err(error) => {
                tracing::error!(%error, "sharefs cannot start its worker");
                return ExitCode::FAILURE;
            }
        };
        // What is listed under the program's name is the worker.
        rustix::thread::set_name(c"sharefs-keeper").ok();
        let may_follow = || match &program {
            Ok(program) => is_suited(program, &root),
            Err(error) => {
                tracing::error!(%error, "the program's own path is not known; it goes on as it is");
                refuse(&root, None);
                false
            }
        };
        match watch(worker, &signals, may_follow) {
            End::Exited(code) => return code,
            End::Killed(signal) => {
                tracing::warn!(
                    signal,
                    "sharefs was killed; guests wait until the next worker goes on"
                );
                root.words()[word::RESTARTS].fetch_add(1, Ordering::Relaxed);
            }
            End::Replaced => {
                root.words()[word::HANDOVERS].fetch_add(1, Ordering::Relaxed);
                root.words()[word::FAILURES].store(0, Ordering::Release);
                if let Ok(program) = &program {
                    let error = replace(program, &root);
                    tracing::error!(%error, "the new program cannot be started; the old one goes on");
                    root.words()[word::HANDOVERS].fetch_sub(1, Ordering::Relaxed);
                    root.words()[word::RESTARTS].fetch_add(1, Ordering::Relaxed);
                    let told = format!(
                        "{} could not be started in place of the sharefs that runs, which goes on: {error}",
                        program.display()
                    );
                    *not_begun_since() = Some(told);
                }
            }
        }
        deaths.pause();
    }
}

/// The memory, new or as the program before us left it, and the descriptors that are none of ours.
fn begin(kept: Option<RawFd>) -> Result<(Arc<Shared>, BTreeSet<RawFd>), Errno> {
    crate::confine::raise_descriptor_limit();
    // Descriptors that stay open must be within the limit of whoever looks through them.
    drop(Descriptors::of_process());
    if let Some(number) = kept {
        let left = adopt(number)?;
        let root = Shared::adopt(left, word::ALL)?;
        if root.words()[word::MAGIC].load(Ordering::Acquire) == MAGIC {
            return Ok((Arc::new(root), BTreeSet::new()));
        }
        tracing::warn!(
            "the program before this one kept its state in another way: guests must be restarted"
        );
    }
    let inherited = if kept.is_some() {
        BTreeSet::new()
    } else {
        open_descriptors()?
    };
    let root = Shared::create("sharefs", word::ALL)?;
    root.words()[word::MAGIC].store(MAGIC, Ordering::Release);
    Ok((Arc::new(root), inherited))
}

/// The number that `replace` left for us; EBADF if it is not open.
fn adopt(number: RawFd) -> Result<OwnedFd, Errno> {
    if number <= 2 || !open_descriptors()?.contains(&number) {
        return Err(Errno::BADF);
    }
    sys::set_inherited(number, false);
    Ok(sys::take_back(number))
}

fn become_worker(keeper: Pid, root: Arc<Shared>, inherited: &BTreeSet<RawFd>) -> Result<(), Errno> {
    rustix::thread::set_name(c"sharectl-sharefs")?;
    rustix::process::set_parent_process_death_signal(Some(Signal::TERM))?;
    if rustix::process::getppid() != Some(keeper) {
        return Err(Errno::SRCH);
    }
    super::enter(root, inherited)
}

enum End {
    Exited(ExitCode),
    /// By that signal.
    Killed(i32),
    /// To make room for another program.
    Replaced,
}

/// Until the worker has ended. `may_follow`: whether the program that is installed can go on with what there is.
fn watch(worker: Pid, signals: &Awaited, may_follow: impl Fn() -> bool) -> End {
    let mut replaced = false;
    loop {
        match signals.next() {
            Some(Signal::CHILD) => {
                let Some(ended) = ended(worker) else {
                    continue;
                };
                if let Some(code) = ended.exit_status() {
                    return End::Exited(
                        u8::try_from(code).map_or(ExitCode::FAILURE, ExitCode::from),
                    );
                }
                if replaced {
                    return End::Replaced;
                }
                return End::Killed(ended.terminating_signal().unwrap_or_default());
            }
            Some(Signal::USR1) => {
                if let Err(error) = control::notify::ready() {
                    tracing::warn!(%error, "the service manager could not be told that we are ready");
                }
            }
            Some(Signal::USR2) if !may_follow() => {}
            Some(Signal::USR2) => {
                // It may be killed at any instruction, so there is nothing it would have to be asked.
                replaced = true;
                rustix::process::kill_process(worker, Signal::KILL).ok();
            }
            Some(signal) => {
                rustix::process::kill_process(worker, signal).ok();
            }
            None => {}
        }
    }
}

fn ended(worker: Pid) -> Option<WaitStatus> {
    let (_, status) = rustix::process::waitpid(Some(worker), WaitOptions::NOHANG).ok()??;
    (status.exited() || status.signaled()).then_some(status)
}

/// Whether the program at that path keeps state as we do; told to the worker if not.
fn is_suited(program: &Path, root: &Shared) -> bool {
    let layout = layout_of(program);
    if let Err(error) = &layout {
        tracing::error!(%error, program = %program.display(), "it does not say how it keeps state");
    }
    let suited = matches!(layout, Ok(MAGIC));
    if !suited {
        tracing::error!(program = %program.display(), "it cannot go on with the state of guests, and is not begun");
        refuse(root, layout.ok());
    }
    suited
}

fn refuse(root: &Shared, layout: Option<u64>) {
    let words = root.words();
    words[word::UNSUITED_LAYOUT].store(layout.unwrap_or_default(), Ordering::Relaxed);
    words[word::UNSUITED].fetch_add(1, Ordering::Release);
}

/// What a program says that is not begun for anything else.
#[expect(
    clippy::disallowed_methods,
    reason = "the keeper's loop owns its clock, and has nothing else to do meanwhile"
)]
fn layout_of(program: &Path) -> std::io::Result<u64> {
    let mut asked = Command::new(program)
        .arg(LAYOUT_OPTION)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let deadline = Instant::now() + PATIENCE;
    while asked.try_wait()?.is_none() {
        if Instant::now() >= deadline {
            asked.kill()?;
            asked.wait()?;
            return Err(std::io::ErrorKind::TimedOut.into());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let said = asked.wait_with_output()?.stdout;
    let said = String::from_utf8_lossy(&said);
    u64::from_str_radix(said.trim(), 16).map_err(std::io::Error::other)
}

/// The program at that path in our place, with everything that is open. Returns only if it cannot be had.
fn replace(program: &PathBuf, root: &Shared) -> std::io::Error {
    let mut ours = match open_descriptors() {
        Ok(open) => open,
        Err(error) => return error.into(),
    };
    ours.retain(|number| !sys::is_inherited(*number));
    let inherit = |inherited| {
        let numbers = ours.iter();
        numbers.for_each(|number| sys::set_inherited(*number, inherited));
    };
    inherit(true);
    let mut arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    if let Some(at) = arguments.iter().position(|argument| argument == OPTION) {
        arguments.drain(at..(at + 2).min(arguments.len()));
    }
    let error = Command::new(program)
        .args(arguments)
        .arg(OPTION)
        .arg(root.number().to_string())
        .exec();
    // We go on, and what we start from now on is to have none of them. The try has undone this, too.
    inherit(false);
    sys::ignore_broken_pipes();
    error
}

/// The numbers of all open descriptors.
pub(super) fn open_descriptors() -> Result<BTreeSet<RawFd>, Errno> {
    let folder = std::fs::read_dir("/proc/self/fd")
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    let names = folder.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut open: BTreeSet<RawFd> = names.filter_map(|name| name.parse().ok()).collect();
    // The one that was open for looking is not any more.
    open.retain(|number| std::fs::symlink_metadata(format!("/proc/self/fd/{number}")).is_ok());
    Ok(open)
}

/// The latest deaths: a worker that cannot live does not keep a processor busy.
#[derive(Default)]
struct Deaths(VecDeque<Instant>);

impl Deaths {
    #[expect(
        clippy::disallowed_methods,
        reason = "the keeper's loop owns its clock, and has nothing else to do meanwhile"
    )]
    fn pause(&mut self) {
        let now = Instant::now();
        self.0.push_back(now);
        self.0.retain(|death| now.duration_since(*death) < SOON);
        let beyond = self.0.len().saturating_sub(FREE_DEATHS);
        let pause = Duration::from_millis(100) * u32::try_from(beyond).unwrap_or(u32::MAX);
        std::thread::sleep(pause.min(LONGEST_PAUSE));
    }
}

/// The worker is ready to serve.
///
/// # Errors
/// When the service manager, or the keeper that is to tell it, cannot be reached.
pub fn ready() -> std::io::Result<()> {
    match KEEP.get() {
        Some(keep) => Ok(rustix::process::kill_process(keep.keeper, Signal::USR1)?),
        None => control::notify::ready(),
    }
}

/// How many programs were not begun, and the layout of the last if it said one.
pub(crate) fn unsuited() -> (u64, Option<u64>) {
    KEEP.get().map_or((0, None), |keep| {
        let words = keep.root.words();
        let count = words[word::UNSUITED].load(Ordering::Acquire);
        let layout = words[word::UNSUITED_LAYOUT].load(Ordering::Relaxed);
        (count, (layout != 0).then_some(layout))
    })
}

/// Of a program that was to take our place, and could not. Each worker has the keeper's as it was when it was made; a
/// program that is begun has none.
static NOT_BEGUN: Mutex<Option<String>> = Mutex::new(None);

fn not_begun_since() -> MutexGuard<'static, Option<String>> {
    NOT_BEGUN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Why the program that was installed when the last hand-over was asked for does not run, in the user's words.
pub(crate) fn not_begun() -> Option<String> {
    not_begun_since().clone()
}

/// Has the program that is installed now take our place, if it can. ESRCH without a keeper.
pub(crate) fn make_room() -> Result<(), Errno> {
    let keep = KEEP.get().ok_or(Errno::SRCH)?;
    rustix::process::kill_process(keep.keeper, Signal::USR2)
}
