//! A guest's kernel that says nonsense: it is answered, it is counted, and nothing else happens.

use proptest::prelude::*;
use rustix::io::Errno;

use super::client::{Client, Options, answer_body};
use super::{O_RDWR, opcode};
use crate::fuse::request::{Header, Operation};
use crate::fuse::session::Outcome;

proptest! {
    #[test]
    fn decoding_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..300), number in 0_u32..60) {
        Header::decode(&bytes).ok();
        if let Ok(Operation::BatchForget(list)) = Operation::decode(number, &bytes, u64::MAX) {
            prop_assert!(list.count() <= bytes.len() / 16);
        }
    }

    #[test]
    fn a_session_survives_anything(
        requests in prop::collection::vec(
            (0_u32..60, 0_u64..5, prop::collection::vec(any::<u8>(), 0..200), 0_usize..200, any::<bool>()),
            1..30,
        )
    ) {
        let client = Client::new(Options { descriptors: 20, ..Options::default() });
        client.create(1, c"a", O_RDWR, 0o600).unwrap();
        for (number, node, body, room, honest) in requests {
            // DESTROY and INIT would make the rest of the list dull.
            if number == opcode::DESTROY || number == opcode::INIT {
                continue;
            }
            let mut request = Client::request(77, number, node, &[&body]);
            if !honest {
                let length = request.len();
                request[..4].copy_from_slice(&body.get(..4).unwrap_or(&[1, 2, 3, 4])[..4]);
                prop_assert_eq!(request.len(), length);
            }
            let (outcome, answer) = client.raw(&request, room);
            if let Outcome::Done(length) = outcome {
                prop_assert!(length == 0 || length >= 16 && length <= room);
                if length > 0 {
                    answer_body(77, &answer).ok();
                }
            }
        }
        client.attributes(1).unwrap();
    }
}

#[test]
fn a_bad_request_is_answered_under_its_own_number() {
    let client = Client::new(Options::default());
    let cut = Client::request(4711, opcode::SETATTR, 1, &[&[0; 10]]);
    let (_, answer) = client.raw(&cut, 200);
    assert_eq!(answer_body(4711, &answer), Err(Errno::INVAL));

    let mut longer_than_sent = Client::request(4712, opcode::GETATTR, 1, &[&[0; 16]]);
    longer_than_sent[0] += 8;
    let (_, answer) = client.raw(&longer_than_sent, 200);
    assert_eq!(answer_body(4712, &answer), Err(Errno::INVAL));

    let nameless = Client::request(4713, opcode::LOOKUP, 1, &[b"no end"]);
    let (_, answer) = client.raw(&nameless, 200);
    assert_eq!(answer_body(4713, &answer), Err(Errno::INVAL));
    assert_eq!(client.counters.malformed.get(), 3);

    for unknown in [0, 7, 37, 40, 48, 49, 53, 4000, u32::MAX] {
        let request = Client::request(4714, unknown, 1, &[]);
        let (_, answer) = client.raw(&request, 200);
        assert_eq!(answer_body(4714, &answer), Err(Errno::NOSYS), "{unknown}");
    }
    assert_eq!(client.counters.unknown.get(), 9);
    let ioctl = Client::request(4715, opcode::IOCTL, 1, &[&[0; 32]]);
    assert_eq!(
        answer_body(4715, &client.raw(&ioctl, 64).1),
        Err(Errno::NOTTY)
    );
}

#[test]
fn without_a_header_or_room_nothing_is_written() {
    let client = Client::new(Options::default());
    assert_eq!(client.raw(&[1; 39], 100).0, Outcome::Done(0));
    assert_eq!(client.raw(&[], 100).0, Outcome::Done(0));
    let request = Client::request(1, opcode::GETATTR, 1, &[&[0; 16]]);
    assert_eq!(client.raw(&request, 15).0, Outcome::Done(0));
    // Room for a header only: the guest learns that its answer did not fit.
    let (_, answer) = client.raw(&request, 16);
    assert_eq!(answer_body(1, &answer), Err(Errno::IO));
}

