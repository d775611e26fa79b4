//! The machine against smoltcp's TCP as the guest, over a wire that loses, repeats and reorders on a seed,
//! with a virtual clock. The world here plays the caller's part: it keeps payload, delivers and times.

#![allow(
    clippy::cast_possible_truncation,
    reason = "test patterns are made of low bits, virtual clocks are short"
)]

use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::ops::Range;
use std::time::{Duration, Instant};

use control::mac::MacAddress;
use proptest::prelude::*;
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp;
use smoltcp::wire::{HardwareAddress, IpCidr, Ipv4Packet, TcpPacket};

use super::segment::pseudo_sum;
use super::simulated::{Dice, Host, IDLE, pattern};
use super::*;
use crate::engine::ends::Addresses;
use crate::engine::packet::{PROTOCOL_TCP, Path, write_ip};

const GUEST: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
const REMOTE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
#[derive(Clone, Copy, Debug)]
struct Faults {
    seed: u64,
    /// Of a thousand packets.
    lost: u64,
    repeated: u64,
    reordered: u64,
}

const PERFECT: Faults = Faults {
    seed: 1,
    lost: 0,
    repeated: 0,
    reordered: 0,
};

/// smoltcp's device: two queues.
#[derive(Default)]
struct Wire {
    to_guest: VecDeque<Vec<u8>>,
    from_guest: VecDeque<Vec<u8>>,
}

struct Receive(Vec<u8>);
struct Transmit<'a>(&'a mut VecDeque<Vec<u8>>);

impl RxToken for Receive {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl TxToken for Transmit<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, f: F) -> R {
        let mut packet = vec![0; length];
        let result = f(&mut packet);
        self.0.push_back(packet);
        result
    }
}

impl Device for Wire {
    type RxToken<'a> = Receive;
    type TxToken<'a> = Transmit<'a>;

    fn receive(&mut self, _: smoltcp::time::Instant) -> Option<(Receive, Transmit<'_>)> {
        let packet = self.to_guest.pop_front()?;
        Some((Receive(packet), Transmit(&mut self.from_guest)))
    }

    fn transmit(&mut self, _: smoltcp::time::Instant) -> Option<Transmit<'_>> {
        Some(Transmit(&mut self.from_guest))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = 1_500;
        capabilities
    }
}

struct World {
    start: Instant,
    now: Duration,
    machine: Option<Machine>,
    /// Host bytes kept until acknowledged; the host's own stream behind it.
    kept: VecDeque<u8>,
    host_stream: VecDeque<u8>,
    host_ends: bool,
    /// What the host's socket took, what waits before it, how much it takes at a time.
    host_got: Vec<u8>,
    waiting: VecDeque<u8>,
    host_room: usize,
    host_saw_end: bool,
    /// What came before its turn.
    early: Vec<(Seq, Vec<u8>)>,
    guest: Interface,
    sockets: SocketSet<'static>,
    socket: SocketHandle,
    wire: Wire,
    dice: Dice,
    faults: Faults,
    reset_by_guest: bool,
    opened: bool,
    sent_to_guest: usize,
    gave_up: bool,
}

fn world(faults: Faults, guest_buffer: usize) -> World {
    let mut wire = Wire::default();
    let now = smoltcp::time::Instant::ZERO;
    let mut guest = Interface::new(Config::new(HardwareAddress::Ip), &mut wire, now);
    guest.update_ip_addrs(|addresses| addresses.push(IpCidr::new(GUEST.into(), 24)).unwrap());
    guest
        .routes_mut()
        .add_default_ipv4_route(Ipv4Addr::new(10, 0, 0, 1))
        .unwrap();
    let buffer = || tcp::SocketBuffer::new(vec![0; guest_buffer]);
    let mut sockets = SocketSet::new(Vec::new());
    let socket = sockets.add(tcp::Socket::new(buffer(), buffer()));
    #[expect(
        clippy::disallowed_methods,
        reason = "any instant serves as the origin of a virtual clock"
    )]
    let start = Instant::now();
    World {
        start,
        now: Duration::ZERO,
        machine: None,
        kept: VecDeque::new(),
        host_stream: VecDeque::new(),
        host_ends: false,
        host_got: Vec::new(),
        waiting: VecDeque::new(),
        host_room: usize::MAX,
        host_saw_end: false,
        early: Vec::new(),
        guest,
        sockets,
        socket,
        wire,
        dice: Dice(faults.seed | 1),
        faults,
        reset_by_guest: false,
        opened: false,
        sent_to_guest: 0,
        gave_up: false,
    }
}

