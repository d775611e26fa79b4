//! The container engines that are known, and what runs in them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use control::config::Config;
use control::engine;
use control::names::{GuestName, SourceName};
use control::port::{Endpoint, Protocol};
use serde::Deserialize;

use crate::docker;

/// How long one engine may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// An engine, and what it says.
pub(super) struct Engine {
    pub place: Endpoint,
    /// The guest that it runs in; none: this host, or somewhere unknown.
    pub guest: Option<GuestName>,
    /// By which hostsync knows it.
    pub source: Option<SourceName>,
    /// Why it says nothing.
    pub answer: Result<Vec<Listed>, String>,
}

/// A container as the list has it. Engines leave out, or say `null` for, what they do not have.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Listed {
    pub id: String,
    pub names: Option<Vec<String>>,
    pub image: Option<String>,
    /// running, exited, ...
    pub state: Option<String>,
    /// "Up 2 minutes (healthy)".
    pub status: Option<String>,
    pub ports: Option<Vec<Port>>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Port {
    #[serde(rename = "IP")]
    pub ip: Option<String>,
    pub private_port: u16,
    pub public_port: Option<u16>,
    #[serde(rename = "Type")]
    pub kind: Option<String>,
}

impl Port {
    pub(super) fn protocol(&self) -> Protocol {
        match self.kind.as_deref() {
            Some("udp") => Protocol::Udp,
            _ => Protocol::Tcp,
        }
    }

    /// Whether only the engine's own machine gets there.
    pub(super) fn is_on_loopback(&self) -> bool {
        let ip = self.ip.as_deref().and_then(|ip| ip.parse().ok());
        ip.is_some_and(|ip: IpAddr| ip.is_loopback())
    }
}

impl Listed {
    /// Its name without the slash that Docker puts in front; the id of one without.
    pub(super) fn called(&self) -> &str {
        let names = self.names.as_deref().unwrap_or_default();
        names
            .first()
            .map_or(self.id.as_str(), |name| name.trim_start_matches('/'))
    }
}

/// Asks all of them at once; only those of some guests where such are `wanted`.
pub(super) async fn ask_all(config: &Config, wanted: &[GuestName], ended: bool) -> Vec<Engine> {
    let path = if ended {
        "/containers/json?all=1"
    } else {
        "/containers/json"
    };
    let asked = known(config, wanted).into_iter().map(|mut known| async {
        let answer = tokio::time::timeout(PATIENCE, engine::get(&known.place, path)).await;
        known.answer = answer.unwrap_or_else(|_| {
            Err(format!(
                "{} gives no answer within {} s",
                known.place,
                PATIENCE.as_secs()
            ))
        });
        known
    });
    futures_util::future::join_all(asked).await
}

/// The engines that guests publish, then those of hostsync's sources that are none of these.
fn known(config: &Config, wanted: &[GuestName]) -> Vec<Engine> {
    let mut sources: BTreeMap<Endpoint, SourceName> = config
        .hosts
        .sources
        .values()
        .filter(|source| source.kind.is_engine() && source.enabled)
        .filter_map(|source| Some((Endpoint::Unix(source.path.clone()?), source.name.clone())))
        .collect();
    let mut engines = Vec::new();
    for guest in config.guests.values() {
        let Some(place) = docker::place(guest) else {
            continue;
        };
        let source = sources.remove(&place);
        if wanted.is_empty() || wanted.contains(&guest.name) {
            engines.push(Engine {
                place,
                guest: Some(guest.name.clone()),
                source,
                answer: Ok(Vec::new()),
            });
        }
    }
    if wanted.is_empty() {
        engines.extend(sources.into_iter().map(|(place, source)| Engine {
            place,
            guest: None,
            source: Some(source),
            answer: Ok(Vec::new()),
        }));
    }
    engines
}
