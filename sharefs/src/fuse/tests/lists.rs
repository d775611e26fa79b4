//! Access control lists: what a session agrees on, the umask, and the longer SETXATTR.

use rustix::fs::XattrFlags;
use rustix::io::Errno;

use super::client::{Client, Options, u32_at};
use super::opcode;

const DONT_MASK: u32 = 1 << 6;
const POSIX_ACL: u32 = 1 << 20;
const SETXATTR_EXT: u32 = 1 << 29;
const ALL: u32 = DONT_MASK | POSIX_ACL | SETXATTR_EXT;
const ACCESS: &std::ffi::CStr = c"system.posix_acl_access";
const DEFAULT: &std::ffi::CStr = c"system.posix_acl_default";

/// user::rwx, group::rwx, other::---
fn list() -> Vec<u8> {
    let entries = [(1_u16, 7_u16), (4, 7), (32, 0)];
    let entry = |(kind, rights): (u16, u16)| {
        [&kind.to_le_bytes()[..], &rights.to_le_bytes(), &[0xff; 4]].concat()
    };
    [2_u32.to_le_bytes().to_vec(), entries.map(entry).concat()].concat()
}

fn set(client: &Client, name: &std::ffi::CStr, flags: u32, node: u64) -> Result<(), Errno> {
    let list = list();
    let size = u32::try_from(list.len()).unwrap();
    let head = [size, 0, flags, 0].map(u32::to_le_bytes).concat();
    client
        .ask(
            opcode::SETXATTR,
            node,
            &[&head, name.to_bytes_with_nul(), &list],
            0,
        )
        .map(drop)
}

/// None where the file system of this test has no lists.
fn client() -> Option<Client> {
    let folder = tempfile::tempdir().unwrap();
    match rustix::fs::setxattr(folder.path(), DEFAULT, &list(), XattrFlags::empty()) {
        Err(Errno::OPNOTSUPP) => {
            eprintln!("no access control lists on this file system: nothing to see here");
            None
        }
        done => {
            done.unwrap();
            Some(Client::new(Options {
                lists: true,
                ..Options::default()
            }))
        }
    }
}

#[test]
fn lists_are_agreed_on_where_the_share_has_them() {
    let Some(client) = client() else { return };
    assert_eq!(u32_at(&client.greeting().unwrap(), 12) & ALL, ALL);
    let plain = Client::new(Options::default());
    assert_eq!(u32_at(&plain.greeting().unwrap(), 12) & ALL, 0);
    std::fs::write(plain.path("f"), "").unwrap();
    let node = plain.lookup(1, c"f").unwrap().node;
    let request = [
        &[28, 0, 0, 0, 0, 0, 0, 0],
        ACCESS.to_bytes_with_nul(),
        &list(),
    ]
    .concat();
    let refused = plain.ask(opcode::SETXATTR, node, &[&request], 0);
    assert_eq!(refused.map(drop), Err(Errno::OPNOTSUPP));
}

#[test]
fn a_default_list_decides_and_without_one_the_umask() {
    let Some(client) = client() else { return };
    let [with, without] = [c"with", c"without"].map(|name| {
        client
            .make_directory_with(1, name, 0o777, 0o022)
            .unwrap()
            .node
    });
    set(&client, DEFAULT, 0, with).unwrap();
    for (folder, mode) in [(with, 0o770), (without, 0o700)] {
        let made = client
            .make_directory_with(folder, c"d", 0o777, 0o077)
            .unwrap();
        assert_eq!(made.attributes.mode & 0o777, mode);
    }
}

#[test]
fn a_list_of_an_outsider_takes_the_set_group_id_bit() {
    const KILL_SGID: u32 = 1;
    let Some(client) = client() else { return };
    std::fs::write(client.path("f"), "").unwrap();
    let node = client.lookup(1, c"f").unwrap().node;
    for (flags, left) in [(0, 0o2770), (KILL_SGID, 0o770)] {
        client.set_attributes(node, &[("mode", 0o2775)]).unwrap();
        set(&client, ACCESS, flags, node).unwrap();
        assert_eq!(client.attributes(node).unwrap().mode & 0o7777, left);
    }
}
