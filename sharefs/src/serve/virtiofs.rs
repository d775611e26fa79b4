//! The virtiofs device of one connection: virtqueues on one side, a session on the other.
//!
//! One thread serves the queue for urgent requests (FORGET) and the first request queue, one thread each
//! further request queue; each request is done by the thread that takes it from its queue. While it
//! works or looks for the next request, the guest need not notify us; before it sleeps it asks once more.
//! How long it looks is decided in `patience`. Answers are told to the guest for a batch at once, large
//! data at once by itself.
//! Read first: virtio 1.2, 5.11 (file system device) and 2.7; vhost-user in QEMU's docs.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use guestmem::Guarded;
use rustix::io::Errno;
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};
use vhost::vhost_user::message::{VhostUserProtocolFeatures, VhostUserVirtioFeatures};
use vhost_user_backend::{VhostUserBackend, VringState, VringT};
use virtio_bindings::bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::bindings::virtio_ring::{
    VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC,
};
use virtio_queue::{DescriptorChain, QueueT};
use vm_memory::{
    Bytes, GuestAddress, GuestAddressSpace, GuestMemoryAtomic, GuestMemoryBackend, GuestMemoryMmap,
    GuestMemoryRegion,
};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::event::{
    EventConsumer, EventFlag, EventNotifier, new_event_consumer_and_notifier,
};

use super::chain::{self, BadChain, Lists};
use super::patience::Patience;
use super::vring::Vring;
use crate::confine::calls;
use crate::fuse::session::{Outcome, Scratch, Serve};
use crate::fuse::wire;
use crate::keep::device::{self, Connection};
use crate::keep::fault::{self, Point};
use crate::keep::journal::Journal;
use crate::sys;

/// Queues a VMM may use for requests; Linux before 6.11 uses one, whatever it is offered.
const REQUEST_QUEUES: usize = 4;
/// With the queue for urgent requests, which is the first.
pub(super) const QUEUES: usize = 1 + REQUEST_QUEUES;
const LONGEST_QUEUE: usize = 1024;
// Kept memory has room for them.
const _: () = assert!(QUEUES == device::QUEUES && LONGEST_QUEUE == device::LONGEST_QUEUE);
/// Answers that the guest is told of at once.
const BATCH: usize = 16;
/// Requests of one queue that are served before the thread's other queue gets its turn.
const TURN: usize = 256;
/// Glances at an empty queue between two at the clock: half a microsecond.
const GLANCES: usize = 16;
/// An answer or request from this many bytes is told of at once: the next may take as long.
const LARGE: usize = 64 * 1024;
/// Memory regions of one guest; QEMU gives two to ten.
const MOST_REGIONS: usize = 64;
/// How soon a lock that is waited for is asked for again, at first and at last. Only a lock held by
/// somebody outside this queue is found so; an unlock that comes through it is seen at once.
const FIRST_RETRY: Duration = Duration::from_millis(1);
const LAST_RETRY: Duration = Duration::from_millis(50);
/// The event that the timer of waiting locks is for a thread; below are its queues and the exit.
pub(super) const TIMER_EVENT: u64 = QUEUES as u64 + 1;

pub(super) type Memory = GuestMemoryAtomic<GuestMemoryMmap>;

/// See the module's head.
pub(super) struct Device {
    session: Arc<dyn Serve>,
    memory: Memory,
    workers: Vec<Mutex<Worker>>,
    guarded: Mutex<Vec<Guarded>>,
    /// Exit events that the library will not close.
    exits: Mutex<Vec<RawFd>>,
    kept: Option<Kept>,
    /// Queues of a connection that another process served before us, which have not been taken up yet.
    to_take_up: Vec<AtomicBool>,
    /// The connection is over: a guest that goes on filling its queue is not served any more.
    stopped: AtomicBool,
}

/// Where the device is written down for another process.
struct Kept {
    connection: Connection,
    journals: [Journal; QUEUES],
}

/// What one thread keeps between requests.
struct Worker {
    scratch: Scratch,
    lists: Lists<'static>,
    waits: Vec<Wait>,
    timer: OwnedFd,
    next_retry: Duration,
    /// Its thread can do no more than serving needs.
    confined: bool,
    has_journal: bool,
    patience: Patience,
}

/// Whether a connection is new, or was served by another process before us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Served {
    NotYet,
    Before,
}

