//! A shared tree in no protocol's words: what can be asked of a host folder by anyone who serves it.
//!
//! FUSE's lookup counts and 9P's fids are not here; they belong to their sessions, and that is what
//! lets one tree serve several doors. A node is held for as long as the caller keeps the value.
//! Errors are Linux errno numbers, because that is what every caller must answer with.
//!
//! `host` is the real one, `read_only` wraps any other, `memory` is the model that tests compare with.

use std::ffi::CStr;

use rustix::io::Errno;

pub(crate) mod case;
pub(crate) mod host;
mod keyed;
mod layer;
#[cfg(test)]
pub(crate) mod memory;
#[cfg(test)]
mod model_tests;
pub(crate) mod name;
pub(crate) mod names;
pub(crate) mod owner;
pub(crate) mod owner_store;
pub(crate) mod places;
pub(crate) mod read_only;
pub(crate) mod undo;

pub(crate) use name::Name;
use owner::{GuestGid, GuestUid};

use std::os::fd::{OwnedFd, RawFd};

use crate::keep::nodes::{KeptNode, KeptPlace, NodeRow};
use crate::sys::{LockRange, Sink, Source};

/// Answer of everything that can fail.
pub(crate) type Result<T> = std::result::Result<T, Errno>;

/// What tells two nodes apart, and says that two are one: the same file found under two names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Identity {
    pub(crate) device: u64,
    pub(crate) inode: u64,
    /// The mount it was reached through: a bind mount of a folder is another place.
    pub(crate) mount: u64,
}

impl Identity {
    /// Device and inode: the file itself, by whichever mount.
    pub(crate) fn file(self) -> (u64, u64) {
        (self.device, self.inode)
    }
}

/// What a node is. It never changes while the node lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Directory,
    SymbolicLink,
    BlockDevice,
    CharacterDevice,
    Fifo,
    Socket,
}

/// A moment, as files carry it: since 1970, before that negative.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Timestamp {
    pub(crate) seconds: i64,
    pub(crate) nanoseconds: u32,
}

/// The node's attributes as a guest may see them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Attributes {
    pub(crate) identity: Identity,
    pub(crate) kind: Kind,
    /// Permission bits, set-id bits and the sticky bit: 0o7777 at most.
    pub(crate) mode: u32,
    pub(crate) links: u32,
    pub(crate) owner: GuestUid,
    pub(crate) group: GuestGid,
    /// Bytes.
    pub(crate) size: u64,
    /// Units of 512 bytes, whatever `block_size` is.
    pub(crate) blocks: u64,
    /// Bytes that are best read and written at once.
    pub(crate) block_size: u32,
    /// Major and minor number of what a device node stands for.
    pub(crate) device: (u32, u32),
    pub(crate) accessed: Timestamp,
    pub(crate) modified: Timestamp,
    pub(crate) changed: Timestamp,
    /// When it was made, where the host's file system knows.
    pub(crate) born: Option<Timestamp>,
}

/// A node with its attributes of the moment it was found.
#[derive(Debug)]
pub(crate) struct Found<N> {
    pub(crate) node: N,
    pub(crate) attributes: Attributes,
}

/// On whose behalf something new is made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Caller {
    pub(crate) uid: GuestUid,
    pub(crate) gid: GuestGid,
}

/// See `Tree::upkeep`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Upkeep {
    /// To pin the node whose name is about to be taken away.
    pub(crate) removals: bool,
    /// To call `renamed` behind each of these.
    pub(crate) renames: Renames,
}

/// Renames that a tree has to be told of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Renames {
    #[default]
    None,
    /// From one folder to another.
    Between,
    All,
}

/// What a file is opened for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct OpenHow {
    pub(crate) read: bool,
    pub(crate) write: bool,
    pub(crate) truncate: bool,
    pub(crate) durability: Durability,
    /// Reading must not change the time of access, if the host lets us.
    pub(crate) keep_access_time: bool,
    /// Truncation takes the set-id bits away, as a write by an ordinary user would.
    pub(crate) drop_privileges: bool,
}

