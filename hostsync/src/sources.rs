//! Where facts come from: the configuration, netd, and what netd said last.

pub mod config;
pub mod known;
pub mod netd;
