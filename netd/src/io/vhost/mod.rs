//! A virtio-net device of a guest (virtio 1.2 §5.1) as a link: frames are read from and written to the guest's own
//! memory by the packet thread, with the work left on them that both sides agreed on. Who the VMM is and what it says
//! over its socket is `services::vhost`'s; here only [`Order`]s arrive, and the guest's kicks.
//!
//! The guest may change its memory while we look at it: a frame is copied out before anybody reads it, and what is
//! read of the rings is checked after it was read.

mod deliver;
pub mod features;
mod ring;
mod steering;

use std::collections::VecDeque;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use rustix::event::epoll;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use vm_memory::{Address, Bytes, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};

use self::deliver::{HEADER, MOST_PARTS, deliver};
use self::ring::Ring;
pub use self::ring::{LONGEST_RING, RingSetup};
use self::steering::{Steering, class};
use super::link::{Sent, TcpFrame};
use super::tap::Read;
use crate::engine::ends::Addresses;
use crate::engine::offload::{Offload, Segmentation, VNET_HEADER};

/// Pairs of queues of one guest.
pub const MOST_PAIRS: usize = 16;
/// Frames that wait for the guest to offer buffers; more are dropped (TCP's never wait here).
const BACKLOG: usize = 1 << 20;
/// Frames taken before the guest may see that they are.
const PUBLISH: u16 = 16;

/// A guest's memory as we have it mapped. The process outlives a file behind it that is cut short.
#[derive(Debug)]
pub struct Memory {
    /// Before the mapping: a guard must not outlive what it guards.
    _guards: Vec<guestmem::Guarded>,
    map: GuestMemoryMmap,
}

impl Memory {
    /// `None` if more regions are in use than this process can guard.
    pub fn new(map: GuestMemoryMmap) -> Option<Self> {
        let guard = |region: &vm_memory::GuestRegionMmap| {
            guestmem::guard(region.as_ptr(), usize::try_from(region.len()).ok()?)
        };
        Some(Self {
            _guards: map.iter().map(guard).collect::<Option<_>>()?,
            map,
        })
    }
}

/// Our end of the VMM's socket: the packet thread can end the session, and does when it lets go of the link.
#[derive(Debug)]
pub struct Session(pub UnixStream);

impl Drop for Session {
    fn drop(&mut self) {
        // Already closed is as good.
        self.0.shutdown(Shutdown::Both).ok();
    }
}

/// What a VMM wants of the device.
#[derive(Debug)]
pub enum Order {
    /// The features that the guest's driver took.
    Features(u64),
    /// The guest's memory from now on.
    Memory(Arc<Memory>),
    /// Begin to use a ring.
    Start(usize, RingSetup),
    /// Use a ring no more; the answer is its next entry.
    Stop(usize),
    /// Let frames pass, or not.
    Enable(usize, bool),
    /// How to wake the guest from now on.
    Call(usize, Option<OwnedFd>),
}

/// Why an order was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum OrderError {
    /// No memory yet, or the ring is not in it.
    #[error("ring {0} does not lie in the guest's memory")]
    RingOutside(usize),
    /// epoll does not take the descriptor.
    #[error("the kick descriptor of ring {0} is of no use: {1}")]
    Kick(usize, rustix::io::Errno),
    /// No such link any more.
    #[error("the link has ended")]
    Ended,
}

/// Where kicks are to be told.
#[derive(Clone, Copy, Debug)]
pub struct Watch<'a> {
    /// The packet thread's.
    pub epoll: BorrowedFd<'a>,
    /// What it tells.
    pub token: u64,
}

impl Watch<'_> {
    /// Edge-triggered: each kick is told once, and the counter need not be read.
    fn add(self, kick: &OwnedFd) -> rustix::io::Result<()> {
        let flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
        epoll::add(
            self.epoll,
            kick,
            epoll::EventData::new_u64(self.token),
            flags,
        )
    }

    /// Closing is not enough: the VMM has the same eventfd open.
    fn remove(self, ring: &Ring) {
        epoll::delete(self.epoll, &ring.kick).ok();
    }
}

