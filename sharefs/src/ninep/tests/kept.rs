//! A session that another one goes on with, from what was written down at the last commit.

use std::cell::Cell;
use std::os::fd::{OwnedFd, RawFd};
use std::sync::Arc;

use rustix::io::Errno;

use super::client::{Came, Client, ROOT, decode};
use super::{APPEND, EXCLUSIVE, READ_WRITE};
use crate::keep::ninep::rows::Rows;
use crate::keep::ninep::{Commit, Connection};
use crate::ninep::messages::{Reply, Request};
use crate::ninep::wire::Text;
use crate::sys;

struct Kept {
    client: Client,
    memory: Connection,
    rows: Arc<Rows>,
}

impl Kept {
    fn new() -> Self {
        let memory = Connection::alone().unwrap();
        let rows = memory.rows();
        let mut client = Client::fresh(1000);
        client.session = client.another_session().kept(Arc::clone(&rows));
        client.version(1024 * 1024, b"9P2000.L").unwrap();
        let mut kept = Self {
            client,
            memory,
            rows,
        };
        kept.commit();
        kept.client.attach(ROOT, b"a", 1000).unwrap();
        kept.commit();
        kept
    }

    fn commit(&mut self) {
        let longest = self.client.session.longest_agreed();
        self.memory.put_commit(Commit {
            longest: longest.map_or(0, u64::from),
            ..Commit::default()
        });
        self.rows.settle();
        self.rows.drop_retired();
    }

    /// Another process, with the same memory and descriptors. The one before stays as it was when it died.
    fn die(&mut self) {
        let claim = |number: RawFd| -> Option<OwnedFd> { sys::borrow(&number).ok() };
        self.rows = self.memory.rows_left();
        let longest = u32::try_from(self.memory.commit().longest).ok();
        let mut next = self.client.another_session();
        next.adopt(Arc::clone(&self.rows), longest, &claim).unwrap();
        std::mem::forget(std::mem::replace(&mut self.client.session, next));
    }

    /// Two processes die of a request, the first before it has begun, the next when all is done and nothing is
    /// committed. Both answers, of which the client gets the second.
    fn die_twice<R>(&mut self, request: impl Fn(&mut Client) -> R) -> [R; 2] {
        let journal = self.memory.journal();
        journal.clone().of_thread();
        self.memory.begin_request(&journal, 0);
        let answers = [(); 2].map(|()| {
            self.die();
            journal.again(|| request(&mut self.client)).unwrap()
        });
        self.commit();
        answers
    }
}

#[test]
fn what_a_client_knows_is_the_same_behind_a_death() {
    let mut kept = Kept::new();
    let client = &mut kept.client;
    std::fs::create_dir_all(client.path("x/y")).unwrap();
    std::fs::write(client.path("x/y/z"), "deep").unwrap();
    client.walk(ROOT, 1, &[b"x", b"y", b"z"]).unwrap();
    client.open(1, 0).unwrap();
    client.create(2, b"log", READ_WRITE | APPEND).unwrap();
    client.walk(ROOT, 3, &[b"x"]).unwrap();
    client.open(3, 0).unwrap();
    client.attach(10, b"frozen", 7).unwrap();
    kept.commit();
    kept.die();
    let client = &mut kept.client;
    assert_eq!(client.read(1, 0, 9).unwrap(), b"deep");
    assert_eq!(client.write(2, 0, b"one"), Ok(3));
    assert_eq!(client.write(2, 0, b"two"), Ok(3));
    assert_eq!(client.entries(3, 0, 1000).unwrap().len(), 3);
    assert_eq!(client.walk(1, 4, &[]).unwrap().len(), 0);
    assert_eq!(client.walk(ROOT, 5, &[b"x", b"y"]).unwrap().len(), 2);
    assert_eq!(client.walk(5, 6, &[b"..", b".."]).unwrap().len(), 2);
    client.walk(10, 11, &[b"log"]).unwrap();
    assert_eq!(
        client.open(11, READ_WRITE),
        Err(Errno::ROFS),
        "its own share"
    );
    kept.commit();
    kept.die();
    assert_eq!(std::fs::read(kept.client.path("log")).unwrap(), b"onetwo");
    assert_eq!(kept.client.status(4).unwrap().1, 4);
    // By the name it was reached by, which was written down with it.
    kept.client.done(&Request::Remove { fid: 1 }).unwrap();
    assert!(!kept.client.path("x/y/z").exists());
}

