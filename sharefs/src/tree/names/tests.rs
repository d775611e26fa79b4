//! Names through a tree, there and back.

use std::ffi::{CStr, CString};

use proptest::prelude::*;
use rustix::io::Errno;

use super::{Names, Spelling};
use crate::tree::memory::MemoryTree;
use crate::tree::model_tests::{self as model, CALLER};
use crate::tree::{Name, OpenHow, RenameHow, Tree};

fn name(text: &CStr) -> Name<'_> {
    Name::new(text).unwrap()
}

fn listed<T: Tree>(tree: &T) -> Vec<String> {
    let root = tree.root().unwrap().node;
    let directory = tree.open_directory(&root).unwrap();
    let mut names = Vec::new();
    tree.entries(&directory, 0, 4096, &mut |entry| {
        names.push(entry.name.to_string_lossy().into_owned());
        true
    })
    .unwrap();
    names.retain(|name| name != "." && name != "..");
    names.sort();
    names
}

#[test]
fn a_guest_finds_what_it_wrote_and_the_host_has_what_it_can_hold() {
    let tree = Names::new(MemoryTree::new(), Spelling::Windows);
    let root = tree.root().unwrap().node;
    let how = RenameHow::default();
    tree.create(CALLER, &root, name(c"12:30"), (0o644, OpenHow::default()))
        .unwrap();
    tree.make_directory(CALLER, &root, name(c"nul"), 0o755)
        .unwrap();
    tree.make_symbolic_link(CALLER, &root, name(c"link."), c"a:b")
        .unwrap();
    assert_eq!(listed(&tree), ["12:30", "link.", "nul"]);
    assert_eq!(
        listed(&tree.below),
        ["12\u{f03a}30", "link\u{f02e}", "\u{f06e}ul"]
    );
    let mut target = Vec::new();
    let link = tree.child(&root, name(c"link.")).unwrap().node;
    tree.read_link(&link, &mut target).unwrap();
    assert_eq!(target, b"a:b");
    tree.rename((&root, name(c"12:30")), (&root, name(c"*")), how)
        .unwrap();
    let file = tree.child(&root, name(c"*")).unwrap().node;
    tree.link(&file, &root, name(c"com1.txt")).unwrap();
    assert_eq!(
        listed(&tree.below),
        ["link\u{f02e}", "\u{f02a}", "\u{f063}om1.txt", "\u{f06e}ul"]
    );
    tree.remove_file(&root, name(c"*")).unwrap();
    tree.remove_directory(&root, name(c"nul")).unwrap();
    assert_eq!(listed(&tree), ["com1.txt", "link."]);

    // Names without a counterpart, on either side.
    let private = CString::new("a\u{f03a}b").unwrap();
    let new = (0o644, OpenHow::default());
    assert_eq!(tree.child(&root, name(&private)).unwrap_err(), Errno::NOENT);
    assert_eq!(
        tree.create(CALLER, &root, name(&private), new).unwrap_err(),
        Errno::INVAL
    );
    assert_eq!(
        tree.create(CALLER, &root, name(c"\xff"), new).unwrap_err(),
        Errno::INVAL
    );
    assert_eq!(tree.remove_file(&root, name(&private)), Err(Errno::NOENT));
    let to = (&root, name(&private));
    assert_eq!(
        tree.rename((&root, name(c"link.")), to, how),
        Err(Errno::INVAL)
    );
    tree.below.create(CALLER, &root, name(c"a:b"), new).unwrap();
    assert_eq!(listed(&tree), ["com1.txt", "link."]);
    let long = CString::new(vec![b':'; 100]).unwrap();
    assert_eq!(
        tree.child(&root, name(&long)).unwrap_err(),
        Errno::NAMETOOLONG
    );
}

proptest! {
    #[test]
    fn plain_names_are_left_alone(steps in prop::collection::vec(model::step(), 1..60)) {
        for spelling in [Spelling::Plain, Spelling::Windows] {
            let (tree, plain) = (Names::new(MemoryTree::new(), spelling), MemoryTree::new());
            for step in &steps {
                prop_assert_eq!(model::apply(&tree, step), model::apply(&plain, step), "{:?}", step);
            }
        }
    }
}
