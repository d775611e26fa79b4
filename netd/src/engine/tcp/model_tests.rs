//! Two machines against each other over a wire that loses, repeats, delays and cuts on a seed; the oracle is the
//! byte stream. Whatever happens, each side's host gets a prefix of what the other side's host sent; a connection whose
//! wire lives ends complete or by a reset that somebody asked for, and one whose wire dies ends too.

#![allow(
    clippy::cast_possible_truncation,
    reason = "test patterns are made of low bits"
)]

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::simulated::{Dice, Host, IDLE, pattern};
use super::*;

/// A case.
#[derive(Clone, Copy, Debug)]
struct Case {
    seed: u64,
    /// Of a thousand segments.
    lost: u64,
    repeated: u64,
    /// Most extra microseconds that a segment takes: more than the distance of two means that they change places.
    jitter: u64,
    bytes: [usize; 2],
    /// Bytes that a host takes in a millisecond, and how many of ten times it takes none for up to four seconds.
    speed: usize,
    pauses: u64,
    selective: bool,
    mss: u16,
    /// After this many segments the wire is dead, or one host resets.
    dead_after: Option<u64>,
    reset_after: Option<u64>,
}

/// One side with its host.
struct Side {
    machine: Option<Machine>,
    first: Seq,
    /// The host's stream: what of it was fetched, what of that is kept.
    stream: Vec<u8>,
    fetched: usize,
    kept: VecDeque<u8>,
    got: Vec<u8>,
    waiting: VecDeque<u8>,
    early: Vec<(Seq, Vec<u8>)>,
    room: usize,
    next_room: Duration,
    /// The furthest number that this side ever allowed the other to send.
    allowed: Option<Seq>,
    shift: u8,
    ack_at: Option<Duration>,
    over: Over,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Over {
    No,
    /// Both ends seen.
    Complete,
    Reset,
    GaveUp,
}

/// A segment on its way to a side.
type Flight = (usize, Segment, Vec<u8>);

struct World {
    case: Case,
    start: Instant,
    now: Duration,
    dice: Dice,
    sides: [Side; 2],
    wire: BTreeMap<(Duration, u64), Flight>,
    sent: u64,
}

fn side(stream: Vec<u8>, first: Seq) -> Side {
    Side {
        machine: None,
        first,
        stream,
        fetched: 0,
        kept: VecDeque::new(),
        got: Vec::new(),
        waiting: VecDeque::new(),
        early: Vec::new(),
        room: 0,
        next_room: Duration::ZERO,
        allowed: None,
        shift: 0,
        ack_at: None,
        over: Over::No,
    }
}

impl World {
    fn new(case: Case) -> Self {
        #[expect(
            clippy::disallowed_methods,
            reason = "any instant serves as the origin of a virtual clock"
        )]
        let start = Instant::now();
        let mut dice = Dice(case.seed | 1);
        // Numbers wrap within the first few segments of every second case.
        let mut first = || {
            Seq(u32::MAX
                .wrapping_sub(dice.roll(30_000) as u32)
                .wrapping_mul(1 + dice.roll(2) as u32))
        };
        let (one, two) = (first(), first());
        let mut sides = [
            side(pattern(case.bytes[0], 1), one),
            side(pattern(case.bytes[1], 2), two),
        ];
        sides[0].machine = Some(Machine::to_guest(one, case.mss, start));
        Self {
            case,
            start,
            now: Duration::ZERO,
            dice,
            sides,
            wire: BTreeMap::new(),
            sent: 0,
        }
    }

    fn put(&mut self, from: usize, outgoing: &Outgoing, payload: &[u8], mss: usize) {
        let mut at = 0;
        loop {
            let end = (at + mss).min(payload.len());
            let last = end == payload.len();
            let segment = Segment {
                seq: outgoing.seq.plus(at as u32),
                ack: outgoing.ack,
                window: outgoing.window,
                syn: outgoing.syn,
                fin: outgoing.fin && last,
                rst: outgoing.rst,
                mss: outgoing.mss,
                window_scale: outgoing.window_scale,
                sack_permitted: outgoing.sack_permitted && self.case.selective,
                sack: outgoing.sack,
                payload: end - at,
            };
            self.judge(from, &segment);
            self.sent += 1;
            let alive = self.case.dead_after.is_none_or(|count| self.sent < count);
            if alive && self.dice.roll(1_000) >= self.case.lost {
                let copies = 1 + u64::from(self.dice.roll(1_000) < self.case.repeated);
                for _copy in 0..copies {
                    let delay = Duration::from_micros(50 + self.dice.roll(self.case.jitter + 1));
                    let key = (self.now + delay, self.sent * 2 + copies);
                    self.wire
                        .insert(key, (1 - from, segment, payload[at..end].to_vec()));
                }
            }
            at = end;
            if last {
                return;
            }
        }
    }

    /// Nothing is ever sent that the other side has not allowed, and payload is the stream's.
    fn judge(&mut self, from: usize, segment: &Segment) {
        if let Some(shift) = segment.window_scale {
            self.sides[from].shift = shift;
        }
        if let Some(ack) = segment.ack {
            let shift = if segment.syn {
                0
            } else {
                self.sides[from].shift
            };
            let edge = ack.plus(u32::from(segment.window) << shift);
            let allowed = self.sides[from].allowed.map_or(edge, |old| old.later(edge));
            assert!(
                allowed == edge
                    || segment.syn
                    || self.sides[from].allowed.is_some_and(|old| old == allowed)
            );
            self.sides[from].allowed = Some(allowed);
        }
        if segment.payload > 0
            && let Some(allowed) = self.sides[1 - from].allowed
        {
            let end = segment.seq.plus(segment.payload as u32);
            assert!(allowed.at_or_after(end), "sent {end:?} beyond {allowed:?}");
        }
        assert!(segment.payload <= usize::from(self.case.mss));
    }

    fn deliver(&mut self, (to, segment, payload): Flight) {
        let now = self.start + self.now;
        let side = &mut self.sides[to];
        if side.over != Over::No {
            // What TIME-WAIT and resets do for a connection that is gone.
            let answer = match side
                .machine
                .as_ref()
                .filter(|_| side.over == Over::Complete)
            {
                Some(_gone) if segment.rst || segment.length() == 0 => None,
                Some(machine) => {
                    let (seq, ack) = machine.last_numbers();
                    Some(Outgoing {
                        seq,
                        ack: Some(ack),
                        window: u16::MAX,
                        ..Outgoing::default()
                    })
                }
                None => reset_stray(&segment),
            };
            if let Some(answer) = answer {
                self.put(to, &answer, &[], 1);
            }
            return;
        }
        let Some(machine) = &mut side.machine else {
            if segment.syn {
                let mut machine = Machine::from_syn(&segment, side.first, self.case.mss, now);
                machine.host_connected();
                side.machine = Some(machine);
            }
            return;
        };
        let mut host = Host {
            payload: &payload,
            got: &mut side.got,
            waiting: &mut side.waiting,
            early: &mut side.early,
            room: &mut side.room,
            stalled: false,
        };
        let intake = machine.on_segment(&segment, now, &mut host);
        if host.stalled {
            machine.host_stalled();
        }
        side.kept.drain(..intake.acknowledged as usize);
        if intake.reset {
            side.over = Over::Reset;
        }
        if let Some(reply) = intake.reply {
            self.put(to, &reply, &[], 1);
        }
    }

    /// The host's part: takes bytes, gives bytes, closes when it has given all.
    fn work(&mut self, which: usize) {
        let now = self.start + self.now;
        let side = &mut self.sides[which];
        let Some(mut machine) = side.machine.filter(|_| side.over == Over::No) else {
            return;
        };
        if side.next_room <= self.now {
            side.room = self.case.speed;
            side.next_room = self.now + Duration::from_millis(1);
            if self.dice.roll(10) < self.case.pauses {
                side.next_room += Duration::from_millis(self.dice.roll(4_000));
            }
        }
        let count = side.waiting.len().min(side.room);
        side.got.extend(side.waiting.drain(..count));
        side.room -= count;
        if side.waiting.is_empty() {
            machine.host_drained();
        }
        loop {
            while let Some(outgoing) = machine.next_transmit() {
                let from = if outgoing.length > 0 {
                    machine.offset_of(&outgoing)
                } else {
                    0
                };
                let payload: Vec<u8> = self.sides[which]
                    .kept
                    .range(from..from + outgoing.length)
                    .copied()
                    .collect();
                self.put(which, &outgoing, &payload, machine.mss());
                machine.sent(&outgoing, outgoing.length, now);
            }
            let side_stream = self.sides[which].stream.len();
            let side = &mut self.sides[which];
            let wanted = machine.wanted().min(side_stream - side.fetched);
            if wanted > 0 {
                side.kept
                    .extend(&side.stream[side.fetched..side.fetched + wanted]);
                side.fetched += wanted;
                machine.host_sent(wanted);
            } else if side.fetched == side_stream
                && machine.phase() == Phase::Open
                && !machine.host_done()
            {
                machine.host_finished();
            } else {
                break;
            }
        }
        let side = &mut self.sides[which];
        machine.settle(side.fetched < side.stream.len(), now);
        side.ack_at = machine
            .ack_delayed()
            .then(|| side.ack_at.unwrap_or(self.now + Duration::from_millis(1)));
        if machine.finished() && side.waiting.is_empty() {
            side.over = Over::Complete;
        }
        side.machine = Some(machine);
    }

    fn timers(&mut self, which: usize) {
        let now = self.start + self.now;
        let side = &mut self.sides[which];
        let Some(machine) = side.machine.as_mut().filter(|_| side.over == Over::No) else {
            return;
        };
        if side.ack_at.is_some_and(|at| at <= self.now) {
            side.ack_at = None;
            machine.acknowledge_now();
        }
        if machine.deadline(&IDLE) <= now && machine.handle_timeout(&IDLE, now) == Expiry::GiveUp {
            side.over = Over::GaveUp;
            let reset = machine.reset();
            self.put(which, &reset, &[], 1);
        }
    }

    /// The next moment at which anything happens.
    fn next(&self) -> Option<Duration> {
        let sides = self.sides.iter().filter(|side| side.over == Over::No);
        let sides = sides.filter_map(|side| {
            let machine = side.machine.as_ref()?;
            let timer = machine
                .deadline(&IDLE)
                .saturating_duration_since(self.start);
            let room = (!side.waiting.is_empty()).then_some(side.next_room);
            [Some(timer), side.ack_at, room].into_iter().flatten().min()
        });
        let arrival = self.wire.keys().next().map(|key| key.0);
        sides.chain(arrival).min()
    }

    fn run(&mut self) {
        for _step in 0..50_000 {
            if self
                .sides
                .iter()
                .all(|side| side.over != Over::No || side.machine.is_none())
                && self.wire.is_empty()
            {
                return;
            }
            if self
                .case
                .reset_after
                .is_some_and(|count| self.sent >= count)
                && self.sides[0].over == Over::No
                && let Some(machine) = &self.sides[0].machine
            {
                let reset = machine.reset();
                self.sides[0].over = Over::Reset;
                self.put(0, &reset, &[], 1);
            }
            self.work(0);
            self.work(1);
            let Some(next) = self.next() else { return };
            self.now = self.now.max(next);
            while let Some(entry) = self
                .wire
                .first_entry()
                .filter(|entry| entry.key().0 <= self.now)
            {
                let flight = entry.remove();
                self.deliver(flight);
            }
            self.timers(0);
            self.timers(1);
        }
        panic!(
            "no end at {:?}: {:?} {:?}",
            self.now, self.sides[0].machine, self.sides[1].machine
        );
    }
}

