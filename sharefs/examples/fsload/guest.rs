//! The guest's side of one virtio-fs request queue, and of the vhost-user socket that sets it up.
//!
//! Requests have Linux's shape (fs/fuse/virtio_fs.c): header, arguments and each page of data are ranges of
//! their own in an indirect table. Notifications both ways follow event indices, as with Linux. A
//! request has one of sixteen slots, and its own memory there.
//! Read first: virtio 1.2, 2.7 (split virtqueues).

use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::sync::atomic::{Ordering, fence};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use vhost::vhost_user::message::{VhostUserProtocolFeatures, VhostUserVirtioFeatures};
use vhost::vhost_user::{Frontend, VhostUserFrontend as _};
use vhost::{VhostBackend as _, VhostUserMemoryRegionInfo, VringConfigData};
use vm_memory::{Bytes as _, FileOffset, GuestAddress, GuestMemoryBackend as _, GuestMemoryMmap};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::clock::now;
use crate::fuse::{self, IN_HEADER, OUT_HEADER, Request};

/// Requests that can be under way at once.
pub(crate) const SLOTS: u16 = 16;

/// QEMU's default.
const QUEUE: u16 = 128;
/// Queue 0 is for FORGET and stays empty, queue 1 is for requests.
const QUEUES: usize = 2;
const REQUESTS: usize = 1;
const VERSION_1: u64 = 1 << 32;
const INDIRECT: u64 = 1 << 28;
const EVENT_IDX: u64 = 1 << 29;

// Of each queue, from its place in memory.
const DESCRIPTORS: u64 = 0;
const AVAILABLE: u64 = 0x2000;
const USED: u64 = 0x4000;
const QUEUE_ROOM: u64 = 0x1_0000;
// Of each slot.
const TABLE: u64 = 0;
const SAID: u64 = 0x4000;
const ANSWER: u64 = 0x3_0000;
const DATA: u64 = 0x4_0000;
const SLOT_ROOM: u64 = 0x20_0000;
const FIRST_SLOT: u64 = 0x10_0000;
const SIZE: u64 = FIRST_SLOT + SLOT_ROOM * SLOTS as u64;

const PAGE: usize = 4096;
const NEXT: u16 = 1;
const DEVICE_WRITES: u16 = 2;
const HAS_TABLE: u16 = 4;
/// No daemon takes that long; one that ended never answers.
const PATIENCE: Duration = Duration::from_secs(5);

/// How the guest learns of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wait {
    /// It looks at the queue all the time.
    Looking,
    /// It sleeps until the device's interrupt.
    Asleep,
}

/// See the module's head.
pub(crate) struct Guest {
    /// The connection; closing it ends the device.
    _frontend: Frontend,
    memory: GuestMemoryMmap,
    kick: EventFd,
    call: EventFd,
    /// Readable when `call` is.
    interrupts: Epoll,
    wait: Wait,
    offered: u16,
    told: u16,
    taken: u16,
}

impl Guest {
    /// Connects as QEMU does, and mounts.
    pub(crate) fn connect(socket: &Path) -> Result<Self> {
        let file = rustix::fs::memfd_create("guest", rustix::fs::MemfdFlags::CLOEXEC)?;
        rustix::fs::ftruncate(&file, SIZE)?;
        let size = usize::try_from(SIZE)?;
        let ranges = [(GuestAddress(0), size, Some(FileOffset::new(file.into(), 0)))];
        let memory = GuestMemoryMmap::from_ranges_with_files(ranges).context("map memory")?;
        for page in (0..SIZE).step_by(PAGE) {
            // So that no page has to be found while time is measured.
            memory.write_obj(0_u8, GuestAddress(page))?;
        }

        let mut frontend = Frontend::connect(socket, QUEUES as u64)
            .with_context(|| format!("connect to {}", socket.display()))?;
        frontend.set_owner()?;
        let wanted =
            VERSION_1 | INDIRECT | EVENT_IDX | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();
        let features = frontend.get_features()? & wanted;
        ensure!(
            features & VERSION_1 != 0,
            "the device knows no VIRTIO_F_VERSION_1"
        );
        let protocol = frontend.get_protocol_features()?
            & (VhostUserProtocolFeatures::MQ | VhostUserProtocolFeatures::REPLY_ACK);
        frontend.set_protocol_features(protocol)?;
        frontend.set_features(features)?;
        let mut regions = Vec::new();
        for region in memory.iter() {
            regions.push(VhostUserMemoryRegionInfo::from_guest_region(region)?);
        }
        frontend.set_mem_table(&regions)?;
        let own = regions.first().context("no memory")?.userspace_addr;
        let event = || EventFd::new(EFD_NONBLOCK);
        let (kick, call, spare, other) = (event()?, event()?, event()?, event()?);
        let interrupts = Epoll::new()?;
        let readable = EpollEvent::new(EventSet::IN, 0);
        interrupts.ctl(ControlOperation::Add, call.as_raw_fd(), readable)?;
        for queue in 0..QUEUES {
            let place = own + place_of(queue);
            frontend.set_vring_num(queue, QUEUE)?;
            frontend.set_vring_addr(
                queue,
                &VringConfigData {
                    queue_max_size: QUEUE,
                    queue_size: QUEUE,
                    flags: 0,
                    desc_table_addr: place + DESCRIPTORS,
                    used_ring_addr: place + USED,
                    avail_ring_addr: place + AVAILABLE,
                    log_addr: None,
                },
            )?;
            frontend.set_vring_base(queue, 0)?;
            let of_requests = queue == REQUESTS;
            frontend.set_vring_call(queue, if of_requests { &call } else { &other })?;
            frontend.set_vring_kick(queue, if of_requests { &kick } else { &spare })?;
            frontend.set_vring_enable(queue, true)?;
        }
        ensure!(
            features & EVENT_IDX != 0 && features & INDIRECT != 0,
            "the device knows no event indices or no indirect tables"
        );
        let mut guest = Self {
            _frontend: frontend,
            memory,
            kick,
            call,
            interrupts,
            wait: Wait::Looking,
            offered: 0,
            told: 0,
            taken: 0,
        };
        guest.ask(&fuse::init()).context("INIT")?;
        Ok(guest)
    }

