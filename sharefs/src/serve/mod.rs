//! How guests reach a session: virtiofs over vhost-user, and 9P over a stream.
//!
//! `door` is a socket that a VMM connects to, again and again; `virtiofs` the device behind one
//! connection; `chain` the descriptor chains of its queues. `ninep` is a socket for 9P clients.

mod chain;
pub(crate) mod door;
pub(crate) mod ninep;
#[cfg(test)]
mod tests;
mod virtiofs;
