//! What happened, in order: each daemon keeps its last events in a ring and
//! gives them a number, so that a reader who was away knows what it missed.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::egress::FlowProtocol;
use crate::mac::MacAddress;
use crate::names::{GuestName, HostName, NetworkName, ShareName};

/// How many events a daemon keeps; an older one is known only by its missing number.
pub const CAPACITY: usize = 4096;

/// One event with its place in the order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Event {
    /// From 1, without gaps, anew with each start of the daemon.
    pub seq: u64,
    /// When, as RFC 3339 in UTC with milliseconds.
    pub at: String,
    /// What.
    #[serde(flatten)]
    pub body: EventBody,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case")]
#[expect(
    missing_docs,
    reason = "the variants' fields have the names and meanings of the api types"
)]
pub enum EventBody {
    /// The daemon serves.
    Started { version: String },
    /// A changed file took effect.
    ConfigReloaded { changes: Vec<String> },
    /// A changed file was refused; what ran goes on.
    ConfigRefused { message: String },
    /// A guest has an address, new or renewed.
    LeaseBound {
        network: NetworkName,
        mac: MacAddress,
        address: IpAddr,
        guest: Option<GuestName>,
        /// The name the client gave itself, where it is one.
        client_name: Option<HostName>,
        /// RFC 3339.
        until: String,
    },
    /// A guest gave its address back, or its term ran out.
    LeaseEnded {
        network: NetworkName,
        mac: MacAddress,
        address: IpAddr,
        guest: Option<GuestName>,
        reason: String,
    },
    /// A guest is plugged in.
    LinkUp {
        network: NetworkName,
        guest: Option<GuestName>,
        link: u32,
        transport: String,
    },
    /// A guest is unplugged.
    LinkDown {
        network: NetworkName,
        guest: Option<GuestName>,
        link: u32,
        reason: String,
    },
    /// A port of the host leads to a guest.
    PortPublished {
        guest: GuestName,
        spec: String,
        listening: Vec<String>,
    },
    /// A port of the host no longer leads to a guest.
    PortRemoved { guest: GuestName, spec: String },
    /// A port could not be published.
    PortFailed {
        guest: GuestName,
        spec: String,
        message: String,
    },
    /// A guest's connection was not allowed. Repeats are counted, not told one by one.
    FlowRefused {
        network: NetworkName,
        guest: Option<GuestName>,
        protocol: FlowProtocol,
        destination: String,
        reason: String,
        /// Refusals since the last event that were not told one by one.
        more: u64,
    },
    /// A guest sends or is sent more datagrams than its rate limit lets pass. Repeats are counted.
    GuestLimited {
        network: NetworkName,
        guest: GuestName,
        dropped: u64,
    },
    /// Frames of a network are captured; of one guest or of all.
    CaptureStarted {
        network: NetworkName,
        guest: Option<GuestName>,
        filter: String,
    },
    /// A capture ended: frames that were written, and those that came too fast.
    CaptureStopped {
        network: NetworkName,
        frames: u64,
        dropped: u64,
    },
    /// The host's resolvers changed.
    ResolversChanged { resolvers: Vec<String> },
    /// The host's own network has come to use a network's subnet; `remedy` is the command that ends it.
    SubnetClash {
        network: NetworkName,
        subnet: String,
        message: String,
        remedy: String,
    },
    /// A network's subnet is its own again.
    SubnetClear {
        network: NetworkName,
        subnet: String,
    },
    /// The names that netd answers for changed.
    NamesChanged { network: NetworkName },
    /// A guest's VMM opened a share's device.
    ShareConnected { guest: GuestName, share: ShareName },
    /// A guest's VMM closed a share's device.
    ShareDisconnected {
        guest: GuestName,
        share: ShareName,
        reason: String,
    },
    /// A share cannot be served.
    ShareFailed { share: ShareName, message: String },
    /// A share was mounted on the host.
    ShareMounted { share: ShareName, path: PathBuf },
    /// A share's mount on the host is gone.
    ShareUnmounted {
        share: ShareName,
        path: PathBuf,
        reason: String,
    },
    /// A guest's folder was mounted on the host.
    GuestMounted { guest: GuestName, path: PathBuf },
    /// A guest's folder is no longer on the host.
    GuestUnmounted {
        guest: GuestName,
        path: PathBuf,
        reason: String,
    },
    /// A hosts file was changed.
    HostsWritten { file: PathBuf, names: usize },
    /// A hosts file could not be changed.
    HostsRefused { file: PathBuf, message: String },
    /// A name has, or lost, an address in the table.
    NameChanged {
        name: HostName,
        address: Option<IpAddr>,
        source: String,
    },
}

