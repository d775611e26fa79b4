//! The one piece that runs as root: it writes the hosts file for ordinary users' daemons.
//!
//! `sharectl-hosts-writer` listens on a unix socket. A client says which names it wants; the
//! kernel says which user it is (`SO_PEERCRED`, `unix(7)`); a file of root's says what that
//! user may have (`policy`); the names go into a block of that user's own in the hosts file
//! (`claims`), by the same `writer.rs` as everywhere. It has no network, no configuration of a
//! user, no runtime and one thread, which is bound to files before it hears the first byte
//! (`confine`).
//!
//! It keeps no state but the file: a block's tag says whose it is. Why it is built so stands
//! in docs/decisions/0021.

mod accounts;
mod claims;
pub mod client;
mod confine;
mod policy;
pub mod protocol;
mod rate;
mod server;

pub use policy::{POLICY_FILE, Peer, Policy, PolicyError};
pub use server::{Options, run};

/// The units of systemd that run it, and an administrator's first policy.
pub mod units {
    /// Where the units have the program from; a copy that only root can change.
    pub const PROGRAM: &str = "/usr/local/libexec/sharectl/sharectl-hosts-writer";
    /// `sharectl-hosts.socket`.
    pub const SOCKET: &str = include_str!("../../units/sharectl-hosts.socket");
    /// `sharectl-hosts.service`.
    pub const SERVICE: &str = include_str!("../../units/sharectl-hosts.service");
    /// `/etc/sharectl/hosts.toml`: every key, with its default.
    pub const POLICY: &str = include_str!("../../units/hosts.toml");
}
