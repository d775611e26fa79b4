//! A guest whose kernel gathers writes: what it is told, and what it is owed.

use std::os::unix::fs::{MetadataExt, PermissionsExt};

use rustix::io::Errno;

use super::client::{Client, Options, u32_at};
use super::{O_APPEND, O_CREAT, O_RDWR, opcode};

const O_WRONLY: u32 = 1;
const WRITEBACK_CACHE: u32 = 1 << 16;
/// FUSE_WRITE_CACHE.
const CACHED: u32 = 1;
const DIRECT_IO: u32 = 1;
const SEEK_DATA: u32 = 3;

fn client(writeback: bool) -> Client {
    Client::new(Options {
        writeback,
        ..Options::default()
    })
}

#[test]
fn it_is_agreed_on_where_the_share_says_so() {
    for writeback in [true, false] {
        let agreed = u32_at(&client(writeback).greeting().unwrap(), 12);
        assert_eq!(agreed & WRITEBACK_CACHE != 0, writeback);
    }
}

#[test]
fn what_is_opened_to_be_written_can_be_read_too() {
    for (writeback, read) in [(true, Ok(b"old".to_vec())), (false, Err(Errno::BADF))] {
        let client = client(writeback);
        std::fs::write(client.path("old"), "old").unwrap();
        let node = client.lookup(1, c"old").unwrap().node;
        let handle = client.open(node, O_WRONLY).unwrap();
        assert_eq!(client.read(handle, 0, 9), read);
        // CREATE of what is new, of what is there, and of what has no name.
        for name in [c"new", c"old"] {
            let (_, handle) = client.create(1, name, O_WRONLY | O_CREAT, 0o200).unwrap();
            assert_eq!(client.read(handle, 0, 9).is_ok(), writeback, "{name:?}");
        }
        let (_, handle) = client.create_unnamed(1, O_WRONLY, 0o600).unwrap();
        assert_eq!(client.read(handle, 0, 9).is_ok(), writeback);
    }
}

#[test]
fn a_file_that_may_not_be_read_goes_past_the_cache() {
    if rustix::process::geteuid().is_root() {
        eprintln!("root reads every file: nothing to see here");
        return;
    }
    let client = client(true);
    std::fs::write(client.path("a"), "secret").unwrap();
    let mode = PermissionsExt::from_mode(0o200);
    std::fs::set_permissions(client.path("a"), mode).unwrap();
    let node = client.lookup(1, c"a").unwrap().node;
    let head = [O_WRONLY.to_le_bytes(), [0; 4]].concat();
    let answer = client.ask(opcode::OPEN, node, &[&head], 16).unwrap();
    assert_eq!(u32_at(&answer, 8) & DIRECT_IO, DIRECT_IO);
    let handle = super::client::u64_at(&answer, 0);
    assert_eq!(client.write(handle, 0, b"S", 0), Ok(1));
    assert_eq!(client.read(handle, 0, 1), Err(Errno::BADF));
}

#[test]
fn a_write_goes_to_its_place_in_a_file_that_was_opened_to_append() {
    for (writeback, flags, expected) in [
        (true, CACHED, "aXc"),
        (true, 0, "aXc"),
        (false, CACHED, "aXc"),
        (false, 0, "abcX"),
    ] {
        let client = client(writeback);
        std::fs::write(client.path("a"), "abc").unwrap();
        let node = client.lookup(1, c"a").unwrap().node;
        let handle = client.open(node, O_WRONLY | O_APPEND).unwrap();
        client
            .write_flagged(handle, 1, b"X", O_WRONLY | O_APPEND, flags)
            .unwrap();
        let found = std::fs::read_to_string(client.path("a")).unwrap();
        assert_eq!(found, expected, "writeback {writeback}, flags {flags}");
    }
}

