//! Golden frames. Sources: requests as Linux 6.1's v9fs sends them over a socket, written out by hand after
//! net/9p/client.c and include/net/9p/9p.h; answers after diod's protocol.md.

use crate::ninep::messages::{Reply, Request, kind_name};
use crate::ninep::wire::{Data, Few, Frame, Qid, Text};

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}

fn request(hex: &str, tag: u16, expected: Request<'_>) {
    let bytes = bytes(hex);
    let frame = Frame::first(&bytes, 9999).unwrap().unwrap();
    assert_eq!((frame.length(), frame.tag), (bytes.len(), tag), "{hex}");
    assert_eq!(Request::decode(&frame), Some(Ok(expected)), "{hex}");
    let mut room = [0; 200];
    let length = expected.encode(tag, &mut room).unwrap();
    assert_eq!(&room[..length], bytes, "{hex}");
    assert!(kind_name(frame.kind).is_some());
    assert!(
        expected.encode(tag, &mut room[..length - 1]).is_err(),
        "no room"
    );
}

fn reply(hex: &str, tag: u16, expected: Reply<'_>) {
    let bytes = bytes(hex);
    let frame = Frame::first(&bytes, 9999).unwrap().unwrap();
    assert_eq!((frame.length(), frame.tag), (bytes.len(), tag), "{hex}");
    assert_eq!(Reply::decode(&frame), Some(Ok(expected)), "{hex}");
    let mut room = [0; 200];
    let length = expected.encode(tag, &mut room).unwrap();
    assert_eq!(&room[..length], bytes, "{hex}");
}

#[test]
fn requests_have_the_bytes_that_linux_sends() {
    let version = Text(b"9P2000.L");
    request(
        "15000000 64 ffff 00001000 0800 3950323030302e4c",
        0xffff,
        Request::Version {
            longest: 1 << 20,
            version,
        },
    );
    request(
        "1c000000 68 0100 00000000 ffffffff 0400 726f6f74 0100 64 e8030000",
        1,
        Request::Attach {
            fid: 0,
            authentication: u32::MAX,
            user: Text(b"root"),
            share: Text(b"d"),
            number: 1000,
        },
    );
    let mut names = Few::default();
    names.push(Text(b"a")).unwrap();
    names.push(Text(b"bc")).unwrap();
    request(
        "18000000 6e 0200 00000000 01000000 0200 0100 61 0200 6263",
        2,
        Request::Walk {
            fid: 0,
            new_fid: 1,
            names,
        },
    );
    request(
        "13000000 18 0300 01000000 ff07000000000000",
        3,
        Request::Attributes {
            fid: 1,
            wanted: 0x7ff,
        },
    );
    request(
        "17000000 74 0400 01000000 0010000000000000 e8ff0f00",
        4,
        Request::Read {
            fid: 1,
            offset: 4096,
            count: 0xf_ffe8,
        },
    );
    let data = Data(b"hi");
    request(
        "19000000 76 0500 01000000 0000000000000000 02000000 6869",
        5,
        Request::Write {
            fid: 1,
            offset: 0,
            data,
        },
    );
    request(
        "0f000000 32 0600 01000000 01000000",
        6,
        Request::Sync {
            fid: 1,
            data_only: Some(1),
        },
    );
    request(
        "0b000000 32 0600 01000000",
        6,
        Request::Sync {
            fid: 1,
            data_only: None,
        },
    );
    request(
        "27000000 34 0700 01000000 01 01000000 0000000000000000 0000000000000000 2a000000 0100 67",
        7,
        Request::Lock {
            fid: 1,
            kind: 1,
            flags: 1,
            start: 0,
            length: 0,
            process: 42,
            client: Text(b"g"),
        },
    );
    request("09000000 6c 0800 0700", 8, Request::Flush { tag: 7 });
}

#[test]
fn answers_have_the_bytes_that_linux_takes() {
    let qid = Qid {
        kind: 0x80,
        version: 1,
        path: 2,
    };
    reply(
        "14000000 69 0100 80 01000000 0200000000000000",
        1,
        Reply::Attach { qid },
    );
    reply("0b000000 07 0200 02000000", 2, Reply::Error { code: 2 });
    reply(
        "0d000000 75 0300 02000000 6869",
        3,
        Reply::Read { data: Data(b"hi") },
    );
    reply("07000000 79 0400", 4, Reply::Clunk {});
    reply("08000000 35 0500 01", 5, Reply::Lock { status: 1 });
    let mut qids = Few::default();
    qids.push(qid).unwrap();
    reply(
        "16000000 6f 0600 0100 80 01000000 0200000000000000",
        6,
        Reply::Walk { qids },
    );
}

#[test]
fn rgetattr_is_as_long_as_linux_reads() {
    let zero = Reply::Attributes {
        valid: 0x7ff,
        qid: Qid::default(),
        mode: 0,
        user: 0,
        group: 0,
        links: 1,
        device: 0,
        size: 0,
        block_size: 4096,
        blocks: 0,
        accessed: 0,
        accessed_nanoseconds: 0,
        modified: 0,
        modified_nanoseconds: 0,
        changed: 0,
        changed_nanoseconds: 0,
        born: 0,
        born_nanoseconds: 0,
        generation: 0,
        data_version: 0,
    };
    let mut room = [0; 200];
    // valid[8] qid[13] three of 4, 15 of 8 (protocol.md, getattr), and the header.
    assert_eq!(zero.encode(1, &mut room), Ok(7 + 8 + 13 + 12 + 15 * 8));
}
