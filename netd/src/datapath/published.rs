//! The published ports that the packet thread serves: bound sockets, where they lead, and whether they take
//! connections. What is asked of a guest's port, and when, is decided in `engine/gate.rs`; here the question is a
//! SYN from host.internal whose answer is reset, so that no program of the guest ever sees a connection.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use control::api::GuestAnswer;
use control::names::GuestName;
use control::port::{Endpoint, Protocol};
use rustix::event::epoll::{self, EventFlags};
use rustix::io::Errno;
use rustix::net::SocketFlags;

use super::context::{Context, Place, Source};
use super::datagrams::Datagrams;
use super::flows::{Flows, send_alone};
use super::messages::{NewPublish, PublishId};
use crate::engine::arp;
use crate::engine::ends::Key;
use crate::engine::gate::Gate;
use crate::engine::offload::Offload;
use crate::engine::services::LinkId;
use crate::engine::tcp::segment::{Outgoing, Segment};
use crate::engine::tcp::seq::Seq;
use crate::io::publish::HostSocket;

/// Connections accepted in one turn of one listener.
const TURN: usize = 64;
/// Ports that questions come from: no client on the host's loopback has one of these, but for root's.
const ASKING_PORTS: std::ops::Range<u16> = 512..1_024;
/// What a thousand unserved ports may cost is a thousand questions a second at most.
const SHARE: Duration = Duration::from_millis(1);
/// Calls for a guest of which no link is known by name.
const CALLS: u32 = 3;

struct Socket {
    id: PublishId,
    socket: HostSocket,
}

/// An address of the guest with the published port.
struct Target {
    address: IpAddr,
    gate: Gate,
    /// The question that waits for its answer.
    asked: Option<(Key, Seq)>,
    calls: u32,
}

struct Entry {
    guest: GuestName,
    protocol: Protocol,
    port: u16,
    /// At most one of each family, IPv4 first.
    targets: Vec<Target>,
    sockets: Vec<u32>,
}

#[derive(Default)]
pub(super) struct Published {
    /// By the number in the event; numbers are not used again while their socket lives.
    sockets: Vec<Option<Socket>>,
    entries: BTreeMap<PublishId, Entry>,
    questions: HashMap<Key, PublishId>,
    due: Option<Instant>,
    last: u32,
    next_question: u16,
    next_client: u16,
}

impl Target {
    fn new(address: IpAddr) -> Self {
        Self {
            address,
            gate: Gate::default(),
            asked: None,
            calls: 0,
        }
    }

    /// The number that a question was sent with, if it is this one's.
    fn question(&self, key: &Key) -> Option<Seq> {
        self.asked
            .filter(|(asked, _)| asked == key)
            .map(|(_, seq)| seq)
    }
}

impl Entry {
    fn answer(&self) -> GuestAnswer {
        let has = |answer| {
            self.targets
                .iter()
                .any(|target| target.gate.answer() == answer)
        };
        [
            GuestAnswer::Serves,
            GuestAnswer::Silent,
            GuestAnswer::Refuses,
            GuestAnswer::Unknown,
        ]
        .into_iter()
        .find(|answer| has(*answer))
        .unwrap_or(GuestAnswer::Absent)
    }

    fn target(&mut self, address: IpAddr) -> Option<&mut Target> {
        self.targets
            .iter_mut()
            .find(|target| target.address == address)
    }

    /// Where a client is led: the family in which its address can be kept, if the guest serves there.
    fn lead(&self, client: IpAddr) -> Option<SocketAddr> {
        let same = |target: &&Target| {
            target.address.is_ipv4() == client.is_ipv4() && !client.is_loopback()
        };
        let serves = |target: &&Target| target.gate.answer() == GuestAnswer::Serves;
        let targets = || self.targets.iter();
        let found = targets()
            .find(|target| same(target) && serves(target))
            .or_else(|| targets().find(serves))
            .or_else(|| targets().find(|target| same(target) && target.gate.is_open()))
            .or_else(|| targets().find(|target| target.gate.is_open()))?;
        Some(SocketAddr::new(found.address, self.port))
    }

