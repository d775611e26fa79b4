//! Folders of guests on the host: one thread for each keeps it mounted while the guest's server is there.
//!
//! The thread connects through netd (a unix socket that leads to the guest's TCP port), attaches, has the helper mount,
//! and waits. When the guest goes, whoever waits for it gets ENOTCONN and the folder is unmounted; when it comes
//! back, it is mounted anew. What the protocol says is in remote/, what the kernel asks in serve/mount.rs.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use control::api::{Changes, GuestMountStatus};
use control::config::{Config, GuestMount, MountUsers};
use control::events::{EventBody, EventLog};
use control::names::GuestName;
use control::paths::Paths;

use crate::fuse::cache::Cache;
use crate::fuse::counters::Counters;
use crate::fuse::session::{Serve, Session};
use crate::keep::mount as kept;
use crate::mounter::{Judge, MountAsk, Mounter, Place};
use crate::mounts::is_listed;
use crate::ninep::client::Swap;
use crate::remote::line::Limits;
use crate::remote::{self, Connection, Refused, Wanted, now};
use crate::serve::mount::HostMount;
use crate::serve::vsock;
use crate::tree::host::crossing::OwnMount;
use crate::tree::read_only::ReadOnly;

/// How soon a guest that is away is tried again, at first and at last. Trying is one connect(2).
const FIRST_RETRY: Duration = Duration::from_millis(100);
const LAST_RETRY: Duration = Duration::from_secs(2);
/// And one that is there and says no, or a mount point that will not do.
const REFUSED_RETRY: Duration = Duration::from_secs(15);
/// So long a reload waits for what becomes of new mounts.
const FIRST_OUTCOME: Duration = Duration::from_secs(3);

/// All of them, by where they are to be.
pub(crate) struct GuestMounts {
    mounter: Arc<Mounter>,
    events: EventLog,
    paths: Paths,
    keepers: BTreeMap<PathBuf, Keeper>,
}

/// One, and the thread that keeps it.
struct Keeper {
    job: Arc<Job>,
    thread: Option<JoinHandle<()>>,
}

/// How the guest's port is reached.
enum Way {
    /// netd's socket for it.
    Netd(PathBuf),
    /// The VMM's socket for the vsock device.
    Vsock(PathBuf),
}

/// What the thread has to do.
struct Job {
    guest: GuestName,
    wanted: GuestMount,
    /// Folders of all shares.
    folders: Vec<PathBuf>,
    way: Way,
    mounter: Arc<Mounter>,
    events: EventLog,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    stage: Stage,
    /// It shall end.
    stopping: bool,
    /// The connection to a server whose first answers are awaited, to end that wait by.
    greeting: Option<UnixStream>,
    /// The guest's server is gone, with the reason.
    lost: Option<String>,
    /// The kernel has ended the mount.
    over: bool,
    /// Of connections that have ended.
    requests: u64,
}

#[derive(Default)]
enum Stage {
    /// Not tried yet.
    #[default]
    New,
    Mounted(Live),
    /// The guest, or its server, is not there.
    Away(String),
    /// It is there, and something else is wrong.
    Failed(String),
    /// Somebody unmounted it, and is believed until the next reload.
    Unmounted,
}

/// A mount that is there. Fields are dropped in this order: who waits for the guest is told first.
struct Live {
    connection: Connection,
    served: HostMount,
    place: Place,
    /// No tree steps onto it.
    _own: OwnMount,
}

impl GuestMounts {
    pub(crate) fn new(mounter: Arc<Mounter>, events: EventLog, paths: Paths) -> Self {
        Self {
            mounter,
            events,
            paths,
            keepers: BTreeMap::new(),
        }
    }

    /// Unmounts what is no longer wanted, or not so; before anything new is served.
    pub(crate) fn close_unwanted(&mut self, config: &Config, changes: &mut Changes) {
        let stays = |keeper: &Keeper| {
            let job = &keeper.job;
            let guest = config.guests.get(&job.guest);
            let wanted = guest.is_some_and(|guest| {
                let vsock = match &job.way {
                    Way::Vsock(socket) => Some(socket),
                    Way::Netd(_) => None,
                };
                guest.mounts.contains(&job.wanted) && guest.vsock.as_ref() == vsock
            });
            wanted && !matches!(job.state().stage, Stage::Unmounted | Stage::Failed(_))
        };
        let gone: Vec<PathBuf> = self
            .keepers
            .iter()
            .filter(|(_, keeper)| !stays(keeper))
            .map(|(path, _)| path.clone())
            .collect();
        for path in gone {
            let Some(keeper) = self.keepers.remove(&path) else {
                continue;
            };
            let guest = keeper.job.guest.clone();
            let was_mounted = matches!(keeper.job.state().stage, Stage::Mounted(_));
            drop(keeper);
            if was_mounted {
                let path = path.display();
                changes
                    .changes
                    .push(format!("guest {guest}: unmounted from {path}"));
            }
        }
    }

