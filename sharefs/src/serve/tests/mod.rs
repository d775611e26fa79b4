//! A door and what comes to it: VMMs that behave, VMMs that vanish, VMMs that lie.

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::door::Door;
use crate::fuse::cache::Cache;
use crate::fuse::counters::Counters;
use crate::fuse::session::Session;
use crate::tree::host::HostTree;
use crate::tree::host::descriptors::Descriptors;
use crate::tree::owner::OwnerMap;
use frontend::{Descriptor, Frontend, message};

mod frontend;
mod pace;

const LONG: Duration = Duration::from_secs(10);
const SHORT: Duration = Duration::from_millis(200);

/// A share behind a door.
struct Place {
    door: Door,
    socket: PathBuf,
    folder: tempfile::TempDir,
    counters: Arc<Counters>,
    descriptors: Arc<Descriptors>,
}

impl Place {
    fn new() -> Self {
        guestmem::install().unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("share")).unwrap();
        std::fs::write(folder.path().join("share/a"), "content of a").unwrap();
        let descriptors = Descriptors::new(1000);
        let shared = folder.path().join("share");
        let tree = HostTree::open(&shared, Arc::clone(&descriptors), |_| OwnerMap::Pass);
        let (tree, counters) = (Arc::new(tree.unwrap()), Arc::new(Counters::default()));
        let count = Arc::clone(&counters);
        let make = Box::new(move |_| {
            Arc::new(Session::new(
                Arc::clone(&tree),
                Cache::Auto,
                Arc::clone(&count),
            )) as _
        });
        let socket = folder.path().join("fs.sock");
        let door = Door::open(&socket, make, Box::new(|_| ())).unwrap();
        Self {
            door,
            socket,
            folder,
            counters,
            descriptors,
        }
    }

    /// A VMM with the share mounted.
    fn mounted(&self) -> Frontend {
        let mut frontend = Frontend::start(&self.socket);
        let answer = frontend.ask(&init(), 80);
        assert_eq!(answer.len(), 80);
        frontend
    }

    /// The last word of each test: the door still serves.
    fn serves(&self) {
        let mut frontend = self.mounted();
        let answer = frontend.ask(&request(2, 1, 1, b"a\0"), 144);
        assert_eq!(answer.len(), 144, "LOOKUP of a file that is there");
    }
}

/// A FUSE request: number of the request, its kind, the node and the body.
fn request(unique: u64, opcode: u32, node: u64, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(u32::try_from(40 + body.len()).unwrap().to_le_bytes());
    bytes.extend(opcode.to_le_bytes());
    bytes.extend(unique.to_le_bytes());
    bytes.extend(node.to_le_bytes());
    bytes.extend([0; 16]);
    bytes.extend(body);
    bytes
}

