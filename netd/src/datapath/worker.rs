//! The packet thread: one loop that owns the clock, waits on epoll and hands each event to the part it is for.
//! Every wake-up has a name ([`Source`] or a deadline); with nothing to do it sleeps without a time-out.

use std::cmp::Reverse;
use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use control::names::GuestName;
use rustix::event::epoll::{self, EventFlags};
use rustix::fd::{AsFd, OwnedFd};
use rustix::time::Timespec;

use super::bridged;
use super::context::{Context, Source};
use super::datagrams::Datagrams;
use super::echo::Echoes;
use super::flows::Flows;
use super::gateway::Gateway;
use super::gather::{Gather, Gathered};
use super::input;
use super::messages::{Command, FlowSnapshot, LinkEnd, LinkSnapshot, NewLink, Notice, Snapshot};
use super::published::Published;
use super::router::Router;
use crate::engine::fragment::Reassembly;
use crate::engine::offload::Offload;
use crate::engine::services::LinkId;
use crate::engine::settings::NetworkSettings;
use crate::io::link::{Link, Port};
use crate::io::stream::{Filled, Parsed, Stream};
use crate::io::tap::{READ_BUFFER, Read};
use crate::io::uplink::{Batch, Taken};
use crate::io::vhost::{Order, OrderError, Vhost, Watch};
use crate::wire::pcapng::Direction;

/// Events taken at once.
const EVENTS: usize = 256;
/// Frames read from one tap before others have their turn.
const TAP_TURN: usize = 64;
/// Room for small frames of one turn beside each other.
const TAP_BUFFER: usize = 4 * READ_BUFFER;
/// Reads of one stream before others have their turn.
const STREAM_TURN: usize = 4;
/// Batches read from the uplink before guests have their turn.
const UPLINK_TURN: usize = 4;
/// How often spare buffers are looked at while there are any.
const TRIM_INTERVAL: Duration = Duration::from_secs(1);

/// The tables of one network, apart from what they all share.
#[derive(Default)]
pub(super) struct Tables {
    pub(super) flows: Flows,
    pub(super) datagrams: Datagrams,
    pub(super) echoes: Echoes,
    pub(super) gateway: Gateway,
    pub(super) router: Router,
    pub(super) published: Published,
    pub(super) fragments: Reassembly,
}

pub(super) struct Worker {
    context: Context,
    tables: Tables,
    inbox: Receiver<Command>,
    wake: Arc<OwnedFd>,
    tap_buffer: Vec<u8>,
    uplink_batch: Batch,
    gather: Gather,
    /// Links that had more than a turn's frames.
    unfinished: Vec<LinkId>,
    trim_at: Option<Instant>,
    ended: bool,
}

/// Whether a link goes on.
type LinkState = Result<(), LinkEnd>;

impl Worker {
    pub(super) fn new(
        context: Context,
        inbox: Receiver<Command>,
        wake: Arc<OwnedFd>,
    ) -> std::io::Result<Self> {
        context.watch(&*wake, Source::Wake, EventFlags::IN)?;
        Ok(Self {
            context,
            tables: Tables::default(),
            inbox,
            wake,
            tap_buffer: Vec::new(),
            uplink_batch: Batch::default(),
            gather: Gather::default(),
            unfinished: Vec::new(),
            trim_at: None,
            ended: false,
        })
    }

    /// Runs until it is told to end.
    pub(super) fn run(mut self) {
        let mut events = Vec::with_capacity(EVENTS);
        while !self.ended {
            let timeout = self.timeout();
            events.clear();
            let waited = epoll::wait(
                &self.context.epoll,
                rustix::buffer::spare_capacity(&mut events),
                timeout.as_ref(),
            );
            self.context.now = clock();
            if let Err(error) = waited
                && error != rustix::io::Errno::INTR
            {
                tracing::error!(%error, "the packet thread cannot wait for events");
                break;
            }
            for event in &events {
                let (flags, data) = (event.flags, event.data);
                self.dispatch(Source::from_token(data.u64()), flags);
            }
            for id in std::mem::take(&mut self.unfinished) {
                self.link_event(id, EventFlags::IN);
            }
            self.tables.published.found(&mut self.context);
            self.tables.flows.run_ready(&mut self.context);
            self.tables.published.turned_away(&mut self.context);
            self.timeouts();
            self.context.retry_notices();
            self.flush();
        }
        self.end();
    }

