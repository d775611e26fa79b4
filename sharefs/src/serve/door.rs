//! A socket that one guest's VMM connects to for one share, for as long as the share is configured.
//!
//! One VMM at a time. When it goes, for whatever reason, the next is let in at once, with a session of
//! its own: nothing that one VMM did can keep the next from being served. Whatever a VMM sends ends its
//! own connection at most.

use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use rustix::event::{EventfdFlags, PollFd, PollFlags};
use rustix::fs::{Mode, OFlags};
use vhost::vhost_user::Listener;
use vhost_user_backend::{ShutdownHandle, VhostUserDaemon};
use vm_memory::{GuestMemoryAtomic, GuestMemoryMmap};
use vmm_sys_util::epoll::EventSet;

use super::relay::{self, Relay};
use super::virtiofs::{Device, Served, TIMER_EVENT};
use crate::fuse::session::Serve;
use crate::keep::device::Connection;
use crate::keep::{self, Listed, Place, TakingUp};
use crate::sys;

/// Makes the session of a new connection.
/// Told where it is left for a later process, and was left by an earlier one.
pub(crate) type MakeSession = Box<dyn Fn(Option<Place>) -> Arc<dyn Serve> + Send>;

/// A door that could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {path}: {source}")]
pub(crate) struct DoorError {
    path: PathBuf,
    source: io::Error,
}

impl DoorError {
    pub(super) fn new(path: &Path, source: io::Error) -> Self {
        Self {
            path: path.to_owned(),
            source,
        }
    }
}

/// What happened at the door, for whoever writes the log.
pub(crate) enum DoorEvent {
    Connected,
    /// With the reason, if the VMM did not just close the connection.
    Disconnected(Option<String>),
    /// A connection could not be served.
    Refused(String),
}

/// Called from the door's own thread.
pub(crate) type Notice = Box<dyn Fn(DoorEvent) + Send>;

/// Closed when dropped; a VMM that is connected loses its device.
pub(crate) struct Door {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    path: PathBuf,
    stopping: AtomicBool,
    wake: OwnedFd,
    connections: AtomicU64,
    current: Mutex<Option<Current>>,
}

struct Current {
    session: Arc<dyn Serve>,
    shutdown: Option<ShutdownHandle>,
}

impl Door {
    /// Listens at `path`, replacing a socket that was left there.
    pub(crate) fn open(
        path: &Path,
        make_session: MakeSession,
        notice: Notice,
    ) -> Result<Self, DoorError> {
        let failed = |source| DoorError::new(path, source);
        let wake = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        let listener =
            Listener::new(path, true).map_err(|error| failed(io::Error::other(error)))?;
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o600)).map_err(failed)?;
        let shared = Arc::new(Shared {
            path: path.to_owned(),
            stopping: AtomicBool::new(false),
            wake: wake.map_err(|error| failed(error.into()))?,
            connections: AtomicU64::new(0),
            current: Mutex::new(None),
        });
        let inner = Arc::clone(&shared);
        let left = Connection::left_at(path);
        let run = move || inner.run(listener, left, &make_session, &notice);
        let thread = std::thread::Builder::new()
            .name("door".to_owned())
            .spawn(run)
            .map_err(failed)?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// VMMs that have connected so far.
    pub(crate) fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// The session of the VMM that is connected now.
    pub(crate) fn session(&self) -> Option<Arc<dyn Serve>> {
        self.shared
            .current()
            .as_ref()
            .map(|current| Arc::clone(&current.session))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.shared.path
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::Release);
        // Full or not, the descriptor is readable then, which is all that is asked.
        rustix::io::write(&self.shared.wake, &1_u64.to_ne_bytes()).ok();
        if let Some(Current {
            shutdown: Some(shutdown),
            ..
        }) = &*self.shared.current()
        {
            shutdown.shutdown();
        }
        if let Some(thread) = self.thread.take() {
            let ended: std::thread::Result<()> = thread.join();
            debug_assert!(ended.is_ok());
        }
    }
}