fn check(case: Case) {
    let mut world = World::new(case);
    world.run();
    let [one, two] = &world.sides;
    assert!(
        two.stream.starts_with(&one.got),
        "{} bytes of {}",
        one.got.len(),
        two.stream.len()
    );
    assert!(
        one.stream.starts_with(&two.got),
        "{} bytes of {}",
        two.got.len(),
        one.stream.len()
    );
    let ends = (one.over, two.over);
    let opened =
        |side: &Side| matches!(&side.machine, Some(machine) if machine.phase() == Phase::Open);
    if !opened(one) || !opened(two) {
        // So much was lost that nobody heard the first word.
        assert!(one.over != Over::Complete && two.over != Over::Complete);
        return;
    }
    if case.dead_after.is_none() && case.reset_after.is_none() {
        assert_eq!(ends, (Over::Complete, Over::Complete), "{:?}", world.now);
        assert_eq!(
            (one.got.len(), two.got.len()),
            (two.stream.len(), one.stream.len())
        );
        assert!(
            one.kept.is_empty() && two.kept.is_empty(),
            "all that was acknowledged is forgotten"
        );
        assert!(
            one.early.is_empty() && two.early.is_empty(),
            "nothing is kept beyond the end"
        );
    }
    assert!(
        one.over != Over::No && (two.over != Over::No || two.machine.is_none()),
        "{ends:?}"
    );
}

