//! A real folder under the store: what the guest sees, what the host has.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use proptest::prelude::*;
use rustix::io::Errno;

use super::record::Record;
use super::{NAME, OwnerStore};
use crate::sys::Source;
use crate::tree::host::HostTree;
use crate::tree::host::descriptors::Descriptors;
use crate::tree::model_tests as model;
use crate::tree::owner::{GuestGid, GuestOwner, GuestUid, OwnerMap};
use crate::tree::{Attributes, Caller, Changes, ExtendedHow, Kind, Name, NewNode, OpenHow, Tree};

const ROOT: Caller = Caller {
    uid: GuestUid(0),
    gid: GuestGid(0),
};
const ANN: Caller = Caller {
    uid: GuestUid(1000),
    gid: GuestGid(100),
};
const WRITE: OpenHow = OpenHow {
    read: true,
    write: true,
    truncate: false,
    durability: crate::tree::Durability::Later,
    keep_access_time: false,
    drop_privileges: false,
};

/// A store whose guest owner is 0:0; None where temporary folders have no attributes for users.
fn store(folder: &Path) -> Option<OwnerStore<HostTree>> {
    rustix::process::umask(rustix::fs::Mode::empty());
    let descriptors = Descriptors::new(1000);
    let open = HostTree::open(folder, descriptors, |host| OwnerMap::Map {
        host,
        guest: GuestOwner {
            uid: GuestUid(0),
            gid: GuestGid(0),
        },
    });
    match OwnerStore::new(open.unwrap()) {
        Err(Errno::OPNOTSUPP) => {
            eprintln!("no extended attributes here: nothing to see");
            None
        }
        store => Some(store.unwrap()),
    }
}

fn name(text: &std::ffi::CStr) -> Name<'_> {
    Name::new(text).unwrap()
}

fn seen(of: Attributes) -> (u32, u32, Kind, u32, (u32, u32)) {
    (of.owner.0, of.group.0, of.kind, of.mode, of.device)
}

fn kept(path: &Path) -> Option<Vec<u8>> {
    let mut value = [0; 100];
    let length = rustix::fs::getxattr(path, NAME, &mut value).ok()?;
    Some(value[..length].to_vec())
}

fn owner(uid: u32, gid: u32) -> Changes {
    Changes {
        owner: Some(GuestUid(uid)),
        group: Some(GuestGid(gid)),
        ..Changes::default()
    }
}

fn mode(mode: u32) -> Changes {
    Changes {
        mode: Some(mode),
        ..Changes::default()
    }
}

#[test]
fn owners_modes_and_devices_are_kept_and_the_host_gets_none_of_them() {
    let folder = tempfile::tempdir().unwrap();
    let Some(tree) = store(folder.path()) else {
        return;
    };
    let root = tree.root().unwrap().node;
    let on_host = |name: &str| folder.path().join(name).symlink_metadata().unwrap();

    let (file, _) = tree
        .create(ANN, &root, name(c"file"), (0o4751, WRITE))
        .unwrap();
    assert_eq!(
        seen(file.attributes),
        (1000, 100, Kind::File, 0o4751, (0, 0))
    );
    assert_eq!(on_host("file").mode(), 0o100_751);
    assert_eq!(
        kept(&folder.path().join("file")).as_deref(),
        Some(&b"1 1000 100 104751 0:0"[..])
    );
    let changed = tree.change(&file.node, None, &owner(7, 8)).unwrap();
    assert_eq!(
        seen(changed),
        (7, 8, Kind::File, 0o751, (0, 0)),
        "chown takes set-id bits"
    );
    let changed = tree.change(&file.node, None, &mode(0o6000)).unwrap();
    assert_eq!(seen(changed), (7, 8, Kind::File, 0o6000, (0, 0)));
    assert_eq!(
        on_host("file").mode(),
        0o100_600,
        "the daemon can still open it"
    );
    tree.open(&file.node, WRITE).unwrap();
    let again = tree.child(&root, name(c"file")).unwrap();
    assert_eq!(seen(again.attributes), (7, 8, Kind::File, 0o6000, (0, 0)));

    // What the host could have by itself leaves no attribute behind.
    tree.change(&file.node, None, &mode(0o640)).unwrap();
    tree.change(&file.node, None, &owner(0, 0)).unwrap();
    assert_eq!(kept(&folder.path().join("file")), None);

    for (text, kind, device) in [
        (c"disk", Kind::BlockDevice, (8, 1)),
        (c"null", Kind::CharacterDevice, (1, 3)),
        (c"fifo", Kind::Fifo, (0, 0)),
        (c"socket", Kind::Socket, (0, 0)),
    ] {
        let new = NewNode {
            kind,
            mode: 0o666,
            device,
        };
        let made = tree.make_node(ANN, &root, name(text), new).unwrap();
        assert_eq!(seen(made.attributes), (1000, 100, kind, 0o666, device));
        assert!(
            on_host(text.to_str().unwrap()).is_file() && on_host(text.to_str().unwrap()).len() == 0
        );
        assert_eq!(tree.open(&made.node, WRITE).unwrap_err(), Errno::NXIO);
        let changed = tree.change(&made.node, None, &owner(3, 4)).unwrap();
        assert_eq!(seen(changed), (3, 4, kind, 0o666, device));
        tree.link(&made.node, &root, name(c"linked")).unwrap();
        let linked = tree.child(&root, name(c"linked")).unwrap().attributes;
        assert_eq!((linked.kind, linked.links), (kind, 2));
        tree.remove_file(&root, name(c"linked")).unwrap();
    }
    let link = tree
        .make_symbolic_link(ANN, &root, name(c"link"), c"x")
        .unwrap();
    let changed = tree.change(&link.node, None, &owner(3, 4)).unwrap();
    assert_eq!(
        (changed.owner, changed.group),
        (GuestUid(0), GuestGid(0)),
        "answered, not kept"
    );
    let refused = tree.change(&link.node, None, &mode(0o700));
    assert_eq!(refused.unwrap_err(), Errno::OPNOTSUPP);

    let listed = tree.open_directory(&root).unwrap();
    tree.entries(&listed, 0, 4096, &mut |entry| {
        let plain = entry.name.to_bytes()[0] != b'.' && entry.name != c"link";
        assert_eq!(entry.kind.is_none(), plain, "{:?}", entry.name);
        true
    })
    .unwrap();
}

