//! A guest's kernel for tests: requests as bytes in several pieces, answers taken apart.

use std::ffi::CStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use control::pattern::PathPattern;
use rustix::io::Errno;

use crate::fuse::cache::Cache;
use crate::fuse::counters::Counters;
use crate::fuse::session::{Kept, Outcome, Scratch, Serve, Session};
use crate::fuse::wire::opcode;
use crate::keep::Place;
use crate::sys::{Shared, Sink, Source};
use crate::tree::case::{Case, CaseTree};
use crate::tree::host::HostTree;
use crate::tree::host::descriptors::Descriptors;
use crate::tree::names::{Names, Spelling};
use crate::tree::owner::{GuestGid, GuestOwner, GuestUid, OwnerMap};
use crate::tree::places::{Letters, Places, Rules};
use crate::tree::read_only::ReadOnly;

type Result<T> = std::result::Result<T, Errno>;

/// How the share under test is configured.
pub(super) struct Options {
    pub(super) read_only: bool,
    pub(super) cache: Cache,
    pub(super) descriptors: usize,
    /// Nodes that may be known.
    pub(super) nodes: usize,
    /// Whether nodes may be found again by their handles, if this process may open any.
    pub(super) handles: bool,
    /// With access control lists.
    pub(super) lists: bool,
    /// With a writeback cache.
    pub(super) writeback: bool,
    /// None: a fresh one.
    pub(super) folder: Option<PathBuf>,
    /// Written down for the next process (`Client::restart`), with layers around the folder.
    pub(super) kept: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            read_only: false,
            cache: Cache::Auto,
            descriptors: 1000,
            nodes: 100_000,
            handles: true,
            lists: false,
            writeback: false,
            folder: None,
            kept: false,
        }
    }
}

/// A mounted share and its folder.
pub(super) struct Client {
    session: Arc<dyn Serve>,
    pub(super) descriptors: Arc<Descriptors>,
    pub(super) counters: Arc<Counters>,
    folder: PathBuf,
    /// Removed with its folder in the end.
    _root: tempfile::TempDir,
    /// Where the session is written down.
    memory: Option<Arc<Shared>>,
    unique: AtomicU64,
    /// The node that requests about a handle name.
    node: AtomicU64,
}

/// fuse_attr.
#[derive(Debug)]
pub(super) struct Attributes {
    pub(super) size: u64,
    pub(super) accessed: i64,
    pub(super) modified: i64,
    pub(super) mode: u32,
    pub(super) links: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) flags: u32,
}

/// fuse_entry_out.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) node: u64,
    pub(super) attributes: Attributes,
}

fn session(
    folder: &Path,
    options: &Options,
    (descriptors, count): (Arc<Descriptors>, Arc<Counters>),
    memory: Option<&Arc<Shared>>,
) -> Arc<dyn Serve> {
    let guest = GuestOwner {
        uid: GuestUid(1000),
        gid: GuestGid(1001),
    };
    let tree = HostTree::open(folder, descriptors, |host| OwnerMap::Map { host, guest }).unwrap();
    let tree = if options.handles {
        tree
    } else {
        tree.by_names()
    };
    let tree = if options.lists {
        tree.with_lists().unwrap()
    } else {
        tree
    };
    if let Some(memory) = memory {
        let frozen = "frozen".parse::<PathPattern>().unwrap();
        let rules = Rules::new(vec![], vec![frozen], Letters::Exact);
        let names = Names::new(Places::new(tree, rules), Spelling::Windows);
        let tree = CaseTree::new(names, Case::Insensitive, || std::time::Duration::ZERO);
        let place = Place::new(Arc::clone(memory), 0);
        let session = Session::new(Arc::new(tree), options.cache, count);
        Arc::new(session.kept(Kept { place, options: 7 }))
    } else if options.read_only {
        Arc::new(Session::new(Arc::new(ReadOnly(tree)), options.cache, count))
    } else {
        let session = Session::new(Arc::new(tree), options.cache, count);
        let session = session.with_lists(options.lists);
        Arc::new(session.with_writeback(options.writeback))
    }
}

