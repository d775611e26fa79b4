//! How guests reach a session: today virtiofs over vhost-user.
//!
//! `door` is a socket that a VMM connects to, again and again; `virtiofs` the device behind one
//! connection; `chain` the descriptor chains of its queues; `patience` when its threads sleep.

mod chain;
pub(crate) mod door;
mod patience;
#[cfg(test)]
mod tests;
mod virtiofs;
