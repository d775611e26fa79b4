//! FUSE as a server: a guest's requests as bytes, answers as bytes, a `Tree` behind.
//!
//! Pure of transport: no sockets, clocks or threads. `session` is the way in. virtiofs is one transport
//! (serve/virtiofs.rs); tests are another.

pub(crate) mod cache;
pub(crate) mod counters;
mod handles;
mod locks;
mod nodes;
pub(crate) mod reply;
pub(crate) mod request;
pub(crate) mod session;
#[cfg(test)]
mod tests;
pub(crate) mod wire;
