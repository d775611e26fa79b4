//! READDIR and READDIRPLUS: complete, stable under change, and counted as lookups.

use std::collections::BTreeSet;

use super::client::{Client, Options, dirents};
use super::opcode;

#[test]
fn entries_that_stay_are_listed_once_while_others_come_and_go() {
    let client = Client::new(Options::default());
    for index in 0..300 {
        std::fs::write(client.path(&format!("stays{index:03}")), "").unwrap();
        std::fs::write(client.path(&format!("goes{index:03}")), "").unwrap();
    }
    let handle = client.open_directory(1).unwrap();
    let (mut offset, mut seen, mut round) = (0, Vec::new(), 0);
    loop {
        let answer = client
            .read_directory(1, (handle, offset), 1024, false)
            .unwrap();
        if answer.is_empty() {
            break;
        }
        for (name, next) in dirents(&answer, 0) {
            seen.push(name);
            offset = next;
        }
        std::fs::remove_file(client.path(&format!("goes{round:03}"))).unwrap();
        std::fs::write(client.path(&format!("comes{round:03}")), "").unwrap();
        round += 1;
    }
    assert!(round > 10, "it took several rounds");
    let stays: Vec<_> = seen
        .iter()
        .filter(|name| name.starts_with("stays"))
        .collect();
    let once: BTreeSet<_> = stays.iter().collect();
    assert_eq!((stays.len(), once.len()), (300, 300));
}

#[test]
fn a_directory_can_be_read_again_from_any_place() {
    let client = Client::new(Options::default());
    for index in 0..50 {
        std::fs::write(client.path(&format!("f{index}")), "").unwrap();
    }
    let handle = client.open_directory(1).unwrap();
    let all = dirents(
        &client.read_directory(1, (handle, 0), 65536, false).unwrap(),
        0,
    );
    assert_eq!(all.len(), 52);
    for place in [10, 3, 40, 51] {
        let from = all[place - 1].1;
        let rest = dirents(
            &client
                .read_directory(1, (handle, from), 65536, false)
                .unwrap(),
            0,
        );
        assert_eq!(rest, all[place..], "from {place}");
    }
}

#[test]
fn plus_counts_a_lookup_for_each_entry_but_the_dots() {
    let client = Client::new(Options::default());
    for name in ["a", "b"] {
        std::fs::write(client.path(name), "").unwrap();
    }
    let handle = client.open_directory(1).unwrap();
    let answer = client.read_directory(1, (handle, 0), 4096, true).unwrap();
    assert_eq!(dirents(&answer, 128).len(), 4);
    assert_eq!(client.session().size().0, 3);
    for name in [c"a", c"b"] {
        let node = client.lookup(1, name).unwrap().node;
        client.forget(node, 2);
    }
    assert_eq!(client.session().size().0, 1);
    // An entry that found no room was not counted.
    let answer = client
        .read_directory(1, (handle, 0), 128 + 32 + 100, true)
        .unwrap();
    assert_eq!(dirents(&answer, 128).len(), 1);
    assert!(client.session().size().0 <= 2);
}

#[test]
fn plus_leaves_half_of_the_nodes_to_those_who_ask() {
    let client = Client::new(Options {
        nodes: 40,
        ..Options::default()
    });
    for index in 0..100 {
        std::fs::write(client.path(&format!("f{index:02}")), "").unwrap();
    }
    let handle = client.open_directory(1).unwrap();
    let answer = client.read_directory(1, (handle, 0), 65536, true).unwrap();
    assert_eq!(dirents(&answer, 128).len(), 102);
    assert_eq!(client.descriptors.known(), 21);
    for name in [c"f10", c"f50", c"f90"] {
        client.lookup(1, name).unwrap();
    }
}

#[test]
fn a_batch_of_forgets_is_one_request() {
    let client = Client::new(Options::default());
    let mut list = Vec::new();
    for name in [c"a", c"b", c"c"] {
        list.extend(client.make_directory(1, name).unwrap().node.to_le_bytes());
        list.extend(1_u64.to_le_bytes());
    }
    let body = [&3_u64.to_le_bytes()[..], &list].concat();
    let request = Client::request(5, opcode::BATCH_FORGET, 0, &[&body]);
    client.raw(&request, 0);
    assert_eq!(client.session().size().0, 1);
}
