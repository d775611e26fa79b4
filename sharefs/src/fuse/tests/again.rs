//! Requests that two processes died of, one after the other: the first before it had begun, the next when all was done.

use std::ffi::CStr;
use std::os::unix::fs::MetadataExt;

use rustix::io::Errno;

use super::client::{Client, Options};
use super::{O_APPEND, O_EXCL, O_RDWR, opcode};
use crate::keep::journal::Journal;
use crate::keep::mount::Mount;

const EXCHANGE: u32 = 2;

struct Twice {
    client: Client,
    journal: Journal,
}

impl Twice {
    fn new() -> Self {
        let journal = Mount::alone().unwrap().slot(0).journal();
        journal.clone().of_thread();
        Self {
            client: Client::new(Options::default()),
            journal,
        }
    }

    fn write(&self, name: &str, content: &str) {
        std::fs::write(self.client.path(name), content).unwrap();
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.client.path(name)).unwrap()
    }

    fn open(&self, name: &CStr) -> u64 {
        self.journal.begin(0, 0);
        let node = self.client.lookup(1, name).unwrap().node;
        self.client.at(node).open(node, O_RDWR | O_APPEND).unwrap()
    }

    /// Both answers, of which the guest gets the second.
    fn ask<R>(&self, request: impl Fn(&Client) -> R) -> [R; 2] {
        self.journal.begin(0, 0);
        let again = || self.journal.again(|| request(&self.client)).unwrap();
        [again(), again()]
    }
}

#[test]
fn what_is_appended_is_there_once() {
    let twice = Twice::new();
    twice.write("log", "the same\n");
    let handle = twice.open(c"log");
    let append = |client: &Client| client.write(handle, 0, b"the same\n", O_APPEND);
    assert_eq!(twice.ask(append), [Ok(9); 2]);
    assert_eq!(twice.read("log"), "the same\n".repeat(2));
    assert_eq!(twice.ask(append), [Ok(9); 2]);
    assert_eq!(twice.read("log"), "the same\n".repeat(3));
}

#[test]
fn what_is_made_is_made() {
    let twice = Twice::new();
    let made = |done: bool, name: &str| {
        assert!(done, "{name}");
        assert!(twice.client.path(name).symlink_metadata().is_ok(), "{name}");
    };
    let [_, done] = twice.ask(|client| client.make_directory(1, c"folder").is_ok());
    made(done, "folder");
    let [_, done] = twice.ask(|client| client.make_node(1, c"fifo", 0o010_600).is_ok());
    made(done, "fifo");
    let [_, done] = twice.ask(|client| client.symlink(1, c"link", c"target").is_ok());
    made(done, "link");
    // Of that mode it cannot be opened for writing a second time, by whom modes bind.
    let [_, done] = twice.ask(|client| client.create(1, c"f", O_RDWR | O_EXCL, 0o444).is_ok());
    made(done, "f");
}

#[test]
fn what_stood_there_before_the_request_was_begun_stays() {
    let twice = Twice::new();
    twice.journal.begin(0, 0);
    std::fs::create_dir(twice.client.path("old")).unwrap();
    let inode = || std::fs::metadata(twice.client.path("old")).unwrap().ino();
    let before = inode();
    // The only one that died had done nothing, and no moment is early enough to say so.
    let make = || {
        twice
            .client
            .make_directory(1, c"old")
            .map(|entry| entry.node)
    };
    assert_eq!(twice.journal.again(make), Some(Err(Errno::EXIST)));
    assert_eq!(inode(), before);
}

#[test]
fn names_that_change_places_do_so_once() {
    let twice = Twice::new();
    for name in ["a", "b"] {
        twice.write(name, name);
    }
    let answers = twice.ask(|client| client.rename(1, c"a", 1, c"b", EXCHANGE));
    assert_eq!(answers, [Ok(()); 2]);
    assert_eq!((twice.read("a"), twice.read("b")), ("b".into(), "a".into()));
    // And what is done again as ever.
    let [_, second] = twice.ask(|client| client.name_request(opcode::UNLINK, 1, c"a"));
    assert_eq!(second, Ok(()));
}