/// What must be on disk before a write returns: nothing, O_DSYNC, O_SYNC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Durability {
    #[default]
    Later,
    Data,
    Everything,
}

/// A time to be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NewTime {
    Now,
    At(Timestamp),
}

/// Attributes to be changed; None leaves one as it is.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Changes {
    pub(crate) mode: Option<u32>,
    pub(crate) owner: Option<GuestUid>,
    pub(crate) group: Option<GuestGid>,
    pub(crate) size: Option<u64>,
    pub(crate) accessed: Option<NewTime>,
    pub(crate) modified: Option<NewTime>,
    /// With `size`: take the set-id bits away.
    pub(crate) drop_privileges: bool,
}

/// What `make_node` makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NewNode {
    pub(crate) kind: Kind,
    pub(crate) mode: u32,
    pub(crate) device: (u32, u32),
}

/// What may happen to a name that is already there when something is renamed to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RenameHow {
    /// EEXIST instead of replacing it.
    pub(crate) no_replace: bool,
    /// The two change places.
    pub(crate) exchange: bool,
    /// A whiteout (character device 0, 0) takes the old name.
    pub(crate) whiteout: bool,
}

/// One line of a directory.
#[derive(Debug)]
pub(crate) struct Entry<'a> {
    pub(crate) name: &'a CStr,
    pub(crate) inode: u64,
    /// None where the host's file system does not say without asking the node.
    pub(crate) kind: Option<Kind>,
    /// Where to go on behind this entry.
    pub(crate) next: u64,
}

/// The file system below a node.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Statistics {
    /// Bytes in one unit of the three counts below.
    pub(crate) block_size: u64,
    pub(crate) blocks: u64,
    pub(crate) free: u64,
    /// Free for users without privilege.
    pub(crate) available: u64,
    pub(crate) files: u64,
    pub(crate) free_files: u64,
    pub(crate) longest_name: u64,
}

/// What may be asked of `Tree::access`.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct AccessWanted {
    pub(crate) read: bool,
    pub(crate) write: bool,
    pub(crate) execute: bool,
}

/// fallocate(2) in words; offsets and lengths in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Allocation {
    pub(crate) offset: u64,
    pub(crate) length: u64,
    /// The host's FALLOC_FL_ bits, passed through: EOPNOTSUPP for those it does not know.
    pub(crate) flags: u32,
}

/// What lseek(2) can find in a file with holes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seek {
    Data,
    Hole,
}

/// XATTR_CREATE and XATTR_REPLACE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ExtendedHow {
    Either,
    Create,
    Replace,
}

/// flock(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WholeLock {
    Shared,
    Exclusive,
    Unlock,
}

