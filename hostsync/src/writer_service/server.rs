//! The loop: one thread, `poll(2)`, and a bound on everything that a client can make grow.
//! It alone reads the clock.
//!
//! Updates are done one after another, as the file's lock would force anyway; while one waits for
//! that lock, all clients wait. A signal ends the process at any point: what a kill leaves of the
//! file is mended at the next start, so there is nothing to catch one for.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use control::failure::{Failure, FailureKind};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags};
use rustix::net::sockopt::socket_peercred;

use super::claims::{Claims, judged};
use super::confine;
use super::policy::{Peer, Policy, PolicyError, Texts};
use super::protocol::{Answer, Counts, Hello, LONGEST, MOST_NAMES, Request, block_tag};
use super::rate::Rates;
use crate::section::Tag;
use crate::writer;

/// Clients at a time, and of one user; a daemon has one, and a command one for a moment.
const MOST_CLIENTS: usize = 64;
const MOST_OF_ONE: usize = 8;
/// A client that has not finished its line by then is gone or hostile.
const REQUEST_LIMIT: Duration = Duration::from_secs(10);
/// A client that says nothing, and holds no names, is let go.
const IDLE_LIMIT: Duration = Duration::from_secs(30);
/// A writer that the service manager started ends when nobody has asked for so long.
const REST: Duration = Duration::from_secs(30);
/// After a removal that failed.
const AGAIN: Duration = Duration::from_secs(60);
/// No policy is longer.
const LONGEST_POLICY: u64 = 256 << 10;

/// Places, and what stands in for the machine's own in tests.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where to listen, if no service manager does.
    pub socket: PathBuf,
    /// The hosts file.
    pub file: PathBuf,
    /// The administrator's file.
    pub policy: PathBuf,
    /// Where journals are.
    pub state: PathBuf,
}

struct Client {
    stream: UnixStream,
    peer: Peer,
    heard: Vec<u8>,
    /// When it connected, or was answered last.
    since: Instant,
    /// The blocks that go when this connection does.
    held: Vec<Tag>,
}

struct Server {
    options: Options,
    claims: Claims,
    listener: UnixListener,
    /// Whether a service manager keeps the socket while this process is not there.
    activated: bool,
    /// Whether the hosts file was a mount of its own, as in the unit's view of `/etc`.
    mounted: bool,
    clients: Vec<Client>,
    rates: Rates,
    /// Blocks whose client is gone, and when they go.
    going: BTreeMap<String, (Tag, Instant)>,
    counts: Counts,
    /// When somebody was here last.
    busy: Instant,
}

/// Serves until there is nothing to do (under a service manager), or for ever.
///
/// # Errors
/// When it cannot listen or cannot confine itself.
pub fn run(options: Options) -> io::Result<()> {
    let passed = crate::sys::passed_socket();
    let activated = passed.is_some();
    let listener = match passed {
        Some(socket) => UnixListener::from(socket),
        None => listen(&options)?,
    };
    listener.set_nonblocking(true)?;
    // Before there are no sockets to be made any more; requests wait in the one that listens.
    if let Err(error) = control::notify::ready() {
        tracing::debug!(%error, "the service manager was not told that we are ready");
    }
    confine::confine().map_err(|why| io::Error::other(format!("cannot confine itself: {why}")))?;
    let mut server = Server {
        claims: Claims {
            file: options.file.clone(),
            state: options.state.clone(),
        },
        mounted: is_mount(&options),
        options,
        listener,
        activated,
        clients: Vec::new(),
        rates: Rates::default(),
        going: BTreeMap::new(),
        counts: Counts::default(),
        busy: now(),
    };
    tracing::info!(file = %server.options.file.display(), activated, "serving");
    server.review();
    while !server.turn()? {}
    Ok(())
}

/// Takes the place of a dead writer's socket; everyone may ask, and the policy decides.
fn listen(options: &Options) -> io::Result<UnixListener> {
    use std::os::unix::fs::PermissionsExt;
    if UnixStream::connect(&options.socket).is_ok() {
        return Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            format!("another writer listens on {}", options.socket.display()),
        ));
    }
    if let Err(error) = std::fs::remove_file(&options.socket)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(error);
    }
    let listener = UnixListener::bind(&options.socket)?;
    std::fs::set_permissions(&options.socket, std::fs::Permissions::from_mode(0o666))?;
    Ok(listener)
}