fn cases() -> impl Strategy<Value = Case> {
    let wire = (
        0_u64..150,
        0_u64..80,
        prop_oneof![Just(0_u64), 0_u64..3_000],
    );
    // The largest do not fit a window: with a slow host it shuts.
    let size = || prop_oneof![2 => Just(0_usize), 4 => 1_usize..4_000, 8 => 4_000_usize..60_000, 1 => 300_000_usize..700_000];
    let host = (
        prop_oneof![Just(usize::MAX), 500_usize..60_000],
        prop_oneof![3 => Just(0_u64), 1 => 1_u64..5],
    );
    let form = (
        any::<bool>(),
        prop_oneof![Just(1_460_u16), Just(536), Just(65_480)],
    );
    let end = prop_oneof![
        6 => Just((None, None)),
        1 => (1_u64..300).prop_map(|count| (Some(count), None)),
        1 => (1_u64..300).prop_map(|count| (None, Some(count))),
    ];
    (any::<u64>(), wire, [size(), size()], host, form, end).prop_map(
        |(
            seed,
            (lost, repeated, jitter),
            bytes,
            (speed, pauses),
            (selective, mss),
            (dead_after, reset_after),
        )| Case {
            seed,
            lost,
            repeated,
            jitter,
            bytes,
            speed,
            pauses,
            selective,
            mss,
            dead_after,
            reset_after,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn bytes_arrive_once_in_order_or_the_connection_ends(case in cases()) {
        check(case);
    }
}
