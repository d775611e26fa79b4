//! Hosts files kept in step with the guests' names.
//!
//! Facts (`sources`) become wanted names (`table`), wanted names become an edit of a
//! file's bytes (`section`), and edits become writes (`writer`). `table`, `section`,
//! `diff` and `pace` are pure; `daemon` owns the clock.

pub mod daemon;
pub mod diff;
pub mod dns;
pub mod files;
pub mod machine;
pub mod once;
pub mod pace;
pub mod section;
pub mod serve;
pub mod sources;
mod sys;
pub mod table;
pub mod view;
pub mod writer;
pub mod writer_service;
