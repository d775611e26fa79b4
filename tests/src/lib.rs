//! The harness of the whole-system tests, the demo and the benches: real guests under QEMU, network
//! namespaces, the real daemons as an unprivileged user.
//!
//! A test is a list of steps on a [`World`](daemons::World); see tests/README.md for a first one.
//! What this crate does not do: it never tests a daemon's inside (each crate does that itself),
//! never touches the host's own network, and never leaves anything behind.

pub mod at_work;
pub mod blackbox;
pub mod book;
pub mod codec;
pub mod command;
pub mod daemons;
pub mod debian;
pub mod guest;
pub mod http;
pub mod limit;
pub mod mounts;
pub mod netns;
pub mod ninep;
pub mod noise;
pub mod outside;
pub mod packages;
pub mod place;
pub mod programs;
pub mod prometheus;
pub mod skip;
pub mod suites;
pub mod systemd;
pub mod user;

pub use anyhow::{Context, Result, bail, ensure};
pub use skip::{Skip, whole_system};