impl World {
    fn instant(&self) -> Instant {
        self.start + self.now
    }

    fn socket(&mut self) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(self.socket)
    }

    fn connect(&mut self) {
        let (sockets, guest) = (&mut self.sockets, &mut self.guest);
        sockets
            .get_mut::<tcp::Socket<'_>>(self.socket)
            .connect(guest.context(), (REMOTE, 80), 40_000)
            .unwrap();
    }

    fn path() -> Path {
        let nobody = MacAddress([0; 6]);
        Path {
            source_mac: nobody,
            destination_mac: nobody,
            addresses: Addresses::V4 {
                source: REMOTE,
                destination: GUEST,
            },
        }
    }

    /// What a link does: cut into segments, finish headers.
    fn put_on_wire(&mut self, outgoing: &Outgoing, payload: &[u8], mss: usize) {
        let mut offset = 0;
        loop {
            let end = (offset + mss).min(payload.len());
            let last = end == payload.len();
            let part = Outgoing {
                seq: outgoing.seq.plus(offset as u32),
                fin: outgoing.fin && last,
                psh: outgoing.psh && last,
                ..*outgoing
            };
            let (header, length) = part.emit((80, 40_000));
            let payload = &payload[offset..end];
            let mut sum = pseudo_sum(&Self::path(), length + payload.len());
            sum.add(&header[..length]);
            sum.add(payload);
            let whole = length + payload.len();
            let mut packet = write_ip(&Self::path(), PROTOCOL_TCP, whole)[14..].to_vec();
            packet.extend_from_slice(&header[..length]);
            packet[36..38].copy_from_slice(&sum.finish().to_be_bytes());
            packet.extend_from_slice(payload);
            self.sent_to_guest += 1;
            if !self.lost() {
                if self.dice.roll(1_000) < self.faults.repeated {
                    self.wire.to_guest.push_back(packet.clone());
                }
                self.wire.to_guest.push_back(packet);
                if self.dice.roll(1_000) < self.faults.reordered && self.wire.to_guest.len() > 1 {
                    let last = self.wire.to_guest.len() - 1;
                    self.wire.to_guest.swap(last, last - 1);
                }
            }
            offset = end;
            if last {
                return;
            }
        }
    }

    fn lost(&mut self) -> bool {
        self.dice.roll(1_000) < self.faults.lost
    }

    fn guest_packet(&mut self, packet: &[u8]) {
        let ip = Ipv4Packet::new_checked(packet).unwrap();
        let tcp = TcpPacket::new_checked(ip.payload()).unwrap();
        let segment = Segment::parse(&tcp);
        let now = self.instant();
        let Some(machine) = &mut self.machine else {
            if segment.syn {
                self.machine = Some(Machine::from_syn(
                    &segment,
                    Seq(u32::MAX - 5_000),
                    1_500,
                    now,
                ));
            }
            return;
        };
        let mut host = Host {
            payload: tcp.payload(),
            got: &mut self.host_got,
            waiting: &mut self.waiting,
            early: &mut self.early,
            room: &mut self.host_room,
            stalled: false,
        };
        let intake = machine.on_segment(&segment, now, &mut host);
        if host.stalled {
            machine.host_stalled();
        }
        self.kept.drain(..intake.acknowledged as usize);
        self.opened |= intake.opened;
        self.reset_by_guest |= intake.reset;
        if let Some(reply) = intake.reply {
            self.put_on_wire(&reply, &[], 1_460);
        }
    }

    fn host_side(&mut self) {
        let count = self.waiting.len().min(self.host_room);
        self.host_got.extend(self.waiting.drain(..count));
        self.host_room -= count;
        let Some(mut machine) = self.machine else {
            return;
        };
        if self.waiting.is_empty() {
            machine.host_drained();
            self.host_saw_end |= machine.guest_finished();
        }
        loop {
            while let Some(outgoing) = machine.next_transmit() {
                let from = if outgoing.length > 0 {
                    machine.offset_of(&outgoing)
                } else {
                    0
                };
                let payload: Vec<u8> = self
                    .kept
                    .range(from..from + outgoing.length)
                    .copied()
                    .collect();
                self.put_on_wire(&outgoing, &payload, machine.mss().max(1));
                machine.sent(&outgoing, outgoing.length, self.instant());
            }
            let wanted = machine.wanted().min(self.host_stream.len());
            if wanted > 0 {
                self.kept.extend(self.host_stream.drain(..wanted));
                machine.host_sent(wanted);
            } else if self.host_stream.is_empty() && self.host_ends && !machine.host_done() {
                machine.host_finished();
            } else {
                break;
            }
        }
        machine.settle(!self.host_stream.is_empty(), self.instant());
        self.machine = Some(machine);
    }

    /// One turn; time passes only when nobody has anything to do.
    fn step(&mut self) {
        let clock = smoltcp::time::Instant::from_micros(self.now.as_micros() as i64);
        self.guest.poll(clock, &mut self.wire, &mut self.sockets);
        let mut busy = !self.wire.to_guest.is_empty();
        for _packet in 0..self.wire.from_guest.len() {
            let Some(packet) = self.wire.from_guest.pop_front() else {
                break;
            };
            busy = true;
            if !self.lost() {
                if self.dice.roll(1_000) < self.faults.repeated {
                    self.guest_packet(&packet);
                }
                self.guest_packet(&packet);
            }
        }
        self.host_side();
        busy |= !self.wire.to_guest.is_empty() || !self.wire.from_guest.is_empty();
        if busy {
            self.now += Duration::from_micros(100);
            return;
        }
        if let Some(machine) = &mut self.machine
            && machine.ack_delayed()
        {
            machine.acknowledge_now();
            self.now += Duration::from_millis(1);
            return;
        }
        let guest_wait = self
            .guest
            .poll_delay(clock, &self.sockets)
            .map_or(Duration::from_secs(1), |wait| {
                Duration::from_micros(wait.total_micros())
            });
        let machine_wait = self.machine.as_ref().map_or(guest_wait, |machine| {
            machine
                .deadline(&IDLE)
                .saturating_duration_since(self.instant())
        });
        self.now += guest_wait
            .min(machine_wait)
            .clamp(Duration::from_micros(100), Duration::from_secs(1));
        let now = self.instant();
        if let Some(machine) = &mut self.machine
            && machine.deadline(&IDLE) <= now
        {
            self.gave_up |= machine.handle_timeout(&IDLE, now) == Expiry::GiveUp;
        }
    }

    fn run_until(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> bool) {
        for _step in 0..200_000 {
            if done(self) {
                return;
            }
            self.step();
        }
        panic!(
            "{what} did not happen in {:?}: {:?} {:?}",
            self.now,
            self.machine,
            self.sockets.get::<tcp::Socket<'_>>(self.socket).state()
        );
    }

    /// The guest's SYN arrives and the host says yes.
    fn open(&mut self) {
        self.connect();
        self.run_until("the SYN", |world| world.machine.is_some());
        self.machine.as_mut().unwrap().host_connected();
        self.run_until("opening", |world| world.opened);
    }
}

