//! How a session is reached: by guests over virtiofs or 9P, by the host's own programs through a mount.
//!
//! `door` is a socket that a VMM connects to, again and again; `virtiofs` the device behind one
//! connection; `vring` its queues and `chain` their descriptor chains. `patience` when its threads sleep.
//! `ninep` is a socket for 9P clients, `vsock` the way through a VMM to a guest. `mount` serves /dev/fuse.

mod chain;
pub(crate) mod door;
pub(crate) mod mount;
pub(crate) mod ninep;
mod patience;
mod relay;
#[cfg(test)]
mod tests;
mod turns;
mod virtiofs;
mod vring;
pub(crate) mod vsock;