/// The device.
#[derive(Debug)]
pub struct Vhost {
    _session: Session,
    memory: Option<Arc<Memory>>,
    features: u64,
    /// The ring for frames to the guest and the one for frames from it, for each pair.
    rings: Vec<Option<Ring>>,
    /// Pairs whose ring to the guest is in use.
    pairs: usize,
    steering: Steering,
    backlog: VecDeque<(Offload, Box<[u8]>)>,
    backlog_bytes: usize,
    /// The guest has no buffers; it kicks when it has.
    full: bool,
    /// The pair to be looked at next for frames from the guest.
    next: usize,
}

impl Vhost {
    /// A device that no guest uses yet.
    pub fn new(session: Session) -> Self {
        Self {
            _session: session,
            memory: None,
            features: 0,
            rings: (0..2 * MOST_PAIRS).map(|_| None).collect(),
            pairs: 0,
            steering: Steering::new(),
            backlog: VecDeque::new(),
            backlog_bytes: 0,
            full: false,
            next: 0,
        }
    }

    /// Does what the VMM wants; answers [`Order::Stop`] with the ring's next entry.
    pub fn obey(&mut self, order: Order, watch: Watch<'_>) -> Result<u16, OrderError> {
        match order {
            Order::Features(features) => {
                self.features = features;
                let event_index = self.has(features::EVENT_INDEX);
                for ring in self.rings.iter_mut().flatten() {
                    ring.set_event_index(event_index);
                }
            }
            Order::Memory(memory) => {
                for place in &mut self.rings {
                    if let Some(ring) = place.take_if(|ring| !ring.fits(&memory.map)) {
                        watch.remove(&ring);
                    }
                }
                self.memory = Some(memory);
            }
            Order::Start(index, setup) => {
                let outside = OrderError::RingOutside(index);
                let event_index = self.has(features::EVENT_INDEX);
                let Some((memory, place)) = self.memory.as_ref().zip(self.rings.get_mut(index))
                else {
                    return Err(outside);
                };
                if let Some(old) = place.take() {
                    watch.remove(&old);
                }
                let ring = Ring::start(setup, &memory.map, event_index).ok_or(outside)?;
                watch
                    .add(&ring.kick)
                    .map_err(|errno| OrderError::Kick(index, errno))?;
                *place = Some(ring);
            }
            Order::Stop(index) => {
                let ring = self.rings.get_mut(index).and_then(Option::take);
                let next = ring.map_or(0, |ring| {
                    watch.remove(&ring);
                    ring.next_available()
                });
                self.count_pairs();
                return Ok(next);
            }
            Order::Enable(index, enabled) => {
                if let Some(ring) = self.ring(index) {
                    ring.enabled = enabled;
                }
            }
            Order::Call(index, call) => {
                if let Some(ring) = self.ring(index) {
                    ring.set_call(call);
                }
            }
        }
        self.count_pairs();
        Ok(0)
    }

    /// Nothing may be told of this device any more.
    pub fn unwatch(&mut self, watch: Watch<'_>) {
        for ring in self.rings.iter_mut().filter_map(Option::take) {
            watch.remove(&ring);
        }
    }

    fn ring(&mut self, index: usize) -> Option<&mut Ring> {
        self.rings.get_mut(index)?.as_mut()
    }

    fn count_pairs(&mut self) {
        let usable = |ring: &Option<Ring>| ring.as_ref().is_some_and(Ring::usable);
        self.pairs = self
            .rings
            .iter()
            .step_by(2)
            .take_while(|ring| usable(ring))
            .count();
        if self.pairs == 0 {
            // As a cable that was pulled.
            self.backlog.clear();
            self.backlog_bytes = 0;
        }
    }

    fn has(&self, feature: u64) -> bool {
        self.features & feature != 0
    }

    /// Whether the guest does the work that is left on a frame.
    pub fn takes(&self, offload: &Offload) -> bool {
        let checksum = !offload.needs_checksum || self.has(features::GUEST_CHECKSUM);
        checksum
            && match offload.segmentation {
                Segmentation::None => true,
                Segmentation::Tcp4 => {
                    self.has(features::GUEST_TSO4)
                        && (!offload.ecn || self.has(features::GUEST_ECN))
                }
                Segmentation::Tcp6 => {
                    self.has(features::GUEST_TSO6)
                        && (!offload.ecn || self.has(features::GUEST_ECN))
                }
                Segmentation::Udp => {
                    self.has(features::GUEST_USO4) && self.has(features::GUEST_USO6)
                }
            }
    }