/// A request whose answer comes later.
#[derive(Clone, Copy)]
struct Wait {
    /// Among the thread's own queues.
    queue: usize,
    head: u16,
    unique: u64,
    answer_at: GuestAddress,
}

impl Device {
    pub(super) fn new(
        session: Arc<dyn Serve>,
        memory: Memory,
        kept: Option<(Connection, Served)>,
    ) -> io::Result<Self> {
        let again = matches!(&kept, Some((_, Served::Before)));
        let mut workers = Vec::new();
        let processors = sys::processors();
        for _ in 0..REQUEST_QUEUES {
            let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
            workers.push(Mutex::new(Worker {
                scratch: Scratch::default(),
                lists: Lists::new(),
                waits: Vec::new(),
                timer: rustix::time::timerfd_create(TimerfdClockId::Monotonic, flags)?,
                next_retry: FIRST_RETRY,
                confined: false,
                has_journal: false,
                patience: Patience::new(processors),
            }));
        }
        Ok(Self {
            session,
            memory,
            workers,
            guarded: Mutex::new(Vec::new()),
            exits: Mutex::new(Vec::new()),
            kept: kept.map(|(connection, _)| Kept {
                journals: connection.journals(),
                connection,
            }),
            to_take_up: (0..QUEUES).map(|_| AtomicBool::new(again)).collect(),
            stopped: AtomicBool::new(false),
        })
    }

    /// The descriptors of the threads' timers, in their order.
    pub(super) fn timers(&self) -> impl Iterator<Item = RawFd> {
        self.workers
            .iter()
            .map(|worker| unpoisoned(worker).timer.as_raw_fd())
    }

