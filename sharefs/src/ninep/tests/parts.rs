//! Twrites whose data is written while the rest of it is still on its way.

use std::sync::{Arc, Mutex};

use proptest::prelude::*;
use rustix::io::Errno;

use super::client::{Came, Client, ROOT, decode};
use super::{APPEND, READ_WRITE};
use crate::keep::ninep::rows::{Claim, KeptMount};
use crate::ninep::messages::{Reply, Request, WRITE, WritePart};
use crate::ninep::session::{Answer, Keeping, Mount, Offers, PART, Turn};
use crate::ninep::wire::{Data, Qid, Text};
use crate::tree::Result;
use crate::tree::owner::GuestUid;

const WRITE_ONLY: u32 = 1;
const DATA_SYNC: u32 = 0o10_000;
const SYNC: u32 = 0o4_010_000;
/// A Twrite's bytes before its data.
const HEAD: usize = 23;

fn data(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at % 251).to_le_bytes()[0]).collect()
}

/// As an answer says it.
fn count(data: &[u8]) -> u32 {
    data.len().try_into().unwrap()
}

fn twrite(fid: u32, offset: u64, data: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; HEAD + data.len()];
    let data = Data(data);
    let length = Request::Write { fid, offset, data }.encode(7, &mut bytes);
    assert_eq!(length, Ok(bytes.len()));
    bytes
}

