//! A follower finds what was so at the last commit.

use super::super::{Commit, Connection};
use super::*;
use crate::tree::Kind;

fn commit(kept: &Connection, rows: &Rows) {
    kept.put_commit(Commit::default());
    rows.settle();
    rows.drop_retired();
}

fn place(number: RawFd, above: Option<(usize, &[u8])>) -> KeptPlace {
    KeptPlace {
        number,
        node: KeptNode {
            identity: Identity {
                device: 1,
                inode: 2,
                mount: 3,
            },
            kind: Kind::Directory,
            marks: 0xffff,
            extra: [4, 5, 6, u64::MAX],
        },
        above: above.map(|(row, name)| (row, name.to_vec())),
    }
}

fn fid(number: u32, place: usize, used: KeptUse) -> KeptFid {
    KeptFid {
        number,
        mount: 7,
        place,
        user: u32::MAX,
        used,
    }
}

fn wait() -> KeptWait {
    KeptWait {
        tag: 0x7fff,
        fid: 3,
        mount: 7,
        kind: 1,
        start: 1 << 60,
        length: 9,
        process: 5,
        client: b"guest".to_vec(),
        is_over: false,
    }
}

fn numbers(rows: &Rows) -> Vec<u32> {
    let mut all: Vec<u32> = rows.fids().iter().map(|(_, fid)| fid.number).collect();
    all.sort_unstable();
    all
}

#[test]
fn what_was_written_behind_the_last_commit_never_was() {
    let kept = Connection::alone().unwrap();
    let rows = kept.rows();
    let root = rows.put_place(&place(10, None)).unwrap();
    let row = rows.put_fid(&fid(1, root, KeptUse::Nothing));
    assert!(numbers(&rows).is_empty(), "not yet");
    commit(&kept, &rows);
    assert_eq!(numbers(&rows), [1]);
    // A request that opens it, makes another, and is not answered.
    let open = KeptUse::File {
        open: 11,
        append: true,
        writes: true,
        in_parts: false,
    };
    rows.put_fid(&fid(1, root, open.clone()));
    rows.end_fid(row);
    let below = rows.put_place(&place(12, Some((root, b"name")))).unwrap();
    rows.put_fid(&fid(2, below, KeptUse::Nothing));
    let mut named = names(&kept.0);
    named.sort_unstable();
    assert_eq!(named, [10]);
    // Another process, with the same memory.
    let next = kept.rows_left();
    assert_eq!(next.fids(), [(0, fid(1, root, KeptUse::Nothing))]);
    // It does the request again, in the rows of what never was.
    let again = next.put_fid(&fid(1, root, open.clone()));
    next.end_fid(row);
    let below = next.put_place(&place(12, Some((root, b"name")))).unwrap();
    next.put_fid(&fid(2, below, KeptUse::Nothing));
    commit(&kept, &next);
    assert_eq!(numbers(&next), [1, 2]);
    let mut named = names(&kept.0);
    named.sort_unstable();
    assert_eq!(named, [10, 11, 12]);
    assert_eq!(next.place(below), Some(place(12, Some((root, b"name")))));
    let Row::At(again) = again else {
        panic!("there is room");
    };
    assert!(
        kept.rows_left()
            .fids()
            .contains(&(again, fid(1, root, open)))
    );
}

#[test]
fn a_row_that_ended_is_used_again_only_behind_the_commit() {
    let kept = Connection::alone().unwrap();
    let rows = kept.rows();
    let root = rows.put_place(&place(10, None)).unwrap();
    let first = rows.put_fid(&fid(1, root, KeptUse::Nothing));
    commit(&kept, &rows);
    rows.end_fid(first);
    assert_ne!(rows.put_fid(&fid(2, root, KeptUse::Nothing)), first);
    commit(&kept, &rows);
    assert_eq!(rows.put_fid(&fid(3, root, KeptUse::Nothing)), first);
    commit(&kept, &rows);
    assert_eq!(numbers(&kept.rows_left()), [2, 3]);
}

