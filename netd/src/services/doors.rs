//! The ways in for links that a configuration asks for, and opening one. Which are open is `state`'s.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use control::config::{Config, NetworkKind};
use control::mac::MacAddress;
use control::names::{GuestName, NetworkName};
use control::paths::Paths;
use tokio::task::JoinHandle;

use crate::services::host_watch::HostChanges;
use crate::services::links::{self, FolderChanges};
use crate::services::network::RunningNetwork;
use crate::services::{host_tap, uplink};

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
    /// A bridged network's way to its LAN: the interface, or that of the default route.
    Uplink(Option<String>),
    /// The host's own interface on a network.
    HostTap,
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
        if let Some(configured) = config.networks.get(network) {
            if configured.kind == NetworkKind::Bridged {
                kinds.push(Kind::Uplink(configured.interface.clone()));
            }
            kinds.extend(configured.host_tap.map(|_| Kind::HostTap));
        }
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

    /// The link that goes with it: those of guests stay when their door closes.
    pub(super) fn link_kind(&self) -> Option<&'static str> {
        match self.kind {
            Kind::Uplink(_) => Some("uplink"),
            Kind::HostTap => Some("host-tap"),
            Kind::Anybody | Kind::Tcp(_) | Kind::Guest(..) => None,
        }
    }

    /// Opens it; it is closed by ending the task.
    pub(super) async fn open(
        &self,
        network: Arc<RunningNetwork>,
        paths: &Paths,
        (changes, host): (&FolderChanges, &HostChanges),
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
            Kind::Uplink(interface) => {
                let (interface, handed) = (interface.clone(), network.uplink_sockets());
                let (paths, host) = (paths.clone(), host.clone());
                let work = uplink::keep(network, interface, paths, host, handed);
                Ok(Task::spawn(work))
            }
            Kind::HostTap => {
                let work = host_tap::keep(network, paths.clone(), host.clone());
                Ok(Task::spawn(work))
            }
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
