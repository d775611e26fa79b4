//! The door over real sockets: what only a connection can show. What messages do is tested in ninep/tests.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::{MOST_CONNECTIONS, NinepDoor, Offer, OfferList};
use crate::ninep::counters::Counters;
use crate::ninep::messages::{Reply, Request};
use crate::ninep::session::mount;
use crate::ninep::wire::{Data, Few, Frame, Text};
use crate::tree::host::HostTree;
use crate::tree::host::descriptors::Descriptors;
use crate::tree::owner::OwnerMap;

const LIMIT: Duration = Duration::from_secs(20);
pub(super) const LONGEST: u32 = 1 << 20;

/// A door with one share `a`.
struct House {
    door: NinepDoor,
    counters: Arc<Counters>,
    folder: PathBuf,
    root: tempfile::TempDir,
}

impl House {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("share");
        std::fs::create_dir(&folder).unwrap();
        let counters = Arc::new(Counters::default());
        let offers = OfferList::from([("a".to_owned(), offer(&folder))]);
        let path = root.path().join("9p.sock");
        let door = NinepDoor::open(&path, offers, Arc::clone(&counters)).unwrap();
        Self {
            door,
            counters,
            folder,
            root,
        }
    }

    fn connect(&self) -> Visitor {
        let stream = UnixStream::connect(self.door.path()).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        Visitor { stream }
    }

    /// Connected, with the share as fid 0 and an open file `f` as fid 1.
    fn visitor(&self) -> Visitor {
        let mut visitor = self.connect();
        visitor.attach();
        let flags = 0o102;
        visitor.ask(&Request::Walk {
            fid: 0,
            new_fid: 1,
            names: Few::default(),
        });
        visitor.ask(&Request::Create {
            fid: 1,
            name: Text(b"f"),
            flags,
            mode: 0o600,
            group: 0,
        });
        visitor
    }

    fn wait(&self, what: impl Fn(&Self) -> bool) {
        for _ in 0..2000 {
            if what(self) {
                return;
            }
            std::thread::park_timeout(Duration::from_millis(10));
        }
        panic!("it never came to be: {:?}", self.door.traffic());
    }
}

fn offer(folder: &std::path::Path) -> Arc<Offer> {
    let folder = folder.to_owned();
    Offer::new(move |counting| {
        let descriptors = Descriptors::new(1000);
        let tree = HostTree::open(&folder, descriptors, |_| OwnerMap::Pass).unwrap();
        mount(Arc::new(tree), counting, 0)
    })
}

struct Visitor {
    stream: UnixStream,
}

impl Visitor {
    fn attach(&mut self) {
        self.ask(&Request::Version {
            longest: LONGEST,
            version: Text(b"9P2000.L"),
        });
        self.ask(&Request::Attach {
            fid: 0,
            authentication: u32::MAX,
            user: Text(b""),
            share: Text(b""),
            number: 0,
        });
    }

    fn send(&mut self, tag: u16, request: &Request<'_>) {
        self.stream.write_all(&encode(tag, request)).unwrap();
    }

    /// Tag and kind of the next answer.
    fn next(&mut self) -> (u16, Vec<u8>) {
        let mut length = [0; 4];
        self.stream.read_exact(&mut length).unwrap();
        let count = usize::try_from(u32::from_le_bytes(length)).unwrap();
        let mut bytes = length.to_vec();
        bytes.resize(count, 0);
        self.stream.read_exact(&mut bytes[4..]).unwrap();
        let frame = Frame::first(&bytes, LONGEST).unwrap().unwrap();
        let (tag, reply) = (frame.tag, Reply::decode(&frame).unwrap().unwrap());
        if let Reply::Error { code } = reply {
            assert_eq!(code, 0, "tag {tag}");
        }
        (tag, bytes)
    }

    fn ask(&mut self, request: &Request<'_>) {
        self.send(1, request);
        assert_eq!(self.next().0, 1);
    }