#[test]
fn holes_are_not_told_since_the_guest_may_have_their_data() {
    for (writeback, answer) in [(true, Err(Errno::NOSYS)), (false, Ok(0))] {
        let client = client(writeback);
        let (_, handle) = client.create(1, c"a", O_RDWR, 0o600).unwrap();
        client.write(handle, 0, b"data", 0).unwrap();
        assert_eq!(client.seek(handle, 0, SEEK_DATA), answer);
    }
}

/// fuse_setattr_in as fuse_flush_times and truncate send it: a time of modification and one of change.
fn kernels_times(handle: Option<u64>, size: Option<u64>) -> [u8; 88] {
    const SIZE: u32 = 1 << 3;
    const MTIME: u32 = 1 << 5;
    const FH: u32 = 1 << 6;
    const CTIME: u32 = 1 << 10;
    let mut valid = MTIME | CTIME;
    valid |= handle.map_or(0, |_| FH) | size.map_or(0, |_| SIZE);
    let mut body = [0; 88];
    body[..4].copy_from_slice(&valid.to_le_bytes());
    body[8..16].copy_from_slice(&handle.unwrap_or_default().to_le_bytes());
    body[16..24].copy_from_slice(&size.unwrap_or_default().to_le_bytes());
    body[40..48].copy_from_slice(&1_000_000_000_u64.to_le_bytes());
    body[48..56].copy_from_slice(&1_u64.to_le_bytes());
    body
}

#[test]
fn the_kernels_time_of_modification_is_kept_and_that_of_change_is_the_hosts() {
    let client = client(true);
    let (node, handle) = client.create(1, c"a", O_RDWR, 0o600).unwrap();
    for (body, size) in [
        (kernels_times(Some(handle), None), 0),
        (kernels_times(None, Some(7)), 7),
    ] {
        client.set_attributes(node, &[("mtime", 5)]).unwrap();
        client.ask(opcode::SETATTR, node, &[&body], 104).unwrap();
        let found = std::fs::metadata(client.path("a")).unwrap();
        assert_eq!((found.mtime(), found.len()), (1_000_000_000, size));
        assert!(found.ctime() > 1_000_000_000, "not the guest's: {found:?}");
    }
}

/// root's file that all may write: an ordinary user cannot set its times.
#[test]
fn a_file_that_cannot_be_dated_is_written_all_the_same() {
    use std::os::unix::fs::chown;
    let body = |handle, size| kernels_times(handle, size);
    for (writeback, outcome) in [(true, Ok(())), (false, Err(Errno::PERM))] {
        let client = client(writeback);
        std::fs::write(client.path("a"), "some text").unwrap();
        let anybody = PermissionsExt::from_mode(0o666);
        std::fs::set_permissions(client.path("a"), anybody).unwrap();
        if chown(client.path("a"), Some(1), None).is_err() {
            eprintln!("giving files away needs root: nothing to see here");
            return;
        }
        let done = as_an_ordinary_user(|| {
            let node = client.lookup(1, c"a").unwrap().node;
            let handle = client.open(node, O_WRONLY).unwrap();
            [body(Some(handle), None), body(None, Some(4))]
                .map(|body| client.ask(opcode::SETATTR, node, &[&body], 104).map(drop))
        });
        assert_eq!(done, [outcome, outcome]);
        assert_eq!(std::fs::read_to_string(client.path("a")).unwrap(), "some");
        // A time that a program sets is refused as ever.
        let done = as_an_ordinary_user(|| {
            let node = client.lookup(1, c"a").unwrap().node;
            client.set_attributes(node, &[("mtime", 5)]).map(drop)
        });
        assert_eq!(done, Err(Errno::PERM));
    }
}

/// Runs it in a thread of user 1234.
fn as_an_ordinary_user<R: Send>(run: impl FnOnce() -> R + Send) -> R {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let user = rustix::process::Uid::from_raw(1234);
            rustix::thread::set_thread_uid(user).unwrap();
            run()
        });
        thread.join().unwrap()
    })
}
