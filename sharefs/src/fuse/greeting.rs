//! INIT: what this server and a guest's kernel agree on for a whole mount.

use rustix::io::Errno;

use super::request::Offer;
use super::wire::{self, Output, ability};
use crate::tree::Result;

/// Bytes of one READ or WRITE: 256 pages, the most a guest's kernel sends.
pub(super) const LONGEST_DATA: u32 = 1024 * 1024;
/// Requests that a guest may have under way for read-ahead and the like; the queue is the real bound.
const MOST_BACKGROUND: u16 = u16::MAX;

/// What a device asks of a guest for its shares.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wishes {
    /// Whether any file's contents may be kept by the guest.
    pub(super) keeps_contents: bool,
    /// Whether the share has access control lists: the guest's kernel then asks for them, with each file whose
    /// permissions it looks at, and leaves the umask to us.
    pub(super) lists: bool,
    /// Whether the guest's kernel may gather writes; see `session/writeback.rs`.
    pub(super) writeback: bool,
}

/// Writes fuse_init_out; the abilities agreed on. None: the guest will ask again with another version.
pub(super) fn answer(output: &mut Output<'_>, offer: Offer, wishes: Wishes) -> Result<Option<u64>> {
    if offer.major != wire::MAJOR {
        if offer.major < wire::MAJOR {
            return Err(Errno::PROTO);
        }
        // A newer kernel asks again with our version.
        output.u32(wire::MAJOR).u32(wire::MINOR).zeros(56);
        return Ok(None);
    }
    if offer.minor < wire::OLDEST_MINOR {
        return Err(Errno::PROTO);
    }
    let mut wanted = ability::ASYNC_READ
        | ability::POSIX_LOCKS
        | ability::ATOMIC_O_TRUNC
        | ability::BIG_WRITES
        | ability::FLOCK_LOCKS
        | ability::DO_READDIRPLUS
        | ability::READDIRPLUS_AUTO
        | ability::ASYNC_DIO
        | ability::PARALLEL_DIROPS
        | ability::MAX_PAGES
        | ability::SUBMOUNTS
        | ability::HANDLE_KILLPRIV_V2
        | ability::INIT_EXT
        | ability::DIRECT_IO_ALLOW_MMAP;
    if wishes.lists {
        wanted |= ability::POSIX_ACL | ability::DONT_MASK | ability::SETXATTR_EXT;
    }
    if wishes.writeback {
        wanted |= ability::WRITEBACK_CACHE;
    }
    if wishes.keeps_contents {
        wanted |= ability::AUTO_INVAL_DATA | ability::CACHE_SYMLINKS;
    }
    let agreed = wanted & offer.abilities;
    let (low, high) = (agreed & 0xffff_ffff, agreed >> 32);
    output
        .u32(wire::MAJOR)
        .u32(wire::MINOR.min(offer.minor.max(wire::OLDEST_MINOR)))
        .u32(offer.read_ahead.min(LONGEST_DATA))
        .u32(u32::try_from(low).unwrap_or_default())
        .u16(MOST_BACKGROUND)
        .u16(MOST_BACKGROUND / 4 * 3)
        .u32(LONGEST_DATA)
        .u32(1) // granularity of times: nanoseconds
        .u16(u16::try_from(LONGEST_DATA / 4096).unwrap_or_default())
        .u16(0)
        .u32(u32::try_from(high).unwrap_or_default())
        .zeros(28);
    Ok(Some(agreed))
}
