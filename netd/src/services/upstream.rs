//! One question to foreign name servers: ids, ports and spelling that cannot be guessed (RFC 5452,
//! draft-vixie-dnsext-dns0x20), the next server when one is silent or refuses, TCP when an answer was cut
//! (RFC 7766), and a memory of who does not answer.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::wire::dns::{HEADER, Query};

/// A server that is silent for this long gets company.
const STAGGER: Duration = Duration::from_millis(400);
/// Clients ask again after two to five seconds; they shall have heard by then.
pub const LONGEST: Duration = Duration::from_millis(1_900);
/// Questions sent for one query.
const MOST_ATTEMPTS: usize = 4;
/// Sockets at a time; the next question waits for one.
const MOST_SOCKETS: usize = 512;
/// A server that does not answer is asked last for this long, twice that the next time ...
const FIRST_REST: Duration = Duration::from_secs(5);
/// ... up to this.
const LONGEST_REST: Duration = Duration::from_secs(60);
/// A server that others outran so often is as one that does not answer.
const OUTRUN_LIMIT: u32 = 3;
/// Servers remembered; a configuration that changes often enough to pass that starts afresh.
const MOST_SERVERS: usize = 256;
/// Larger answers do not come over UDP: clients ask for 1232 to 4096 bytes.
const UDP_BUFFER: usize = 16_384;

/// What is known of a server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Health {
    failures: u32,
    rests_until: Option<Instant>,
    /// It does not give the question back as it was spelled.
    folds_case: bool,
}

/// A foreign answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The message, with the client's id and spelling.
    pub message: Vec<u8>,
    /// Who gave it.
    pub server: SocketAddr,
}

/// Asks, and remembers who answers.
#[derive(Debug)]
pub struct Upstream {
    health: Mutex<HashMap<SocketAddr, Health>>,
    sockets: Arc<Semaphore>,
    random: RandomState,
    asked: AtomicU64,
    forged: Arc<AtomicU64>,
}

/// How one question to one server ended.
type Attempt = (SocketAddr, io::Result<Heard>);

struct Heard {
    message: Vec<u8>,
    folds_case: bool,
}

impl Default for Upstream {
    fn default() -> Self {
        Self {
            health: Mutex::default(),
            sockets: Arc::new(Semaphore::new(MOST_SOCKETS)),
            random: RandomState::new(),
            asked: AtomicU64::new(0),
            forged: Arc::default(),
        }
    }
}

impl Upstream {
    /// Questions sent since the start.
    pub fn asked(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }

    /// Datagrams that answered another question than ours.
    pub fn forged(&self) -> u64 {
        self.forged.load(Ordering::Relaxed)
    }

    /// The servers that did not answer lately.
    pub fn silent(&self) -> Vec<SocketAddr> {
        let now = read_clock();
        let health = self.health();
        let resting = health.iter().filter(|(_, health)| health.rests(now));
        let mut found: Vec<_> = resting.map(|(server, _)| *server).collect();
        found.sort_unstable();
        found
    }

    /// The first good answer, or the best of the bad ones ("refused" says something about that server,
    /// not about the name); `None` when nobody answered in time.
    pub async fn ask(&self, query: &Query<'_>, servers: &[SocketAddr]) -> Option<Reply> {
        let order = self.order(servers);
        let attempts = (order.len() * 2).clamp(MOST_ATTEMPTS - 1, MOST_ATTEMPTS);
        let mut plan = order
            .iter()
            .copied()
            .cycle()
            .take(attempts.max(order.len()));
        let deadline = tokio::time::Instant::now() + LONGEST;
        let mut running = JoinSet::new();
        let mut waiting: Vec<(SocketAddr, Instant)> = Vec::new();
        let mut second_best = None;
        let mut next = plan.next();
        loop {
            if let Some(server) = next.take() {
                waiting.push((server, read_clock()));
                self.start(&mut running, query, server);
            } else if running.is_empty() {
                return second_best;
            }
            tokio::select! {
                biased;
                finished = running.join_next() => {
                    next = plan.next();
                    // Cancelled or panicked: as if it had never been asked.
                    let Some(Ok((server, outcome))) = finished else {
                        continue;
                    };
                    waiting.retain(|(other, _)| *other != server);
                    match outcome {
                        Ok(heard) => {
                            self.answered(server, heard.folds_case);
                            let message = restored(query, heard.message)?;
                            let reply = Reply { message, server };
                            if is_final(&reply.message) {
                                self.outrun(&waiting);
                                return Some(reply);
                            }
                            second_best = Some(reply);
                        }
                        Err(error) => {
                            tracing::debug!(%server, %error, "a resolver did not answer");
                            self.failed(server);
                        }
                    }
                }
                () = tokio::time::sleep(STAGGER) => next = plan.next(),
                () = tokio::time::sleep_until(deadline) => {
                    for (server, _) in &waiting {
                        self.failed(*server);
                    }
                    return second_best;
                }
            }
        }
    }

