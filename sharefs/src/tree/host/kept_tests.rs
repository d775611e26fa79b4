//! Nodes in words, and taken up again by their rows.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use rustix::io::Errno;

use super::descriptors::Descriptors;
use super::node::Attempt;
use super::{HostNode, HostTree, check_is};
use crate::fuse::nodes::{Nodes, Numbering};
use crate::keep::nodes::{KeptPlace, Left};
use crate::keep::records::Records;
use crate::tree::owner::OwnerMap;
use crate::tree::{Kind, Name, RenameHow, Tree};

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
    let root = new.adopt(&root.kept, (root.place, Some(root.row))).unwrap();
    let taken = new
        .adopt(&kept_a.kept, (kept_a.place, Some(kept_a.row)))
        .unwrap();
    assert_eq!(new.identity(&taken), kept_a.kept.identity);
    assert_eq!(new.attributes(&taken).unwrap().links, 0, "without its name");
    assert!(Arc::ptr_eq(&root.0.ground, &taken.0.ground));
    assert!(root.record().is_root && !taken.record().is_root);
    // The number has become another file's.
    let other = left(&records).swap_remove(1).place;
    let other = new.adopt(&kept_b.kept, (other, Some(kept_b.row)));
    assert_eq!(other.map(drop), Err(Errno::STALE));
    assert_eq!((new.descriptors.kept(), new.descriptors.held()), (2, 2));
}

#[test]
fn what_has_the_inode_number_of_another_is_told_from_it_by_its_generation() {
    let folder = crowd();
    for by_name in [true, false] {
        let tree = || {
            let tree = tree(folder.path());
            if by_name { tree.by_names() } else { tree }
        };
        let (old, new) = (tree(), tree());
        let records = Records::create(0, 0).unwrap();
        let root = old.root().unwrap().node;
        let mut nodes = vec![root.clone()];
        nodes.extend((0..30).map(|index| find(&old, &root, &format!("f{index}"))));
        for (slot, node) in nodes.iter().enumerate() {
            write_down(&records, &old, slot, node);
        }
        let mut left = left(&records);
        let top = left.remove(0);
        let top = new.adopt(&top.kept, (top.place, Some(top.row))).unwrap();
        let mut gone = left
            .into_iter()
            .filter(|left| matches!(left.place, KeptPlace::LetGo(_)));
        // As if the second file had been given the first one's number and name, and the row were the first one's.
        let (first, mut second, third) = (
            gone.next().unwrap(),
            gone.next().unwrap(),
            gone.next().unwrap(),
        );
        let (name, right) = (second.way.take(), third.way);
        let mixed = new
            .adopt(&second.kept, (first.place, Some(second.row)))
            .unwrap();
        let honest = new
            .adopt(&third.kept, (third.place, Some(third.row)))
            .unwrap();
        for (node, way) in [(&mixed, name), (&honest, right)] {
            assert_eq!(way.is_some(), !new.handles);
            if let Some((_, _, name)) = way {
                new.lead(node, &top, &name);
            }
        }
        assert_eq!(new.attributes(&mixed).map(drop), Err(Errno::STALE));
        assert!(new.attributes(&honest).is_ok());
        assert_eq!(new.descriptors.stale.get(), 1);
    }
}

