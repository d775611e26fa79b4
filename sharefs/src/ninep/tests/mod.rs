//! A share through 9P, by the bytes of a client, on a real folder.

use rustix::io::Errno;

use super::counters::Done;
use super::messages::{Reply, Request};
use super::wire::Text;
use client::{Came, Client, ROOT, decode};

mod client;
mod codec;
mod hostile;
mod kept;
mod parts;

const READ_WRITE: u32 = 2;
const CREATE: u32 = 0o100;
const EXCLUSIVE: u32 = 0o200;
const APPEND: u32 = 0o2000;

#[test]
fn a_file_is_made_written_read_and_found_on_the_host() {
    let mut client = Client::new();
    client.create(1, b"f", READ_WRITE | APPEND).unwrap();
    assert_eq!(client.write(1, 0, b"hello"), Ok(5));
    assert_eq!(
        client.write(1, 0, b"!"),
        Ok(1),
        "appended, whatever the offset"
    );
    assert_eq!(client.read(1, 1, 100).unwrap(), b"ello!");
    assert_eq!(client.status(1), Ok((0o100_640, 6, 1)));
    assert_eq!(std::fs::read(client.path("f")).unwrap(), b"hello!");
    client
        .done(&Request::Sync {
            fid: 1,
            data_only: None,
        })
        .unwrap();
    client.clunk(1).unwrap();
    assert_eq!(client.read(1, 0, 1), Err(Errno::BADF));
    assert_eq!(
        client.create(1, b"f", CREATE | EXCLUSIVE),
        Err(Errno::EXIST)
    );
    client.create(1, b"f", CREATE).unwrap();
    assert_eq!(client.read(1, 0, 9).unwrap(), b"hello!");
    assert_eq!(client.descriptors.held(), 3, "two places and an open file");
}

#[test]
fn a_walk_goes_as_far_as_names_lead_and_back_by_the_way_it_came() {
    let mut client = Client::new();
    std::fs::create_dir_all(client.path("x/y")).unwrap();
    std::fs::write(client.path("x/y/z"), "").unwrap();
    let all = client.walk(ROOT, 1, &[b"x", b"y", b"z"]).unwrap();
    assert_eq!(all.len(), 3);
    assert_eq!(client.walk(ROOT, 1, &[]), Err(Errno::INVAL), "in use");
    assert_eq!(
        client.walk(ROOT, 2, &[b"x", b"gone", b"z"]).unwrap().len(),
        1
    );
    assert_eq!(client.status(2), Err(Errno::BADF), "not made");
    assert_eq!(client.walk(ROOT, 2, &[b"gone"]), Err(Errno::NOENT));
    assert_eq!(client.walk(1, 2, &[b"below"]), Err(Errno::NOTDIR));

    client.walk(ROOT, 2, &[b"x", b"y"]).unwrap();
    let up = client.walk(2, 3, &[b"..", b"..", b".."]).unwrap();
    assert_eq!(
        (up[0], up[1], up[2]),
        (all[0], up[2], up[1]),
        "the root's is itself"
    );
    // The way back is believed after a look only.
    std::fs::rename(client.path("x/y"), client.path("moved")).unwrap();
    assert_eq!(client.walk(2, 4, &[b".."]), Err(Errno::NOENT));
    std::fs::create_dir(client.path("x/y")).unwrap();
    assert_eq!(client.walk(2, 4, &[b".."]), Err(Errno::STALE));
    assert_eq!(
        client.walk(2, 4, &[b"z"]).unwrap().len(),
        1,
        "its node is the same"
    );
}

