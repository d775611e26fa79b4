//! Frames of this network's links for whoever captures: stamped, filtered, cut, and put into a queue that
//! has a bound. With nobody capturing it costs one branch a frame.
//!
//! A frame is shown as it passes on its link: on links with offloads up to 64 KiB long. Checksums that
//! were left to the other side are filled in, as nobody can tell them from wrong ones afterwards.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use control::capture::Filter;
use control::names::GuestName;
use tokio::sync::mpsc;

use super::context::Context;
use super::worker;
use crate::engine::capture::matches;
use crate::engine::offload::{Offload, finish_checksum};
use crate::engine::services::LinkId;
use crate::io::link::TcpFrame;
use crate::wire::pcapng::{Direction, Packet};

/// Captures of one network at a time; each costs a copy of every frame.
const MOST: usize = 4;
/// Frames that wait for a reader, and their bytes; more are counted as dropped.
const QUEUE: usize = 8_192;
const QUEUE_BYTES: usize = 16 << 20;

/// Tells captures of one network apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CaptureId(pub u64);

/// What is to be captured.
#[derive(Clone, Debug)]
pub struct NewCapture {
    /// Its number.
    pub id: CaptureId,
    /// Only this guest's links.
    pub guest: Option<GuestName>,
    /// Bytes kept of each frame.
    pub snapshot: usize,
    /// It ends after this many frames.
    pub count: Option<u64>,
    /// Only these frames.
    pub filter: Filter,
}

/// What comes out, in the order in which a file has it.
#[derive(Debug)]
pub enum Captured {
    /// The next interface.
    Interface {
        /// Guest or link number.
        name: String,
        /// For people.
        description: String,
    },
    /// A frame.
    Frame(Packet),
    /// The end: frames seen and dropped, by interface.
    End(Vec<(u64, u64)>),
}

/// The reader's end.
#[derive(Debug)]
pub struct CaptureReader {
    queue: mpsc::Receiver<Captured>,
    waiting: Arc<AtomicUsize>,
}

impl CaptureReader {
    /// The next piece; `None` after the end, or when the packet thread has ended.
    pub async fn next(&mut self) -> Option<Captured> {
        let captured = self.queue.recv().await?;
        Some(self.noted(captured))
    }

    /// The next piece if it is there already.
    pub fn ready(&mut self) -> Option<Captured> {
        let captured = self.queue.try_recv().ok()?;
        Some(self.noted(captured))
    }

    fn noted(&self, captured: Captured) -> Captured {
        if let Captured::Frame(packet) = &captured {
            self.waiting
                .fetch_sub(packet.bytes.len(), Ordering::Relaxed);
        }
        captured
    }
}

#[derive(Debug)]
struct Interface {
    link: LinkId,
    seen: u64,
    dropped: u64,
}

#[derive(Debug)]
struct Capture {
    wanted: NewCapture,
    queue: mpsc::Sender<Captured>,
    /// A place in the queue that the end can always take.
    end: mpsc::OwnedPermit<Captured>,
    waiting: Arc<AtomicUsize>,
    interfaces: Vec<Interface>,
    taken: u64,
}

/// The captures of one network.
#[derive(Debug, Default)]
pub(super) struct Captures {
    running: Vec<Capture>,
}

impl Captures {
    /// Nobody captures: the one branch.
    pub(super) fn is_empty(&self) -> bool {
        self.running.is_empty()
    }

    /// Begins one; `None` when there are too many.
    pub(super) fn start(&mut self, wanted: NewCapture) -> Option<CaptureReader> {
        if self.running.len() >= MOST {
            return None;
        }
        let (queue, receiver) = mpsc::channel(QUEUE + 1);
        let end = queue.clone().try_reserve_owned().ok()?;
        let waiting = Arc::new(AtomicUsize::new(0));
        self.running.push(Capture {
            wanted,
            queue,
            end,
            waiting: Arc::clone(&waiting),
            interfaces: Vec::new(),
            taken: 0,
        });
        Some(CaptureReader {
            queue: receiver,
            waiting,
        })
    }