impl Shared {
    fn current(&self) -> MutexGuard<'_, Option<Current>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(
        &self,
        mut listener: Listener,
        left: Option<Left>,
        make_session: &MakeSession,
        notice: &Notice,
    ) {
        if let Some((connection, listed, vmm, taking_up)) = left {
            let kept = (connection, listed, Begin::Again(taking_up));
            if let Err(reason) = self.serve_kept(vmm, kept, make_session, notice) {
                notice(DoorEvent::Refused(reason));
            }
        }
        // The listener's descriptor is borrowed for the poll only; its type has no safe loan of it.
        let mut failures = 0;
        while self.wait_for_visitor(&listener) {
            let served = if keep::is_on() {
                self.let_in(&listener, make_session, notice)
            } else {
                self.serve(&mut listener, make_session, notice)
            };
            match served {
                Ok(()) => failures = 0,
                Err(reason) => {
                    notice(DoorEvent::Refused(reason));
                    failures += 1;
                    if failures >= MOST_FAILURES && !self.pause() {
                        break;
                    }
                }
            }
        }
    }

    /// False: the door closes.
    fn wait_for_visitor(&self, listener: &Listener) -> bool {
        let Ok(visitors) = sys::borrow(listener) else {
            return false;
        };
        loop {
            let wake = PollFd::new(&self.wake, PollFlags::IN);
            let mut wanted = [
                PollFd::from_borrowed_fd(visitors.as_fd(), PollFlags::IN),
                wake,
            ];
            match rustix::event::poll(&mut wanted, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(_) => return false,
            }
            if self.stopping.load(Ordering::Acquire) {
                return false;
            }
            if wanted[0].revents().contains(PollFlags::IN) {
                return true;
            }
        }
    }

    /// Waits a little after several failures in a row (no descriptors, no memory for threads), so that
    /// a machine in trouble is not kept busy. False: the door closes.
    fn pause(&self) -> bool {
        let mut wake = [PollFd::new(&self.wake, PollFlags::IN)];
        let second = rustix::event::Timespec {
            tv_sec: 1,
            tv_nsec: 0,
        };
        rustix::event::poll(&mut wake, Some(&second)).ok();
        !self.stopping.load(Ordering::Acquire)
    }

    /// One VMM, from its connection to its end.
    fn serve(
        &self,
        listener: &mut Listener,
        make_session: &MakeSession,
        notice: &Notice,
    ) -> Result<(), String> {
        let session = make_session(None);
        let (device, mut daemon) = device(&session, None)?;
        daemon.start(listener).map_err(reason)?;
        self.begin(session, &daemon, notice);
        let ended = daemon.wait();
        self.end(ended, notice);
        farewell(device, daemon)
    }

    /// The same for a VMM whose connection outlives this process.
    fn let_in(
        &self,
        listener: &Listener,
        make_session: &MakeSession,
        notice: &Notice,
    ) -> Result<(), String> {
        let Some(vmm) = listener.accept().map_err(reason)? else {
            return Ok(());
        };
        let vmm = OwnedFd::from(vmm);
        let (connection, listed) = Connection::create(&self.path, vmm.as_raw_fd())
            .ok_or("there is no room to keep another connection")?;
        let kept = (connection, listed, Begin::New);
        self.serve_kept(vmm, kept, make_session, notice)
    }

    fn serve_kept(
        &self,
        vmm: OwnedFd,
        (connection, listed, begin): (Connection, Listed, Begin),
        make_session: &MakeSession,
        notice: &Notice,
    ) -> Result<(), String> {
        let session = make_session(Some(connection.session()));
        let (device, mut daemon) = device(&session, Some((connection.clone(), begin.served())))?;
        let own = self.start_behind_relay(&mut daemon).map_err(reason)?;
        self.begin(session, &daemon, notice);
        let relay = Relay {
            vmm: &vmm,
            device: &own,
            connection,
        };
        let set_up = match begin {
            Begin::New => Ok(()),
            Begin::Again(taking_up) => {
                let set_up = relay.set_up_again();
                drop(taking_up);
                set_up
            }
        };
        let passed = set_up.and_then(|()| relay.run());
        own.shutdown(Shutdown::Both).ok();
        let ended = daemon.wait();
        if let Err(error) = passed {
            tracing::debug!(%error, "a VMM's connection");
        }
        // From here on there is nothing to go on with.
        drop(listed);
        relay::close_all(&relay.connection);
        self.end(ended, notice);
        farewell(device, daemon)
    }

    /// Starts the device on a socket that only the other end of it, which is returned, reaches.
    fn start_behind_relay(&self, daemon: &mut Daemon) -> io::Result<UnixStream> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let folder = self.path.parent().unwrap_or_else(|| Path::new("/"));
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = rustix::fs::open(folder, flags, Mode::empty())?;
        // Short, however long the folder's name is (sun_path), and in a folder that is this user's alone.
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = format!("/proc/self/fd/{}/.relay-{count}", folder.as_raw_fd());
        let mut listener = Listener::new(&path, true).map_err(io::Error::other)?;
        let own = UnixStream::connect(&path)?;
        daemon
            .start(&mut listener)
            .map_err(|error| io::Error::other(error.to_string()))?;
        drop(listener);
        std::fs::remove_file(&path).ok();
        Ok(own)
    }

    fn begin(&self, session: Arc<dyn Serve>, daemon: &Daemon, notice: &Notice) {
        self.connections.fetch_add(1, Ordering::Relaxed);
        *self.current() = Some(Current {
            session,
            shutdown: daemon.shutdown_handle(),
        });
        notice(DoorEvent::Connected);
        if self.stopping.load(Ordering::Acquire) {
            daemon.request_shutdown();
        }
    }

    fn end(&self, ended: vhost_user_backend::Result<()>, notice: &Notice) {
        *self.current() = None;
        notice(DoorEvent::Disconnected(ended.err().and_then(why)));
    }
}

