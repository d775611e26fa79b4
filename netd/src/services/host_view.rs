//! What the networks' name servers take from the host, its resolvers and its own names, and how they are told.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use control::events::EventBody;
use tokio::sync::watch;

use crate::engine::dns_names::NameTable;
use crate::services::forwarding::Forwarding;
use crate::services::state::State;
use crate::services::{hosts_file, resolv_conf};

/// The host as it is now.
#[derive(Clone, Debug)]
pub struct HostView {
    /// Whom the host asks.
    resolvers: watch::Receiver<Vec<SocketAddr>>,
    /// Its hosts file.
    names: watch::Receiver<Arc<NameTable>>,
}

impl HostView {
    /// Reads both files; the senders are for whoever follows them.
    #[must_use]
    pub fn read(
        resolv_conf: &Path,
        hosts: &Path,
    ) -> (
        watch::Sender<Vec<SocketAddr>>,
        watch::Sender<Arc<NameTable>>,
        Self,
    ) {
        let (tell_resolvers, resolvers) = watch::channel(resolv_conf::read(resolv_conf));
        let (tell_names, names) = watch::channel(Arc::new(hosts_file::read(hosts)));
        (tell_resolvers, tell_names, Self { resolvers, names })
    }

    /// A host without resolvers and names.
    #[must_use]
    pub fn none() -> Self {
        Self {
            resolvers: watch::channel(Vec::new()).1,
            names: watch::channel(Arc::default()).1,
        }
    }
}

impl State {
    /// Tells every network whom to ask, the host's names, and the names that were added.
    pub fn feed_names(&self) {
        let resolvers = self.host.resolvers.borrow().clone();
        let hosts = Arc::clone(&self.host.names.borrow());
        let added = self.added.table();
        for running in self.networks() {
            let network = running.config();
            let names = running.names();
            names
                .resolver()
                .set_forwarding(Forwarding::of(&network, &resolvers));
            let hosts = if network.names.host_names {
                Arc::clone(&hosts)
            } else {
                Arc::default()
            };
            names.zone().change(|zone| {
                zone.set_hosts(hosts);
                zone.set_added(Arc::clone(&added));
            });
        }
    }

    /// Follows the host's resolvers until the daemon ends.
    pub async fn follow_resolvers(self: Arc<Self>) {
        let mut resolvers = self.host.resolvers.clone();
        while resolvers.changed().await.is_ok() {
            let now: Vec<String> = resolvers
                .borrow_and_update()
                .iter()
                .map(ToString::to_string)
                .collect();
            self.feed_names();
            self.events
                .publish(EventBody::ResolversChanged { resolvers: now });
        }
    }

    /// Follows the host's own names until the daemon ends.
    pub async fn follow_host_names(self: Arc<Self>) {
        let mut names = self.host.names.clone();
        while names.changed().await.is_ok() {
            self.feed_names();
        }
    }
}