/// A tree that can be served. All calls may be made from several threads at once.
pub(crate) trait Tree: Send + Sync + 'static {
    /// A place in the tree: it stays the same file when names change. Clones are the same place.
    type Node: Clone + Send + Sync;
    /// An open file.
    type File: Send + Sync;
    /// An open directory.
    type Directory: Send + Sync;
    /// A holder of byte-range locks on one file, on behalf of one owner; dropping it unlocks.
    type Locks: Send + Sync;

    /// Whether `look` tells all; else owner, kind, mode and device (but never folder or not) are to be asked of the node.
    const LOOKS_WHOLE: bool;

    fn root(&self) -> Result<Found<Self::Node>>;
    /// Whether nodes should not be held that nobody has asked for: there is not much room for more.
    fn is_short_of_nodes(&self) -> bool;
    fn identity(&self, node: &Self::Node) -> Identity;

    /// What a session that knows nodes has to do, so that nodes can be let go of and found again.
    fn upkeep(&self) -> Upkeep;
    /// Whether the node is held, so that what has its identity is that file.
    fn is_held(&self, node: &Self::Node) -> bool;
    /// Whether `found`, which has the identity of `known`, is the same file. If not, the known one is gone,
    /// and its number was given to another.
    fn is_same(&self, known: &Self::Node, found: &Self::Node) -> bool;
    /// Keeps the node held until as many `unpin`.
    fn pin(&self, node: &Self::Node) -> Result<()>;
    fn unpin(&self, node: &Self::Node);
    /// What is at this name now has been renamed to it; `known` tells the node of an identity.
    fn renamed(
        &self,
        folder: &Self::Node,
        name: Name<'_>,
        known: &dyn Fn(Identity) -> Option<Self::Node>,
    ) -> Result<()>;

    /// One step down. Never follows a symbolic link.
    fn child(&self, parent: &Self::Node, name: Name<'_>) -> Result<Found<Self::Node>>;
    /// What `child` would find, without holding it; see `LOOKS_WHOLE`.
    fn look(&self, parent: &Self::Node, name: Name<'_>) -> Result<Attributes>;
    fn attributes(&self, node: &Self::Node) -> Result<Attributes>;
    /// Applies all of `changes` or as many as went well before the error.
    fn change(
        &self,
        node: &Self::Node,
        file: Option<&Self::File>,
        changes: &Changes,
    ) -> Result<Attributes>;
    /// Fills `target` anew.
    fn read_link(&self, node: &Self::Node, target: &mut Vec<u8>) -> Result<()>;

    fn make_directory(
        &self,
        caller: Caller,
        parent: &Self::Node,
        name: Name<'_>,
        mode: u32,
    ) -> Result<Found<Self::Node>>;
    fn make_node(
        &self,
        caller: Caller,
        parent: &Self::Node,
        name: Name<'_>,
        new: NewNode,
    ) -> Result<Found<Self::Node>>;
    fn make_symbolic_link(
        &self,
        caller: Caller,
        parent: &Self::Node,
        name: Name<'_>,
        target: &CStr,
    ) -> Result<Found<Self::Node>>;
    /// A new regular file, opened; EEXIST when the name is taken, by anything.
    fn create(
        &self,
        caller: Caller,
        parent: &Self::Node,
        name: Name<'_>,
        new: (u32, OpenHow),
    ) -> Result<(Found<Self::Node>, Self::File)>;
    /// A new file that has no name yet; `link` can give it one.
    fn create_unnamed(
        &self,
        caller: Caller,
        parent: &Self::Node,
        mode: u32,
        how: OpenHow,
    ) -> Result<(Found<Self::Node>, Self::File)>;
    fn link(&self, node: &Self::Node, parent: &Self::Node, name: Name<'_>) -> Result<Attributes>;
    fn remove_file(&self, parent: &Self::Node, name: Name<'_>) -> Result<()>;
    fn remove_directory(&self, parent: &Self::Node, name: Name<'_>) -> Result<()>;
    fn rename(
        &self,
        from: (&Self::Node, Name<'_>),
        to: (&Self::Node, Name<'_>),
        how: RenameHow,
    ) -> Result<()>;

    /// Only regular files can be opened: a device or FIFO of the host is never touched.
    fn open(&self, node: &Self::Node, how: OpenHow) -> Result<Self::File>;
    fn read(&self, file: &Self::File, into: &[Sink<'_>], offset: u64) -> Result<usize>;
    /// `append`: at the end, wherever that is, and not at `offset`.
    fn write(
        &self,
        file: &Self::File,
        from: &[Source<'_>],
        offset: u64,
        append: bool,
    ) -> Result<usize>;
    /// Takes set-id bits and file capabilities away, as a write by an ordinary user does.
    fn drop_privileges(&self, file: &Self::File) -> Result<()>;
    /// What close(2) would say; the file stays open.
    fn flush(&self, file: &Self::File) -> Result<()>;
    fn sync(&self, file: &Self::File, data_only: bool) -> Result<()>;
    fn allocate(&self, file: &Self::File, wanted: Allocation) -> Result<()>;
    fn seek(&self, file: &Self::File, offset: u64, what: Seek) -> Result<u64>;
    fn copy_range(
        &self,
        from: (&Self::File, u64),
        to: (&Self::File, u64),
        length: usize,
    ) -> Result<usize>;
    fn lock_whole(&self, file: &Self::File, lock: WholeLock) -> Result<()>;

    fn locks(&self, node: &Self::Node) -> Result<Self::Locks>;
    /// Errno::AGAIN when another owner is in the way.
    fn lock(&self, locks: &Self::Locks, range: LockRange) -> Result<()>;
    fn blocking_lock(&self, locks: &Self::Locks, range: LockRange) -> Result<Option<LockRange>>;

    fn open_directory(&self, node: &Self::Node) -> Result<Self::Directory>;
    /// Calls `each` for entries behind `from` (0: the first) until it answers false or there are no
    /// more. `.` and `..` are among them. `about` is how many bytes of entries the caller has room for.
    fn entries(
        &self,
        directory: &Self::Directory,
        from: u64,
        about: usize,
        each: &mut dyn FnMut(&Entry<'_>) -> bool,
    ) -> Result<()>;
    fn sync_directory(&self, directory: &Self::Directory, data_only: bool) -> Result<()>;

    fn statistics(&self, node: &Self::Node) -> Result<Statistics>;
    fn sync_all(&self, node: &Self::Node) -> Result<()>;
    fn access(&self, node: &Self::Node, wanted: AccessWanted) -> Result<()>;

    /// Its length; with an empty `into` only that.
    fn extended(&self, node: &Self::Node, name: &CStr, into: &mut [u8]) -> Result<usize>;
    fn set_extended(
        &self,
        node: &Self::Node,
        name: &CStr,
        value: &[u8],
        how: ExtendedHow,
    ) -> Result<()>;
    /// Names, each closed by a NUL; the length, and with an empty `into` only that.
    fn list_extended(&self, node: &Self::Node, into: &mut [u8]) -> Result<usize>;
    fn remove_extended(&self, node: &Self::Node, name: &CStr) -> Result<()>;

    /// The node in words (keep/nodes.rs). None: it cannot be kept.
    fn keep(&self, node: &Self::Node) -> Option<KeptNode>;
    /// Holds it for as long as it is known, for who writes its descriptor's number down; None: as many as may are.
    fn hold(&self, node: &Self::Node) -> Option<RawFd>;
    /// How it is found is written into that row from now on; None: no more, the row is another's.
    fn bind(&self, node: &Self::Node, row: Option<NodeRow>);
    /// What `keep` said, in a later process, and what its row says of how it is found.
    fn adopt(&self, kept: &KeptNode, left: (KeptPlace, Option<NodeRow>)) -> Result<Self::Node>;
    /// The name of an adopted node, as its row says.
    fn lead(&self, node: &Self::Node, folder: &Self::Node, name: &CStr);
    /// The descriptors that open things are, while the values are held.
    fn keep_file(&self, file: &Self::File) -> Option<RawFd>;
    fn keep_directory(&self, directory: &Self::Directory) -> Option<RawFd>;
    fn keep_locks(&self, locks: &Self::Locks) -> Option<RawFd>;
    /// The same in a later process; `node`, `file`: what it was opened from. ESTALE where it is something else: whoever
    /// wrote its number down had closed it, and it is another's.
    fn adopt_file(&self, node: &Self::Node, open: OwnedFd) -> Result<Self::File>;
    fn adopt_directory(&self, node: &Self::Node, open: OwnedFd) -> Result<Self::Directory>;
    fn adopt_locks(&self, file: Identity, open: OwnedFd) -> Result<Self::Locks>;
}
