//! Nothing outside the share is read, written, listed or even named, whatever a guest says and whatever
//! happens to the folder meanwhile.

use std::ffi::CStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::fs::{CWD, RenameFlags};
use rustix::io::Errno;

use super::client::{Client, Options};
use super::{O_CREAT, O_RDWR, opcode};

/// Names no request may carry.
const BAD: [&CStr; 7] = [c"", c".", c"..", c"../x", c"a/b", c"/etc", c"x/.."];

#[test]
fn names_that_lead_elsewhere_are_refused_by_every_request_that_takes_one() {
    let client = Client::new(Options::default());
    let (file, _) = client.create(1, c"file", O_RDWR, 0o600).unwrap();
    std::fs::write(client.path("../x"), "outside").unwrap();
    for name in BAD {
        let answers = [
            client.lookup(1, name).map(drop),
            client.create(1, name, O_CREAT | O_RDWR, 0o600).map(drop),
            client.make_directory(1, name).map(drop),
            client.make_node(1, name, 0o100600).map(drop),
            client.symlink(1, name, c"target").map(drop),
            client.link(file, 1, name).map(drop),
            client.rename(1, name, 1, c"new", 0),
            client.rename(1, c"file", 1, name, 0),
            client.name_request(opcode::UNLINK, 1, name),
            client.name_request(opcode::RMDIR, 1, name),
        ];
        for (request, answer) in answers.into_iter().enumerate() {
            assert_eq!(answer, Err(Errno::INVAL), "request {request} with {name:?}");
        }
    }
    assert_eq!(std::fs::read(client.path("../x")).unwrap(), b"outside");
    assert_eq!(client.list(1).unwrap(), [".", "..", "file"]);
}

#[test]
fn symbolic_links_are_never_followed_for_a_guest() {
    let client = Client::new(Options::default());
    std::fs::write(client.path("../secret"), "secret").unwrap();
    for (name, target) in [(c"up", ".."), (c"absolute", "/etc"), (c"file", "../secret")] {
        std::os::unix::fs::symlink(target, client.path(name.to_str().unwrap())).unwrap();
        let link = client.lookup(1, name).unwrap();
        assert_eq!(link.attributes.mode & 0o170000, 0o120000);
        assert_eq!(client.read_link(link.node).unwrap(), target.as_bytes());
        assert_eq!(client.open(link.node, O_RDWR), Err(Errno::LOOP));
        assert_eq!(client.open_directory(link.node), Err(Errno::NOTDIR));
        assert_eq!(
            client.lookup(link.node, c"passwd").unwrap_err(),
            Errno::NOTDIR
        );
        assert_eq!(
            client.create(link.node, c"new", O_RDWR, 0o600),
            Err(Errno::NOTDIR)
        );
        let refused = client.set_attributes(link.node, &[("size", 0)]);
        assert_eq!(refused.unwrap_err(), Errno::LOOP);
    }
    assert_eq!(std::fs::read(client.path("../secret")).unwrap(), b"secret");
}

#[test]
fn what_lies_above_the_share_stays_unknown() {
    let client = Client::new(Options::default());
    let handle = client.open_directory(1).unwrap();
    let answer = client.read_directory(1, (handle, 0), 4096, false).unwrap();
    let mut inodes = Vec::new();
    let mut rest = &answer[..];
    while !rest.is_empty() {
        inodes.push(super::client::u64_at(rest, 0));
        let length = usize::try_from(super::client::u32_at(rest, 16)).unwrap();
        rest = &rest[(24 + length).next_multiple_of(8)..];
    }
    assert_eq!(inodes.len(), 2);
    assert_eq!(
        inodes[0], inodes[1],
        "the share's own folder is its own parent"
    );
}

/// A thread exchanges a folder and a symbolic link to the outside as fast as it can; the guest walks,
/// creates, writes and removes through the name all the while.
#[test]
fn a_folder_that_is_swapped_for_a_link_never_leads_outside() {
    let client = Client::new(Options::default());
    let (inside, outside) = (client.path("dir"), client.path("../outside"));
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("secret"), "secret").unwrap();
    std::fs::create_dir(&inside).unwrap();
    std::fs::write(inside.join("secret"), "inside").unwrap();
    let link = client.path("link");
    std::os::unix::fs::symlink(&outside, &link).unwrap();

    let stop = AtomicBool::new(false);
    let (mut opened, mut refused) = (0_u64, 0_u64);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let flags = RenameFlags::EXCHANGE;
                rustix::fs::renameat_with(CWD, &inside, CWD, &link, flags).unwrap();
            }
        });
        let end = rustix_now() + Duration::from_secs(3);
        while rustix_now() < end {
            let Ok(dir) = client.lookup(1, c"dir") else {
                panic!("it is always one of the two")
            };
            match client.lookup(dir.node, c"secret") {
                Ok(file) => {
                    let handle = client.open(file.node, O_RDWR).unwrap();
                    assert_eq!(client.read(handle, 0, 10).unwrap(), b"inside");
                    client.release(handle).unwrap();
                    client.forget(file.node, 1);
                    opened += 1;
                }
                Err(error) => {
                    assert_eq!(error, Errno::NOTDIR);
                    refused += 1;
                }
            }
            if let Ok((node, handle)) = client.create(dir.node, c"new", O_CREAT | O_RDWR, 0o600) {
                client.write(handle, 0, b"x", 0).unwrap();
                client.release(handle).unwrap();
                client.forget(node, 1);
                client
                    .name_request(opcode::UNLINK, dir.node, c"new")
                    .unwrap();
            }
            client.forget(dir.node, 1);
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(
        opened > 100 && refused > 100,
        "both were seen: {opened} {refused}"
    );
    let left: Vec<_> = std::fs::read_dir(&outside).unwrap().collect();
    assert_eq!(left.len(), 1, "nothing was made outside");
    assert_eq!(std::fs::read(outside.join("secret")).unwrap(), b"secret");
}

#[expect(clippy::disallowed_methods, reason = "the race needs a length of time")]
fn rustix_now() -> std::time::Instant {
    std::time::Instant::now()
}