#[test]
fn a_request_that_was_not_answered_has_changed_nothing_that_the_client_knows() {
    let mut kept = Kept::new();
    let client = &mut kept.client;
    client.create(1, b"f", READ_WRITE).unwrap();
    client.write(1, 0, b"there").unwrap();
    client.walk(ROOT, 2, &[b"f"]).unwrap();
    kept.commit();
    let client = &mut kept.client;
    client.clunk(1).unwrap();
    client
        .done(&Request::Rename {
            fid: 2,
            folder: ROOT,
            name: Text(b"g"),
        })
        .unwrap();
    client.walk(ROOT, 3, &[b"g"]).unwrap();
    kept.die();
    let client = &mut kept.client;
    assert_eq!(client.read(1, 0, 9).unwrap(), b"there");
    assert_eq!(client.status(3), Err(Errno::BADF));
    // It still has the old name.
    assert_eq!(client.done(&Request::Remove { fid: 2 }), Err(Errno::NOENT));
    kept.commit();
    let (longest, _) = kept.client.version(8192, b"9P2000.L").unwrap();
    assert_eq!(longest, 8192);
    kept.die();
    assert_eq!(
        kept.client.read(1, 0, 9).unwrap(),
        b"there",
        "not that either"
    );
    kept.client.version(8192, b"9P2000.L").unwrap();
    kept.commit();
    kept.die();
    assert_eq!(kept.client.session.size(), (0, 0));
    kept.client.attach(ROOT, b"a", 0).unwrap();
    kept.client.walk(ROOT, 1, &[b"g"]).unwrap();
}

#[test]
fn locks_are_held_and_waited_for_behind_a_death() {
    let mut kept = Kept::new();
    let (exclusive, unlock, wait) = (1, 2, 1);
    for fid in [1, 2] {
        kept.client.create(fid, b"f", READ_WRITE).unwrap();
    }
    assert!(matches!(
        kept.client.lock(5, 1, exclusive, 0, 10),
        Came::Answer(_)
    ));
    assert_eq!(kept.client.lock(6, 2, exclusive, wait, 20), Came::Waits);
    assert_eq!(kept.client.lock(7, 2, exclusive, wait, 30), Came::Waits);
    kept.commit();
    kept.client.done(&Request::Flush { tag: 7 }).unwrap();
    kept.commit();
    kept.die();
    assert_eq!(kept.client.session.waiting(), 1);
    assert!(kept.client.retried().is_empty());
    kept.client.lock(8, 1, unlock, 0, 10);
    kept.commit();
    kept.die();
    let answers = kept.client.retried();
    assert_eq!(decode(&answers[0]), (6, Reply::Lock { status: 0 }));
    // Not committed, so it is waited for again; the lock is had already, which is the same.
    kept.die();
    let answers = kept.client.retried();
    assert_eq!(decode(&answers[0]), (6, Reply::Lock { status: 0 }));
    kept.commit();
    assert_eq!(kept.client.lock(9, 1, exclusive, wait, 40), Came::Waits);
    kept.client.clunk(1).unwrap();
    kept.commit();
    kept.die();
    let interrupted = Reply::Error {
        code: Errno::INTR.raw_os_error().unsigned_abs(),
    };
    assert_eq!(decode(&kept.client.retried()[0]), (9, interrupted));
}

