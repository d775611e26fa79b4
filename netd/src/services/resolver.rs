//! Asking others: DNS queries that the gateway cannot answer go to the host's resolvers, or to those the
//! configuration names. RFC 5452 (ids and ports that cannot be guessed), RFC 7766 (TCP), RFC 5625 (proxies
//! pass on what they do not understand).
//!
//! One query races through the resolvers: the next is asked when one refuses, or says nothing for
//! [`STAGGER`], and the first good answer wins. Whoever asks hears something within [`LONGEST`]: if nobody
//! knows, "server failure", never "no such name".

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use crate::engine::dns_cache::DnsCache;
use crate::wire::dns::{HEADER, Query, ResponseCode};

/// A resolver that is silent for this long gets company.
const STAGGER: Duration = Duration::from_millis(400);
/// Clients ask again after two to five seconds; they shall have heard by then.
const LONGEST: Duration = Duration::from_millis(1_900);
/// Questions sent for one query: each resolver twice, or these.
const MOST_ATTEMPTS: usize = 6;
/// Queries waiting for others' answers; a flood beyond that is told "server failure" at once.
const MOST_WAITING: usize = 512;
/// Larger answers do not come over UDP: clients ask for 1232 to 4096 bytes.
const UDP_BUFFER: usize = 16_384;

/// How a query came, and so how it is passed on: an answer over TCP must be whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// One datagram.
    Udp,
    /// A stream.
    Tcp,
}

/// What was counted since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ResolverCounters {
    /// Queries passed on.
    pub forwarded: u64,
    /// Queries answered from the cache.
    pub cached: u64,
    /// Queries that nobody answered.
    pub failed: u64,
    /// Queries refused because too many waited.
    pub crowded: u64,
    /// Answers kept now.
    pub cache_entries: u64,
}

/// The forwarder of one network.
#[derive(Debug)]
pub struct Resolver {
    upstreams: watch::Receiver<Vec<SocketAddr>>,
    /// The cache and the resolvers that it was filled from.
    cache: Mutex<(DnsCache, Vec<SocketAddr>)>,
    places: Semaphore,
    ids: RandomState,
    asked: AtomicU64,
    forwarded: AtomicU64,
    cached: AtomicU64,
    failed: AtomicU64,
    crowded: AtomicU64,
}

impl Resolver {
    /// Asks the resolvers that `upstreams` names at the moment; it may name none.
    #[must_use]
    pub fn new(upstreams: watch::Receiver<Vec<SocketAddr>>) -> Self {
        Self {
            upstreams,
            cache: Mutex::default(),
            places: Semaphore::new(MOST_WAITING),
            ids: RandomState::new(),
            asked: AtomicU64::new(0),
            forwarded: AtomicU64::new(0),
            cached: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            crowded: AtomicU64::new(0),
        }
    }

    /// The resolvers of now.
    #[must_use]
    pub fn upstreams(&self) -> Vec<SocketAddr> {
        self.upstreams.borrow().clone()
    }

    /// What was counted.
    #[must_use]
    pub fn counters(&self) -> ResolverCounters {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        ResolverCounters {
            forwarded: load(&self.forwarded),
            cached: load(&self.cached),
            failed: load(&self.failed),
            crowded: load(&self.crowded),
            cache_entries: cache.0.len() as u64,
        }
    }

    /// The answer to a query that is not the gateway's own business; `None` for what is no query.
    pub async fn answer(&self, bytes: &[u8], transport: Transport) -> Option<Vec<u8>> {
        let query = Query::decode(bytes).ok()?;
        let upstreams = self.upstreams();
        if let Some(answer) = self.find_cached(&query, &upstreams) {
            self.cached.fetch_add(1, Ordering::Relaxed);
            return Some(fit(&query, answer, transport));
        }
        let Ok(_place) = self.places.try_acquire() else {
            self.crowded.fetch_add(1, Ordering::Relaxed);
            return Some(query.failure(ResponseCode::ServerFailure));
        };
        self.forwarded.fetch_add(1, Ordering::Relaxed);
        let Some(answer) = self.ask(&query, &upstreams, transport).await else {
            self.failed.fetch_add(1, Ordering::Relaxed);
            return Some(query.failure(ResponseCode::ServerFailure));
        };
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if cache.1 == upstreams {
            cache.0.store(&query, &answer, read_clock());
        }
        drop(cache);
        Some(fit(&query, answer, transport))
    }

    fn find_cached(&self, query: &Query<'_>, upstreams: &[SocketAddr]) -> Option<Vec<u8>> {
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if cache.1 != upstreams {
            // Behind another resolver the same name may mean something else.
            cache.0.clear();
            cache.1 = upstreams.to_vec();
        }
        cache.0.find(query, read_clock())
    }

