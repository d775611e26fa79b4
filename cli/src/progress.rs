//! What is awaited, on a terminal, when it takes more than a second. Standard output never sees any of it.

use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::output::{Output, printable};

/// Before this nothing is shown: most things are done by then.
const PATIENCE: Duration = Duration::from_secs(1);
/// Between two pictures.
const FRAME: Duration = Duration::from_millis(120);
const PICTURES: [&str; 10] = ["⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"];
/// Back to the line's start, and the rest of the line is erased (ECMA-48 EL).
const CLEAR: &str = "\r\x1b[K";

/// Whether a picture stands in the terminal's last line now.
static DRAWN: AtomicBool = AtomicBool::new(false);

/// Whether one is shown: what is awaited as a part of something else says nothing.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// Makes room for a line of text; the picture comes again behind it.
pub(crate) fn make_room() {
    if DRAWN.swap(false, Ordering::Relaxed) {
        put(CLEAR);
    }
}

/// Shows that something is awaited until it is dropped.
pub(crate) struct Progress {
    /// None where nobody is there to see it.
    shown: Option<(SyncSender<String>, JoinHandle<()>)>,
}

impl Progress {
    /// `what` goes on: "netd to answer".
    pub(crate) fn begin(out: &Output, what: impl Into<String>) -> Self {
        let seen = !out.quiet
            && io::stderr().is_terminal()
            && !is_dumb()
            && !TAKEN.swap(true, Ordering::Relaxed);
        let shown = seen.then(|| {
            let (sender, receiver) = sync_channel::<String>(1);
            let mut what = what.into();
            let thread = std::thread::Builder::new().spawn(move || {
                let (mut wait, mut count) = (PATIENCE, 0_usize);
                loop {
                    match receiver.recv_timeout(wait) {
                        Ok(newer) => what = newer,
                        Err(RecvTimeoutError::Timeout) => {
                            draw(count, &what);
                            (wait, count) = (FRAME, count + 1);
                        }
                        Err(RecvTimeoutError::Disconnected) => break,
                    }
                }
                make_room();
            });
            // Without a thread to spare nothing is shown.
            thread.ok().map(|thread| (sender, thread))
        });
        let shown = shown.flatten();
        Self { shown }
    }

    /// Something else is awaited now.
    pub(crate) fn say(&self, what: &str) {
        if let Some((sender, _)) = &self.shown {
            // One that finds no room is late anyway.
            sender.try_send(what.to_owned()).ok();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some((sender, thread)) = self.shown.take() {
            drop(sender);
            // The line is clear before anything else is written.
            thread.join().ok();
            TAKEN.store(false, Ordering::Relaxed);
        }
    }
}

/// A terminal that cannot go back in its line.
fn is_dumb() -> bool {
    std::env::var_os("TERM").is_none_or(|term| term == "dumb")
}

fn draw(count: usize, what: &str) {
    /// Columns; a line that wraps could not be taken back.
    const WIDEST: usize = 70;
    let line: String = printable(what)
        .replace(['\n', '\t'], " ")
        .chars()
        .take(WIDEST)
        .collect();
    let picture = PICTURES[count % PICTURES.len()];
    DRAWN.store(true, Ordering::Relaxed);
    let seconds = (PATIENCE + FRAME * u32::try_from(count).unwrap_or(u32::MAX)).as_secs();
    put(&format!(
        "{CLEAR}{picture} waiting for {line} ({seconds} s)"
    ));
}

fn put(text: &str) {
    let mut err = io::stderr().lock();
    // There is no other place to complain to.
    err.write_all(text.as_bytes())
        .and_then(|()| err.flush())
        .ok();
}