/// Both directions at once; every byte arrives once and in order, both ends see the other's end.
fn transfer(
    faults: Faults,
    up: usize,
    down: usize,
    guest_buffer: usize,
    host_speed: Option<usize>,
) {
    let mut world = world(faults, guest_buffer);
    world.open();
    let (up_bytes, down_bytes) = (pattern(up, 7), pattern(down, 99));
    world.host_stream.extend(&down_bytes);
    world.host_ends = true;
    if host_speed.is_some() {
        world.host_room = 0;
    }
    let (mut written, mut read) = (0, Vec::new());
    world.run_until("the transfer", |world| {
        if let Some(speed) = host_speed {
            world.host_room += speed;
        }
        let socket = world.socket();
        if written < up_bytes.len() && socket.can_send() {
            written += socket.send_slice(&up_bytes[written..]).unwrap();
        } else if written == up_bytes.len() && socket.may_send() {
            socket.close();
        }
        while socket.can_recv() {
            let piece = socket.recv(|bytes| (bytes.len(), bytes.to_vec())).unwrap();
            read.extend(piece);
        }
        world.machine.as_ref().is_some_and(Machine::finished) && world.waiting.is_empty()
    });
    assert!(
        world.host_got == up_bytes,
        "guest to host: {} of {up} bytes",
        world.host_got.len()
    );
    assert!(
        read == down_bytes,
        "host to guest: {} of {down} bytes",
        read.len()
    );
    assert_eq!(
        (world.host_saw_end, world.reset_by_guest, world.gave_up),
        (true, false, false)
    );
    assert!(
        world.kept.is_empty(),
        "everything acknowledged is forgotten"
    );
}

