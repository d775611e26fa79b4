//! Nodes in words, and taken up again by their rows.

use std::path::Path;
use std::sync::Arc;

use rustix::io::Errno;

use super::descriptors::Descriptors;
use super::{HostNode, HostTree};
use crate::keep::nodes::{KeptPlace, Left};
use crate::keep::records::Records;
use crate::tree::owner::OwnerMap;
use crate::tree::{Name, Tree};

/// Nine nodes may be held.
const DESCRIPTORS: usize = 12;

fn tree(folder: &Path) -> HostTree {
    let descriptors = Descriptors::new(DESCRIPTORS);
    HostTree::open(folder, descriptors, |_| OwnerMap::Pass).unwrap()
}

fn find(tree: &HostTree, root: &HostNode, name: &str) -> HostNode {
    let name = std::ffi::CString::new(name).unwrap();
    tree.child(root, Name::new(&name).unwrap()).unwrap().node
}

/// As a session does it.
fn write_down(records: &Records, tree: &HostTree, slot: usize, node: &HostNode) {
    let row = records.new_node(slot, 1, &tree.keep(node).unwrap());
    tree.bind(node, row);
    records.begin_node(slot, 0);
}

/// As the next process finds them.
fn left(records: &Records) -> Vec<Left> {
    records.nodes().map(|row| row.there.unwrap()).collect()
}

fn crowd() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for index in 0..30 {
        std::fs::write(folder.path().join(format!("f{index}")), "").unwrap();
    }
    folder
}

#[test]
fn a_row_says_at_every_moment_how_its_node_is_found() {
    let folder = crowd();
    for tree in [tree(folder.path()), tree(folder.path()).by_names()] {
        let records = Records::create(0, 0).unwrap();
        let root = tree.root().unwrap().node;
        let mut nodes = vec![root.clone()];
        nodes.extend((0..30).map(|index| find(&tree, &root, &format!("f{index}"))));
        for (slot, node) in nodes.iter().enumerate() {
            write_down(&records, &tree, slot, node);
        }
        assert_eq!(tree.descriptors.kept(), 31);
        for turn in 0..100 {
            let asked = &nodes[turn * 7 % nodes.len()];
            tree.attributes(asked).unwrap();
            for (node, left) in nodes.iter().zip(left(&records)) {
                assert_eq!(left.kept, tree.keep(node).unwrap());
                let is_held = matches!(left.place, KeptPlace::Held(_));
                assert_eq!(is_held, node.is_held());
                let is_named = left.way.is_some();
                assert_eq!(is_named, !tree.handles && !node.record().is_root);
            }
        }
        assert!(tree.descriptors.let_go() > 20 && tree.descriptors.held() <= DESCRIPTORS);
        // Who is not known by the guest any more writes nothing.
        let before = records.texts_used();
        nodes.iter().for_each(|node| tree.bind(node, None));
        assert_eq!(tree.descriptors.kept(), 0);
        for node in &nodes {
            tree.attributes(node).unwrap();
        }
        assert_eq!(records.texts_used(), before);
        (0..nodes.len()).for_each(|slot| records.end_node(slot, 1));
        assert_eq!(records.texts_used(), 0);
    }
}

#[test]
fn what_is_taken_up_is_the_file_that_its_row_says() {
    let folder = crowd();
    let records = Records::create(0, 0).unwrap();
    let old = tree(folder.path());
    let root = old.root().unwrap().node;
    let (a, b) = (find(&old, &root, "f1"), find(&old, &root, "f2"));
    for (slot, node) in [&root, &a, &b].into_iter().enumerate() {
        write_down(&records, &old, slot, node);
    }
    std::fs::remove_file(folder.path().join("f1")).unwrap();

    let new = tree(folder.path());
    let [root, kept_a, kept_b]: [Left; 3] = left(&records).try_into().unwrap();
    let root = new.adopt(&root.kept, (root.place, root.row)).unwrap();
    let taken = new.adopt(&kept_a.kept, (kept_a.place, kept_a.row)).unwrap();
    assert_eq!(new.identity(&taken), kept_a.kept.identity);
    assert_eq!(new.attributes(&taken).unwrap().links, 0, "without its name");
    assert!(Arc::ptr_eq(&root.0.ground, &taken.0.ground));
    assert!(root.record().is_root && !taken.record().is_root);
    // The number has become another file's.
    let other = left(&records).swap_remove(1).place;
    let other = new.adopt(&kept_b.kept, (other, kept_b.row));
    assert_eq!(other.map(drop), Err(Errno::STALE));
    assert_eq!((new.descriptors.kept(), new.descriptors.held()), (2, 2));
}