    /// The same for UDP, where only the address table knows anything: a guest that is known by its IPv6 address
    /// alone may not have asked for the other yet, so that is waited for.
    fn datagram_lead(&self, context: &Context, client: IpAddr) -> Option<SocketAddr> {
        let same = |target: &&Target| {
            target.address.is_ipv4() == client.is_ipv4()
                && !client.is_loopback()
                && context.neighbours.get(target.address).is_some()
        };
        let found = self
            .targets
            .iter()
            .find(same)
            .or_else(|| self.targets.first())?;
        Some(SocketAddr::new(found.address, self.port))
    }
}

impl Published {
    pub(super) fn add(&mut self, context: &mut Context, publish: NewPublish) -> PublishId {
        self.last += 1;
        let id = PublishId(self.last);
        let mut entry = Entry {
            guest: publish.guest,
            protocol: publish.protocol,
            port: publish.port,
            targets: Vec::new(),
            sockets: Vec::new(),
        };
        for socket in publish.sockets.sockets {
            let free = self.sockets.iter().position(Option::is_none);
            let index = free.unwrap_or_else(|| {
                self.sockets.push(None);
                self.sockets.len() - 1
            });
            let number = u32::try_from(index).unwrap_or(u32::MAX);
            if socket.is_open() && !watch(context, &socket, number) {
                continue;
            }
            self.sockets[index] = Some(Socket { id, socket });
            entry.sockets.push(number);
        }
        self.entries.insert(id, entry);
        self.retarget(context, id, publish.address);
        id
    }

    /// The guest has this address now, or none; its port is asked anew.
    pub(super) fn retarget(
        &mut self,
        context: &mut Context,
        id: PublishId,
        address: Option<IpAddr>,
    ) {
        let Some(entry) = self.entries.get_mut(&id) else {
            return;
        };
        let stays = |target: &Target| Some(target.address) == address || target.address.is_ipv6();
        entry.targets.retain(stays);
        if let Some(address) = address
            && entry.target(address).is_none()
        {
            entry.targets.insert(0, Target::new(address));
        }
        let stations = context.neighbours.list();
        let on_link = link_of(context, &entry.guest);
        let home = entry
            .targets
            .first()
            .and_then(|target| context.neighbours.get(target.address));
        for (address, mac, link) in stations {
            let its = Some(link) == on_link || home.is_some_and(|home| home == (mac, link));
            if its {
                entry.meet(context, address);
            }
        }
        for target in &mut entry.targets {
            target.seek(context, on_link.is_some());
        }
        self.settle(context, id);
    }

    pub(super) fn remove(&mut self, datagrams: &mut Datagrams, id: PublishId) {
        let Some(entry) = self.entries.remove(&id) else {
            return;
        };
        self.questions.retain(|_, asker| *asker != id);
        for number in entry.sockets {
            if let Some(slot) = self.sockets.get_mut(number as usize) {
                *slot = None;
            }
            datagrams.unpublished(number);
        }
        self.schedule();
    }

    /// Addresses became known in this turn.
    pub(super) fn found(&mut self, context: &mut Context) {
        if context.found.is_empty() || self.entries.is_empty() {
            return;
        }
        let found = context.found.clone();
        let ids: Vec<PublishId> = self.entries.keys().copied().collect();
        for id in ids {
            let Some(entry) = self.entries.get_mut(&id) else {
                continue;
            };
            let mut changed = false;
            for address in &found {
                let Some(place) = context.neighbours.get(*address) else {
                    continue;
                };
                let home = entry
                    .targets
                    .first()
                    .and_then(|target| context.neighbours.get(target.address));
                if home == Some(place) || link_of(context, &entry.guest) == Some(place.1) {
                    entry.meet(context, *address);
                }
                if let Some(target) = entry.target(*address) {
                    target.gate.changed(context.now);
                    changed = true;
                }
            }
            if changed {
                self.settle(context, id);
            }
        }
    }

    /// A link with a guest's name is there: the guest may be, too.
    pub(super) fn link_up(&mut self, context: &mut Context, link: LinkId) {
        let Some(guest) = context.guest_on(link).cloned() else {
            return;
        };
        let of_guest = |(id, entry): (&PublishId, &Entry)| (entry.guest == guest).then_some(*id);
        let ids: Vec<PublishId> = self.entries.iter().filter_map(of_guest).collect();
        for id in ids {
            if let Some(entry) = self.entries.get_mut(&id) {
                for target in &mut entry.targets {
                    target.seek(context, true);
                }
            }
            self.settle(context, id);
        }
    }

