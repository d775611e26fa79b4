//! How a whole-system test is run: one at a time on this machine, with a skip that is printed and
//! counted, never a silent pass.
//!
//! libtest knows no skip at run time, so a skipped test passes there; `cargo xtask test` names a file
//! in `SHARECTL_SKIPS`, to which each skip adds a line, and takes them off the count of the passed.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use anyhow::{Context, Result};
use rustix::fs::FlockOperation;

use crate::{blackbox, place};

/// Names the file that collects the skips of a run.
pub const SKIPS_VARIABLE: &str = "SHARECTL_SKIPS";

/// Why a test cannot run here. Return it as an error from the body of [`whole_system`].
#[derive(Debug)]
pub struct Skip(pub String);

impl Skip {
    /// The error that skips a test.
    pub fn because(why: impl Into<String>) -> anyhow::Error {
        Self(why.into()).into()
    }
}

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "skipped: {}", self.0)
    }
}

impl std::error::Error for Skip {}

/// Runs the body of one whole-system test, alone on this machine.
///
/// Guests and namespaces want the processor for themselves (time limits mean something then), hence a
/// lock file in the target folder: tests of several programs and of several terminals queue up.
///
/// # Panics
/// When the body fails: with the whole chain of causes and the logs of its guests and daemons.
#[expect(
    clippy::panic,
    reason = "this is the assertion of a test, made on its behalf"
)]
#[expect(clippy::print_stderr, reason = "skips and logs must be seen")]
pub fn whole_system(body: impl FnOnce() -> Result<()>) {
    let name = std::thread::current()
        .name()
        .unwrap_or("a test without a name")
        .to_owned();
    let outcome = alone().map(|_lock| {
        drop(blackbox::take());
        catch_unwind(AssertUnwindSafe(body))
    });
    let error = match outcome {
        Ok(Ok(Ok(()))) => return,
        Ok(Ok(Err(error))) | Err(error) => error,
        Ok(Err(panic)) => {
            show_logs();
            resume_unwind(panic);
        }
    };
    if let Some(skip) = error.downcast_ref::<Skip>() {
        eprintln!("{name}: {skip}");
        if let Err(error) = record(&name, skip) {
            panic!("{error:#}");
        }
    } else {
        show_logs();
        panic!("{name}: {error:#}");
    }
}

#[expect(clippy::print_stderr, reason = "shown for a failing test")]
fn show_logs() {
    for (title, log) in blackbox::take() {
        eprintln!("---- {title}\n{log}");
    }
}

/// Waits for and takes the machine-wide lock; released when the file is dropped.
///
/// # Errors
/// When the lock file cannot be made.
pub fn alone() -> Result<File> {
    let path = place::cache()?.join("whole-system.lock");
    let file = File::create(&path).with_context(|| format!("create {}", path.display()))?;
    rustix::fs::flock(&file, FlockOperation::LockExclusive)
        .with_context(|| format!("lock {}", path.display()))?;
    Ok(file)
}

fn record(name: &str, skip: &Skip) -> Result<()> {
    let Some(path) = std::env::var_os(SKIPS_VARIABLE) else {
        return Ok(());
    };
    let mut file = OpenOptions::new()
        .append(true)
        .create(true)
        .open(&path)
        .with_context(|| format!("open {}", path.display()))?;
    writeln!(file, "{name}: {}", skip.0).context("record a skip")
}
