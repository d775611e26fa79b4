//! Patterns against another reader of gitignore, and whole trees under random changes.

use std::collections::BTreeMap;

use control::pattern::PathPattern;
use ignore::gitignore::GitignoreBuilder;
use proptest::prelude::*;
use rustix::io::Errno;

use super::{Letters, Place, Places, Rules};
use crate::tree::memory::MemoryTree;
use crate::tree::model_tests::{self as model, CALLER, Step};
use crate::tree::{AccessWanted, Changes, Kind, Name, NewNode, OpenHow, RenameHow, Result, Tree};

fn patterns(texts: &[&str]) -> Vec<PathPattern> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

/// Where a path leads whose last name is of this kind; None: it is excluded, or something above it is.
fn place(rules: &Rules, path: &str, kind: Kind) -> Option<Place> {
    let names: Vec<&str> = path.split('/').collect();
    let mut place = rules.root();
    for (index, name) in names.iter().enumerate() {
        let last = index + 1 == names.len();
        let kind = if last { kind } else { Kind::Directory };
        place = rules.step(place, name.as_bytes(), kind)?;
    }
    Some(place)
}

#[test]
fn patterns_exclude_what_gitignore_does() {
    let rules = Rules::new(
        patterns(&[
            "node_modules",
            ".git/objects/**",
            "*.o",
            "!keep.o",
            "build/",
            "/top",
            "a/**/z",
        ]),
        Vec::new(),
        Letters::Exact,
    );
    for (path, kind, excluded) in [
        ("node_modules", Kind::Directory, true),
        ("x/y/node_modules", Kind::File, true),
        ("node_modules/left-pad/index.js", Kind::File, true),
        ("node_modules2", Kind::File, false),
        (".git", Kind::Directory, false),
        (".git/objects", Kind::Directory, false),
        (".git/objects/ab", Kind::Directory, true),
        ("sub/.git/objects/ab", Kind::Directory, false),
        ("x/main.o", Kind::File, true),
        ("x/keep.o", Kind::File, false),
        ("build", Kind::Directory, true),
        ("build", Kind::File, false),
        ("x/build", Kind::SymbolicLink, false),
        ("top", Kind::File, true),
        ("x/top", Kind::File, false),
        ("a/z", Kind::File, true),
        ("a/b/c/z", Kind::File, true),
        ("b/z", Kind::File, false),
        ("NODE_MODULES", Kind::Directory, false),
    ] {
        assert_eq!(
            place(&rules, path, kind).is_none(),
            excluded,
            "{path} {kind:?}"
        );
    }
    let folded = Rules::new(patterns(&["ÄB[c-e]?"]), Vec::new(), Letters::Folded);
    for (path, excluded) in [
        ("äbCü", true),
        ("ÄbEÜ", true),
        ("äbfü", false),
        ("äbc", false),
    ] {
        assert_eq!(
            place(&folded, path, Kind::File).is_none(),
            excluded,
            "{path}"
        );
    }
}

#[test]
fn what_is_below_a_frozen_place_is_frozen_but_for_exceptions() {
    let list = patterns(&["config", "!config/cache", "etc/**"]);
    let rules = Rules::new(Vec::new(), list, Letters::Exact);
    for (path, frozen) in [
        ("config", true),
        ("config/a/b", true),
        ("config/cache", false),
        ("config/cache/x", false),
        ("x/config/y", true),
        ("etc", false),
        ("etc/a", true),
        ("etc/a/b", true),
        ("x/etc/a", false),
    ] {
        assert_eq!(
            place(&rules, path, Kind::Directory).unwrap().frozen,
            frozen,
            "{path}"
        );
    }
}

#[test]
fn hostile_patterns_take_bounded_time() {
    let many = "*a".repeat(1000) + "*b";
    let rules = Rules::new(patterns(&[&many]), Vec::new(), Letters::Folded);
    assert!(place(&rules, &"a".repeat(255), Kind::File).is_some());
}