/// Whether a connection is new, or was served by another process before us.
enum Begin {
    New,
    Again(TakingUp),
}

impl Begin {
    fn served(&self) -> Served {
        match self {
            Self::New => Served::NotYet,
            Self::Again(_) => Served::Before,
        }
    }
}

type Daemon = VhostUserDaemon<Arc<Device>>;
/// What an earlier process left at a door.
type Left = (Connection, Listed, OwnedFd, TakingUp);

fn device(
    session: &Arc<dyn Serve>,
    kept: Option<(Connection, Served)>,
) -> Result<(Arc<Device>, Daemon), String> {
    let memory = GuestMemoryAtomic::new(GuestMemoryMmap::new());
    let device = Device::new(Arc::clone(session), memory.clone(), kept).map_err(reason)?;
    let device = Arc::new(device);
    let daemon = VhostUserDaemon::new("vhost-user".to_owned(), Arc::clone(&device), memory);
    let daemon = daemon.map_err(reason)?;
    for (thread, timer) in daemon.get_epoll_handlers().iter().zip(device.timers()) {
        thread
            .register_listener(timer, EventSet::IN, TIMER_EVENT)
            .map_err(reason)?;
    }
    Ok((device, daemon))
}

/// Its threads are waited for elsewhere: a VMM whose descriptors block one of them for ever must not keep
/// the next VMM waiting.
fn farewell(device: Arc<Device>, daemon: Daemon) -> Result<(), String> {
    device.stop();
    std::thread::Builder::new()
        .name("farewell".to_owned())
        .spawn(move || {
            drop(daemon);
            for exit in device.take_exits() {
                drop(sys::take_back(exit));
            }
        })
        .map_err(reason)?;
    Ok(())
}

/// Failures in a row before the door pauses between two.
const MOST_FAILURES: u32 = 5;

fn reason(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// None for a VMM that just went away.
fn why(error: vhost_user_backend::Error) -> Option<String> {
    use vhost::vhost_user::Error::{Disconnected, PartialMessage, SocketBroken};
    use vhost_user_backend::Error::HandleRequest;
    let just_went = matches!(
        error,
        HandleRequest(Disconnected | PartialMessage | SocketBroken(_))
    );
    (!just_went).then(|| error.to_string())
}