    fn flush(&mut self) {
        let mut gone = Vec::new();
        self.context.flush(&mut gone);
        for id in gone {
            self.detach(id, LinkEnd::Closed);
        }
    }

    fn dispatch(&mut self, source: Source, flags: EventFlags) {
        let Self {
            context, tables, ..
        } = self;
        match source {
            Source::Wake => self.commands(),
            Source::Link(id) => self.link_event(id, flags),
            Source::Tcp(slot, generation) => tables.flows.event(context, slot, generation, flags),
            Source::Udp(slot) => tables.datagrams.event(context, slot, flags),
            Source::Echo(slot) => tables.echoes.event(context, slot),
            Source::Publish(index) => {
                tables
                    .published
                    .event(context, &mut tables.flows, &mut tables.datagrams, index);
            }
        }
    }

    /// How long to sleep: not at all with work left, for ever with none in sight.
    fn timeout(&self) -> Option<Timespec> {
        if self.tables.flows.has_ready() || !self.unfinished.is_empty() {
            return Some(Timespec {
                tv_sec: 0,
                tv_nsec: 0,
            });
        }
        let wait = self.deadline()?.saturating_duration_since(self.context.now);
        // A little later rather than a little too early, which would mean to wake up twice.
        let wait = wait + Duration::from_millis(1);
        Timespec::try_from(wait).ok()
    }