    fn start(&self, running: &mut JoinSet<Attempt>, query: &Query<'_>, server: SocketAddr) {
        let number = self.asked.fetch_add(1, Ordering::Relaxed);
        let folds_case = self
            .health()
            .get(&server)
            .is_some_and(|health| health.folds_case);
        let mut bytes = query.bytes.to_vec();
        let [high, low, ..] = self.random.hash_one(number).to_ne_bytes();
        if let Some(id) = bytes.get_mut(..2) {
            id.copy_from_slice(&[high, low]);
        }
        if !folds_case && let Some(name) = bytes.get_mut(HEADER..HEADER + query.name.len()) {
            self.respell(name, number);
        }
        let question = HEADER..query.question_end();
        let (sockets, forged) = (Arc::clone(&self.sockets), Arc::clone(&self.forged));
        running.spawn(async move {
            // Never closed; waiting ends with the query's deadline.
            let _socket = sockets.acquire_owned().await;
            let ask = Ask {
                bytes: &bytes,
                question,
                exact: !folds_case,
            };
            (server, ask.ask(server, &forged).await)
        });
    }

    /// Each letter in one of its two spellings. Label lengths are below 64, no letters.
    fn respell(&self, name: &mut [u8], number: u64) {
        for (step, part) in name.chunks_mut(64).enumerate() {
            let bits = self.random.hash_one((number, step));
            for (place, byte) in part.iter_mut().enumerate() {
                if byte.is_ascii_alphabetic() && bits >> place & 1 == 1 {
                    *byte ^= 0x20;
                }
            }
        }
    }

    /// Those that answer first, in their order.
    fn order(&self, servers: &[SocketAddr]) -> Vec<SocketAddr> {
        let now = read_clock();
        let health = self.health();
        let mut order = servers.to_vec();
        order.sort_by_key(|server| health.get(server).is_some_and(|health| health.rests(now)));
        order
    }

    fn answered(&self, server: SocketAddr, folds_case: bool) {
        self.note(server, |health| {
            health.folds_case |= folds_case;
            (health.failures, health.rests_until) = (0, None);
        });
    }

    /// Nothing came, or word that nobody is there.
    fn failed(&self, server: SocketAddr) {
        let now = read_clock();
        self.note(server, |health| {
            health.failures = health.failures.saturating_add(1);
            let rest = FIRST_REST * 2_u32.pow((health.failures - 1).min(8));
            health.rests_until = Some(now + rest.min(LONGEST_REST));
        });
    }

    /// Another one was faster. Once is nothing: the question may have been a hard one.
    fn outrun(&self, waiting: &[(SocketAddr, Instant)]) {
        for (server, started) in waiting {
            if read_clock().saturating_duration_since(*started) < STAGGER {
                continue;
            }
            let times = self.note(*server, |health| {
                health.failures = health.failures.saturating_add(1);
            });
            if times >= OUTRUN_LIMIT {
                self.failed(*server);
            }
        }
    }

    fn note(&self, server: SocketAddr, change: impl FnOnce(&mut Health)) -> u32 {
        let mut health = self.health();
        if health.len() >= MOST_SERVERS && !health.contains_key(&server) {
            health.clear();
        }
        let health = health.entry(server).or_default();
        change(health);
        health.failures
    }

    fn health(&self) -> MutexGuard<'_, HashMap<SocketAddr, Health>> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Health {
    fn rests(&self, now: Instant) -> bool {
        self.rests_until.is_some_and(|until| until > now)
    }
}

/// "Server failure", "refused" and their like say something about that server, not about the name.
#[must_use]
pub fn is_final(answer: &[u8]) -> bool {
    matches!(answer.get(3).map(|low| low & 0x0f), Some(0 | 3))
}

