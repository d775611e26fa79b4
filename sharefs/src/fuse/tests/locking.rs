//! Locks between a guest's programs, and with the host's.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rustix::io::Errno;

use super::client::{Client, Options, answer_body, u32_at, u64_at};
use super::{O_RDWR, opcode};
use crate::fuse::session::Outcome;
use crate::sys::{self, LockKind, LockRange};

const SHARED: u32 = 0;
pub(super) const EXCLUSIVE: u32 = 1;
const UNLOCK: u32 = 2;
pub(super) const TO_THE_END: u64 = u64::MAX >> 1;
const FLOCK: u32 = 1;

/// fuse_lk_in.
pub(super) fn lock(handle: u64, owner: u64, range: (u64, u64), kind: u32, flags: u32) -> Vec<u8> {
    let mut body = Vec::new();
    for value in [handle, owner, range.0, range.1] {
        body.extend(value.to_le_bytes());
    }
    for value in [kind, 0, flags, 0] {
        body.extend(value.to_le_bytes());
    }
    body
}

pub(super) fn set(client: &Client, node: u64, body: &[u8]) -> Result<(), Errno> {
    client.ask(opcode::SETLK, node, &[body], 0).map(drop)
}

#[test]
fn owners_exclude_each_other_by_range() {
    let client = Client::new(Options::default());
    let (node, handle) = client.create(1, c"a", O_RDWR, 0o600).unwrap();
    let ask = |owner, range, kind| set(&client, node, &lock(handle, owner, range, kind, 0));
    ask(1, (0, 9), EXCLUSIVE).unwrap();
    ask(1, (0, 4), SHARED).expect("one's own lock can be changed");
    assert_eq!(ask(2, (5, 5), SHARED), Err(Errno::AGAIN));
    ask(2, (0, 4), SHARED).unwrap();
    ask(2, (10, TO_THE_END), EXCLUSIVE).unwrap();
    assert_eq!(ask(1, (99, 99), EXCLUSIVE), Err(Errno::AGAIN));
    ask(2, (10, TO_THE_END), UNLOCK).unwrap();
    ask(1, (99, 99), EXCLUSIVE).unwrap();
    assert_eq!(ask(1, (5, 4), EXCLUSIVE), Err(Errno::INVAL));
    assert_eq!(ask(1, (0, 4), 7), Err(Errno::INVAL));
}

#[test]
fn getlk_names_what_is_in_the_way() {
    let client = Client::new(Options::default());
    let (node, handle) = client.create(1, c"a", O_RDWR, 0o600).unwrap();
    set(&client, node, &lock(handle, 1, (5, 9), EXCLUSIVE, 0)).unwrap();
    let ask = |owner| {
        let body = lock(handle, owner, (0, TO_THE_END), EXCLUSIVE, 0);
        let answer = client.ask(opcode::GETLK, node, &[&body], 24).unwrap();
        (u64_at(&answer, 0), u64_at(&answer, 8), u32_at(&answer, 16))
    };
    assert_eq!(ask(2), (5, 9, EXCLUSIVE));
    assert_eq!(ask(1).2, UNLOCK, "one's own lock is not in the way");
}

#[test]
fn closing_a_file_ends_its_owners_locks() {
    let client = Client::new(Options::default());
    let (node, handle) = client.create(1, c"a", O_RDWR, 0o600).unwrap();
    let body = |owner| lock(handle, owner, (0, TO_THE_END), EXCLUSIVE, 0);
    set(&client, node, &body(1)).unwrap();
    client.flush(node, handle, 3).unwrap();
    assert_eq!(set(&client, node, &body(2)), Err(Errno::AGAIN));
    client.flush(node, handle, 1).unwrap();
    set(&client, node, &body(2)).unwrap();
    let held = client.held();
    client.release(handle).unwrap();
    assert_eq!(
        client.held(),
        held - 2,
        "the file and the owner's descriptor are gone"
    );
}

