//! What only a daemon that runs as root does: owners pass, or new files belong to the folder's owner.
//! Without root these say so and stop.

use std::os::unix::fs::{MetadataExt, chown};

use rustix::io::Errno;

use super::HostTree;
use super::descriptors::Descriptors;
use crate::tree::owner::{GuestGid, GuestOwner, GuestUid, OwnerMap};
use crate::tree::{Caller, Changes, ExtendedHow, Kind, Name, NewNode, OpenHow, Tree};

const CALLER: Caller = Caller {
    uid: GuestUid(4242),
    gid: GuestGid(4243),
};
const WRITE: OpenHow = OpenHow {
    read: true,
    write: true,
    truncate: false,
    durability: crate::tree::Durability::Later,
    keep_access_time: false,
    drop_privileges: false,
};

/// A folder that belongs to user 1500 and group 1501.
fn folder() -> Option<tempfile::TempDir> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("not root: nothing to see here");
        return None;
    }
    rustix::process::umask(rustix::fs::Mode::empty());
    let folder = tempfile::tempdir().unwrap();
    chown(folder.path(), Some(1500), Some(1501)).unwrap();
    Some(folder)
}

fn owner_of(folder: &tempfile::TempDir, name: &str) -> (u32, u32) {
    let found = folder.path().join(name).symlink_metadata().unwrap();
    (found.uid(), found.gid())
}

/// One of everything that can be made.
fn make_all(tree: &HostTree) {
    let root = tree.root().unwrap().node;
    let name = |text| Name::new(text).unwrap();
    tree.create(CALLER, &root, name(c"file"), (0o600, WRITE))
        .unwrap();
    tree.make_directory(CALLER, &root, name(c"folder"), 0o700)
        .unwrap();
    tree.make_symbolic_link(CALLER, &root, name(c"link"), c"x")
        .unwrap();
    let fifo = NewNode {
        kind: Kind::Fifo,
        mode: 0o600,
        device: (0, 0),
    };
    tree.make_node(CALLER, &root, name(c"fifo"), fifo).unwrap();
    let (unnamed, _) = tree.create_unnamed(CALLER, &root, 0o600, WRITE).unwrap();
    tree.link(&unnamed.node, &root, name(c"linked")).unwrap();
}

const ALL: [&str; 5] = ["file", "folder", "link", "fifo", "linked"];

#[test]
fn a_root_daemon_makes_files_for_the_owner_of_the_folder() {
    let Some(folder) = folder() else { return };
    let guest = GuestOwner {
        uid: GuestUid(0),
        gid: GuestGid(0),
    };
    let open = HostTree::open(folder.path(), Descriptors::new(99), |host| OwnerMap::Map {
        host,
        guest,
    });
    let tree = open.unwrap();
    make_all(&tree);
    for name in ALL {
        assert_eq!(owner_of(&folder, name), (1500, 1501), "{name}");
    }
    let root = tree.root().unwrap().node;
    let file = tree.child(&root, Name::new(c"file").unwrap()).unwrap();
    assert_eq!(
        (file.attributes.owner, file.attributes.group),
        (GuestUid(0), GuestGid(0))
    );
    // What would hand the folder's owner more rights on the host than they have.
    let refused = tree.set_extended(&file.node, c"security.capability", b"", ExtendedHow::Either);
    assert_eq!(refused, Err(Errno::PERM));
    let disk = NewNode {
        kind: Kind::BlockDevice,
        mode: 0o666,
        device: (8, 0),
    };
    let refused = tree.make_node(CALLER, &root, Name::new(c"disk").unwrap(), disk);
    assert_eq!(refused.unwrap_err(), Errno::PERM);
    let whiteout = NewNode {
        kind: Kind::CharacterDevice,
        mode: 0o600,
        device: (0, 0),
    };
    let made = tree.make_node(CALLER, &root, Name::new(c"whiteout").unwrap(), whiteout);
    // On overlayfs itself, as in a container, the kernel keeps whiteouts for its own use.
    let is_overlay = rustix::fs::statfs(folder.path()).unwrap().f_type == 0x794c_7630;
    assert!(made.is_ok() || is_overlay, "{:?}", made.err());
}

#[test]
fn with_pass_files_belong_to_whom_the_guest_says() {
    let Some(folder) = folder() else { return };
    let tree = HostTree::open(folder.path(), Descriptors::new(99), |_| OwnerMap::Pass).unwrap();
    let root = tree.root().unwrap().node;
    let everybody = Changes {
        mode: Some(0o777),
        ..Changes::default()
    };
    tree.change(&root, None, &everybody).unwrap();
    make_all(&tree);
    for name in ALL {
        assert_eq!(owner_of(&folder, name), (4242, 4243), "{name}");
    }
    let file = tree.child(&root, Name::new(c"file").unwrap()).unwrap().node;
    let given = Changes {
        owner: Some(GuestUid(7)),
        group: Some(GuestGid(8)),
        ..Changes::default()
    };
    tree.change(&file, None, &given).unwrap();
    assert_eq!(owner_of(&folder, "file"), (7, 8));
    // The rights that were borrowed are given back: this thread is root again.
    assert!(rustix::process::geteuid().is_root() && rustix::process::getegid().is_root());
    // The guest's user may not write here, so nothing is made in its name.
    tree.change(
        &root,
        None,
        &Changes {
            mode: Some(0o755),
            ..Changes::default()
        },
    )
    .unwrap();
    let refused = tree.make_directory(CALLER, &root, Name::new(c"no").unwrap(), 0o700);
    assert_eq!(refused.unwrap_err(), Errno::ACCESS);
}

#[test]
fn a_write_of_root_takes_set_id_bits_when_it_is_told_to() {
    let Some(folder) = folder() else { return };
    let tree = HostTree::open(folder.path(), Descriptors::new(99), |_| OwnerMap::Pass).unwrap();
    let root = tree.root().unwrap().node;
    let root_user = Caller {
        uid: GuestUid(0),
        gid: GuestGid(0),
    };
    let made = tree.create(root_user, &root, Name::new(c"f").unwrap(), (0o755, WRITE));
    let (found, file) = made.unwrap();
    for (mode, left) in [(0o6755, 0o755), (0o4644, 0o644), (0o2644, 0o2644)] {
        tree.change(
            &found.node,
            None,
            &Changes {
                mode: Some(mode),
                ..Changes::default()
            },
        )
        .unwrap();
        tree.drop_privileges(&file).unwrap();
        assert_eq!(tree.attributes(&found.node).unwrap().mode, left, "{mode:o}");
    }
}