    /// From now on the guest learns of answers so.
    pub(crate) fn learn_by(&mut self, wait: Wait) {
        self.wait = wait;
    }

    /// Writes a request into its slot; it is not offered yet.
    pub(crate) fn put(&self, slot: u16, request: &Request) -> Result<()> {
        let base = place_of_slot(slot);
        self.memory
            .write_slice(&request.bytes, GuestAddress(base + SAID))?;
        let mut table = Vec::new();
        let mut range = |at: u64, length: usize, flags: u16| -> Result<()> {
            let next = u16::try_from(table.len() / 16 + 1)?;
            table.extend(at.to_le_bytes());
            table.extend(u32::try_from(length)?.to_le_bytes());
            table.extend((flags | NEXT).to_le_bytes());
            table.extend(next.to_le_bytes());
            Ok(())
        };
        range(base + SAID, IN_HEADER, 0)?;
        let arguments = request.bytes.len() - IN_HEADER;
        if arguments > 0 {
            range(base + SAID + IN_HEADER as u64, arguments, 0)?;
        }
        for (at, length) in pages(base + DATA, request.given) {
            range(at, length, 0)?;
        }
        if request.answer + request.taken > 0 || !is_forget(request) {
            range(base + ANSWER, OUT_HEADER, DEVICE_WRITES)?;
        }
        if request.answer > 0 {
            let at = base + ANSWER + OUT_HEADER as u64;
            range(at, request.answer, DEVICE_WRITES)?;
        }
        for (at, length) in pages(base + DATA, request.taken) {
            range(at, length, DEVICE_WRITES)?;
        }
        // The last has no next.
        let flags = table.len() - 4;
        table[flags] &= !u8::try_from(NEXT)?;
        self.memory
            .write_slice(&table, GuestAddress(base + TABLE))?;
        let mut descriptor = (base + TABLE).to_le_bytes().to_vec();
        descriptor.extend(u32::try_from(table.len())?.to_le_bytes());
        descriptor.extend(HAS_TABLE.to_le_bytes());
        descriptor.extend([0; 2]);
        let at = place_of(REQUESTS) + DESCRIPTORS + 16 * u64::from(slot);
        self.memory.write_slice(&descriptor, GuestAddress(at))?;
        Ok(())
    }

    /// Makes what is in a slot available; the device is told by `tell`.
    pub(crate) fn offer(&mut self, slot: u16) -> Result<()> {
        let place = u64::from(self.offered % QUEUE);
        self.store(AVAILABLE + 4 + 2 * place, slot)?;
        self.offered = self.offered.wrapping_add(1);
        Ok(())
    }

    /// Tells the device of what was offered, by an event only if it wants one.
    pub(crate) fn tell(&mut self) -> Result<()> {
        self.store(AVAILABLE + 2, self.offered)?;
        fence(Ordering::SeqCst);
        let wanted = self.load(USED + 4 + 8 * u64::from(QUEUE))?;
        if is_due(wanted, self.offered, self.told) {
            self.kick.write(1)?;
        }
        self.told = self.offered;
        Ok(())
    }

