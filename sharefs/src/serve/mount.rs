//! A mount on the host itself: /dev/fuse on one side, a session on the other.
//!
//! The session is the one that virtiofs has; here each message is one read or write of the device. A few
//! threads read, each from a queue of its own where the kernel lets us open more
//! (FUSE_DEV_IOC_CLONE), and answer through the descriptor they read from. Making the mount is the
//! mounter's affair; it is served from the descriptor alone, and no thread ever looks at a path.
//! Read first: fuse(4), Documentation/filesystems/fuse.rst of the kernel, "Interrupting filesystem
//! operations".

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use rustix::buffer::spare_capacity;
use rustix::event::{EventfdFlags, epoll};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;

use crate::confine::calls;
use crate::fuse::session::{Outcome, Scratch, Serve};
use crate::fuse::wire::{self, opcode};
use crate::sys::{self, Sink, Source};
use waits::Waits;

#[cfg(test)]
mod tests;
mod waits;

/// Threads that serve one mount. Programs of a build that ask at once are few; more threads would only
/// wait for the same folder's lock.
const MOST_THREADS: usize = 4;
/// A WRITE of 256 pages with its headers; the kernel asks for no more (max_write) and needs 8 KiB.
const LONGEST_MESSAGE: usize = 1024 * 1024 + 4096;

/// Called once, from a thread of the mount, when the kernel has ended it.
pub(crate) type Ended = Box<dyn Fn(String) + Send + Sync>;

/// Served until dropped, or until the kernel says that it is unmounted. Dropped while programs have files
/// open there, they get ENOTCONN.
pub(crate) struct HostMount {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    session: Arc<dyn Serve>,
    /// One a thread; all are the same where no more could be opened.
    devices: Vec<OwnedFd>,
    wake: OwnedFd,
    stopping: AtomicBool,
    over: AtomicBool,
    /// It is being unmounted on our own behalf, which is no news.
    expected: AtomicBool,
    waits: Waits,
    ended: Ended,
}

impl HostMount {
    /// Serves the mount that `device` is the connection of.
    ///
    /// # Errors
    /// When there are no descriptors or threads left.
    pub(crate) fn serve(
        device: OwnedFd,
        session: Arc<dyn Serve>,
        ended: Ended,
    ) -> io::Result<Self> {
        let count = std::thread::available_parallelism().map_or(1, usize::from);
        let devices = queues(device, count.clamp(2, MOST_THREADS))?;
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let shared = Arc::new(Shared {
            session,
            devices,
            wake: rustix::event::eventfd(0, flags)?,
            stopping: AtomicBool::new(false),
            over: AtomicBool::new(false),
            expected: AtomicBool::new(false),
            waits: Waits::default(),
            ended,
        });
        let mut mount = Self {
            shared: Arc::clone(&shared),
            threads: Vec::new(),
        };
        // Should one thread be refused, dropping the mount ends those before it.
        for queue in 0..shared.devices.len() {
            let inner = Arc::clone(&shared);
            let run = move || inner.run(queue);
            mount.threads.push(spawn("mount", run)?);
        }
        mount.threads.push(spawn("mount-locks", move || {
            confine();
            shared.waits.run(&*shared.session, &shared.devices);
        })?);
        Ok(mount)
    }

    /// It is about to be unmounted: `Ended` is not called for that. Requests are served until it is.
    pub(crate) fn expect_end(&self) {
        self.shared.expected.store(true, Ordering::Release);
    }

    /// Whether the kernel has ended it: somebody unmounted it.
    pub(crate) fn is_over(&self) -> bool {
        self.shared.over.load(Ordering::Acquire)
    }

    /// The session behind it.
    pub(crate) fn session(&self) -> &dyn Serve {
        &*self.shared.session
    }
}

impl Drop for HostMount {
    fn drop(&mut self) {
        self.shared.stop();
        for thread in self.threads.drain(..) {
            let ended: std::thread::Result<()> = thread.join();
            debug_assert!(ended.is_ok());
        }
    }
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(name.to_owned()).spawn(run)
}

/// `count` descriptors of the connection: queues of their own where this user may open /dev/fuse, else
/// further numbers for the one there is.
fn queues(device: OwnedFd, count: usize) -> io::Result<Vec<OwnedFd>> {
    let flags = rustix::fs::fcntl_getfl(&device)?;
    rustix::fs::fcntl_setfl(&device, flags | OFlags::NONBLOCK)?;
    let mut devices = Vec::with_capacity(count);
    for _ in 1..count {
        let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let fresh = rustix::fs::openat(CWD, c"/dev/fuse", flags, Mode::empty());
        let queue = fresh.and_then(|fresh| {
            sys::clone_connection(fresh.as_fd(), device.as_fd())?;
            Ok(fresh)
        });
        devices.push(match queue {
            Ok(queue) => queue,
            Err(_) => device.try_clone()?,
        });
    }
    devices.push(device);
    Ok(devices)
}

