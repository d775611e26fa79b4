//! Asking others: DNS queries that the gateway cannot answer go to the resolvers that the configuration or
//! the host names, or that a split rule names for their domain. Answers are kept, the same question is asked
//! once at a time, and whoever asks hears something within [`LONGEST`](super::upstream::LONGEST): if nobody
//! knows, "server failure", never "no such name". RFC 5625 (proxies pass on what they do not understand).

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::{Semaphore, watch};

use crate::engine::dns_cache::{DnsCache, Key};
use crate::engine::dns_names::fold;
use crate::services::forwarding::Forwarding;
use crate::services::upstream::{Upstream, is_truncated};
use crate::wire::dns::{HEADER, NAME_LIMIT, Query, ResponseCode, without_options};

/// Queries waiting for others' answers; a flood beyond that is told "server failure" at once.
const MOST_WAITING: usize = 512;

/// How a query came: an answer over TCP must be whole.
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
    /// Queries that waited for the answer to another one's same question.
    pub joined: u64,
    /// Queries that nobody answered.
    pub failed: u64,
    /// Queries refused because too many waited.
    pub crowded: u64,
    /// Questions sent to resolvers.
    pub asked: u64,
    /// Datagrams that answered another question than ours.
    pub forged: u64,
    /// Answers kept now.
    pub cache_entries: u64,
}

/// Where a foreign answer came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// It was kept.
    Cache,
    /// This server gave it just now.
    Server(SocketAddr),
    /// Somebody else's same question brought it.
    Joined,
    /// Nobody answered.
    Nobody,
}

/// Answers that are kept; the packet thread looks, the forwarder writes.
#[derive(Debug, Default)]
pub struct SharedCache {
    cache: Mutex<DnsCache>,
    cached: AtomicU64,
}

impl SharedCache {
    /// The kept answer, whatever its length.
    pub fn find(&self, query: &Query<'_>, now: Instant) -> Option<Vec<u8>> {
        let answer = self.lock().find(query, now);
        self.cached
            .fetch_add(answer.is_some().into(), Ordering::Relaxed);
        answer
    }

    /// As [`SharedCache::find`], and nothing where that would mean to wait.
    pub fn find_at_once(&self, query: &Query<'_>, now: Instant) -> Option<Vec<u8>> {
        let answer = self.cache.try_lock().ok()?.find(query, now)?;
        self.cached.fetch_add(1, Ordering::Relaxed);
        Some(answer)
    }

    fn lock(&self) -> MutexGuard<'_, DnsCache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The answer to a question on its way, once it is there.
type Landed = Option<Arc<[u8]>>;

/// The forwarder of one network.
#[derive(Debug)]
pub struct Resolver {
    forwarding: Mutex<Arc<Forwarding>>,
    cache: Arc<SharedCache>,
    upstream: Upstream,
    places: Semaphore,
    /// Questions on their way; who asks the same waits for that answer.
    flights: Mutex<HashMap<Key, watch::Receiver<Landed>>>,
    forwarded: AtomicU64,
    joined: AtomicU64,
    failed: AtomicU64,
    crowded: AtomicU64,
}

impl Resolver {
    /// Asks whom `forwarding` names; that may be nobody.
    #[must_use]
    pub fn new(forwarding: Forwarding) -> Self {
        Self {
            forwarding: Mutex::new(Arc::new(forwarding)),
            cache: Arc::default(),
            upstream: Upstream::default(),
            places: Semaphore::new(MOST_WAITING),
            flights: Mutex::default(),
            forwarded: AtomicU64::new(0),
            joined: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            crowded: AtomicU64::new(0),
        }
    }

    /// Whom it asks now.
    #[must_use]
    pub fn forwarding(&self) -> Arc<Forwarding> {
        Arc::clone(&lock(&self.forwarding))
    }

    /// Asks others from now on; what was learned from those before is forgotten, for behind another
    /// resolver the same name may mean something else.
    pub fn set_forwarding(&self, wanted: Forwarding) {
        let mut forwarding = lock(&self.forwarding);
        if **forwarding != wanted {
            *forwarding = Arc::new(wanted);
            self.cache.lock().clear();
            // Who asks from now on does not wait for an answer of theirs.
            lock(&self.flights).clear();
        }
    }

    /// The answers it keeps, to share.
    #[must_use]
    pub fn cache(&self) -> Arc<SharedCache> {
        Arc::clone(&self.cache)
    }

    /// Resolvers that do not answer.
    #[must_use]
    pub fn silent(&self) -> Vec<SocketAddr> {
        self.upstream.silent()
    }

