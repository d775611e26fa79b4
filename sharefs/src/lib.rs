//! Host folders as a guest sees them, over virtiofs.
//!
//! `tree` is a shared folder in no protocol's words, `fuse` the protocol, `serve` the way from a virtual
//! machine's memory to it, `shares` and `daemon` what ties them to a configuration. Arrows point that
//! way only: a tree knows no protocol, a session no transport, a device no configuration.

pub mod confine;
mod count;
pub mod daemon;
mod fuse;
mod metrics;
mod ninep;
mod serve;
mod shares;
mod sys;
mod tree;

pub use guestmem::install as guard_guest_memory;