/// The ring of one daemon; clones share it.
#[derive(Debug, Clone)]
pub struct EventLog {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    ring: Mutex<Ring>,
    /// The number of the newest event; readers wait on it.
    newest: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Ring {
    events: VecDeque<Event>,
    newest: u64,
}

impl EventLog {
    /// An empty ring.
    #[must_use]
    pub fn new() -> Self {
        Self {
            shared: Arc::new(Shared {
                ring: Mutex::new(Ring::default()),
                newest: watch::Sender::new(0),
            }),
        }
    }

    /// Appends an event with the time of now; returns its number.
    pub fn publish(&self, body: EventBody) -> u64 {
        let mut ring = self.ring();
        ring.newest += 1;
        let event = Event {
            seq: ring.newest,
            at: timestamp_now(),
            body,
        };
        if ring.events.len() == CAPACITY {
            ring.events.pop_front();
        }
        ring.events.push_back(event);
        let newest = ring.newest;
        drop(ring);
        self.shared.newest.send_replace(newest);
        newest
    }

    /// The kept events with numbers above `seq`, oldest first. A first number
    /// other than `seq + 1` tells the reader that it missed some.
    #[must_use]
    pub fn since(&self, seq: u64) -> Vec<Event> {
        let ring = self.ring();
        ring.events
            .iter()
            .filter(|e| e.seq > seq)
            .cloned()
            .collect()
    }

    /// The number of the newest event, 0 before the first.
    #[must_use]
    pub fn newest(&self) -> u64 {
        self.ring().newest
    }

    /// Waits until there is an event with a number above `seq`.
    pub async fn wait_past(&self, seq: u64) {
        let mut newest = self.shared.newest.subscribe();
        // The sender lives in `self`, so this cannot fail.
        newest.wait_for(|n| *n > seq).await.ok();
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        // A panic while the ring was held leaves it whole: pushes are single steps.
        self.shared
            .ring
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for EventLog {
    fn default() -> Self {
        Self::new()
    }
}

/// The time of now as RFC 3339 in UTC with milliseconds.
#[must_use]
pub fn timestamp_now() -> String {
    format!("{:.3}", jiff::Timestamp::now())
}

/// The time that [`timestamp`] wrote.
#[must_use]
pub fn read_timestamp(text: &str) -> Option<std::time::SystemTime> {
    text.parse::<jiff::Timestamp>().ok().map(Into::into)
}

/// A time as RFC 3339 in UTC with milliseconds; times that no calendar knows as the nearest end.
#[must_use]
pub fn timestamp(at: std::time::SystemTime) -> String {
    format!(
        "{:.3}",
        jiff::Timestamp::try_from(at).unwrap_or(jiff::Timestamp::MAX)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(log: &EventLog) -> u64 {
        log.publish(EventBody::Started {
            version: "0".to_owned(),
        })
    }

    #[test]
    fn numbers_go_up_without_gaps_and_old_events_leave() {
        let log = EventLog::new();
        for _ in 0..CAPACITY + 10 {
            event(&log);
        }
        let kept = log.since(0);
        assert_eq!(kept.len(), CAPACITY);
        assert_eq!(kept[0].seq, 11);
        assert!(kept.windows(2).all(|w| w[0].seq + 1 == w[1].seq));
        assert_eq!(log.since(log.newest()), []);
    }

    #[test]
    fn waiting_reader_wakes() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        runtime.block_on(async {
            let log = EventLog::new();
            let seq = event(&log);
            let (_, ()) = tokio::join!(log.wait_past(seq), async {
                event(&log);
            });
            log.wait_past(seq).await;
        });
    }

    #[test]
    fn json_is_flat_and_reads_back() {
        let log = EventLog::new();
        event(&log);
        let text = serde_json::to_string(&log.since(0)[0]).unwrap();
        assert!(text.starts_with("{\"seq\":1,\"at\":\"20"), "{text}");
        assert!(
            text.ends_with("Z\",\"kind\":\"started\",\"version\":\"0\"}"),
            "{text}"
        );
        let back: Event = serde_json::from_str(&text).unwrap();
        assert_eq!(back, log.since(0)[0]);
    }
}
