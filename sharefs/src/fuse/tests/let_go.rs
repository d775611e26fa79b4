//! Nodes that the tree has let go of: a guest knows many more than may be held at once.
//!
//! Each situation with handles, if this process may open any (root), and without.

use std::ffi::{CStr, CString};

use rustix::io::Errno;

use super::client::{Client, Options, dirents};
use super::{O_RDWR, opcode};

/// A share of which ten nodes can be held, with files that push all others out.
struct Crowded {
    client: Client,
}

impl Crowded {
    fn new(handles: bool) -> Self {
        let client = Client::new(Options {
            descriptors: 12,
            handles,
            ..Options::default()
        });
        std::fs::create_dir(client.path("crowd")).unwrap();
        for index in 0..30 {
            std::fs::write(client.path(&format!("crowd/{index}")), "").unwrap();
        }
        Self { client }
    }

    fn write(&self, name: &str, content: &str) {
        std::fs::write(self.client.path(name), content).unwrap();
    }

    /// Makes the tree let go of whatever it may, and the guest forget what that took.
    fn push_out(&self) {
        let before = self.client.descriptors.evicted.get();
        let crowd = self.client.lookup(1, c"crowd").unwrap().node;
        for index in 0..30 {
            let name = CString::new(index.to_string()).unwrap();
            let node = self.client.lookup(crowd, &name).unwrap().node;
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

/// With and without handles; `work` is told which.
fn check(work: impl Fn(&Crowded, bool)) {
    for handles in [true, false] {
        if handles && !rustix::process::geteuid().is_root() {
            eprintln!("not root: handles cannot be opened");
            continue;
        }
        eprintln!("handles: {handles}");
        work(&Crowded::new(handles), handles);
    }
}

#[test]
fn what_was_let_go_of_is_found_again_however_deep() {
    check(|share, _| {
        let deep: Vec<String> = (0..40).map(|depth| format!("d{depth}")).collect();
        std::fs::create_dir_all(share.client.path(&deep.join("/"))).unwrap();
        let mut nodes = vec![1];
        for name in &deep {
            let name = CString::new(name.as_str()).unwrap();
            nodes.push(share.find(nodes[nodes.len() - 1], &name));
        }
        share.write(&format!("{}/file", deep.join("/")), "12345");
        let file = share.find(nodes[40], c"file");
        share.push_out();
        assert_eq!(share.size(file), Ok(5));
        share.push_out();
        let handle = share.client.open(file, O_RDWR).unwrap();
        share.client.write(handle, 5, b"678", 0).unwrap();
        let listed = share.client.open_directory(nodes[40]).unwrap();
        share.push_out();
        assert_eq!(
            share.client.read(handle, 0, 9).as_deref(),
            Ok(&b"12345678"[..])
        );
        let entries = share
            .client
            .read_directory(nodes[40], (listed, 0), 4096, true);
        assert_eq!(dirents(&entries.unwrap(), 128).len(), 3);
        // A node that is told of again is the same node.
        assert_eq!(share.find(nodes[40], c"file"), file);
        share.push_out();
        assert_eq!(share.find(nodes[40], c"file"), file);
        let counted = &share.client.descriptors;
        assert!(counted.reopened.get() > 3);
        assert_eq!((counted.stale.get(), counted.refused.get()), (0, 0));
    });
}

#[test]
fn what_the_guest_renames_is_found_under_its_new_name() {
    const EXCHANGE: u32 = 2;
    check(|share, _| {
        let client = &share.client;
        for folder in ["from", "to", "from/below"] {
            std::fs::create_dir(client.path(folder)).unwrap();
        }
        share.write("from/held", "1");
        share.write("from/gone", "22");
        share.write("from/below/file", "333");
        share.write("to/other", "4444");
        let (from, to) = (share.find(1, c"from"), share.find(1, c"to"));
        let gone = share.find(from, c"gone");
        let below = share.find(from, c"below");
        let file = share.find(below, c"file");
        let other = share.find(to, c"other");
        share.push_out();
        let held = share.find(from, c"held");
        client.rename(from, c"held", to, c"held now", 0).unwrap();
        client.rename(from, c"gone", to, c"gone now", 0).unwrap();
        client.rename(from, c"below", to, c"below now", 0).unwrap();
        client
            .rename(to, c"other", to, c"gone now", EXCHANGE)
            .unwrap();
        client.rename(1, c"to", 1, c"to now", 0).unwrap();
        share.push_out();
        let sizes = [held, gone, file, other].map(|node| share.size(node));
        assert_eq!(sizes, [Ok(1), Ok(2), Ok(3), Ok(4)]);
        assert_eq!(client.descriptors.stale.get(), 0);
        assert_eq!(share.find(to, c"other"), gone);
        assert_eq!(share.find(to, c"gone now"), other);
    });
}

#[test]
fn what_the_guest_renames_is_found_though_no_node_is_held_meanwhile() {
    check(|share, _| {
        let client = &share.client;
        share.write("old", "1234");
        let file = share.find(1, c"old");
        share.push_out();
        let crowd = share.find(1, c"crowd");
        for index in 0..30 {
            let name = CString::new(index.to_string()).unwrap();
            client.forget(share.find(crowd, &name), 99);
        }
        client.forget(crowd, 99);
        // The root, which is held for ever, and the file.
        let counted = &client.descriptors;
        assert_eq!((counted.known(), counted.let_go()), (2, 1));
        client.rename(1, c"old", 1, c"new", 0).unwrap();
        assert_eq!(share.size(file), Ok(4));
        assert_eq!(client.descriptors.stale.get(), 0);
    });
}

#[test]
fn what_the_guest_removes_stays_for_as_long_as_it_is_known() {
    check(|share, _| {
        let client = &share.client;
        std::fs::create_dir(client.path("folder")).unwrap();
        let names = [c"unlinked", c"replaced", c"open", c"linked"];
        for (size, name) in names.iter().enumerate() {
            share.write(name.to_str().unwrap(), &"x".repeat(size));
        }
        share.write("new", "the new one");
        let nodes = names.map(|name| share.find(1, name));
        let folder = share.find(1, c"folder");
        let new = share.find(1, c"new");
        client.link(nodes[3], 1, c"second name").unwrap();
        let handle = client.open(nodes[2], O_RDWR).unwrap();
        share.push_out();
        client.rename(1, c"new", 1, c"replaced", 0).unwrap();
        for name in [c"unlinked", c"open", c"linked"] {
            client.name_request(opcode::UNLINK, 1, name).unwrap();
        }
        client.name_request(opcode::RMDIR, 1, c"folder").unwrap();
        share.push_out();
        for (size, node) in (0..).zip(nodes) {
            assert_eq!(share.size(node), Ok(size));
        }
        assert_eq!(
            client.attributes(folder).unwrap().mode & 0o170_000,
            0o040_000
        );
        assert_eq!(share.size(new), Ok(11));
        client.write(handle, 0, b"still here", 0).unwrap();
        assert_eq!(share.size(nodes[2]), Ok(10));
        assert_eq!(share.find(1, c"second name"), nodes[3]);
        assert_eq!(client.descriptors.stale.get(), 0);
        // When they are forgotten, nothing of them is held.
        client.release(handle).unwrap();
        let held = client.held();
        nodes[..3].iter().for_each(|node| client.forget(*node, 1));
        assert_eq!(client.held(), held - 3);
    });
}

#[test]
fn what_the_host_changes_is_another_file_or_stale_and_never_the_wrong_one() {
    check(|share, handles| {
        let client = &share.client;
        std::fs::create_dir(client.path("folder")).unwrap();
        for name in ["renamed", "removed", "replaced", "folder/below"] {
            share.write(name, "old");
        }
        let [renamed, removed, replaced, folder] =
            [c"renamed", c"removed", c"replaced", c"folder"].map(|name| share.find(1, name));
        let below = share.find(folder, c"below");
        share.push_out();
        let path = |name: &str| client.path(name);
        std::fs::rename(path("renamed"), path("new name")).unwrap();
        std::fs::rename(path("folder"), path("folder now")).unwrap();
        std::fs::remove_file(path("removed")).unwrap();
        std::fs::remove_file(path("replaced")).unwrap();
        share.write("replaced", "a new file");
        let moved = if handles { Ok(3) } else { Err(Errno::STALE) };
        assert_eq!([renamed, below].map(|node| share.size(node)), [moved; 2]);
        for gone in [removed, replaced] {
            assert_eq!(share.size(gone), Err(Errno::STALE));
        }
        assert!(client.descriptors.stale.get() >= 2);
        // As a guest's kernel goes on: it looks up again. What was only renamed is the node that it was.
        assert_eq!(share.find(1, c"new name"), renamed);
        assert_eq!(share.size(renamed), Ok(3));
        let folder_now = share.find(1, c"folder now");
        assert_eq!(
            (folder_now, share.find(folder_now, c"below")),
            (folder, below)
        );
        assert_eq!(share.size(below), Ok(3));
        let new = share.find(1, c"replaced");
        assert_ne!(new, replaced);
        assert_eq!(share.size(new), Ok(10));
        assert_eq!(share.size(replaced), Err(Errno::STALE));
    });
}

#[test]
fn an_inode_number_that_is_given_anew_is_another_node() {
    check(|share, _| {
        use std::os::unix::fs::MetadataExt;
        let client = &share.client;
        share.write("first", "1");
        let first = share.find(1, c"first");
        let inode = std::fs::metadata(client.path("first")).unwrap().ino();
        share.push_out();
        std::fs::remove_file(client.path("first")).unwrap();
        // Many file systems give the number to the next file, some to none.
        share.write("second", "22");
        let is_reused = std::fs::metadata(client.path("second")).unwrap().ino() == inode;
        eprintln!("the number is given again: {is_reused}");
        let second = share.find(1, c"second");
        assert_ne!(first, second);
        assert_eq!(share.find(1, c"second"), second);
        assert_eq!(share.size(second), Ok(2));
        assert_eq!(share.size(first), Err(Errno::STALE));
        client.forget(first, 1);
        share.push_out();
        assert_eq!(share.find(1, c"second"), second);
    });
}

#[test]
fn folders_that_seem_to_go_round_in_a_circle_are_still_dropped() {
    check(|share, handles| {
        if handles {
            return;
        }
        let client = &share.client;
        std::fs::create_dir_all(client.path("a/b")).unwrap();
        let a = share.find(1, c"a");
        let b = share.find(a, c"b");
        // Behind the guest's back `b` goes up; a guest that is not told moves `a` into it.
        std::fs::rename(client.path("a/b"), client.path("b")).unwrap();
        client.rename(1, c"a", b, c"a", 0).unwrap();
        share.push_out();
        let crowd = share.find(1, c"crowd");
        client.forget(crowd, 99);
        client.plain_request(opcode::DESTROY, 1).unwrap();
        assert_eq!((client.held(), client.descriptors.known()), (0, 0));
    });
}

#[test]
fn many_threads_use_what_is_let_go_of_at_every_moment() {
    check(|share, _| {
        let client = &share.client;
        let names: Vec<CString> = (0..40)
            .map(|index| CString::new(format!("f{index}")).unwrap())
            .collect();
        for (size, name) in names.iter().enumerate() {
            share.write(name.to_str().unwrap(), &"x".repeat(size));
        }
        let nodes: Vec<u64> = names.iter().map(|name| share.find(1, name)).collect();
        std::thread::scope(|scope| {
            for thread in 0..4_usize {
                let nodes = &nodes;
                scope.spawn(move || {
                    for round in 0..500 {
                        let index = (round * (2 * thread + 1)) % nodes.len();
                        // Four threads hold eight nodes at most: there is always one to let go of.
                        assert_eq!(share.size(nodes[index]), Ok(index as u64));
                    }
                });
            }
        });
        assert!(client.descriptors.reopened.get() > 100);
        assert_eq!(client.descriptors.stale.get(), 0);
    });
}
