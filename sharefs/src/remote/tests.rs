//! The client against our own server, as one more `Tree`, and against servers that go, say nothing, and lie.

use std::ffi::{CStr, CString};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::mpsc;
use std::time::Duration;

use rustix::io::Errno;

use super::line::Limits;
use super::{Connection, Refused, RemoteTree, Wanted, attach};
use crate::ninep::client::Swap;
use crate::ninep::messages::{Reply, Request};
use crate::ninep::wire::{Data, Few, Field, Frame, Output, Qid, Text};
use crate::sys::{Sink, Source};
use crate::tree::{
    Allocation, Attributes, Changes, Entry, ExtendedHow, Kind, Name, OpenHow, RenameHow, Tree,
};

mod kept;
mod moved;

const PLAIN: Swap = Swap {
    users: (0, 0),
    groups: (0, 0),
};

fn wanted() -> Wanted {
    Wanted {
        user: "root".to_owned(),
        uid: 0,
        export: "/".to_owned(),
        below: Vec::new(),
    }
}

/// Short ones; none of them is what a test waits for, unless it says so.
fn limits() -> Limits {
    let long = Duration::from_secs(60);
    Limits {
        doubt: long,
        rest: long,
        silence: long,
        call: long,
        slow_call: long,
    }
}

fn name(text: &CStr) -> Name<'_> {
    Name::new(text).unwrap()
}

/// What a server under test says to a question: frames, whatever they are. None: it closes the connection.
type Says = dyn FnMut(u16, Request<'_>) -> Option<Vec<Vec<u8>>> + Send;

/// Attached to a server that answers version and attach as it should, and everything else as `says`.
fn visit(
    limits: Limits,
    mut says: Box<Says>,
) -> (
    Result<(RemoteTree, Connection), Refused>,
    mpsc::Receiver<String>,
) {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let mut some = [0; 65536];
        while let Ok(count @ 1..) = theirs.read(&mut some) {
            bytes.extend_from_slice(&some[..count]);
            while let Some(frame) = Frame::first(&bytes, u32::MAX).unwrap() {
                let (tag, length) = (frame.tag, frame.length());
                let Some(answers) = says(tag, Request::decode(&frame).unwrap().unwrap()) else {
                    return;
                };
                for answer in answers {
                    if theirs.write_all(&answer).is_err() {
                        return;
                    }
                }
                bytes.drain(..length);
            }
        }
    });
    let (tell, told) = mpsc::sync_channel(8);
    let lost = Box::new(move |reason: &str| {
        tell.send(reason.to_owned()).ok();
    });
    (attach(ours, &wanted(), PLAIN, (limits, lost)), told)
}

fn frame(tag: u16, reply: &Reply<'_>) -> Vec<Vec<u8>> {
    let mut room = vec![0; 2 << 20];
    let length = reply.encode(tag, &mut room).unwrap();
    room.truncate(length);
    vec![room]
}

fn qid(path: u64) -> Qid {
    Qid {
        kind: 0x80,
        version: 1,
        path,
    }
}

fn attributes(path: u64, mode: u32) -> Reply<'static> {
    Reply::Attributes {
        valid: 0x7ff,
        qid: qid(path),
        mode,
        user: 0,
        group: 0,
        links: 1,
        device: 0,
        size: 10,
        block_size: 4096,
        blocks: 1,
        accessed: 1,
        accessed_nanoseconds: 1,
        modified: 1,
        modified_nanoseconds: 1,
        changed: 1,
        changed_nanoseconds: 1,
        born: 0,
        born_nanoseconds: 0,
        generation: 0,
        data_version: 0,
    }
}

/// As it should be: a folder, number 1, with whatever in it.
fn honest(tag: u16, request: &Request<'_>) -> Vec<Vec<u8>> {
    let reply = match request {
        Request::Version { longest, version } => Reply::Version {
            longest: *longest,
            version: *version,
        },
        Request::Attach { .. } => Reply::Attach { qid: qid(1) },
        Request::Walk { names, .. } => {
            let mut qids = Few::default();
            for _name in names.as_slice() {
                qids.push(qid(2)).unwrap();
            }
            Reply::Walk { qids }
        }
        Request::Attributes { .. } => attributes(1, 0o040_755),
        Request::Open { .. } => Reply::Open {
            qid: qid(1),
            unit: 0,
        },
        Request::Clunk { .. } => Reply::Clunk {},
        Request::Flush { .. } => Reply::Flush {},
        _ => Reply::Error { code: 95 },
    };
    frame(tag, &reply)
}

