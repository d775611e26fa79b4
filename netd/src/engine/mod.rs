//! The part of netd that decides: no socket, no clock, no thread. Time comes in as an argument.

pub mod counters;
pub mod services;
pub mod settings;