#[test]
fn the_hosts_programs_are_heeded_and_heed() {
    let client = Client::new(Options::default());
    let (node, handle) = client.create(1, c"a", O_RDWR, 0o600).unwrap();
    let host = std::fs::File::options()
        .read(true)
        .write(true)
        .open(client.path("a"))
        .unwrap();
    let all = |kind| LockRange {
        kind,
        start: 0,
        length: 0,
    };
    sys::lock(host.as_fd(), all(LockKind::Exclusive)).unwrap();
    let wish = lock(handle, 1, (0, TO_THE_END), SHARED, 0);
    assert_eq!(set(&client, node, &wish), Err(Errno::AGAIN));
    sys::lock(host.as_fd(), all(LockKind::Unlock)).unwrap();
    set(&client, node, &wish).unwrap();
    assert_eq!(
        sys::lock(host.as_fd(), all(LockKind::Exclusive)),
        Err(Errno::AGAIN)
    );
}

#[test]
fn a_wait_is_put_aside_and_answered_when_the_lock_is_free() {
    let client = Client::new(Options::default());
    let (node, handle) = client.create(1, c"a", O_RDWR, 0o600).unwrap();
    for flags in [0, FLOCK] {
        let other = client.open(node, O_RDWR).unwrap();
        let (mine, theirs) = (
            lock(handle, 1, (0, TO_THE_END), EXCLUSIVE, flags),
            lock(other, 2, (0, TO_THE_END), EXCLUSIVE, flags),
        );
        set(&client, node, &mine).unwrap();
        let request = Client::request(500, opcode::SETLKW, node, &[&theirs]);
        assert_eq!(client.raw(&request, 16).0, Outcome::Waits(500));
        assert_eq!(client.session().retry(500), None);
        set(
            &client,
            node,
            &lock(handle, 1, (0, TO_THE_END), UNLOCK, flags),
        )
        .unwrap();
        let answer = client.session().retry(500).unwrap();
        assert_eq!(answer_body(500, &answer), Ok(Vec::new()));
        assert_eq!(
            set(&client, node, &mine),
            Err(Errno::AGAIN),
            "the other has it now"
        );
        set(
            &client,
            node,
            &lock(other, 2, (0, TO_THE_END), UNLOCK, flags),
        )
        .unwrap();
    }
}

/// One thread waits for a lock while another of its process closes a descriptor of the file, or unlocks all of it.
#[test]
fn a_lock_that_came_while_its_owner_lost_all_others_is_held_until_what_it_was_asked_through_is_gone()
 {
    let whole = (0, TO_THE_END);
    for lost in [opcode::FLUSH, opcode::SETLK, opcode::RELEASE] {
        let client = Client::new(Options::default());
        let (node, first) = client.create(1, c"a", O_RDWR, 0o600).unwrap();
        let [second, other] = [(); 2].map(|()| client.open(node, O_RDWR).unwrap());
        let low = |owner, handle, kind| lock(handle, owner, (0, 9), kind, 0);
        let high = |owner, handle| lock(handle, owner, (100, 109), EXCLUSIVE, 0);
        set(&client, node, &low(1, other, EXCLUSIVE)).unwrap();
        set(&client, node, &high(2, first)).unwrap();
        let waiting = wait_for(&client, node, &low(2, second, EXCLUSIVE)).unwrap();
        match lost {
            opcode::FLUSH => client.flush(node, first, 2).unwrap(),
            opcode::SETLK => set(&client, node, &lock(first, 2, whole, UNLOCK, 0)).unwrap(),
            _ => client.release(first).unwrap(),
        }
        assert_eq!(client.session().retry(waiting), None);
        set(&client, node, &high(1, other)).expect("it lost that");
        set(&client, node, &lock(other, 1, whole, UNLOCK, 0)).unwrap();
        let answer = client.session().retry(waiting).unwrap();
        assert_eq!(answer_body(waiting, &answer), Ok(Vec::new()));
        let in_the_way = || set(&client, node, &low(1, other, EXCLUSIVE));
        assert_eq!(in_the_way(), Err(Errno::AGAIN), "behind {lost}");
        if lost != opcode::RELEASE {
            client.release(first).unwrap();
        }
        assert_eq!(in_the_way(), Err(Errno::AGAIN), "behind {lost}");
        client.release(second).unwrap();
        in_the_way().unwrap();
    }
}