#[test]
fn what_was_taken_up_before_an_error_is_open_until_the_session_and_its_rows_are_gone() {
    let mut kept = Kept::new();
    let client = &mut kept.client;
    std::fs::create_dir_all(client.path("x/y")).unwrap();
    client.create(1, b"f", READ_WRITE).unwrap();
    client.walk(ROOT, 2, &[b"x", b"y"]).unwrap();
    client.walk(ROOT, 3, &[b"x"]).unwrap();
    client.open(3, 0).unwrap();
    assert!(matches!(client.lock(5, 1, 1, 0, 10), Came::Answer(_)));
    client.attach(10, b"frozen", 7).unwrap();
    kept.commit();
    let descriptors = Arc::clone(&kept.client.descriptors);
    let before = descriptors.held();
    let other = std::fs::File::open("/proc/self/status").unwrap();
    let mut failures = 0;
    // The one descriptor after the other is not open any more, or another file's.
    for is_there in [false, true] {
        for broken in 0.. {
            let claimed = Cell::new(0);
            let claim = |number: RawFd| -> Option<OwnedFd> {
                let index = claimed.replace(claimed.get() + 1);
                match index == broken {
                    false => sys::borrow(&number).ok(),
                    true if is_there => sys::borrow(&other).ok(),
                    true => None,
                }
            };
            let rows = kept.memory.rows_left();
            let mut next = kept.client.another_session();
            let adopted = next.adopt(Arc::clone(&rows), Some(8192), &claim);
            let held = descriptors.held() - before;
            let is_all = claimed.get() <= broken;
            // Whatever it has claimed until then is open.
            assert_eq!(
                (adopted, held),
                if is_all {
                    (Ok(()), claimed.get())
                } else {
                    (Err(Errno::STALE), broken)
                },
                "{is_there}, {broken}"
            );
            drop(next);
            rows.drop_retired();
            assert_eq!(descriptors.held(), before);
            if is_all {
                break;
            }
            failures += 1;
        }
    }
    // Six places, one of them only above another; a file, a folder, an owner of locks.
    assert_eq!(failures, 18);
}

/// How the owner of locks comes to hold none while it waits for one through another fid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lost {
    /// A thread of it unlocks all of the file, or closes a descriptor.
    Unlocked,
    /// What it locked through is gone, and nobody unlocked.
    Clunked,
}

#[test]
fn a_lock_that_came_while_its_owner_lost_all_others_is_held_until_what_it_was_asked_through_is_gone()
 {
    let (exclusive, unlock, may_wait) = (1, 2, 1);
    let (low, high) = ((0, 10), (100, 10));
    for lost in [Lost::Unlocked, Lost::Clunked] {
        // Between which steps there is a death.
        for deaths in 0..8_u32 {
            let mut kept = Kept::new();
            for fid in [1, 2, 3] {
                kept.client.create(fid, b"f", READ_WRITE).unwrap();
            }
            let status = |came: Came| match came {
                Came::Answer(answer) => match decode(&answer).1 {
                    Reply::Lock { status } => Some(status),
                    other => panic!("{lost:?}, {deaths}: {other:?}"),
                },
                Came::Waits => None,
            };
            let step = |kept: &mut Kept, number: u32| {
                kept.commit();
                if deaths & 1 << number != 0 {
                    kept.die();
                }
            };
            let asked = |kept: &mut Kept, fid, process, range| {
                status(
                    kept.client
                        .lock_range(9, fid, (exclusive, 0), process, range),
                )
            };
            assert_eq!(asked(&mut kept, 1, 10, low), Some(0));
            assert_eq!(asked(&mut kept, 2, 20, high), Some(0));
            let waits = kept.client.lock_range(6, 3, (exclusive, may_wait), 20, low);
            assert_eq!(status(waits), None);
            kept.commit();
            match lost {
                Lost::Unlocked => {
                    let unlocked = kept.client.lock(7, 2, unlock, 0, 20);
                    assert_eq!(status(unlocked), Some(0));
                }
                Lost::Clunked => kept.client.clunk(2).unwrap(),
            }
            step(&mut kept, 0);
            assert!(kept.client.retried().is_empty());
            assert_eq!(asked(&mut kept, 1, 10, high), Some(0), "it lost that");
            let unlocked = kept.client.lock(7, 1, unlock, 0, 10);
            assert_eq!(status(unlocked), Some(0));
            kept.commit();
            let answers = kept.client.retried();
            assert_eq!(decode(&answers[0]), (6, Reply::Lock { status: 0 }));
            step(&mut kept, 1);
            assert_eq!(asked(&mut kept, 1, 10, low), Some(1), "{lost:?}, {deaths}");
            if lost == Lost::Unlocked {
                kept.client.clunk(2).unwrap();
            }
            step(&mut kept, 2);
            assert_eq!(asked(&mut kept, 1, 10, low), Some(1), "{lost:?}, {deaths}");
            kept.client.clunk(3).unwrap();
            kept.commit();
            // A session that died here has its descriptors open still.
            if deaths == 0 {
                assert_eq!(asked(&mut kept, 1, 10, low), Some(0), "{lost:?}");
            }
        }
    }
}