fn init() -> Vec<u8> {
    let mut body = Vec::new();
    for value in [7, 38, 65536, 0xffff_ffff] {
        body.extend(u32::to_le_bytes(value));
    }
    body.resize(64, 0);
    request(1, 26, 0, &body)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

/// What tells a file from all others.
fn identity(file: impl AsFd) -> (u64, u64) {
    let status = rustix::fs::fstat(file).unwrap();
    (status.st_dev, status.st_ino)
}

/// Whether a descriptor of this process, in which other tests run, leads to one of these files.
fn any_is_open(files: &[(u64, u64)]) -> bool {
    let open = std::fs::read_dir("/proc/self/fd").unwrap();
    open.flatten().any(|entry| {
        let status = rustix::fs::stat(entry.path());
        status.is_ok_and(|status| files.contains(&(status.st_dev, status.st_ino)))
    })
}

#[test]
fn a_file_crosses_the_queue_and_the_next_vmm_is_served_too() {
    let place = Place::new();
    for _ in 0..3 {
        let mut frontend = place.mounted();
        let entry = frontend.ask(&request(2, 1, 1, b"a\0"), 144);
        let node = u64_at(&entry, 16);
        let open = frontend.ask(&request(3, 14, node, &[0; 8]), 32);
        let mut read = u64_at(&open, 16).to_le_bytes().to_vec();
        read.extend([0; 8]);
        read.extend(4096_u32.to_le_bytes());
        read.extend([0; 20]);
        let answer = frontend.ask(&request(4, 15, node, &read), 4112);
        assert_eq!(&answer[16..], b"content of a");
    }
    assert_eq!(place.door.connections(), 3);
}

/// Linux uses more than one request queue from 6.11 on; this guest does on any host.
#[test]
fn four_queues_are_served_at_once_and_each_gets_its_own_answers() {
    const ROUNDS: u32 = 300;
    let place = Place::new();
    let first = place.mounted();
    let others: Vec<Frontend> = (2..=4).map(|queue| first.another(queue)).collect();
    let start = std::sync::Barrier::new(4);
    std::thread::scope(|scope| {
        for (who, mut queue) in (0_u8..).zip([first].into_iter().chain(others)) {
            let start = &start;
            scope.spawn(move || {
                let name = [b"own", &[b'0' + who][..], b"\0"].concat();
                let unique = |round: u32| u64::from(who) << 32 | u64::from(round);
                // CREATE, to read and write.
                let body = [
                    &[2, 0, 0, 0, 0o200, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
                    &name[..],
                ]
                .concat();
                let made = queue.ask(&request(unique(0), 35, 1, &body), 160);
                let (node, handle) = (u64_at(&made, 16), u64_at(&made, 144));
                start.wait();
                for round in 1..=ROUNDS {
                    let text = [who; 1000].map(|who| who ^ round.to_le_bytes()[0]);
                    let mut write = [handle, 0].map(u64::to_le_bytes).concat();
                    write.extend(1000_u32.to_le_bytes());
                    write.extend([0; 20]);
                    write.extend(text);
                    let answer = queue.ask(&request(unique(round), 16, node, &write), 24);
                    assert_eq!(u64_at(&answer, 8), unique(round));
                    assert_eq!(u64_at(&answer, 16), 1000, "bytes written");
                    let mut read = [handle, 0].map(u64::to_le_bytes).concat();
                    read.extend(4096_u32.to_le_bytes());
                    read.extend([0; 20]);
                    let answer = queue.ask(&request(unique(round), 15, node, &read), 4112);
                    assert_eq!(answer[16..], text, "queue {who}, round {round}");
                }
            });
        }
    });
    let writes = place.counters.requests().find(|(name, _)| *name == "write");
    assert_eq!(writes, Some(("write", u64::from(4 * ROUNDS))));
}

#[test]
fn a_guest_that_reboots_stops_its_queue_and_starts_it_again() {
    let place = Place::new();
    let mut frontend = place.mounted();
    for _ in 0..3 {
        frontend.stop_queue();
        let mut next = Frontend::connect_again(frontend);
        assert_eq!(next.ask(&init(), 80).len(), 80);
        frontend = next;
    }
    assert_eq!(place.door.connections(), 1);
}

#[test]
fn a_lock_that_is_waited_for_comes_when_it_is_free() {
    let place = Place::new();
    let mut frontend = place.mounted();
    let created = frontend.ask(&request(2, 1, 1, b"a\0"), 144);
    let node = u64_at(&created, 16);
    let open = frontend.ask(&request(3, 14, node, &[2, 0, 0, 0, 0, 0, 0, 0]), 32);
    let handle = u64_at(&open, 16);
    let lock = |owner: u64, kind: u32| {
        let mut body = Vec::new();
        for value in [handle, owner, 0, u64::MAX >> 1] {
            body.extend(value.to_le_bytes());
        }
        for value in [kind, 0, 0, 0] {
            body.extend(value.to_le_bytes());
        }
        body
    };
    assert_eq!(
        frontend.ask(&request(4, 32, node, &lock(1, 1)), 16).len(),
        16
    );

    let chain = frontend.chain(&request(5, 33, node, &lock(2, 1)), 16);
    frontend.submit(&chain);
    let before = frontend.submitted() - 1;
    assert!(!frontend.wait_used(before + 1, SHORT), "it must wait");
    // The queue is not blocked meanwhile; the chain's descriptors are still the device's.
    let host = std::fs::File::options()
        .write(true)
        .open(place.folder.path().join("share/a"));
    let unlock = request(6, 32, node, &lock(1, 2));
    frontend.write(0x20000, &unlock);
    let length = u32::try_from(unlock.len()).unwrap();
    frontend.submit_at(
        2,
        &[
            Descriptor {
                address: 0x20000,
                length,
                flags: 1,
                next: 3,
            },
            Descriptor {
                address: 0x50_0000,
                length: 16,
                flags: 2,
                next: 0,
            },
        ],
    );
    assert!(frontend.wait_used(before + 2, LONG), "both are answered");
    assert_eq!(
        frontend.read(0x40_0000, 16)[4..],
        [0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0]
    );
    assert_eq!(
        frontend.read(0x50_0000, 16)[4..],
        [0, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0]
    );
    drop(host);
}

#[test]
fn random_bytes_on_the_socket_end_that_connection_only() {
    let place = Place::new();
    let strategy = (
        prop::collection::vec(any::<u8>(), 0..300),
        0_u32..45,
        0_usize..7,
    );
    let mut runner = TestRunner::new(Config::with_cases(60));
    runner
        .run(&strategy, |(bytes, request, progress)| {
            let frontend = Frontend::connect(&place.socket);
            if progress > 2 {
                frontend.negotiate();
            }
            if progress > 3 {
                frontend.share_memory(16 << 20);
            }
            if progress == 1 {
                frontend.noise(&bytes);
            } else {
                frontend.say(request, &bytes, &[frontend.file.as_fd()]);
                frontend.say(request, &bytes, &[]);
            }
            frontend.swallow();
            Ok(())
        })
        .unwrap();
    place.serves();
}

#[test]
fn bad_descriptors_and_bad_memory_harm_nobody_else() {
    let place = Place::new();
    place.serves();

    // A kick that is a regular file, a socket that never speaks, a pipe whose other end is closed.
    let file = std::fs::File::open(place.folder.path().join("share/a")).unwrap();
    let (silent, _other) = UnixStream::pair().unwrap();
    let (closed, _) = std::io::pipe().unwrap();
    let mut given = vec![identity(&file), identity(&silent), identity(&closed)];
    for kick in [file.as_fd(), silent.as_fd(), closed.as_fd()] {
        let frontend = Frontend::connect(&place.socket);
        frontend.negotiate();
        frontend.share_memory(16 << 20);
        given.push(identity(&frontend.file));
        frontend.start_queue(kick);
        drop(frontend);
        place.serves();
    }

    // A call that nobody can write to, whose other end the device itself is made to hold.
    let (full, other) = UnixStream::pair().unwrap();
    full.set_nonblocking(true).unwrap();
    while std::io::Write::write(&mut (&full), &[0; 4096]).is_ok() {}
    full.set_nonblocking(false).unwrap();
    let mut frontend = place.mounted();
    given.extend([identity(&full), identity(&other), identity(&frontend.file)]);
    frontend.say(
        message::SET_VRING_CALL,
        &1_u64.to_le_bytes(),
        &[full.as_fd()],
    );
    frontend.say(
        message::SET_VRING_ERR,
        &1_u64.to_le_bytes(),
        &[other.as_fd()],
    );
    frontend.question(message::GET_FEATURES);
    drop(other);
    let chain = frontend.chain(&request(2, 3, 1, &[0; 16]), 120);
    frontend.submit(&chain);
    wait_until(|| frontend.used() == frontend.submitted());
    frontend.submit(&chain);
    drop((frontend, full));
    place.serves();

    // Memory that is larger than its file, and memory that shrinks while it is in use.
    let frontend = Frontend::connect(&place.socket);
    frontend.negotiate();
    frontend.share_memory(32 << 20);
    given.push(identity(&frontend.file));
    frontend.start_queue(file.as_fd());
    frontend.wait_closed();
    place.serves();

    let mended = guestmem::mended();
    let frontend = place.mounted();
    given.push(identity(&frontend.file));
    rustix::fs::ftruncate(&frontend.file, 0).unwrap();
    frontend.kick_only();
    wait_until(|| guestmem::mended() > mended);
    drop(frontend);
    place.serves();

    // Descriptors of all of them are gone in the end.
    drop((file, silent, closed));
    wait_until(|| !any_is_open(&given));
    wait_until(|| place.descriptors.held() <= 1);
}

#[test]
fn chains_that_name_no_memory_are_given_back_empty() {
    let place = Place::new();
    let mut frontend = place.mounted();
    let sane = frontend.chain(&request(2, 3, 1, &[0; 16]), 120);
    let outside = Descriptor {
        address: 1 << 40,
        length: 100,
        flags: 0,
        next: 0,
    };
    let endless = Descriptor {
        flags: 1,
        next: 0,
        ..sane[0]
    };
    let huge = Descriptor {
        length: u32::MAX,
        flags: 0,
        ..sane[0]
    };
    let indirect = Descriptor {
        address: 0x10000,
        length: 17,
        flags: 4,
        next: 0,
    };
    let backwards = [
        Descriptor {
            flags: 3,
            ..sane[1]
        },
        Descriptor {
            flags: 0,
            ..sane[0]
        },
    ];
    for chain in [&[outside][..], &[endless], &[huge], &[indirect], &backwards] {
        frontend.submit(chain);
        assert!(frontend.wait_used(frontend.submitted(), LONG));
    }
    // An empty table entry, and one outside the table, which cannot even be given back.
    frontend.submit_head(63);
    assert_eq!(frontend.ask_again(&sane), 120, "the queue goes on");
    frontend.submit_head(u16::MAX);
    frontend.submit(&sane);
    assert!(frontend.wait_used(frontend.submitted() - 1, LONG));
    assert!(place.counters.bad_chains.get() >= 2);
}

#[test]
fn a_socket_that_was_left_there_is_replaced_and_gone_in_the_end() {
    let place = Place::new();
    assert!(place.socket.exists());
    let mode =
        std::os::unix::fs::PermissionsExt::mode(&place.socket.metadata().unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    let frontend = place.mounted();
    assert!(
        place
            .door
            .session()
            .is_some_and(|session| session.mounted())
    );
    let Place { door, socket, .. } = place;
    drop(door);
    assert!(!socket.exists());
    frontend.wait_closed();
}

#[test]
fn a_share_that_is_taken_away_serves_no_more_of_what_the_guest_sends() {
    let place = Place::new();
    let mut frontend = place.mounted();
    let chain = frontend.chain(&request(2, 3, 1, &[0; 16]), 120);
    frontend.submit(&chain);
    assert!(frontend.wait_used(frontend.submitted(), LONG));
    let Place { door, counters, .. } = place;
    drop(door);
    let served = counters.requests().map(|(_, count)| count).sum::<u64>();
    for _ in 0..30 {
        frontend.submit(&chain);
    }
    assert!(!frontend.wait_used(frontend.submitted(), SHORT));
    assert_eq!(
        counters.requests().map(|(_, count)| count).sum::<u64>(),
        served
    );
}

#[test]
fn get_features_is_answered_before_anything_else() {
    let place = Place::new();
    let frontend = Frontend::connect(&place.socket);
    assert_ne!(frontend.question(message::GET_FEATURES), 0);
}

fn wait_until(condition: impl Fn() -> bool) {
    let pause = rustix::event::Timespec {
        tv_sec: 0,
        tv_nsec: 5_000_000,
    };
    for _ in 0..2000 {
        if condition() {
            return;
        }
        rustix::event::poll(&mut [], Some(&pause)).unwrap();
    }
    panic!("waited ten seconds in vain");
}