    /// Serves no further request, whatever the guest's memory says.
    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
    }

    fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    /// Exit events to be closed when the library's threads are gone.
    pub(super) fn take_exits(&self) -> Vec<RawFd> {
        std::mem::take(&mut unpoisoned(&self.exits))
    }

    /// Serves the queue that was notified, and the thread's other queue in between, until the guest is
    /// asked to notify again.
    fn serve_queue(&self, worker: &mut Worker, queue: usize, vrings: &[Vring]) {
        let Some(own) = vrings.get(queue) else {
            return;
        };
        let mut vring = own.get_mut();
        if self.to_take_up[queue].swap(false, Ordering::AcqRel) {
            self.take_up(worker, queue, &mut vring);
        }
        worker.patience.asked(now(), false);
        let mut others_are_sane = true;
        let mut seems_full = false;
        loop {
            // Anew each time: the VMM may have given the guest more memory meanwhile.
            let memory = self.memory.memory();
            if vring.disable_notification().is_err() {
                break;
            }
            let taken = self.drain(worker, queue, &mut vring, &memory);
            if seems_full && taken == 0 {
                // An index with nothing to take behind it is a lie of the guest's.
                break;
            }
            if others_are_sane {
                others_are_sane = self.serve_others(worker, queue, vrings);
            }
            if !worker.waits.is_empty() {
                self.retry_waits(worker, queue, &mut vring, &memory);
            }
            if taken == TURN {
                seems_full = false;
                continue;
            }
            // Locks that are waited for are looked after by the timer, which finds nobody who looks here.
            seems_full = worker.waits.is_empty()
                && self.look(&mut worker.patience, &vring, &memory)
                // True: something came between the last look and the wish to be told.
                || matches!(vring.enable_notification(), Ok(true));
            if !seems_full || self.is_stopped() {
                break;
            }
        }
        drop(vring);
        worker.arm();
    }

    /// Serves what the thread's other queues hold: a guest that asks without a pause in one must not
    /// keep them waiting. Their notifications find nothing to do then. False: one only seems to hold something.
    fn serve_others(&self, worker: &mut Worker, queue: usize, vrings: &[Vring]) -> bool {
        let memory = self.memory.memory();
        vrings.iter().enumerate().all(|(other, vring)| {
            if other == queue || self.to_take_up[other].load(Ordering::Acquire) {
                return true;
            }
            let mut vring = vring.get_mut();
            let there = vring.get_queue();
            let seems_full = vring.is_enabled()
                && there.ready()
                && there
                    .avail_idx(&*memory, Ordering::Acquire)
                    .is_ok_and(|index| index.0 != there.next_avail());
            !seems_full || self.drain(worker, other, &mut vring, &memory) > 0
        })
    }

    /// Looks for a request in the empty queue for as long as patience has it. True: there seems to be one.
    fn look(&self, patience: &mut Patience, vring: &VringState, memory: &GuestMemoryMmap) -> bool {
        let Some(until) = patience.emptied(now()) else {
            return false;
        };
        let queue = vring.get_queue();
        let mut moment = now();
        while moment < until && !self.is_stopped() {
            for _ in 0..GLANCES {
                match queue.avail_idx(memory, Ordering::Acquire) {
                    Ok(index) if index.0 == queue.next_avail() => std::hint::spin_loop(),
                    Ok(_) => {
                        patience.asked(now(), true);
                        return true;
                    }
                    Err(_) => return false,
                }
            }
            moment = now();
        }
        patience.in_vain(moment);
        false
    }

    /// Takes and serves what is in the queue, a turn's worth at most; how many requests it was.
    fn drain(
        &self,
        worker: &mut Worker,
        queue: usize,
        vring: &mut VringState,
        memory: &GuestMemoryMmap,
    ) -> usize {
        let mut untold = 0;
        let mut taken = 0;
        while taken < TURN
            && !self.is_stopped()
            && let Some(chain) = vring.get_queue_mut().pop_descriptor_chain(memory)
        {
            taken += 1;
            let head = chain.head_index();
            if let Some(kept) = &self.kept {
                kept.journals[queue].begin(queue, head);
                kept.connection.take(queue, head);
                fault::at(Point::Taken);
            }
            let Some(served) = self.serve_chain(worker, queue, memory, chain) else {
                continue;
            };
            self.answered(queue, vring, head, served.length);
            untold += 1;
            if untold == BATCH || served.is_large {
                tell(vring);
                untold = 0;
            }
        }
        if untold > 0 {
            tell(vring);
        }
        taken
    }

    /// Serves a request. None: its answer comes later.
    fn serve_chain(
        &self,
        worker: &mut Worker,
        queue: usize,
        memory: &GuestMemoryMmap,
        chain: DescriptorChain<&GuestMemoryMmap>,
    ) -> Option<Answered> {
        let head = chain.head_index();
        let mut lists = worker.lists.empty();
        let outcome = match lists.fill(memory, chain) {
            Ok(()) => {
                self.session
                    .handle(&mut worker.scratch, &mut lists.request, &mut lists.answer)
            }
            // Nobody can be told what was wrong: there may be no room to say it in.
            Err(BadChain) => {
                self.session.lost();
                Outcome::Done(0)
            }
        };
        let large = sys::total(&lists.request) >= LARGE;
        let answer_at = lists.answer_at;
        worker.lists.give_back(lists);
        let length = match (outcome, answer_at) {
            (Outcome::Done(length), _) => length,
            (Outcome::Waits(unique), Some(answer_at)) => {
                worker.waits.push(Wait {
                    queue,
                    head,
                    unique,
                    answer_at,
                });
                return None;
            }
            (Outcome::Waits(unique), None) => {
                self.session.abandon(unique);
                0
            }
        };
        Some(Answered {
            length,
            is_large: large || length >= LARGE,
        })
    }

    /// Puts an answer, which is in the guest's memory, among those that the guest finds.
    fn answered(&self, queue: usize, vring: &mut VringState, head: u16, length: usize) {
        let length = u32::try_from(length).unwrap_or(u32::MAX);
        if let Some(kept) = &self.kept {
            fault::at(Point::Done);
            kept.connection
                .answered(queue, head, length, vring.get_queue().next_used());
            fault::at(Point::Answered);
        }
        // An index outside the queue is the guest's own loss.
        vring.add_used(head, length).ok();
        if let Some(kept) = &self.kept {
            fault::at(Point::Told);
            kept.connection.end(queue, head);
        }
    }

    /// Goes on with a queue where the process before us left it: what it had taken and not answered is
    /// done before anything new.
    fn take_up(&self, worker: &mut Worker, queue: usize, vring: &mut VringState) {
        let Some(kept) = &self.kept else {
            return;
        };
        let guard = self.memory.memory();
        let memory = &*guard;
        let Ok(told) = vring.get_queue().used_idx(memory, Ordering::Acquire) else {
            return;
        };
        vring.get_queue_mut().set_next_used(told.0);
        let (answered, mut open) = kept.connection.unanswered(queue, told.0);
        if let Some((head, length)) = answered {
            vring.add_used(head, length).ok();
            kept.connection.end(queue, head);
        }
        let told = vring.get_queue().next_used();
        let taken = u16::try_from(open.len()).unwrap_or_default();
        vring
            .get_queue_mut()
            .set_next_avail(told.wrapping_add(taken));
        // The journal is that of the one that was under way, until another begins: it is first, and those
        // that wait for locks behind it.
        let journal = &kept.journals[queue];
        open.sort_by_key(|head| !journal.is_under_way(queue, *head));
        let Some((memory, mut beside)) = chain::chains_of(memory, vring.get_queue(), &open) else {
            return;
        };
        while let Some(chain) = beside.pop_descriptor_chain(&memory) {
            let head = chain.head_index();
            let served = if journal.is_under_way(queue, head) {
                let refused = chain.clone();
                let again = journal.again(|| self.serve_chain(worker, queue, &memory, chain));
                again.unwrap_or_else(|| Some(self.refuse(worker, &memory, refused)))
            } else {
                // It waits for a lock, and is asked for again.
                journal.begin(queue, head);
                self.serve_chain(worker, queue, &memory, chain)
            };
            if let Some(served) = served {
                self.answered(queue, vring, head, served.length);
            }
        }
        vring.signal_used_queue().ok();
    }

    /// A request that has killed several processes is an error from now on.
    fn refuse(
        &self,
        worker: &mut Worker,
        memory: &GuestMemoryMmap,
        chain: DescriptorChain<&GuestMemoryMmap>,
    ) -> Answered {
        tracing::error!("a request that ended sharefs several times is answered with EIO");
        let mut lists = worker.lists.empty();
        let filled = lists.fill(memory, chain);
        let mut header = [0; wire::IN_HEADER];
        sys::gather(&lists.request, &mut header);
        let unique = header[8..16].try_into().map_or(0, u64::from_le_bytes);
        let answer = wire::out_header(unique, Some(Errno::IO), 0);
        let length = match filled {
            Ok(()) => sys::scatter(&lists.answer, 0, &answer),
            Err(BadChain) => 0,
        };
        worker.lists.give_back(lists);
        Answered {
            length,
            is_large: false,
        }
    }

    /// Asks again for the locks that requests of this queue wait for.
    fn retry_waits(
        &self,
        worker: &mut Worker,
        queue: usize,
        vring: &mut VringState,
        memory: &GuestMemoryMmap,
    ) {
        let before = worker.waits.len();
        worker.waits.retain(|wait| {
            if wait.queue != queue {
                return true;
            }
            let Some(answer) = self.session.retry(wait.unique) else {
                return true;
            };
            let written = memory
                .write_slice(&answer, wait.answer_at)
                .map_or(0, |()| answer.len());
            self.answered(queue, vring, wait.head, written);
            false
        });
        if worker.waits.len() < before {
            worker.next_retry = FIRST_RETRY;
            tell(vring);
        }
    }

    /// Nobody waits for what was taken from the queue.
    fn forget_taken(&self, queue: usize) {
        if let Some(kept) = &self.kept {
            kept.connection.end_all(queue);
        }
    }

    fn forget_waits(&self, of: impl Fn(usize, &Wait) -> bool) {
        for (thread, worker) in self.workers.iter().enumerate() {
            unpoisoned(worker).waits.retain(|wait| {
                let gone = of(thread, wait);
                if gone {
                    self.session.abandon(wait.unique);
                }
                !gone
            });
        }
    }
}