    fn header_length(&self) -> usize {
        if self.has(features::VERSION_1 | features::MERGEABLE) {
            HEADER
        } else {
            VNET_HEADER
        }
    }

    /// Copies the next frame of the guest into `buffer`.
    pub fn read(&mut self, buffer: &mut [u8]) -> Read {
        let Some(memory) = self.memory.clone() else {
            return Read::Empty;
        };
        let header_length = self.header_length();
        for _ in 0..MOST_PAIRS {
            let pair = self.next;
            let Some(ring) = self.ring(2 * pair + 1).filter(|ring| ring.usable()) else {
                self.next = 0;
                if pair == 0 {
                    return Read::Empty;
                }
                continue;
            };
            let Some(chain) = ring.pop(&memory.map) else {
                self.next = (pair + 1) % MOST_PAIRS;
                continue;
            };
            let head = chain.head_index();
            let mut header = [0; HEADER];
            let length = copy_out(&memory.map, chain, &mut header[..header_length], buffer);
            ring.give_back(&memory.map, head, 0);
            if ring.unpublished() >= PUBLISH {
                ring.publish(&memory.map);
            }
            let offload = header.first_chunk().and_then(Offload::parse);
            let (Some(length), Some(offload)) = (length, offload) else {
                return Read::Malformed;
            };
            if self.pairs > 1 {
                self.steering.learn(class(&buffer[..length]), pair);
            }
            return Read::Frame(0..length, offload);
        }
        Read::Empty
    }

    /// Tells the guest what was read; true if it has more for us already, else it will kick.
    pub fn end_turn(&mut self) -> bool {
        let Some(memory) = &self.memory else {
            return false;
        };
        let mut more = false;
        for ring in self.rings.iter_mut().skip(1).step_by(2).flatten() {
            ring.publish(&memory.map);
            ring.notify(&memory.map);
            more |= ring.usable() && ring.watch(&memory.map);
        }
        more
    }

    /// While frames are read the guest need not kick.
    pub fn begin_turn(&mut self) {
        let Some(memory) = &self.memory else { return };
        for ring in self.rings.iter_mut().skip(1).step_by(2).flatten() {
            ring.look_away(&memory.map);
        }
    }

    /// No room: TCP waits.
    pub fn is_full(&self) -> bool {
        self.full || !self.backlog.is_empty()
    }

    /// Sends a frame, or keeps it until the guest offers buffers.
    pub fn queue(&mut self, frame: &[u8], offload: &Offload) -> Sent {
        if self.backlog.is_empty() {
            match self.write(offload, &[frame], frame) {
                Sent::Full => {}
                sent @ (Sent::Taken | Sent::Dropped | Sent::Gone) => return sent,
            }
        }
        if self.backlog_bytes + frame.len() > BACKLOG {
            return Sent::Dropped;
        }
        self.backlog_bytes += frame.len();
        self.backlog.push_back((*offload, frame.into()));
        Sent::Taken
    }

    /// Sends what waits and tells the guest of everything it was sent.
    pub fn flush(&mut self) -> Sent {
        let mut sent = Sent::Taken;
        while let Some((offload, frame)) = self.backlog.pop_front() {
            if self.write(&offload, &[&frame], &frame) == Sent::Full {
                self.backlog.push_front((offload, frame));
                sent = Sent::Full;
                break;
            }
            self.backlog_bytes -= frame.len();
        }
        self.notify();
        sent
    }

    fn notify(&mut self) {
        let Some(memory) = &self.memory else { return };
        for ring in self.rings.iter_mut().step_by(2).take(self.pairs).flatten() {
            ring.notify(&memory.map);
        }
    }