/// The frame as a connection has it: some of it, then all.
fn in_two(client: &mut Client, frame: &[u8], first: usize) -> Result<u32> {
    client.session.serve_part(&frame[..first]);
    let Came::Answer(answer) = client.raw(frame) else {
        panic!("a write waits for nothing");
    };
    match decode(&answer) {
        (7, Reply::Write { count }) => Ok(count),
        (7, Reply::Error { code }) => Err(Errno::from_raw_os_error(code.try_into().unwrap())),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_has_come_is_written_once_and_the_answer_is_about_all() {
    let mut client = Client::new();
    client.create(1, b"f", READ_WRITE).unwrap();
    let data = data(5 * PART);
    let frame = twrite(1, 100, &data);
    let on_host = client.path("f");
    let size = || std::fs::metadata(&on_host).unwrap().len();
    client.session.serve_part(&frame[..HEAD + PART - 1]);
    assert_eq!(size(), 0, "too little to be worth a call");
    client.session.serve_part(&frame[..HEAD + PART]);
    assert_eq!(size(), (100 + PART) as u64);
    // What another program does to it from now on stays.
    std::fs::write(&on_host, b"another's").unwrap();
    client.session.serve_part(&frame[..HEAD + 2 * PART - 1]);
    assert_eq!(size(), 9, "too little is new");
    client.session.serve_part(&frame[..HEAD + 3 * PART]);
    assert_eq!(
        in_two(&mut client, &frame, frame.len() - 1),
        Ok(count(&data))
    );
    let file = std::fs::read(&on_host).unwrap();
    assert_eq!(&file[..9], b"another's");
    assert!(file[9..100 + PART].iter().all(|byte| *byte == 0));
    assert!(file[100 + PART..] == data[PART..]);
    // The next one begins at its own start.
    client.create(2, b"g", WRITE_ONLY).unwrap();
    assert_eq!(client.write(2, 0, &data), Ok(count(&data)));
    assert!(std::fs::read(client.path("g")).unwrap() == data);
    let counted = client.counters.done("a").unwrap().bytes_written;
    assert_eq!(counted, 2 * data.len() as u64);
}

#[test]
fn what_is_to_be_written_at_once_or_not_at_all_waits_for_its_end() {
    let mut client = Client::new();
    let data = data(2 * PART);
    for (fid, flags) in [
        (1, READ_WRITE | APPEND),
        (2, WRITE_ONLY | SYNC),
        (3, READ_WRITE | DATA_SYNC),
    ] {
        let name = fid.to_string();
        client.create(fid, name.as_bytes(), flags).unwrap();
        let frame = twrite(fid, 0, &data);
        client.session.serve_part(&frame[..HEAD + PART]);
        assert_eq!(
            std::fs::metadata(client.path(&name)).unwrap().len(),
            0,
            "{flags:o}"
        );
        assert_eq!(in_two(&mut client, &frame, HEAD + PART), Ok(count(&data)));
        assert!(
            std::fs::read(client.path(&name)).unwrap() == data,
            "{flags:o}"
        );
    }
    std::fs::write(client.path("kept"), b"as it was").unwrap();
    client.walk(ROOT, 4, &[b"kept"]).unwrap();
    client.walk(ROOT, 5, &[b"kept"]).unwrap();
    client.open(5, 0).unwrap();
    client.walk(ROOT, 6, &[]).unwrap();
    client.open(6, 0).unwrap();
    let before = client.counters.done("a").unwrap().operations;
    let mut written = |fid| in_two(&mut client, &twrite(fid, 0, &data), HEAD + PART);
    assert_eq!(written(4), Err(Errno::BADF), "not open");
    assert_eq!(written(5), Err(Errno::BADF), "open for reading");
    assert_eq!(written(6), Err(Errno::ISDIR));
    assert_eq!(written(99), Err(Errno::BADF), "no fid");
    let done = client.counters.done("a").unwrap().operations - before;
    assert_eq!(done, 3, "each once, and none of no share");
    assert_eq!(std::fs::read(client.path("kept")).unwrap(), b"as it was");
}

/// A share whose files take one part and refuse the next, once, as an NFS client tells of a write it had put off. It
/// tells what was written, and by which call.
struct Disk(Arc<Mutex<Vec<(u64, Written)>>>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Written {
    Part(usize),
    Whole,
}

impl Mount for Disk {
    fn attach(&mut self, _: u32, _: GuestUid) -> Result<Qid> {
        Ok(Qid {
            kind: 0,
            version: 0,
            path: 1,
        })
    }
    fn knows(&self, fid: u32) -> bool {
        fid == 1
    }
    fn serve(&mut self, request: &Request<'_>, turn: &mut Turn<'_>) -> Result<Answer> {
        let Request::Write { offset, data, .. } = *request else {
            return Err(Errno::OPNOTSUPP);
        };
        self.0.lock().unwrap().push((offset, Written::Whole));
        turn.tell(&Reply::Write {
            count: count(data.0),
        })
    }
    fn write_part(&mut self, _: u32, offset: u64, data: &[u8]) -> Result<usize> {
        let mut told = self.0.lock().unwrap();
        told.push((offset, Written::Part(data.len())));
        match told.len() {
            2 => Err(Errno::DQUOT),
            _ => Ok(data.len()),
        }
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
        0
    }
    fn keep(&mut self, _: Keeping, _: &str) {}
    fn adopt(&mut self, _: Keeping, _: (usize, KeptMount), _: Claim<'_>) -> Result<()> {
        Err(Errno::STALE)
    }
    fn end(&mut self) {}
    fn abandon(&mut self, _: u32) {}
}

impl Offers for Disk {
    fn resolve(&self, name: &str) -> Result<String> {
        Ok(name.to_owned())
    }
    fn attach(&self, _: &str) -> Result<Box<dyn Mount>> {
        Ok(Box::new(Self(Arc::clone(&self.0))))
    }
}

#[test]
fn an_error_of_a_part_is_told_though_it_comes_once() {
    let told = Arc::default();
    let mut client = Client::of(Disk(Arc::clone(&told)));
    client.attach(1, b"disk", 0).unwrap();
    let frame = twrite(1, 10, &data(5 * PART));
    client.session.serve_part(&frame[..HEAD + PART + 5]);
    client.session.serve_part(&frame[..HEAD + 3 * PART - 5]);
    assert_eq!(
        in_two(&mut client, &frame, HEAD + 4 * PART),
        Err(Errno::DQUOT)
    );
    let first = vec![
        (10, Written::Part(PART)),
        (10 + PART as u64, Written::Part(PART)),
    ];
    assert_eq!(*told.lock().unwrap(), first, "and nothing behind it");
    assert_eq!(in_two(&mut client, &frame, HEAD), Ok(count(&frame[HEAD..])));
    let all = [first, vec![(10, Written::Whole)]].concat();
    assert_eq!(*told.lock().unwrap(), all);
}

#[test]
fn a_part_goes_to_the_share_of_its_fid() {
    let mut client = Client::unattached(1000);
    client.attach(50, b"frozen", 1000).unwrap();
    client.attach(ROOT, b"a", 1000).unwrap();
    client.create(1, b"f", READ_WRITE).unwrap();
    client.walk(50, 51, &[b"f"]).unwrap();
    client.open(51, 0).unwrap();
    let data = data(2 * PART);
    let mut written = |fid| in_two(&mut client, &twrite(fid, 0, &data), HEAD + PART);
    assert_eq!(written(51), Err(Errno::ROFS));
    assert_eq!(written(1), Ok(count(&data)));
    assert!(std::fs::read(client.path("f")).unwrap() == data);
}

#[test]
fn a_value_of_an_attribute_is_taken_whole() {
    let mut client = Client::new();
    std::fs::write(client.path("f"), b"").unwrap();
    client.walk(ROOT, 1, &[b"f"]).unwrap();
    let begun = Request::ExtendedCreate {
        fid: 1,
        name: Text(b"user.n"),
        size: 10,
        flags: 0,
    };
    client.done(&begun).unwrap();
    let frame = twrite(1, 0, &data(2 * PART));
    assert_eq!(in_two(&mut client, &frame, HEAD + PART), Err(Errno::NOSPC));
    assert_eq!(client.write(1, 0, b"0123456789"), Ok(10));
    client.clunk(1).unwrap();
}

#[test]
fn a_frame_whose_lengths_do_not_agree_writes_nothing() {
    let mut client = Client::new();
    client.create(1, b"f", READ_WRITE).unwrap();
    let good = twrite(1, 0, &data(2 * PART));
    for (at, value) in [(0, 0), (0, 0xff), (21, 0), (21, 0xff), (4, WRITE + 1)] {
        let mut bad = good.clone();
        bad[at] = value;
        client.session.serve_part(&bad[..HEAD + PART]);
        assert_eq!(client.status(1).unwrap().1, 0, "byte {at}: {value}");
    }
    client.session.serve_part(&good[..HEAD + PART]);
    assert_eq!(client.status(1).unwrap().1, PART as u64);
}

proptest! {
    #[test]
    fn a_part_of_a_write_says_what_the_whole_will_say(
        fid: u32, offset: u64, length in 0_usize..200, cut in 0_usize..240, noise in prop::collection::vec(any::<u8>(), 0..60),
    ) {
        let data = data(length);
        let frame = twrite(fid, offset, &data);
        let came = &frame[..cut.min(frame.len())];
        match WritePart::of(came) {
            Some(part) => prop_assert_eq!((part.fid, part.offset, part.data), (fid, offset, &data[..came.len() - HEAD])),
            None => prop_assert!(came.len() < HEAD),
        }
        if let Some(part) = WritePart::of(&noise) {
            prop_assert_eq!(part.data.len() + HEAD, noise.len());
        }
    }
}
