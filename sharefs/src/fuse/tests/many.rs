//! Several shares behind one device, driven through bytes as a guest's kernel does, on real folders.

use std::ffi::CString;
use std::path::PathBuf;
use std::sync::Arc;

use proptest::prelude::*;
use rustix::io::Errno;

use super::client::{Client, answer_body, dirents};
use super::locking::{EXCLUSIVE, TO_THE_END, lock, set};
use super::{O_RDWR, opcode};
use crate::fuse::cache::Cache;
use crate::fuse::counters::Counters;
use crate::fuse::many::{Listing, MakePart, Many, Offer};
use crate::fuse::nodes::space_of;
use crate::fuse::session::{Outcome, Serve, Session};
use crate::fuse::wire::opcode_name;
use crate::tree::Timestamp;
use crate::tree::host::HostTree;
use crate::tree::host::descriptors::Descriptors;
use crate::tree::owner::OwnerMap;
use crate::tree::read_only::ReadOnly;

/// Folders, what is offered of them, and the guest.
struct World {
    root: tempfile::TempDir,
    descriptors: Arc<Descriptors>,
    counters: Arc<Counters>,
    many: Arc<Many>,
    listing: Listing,
    client: Client,
}

impl World {
    /// Shares with a folder of the same name each; `ro` at its end makes one read-only.
    fn new(names: &[&str]) -> Self {
        let root = tempfile::tempdir().unwrap();
        let descriptors = Descriptors::new(1000);
        let many = Arc::new(Many::new(&Listing::default(), Arc::default(), None));
        let session: Arc<dyn Serve> = Arc::clone(&many) as Arc<dyn Serve>;
        let mut world = Self {
            client: Client::of(session, Arc::clone(&descriptors)),
            root,
            descriptors,
            counters: Arc::default(),
            many,
            listing: Listing::default(),
        };
        for name in names {
            world.offer(name, name);
        }
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// Adds a share, or puts another in its place.
    fn offer(&mut self, name: &str, folder: &str) {
        let path = self.path(folder);
        std::fs::create_dir_all(&path).unwrap();
        let open = || HostTree::open(&path, Arc::clone(&self.descriptors), |_| OwnerMap::Pass);
        let counters = Arc::clone(&self.counters);
        let options = move || (Cache::Auto, Arc::clone(&counters));
        let make: MakePart = if name.ends_with("ro") {
            let tree = Arc::new(ReadOnly(open().unwrap()));
            Box::new(move |mounted, keeping| {
                let part = Session::part(Arc::clone(&tree), options(), mounted, (keeping, 0))?;
                Ok(Arc::new(part))
            })
        } else {
            let tree = Arc::new(open().unwrap());
            Box::new(move |mounted, keeping| {
                let part = Session::part(Arc::clone(&tree), options(), mounted, (keeping, 0))?;
                Ok(Arc::new(part))
            })
        };
        self.withdraw(name);
        let name = CString::new(name).unwrap();
        self.listing.offers.push(Arc::new(Offer { name, make }));
        self.update();
    }

    fn withdraw(&mut self, name: &str) {
        let other = |offer: &Arc<Offer>| offer.name.to_bytes() != name.as_bytes();
        self.listing.offers.retain(other);
        self.update();
    }

    fn update(&mut self) {
        self.listing.changed.seconds += 1;
        self.many.update(&self.listing);
    }

    /// The number of a share's root.
    fn root_of(&self, name: &str) -> u64 {
        let name = CString::new(name).unwrap();
        self.client.lookup(1, &name).unwrap().node
    }
}

#[test]
fn each_share_is_a_folder_of_its_own_and_a_file_system_of_its_own() {
    const SUBMOUNT: u32 = 1;
    let world = World::new(&["a", "b-ro"]);
    std::fs::write(world.path("b-ro").join("kept"), "as it was").unwrap();
    let client = &world.client;
    assert_eq!(client.list(1).unwrap(), [".", "..", "a", "b-ro"]);
    let entry = client.lookup(1, c"a").unwrap();
    assert_eq!(entry.attributes.flags, SUBMOUNT);
    let (_, handle) = client.create(entry.node, c"new", O_RDWR, 0o644).unwrap();
    assert_eq!(client.at(entry.node).write(handle, 0, b"x", 0), Ok(1));
    assert_eq!(std::fs::read(world.path("a").join("new")).unwrap(), b"x");

    let frozen = world.root_of("b-ro");
    assert_eq!(
        client.create(frozen, c"new", O_RDWR, 0o644),
        Err(Errno::ROFS)
    );
    let kept = client.lookup(frozen, c"kept").unwrap().node;
    let handle = client.open(kept, 0).unwrap();
    assert_eq!(
        client.at(kept).read(handle, 0, 99).as_deref(),
        Ok(&b"as it was"[..])
    );
    assert_eq!(client.lookup(1, c"c").unwrap_err(), Errno::NOENT);
    let blocks = client.plain_request(opcode::STATFS, entry.node).unwrap()[..8].to_vec();
    assert_ne!(blocks, [0; 8], "a share has the numbers of its disk");
}

#[test]
fn the_folder_of_shares_cannot_be_changed_and_says_when_it_has_changed() {
    let mut world = World::new(&["a", "b"]);
    let (a, client) = (world.root_of("a"), &world.client);
    let errors = [
        client.make_directory(1, c"new").map(drop),
        client.make_node(1, c"new", 0o100644).map(drop),
        client.symlink(1, c"new", c"a").map(drop),
        client.create(1, c"new", O_RDWR, 0o644).map(drop),
        client.create_unnamed(1, O_RDWR, 0o644).map(drop),
        client.link(a, 1, c"new").map(drop),
        client.name_request(opcode::UNLINK, 1, c"a"),
        client.name_request(opcode::RMDIR, 1, c"a"),
        client.rename(1, c"a", 1, c"c", 0),
        client.set_attributes(1, &[("mode", 0o777)]).map(drop),
        client.set_extended(1, c"user.x", b"1", 0),
        client.remove_extended(1, c"user.x"),
        client
            .ask(opcode::ACCESS, 1, &[&[2, 0, 0, 0, 0, 0, 0, 0]], 0)
            .map(drop),
    ];
    for (index, error) in errors.into_iter().enumerate() {
        assert_eq!(error, Err(Errno::ROFS), "{index}");
    }
    assert_eq!(client.rename(1, c"a", a, c"c", 0), Err(Errno::XDEV));
    assert_eq!(client.rename(a, c"x", 1, c"c", 0), Err(Errno::XDEV));
    assert_eq!(client.open(1, O_RDWR), Err(Errno::ISDIR));
    // Not ENOSYS, which would keep the guest from asking shares.
    assert_eq!(client.extended(1, c"user.x", 99), Err(Errno::NODATA));
    assert_eq!(client.list_extended(1, 99).as_deref(), Ok(&[][..]));

    let before = client.attributes(1).unwrap();
    assert_eq!((before.mode, before.links), (0o40555, 4));
    world.withdraw("b");
    let after = world.client.attributes(1).unwrap();
    assert!(after.modified > before.modified && after.links == 3);
}

#[test]
fn two_shares_of_one_folder_are_two_and_nothing_crosses_from_one_to_the_other() {
    let mut world = World::new(&["a"]);
    world.offer("b", "a");
    std::fs::write(world.path("a").join("file"), "0123456789").unwrap();
    let (a, b, client) = (world.root_of("a"), world.root_of("b"), &world.client);
    let (in_a, in_b) = (
        client.lookup(a, c"file").unwrap().node,
        client.lookup(b, c"file").unwrap().node,
    );
    assert!(a != b && in_a != in_b && space_of(in_a) != space_of(in_b));
    assert_eq!(client.rename(a, c"file", b, c"x", 0), Err(Errno::XDEV));
    assert_eq!(client.link(in_a, b, c"x").unwrap_err(), Errno::XDEV);
    let (from, to) = (
        client.open(in_a, O_RDWR).unwrap(),
        client.open(in_b, O_RDWR).unwrap(),
    );
    assert_eq!(
        client.at(in_a).copy_range_to((from, 0), (in_b, to, 5), 5),
        Err(Errno::XDEV)
    );
    // What one locks the other finds locked, as two guests do.
    set(client, in_a, &lock(from, 1, (0, 9), EXCLUSIVE, 0)).unwrap();
    let other = set(client, in_b, &lock(to, 1, (0, 9), EXCLUSIVE, 0));
    assert_eq!(other, Err(Errno::AGAIN));

    let list = [(in_a, 1_u64), (in_b, 1), (a, 1), (77, 1)];
    let mut body = 4_u32.to_le_bytes().to_vec();
    body.extend([0; 4]);
    for (node, times) in list {
        body.extend(node.to_le_bytes());
        body.extend(times.to_le_bytes());
    }
    let request = Client::request(9, opcode::BATCH_FORGET, 0, &[&body]);
    assert_eq!(client.raw(&request, 0).0, Outcome::Done(0));
    assert_eq!(client.attributes(in_a).unwrap_err(), Errno::STALE);
    assert_eq!(client.attributes(in_b).unwrap_err(), Errno::STALE);
    client.attributes(a).expect("roots are not forgotten");
}

#[test]
fn a_share_that_went_is_stale_with_all_in_it_and_its_root_comes_back() {
    let mut world = World::new(&["a", "b"]);
    let (a, b) = (world.root_of("a"), world.root_of("b"));
    let (file, handle) = world.client.create(a, c"f", O_RDWR, 0o644).unwrap();
    let (other, kept) = world.client.create(b, c"f", O_RDWR, 0o644).unwrap();
    world.client.open_directory(a).unwrap();
    world.withdraw("a");
    let client = &world.client;
    assert_eq!(client.list(1).unwrap(), [".", "..", "b"]);
    assert_eq!(client.lookup(1, c"a").unwrap_err(), Errno::NOENT);
    for error in [
        client.attributes(a).map(drop),
        client.attributes(file).map(drop),
        client.lookup(a, c"f").map(drop),
        client.at(file).read(handle, 0, 1).map(drop),
        client.at(file).write(handle, 0, b"x", 0).map(drop),
        client.flush(file, handle, 1),
        client.at(file).release(handle),
    ] {
        assert_eq!(error, Err(Errno::STALE));
    }
    client.forget(file, 1);
    assert_eq!(client.at(other).write(kept, 0, b"x", 0), Ok(1));
    assert_eq!(
        client.held(),
        3,
        "the root, the file and the open file of b"
    );

    world.offer("a", "a");
    let client = &world.client;
    client.attributes(a).expect("a mount of it shows it again");
    assert_eq!(client.lookup(1, c"a").unwrap().node, a);
    assert_eq!(client.attributes(file).unwrap_err(), Errno::STALE);
    let again = client.lookup(a, c"f").unwrap().node;
    assert_ne!(again, file, "numbers are never used again");
}

#[test]
fn a_share_whose_options_change_is_another_one_at_once() {
    let mut world = World::new(&["x-ro"]);
    let root = world.root_of("x-ro");
    world.offer("y", "x-ro");
    let y = world.root_of("y");
    let (file, handle) = world.client.create(y, c"f", O_RDWR, 0o644).unwrap();
    // As `read-only = true` written into the file: the writer is cut off.
    world.offer("y", "y");
    assert_eq!(
        world.client.at(file).write(handle, 0, b"x", 0),
        Err(Errno::STALE)
    );
    assert_eq!(world.root_of("y"), y);
    assert_eq!(
        world.client.lookup(y, c"f").unwrap_err(),
        Errno::NOENT,
        "it is the other folder"
    );
    world
        .client
        .lookup(root, c"f")
        .expect("others are as they were");
}

#[test]
fn a_lock_that_waits_in_a_share_that_goes_is_answered() {
    let mut world = World::new(&["a"]);
    let a = world.root_of("a");
    let client = &world.client;
    let (file, handle) = client.create(a, c"f", O_RDWR, 0o644).unwrap();
    set(
        client,
        file,
        &lock(handle, 1, (0, TO_THE_END), EXCLUSIVE, 0),
    )
    .unwrap();
    let wait = |unique| {
        let body = lock(handle, 2, (0, TO_THE_END), EXCLUSIVE, 0);
        let request = Client::request(unique, opcode::SETLKW, file, &[&body]);
        assert_eq!(client.raw(&request, 16).0, Outcome::Waits(unique));
    };
    wait(100);
    wait(101);
    assert_eq!(client.session().retry(100), None);
    let interrupt = Client::request(102, opcode::INTERRUPT, 0, &[&100_u64.to_le_bytes()]);
    client.raw(&interrupt, 0);
    let answer = client.session().retry(100).unwrap();
    assert_eq!(answer_body(100, &answer), Err(Errno::INTR));
    world.withdraw("a");
    let answer = world.client.session().retry(101).unwrap();
    assert_eq!(answer_body(101, &answer), Err(Errno::STALE));
}

#[test]
fn a_folder_that_was_replaced_is_the_new_one_at_the_next_look() {
    let world = World::new(&["a"]);
    let (root, client) = (world.root_of("a"), &world.client);
    client.make_directory(root, c"old").unwrap();
    std::fs::rename(world.path("a"), world.path("moved")).unwrap();
    client
        .lookup(root, c"old")
        .expect("who is in it stays in it");
    // Asked for as often as a program likes, it costs no numbers.
    for _ in 0..100 {
        assert_eq!(client.lookup(1, c"a").unwrap_err(), Errno::NOENT);
    }
    std::fs::create_dir_all(world.path("a").join("new")).unwrap();
    assert_eq!(world.root_of("a"), root);
    let new = client.lookup(root, c"new").unwrap().node;
    assert_eq!(space_of(new), 2);
    assert_eq!(client.lookup(root, c"old").unwrap_err(), Errno::NOENT);
}

#[test]
fn a_missing_folder_costs_no_numbers_however_often_it_is_asked_for() {
    let world = World::new(&["a"]);
    std::fs::rename(world.path("a"), world.path("moved")).unwrap();
    for _ in 0..100 {
        assert_eq!(world.client.lookup(1, c"a").unwrap_err(), Errno::NOENT);
    }
    std::fs::create_dir_all(world.path("a").join("new")).unwrap();
    let root = world.root_of("a");
    let new = world.client.lookup(root, c"new").unwrap().node;
    assert_eq!(space_of(new), 1);
}

#[test]
fn fifty_shares_are_listed_once_each_while_others_come_and_go() {
    let names: Vec<String> = (0..50).map(|index| format!("share-{index}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut world = World::new(&names);
    let (mut offset, mut seen) = (0, Vec::new());
    loop {
        let answer = world
            .client
            .read_directory(1, (0, offset), 300, false)
            .unwrap();
        if answer.is_empty() {
            break;
        }
        for (name, next) in dirents(&answer, 0) {
            seen.push(name);
            offset = next;
        }
        // One that was listed goes, and is there again; one more comes.
        world.withdraw("share-0");
        world.offer("share-0", "share-0");
        world.offer(&format!("late-{offset}"), "late");
        if offset > 100 {
            break;
        }
    }
    for name in names {
        let times = seen.iter().filter(|seen| *seen == name).count();
        assert_eq!(times, 1, "{name}");
        let root = world.root_of(name);
        world.client.make_directory(root, c"own").unwrap();
    }
    let plus = world.client.read_directory(1, (0, 0), 65536, true).unwrap();
    assert!(dirents(&plus, 128).len() > 52);
    assert_eq!(world.client.session().size().0, 100);
}

#[test]
fn a_guest_that_mounts_again_begins_anew() {
    let world = World::new(&["a"]);
    let root = world.root_of("a");
    let (file, _) = world.client.create(root, c"f", O_RDWR, 0o644).unwrap();
    world.client.plain_request(opcode::DESTROY, 1).unwrap();
    assert!(!world.client.session().mounted());
    assert_eq!(world.client.held(), 0);
    for node in [1, root] {
        assert_eq!(world.client.attributes(node).unwrap_err(), Errno::IO);
    }
    assert_eq!(world.client.attributes(file).unwrap_err(), Errno::STALE);
    world.client.init().unwrap();
    world.client.lookup(world.root_of("a"), c"f").unwrap();
}

proptest! {
    #[test]
    fn anything_may_be_asked_of_any_node(
        requests in prop::collection::vec(
            (0_u32..60, 0_usize..8, prop::collection::vec(any::<u8>(), 0..120), 0_usize..300),
            1..40,
        )
    ) {
        let world = World::new(&["a", "b-ro"]);
        let (a, b) = (world.root_of("a"), world.root_of("b-ro"));
        let (file, _) = world.client.create(a, c"f", O_RDWR, 0o600).unwrap();
        let nodes = [0, 1, 2, a, b, file, file ^ (1 << 44), u64::MAX];
        for (number, node, body, room) in requests {
            if number == opcode::INIT || number == opcode::DESTROY {
                continue;
            }
            let request = Client::request(77, number, nodes[node], &[&body]);
            if let (Outcome::Done(length), answer) = world.client.raw(&request, room) {
                prop_assert!(length == 0 || length >= 16 && length <= room);
                if length > 0 {
                    let answer = answer_body(77, &answer);
                    // The guest's kernel would take it for the whole mount's.
                    prop_assert!(answer != Err(Errno::NOSYS) || opcode_name(number).is_none());
                }
            }
        }
        world.client.attributes(1).unwrap();
        let names = world.client.list(1).unwrap();
        prop_assert_eq!(names, [".", "..", "a", "b-ro"]);
        prop_assert_eq!(std::fs::read_dir(world.path("b-ro")).unwrap().count(), 0);
    }
}

#[test]
fn times_are_those_of_the_last_change() {
    let mut world = World::new(&["a"]);
    world.listing.changed = Timestamp {
        seconds: 1_700_000_000,
        nanoseconds: 5,
    };
    world.many.update(&world.listing.clone());
    let attributes = world.client.attributes(1).unwrap();
    assert_eq!(attributes.modified, 1_700_000_000);
}
