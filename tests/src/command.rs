//! Running a program with a hard time limit, its output kept apart.
//!
//! Waiting is by pidfd, so that nothing polls; at the limit the child is killed and what it said so
//! far is in the error.

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open};

use crate::limit::Deadline;

/// What a program left: its status and everything it printed.
#[derive(Debug, Clone)]
pub struct Output {
    /// Exit status.
    pub status: ExitStatus,
    /// Standard output, as text (wrong bytes replaced).
    pub stdout: String,
    /// Standard error, as text (wrong bytes replaced).
    pub stderr: String,
}

impl Output {
    /// Standard output if the status is 0.
    ///
    /// # Errors
    /// Any other status, with everything printed.
    pub fn success(self) -> Result<String> {
        if self.status.success() {
            return Ok(self.stdout);
        }
        bail!("{}\n{}{}", self.status, self.stdout, self.stderr)
    }
}

/// Runs a command to its end.
///
/// # Errors
/// When it cannot be started or does not end within `limit`. A bad status is not an error here.
pub fn output(command: &mut Command, limit: Duration) -> Result<Output> {
    output_with_input(command, &[], limit)
}

/// Runs a command to its end with something to read.
///
/// # Errors
/// As [`output`].
pub fn output_with_input(command: &mut Command, input: &[u8], limit: Duration) -> Result<Output> {
    let line = shown(command);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("start: {line}"))?;
    let stdin = child.stdin.take();
    let input = input.to_vec();
    std::thread::spawn(move || {
        if let Some(mut stdin) = stdin {
            // A program may end without reading; its status tells then.
            drop(stdin.write_all(&input));
        }
    });
    let stdout = collect(child.stdout.take());
    let stderr = collect(child.stderr.take());
    let status = wait(&mut child, limit)?;
    if status.is_none() {
        child.kill().context("kill")?;
        child.wait().context("wait")?;
    }
    let stdout = text(&stdout);
    let stderr = text(&stderr);
    match status {
        Some(status) => Ok(Output {
            status,
            stdout,
            stderr,
        }),
        None => bail!("not done within {limit:?}: {line}\n{stdout}{stderr}"),
    }
}

/// Runs a command that must end well; gives its standard output.
///
/// # Errors
/// As [`output`], and any status but 0.
pub fn run(command: &mut Command, limit: Duration) -> Result<String> {
    let line = shown(command);
    output(command, limit)?
        .success()
        .with_context(|| format!("run: {line}"))
}

/// Waits for a child, at most for `limit`; `None` when it is still running.
///
/// # Errors
/// When the kernel refuses to tell.
pub fn wait(child: &mut Child, limit: Duration) -> Result<Option<ExitStatus>> {
    if let Some(status) = child.try_wait()? {
        return Ok(Some(status));
    }
    let pid = pid_of(child)?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).context("pidfd_open")?;
    let deadline = Deadline::after(limit);
    loop {
        let left = deadline.left();
        let timeout = Timespec {
            tv_sec: i64::try_from(left.as_secs())?,
            tv_nsec: left.subsec_nanos().into(),
        };
        match poll(
            &mut [PollFd::new(&pidfd.as_fd(), PollFlags::IN)],
            Some(&timeout),
        ) {
            Ok(0) => return Ok(None),
            Ok(_) => return Ok(Some(child.wait()?)),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context("poll"),
        }
    }
}

/// Asks a child to end, then makes it: SIGTERM, `patience`, SIGKILL.
///
/// # Errors
/// When the kernel refuses.
pub fn stop(child: &mut Child, patience: Duration) -> Result<ExitStatus> {
    if let Some(status) = child.try_wait()? {
        return Ok(status);
    }
    rustix::process::kill_process(pid_of(child)?, Signal::TERM).context("kill")?;
    if let Some(status) = wait(child, patience)? {
        return Ok(status);
    }
    child.kill().context("kill")?;
    child.wait().context("wait")
}

/// The process id of a child, as the kernel calls take it.
///
/// # Errors
/// Never for a real child.
pub fn pid_of(child: &Child) -> Result<Pid> {
    Pid::from_raw(i32::try_from(child.id())?).context("a child without a process id")
}

/// A command as a person would type it.
#[must_use]
pub fn shown(command: &Command) -> String {
    let mut line = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        let argument = argument.to_string_lossy();
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_=./:,@+%".contains(c);
        if !argument.is_empty() && argument.chars().all(plain) {
            let _ = write!(line, " {argument}");
        } else {
            let _ = write!(line, " '{}'", argument.replace('\'', r"'\''"));
        }
    }
    line
}

/// A grandchild that lives on may keep a pipe open; its parent's output is complete long before.
const STRAGGLERS: Duration = Duration::from_millis(500);

struct Collector {
    buffer: Arc<Mutex<Vec<u8>>>,
    done: Receiver<()>,
}

fn collect(from: Option<impl Read + Send + 'static>) -> Collector {
    let buffer = Arc::new(Mutex::new(Vec::new()));
    let (tell, done) = sync_channel(1);
    let ours = Arc::clone(&buffer);
    std::thread::spawn(move || {
        let mut chunk = [0; 8192];
        if let Some(mut from) = from {
            while let Ok(length @ 1..) = from.read(&mut chunk) {
                let part = chunk.get(..length).unwrap_or_default();
                ours.lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .extend_from_slice(part);
            }
        }
        let _ = tell.send(());
    });
    Collector { buffer, done }
}

fn text(collector: &Collector) -> String {
    let _ = collector.done.recv_timeout(STRAGGLERS);
    let bytes = collector
        .buffer
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    #[test]
    fn output_and_status_are_kept_apart() {
        let output = output(
            Command::new("sh").args(["-c", "cat; echo bad >&2; exit 3"]),
            SOON,
        )
        .unwrap();
        assert_eq!(output.status.code(), Some(3));
        assert_eq!(
            (output.stdout.as_str(), output.stderr.as_str()),
            ("", "bad\n")
        );
    }

    #[test]
    fn a_program_over_its_limit_is_killed_and_quoted() {
        let error = output(
            Command::new("sh").args(["-c", "echo started; exec sleep 60"]),
            Duration::from_secs(3),
        )
        .unwrap_err();
        assert!(error.to_string().contains("started"), "{error}");
    }

    #[test]
    fn shown_quotes_what_a_shell_would_split() {
        let mut command = Command::new("sh");
        command.args(["-c", "it's"]);
        assert_eq!(shown(&command), r"sh -c 'it'\''s'");
    }
}
