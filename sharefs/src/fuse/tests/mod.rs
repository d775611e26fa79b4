//! Sessions driven through bytes, as a guest's kernel drives them, on a real folder.

use rustix::io::Errno;

use super::wire::opcode;
use client::{Client, Options};

mod again;
mod client;
mod escape;
mod hostile;
mod layers;
mod let_go;
mod listing;
mod lists;
mod locking;
mod many;
mod restarts;
mod writeback;

/// `O_RDONLY` and its kin as a guest sends them.
const O_RDWR: u32 = 2;
const O_CREAT: u32 = 0o100;
const O_EXCL: u32 = 0o200;
const O_TRUNC: u32 = 0o1000;
const O_APPEND: u32 = 0o2000;

#[test]
fn a_file_is_made_written_read_and_found_on_the_host() {
    let client = Client::new(Options::default());
    let (node, handle) = client.create(1, c"a", O_RDWR, 0o640).unwrap();
    assert_eq!(client.write(handle, 0, b"hello", 0), Ok(5));
    assert_eq!(client.write(handle, 100, b"!", O_APPEND), Ok(1));
    assert_eq!(client.read(handle, 1, 100).as_deref(), Ok(&b"ello!"[..]));
    let attributes = client.attributes(node).unwrap();
    assert_eq!((attributes.size, attributes.mode), (6, 0o100640));
    assert_eq!(std::fs::read(client.path("a")).unwrap(), b"hello!");
    client.release(handle).unwrap();
    assert_eq!(client.read(handle, 0, 1), Err(Errno::BADF));
}

#[test]
fn pages_of_the_guests_cache_go_to_their_place_in_an_appended_file() {
    const WRITE_CACHE: u32 = 1;
    let client = Client::new(Options::default());
    let (_, handle) = client.create(1, c"a", O_RDWR | O_APPEND, 0o640).unwrap();
    client.write(handle, 0, b"12345", O_APPEND).unwrap();
    client
        .write_flagged(handle, 1, b"--", O_APPEND, WRITE_CACHE)
        .unwrap();
    assert_eq!(std::fs::read(client.path("a")).unwrap(), b"1--45");
}

#[test]
fn create_opens_what_is_there_unless_it_must_be_new() {
    let client = Client::new(Options::default());
    std::fs::write(client.path("a"), "old").unwrap();
    std::os::unix::fs::symlink("a", client.path("link")).unwrap();
    assert_eq!(
        client.create(1, c"a", O_CREAT | O_EXCL, 0o600),
        Err(Errno::EXIST)
    );
    let (_, handle) = client.create(1, c"a", O_CREAT, 0o600).unwrap();
    assert_eq!(client.read(handle, 0, 9).as_deref(), Ok(&b"old"[..]));
    client
        .create(1, c"a", O_CREAT | O_TRUNC | O_RDWR, 0o600)
        .unwrap();
    assert_eq!(client.read(handle, 0, 9).as_deref(), Ok(&b""[..]));
    assert_eq!(client.create(1, c"link", O_CREAT, 0o600), Err(Errno::LOOP));
}

#[test]
fn a_node_lives_as_long_as_its_lookups_and_no_longer() {
    let client = Client::new(Options::default());
    std::fs::write(client.path("a"), "").unwrap();
    std::fs::hard_link(client.path("a"), client.path("b")).unwrap();
    let node = client.lookup(1, c"a").unwrap().node;
    assert_eq!(
        client.lookup(1, c"b").unwrap().node,
        node,
        "one file, two names"
    );
    client.forget(node, 1);
    client.attributes(node).unwrap();
    client.forget(node, 1);
    assert_eq!(client.attributes(node).unwrap_err(), Errno::STALE);
    assert_eq!(client.session().size(), (1, 0));
    assert_eq!(client.held(), 1, "only the root's descriptor is held");
}

#[test]
fn a_file_without_a_name_can_be_used_and_a_removed_one_too() {
    let client = Client::new(Options::default());
    let (node, handle) = client.create(1, c"a", O_RDWR, 0o600).unwrap();
    client.name_request(opcode::UNLINK, 1, c"a").unwrap();
    client.write(handle, 0, b"still", 0).unwrap();
    assert_eq!(client.attributes(node).unwrap().links, 0);
    assert_eq!(
        client
            .open(node, 0)
            .and_then(|handle| client.read(handle, 0, 9))
            .unwrap(),
        b"still"
    );
    let (unnamed, _) = client.create_unnamed(1, O_RDWR, 0o600).unwrap();
    client.link(unnamed, 1, c"named").unwrap();
    assert!(client.path("named").exists());
}

