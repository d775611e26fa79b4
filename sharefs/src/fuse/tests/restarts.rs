//! A process that dies, and the next one, which knows what the guest knew: also what had no descriptor.
//!
//! Each situation with handles, if this process may open any (root), and without. There are layers around the folder:
//! Windows' names, case-insensitive, a frozen place.

use std::ffi::{CStr, CString};

use rustix::io::Errno;

use super::client::{Client, Options};
use super::{O_RDWR, opcode};

struct Crowded {
    client: Client,
    handles: bool,
}

/// Files that push others out.
const CROWD: usize = 30;

impl Crowded {
    fn new(handles: bool) -> Self {
        let client = Client::new(Self::options(handles));
        std::fs::create_dir(client.path("crowd")).unwrap();
        for index in 0..CROWD {
            std::fs::write(client.path(&format!("crowd/{index}")), "").unwrap();
        }
        Self { client, handles }
    }

    fn options(handles: bool) -> Options {
        Options {
            descriptors: 12,
            handles,
            kept: true,
            ..Options::default()
        }
    }

    fn restart(&mut self) {
        let known = self.client.descriptors.known();
        self.client.restart(&Self::options(self.handles));
        assert_eq!(self.client.descriptors.known(), known);
        assert_eq!(self.client.descriptors.kept(), known);
    }

    fn write(&self, name: &str, content: &str) {
        std::fs::write(self.client.path(name), content).unwrap();
    }

    /// Makes the tree let go of whatever it may.
    fn push_out(&self) {
        let before = self.client.descriptors.evicted.get();
        let crowd = self.find(1, c"crowd");
        for index in 0..CROWD {
            let name = CString::new(index.to_string()).unwrap();
            let node = self.find(crowd, &name);
            self.client.attributes(node).unwrap();
        }
        assert!(self.client.descriptors.evicted.get() > before + 10);
        assert!(self.client.held() <= 12);
    }

    fn size(&self, node: u64) -> Result<u64, Errno> {
        self.client.attributes(node).map(|found| found.size)
    }

    fn find(&self, folder: u64, name: &CStr) -> u64 {
        self.client.lookup(folder, name).unwrap().node
    }
}

fn check(work: impl Fn(&mut Crowded)) {
    for handles in [true, false] {
        if handles && !rustix::process::geteuid().is_root() {
            eprintln!("not root: handles cannot be opened");
            continue;
        }
        eprintln!("handles: {handles}");
        work(&mut Crowded::new(handles));
    }
}

#[test]
fn what_was_let_go_of_is_found_by_the_next_process_however_deep() {
    check(|share| {
        let deep: Vec<String> = (0..40).map(|depth| format!("d{depth}")).collect();
        std::fs::create_dir_all(share.client.path(&deep.join("/"))).unwrap();
        let mut nodes = vec![1];
        for name in &deep {
            // In another case than the host has it.
            let name = CString::new(name.to_uppercase()).unwrap();
            nodes.push(share.find(nodes[nodes.len() - 1], &name));
        }
        share.write(&format!("{}/file", deep.join("/")), "12345");
        // A name that takes several pieces, and that the host writes otherwise.
        let long = format!("{}:", "x".repeat(60));
        let (handle_node, handle) = {
            let name = CString::new(long.as_str()).unwrap();
            share
                .client
                .create(nodes[40], &name, O_RDWR, 0o600)
                .unwrap()
        };
        share.client.write(handle, 0, b"12", 0).unwrap();
        share.client.release(handle).unwrap();
        let file = share.find(nodes[40], c"file");
        share.push_out();
        for _ in 0..3 {
            share.restart();
            assert!(share.client.descriptors.let_go() > CROWD);
            assert_eq!((share.size(file), share.size(handle_node)), (Ok(5), Ok(2)));
            assert_eq!(share.find(nodes[40], c"File"), file);
            assert_eq!(share.find(nodes[39], c"D39"), nodes[40]);
            let open = share.client.open(file, O_RDWR).unwrap();
            share.client.write(open, 0, b"54321", 0).unwrap();
            share.push_out();
            assert_eq!(share.client.descriptors.stale.get(), 0);
            assert_eq!(share.client.descriptors.refused.get(), 0);
        }
    });
}

