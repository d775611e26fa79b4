//! What a failing test shows: the logs of every guest and daemon that it used.
//!
//! They hand their logs in when they are dropped; [`crate::whole_system`] prints them only if the
//! test failed.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

/// Lines kept of each log: the end is where the failure is.
const LINES: usize = 60;

static LOGS: Mutex<Vec<(String, String)>> = Mutex::new(Vec::new());

/// Hands in the end of a log.
pub fn keep(title: impl Into<String>, log: &str) {
    let log = log.trim();
    if log.is_empty() {
        return;
    }
    LOGS.lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push((title.into(), tail(log)));
}

/// Hands in the end of a log file.
pub fn keep_file(title: impl Into<String>, path: &Path) {
    let bytes = std::fs::read(path).unwrap_or_default();
    keep(title, &String::from_utf8_lossy(&bytes));
}

/// The last lines of a text.
#[must_use]
pub fn tail(text: &str) -> String {
    let lines: Vec<_> = text.lines().collect();
    let start = lines.len().saturating_sub(LINES);
    lines.get(start..).unwrap_or_default().join("\n")
}

/// Takes everything handed in so far.
#[must_use]
pub fn take() -> Vec<(String, String)> {
    std::mem::take(&mut LOGS.lock().unwrap_or_else(PoisonError::into_inner))
}