#[test]
fn set_attributes_does_what_it_says_and_nothing_else() {
    let client = Client::new(Options::default());
    let (node, handle) = client.create(1, c"a", O_RDWR, 0o600).unwrap();
    client.write(handle, 0, b"0123456789", 0).unwrap();
    let mode = client
        .set_attributes(node, &[("mode", 0o4711)])
        .unwrap()
        .mode;
    assert_eq!(mode, 0o104711);
    assert_eq!(client.set_attributes(node, &[("size", 4)]).unwrap().size, 4);
    let changed = client
        .set_attributes(node, &[("atime", 1), ("mtime", 2)])
        .unwrap();
    assert_eq!((changed.accessed, changed.modified), (1, 2));
    let changed = client.set_attributes(node, &[("mtime_now", 0)]).unwrap();
    assert!(
        changed.accessed == 1 && changed.modified > 1_600_000_000,
        "{changed:?}"
    );
    let link = client.symlink(1, c"l", c"nowhere").unwrap().node;
    assert_eq!(
        client.set_attributes(link, &[("mode", 0o700)]).unwrap_err(),
        Errno::OPNOTSUPP
    );
    assert_eq!(
        client
            .set_attributes(link, &[("mtime", 7)])
            .unwrap()
            .modified,
        7
    );
    assert_eq!(client.read_link(link).as_deref(), Ok(&b"nowhere"[..]));
}

#[test]
fn owners_are_the_guests_and_only_what_has_a_counterpart_can_be_set() {
    let client = Client::new(Options::default());
    let (node, _) = client.create(1, c"a", O_RDWR, 0o600).unwrap();
    let attributes = client.attributes(node).unwrap();
    assert_eq!((attributes.uid, attributes.gid), (1000, 1001));
    client
        .set_attributes(node, &[("uid", 1000), ("gid", 1001)])
        .unwrap();
    assert_eq!(
        client.set_attributes(node, &[("uid", 0)]).unwrap_err(),
        Errno::PERM
    );
    assert_eq!(
        client.set_attributes(node, &[("gid", 0)]).unwrap_err(),
        Errno::PERM
    );
}

#[test]
fn every_change_of_a_read_only_share_is_refused_and_reading_is_not() {
    let client = Client::new(Options {
        read_only: true,
        ..Options::default()
    });
    std::fs::write(client.path("a"), "old").unwrap();
    std::fs::create_dir(client.path("d")).unwrap();
    let node = client.lookup(1, c"a").unwrap().node;
    let handle = client.open(node, 0).unwrap();
    assert_eq!(client.read(handle, 0, 9).as_deref(), Ok(&b"old"[..]));
    assert_eq!(client.list(1).unwrap().len(), 4);
    client
        .create(1, c"a", O_CREAT, 0o600)
        .expect("it is there and opened for reading");

    let refused: [(&str, Result<(), Errno>); 17] = [
        ("open for writing", client.open(node, O_RDWR).map(drop)),
        ("open and truncate", client.open(node, O_TRUNC).map(drop)),
        ("create", client.create(1, c"new", O_RDWR, 0o600).map(drop)),
        (
            "create over",
            client.create(1, c"a", O_RDWR, 0o600).map(drop),
        ),
        (
            "create unnamed",
            client.create_unnamed(1, O_RDWR, 0o600).map(drop),
        ),
        ("write", client.write(handle, 0, b"x", 0).map(drop)),
        ("mkdir", client.make_directory(1, c"new").map(drop)),
        ("mknod", client.make_node(1, c"new", 0o100600).map(drop)),
        ("symlink", client.symlink(1, c"new", c"a").map(drop)),
        ("link", client.link(node, 1, c"new").map(drop)),
        ("unlink", client.name_request(opcode::UNLINK, 1, c"a")),
        ("rmdir", client.name_request(opcode::RMDIR, 1, c"d")),
        ("rename", client.rename(1, c"a", 1, c"b", 0)),
        (
            "chmod",
            client.set_attributes(node, &[("mode", 0)]).map(drop),
        ),
        (
            "truncate",
            client.set_attributes(node, &[("size", 0)]).map(drop),
        ),
        ("setxattr", client.set_extended(node, c"user.a", b"x", 0)),
        ("fallocate", client.allocate(handle, 0, 100)),
    ];
    for (what, answer) in refused {
        assert_eq!(answer, Err(Errno::ROFS), "{what}");
    }
    assert_eq!(std::fs::read(client.path("a")).unwrap(), b"old");
    assert_eq!(std::fs::read_dir(client.path("")).unwrap().count(), 2);
}

