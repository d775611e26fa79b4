//! FUSE as a server: a guest's requests as bytes, answers as bytes, a `Tree` behind.
//!
//! Pure of transport: no sockets, clocks or threads. `session` is the way in for a device of one share,
//! `many` for one that carries all shares of a guest. virtiofs is one transport (serve/virtiofs.rs); tests
//! are another.

pub(crate) mod cache;
pub(crate) mod counters;
mod exchange;
mod greeting;
mod handles;
mod locks;
pub(crate) mod many;
pub(crate) mod nodes;
pub(crate) mod reply;
pub(crate) mod request;
pub(crate) mod session;
#[cfg(test)]
mod tests;
pub(crate) mod wire;
