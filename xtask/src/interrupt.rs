//! Ctrl-C ends the demo the way it ends by itself: guest off, daemons stopped, everything removed.
//!
//! The first one is only noted, and looked at between steps; a second one ends at once, and the next
//! run sweeps up.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};

static SEEN: AtomicBool = AtomicBool::new(false);

/// Whether the person has asked for the end.
pub(crate) fn seen() -> bool {
    SEEN.load(Ordering::Relaxed)
}

/// Takes Ctrl-C over, until the end of the process.
pub(crate) fn watch() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("watch for Ctrl-C")?;
    std::thread::spawn(move || {
        // Without it Ctrl-C would do nothing, so a failure ends the watch and the process keeps on.
        while runtime.block_on(tokio::signal::ctrl_c()).is_ok() {
            if SEEN.swap(true, Ordering::Relaxed) {
                end();
            }
        }
    });
    Ok(())
}

#[expect(
    clippy::exit,
    clippy::disallowed_methods,
    reason = "the person insists; 130 is what a shell shows for SIGINT"
)]
fn end() {
    std::process::exit(130);
}