#[test]
fn a_server_that_goes_ends_what_waits_and_all_that_comes() {
    let mut opened = false;
    let says = Box::new(move |tag, request: Request<'_>| {
        opened |= matches!(request, Request::Statistics { .. });
        (!opened).then(|| honest(tag, &request))
    });
    let (attached, told) = visit(limits(), says);
    let (tree, connection) = attached.unwrap();
    let root = tree.root().unwrap();
    assert_eq!(tree.statistics(&root.node).unwrap_err(), Errno::NOTCONN);
    assert_eq!(tree.attributes(&root.node).unwrap_err(), Errno::NOTCONN);
    assert!(told.recv().unwrap().contains("closed"));
    drop((root, tree, connection));
    assert!(told.recv().is_err(), "told once");
}

#[test]
fn silence_ends_the_line_and_a_slow_answer_does_not() {
    // It answers nothing at all from some moment on, not even that it is there.
    let mut silent = false;
    let says = Box::new(move |tag, request: Request<'_>| {
        silent |= matches!(request, Request::Statistics { .. });
        Some(if silent {
            Vec::new()
        } else {
            honest(tag, &request)
        })
    });
    let short = Limits {
        doubt: Duration::from_millis(20),
        rest: Duration::from_millis(20),
        silence: Duration::from_secs(1),
        ..limits()
    };
    let (attached, told) = visit(short, says);
    let (tree, _connection) = attached.unwrap();
    let root = tree.root().unwrap();
    assert_eq!(tree.statistics(&root.node).unwrap_err(), Errno::NOTCONN);
    assert!(told.recv().unwrap().contains("nothing came"));

    // It is there, and does not answer one call: that fails alone, and its late answer is nobody's.
    let mut late = None;
    let says = Box::new(move |tag, request: Request<'_>| match request {
        Request::Statistics { .. } => {
            late = Some(tag);
            Some(Vec::new())
        }
        Request::Attributes { .. } => {
            let mut all = late
                .take()
                .map(|tag| frame(tag, &Reply::Error { code: 5 }))
                .unwrap_or_default();
            all.extend(honest(tag, &request));
            Some(all)
        }
        _ => Some(honest(tag, &request)),
    });
    let short = Limits {
        doubt: Duration::from_millis(10),
        call: Duration::from_secs(1),
        ..limits()
    };
    let (attached, told) = visit(short, says);
    let (tree, _connection) = attached.unwrap();
    let root = tree.root().unwrap();
    for _ in 0..3 {
        assert_eq!(tree.statistics(&root.node).unwrap_err(), Errno::IO);
        tree.attributes(&root.node).unwrap();
    }
    assert!(told.try_recv().is_err(), "the line holds");
}

#[test]
fn servers_that_cannot_be_used_say_so_at_once() {
    let version = |longest: u32, text: &'static [u8]| {
        move |tag: u16, request: Request<'_>| {
            let reply = Reply::Version {
                longest,
                version: Text(text),
            };
            Some(match request {
                Request::Version { .. } => frame(tag, &reply),
                _ => honest(tag, &request),
            })
        }
    };
    for (says, said) in [
        (
            Box::new(version(65536, b"9P2000")) as Box<Says>,
            "speaks \"9P2000\"",
        ),
        (Box::new(version(65536, b"unknown")), "speaks \"unknown\""),
        (Box::new(version(4, b"9P2000.L")), "messages of 4 bytes"),
        (
            Box::new(version(u32::MAX, b"9P2000.L")),
            "messages of 4294967295 bytes",
        ),
        (
            Box::new(|_, _| Some(vec![b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()])),
            "closed the connection",
        ),
        (Box::new(|_, _| None), "closed the connection"),
        (
            Box::new(|tag, request: Request<'_>| {
                Some(match request {
                    Request::Attach { .. } => frame(tag, &Reply::Error { code: 1 }),
                    _ => honest(tag, &request),
                })
            }),
            "attaching \"/\" as user 0: ",
        ),
    ] {
        let Err(refused) = visit(limits(), says).0 else {
            panic!("attached, but: {said}");
        };
        assert!(refused.to_string().contains(said), "{refused}, but: {said}");
    }
}

