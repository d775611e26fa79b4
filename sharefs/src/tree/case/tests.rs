//! A real folder whose names have no case.

use std::collections::BTreeSet;
use std::ffi::{CStr, CString};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use proptest::prelude::*;
use rustix::io::Errno;

use super::{Case, CaseTree, ENTRIES};
use crate::tree::host::HostTree;
use crate::tree::host::descriptors::Descriptors;
use crate::tree::memory::MemoryTree;
use crate::tree::model_tests::{self as model, CALLER};
use crate::tree::owner::OwnerMap;
use crate::tree::{Name, OpenHow, RenameHow, Result, Tree};

fn name(text: &CStr) -> Name<'_> {
    Name::new(text).unwrap()
}

/// None passes.
fn no_time() -> Duration {
    Duration::ZERO
}

fn tree(folder: &std::path::Path) -> CaseTree<HostTree> {
    let host = HostTree::open(folder, Descriptors::new(1000), |_| OwnerMap::Pass).unwrap();
    CaseTree::new(host, Case::Insensitive, no_time)
}

fn names(folder: &std::path::Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

/// The file system's clock is too coarse for a test: the folder changed at a later tick.
fn later(folder: &std::path::Path, ticks: u64) {
    let at = std::time::UNIX_EPOCH + Duration::from_secs(1_000_000_000 + ticks);
    std::fs::File::open(folder)
        .unwrap()
        .set_modified(at)
        .unwrap();
}

#[test]
fn names_are_found_and_taken_whatever_their_case() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    std::fs::create_dir(path.join("Src")).unwrap();
    std::fs::write(path.join("Src/Größe.TXT"), "x").unwrap();
    let tree = tree(path);
    let root = tree.root().unwrap().node;
    let src = tree.child(&root, name(c"sRC")).unwrap().node;
    tree.child(&src, name(c"GRÖßE.txt")).unwrap();
    assert_eq!(
        tree.child(&src, name(c"Grosse.txt")).unwrap_err(),
        Errno::NOENT
    );

    let new = (0o644, OpenHow::default());
    let exists = Err(Errno::EXIST);
    assert_eq!(
        tree.create(CALLER, &root, name(c"SRC"), new).map(drop),
        exists
    );
    assert_eq!(
        tree.make_directory(CALLER, &root, name(c"src"), 0o755)
            .map(drop),
        exists
    );
    assert_eq!(
        tree.make_symbolic_link(CALLER, &root, name(c"src"), c"x")
            .map(drop),
        exists
    );
    let file = tree.child(&src, name(c"größe.txt")).unwrap().node;
    assert_eq!(tree.link(&file, &root, name(c"SRC")).map(drop), exists);
    tree.create(CALLER, &root, name(c"Made"), new).unwrap();
    assert!(
        tree.child(&root, name(c"mADE")).is_ok(),
        "what was made through the tree"
    );
    std::fs::write(path.join("FromHost"), "").unwrap();
    later(path, 1);
    assert!(
        tree.child(&root, name(c"fromhost")).is_ok(),
        "what the host made since"
    );
    assert_eq!(
        tree.remove_directory(&root, name(c"MADE")),
        Err(Errno::NOTDIR)
    );
    tree.remove_file(&root, name(c"MADE")).unwrap();
    assert_eq!(tree.child(&root, name(c"made")).unwrap_err(), Errno::NOENT);
    assert_eq!(tree.remove_file(&root, name(c"made")), Err(Errno::NOENT));
    assert_eq!(
        tree.create(CALLER, &file, name(c"x"), new).map(drop),
        Err(Errno::NOTDIR)
    );

    // A pair that the host made: each by its own name, another spelling finds the first.
    for (text, content) in [("PAIR", "1"), ("pair", "2")] {
        std::fs::write(path.join(text), content).unwrap();
    }
    later(path, 2);
    let inode = |text: &CStr| {
        tree.child(&root, name(text))
            .unwrap()
            .attributes
            .identity
            .inode
    };
    assert!(inode(c"PAIR") != inode(c"pair") && inode(c"Pair") == inode(c"PAIR"));
}

#[test]
fn a_rename_replaces_what_differs_in_case_and_changes_the_case_of_itself() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    for text in ["One", "Two"] {
        std::fs::write(path.join(text), text).unwrap();
    }
    let tree = tree(path);
    let root = tree.root().unwrap().node;
    let rename = |old, new, how| tree.rename((&root, name(old)), (&root, name(new)), how);
    let how = RenameHow::default();
    let no_replace = RenameHow {
        no_replace: true,
        ..how
    };
    assert_eq!(rename(c"one", c"TWO", no_replace), Err(Errno::EXIST));
    rename(c"ONE", c"one", no_replace).unwrap();
    assert_eq!(
        names(path),
        BTreeSet::from(["one", "Two"].map(String::from))
    );
    rename(c"ONE", c"TWO", how).unwrap();
    assert_eq!(names(path), BTreeSet::from(["Two".to_owned()]));
    assert_eq!(std::fs::read_to_string(path.join("Two")).unwrap(), "One");
    assert_eq!(rename(c"one", c"x", how), Err(Errno::NOENT));
    assert!(tree.child(&root, name(c"TWO")).is_ok() && tree.child(&root, name(c"oNE")).is_err());
}