    /// A link is gone, and with it what was known of its guests.
    pub(super) fn link_gone(&mut self, context: &mut Context) {
        let ids: Vec<PublishId> = self.entries.keys().copied().collect();
        for id in ids {
            if let Some(entry) = self.entries.get_mut(&id) {
                let elsewhere = link_of(context, &entry.guest).is_some();
                for target in &mut entry.targets {
                    if context.neighbours.get(target.address).is_none() {
                        if elsewhere {
                            target.gate.awaited(context.now);
                        } else {
                            target.gate.gone();
                        }
                    }
                }
            }
            self.settle(context, id);
        }
    }

    /// Guests turned clients away whom we had let in.
    pub(super) fn turned_away(&mut self, context: &mut Context) {
        for guest in std::mem::take(&mut context.turned_away) {
            let leads_there = |(id, entry): (&PublishId, &mut Entry)| {
                let port = entry.port == guest.port() && entry.protocol == Protocol::Tcp;
                let target = entry.target(guest.ip()).filter(|_| port)?;
                target.gate.turned_away(context.now);
                Some(*id)
            };
            let ids: Vec<PublishId> = self.entries.iter_mut().filter_map(leads_there).collect();
            for id in ids {
                self.settle(context, id);
            }
        }
    }

    /// Whether a segment or an error answers a question of ours.
    pub(super) fn expects(&self, key: &Key) -> bool {
        !self.questions.is_empty() && self.questions.contains_key(key)
    }

    /// The guest's answer to a question.
    pub(super) fn answer(
        &mut self,
        context: &mut Context,
        place: Place,
        key: Key,
        segment: &Segment,
    ) {
        // Each guest speaks for itself.
        if context.neighbours.get(key.guest().ip()) != Some((place.mac, place.link)) {
            return;
        }
        let asked = self
            .questions
            .get(&key)
            .and_then(|id| self.entries.get(id))
            .and_then(|entry| {
                entry
                    .targets
                    .iter()
                    .find_map(|target| target.question(&key))
            });
        let expected = asked.map(|seq| seq.plus(1));
        if segment.rst {
            if segment.ack == expected {
                self.told(context, key, false);
            }
            return;
        }
        // Whatever it is, no connection comes of it (RFC 9293 section 3.10.7.3).
        let reset = Outgoing {
            seq: segment.ack.unwrap_or_default(),
            rst: true,
            ..Outgoing::default()
        };
        send_alone(context, place, key, reset);
        if segment.syn && segment.ack == expected {
            self.told(context, key, true);
        }
    }

    /// A question has its answer.
    pub(super) fn told(&mut self, context: &mut Context, key: Key, serves: bool) {
        let Some(id) = self.questions.remove(&key) else {
            return;
        };
        if let Some(entry) = self.entries.get_mut(&id) {
            for target in &mut entry.targets {
                if target.question(&key).is_some() {
                    target.asked = None;
                    target.gate.answered(serves, context.now);
                }
            }
        }
        self.settle(context, id);
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.due
    }

    pub(super) fn handle_timeout(&mut self, context: &mut Context) {
        let waiting = |entry: &Entry| {
            let targets = entry.targets.iter();
            targets
                .filter(|target| target.gate.deadline().is_some())
                .count()
        };
        let crowd: usize = self.entries.values().map(waiting).sum();
        let least = SHARE * u32::try_from(crowd).unwrap_or(u32::MAX);
        let ids: Vec<PublishId> = self.entries.keys().copied().collect();
        for id in ids {
            let Some(entry) = self.entries.get_mut(&id) else {
                continue;
            };
            let mut due = false;
            for number in 0..entry.targets.len() {
                let target = &mut entry.targets[number];
                if target.gate.deadline().is_some_and(|due| due <= context.now) {
                    due = true;
                    if target.gate.ask(context.now, least) {
                        let (guest, port) = (entry.guest.clone(), entry.port);
                        let asking = Asking {
                            id,
                            guest: &guest,
                            port,
                        };
                        ask(
                            &mut self.questions,
                            &mut self.next_question,
                            context,
                            &asking,
                            target,
                        );
                    }
                }
            }
            if due {
                self.settle(context, id);
            }
        }
        self.schedule();
    }