/// The thread can make calls on files from now on, and hardly any other: whoever may enter the mount
/// speaks to it.
fn confine() {
    if let Err(error) = calls::confine_thread() {
        tracing::warn!(%error, "a mount is served without this stage of the sandbox");
    }
}

/// What one thread keeps between requests.
struct Worker<'d> {
    device: BorrowedFd<'d>,
    queue: usize,
    scratch: Scratch,
    request: Vec<u8>,
    answer: Vec<u8>,
}

impl Shared {
    fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        // Never read, so that every thread sees it. Full or not, it is readable then.
        rustix::io::write(&self.wake, &1_u64.to_ne_bytes()).ok();
        self.waits.stop();
    }

    fn run(&self, queue: usize) {
        let Some(device) = self.devices.get(queue) else {
            return;
        };
        let mut worker = Worker {
            device: device.as_fd(),
            queue,
            scratch: Scratch::default(),
            request: Vec::with_capacity(LONGEST_MESSAGE),
            answer: vec![0; LONGEST_MESSAGE],
        };
        let reason = self.serve(&mut worker).err();
        let ended = !self.stopping.load(Ordering::Acquire);
        let is_first = ended && !self.over.swap(true, Ordering::AcqRel);
        if is_first && !self.expected.load(Ordering::Acquire) {
            let reason = match reason {
                None | Some(Errno::NODEV) => "it was unmounted".to_owned(),
                Some(Errno::CONNABORTED) => "the connection was aborted".to_owned(),
                Some(error) => format!("{error}"),
            };
            (self.ended)(reason);
        }
        self.stop();
    }

    /// Until told to stop, or until the kernel says that it is over.
    fn serve(&self, worker: &mut Worker<'_>) -> rustix::io::Result<()> {
        let events = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let data = epoll::EventData::new_u64(0);
        // One request wakes one thread (epoll_ctl(2), EPOLLEXCLUSIVE).
        let alone = epoll::EventFlags::IN | epoll::EventFlags::EXCLUSIVE;
        epoll::add(&events, worker.device, data, alone)?;
        epoll::add(&events, &self.wake, data, epoll::EventFlags::IN)?;
        confine();
        while !self.stopping.load(Ordering::Acquire) {
            worker.request.clear();
            match rustix::io::read(worker.device, spare_capacity(&mut worker.request)) {
                // A device never says so; the other end of a socket does.
                Ok(0) => return Ok(()),
                Ok(_) => self.one(worker),
                // ENOENT: who asked was killed before we read it.
                Err(Errno::INTR | Errno::NOENT) => {}
                Err(Errno::AGAIN) => {
                    let mut ready = [epoll::Event {
                        flags: epoll::EventFlags::empty(),
                        data,
                    }; 2];
                    match epoll::wait(&events, &mut ready[..], None) {
                        Ok(_) | Err(Errno::INTR) => {}
                        Err(error) => return Err(error),
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// One request, read already.
    fn one(&self, worker: &mut Worker<'_>) {
        let number = word(&worker.request, 4);
        let outcome = self.session.handle(
            &mut worker.scratch,
            &mut [Source::from(&worker.request[..])],
            &mut [Sink::from(&mut worker.answer[..])],
        );
        match outcome {
            Outcome::Done(0) => {}
            Outcome::Done(length) => {
                let answer = worker.answer.get(..length).unwrap_or_default();
                answer_to(worker.device, answer);
            }
            Outcome::Waits(unique) => {
                if self.waits.add(unique, worker.queue) {
                    self.session.abandon(unique);
                    let interrupted = wire::out_header(unique, Some(Errno::INTR), 0);
                    answer_to(worker.device, &interrupted);
                }
            }
        }
        match number {
            opcode::INTERRUPT => self.waits.interrupted(unique_of_interrupt(&worker.request)),
            // These may have ended a lock that somebody waits for.
            opcode::SETLK | opcode::SETLKW | opcode::FLUSH | opcode::RELEASE => self.waits.nudge(),
            // Nothing else ends a lock.
            _ => {}
        }
    }
}

/// ENOENT: who asked was killed meanwhile; nobody else is owed anything.
fn answer_to(device: BorrowedFd<'_>, answer: &[u8]) {
    rustix::io::write(device, answer).ok();
}

/// A number of fuse_in_header.
fn word(request: &[u8], at: usize) -> u32 {
    let bytes = request
        .get(at..at + 4)
        .and_then(|bytes| bytes.try_into().ok());
    bytes.map_or(0, u32::from_le_bytes)
}

/// fuse_interrupt_in: the request that nobody wants the answer of any more.
fn unique_of_interrupt(request: &[u8]) -> u64 {
    let body = request.get(wire::IN_HEADER..wire::IN_HEADER + 8);
    let bytes = body.and_then(|bytes| bytes.try_into().ok());
    bytes.map_or(0, u64::from_le_bytes)
}