impl Client {
    pub(super) fn new(options: Options) -> Self {
        rustix::process::umask(rustix::fs::Mode::empty());
        let root = tempfile::tempdir().unwrap();
        let folder = options
            .folder
            .clone()
            .unwrap_or_else(|| root.path().join("share"));
        std::fs::create_dir_all(&folder).unwrap();
        let descriptors = Descriptors::with_nodes(options.descriptors, options.nodes);
        let counters = Arc::new(Counters::default());
        let memory = options
            .kept
            .then(|| Arc::new(Shared::create("test", 1).unwrap()));
        let parts = (Arc::clone(&descriptors), Arc::clone(&counters));
        let client = Self {
            session: session(&folder, &options, parts, memory.as_ref()),
            descriptors,
            counters,
            folder,
            _root: root,
            memory,
            unique: AtomicU64::new(1),
            node: AtomicU64::new(1),
        };
        client.init().unwrap();
        client
    }

    /// The process dies, and the next one goes on.
    pub(super) fn restart(&mut self, options: &Options) {
        let descriptors = Descriptors::with_nodes(options.descriptors, options.nodes);
        let parts = (Arc::clone(&descriptors), Arc::clone(&self.counters));
        let next = session(&self.folder, options, parts, self.memory.as_ref());
        // What dies tidies nothing up.
        std::mem::forget(std::mem::replace(&mut self.session, next));
        self.descriptors = descriptors;
        assert!(self.session.mounted());
    }

    /// The guest of any session, whose folders are the test's.
    pub(super) fn of(session: Arc<dyn Serve>, descriptors: Arc<Descriptors>) -> Self {
        let root = tempfile::tempdir().unwrap();
        let client = Self {
            session,
            descriptors,
            counters: Arc::default(),
            folder: root.path().to_owned(),
            _root: root,
            memory: None,
            unique: AtomicU64::new(1),
            node: AtomicU64::new(1),
        };
        client.init().unwrap();
        client
    }

    /// Requests about a handle are about this node from now on.
    pub(super) fn at(&self, node: u64) -> &Self {
        self.node.store(node, Ordering::Relaxed);
        self
    }

    fn node(&self) -> u64 {
        self.node.load(Ordering::Relaxed)
    }

    pub(super) fn session(&self) -> &dyn Serve {
        &*self.session
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(Path::new(name))
    }

    /// Descriptors held for the guest.
    pub(super) fn held(&self) -> usize {
        self.descriptors.held()
    }

    /// Any bytes as a request, with so much room for the answer: what came back.
    pub(super) fn raw(&self, request: &[u8], room: usize) -> (Outcome, Vec<u8>) {
        let mut answer = vec![0xee; room];
        let middle = request.len() / 3;
        let mut sources = [
            Source::from(&request[..middle]),
            Source::from(&request[middle..]),
        ];
        let (head, rest) = answer.split_at_mut(room.min(7));
        let mut sinks = [Sink::from(head), Sink::from(rest)];
        let mut scratch = Scratch::default();
        let outcome = self.session.handle(&mut scratch, &mut sources, &mut sinks);
        if let Outcome::Done(length) = outcome {
            answer.truncate(length);
        }
        (outcome, answer)
    }

    pub(super) fn next_unique(&self) -> u64 {
        self.unique.fetch_add(1, Ordering::Relaxed)
    }

    /// The bytes of a request.
    pub(super) fn request(unique: u64, opcode: u32, node: u64, body: &[&[u8]]) -> Vec<u8> {
        let body: Vec<u8> = body.concat();
        let mut bytes = Vec::new();
        bytes.extend(u32::try_from(40 + body.len()).unwrap().to_le_bytes());
        bytes.extend(opcode.to_le_bytes());
        bytes.extend(unique.to_le_bytes());
        bytes.extend(node.to_le_bytes());
        bytes.extend([0; 16]);
        bytes.extend(body);
        bytes
    }

    /// The body of the answer.
    pub(super) fn ask(
        &self,
        opcode: u32,
        node: u64,
        body: &[&[u8]],
        room: usize,
    ) -> Result<Vec<u8>> {
        let unique = self.next_unique();
        let request = Self::request(unique, opcode, node, body);
        let (outcome, answer) = self.raw(&request, 16 + room);
        assert_eq!(outcome, Outcome::Done(answer.len()));
        answer_body(unique, &answer)
    }

    pub(super) fn init(&self) -> Result<()> {
        let answer = self.greeting()?;
        assert_eq!(answer.len(), 64);
        assert_eq!((u32_at(&answer, 0), u32_at(&answer, 4)), (7, 39));
        assert_eq!(u32_at(&answer, 20), 1 << 20, "largest write");
        Ok(())
    }

    /// The answer to INIT.
    pub(super) fn greeting(&self) -> Result<Vec<u8>> {
        let mut body = Vec::new();
        for value in [7, 39, 65536, u32::MAX, u32::MAX] {
            body.extend(u32::to_le_bytes(value));
        }
        body.resize(64, 0);
        self.ask(opcode::INIT, 0, &[&body], 64)
    }

