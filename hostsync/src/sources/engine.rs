//! A container engine as a source: Docker's API, and podman's part that is like it.
//!
//! Events only say that something changed; the list of what runs says what. So a lost event, a
//! stream that broke, or an engine that was started again can do no harm: the list is fetched at
//! each connection, after events, and once in a while without any.

pub mod containers;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use control::config::{ContainerAddress, HostsSource};
use control::engine;
use control::names::{HostName, SourceName};
use control::port::Endpoint;
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use self::containers::{Container, Listed};
use super::again::Again;
use super::{News, Reading, Said};

/// How long changes are gathered before the list is fetched: `compose up` starts many at once.
const GATHER: Duration = Duration::from_millis(100);
/// A look without an event, for engines that lose some.
const LOOK: Duration = Duration::from_secs(60);
/// Containers looked at; the newest of more.
const MOST_CONTAINERS: usize = 1024;
/// So many are asked about at once, all within this time; what is missing then is asked for at the next look.
const AT_ONCE: usize = 16;
const INSPECT: Duration = Duration::from_secs(20);
/// A longer line of the stream is an event about something that changed.
const LONGEST_EVENT: usize = 64 << 10;

/// One engine.
#[derive(Debug, Clone)]
pub struct Engine {
    /// Whose facts these are.
    pub source: SourceName,
    /// Its socket.
    pub socket: PathBuf,
    /// Names are made below it.
    pub suffix: HostName,
    /// Which address of a container counts.
    pub address: ContainerAddress,
}

impl Engine {
    /// The engine that the configuration describes; none, where it describes something else.
    #[must_use]
    pub fn of(source: &HostsSource) -> Option<Self> {
        source.kind.is_engine().then_some(())?;
        Some(Self {
            source: source.name.clone(),
            socket: source.path.clone()?,
            suffix: source.suffix.clone()?,
            address: source.address,
        })
    }

    fn place(&self) -> Endpoint {
        Endpoint::Unix(self.socket.clone())
    }

    /// Follows the engine for ever, through its restarts; ends when nobody reads the news.
    pub async fn follow(self, news: mpsc::Sender<News>) {
        let mut again = Again::new(&self.socket);
        loop {
            let mut heard = false;
            let Err(reason) = self.session(&news, &mut heard).await else {
                return;
            };
            if heard {
                again.worked();
            }
            if again.wait(&self.source, reason, &news).await.is_none() {
                return;
            }
        }
    }

    /// What the engine says now.
    ///
    /// # Errors
    /// Why it cannot be asked.
    pub async fn reading(&self) -> Result<Reading, String> {
        self.look(&mut BTreeMap::new()).await
    }

    /// One connection: `Ok` when nobody reads the news any more, else why it ended.
    async fn session(&self, news: &mpsc::Sender<News>, heard: &mut bool) -> Result<(), String> {
        // The stream comes first: what happens during the list is in it.
        let mut events = engine::stream(&self.place(), EVENTS).await?;
        let mut known = BTreeMap::new();
        let mut due = Instant::now();
        let mut line = Vec::new();
        loop {
            tokio::select! {
                chunk = events.next() => {
                    let Some(chunk) = chunk? else {
                        return Err(format!("{} ended the stream of events", self.socket.display()));
                    };
                    if heed(&mut line, &chunk, &mut known) {
                        due = due.min(Instant::now() + GATHER);
                    }
                }
                () = tokio::time::sleep_until(due) => {
                    due = Instant::now() + LOOK;
                    let reading = self.look(&mut known).await?;
                    *heard = true;
                    let source = self.source.clone();
                    let said = Said::Reading(reading);
                    if news.send(News { source, said }).await.is_err() {
                        return Ok(());
                    }
                }
                () = news.closed() => return Ok(()),
            }
        }
    }

    /// The list of what runs, with the particulars of what is not `known` yet.
    async fn look(&self, known: &mut BTreeMap<String, Container>) -> Result<Reading, String> {
        let mut listed: Vec<Listed> = engine::get(&self.place(), "/containers/json").await?;
        let over = listed.len().saturating_sub(MOST_CONTAINERS);
        listed.truncate(MOST_CONTAINERS);
        known.retain(|id, _| listed.iter().any(|one| one.id == *id));
        let mut skipped = over as u64;
        let (new, bad): (Vec<_>, Vec<_>) = listed
            .into_iter()
            .map(|one| one.id)
            .filter(|id| !known.contains_key(id))
            .partition(|id| id.bytes().all(|byte| byte.is_ascii_alphanumeric()));
        skipped += bad.len() as u64;
        let until = Instant::now() + INSPECT;
        for some in new.chunks(AT_ONCE) {
            for (id, answer) in self.inspect(some, until).await {
                match answer {
                    Ok(container) => drop(known.insert(id, container)),
                    // One that is gone again is the next event's business.
                    Err(reason) => {
                        tracing::debug!(container = id, reason, "cannot be inspected");
                        skipped += 1;
                    }
                }
            }
        }
        let routed = control::host_network::used_subnets().unwrap_or_default();
        let routed: Vec<_> = routed.iter().map(|used| used.subnet).collect();
        let mut reading = containers::read(known.values(), self, &routed);
        reading.skipped = reading.skipped.saturating_add(skipped);
        Ok(reading.bounded())
    }