    /// Opens or closes an entry's sockets as its guest's answers want it.
    fn settle(&mut self, context: &mut Context, id: PublishId) {
        let Some(entry) = self.entries.get_mut(&id) else {
            return;
        };
        if entry.protocol == Protocol::Udp {
            for target in &mut entry.targets {
                // Nothing is asked, but the first datagram should find the guest.
                let sought = target.gate.deadline().is_some();
                target.gate.gone();
                if sought && context.neighbours.get(target.address).is_none() {
                    context.ask_who_has(target.address);
                }
            }
            return self.schedule();
        }
        // One address that serves is enough; the others are looked at again when something changes.
        if entry.answer() == GuestAnswer::Serves {
            for target in &mut entry.targets {
                target.gate.rest();
            }
        }
        let open = entry.targets.iter().any(|target| target.gate.is_open());
        for number in &entry.sockets {
            let Some(Some(Socket { socket, .. })) = self.sockets.get_mut(*number as usize) else {
                continue;
            };
            if socket.is_open() == open {
                continue;
            }
            let done = if open {
                socket.open().map(|()| {
                    watch(context, socket, *number);
                })
            } else {
                // A closed socket that is still watched would wake us without end.
                epoll::delete(&context.epoll, socket.descriptor()).ok();
                socket.close()
            };
            match done {
                Ok(()) => {
                    tracing::debug!(place = %socket.endpoint(), open, "published port");
                }
                Err(error) => context.host_limit(
                    "publish",
                    || {
                        let verb = if open { "open" } else { "close" };
                        format!(
                            "cannot {verb} the published port {}: {error}",
                            socket.endpoint()
                        )
                    },
                    Some("sharectl port explain PORT"),
                ),
            }
        }
        self.schedule();
    }

    fn schedule(&mut self) {
        let targets = self.entries.values().flat_map(|entry| &entry.targets);
        self.due = targets.filter_map(|target| target.gate.deadline()).min();
        // Questions of addresses that are no targets any more: a guest may have many, one after the other.
        let most: usize = self.entries.values().map(|entry| entry.targets.len()).sum();
        if self.questions.len() > most {
            let entries = &self.entries;
            self.questions.retain(|key, id| {
                let entry = entries.get(id);
                entry.is_some_and(|entry| {
                    entry
                        .targets
                        .iter()
                        .any(|target| target.question(key).is_some())
                })
            });
        }
    }

    /// What the guests' ports answer.
    pub(super) fn answers(&self) -> HashMap<PublishId, GuestAnswer> {
        let answer = |entry: &Entry| match entry.protocol {
            Protocol::Tcp => entry.answer(),
            Protocol::Udp => GuestAnswer::Unknown,
        };
        self.entries
            .iter()
            .map(|(id, entry)| (*id, answer(entry)))
            .collect()
    }

    /// A duplicate descriptor is not needed: the caller sends at once.
    pub(super) fn socket(&self, index: u32) -> Option<&HostSocket> {
        let socket = self.sockets.get(index as usize)?.as_ref()?;
        Some(&socket.socket)
    }

    pub(super) fn event(
        &mut self,
        context: &mut Context,
        flows: &mut Flows,
        datagrams: &mut Datagrams,
        index: u32,
    ) {
        let Some(Some(Socket { id, socket })) = self.sockets.get(index as usize) else {
            return;
        };
        let Some(entry) = self.entries.get(id) else {
            return;
        };
        match entry.protocol {
            Protocol::Udp => {
                let lead = |context: &Context, client: IpAddr| entry.datagram_lead(context, client);
                datagrams.published(context, index, socket, lead);
            }
            Protocol::Tcp => {
                for _turn in 0..TURN {
                    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
                    match rustix::net::acceptfrom_with(socket.descriptor(), flags) {
                        Ok((client, peer)) => {
                            let peer = match socket.endpoint() {
                                Endpoint::Address(_) => peer.and_then(|peer| peer.try_into().ok()),
                                // A program of this host, without a port: as one on the loopback.
                                Endpoint::Unix(_) => {
                                    self.next_client = self.next_client.wrapping_add(1) | 0x8000;
                                    Some((Ipv4Addr::LOCALHOST, self.next_client).into())
                                }
                            };
                            let Some(peer): Option<SocketAddr> = peer else {
                                continue;
                            };
                            flows.open_inbound(context, client, peer, entry.lead(peer.ip()));
                        }
                        Err(Errno::CONNABORTED | Errno::INTR) => {}
                        Err(Errno::AGAIN) => break,
                        Err(error) => {
                            context.host_limit(
                                "accept",
                                || {
                                    format!(
                                        "cannot accept a connection to a published port: {error}"
                                    )
                                },
                                Some("raise the limit of open files (ulimit -n)"),
                            );
                            break;
                        }
                    }
                }
            }
        }
    }
}