/// Entries as a server sends them.
fn listing(entries: &[(&[u8], u64)]) -> Vec<u8> {
    let mut room = vec![0; 65536];
    let mut output = Output::bare(&mut room);
    for (text, next) in entries {
        qid(7).put(&mut output);
        next.put(&mut output);
        8_u8.put(&mut output);
        Text(text).put(&mut output);
    }
    let length = output.length();
    room.truncate(length);
    room
}

#[test]
fn directories_that_lie_fail_and_nothing_of_them_is_passed_on() {
    let long = [b'n'; 256];
    for (entries, good) in [
        (listing(&[(b"a", 1), (b"b", 2)]), true),
        (listing(&[(b".", 1), (b"..", 2), (b"\xff", 3)]), true),
        (listing(&[]), true),
        (listing(&[(b"a", 1), (b"../../etc", 2)]), false),
        (listing(&[(b"a/b", 1)]), false),
        (listing(&[(b"", 1)]), false),
        (listing(&[(b"a\0b", 1)]), false),
        (listing(&[(&long, 1)]), false),
        // It does not move on.
        (listing(&[(b"a", 0)]), false),
        (listing(&[(b"a", 5), (b"b", 5)]), false),
        (listing(&[(b"a", 5), (b"b", 0)]), false),
        (listing(&[(b"a", 1)])[..20].to_vec(), false),
        (vec![0xff; 4000], false),
        (vec![1; 70000], false),
    ] {
        let shown = entries.clone();
        let says = Box::new(move |tag, request: Request<'_>| {
            Some(match request {
                Request::Entries { .. } => frame(
                    tag,
                    &Reply::Entries {
                        data: Data(&entries),
                    },
                ),
                _ => honest(tag, &request),
            })
        });
        let (tree, _connection) = visit(limits(), says).0.unwrap();
        let root = tree.root().unwrap();
        let open = tree.open_directory(&root.node).unwrap();
        let mut names = 0;
        let listed = tree.entries(&open, 0, 4096, &mut |_: &Entry<'_>| {
            names += 1;
            true
        });
        assert_eq!(listed.is_ok(), good, "{}", shown.escape_ascii());
        assert!(good || names == 0, "{}", shown.escape_ascii());
        tree.attributes(&root.node).unwrap();
    }
}