#[test]
fn a_set_group_id_folder_hands_its_group_down() {
    let folder = tempfile::tempdir().unwrap();
    let Some(tree) = store(folder.path()) else {
        return;
    };
    let root = tree.root().unwrap().node;
    let team = tree
        .make_directory(ROOT, &root, name(c"team"), 0o775)
        .unwrap()
        .node;
    tree.change(&team, None, &owner(0, 50)).unwrap();
    tree.change(&team, None, &mode(0o2775)).unwrap();
    let (file, _) = tree
        .create(ANN, &team, name(c"file"), (0o644, WRITE))
        .unwrap();
    assert_eq!(seen(file.attributes), (1000, 50, Kind::File, 0o644, (0, 0)));
    let below = tree
        .make_directory(ANN, &team, name(c"below"), 0o755)
        .unwrap();
    assert_eq!(
        seen(below.attributes),
        (1000, 50, Kind::Directory, 0o2755, (0, 0))
    );
    let mode = std::fs::metadata(folder.path().join("team/below"))
        .unwrap()
        .mode();
    assert_eq!(mode & 0o7777, 0o755);
    let (unnamed, _) = tree.create_unnamed(ANN, &team, 0o600, WRITE).unwrap();
    assert_eq!(
        seen(unnamed.attributes),
        (1000, 50, Kind::File, 0o600, (0, 0))
    );
}

#[test]
fn set_id_bits_fall_when_somebody_writes() {
    let folder = tempfile::tempdir().unwrap();
    let Some(tree) = store(folder.path()) else {
        return;
    };
    let root = tree.root().unwrap().node;
    let (found, file) = tree
        .create(ANN, &root, name(c"f"), (0o6755, WRITE))
        .unwrap();
    let mode_now = || tree.attributes(&found.node).unwrap().mode;
    tree.write(&file, &[Source::from(&b"x"[..])], 0, false)
        .unwrap();
    assert_eq!(mode_now(), 0o6755, "root's own write leaves them");
    tree.drop_privileges(&file).unwrap();
    assert_eq!(mode_now(), 0o755);
    for by_open in [true, false] {
        tree.change(&found.node, None, &mode(0o4755)).unwrap();
        if by_open {
            let how = OpenHow {
                truncate: true,
                drop_privileges: true,
                ..WRITE
            };
            tree.open(&found.node, how).unwrap();
        } else {
            let cut = Changes {
                size: Some(0),
                drop_privileges: true,
                ..Changes::default()
            };
            tree.change(&found.node, None, &cut).unwrap();
        }
        assert_eq!(mode_now(), 0o755, "{by_open}");
    }
}

#[test]
fn the_attribute_is_hidden_and_not_the_guests_to_set() {
    let folder = tempfile::tempdir().unwrap();
    let Some(tree) = store(folder.path()) else {
        return;
    };
    let root = tree.root().unwrap().node;
    let (found, _) = tree.create(ANN, &root, name(c"f"), (0o600, WRITE)).unwrap();
    let node = &found.node;
    let mut room = [0; 200];
    assert_eq!(tree.list_extended(node, &mut room), Ok(0));
    tree.set_extended(node, c"user.mine", b"1", ExtendedHow::Either)
        .unwrap();
    assert_eq!(tree.list_extended(node, &mut []), Ok(10));
    let length = tree.list_extended(node, &mut room).unwrap();
    assert_eq!(&room[..length], b"user.mine\0");
    assert_eq!(tree.list_extended(node, &mut room[..5]), Err(Errno::RANGE));
    for reserved in [NAME, c"user.sharectl.other"] {
        assert_eq!(tree.extended(node, reserved, &mut room), Err(Errno::NODATA));
        let set = tree.set_extended(node, reserved, b"1 0 0 104777 0:0", ExtendedHow::Either);
        assert_eq!(set, Err(Errno::PERM));
        assert_eq!(tree.remove_extended(node, reserved), Err(Errno::PERM));
    }
    assert_eq!(seen(tree.attributes(node).unwrap()).0, 1000);
}