#[test]
fn bytes_cross_a_perfect_wire_without_a_retransmission() {
    let mut check = world(PERFECT, 65_536);
    check.open();
    check.host_stream.extend(pattern(1_000_000, 3));
    let mut got = 0;
    check.run_until("download", |world| {
        let socket = world.socket();
        while socket.can_recv() {
            got += socket.recv(|bytes| (bytes.len(), bytes.len())).unwrap();
        }
        got == 1_000_000
    });
    assert_eq!(check.machine.unwrap().retransmitted, 0);
    transfer(PERFECT, 300_000, 300_000, 65_536, None);
}

#[test]
fn a_slow_host_never_costs_a_byte_inside_the_window() {
    transfer(PERFECT, 400_000, 0, 65_536, Some(1_500));
}

#[test]
fn a_tiny_guest_window_still_carries_everything() {
    transfer(PERFECT, 10_000, 60_000, 1_024, None);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn every_byte_arrives_once_over_a_bad_wire(
        seed in any::<u64>(),
        lost in 0_u64..60,
        repeated in 0_u64..60,
        reordered in 0_u64..100,
        up in 0_usize..60_000,
        down in 0_usize..60_000,
        guest_buffer in prop_oneof![Just(2_048_usize), Just(16_384), Just(65_536)],
        slow in prop_oneof![Just(None), Just(Some(700_usize)), Just(Some(20_000))],
    ) {
        transfer(Faults { seed, lost, repeated, reordered }, up, down, guest_buffer, slow);
    }
}

#[test]
fn the_syn_ack_waits_for_the_host() {
    let mut world = world(PERFECT, 4_096);
    world.connect();
    world.run_until("the SYN", |world| world.machine.is_some());
    for _turn in 0..100 {
        world.step();
    }
    assert_eq!(
        world.sent_to_guest, 0,
        "nothing is said before the host has answered"
    );
    assert_eq!(world.socket().state(), tcp::State::SynSent);
    let reset = world.machine.as_ref().unwrap().reset();
    world.put_on_wire(&reset, &[], 1_460);
    world.machine = None;
    world.run_until("refusal", |world| {
        world.socket().state() == tcp::State::Closed
    });
}

#[test]
fn a_reset_crosses_both_ways() {
    let mut from_guest = world(PERFECT, 4_096);
    from_guest.open();
    from_guest.socket().abort();
    from_guest.run_until("the guest's reset", |world| world.reset_by_guest);

    let mut from_host = world(PERFECT, 4_096);
    from_host.open();
    let reset = from_host.machine.as_ref().unwrap().reset();
    from_host.put_on_wire(&reset, &[], 1_460);
    from_host.machine = None;
    from_host.run_until("the host's reset", |world| {
        world.socket().state() == tcp::State::Closed
    });
}

