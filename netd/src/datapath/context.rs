//! What every part of the packet thread needs: settings, links, tables, the way out to the daemon.
//! The flow tables themselves live beside it, so that a flow can be worked on while a link is written to.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::hash::{BuildHasher, Hash, RandomState};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use control::mac::MacAddress;
use control::names::GuestName;
use rustix::event::epoll;
use rustix::fd::{AsFd, OwnedFd};
use tokio::sync::mpsc::Sender;
use tokio::sync::mpsc::error::TrySendError;

use super::capture::Captures;
use super::limits::Shapers;
use super::messages::Notice;
use crate::engine::arp;
use crate::engine::budget::Budget;
use crate::engine::counters::NetworkCounters;
use crate::engine::ends::Addresses;
use crate::engine::icmp::{self, Quoted, Unreachable};
use crate::engine::learned::Learned;
use crate::engine::ndp;
use crate::engine::neighbour::Neighbours;
use crate::engine::offload::Offload;
use crate::engine::packet::Path;
use crate::engine::services::{GatewayServices, LeaseEvent, LinkId};
use crate::engine::settings::NetworkSettings;
use crate::engine::switch::Switch;
use crate::engine::tcp::seq::Seq;
use crate::io::link::{Link, RoomWatch};
use crate::io::pool::Pool;
use crate::io::vhost::Watch;
use crate::wire::pcapng::Direction;

/// What an epoll event is about; travels in the event's 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// Commands wait.
    Wake,
    /// A link, by number.
    Link(LinkId),
    /// A TCP flow: slot and generation.
    Tcp(u32, u32),
    /// A UDP mapping: slot.
    Udp(u32),
    /// An echo mapping: slot.
    Echo(u32),
    /// A published port's socket.
    Publish(u32),
}

impl Source {
    pub(super) fn token(self) -> u64 {
        let pack = |kind: u64, generation: u32, index: u32| {
            kind << 56 | u64::from(generation & 0x00ff_ffff) << 32 | u64::from(index)
        };
        match self {
            Self::Wake => 0,
            Self::Link(LinkId(id)) => pack(1, 0, id),
            Self::Tcp(slot, generation) => pack(2, generation, slot),
            Self::Udp(slot) => pack(3, 0, slot),
            Self::Echo(slot) => pack(4, 0, slot),
            Self::Publish(index) => pack(5, 0, index),
        }
    }

    #[expect(
        clippy::cast_possible_truncation,
        reason = "the fields were packed from 32 and 24 bits"
    )]
    pub(super) fn from_token(token: u64) -> Self {
        let (generation, index) = ((token >> 32) as u32 & 0x00ff_ffff, token as u32);
        match token >> 56 {
            1 => Self::Link(LinkId(index)),
            2 => Self::Tcp(index, generation),
            3 => Self::Udp(index),
            4 => Self::Echo(index),
            5 => Self::Publish(index),
            _wake => Self::Wake,
        }
    }
}

/// Where a guest sits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) mac: MacAddress,
    pub(super) link: LinkId,
}

pub(super) struct Context {
    pub(super) settings: NetworkSettings,
    pub(super) epoll: OwnedFd,
    pub(super) links: Vec<Option<Box<Link>>>,
    pub(super) switch: Switch,
    /// The way of a bridged network to its LAN.
    pub(super) uplink: Option<LinkId>,
    pub(super) neighbours: Neighbours,
    pub(super) pool: Pool,
    pub(super) counters: NetworkCounters,
    pub(super) services: Box<dyn GatewayServices + Send>,
    pub(super) now: Instant,
    /// What guests know addresses by.
    pub(super) learned: Learned,
    pub(super) captures: Captures,
    pub(super) shapers: Shapers,
    /// Links with gathered frames, or guests to be told of frames.
    pub(super) dirty: Vec<LinkId>,
    /// Addresses that became known in this turn: flows may wait for them.
    pub(super) found: Vec<IpAddr>,
    /// Published ports of guests that turned a client away in this turn.
    pub(super) turned_away: Vec<SocketAddr>,
    notices: Sender<Notice>,
    /// News that the daemon must not miss, while its queue is full.
    unsent: VecDeque<Notice>,
    frame: Vec<u8>,
    split: Vec<u8>,
    lease_events: Vec<LeaseEvent>,
    refusals: Refusals,
    errors: Budget,
    limits_told: Vec<&'static str>,
    random: RandomState,
    started: Instant,
}

