//! A client that says nonsense: it is answered under its tag, it is counted, and nothing else happens.

use proptest::prelude::*;
use rustix::io::Errno;

use super::client::{Came, Client, ROOT, decode};
use super::{CREATE, READ_WRITE};
use crate::ninep::messages::{KINDS, Reply, Request};
use crate::ninep::wire::{BadLength, Frame, Text};

fn frame(kind: u8, tag: u16, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(7 + body.len()).unwrap();
    [&length.to_le_bytes()[..], &[kind], &tag.to_le_bytes(), body].concat()
}

proptest! {
    #[test]
    fn decoding_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        if let Ok(Some(frame)) = Frame::first(&bytes, 300) {
            prop_assert!(frame.length() <= bytes.len());
            let mut room = [0; 400];
            if let Some(Ok(request)) = Request::decode(&frame) {
                let length = request.encode(frame.tag, &mut room).unwrap();
                prop_assert_eq!(&room[..length], &bytes[..frame.length()]);
            }
            if let Some(Ok(reply)) = Reply::decode(&frame) {
                let length = reply.encode(frame.tag, &mut room).unwrap();
                prop_assert_eq!(&room[..length], &bytes[..frame.length()]);
            }
        }
    }

    #[test]
    fn a_session_survives_anything(
        requests in prop::collection::vec(
            (prop::sample::select(KINDS), 0_u32..4, prop::collection::vec(any::<u8>(), 0..120)),
            1..40,
        )
    ) {
        let mut client = Client::unattached(30);
        client.attach(ROOT, b"a", 0).unwrap();
        client.create(1, b"f", READ_WRITE).unwrap();
        for (kind, fid, body) in requests {
            // A version would make the rest of the list dull.
            if kind == 100 {
                continue;
            }
            let body = [&fid.to_le_bytes()[..], &body].concat();
            if let Came::Answer(answer) = client.raw(&frame(kind, 9, &body)) {
                let (tag, reply) = decode(&answer);
                prop_assert_eq!(tag, 9);
                let is_error = matches!(reply, Reply::Error { .. });
                prop_assert!(answer[4] == kind + 1 || is_error);
            }
        }
        client.attach(99, b"a", 0).unwrap();
    }
}

#[test]
fn a_length_that_no_frame_has_is_found_before_anything_is_kept() {
    for (length, longest) in [(0_u32, 100), (6, 100), (101, 100), (u32::MAX, u32::MAX - 1)] {
        let bytes = [&length.to_le_bytes()[..], &[0; 3]].concat();
        assert_eq!(Frame::first(&bytes, longest), Err(BadLength(length)));
    }
    let whole = frame(120, 1, &[0; 4]);
    for end in 0..whole.len() {
        assert_eq!(Frame::first(&whole[..end], 100), Ok(None));
    }
    assert_eq!(Frame::first(&whole, 11).unwrap().unwrap().body, [0; 4]);
}

#[test]
fn a_bad_body_is_answered_under_its_own_tag() {
    let mut client = Client::new();
    let invalid = Reply::Error {
        code: Errno::INVAL.raw_os_error().unsigned_abs(),
    };
    let seventeen = [
        &ROOT.to_le_bytes()[..],
        &[9, 0, 0, 0, 17, 0],
        &[1, 0, b'n'].repeat(17),
    ]
    .concat();
    let long_text = [&ROOT.to_le_bytes()[..], &[0xff, 0xff], b"short"].concat();
    let long_data = [&ROOT.to_le_bytes()[..], &[0; 8], &[0xff; 4], b"short"].concat();
    for (kind, body) in [
        (24, &b"\0\0\0"[..]),
        (120, b"\0\0\0\0\0"),
        (110, &seventeen),
        (14, &long_text),
        (118, &long_data),
    ] {
        let Came::Answer(answer) = client.raw(&frame(kind, 4711, body)) else {
            panic!("{kind} waits");
        };
        assert_eq!(decode(&answer), (4711, invalid), "{kind}");
    }
    assert_eq!(client.counters.malformed.get(), 5);
    for unknown in [0, 6, 7, 9, 98, 106, 112, 114, 124, 126, 128, 255] {
        let Came::Answer(answer) = client.raw(&frame(unknown, 8, &[])) else {
            panic!("{unknown} waits");
        };
        let unsupported = Reply::Error {
            code: Errno::OPNOTSUPP.raw_os_error().unsigned_abs(),
        };
        assert_eq!(decode(&answer), (8, unsupported), "{unknown}");
    }
    assert_eq!(client.counters.unknown.get(), 12);
}