/// Operations with spellings of few names.
#[derive(Clone, Debug)]
enum Step {
    Create(String),
    Remove(String),
    Rename(String, String),
    /// By the host.
    Host(String),
}

fn spelling() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["a", "A", "ab", "aB", "AB", "ä", "Ä", "c"]).prop_map(str::to_owned)
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => spelling().prop_map(Step::Create),
        2 => spelling().prop_map(Step::Remove),
        2 => (spelling(), spelling()).prop_map(|(from, to)| Step::Rename(from, to)),
        1 => spelling().prop_map(Step::Host),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    /// The model is a set of names in lower case.
    #[test]
    fn a_folder_is_a_set_of_names_without_case(steps in prop::collection::vec(step(), 1..40)) {
        let folder = tempfile::tempdir().unwrap();
        let tree = tree(folder.path());
        let root = tree.root().unwrap().node;
        let text = |name: &String| CString::new(name.as_str()).unwrap();
        let mut model: BTreeSet<String> = BTreeSet::new();
        let mut time = 0;
        for step in &steps {
            match step {
                Step::Create(new) => {
                    let made = tree.create(CALLER, &root, name(&text(new)), (0o644, OpenHow::default()));
                    prop_assert_eq!(made.is_ok(), model.insert(new.to_lowercase()), "{:?}", step);
                }
                Step::Remove(old) => {
                    let gone: Result<()> = tree.remove_file(&root, name(&text(old)));
                    prop_assert_eq!(gone.is_ok(), model.remove(&old.to_lowercase()), "{:?}", step);
                }
                Step::Rename(old, new) => {
                    let (from, to) = (text(old), text(new));
                    let done = tree.rename((&root, name(&from)), (&root, name(&to)), RenameHow::default());
                    prop_assert_eq!(done.is_ok(), model.remove(&old.to_lowercase()), "{:?}", step);
                    if done.is_ok() {
                        model.insert(new.to_lowercase());
                    }
                }
                Step::Host(new) => {
                    if model.insert(new.to_lowercase()) {
                        std::fs::write(folder.path().join(new), "").unwrap();
                        time += 1;
                        later(folder.path(), time);
                    }
                }
            }
            for asked in ["a", "A", "ab", "Ab", "AB", "Ä", "ä", "C", "c"] {
                let found = tree.child(&root, name(&CString::new(asked).unwrap())).is_ok();
                prop_assert_eq!(found, model.contains(&asked.to_lowercase()), "{} after {:?}", asked, step);
            }
        }
        let left: BTreeSet<String> = names(folder.path()).iter().map(|name| name.to_lowercase()).collect();
        prop_assert_eq!(left.len(), names(folder.path()).len(), "no two differ only in case");
        prop_assert_eq!(left, model);
    }

    #[test]
    fn names_in_one_case_behave_as_without_it(steps in prop::collection::vec(model::step(), 1..60)) {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let bare = HostTree::open(other.path(), Descriptors::new(1000), |_| OwnerMap::Pass).unwrap();
        let folded = tree(one.path());
        let exact = CaseTree::new(MemoryTree::new(), Case::Exact, no_time);
        let plain = MemoryTree::new();
        for step in &steps {
            prop_assert_eq!(model::apply(&folded, step), model::apply(&bare, step), "{:?}", step);
            prop_assert_eq!(model::apply(&exact, step), model::apply(&plain, step), "{:?}", step);
        }
    }
}

#[test]
fn what_somebody_else_took_away_is_not_believed_to_be_there() {
    // In this one no time ever passes, so nothing seems to have changed.
    let tree = CaseTree::new(MemoryTree::new(), Case::Insensitive, no_time);
    let root = tree.root().unwrap().node;
    let make = |text| tree.make_directory(CALLER, &root, name(text), 0o755);
    make(c"Src").unwrap();
    assert_eq!(make(c"SRC").map(drop), Err(Errno::EXIST));
    tree.below.remove_directory(&root, name(c"Src")).unwrap();
    make(c"SRC").unwrap();
    let how = RenameHow::default();
    tree.below
        .rename((&root, name(c"SRC")), (&root, name(c"sRC")), how)
        .unwrap();
    assert!(tree.look(&root, name(c"src")).is_ok());
    tree.rename((&root, name(c"srC")), (&root, name(c"Other")), how)
        .unwrap();
    assert_eq!(tree.look(&root, name(c"src")).map(drop), Err(Errno::NOENT));
}

