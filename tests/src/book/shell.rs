//! The reader's shell: one bash for a whole chapter, so that `cd`, variables and jobs stay.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::limit::Deadline;

/// What the shell prints after each command, followed by its status.
const MARK: &str = "--- done, status ";

/// Lines that wait to be read, before the shell waits.
const MOST_LINES: usize = 4096;

/// A bash that runs. Dropping it kills it, not what it left behind.
#[derive(Debug)]
pub(super) struct Shell {
    child: Child,
    input: ChildStdin,
    output: Receiver<String>,
}

/// What a command came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Said {
    pub(super) status: i32,
    /// Both outputs, as they came.
    pub(super) text: String,
}

impl Shell {
    /// Starts it by a line that is a bash.
    pub(super) fn start(mut bash: Command) -> Result<Self> {
        let mut child = bash
            .args(["--norc", "--noprofile"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("start a shell")?;
        let mut input = child.stdin.take().context("no input")?;
        let from = child.stdout.take().context("no output")?;
        let (lines, output) = sync_channel(MOST_LINES);
        std::thread::spawn(move || {
            for line in BufReader::new(from).split(b'\n') {
                let line = line.map(|line| String::from_utf8_lossy(&line).into_owned());
                if !line.is_ok_and(|line| lines.send(line).is_ok()) {
                    break;
                }
            }
        });
        input.write_all(b"exec 2>&1\n")?;
        Ok(Self {
            child,
            input,
            output,
        })
    }

    /// Types a command and waits for its end.
    pub(super) fn run(&mut self, text: &str, limit: Duration) -> Result<Said> {
        // Not the shell's own input, of which a command could read the next one.
        let line = format!("{{ {text}\n}} < /dev/null\nprintf '\\n{MARK}%s\\n' \"$?\"\n");
        self.input
            .write_all(line.as_bytes())
            .context("type into the shell, which is gone")?;
        let deadline = Deadline::after(limit);
        let mut said = String::new();
        loop {
            match self.output.recv_timeout(deadline.left()) {
                Ok(line) => {
                    if let Some(status) = line.strip_prefix(MARK) {
                        let status = status.parse().context("a status that is no number")?;
                        return Ok(Said { status, text: said });
                    }
                    said.push_str(&line);
                    said.push('\n');
                }
                Err(RecvTimeoutError::Timeout) => bail!("not done within {limit:?}\n{said}"),
                Err(RecvTimeoutError::Disconnected) => bail!("it ended the shell\n{said}"),
            }
        }
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        // It may have ended, which the chapter has seen.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    #[test]
    fn folders_and_variables_stay_and_outputs_are_one() {
        let mut shell = Shell::start(Command::new("bash")).unwrap();
        shell.run("cd /; x=7", SOON).unwrap();
        let said = shell.run("pwd; echo $x >&2; cat; false", SOON).unwrap();
        assert_eq!(said.status, 1);
        assert_eq!(said.text, "/\n7\n\n");
    }

    #[test]
    fn a_command_that_hangs_or_ends_the_shell_is_an_error() {
        let mut shell = Shell::start(Command::new("bash")).unwrap();
        let error = shell
            .run("sleep 60", Duration::from_millis(200))
            .unwrap_err();
        assert!(error.to_string().contains("not done"), "{error}");
        let mut shell = Shell::start(Command::new("bash")).unwrap();
        let error = shell.run("exit 3", SOON).unwrap_err();
        assert!(error.to_string().contains("ended the shell"), "{error}");
    }
}