    /// Ends one; its reader gets what waits and the counts.
    pub(super) fn stop(&mut self, id: CaptureId) {
        if let Some(at) = self
            .running
            .iter()
            .position(|capture| capture.wanted.id == id)
        {
            self.running.swap_remove(at).finish();
        }
    }

    fn take(
        &mut self,
        link: LinkId,
        guest: Option<&GuestName>,
        direction: Direction,
        frame: &[u8],
    ) {
        let now = worker::wall_clock();
        let mut over = Vec::new();
        for capture in &mut self.running {
            if !capture.take(link, guest, direction, (frame, now)) {
                over.push(capture.wanted.id);
            }
        }
        for id in over {
            self.stop(id);
        }
    }
}

impl Capture {
    fn finish(self) {
        let counts = self
            .interfaces
            .iter()
            .map(|interface| (interface.seen, interface.dropped));
        self.end.send(Captured::End(counts.collect()));
    }

    /// False when it is over.
    fn take(
        &mut self,
        link: LinkId,
        guest: Option<&GuestName>,
        direction: Direction,
        (frame, now): (&[u8], u64),
    ) -> bool {
        let wanted = &self.wanted;
        if wanted.guest.is_some() && wanted.guest.as_ref() != guest
            || !matches(&wanted.filter, frame)
        {
            return true;
        }
        let Some(at) = self.interface(link, guest) else {
            return !self.queue.is_closed();
        };
        let kept = frame.len().min(self.wanted.snapshot);
        let crowded = self.waiting.load(Ordering::Relaxed) + kept > QUEUE_BYTES;
        let place = (!crowded).then(|| self.queue.try_reserve());
        let interface = &mut self.interfaces[at];
        interface.seen += 1;
        let Some(Ok(place)) = place else {
            interface.dropped += 1;
            return !self.queue.is_closed();
        };
        self.waiting.fetch_add(kept, Ordering::Relaxed);
        place.send(Captured::Frame(Packet {
            interface: u32::try_from(at).unwrap_or(u32::MAX),
            nanoseconds: now,
            direction,
            length: u32::try_from(frame.len()).unwrap_or(u32::MAX),
            bytes: frame[..kept].to_vec(),
        }));
        self.taken += 1;
        self.wanted.count.is_none_or(|count| self.taken < count)
    }

    /// The number of a link's interface, told to the reader before its first frame.
    fn interface(&mut self, link: LinkId, guest: Option<&GuestName>) -> Option<usize> {
        let known = self.interfaces.iter().position(|known| known.link == link);
        if known.is_some() {
            return known;
        }
        let place = self.queue.try_reserve().ok()?;
        place.send(Captured::Interface {
            name: guest.map_or_else(|| format!("link{}", link.0), ToString::to_string),
            description: format!("link {} of a guest", link.0),
        });
        self.interfaces.push(Interface {
            link,
            seen: 0,
            dropped: 0,
        });
        Some(self.interfaces.len() - 1)
    }
}

impl Context {
    /// A frame on a link, for whoever captures. Ask [`Captures::is_empty`] first.
    #[cold]
    pub(super) fn capture(
        &mut self,
        link: LinkId,
        direction: Direction,
        frame: &[u8],
        offload: &Offload,
    ) {
        let guest = self.guest_on(link).cloned();
        if offload.needs_checksum {
            let mut whole = frame.to_vec();
            let (start, offset) = (offload.checksum_start, offload.checksum_offset);
            // Where the field lies outside, the frame is shown as it is.
            let _finished = finish_checksum(&mut whole, start.into(), offset.into());
            self.captures.take(link, guest.as_ref(), direction, &whole);
        } else {
            self.captures.take(link, guest.as_ref(), direction, frame);
        }
    }

    /// TCP payload that a link took, with its headers.
    #[cold]
    pub(super) fn capture_tcp(&mut self, link: LinkId, frame: &TcpFrame<'_>, taken: usize) {
        let guest = self.guest_on(link).cloned();
        let whole = frame.assemble(taken);
        self.captures
            .take(link, guest.as_ref(), Direction::Outbound, &whole);
    }
}