#[test]
fn lies_about_sizes_counts_and_kinds_end_the_call_and_no_more() {
    let file = |tag, request: &Request<'_>| match request {
        Request::Attributes { fid, .. } if *fid != 2 => frame(tag, &attributes(2, 0o100_644)),
        Request::Open { .. } => frame(
            tag,
            &Reply::Open {
                qid: qid(2),
                unit: u32::MAX,
            },
        ),
        other => honest(tag, other),
    };
    type Ask = fn(
        &RemoteTree,
        &<RemoteTree as Tree>::Node,
        &<RemoteTree as Tree>::File,
    ) -> Result<(), Errno>;
    let read: Ask = |tree, _, file| {
        let mut room = [0; 100];
        tree.read(file, &[Sink::from(&mut room[..])], 0).map(drop)
    };
    let write: Ask = |tree, _, file| {
        tree.write(file, &[Source::from(&b"0123"[..])], 0, false)
            .map(drop)
    };
    let extended: Ask = |tree, node, _| tree.extended(node, c"user.a", &mut [0; 100]).map(drop);
    let names: Ask = |tree, node, _| tree.list_extended(node, &mut [0; 100]).map(drop);
    let link: Ask = |tree, node, _| tree.read_link(node, &mut Vec::new());
    let status: Ask = |tree, node, _| tree.attributes(node).map(drop);
    let space: Ask = |tree, node, _| tree.statistics(node).map(drop);
    let too_much = [0; 101];
    let statistics = Reply::Statistics {
        kind: 0,
        block_size: 0,
        blocks: u64::MAX,
        free: u64::MAX,
        available: 0,
        files: 0,
        free_files: 0,
        id: 0,
        longest_name: 0,
    };
    let lies: Vec<(&str, Ask, Reply<'_>)> = vec![
        (
            "more than was asked for",
            read,
            Reply::Read {
                data: Data(&too_much),
            },
        ),
        ("another answer", read, Reply::Write { count: 3 }),
        (
            "an errno that is none",
            read,
            Reply::Error { code: u32::MAX },
        ),
        ("no error", read, Reply::Error { code: 0 }),
        ("more than was sent", write, Reply::Write { count: 5 }),
        (
            "a value without end",
            extended,
            Reply::ExtendedWalk { size: u64::MAX },
        ),
        (
            "a value of 16 MiB",
            names,
            Reply::ExtendedWalk { size: 1 << 24 },
        ),
        (
            "a target with a NUL",
            link,
            Reply::ReadLink {
                target: Text(b"a\0b"),
            },
        ),
        ("no target", link, Reply::ReadLink { target: Text(b"") }),
        ("no kind", status, attributes(2, 0o644)),
        ("another file", status, attributes(3, 0o100_644)),
        ("another kind", status, attributes(2, 0o040_755)),
        ("blocks of nothing", space, statistics),
    ];
    for (lie, ask, reply) in lies {
        let (start, started) = mpsc::sync_channel::<()>(1);
        let mut bytes = frame(0, &reply).remove(0);
        let kind = bytes[4];
        let says = Box::new(move |tag: u16, request: Request<'_>| {
            let mut asked = vec![0; 4096];
            let length = request.encode(0, &mut asked).unwrap_or(7);
            let is_answer = kind == 7
                || asked[..length][4] + 1 == kind
                || matches!(request, Request::Read { .. });
            let lying = started.try_recv() != Err(mpsc::TryRecvError::Empty);
            let setup = matches!(request, Request::Walk { .. } | Request::Clunk { .. });
            if lying && is_answer && !setup {
                bytes[5..7].copy_from_slice(&tag.to_le_bytes());
                return Some(vec![bytes.clone()]);
            }
            Some(file(tag, &request))
        });
        let (tree, _connection) = visit(limits(), says).0.unwrap();
        let root = tree.root().unwrap();
        let found = tree.child(&root.node, name(c"f")).unwrap();
        assert_eq!(found.attributes.kind, Kind::File);
        let how = OpenHow {
            read: true,
            write: true,
            ..OpenHow::default()
        };
        let open = tree.open(&found.node, how).unwrap();
        drop(start);
        let said = ask(&tree, &found.node, &open);
        assert!(
            matches!(said, Err(Errno::IO | Errno::STALE)),
            "{lie}: {said:?}"
        );
    }
}

#[test]
fn frames_without_an_end_and_strangers_answers_do_no_harm() {
    for (says, line_holds) in [
        // Longer than was agreed, shorter than a frame, in the middle of something else.
        (&u32::MAX.to_le_bytes()[..], false),
        (&[6, 0, 0, 0, 121, 0, 0], false),
        // Tags that nobody has: thrown away.
        (&[7, 0, 0, 0, 121, 0xff, 0xff], true),
        (&[7, 0, 0, 0, 121, 63, 0], true),
        (&[7, 0, 0, 0, 109, 0xf0, 0xff], true),
    ] {
        let stray = says.to_vec();
        let says = Box::new(move |tag, request: Request<'_>| {
            let mut all = match request {
                Request::Statistics { .. } => vec![stray.clone()],
                _ => Vec::new(),
            };
            all.extend(honest(tag, &request));
            Some(all)
        });
        let (tree, _connection) = visit(limits(), says).0.unwrap();
        let root = tree.root().unwrap();
        let expected = if line_holds {
            Errno::OPNOTSUPP
        } else {
            Errno::NOTCONN
        };
        assert_eq!(tree.statistics(&root.node).unwrap_err(), expected);
        assert_eq!(tree.attributes(&root.node).is_ok(), line_holds);
    }
}