/// Whether it was cut to fit a datagram.
#[must_use]
pub fn is_truncated(answer: &[u8]) -> bool {
    answer.get(2).is_some_and(|high| high & 0x02 != 0)
}

/// The answer with the client's id, and its name as the client spelled it.
fn restored(query: &Query<'_>, mut answer: Vec<u8>) -> Option<Vec<u8>> {
    answer
        .get_mut(..2)?
        .copy_from_slice(&query.id.to_be_bytes());
    let asked = answer.get(4..6) != Some(&[0, 0]);
    if let Some(name) = answer
        .get_mut(HEADER..HEADER + query.name.len())
        .filter(|_| asked)
    {
        name.copy_from_slice(query.name);
    }
    Some(answer)
}

/// One question on its way.
struct Ask<'q> {
    bytes: &'q [u8],
    question: std::ops::Range<usize>,
    /// The answer must spell the question as it is here.
    exact: bool,
}

/// What a datagram has to do with a question.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Match {
    Exact,
    /// The right question in another spelling.
    Folded,
    No,
}

impl Ask<'_> {
    async fn ask(&self, server: SocketAddr, forged: &AtomicU64) -> io::Result<Heard> {
        let (message, matched) = self.ask_udp(server, forged).await?;
        let folds_case = matched == Match::Folded;
        let suspicious = folds_case && self.exact;
        if !suspicious && !is_truncated(&message) {
            return Ok(Heard {
                message,
                folds_case,
            });
        }
        // Nobody can guess himself into a TCP connection.
        match self.ask_tcp(server).await {
            Ok(message) => Ok(Heard {
                message,
                folds_case,
            }),
            Err(error) if suspicious => Err(error),
            // Cut, but the truth.
            Err(_) => Ok(Heard {
                message,
                folds_case,
            }),
        }
    }

    async fn ask_udp(
        &self,
        server: SocketAddr,
        forged: &AtomicU64,
    ) -> io::Result<(Vec<u8>, Match)> {
        // A port of its own for each question, chosen by the kernel; connected, so that only
        // this resolver is heard, and its "port unreachable" too.
        let any: SocketAddr = match server {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let socket = UdpSocket::bind(any).await?;
        socket.connect(server).await?;
        socket.send(self.bytes).await?;
        let mut buffer = vec![0; UDP_BUFFER];
        loop {
            let length = socket.recv(&mut buffer).await?;
            let answer = buffer.get(..length).unwrap_or(&[]);
            let matched = self.matches(answer);
            if length < UDP_BUFFER && matched != Match::No {
                return Ok((answer.to_vec(), matched));
            }
            // A wrong id or question is somebody guessing: go on listening.
            forged.fetch_add(1, Ordering::Relaxed);
        }
    }

    async fn ask_tcp(&self, server: SocketAddr) -> io::Result<Vec<u8>> {
        let mut stream = TcpStream::connect(server).await?;
        let length = u16::try_from(self.bytes.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        let mut framed = length.to_be_bytes().to_vec();
        framed.extend_from_slice(self.bytes);
        stream.write_all(&framed).await?;
        let length = stream.read_u16().await?;
        let mut answer = vec![0; usize::from(length)];
        stream.read_exact(&mut answer).await?;
        if self.matches(&answer) == Match::No {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the answer is to another question",
            ));
        }
        Ok(answer)
    }

    /// Same id, marked as answer, same question. Some servers leave the question out of a refusal.
    fn matches(&self, answer: &[u8]) -> Match {
        let (Some(asked), Some(got)) = (
            self.bytes.first_chunk::<HEADER>(),
            answer.first_chunk::<HEADER>(),
        ) else {
            return Match::No;
        };
        if asked[..2] != got[..2] || got[2] & 0x80 == 0 {
            return Match::No;
        }
        match (
            self.bytes.get(self.question.clone()),
            answer.get(self.question.clone()),
        ) {
            (Some(asked), Some(got)) if got == asked => Match::Exact,
            (Some(asked), Some(got)) if got.eq_ignore_ascii_case(asked) => Match::Folded,
            _ if got[4..6] == [0, 0] && !is_final(answer) => Match::Exact,
            _ => Match::No,
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the forwarder lives outside the pure engine and owns its waiting"
)]
fn read_clock() -> Instant {
    Instant::now()
}