    pub(super) fn plain_request(&self, opcode: u32, node: u64) -> Result<Vec<u8>> {
        self.ask(opcode, node, &[], 4096)
    }

    pub(super) fn name_request(&self, opcode: u32, node: u64, name: &CStr) -> Result<()> {
        self.ask(opcode, node, &[name.to_bytes_with_nul()], 256)
            .map(drop)
    }

    pub(super) fn lookup(&self, node: u64, name: &CStr) -> Result<Entry> {
        self.ask(opcode::LOOKUP, node, &[name.to_bytes_with_nul()], 128)
            .map(|answer| entry(&answer))
    }

    pub(super) fn forget(&self, node: u64, times: u64) {
        let request = Self::request(9, opcode::FORGET, node, &[&times.to_le_bytes()]);
        assert_eq!(self.raw(&request, 0).0, Outcome::Done(0));
    }

    pub(super) fn attributes(&self, node: u64) -> Result<Attributes> {
        let answer = self.ask(opcode::GETATTR, node, &[&[0; 16]], 104)?;
        Ok(attributes(&answer[16..]))
    }

    /// Names of fields: mode, uid, gid, size, atime, mtime, atime_now, mtime_now.
    pub(super) fn set_attributes(&self, node: u64, fields: &[(&str, u64)]) -> Result<Attributes> {
        let mut body = [0; 88];
        let mut valid = 0_u32;
        for (field, value) in fields {
            let (bit, at, length) = match *field {
                "mode" => (0, 68, 4),
                "uid" => (1, 76, 4),
                "gid" => (2, 80, 4),
                "size" => (3, 16, 8),
                "atime" => (4, 32, 8),
                "mtime" => (5, 40, 8),
                "atime_now" => (7, 32, 8),
                "mtime_now" => (8, 40, 8),
                other => panic!("no field {other}"),
            };
            valid |= 1 << bit;
            body[at..at + length].copy_from_slice(&value.to_le_bytes()[..length]);
        }
        body[..4].copy_from_slice(&valid.to_le_bytes());
        let answer = self.ask(opcode::SETATTR, node, &[&body], 104)?;
        Ok(attributes(&answer[16..]))
    }

    pub(super) fn make_directory(&self, node: u64, name: &CStr) -> Result<Entry> {
        self.make_directory_with(node, name, 0o755, 0)
    }

    pub(super) fn make_directory_with(
        &self,
        node: u64,
        name: &CStr,
        mode: u32,
        umask: u32,
    ) -> Result<Entry> {
        let head = [mode.to_le_bytes(), umask.to_le_bytes()].concat();
        self.ask(opcode::MKDIR, node, &[&head, name.to_bytes_with_nul()], 128)
            .map(|answer| entry(&answer))
    }

    pub(super) fn make_node(&self, node: u64, name: &CStr, mode: u32) -> Result<Entry> {
        let mut head = [0; 16];
        head[..4].copy_from_slice(&mode.to_le_bytes());
        self.ask(opcode::MKNOD, node, &[&head, name.to_bytes_with_nul()], 128)
            .map(|answer| entry(&answer))
    }

    pub(super) fn symlink(&self, node: u64, name: &CStr, target: &CStr) -> Result<Entry> {
        let body = [name.to_bytes_with_nul(), target.to_bytes_with_nul()];
        self.ask(opcode::SYMLINK, node, &body, 128)
            .map(|answer| entry(&answer))
    }

    pub(super) fn read_link(&self, node: u64) -> Result<Vec<u8>> {
        self.plain_request(opcode::READLINK, node)
    }

    pub(super) fn link(&self, linked: u64, node: u64, name: &CStr) -> Result<Entry> {
        let body: [&[u8]; 2] = [&linked.to_le_bytes(), name.to_bytes_with_nul()];
        self.ask(opcode::LINK, node, &body, 128)
            .map(|answer| entry(&answer))
    }

    pub(super) fn rename(
        &self,
        from: u64,
        old: &CStr,
        to: u64,
        new: &CStr,
        flags: u32,
    ) -> Result<()> {
        let head = [&to.to_le_bytes()[..], &flags.to_le_bytes(), &[0; 4]].concat();
        let body: [&[u8]; 3] = [&head, old.to_bytes_with_nul(), new.to_bytes_with_nul()];
        self.ask(opcode::RENAME2, from, &body, 0).map(drop)
    }

