//! 9P's door: one unix socket a guest, where a connection is a session. A local program connects to it, or
//! netd on behalf of the guest.
//!
//! A connection has a thread (ninep/connection.rs), and a second one once it asks for what may take seconds.
//! What a client sends ends its own connection at most. Shares come and go while the door is open: only
//! connections that have a share attached which is gone, or is another now, are cut.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use rustix::event::{EventfdFlags, PollFd, PollFlags};
use rustix::io::Errno;
use rustix::net::Shutdown;

use connection::{Before, Line, OTHERS, Retired, SlowLeft};

use super::door::DoorError;
use super::turns::Turns;
use crate::keep::ninep::rows::{Claim, Rows, claim};
use crate::keep::{
    self,
    ninep::{Connection as Kept, Left},
};
use crate::ninep::counters::{Counters, Counting};
use crate::ninep::session::{Mount, Offers, Session};
use crate::tree::Result;
use crate::tree::host;

mod connection;
mod incoming;
mod lane;
mod ledger;
#[cfg(test)]
mod left_tests;
#[cfg(test)]
mod tests;

/// Connections of one guest at once; a mount needs one.
const MOST_CONNECTIONS: usize = 64;

/// A share as it may be attached. Another one of the same name is another share.
pub(crate) struct Offer {
    make: Box<dyn Fn(Counting) -> Box<dyn Mount> + Send + Sync>,
}

/// Shares by name.
pub(crate) type OfferList = BTreeMap<String, Arc<Offer>>;

impl Offer {
    pub(crate) fn new(
        make: impl Fn(Counting) -> Box<dyn Mount> + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self {
            make: Box::new(make),
        })
    }
}

/// Closed when dropped; its connections are cut.
pub(crate) struct NinepDoor {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    path: PathBuf,
    counters: Arc<Counters>,
    offers: Mutex<OfferList>,
    stopping: AtomicBool,
    wake: OwnedFd,
    connections: AtomicU64,
    refused: AtomicU64,
    live: Mutex<BTreeMap<u64, Arc<Live>>>,
}

/// A connection, as others see it.
struct Live {
    stream: UnixStream,
    attached: Mutex<Vec<Arc<Offer>>>,
    fids: AtomicU64,
}

/// What is connected now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Traffic {
    /// Connections so far.
    pub(crate) connections: u64,
    /// Connections that were too many.
    pub(crate) refused: u64,
    /// Connections now.
    pub(crate) live: usize,
    /// Of them, those that have a share attached.
    pub(crate) mounted: usize,
    pub(crate) fids: u64,
}

impl Traffic {
    /// Of two doors together.
    pub(crate) fn and(self, other: Self) -> Self {
        Self {
            connections: self.connections + other.connections,
            refused: self.refused + other.refused,
            live: self.live + other.live,
            mounted: self.mounted + other.mounted,
            fids: self.fids + other.fids,
        }
    }
}

impl NinepDoor {
    /// Listens at `path`, replacing a socket that was left there.
    pub(crate) fn open(
        path: &Path,
        offers: OfferList,
        counters: Arc<Counters>,
    ) -> std::result::Result<Self, DoorError> {
        let failed = |source| DoorError::new(path, source);
        let listener = listen(path).map_err(failed)?;
        let wake = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        let shared = Arc::new(Shared {
            path: path.to_owned(),
            counters,
            offers: Mutex::new(offers),
            stopping: AtomicBool::new(false),
            wake: wake.map_err(|error| failed(error.into()))?,
            connections: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            live: Mutex::default(),
        });
        let inner = Arc::clone(&shared);
        shared.take_up();
        let thread = std::thread::Builder::new()
            .name("9p-door".to_owned())
            .spawn(move || inner.run(&listener))
            .map_err(failed)?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.shared.path
    }

    /// From now on these are the shares.
    pub(crate) fn offer(&self, offers: OfferList) {
        let mut held = locked(&self.shared.offers);
        let old = std::mem::replace(&mut *held, offers);
        let is_offered = |share: &Arc<Offer>| held.values().any(|offer| Arc::ptr_eq(offer, share));
        for live in locked(&self.shared.live).values() {
            if !locked(&live.attached).iter().all(is_offered) {
                cut(&live.stream);
            }
        }
        drop(held);
        // Closing a share's descriptors may take its file system's time.
        drop(old);
    }

    /// Whether a connection has this share attached.
    pub(crate) fn has_attached(&self, share: &Arc<Offer>) -> bool {
        let live = locked(&self.shared.live);
        let is_it = |live: &Arc<Live>| {
            let attached = locked(&live.attached);
            attached.iter().any(|offer| Arc::ptr_eq(offer, share))
        };
        live.values().any(is_it)
    }