/// A request that is done.
struct Answered {
    /// Of the answer.
    length: usize,
    /// The guest is told at once.
    is_large: bool,
}

impl Worker {
    /// Wakes this thread again while anything waits, less and less often.
    fn arm(&mut self) {
        if self.waits.is_empty() {
            self.next_retry = FIRST_RETRY;
            return;
        }
        let zero = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let wait = Timespec {
            tv_sec: 0,
            tv_nsec: self.next_retry.subsec_nanos().into(),
        };
        let once = Itimerspec {
            it_interval: zero,
            it_value: wait,
        };
        let armed = rustix::time::timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once);
        debug_assert!(armed.is_ok());
        self.next_retry = (self.next_retry * 2).min(LAST_RETRY);
    }
}

/// Tells the guest of answers, if it wants to be told.
fn tell(vring: &mut VringState) {
    if !matches!(vring.needs_notification(), Ok(false)) {
        // A VMM that gave us a bad descriptor to tell it by does not hear.
        vring.signal_used_queue().ok();
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "these are the threads' loops; what they decide by it is in patience"
)]
fn now() -> Instant {
    Instant::now()
}

fn unpoisoned<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The queue's place among the queues of its thread, and that thread.
fn place(queue: usize) -> (usize, usize) {
    if queue <= 1 {
        (0, queue)
    } else {
        (queue - 1, 0)
    }
}