    fn is_cut(&mut self) -> bool {
        matches!(self.stream.read(&mut [0; 100]), Ok(0))
    }
}

pub(super) fn encode(tag: u16, request: &Request<'_>) -> Vec<u8> {
    let mut room = vec![0; usize::try_from(LONGEST).unwrap()];
    let length = request.encode(tag, &mut room).unwrap();
    room.truncate(length);
    room
}

fn lock(process: u32, kind: u8) -> Request<'static> {
    Request::Lock {
        fid: 1,
        kind,
        flags: 1,
        start: 0,
        length: 0,
        process,
        client: Text(b"c"),
    }
}

#[test]
fn frames_may_come_in_any_pieces_and_many_at_once() {
    let house = House::new();
    let mut visitor = house.visitor();
    let status = Request::Attributes {
        fid: 1,
        wanted: u64::MAX,
    };
    let mut bytes = Vec::new();
    for tag in 0..500 {
        bytes.extend(encode(tag, &status));
    }
    let (first, rest) = bytes.split_at(23);
    for byte in first {
        visitor.stream.write_all(&[*byte]).unwrap();
    }
    let mut writer = visitor.stream.try_clone().unwrap();
    let rest = rest.to_vec();
    let sending = std::thread::spawn(move || writer.write_all(&rest).unwrap());
    for tag in 0..500 {
        assert_eq!(visitor.next().0, tag, "in order");
    }
    sending.join().unwrap();
}

#[test]
fn large_writes_and_reads_arrive_whole() {
    let house = House::new();
    let mut visitor = house.visitor();
    let most = usize::try_from(LONGEST).unwrap() - 24;
    let data: Vec<u8> = (0..most)
        .map(|at| u8::try_from(at % 251).unwrap())
        .collect();
    for turn in 0..3 {
        let offset = turn * most as u64;
        visitor.ask(&Request::Write {
            fid: 1,
            offset,
            data: Data(&data),
        });
    }
    let file = std::fs::read(house.folder.join("f")).unwrap();
    assert!(file == data.repeat(3));
    // Several at once: the door sends what is ready when its room is used up.
    for tag in 0..6 {
        let offset = u64::from(tag % 3) * most as u64;
        let count = LONGEST;
        visitor.send(
            tag,
            &Request::Read {
                fid: 1,
                offset,
                count,
            },
        );
    }
    for tag in 0..6 {
        let (answered, bytes) = visitor.next();
        assert_eq!(answered, tag);
        let count = usize::try_from(LONGEST).unwrap() - 11;
        let from = usize::from(tag % 3) * most;
        assert!(bytes[11..] == file[from..(from + count).min(file.len())]);
    }
}

#[test]
fn a_large_write_is_under_way_before_all_of_it_has_come() {
    let house = House::new();
    let (mut visitor, mut gone) = (house.visitor(), house.visitor());
    let data = vec![7; 900_000];
    let frame = encode(
        9,
        &Request::Write {
            fid: 1,
            offset: 0,
            data: Data(&data),
        },
    );
    let (first, rest) = frame.split_at(500_000);
    let on_host = |house: &House| std::fs::metadata(house.folder.join("f")).unwrap().len();
    visitor.stream.write_all(first).unwrap();
    house.wait(|house| on_host(house) > 100_000);
    visitor.stream.write_all(rest).unwrap();
    let (tag, answer) = visitor.next();
    let answer = Frame::first(&answer, LONGEST).unwrap().unwrap();
    let count = 900_000;
    assert_eq!(
        (tag, Reply::decode(&answer)),
        (9, Some(Ok(Reply::Write { count })))
    );
    assert!(std::fs::read(house.folder.join("f")).unwrap() == data);
    // Of one that never comes to its end, most of what came is written, as by a write that was cut short.
    std::fs::write(house.folder.join("f"), b"").unwrap();
    gone.stream.write_all(first).unwrap();
    drop(gone);
    house.wait(|house| house.door.traffic().live == 1);
    let left = std::fs::read(house.folder.join("f")).unwrap();
    assert!((100_000..500_000).contains(&left.len()), "{}", left.len());
    assert!(left.iter().all(|byte| *byte == 7));
    visitor.ask(&Request::Clunk { fid: 1 });
}