    /// What was counted.
    #[must_use]
    pub fn counters(&self) -> ResolverCounters {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        ResolverCounters {
            forwarded: load(&self.forwarded),
            cached: load(&self.cache.cached),
            joined: load(&self.joined),
            failed: load(&self.failed),
            crowded: load(&self.crowded),
            asked: self.upstream.asked(),
            forged: self.upstream.forged(),
            cache_entries: self.cache.lock().len() as u64,
        }
    }

    /// The answer to a query that is not the gateway's own business, and where it comes from.
    pub async fn answer(&self, query: &Query<'_>) -> (Vec<u8>, Origin) {
        if let Some(answer) = self.cache.find(query, read_clock()) {
            return (answer, Origin::Cache);
        }
        let failure = || (query.failure(ResponseCode::ServerFailure), Origin::Nobody);
        let Ok(_place) = self.places.try_acquire() else {
            self.crowded.fetch_add(1, Ordering::Relaxed);
            return failure();
        };
        let Some(key) = Key::of(query) else {
            return self.ask(query).await.unwrap_or_else(failure);
        };
        let (told, mut flight) = match self.join(&key) {
            Flight::Ours(told) => (Some(told), None),
            Flight::Theirs(flight) => (None, Some(flight)),
        };
        if let Some(flight) = &mut flight {
            self.joined.fetch_add(1, Ordering::Relaxed);
            // An error means that whoever asked was cut short, or nobody answered.
            let answer = match flight.wait_for(Option::is_some).await {
                Ok(answer) => answer.clone(),
                Err(_) => None,
            };
            let answer = answer.and_then(|answer| respelled(query, &answer));
            return answer.map_or_else(failure, |answer| (answer, Origin::Joined));
        }
        let landing = Landing {
            resolver: self,
            key,
        };
        let found = self.ask(query).await;
        // No longer on its way before it is told: who comes now finds it in the cache.
        drop(landing);
        if let (Some(told), Some((answer, _))) = (told, &found)
            && let Some(plain) = without_options(query, answer)
        {
            told.send_replace(Some(plain.into()));
        }
        found.unwrap_or_else(failure)
    }

    async fn ask(&self, query: &Query<'_>) -> Option<(Vec<u8>, Origin)> {
        self.forwarded.fetch_add(1, Ordering::Relaxed);
        let forwarding = self.forwarding();
        let mut buffer = [0; NAME_LIMIT];
        let servers = forwarding.servers_for(fold(query.name, &mut buffer)?);
        let Some(reply) = self.upstream.ask(query, servers.addresses).await else {
            self.failed.fetch_add(1, Ordering::Relaxed);
            return None;
        };
        let current = lock(&self.forwarding);
        if Arc::ptr_eq(&current, &forwarding) {
            self.cache.lock().store(query, &reply.message, read_clock());
        }
        drop(current);
        Some((reply.message, Origin::Server(reply.server)))
    }

    fn join(&self, key: &Key) -> Flight {
        let mut flights = lock(&self.flights);
        if let Some(flight) = flights.get(key) {
            return Flight::Theirs(flight.clone());
        }
        let (told, flight) = watch::channel(None);
        flights.insert(key.clone(), flight);
        Flight::Ours(told)
    }
}

enum Flight {
    Ours(watch::Sender<Landed>),
    Theirs(watch::Receiver<Landed>),
}

/// Takes a question off the list, however it ends.
struct Landing<'r> {
    resolver: &'r Resolver,
    key: Key,
}

impl Drop for Landing<'_> {
    fn drop(&mut self) {
        lock(&self.resolver.flights).remove(&self.key);
    }
}

/// The answer as it may leave: whole over TCP, cut to what the client takes over UDP.
#[must_use]
pub fn fit(query: &Query<'_>, answer: Vec<u8>, transport: Transport) -> Vec<u8> {
    match transport {
        Transport::Udp if answer.len() > query.udp_limit() => query.truncated(&answer),
        Transport::Tcp if is_truncated(&answer) => query.failure(ResponseCode::ServerFailure),
        Transport::Udp | Transport::Tcp => answer,
    }
}

/// Somebody else's answer with this query's id and spelling.
fn respelled(query: &Query<'_>, answer: &[u8]) -> Option<Vec<u8>> {
    let mut answer = answer.to_vec();
    answer
        .get_mut(..2)?
        .copy_from_slice(&query.id.to_be_bytes());
    answer
        .get_mut(HEADER..HEADER + query.name.len())?
        .copy_from_slice(query.name);
    Some(answer)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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