#[derive(Default)]
struct Refusals {
    told: Option<Instant>,
    more: u64,
}

impl Context {
    pub(super) fn new(
        settings: NetworkSettings,
        services: Box<dyn GatewayServices + Send>,
        notices: Sender<Notice>,
        now: Instant,
    ) -> std::io::Result<Self> {
        let mut shapers = Shapers::default();
        // Nobody waits yet.
        shapers.set(&settings.rates, std::iter::empty(), now);
        Ok(Self {
            switch: Switch::new(settings.gateway_mac),
            pool: Pool::new(settings.limits.buffer_bytes),
            settings,
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            links: Vec::new(),
            uplink: None,
            neighbours: Neighbours::default(),
            counters: NetworkCounters::default(),
            services,
            now,
            learned: Learned::default(),
            captures: Captures::default(),
            shapers,
            dirty: Vec::new(),
            found: Vec::new(),
            turned_away: Vec::new(),
            notices,
            unsent: VecDeque::new(),
            frame: Vec::new(),
            split: Vec::new(),
            lease_events: Vec::new(),
            refusals: Refusals::default(),
            errors: Budget::new(now),
            limits_told: Vec::new(),
            random: RandomState::new(),
            started: now,
        })
    }

    /// Puts a descriptor under watch.
    pub(super) fn watch(
        &self,
        descriptor: impl AsFd,
        source: Source,
        flags: epoll::EventFlags,
    ) -> rustix::io::Result<()> {
        epoll::add(
            &self.epoll,
            descriptor,
            epoll::EventData::new_u64(source.token()),
            flags,
        )
    }

