//! The command channel: shell commands into a guest, status and output back, over its second serial
//! port. The guest's end is channel.sh.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::codec;
use crate::limit::{Deadline, retry};

/// The guest kills a command at its limit; its answer may take a little longer to come.
const GRACE: Duration = Duration::from_secs(10);

/// More than this in one answer is a mistake of the test: the serial port is slow.
const LONGEST_ANSWER: usize = 16 << 20;

/// What a command in the guest left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Exit status; 137 when it was killed at its limit.
    pub status: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

/// The host's end.
#[derive(Debug)]
pub struct Channel {
    stream: UnixStream,
    unread: Vec<u8>,
    next: u32,
}

impl Channel {
    /// Connects, within 10 s.
    ///
    /// # Errors
    /// When nobody listens.
    pub fn open(socket: &Path) -> Result<Self> {
        let stream = retry("open the guest's channel", Duration::from_secs(10), || {
            Ok(UnixStream::connect(socket)?)
        })?;
        Ok(Self {
            stream,
            unread: Vec::new(),
            next: 1,
        })
    }

    /// Waits until the guest's `init` has come so far.
    ///
    /// # Errors
    /// When it does not within `limit`.
    pub fn wait_ready(&mut self, limit: Duration) -> Result<()> {
        let deadline = Deadline::after(limit);
        // Before init takes it over, the port may echo or spit a byte.
        while !self.line(&deadline)?.ends_with("READY") {}
        Ok(())
    }

    /// Runs a shell command in the guest; killed at the limit (whole seconds).
    ///
    /// # Errors
    /// When the guest does not answer. A bad status is not an error here.
    pub fn run(&mut self, shell: &str, limit: Duration) -> Result<Answer> {
        let id = self.next;
        self.next += 1;
        let seconds = limit.as_secs().max(1);
        let line = format!("{id} {seconds} {}\n", codec::encode(shell.as_bytes()));
        self.stream.write_all(line.as_bytes())?;
        let deadline = Deadline::after(limit + GRACE);
        loop {
            let line = self.line(&deadline)?;
            if let Some(answer) = parse(&line, id) {
                return answer;
            }
        }
    }

    fn line(&mut self, deadline: &Deadline) -> Result<String> {
        let mut chunk = [0; 8192];
        loop {
            if let Some(end) = self.unread.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.unread.drain(..=end).collect();
                return Ok(String::from_utf8_lossy(&line).trim().to_owned());
            }
            let left = deadline.left();
            if left.is_zero() {
                bail!("the guest did not answer within its limit");
            }
            self.stream.set_read_timeout(Some(left))?;
            match self.stream.read(&mut chunk) {
                Ok(0) => bail!("the guest is gone"),
                Ok(length) => self
                    .unread
                    .extend_from_slice(chunk.get(..length).unwrap_or_default()),
                Err(error)
                    if [ErrorKind::WouldBlock, ErrorKind::Interrupted].contains(&error.kind()) => {}
                Err(error) => return Err(error).context("read from the guest"),
            }
            if self.unread.len() > LONGEST_ANSWER {
                bail!("the guest's answer is over {LONGEST_ANSWER} bytes");
            }
        }
    }
}

/// The answer to command `id`; `None` for a late answer to an earlier one.
fn parse(line: &str, id: u32) -> Option<Result<Answer>> {
    let mut words = line.split(' ');
    if words.next()?.parse() != Ok(id) {
        return None;
    }
    let mut read = || -> Option<Answer> {
        let status = words.next()?.parse().ok()?;
        let mut text = || {
            let coded = words.next()?.strip_prefix('=')?;
            Some(String::from_utf8_lossy(&codec::decode(coded)?).into_owned())
        };
        let stdout = text()?;
        let stderr = text()?;
        Some(Answer {
            status,
            stdout,
            stderr,
        })
    };
    Some(read().with_context(|| format!("unreadable answer: {line}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_to_earlier_commands_are_passed_over() {
        assert!(parse("1 0 = =", 2).is_none());
        assert!(parse("READY", 2).is_none());
    }

    #[test]
    fn status_and_both_outputs_are_read() {
        let answer = parse("7 3 =Zm9v =YmE=", 7).unwrap().unwrap();
        assert_eq!(
            (answer.status, &*answer.stdout, &*answer.stderr),
            (3, "foo", "ba")
        );
    }

    #[test]
    fn a_cut_answer_is_an_error() {
        assert!(parse("7 3 =Zm9v", 7).unwrap().is_err());
    }
}
