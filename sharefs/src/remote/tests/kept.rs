//! What a server holds for us: let go of, and never taken for something else.

use std::ffi::CString;
use std::sync::mpsc;
use std::time::Duration;

use rustix::io::Errno;

use super::{Says, attributes, caller, frame, honest, limits, name, pair, qid, visit};
use crate::ninep::messages::{Reply, Request};
use crate::ninep::wire::{Few, Text};
use crate::remote::line::Limits;
use crate::tree::Tree;

#[test]
fn what_is_let_go_is_let_go_at_the_server_too() {
    let pair = pair();
    let tree = &pair.tree;
    let root = tree.root().unwrap().node;
    for number in 0..300 {
        let text = CString::new(format!("n{number}")).unwrap();
        tree.make_directory(caller(), &root, name(&text), 0o755)
            .unwrap();
        assert_eq!(
            tree.child(&root, name(c"missing")).err(),
            Some(Errno::NOENT)
        );
    }
    // Clunks are answered meanwhile; so many fids stay that have no tag yet.
    for _ in 0..1000 {
        tree.attributes(&root).unwrap();
        if tree.line.fids() <= 2 {
            return;
        }
    }
    panic!("{} fids stay", tree.line.fids());
}

/// A server of folders: which lies at a name of which. The root is 1.
fn folders(below: impl Fn(u64, &[u8]) -> u64 + Send + 'static) -> Box<Says> {
    let mut places = std::collections::HashMap::new();
    Box::new(move |tag, request| {
        let reply = match &request {
            Request::Attach { fid, .. } => {
                places.insert(*fid, 1);
                Reply::Attach { qid: qid(1) }
            }
            Request::Walk {
                fid,
                new_fid,
                names,
            } => {
                let mut at = places[fid];
                let mut qids = Few::default();
                for Text(name) in names.as_slice() {
                    at = below(at, name);
                    qids.push(qid(at)).unwrap();
                }
                places.insert(*new_fid, at);
                Reply::Walk { qids }
            }
            Request::Attributes { fid, .. } => attributes(places[fid], 0o040_755),
            _ => return Some(honest(tag, &request)),
        };
        Some(frame(tag, &reply))
    })
}

#[test]
fn folders_without_end_are_dropped_one_by_one() {
    let small = std::thread::Builder::new().stack_size(128 << 10);
    let walk = small.spawn(|| {
        let (tree, _connection) = visit(limits(), folders(|at, _| at + 1)).0.unwrap();
        let mut all = vec![tree.root().unwrap().node];
        for _ in 0..3_000 {
            let below = tree.child(all.last().unwrap(), name(c"d")).unwrap();
            all.push(below.node);
        }
        // The ones above first, as a session's table does it.
        for node in all {
            drop(node);
        }
    });
    walk.unwrap().join().unwrap();
}

#[test]
fn folders_in_a_circle_are_let_go_of() {
    let round = |_: u64, name: &[u8]| if name == b"a" { 10 } else { 11 };
    let (tree, _connection) = visit(limits(), folders(round)).0.unwrap();
    let root = tree.root().unwrap().node;
    let a = tree.child(&root, name(c"a")).unwrap().node;
    let b = tree.child(&a, name(c"b")).unwrap().node;
    let again = tree.child(&b, name(c"a")).unwrap().node;
    assert_eq!(a.identity, again.identity);
    let (first, second) = (std::sync::Arc::downgrade(&a), std::sync::Arc::downgrade(&b));
    drop((a, b, again));
    assert!(first.upgrade().is_none() && second.upgrade().is_none());
}

/// What a server has done with a fid.
#[derive(Debug, PartialEq, Eq)]
enum Done {
    WalkedLate(u32),
    Clunked(u32),
}

#[test]
fn a_fid_whose_walk_is_not_answered_is_not_used_again_before_it_is() {
    // Holds the answer of the walk to "slow" until it is asked for statistics.
    let mut held = None;
    let (tell, told) = mpsc::sync_channel(256);
    let says = Box::new(move |tag, request: Request<'_>| {
        let answer = honest(tag, &request);
        match request {
            Request::Walk { names, new_fid, .. } if names.as_slice().contains(&Text(b"slow")) => {
                held = Some((answer, new_fid));
                return Some(Vec::new());
            }
            Request::Statistics { .. } => {
                let (late, slow) = held.take().unwrap();
                tell.send(Done::WalkedLate(slow)).unwrap();
                return Some([late, answer].concat());
            }
            Request::Clunk { fid } => tell.send(Done::Clunked(fid)).unwrap(),
            _ => {}
        }
        Some(answer)
    });
    let short = Limits {
        call: Duration::from_secs(1),
        ..limits()
    };
    let (attached, _lost) = visit(short, says);
    let (tree, _connection) = attached.unwrap();
    let root = tree.root().unwrap();
    let slow = tree.child(&root.node, name(c"slow"));
    assert_eq!(slow.err(), Some(Errno::IO));
    for _ in 0..20 {
        tree.child(&root.node, name(c"quick")).unwrap();
    }
    assert_eq!(tree.statistics(&root.node).err(), Some(Errno::OPNOTSUPP));
    let mut done: Vec<Done> = Vec::new();
    let is_clunked_late = |done: &[Done]| {
        let late = done
            .iter()
            .position(|done| matches!(done, Done::WalkedLate(_)));
        late.and_then(|at| done.split_at_checked(at))
            .is_some_and(|(before, after)| {
                let Some(&Done::WalkedLate(slow)) = after.first() else {
                    return false;
                };
                assert!(!before.contains(&Done::Clunked(slow)), "{before:?}");
                after.contains(&Done::Clunked(slow))
            })
    };
    while !is_clunked_late(&done) {
        done.push(told.recv_timeout(Duration::from_secs(10)).unwrap());
    }
}
