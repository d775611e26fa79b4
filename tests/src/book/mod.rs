//! The book in `docs/book`, run: its chapters are read as steps ([`chapter()`]) and played on a [`Stage`] as a reader
//! would, one after the other.
//!
//! A fence says after its language what is to be done with it; one that says nothing, or something else, is an error.
//!
//! | words | what |
//! |---|---|
//! | `host` | commands behind `$ `, in one bash for the whole chapter; what stands below one is looked for in its output, `…` for anything |
//! | `guest` | the same behind `guest# `, as the guest's root |
//! | `soon` | (with either) the commands are tried until they succeed, at most for a minute |
//! | `fails` | (with either) the commands must fail |
//! | `terminal` | (with `host`) the command draws on a terminal: it is run on one until the screen has what is shown, then ended by `q` |
//! | `vm` | (with `host`) the command starts a VM and goes on beside the chapter |
//! | `file=PATH`, `append=PATH` | a file the reader writes, or adds to |
//! | `message` | a message, which the command before must have printed |
//! | `windows`, `kvm` | not run: needs Windows; needs a processor that virtualizes |
//!
//! A comment that begins with `<!-- test` has commands of both places that readers do not see: what their machines have
//! and the test's has not.

mod chapter;
mod shell;
mod stage;
mod structure;
mod terminal;

use std::path::PathBuf;

pub use chapter::{Commands, Place, Problem, Step, Typed, chapter};
pub use stage::{Played, Stage};
pub use structure::{chapters, problems};

use crate::place;

/// The folder of the book's text.
#[must_use]
pub fn folder() -> PathBuf {
    place::workspace().join("docs/book/src")
}