    /// Mounts what is wanted and not there yet.
    pub(crate) fn apply(&mut self, config: &Config, changes: &mut Changes) {
        let folders: Vec<PathBuf> = config
            .shares
            .values()
            .map(|share| share.path.clone())
            .collect();
        let mut new = Vec::new();
        for guest in config.guests.values() {
            for wanted in &guest.mounts {
                if self.keepers.contains_key(&wanted.at) {
                    continue;
                }
                let job = Arc::new(Job {
                    guest: guest.name.clone(),
                    wanted: wanted.clone(),
                    folders: folders.clone(),
                    way: match &guest.vsock {
                        Some(socket) => Way::Vsock(socket.clone()),
                        None => Way::Netd(self.paths.guest_port_socket(&guest.name, wanted.port)),
                    },
                    mounter: Arc::clone(&self.mounter),
                    events: self.events.clone(),
                    state: Mutex::default(),
                    changed: Condvar::new(),
                });
                let inner = Arc::clone(&job);
                let thread = std::thread::Builder::new()
                    .name("guest-mount".to_owned())
                    .spawn(move || inner.keep());
                let thread = thread
                    .inspect_err(|error| {
                        job.state().stage = Stage::Failed(format!("no thread for it: {error}"));
                    })
                    .ok();
                new.push(Arc::clone(&job));
                self.keepers
                    .insert(wanted.at.clone(), Keeper { job, thread });
            }
        }
        let until = now() + FIRST_OUTCOME;
        for job in new {
            let state = job.first_outcome(until);
            if let Stage::Mounted(live) = &state.stage {
                let path = live.place.path.display();
                changes
                    .changes
                    .push(format!("guest {}: mounted at {path}", job.guest));
            }
        }
        changes.problems.extend(self.problems());
    }

    /// What is wrong now, a sentence each. A guest that is not there is not wrong.
    pub(crate) fn problems(&self) -> Vec<String> {
        let problem = |keeper: &Keeper| {
            let status = keeper.job.status();
            let problem = status.problem.filter(|_| !status.away)?;
            let (guest, at) = (status.guest, status.mount.at);
            Some(format!(
                "guest {guest} is not mounted at {}: {problem}",
                at.display()
            ))
        };
        self.keepers.values().filter_map(problem).collect()
    }

    pub(crate) fn status(&self) -> Vec<GuestMountStatus> {
        let keepers = self.keepers.values();
        keepers.map(|keeper| keeper.job.status()).collect()
    }

    /// Numbers for /metrics: guest, place, requests, fids.
    pub(crate) fn numbers(&self) -> Vec<(String, String, u64, u64)> {
        let numbers = |keeper: &Keeper| {
            let job = &keeper.job;
            let state = job.state();
            let (requests, fids) = match &state.stage {
                Stage::Mounted(live) => (live.connection.requests(), live.connection.fids()),
                Stage::New | Stage::Away(_) | Stage::Failed(_) | Stage::Unmounted => (0, 0),
            };
            let at = job.wanted.at.display().to_string();
            let requests = state.requests + requests;
            (job.guest.to_string(), at, requests, fids as u64)
        };
        self.keepers.values().map(numbers).collect()
    }

    /// Unmounts all.
    pub(crate) fn close(&mut self) {
        // All are told first, so that they end together.
        for keeper in self.keepers.values() {
            keeper.job.stop();
        }
        self.keepers.clear();
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.job.stop();
        if let Some(thread) = self.thread.take() {
            let ended: std::thread::Result<()> = thread.join();
            debug_assert!(ended.is_ok());
        }
    }
}

