//! The resolver beside the daemon's loop: where it listens, what it answers.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use control::config::{Config, HostsDns};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::dns::server::{Counters, Sockets};
use crate::dns::zones::Zones;
use crate::table::Table;
use crate::view::View;

/// Another try for an address that somebody else has.
const RETRY: Duration = Duration::from_secs(2);

/// The resolver.
pub(super) struct Resolving {
    view: View,
    zones: watch::Sender<Arc<Zones>>,
    counters: Arc<Counters>,
    settings: Option<HostsDns>,
    tasks: Vec<JoinHandle<()>>,
}

/// Whether it matters that an address cannot be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    /// The user wrote it.
    Surely,
    /// It would be good to have.
    IfAllowed,
}

impl Resolving {
    pub(super) fn new(view: View) -> Self {
        let counters = Arc::clone(&view.lock().dns_counters);
        Self {
            view,
            zones: watch::Sender::new(Arc::default()),
            counters,
            settings: None,
            tasks: Vec::new(),
        }
    }

    /// Listens where the settings say, and nowhere else.
    pub(super) async fn listen(&mut self, settings: Option<HostsDns>) {
        if settings == self.settings {
            return;
        }
        for task in std::mem::take(&mut self.tasks) {
            task.abort();
            // Its sockets are closed when it has ended: the same address may be wanted again.
            task.await.ok();
        }
        self.settings = settings;
        {
            let mut shown = self.view.lock();
            shown.resolver.listening.clear();
            shown.resolver.problems.clear();
        }
        let Some(HostsDns { listen, well_known }) = settings else {
            return;
        };
        self.start(listen, Wanted::Surely);
        if let Some(address) = well_known {
            self.start(address, Wanted::IfAllowed);
        }
    }

    fn start(&mut self, address: SocketAddr, wanted: Wanted) {
        let (view, zones) = (self.view.clone(), self.zones.subscribe());
        let counters = Arc::clone(&self.counters);
        self.tasks.push(tokio::spawn(async move {
            let Some(sockets) = bind(&view, address, wanted).await else {
                return;
            };
            {
                let mut shown = view.lock();
                shown.resolver.listening.push(address);
                shown.resolver.listening.sort();
            }
            tracing::info!(%address, "answering DNS");
            sockets.serve(zones, counters).await;
        }));
    }

    /// Answers what the table says from now on.
    pub(super) fn answer(&self, table: &Table, config: &Config) {
        let zones = Zones::new(table, config);
        self.view.lock().resolver.domains = zones.domains();
        self.zones.send_if_modified(|known| {
            let changed = **known != zones;
            if changed {
                *known = Arc::new(zones);
            }
            changed
        });
    }
}

/// Takes the address, however long that takes; none where nobody misses it.
async fn bind(view: &View, address: SocketAddr, wanted: Wanted) -> Option<Sockets> {
    let mut told = None;
    loop {
        match Sockets::bind(address).await {
            Ok(sockets) => {
                let mut shown = view.lock();
                shown
                    .resolver
                    .problems
                    .retain(|problem| told.as_ref() != Some(problem));
                return Some(sockets);
            }
            Err(error) if wanted == Wanted::IfAllowed => {
                tracing::debug!(%address, %error, "DNS is not answered there");
                return None;
            }
            Err(error) => {
                if told.is_none() {
                    let problem = format!(
                        "DNS cannot be answered on {address}: {error}; name another address with \
                         dns = \"...\" in [hosts]"
                    );
                    tracing::warn!("{problem}");
                    view.lock().resolver.problems.push(problem.clone());
                    told = Some(problem);
                }
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}