    async fn ask(
        &self,
        query: &Query<'_>,
        upstreams: &[SocketAddr],
        transport: Transport,
    ) -> Option<Vec<u8>> {
        let attempts = (upstreams.len() * 2).clamp(3, MOST_ATTEMPTS);
        let mut plan = upstreams.iter().copied().cycle().take(attempts);
        let deadline = tokio::time::Instant::now() + LONGEST;
        let mut running = JoinSet::new();
        let mut second_best = None;
        let start = |running: &mut JoinSet<_>, upstream| {
            let number = self.asked.fetch_add(1, Ordering::Relaxed);
            let id = self.ids.hash_one(number).to_ne_bytes();
            let mut bytes = query.bytes.to_vec();
            if let (Some(place), [high, low, ..]) = (bytes.get_mut(..2), id) {
                place.copy_from_slice(&[high, low]);
            }
            running.spawn(async move {
                match transport {
                    Transport::Udp => ask_udp(upstream, &bytes).await,
                    Transport::Tcp => ask_tcp(upstream, &bytes).await,
                }
            });
        };
        start(&mut running, plan.next()?);
        loop {
            tokio::select! {
                biased;
                finished = running.join_next(), if !running.is_empty() => match finished {
                    Some(Ok(Ok(mut answer))) => {
                        answer.get_mut(..2)?.copy_from_slice(&query.id.to_be_bytes());
                        if is_final(&answer) {
                            return Some(answer);
                        }
                        second_best = Some(answer);
                        if let Some(upstream) = plan.next() {
                            start(&mut running, upstream);
                        }
                    }
                    Some(Ok(Err(error))) => {
                        tracing::debug!(%error, "a resolver did not answer");
                        if let Some(upstream) = plan.next() {
                            start(&mut running, upstream);
                        }
                    }
                    // Cancelled or panicked: as if it had never been asked.
                    Some(Err(_)) | None => {}
                },
                () = tokio::time::sleep(STAGGER) => {
                    if let Some(upstream) = plan.next() {
                        start(&mut running, upstream);
                    }
                }
                () = tokio::time::sleep_until(deadline) => return second_best,
            }
            if running.is_empty() {
                // Every attempt of the plan has ended.
                return second_best;
            }
        }
    }
}

/// "Server failure", "refused" and their like say something about that server, not about the name.
fn is_final(answer: &[u8]) -> bool {
    matches!(answer.get(3).map(|low| low & 0x0f), Some(0 | 3))
}

fn fit(query: &Query<'_>, answer: Vec<u8>, transport: Transport) -> Vec<u8> {
    if transport == Transport::Udp && answer.len() > query.udp_limit() {
        return query.truncated(&answer);
    }
    answer
}

async fn ask_udp(upstream: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    // A port of its own for each question, chosen by the kernel; connected, so that only
    // this resolver is heard, and its "port unreachable" too.
    let any: SocketAddr = match upstream {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(upstream).await?;
    socket.send(query).await?;
    let mut buffer = vec![0; UDP_BUFFER];
    loop {
        let length = socket.recv(&mut buffer).await?;
        let answer = buffer.get(..length).unwrap_or(&[]);
        // A wrong id or question is somebody guessing: go on listening.
        if length < UDP_BUFFER && answers(query, answer) {
            return Ok(answer.to_vec());
        }
    }
}

async fn ask_tcp(upstream: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(upstream).await?;
    let length = u16::try_from(query.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut framed = length.to_be_bytes().to_vec();
    framed.extend_from_slice(query);
    stream.write_all(&framed).await?;
    let length = stream.read_u16().await?;
    let mut answer = vec![0; usize::from(length)];
    stream.read_exact(&mut answer).await?;
    if answers(query, &answer) {
        Ok(answer)
    } else {
        Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the answer is to another question",
        ))
    }
}

/// Same id, marked as answer, same question in any spelling. Some servers leave the question out of a refusal.
fn answers(query: &[u8], answer: &[u8]) -> bool {
    let (Some(asked), Some(got)) = (
        query.first_chunk::<HEADER>(),
        answer.first_chunk::<HEADER>(),
    ) else {
        return false;
    };
    if asked[..2] != got[..2] || got[2] & 0x80 == 0 {
        return false;
    }
    let question = Query::decode(query).map(|q| HEADER..q.question_end());
    let Ok(range) = question else {
        return false;
    };
    match (query.get(range.clone()), answer.get(range)) {
        (Some(asked), Some(got)) if got.eq_ignore_ascii_case(asked) => true,
        _ => got[4..6] == [0, 0] && !is_final(answer),
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the forwarder lives outside the pure engine and owns its waiting"
)]
fn read_clock() -> Instant {
    Instant::now()
}

#[cfg(test)]
#[path = "resolver_tests.rs"]
mod tests;
