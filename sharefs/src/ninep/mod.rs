//! 9P2000.L: a client's messages as bytes, answers as bytes, trees behind.
//!
//! Pure of transport: no sockets, clocks or threads; serve/ninep.rs is what puts it on one. `messages` and
//! `wire` are the codec of both sides; `session` is the way in for a server,
//! `client` what a client makes of its answers (remote/).

pub(crate) mod client;
mod convert;
pub(crate) mod counters;
mod fids;
mod locks;
pub(crate) mod messages;
mod mount;
pub(crate) mod session;
#[cfg(test)]
#[allow(
    clippy::wildcard_enum_match_arm,
    reason = "any other answer is a failed test"
)]
mod tests;
pub(crate) mod wire;
