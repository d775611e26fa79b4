//! Each verb as a person meets it: standard output, standard error and exit
//! code, in an environment of its own; daemons are played by [`fake`].
#![allow(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

mod completions;
mod config;
mod daemons;
mod dry_run;
mod edit;
mod fake;
mod guest;
mod guest_mounts;
mod help;
mod host;
mod import;
mod map;
mod network;
mod path;
mod place;
mod port;
mod printed;
mod project;
mod ps;
mod schema;
mod service;
mod share;
mod suggestions;
mod terminal;
mod traffic;
mod wait_ready;
mod watching;