#[test]
fn a_node_that_is_used_when_it_is_forgotten_leaves_its_row_to_the_next() {
    let folder = crowd();
    let tree = tree(folder.path());
    let records = Records::create(0, 0).unwrap();
    let root = tree.root().unwrap();
    let kept = tree.keep(&root.node).unwrap();
    let nodes = Nodes::new(
        root.node.clone(),
        root.attributes.identity,
        Numbering::default(),
    );
    let nodes = nodes.recorded(&tree, &kept, &records);
    let told = |name: &str| {
        let node = find(&tree, &root.node, name);
        let number = nodes.told(node.clone(), tree.identity(&node), &tree).number;
        (node, number)
    };
    let (used, number) = told("f0");
    assert!(nodes.forget(number, 1, &tree));
    let (next, _) = told("f1");
    let others: Vec<HostNode> = (2..30)
        .map(|index| find(&tree, &root.node, &format!("f{index}")))
        .collect();
    for _ in 0..2 {
        tree.attributes(&used).unwrap();
        for other in &others {
            tree.attributes(other).unwrap();
        }
        assert!(!used.is_held() && !next.is_held());
        let left = left(&records).swap_remove(1);
        assert_eq!(left.kept, tree.keep(&next).unwrap());
        let KeptPlace::LetGo(generation) = left.place else {
            panic!("the row says that it is held");
        };
        tree.attributes(&next).unwrap();
        let handle = next.with(|place| Ok(crate::sys::FileHandle::of(place)?.0));
        if let Ok(handle) = handle {
            assert_eq!(generation.bytes, handle.as_bytes());
        }
    }
}

#[test]
fn what_was_renamed_in_its_folder_says_its_name_when_it_is_let_go_of() {
    for is_folder_held in [true, false] {
        let folder = crowd();
        let tree = tree(folder.path()).by_names();
        std::fs::create_dir(folder.path().join("d")).unwrap();
        std::fs::write(folder.path().join("d/old"), "1234").unwrap();
        let root = tree.root().unwrap().node;
        let above = find(&tree, &root, "d");
        let file = find(&tree, &above, "old");
        let [old, new] = [c"old", c"new"].map(|name| Name::new(name).unwrap());
        tree.rename((&above, old), (&above, new), RenameHow::default())
            .unwrap();
        if !is_folder_held {
            assert_eq!(above.0.let_go(), Attempt::Gone);
        }
        assert_eq!(file.0.let_go(), Attempt::Gone);
        assert_eq!(tree.attributes(&file).map(|found| found.size), Ok(4));
        assert_eq!(tree.descriptors.let_go(), 0);
        // In a folder that nobody told of it is not found, and stays.
        std::fs::rename(folder.path().join("d/new"), folder.path().join("out")).unwrap();
        assert!(above.is_held());
        assert_eq!(file.0.let_go(), Attempt::Stays);
        assert_eq!(tree.descriptors.let_go(), 0);
    }
}

#[test]
fn what_has_the_number_of_something_open_and_is_something_else_is_stale() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("d")).unwrap();
    for name in ["f", "g"] {
        std::fs::write(folder.path().join(name), name).unwrap();
    }
    let tree = tree(folder.path());
    let root = tree.root().unwrap().node;
    let open = |name: &str| OwnedFd::from(std::fs::File::open(folder.path().join(name)).unwrap());
    let nodes = ["f", "g", "d"].map(|name| (name, find(&tree, &root, name)));
    let before = tree.descriptors.held();
    for (of, node) in &nodes {
        for name in ["f", "g", "d"] {
            let expected = if *of == name {
                Ok(())
            } else {
                Err(Errno::STALE)
            };
            let file = tree.adopt_file(node, open(name));
            assert_eq!(file.map(drop), expected, "{name} for the file {of}");
            let listing = tree.adopt_directory(node, open(name));
            assert_eq!(listing.map(drop), expected, "{name} for the folder {of}");
            let expected = if name == "d" {
                Err(Errno::STALE)
            } else {
                expected
            };
            let locks = tree.adopt_locks(tree.identity(node), open(name));
            assert_eq!(locks.map(drop), expected, "{name} for locks of {of}");
        }
    }
    assert_eq!(tree.descriptors.held(), before, "nothing stays counted");
    // The same file by way of a node that says it is of another kind.
    let (_, file) = &nodes[0];
    let kept = tree.keep(file).unwrap();
    assert_eq!(
        check_is(&open("f"), kept.identity, Kind::Directory),
        Err(Errno::STALE)
    );
}
