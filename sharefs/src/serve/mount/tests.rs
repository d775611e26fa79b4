//! A mount's threads and a kernel played by the test, at the other end of a socket that keeps messages
//! apart as /dev/fuse does.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::*;
use crate::fuse::cache::Cache;
use crate::fuse::counters::Counters;
use crate::fuse::session::Session;
use crate::sys::{LockKind, LockRange};
use crate::tree::host::HostTree;
use crate::tree::host::descriptors::Descriptors;
use crate::tree::owner::OwnerMap;

const LONG: i64 = 10;

struct Kernel {
    socket: OwnedFd,
    /// The other end, which outlives a mount's threads.
    device: OwnedFd,
    session: Arc<dyn Serve>,
    mount: Option<HostMount>,
    tell: SyncSender<String>,
    ended: Receiver<String>,
    folder: tempfile::TempDir,
}

/// An answer: the request's number, the error, what is behind the header.
type Answer = (u64, i32, Vec<u8>);

impl Kernel {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a"), "content").unwrap();
        let tree = HostTree::open(folder.path(), Descriptors::new(1000), |_| OwnerMap::Pass);
        let counters = Arc::new(Counters::default());
        let session = Session::new(Arc::new(tree.unwrap()), Cache::Auto, counters);
        let (socket, device) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .unwrap();
        let (tell, ended) = sync_channel(8);
        let mut kernel = Self {
            socket,
            device: device.try_clone().unwrap(),
            session: Arc::new(session),
            mount: None,
            tell,
            ended,
            folder,
        };
        let memory = (Mount::alone().unwrap(), None);
        let session = Arc::clone(&kernel.session);
        kernel.mount = Some(HostMount::serve(device, memory, session, kernel.tell()).unwrap());
        kernel
    }

    fn tell(&self) -> Ended {
        let tell = self.tell.clone();
        Box::new(move |reason| tell.try_send(reason).unwrap())
    }

    /// The file `a`, by way of the folder; locked for as long as it is open.
    fn locked_beside(&self) -> std::fs::File {
        let path = self.folder.path().join("a");
        let file = std::fs::File::options().write(true).open(path).unwrap();
        let all = LockRange {
            kind: LockKind::Exclusive,
            start: 0,
            length: 0,
        };
        sys::lock(file.as_fd(), all).unwrap();
        file
    }

    fn mount(&self) -> &HostMount {
        self.mount.as_ref().unwrap()
    }

    fn end(&mut self) {
        drop(self.mount.take());
    }

    fn send(&self, number: u32, unique: u64, node: u64, body: &[u8]) {
        let mut message = Vec::new();
        let length = u32::try_from(wire::IN_HEADER + body.len()).unwrap();
        message.extend(length.to_le_bytes());
        message.extend(number.to_le_bytes());
        message.extend(unique.to_le_bytes());
        message.extend(node.to_le_bytes());
        message.extend([0; 16]);
        message.extend(body);
        rustix::io::write(&self.socket, &message).unwrap();
    }

    /// The next answer; None when there is none within so many seconds.
    fn next(&self, seconds: i64) -> Option<Answer> {
        let limit = Timespec {
            tv_sec: seconds,
            tv_nsec: 100_000_000,
        };
        let mut wanted = [PollFd::from_borrowed_fd(self.socket.as_fd(), PollFlags::IN)];
        if rustix::event::poll(&mut wanted, Some(&limit)).unwrap() == 0 {
            return None;
        }
        let mut bytes = vec![0; 64 * 1024];
        let length = rustix::io::read(&self.socket, &mut bytes[..]).unwrap();
        bytes.truncate(length);
        let unique = u64::from_le_bytes(bytes[8..16].try_into().unwrap());
        let error = i32::from_le_bytes(bytes[4..8].try_into().unwrap());
        Some((unique, error, bytes.split_off(16)))
    }

    /// Asks and waits for the answer to that, which comes as the next.
    fn ask(&self, number: u32, unique: u64, node: u64, body: &[u8]) -> (i32, Vec<u8>) {
        self.send(number, unique, node, body);
        let (answered, error, body) = self.next(LONG).expect("an answer");
        assert_eq!(answered, unique);
        (error, body)
    }

    fn init(&self, unique: u64) {
        self.send_init(unique);
        let (answered, error, answer) = self.next(LONG).expect("an answer");
        assert_eq!((answered, error, answer[0]), (unique, 0, 7));
    }

    fn send_init(&self, unique: u64) {
        let mut body = [0; 64];
        body[..4].copy_from_slice(&7_u32.to_le_bytes());
        body[4..8].copy_from_slice(&39_u32.to_le_bytes());
        self.send(opcode::INIT, unique, 0, &body);
    }

    /// The file `a`, open: node and handle.
    fn open(&self) -> (u64, u64) {
        let number = |bytes: &[u8]| u64::from_le_bytes(bytes[..8].try_into().unwrap());
        let node = number(&self.ask(opcode::LOOKUP, 2, 1, b"a\0").1);
        let flags = [2, 0, 0, 0, 0, 0, 0, 0];
        (node, number(&self.ask(opcode::OPEN, 4, node, &flags).1))
    }
}