#[test]
fn what_is_renamed_before_and_behind_the_death_is_found() {
    check(|share| {
        for folder in ["from", "to", "from/below"] {
            std::fs::create_dir(share.client.path(folder)).unwrap();
        }
        share.write("from/held", "1");
        share.write("from/gone", "22");
        share.write("from/below/file", "333");
        share.write("to/other", "4444");
        let (from, to) = (share.find(1, c"from"), share.find(1, c"to"));
        let nodes = [share.find(from, c"gone"), share.find(from, c"below")];
        let file = share.find(nodes[1], c"file");
        let other = share.find(to, c"other");
        share.push_out();
        let held = share.find(from, c"held");
        let rename =
            |share: &Crowded, from, old, to, new| share.client.rename(from, old, to, new, 0);
        rename(share, from, c"held", to, c"held now").unwrap();
        rename(share, from, c"gone", to, c"gone now").unwrap();
        rename(share, from, c"below", to, c"below now").unwrap();
        rename(share, 1, c"to", 1, c"to now").unwrap();
        for round in 0..2 {
            share.restart();
            let sizes = [held, nodes[0], file, other].map(|node| share.size(node));
            assert_eq!(sizes, [Ok(1), Ok(2), Ok(3), Ok(4)]);
            share.push_out();
            if round == 0 {
                share.restart();
                rename(share, to, c"below now", from, c"below again").unwrap();
                rename(share, to, c"other", to, c"another").unwrap();
                rename(share, 1, c"from", to, c"moved").unwrap();
            }
        }
        assert_eq!(share.client.descriptors.stale.get(), 0);
        assert_eq!(share.find(to, c"another"), other);
        assert_eq!(share.find(from, c"below again"), nodes[1]);
    });
}

#[test]
fn what_was_renamed_while_all_was_held_is_found_when_it_is_let_go_of_behind_a_death() {
    const EXCHANGE: u32 = 2;
    for restarts in [false, true] {
        check(|share| {
            std::fs::create_dir(share.client.path("folder")).unwrap();
            for (size, name) in ["a", "b", "c"].iter().enumerate() {
                share.write(&format!("folder/{name}"), &"x".repeat(size));
            }
            let folder = share.find(1, c"folder");
            let nodes = [c"a", c"b", c"c"].map(|name| share.find(folder, name));
            assert_eq!(share.client.descriptors.let_go(), 0);
            let rename = |share: &Crowded, old, new, how| {
                share.client.rename(folder, old, folder, new, how).unwrap();
            };
            rename(share, c"a", c"another", 0);
            rename(share, c"b", c"c", EXCHANGE);
            if restarts {
                share.restart();
                rename(share, c"another", c"again", 0);
            }
            share.push_out();
            let right = [Ok(0), Ok(1), Ok(2)];
            assert_eq!(nodes.map(|node| share.size(node)), right);
            share.push_out();
            share.restart();
            assert_eq!(nodes.map(|node| share.size(node)), right);
            assert_eq!(share.client.descriptors.stale.get(), 0);
            assert_eq!(share.find(folder, c"b"), nodes[2]);
        });
    }
}

#[test]
fn what_was_moved_while_all_was_held_can_be_let_go_of() {
    check(|share| {
        std::fs::create_dir(share.client.path("folder")).unwrap();
        // One less than may be held: layers look at what they rename.
        let names: Vec<CString> = (0..7)
            .map(|index| CString::new(format!("f{index}")).unwrap())
            .collect();
        for name in &names {
            share.write(&format!("folder/{}", name.to_str().unwrap()), "x");
        }
        let folder = share.find(1, c"folder");
        let nodes: Vec<u64> = names.iter().map(|name| share.find(folder, name)).collect();
        assert_eq!(share.client.descriptors.let_go(), 0);
        for name in &names {
            share.client.rename(folder, name, 1, name, 0).unwrap();
        }
        assert_eq!(share.client.descriptors.let_go(), 0);
        share.push_out();
        // The root, and as many as may be held: none stays because its name is not known.
        let counted = &share.client.descriptors;
        assert!(counted.known() - counted.let_go() <= 10, "{counted:?}");
        share.restart();
        assert!(nodes.iter().all(|node| share.size(*node) == Ok(1)));
        assert_eq!(share.client.descriptors.stale.get(), 0);
    });
}