#[test]
fn what_took_an_owner_its_locks_and_was_not_answered_leaves_it_as_it_was() {
    let (exclusive, unlock, may_wait) = (1, 2, 1);
    for lost in [Lost::Unlocked, Lost::Clunked] {
        let mut kept = Kept::new();
        for fid in [1, 2, 3] {
            kept.client.create(fid, b"f", READ_WRITE).unwrap();
        }
        kept.client.lock(5, 1, exclusive, 0, 10);
        let own = (exclusive, may_wait);
        assert_eq!(kept.client.lock_range(6, 2, own, 20, (0, 10)), Came::Waits);
        assert_eq!(kept.client.lock_range(7, 3, own, 20, (50, 10)), Came::Waits);
        kept.commit();
        let before = kept.rows.owners();
        let lose = |kept: &mut Kept| match lost {
            Lost::Unlocked => {
                let unlocked = kept.client.lock(8, 3, unlock, 0, 20);
                assert!(matches!(unlocked, Came::Answer(_)));
            }
            Lost::Clunked => kept.client.clunk(2).unwrap(),
        };
        lose(&mut kept);
        kept.die();
        assert_eq!(kept.rows.owners(), before, "{lost:?}");
        // It is done again.
        lose(&mut kept);
        kept.commit();
        kept.die();
        assert_eq!(kept.rows.owners().len(), 2, "{lost:?}");
        kept.client.lock(8, 1, unlock, 0, 10);
        let answers = kept.client.retried();
        let answers: Vec<_> = answers.iter().map(|answer| decode(answer)).collect();
        let had = Reply::Lock { status: 0 };
        match lost {
            Lost::Unlocked => assert_eq!(answers, [(6, had), (7, had)]),
            Lost::Clunked => {
                let interrupted = Reply::Error {
                    code: Errno::INTR.raw_os_error().unsigned_abs(),
                };
                assert_eq!(answers, [(6, interrupted), (7, had)]);
            }
        }
    }
}

#[test]
fn what_is_appended_is_there_once_when_two_processes_died() {
    let mut kept = Kept::new();
    kept.client.create(1, b"log", READ_WRITE | APPEND).unwrap();
    kept.client.write(1, 0, b"the same\n").unwrap();
    kept.commit();
    for lines in [2, 3] {
        let answers = kept.die_twice(|client| client.write(1, 0, b"the same\n"));
        assert_eq!(answers, [Ok(9); 2]);
        let log = std::fs::read_to_string(kept.client.path("log")).unwrap();
        assert_eq!(log, "the same\n".repeat(lines));
    }
}

#[test]
fn what_is_made_is_made_when_two_processes_died() {
    let mut kept = Kept::new();
    kept.client.walk(ROOT, 1, &[]).unwrap();
    kept.commit();
    let [_, done] = kept.die_twice(|client| {
        client.done(&Request::Directory {
            fid: ROOT,
            name: Text(b"folder"),
            mode: 0o700,
            group: 1001,
        })
    });
    assert_eq!(done, Ok(()));
    let [_, done] = kept.die_twice(|client| {
        client.done(&Request::SymbolicLink {
            fid: ROOT,
            name: Text(b"link"),
            target: Text(b"target"),
            group: 1001,
        })
    });
    assert_eq!(done, Ok(()));
    let [_, done] = kept.die_twice(|client| {
        client.done(&Request::Create {
            fid: 1,
            name: Text(b"file"),
            flags: READ_WRITE | EXCLUSIVE,
            mode: 0o444,
            group: 1001,
        })
    });
    assert_eq!(done, Ok(()));
    for name in ["folder", "link", "file"] {
        assert!(kept.client.path(name).symlink_metadata().is_ok(), "{name}");
    }
}
