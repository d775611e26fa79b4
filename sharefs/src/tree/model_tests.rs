//! Random operations on a real folder and on the model: every answer must be the same, and in the end
//! the two must hold the same.

use std::ffi::CString;

use proptest::prelude::*;
use rustix::io::Errno;

use super::host::HostTree;
use super::host::descriptors::Descriptors;
use super::memory::MemoryTree;
use super::owner::{GuestGid, GuestOwner, GuestUid, OwnerMap};
use super::{Caller, Changes, Kind, Name, NewNode, OpenHow, RenameHow, Result, Tree};
use crate::sys::{Sink, Source};

pub(super) const CALLER: Caller = Caller {
    uid: GuestUid(0),
    gid: GuestGid(0),
};

/// Folders and names are few, so that operations meet.
#[derive(Clone, Debug)]
pub(super) enum Step {
    MakeDirectory(Place),
    MakeFifo(Place),
    Create(Place),
    Link { from: Place, to: Place },
    SymbolicLink(Place),
    RemoveFile(Place),
    RemoveDirectory(Place),
    Rename { from: Place, to: Place, how: u8 },
    Write(Place, u8, Vec<u8>, bool),
    Truncate(Place, u8),
    Mode(Place, u32),
    Read(Place),
    ReadLink(Place),
}

/// A path of at most three names.
pub(super) type Place = Vec<u8>;

fn place() -> impl Strategy<Value = Place> {
    prop::collection::vec(0_u8..4, 1..4)
}

pub(super) fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => place().prop_map(Step::MakeDirectory),
        1 => place().prop_map(Step::MakeFifo),
        3 => place().prop_map(Step::Create),
        2 => (place(), place()).prop_map(|(from, to)| Step::Link { from, to }),
        1 => place().prop_map(Step::SymbolicLink),
        1 => place().prop_map(Step::RemoveFile),
        1 => place().prop_map(Step::RemoveDirectory),
        4 => (place(), place(), 0_u8..3).prop_map(|(from, to, how)| Step::Rename { from, to, how }),
        3 => (place(), any::<u8>(), prop::collection::vec(any::<u8>(), 0..20), any::<bool>())
            .prop_map(|(at, offset, bytes, append)| Step::Write(at, offset, bytes, append)),
        1 => (place(), any::<u8>()).prop_map(|(at, size)| Step::Truncate(at, size)),
        1 => (place(), 0_u32..0o1000).prop_map(|(at, mode)| Step::Mode(at, mode | 0o700)),
        2 => place().prop_map(Step::Read),
        1 => place().prop_map(Step::ReadLink),
    ]
}

pub(super) fn name(of: u8) -> CString {
    CString::new(vec![b'a' + of]).unwrap()
}

pub(super) fn find<T: Tree>(tree: &T, place: &[u8]) -> Result<T::Node> {
    let mut node = tree.root()?.node;
    for step in place {
        node = tree.child(&node, Name::new(&name(*step)).unwrap())?.node;
    }
    Ok(node)
}

/// The folder of a place, and the last name.
fn split<T: Tree>(tree: &T, place: &[u8]) -> Result<(T::Node, CString)> {
    let (last, folder) = place.split_last().unwrap();
    Ok((find(tree, folder)?, name(*last)))
}

/// What an answer looks like from outside, without numbers that only one side has.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Seen {
    Done,
    Node(Kind, u32, u32, u64),
    Bytes(Vec<u8>),
}

pub(super) fn apply<T: Tree>(tree: &T, step: &Step) -> Result<Seen> {
    let seen = |node: &T::Node| {
        let found = tree.attributes(node)?;
        let file = found.kind == Kind::File;
        let size = if file { found.size } else { 0 };
        Ok(Seen::Node(found.kind, found.mode, found.links, size))
    };
    match step {
        Step::MakeDirectory(at) => {
            let (folder, name) = split(tree, at)?;
            seen(
                &tree
                    .make_directory(CALLER, &folder, Name::new(&name)?, 0o755)?
                    .node,
            )
        }
        Step::MakeFifo(at) => {
            let (folder, name) = split(tree, at)?;
            let new = NewNode {
                kind: Kind::Fifo,
                mode: 0o640,
                device: (0, 0),
            };
            seen(
                &tree
                    .make_node(CALLER, &folder, Name::new(&name)?, new)?
                    .node,
            )
        }
        Step::Create(at) => {
            let (folder, name) = split(tree, at)?;
            let how = OpenHow {
                read: true,
                write: true,
                ..OpenHow::default()
            };
            let (found, _) = tree.create(CALLER, &folder, Name::new(&name)?, (0o666, how))?;
            seen(&found.node)
        }
        Step::Link { from, to } => {
            let node = find(tree, from)?;
            let (folder, name) = split(tree, to)?;
            tree.link(&node, &folder, Name::new(&name)?)?;
            seen(&node)
        }
        Step::SymbolicLink(at) => {
            let (folder, name) = split(tree, at)?;
            let made = tree.make_symbolic_link(CALLER, &folder, Name::new(&name)?, c"/etc/passwd");
            seen(&made?.node)
        }
        Step::RemoveFile(at) => {
            let (folder, name) = split(tree, at)?;
            tree.remove_file(&folder, Name::new(&name)?)
                .map(|()| Seen::Done)
        }
        Step::RemoveDirectory(at) => {
            let (folder, name) = split(tree, at)?;
            tree.remove_directory(&folder, Name::new(&name)?)
                .map(|()| Seen::Done)
        }
        Step::Rename { from, to, how } => {
            let (folder, name) = split(tree, from)?;
            let (new_folder, new_name) = split(tree, to)?;
            let how = RenameHow {
                no_replace: *how == 1,
                exchange: *how == 2,
                whiteout: false,
            };
            let from = (&folder, Name::new(&name)?);
            tree.rename(from, (&new_folder, Name::new(&new_name)?), how)
                .map(|()| Seen::Done)
        }
        Step::Write(at, offset, bytes, append) => {
            let how = OpenHow {
                write: true,
                ..OpenHow::default()
            };
            let file = tree.open(&find(tree, at)?, how)?;
            let (left, right) = bytes.split_at(bytes.len() / 2);
            let list = [Source::from(left), Source::from(right)];
            tree.write(&file, &list, u64::from(*offset), *append)?;
            seen(&find(tree, at)?)
        }
        Step::Truncate(at, size) => {
            let changes = Changes {
                size: Some(u64::from(*size)),
                ..Changes::default()
            };
            let node = find(tree, at)?;
            tree.change(&node, None, &changes)?;
            seen(&node)
        }
        Step::Mode(at, mode) => {
            let changes = Changes {
                mode: Some(*mode),
                ..Changes::default()
            };
            let node = find(tree, at)?;
            tree.change(&node, None, &changes)?;
            seen(&node)
        }
        Step::Read(at) => {
            let how = OpenHow {
                read: true,
                ..OpenHow::default()
            };
            let file = tree.open(&find(tree, at)?, how)?;
            let mut bytes = [0; 512];
            let (left, right) = bytes.split_at_mut(100);
            let count = tree.read(&file, &[Sink::from(left), Sink::from(right)], 0)?;
            Ok(Seen::Bytes(bytes[..count].to_vec()))
        }
        Step::ReadLink(at) => {
            let mut target = Vec::new();
            tree.read_link(&find(tree, at)?, &mut target)?;
            Ok(Seen::Bytes(target))
        }
    }
}

