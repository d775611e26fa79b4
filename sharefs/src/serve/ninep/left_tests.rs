//! Connections that an earlier process left: in which order they end, and what their slow lane was at.

use std::collections::BTreeMap;
use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use rustix::io::Errno;

use super::connection::{Before, Line, OTHERS, Retired};
use super::lane::{Job, Lane, Work};
use super::ledger::Ledger;
use super::tests::{LONGEST, encode};
use super::{NinepDoor, Offer, OfferList, OneTurn, slow_left};
use crate::keep::ninep::rows::{Claim, KeptMount, KeptOpen, Row, Rows};
use crate::keep::ninep::{Commit, Connection as Kept, Left};
use crate::keep::{Listed, Place};
use crate::ninep::counters::Counters;
use crate::ninep::messages::{Reply, Request};
use crate::ninep::session::{Answer, Keeping, Mount, Slow, Turn};
use crate::ninep::wire::{Frame, Qid};
use crate::serve::turns::Turns;
use crate::sys::Shared;
use crate::tree::host::HostTree;
use crate::tree::host::descriptors::Descriptors;
use crate::tree::owner::{GuestUid, OwnerMap};
use crate::tree::{Identity, Kind, Name, Result, Tree};

const LIMIT: Duration = Duration::from_secs(20);
const OPTIONS: u64 = 7;

/// What a follower looks through: one word.
fn list() -> Arc<Shared> {
    Arc::new(Shared::create("list", 1).unwrap())
}

fn is_listed(list: &Shared) -> bool {
    list.words()[0].load(std::sync::atomic::Ordering::Acquire) != 0
}

/// A share that says, when it is done away with, whether its connection was listed still.
struct Witness {
    list: Arc<Shared>,
    gone: SyncSender<bool>,
    /// Whether it can be taken up.
    is_there: bool,
}

impl Drop for Witness {
    fn drop(&mut self) {
        self.gone.send(is_listed(&self.list)).ok();
    }
}

impl Mount for Witness {
    fn attach(&mut self, _: u32, _: GuestUid) -> Result<Qid> {
        Err(Errno::IO)
    }
    fn knows(&self, _: u32) -> bool {
        true
    }
    fn serve(&mut self, _: &Request<'_>, _: &mut Turn<'_>) -> Result<Answer> {
        panic!("a request that nobody survives")
    }
    fn write_part(&mut self, _: u32, _: u64, _: &[u8]) -> Result<usize> {
        Ok(0)
    }
    fn flush(&mut self, _: u16) {}
    fn retry(&mut self, _: &mut Vec<(u16, Result<()>)>) {}
    fn waiting(&self) -> usize {
        0
    }
    fn fids(&self) -> usize {
        1
    }
    fn options(&self) -> u64 {
        OPTIONS
    }
    fn keep(&mut self, _: Keeping, _: &str) {}
    fn adopt(&mut self, _: Keeping, _: (usize, KeptMount), _: Claim<'_>) -> Result<()> {
        if self.is_there {
            Ok(())
        } else {
            Err(Errno::STALE)
        }
    }
    fn end(&mut self) {}
    fn abandon(&mut self, _: u32) {}
}

/// A connection with that share, left by an earlier process.
struct Scene {
    door: NinepDoor,
    list: Arc<Shared>,
    gone: Receiver<bool>,
    client: UnixStream,
    left: Left,
    _root: tempfile::TempDir,
}

impl Scene {
    fn new(is_there: bool) -> Self {
        let root = tempfile::tempdir().unwrap();
        let (list, (gone, came)) = (list(), sync_channel(1));
        let (listed, gone) = (Arc::clone(&list), Mutex::new(gone));
        let offer = Offer::new(move |_| {
            Box::new(Witness {
                list: Arc::clone(&listed),
                gone: gone.lock().unwrap().clone(),
                is_there,
            })
        });
        let door = door(&root, OfferList::from([("a".to_owned(), offer)]));
        let (client, socket) = pair();
        let memory = Kept::alone().unwrap();
        let rows = memory.rows();
        let folder = Identity {
            device: 1,
            inode: 2,
            mount: 3,
        };
        rows.put_mount(&KeptMount {
            place: 0,
            options: OPTIONS,
            folder,
            name: b"a".to_vec(),
        });
        commit(&memory, &rows);
        let place = Place::new(Arc::clone(&list), 0);
        place.put(Some(5));
        let listed = Listed::at(place);
        Self {
            door,
            list,
            gone: came,
            client,
            left: Left {
                listed,
                memory,
                socket,
            },
            _root: root,
        }
    }
}