/// Takes nothing.
struct Nowhere;

impl Sink for Nowhere {
    fn next(&mut self, _: Range<usize>) -> usize {
        0
    }
    fn early(&mut self, _: Seq, _: Range<usize>) -> bool {
        false
    }
    fn join(&mut self, _: Seq, _: Seq) {}
}

#[test]
fn a_reset_with_a_guessed_number_is_challenged_and_has_no_effect() {
    let mut world = world(PERFECT, 4_096);
    world.open();
    let now = world.instant();
    let machine = world.machine.as_mut().unwrap();
    while let Some(outgoing) = machine.next_transmit() {
        machine.sent(&outgoing, 0, now);
    }
    let (_, next) = machine.last_numbers();
    let forged = Segment {
        seq: next.plus(100),
        ack: None,
        window: 0,
        syn: false,
        fin: false,
        rst: true,
        payload: 0,
        ..Segment::default()
    };
    let intake = machine.on_segment(&forged, now, &mut Nowhere);
    assert!(!intake.reset && machine.ack_due());
    let blind = Segment {
        seq: next.minus(1_000),
        ..forged
    };
    assert!(!machine.on_segment(&blind, now, &mut Nowhere).reset);
}

#[test]
fn a_small_request_is_acknowledged_by_its_answer() {
    let mut world = world(PERFECT, 8_192);
    world.open();
    world.run_until("quiet", |world| {
        world.wire.to_guest.is_empty() && world.wire.from_guest.is_empty()
    });
    let before = world.sent_to_guest;
    world.socket().send_slice(b"question").unwrap();
    world.run_until("the question", |world| world.host_got == b"question");
    assert_eq!(
        world.sent_to_guest, before,
        "nothing yet: the answer is on its way"
    );
    world.host_stream.extend(b"answer");
    world.run_until("the answer", |world| world.socket().recv_queue() == 6);
    assert_eq!(world.sent_to_guest, before + 1);
    // Without an answer it goes alone, soon.
    world.socket().send_slice(b"and more").unwrap();
    world.run_until("an acknowledgement", |world| {
        world.socket().send_queue() == 0
    });
    assert_eq!(world.sent_to_guest, before + 2);
}

#[test]
fn half_close_leaves_the_other_direction_open() {
    let mut world = world(PERFECT, 8_192);
    world.open();
    world.socket().close();
    world.run_until("the guest's end", |world| world.host_saw_end);
    world.host_stream.extend(pattern(50_000, 1));
    let mut got = Vec::new();
    world.run_until("bytes after the guest's end", |world| {
        let socket = world.socket();
        while socket.can_recv() {
            got.extend(socket.recv(|bytes| (bytes.len(), bytes.to_vec())).unwrap());
        }
        got.len() == 50_000
    });
    assert_eq!(got, pattern(50_000, 1));
    world.host_ends = true;
    world.run_until("both ends", |world| {
        world.machine.as_ref().is_some_and(Machine::finished)
    });
}

#[test]
fn a_shut_window_is_probed_until_it_opens() {
    let mut world = world(PERFECT, 2_048);
    world.open();
    world.host_stream.extend(pattern(20_000, 5));
    world.run_until("a full guest", |world| world.socket().recv_queue() == 2_048);
    // The guest is silent for a minute; then it reads, and every word of that is lost.
    while world.now < Duration::from_secs(60) {
        world.step();
    }
    assert!(!world.gave_up);
    world.faults.lost = 1_000;
    let mut got = Vec::new();
    got.extend(
        world
            .socket()
            .recv(|bytes| (bytes.len(), bytes.to_vec()))
            .unwrap(),
    );
    for _turn in 0..50 {
        world.step();
    }
    world.faults.lost = 0;
    world.run_until("the rest", |world| {
        let socket = world.socket();
        while socket.can_recv() {
            got.extend(socket.recv(|bytes| (bytes.len(), bytes.to_vec())).unwrap());
        }
        got.len() == 20_000
    });
    assert_eq!(got, pattern(20_000, 5));
}