#[test]
fn statx_says_what_getattr_says_and_when_a_file_was_born() {
    let client = Client::new(Options::default());
    let (node, handle) = client.create(1, c"a", O_RDWR, 0o640).unwrap();
    client.write(handle, 0, b"hello", 0).unwrap();
    let answer = client.ask(opcode::STATX, node, &[&[0; 24]], 288).unwrap();
    assert_eq!(answer.len(), 32 + 256);
    assert_eq!(
        client::u32_at(&answer, 32) & 0x7ff,
        0x7ff,
        "all the basic fields"
    );
    assert_eq!(client::u32_at(&answer, 32 + 28), 0o100640);
    assert_eq!(client::u64_at(&answer, 32 + 40), 5);
    let host = std::fs::metadata(client.path("a")).unwrap();
    if let Ok(born) = host.created() {
        let born = born.duration_since(std::time::UNIX_EPOCH).unwrap();
        assert_eq!(client::u64_at(&answer, 32 + 80), born.as_secs());
    }
}

#[test]
fn rename_keeps_nodes_and_obeys_its_flags() {
    const NOREPLACE: u32 = 1;
    const EXCHANGE: u32 = 2;
    let client = Client::new(Options::default());
    std::fs::write(client.path("a"), "a").unwrap();
    std::fs::write(client.path("b"), "b").unwrap();
    let a = client.lookup(1, c"a").unwrap().node;
    assert_eq!(
        client.rename(1, c"a", 1, c"b", NOREPLACE),
        Err(Errno::EXIST)
    );
    client.rename(1, c"a", 1, c"b", EXCHANGE).unwrap();
    assert_eq!(std::fs::read(client.path("b")).unwrap(), b"a");
    assert_eq!(client.lookup(1, c"b").unwrap().node, a);
    client.rename(1, c"b", 1, c"c", 0).unwrap();
    assert_eq!(client.lookup(1, c"c").unwrap().node, a);
    assert_eq!(
        client.rename(1, c"c", 1, c"d", NOREPLACE | EXCHANGE),
        Err(Errno::INVAL)
    );
    assert_eq!(client.rename(1, c"c", 1, c"d", 1 << 7), Err(Errno::INVAL));
}

#[test]
fn extended_attributes_are_set_read_listed_and_removed() {
    let client = Client::new(Options::default());
    let (node, _) = client.create(1, c"a", O_RDWR, 0o600).unwrap();
    assert_eq!(client.extended(node, c"user.a", 100), Err(Errno::NODATA));
    client.set_extended(node, c"user.a", b"value", 0).unwrap();
    assert_eq!(
        client.set_extended(node, c"user.a", b"", 1),
        Err(Errno::EXIST)
    );
    assert_eq!(
        client.set_extended(node, c"user.b", b"", 2),
        Err(Errno::NODATA)
    );
    assert_eq!(
        client.extended(node, c"user.a", 100).as_deref(),
        Ok(&b"value"[..])
    );
    assert_eq!(
        client.extended(node, c"user.a", 0).unwrap()[..4],
        [5, 0, 0, 0]
    );
    assert_eq!(client.extended(node, c"user.a", 2), Err(Errno::RANGE));
    assert_eq!(
        client.list_extended(node, 100).as_deref(),
        Ok(&b"user.a\0"[..])
    );
    client.remove_extended(node, c"user.a").unwrap();
    assert_eq!(client.list_extended(node, 100).as_deref(), Ok(&b""[..]));
    assert_eq!(client.set_extended(node, c"", b"", 0), Err(Errno::RANGE));
}