fn door(root: &tempfile::TempDir, offers: OfferList) -> NinepDoor {
    let path = root.path().join("9p.sock");
    NinepDoor::open(&path, offers, Arc::default()).unwrap()
}

fn pair() -> (UnixStream, UnixStream) {
    let (client, socket) = UnixStream::pair().unwrap();
    client.set_read_timeout(Some(LIMIT)).unwrap();
    (client, socket)
}

fn commit(memory: &Kept, rows: &Rows) {
    memory.put_commit(Commit {
        longest: 8192,
        ..Commit::default()
    });
    rows.settle();
}

/// Tag, and the error if it is one.
fn answer(client: &mut UnixStream) -> (u16, u32) {
    let mut length = [0; 4];
    client.read_exact(&mut length).unwrap();
    let count = usize::try_from(u32::from_le_bytes(length)).unwrap();
    let mut bytes = length.to_vec();
    bytes.resize(count, 0);
    client.read_exact(&mut bytes[4..]).unwrap();
    let frame = Frame::first(&bytes, LONGEST).unwrap().unwrap();
    let reply = Reply::decode(&frame).unwrap().unwrap();
    if let Reply::Error { code } = reply {
        return (frame.tag, code);
    }
    assert_eq!(reply, Reply::Sync {});
    (frame.tag, 0)
}

#[test]
fn a_connection_that_cannot_go_on_is_not_listed_any_more_before_anything_of_it_is_closed() {
    let mut scene = Scene::new(false);
    let went = scene.door.shared.go_on(scene.left, OneTurn(None));
    assert_eq!(
        went.unwrap_err().raw_os_error(),
        Some(Errno::STALE.raw_os_error())
    );
    assert!(!scene.gone.recv_timeout(LIMIT).unwrap(), "it was listed");
    assert!(!is_listed(&scene.list));
    assert_eq!(scene.client.read(&mut [0]).unwrap(), 0, "the client knows");
    assert_eq!(scene.door.traffic().live, 0);
}

#[test]
fn a_connection_that_cannot_begin_keeps_nobody_waiting_for_its_turn() {
    let mut scene = Scene::new(true);
    // More is dealt with than ever came.
    scene.left.memory.put_commit(Commit {
        longest: 8192,
        head: 1000,
        ..Commit::default()
    });
    let turns = Arc::new(Turns::new(2, Duration::from_secs(3600)));
    let turn = OneTurn(Some(Arc::clone(&turns)));
    scene.door.shared.go_on(scene.left, turn).unwrap();
    assert_eq!(scene.client.read(&mut [0]).unwrap(), 0, "it ended");
    let (done, had) = sync_channel(1);
    std::thread::spawn(move || {
        turns.take(|| ());
        done.send(()).ok();
    });
    had.recv_timeout(LIMIT).expect("nobody else's turn is left");
}

#[test]
fn a_connection_that_panics_is_not_listed_any_more_before_anything_of_it_is_closed() {
    let mut scene = Scene::new(true);
    scene.door.shared.go_on(scene.left, OneTurn(None)).unwrap();
    assert!(is_listed(&scene.list));
    let request = encode(1, &Request::Clunk { fid: 1 });
    std::io::Write::write_all(&mut scene.client, &request).unwrap();
    assert!(!scene.gone.recv_timeout(LIMIT).unwrap(), "it was listed");
    assert!(!is_listed(&scene.list));
    assert_eq!(scene.client.read(&mut [0]).unwrap(), 0, "the client knows");
    for _ in 0..2000 {
        if scene.door.traffic().live == 0 {
            return;
        }
        std::thread::park_timeout(Duration::from_millis(10));
    }
    panic!("its place is not free");
}

fn sync(fid: u32) -> Request<'static> {
    Request::Sync {
        fid,
        data_only: Some(0),
    }
}

/// A file of its own, and what a row says of it.
fn file(root: &tempfile::TempDir, name: &str, number: RawFd) -> (OwnedFd, KeptOpen) {
    let path: PathBuf = root.path().join(name);
    let open = std::fs::File::create(path).unwrap();
    let tree = HostTree::open(root.path(), Descriptors::new(10), |_| OwnerMap::Pass).unwrap();
    let name = std::ffi::CString::new(name).unwrap();
    let found = tree.child(&tree.root().unwrap().node, Name::new(&name).unwrap());
    let kept = KeptOpen {
        number,
        file: found.unwrap().attributes.identity,
        kind: Kind::File,
    };
    (open.into(), kept)
}

