//! What rows say, as values.

use std::os::fd::RawFd;

use crate::keep::nodes::KeptNode;
use crate::tree::{Identity, Kind};

/// A share that is attached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeptMount {
    /// Its place among those of the connection.
    pub(crate) place: u64,
    /// Of the share.
    pub(crate) options: u64,
    /// Of the folder by which its qids were first told.
    pub(crate) folder: Identity,
    pub(crate) name: Vec<u8>,
}

/// A fid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeptFid {
    pub(crate) number: u32,
    /// Its share's place.
    pub(crate) mount: u32,
    /// The row of its place.
    pub(crate) place: usize,
    pub(crate) user: u32,
    pub(crate) used: KeptUse,
}

/// What a fid is good for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum KeptUse {
    Nothing,
    File {
        open: RawFd,
        append: bool,
        writes: bool,
        in_parts: bool,
    },
    Folder {
        open: RawFd,
    },
    Reading {
        value: Vec<u8>,
    },
    Writing {
        name: Vec<u8>,
        flags: u32,
        length: usize,
        bytes: Vec<u8>,
    },
}

/// A place, and the folder and name that it was reached by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeptPlace {
    /// Of the descriptor that holds it.
    pub(crate) number: RawFd,
    pub(crate) node: KeptNode,
    pub(crate) above: Option<(usize, Vec<u8>)>,
}

/// The holder of one owner's locks on a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeptOwner {
    pub(crate) open: RawFd,
    pub(crate) file: Identity,
    pub(crate) process: u32,
    pub(crate) client: Vec<u8>,
    pub(crate) fid: u32,
    pub(crate) mount: u32,
}

/// A request that waits for a lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeptWait {
    pub(crate) tag: u16,
    pub(crate) fid: u32,
    pub(crate) mount: u32,
    /// As in the message.
    pub(crate) kind: u8,
    pub(crate) start: u64,
    pub(crate) length: u64,
    pub(crate) process: u32,
    pub(crate) client: Vec<u8>,
    /// Its fid is gone, which is its answer.
    pub(crate) is_over: bool,
}

/// What is open for a request of the slow lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KeptOpen {
    pub(crate) number: RawFd,
    /// What it is: the number may be another's by then.
    pub(crate) file: Identity,
    /// A file, or a folder.
    pub(crate) kind: Kind,
}

/// A request that the slow lane was at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeptSlow {
    pub(crate) row: usize,
    /// The request.
    pub(crate) frame: Vec<u8>,
    /// Its fid is gone, and another may have its number.
    pub(crate) is_over: bool,
    /// What was open there.
    pub(crate) open: Option<KeptOpen>,
    /// The commit it began with: their order.
    pub(super) born: u64,
}