/// Names that are few, and pieces that meet them.
fn pattern() -> impl Strategy<Value = String> {
    let part = prop::sample::select(vec![
        "a", "b", "c", "ab", "*", "**", "?", "a*", "*b", "[ab]", "[!a]", "a?c", "**b",
    ]);
    let parts = prop::collection::vec(part, 1..4);
    (parts, any::<(bool, bool, bool)>()).prop_map(|(parts, (negated, rooted, folders))| {
        let mark = |wanted, text| if wanted { text } else { "" };
        let (negated, rooted, folders) =
            (mark(negated, "!"), mark(rooted, "/"), mark(folders, "/"));
        format!("{negated}{rooted}{}{folders}", parts.join("/"))
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn each_step_says_what_another_reader_of_gitignore_says(
        texts in prop::collection::vec(pattern(), 1..5),
        names in prop::collection::vec(prop::sample::select(vec!["a", "b", "c", "ab", "abc"]), 1..5),
        is_folder in any::<bool>(),
    ) {
        let mut builder = GitignoreBuilder::new("");
        for text in &texts {
            builder.add_line(None, text).unwrap();
        }
        let judge = builder.build().unwrap();
        let lists: Vec<&str> = texts.iter().map(String::as_str).collect();
        let rules = Rules::new(patterns(&lists), Vec::new(), Letters::Exact);
        let mut place = rules.root();
        for count in 1..=names.len() {
            let path = names[..count].join("/");
            let folder = count < names.len() || is_folder;
            let kind = if folder { Kind::Directory } else { Kind::File };
            let step = rules.step(place, names[count - 1].as_bytes(), kind);
            let excluded = judge.matched(&path, folder).is_ignore();
            prop_assert_eq!(step.is_none(), excluded, "{:?} {}", texts, path);
            match step {
                Some(step) => place = step,
                None => break,
            }
        }
    }
}

/// Letters of the model's names, as patterns.
fn model_pattern() -> impl Strategy<Value = String> {
    let part = prop::sample::select(vec!["a", "b", "c", "d", "*", "**", "[cd]"]);
    let parts = prop::collection::vec(part, 1..4);
    (parts, any::<bool>()).prop_map(|(parts, folders)| {
        format!("{}{}", parts.join("/"), if folders { "/" } else { "" })
    })
}

/// Something, by the inode of its folder and its name there: inode, kind, mode and content.
type Things = BTreeMap<(u64, u8), (u64, Kind, u32, Vec<u8>)>;

/// What no guest may see or change, as the host has it. A folder may be renamed with all that is in it.
fn kept(tree: &MemoryTree, rules: &Rules) -> Things {
    let mut list = Vec::new();
    model::listing(tree, &tree.root().unwrap().node, "", &mut list);
    let mut things = Things::new();
    for (path, kind, _) in list {
        if place(rules, &path[1..], kind).is_some_and(|place| !place.frozen) {
            continue;
        }
        let steps: Vec<u8> = path[1..]
            .bytes()
            .step_by(2)
            .map(|letter| letter - b'a')
            .collect();
        let (last, folder) = steps.split_last().unwrap();
        let folder = model::find(tree, folder).unwrap();
        let node = model::find(tree, &steps).unwrap();
        let content = match model::apply(tree, &Step::Read(steps.clone())) {
            Ok(model::Seen::Bytes(bytes)) => bytes,
            Ok(_) | Err(_) => Vec::new(),
        };
        let (inode, mode) = (
            tree.identity(&node).inode,
            tree.attributes(&node).unwrap().mode,
        );
        let at = (tree.identity(&folder).inode, *last);
        things.insert(at, (inode, kind, mode, content));
    }
    things
}

/// Every folder's place as the tree finds it now, by inode.
fn places(
    tree: &Places<MemoryTree>,
    node: &super::PlacedNode<crate::tree::memory::MemoryNode>,
    into: &mut BTreeMap<u64, Place>,
) {
    into.insert(tree.identity(node).inode, node.place);
    let directory = tree.open_directory(node).unwrap();
    let mut names = Vec::new();
    let mut each = |entry: &crate::tree::Entry<'_>| {
        names.push(entry.name.to_owned());
        true
    };
    tree.entries(&directory, 0, 4096, &mut each).unwrap();
    for name in names {
        let Ok(name) = Name::new(&name) else { continue };
        let found = tree.child(node, name).expect("what is listed is found");
        if found.attributes.kind == Kind::Directory {
            places(tree, &found.node, into);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn no_guest_changes_or_sees_what_the_patterns_keep_and_held_nodes_stay_true(
        exclude in prop::collection::vec(model_pattern(), 0..3),
        frozen in prop::collection::vec(model_pattern(), 0..3),
        before in prop::collection::vec(model::step(), 1..60),
        after in prop::collection::vec(model::step(), 1..60),
    ) {
        let tree = MemoryTree::new();
        for step in &before {
            // Second names are the host's to make, and documented: here there are none.
            if !matches!(step, Step::Link { .. }) {
                drop(model::apply(&tree, step));
            }
        }
        let texts: Vec<&str> = exclude.iter().map(String::as_str).collect();
        let more: Vec<&str> = frozen.iter().map(String::as_str).collect();
        let rules = || Rules::new(patterns(&texts), patterns(&more), Letters::Exact);
        let before = kept(&tree, &rules());
        let guest = Places::new(tree, rules());
        let mut held = BTreeMap::new();
        for step in &after {
            drop(model::apply(&guest, step));
            let mut now = BTreeMap::new();
            places(&guest, &guest.root().unwrap().node, &mut now);
            for (inode, place) in now {
                let first = *held.entry(inode).or_insert(place);
                prop_assert_eq!(first, place, "a held node's place is wrong after {:?}", step);
            }
        }
        prop_assert_eq!(kept(&guest.below, &rules()), before);
    }

    #[test]
    fn without_patterns_nothing_changes(steps in prop::collection::vec(model::step(), 1..60)) {
        let guest = Places::new(MemoryTree::new(), Rules::new(Vec::new(), Vec::new(), Letters::Exact));
        let plain = MemoryTree::new();
        for step in &steps {
            prop_assert_eq!(model::apply(&guest, step), model::apply(&plain, step), "{:?}", step);
        }
    }
}

fn name(text: &std::ffi::CStr) -> Name<'_> {
    Name::new(text).unwrap()
}

fn kind<R>(result: Result<R>) -> std::result::Result<(), Errno> {
    result.map(drop)
}

#[test]
fn each_refusal_has_the_errno_of_the_table() {
    let memory = MemoryTree::new();
    let host = memory.root().unwrap().node;
    let config = memory
        .make_directory(CALLER, &host, name(c"config"), 0o755)
        .unwrap()
        .node;
    let read_write = OpenHow {
        read: true,
        write: true,
        ..OpenHow::default()
    };
    memory
        .create(CALLER, &config, name(c"file"), (0o644, read_write))
        .unwrap();
    memory
        .make_directory(CALLER, &host, name(c"secret"), 0o755)
        .unwrap();
    let tree = Places::new(
        memory,
        Rules::new(
            patterns(&["secret"]),
            patterns(&["config/**"]),
            Letters::Exact,
        ),
    );
    let root = tree.root().unwrap().node;
    let config = tree.child(&root, name(c"config")).unwrap().node;
    let file = tree.child(&config, name(c"file")).unwrap().node;
    tree.create(CALLER, &root, name(c"free"), (0o644, read_write))
        .unwrap();
    let free = tree.child(&root, name(c"free")).unwrap().node;
    let secret = name(c"secret");

    assert_eq!(kind(tree.child(&root, secret)), Err(Errno::NOENT));
    assert_eq!(tree.remove_directory(&root, secret), Err(Errno::NOENT));
    assert_eq!(
        kind(tree.make_directory(CALLER, &root, secret, 0o755)),
        Err(Errno::PERM)
    );
    assert_eq!(
        kind(tree.create(CALLER, &root, secret, (0o644, read_write))),
        Err(Errno::PERM)
    );
    assert_eq!(
        kind(tree.make_symbolic_link(CALLER, &root, secret, c"x")),
        Err(Errno::PERM)
    );
    let fifo = NewNode {
        kind: Kind::Fifo,
        mode: 0o600,
        device: (0, 0),
    };
    assert_eq!(
        kind(tree.make_node(CALLER, &root, secret, fifo)),
        Err(Errno::PERM)
    );
    assert_eq!(kind(tree.link(&free, &root, secret)), Err(Errno::PERM));
    let how = RenameHow::default();
    let exchange = RenameHow {
        exchange: true,
        ..how
    };
    assert_eq!(
        tree.rename((&root, name(c"free")), (&root, secret), how),
        Err(Errno::PERM)
    );
    assert_eq!(
        tree.rename((&root, secret), (&root, name(c"x")), how),
        Err(Errno::NOENT)
    );
    assert_eq!(
        tree.rename((&root, name(c"free")), (&root, secret), exchange),
        Err(Errno::PERM)
    );

    let mode = Changes {
        mode: Some(0),
        ..Changes::default()
    };
    assert_eq!(kind(tree.change(&file, None, &mode)), Err(Errno::ROFS));
    assert_eq!(kind(tree.open(&file, read_write)), Err(Errno::ROFS));
    let read = tree
        .open(
            &file,
            OpenHow {
                read: true,
                ..OpenHow::default()
            },
        )
        .unwrap();
    // A node that is free does not lend its rights to a frozen file's handle.
    assert_eq!(
        kind(tree.change(&free, Some(&read), &mode)),
        Err(Errno::ROFS)
    );
    assert_eq!(tree.drop_privileges(&read), Err(Errno::ROFS));
    assert_eq!(
        tree.access(
            &file,
            AccessWanted {
                write: true,
                ..AccessWanted::default()
            }
        ),
        Err(Errno::ROFS)
    );
    assert_eq!(tree.remove_file(&config, name(c"file")), Err(Errno::ROFS));
    assert_eq!(
        kind(tree.create(CALLER, &config, name(c"file"), (0, read_write))),
        Err(Errno::EXIST)
    );
    assert_eq!(
        kind(tree.create(CALLER, &config, name(c"new"), (0, read_write))),
        Err(Errno::ROFS)
    );
    assert_eq!(kind(tree.link(&file, &root, name(c"x"))), Err(Errno::XDEV));
    assert_eq!(
        tree.rename((&config, name(c"file")), (&root, name(c"x")), how),
        Err(Errno::ROFS)
    );
    assert_eq!(
        tree.rename((&root, name(c"config")), (&root, name(c"x")), how),
        Err(Errno::XDEV)
    );
    tree.rename((&root, name(c"free")), (&root, name(c"x")), how)
        .unwrap();
}

#[test]
fn a_free_place_in_a_frozen_folder_can_be_filled_but_not_made_or_taken_away() {
    let memory = MemoryTree::new();
    let host = memory.root().unwrap().node;
    let make = |parent, text| {
        memory
            .make_directory(CALLER, parent, name(text), 0o755)
            .unwrap()
            .node
    };
    let config = make(&host, c"config");
    make(&config, c"cache");
    let list = patterns(&["config", "!config/cache", "!config/new"]);
    let tree = Places::new(memory, Rules::new(Vec::new(), list, Letters::Exact));
    let root = tree.root().unwrap().node;
    let config = tree.child(&root, name(c"config")).unwrap().node;
    let cache = tree.child(&config, name(c"cache")).unwrap().node;
    let made = tree.make_directory(CALLER, &cache, name(c"filled"), 0o755);
    assert_eq!(kind(made), Ok(()));
    let made = tree.make_directory(CALLER, &config, name(c"new"), 0o755);
    assert_eq!(kind(made), Err(Errno::ROFS));
    assert_eq!(
        tree.remove_directory(&config, name(c"cache")),
        Err(Errno::ROFS)
    );
    let unnamed = tree.create_unnamed(CALLER, &config, 0o600, OpenHow::default());
    assert_eq!(kind(unnamed), Err(Errno::ROFS));
}
