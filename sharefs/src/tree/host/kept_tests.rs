//! Nodes in words, and taken up again by their descriptors.

use std::os::fd::{OwnedFd, RawFd};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::descriptors::Descriptors;
use super::{HostNode, HostTree};
use crate::keep::records::KeptNode;
use crate::tree::owner::OwnerMap;
use crate::tree::{Name, OpenHow, Tree};

/// Nine nodes may be held: four of them as kept, six with those that are open.
const DESCRIPTORS: usize = 12;

fn tree(folder: &Path) -> HostTree {
    let descriptors = Descriptors::new(DESCRIPTORS);
    HostTree::open(folder, descriptors, |_| OwnerMap::Pass).unwrap()
}

fn find(tree: &HostTree, root: &HostNode, name: &str) -> HostNode {
    let name = std::ffi::CString::new(name).unwrap();
    tree.child(root, Name::new(&name).unwrap()).unwrap().node
}

/// As the next process would have it.
fn again(number: RawFd) -> OwnedFd {
    let path = format!("/proc/self/fd/{number}");
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).unwrap()
}

fn crowd() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for index in 0..30 {
        std::fs::write(folder.path().join(format!("f{index}")), "").unwrap();
    }
    folder
}

#[test]
fn what_is_kept_is_held_and_the_rest_comes_and_goes() {
    let folder = crowd();
    let tree = tree(folder.path());
    let root = tree.root().unwrap().node;
    let nodes: Vec<HostNode> = (0..8)
        .map(|index| find(&tree, &root, &format!("f{index}")))
        .collect();
    let kept: Vec<Option<KeptNode>> = nodes.iter().map(|node| tree.keep(node)).collect();
    assert!(kept[..4].iter().all(Option::is_some) && kept[4..].iter().all(Option::is_none));
    assert_eq!(tree.keep(&nodes[0]), kept[0], "the same once more");
    let how = OpenHow {
        read: true,
        ..OpenHow::default()
    };
    let open = tree.open(&nodes[7], how).unwrap();
    assert!(
        tree.keep(&nodes[7]).is_some(),
        "there is room for what is open"
    );
    drop(open);
    let others: Vec<HostNode> = (8..30)
        .map(|index| find(&tree, &root, &format!("f{index}")))
        .collect();
    for node in nodes.iter().chain(&others) {
        tree.attributes(node).unwrap();
    }
    for index in [0, 1, 2, 3, 7] {
        assert!(nodes[index].is_held(), "f{index}");
    }
    assert!(tree.descriptors.let_go() > 0 && tree.descriptors.held() <= DESCRIPTORS);
    assert_eq!(tree.descriptors.kept(), 5);
    drop(nodes);
    assert_eq!(tree.descriptors.kept(), 0);
}

#[test]
fn what_is_taken_up_is_the_file_that_its_row_says() {
    let folder = crowd();
    let old = tree(folder.path());
    let root = old.root().unwrap().node;
    let (a, b) = (find(&old, &root, "f1"), find(&old, &root, "f2"));
    let [kept_root, kept_a, kept_b] = [&root, &a, &b].map(|node| old.keep(node).unwrap());
    std::fs::remove_file(folder.path().join("f1")).unwrap();

    let new = tree(folder.path());
    let root = new.adopt(&kept_root, again(kept_root.number)).unwrap();
    let taken = new.adopt(&kept_a, again(kept_a.number)).unwrap();
    assert_eq!(new.identity(&taken), kept_a.identity);
    assert_eq!(new.attributes(&taken).unwrap().links, 0, "without its name");
    assert!(Arc::ptr_eq(&root.0.ground, &taken.0.ground));
    assert!(root.record().is_root && !taken.record().is_root);
    // The number has become another file's.
    let other = new.adopt(&kept_b, again(kept_a.number));
    assert_eq!(other.map(drop), Err(Errno::STALE));
    assert_eq!((new.descriptors.kept(), new.descriptors.held()), (1, 2));
}