    fn create_body(flags: u32, mode: u32) -> [u8; 16] {
        let mut head = [0; 16];
        head[..4].copy_from_slice(&flags.to_le_bytes());
        head[4..8].copy_from_slice(&mode.to_le_bytes());
        head
    }

    /// Node and handle.
    pub(super) fn create(
        &self,
        node: u64,
        name: &CStr,
        flags: u32,
        mode: u32,
    ) -> Result<(u64, u64)> {
        let head = Self::create_body(flags, mode);
        let answer = self.ask(
            opcode::CREATE,
            node,
            &[&head, name.to_bytes_with_nul()],
            144,
        )?;
        Ok((entry(&answer).node, u64_at(&answer, 128)))
    }

    pub(super) fn create_unnamed(&self, node: u64, flags: u32, mode: u32) -> Result<(u64, u64)> {
        let head = Self::create_body(flags, mode);
        let answer = self.ask(opcode::TMPFILE, node, &[&head, b"/\0"], 144)?;
        Ok((entry(&answer).node, u64_at(&answer, 128)))
    }

    pub(super) fn open(&self, node: u64, flags: u32) -> Result<u64> {
        let head = [flags.to_le_bytes(), [0; 4]].concat();
        Ok(u64_at(&self.ask(opcode::OPEN, node, &[&head], 16)?, 0))
    }

    pub(super) fn read(&self, handle: u64, offset: u64, size: u32) -> Result<Vec<u8>> {
        let head = [
            &handle.to_le_bytes()[..],
            &offset.to_le_bytes(),
            &size.to_le_bytes(),
            &[0; 20],
        ];
        self.ask(
            opcode::READ,
            self.node(),
            &head,
            usize::try_from(size).unwrap(),
        )
    }

    pub(super) fn write(
        &self,
        handle: u64,
        offset: u64,
        bytes: &[u8],
        flags: u32,
    ) -> Result<usize> {
        self.write_flagged(handle, offset, bytes, flags, 0)
    }

    pub(super) fn write_flagged(
        &self,
        handle: u64,
        offset: u64,
        bytes: &[u8],
        flags: u32,
        write_flags: u32,
    ) -> Result<usize> {
        let mut head = Vec::new();
        head.extend(handle.to_le_bytes());
        head.extend(offset.to_le_bytes());
        head.extend(u32::try_from(bytes.len()).unwrap().to_le_bytes());
        head.extend(write_flags.to_le_bytes());
        head.extend([0; 8]);
        head.extend(flags.to_le_bytes());
        head.extend([0; 4]);
        let answer = self.ask(opcode::WRITE, self.node(), &[&head, bytes], 8)?;
        Ok(usize::try_from(u32_at(&answer, 0)).unwrap())
    }

    pub(super) fn release(&self, handle: u64) -> Result<()> {
        self.ask(
            opcode::RELEASE,
            self.node(),
            &[&handle.to_le_bytes(), &[0; 16]],
            0,
        )
        .map(drop)
    }

    pub(super) fn flush(&self, node: u64, handle: u64, owner: u64) -> Result<()> {
        let body: [&[u8]; 3] = [&handle.to_le_bytes(), &[0; 8], &owner.to_le_bytes()];
        self.ask(opcode::FLUSH, node, &body, 0).map(drop)
    }

    pub(super) fn allocate(&self, handle: u64, offset: u64, length: u64) -> Result<()> {
        let body: [&[u8]; 4] = [
            &handle.to_le_bytes(),
            &offset.to_le_bytes(),
            &length.to_le_bytes(),
            &[0; 8],
        ];
        self.ask(opcode::FALLOCATE, self.node(), &body, 0).map(drop)
    }

    pub(super) fn seek(&self, handle: u64, offset: u64, whence: u32) -> Result<u64> {
        let body: [&[u8]; 4] = [
            &handle.to_le_bytes(),
            &offset.to_le_bytes(),
            &whence.to_le_bytes(),
            &[0; 4],
        ];
        Ok(u64_at(&self.ask(opcode::LSEEK, self.node(), &body, 8)?, 0))
    }

    pub(super) fn copy_range(&self, from: (u64, u64), to: (u64, u64), length: u64) -> Result<u32> {
        let node = self.node();
        self.copy_range_to(from, (node, to.0, to.1), length)
    }

    /// To a file of another node.
    pub(super) fn copy_range_to(
        &self,
        from: (u64, u64),
        to: (u64, u64, u64),
        length: u64,
    ) -> Result<u32> {
        let mut body = Vec::new();
        for value in [from.0, from.1, to.0, to.1, to.2, length, 0] {
            body.extend(value.to_le_bytes());
        }
        Ok(u32_at(
            &self.ask(opcode::COPY_FILE_RANGE, self.node(), &[&body], 8)?,
            0,
        ))
    }