#[test]
fn what_is_another_file_by_then_is_stale_and_never_the_wrong_one() {
    check(|share| {
        use std::os::unix::fs::MetadataExt;
        let path = |share: &Crowded, name: &str| share.client.path(name);
        for name in ["removed", "replaced", "renamed"] {
            share.write(name, "old");
        }
        let [removed, replaced, renamed] =
            [c"removed", c"replaced", c"renamed"].map(|name| share.find(1, name));
        share.push_out();
        let inode = |share: &Crowded| {
            std::fs::metadata(share.client.path("replaced"))
                .unwrap()
                .ino()
        };
        let before = inode(share);
        // The host does this while nobody serves.
        std::fs::remove_file(path(share, "replaced")).unwrap();
        share.write("replaced", "a new file");
        eprintln!("the number is given again: {}", inode(share) == before);
        std::fs::remove_file(path(share, "removed")).unwrap();
        std::fs::rename(path(share, "renamed"), path(share, "other name")).unwrap();
        share.restart();
        for gone in [removed, replaced] {
            assert_eq!(share.size(gone), Err(Errno::STALE));
        }
        let moved = if share.handles {
            Ok(3)
        } else {
            Err(Errno::STALE)
        };
        assert_eq!(share.size(renamed), moved);
        let new = share.find(1, c"replaced");
        assert!(new != replaced && share.size(new) == Ok(10));
        assert_eq!(share.find(1, c"other name"), renamed);
        share.push_out();
        share.restart();
        assert_eq!((share.size(new), share.size(renamed)), (Ok(10), Ok(3)));
        assert_eq!(share.size(replaced), Err(Errno::STALE));
    });
}

#[test]
fn what_the_guest_removed_is_its_own_until_it_forgets() {
    check(|share| {
        for name in ["unlinked", "linked"] {
            share.write(name, "123");
        }
        let nodes = [c"unlinked", c"linked"].map(|name| share.find(1, name));
        share.client.link(nodes[1], 1, c"second name").unwrap();
        share.push_out();
        for name in [c"unlinked", c"linked"] {
            share.client.name_request(opcode::UNLINK, 1, name).unwrap();
        }
        share.restart();
        share.push_out();
        assert_eq!(nodes.map(|node| share.size(node)), [Ok(3), Ok(3)]);
        assert_eq!(share.find(1, c"second name"), nodes[1]);
        let held = share.client.held();
        share.client.forget(nodes[0], 1);
        assert_eq!(share.client.held(), held - 1);
        // Its number is nobody's, now and later.
        share.restart();
        share.write("new", "1234");
        let new = share.find(1, c"new");
        assert!(new != nodes[0] && share.size(new) == Ok(4));
        assert_eq!(share.size(nodes[0]), Err(Errno::STALE));
    });
}

#[test]
fn a_place_that_is_frozen_stays_so() {
    check(|share| {
        std::fs::create_dir_all(share.client.path("frozen/folder")).unwrap();
        share.write("frozen/folder/file", "x");
        let frozen = share.find(1, c"frozen");
        let folder = share.find(frozen, c"folder");
        let file = share.find(folder, c"file");
        share.push_out();
        share.restart();
        assert_eq!(share.client.open(file, O_RDWR), Err(Errno::ROFS));
        let made = share.client.create(folder, c"new", O_RDWR, 0o600);
        assert_eq!(made, Err(Errno::ROFS));
        assert_eq!(share.size(file), Ok(1));
    });
}