#[test]
fn names_are_made_moved_and_removed() {
    let mut client = Client::new();
    let name = Text(b"d");
    let (mode, group) = (0o755, 0);
    let made = client.qid(&Request::Directory {
        fid: ROOT,
        name,
        mode,
        group,
    });
    assert_eq!(made.unwrap().kind, 0x80);
    let link = client.qid(&Request::SymbolicLink {
        fid: ROOT,
        name: Text(b"s"),
        target: Text(b"../outside"),
        group,
    });
    assert_eq!(link.unwrap().kind, 2);
    client.walk(ROOT, 1, &[b"s"]).unwrap();
    let target = client.ask(&Request::ReadLink { fid: 1 }, |reply| match reply {
        Reply::ReadLink { target } => target.0.to_vec(),
        other => panic!("{other:?}"),
    });
    assert_eq!(target.unwrap(), b"../outside");
    assert_eq!(client.open(1, 0), Err(Errno::LOOP));
    client
        .done(&Request::Node {
            fid: ROOT,
            name: Text(b"fifo"),
            mode: 0o010_600,
            major: 0,
            minor: 0,
            group,
        })
        .unwrap();
    client.create(2, b"f", READ_WRITE).unwrap();
    client.walk(ROOT, 3, &[b"d"]).unwrap();
    let link = Request::Link {
        folder: 3,
        fid: 2,
        name: Text(b"hard"),
    };
    client.done(&link).unwrap();
    assert_eq!(client.status(2).unwrap().2, 2);
    client
        .done(&Request::RenameAt {
            folder: 3,
            name: Text(b"hard"),
            new_folder: ROOT,
            new_name: Text(b"moved"),
        })
        .unwrap();
    assert!(client.path("moved").exists() && !client.path("d/hard").exists());
    // By the fid alone: to another folder, and away.
    client
        .done(&Request::Rename {
            fid: 2,
            folder: 3,
            name: Text(b"g"),
        })
        .unwrap();
    assert!(client.path("d/g").exists());
    client.done(&Request::Remove { fid: 2 }).unwrap();
    assert!(!client.path("d/g").exists());
    assert_eq!(client.clunk(2), Err(Errno::BADF), "Tremove clunks");
    let unlink = |name, flags| Request::RemoveAt {
        folder: ROOT,
        name: Text(name),
        flags,
    };
    assert_eq!(client.done(&unlink(b"d", 0)), Err(Errno::ISDIR));
    client.done(&unlink(b"d", 0x200)).unwrap();
    assert_eq!(client.done(&unlink(b"fifo", 0x200)), Err(Errno::NOTDIR));
    client.done(&unlink(b"fifo", 0)).unwrap();
    assert_eq!(
        client.done(&Request::Remove { fid: ROOT }),
        Err(Errno::BUSY)
    );
}

#[test]
fn a_listing_goes_on_where_it_stopped_while_names_go() {
    let mut client = Client::new();
    for number in 0..500 {
        std::fs::write(client.path(&format!("file-{number}")), "").unwrap();
    }
    client.walk(ROOT, 1, &[]).unwrap();
    client.open(1, 0).unwrap();
    let (mut names, mut offset) = (Vec::new(), 0);
    loop {
        let part = client.entries(1, offset, 1000).unwrap();
        let Some((last, cookie)) = part.last() else {
            break;
        };
        offset = *cookie;
        let last = String::from_utf8(last.clone()).unwrap();
        if last.starts_with("file") {
            std::fs::remove_file(client.path(&last)).unwrap();
        }
        names.extend(part.into_iter().map(|(name, _)| name));
    }
    names.sort();
    let count = names.len();
    names.dedup();
    assert_eq!((names.len(), count), (502, 502), "each once");
    assert_eq!(
        client.entries(1, 0, 10),
        Err(Errno::INVAL),
        "no room for one"
    );
    assert_eq!(client.read(1, 0, 10), Err(Errno::ISDIR));
}