#[test]
fn any_bytes_from_a_server_end_in_an_answer() {
    let strategy = proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300);
    proptest::proptest!(proptest::test_runner::Config::with_cases(32), |(noise in strategy, keep_head: bool)| {
        let mut lying = false;
        let says = Box::new(move |tag: u16, request: Request<'_>| {
            lying |= matches!(request, Request::Entries { .. } | Request::Statistics { .. });
            if !lying {
                return Some(honest(tag, &request));
            }
            let mut bytes = noise.clone();
            if keep_head && bytes.len() >= 7 {
                let length = u32::try_from(bytes.len()).unwrap();
                bytes[..4].copy_from_slice(&length.to_le_bytes());
                bytes[5..7].copy_from_slice(&tag.to_le_bytes());
            }
            Some(vec![bytes])
        });
        let short = Limits {
            doubt: Duration::from_millis(20),
            silence: Duration::from_millis(400),
            call: Duration::from_millis(500),
            slow_call: Duration::from_millis(500),
            ..limits()
        };
        let (tree, _connection) = visit(short, says).0.unwrap();
        let root = tree.root().unwrap();
        let open = tree.open_directory(&root.node).unwrap();
        let began = super::now();
        tree.statistics(&root.node).ok();
        tree.entries(&open, 0, 4096, &mut |_: &Entry<'_>| true).ok();
        tree.child(&root.node, name(c"x")).ok();
        tree.read_link(&root.node, &mut Vec::new()).ok();
        tree.list_extended(&root.node, &mut [0; 64]).ok();
        assert!(began.elapsed() < Duration::from_secs(30));
    });
}

/// A folder served by our own server, and the client that is attached to it.
struct Pair {
    tree: RemoteTree,
    _connection: Connection,
    _door: crate::serve::ninep::NinepDoor,
    folder: std::path::PathBuf,
    _root: tempfile::TempDir,
}

fn pair() -> Pair {
    use crate::serve::ninep::{NinepDoor, Offer, OfferList};
    use crate::tree::host::{HostTree, descriptors::Descriptors};
    use crate::tree::owner::OwnerMap;

    rustix::process::umask(rustix::fs::Mode::empty());
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("share");
    std::fs::create_dir(&folder).unwrap();
    let shared = folder.clone();
    let offer = Offer::new(move |counters| {
        let descriptors = Descriptors::new(1000);
        let tree = HostTree::open(&shared, descriptors, |_| OwnerMap::Pass).unwrap();
        crate::ninep::session::mount(std::sync::Arc::new(tree), counters, 0)
    });
    let offers = OfferList::from([("a".to_owned(), offer)]);
    let path = root.path().join("9p.sock");
    let door = NinepDoor::open(&path, offers, std::sync::Arc::default()).unwrap();
    let wanted = Wanted {
        export: "a".to_owned(),
        ..wanted()
    };
    let socket = UnixStream::connect(door.path()).unwrap();
    let (tree, connection) = attach(socket, &wanted, PLAIN, (limits(), Box::new(|_| ()))).unwrap();
    Pair {
        tree,
        _connection: connection,
        _door: door,
        folder,
        _root: root,
    }
}

fn caller() -> crate::tree::Caller {
    crate::tree::Caller {
        uid: crate::tree::owner::GuestUid(rustix::process::geteuid().as_raw()),
        gid: crate::tree::owner::GuestGid(rustix::process::getegid().as_raw()),
    }
}