impl Entry {
    /// An address of the guest's own: a target if it is one that the port can be asked on.
    fn meet(&mut self, context: &Context, address: IpAddr) {
        let IpAddr::V6(v6) = address else { return };
        if v6.is_unicast_link_local() || !context.settings.is_local(address) {
            return;
        }
        let known = self
            .targets
            .iter_mut()
            .find(|target| target.address.is_ipv6());
        match known {
            // The one that DHCP gave, or the first that was seen, as long as it lasts.
            Some(old) if old.address == address => {}
            Some(old) => {
                let better = context.settings.ipv4_of(address).is_some();
                if better || context.neighbours.get(old.address).is_none() {
                    *old = Target::new(address);
                    old.gate.changed(context.now);
                }
            }
            None => {
                let mut target = Target::new(address);
                target.gate.changed(context.now);
                self.targets.push(target);
            }
        }
    }
}

impl Target {
    /// Asks at once if the guest can be reached, calls for it if its link is there.
    fn seek(&mut self, context: &Context, plugged: bool) {
        self.calls = 0;
        let links = context.links.iter().any(Option::is_some);
        if context.neighbours.get(self.address).is_some() {
            self.gate.changed(context.now);
        } else if plugged || links {
            self.gate.awaited(context.now);
        } else {
            self.gate.gone();
        }
    }
}

struct Asking<'a> {
    id: PublishId,
    guest: &'a GuestName,
    port: u16,
}

/// A SYN to the guest's port, or a call for the guest where nobody knows it.
fn ask(
    questions: &mut HashMap<Key, PublishId>,
    next: &mut u16,
    context: &mut Context,
    asking: &Asking<'_>,
    target: &mut Target,
) {
    if let Some((key, _)) = target.asked.take() {
        questions.remove(&key);
    }
    let Some((mac, link)) = context.neighbours.get(target.address) else {
        return call(context, asking.guest, target);
    };
    *next = (*next + 1) % (ASKING_PORTS.end - ASKING_PORTS.start);
    let from = context.settings.host_internal_like(target.address);
    let from = from.map(|from| SocketAddr::new(from, ASKING_PORTS.start + *next));
    let guest = SocketAddr::new(target.address, asking.port);
    let Some(key) = from.and_then(|from| Key::of(guest, from)) else {
        return;
    };
    let seq = context.first_seq(key);
    let question = Outgoing {
        seq,
        window: u16::MAX,
        syn: true,
        mss: Some(context.settings.segment_size(key.addresses)),
        ..Outgoing::default()
    };
    target.asked = Some((key, seq));
    questions.insert(key, asking.id);
    send_alone(context, Place { mac, link }, key, question);
}

/// On the guest's own link as long as that is there; a few times to everybody where no link has its name.
fn call(context: &mut Context, guest: &GuestName, target: &mut Target) {
    target.calls = target.calls.saturating_add(1);
    match (link_of(context, guest), target.address) {
        (Some(link), IpAddr::V4(address)) => {
            let request = arp::request(&context.settings, address);
            context.send(link, &request, &Offload::default());
        }
        (None, _) if target.calls > CALLS => target.gate.gone(),
        (_, address) => context.ask_who_has(address),
    }
}

fn link_of(context: &Context, guest: &GuestName) -> Option<LinkId> {
    let of_guest = |link: &Option<Box<crate::io::link::Link>>| {
        link.as_ref()
            .is_some_and(|link| link.guest.as_ref() == Some(guest))
    };
    let index = context.links.iter().position(of_guest)?;
    u32::try_from(index).ok().map(LinkId)
}

/// False: the kernel does not take it, which is told.
fn watch(context: &mut Context, socket: &HostSocket, number: u32) -> bool {
    let watched = context.watch(socket.descriptor(), Source::Publish(number), EventFlags::IN);
    if let Err(error) = watched {
        context.host_limit("epoll", || format!("cannot watch a socket: {error}"), None);
        return false;
    }
    true
}