#[test]
fn holes_copies_and_room_ahead_work_on_open_files() {
    let client = Client::new(Options::default());
    let (node, one) = client.create(1, c"a", O_RDWR, 0o600).unwrap();
    let (_, two) = client.create(1, c"b", O_RDWR, 0o600).unwrap();
    client.allocate(one, 0, 10_000).unwrap();
    assert_eq!(client.attributes(node).unwrap().size, 10_000);
    client.write(one, 0, b"copied", 0).unwrap();
    assert_eq!(client.copy_range((one, 0), (two, 2), 6), Ok(6));
    assert_eq!(client.read(two, 0, 9).as_deref(), Ok(&b"\0\0copied"[..]));
    assert_eq!(client.seek(two, 0, 4), Ok(8), "the hole behind the end");
    assert_eq!(client.seek(two, 99, 3), Err(Errno::NXIO));
    assert_eq!(
        client.seek(two, 0, 0),
        Err(Errno::INVAL),
        "the kernel's own business"
    );
}

#[test]
fn only_regular_files_are_opened() {
    let client = Client::new(Options::default());
    let fifo = client.make_node(1, c"fifo", 0o010600).unwrap().node;
    let socket = client.make_node(1, c"socket", 0o140600).unwrap().node;
    let link = client.symlink(1, c"link", c"/dev/null").unwrap().node;
    let folder = client.make_directory(1, c"folder").unwrap().node;
    for (node, expected) in [
        (fifo, Errno::NXIO),
        (socket, Errno::NXIO),
        (link, Errno::LOOP),
        (folder, Errno::ISDIR),
    ] {
        assert_eq!(client.open(node, O_RDWR), Err(expected));
    }
    assert_eq!(client.open_directory(fifo), Err(Errno::NOTDIR));
}

#[test]
fn set_id_bits_and_umask_are_the_guests() {
    let client = Client::new(Options::default());
    let folder = client.make_directory_with(1, c"d", 0o777, 0o027).unwrap();
    assert_eq!(folder.attributes.mode, 0o040750);
    let (node, handle) = client.create(1, c"a", O_RDWR, 0o777).unwrap();
    client.set_attributes(node, &[("mode", 0o6755)]).unwrap();
    client.write_flagged(handle, 0, b"x", 0, 4).unwrap();
    assert_eq!(
        client.attributes(node).unwrap().mode & 0o6000,
        0,
        "a write takes them away"
    );
}

#[test]
fn a_new_init_begins_anew_and_destroy_ends() {
    let client = Client::new(Options::default());
    let (node, handle) = client.create(1, c"a", O_RDWR, 0o600).unwrap();
    client.init().unwrap();
    assert_eq!(client.attributes(node).unwrap_err(), Errno::STALE);
    assert_eq!(client.read(handle, 0, 1), Err(Errno::BADF));
    assert_eq!(client.held(), 1);
    assert!(client.session().mounted());
    client.plain_request(opcode::DESTROY, 1).unwrap();
    assert!(!client.session().mounted());
    assert_eq!(client.attributes(1).unwrap_err(), Errno::IO);
    assert_eq!(client.held(), 0);
}

#[test]
fn a_folder_removed_under_the_share_is_an_error_and_comes_back_with_the_next_mount() {
    let client = Client::new(Options::default());
    std::fs::remove_dir(client.path("")).unwrap();
    assert_eq!(client.create(1, c"a", O_RDWR, 0o600), Err(Errno::NOENT));
    assert_eq!(client.lookup(1, c"a").unwrap_err(), Errno::NOENT);
    assert_eq!(client.list(1), Err(Errno::NOENT));
    assert_eq!(client.init(), Err(Errno::NOENT));
    std::fs::create_dir(client.path("")).unwrap();
    client.init().unwrap();
    client.create(1, c"a", O_RDWR, 0o600).unwrap();
}

#[test]
fn sub_mounts_are_said_to_be_mounts() {
    // /proc is mounted on / in every machine this runs on.
    let client = Client::new(Options {
        folder: Some("/".into()),
        ..Options::default()
    });
    assert_eq!(client.lookup(1, c"proc").unwrap().attributes.flags, 1);
    assert_eq!(client.lookup(1, c"etc").unwrap().attributes.flags, 0);
    // What is behind it is not shared: the daemon's own memory is a file there.
    let proc = client.lookup(1, c"proc").unwrap().node;
    assert_eq!(client.lookup(proc, c"self").unwrap_err(), Errno::ACCESS);
    assert_eq!(client.open_directory(proc), Err(Errno::ACCESS));
}