#[test]
fn what_somebody_else_made_is_found_as_it_is_spelled_though_nothing_seems_to_have_changed() {
    let tree = CaseTree::new(MemoryTree::new(), Case::Insensitive, no_time);
    let root = tree.root().unwrap().node;
    let exists = |text| tree.look(&root, name(text)).is_ok();
    let make_below = |text| {
        let made = tree.below.make_directory(CALLER, &root, name(text), 0o755);
        made.map(drop).unwrap();
    };
    assert!(!exists(c"out"), "and now its names are known");
    make_below(c"out");
    let how = RenameHow::default();
    tree.rename((&root, name(c"out")), (&root, name(c"In")), how)
        .unwrap();
    assert!(exists(c"IN") && !exists(c"out"));
    // Of two that differ in case only, the one that was said.
    make_below(c"in");
    tree.rename((&root, name(c"in")), (&root, name(c"gone")), how)
        .unwrap();
    assert!(exists(c"gone") && exists(c"In"));
    // That it cannot be made is news.
    make_below(c"late");
    assert!(!exists(c"LATE"));
    let made = tree.make_directory(CALLER, &root, name(c"late"), 0o755);
    assert_eq!(made.map(drop), Err(Errno::EXIST));
    assert!(exists(c"LATE"));
}

#[test]
fn what_somebody_else_made_is_found_by_another_case_two_seconds_later() {
    static NOW: AtomicU64 = AtomicU64::new(7);
    let clock = || Duration::from_secs(NOW.load(Ordering::Relaxed));
    let tree = CaseTree::new(MemoryTree::new(), Case::Insensitive, clock);
    let root = tree.root().unwrap().node;
    let exists = |text| tree.look(&root, name(text)).is_ok();
    assert!(!exists(c"late"));
    let made = tree
        .below
        .make_directory(CALLER, &root, name(c"late"), 0o755);
    made.map(drop).unwrap();
    // What is made here does not make the rest any newer.
    tree.make_directory(CALLER, &root, name(c"own"), 0o755)
        .map(drop)
        .unwrap();
    NOW.fetch_add(2, Ordering::Relaxed);
    assert!(!exists(c"LATE") && exists(c"OWN"));
    NOW.fetch_add(1, Ordering::Relaxed);
    assert!(exists(c"LATE") && exists(c"OWN"));
}

/// READDIRPLUS looks for what it lists, and a name that is gone by then is looked for among all.
#[test]
fn a_folder_is_read_while_it_is_listed() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("gone"), "").unwrap();
    std::fs::write(folder.path().join("There"), "").unwrap();
    let tree = tree(folder.path());
    let root = tree.root().unwrap().node;
    let directory = tree.open_directory(&root).unwrap();
    let mut found = BTreeSet::new();
    std::fs::remove_file(folder.path().join("gone")).unwrap();
    tree.entries(&directory, 0, ENTRIES, &mut |entry| {
        assert_eq!(
            tree.child(&root, name(c"gone")).map(drop),
            Err(Errno::NOENT)
        );
        assert!(tree.child(&root, name(c"tHERE")).is_ok());
        found.insert(entry.name.to_owned());
        true
    })
    .unwrap();
    assert!(found.contains(c"There"), "{found:?}");
}

/// A folder that several clients make names in and take them away again, each its own, from the moment on at which it is read
/// for the first time. No time passes in it, so that nothing but who holds it keeps what is known true.
#[test]
fn what_threads_make_and_remove_at_once_is_known_as_it_is() {
    const ROUNDS: usize = 500;
    let names = [(c"a", c"A"), (c"b", c"B"), (c"c", c"C"), (c"d", c"D")];
    for _ in 0..ROUNDS {
        let tree = CaseTree::new(MemoryTree::new(), Case::Insensitive, no_time);
        let root = tree.root().unwrap().node;
        let begin = std::sync::Barrier::new(names.len());
        std::thread::scope(|scope| {
            for (own, other) in names {
                let (tree, root, begin) = (&tree, &root, &begin);
                scope.spawn(move || {
                    begin.wait();
                    for _ in 0..3 {
                        tree.make_directory(CALLER, root, name(own), 0o755).unwrap();
                        tree.look(root, name(other)).unwrap();
                        tree.remove_directory(root, name(other)).unwrap();
                        assert_eq!(tree.look(root, name(own)).map(drop), Err(Errno::NOENT));
                    }
                });
            }
        });
    }
}
