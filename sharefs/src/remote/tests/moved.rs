//! Files that are moved while others look at them, at a server to which a fid is a path.

use std::sync::mpsc;

use super::{Says, attributes, frame, honest, limits, name, qid, visit};
use crate::ninep::messages::{Reply, Request};
use crate::ninep::wire::Few;
use crate::tree::{RenameHow, Tree};

/// A server to which a fid is a path, as to diod: of file 7, which is moved from "old" to "new", and of file 8, which has any
/// other name. What is asked first of a fid at `late` is answered before the first Tstatfs, and told to `held`.
fn server_of_paths(late: &'static [u8], held: mpsc::SyncSender<()>) -> Box<Says> {
    let mut paths = std::collections::HashMap::new();
    let (mut moved, mut waits, mut answer) = (false, true, Vec::new());
    let is_there = |path: &[u8], moved: bool| match path {
        b"old" => !moved,
        b"new" => moved,
        _ => true,
    };
    let number = |path: &[u8]| {
        if [&b"old"[..], b"new"].contains(&path) {
            7
        } else {
            8
        }
    };
    Box::new(move |tag, request: Request<'_>| {
        let reply = match request {
            Request::Walk { new_fid, names, .. } => {
                let mut qids = Few::default();
                for name in names.as_slice() {
                    if !is_there(name.0, moved) {
                        return Some(frame(tag, &Reply::Error { code: 2 }));
                    }
                    paths.insert(new_fid, name.0.to_vec());
                    qids.push(qid(number(name.0))).unwrap();
                }
                Reply::Walk { qids }
            }
            Request::Attributes { fid, .. } => match paths.get(&fid) {
                Some(path) if !is_there(path, moved) => Reply::Error { code: 2 },
                Some(path) => attributes(number(path), 0o100_644),
                None => attributes(1, 0o040_755),
            },
            Request::RenameAt { name, .. } => {
                moved |= name.0 == b"old";
                Reply::RenameAt {}
            }
            Request::Statistics { .. } => {
                let mut all = std::mem::take(&mut answer);
                all.extend(frame(tag, &Reply::Error { code: 95 }));
                return Some(all);
            }
            _ => return Some(honest(tag, &request)),
        };
        let asked = match request {
            Request::Attributes { fid, .. } => paths.get(&fid),
            _ => None,
        };
        if waits && asked.is_some_and(|path| path == late) {
            waits = false;
            answer = frame(tag, &reply);
            held.send(()).ok();
            return Some(Vec::new());
        }
        Some(frame(tag, &reply))
    })
}

/// Who saw a file before it was moved, and says so after, does not make others look where it was.
#[test]
fn a_file_is_where_it_was_moved_to_though_somebody_saw_it_before() {
    let (held, is_held) = mpsc::sync_channel(1);
    let (attached, _told) = visit(limits(), server_of_paths(b"old", held));
    let (tree, _connection) = attached.unwrap();
    let root = tree.root().unwrap().node;
    std::thread::scope(|scope| {
        let early = scope.spawn(|| tree.child(&root, name(c"old")).unwrap().node);
        is_held.recv().unwrap();
        let (from, to) = ((&root, name(c"old")), (&root, name(c"new")));
        tree.rename(from, to, RenameHow::default()).unwrap();
        let now = tree.child(&root, name(c"new")).unwrap().node;
        tree.statistics(&root).unwrap_err();
        let before = early.join().unwrap();
        assert_eq!(before.identity, now.identity);
        tree.attributes(&before).unwrap();
    });
}

/// Nor does who moves another file meanwhile.
#[test]
fn a_file_is_where_it_was_moved_to_though_another_was_moved_meanwhile() {
    let (held, is_held) = mpsc::sync_channel(1);
    let (attached, _told) = visit(limits(), server_of_paths(b"new", held));
    let (tree, _connection) = attached.unwrap();
    let root = tree.root().unwrap().node;
    let moved = tree.child(&root, name(c"old")).unwrap().node;
    let rename = |old, new| {
        let how = RenameHow::default();
        tree.rename((&root, name(old)), (&root, name(new)), how)
    };
    std::thread::scope(|scope| {
        let slow = scope.spawn(|| rename(c"old", c"new"));
        is_held.recv().unwrap();
        rename(c"other", c"else").unwrap();
        tree.statistics(&root).unwrap_err();
        slow.join().unwrap().unwrap();
    });
    tree.attributes(&moved).unwrap();
}