#[test]
fn a_wait_for_a_lock_and_a_sync_hold_up_nobody() {
    let house = House::new();
    let mut visitor = house.visitor();
    visitor.ask(&lock(1, 1));
    visitor.send(10, &lock(2, 1));
    visitor.send(11, &lock(3, 1));
    let sync = Request::Sync {
        fid: 1,
        data_only: Some(0),
    };
    visitor.send(12, &sync);
    assert_eq!(visitor.next().0, 12);
    visitor.send(13, &Request::Flush { tag: 10 });
    assert_eq!(visitor.next().0, 13);
    visitor.send(14, &lock(1, 2));
    assert_eq!(visitor.next().0, 14);
    assert_eq!(visitor.next().0, 11, "the flushed one is never answered");
    // What is under way in the slow lane is answered before its flush is.
    visitor.send(20, &sync);
    visitor.send(21, &Request::Flush { tag: 20 });
    assert_eq!((visitor.next().0, visitor.next().0), (20, 21));
    // And before the connection begins anew.
    visitor.send(22, &sync);
    visitor.send(
        23,
        &Request::Version {
            longest: 8192,
            version: Text(b"9P2000.L"),
        },
    );
    assert_eq!((visitor.next().0, visitor.next().0), (22, 23));
}

#[test]
fn a_bad_length_ends_that_connection_and_no_other() {
    let house = House::new();
    let (mut good, mut bad) = (house.visitor(), house.visitor());
    bad.stream.write_all(&[0xff; 40]).unwrap();
    assert!(bad.is_cut());
    assert_eq!(house.counters.malformed.get(), 1);
    good.ask(&Request::Clunk { fid: 1 });
    // Longer than the least, before a version is agreed on.
    let mut early = house.connect();
    early
        .stream
        .write_all(&encode(
            1,
            &Request::Write {
                fid: 0,
                offset: 0,
                data: Data(&[0; 5000]),
            },
        ))
        .unwrap();
    assert!(early.is_cut());
    house.wait(|house| house.door.traffic().live == 1);
}

#[test]
fn connections_have_a_bound_and_give_their_place_back() {
    let house = House::new();
    let mut all: Vec<Visitor> = (0..MOST_CONNECTIONS).map(|_| house.connect()).collect();
    all.iter_mut().for_each(Visitor::attach);
    let mut more = house.connect();
    assert!(more.is_cut());
    let traffic = house.door.traffic();
    assert_eq!((traffic.refused, traffic.mounted), (1, MOST_CONNECTIONS));
    all.pop();
    house.wait(|house| house.door.traffic().live < MOST_CONNECTIONS);
    house.visitor();
}

#[test]
fn a_share_that_is_another_now_cuts_those_who_have_it() {
    let house = House::new();
    let mut visitor = house.visitor();
    let mut idle = house.connect();
    let held = Arc::clone(&super::locked(&house.door.shared.offers)["a"]);
    assert!(house.door.has_attached(&held));
    let other = offer(&house.root.path().join("share"));
    let mut offers = super::locked(&house.door.shared.offers).clone();
    offers.insert("b".to_owned(), offer(&house.folder));
    assert!(!house.door.has_attached(&offers["b"]));
    house.door.offer(offers.clone());
    visitor.ask(&Request::Clunk { fid: 1 });
    offers.insert("a".to_owned(), other);
    house.door.offer(offers);
    assert!(visitor.is_cut());
    idle.ask(&Request::Version {
        longest: LONGEST,
        version: Text(b"9P2000.L"),
    });
    let House { door, root, .. } = house;
    drop(door);
    assert!(idle.is_cut());
    assert!(!root.path().join("9p.sock").exists());
}
