//! LOOKUP through the layers of a share: the short way, by name, and the long one tell the same.

use std::sync::Arc;

use rustix::io::Errno;

use super::client::Client;
use crate::fuse::cache::Cache;
use crate::fuse::session::Session;
use crate::tree::case::{Case, CaseTree};
use crate::tree::host::HostTree;
use crate::tree::host::descriptors::Descriptors;
use crate::tree::names::{Names, Spelling};
use crate::tree::owner::{GuestGid, GuestOwner, GuestUid, OwnerMap};
use crate::tree::owner_store::OwnerStore;
use crate::tree::places::{Letters, Places, Rules};

const ROOT: u64 = 1;
const FIFO: u32 = 0o010_644;

#[test]
fn a_known_node_is_told_as_it_is_kept_and_a_hidden_one_not_at_all() {
    rustix::process::umask(rustix::fs::Mode::empty());
    let folder = tempfile::tempdir().unwrap();
    let descriptors = Descriptors::new(1000);
    let (uid, gid) = (GuestUid(0), GuestGid(0));
    let tree = HostTree::open(folder.path(), Arc::clone(&descriptors), |host| {
        let guest = GuestOwner { uid, gid };
        OwnerMap::Map { host, guest }
    });
    let owners = match OwnerStore::new(tree.unwrap()) {
        Err(Errno::OPNOTSUPP) => {
            eprintln!("no extended attributes here: nothing to see");
            return;
        }
        owners => owners.unwrap(),
    };
    let hidden = vec!["*.secret".parse().unwrap()];
    let places = Places::new(owners, Rules::new(hidden, Vec::new(), Letters::Folded));
    let names = Names::new(places, Spelling::Windows);
    let tree = CaseTree::new(names, Case::Insensitive, || std::time::Duration::ZERO);
    let session = Session::new(Arc::new(tree), Cache::Auto, Arc::default());
    let client = Client::of(Arc::new(session), descriptors);

    let pipe = client.make_node(ROOT, c"pipe", FIFO).unwrap().node;
    let (file, _) = client.create(ROOT, c"a:b", 2, 0o644).unwrap();
    client
        .set_attributes(file, &[("uid", 1234), ("mode", 0o4711)])
        .unwrap();
    std::fs::write(folder.path().join("x.secret"), "").unwrap();

    // The first is asked the long way, since what was made is new; the others are known.
    for turn in 0..4 {
        let found = client.lookup(ROOT, c"PIPE").unwrap();
        assert_eq!((found.node, found.attributes.mode), (pipe, FIFO), "{turn}");
        let found = client.lookup(ROOT, c"A:B").unwrap();
        let seen = (found.attributes.uid, found.attributes.mode);
        assert_eq!((found.node, seen), (file, (1234, 0o104_711)), "{turn}");
        assert_eq!(client.lookup(ROOT, c"x.secret").err(), Some(Errno::NOENT));
        assert_eq!(client.lookup(ROOT, c"other").err(), Some(Errno::NOENT));
    }

    // Told five times each, and forgotten as often: nothing is held.
    let held = client.held();
    client.forget(pipe, 5);
    assert_eq!(client.held(), held - 1);
    assert_eq!(client.attributes(pipe).err(), Some(Errno::STALE));
}