#[test]
fn an_extended_attribute_is_written_by_a_fid_and_read_by_another() {
    let mut client = Client::new();
    std::fs::write(client.path("f"), "").unwrap();
    let set = |client: &mut Client, value: &[u8], flags| {
        client.walk(ROOT, 1, &[b"f"])?;
        client.done(&Request::ExtendedCreate {
            fid: 1,
            name: Text(b"user.n"),
            size: value.len() as u64,
            flags,
        })?;
        if !value.is_empty() {
            client.write(1, 0, value)?;
        }
        client.clunk(1)
    };
    match set(&mut client, b"value", 1) {
        Err(Errno::OPNOTSUPP) => return, // this machine's temporary folder has none
        other => other.unwrap(),
    }
    assert_eq!(set(&mut client, b"other", 1), Err(Errno::EXIST));
    client.walk(ROOT, 1, &[b"f"]).unwrap();
    let walk = |name| Request::ExtendedWalk {
        fid: 1,
        new_fid: 2,
        name: Text(name),
    };
    client.done(&walk(b"user.n")).unwrap();
    assert_eq!(client.read(2, 0, 3).unwrap(), b"val");
    assert_eq!(client.read(2, 3, 30).unwrap(), b"ue");
    assert_eq!(client.read(2, 99, 30).unwrap(), b"");
    client.clunk(2).unwrap();
    client.done(&walk(b"")).unwrap();
    let list = client.read(2, 0, 999).unwrap();
    assert!(list.split(|byte| *byte == 0).any(|name| name == b"user.n"));
    client.clunk(2).unwrap();
    client.clunk(1).unwrap();
    set(&mut client, b"", 2).unwrap();
    client.walk(ROOT, 1, &[b"f"]).unwrap();
    assert_eq!(client.done(&walk(b"user.n")), Err(Errno::NODATA));
    // A value that was not finished is not set.
    let begun = Request::ExtendedCreate {
        fid: 1,
        name: Text(b"user.n"),
        size: 10,
        flags: 0,
    };
    client.done(&begun).unwrap();
    assert_eq!(client.write(1, 1, b"x"), Err(Errno::INVAL), "a gap");
    assert_eq!(client.write(1, 0, b"more than ten"), Err(Errno::NOSPC));
    assert_eq!(client.clunk(1), Err(Errno::INVAL));
}

#[test]
fn a_lock_is_waited_for_flushed_and_ended_with_its_fid() {
    let mut client = Client::new();
    let (exclusive, unlock, wait) = (1, 2, 1);
    let status = |came: Came| match came {
        Came::Answer(bytes) => match decode(&bytes).1 {
            Reply::Lock { status } => Some(status),
            other => panic!("{other:?}"),
        },
        Came::Waits => None,
    };
    for fid in [1, 2] {
        client.create(fid, b"f", READ_WRITE).unwrap();
    }
    assert_eq!(status(client.lock(1, 1, exclusive, 0, 10)), Some(0));
    assert_eq!(
        status(client.lock(1, 2, exclusive, 0, 10)),
        Some(0),
        "the same process"
    );
    assert_eq!(
        status(client.lock(1, 2, exclusive, 0, 20)),
        Some(1),
        "blocked"
    );
    assert_eq!(status(client.lock(5, 2, exclusive, wait, 20)), None);
    assert_eq!(status(client.lock(6, 2, exclusive, wait, 30)), None);
    assert!(client.retried().is_empty());
    client.done(&Request::Flush { tag: 5 }).unwrap();
    let test = Request::TestLock {
        fid: 2,
        kind: exclusive,
        start: 5,
        length: 1,
        process: 20,
        client: Text(b"guest"),
    };
    let held = client.ask(&test, |reply| match reply {
        Reply::TestLock { kind, .. } => kind,
        other => panic!("{other:?}"),
    });
    assert_eq!(held, Ok(exclusive));
    assert_eq!(status(client.lock(1, 1, unlock, 0, 10)), Some(0));
    let answers = client.retried();
    assert_eq!(answers.len(), 1, "the flushed one is not answered");
    assert_eq!(decode(&answers[0]), (6, Reply::Lock { status: 0 }));
    // A wait whose fid goes is answered too.
    assert_eq!(status(client.lock(7, 1, exclusive, wait, 10)), None);
    client.clunk(1).unwrap();
    let interrupted = Reply::Error {
        code: Errno::INTR.raw_os_error().unsigned_abs(),
    };
    assert_eq!(decode(&client.retried()[0]), (7, interrupted));
    // And the lock of process 30 goes with fid 2, though nobody unlocked it.
    client.clunk(2).unwrap();
    client.create(3, b"f", READ_WRITE).unwrap();
    assert_eq!(status(client.lock(1, 3, exclusive, 0, 40)), Some(0));
    assert_eq!(client.session.waiting(), 0);
}