#[test]
fn a_write_that_promises_more_than_it_brings_is_refused() {
    let client = Client::new(Options::default());
    let (_, handle) = client.create(1, c"a", O_RDWR, 0o600).unwrap();
    let head = [
        &handle.to_le_bytes()[..],
        &[0; 8],
        &1000_u32.to_le_bytes(),
        &[0; 20],
    ]
    .concat();
    let answer = client.ask(opcode::WRITE, 1, &[&head, &[0; 999]], 8);
    assert_eq!(answer, Err(Errno::INVAL));
    assert_eq!(std::fs::metadata(client.path("a")).unwrap().len(), 0);
}

#[test]
fn at_the_bound_of_nodes_a_guest_hears_it_and_listing_goes_on() {
    let client = Client::new(Options {
        nodes: 12,
        ..Options::default()
    });
    for index in 0..50 {
        std::fs::write(client.path(&format!("f{index}")), "").unwrap();
    }
    let mut known = Vec::new();
    let error = loop {
        let name = std::ffi::CString::new(format!("f{}", known.len())).unwrap();
        match client.lookup(1, &name) {
            Ok(entry) => known.push(entry.node),
            Err(error) => break error,
        }
    };
    assert_eq!((error, known.len()), (Errno::NFILE, 11));
    assert_eq!(
        client.lookup(1, &long_name()).unwrap_err(),
        Errno::NAMETOOLONG
    );
    assert_eq!(
        client.counters.malformed.get(),
        0,
        "none of this is wrong of the guest"
    );
    client.open(known[0], 0).unwrap();
    // No node for the entries of a directory: they are listed without.
    let handle = client.open_directory(1).unwrap();
    let answer = client
        .read_directory(1, (handle, 0), 64 * 1024, true)
        .unwrap();
    assert_eq!(super::client::dirents(&answer, 128).len(), 52);
}

#[test]
fn at_the_bound_of_descriptors_nothing_more_is_opened_and_names_are_still_found() {
    let client = Client::new(Options {
        descriptors: 12,
        ..Options::default()
    });
    for index in 0..50 {
        std::fs::write(client.path(&format!("f{index}")), "").unwrap();
    }
    let find = |index: usize| {
        let name = std::ffi::CString::new(format!("f{index}")).unwrap();
        client.lookup(1, &name).map(|entry| entry.node)
    };
    let known: Vec<u64> = (0..50).map(|index| find(index).unwrap()).collect();
    let mut handles = Vec::new();
    let error = loop {
        match client.open(known[handles.len() % 3], 0) {
            Ok(handle) => handles.push(handle),
            Err(error) => break error,
        }
    };
    assert_eq!((error, handles.len()), (Errno::MFILE, 8));
    assert!(client.descriptors.refused.get() > 0);
    assert_eq!(client.attributes(known[20]).unwrap_err(), Errno::MFILE);
    client.attributes(known[1]).unwrap();
    client.release(handles.pop().unwrap()).unwrap();
    client.attributes(known[20]).unwrap();
    client.attributes(known[21]).unwrap();
}

#[test]
fn requests_before_init_are_refused() {
    let client = Client::new(Options::default());
    client.plain_request(opcode::DESTROY, 1).unwrap();
    assert_eq!(client.lookup(1, c"a").unwrap_err(), Errno::IO);
    let mut body = [0_u8; 64];
    body[0] = 6;
    assert_eq!(client.ask(opcode::INIT, 0, &[&body], 64), Err(Errno::PROTO));
    body[0] = 8;
    let answer = client.ask(opcode::INIT, 0, &[&body], 64).unwrap();
    assert_eq!(
        answer[..8],
        [7, 0, 0, 0, 39, 0, 0, 0],
        "a newer kernel is told what we speak"
    );
    assert!(!client.session().mounted());
}

fn long_name() -> std::ffi::CString {
    std::ffi::CString::new([b'n'; 256]).unwrap()
}
