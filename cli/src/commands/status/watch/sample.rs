//! One look at all daemons.

use control::api::{FlowStatus, NetworkStatus};
use control::client::Client;
use control::events::Event;
use control::failure::Failure;
use control::paths::Daemon;

use super::super::Report;
use crate::context::Context;

/// What was seen in one look.
pub(super) struct Sample {
    pub(super) report: Report,
    pub(super) networks: Vec<NetworkStatus>,
    /// The largest.
    pub(super) flows: Vec<FlowStatus>,
    /// Since the last look, in order of time.
    pub(super) events: Vec<(Daemon, Event)>,
}

/// Flows asked for: what a tall terminal can show.
const FLOWS: usize = 200;
/// Events taken from a daemon in one look, oldest first; the next look takes the rest.
const EVENTS: usize = 500;

/// Looks, and remembers which events it has seen.
#[derive(Default)]
pub(super) struct Sampler {
    /// In the order of [`Daemon::ALL`].
    seen: [u64; Daemon::ALL.len()],
}

impl Sampler {
    pub(super) async fn look(&mut self, context: &Context) -> Sample {
        let report = Report::gather(context).await;
        let up = |daemon: &Daemon| {
            let mut running = report.daemons.iter().filter(|seen| seen.status.is_some());
            running.any(|seen| seen.daemon == daemon.name())
        };
        // A daemon that fails here has its problem in the report, or the next one will.
        let (networks, flows) = if up(&Daemon::Netd) {
            let largest = format!("/v1/flows?limit={FLOWS}");
            let (networks, flows) = tokio::join!(
                context.asking(Daemon::Netd, "/v1/networks"),
                context.asking(Daemon::Netd, &largest),
            );
            (networks.unwrap_or_default(), flows.unwrap_or_default())
        } else {
            (Vec::new(), Vec::new())
        };
        let mut events = Vec::new();
        for (daemon, seen) in Daemon::ALL.iter().zip(&mut self.seen) {
            if up(daemon) {
                let news = news(&context.client(*daemon), seen).await;
                events.extend(news.unwrap_or_default().into_iter().map(|e| (*daemon, e)));
            }
        }
        events.sort_by(|(_, a), (_, b)| a.at.cmp(&b.at));
        Sample {
            report,
            networks,
            flows,
            events,
        }
    }
}

/// The events after number `seen`, which goes along.
async fn news(client: &Client, seen: &mut u64) -> Result<Vec<Event>, Failure> {
    let status: control::api::DaemonStatus = client.get("/v1/status").await?;
    // A daemon that was started again counts anew.
    if status.newest_event < *seen {
        *seen = 0;
    }
    let mut events = Vec::new();
    if status.newest_event == *seen {
        return Ok(events);
    }
    let mut stream = client.events(*seen, false).await?;
    while let Some(event) = stream.next().await? {
        *seen = event.seq;
        events.push(event);
        if events.len() == EVENTS {
            break;
        }
    }
    Ok(events)
}
