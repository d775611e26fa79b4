//! A measurement, not a product: TCP NAT on smoltcp's own sockets, one small `Interface` and
//! `SocketSet` for each flow, behind a tap with the virtio-net header.
//!
//! `cargo xtask bench net` runs it beside sharectl-netd; docs/decisions/0001-tcp-engine.md draws the
//! conclusion. It does outward TCP over IPv4 and answers ARP; it has no limits, no policy, no UDP, no
//! published ports. Its rings are pooled, mapped lazily and given back when a flow idles.
//!
//! Usage: `smoltcp_engine IFNAME OUTSIDE`: opens the tap IFNAME in the namespace it is started in,
//! then moves to the namespace file OUTSIDE, where its own sockets live.

mod flow;
mod port;
mod sys;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::io::Write as _;
use std::net::SocketAddrV4;
use std::time::Instant as Clock;

use anyhow::{Context as _, Result};
use rustix::buffer::spare_capacity;
use rustix::event::epoll;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use rustix::time::Timespec;
use smoltcp::time::{Duration, Instant};

use flow::Flow;
use port::{HEADERS, Tap};

/// Frames taken from the tap before the flows they belong to are served.
const BATCH: usize = 64;
/// How often idle flows are looked for.
const SWEEP: Duration = Duration::from_millis(1000);

const TAP: u64 = 0;

/// The four numbers of a flow: guest's end, far end.
type Key = (SocketAddrV4, SocketAddrV4);

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let name = arguments.next().context("no interface name")?;
    let outside = arguments.next().context("no outside namespace")?;
    let tap = sys::open_tap(&name).context("open the tap")?;
    let namespace = File::open(&outside).with_context(|| format!("open {outside}"))?;
    let network = Some(LinkNameSpaceType::Network);
    move_into_link_name_space(rustix::fd::AsFd::as_fd(&namespace), network)?;
    let mut engine = Engine::new(Tap::new(tap))?;
    writeln!(std::io::stdout(), "ready")?;
    engine.run()
}

struct Engine {
    tap: Tap,
    epoll: rustix::fd::OwnedFd,
    flows: BTreeMap<u64, Flow>,
    ids: HashMap<Key, u64>,
    /// When a flow wants to be polled again; at most one entry a flow.
    timers: BTreeSet<(Instant, u64)>,
    rings: sys::RingPool,
    next: u64,
    started: Clock,
    now: Instant,
}

impl Engine {
    fn new(tap: Tap) -> Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let data = epoll::EventData::new_u64(TAP);
        epoll::add(&epoll, tap.descriptor(), data, epoll::EventFlags::IN)?;
        Ok(Self {
            tap,
            epoll,
            flows: BTreeMap::new(),
            ids: HashMap::new(),
            timers: BTreeSet::new(),
            rings: sys::RingPool::default(),
            next: TAP + 1,
            started: clock(),
            now: Instant::ZERO,
        })
    }

    fn run(&mut self) -> Result<()> {
        let mut events = Vec::with_capacity(256);
        let mut frame = vec![0; HEADERS + 65_536];
        let mut touched = BTreeSet::new();
        let mut sweep_at = SWEEP;
        loop {
            let timeout = self.timeout();
            match epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&timeout)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            self.tick();
            for event in events.drain(..) {
                let (token, flags) = (event.data.u64(), event.flags);
                if token == TAP {
                    for _ in 0..BATCH {
                        let Ok(length) = rustix::io::read(self.tap.descriptor(), &mut frame) else {
                            break;
                        };
                        if let Some(bytes) = frame.get_mut(..length) {
                            touched.extend(self.take_frame(bytes));
                        }
                    }
                } else if let Some(flow) = self.flows.get_mut(&token) {
                    flow.host_is_ready(flags);
                    touched.insert(token);
                }
            }
            while let Some(&(at, id)) = self.timers.first() {
                if at > self.now {
                    break;
                }
                self.timers.pop_first();
                if let Some(flow) = self.flows.get_mut(&id) {
                    flow.timer = None;
                    touched.insert(id);
                }
            }
            for id in std::mem::take(&mut touched) {
                self.serve(id);
            }
            if self.now >= Instant::ZERO + sweep_at {
                sweep_at = Duration::from_micros(self.now.total_micros().unsigned_abs()) + SWEEP;
                for flow in self.flows.values_mut() {
                    flow.give_back_if_idle();
                }
            }
        }
    }

    fn tick(&mut self) {
        let micros = clock().duration_since(self.started).as_micros();
        self.now = Instant::from_micros(i64::try_from(micros).unwrap_or(i64::MAX));
    }

    fn timeout(&self) -> Timespec {
        let until_sweep = SWEEP.total_micros();
        let micros = self.timers.first().map_or(until_sweep, |(at, _)| {
            (*at - self.now).total_micros().min(until_sweep)
        });
        Timespec {
            tv_sec: i64::try_from(micros / 1_000_000).unwrap_or(0),
            tv_nsec: i64::try_from(micros % 1_000_000 * 1000).unwrap_or(0),
        }
    }

    /// One frame from the guest; the flow it belongs to.
    fn take_frame(&mut self, frame: &mut [u8]) -> Option<u64> {
        let packet = self.tap.packet_of(frame)?;
        let segment = port::Segment::read(packet)?;
        let key = segment.key;
        let id = match self.ids.get(&key) {
            Some(id) => *id,
            None if segment.opens => {
                let id = self.next;
                // The guest's own limit is what the tap segments to; smoltcp may fill whole frames.
                let size = port::raise_segment_size(packet);
                let rings = self.rings.take().ok()?;
                let flow = Flow::open(key, size, rings, self.now).ok()?;
                let watched = epoll::EventFlags::IN
                    | epoll::EventFlags::OUT
                    | epoll::EventFlags::RDHUP
                    | epoll::EventFlags::ET;
                let data = epoll::EventData::new_u64(id);
                epoll::add(&self.epoll, flow.host(), data, watched).ok()?;
                self.next += 1;
                self.flows.insert(id, flow);
                self.ids.insert(key, id);
                id
            }
            None => return None,
        };
        let flow = self.flows.get_mut(&id)?;
        flow.take_packet(&mut self.tap, packet, self.now);
        Some(id)
    }

    /// Moves what can be moved and sets the flow's timer.
    fn serve(&mut self, id: u64) {
        let Some(flow) = self.flows.get_mut(&id) else {
            return;
        };
        flow.pump(&mut self.tap, self.now);
        if flow.is_over() {
            if let Some(at) = flow.timer {
                self.timers.remove(&(at, id));
            }
            if let Some(flow) = self.flows.remove(&id) {
                self.ids.remove(&flow.key);
                self.rings.give_back(flow.into_rings());
            }
            return;
        }
        let wanted = flow.poll_at(self.now);
        // A timer that fires too early costs one look; moving it at each packet would cost more.
        if let Some(at) = wanted
            && flow.timer.is_none_or(|set| at < set)
        {
            if let Some(old) = flow.timer.replace(at) {
                self.timers.remove(&(old, id));
            }
            self.timers.insert((at, id));
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the loop of this example owns the clock"
)]
fn clock() -> Clock {
    Clock::now()
}
