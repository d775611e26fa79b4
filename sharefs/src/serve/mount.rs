//! A mount on the host itself: /dev/fuse on one side, a session on the other.
//!
//! The session is the one that virtiofs has; here each message is one read or write of the device. A few
//! threads read, each from a queue of its own where the kernel lets us open more
//! (FUSE_DEV_IOC_CLONE), and answer through the descriptor they read from. Making the mount is the
//! mounter's affair; it is served from the descriptor alone, and no thread ever looks at a path.
//! What this process leaves half done is in kept memory (`keep/mount.rs`), and done by the next.
//! Read first: fuse(4), Documentation/filesystems/fuse.rst of the kernel, "Interrupting filesystem
//! operations".

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::{EventfdFlags, epoll};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;

use crate::confine::calls;
use crate::fuse::session::{Outcome, Scratch, Serve};
use crate::fuse::wire::{self, opcode};
use crate::keep::fault::{self, Point};
use crate::keep::journal::Journal;
use crate::keep::mount::{LONGEST_REQUEST, LONGEST_WAIT, Left, MOST_SLOTS, Mount, Slot, Waiting};
use crate::keep::{self, Listed};
use crate::serve::turns::Turns;
use crate::sys::{self, Sink, Source};
use waits::Waits;

#[cfg(test)]
mod tests;
mod waits;

/// Threads that serve one mount. Programs of a build that ask at once are few; more threads would only
/// wait for the same folder's lock.
const MOST_THREADS: usize = MOST_SLOTS;
/// Of an answer: as long as a request.
const LONGEST_ANSWER: usize = LONGEST_REQUEST;
/// So long a thread waits until all that an earlier process left is taken up. Not for ever: a shared folder that is
/// being opened may lie in the mount.
const OTHERS: Duration = Duration::from_secs(2);
/// An answer to the INTERRUPT of a request has its number and this (FUSE_INT_REQ_BIT of the kernel's fs/fuse/fuse_i.h).
const INTERRUPT_BIT: u64 = 1;

/// Called once, from a thread of the mount, when the kernel has ended it.
pub(crate) type Ended = Box<dyn Fn(String) + Send + Sync>;

/// Served until dropped, or until the kernel says that it is unmounted. Dropped while programs have files
/// open there, they get ENOTCONN.
pub(crate) struct HostMount {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    /// While it is listed, another process can go on with it. Dropped first: before any descriptor is closed.
    listed: Option<Listed>,
    session: Arc<dyn Serve>,
    memory: Mount,
    served: Served,
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

/// Whether a mount is new, or was served by another process before us.
enum Served {
    NotYet,
    Before {
        /// What waited for locks there, for the first queue's thread.
        waits: Mutex<Vec<Waiting>>,
        turns: Turns,
    },
}

impl Served {
    fn before(memory: &Mount, threads: usize) -> Self {
        Self::Before {
            waits: Mutex::new(memory.waits()),
            turns: Turns::new(threads, OTHERS),
        }
    }
}

impl HostMount {
    /// Serves the mount that `device` is the connection of. What is under way is left in `memory`.
    ///
    /// # Errors
    /// When there are no descriptors or threads left.
    pub(crate) fn serve(
        device: OwnedFd,
        (memory, listed): (Mount, Option<Listed>),
        session: Arc<dyn Serve>,
        ended: Ended,
    ) -> io::Result<Self> {
        let count = std::thread::available_parallelism().map_or(1, usize::from);
        let devices = queues(device, count.clamp(2, MOST_THREADS))?;
        let numbers: Vec<RawFd> = devices.iter().map(AsRawFd::as_raw_fd).collect();
        memory.put_queues(&numbers);
        let served = Served::NotYet;
        Self::begin((memory, listed), (devices, served), session, ended)
    }

