//! A session that another one goes on with, from what was written down at the last commit.

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
        let session = self.client.another_session();
        let next = session
            .adopt(Arc::clone(&self.rows), longest, &claim)
            .unwrap();
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