#[test]
fn a_wait_ends_when_it_is_interrupted_or_the_session_does() {
    let client = Client::new(Options::default());
    let (node, handle) = client.create(1, c"a", O_RDWR, 0o600).unwrap();
    set(&client, node, &lock(handle, 1, (0, 0), EXCLUSIVE, 0)).unwrap();
    for unique in [501, 502] {
        let body = lock(handle, 2, (0, 0), EXCLUSIVE, 0);
        let request = Client::request(unique, opcode::SETLKW, node, &[&body]);
        assert_eq!(client.raw(&request, 16).0, Outcome::Waits(unique));
    }
    let interrupt = Client::request(9, opcode::INTERRUPT, 0, &[&501_u64.to_le_bytes()]);
    assert_eq!(client.raw(&interrupt, 0).0, Outcome::Done(0));
    let answer = client.session().retry(501).unwrap();
    assert_eq!(answer_body(501, &answer), Err(Errno::INTR));
    assert_eq!(client.session().retry(502), None);
    client.init().unwrap();
    let answer = client.session().retry(502).unwrap();
    assert_eq!(answer_body(502, &answer), Err(Errno::INTR));
}

#[test]
fn waits_have_a_bound() {
    let client = Client::new(Options {
        descriptors: 5000,
        ..Options::default()
    });
    let (node, handle) = client.create(1, c"a", O_RDWR, 0o600).unwrap();
    set(&client, node, &lock(handle, 1, (0, 0), EXCLUSIVE, 0)).unwrap();
    let mut waiting = 0;
    let error = loop {
        let body = lock(handle, 2, (0, 0), EXCLUSIVE, 0);
        let unique = client.next_unique();
        let request = Client::request(unique, opcode::SETLKW, node, &[&body]);
        match client.raw(&request, 16) {
            (Outcome::Waits(_), _) => waiting += 1,
            (Outcome::Done(_), answer) => break answer_body(unique, &answer),
        }
    };
    assert_eq!((error, waiting), (Err(Errno::NOLCK), 1024));
    assert_eq!(client.counters.refused_waits.get(), 1);
}

/// Asks for the lock and waits for it if need be: the request's number, or the answer.
fn wait_for(client: &Client, node: u64, body: &[u8]) -> Result<u64, Result<(), Errno>> {
    let unique = client.next_unique();
    let request = Client::request(unique, opcode::SETLKW, node, &[body]);
    match client.raw(&request, 16) {
        (Outcome::Waits(_), _) => Ok(unique),
        (Outcome::Done(_), answer) => Err(answer_body(unique, &answer).map(drop)),
    }
}

#[test]
fn who_waits_is_seen_by_who_would_wait_for_him_also_while_his_lock_is_asked_for() {
    let client = Client::new(Options::default());
    let (node, handle) = client.create(1, c"a", O_RDWR, 0o600).unwrap();
    let body = |owner, byte| lock(handle, owner, (byte, byte), EXCLUSIVE, 0);
    set(&client, node, &body(1, 0)).unwrap();
    set(&client, node, &body(2, 1)).unwrap();
    let waiting = wait_for(&client, node, &body(2, 0)).unwrap();
    let session = client.session();
    let (asked, is_over) = (AtomicUsize::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                assert_eq!(session.retry(waiting), None);
                asked.fetch_add(1, Ordering::Relaxed);
            }
        });
        let mut looks = 0;
        let missed = loop {
            if wait_for(&client, node, &body(1, 1)) != Err(Err(Errno::DEADLK)) {
                break true;
            }
            looks += 1;
            // Enough of each that one falls into the other.
            if looks > 10_000 && asked.load(Ordering::Relaxed) > 10_000 {
                break false;
            }
        };
        is_over.store(true, Ordering::Relaxed);
        assert!(!missed, "at look {looks}");
    });
}

/// File, owner, first byte, last byte, kind.
type Step = (usize, u64, u64, u64, u32);