impl VhostUserBackend for Device {
    type Bitmap = ();
    type Vring = Vring;

    fn num_queues(&self) -> usize {
        QUEUES
    }

    fn max_queue_size(&self) -> usize {
        LONGEST_QUEUE
    }

    fn features(&self) -> u64 {
        1 << VIRTIO_F_VERSION_1
            | 1 << VIRTIO_RING_F_INDIRECT_DESC
            | 1 << VIRTIO_RING_F_EVENT_IDX
            | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits()
    }

    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        VhostUserProtocolFeatures::MQ
            | VhostUserProtocolFeatures::REPLY_ACK
            | VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS
            | VhostUserProtocolFeatures::RESET_DEVICE
    }

    fn reset_device(&self) {
        self.forget_waits(|_, _| true);
        for queue in 0..QUEUES {
            self.forget_taken(queue);
        }
    }

    /// The queues know it themselves.
    fn set_event_idx(&self, _: bool) {}

    fn update_memory(&self, memory: Memory) -> io::Result<()> {
        let regions = memory.memory();
        let mut guarded = Vec::new();
        if regions.num_regions() > MOST_REGIONS {
            return Err(io::Error::other("more memory regions than a guest has"));
        }
        for region in regions.iter() {
            let length = usize::try_from(region.len()).map_err(io::Error::other)?;
            let guard = guestmem::guard(region.as_ptr(), length);
            guarded.push(guard.ok_or_else(|| io::Error::other("too many memory regions"))?);
        }
        *unpoisoned(&self.guarded) = guarded;
        Ok(())
    }

    fn queues_per_thread(&self) -> Vec<u64> {
        let mut threads = vec![0; REQUEST_QUEUES];
        for queue in 0..QUEUES {
            threads[place(queue).0] |= 1 << queue;
        }
        threads
    }

    fn exit_event(&self, _: usize) -> Option<(EventConsumer, EventNotifier)> {
        let flags = EventFlag::NONBLOCK | EventFlag::CLOEXEC;
        let pair = new_event_consumer_and_notifier(flags).ok()?;
        unpoisoned(&self.exits).push(pair.0.as_raw_fd());
        Some(pair)
    }

    fn stop_vring(&self, queue: u32) -> io::Result<()> {
        let stopped = usize::try_from(queue)
            .map(place)
            .map_err(io::Error::other)?;
        self.forget_waits(|thread, wait| (thread, wait.queue) == stopped);
        self.forget_taken(usize::try_from(queue).unwrap_or(usize::MAX));
        Ok(())
    }

    /// Never an error: the library would end the thread.
    fn handle_event(
        &self,
        event: u16,
        _: EventSet,
        vrings: &[Vring],
        thread: usize,
    ) -> io::Result<()> {
        let Some(worker) = self.workers.get(thread) else {
            return Ok(());
        };
        let mut worker = unpoisoned(worker);
        // The library starts the threads; the first event comes before the first byte of a guest.
        if !std::mem::replace(&mut worker.confined, true)
            && let Err(error) = calls::confine_thread()
        {
            tracing::warn!(%error, "a guest is served without this stage of the sandbox");
        }
        if let Some(kept) = self.kept.as_ref().filter(|_| !worker.has_journal) {
            worker.has_journal = true;
            kept.journals[0].clone().of_thread();
        }
        if u64::from(event) == TIMER_EVENT {
            let mut fired = [0; 8];
            // WouldBlock: it was armed again meanwhile.
            rustix::io::read(&worker.timer, &mut fired).ok();
            for (queue, vring) in vrings.iter().enumerate() {
                if worker.waits.iter().any(|wait| wait.queue == queue) {
                    let memory = self.memory.memory();
                    self.retry_waits(&mut worker, queue, &mut vring.get_mut(), &memory);
                }
            }
            worker.arm();
        } else {
            self.serve_queue(&mut worker, usize::from(event), vrings);
        }
        Ok(())
    }
}