#[test]
fn values_owners_waits_and_slow_jobs_are_as_they_were_said() {
    let kept = Connection::alone().unwrap();
    let rows = kept.rows();
    let root = rows.put_place(&place(10, None)).unwrap();
    let value = KeptUse::Writing {
        name: b"user.n".to_vec(),
        flags: 2,
        length: 70_000 / 2,
        bytes: (0..30_001_u32).map(|at| at.to_le_bytes()[0]).collect(),
    };
    let read = KeptUse::Reading {
        value: b"nine bytes"[..9].to_vec(),
    };
    let folder = KeptUse::Folder { open: 20 };
    let file = |append, writes, in_parts| KeptUse::File {
        open: 21,
        append,
        writes,
        in_parts,
    };
    let files = [
        file(true, false, false),
        file(false, true, false),
        file(false, false, true),
    ];
    let all = [vec![value, read, folder], files.to_vec()].concat();
    for (number, used) in (1..).zip(&all) {
        rows.put_fid(&fid(number, root, used.clone()));
    }
    let owner = KeptOwner {
        open: 30,
        file: place(0, None).node.identity,
        process: u32::MAX,
        client: vec![b'c'; 255],
        fid: 3,
        mount: 7,
    };
    rows.put_owner(&owner);
    let wait = wait();
    let waits = rows.put_wait(&wait);
    let sync = [15, 0, 0, 0, 50, 1, 0, 3, 0, 0, 0, 0, 0, 0, 0];
    let open = KeptOpen {
        number: 20,
        file: Identity {
            device: u64::MAX,
            inode: 9,
            mount: 10,
        },
        kind: Kind::File,
    };
    rows.put_slow(&sync, Some((u32::MAX, Some(open))));
    commit(&kept, &rows);
    rows.put_slow(&[9, 0, 0, 0, 108, 2, 0, 1, 0], None);
    commit(&kept, &rows);
    rows.wait_is_over(waits);
    rows.slow_is_over(u32::MAX);
    let next = kept.rows_left();
    let fids: Vec<KeptUse> = next.fids().into_iter().map(|(_, fid)| fid.used).collect();
    assert_eq!(fids, all);
    assert_eq!(next.owners()[0].1, owner);
    assert_eq!(next.waits()[0].1, wait, "not over: that was not committed");
    let slow = next.slow();
    assert_eq!(
        (slow.len(), slow[0].is_over, slow[0].open),
        (2, false, Some(open))
    );
    assert_eq!(slow[0].frame, sync);
    next.wait_is_over(waits);
    next.slow_is_over(u32::MAX);
    commit(&kept, &next);
    let last = kept.rows_left();
    assert!(last.waits()[0].1.is_over && last.slow()[0].is_over && !last.slow()[1].is_over);
    assert_eq!(last.slow()[1].open, None);
    let mut named = names(&kept.0);
    named.sort_unstable();
    assert_eq!(named, [10, 20, 20, 21, 21, 21, 30]);
}

#[test]
fn while_something_is_nowhere_the_connection_is_not_to_go_on() {
    let kept = Connection::alone().unwrap();
    let rows = kept.rows();
    let is_whole = || kept.get(word::UNKEPT) == 0;
    let row = rows.put_nowhere();
    assert!(!is_whole(), "from before the commit on");
    commit(&kept, &rows);
    rows.end_fid(row);
    assert!(!is_whole(), "until the commit is made");
    commit(&kept, &rows);
    assert!(is_whole());
    // One value more than there is room for.
    let root = rows.put_place(&place(10, None)).unwrap();
    let value = || KeptUse::Reading { value: vec![1] };
    for number in 0..128 {
        assert_ne!(rows.put_fid(&fid(number, root, value())), Row::Nowhere);
    }
    assert_eq!(rows.put_fid(&fid(128, root, value())), Row::Nowhere);
}

#[test]
fn a_wait_that_kills_whoever_asks_for_its_lock_is_asked_for_three_times_and_no_other_is_counted() {
    let kept = Connection::alone().unwrap();
    let mut rows = kept.rows();
    let (deadly, other) = (rows.put_wait(&wait()), rows.put_wait(&wait()));
    commit(&kept, &rows);
    let death: fn() = || panic!("of it");
    // What died of it, and another process with the same memory.
    let dies = |rows: &mut Arc<Rows>, work: &dyn Fn(&Rows)| {
        let work = std::panic::AssertUnwindSafe(|| work(rows));
        std::panic::catch_unwind(work).unwrap_err();
        *rows = kept.rows_left();
    };
    for _ in 0..100 {
        for _ in 0..2 {
            dies(&mut rows, &|rows| {
                assert!(rows.retry(deadly, death).is_none())
            });
        }
        assert_eq!(rows.retry(deadly, || 1), Some(1), "of the moment");
        rows = kept.rows_left();
    }
    // The slow lane is at something meanwhile, which is as likely what they died of.
    let sync = [15, 0, 0, 0, 50, 1, 0, 3, 0, 0, 0, 0, 0, 0, 0];
    let slow = rows.put_slow(&sync, Some((3, None)));
    commit(&kept, &rows);
    rows.attempt_slow(slow, || ()).unwrap();
    for _ in 0..100 {
        dies(&mut rows, &|rows| {
            assert!(rows.retry(deadly, death).is_none())
        });
    }
    rows.end_slow(slow);
    commit(&kept, &rows);
    for _ in 0..3 {
        assert_eq!(rows.retry(other, || 1), Some(1));
        dies(&mut rows, &|rows| {
            assert!(rows.retry(deadly, death).is_none())
        });
    }
    assert_eq!(rows.retry(deadly, || 1), None);
    assert_eq!(rows.retry(other, || 1), Some(1));
    rows.end_wait(deadly);
    commit(&kept, &rows);
    assert_eq!(rows.put_wait(&wait()), deadly, "the same row");
    commit(&kept, &rows);
    assert_eq!(rows.retry(deadly, || 1), Some(1));
}

#[test]
fn a_job_of_the_slow_lane_is_not_begun_for_ever() {
    let kept = Connection::alone().unwrap();
    let mut rows = kept.rows();
    let sync = [15, 0, 0, 0, 50, 1, 0, 3, 0, 0, 0, 0, 0, 0, 0];
    let jobs = [1, 2].map(|fid| rows.put_slow(&sync, Some((fid, None))));
    commit(&kept, &rows);
    for _ in 0..attempts::MOST_JOBS {
        assert_eq!(rows.attempt_slow(jobs[0], || 1), Some(1));
        rows = kept.rows_left();
    }
    assert_eq!(rows.attempt_slow(jobs[0], || 1), None);
    assert_eq!(rows.attempt_slow(jobs[1], || 1), Some(1), "it never was");
}