#[test]
fn a_published_port_opens_towards_the_guest_or_is_refused() {
    let mut open = world(
        Faults {
            seed: 9,
            lost: 200,
            repeated: 50,
            reordered: 0,
        },
        4_096,
    );
    open.socket().listen(40_000).unwrap();
    open.machine = Some(Machine::to_guest(Seq(7), 1_460, open.instant()));
    open.run_until("opening", |world| world.opened);
    open.host_stream.extend(b"hello");
    open.run_until("a word", |world| world.socket().recv_queue() == 5);

    let mut refused = world(PERFECT, 4_096);
    refused.machine = Some(Machine::to_guest(Seq(7), 1_460, refused.instant()));
    refused.run_until("refusal", |world| world.reset_by_guest);
    assert!(!refused.opened);
}

#[test]
fn a_guest_that_vanished_is_given_up_in_bounded_time() {
    let mut sending = world(PERFECT, 4_096);
    sending.open();
    sending.faults.lost = 1_000;
    sending.host_stream.extend(b"anyone?");
    sending.run_until("giving up", |world| world.gave_up);
    assert!(
        (100..900).contains(&sending.now.as_secs()),
        "{:?}",
        sending.now
    );

    let mut dialled = world(PERFECT, 4_096);
    dialled.faults.lost = 1_000;
    dialled.machine = Some(Machine::to_guest(Seq(7), 1_460, dialled.instant()));
    dialled.run_until("giving up", |world| world.gave_up);
    assert!(dialled.now.as_secs() < 20, "{:?}", dialled.now);
}

#[test]
fn a_silent_connection_is_probed_and_lives_if_the_guest_answers() {
    let mut alive = world(PERFECT, 4_096);
    alive.open();
    alive.now += IDLE.open * 3;
    for _turn in 0..100 {
        alive.step();
    }
    assert!(!alive.gave_up);
    let silent = alive
        .instant()
        .saturating_duration_since(alive.machine.as_ref().unwrap().last_heard());
    assert!(
        silent < Duration::from_secs(200),
        "the guest answered the probe"
    );

    let mut dead = world(PERFECT, 4_096);
    dead.open();
    dead.faults.lost = 1_000;
    dead.now += IDLE.open;
    dead.run_until("giving up", |world| world.gave_up);
}

#[test]
fn segments_of_no_connection_are_reset_and_old_ones_acknowledged() {
    let stray = Segment {
        seq: Seq(100),
        ack: Some(Seq(5)),
        window: 0,
        syn: false,
        fin: true,
        rst: false,
        payload: 10,
        ..Segment::default()
    };
    assert_eq!(
        reset_stray(&stray).map(|reset| (reset.seq, reset.ack)),
        Some((Seq(5), None))
    );
    let bare = Segment { ack: None, ..stray };
    assert_eq!(
        reset_stray(&bare).and_then(|reset| reset.ack),
        Some(Seq(111))
    );
    assert_eq!(reset_stray(&Segment { rst: true, ..stray }), None);

    let origin = world(PERFECT, 64).start;
    let mut linger = linger::Linger::default();
    linger.insert(1, (Seq(5), Seq(111)), origin);
    assert_eq!(
        linger.answer(&1, &stray, origin).and_then(|ack| ack.ack),
        Some(Seq(111))
    );
    assert_eq!(linger.answer(&2, &stray, origin), None);
    assert_eq!(
        linger.answer(&1, &Segment { syn: true, ..stray }, origin),
        None,
        "a new connection"
    );
    assert!(linger.is_empty());
    for key in 0..10_000 {
        linger.insert(key, (Seq(0), Seq(0)), origin);
    }
    assert_eq!(linger.len(), 4_096);
    assert_eq!(
        linger.answer(&9_999, &stray, origin + Duration::from_secs(5)),
        None,
        "too late"
    );
}