impl Server {
    /// Waits for something and does it; says whether to end.
    fn turn(&mut self) -> io::Result<bool> {
        let ready = self.wait()?;
        if self.is_stale() {
            tracing::info!(
                "the hosts file was replaced under our mount of it; a new start sees the new one"
            );
            return Ok(true);
        }
        // From the back, so that what is taken out moves nobody who is still to be served.
        for index in (0..self.clients.len()).rev() {
            let quiet = !ready.get(index + 1).copied().unwrap_or(false);
            let keep = if quiet {
                self.may_stay(index)
            } else {
                self.hear(index)
            };
            if !keep {
                self.part(index);
            }
        }
        if ready.first().copied().unwrap_or(false) {
            self.accept();
        }
        self.end_claims();
        let rested = now().saturating_duration_since(self.busy) >= REST;
        Ok(self.activated && rested && self.clients.is_empty() && self.going.is_empty())
    }

    fn wait(&self) -> io::Result<Vec<bool>> {
        let timeout = self
            .next_time()
            .map(|time| time.saturating_duration_since(now()));
        // One more millisecond, so that what was waited for is over.
        let timeout = timeout.map(|time| time + Duration::from_millis(1));
        let timeout = timeout.and_then(|time| Timespec::try_from(time).ok());
        let listener = PollFd::new(&self.listener, PollFlags::IN);
        let clients = self.clients.iter();
        let clients = clients.map(|client| PollFd::new(&client.stream, PollFlags::IN));
        let mut all: Vec<PollFd<'_>> = std::iter::once(listener).chain(clients).collect();
        match poll(&mut all, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        Ok(all.iter().map(|one| !one.revents().is_empty()).collect())
    }

    fn next_time(&self) -> Option<Instant> {
        let clients = self.clients.iter().filter_map(Client::deadline);
        let claims = self.going.values().map(|(_, end)| *end);
        let rest = (self.activated && self.clients.is_empty()).then(|| self.busy + REST);
        clients.chain(claims).chain(rest).min()
    }

    fn accept(&mut self) {
        let Ok((stream, _)) = self.listener.accept() else {
            // Whoever it was is gone, or there are no descriptors; the next turn tries again.
            return;
        };
        self.busy = now();
        let Ok(credentials) = socket_peercred(&stream) else {
            return;
        };
        let peer = Peer {
            uid: credentials.uid.as_raw(),
            gid: credentials.gid.as_raw(),
        };
        let of_one = self
            .clients
            .iter()
            .filter(|client| client.peer.uid == peer.uid)
            .count();
        if stream.set_nonblocking(true).is_err() {
            return;
        }
        if self.clients.len() >= MOST_CLIENTS || of_one >= MOST_OF_ONE {
            self.counts.dropped += 1;
            let busy = Failure::new(
                FailureKind::Conflict,
                "the hosts writer has too many clients",
            );
            answer(
                &stream,
                &Answer::Refused(busy.with_hint("try again in half a minute")),
            );
            return;
        }
        self.clients.push(Client {
            stream,
            peer,
            heard: Vec::new(),
            since: self.busy,
            held: Vec::new(),
        });
    }

    /// Whether a client that said nothing stays.
    fn may_stay(&mut self, index: usize) -> bool {
        let over = |end: Instant| end <= now();
        let stays = self
            .clients
            .get(index)
            .is_some_and(|client| !client.deadline().is_some_and(over));
        self.counts.dropped += u64::from(!stays);
        stays
    }

    /// Reads what a client says and answers each whole line; says whether the client stays.
    fn hear(&mut self, index: usize) -> bool {
        self.busy = now();
        let Some(client) = self.clients.get_mut(index) else {
            return false;
        };
        let mut piece = [0; 16 << 10];
        match client.stream.read(&mut piece) {
            Ok(0) => return false,
            Ok(count) => {
                // The limit is a request's, not that of the rest before it.
                if client.heard.is_empty() {
                    client.since = self.busy;
                }
                let piece = piece.get(..count).unwrap_or_default();
                client.heard.extend_from_slice(piece);
            }
            Err(error) => return error.kind() == io::ErrorKind::WouldBlock,
        }
        let Some(end) = client.heard.iter().position(|byte| *byte == b'\n') else {
            if client.heard.len() > LONGEST {
                self.counts.dropped += 1;
                let long = Failure::invalid(format!("no request is longer than {LONGEST} bytes"));
                answer(&client.stream, &Answer::Refused(long));
                return false;
            }
            return true;
        };
        let line: Vec<u8> = client.heard.drain(..=end).collect();
        let peer = client.peer;
        let (reply, held) = self.obey(peer, &line);
        if let Answer::Refused(failure) = &reply {
            self.counts.refused += 1;
            tracing::debug!(uid = peer.uid, reason = %failure, "refused");
        }
        if let Some((tag, hold)) = held {
            // Whoever speaks last for a block is the one whose end counts.
            self.going.remove(tag.as_str());
            for client in &mut self.clients {
                client.held.retain(|other| *other != tag);
            }
            if let Some(client) = self.clients.get_mut(index).filter(|_| hold) {
                client.held.push(tag);
            }
        }
        let Some(client) = self.clients.get_mut(index) else {
            return false;
        };
        client.since = now();
        // A second line in one piece is a client that does not wait for its answer.
        let stays = client.heard.is_empty() && answer(&client.stream, &reply);
        self.counts.dropped += u64::from(!stays);
        stays
    }

    /// The answer to one line, and the block that it was about.
    fn obey(&mut self, peer: Peer, line: &[u8]) -> (Answer, Option<(Tag, bool)>) {
        if let Err(wait) = self.rates.take(peer.uid, now()) {
            let failure = Failure::new(
                FailureKind::Conflict,
                format!(
                    "user {} asks too often; wait {} ms",
                    peer.uid,
                    wait.as_millis()
                ),
            );
            return (Answer::Refused(failure), None);
        }
        let request: Request = match serde_json::from_slice(line) {
            Ok(request) => request,
            Err(error) => {
                let failure = Failure::invalid(format!("not a request: {error}"));
                return (Answer::Refused(failure), None);
            }
        };
        let policy = match load(&self.options) {
            Ok(policy) => policy,
            Err(error) => {
                let file = self.options.policy.display();
                tracing::warn!("{file}: {error}; nobody may have names until it is put right");
                let failure = Failure::new(FailureKind::Forbidden, format!("{file}: {error}"));
                return (
                    Answer::Refused(failure.with_hint(format!("sudoedit {file}"))),
                    None,
                );
            }
        };
        match request {
            Request::Hello => (Answer::Hello(self.hello(peer, &policy)), None),
            Request::Judge { names } if names.len() > MOST_NAMES => {
                let many = format!("{} names are more than {MOST_NAMES}", names.len());
                (Answer::Refused(Failure::invalid(many)), None)
            }
            Request::Judge { names } => {
                let (_, refused) = judged(&policy, peer, &names);
                (Answer::Judged { refused }, None)
            }
            Request::Set { file, tag, names } => {
                self.counts.sets += 1;
                if file != self.options.file {
                    let ours = self.options.file.display();
                    let failure = Failure::new(
                        FailureKind::NotFound,
                        format!("this writer writes {ours}, not {}", file.display()),
                    );
                    return (Answer::Refused(failure), None);
                }
                let done = block_tag(peer.uid, &tag).and_then(|tag| {
                    let done = self.claims.set(&policy, peer, &tag, &names)?;
                    Ok((tag, done))
                });
                match done {
                    Err(failure) => (Answer::Refused(failure), None),
                    Ok((tag, done)) => {
                        self.counts.names_refused += done.refused.len() as u64;
                        if done.how != writer::How::Unchanged {
                            self.counts.writes += 1;
                            tracing::info!(uid = peer.uid, names = names.len(), how = ?done.how, "written");
                        }
                        let hold = done.hold;
                        (Answer::Done(done), Some((tag, hold)))
                    }
                }
            }
        }
    }

    fn hello(&self, peer: Peer, policy: &Policy) -> Hello {
        Hello {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            file: self.options.file.clone(),
            uid: peer.uid,
            suffixes: policy.suffixes(peer),
            grace: policy.grace().map(|grace| grace.as_secs()),
            counts: self.counts,
        }
    }

    /// A client goes; its blocks follow after the grace.
    fn part(&mut self, index: usize) {
        let client = self.clients.swap_remove(index);
        self.expect_end(client.held);
    }

    fn expect_end(&mut self, tags: Vec<Tag>) {
        if tags.is_empty() {
            return;
        }
        let policy = load(&self.options).unwrap_or_else(|_| Policy::nobody());
        if let Some(end) = policy.grace().and_then(|grace| now().checked_add(grace)) {
            let entry = |tag: Tag| (tag.as_str().to_owned(), (tag, end));
            self.going.extend(tags.into_iter().map(entry));
        }
    }

    /// Takes away the blocks whose grace is over.
    fn end_claims(&mut self) {
        let over =
            |(name, (_, end)): (&String, &(Tag, Instant))| (*end <= now()).then(|| name.clone());
        let names: Vec<String> = self.going.iter().filter_map(over).collect();
        for name in names {
            let Some((tag, _)) = self.going.remove(&name) else {
                continue;
            };
            match self.claims.remove(&tag) {
                Ok(()) => tracing::info!(block = %tag, "its client is gone, and so are the names"),
                Err(error) => {
                    tracing::warn!(block = %tag, "names of a client that is gone stay until the next try: {error}");
                    let later = now() + AGAIN;
                    self.going.insert(name, (tag, later));
                }
            }
        }
    }

    /// The start: what an earlier process left is mended, and blocks whose client is not here count as left.
    fn review(&mut self) {
        let policy = match load(&self.options) {
            Ok(policy) => policy,
            Err(error) => {
                // A slip of the pen in the policy shall not take everybody's names away.
                tracing::warn!("{}: {error}", self.options.policy.display());
                return;
            }
        };
        match self.claims.review(&policy) {
            Ok(standing) => self.expect_end(standing),
            Err(error) => tracing::warn!("{error}"),
        }
    }

    /// Whether the file was mounted alone and is no longer what the machine has under the name: an
    /// editor's rename takes the mount away, or leaves it on a file without a name.
    fn is_stale(&self) -> bool {
        let unlinked =
            || std::fs::metadata(&self.options.file).is_ok_and(|found| found.nlink() == 0);
        self.activated && self.mounted && (!is_mount(&self.options) || unlinked())
    }
}

impl Client {
    /// When it is let go if it says nothing.
    fn deadline(&self) -> Option<Instant> {
        if !self.heard.is_empty() {
            Some(self.since + REQUEST_LIMIT)
        } else if self.held.is_empty() {
            Some(self.since + IDLE_LIMIT)
        } else {
            None
        }
    }
}

/// Sends an answer; whether it went out whole. A client that does not read what it asked for is let go:
/// an answer fits the socket's buffer many times over.
fn answer(mut stream: &UnixStream, answer: &Answer) -> bool {
    let Ok(mut line) = serde_json::to_vec(answer) else {
        return false;
    };
    line.push(b'\n');
    stream.write_all(&line).is_ok()
}

fn is_mount(options: &Options) -> bool {
    let flags = AtFlags::empty();
    rustix::fs::statx(CWD, &options.file, flags, StatxFlags::empty())
        .is_ok_and(|found| found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

/// Reads the administrator's file and what it is about. It is read for each request: that is as cheap
/// as looking whether it changed, and never out of date.
fn load(options: &Options) -> Result<Policy, PolicyError> {
    let policy = policy_text(options)?;
    let text = |path: &str| std::fs::read(path).unwrap_or_default();
    let resolv = text("/etc/resolv.conf");
    Policy::parse(&Texts {
        policy: policy.as_deref(),
        passwd: &text("/etc/passwd"),
        group: &text("/etc/group"),
        node_name: &rustix::system::uname().nodename().to_string_lossy(),
        resolv: &String::from_utf8_lossy(&resolv),
    })
}

fn policy_text(options: &Options) -> Result<Option<String>, PolicyError> {
    let error = |error: io::Error| PolicyError(format!("cannot be read: {error}"));
    let file = match std::fs::File::open(&options.policy) {
        Ok(file) => file,
        Err(missing) if missing.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(other) => return Err(error(other)),
    };
    let found = file.metadata().map_err(error)?;
    let ours = rustix::process::geteuid().as_raw();
    if found.uid() != 0 && found.uid() != ours {
        return Err(PolicyError(format!(
            "it belongs to user {}, not to root",
            found.uid()
        )));
    }
    if found.mode() & 0o022 != 0 {
        return Err(PolicyError(
            "others than root may write it: chmod go-w".to_owned(),
        ));
    }
    let mut text = String::new();
    file.take(LONGEST_POLICY)
        .read_to_string(&mut text)
        .map_err(error)?;
    if text.len() as u64 >= LONGEST_POLICY {
        return Err(PolicyError(format!(
            "it has more than {LONGEST_POLICY} bytes"
        )));
    }
    Ok(Some(text))
}

#[expect(clippy::disallowed_methods, reason = "this loop owns the clock")]
fn now() -> Instant {
    Instant::now()
}