#[test]
fn what_the_host_changes_is_heeded_and_a_bad_record_is_none() {
    let folder = tempfile::tempdir().unwrap();
    let Some(tree) = store(folder.path()) else {
        return;
    };
    let root = tree.root().unwrap().node;
    let path = folder.path().join("f");
    std::fs::write(&path, "x").unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o444)).unwrap();
    let node = tree.child(&root, name(c"f")).unwrap().node;
    // A file that the daemon may not write gets its record all the same, and still looks so.
    let changed = tree.change(&node, None, &owner(5, 6)).unwrap();
    assert_eq!(seen(changed), (5, 6, Kind::File, 0o444, (0, 0)));
    tree.change(&node, None, &mode(0o4555)).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o700)).unwrap();
    assert_eq!(
        seen(tree.attributes(&node).unwrap()),
        (5, 6, Kind::File, 0o700, (0, 0))
    );
    for bad in [
        &b"1 0 0 104777"[..],
        b"nonsense",
        &[b'1'; 500],
        b"1 0 0 40755 0:0",
    ] {
        rustix::fs::setxattr(&path, NAME, bad, rustix::fs::XattrFlags::empty()).unwrap();
        assert_eq!(
            seen(tree.attributes(&node).unwrap()),
            (0, 0, Kind::File, 0o700, (0, 0))
        );
    }
}

/// Changes of one file, and what is to be seen of it.
#[derive(Clone, Debug)]
enum Change {
    Owner(u32, u32),
    Mode(u32),
    Write,
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        (0..3_u32, 0..3_u32).prop_map(|(uid, gid)| Change::Owner(uid, gid)),
        (0..=0o7777_u32).prop_map(Change::Mode),
        Just(Change::Write),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn a_file_is_what_the_guest_made_of_it(changes in prop::collection::vec(change(), 1..20)) {
        let folder = tempfile::tempdir().unwrap();
        let Some(tree) = store(folder.path()) else { return Ok(()) };
        let root = tree.root().unwrap().node;
        let (found, file) = tree.create(ROOT, &root, name(c"f"), (0o644, WRITE)).unwrap();
        let mut model = Record::of(&found.attributes);
        for next in changes {
            match next {
                Change::Owner(uid, gid) => {
                    tree.change(&found.node, None, &owner(uid, gid)).unwrap();
                    (model.owner, model.group) = (GuestUid(uid), GuestGid(gid));
                    model.drop_set_id_bits();
                }
                Change::Mode(bits) => {
                    tree.change(&found.node, None, &mode(bits)).unwrap();
                    model.mode = bits;
                }
                Change::Write => {
                    tree.drop_privileges(&file).unwrap();
                    model.drop_set_id_bits();
                }
            }
            prop_assert_eq!(Record::of(&tree.attributes(&found.node).unwrap()), model);
            let host = std::fs::metadata(folder.path().join("f")).unwrap().mode();
            prop_assert_eq!(host & 0o7000, 0, "no set-id bit on the host");
        }
    }

    #[test]
    fn a_folder_under_a_store_behaves_as_one_without(steps in prop::collection::vec(model::step(), 1..60)) {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let Some(kept) = store(one.path()) else { return Ok(()) };
        let bare = HostTree::open(other.path(), Descriptors::new(1000), |_| OwnerMap::Pass).unwrap();
        for step in &steps {
            prop_assert_eq!(model::apply(&kept, step), model::apply(&bare, step), "{:?}", step);
        }
    }
}

/// Two guests, or two clients over 9P: their kernels do not know of each other.
#[test]
fn an_owner_and_a_mode_that_are_changed_at_once_are_both_there() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("file"), "").unwrap();
    let (Some(one), Some(other)) = (store(folder.path()), store(folder.path())) else {
        return;
    };
    let change = |store: &OwnerStore<HostTree>, changes: Changes| {
        let root = store.root().unwrap().node;
        let node = store.child(&root, name(c"file")).unwrap().node;
        store.change(&node, None, &changes).unwrap();
    };
    let begin = std::sync::Barrier::new(2);
    for turn in 1..=300_u32 {
        std::thread::scope(|scope| {
            scope.spawn(|| {
                begin.wait();
                let owner = Some(GuestUid(turn));
                change(
                    &one,
                    Changes {
                        owner,
                        ..Changes::default()
                    },
                );
            });
            scope.spawn(|| {
                begin.wait();
                let mode = Some(0o400 | turn & 0o77);
                change(
                    &other,
                    Changes {
                        mode,
                        ..Changes::default()
                    },
                );
            });
        });
        let root = one.root().unwrap().node;
        let there = one.child(&root, name(c"file")).unwrap().attributes;
        let seen = (there.owner, there.mode);
        assert_eq!(seen, (GuestUid(turn), 0o400 | turn & 0o77));
    }
}