    fn deadline(&self) -> Option<Instant> {
        let Self {
            context, tables, ..
        } = self;
        [
            tables.flows.deadline(),
            tables.datagrams.deadline(context),
            tables.echoes.deadline(),
            tables.fragments.deadline(),
            tables.published.deadline(),
            tables.gateway.deadline(),
            tables.router.deadline(),
            context.shapers.deadline(),
            context.services.poll_timeout(),
            self.trim_at,
            context.notices_deadline(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    fn timeouts(&mut self) {
        let now = self.context.now;
        let Self {
            context, tables, ..
        } = self;
        if tables.flows.deadline().is_some_and(|at| at <= now) {
            tables.flows.handle_timeout(context);
            tables.flows.run_ready(context);
        }
        if tables.published.deadline().is_some_and(|at| at <= now) {
            tables.published.handle_timeout(context);
        }
        if tables
            .datagrams
            .deadline(context)
            .is_some_and(|at| at <= now)
        {
            tables.datagrams.handle_timeout(context);
        }
        if context.shapers.deadline().is_some_and(|at| at <= now) {
            tables.flows.unthrottle(context);
            tables.flows.run_ready(context);
        }
        if tables.echoes.deadline().is_some_and(|at| at <= now) {
            tables.echoes.handle_timeout(now);
        }
        if tables.fragments.deadline().is_some_and(|at| at <= now) {
            context.counters.fragments_dropped += tables.fragments.expire(now) as u64;
        }
        if context.services.poll_timeout().is_some_and(|at| at <= now) {
            context.services.handle_timeout(now);
            context.pass_lease_events();
        }
        if tables.gateway.deadline().is_some_and(|at| at <= now) {
            tables.gateway.handle_timeout(context);
        }
        if tables.router.deadline().is_some_and(|at| at <= now) {
            tables.router.handle_timeout(context);
        }
        match self.trim_at {
            Some(at) if at <= now => {
                context.pool.trim();
                self.trim_at = (context.pool.spare() > 0).then(|| now + TRIM_INTERVAL);
            }
            None if context.pool.spare() > 0 => self.trim_at = Some(now + TRIM_INTERVAL),
            Some(_) | None => {}
        }
    }

    fn commands(&mut self) {
        let mut counter = [0; 8];
        // Level-triggered: what is not read now wakes us again.
        rustix::io::read(&*self.wake, &mut counter).ok();
        loop {
            match self.inbox.try_recv() {
                Ok(command) => self.command(command),
                Err(TryRecvError::Empty) => return,
                Err(TryRecvError::Disconnected) => {
                    self.ended = true;
                    return;
                }
            }
        }
    }

    fn command(&mut self, command: Command) {
        let Self {
            context, tables, ..
        } = self;
        match command {
            Command::AttachLink { link, reply } => {
                let id = self.attach(link);
                // Whoever asked may have gone; the link stands all the same.
                reply.send(id).ok();
            }
            Command::Vhost { link, order, reply } => {
                // A VMM that is gone need not be answered.
                reply.send(self.obey(link, order)).ok();
            }
            Command::DetachLink(id) => self.detach(id, LinkEnd::Detached),
            Command::Publish { publish, reply } => {
                let id = tables.published.add(context, publish);
                if reply.send(id).is_err() {
                    // Nobody would ever take it back.
                    tables.published.remove(&mut tables.datagrams, id);
                }
            }
            Command::Retarget { id, address } => tables.published.retarget(context, id, address),
            Command::Unpublish(id) => tables.published.remove(&mut tables.datagrams, id),
            Command::Reconfigure(settings) => self.reconfigure(*settings),
            Command::DnsAnswer { token, payload } => {
                tables.gateway.answer(context, token, &payload)
            }
            Command::GuestAnswers(reply) => {
                reply.send(tables.published.answers()).ok();
            }
            Command::Snapshot(reply) => {
                reply.send(self.snapshot()).ok();
            }
            Command::Flows {
                guest,
                limit,
                reply,
            } => {
                reply.send(self.flow_list(guest.as_ref(), limit)).ok();
            }
            Command::Check {
                guest,
                question,
                reply,
            } => {
                reply.send(context.check(&guest, &question)).ok();
            }
            Command::Seek { address, reply } => {
                reply.send(context.neighbours.heard(address)).ok();
                context.ask_who_has(address);
            }
            Command::AskName {
                guest,
                query,
                reply,
            } => {
                reply.send(context.ask_name(guest.as_ref(), &query)).ok();
            }
            Command::LearnAnswer {
                guest,
                answer,
                done,
            } => {
                context.learn(guest.as_ref(), &answer);
                done.send(()).ok();
            }
            Command::StartCapture { wanted, reply } => {
                let id = wanted.id;
                if reply.send(context.captures.start(wanted)).is_err() {
                    context.captures.stop(id);
                }
            }
            Command::StopCapture(id) => context.captures.stop(id),
            Command::Services(call) => {
                (call.0)(&mut *context.services);
                context.pass_lease_events();
                tables.router.look(context);
            }
            Command::Shutdown => self.ended = true,
        }
    }

    fn attach(&mut self, new: NewLink) -> Option<LinkId> {
        let NewLink {
            transport,
            guest,
            mac,
        } = new;
        let context = &mut self.context;
        let id = LinkId(u32::try_from(context.links.len()).ok()?);
        let link = match Link::new(transport, guest.clone(), mac) {
            Ok(link) => link,
            Err(error) => {
                tracing::warn!(%error, "a link's descriptor is of no use");
                return None;
            }
        };
        let flags = EventFlags::IN | EventFlags::RDHUP;
        if let Some(descriptor) = link.descriptor()
            && let Err(error) = context.watch(descriptor, Source::Link(id), flags)
        {
            tracing::warn!(%error, "cannot watch a link's descriptor");
            return None;
        }
        if let Some(mac) = mac {
            context.switch.pin(mac, id, context.now);
        }
        let uplink = matches!(link.port, Port::Uplink(_));
        tracing::info!(link = id.0, kind = link.kind(), "link up");
        context.shapers.plug(guest.as_ref());
        context.links.push(Some(Box::new(link)));
        if uplink {
            bridged::uplink_attached(context, id);
        }
        context.tell(Notice::LinkUp { link: id, guest });
        self.tables.published.link_up(context, id);
        self.tables.router.link_up(context);
        Some(id)
    }

    fn detach(&mut self, id: LinkId, end: LinkEnd) {
        let Self {
            context, tables, ..
        } = self;
        let Some(Some(mut link)) = context.links.get_mut(id.0 as usize).map(Option::take) else {
            return;
        };
        link.unwatch(context.kicks(id));
        tracing::info!(link = id.0, ?end, "link down");
        // Somebody else may hold the same socket: closing ours would not end its events.
        if let Some(descriptor) = link.descriptor() {
            epoll::delete(&context.epoll, descriptor).ok();
        }
        context.uplink.take_if(|uplink| *uplink == id);
        tables.flows.link_gone(context, id);
        tables.datagrams.link_gone(id);
        tables.echoes.link_gone(id);
        tables.router.link_down();
        context.switch.forget(id);
        context.neighbours.forget(id);
        tables.published.link_gone(context);
        context.tell(Notice::LinkDown {
            link: id,
            guest: link.guest,
            end,
        });
        // A guest with two links whose pinned address went with this one keeps the other's.
        for index in 0..u32::try_from(context.links.len()).unwrap_or(0) {
            let now = context.now;
            if let Some(mac) = context.link(LinkId(index)).and_then(|link| link.mac) {
                context.switch.pin(mac, LinkId(index), now);
            }
        }
    }

    fn reconfigure(&mut self, settings: NetworkSettings) {
        let Self {
            context, tables, ..
        } = self;
        let old = &context.settings;
        let moved = (
            old.subnet,
            old.gateway,
            old.gateway_mac,
            old.host_internal,
            old.ipv6,
        ) != (
            settings.subnet,
            settings.gateway,
            settings.gateway_mac,
            settings.host_internal,
            settings.ipv6,
        );
        if moved {
            tables.flows.close_all(context);
            tables.datagrams.clear();
            tables.echoes.clear();
            tables.gateway.clear();
            context.neighbours = crate::engine::neighbour::Neighbours::default();
            tables.published.link_gone(context);
            context.switch.set_gateway(settings.gateway_mac);
        }
        context.pool.set_limit(settings.limits.buffer_bytes);
        let other_rules = context.settings.egress != settings.egress;
        let other_rates = context.settings.rates != settings.rates;
        context.settings = settings;
        if other_rules {
            tables.flows.apply_policy(context);
            tables.datagrams.apply_policy(context);
        }
        if other_rates {
            let waited = context.set_rates();
            tables.flows.look_anew(waited);
        }
    }

    fn snapshot(&self) -> Snapshot {
        let Self {
            context, tables, ..
        } = self;
        let links = context
            .links
            .iter()
            .enumerate()
            .filter_map(|(index, link)| {
                let (link, id) = (link.as_deref()?, LinkId(u32::try_from(index).ok()?));
                Some(LinkSnapshot {
                    link: id,
                    guest: link.guest.clone(),
                    kind: link.kind(),
                    macs: context.switch.macs(id),
                    counters: link.counters,
                })
            });
        Snapshot {
            counters: context.counters,
            links: links.collect(),
            tcp_flows: tables.flows.len(),
            udp_mappings: tables.datagrams.len(),
            buffered_bytes: context.pool.in_use(),
            neighbours: context.neighbours.list(),
        }
    }

    /// Flows, those that carried most first.
    fn flow_list(&self, guest: Option<&GuestName>, limit: usize) -> Vec<FlowSnapshot> {
        let Self {
            context, tables, ..
        } = self;
        let now = context.now;
        let place = |flow: &mut FlowSnapshot| {
            let seen = || context.neighbours.get(flow.guest.ip());
            flow.link = flow.link.or_else(|| seen().map(|(_, link)| link));
            flow.guest_name = flow.link.and_then(|link| context.guest_on(link)).cloned();
        };
        let mut flows: Vec<FlowSnapshot> = tables
            .flows
            .snapshot(now)
            .chain(tables.datagrams.snapshot(now))
            .chain(tables.echoes.snapshot(now))
            .map(|mut flow| {
                place(&mut flow);
                flow
            })
            .filter(|flow| guest.is_none() || flow.guest_name.as_ref() == guest)
            .collect();
        flows.sort_by_key(|flow| Reverse(flow.traffic.bytes_out + flow.traffic.bytes_in));
        flows.truncate(limit);
        for flow in &mut flows {
            let name = context
                .learned
                .latest(flow.guest_name.as_ref(), flow.remote.ip());
            flow.name = name.filter(|_| flow.outbound).map(str::to_owned);
        }
        flows
    }

    fn link_event(&mut self, id: LinkId, flags: EventFlags) {
        let Some(link) = self.context.link(id) else {
            return;
        };
        if flags.contains(EventFlags::OUT) && link.full {
            let room = link.writable();
            self.context.look_at(id);
            if room {
                self.tables.flows.link_ready(&mut self.context, id);
            }
        }
        let state = match self.context.link(id) {
            Some(Link {
                port: Port::Tap(_) | Port::Dgram(_),
                ..
            }) => self.read_frames(id),
            Some(Link {
                port: Port::Stream(_),
                ..
            }) => self.read_stream(id),
            Some(Link {
                port: Port::Vhost(_),
                ..
            }) => self.read_vhost(id),
            Some(Link {
                port: Port::Uplink(_),
                ..
            }) => self.read_uplink(id),
            None => Ok(()),
        };
        if let Err(end) = state {
            self.detach(id, end);
        }
    }

    fn stream(&mut self, id: LinkId) -> Option<&mut Stream> {
        match &mut self.context.link(id)?.port {
            Port::Stream(stream) => Some(stream),
            Port::Tap(_) | Port::Dgram(_) | Port::Vhost(_) | Port::Uplink(_) => None,
        }
    }

    fn vhost(&mut self, id: LinkId) -> Option<&mut Vhost> {
        match &mut self.context.link(id)?.port {
            Port::Vhost(vhost) => Some(vhost),
            Port::Tap(_) | Port::Stream(_) | Port::Dgram(_) | Port::Uplink(_) => None,
        }
    }

    /// A VMM's order; what waited for the guest, or of it, may go on by it.
    fn obey(&mut self, id: LinkId, order: Order) -> Result<u16, OrderError> {
        let context = &mut self.context;
        let watch = Watch {
            epoll: context.epoll.as_fd(),
            token: Source::Link(id).token(),
        };
        let link = context.links.get_mut(id.0 as usize);
        let Some(Port::Vhost(vhost)) = link.and_then(Option::as_mut).map(|link| &mut link.port)
        else {
            return Err(OrderError::Ended);
        };
        let done = vhost.obey(order, watch);
        // A kick that came before the ring could be used is not told again.
        self.unfinished.push(id);
        done
    }

    /// The guest may have offered buffers: those who wait for them try again.
    fn room(&mut self, id: LinkId) {
        if let Some(link) = self.context.link(id)
            && link.full
        {
            let room = link.writable();
            self.context.look_at(id);
            if room {
                self.tables.flows.link_ready(&mut self.context, id);
            }
        }
    }

    /// A kick: the guest has frames for us, or room for ours.
    fn read_vhost(&mut self, id: LinkId) -> LinkState {
        self.room(id);
        if let Some(vhost) = self.vhost(id) {
            vhost.begin_turn();
        }
        let state = self.read_frames(id);
        if self.vhost(id).is_some_and(Vhost::end_turn) {
            self.unfinished.push(id);
        }
        state
    }

    fn read_frames(&mut self, id: LinkId) -> LinkState {
        let mut buffer = std::mem::take(&mut self.tap_buffer);
        buffer.resize(TAP_BUFFER, 0);
        let mut state = Ok(());
        let mut start = 0;
        for _turn in 0..TAP_TURN {
            let Some(link) = self.context.link(id) else {
                break;
            };
            match link.read(&mut buffer[start..start + READ_BUFFER]) {
                Read::Empty => break,
                Read::Frame(at, offload) => {
                    let (from, to) = (start + at.start, start + at.end);
                    self.frame(id, &buffer, from..to, &offload);
                    start = self.next_place(&buffer, to);
                }
                Read::Malformed => link.counters.malformed += 1,
                Read::Gone(error) => {
                    state = Err(LinkEnd::Failed(error.to_string()));
                    break;
                }
            }
        }
        self.hand_on(&buffer);
        self.tap_buffer = buffer;
        state
    }

    fn read_uplink(&mut self, id: LinkId) -> LinkState {
        let mut batch = std::mem::take(&mut self.uplink_batch);
        let mut state = Ok(());
        for _turn in 0..UPLINK_TURN {
            let Some(Port::Uplink(uplink)) = self.context.link(id).map(|link| &link.port) else {
                break;
            };
            let (count, more) = match uplink.read(&mut batch) {
                Taken::Frames(count, more) => (count, more),
                Taken::Empty => break,
                Taken::Gone(error) => {
                    state = Err(LinkEnd::Failed(error));
                    break;
                }
            };
            for index in 0..count {
                match batch.frame(index) {
                    Some((at, offload)) => {
                        let Self {
                            context, tables, ..
                        } = self;
                        input::frame(context, tables, id, &batch.bytes[at], &offload);
                    }
                    None => {
                        if let Some(link) = self.context.link(id) {
                            link.counters.malformed += 1;
                        }
                    }
                }
            }
            if !more {
                break;
            }
        }
        self.uplink_batch = batch;
        state
    }

    /// Where the next frame goes: gathered frames stay where they are until they are handed on.
    fn next_place(&mut self, buffer: &[u8], end: usize) -> usize {
        if self.gather.is_empty() {
            return 0;
        }
        let start = end.next_multiple_of(64);
        if start + READ_BUFFER <= buffer.len() {
            return start;
        }
        self.hand_on(buffer);
        0
    }

    /// A frame at a place of a buffer: gathered with its neighbours if it continues their flow.
    fn frame(&mut self, id: LinkId, buffer: &[u8], at: Range<usize>, offload: &Offload) {
        let Self {
            context,
            tables,
            gather,
            ..
        } = self;
        if !context.captures.is_empty() {
            context.capture(id, Direction::Inbound, &buffer[at.clone()], offload);
        }
        if gather.take(context, id, buffer, at.clone(), offload) == Gathered::Taken {
            return;
        }
        gather.hand_on(context, tables, buffer);
        if gather.take(context, id, buffer, at.clone(), offload) == Gathered::Other {
            input::frame(context, tables, id, &buffer[at], offload);
        }
    }

    fn hand_on(&mut self, buffer: &[u8]) {
        self.gather
            .hand_on(&mut self.context, &mut self.tables, buffer);
    }

    fn read_stream(&mut self, id: LinkId) -> LinkState {
        for _turn in 0..STREAM_TURN {
            let Some(stream) = self.stream(id) else {
                return Ok(());
            };
            let drained = match stream.fill() {
                Filled::Empty => return Ok(()),
                Filled::Some { drained } => drained,
                Filled::Closed => return Err(LinkEnd::Closed),
                Filled::Failed(error) => return Err(LinkEnd::Failed(error.to_string())),
            };
            let input = stream.take_input();
            let state = self.parse_stream(id, &input);
            self.hand_on(&input);
            if let Some(stream) = self.stream(id) {
                stream.put_input(input);
            }
            state?;
            if drained {
                return Ok(());
            }
        }
        Ok(())
    }

    fn parse_stream(&mut self, id: LinkId, bytes: &[u8]) -> LinkState {
        loop {
            let Some(stream) = self.stream(id) else {
                return Ok(());
            };
            match stream.parse(bytes) {
                Parsed::Incomplete => return Ok(()),
                Parsed::Frame(at) => {
                    self.frame(id, bytes, at, &Offload::default());
                }
                Parsed::Short => {
                    if let Some(link) = self.context.link(id) {
                        link.counters.malformed += 1;
                    }
                }
                Parsed::Garbage(length) => {
                    return Err(LinkEnd::Garbage(format!(
                        "a frame of {length} bytes was announced"
                    )));
                }
            }
        }
    }

    fn end(&mut self) {
        self.tables.flows.close_all(&mut self.context);
        self.flush();
        for index in 0..u32::try_from(self.context.links.len()).unwrap_or(0) {
            self.detach(LinkId(index), LinkEnd::Detached);
        }
    }
}

/// Calendar time in nanoseconds since 1970: what captured frames are stamped with.
#[expect(clippy::disallowed_methods, reason = "this loop owns the clock")]
pub(super) fn wall_clock() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(0))
}

/// The clock of the packet path is read here and nowhere else.
#[expect(clippy::disallowed_methods, reason = "this loop owns the clock")]
pub(super) fn clock() -> Instant {
    Instant::now()
}