    /// Particulars of a few, asked for at once.
    async fn inspect(
        &self,
        ids: &[String],
        until: Instant,
    ) -> Vec<(String, Result<Container, String>)> {
        let mut asked = JoinSet::new();
        for id in ids.iter().cloned() {
            let place = self.place();
            asked.spawn(async move {
                let path = format!("/containers/{id}/json");
                let answer = tokio::time::timeout_at(until, engine::get(&place, &path)).await;
                let late = || Err(format!("no time was left of {} s", INSPECT.as_secs()));
                (id, answer.unwrap_or_else(|_| late()))
            });
        }
        asked.join_all().await
    }
}

/// `{"type":["container","network"]}`, as a query has it.
const EVENTS: &str = "/events?filters=%7B%22type%22%3A%5B%22container%22%2C%22network%22%5D%7D";

/// As much of an event as is needed to know whom it is about.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Event {
    action: String,
    actor: Actor,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Actor {
    #[serde(rename = "ID")]
    id: String,
    #[serde(rename = "Attributes")]
    attributes: BTreeMap<String, serde_json::Value>,
}

/// Takes what came of the stream: forgets the containers it is about; whether there were any.
fn heed(line: &mut Vec<u8>, chunk: &[u8], known: &mut BTreeMap<String, Container>) -> bool {
    let mut changed = false;
    for byte in chunk {
        if *byte != b'\n' {
            // Too long to be read: everything may have changed.
            if line.len() >= LONGEST_EVENT {
                line.clear();
                known.clear();
                changed = true;
            }
            line.push(*byte);
            continue;
        }
        let event: Event = serde_json::from_slice(line).unwrap_or_default();
        line.clear();
        // Health checks come every few seconds and change no name.
        if event.action.starts_with("exec_") || event.action.starts_with("health_status") {
            continue;
        }
        changed = true;
        let network_member = event.actor.attributes.get("container");
        match network_member.and_then(serde_json::Value::as_str) {
            Some(id) => drop(known.remove(id)),
            None if event.actor.id.is_empty() => known.clear(),
            None => drop(known.remove(&event.actor.id)),
        }
    }
    changed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known() -> BTreeMap<String, Container> {
        ["a1", "b2"]
            .map(|id| (id.to_owned(), Container::default()))
            .into()
    }

    #[test]
    fn events_say_whom_to_look_at_again() {
        let check = |text: &str, left: &[&str], expected: bool| {
            let (mut known, mut line) = (known(), Vec::new());
            let changed = heed(&mut line, text.as_bytes(), &mut known);
            let ids: Vec<&str> = known.keys().map(String::as_str).collect();
            assert_eq!((ids.as_slice(), changed), (left, expected), "{text}");
        };
        let start = r#"{"Type":"container","Action":"start","Actor":{"ID":"a1","Attributes":{"name":"x"}}}"#;
        check(&format!("{start}\n"), &["b2"], true);
        // Half of it says nothing yet.
        check(start, &["a1", "b2"], false);
        check(
            "{\"Type\":\"network\",\"Action\":\"connect\",\"Actor\":{\"ID\":\"n\",\"Attributes\":{\"container\":\"b2\"}}}\n",
            &["a1"],
            true,
        );
        check(
            "{\"Action\":\"exec_start: sh\",\"Actor\":{\"ID\":\"a1\"}}\n{\"Action\":\"health_status: healthy\",\"Actor\":{\"ID\":\"a1\"}}\n",
            &["a1", "b2"],
            false,
        );
        check("no JSON\n", &[], true);
        check(&"x".repeat(LONGEST_EVENT + 1), &[], true);
    }

    #[tokio::test]
    async fn one_that_gives_no_answer_holds_up_no_other() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};

        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("engine.sock");
        let listener = tokio::net::UnixListener::bind(&socket).unwrap();
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let mut asked = [0; 1024];
                    let count = client.read(&mut asked).await.unwrap();
                    if asked[..count].starts_with(b"GET /containers/stuck/") {
                        std::future::pending::<()>().await;
                    }
                    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}";
                    client.write_all(answer).await.unwrap();
                });
            }
        });
        let engine = Engine {
            source: "docker".parse().unwrap(),
            socket,
            suffix: "test".parse().unwrap(),
            address: ContainerAddress::Auto,
        };
        let ids = ["stuck", "a1", "b2", "c3"].map(str::to_owned);
        let until = Instant::now() + Duration::from_secs(2);
        let mut answers: Vec<(String, bool)> = engine
            .inspect(&ids, until)
            .await
            .into_iter()
            .map(|(id, answer)| (id, answer.is_ok()))
            .collect();
        answers.sort();
        let expected = [("a1", true), ("b2", true), ("c3", true), ("stuck", false)];
        assert_eq!(
            answers,
            expected.map(|(id, is_known)| (id.to_owned(), is_known))
        );
    }
}