/// All names below, with what they are.
pub(super) fn listing<T: Tree>(
    tree: &T,
    node: &T::Node,
    path: &str,
    into: &mut Vec<(String, Kind, u32)>,
) {
    let directory = tree.open_directory(node).unwrap();
    let mut names = Vec::new();
    tree.entries(&directory, 0, 4096, &mut |entry| {
        names.push(entry.name.to_owned());
        true
    })
    .unwrap();
    drop(directory);
    names.sort();
    for name in names {
        let Ok(name) = Name::new(&name) else { continue };
        let found = tree.child(node, name).unwrap();
        let path = format!("{path}/{}", name.as_c_str().to_str().unwrap());
        into.push((path.clone(), found.attributes.kind, found.attributes.links));
        if found.attributes.kind == Kind::Directory {
            listing(tree, &found.node, &path, into);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn a_folder_behaves_as_the_model(
        steps in prop::collection::vec(step(), 1..60),
        few in any::<bool>(),
    ) {
        rustix::process::umask(rustix::fs::Mode::empty());
        let folder = tempfile::tempdir().unwrap();
        let descriptors = Descriptors::new(if few { 7 } else { 1000 });
        let host = HostTree::open(folder.path(), descriptors.clone(), |host| OwnerMap::Map {
            host,
            guest: GuestOwner { uid: GuestUid(0), gid: GuestGid(0) },
        })
        .unwrap();
        let host = if few { host.by_names() } else { host };
        let model = MemoryTree::new();
        for step in &steps {
            let (real, modelled) = (apply(&host, step), apply(&model, step));
            prop_assert_eq!(real, modelled, "{:?}", step);
        }
        let (mut real, mut modelled) = (Vec::new(), Vec::new());
        listing(&host, &host.root().unwrap().node, "", &mut real);
        listing(&model, &model.root().unwrap().node, "", &mut modelled);
        prop_assert_eq!(real, modelled);
        prop_assert_eq!(descriptors.held(), 0, "every descriptor is given back");
    }
}

#[test]
fn the_bound_of_descriptors_is_for_what_is_open() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["a", "b"] {
        std::fs::write(folder.path().join(name), "").unwrap();
    }
    let descriptors = Descriptors::new(4);
    let host = HostTree::open(folder.path(), descriptors.clone(), |_| OwnerMap::Pass).unwrap();
    let root = host.root().unwrap().node;
    let (a, b) = (Name::new(c"a").unwrap(), Name::new(c"b").unwrap());
    let known: Vec<_> = (0..50).map(|_| host.child(&root, a).unwrap()).collect();
    assert_eq!((descriptors.refused.get(), descriptors.known()), (0, 51));
    assert!(descriptors.held() <= 4, "{descriptors:?}");
    // The folder, the node and both files are all that fits.
    let open = |node| host.open(node, OpenHow::default());
    let files = (open(&known[0].node).unwrap(), open(&known[0].node).unwrap());
    assert_eq!(open(&known[0].node).unwrap_err(), Errno::MFILE);
    assert_eq!(host.child(&root, b).unwrap_err(), Errno::MFILE);
    assert_eq!((descriptors.held(), descriptors.refused.get()), (4, 2));
    host.attributes(&known[0].node).unwrap();
    drop(files);
    host.child(&root, b).unwrap();
    drop((known, root));
    assert_eq!((descriptors.held(), descriptors.known()), (0, 0));
    assert_eq!(descriptors.let_go(), 0);
}

#[test]
fn the_bound_of_nodes_is_an_answer() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a"), "").unwrap();
    let descriptors = Descriptors::with_nodes(100, 3);
    let host = HostTree::open(folder.path(), descriptors.clone(), |_| OwnerMap::Pass).unwrap();
    let root = host.root().unwrap().node;
    let find = || host.child(&root, Name::new(c"a").unwrap());
    let known = (find().unwrap(), find().unwrap());
    assert_eq!(find().unwrap_err(), Errno::NFILE);
    assert_eq!(descriptors.refused_nodes.get(), 1);
    drop(known);
    find().unwrap();
}