    /// What a link without a descriptor is watched by.
    pub(super) fn kicks(&self, id: LinkId) -> Watch<'_> {
        Watch {
            epoll: self.epoll.as_fd(),
            token: Source::Link(id).token(),
        }
    }

    pub(super) fn link(&mut self, id: LinkId) -> Option<&mut Link> {
        self.links.get_mut(id.0 as usize)?.as_deref_mut()
    }

    pub(super) fn guest_on(&self, id: LinkId) -> Option<&GuestName> {
        self.links.get(id.0 as usize)?.as_deref()?.guest.as_ref()
    }

    /// Sends a frame that may be lost to one link.
    pub(super) fn send(&mut self, id: LinkId, frame: &[u8], offload: &Offload) {
        if !self.captures.is_empty() {
            self.capture(id, Direction::Outbound, frame, offload);
        }
        if let Some(Some(link)) = self.links.get_mut(id.0 as usize) {
            link.send(frame, offload, &mut self.split);
            self.look_at(id);
        }
    }

    /// The link is flushed, and watched for room if it has none, before the loop sleeps.
    pub(super) fn look_at(&mut self, id: LinkId) {
        if let Some(link) = self.link(id)
            && !link.dirty
        {
            link.dirty = true;
            self.dirty.push(id);
        }
    }

    /// Sends a frame that may be lost to every link but one.
    pub(super) fn flood(&mut self, except: Option<LinkId>, frame: &[u8], offload: &Offload) {
        for index in 0..u32::try_from(self.links.len()).unwrap_or(0) {
            if except != Some(LinkId(index)) {
                self.send(LinkId(index), frame, offload);
            }
        }
    }

    /// Sends a frame that `build` writes.
    pub(super) fn send_built(&mut self, link: LinkId, build: impl FnOnce(&mut Vec<u8>)) {
        let mut frame = std::mem::take(&mut self.frame);
        frame.clear();
        build(&mut frame);
        self.send(link, &frame, &Offload::default());
        self.frame = frame;
    }

    /// From one of our addresses (or the far end we stand for) to a guest.
    pub(super) fn path(&self, addresses: Addresses, place: Place) -> Path {
        Path {
            source_mac: self.settings.gateway_mac,
            destination_mac: place.mac,
            addresses,
        }
    }

    /// Tells a guest that its packet cannot be delivered; the gateway is the one who says so.
    pub(super) fn send_unreachable(
        &mut self,
        place: Place,
        reason: Unreachable,
        quoted: &Quoted<'_>,
    ) {
        if !self.may_tell_error() {
            return;
        }
        let mut addresses = quoted.addresses.reversed();
        if reason != Unreachable::Port {
            match &mut addresses {
                Addresses::V4 { source, .. } => *source = self.settings.gateway,
                Addresses::V6 { source, .. } => match self.settings.ipv6 {
                    Some(ours) => *source = ours.gateway,
                    None => return,
                },
            }
        }
        let path = self.path(addresses, place);
        self.send_built(place.link, |frame| {
            icmp::unreachable(frame, &path, reason, quoted)
        });
    }

    /// Tells `to` of an error in its packet (type, code), from the gateway's address.
    pub(super) fn tell_error_v6(
        &mut self,
        place: Place,
        to: Ipv6Addr,
        kind: (u8, u8),
        field: u32,
        packet: &[u8],
    ) {
        let Some(ours) = self.settings.ipv6 else {
            return;
        };
        let source = if to.is_unicast_link_local() {
            ours.link_local
        } else {
            ours.gateway
        };
        let addresses = Addresses::V6 {
            source,
            destination: to,
        };
        self.tell_error(place, addresses, (kind, field), packet);
    }

    /// Tells `to` that its packet had no hops left.
    pub(super) fn tell_expired_v4(&mut self, place: Place, to: Ipv4Addr, packet: &[u8]) {
        let addresses = Addresses::V4 {
            source: self.settings.gateway,
            destination: to,
        };
        self.tell_error(place, addresses, ((11, 0), 0), packet);
    }

    fn tell_error(
        &mut self,
        place: Place,
        addresses: Addresses,
        (kind, field): ((u8, u8), u32),
        packet: &[u8],
    ) {
        if self.may_tell_error() {
            let path = self.path(addresses, place);
            self.send_built(place.link, |frame| {
                icmp::error(frame, &path, (kind, field), packet)
            });
        }
    }

    fn may_tell_error(&mut self) -> bool {
        let may = self.errors.take(self.now);
        self.counters.icmp_errors_limited += u64::from(!may);
        may
    }

    /// Asks every guest whose address this is.
    pub(super) fn ask_who_has(&mut self, address: IpAddr) {
        match address {
            IpAddr::V4(address) => {
                let request = arp::request(&self.settings, address);
                self.flood(None, &request, &Offload::default());
            }
            IpAddr::V6(address) => {
                if let Some(ours) = self.settings.ipv6 {
                    let question = ndp::solicit(&self.settings, &ours, address);
                    self.flood(None, &question, &Offload::default());
                }
            }
        }
    }

    /// Whether a guest may use this source address, and notes where the address lives.
    pub(super) fn source_allowed(&mut self, address: IpAddr, place: Place) -> bool {
        let ours = self.settings.is_ours(address);
        let foreign = self
            .settings
            .ipv4_of(address)
            .and_then(|address| self.services.owner_of(address))
            .is_some_and(|owner| owner != place.mac);
        if ours || foreign || !self.settings.is_local(address) {
            if let Some(link) = self.link(place.link) {
                link.counters.spoofed += 1;
            }
            return false;
        }
        if self
            .neighbours
            .learn(address, (place.mac, place.link), self.now)
        {
            self.found.push(address);
        }
        true
    }

    /// An initial sequence number nobody can guess and that grows between connections on the same numbers (RFC 6528).
    #[expect(
        clippy::cast_possible_truncation,
        reason = "sequence numbers are 32 bits of a hash and of a clock"
    )]
    pub(super) fn first_seq(&self, key: impl Hash) -> Seq {
        let clock = self.now.saturating_duration_since(self.started).as_micros() / 4;
        Seq((self.random.hash_one(key) as u32).wrapping_add(clock as u32))
    }

    /// Tells the daemon; a daemon too busy to listen costs a count, never a packet.
    pub(super) fn notify(&mut self, notice: Notice) -> bool {
        // What a guest can cause without end leaves half of the queue to the rest.
        let chatter = matches!(
            notice,
            Notice::MacLearned { .. } | Notice::Refused { .. } | Notice::Limited { .. }
        );
        let room = !chatter || self.notices.capacity() > self.notices.max_capacity() / 2;
        let taken = room && self.notices.try_send(notice).is_ok();
        self.counters.notices_lost += u64::from(!taken);
        taken
    }

    /// Tells the daemon what it must know (links, leases), later if it is too busy now.
    pub(super) fn tell(&mut self, notice: Notice) {
        self.retry_notices();
        if !self.unsent.is_empty() {
            self.keep(notice);
        } else if let Err(TrySendError::Full(notice) | TrySendError::Closed(notice)) =
            self.notices.try_send(notice)
        {
            self.keep(notice);
        }
    }

    fn keep(&mut self, notice: Notice) {
        if self.unsent.len() < UNSENT && !self.notices.is_closed() {
            self.unsent.push_back(notice);
        } else {
            self.counters.notices_lost += 1;
        }
    }

    /// Sends what could not be sent before.
    pub(super) fn retry_notices(&mut self) {
        while !self.unsent.is_empty() {
            let Ok(permit) = self.notices.try_reserve() else {
                return;
            };
            if let Some(notice) = self.unsent.pop_front() {
                permit.send(notice);
            }
        }
    }

    /// When to try again.
    pub(super) fn notices_deadline(&self) -> Option<Instant> {
        (!self.unsent.is_empty()).then(|| self.now + NOTICE_RETRY)
    }

    /// Tells of a refusal, at most once a second.
    pub(super) fn refused(
        &mut self,
        link: LinkId,
        protocol: &'static str,
        destination: SocketAddr,
        reason: impl Into<Cow<'static, str>>,
    ) {
        let due = self
            .refusals
            .told
            .is_none_or(|told| self.now.saturating_duration_since(told) >= REFUSAL_INTERVAL);
        if !due {
            self.refusals.more += 1;
            return;
        }
        let notice = Notice::Refused {
            guest: self.guest_on(link).cloned(),
            protocol,
            destination,
            reason: reason.into(),
            more: self.refusals.more,
        };
        if self.notify(notice) {
            self.refusals = Refusals {
                told: Some(self.now),
                more: 0,
            };
        } else {
            self.refusals.more += 1;
        }
    }

    /// Tells of a limit of the host, once.
    pub(super) fn host_limit(
        &mut self,
        kind: &'static str,
        message: impl FnOnce() -> String,
        hint: Option<&str>,
    ) {
        if self.limits_told.contains(&kind) {
            return;
        }
        let notice = Notice::HostLimit {
            message: message(),
            hint: hint.map(str::to_owned),
        };
        if self.notify(notice) {
            self.limits_told.push(kind);
        }
    }

    /// Passes on what the services have to tell.
    pub(super) fn pass_lease_events(&mut self) {
        let mut events = std::mem::take(&mut self.lease_events);
        self.services.drain_lease_events(&mut events);
        for event in events.drain(..) {
            self.tell(Notice::Lease(event));
        }
        self.lease_events = events;
    }

    /// Writes what was gathered; links that turn out to be gone are pushed to `gone`.
    pub(super) fn flush(&mut self, gone: &mut Vec<LinkId>) {
        while let Some(id) = self.dirty.pop() {
            let Some(Some(link)) = self.links.get_mut(id.0 as usize) else {
                continue;
            };
            link.dirty = false;
            link.flush();
            if link.gone {
                gone.push(id);
            } else if link.room_watch() != link.room_watched {
                link.room_watched = link.room_watch();
                let own = match link.room_watched {
                    RoomWatch::Own => epoll::EventFlags::OUT,
                    RoomWatch::No | RoomWatch::Apart => epoll::EventFlags::empty(),
                };
                let flags = epoll::EventFlags::IN | epoll::EventFlags::RDHUP | own;
                let data = epoll::EventData::new_u64(Source::Link(id).token());
                // Without a descriptor of its own the guest's kick tells.
                let watched = link
                    .descriptor()
                    .map_or(Ok(()), |own| epoll::modify(&self.epoll, own, data, flags))
                    .and_then(|()| {
                        link.room().map_or(Ok(()), |apart| {
                            epoll::add(&self.epoll, apart, data, epoll::EventFlags::OUT)
                        })
                    });
                if watched.is_err() {
                    gone.push(id);
                }
            }
        }
    }
}

/// News kept for a busy daemon.
const UNSENT: usize = 4_096;
const NOTICE_RETRY: Duration = Duration::from_millis(50);
const REFUSAL_INTERVAL: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_come_back_as_they_went() {
        for source in [
            Source::Wake,
            Source::Link(LinkId(7)),
            Source::Tcp(u32::MAX, 0x00ff_fffe),
            Source::Udp(1),
            Source::Echo(2),
            Source::Publish(3),
        ] {
            assert_eq!(Source::from_token(source.token()), source);
        }
    }
}
