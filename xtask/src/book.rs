//! `cargo xtask book`: the book as pages for a browser, by mdBook, which cargo installs into target/ the first time. That
//! each of its commands does what the book says is a whole-system test (tests/tests/book.rs).

use std::process::Command;
use std::time::Duration;

use ::tests::suites::Program;
use ::tests::{command, place};
use anyhow::{Context, Result};

use crate::ui;

/// Its book.toml and fences are written for this version.
const MDBOOK: Program = Program {
    name: "mdbook",
    version: "0.5.4",
};
const LIMIT: Duration = Duration::from_secs(60);

/// Builds it into `target/book`.
///
/// # Errors
/// When mdBook cannot be installed, or what it says of the book.
pub(crate) fn run() -> Result<()> {
    ui::line("mdBook (built the first time, some minutes)");
    let mut line = Command::new(MDBOOK.installed()?);
    line.arg("build").arg(place::workspace().join("docs/book"));
    command::run(&mut line, LIMIT).context("build the book")?;
    ui::line(&format!(
        "the book: {}",
        place::workspace().join("target/book/index.html").display()
    ));
    Ok(())
}