#[test]
fn requests_of_the_slow_lane_share_what_was_open_and_another_file_is_stale_to_one_alone() {
    let root = tempfile::tempdir().unwrap();
    let (one, of_one) = file(&root, "one", 100);
    let (_, of_two) = file(&root, "two", 101);
    let (other, _) = file(&root, "other", 0);
    let (_, of_three) = file(&root, "three", 102);
    let memory = Kept::alone().unwrap();
    let rows = memory.rows();
    // Two of one fid; one whose number is another file's; one whose is not open; the first again.
    let jobs = [
        (1, of_one),
        (1, of_one),
        (2, of_two),
        (3, of_three),
        (1, of_one),
    ];
    for (tag, (fid, open)) in (5..).zip(jobs) {
        rows.put_slow(&encode(tag, &sync(fid)), Some((fid, Some(open))));
        commit(&memory, &rows);
    }
    // All three are clunked since.
    (1..=3).for_each(|fid| rows.slow_is_over(fid));
    commit(&memory, &rows);
    let rows = memory.rows_left();
    let open = Mutex::new(BTreeMap::from([(100, one), (101, other)]));
    // As the worker before left them: each once.
    let claim = |number: RawFd| open.lock().unwrap().remove(&number);
    let slow = slow_left(&rows, &claim);
    let shared: Vec<&Arc<OwnedFd>> = slow.iter().flat_map(|left| &left.open).collect();
    assert!(shared.len() == 3 && Arc::ptr_eq(shared[0], shared[2]));
    let alive = Arc::downgrade(shared[0]);

    let door = door(&root, OfferList::new());
    let (mut client, socket) = pair();
    let seat = door.shared.enlist(&socket).unwrap();
    let line = Line {
        _listed: None,
        session: seat.session(),
        stream: socket,
        memory,
        _retired: Retired(Some(Arc::clone(&rows))),
        rows: Some(rows),
        before: Some(Before {
            turn: OneTurn(Some(Arc::new(Turns::new(1, OTHERS)))),
            slow,
        }),
    };
    door.shared.begin(seat, line).unwrap();
    let code = |error: Errno| error.raw_os_error().unsigned_abs();
    let expected = [
        (5, 0),
        (6, 0),
        (7, code(Errno::STALE)),
        (8, code(Errno::IO)),
        (9, 0),
    ];
    let answers = expected.map(|_| answer(&mut client));
    assert_eq!(answers, expected);
    await_end(&alive);
}

/// What nobody needs any more is closed.
fn await_end<T>(of: &Weak<T>) {
    for _ in 0..2000 {
        if of.strong_count() == 0 {
            return;
        }
        std::thread::park_timeout(Duration::from_millis(10));
    }
    panic!("it is open still");
}

#[test]
fn what_is_open_for_a_request_that_cannot_be_answered_stays_so_while_the_connection_is_there() {
    let memory = Kept::alone().unwrap();
    let rows = memory.rows();
    let (client, socket) = pair();
    let mut ledger = Ledger::of(&memory, socket).unwrap();
    // So much waits to be sent that there is no room, and nobody takes it.
    let full = ledger.room(1).unwrap().len();
    ledger.answer(full);
    drop(client);
    let ledger = Arc::new(Mutex::new(ledger));
    let counters = Arc::<Counters>::default();
    let lane = Lane::start(ledger, Some(Arc::clone(&rows)), counters).unwrap();
    let file = Arc::new(OwnedFd::from(std::fs::File::open("/").unwrap()));
    let number = file.as_raw_fd();
    let alive = Arc::downgrade(&file);
    let jobs = [
        (1, Work::Slow(Slow::sync(Arc::clone(&file), true))),
        (2, Work::Slow(Slow::sync(file, true))),
    ];
    for (tag, work) in jobs {
        let open = KeptOpen {
            number,
            file: Identity {
                device: 0,
                inode: 0,
                mount: 0,
            },
            kind: Kind::Directory,
        };
        let row = rows.put_slow(&encode(tag, &sync(1)), Some((1, Some(open))));
        assert!(matches!(row, Row::At(_)));
        let job = Job {
            tag,
            work,
            row: Some(row),
        };
        assert!(lane.take(job));
    }
    // Both have had their turn.
    lane.finish();
    assert!(lane.failed());
    assert_eq!(alive.strong_count(), 2, "their rows say its number");
    drop(lane);
    await_end(&alive);
}