    /// Goes on with the mount that another process served before us.
    ///
    /// # Errors
    /// As `serve`.
    pub(crate) fn serve_again(
        left: Left,
        session: Arc<dyn Serve>,
        ended: Ended,
    ) -> io::Result<Self> {
        let Left {
            listed,
            memory,
            queues,
        } = left;
        memory.begin_again();
        let served = Served::before(&memory, queues.len());
        Self::begin((memory, Some(listed)), (queues, served), session, ended)
    }

    fn begin(
        (memory, listed): (Mount, Option<Listed>),
        (devices, served): (Vec<OwnedFd>, Served),
        session: Arc<dyn Serve>,
        ended: Ended,
    ) -> io::Result<Self> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let shared = Arc::new(Shared {
            listed,
            session,
            memory,
            served,
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
            shared
                .waits
                .run(&*shared.session, &shared.devices, &shared.memory);
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

fn unpoisoned<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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
    /// Where requests are read into.
    slot: Slot,
    journal: Journal,
    answer: Vec<u8>,
}

/// The beginning of a request: fuse_in_header and the first word of what follows.
struct Head([u8; wire::IN_HEADER + 8]);

impl Head {
    fn of(slot: &Slot, length: usize) -> Self {
        let mut bytes = [0; wire::IN_HEADER + 8];
        sys::gather(&[slot.request(length)], &mut bytes);
        Self(bytes)
    }

    fn opcode(&self) -> u32 {
        let bytes = self.0[4..8].try_into();
        bytes.map_or(0, u32::from_le_bytes)
    }

    /// fuse_interrupt_in: the request that nobody wants the answer of any more.
    fn interrupted(&self) -> u64 {
        let bytes = self.0[wire::IN_HEADER..].try_into();
        bytes.map_or(0, u64::from_le_bytes)
    }
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
        let slot = self.memory.slot(queue);
        let mut worker = Worker {
            device: device.as_fd(),
            queue,
            scratch: Scratch::default(),
            journal: slot.journal(),
            slot,
            answer: vec![0; LONGEST_ANSWER],
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
        if self.listed.is_some() {
            worker.slot.prepare();
            worker.journal.clone().of_thread();
        }
        confine();
        if let Served::Before { waits, turns } = &self.served {
            keep::wait_until_serving(OTHERS);
            turns.take(|| {
                self.take_up(worker);
                if worker.queue == 0 {
                    let waits = std::mem::take(&mut *unpoisoned(waits));
                    self.take_up_waits(worker, waits);
                }
            });
        }
        while !self.stopping.load(Ordering::Acquire) {
            // Before the kernel writes a request here: what the journal says is of no other.
            worker.journal.begin(worker.queue, 0);
            match worker.slot.read(worker.device) {
                // A device never says so; the other end of a socket does.
                Ok(0) => return Ok(()),
                Ok(length) => {
                    fault::at(Point::Taken);
                    let outcome = self.handle(worker, length);
                    self.finish(worker, length, outcome);
                }
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

    /// Does the request that the process before us was at in this queue.
    fn take_up(&self, worker: &mut Worker<'_>) {
        let unique = worker.slot.unique();
        let length = worker.slot.length();
        let opcode = Head::of(&worker.slot, length).opcode();
        if unique != 0 && (wire::is_unanswered(opcode) || is_awaited(worker.device, unique)) {
            let journal = worker.journal.clone();
            match journal.again(|| self.handle(worker, length)) {
                Some(outcome) => self.finish(worker, length, outcome),
                None => refuse(worker.device, opcode, unique),
            }
        }
        worker.slot.clear();
    }

    /// Asks again for the locks that were waited for there.
    fn take_up_waits(&self, worker: &mut Worker<'_>, waits: Vec<Waiting>) {
        for Waiting {
            unique,
            queue,
            request,
        } in waits
        {
            let Some(device) = self.devices.get(queue).map(AsFd::as_fd) else {
                continue;
            };
            if !is_awaited(device, unique) {
                self.memory.end_wait(unique);
                continue;
            }
            worker.journal.begin(worker.queue, 0);
            let outcome = self.memory.wait_again(unique, || {
                let outcome = self.session.handle(
                    &mut worker.scratch,
                    &mut [Source::from(&request[..])],
                    &mut [Sink::from(&mut worker.answer[..])],
                );
                fault::at(Point::Done);
                outcome
            });
            match outcome {
                Some(Outcome::Done(length)) => {
                    answer_to(device, worker.answer.get(..length).unwrap_or_default());
                    self.memory.end_wait(unique);
                }
                Some(Outcome::Waits(unique)) => self.wait(device, queue, unique),
                None => {
                    refuse(device, opcode::SETLKW, unique);
                    self.memory.end_wait(unique);
                }
            }
        }
    }

    /// One request, of so many bytes in the worker's slot.
    fn handle(&self, worker: &mut Worker<'_>, length: usize) -> Outcome {
        self.session.handle(
            &mut worker.scratch,
            &mut [worker.slot.request(length)],
            &mut [Sink::from(&mut worker.answer[..])],
        )
    }

    /// Answers it, unless the answer comes later, and leaves the slot.
    fn finish(&self, worker: &Worker<'_>, length: usize, outcome: Outcome) {
        fault::at(Point::Done);
        let head = Head::of(&worker.slot, length);
        match outcome {
            Outcome::Done(0) => {}
            Outcome::Done(length) => {
                let answer = worker.answer.get(..length).unwrap_or_default();
                answer_to(worker.device, answer);
            }
            Outcome::Waits(unique) => {
                let mut request = [0; LONGEST_WAIT];
                let count = sys::gather(&[worker.slot.request(length)], &mut request);
                let request = request.get(..count).unwrap_or_default();
                self.memory.put_wait(worker.queue, unique, request);
                self.wait(worker.device, worker.queue, unique);
            }
        }
        fault::at(Point::Told);
        worker.slot.clear();
        self.consider(&head);
    }

    /// The request waits for a lock from now on.
    fn wait(&self, device: BorrowedFd<'_>, queue: usize, unique: u64) {
        if self.waits.add(unique, queue) {
            self.session.abandon(unique);
            let interrupted = wire::out_header(unique, Some(Errno::INTR), 0);
            answer_to(device, &interrupted);
            self.memory.end_wait(unique);
        }
    }

    /// What a request that is done means for those that wait.
    fn consider(&self, head: &Head) {
        match head.opcode() {
            opcode::INTERRUPT => self.waits.interrupted(head.interrupted()),
            // These may have ended a lock that somebody waits for.
            opcode::SETLK | opcode::SETLKW | opcode::FLUSH | opcode::RELEASE => self.waits.nudge(),
            // Nothing else ends a lock.
            _ => {}
        }
    }
}

/// Whether the kernel waits for the answer of a request that was read from this queue.
///
/// It is asked to send the request's INTERRUPT once more, which a process before us may have read and done nothing
/// about (fuse_dev_do_write in the kernel's fs/fuse/dev.c): EINVAL is the answer for a request that was never
/// interrupted, ENOENT for one that nobody waits for.
fn is_awaited(device: BorrowedFd<'_>, unique: u64) -> bool {
    let again = wire::out_header(unique | INTERRUPT_BIT, Some(Errno::AGAIN), 0);
    let asked = rustix::io::write(device, &again);
    matches!(asked, Ok(_) | Err(Errno::INVAL))
}

/// A request is not done again that every process which was at it died of.
fn refuse(device: BorrowedFd<'_>, opcode: u32, unique: u64) {
    tracing::error!(
        opcode,
        "a request that ended sharefs several times is answered with EIO"
    );
    let refused = wire::out_header(unique, Some(Errno::IO), 0);
    answer_to(device, &refused);
}

/// ENOENT: who asked was killed meanwhile; nobody else is owed anything.
fn answer_to(device: BorrowedFd<'_>, answer: &[u8]) {
    rustix::io::write(device, answer).ok();
}
