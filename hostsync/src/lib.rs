//! Hosts files kept in step with the guests' names.
pub mod section;
pub mod table;
pub mod writer;