#[test]
fn our_own_server_is_a_tree_like_any_other() {
    let pair = pair();
    let (tree, folder) = (&pair.tree, &pair.folder);
    let root = tree.root().unwrap().node;
    let how = OpenHow {
        read: true,
        write: true,
        ..OpenHow::default()
    };
    let (made, file) = tree
        .create(caller(), &root, name(c"f"), (0o640, how))
        .unwrap();
    assert_eq!(made.attributes.mode, 0o640);
    // Longer than a message, at odd places, and back.
    let data: Vec<u8> = (0..3_000_001_u32)
        .map(|number| (number % 251) as u8)
        .collect();
    let wrote = tree
        .write(&file, &[Source::from(&data[..])], 5, false)
        .unwrap();
    assert_eq!(wrote, data.len());
    assert_eq!(std::fs::read(folder.join("f")).unwrap()[5..], data[..]);
    let mut back = vec![0; data.len() + 100];
    let got = tree.read(&file, &[Sink::from(&mut back[..])], 5).unwrap();
    assert_eq!((got, &back[..got]), (data.len(), &data[..]));
    assert_eq!(
        tree.write(&file, &[Source::from(&b"end"[..])], 0, true)
            .unwrap(),
        3
    );
    assert!(std::fs::read(folder.join("f")).unwrap().ends_with(b"end"));
    assert_eq!(
        tree.allocate(
            &file,
            Allocation {
                offset: 0,
                length: 1,
                flags: 0
            }
        ),
        Err(Errno::NOSYS)
    );

    // Attributes with names.
    let node = &made.node;
    tree.set_extended(node, c"user.a", b"value", ExtendedHow::Create)
        .unwrap();
    let twice = tree.set_extended(node, c"user.a", b"value", ExtendedHow::Create);
    assert_eq!(twice, Err(Errno::EXIST));
    tree.set_extended(node, c"user.a", b"", ExtendedHow::Replace)
        .unwrap();
    assert_eq!(tree.extended(node, c"user.a", &mut []).unwrap(), 0);
    tree.set_extended(node, c"user.a", b"other", ExtendedHow::Either)
        .unwrap();
    let mut value = [0; 16];
    assert_eq!(tree.extended(node, c"user.a", &mut value).unwrap(), 5);
    assert_eq!(
        tree.extended(node, c"user.a", &mut [0; 3]),
        Err(Errno::RANGE)
    );
    let length = tree.list_extended(node, &mut value).unwrap();
    assert_eq!(&value[..length], b"user.a\0");
    tree.remove_extended(node, c"user.a").unwrap();
    assert_eq!(tree.extended(node, c"user.a", &mut []), Err(Errno::NODATA));

    // Names come, move and go; flags that the protocol does not have are refused.
    tree.make_directory(caller(), &root, name(c"d"), 0o755)
        .unwrap();
    let d = tree.child(&root, name(c"d")).unwrap().node;
    tree.rename((&root, name(c"f")), (&d, name(c"g")), RenameHow::default())
        .unwrap();
    assert_eq!(tree.child(&root, name(c"f")).err(), Some(Errno::NOENT));
    assert!(std::sync::Arc::ptr_eq(
        &tree.child(&d, name(c"g")).unwrap().node,
        node
    ));
    let how = RenameHow {
        exchange: true,
        ..RenameHow::default()
    };
    assert_eq!(
        tree.rename((&d, name(c"g")), (&root, name(c"f")), how),
        Err(Errno::INVAL)
    );
    let link = tree
        .make_symbolic_link(caller(), &root, name(c"l"), c"d/g")
        .unwrap();
    let mut target = Vec::new();
    tree.read_link(&link.node, &mut target).unwrap();
    assert_eq!(target, b"d/g");
    assert_eq!(tree.remove_directory(&d, name(c"g")), Err(Errno::NOTDIR));
    tree.remove_file(&d, name(c"g")).unwrap();
    // Open, it lives.
    assert_eq!(tree.attributes(node).unwrap().links, 0);
    tree.remove_directory(&root, name(c"d")).unwrap();
    let changes = Changes {
        size: Some(7),
        ..Changes::default()
    };
    let Attributes { size, .. } = tree.change(node, Some(&file), &changes).unwrap();
    assert_eq!(size, 7);

    // All of a folder that takes several messages.
    for number in 0..2000 {
        std::fs::write(folder.join(format!("{number:0100}")), "").unwrap();
    }
    let open = tree.open_directory(&root).unwrap();
    let (mut from, mut seen) = (0, std::collections::BTreeSet::<CString>::new());
    loop {
        let before = from;
        tree.entries(&open, from, 8192, &mut |entry| {
            seen.insert(entry.name.to_owned());
            from = entry.next;
            true
        })
        .unwrap();
        if from == before {
            break;
        }
    }
    assert_eq!(seen.len(), 2000 + 1 + 2);
}

#[test]
fn a_wait_for_the_first_answers_is_ended_by_a_shutdown() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let twin = ours.try_clone().unwrap();
    let ender = std::thread::spawn(move || {
        let mut theirs = theirs;
        // The question has come, and gets no answer.
        theirs.read_exact(&mut [0; 7]).unwrap();
        twin.shutdown(std::net::Shutdown::Both).unwrap();
        theirs
    });
    let lost = Box::new(|_: &str| {});
    let refused = attach(ours, &wanted(), PLAIN, (limits(), lost)).err();
    assert!(matches!(refused, Some(Refused::Away(_))), "{refused:?}");
    ender.join().unwrap();
}
