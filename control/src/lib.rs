//! What the `sharectl` command and its daemons share: the configuration with
//! its checked types, where files and sockets live, and the control protocol
//! (HTTP/1.1 and JSON over a unix socket) with server, client and events.
//!
//! No daemon depends on another; what they know of each other passes through
//! the types of this crate.

pub mod api;
pub mod capture;
pub mod client;
pub mod config;
pub mod egress;
pub mod engine;
pub mod events;
pub mod failure;
pub mod fold;
pub mod following;
pub mod host_interface;
pub mod host_network;
pub mod lock;
pub mod logging;
pub mod mac;
pub mod metrics;
pub mod names;
pub mod notify;
pub mod paths;
pub mod pattern;
pub mod port;
pub mod port_owner;
pub mod rate;
pub mod reloads;
pub mod server;
pub mod signals;
pub mod translation;
pub mod watch;
pub mod windows_names;
