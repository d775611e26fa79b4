//! How a whole-system test is run: one at a time on this machine, with a skip that is printed and
//! counted, never a silent pass.
//!
//! libtest knows no skip at run time, so a skipped test passes there; `cargo xtask test` names a file
//! in `SHARECTL_SKIPS`, to which each skip adds a line, and takes them off the count of the passed.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;

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
    let (outcome, logs) = match alone() {
        Ok(lock) => run(lock, body),
        Err(error) => (Ok(Err(error)), Vec::new()),
    };
    let error = match outcome {
        Ok(Ok(())) => return,
        Ok(Err(error)) => error,
        Err(panic) => {
            show(&logs);
            resume_unwind(panic);
        }
    };
    if let Some(skip) = error.downcast_ref::<Skip>() {
        eprintln!("{name}: {skip}");
        if let Err(error) = record(&name, skip) {
            panic!("{error:#}");
        }
    } else {
        show(&logs);
        panic!("{name}: {error:#}");
    }
}

/// What came of the body, and the logs it left. They are taken under the lock: whoever has it next begins with none.
fn run(
    lock: File,
    body: impl FnOnce() -> Result<()>,
) -> (std::thread::Result<Result<()>>, Vec<(String, String)>) {
    drop(blackbox::take());
    let outcome = catch_unwind(AssertUnwindSafe(body));
    let logs = blackbox::take();
    drop(lock);
    (outcome, logs)
}

#[expect(clippy::print_stderr, reason = "shown for a failing test")]
fn show(logs: &[(String, String)]) {
    for (title, log) in logs {
        eprintln!("---- {title}\n{log}");
    }
}

/// Waits for and takes the machine-wide lock; released when the file is dropped.
///
/// # Errors
/// When the lock file cannot be made.
pub fn alone() -> Result<File> {
    locked(&place::cache()?.join("whole-system.lock"))
}

fn locked(path: &Path) -> Result<File> {
    let file = File::create(path).with_context(|| format!("create {}", path.display()))?;
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn the_logs_of_a_failure_are_there_though_the_next_test_waits() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    let (outcome, _) = run(locked(&path).unwrap(), || Ok(()));
                    outcome.unwrap().unwrap();
                }
            });
            let kept = |number: &i32| {
                let (outcome, logs) = run(locked(&path).unwrap(), || {
                    blackbox::keep("daemon", &number.to_string());
                    anyhow::bail!("a failure")
                });
                outcome.unwrap().unwrap_err();
                logs == [("daemon".to_owned(), number.to_string())]
            };
            let lost = (0..1000).find(|number| !kept(number));
            over.store(true, Ordering::Relaxed);
            assert_eq!(lost, None);
        });
    }
}