#[test]
fn a_read_only_share_changes_nothing_and_another_user_is_another_attach() {
    let mut client = Client::new();
    std::fs::write(client.path("f"), "kept").unwrap();
    client.attach(10, b"/frozen", 0).unwrap();
    client.walk(10, 11, &[b"f"]).unwrap();
    assert_eq!(client.open(11, READ_WRITE), Err(Errno::ROFS));
    client.open(11, 0).unwrap();
    assert_eq!(client.read(11, 0, 9).unwrap(), b"kept");
    assert_eq!(
        client.walk(10, ROOT, &[]),
        Err(Errno::INVAL),
        "the other share has it"
    );
    let unlink = Request::RemoveAt {
        folder: 10,
        name: Text(b"f"),
        flags: 0,
    };
    assert_eq!(client.done(&unlink), Err(Errno::ROFS));
    client.attach(12, b"a", 4242).unwrap();
    client.walk(12, 13, &[b"f"]).unwrap();
    client.open(13, READ_WRITE).unwrap();
    for (share, error) in [
        (&b"b"[..], Errno::NOENT),
        (b"a/f", Errno::NOENT),
        (b"\xff", Errno::NOENT),
    ] {
        assert_eq!(client.attach(14, share, 0), Err(error));
    }
    let authenticate = Request::Authenticate {
        fid: 20,
        user: Text(b"ann"),
        share: Text(b"a"),
        number: 0,
    };
    assert_eq!(client.done(&authenticate), Err(Errno::NOENT));
}

#[test]
fn a_new_version_ends_all_that_was() {
    let mut client = Client::fresh(1000);
    assert_eq!(
        client.attach(ROOT, b"a", 0),
        Err(Errno::PROTO),
        "no version yet"
    );
    assert_eq!(client.version(100, b"9P2000.L"), Err(Errno::MSGSIZE));
    let unknown = client.version(8192, b"9P2000.u").unwrap();
    assert_eq!(unknown, (8192, b"unknown".to_vec()));
    assert_eq!(client.attach(ROOT, b"a", 0), Err(Errno::PROTO));
    let (longest, _) = client.version(u32::MAX, b"9P2000.L").unwrap();
    assert_eq!(longest, 1024 * 1024 + 4096);
    client.attach(ROOT, b"a", 0).unwrap();
    client.create(1, b"f", READ_WRITE).unwrap();
    client.version(8192, b"9P2000.L").unwrap();
    assert_eq!(client.descriptors.held(), 0);
    assert_eq!(client.status(1), Err(Errno::BADF));
    client.attach(ROOT, b"a", 0).unwrap();
    client.create(1, b"f", READ_WRITE).unwrap();
    client.write(1, 0, &[b'x'; 5000]).unwrap();
    client.write(1, 5000, &[b'x'; 5000]).unwrap();
    let read = client.read(1, 0, 1_000_000).unwrap();
    assert_eq!(read.len(), 8192 - 11, "no longer than agreed on");
}

#[test]
fn what_is_done_is_counted_by_share() {
    let mut client = Client::new();
    let done = |client: &Client, share: &str| client.counters.done(share).unwrap_or_default();
    let of = |operations, bytes_read, bytes_written| Done {
        operations,
        bytes_read,
        bytes_written,
    };
    assert_eq!(done(&client, "a"), of(0, 0, 0), "an attach is the door's");
    client.create(1, b"f", READ_WRITE).unwrap();
    let before = done(&client, "a");
    client.write(1, 0, &[7; 1000]).unwrap();
    assert_eq!(client.read(1, 900, 4096).unwrap().len(), 100);
    assert_eq!(client.read(9, 0, 1), Err(Errno::BADF), "of no share");
    assert_eq!(client.walk(ROOT, 2, &[b"none"]), Err(Errno::NOENT));
    let after = done(&client, "a");
    assert_eq!(after, before.and(of(3, 100, 1000)));

    client.attach(5, b"frozen", 1000).unwrap();
    assert_eq!(client.counters.shares().len(), 2);
    client.walk(5, 6, &[b"f"]).unwrap();
    client.open(6, 0).unwrap();
    client.read(6, 0, 10).unwrap();
    assert_eq!(done(&client, "frozen"), of(3, 10, 0));
    assert_eq!(done(&client, "a"), after, "the other share's");
    // Whatever was attached ends, and what was counted of it stays.
    client.version(1024 * 1024, b"9P2000.L").unwrap();
    assert_eq!(done(&client, "a"), after);
    client.attach(5, b"frozen", 1000).unwrap();
    client.status(5).unwrap();
    assert_eq!(done(&client, "frozen"), of(4, 10, 0));
}