#[test]
fn who_would_wait_for_himself_is_told_and_nobody_else() {
    let client = Client::new(Options::default());
    let files = [c"a", c"b"].map(|name| client.create(1, name, O_RDWR, 0o600).unwrap());
    // What is asked in turn, and whether the last one closes a circle.
    let cases: &[(&str, &[Step], bool)] = &[
        (
            "two owners, two ranges",
            &[
                (0, 1, 0, 0, 1),
                (0, 2, 1, 1, 1),
                (0, 1, 1, 1, 1),
                (0, 2, 0, 0, 1),
            ],
            true,
        ),
        (
            "two files",
            &[
                (0, 1, 0, 9, 1),
                (1, 2, 0, 9, 1),
                (1, 1, 5, 5, 0),
                (0, 2, 5, 5, 0),
            ],
            true,
        ),
        (
            "three owners",
            &[
                (0, 1, 0, 0, 1),
                (0, 2, 1, 1, 1),
                (0, 3, 2, 2, 1),
                (0, 1, 1, 1, 1),
                (0, 2, 2, 2, 1),
                (0, 3, 0, 0, 1),
            ],
            true,
        ),
        (
            "two who share what both want alone",
            &[
                (0, 1, 0, 9, 0),
                (0, 2, 0, 9, 0),
                (0, 1, 0, 9, 1),
                (0, 2, 0, 9, 1),
            ],
            true,
        ),
        (
            "a queue is no circle",
            &[(0, 1, 0, 0, 1), (0, 2, 0, 0, 1), (0, 3, 0, 0, 1)],
            false,
        ),
        (
            "readers do not wait for readers",
            &[
                (0, 1, 0, 0, 0),
                (0, 2, 1, 1, 1),
                (0, 2, 0, 0, 0),
                (0, 1, 1, 1, 1),
            ],
            false,
        ),
        (
            "what was given back is not in the way",
            &[
                (0, 1, 0, 9, 1),
                (0, 1, 0, 4, 2),
                (0, 2, 0, 0, 1),
                (0, 1, 0, 0, 1),
                (0, 2, 4, 4, 1),
            ],
            false,
        ),
    ];
    for (name, locks, circle) in cases {
        let mut waiting = Vec::new();
        let mut refused = None;
        for (index, (file, owner, start, end, kind)) in locks.iter().enumerate() {
            let (node, handle) = files[*file];
            match wait_for(
                &client,
                node,
                &lock(handle, *owner, (*start, *end), *kind, 0),
            ) {
                Ok(unique) => waiting.push(unique),
                Err(Ok(())) => {}
                Err(Err(error)) => refused = Some((index + 1, error)),
            }
        }
        assert_eq!(
            refused,
            circle.then_some((locks.len(), Errno::DEADLK)),
            "{name}"
        );
        // The others get theirs when the refused one gives up what it has.
        let last = locks.last().unwrap().1;
        for (node, handle) in files {
            client.flush(node, handle, last).unwrap();
        }
        let freed = waiting.iter().any(|unique| {
            let answer = client.session().retry(*unique);
            answer.is_some_and(|answer| answer_body(*unique, &answer).is_ok())
        });
        assert!(freed || !circle, "{name}");
        waiting
            .iter()
            .for_each(|unique| client.session().abandon(*unique));
        for (owner, (node, handle)) in (1..=3).flat_map(|owner| files.map(|file| (owner, file))) {
            client.flush(node, handle, owner).unwrap();
        }
    }
    assert_eq!(client.counters.deadlocks.get(), 4);
    assert_eq!(client.counters.refused_waits.get(), 0);
}

#[test]
fn an_interrupted_wait_and_a_flock_close_no_circle() {
    let client = Client::new(Options::default());
    let (node, handle) = client.create(1, c"a", O_RDWR, 0o600).unwrap();
    for (owner, at) in [(1, 0), (2, 1)] {
        set(&client, node, &lock(handle, owner, (at, at), EXCLUSIVE, 0)).unwrap();
    }
    let unique = wait_for(&client, node, &lock(handle, 1, (1, 1), EXCLUSIVE, 0)).unwrap();
    let interrupt = Client::request(9, opcode::INTERRUPT, 0, &[&unique.to_le_bytes()]);
    client.raw(&interrupt, 0);
    wait_for(&client, node, &lock(handle, 2, (0, 0), EXCLUSIVE, 0))
        .expect("nobody waits for it any more");
    let other = client.open(node, O_RDWR).unwrap();
    let whole = |handle, owner| lock(handle, owner, (0, TO_THE_END), EXCLUSIVE, FLOCK);
    set(&client, node, &whole(handle, 1)).unwrap();
    wait_for(&client, node, &whole(other, 2)).expect("flock(2) knows no deadlock");
}
