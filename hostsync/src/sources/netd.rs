//! Facts from netd: a snapshot of its guests whenever its events say that they changed.
//!
//! The order at each connection is what makes it safe: first the number of netd's
//! newest event, then the stream of events after that number, then the snapshot. What
//! happens during the snapshot is in the stream. Events only say that something
//! changed, the snapshot says what; so a lost or unknown event can do no harm, a gap
//! in the numbers leads to a new snapshot, and a thousand events make a few snapshots.

use std::net::IpAddr;
use std::time::Duration;

use control::api::{DaemonStatus, GuestStatus};
use control::client::Client;
use control::events::{Event, EventBody};
use control::failure::Failure;
use control::names::SourceName;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::again::Again;
use super::{News, Reading, Said};
use crate::table::{Fact, Source};

/// How long changes are gathered before a snapshot.
const GATHER: Duration = Duration::from_millis(50);

/// Follows netd for ever, through its restarts; ends when nobody reads the news.
pub async fn follow(client: Client, source: SourceName, news: mpsc::Sender<News>) {
    let mut again = Again::new(client.socket());
    loop {
        let mut heard = false;
        let Err(failure) = session(&client, (&source, &news), &mut heard).await else {
            return;
        };
        if heard {
            again.worked();
        }
        if again.wait(&source, failure.message, &news).await.is_none() {
            return;
        }
    }
}

/// What netd says of its guests' names now.
///
/// # Errors
/// When it cannot be reached or answers with an error.
pub async fn snapshot(client: &Client) -> Result<Vec<Fact>, Failure> {
    let guests: Vec<GuestStatus> = client.get("/v1/guests").await?;
    Ok(facts(&guests))
}

/// One connection: `Ok` when nobody reads the news any more, else why it ended.
async fn session(
    client: &Client,
    (source, news): (&SourceName, &mpsc::Sender<News>),
    heard: &mut bool,
) -> Result<(), Failure> {
    let status: DaemonStatus = client.get("/v1/status").await?;
    let mut seen = status.newest_event;
    let mut events = client.events(seen, true).await?;
    let mut due = Some(Instant::now());
    loop {
        tokio::select! {
            event = events.next() => {
                let Some(event) = event? else {
                    return Err(Failure::internal("netd ended the stream of events"));
                };
                let gap = event.seq != seen + 1;
                seen = event.seq;
                if (gap || concerns_names(&event)) && due.is_none() {
                    due = Some(Instant::now() + GATHER);
                }
            }
            () = sleep_until(due) => {
                due = None;
                let facts = snapshot(client).await?;
                *heard = true;
                let reading = Reading { facts, skipped: 0 };
                let told = News {
                    source: source.clone(),
                    said: Said::Reading(reading.bounded()),
                };
                if news.send(told).await.is_err() {
                    return Ok(());
                }
            }
            () = news.closed() => return Ok(()),
        }
    }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

fn concerns_names(event: &Event) -> bool {
    match &event.body {
        EventBody::Started { .. }
        | EventBody::ConfigReloaded { .. }
        | EventBody::LeaseBound { .. }
        | EventBody::LeaseEnded { .. }
        | EventBody::NamesChanged { .. } => true,
        EventBody::ConfigRefused { .. }
        | EventBody::LinkUp { .. }
        | EventBody::LinkDown { .. }
        | EventBody::PortPublished { .. }
        | EventBody::PortRemoved { .. }
        | EventBody::PortFailed { .. }
        | EventBody::FlowRefused { .. }
        | EventBody::GuestLimited { .. }
        | EventBody::CaptureStarted { .. }
        | EventBody::CaptureStopped { .. }
        | EventBody::ResolversChanged { .. }
        | EventBody::SubnetClash { .. }
        | EventBody::SubnetClear { .. }
        | EventBody::ShareConnected { .. }
        | EventBody::ShareDisconnected { .. }
        | EventBody::ShareFailed { .. }
        | EventBody::ShareMounted { .. }
        | EventBody::ShareUnmounted { .. }
        | EventBody::GuestMounted { .. }
        | EventBody::GuestUnmounted { .. }
        | EventBody::HostsWritten { .. }
        | EventBody::HostsRefused { .. }
        | EventBody::NameChanged { .. } => false,
    }
}

/// A guest's names belong to its own address on the host. A guest that has none
/// (the configuration does not name it) cannot be reached from here by any name.
fn facts(guests: &[GuestStatus]) -> Vec<Fact> {
    let mut facts = Vec::new();
    for guest in guests {
        let (Some(name), Some(address)) = (&guest.name, guest.host_address) else {
            continue;
        };
        for host_name in &guest.names {
            facts.push(Fact {
                name: host_name.clone(),
                below: false,
                address: IpAddr::V4(address),
                from: Source::Guest {
                    guest: name.clone(),
                    network: guest.network.clone(),
                },
                since: None,
                until: None,
            });
        }
    }
    facts
}
