//! The ways in for links that a configuration asks for, and opening one. Which are open is `state`'s.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use control::config::Config;
use control::mac::MacAddress;
use control::names::{GuestName, NetworkName};
use control::paths::Paths;
use tokio::task::JoinHandle;

use crate::services::links::{self, FolderChanges};
use crate::services::network::RunningNetwork;

/// A way in for links, with all that it depends on: when one of these differs it is another way in.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Door {
    pub(super) network: NetworkName,
    /// Which start of the network.
    pub(super) run: u64,
    kind: Kind,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// For guests that the file does not name.
    Anybody,
    Tcp(SocketAddr),
    Guest(Way, GuestName, MacAddress),
}

/// How a guest's VMM may come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Way {
    /// It listens, we dial.
    Dialled,
    /// It dials.
    Stream,
    Dgram,
    Vhost,
}

/// A task that ends with its owner.
#[derive(Debug)]
pub(super) struct Task(pub(super) JoinHandle<()>);

impl Task {
    pub(super) fn spawn(work: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(tokio::spawn(work))
    }

    /// Ends it and waits until it has let go of everything.
    pub(super) async fn stop(self) {
        self.0.abort();
        self.0.await.ok();
    }
}

impl Door {
    /// All those of one network.
    pub(super) fn wanted(config: &Config, network: &NetworkName, run: u64) -> Vec<Self> {
        let mut kinds = vec![Kind::Anybody];
        kinds.extend(
            config
                .networks
                .get(network)
                .and_then(|network| network.listen)
                .map(Kind::Tcp),
        );
        for guest in config.guests_on(network) {
            let ways = [Way::Dialled, Way::Stream, Way::Dgram, Way::Vhost];
            kinds.extend(ways.map(|way| Kind::Guest(way, guest.name.clone(), guest.mac)));
        }
        let door = |kind| Self {
            network: network.clone(),
            run,
            kind,
        };
        kinds.into_iter().map(door).collect()
    }

    /// Opens it; it is closed by ending the task.
    pub(super) async fn open(
        &self,
        network: Arc<RunningNetwork>,
        paths: &Paths,
        changes: &FolderChanges,
    ) -> Result<Task, String> {
        let failed = |path: PathBuf| {
            move |error: std::io::Error| format!("cannot listen on {}: {error}", path.display())
        };
        match &self.kind {
            Kind::Anybody => {
                let path = paths.network_socket(&self.network);
                let opened = links::listen_unix(network, None, &path);
                opened.map(Task::spawn).map_err(failed(path))
            }
            Kind::Tcp(address) => match links::listen_tcp(network, *address).await {
                Ok(work) => Ok(Task::spawn(work)),
                Err(error) => Err(format!(
                    "network {} cannot listen on {address}: {error}",
                    self.network
                )),
            },
            Kind::Guest(way, guest, mac) => {
                let owner = (guest.clone(), *mac);
                match way {
                    Way::Dialled => {
                        let path = paths.guest_net_socket(guest);
                        let changes = changes.clone();
                        Ok(Task::spawn(links::dial(network, owner, path, changes)))
                    }
                    Way::Stream => {
                        let path = paths.guest_link_socket(guest);
                        let opened = links::listen_unix(network, Some(owner), &path);
                        opened.map(Task::spawn).map_err(failed(path))
                    }
                    Way::Dgram => {
                        let path = paths.guest_dgram_socket(guest);
                        let opened = links::listen_dgram(network, owner, &path);
                        opened.map(Task::spawn).map_err(failed(path))
                    }
                    Way::Vhost => {
                        let path = paths.guest_vhost_socket(guest);
                        let opened = links::listen_vhost(network, owner, &path);
                        opened.map(Task::spawn).map_err(failed(path))
                    }
                }
            }
        }
    }
}