/// fuse_lk_in: an exclusive lock of the whole file.
fn lock(handle: u64, owner: u64) -> Vec<u8> {
    let mut body = Vec::new();
    for value in [handle, owner, 0, u64::MAX >> 1] {
        body.extend(value.to_le_bytes());
    }
    body.extend([1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    body
}

#[test]
fn requests_are_answered_until_the_kernel_ends_it_and_that_is_told_once() {
    let kernel = Kernel::new();
    kernel.init(1);
    assert!(kernel.mount().session().mounted());
    let (node, handle) = kernel.open();
    let mut body = handle.to_le_bytes().to_vec();
    body.extend([0; 8]);
    body.extend([64, 0, 0, 0]);
    body.extend([0; 20]);
    assert_eq!(
        kernel.ask(opcode::READ, 6, node, &body),
        (0, b"content".to_vec())
    );
    assert!(!kernel.mount().is_over());
    rustix::net::shutdown(&kernel.socket, rustix::net::Shutdown::Both).unwrap();
    let reason = kernel.ended.recv_timeout(Duration::from_secs(10)).unwrap();
    assert_eq!(reason, "it was unmounted");
    assert!(kernel.mount().is_over());
    drop(kernel.mount);
    drop(kernel.tell);
    assert!(kernel.ended.recv().is_err(), "told once");
}

#[test]
fn a_mount_that_is_dropped_ends_its_threads_and_tells_nothing() {
    let kernel = Kernel::new();
    kernel.init(1);
    drop(kernel.mount);
    drop(kernel.tell);
    assert!(kernel.ended.recv().is_err());
}

#[test]
fn a_waiting_lock_is_interrupted_at_once_and_had_when_it_is_free() {
    let kernel = Kernel::new();
    kernel.init(1);
    let (node, handle) = kernel.open();
    let beside = kernel.locked_beside();

    kernel.send(opcode::SETLKW, 10, node, &lock(handle, 7));
    assert_eq!(kernel.next(0), None, "it waits, and no thread with it");
    assert_eq!(kernel.ask(opcode::GETATTR, 12, node, &[0; 16]).0, 0);
    kernel.send(opcode::INTERRUPT, 11, 0, &10_u64.to_le_bytes());
    let interrupted = -Errno::INTR.raw_os_error();
    assert_eq!(kernel.next(LONG), Some((10, interrupted, Vec::new())));

    // Overtaken by its interrupt.
    kernel.send(opcode::INTERRUPT, 15, 0, &14_u64.to_le_bytes());
    assert_eq!(kernel.next(0), None);
    kernel.send(opcode::SETLKW, 14, node, &lock(handle, 7));
    assert_eq!(kernel.next(LONG), Some((14, interrupted, Vec::new())));

    kernel.send(opcode::SETLKW, 16, node, &lock(handle, 7));
    assert_eq!(kernel.next(0), None);
    drop(beside);
    assert_eq!(kernel.next(LONG), Some((16, 0, Vec::new())));
}

/// A mount whose first process died: the session, its end of the device, and the memory with what it left.
fn left(kernel: Kernel, requests: &[(u32, u64, u64, Vec<u8>)]) -> (Kernel, Mount, Vec<OwnedFd>) {
    let memory = Mount::alone().unwrap();
    let device = kernel.device.try_clone().unwrap();
    let slot = memory.slot(0);
    for (number, unique, node, body) in requests {
        kernel.send(*number, *unique, *node, body);
        let length = slot.read(device.as_fd()).unwrap();
        if *number == opcode::SETLKW {
            let mut bytes = [0; LONGEST_WAIT];
            let count = sys::gather(&[slot.request(length)], &mut bytes);
            memory.put_wait(0, *unique, &bytes[..count]);
        }
    }
    (kernel, memory, vec![device])
}

#[test]
fn what_another_process_left_half_done_is_done_before_anything_new() {
    let mut kernel = Kernel::new();
    kernel.init(1);
    let (node, handle) = kernel.open();
    let beside = kernel.locked_beside();
    // Its threads are gone, and what it knew is not.
    kernel.end();
    let requests = [
        (opcode::SETLKW, 20, node, lock(handle, 7)),
        (opcode::LOOKUP, 22, 1, b"a\0".to_vec()),
    ];
    let (mut kernel, memory, queues) = left(kernel, &requests);
    memory.begin_again();
    let session = Arc::clone(&kernel.session);
    let served = Served::before(&memory, queues.len());
    let again = HostMount::begin(
        (memory.clone(), None),
        (queues, served),
        session,
        kernel.tell(),
    );
    kernel.mount = Some(again.unwrap());

    // Of each it is asked first whether anybody waits; a socket never says no.
    let asks = |unique| (unique, -Errno::AGAIN.raw_os_error(), Vec::new());
    assert_eq!(kernel.next(LONG), Some(asks(22 | INTERRUPT_BIT)));
    let (unique, error, answer) = kernel.next(LONG).unwrap();
    assert_eq!((unique, error, answer.len()), (22, 0, wire::ENTRY_OUT));
    assert_eq!(kernel.next(LONG), Some(asks(20 | INTERRUPT_BIT)));
    assert_eq!(kernel.ask(opcode::GETATTR, 24, node, &[0; 16]).0, 0);
    assert_eq!(memory.waits().len(), 1, "it waits");
    drop(beside);
    assert_eq!(kernel.next(LONG), Some((20, 0, Vec::new())));
    kernel.end();
    assert_eq!((memory.waits().len(), memory.slot(0).unique()), (0, 0));
}

#[test]
fn a_lock_that_processes_died_of_is_an_error_and_what_else_waits_goes_on() {
    let mut kernel = Kernel::new();
    kernel.init(1);
    let (node, handle) = kernel.open();
    let beside = kernel.locked_beside();
    kernel.end();
    let requests = [
        (opcode::SETLKW, 20, node, lock(handle, 7)),
        (opcode::SETLKW, 22, node, lock(handle, 8)),
    ];
    let (mut kernel, memory, queues) = left(kernel, &requests);
    for _ in 0..3 {
        let died = std::panic::AssertUnwindSafe(|| memory.retry(20, || panic!("of it")));
        std::panic::catch_unwind(died).unwrap_err();
        memory.begin_again();
    }
    let served = Served::before(&memory, queues.len());
    let session = Arc::clone(&kernel.session);
    let again = HostMount::begin(
        (memory.clone(), None),
        (queues, served),
        session,
        kernel.tell(),
    );
    kernel.mount = Some(again.unwrap());
    let asks = |unique| (unique, -Errno::AGAIN.raw_os_error(), Vec::new());
    let refused = (20, -Errno::IO.raw_os_error(), Vec::new());
    assert_eq!(kernel.next(LONG), Some(asks(20 | INTERRUPT_BIT)));
    assert_eq!(kernel.next(LONG), Some(refused));
    assert_eq!(kernel.next(LONG), Some(asks(22 | INTERRUPT_BIT)));
    drop(beside);
    assert_eq!(kernel.next(LONG), Some((22, 0, Vec::new())));
    kernel.end();
    assert!(memory.waits().is_empty());
}

#[test]
fn bytes_that_no_kernel_sends_end_nothing() {
    let kernel = Kernel::new();
    let message = proptest::collection::vec(any::<u8>(), 1..200);
    let numbered = (0_u32..60, message).prop_map(|(number, mut bytes)| {
        if bytes.len() >= 8 {
            bytes[4..8].copy_from_slice(&number.to_le_bytes());
            let length = u32::try_from(bytes.len()).unwrap();
            bytes[..4].copy_from_slice(&length.to_le_bytes());
        }
        bytes
    });
    let config = Config {
        failure_persistence: None,
        ..Config::default()
    };
    TestRunner::new(config)
        .run(&numbered, |bytes| {
            rustix::io::write(&kernel.socket, &bytes).unwrap();
            Ok(())
        })
        .unwrap();
    kernel.send_init(u64::MAX);
    let mut answers = std::iter::from_fn(|| kernel.next(LONG));
    assert!(answers.any(|(unique, error, _)| (unique, error) == (u64::MAX, 0)));
    assert!(!kernel.mount().is_over());
}