    pub(crate) fn traffic(&self) -> Traffic {
        let live = locked(&self.shared.live);
        let is_mounted = |live: &&Arc<Live>| !locked(&live.attached).is_empty();
        Traffic {
            connections: self.shared.connections.load(Ordering::Relaxed),
            refused: self.shared.refused.load(Ordering::Relaxed),
            live: live.len(),
            mounted: live.values().filter(is_mounted).count(),
            fids: live
                .values()
                .map(|live| live.fids.load(Ordering::Relaxed))
                .sum(),
        }
    }
}

impl Drop for NinepDoor {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::Release);
        // Full or not, the descriptor is readable then, which is all that is asked.
        rustix::io::write(&self.shared.wake, &1_u64.to_ne_bytes()).ok();
        if let Some(thread) = self.thread.take() {
            let ended: std::thread::Result<()> = thread.join();
            debug_assert!(ended.is_ok());
        }
        std::fs::remove_file(&self.shared.path).ok();
        // Their threads are not waited for: one may be deep in a file system that does not answer.
        for live in locked(&self.shared.live).values() {
            cut(&live.stream);
        }
    }
}

fn listen(path: &Path) -> io::Result<UnixListener> {
    // Only what a daemon has left: a socket.
    if let Ok(there) = std::fs::symlink_metadata(path)
        && !there.file_type().is_socket()
    {
        return Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            "something that is no socket is there",
        ));
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o600))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn cut(stream: &UnixStream) {
    // One that has ended already cannot be, and need not.
    rustix::net::shutdown(stream, Shutdown::Both).ok();
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn run(self: &Arc<Self>, listener: &UnixListener) {
        loop {
            let mut wanted = [
                PollFd::new(listener, PollFlags::IN),
                PollFd::new(&self.wake, PollFlags::IN),
            ];
            match rustix::event::poll(&mut wanted, None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => {
                    tracing::error!(path = %self.path.display(), %error, "9p door cannot wait");
                    return;
                }
            }
            if self.stopping.load(Ordering::Acquire) {
                return;
            }
            match listener.accept() {
                Ok((stream, _)) => self.welcome(stream),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => {
                    // No descriptors: nobody is let in for a second, and the machine is not kept busy.
                    tracing::warn!(path = %self.path.display(), %error, "9p connection");
                    let second = rustix::event::Timespec {
                        tv_sec: 1,
                        tv_nsec: 0,
                    };
                    let mut wake = [PollFd::new(&self.wake, PollFlags::IN)];
                    rustix::event::poll(&mut wake, Some(&second)).ok();
                }
            }
        }
    }

    /// Goes on with the connections of the process before us, each as a whole or not at all.
    fn take_up(self: &Arc<Self>) {
        let left = Kept::left(&self.path);
        let turns = Arc::new(Turns::new(left.len(), OTHERS));
        for left in left {
            // A turn that nobody takes would have the others wait.
            let mine = OneTurn(Some(Arc::clone(&turns)));
            if let Err(error) = self.go_on(left, mine) {
                tracing::warn!(path = %self.path.display(), %error, "a 9p connection ends that an earlier process served");
            }
        }
    }

    /// Whichever way it fails: what lists the connection goes first, then what is open for it.
    fn go_on(self: &Arc<Self>, left: Left, turn: OneTurn) -> io::Result<()> {
        let seat = self.enlist(&left.socket)?;
        let rows = left.memory.rows_left();
        let longest = left.memory.commit().longest;
        let longest = u32::try_from(longest).ok().filter(|longest| *longest > 0);
        let mut line = Line {
            _listed: Some(left.listed),
            session: seat.session(),
            stream: left.socket,
            memory: left.memory,
            rows: Some(Arc::clone(&rows)),
            before: None,
            _retired: Retired(Some(Arc::clone(&rows))),
        };
        line.session.adopt(Arc::clone(&rows), longest, &claim)?;
        line.before = Some(Before {
            turn,
            // Behind the session, which has what is open for more than a job.
            slow: slow_left(&rows, &claim),
        });
        self.begin(seat, line)
    }

    fn welcome(self: &Arc<Self>, stream: UnixStream) {
        let Ok(seat) = self.enlist(&stream) else {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return;
        };
        if let Err(error) = self.begin_anew(seat, stream) {
            tracing::warn!(%error, "a 9p connection cannot be served");
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn begin_anew(&self, seat: Seat, stream: UnixStream) -> io::Result<()> {
        let (memory, listed) = Kept::create(&self.path, &stream)?;
        // Without a follower nothing is written down.
        let rows = listed.is_some().then(|| memory.rows());
        let session = seat.session();
        let session = match &rows {
            Some(rows) => session.kept(Arc::clone(rows)),
            None => session,
        };
        let line = Line {
            _listed: listed,
            session,
            stream,
            memory,
            _retired: Retired(rows.clone()),
            rows,
            before: None,
        };
        self.begin(seat, line)
    }

    /// One more connection, as others see it. EUSERS for one that is too many.
    fn enlist(self: &Arc<Self>, stream: &UnixStream) -> io::Result<Seat> {
        let number = self.connections.fetch_add(1, Ordering::Relaxed);
        stream.set_nonblocking(false)?;
        let stream = stream.try_clone()?;
        let mut all = locked(&self.live);
        if all.len() >= MOST_CONNECTIONS {
            return Err(Errno::USERS.into());
        }
        let live = Arc::new(Live {
            stream,
            attached: Mutex::default(),
            fids: AtomicU64::new(0),
        });
        all.insert(number, Arc::clone(&live));
        Ok(Seat {
            shared: Arc::clone(self),
            number,
            live,
        })
    }

    /// Serves it in a thread of its own.
    fn begin(&self, seat: Seat, line: Line) -> io::Result<()> {
        let counters = Arc::clone(&self.counters);
        let visit = move || connection::run(line, &counters, &seat.live.fids);
        let spawned = std::thread::Builder::new()
            .name("9p".to_owned())
            .spawn(visit);
        spawned.map(drop)
    }
}

/// Jobs of the slow lane that an earlier process left, with what is open for them alone: it is the same for all of one
/// fid. EIO where it is not open any more, ESTALE where its number is another's.
fn slow_left(rows: &Rows, claim: Claim<'_>) -> Vec<SlowLeft> {
    let mut claimed = BTreeMap::new();
    let left = rows.slow().into_iter().map(|slow| {
        let open = slow.open.ok_or(Errno::IO).and_then(|kept| {
            let of_number = claimed.entry(kept.number);
            let open = of_number.or_insert_with(|| claim(kept.number).map(Arc::new));
            let open = open.as_ref().ok_or(Errno::IO)?;
            host::check_is(open, kept.file, kept.kind)?;
            Ok(Arc::clone(open))
        });
        SlowLeft { slow, open }
    });
    let left = left.collect();
    for open in claimed.into_values().flatten() {
        // Nobody's whom a job is of.
        if let Some(open) = Arc::into_inner(open) {
            keep::give_back(open);
        }
    }
    left
}

/// A connection's place among those that others see, until this is dropped.
struct Seat {
    shared: Arc<Shared>,
    number: u64,
    live: Arc<Live>,
}

impl Seat {
    fn session(&self) -> Session {
        let visitor = Visitor {
            shared: Arc::clone(&self.shared),
            live: Arc::clone(&self.live),
        };
        Session::new(Box::new(visitor), Arc::clone(&self.shared.counters))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let gone = locked(&self.shared.live).remove(&self.number);
        drop(gone);
    }
}

/// A turn among the connections that are taken up: taken by the one it is for, or by nobody.
struct OneTurn(Option<Arc<Turns>>);

impl OneTurn {
    /// It will be taken.
    fn begin(mut self) -> Option<Arc<Turns>> {
        self.0.take()
    }
}

impl Drop for OneTurn {
    fn drop(&mut self) {
        if let Some(turns) = self.0.take() {
            turns.pass();
        }
    }
}

/// What one connection may attach.
struct Visitor {
    shared: Arc<Shared>,
    live: Arc<Live>,
}

impl Offers for Visitor {
    fn resolve(&self, name: &str) -> Result<String> {
        let offers = locked(&self.shared.offers);
        let only = if offers.len() == 1 {
            offers.keys().next()
        } else {
            None
        };
        let found = match name {
            "" => only,
            name => offers.get_key_value(name).map(|(name, _)| name),
        };
        found.cloned().ok_or(Errno::NOENT)
    }

    fn begin(&self) {
        locked(&self.live.attached).clear();
    }

    fn attach(&self, share: &str) -> Result<Box<dyn Mount>> {
        let offers = locked(&self.shared.offers);
        let offer = offers.get(share).ok_or(Errno::NOENT)?;
        // Under the same lock that `offer` takes first: a share that goes now finds this connection.
        let mut attached = locked(&self.live.attached);
        if !attached.iter().any(|known| Arc::ptr_eq(known, offer)) {
            attached.push(Arc::clone(offer));
        }
        drop(attached);
        Ok((offer.make)(self.shared.counters.of_share(share)))
    }
}