    /// The slot of the next answer, when it is there.
    pub(crate) fn take(&mut self) -> Result<u16> {
        if !self.is_there()? {
            self.await_answer()?;
        }
        let at = place_of(REQUESTS) + USED + 4 + 8 * u64::from(self.taken % QUEUE);
        let slot: u32 = self.memory.load(GuestAddress(at), Ordering::Relaxed)?;
        self.taken = self.taken.wrapping_add(1);
        if self.wait == Wait::Looking {
            // An index that the device is past already: it need not interrupt.
            self.store(
                AVAILABLE + 4 + 2 * u64::from(QUEUE),
                self.taken.wrapping_sub(1),
            )?;
        }
        Ok(u16::try_from(slot)?)
    }

    /// Whether an answer waits to be taken.
    pub(crate) fn is_there(&self) -> Result<bool> {
        Ok(self.load(USED + 2)? != self.taken)
    }

    fn await_answer(&self) -> Result<()> {
        let begin = now();
        loop {
            match self.wait {
                Wait::Looking => {
                    for _ in 0..1 << 16 {
                        if self.is_there()? {
                            return Ok(());
                        }
                        std::hint::spin_loop();
                    }
                }
                Wait::Asleep => {
                    self.store(AVAILABLE + 4 + 2 * u64::from(QUEUE), self.taken)?;
                    fence(Ordering::SeqCst);
                    if self.is_there()? {
                        return Ok(());
                    }
                    let mut events = [EpollEvent::default()];
                    if self.interrupts.wait(1000, &mut events)? > 0 {
                        self.call.read()?;
                    }
                }
            }
            if begin.elapsed() > PATIENCE {
                bail!("no answer within {} s", PATIENCE.as_secs());
            }
        }
    }

    /// One request and its answer's body; an error that the request does not expect is an error.
    pub(crate) fn ask(&mut self, request: &Request) -> Result<Vec<u8>> {
        self.put(0, request)?;
        self.offer(0)?;
        self.tell()?;
        self.take()?;
        self.answer(0, request)
    }

    /// Checks the answer in a slot; its error if there is one.
    pub(crate) fn check(&self, slot: u16, request: &Request) -> Result<()> {
        if is_forget(request) {
            return Ok(());
        }
        let at = GuestAddress(place_of_slot(slot) + ANSWER + 4);
        let error: i32 = self.memory.read_obj(at)?;
        if error == 0 && request.errors.is_empty() || request.errors.contains(&-error) {
            return Ok(());
        }
        let opcode = request.bytes.get(4).copied().unwrap_or_default();
        bail!("request {opcode} was answered by errno {}", -error);
    }

    /// The same, with the body: arguments, or data where the request asked for data.
    pub(crate) fn answer(&self, slot: u16, request: &Request) -> Result<Vec<u8>> {
        self.check(slot, request)?;
        if is_forget(request) {
            return Ok(Vec::new());
        }
        let base = place_of_slot(slot);
        let length: u32 = self.memory.read_obj(GuestAddress(base + ANSWER))?;
        let length = usize::try_from(length)?.saturating_sub(OUT_HEADER);
        let at = if request.taken > 0 {
            base + DATA
        } else {
            base + ANSWER + OUT_HEADER as u64
        };
        let mut body = vec![0; length.min(request.taken + request.answer)];
        self.memory.read_slice(&mut body, GuestAddress(at))?;
        Ok(body)
    }

    fn store(&self, at: u64, value: u16) -> Result<()> {
        let at = GuestAddress(place_of(REQUESTS) + at);
        Ok(self.memory.store(value, at, Ordering::Release)?)
    }

    fn load(&self, at: u64) -> Result<u16> {
        let at = GuestAddress(place_of(REQUESTS) + at);
        Ok(self.memory.load(at, Ordering::Acquire)?)
    }
}

fn place_of(queue: usize) -> u64 {
    QUEUE_ROOM * queue as u64
}

fn place_of_slot(slot: u16) -> u64 {
    FIRST_SLOT + SLOT_ROOM * u64::from(slot)
}

fn pages(at: u64, length: usize) -> impl Iterator<Item = (u64, usize)> {
    (0..length)
        .step_by(PAGE)
        .map(move |done| (at + done as u64, PAGE.min(length - done)))
}

/// virtio 1.2, 2.7.10: whether `event` was passed on the way from `old` to `new`.
fn is_due(event: u16, new: u16, old: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}

fn is_forget(request: &Request) -> bool {
    request.bytes.get(4..8) == Some(&42_u32.to_le_bytes())
}