    pub(super) fn set_extended(
        &self,
        node: u64,
        name: &CStr,
        value: &[u8],
        flags: u32,
    ) -> Result<()> {
        let size = u32::try_from(value.len()).unwrap();
        let head = [size.to_le_bytes(), flags.to_le_bytes()].concat();
        let body: [&[u8]; 3] = [&head, name.to_bytes_with_nul(), value];
        self.ask(opcode::SETXATTR, node, &body, 0).map(drop)
    }

    pub(super) fn extended(&self, node: u64, name: &CStr, room: u32) -> Result<Vec<u8>> {
        let head = [room.to_le_bytes(), [0; 4]].concat();
        self.ask(
            opcode::GETXATTR,
            node,
            &[&head, name.to_bytes_with_nul()],
            4096,
        )
    }

    pub(super) fn list_extended(&self, node: u64, room: u32) -> Result<Vec<u8>> {
        let head = [room.to_le_bytes(), [0; 4]].concat();
        self.ask(opcode::LISTXATTR, node, &[&head], 4096)
    }

    pub(super) fn remove_extended(&self, node: u64, name: &CStr) -> Result<()> {
        self.name_request(opcode::REMOVEXATTR, node, name)
    }

    pub(super) fn open_directory(&self, node: u64) -> Result<u64> {
        Ok(u64_at(&self.ask(opcode::OPENDIR, node, &[&[0; 8]], 16)?, 0))
    }

    /// The bytes of one READDIR or READDIRPLUS.
    pub(super) fn read_directory(
        &self,
        node: u64,
        (handle, offset): (u64, u64),
        room: u32,
        plus: bool,
    ) -> Result<Vec<u8>> {
        let opcode = if plus {
            opcode::READDIRPLUS
        } else {
            opcode::READDIR
        };
        let head = [
            &handle.to_le_bytes()[..],
            &offset.to_le_bytes(),
            &room.to_le_bytes(),
            &[0; 20],
        ];
        self.ask(opcode, node, &head, usize::try_from(room).unwrap())
    }

    /// All names of a folder, sorted.
    pub(super) fn list(&self, node: u64) -> Result<Vec<String>> {
        let handle = self.open_directory(node)?;
        let mut names = Vec::new();
        let mut offset = 0;
        loop {
            let answer = self.read_directory(node, (handle, offset), 512, false)?;
            if answer.is_empty() {
                names.sort();
                return Ok(names);
            }
            for (name, next) in dirents(&answer, 0) {
                names.push(name);
                offset = next;
            }
        }
    }
}

/// Names and cookies; `head` bytes stand before each dirent.
pub(super) fn dirents(mut bytes: &[u8], head: usize) -> Vec<(String, u64)> {
    let mut found = Vec::new();
    while bytes.len() > head {
        let dirent = &bytes[head..];
        let length = usize::try_from(u32_at(dirent, 16)).unwrap();
        let name = String::from_utf8(dirent[24..24 + length].to_vec()).unwrap();
        found.push((name, u64_at(dirent, 8)));
        bytes = &dirent[(24 + length).next_multiple_of(8)..];
    }
    found
}

pub(super) fn answer_body(unique: u64, answer: &[u8]) -> Result<Vec<u8>> {
    assert_eq!(usize::try_from(u32_at(answer, 0)).unwrap(), answer.len());
    assert_eq!(u64_at(answer, 8), unique);
    match i32::from_le_bytes(answer[4..8].try_into().unwrap()) {
        0 => Ok(answer[16..].to_vec()),
        error => {
            assert_eq!(answer.len(), 16, "an error has no body");
            Err(Errno::from_raw_os_error(-error))
        }
    }
}

fn entry(answer: &[u8]) -> Entry {
    Entry {
        node: u64_at(answer, 0),
        attributes: attributes(&answer[40..]),
    }
}

fn attributes(bytes: &[u8]) -> Attributes {
    Attributes {
        size: u64_at(bytes, 8),
        accessed: i64::from_le_bytes(bytes[24..32].try_into().unwrap()),
        modified: i64::from_le_bytes(bytes[32..40].try_into().unwrap()),
        mode: u32_at(bytes, 60),
        links: u32_at(bytes, 64),
        uid: u32_at(bytes, 68),
        gid: u32_at(bytes, 72),
        flags: u32_at(bytes, 84),
    }
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}
