//! The way to the writer, for a daemon or a command of an ordinary user. Blocking: it is used where
//! a file would be written, on a thread that may wait.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use control::failure::{Failure, FailureKind};
use control::names::HostName;
use rustix::net::sockopt::socket_peercred;

use super::protocol::{Answer, Done, Hello, LONGEST, Refused, Request, SOCKET, SOCKET_VARIABLE};
use crate::section::Tag;

/// Longer than the writer waits for the file's lock.
const PATIENCE: Duration = Duration::from_secs(30);
/// A writer that ends while we ask is started again by the service manager; how often that is believed.
const TRIES: u32 = 3;

/// Where the writer is, and the connection that holds our names there.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
    held: Arc<Mutex<Option<UnixStream>>>,
}

impl Client {
    /// The writer that listens at `socket`; nobody need be there.
    #[must_use]
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self {
            socket: socket.into(),
            held: Arc::default(),
        }
    }

    /// The machine's writer.
    #[must_use]
    pub fn of_machine() -> Self {
        let named = std::env::var_os(SOCKET_VARIABLE).filter(|value| !value.is_empty());
        Self::new(named.map_or_else(|| PathBuf::from(SOCKET), PathBuf::from))
    }

    /// The socket's path.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Whether there is a socket.
    #[must_use]
    pub fn is_there(&self) -> bool {
        self.socket.exists()
    }

    /// What we may have.
    ///
    /// # Errors
    /// [`Failure`]: of the kind [`FailureKind::NotRunning`] where no writer answers.
    pub fn hello(&self) -> Result<Hello, Failure> {
        match self.look(&Request::Hello)? {
            Answer::Hello(hello) => Ok(hello),
            Answer::Refused(failure) => Err(failure),
            Answer::Done(_) | Answer::Judged { .. } => Err(self.something_else()),
        }
    }

    /// Which of `names` we would not get.
    ///
    /// # Errors
    /// As [`Client::hello`].
    pub fn judge(&self, names: &BTreeMap<HostName, IpAddr>) -> Result<Vec<Refused>, Failure> {
        let names = names.clone();
        match self.look(&Request::Judge { names })? {
            Answer::Judged { refused } => Ok(refused),
            Answer::Refused(failure) => Err(failure),
            Answer::Done(_) | Answer::Hello(_) => Err(self.something_else()),
        }
    }

    /// Has our block under `tag` have just `names`.
    ///
    /// # Errors
    /// As [`Client::hello`].
    pub fn set(
        &self,
        file: &Path,
        tag: &Tag,
        names: &BTreeMap<HostName, IpAddr>,
    ) -> Result<Done, Failure> {
        let request = Request::Set {
            file: file.to_owned(),
            tag: tag.as_str().to_owned(),
            names: names.clone(),
        };
        let (answer, stream, _) = self.ask(&request)?;
        match answer {
            Answer::Done(done) => {
                let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
                *held = done.hold.then_some(stream);
                Ok(done)
            }
            Answer::Refused(failure) => Err(failure),
            Answer::Hello(_) | Answer::Judged { .. } => Err(self.something_else()),
        }
    }

    /// Asks without a change: a connection that holds names goes on holding them.
    fn look(&self, request: &Request) -> Result<Answer, Failure> {
        let (answer, stream, holds) = self.ask(request)?;
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if holds && held.is_none() {
            *held = Some(stream);
        }
        Ok(answer)
    }

    /// The answer, the connection, and whether that held names before.
    fn ask(&self, request: &Request) -> Result<(Answer, UnixStream, bool), Failure> {
        let mut line = serde_json::to_vec(request)
            .map_err(|error| Failure::internal(format!("a request cannot be written: {error}")))?;
        line.push(b'\n');
        if line.len() > LONGEST {
            return Err(Failure::invalid(format!(
                "too many names for one block: {} bytes, the limit is {LONGEST}",
                line.len()
            )));
        }
        let mut last = None;
        for _ in 0..TRIES {
            let held = self
                .held
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take();
            let holds = held.is_some();
            let stream = match held {
                Some(stream) => stream,
                None => self.connect()?,
            };
            match exchange(&stream, &line) {
                Ok(answer) => return Ok((answer, stream, holds)),
                Err(error) => last = Some(error),
            }
        }
        Err(self.broken(&last.map_or_else(String::new, |error| error.to_string())))
    }

    fn connect(&self) -> Result<UnixStream, Failure> {
        let absent = |why: &dyn std::fmt::Display| {
            Failure::new(
                FailureKind::NotRunning,
                format!(
                    "no hosts writer answers at {}: {why}",
                    self.socket.display()
                ),
            )
            .with_hint("sudo systemctl restart sharectl-hosts.socket")
        };
        let stream = UnixStream::connect(&self.socket).map_err(|error| absent(&error))?;
        let times = stream.set_read_timeout(Some(PATIENCE));
        times
            .and_then(|()| stream.set_write_timeout(Some(PATIENCE)))
            .map_err(|error| absent(&error))?;
        // What is listened to by somebody else would only learn our names; but it would not write them.
        let listener = socket_peercred(&stream)
            .map_err(|error| absent(&error))?
            .uid;
        if !listener.is_root() && listener != rustix::process::geteuid() {
            return Err(absent(&format!(
                "user {} listens there, not root",
                listener.as_raw()
            )));
        }
        Ok(stream)
    }

    fn something_else(&self) -> Failure {
        self.broken("it answered something else")
    }

    fn broken(&self, why: &str) -> Failure {
        let socket = self.socket.display();
        Failure::new(
            FailureKind::NotRunning,
            format!("the hosts writer at {socket} broke off: {why}"),
        )
        .with_hint("journalctl -u sharectl-hosts")
    }
}

fn exchange(mut stream: &UnixStream, line: &[u8]) -> std::io::Result<Answer> {
    stream.write_all(line)?;
    // An answer is never longer than twice a request: each name once, with a reason.
    let mut answer = Vec::new();
    let mut reader = BufReader::new(stream.take(4 * LONGEST as u64));
    reader.read_until(b'\n', &mut answer)?;
    if !answer.ends_with(b"\n") {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    Ok(serde_json::from_slice(&answer)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_there_is_said_with_the_next_step() {
        let folder = tempfile::tempdir().unwrap();
        let client = Client::new(folder.path().join("none.sock"));
        assert!(!client.is_there());
        let failure = client.hello().unwrap_err();
        assert_eq!(failure.kind, FailureKind::NotRunning);
        assert!(failure.hint.unwrap().contains("sharectl-hosts.socket"));
    }

    #[test]
    fn a_writer_that_breaks_off_is_asked_again_and_then_given_up() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("writer.sock");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let server = std::thread::spawn(move || {
            (0..TRIES).map(|_| drop(listener.accept().unwrap())).count()
        });
        let failure = Client::new(&path).hello().unwrap_err();
        assert!(failure.message.contains("broke off"), "{failure}");
        assert_eq!(server.join().unwrap(), TRIES as usize);
    }
}