    /// One frame: its bytes as slices, `start` being enough of them to know its flow by.
    fn write(&mut self, offload: &Offload, slices: &[&[u8]], start: &[u8]) -> Sent {
        let Some(memory) = &self.memory else {
            return Sent::Dropped;
        };
        let pair = match self.pairs {
            0 => return Sent::Dropped,
            1 => 0,
            count => self.steering.pair(class(start), count),
        };
        let Some(Some(ring)) = self.rings.get_mut(2 * pair) else {
            return Sent::Dropped;
        };
        let mut header = [0; HEADER];
        header[..VNET_HEADER].copy_from_slice(&offload.emit());
        header[VNET_HEADER] = 1;
        let length = if self.features & (features::VERSION_1 | features::MERGEABLE) == 0 {
            VNET_HEADER
        } else {
            HEADER
        };
        let mut all = [&[][..]; SLICES + 2];
        all[0] = &header[..length];
        let mut count = 1;
        for slice in slices.iter().filter(|slice| !slice.is_empty()) {
            let Some(place) = all.get_mut(count) else {
                return Sent::Dropped;
            };
            *place = slice;
            count += 1;
        }
        let mergeable = self.features & features::MERGEABLE != 0;
        let sent = deliver(ring, &memory.map, &all[..count], mergeable);
        let broken = ring.broken;
        self.full = sent == Sent::Full;
        if broken {
            self.count_pairs();
        }
        sent
    }

    /// Sends TCP payload, in one frame if the guest cuts it itself; says how many bytes of it were taken.
    pub fn write_tcp(&mut self, frame: &TcpFrame<'_>) -> (usize, Sent) {
        if self.is_full() {
            return (0, Sent::Full);
        }
        let cuts = match frame.path.addresses {
            Addresses::V4 { .. } => features::GUEST_TSO4,
            Addresses::V6 { .. } => features::GUEST_TSO6,
        };
        let whole = if self.has(cuts) {
            frame.length()
        } else {
            frame.mss
        };
        let mut done = 0;
        let sent = loop {
            let end = (done + whole).min(frame.length());
            match self.write_tcp_part(frame, done, end) {
                Sent::Taken | Sent::Dropped => {}
                stop @ (Sent::Full | Sent::Gone) => break stop,
            }
            done = end;
            if done == frame.length() {
                break Sent::Taken;
            }
        };
        self.notify();
        (done, sent)
    }

    fn write_tcp_part(&mut self, frame: &TcpFrame<'_>, start: usize, end: usize) -> Sent {
        let (headers, offload) = if self.has(features::GUEST_CHECKSUM) {
            frame.offloaded(start, end)
        } else {
            (frame.sealed(start, end), Offload::default())
        };
        let mut slices = [&[][..]; SLICES + 1];
        slices[0] = &headers;
        let mut count = 1;
        frame.each_slice(start, end, |slice| {
            if let Some(place) = slices.get_mut(count) {
                *place = slice;
                count += 1;
            }
        });
        let (slices, start) = (&slices[..count], slices[0]);
        self.write(&offload, slices, start)
    }
}

/// Payload slices of one frame, and its headers.
const SLICES: usize = 17;

/// Copies a chain of the guest into `header` and `frame`; the frame's length, or `None` if it is no frame.
fn copy_out(
    memory: &GuestMemoryMmap,
    chain: virtio_queue::DescriptorChain<&GuestMemoryMmap>,
    header: &mut [u8],
    frame: &mut [u8],
) -> Option<usize> {
    let mut got = 0;
    for (number, part) in chain.enumerate() {
        if number == MOST_PARTS || part.is_write_only() {
            return None;
        }
        let length = part.len() as usize;
        let in_header = length.min(header.len().saturating_sub(got));
        if in_header > 0 {
            let room = &mut header[got..got + in_header];
            memory.read_slice(room, part.addr()).ok()?;
        }
        if length > in_header {
            let at = (got + in_header).checked_sub(header.len())?;
            let room = frame.get_mut(at..at.checked_add(length - in_header)?)?;
            let address = part.addr().checked_add(in_header as u64)?;
            memory.read_slice(room, address).ok()?;
        }
        got += length;
    }
    got.checked_sub(header.len())
}

impl AsFd for Session {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
