//! Host folders as a guest sees them, over virtiofs.
//!
//! `tree` is a shared folder in no protocol's words, `fuse` the protocol, `serve` the way from a virtual
//! machine's memory to it, `shares`, `mounts` and `daemon` what ties them to a configuration; `mounter` is a
//! process of its own that mounts on the host. Arrows point that
//! way only: a tree knows no protocol, a session no transport, a device no configuration.

pub mod confine;
mod count;
pub mod daemon;
mod fuse;
mod guest_mounts;
pub mod keep;
mod metrics;
mod mounter;
mod mounts;
mod ninep;
#[allow(
    clippy::wildcard_enum_match_arm,
    reason = "any other answer than the one that was asked for is a lie, whichever it is"
)]
mod remote;
mod serve;
mod served;
mod shares;
mod sys;
mod tree;

pub use guestmem::install as guard_guest_memory;
pub use mounter::Mounter;
pub use mounter::helper::run as mount_for_a_daemon;