#[test]
fn names_that_lead_elsewhere_are_refused_by_every_message_that_takes_one() {
    let mut client = Client::new();
    std::fs::write(client.path("../x"), "outside").unwrap();
    client.create(1, b"file", READ_WRITE).unwrap();
    for bad in [
        &b""[..],
        b".",
        b"..",
        b"../x",
        b"a/b",
        b"/etc",
        b"x/..",
        b"nul\0",
        b"\0",
    ] {
        let name = Text(bad);
        let (fid, mode, group) = (ROOT, 0o755, 0);
        let mut answers = vec![
            client.done(&Request::Directory {
                fid,
                name,
                mode,
                group,
            }),
            client.done(&Request::Node {
                fid,
                name,
                mode,
                major: 0,
                minor: 0,
                group,
            }),
            client.done(&Request::SymbolicLink {
                fid,
                name,
                target: Text(b"t"),
                group,
            }),
            client.done(&Request::Link {
                folder: fid,
                fid: 1,
                name,
            }),
            client.done(&Request::Rename {
                fid: 1,
                folder: fid,
                name,
            }),
            client.done(&Request::RenameAt {
                folder: fid,
                name,
                new_folder: fid,
                new_name: Text(b"n"),
            }),
            client.done(&Request::RenameAt {
                folder: fid,
                name: Text(b"file"),
                new_folder: fid,
                new_name: name,
            }),
            client.done(&Request::RemoveAt {
                folder: fid,
                name,
                flags: 0,
            }),
            client.done(&Request::RemoveAt {
                folder: fid,
                name,
                flags: 0x200,
            }),
            client.create(2, bad, CREATE).map(drop),
        ];
        if bad != b".." {
            answers.push(client.walk(fid, 2, &[bad]).map(drop));
        }
        for (request, answer) in answers.into_iter().enumerate() {
            assert_eq!(answer, Err(Errno::INVAL), "request {request} with {bad:?}");
        }
    }
    let long = [b'n'; 256];
    assert_eq!(client.walk(ROOT, 2, &[&long]), Err(Errno::NAMETOOLONG));
    assert_eq!(std::fs::read(client.path("../x")).unwrap(), b"outside");
}

#[test]
fn what_a_client_can_make_grow_has_a_bound() {
    let mut client = Client::unattached(8);
    client.attach(ROOT, b"a", 0).unwrap();
    std::fs::write(client.path("f"), "").unwrap();
    // Places are let go of; what is open is not: the root, the file's place, and six times the file.
    (1..50).for_each(|fid| drop(client.walk(ROOT, fid, &[b"f"]).unwrap()));
    client.walk(1, 100, &[]).unwrap();
    let full = (101..200).find(|fid| {
        client.walk(1, *fid, &[]).unwrap();
        client.open(*fid, 0).map(drop) == Err(Errno::MFILE)
    });
    assert_eq!(full, Some(107));
    (100..=107)
        .chain(1..50)
        .for_each(|fid| client.clunk(fid).unwrap());
    // Values of extended attributes, counted by what was announced.
    let create = |client: &mut Client, fid| {
        client.walk(ROOT, fid, &[])?;
        client.done(&Request::ExtendedCreate {
            fid,
            name: Text(b"user.n"),
            size: 65536,
            flags: 0,
        })
    };
    let full = (1..).find(|fid| create(&mut client, *fid) == Err(Errno::NOMEM));
    assert_eq!(full, Some(129), "8 MiB");
    client.clunk(1).unwrap_err();
    create(&mut client, 1).unwrap();
    let long = Request::ExtendedCreate {
        fid: ROOT,
        name: Text(b"user.n"),
        size: 65537,
        flags: 0,
    };
    assert_eq!(client.done(&long), Err(Errno::TOOBIG));
}