impl Job {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stop(&self) {
        let mut state = self.state();
        state.stopping = true;
        // A guest shall not hold up who waits for this with answers just in time.
        if let Some(connection) = state.greeting.take() {
            connection.shutdown(std::net::Shutdown::Both).ok();
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Has `stop` end what is awaited on this connection; false: it was called already.
    fn greets_by(&self, socket: &UnixStream) -> bool {
        let mut state = self.state();
        state.greeting = socket.try_clone().ok();
        !state.stopping
    }

    /// The state once anything has come of it, or as it is at `until`.
    fn first_outcome(&self, until: Instant) -> MutexGuard<'_, State> {
        let mut state = self.state();
        while matches!(state.stage, Stage::New) {
            let left = until.saturating_duration_since(now());
            if left.is_zero() {
                break;
            }
            let waited = self.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        state
    }

    fn status(&self) -> GuestMountStatus {
        let state = self.state();
        let (mounted, away, problem) = match &state.stage {
            Stage::New => (false, true, Some("it is being tried".to_owned())),
            Stage::Mounted(live) if is_listed(&live.place, &live.served) => (true, false, None),
            Stage::Mounted(_) | Stage::Unmounted => (false, false, Some(self.by_hand())),
            Stage::Away(problem) => (false, true, Some(problem.clone())),
            Stage::Failed(problem) => (false, false, Some(problem.clone())),
        };
        let live = match &state.stage {
            Stage::Mounted(live) => live.connection.requests(),
            Stage::New | Stage::Away(_) | Stage::Failed(_) | Stage::Unmounted => 0,
        };
        GuestMountStatus {
            guest: self.guest.clone(),
            mount: self.wanted.clone(),
            mounted,
            problem,
            away,
            requests: state.requests + live,
        }
    }

    fn by_hand(&self) -> String {
        format!(
            "somebody unmounted it: {} {}",
            self.again(),
            self.wanted.at.display()
        )
    }

    /// The command that mounts it, without the path.
    fn again(&self) -> String {
        let path = self.wanted.path.display();
        format!("sharectl guest mount {}:{path}", self.guest)
    }

    /// The thread: until told to stop.
    fn keep(self: &Arc<Self>) {
        let mut pause = FIRST_RETRY;
        loop {
            {
                let mut state = self.state();
                (state.lost, state.over) = (None, false);
            }
            let (stage, wait) = match self.mount() {
                Ok(live) => {
                    let reason = self.hold(live);
                    pause = FIRST_RETRY;
                    match reason {
                        End::Stopped => return,
                        End::ByHand => (Stage::Unmounted, None),
                        End::Lost(reason) => (Stage::Away(reason), Some(pause)),
                    }
                }
                Err(Refused::Away(problem)) => {
                    pause = (pause * 2).min(LAST_RETRY);
                    (Stage::Away(problem), Some(pause))
                }
                Err(Refused::No(problem)) => {
                    tracing::warn!(guest = %self.guest, problem, "not mounted on the host");
                    (Stage::Failed(problem), Some(REFUSED_RETRY))
                }
            };
            let mut state = self.state();
            state.stage = stage;
            self.changed.notify_all();
            let until = wait.map(|wait| now() + wait);
            loop {
                if state.stopping {
                    return;
                }
                let left = until.map(|until| until.saturating_duration_since(now()));
                match left {
                    Some(left) if left.is_zero() => break,
                    Some(left) => {
                        let waited = self.changed.wait_timeout(state, left);
                        state = waited.unwrap_or_else(PoisonError::into_inner).0;
                    }
                    None => {
                        let waited = self.changed.wait(state);
                        state = waited.unwrap_or_else(PoisonError::into_inner);
                    }
                }
            }
        }
    }

    /// Keeps it as it is until something ends it, and unmounts.
    fn hold(&self, live: Live) -> End {
        let path = live.place.path.clone();
        tracing::info!(guest = %self.guest, path = %path.display(), "mounted on the host");
        self.events.publish(EventBody::GuestMounted {
            guest: self.guest.clone(),
            path: path.clone(),
        });
        let mut state = self.state();
        state.stage = Stage::Mounted(live);
        self.changed.notify_all();
        let end = loop {
            if let Some(reason) = state.lost.take() {
                break End::Lost(reason);
            }
            if state.over {
                break End::ByHand;
            }
            if state.stopping {
                break End::Stopped;
            }
            let waited = self.changed.wait(state);
            state = waited.unwrap_or_else(PoisonError::into_inner);
        };
        // Told from this moment on: unmounting takes its time.
        let stage = match &end {
            End::Stopped => Stage::Away("it is not wanted any more".to_owned()),
            End::ByHand => Stage::Unmounted,
            End::Lost(reason) => Stage::Away(reason.clone()),
        };
        let Stage::Mounted(live) = std::mem::replace(&mut state.stage, stage) else {
            return end;
        };
        state.requests += live.connection.requests();
        drop(state);
        live.served.expect_end();
        // What waits for the guest ends now, so that nothing of it keeps the helper.
        if !matches!(end, End::Stopped) {
            live.connection.close();
        }
        if let Err(refusal) = self.mounter.unmount(&live.place) {
            tracing::warn!(guest = %self.guest, %refusal, "not unmounted");
        }
        drop(live);
        let reason = match &end {
            End::Stopped => "the configuration no longer has it so, or sharefs stops".to_owned(),
            End::ByHand => "somebody unmounted it".to_owned(),
            End::Lost(reason) => reason.clone(),
        };
        tracing::info!(guest = %self.guest, reason, "no longer mounted on the host");
        self.events.publish(EventBody::GuestUnmounted {
            guest: self.guest.clone(),
            path,
            reason,
        });
        end
    }

    fn mount(self: &Arc<Self>) -> Result<Live, Refused> {
        let socket = self.connect()?;
        let (uid, gid) = self.wanted.owner;
        let wanted = Wanted {
            user: self.wanted.user.clone(),
            uid,
            export: self.wanted.export.clone(),
            below: self.wanted.below.clone(),
        };
        let swap = Swap {
            users: (uid, rustix::process::geteuid().as_raw()),
            groups: (gid, rustix::process::getegid().as_raw()),
        };
        let job = Arc::clone(self);
        let lost = Box::new(move |reason: &str| {
            job.state().lost = Some(reason.to_owned());
            job.changed.notify_all();
        });
        if !self.greets_by(&socket) {
            return Err(Refused::Away("it is not wanted any more".to_owned()));
        }
        let attached = remote::attach(socket, &wanted, swap, (Limits::default(), lost));
        self.state().greeting = None;
        let (tree, connection) = attached?;
        let counters = Arc::new(Counters::default());
        let session: Arc<dyn Serve> = if self.wanted.read_only {
            Arc::new(Session::new(
                Arc::new(ReadOnly(tree)),
                Cache::Auto,
                counters,
            ))
        } else {
            Arc::new(Session::new(Arc::new(tree), Cache::Auto, counters))
        };
        let ask = MountAsk {
            source: format!("guest:{}", self.guest),
            again: self.again(),
            path: self.wanted.at.clone(),
            users: MountUsers::Own,
            read_only: self.wanted.read_only,
            judge: Judge::Server,
            folders: self.folders.clone(),
        };
        let (place, device) = self
            .mounter
            .mount(ask)
            .map_err(|refusal| Refused::No(refusal.to_string()))?;
        let own = OwnMount::new(place.device);
        let job = Arc::clone(self);
        let ended = Box::new(move |reason: String| {
            tracing::info!(guest = %job.guest, reason, "the mount on the host has ended");
            job.state().over = true;
            job.changed.notify_all();
        });
        // It ends with this process, as its connection to the guest does.
        let served = kept::Mount::alone()
            .map_err(Into::into)
            .and_then(|memory| HostMount::serve(device, (memory, None), session, ended));
        match served {
            Ok(served) => Ok(Live {
                connection,
                served,
                place,
                _own: own,
            }),
            Err(error) => {
                self.mounter.unmount(&place).ok();
                Err(Refused::No(format!("cannot be served: {error}")))
            }
        }
    }

    fn connect(&self) -> Result<UnixStream, Refused> {
        let port = self.wanted.port;
        match &self.way {
            Way::Vsock(socket) => vsock::connect(socket, port).map_err(Refused::Away),
            Way::Netd(socket) => UnixStream::connect(socket).map_err(|error| {
                let kind = error.kind();
                Refused::Away(if kind == ErrorKind::NotFound {
                    format!(
                        "netd does not lead to the guest's TCP port {port}; sharectl up starts it"
                    )
                } else if kind == ErrorKind::ConnectionRefused {
                    format!(
                        "nothing serves TCP port {port} in the guest; there: apt-get install diod && {}",
                        server_line(port, &self.wanted.path)
                    )
                } else {
                    format!("cannot connect to {}: {error}", socket.display())
                })
            }),
        }
    }
}

/// What serves a folder in a guest, for whoever has no server yet. Without authentication: who is on the virtual
/// network gets in, so it is for its owner to write.
fn server_line(port: u16, path: &Path) -> String {
    format!("diod -f -n -l 0.0.0.0:{port} -e {}", path.display())
}

/// Why a mount ended.
enum End {
    Stopped,
    ByHand,
    Lost(String),
}
