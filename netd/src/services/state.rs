//! The daemon's state as control requests see it, and the one place that makes it follow the configuration:
//! [`State::apply`] compares what should run with what runs and touches only the difference, so that starting,
//! reloading and healing are the same code.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use control::api::{Changes, LinkAnswer, LinkHandover, LinkPlugged, PortStatus, UplinkHandover};
use control::config::{Config, Guest, Network, NetworkKind};
use control::events::{EventBody, EventLog, timestamp_now};
use control::failure::Failure;
use control::following::{Following, Reason};
use control::names::{GuestName, NetworkName};
use control::paths::{Daemon, Paths};
use control::port::PortSpec;
use control::reloads::Reloads;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::datapath::LinkTransport;
use crate::services::captures::Captures;
use crate::services::clashes::Clashes;
use crate::services::doors::{Door, Task};
use crate::services::gvproxy_dns::AddedZones;
use crate::services::host_view::HostView;
use crate::services::host_watch::HostChanges;
use crate::services::network::{Moved, RunningNetwork, lock};
use crate::services::ports::{Origin, PortTable, wanted_ports};

/// Address changes of guests that wait for the published ports to follow.
const MOVED_QUEUE: usize = 256;

/// A fault that comes back at once must not fill the log.
const HEAL_PAUSE: Duration = Duration::from_secs(1);

#[derive(Debug)]
struct Slot {
    network: Arc<RunningNetwork>,
    /// Which start of this network: doors of an earlier one are closed.
    run: u64,
    /// Ends when the packet thread ends.
    news: JoinHandle<()>,
}

/// What only [`State::apply`] and the end of the daemon change.
#[derive(Debug, Default)]
struct Running {
    doors: BTreeMap<Door, Task>,
    runs: u64,
}

/// The daemon.
#[derive(Debug)]
pub struct State {
    /// Its places.
    pub paths: Paths,
    /// Its events.
    pub events: EventLog,
    /// When it started, RFC 3339.
    pub started: String,
    /// Subnets that the host uses too.
    pub clashes: Clashes,
    /// Frames that somebody captures.
    pub captures: Captures,
    following: Arc<Following>,
    reloads: Reloads,
    config: Mutex<Arc<Config>>,
    networks: Mutex<BTreeMap<NetworkName, Slot>>,
    running: tokio::sync::Mutex<Running>,
    ports: tokio::sync::Mutex<PortTable>,
    /// What the last apply could not do.
    problems: Mutex<Vec<String>>,
    /// What is followed of the host.
    pub(super) host: HostView,
    /// Names added by request, until the daemon ends.
    pub(super) added: AddedZones,
    host_changes: HostChanges,
    folders: watch::Sender<Vec<PathBuf>>,
    folder_changes: watch::Receiver<u64>,
    moved: mpsc::Sender<Moved>,
    ended: mpsc::Sender<()>,
}

/// Ends of channels that the daemon's own tasks hold.
#[derive(Debug)]
pub struct Ends {
    /// Folders to watch.
    pub folders: watch::Receiver<Vec<PathBuf>>,
    /// Told when one of them changes.
    pub folder_changes: watch::Sender<u64>,
    /// Guests with a new address.
    pub moved: mpsc::Receiver<Moved>,
    /// A packet thread has ended that should not have.
    pub ended: mpsc::Receiver<()>,
}

impl State {
    /// Nothing runs yet.
    #[must_use]
    pub fn new(
        paths: Paths,
        config: &Config,
        host: HostView,
        host_changes: HostChanges,
    ) -> (Arc<Self>, Ends) {
        let (folders, folders_end) = watch::channel(Vec::new());
        let (changes_end, folder_changes) = watch::channel(0);
        let (moved, moved_end) = mpsc::channel(MOVED_QUEUE);
        let (ended, ended_end) = mpsc::channel(1);
        let events = EventLog::new();
        let state = Self {
            following: Following::new(Daemon::Netd, &paths.config, config),
            reloads: Reloads::default(),
            paths,
            ports: tokio::sync::Mutex::new(PortTable::new(events.clone())),
            events,
            started: timestamp_now(),
            clashes: Clashes::default(),
            captures: Captures::default(),
            config: Mutex::new(Arc::new(config.clone())),
            networks: Mutex::default(),
            running: tokio::sync::Mutex::default(),
            problems: Mutex::default(),
            host,
            added: AddedZones::default(),
            host_changes,
            folders,
            folder_changes,
            moved,
            ended,
        };
        let ends = Ends {
            folders: folders_end,
            folder_changes: changes_end,
            moved: moved_end,
            ended: ended_end,
        };
        (Arc::new(state), ends)
    }

    /// The configuration that runs.
    #[must_use]
    pub fn config(&self) -> Arc<Config> {
        Arc::clone(&lock(&self.config))
    }

    /// The networks that run, by name.
    #[must_use]
    pub fn networks(&self) -> Vec<Arc<RunningNetwork>> {
        lock(&self.networks)
            .values()
            .map(|slot| Arc::clone(&slot.network))
            .collect()
    }

    /// One network that runs.
    ///
    /// # Errors
    /// When it does not.
    pub fn network(&self, name: &NetworkName) -> Result<Arc<RunningNetwork>, Failure> {
        let networks = lock(&self.networks);
        let found = networks.get(name).map(|slot| Arc::clone(&slot.network));
        found.ok_or_else(|| Failure::not_found(format!("no network {name} runs here")))
    }

    /// A guest of the configuration.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn guest(&self, name: &GuestName) -> Result<Guest, Failure> {
        self.config().guests.get(name).cloned().ok_or_else(|| {
            Failure::not_found(format!("the configuration names no guest {name}"))
                .with_hint(format!("sharectl guest add {name}"))
        })
    }

    /// What a person should know.
    pub async fn problems(&self) -> Vec<String> {
        let mut problems = self.following.problems();
        problems.extend(lock(&self.problems).iter().cloned());
        problems.extend(self.ports.lock().await.problems());
        problems.extend(self.clashes.problems());
        for network in self.networks() {
            problems.extend(network.problems());
            problems.extend(network.full_links().await);
        }
        problems
    }

    /// All published ports.
    pub async fn port_list(&self) -> Vec<PortStatus> {
        self.ports.lock().await.list().await
    }

    /// Publishes a port of a configured guest until netd ends, or for good where the file names it.
    ///
    /// # Errors
    /// Why not.
    pub async fn publish(&self, guest: &GuestName, spec: &PortSpec) -> Result<PortStatus, Failure> {
        let guest = self.guest(guest)?;
        let network = self.network(&guest.network)?;
        let address = network.services().await?.guests.get(&guest.name).copied();
        let mut ports = self.ports.lock().await;
        ports
            .publish(&network, &guest, spec, address, Origin::Request)
            .await
    }

    /// Takes a published port back.
    ///
    /// # Errors
    /// When it is not published.
    pub async fn unpublish(&self, guest: &GuestName, spec: &PortSpec) -> Result<Changes, Failure> {
        if self.ports.lock().await.remove(guest, spec) {
            let sentence = format!("port {spec} of {guest} is no longer published");
            return Ok(Changes {
                changes: vec![sentence],
                problems: Vec::new(),
            });
        }
        Err(
            Failure::not_found(format!("guest {guest} does not publish {spec}"))
                .with_hint("see all: sharectl port ls"),
        )
    }

    /// Unplugs a guest.
    ///
    /// # Errors
    /// When there is no such guest.
    pub fn detach(&self, guest: &GuestName) -> Result<Changes, Failure> {
        let guest = self.guest(guest)?;
        let count = self.network(&guest.network)?.detach_guest(&guest.name)?;
        let changes = match count {
            0 => Vec::new(),
            1 => vec![format!("guest {} unplugged", guest.name)],
            more => vec![format!("guest {} unplugged, {more} links", guest.name)],
        };
        Ok(Changes {
            changes,
            problems: Vec::new(),
        })
    }

    /// The socket of a bridged network that somebody handed over.
    pub fn bridge(&self, handover: &UplinkHandover, socket: OwnedFd) -> LinkAnswer {
        let network = match self.network(&handover.bridge) {
            Ok(network) => network,
            Err(failure) => return LinkAnswer::Error(failure),
        };
        if network.config().kind != NetworkKind::Bridged {
            let failure = Failure::invalid(format!("network {} is not bridged", handover.bridge));
            return LinkAnswer::Error(failure);
        }
        network.take_uplink_socket(socket);
        LinkAnswer::Bridged(handover.bridge.clone())
    }

    /// A descriptor that somebody handed over.
    pub async fn plug(&self, handover: LinkHandover, transport: LinkTransport) -> LinkAnswer {
        match self.try_plug(handover, transport).await {
            Ok(plugged) => LinkAnswer::Ok(plugged),
            Err(failure) => LinkAnswer::Error(failure),
        }
    }

    async fn try_plug(
        &self,
        handover: LinkHandover,
        transport: LinkTransport,
    ) -> Result<LinkPlugged, Failure> {
        let guest = self.guest(&handover.guest)?;
        let running = self.network(&guest.network)?;
        let kind = match &transport {
            LinkTransport::Tap { .. } => "tap",
            LinkTransport::Stream(_) => "stream",
            LinkTransport::Dgram(_) => "dgram",
            LinkTransport::Vhost(_) => "vhost-user",
            LinkTransport::Uplink { .. } => "uplink",
        };
        let owner = Some((guest.name.clone(), guest.mac));
        let (link, _) = running.attach(transport, kind, owner).await?;
        let network = running.config();
        Ok(LinkPlugged {
            link: link.0,
            network: guest.network.clone(),
            mac: guest.mac,
            mtu: network.link_mtu(),
            address: running.services().await?.guests.get(&guest.name).copied(),
            gateway: network.gateway,
            prefix: network.subnet.prefix_len(),
        })
    }

    /// Reads the file again and applies it; what runs goes on when the file is wrong.
    ///
    /// # Errors
    /// Every problem of the file, or that netd stops.
    pub async fn reload(&self) -> Result<Changes, Failure> {
        self.reload_for(Reason::Asked).await
    }

    /// The same after the files changed; for ever, until `changes` ends.
    pub async fn follow_config(self: Arc<Self>, mut changes: mpsc::Receiver<()>) {
        while changes.recv().await.is_some() {
            // Told in the log, as an event and in the status.
            self.reload_for(Reason::Noticed).await.ok();
        }
    }

    /// Where the configuration's files are followed.
    #[must_use]
    pub fn following(&self) -> &Arc<Following> {
        &self.following
    }

    async fn reload_for(&self, reason: Reason) -> Result<Changes, Failure> {
        let _turn = self.reloads.turn().await?;
        match self.following.read_apart(reason).await {
            Ok(config) => {
                let changes = self.apply(config).await;
                tracing::info!(
                    changes = changes.changes.len(),
                    problems = changes.problems.len(),
                    "configuration read again"
                );
                self.events.publish(EventBody::ConfigReloaded {
                    changes: changes.changes.clone(),
                });
                Ok(changes)
            }
            Err(failure) => {
                self.events.publish(EventBody::ConfigRefused {
                    message: failure.message.clone(),
                });
                Err(failure)
            }
        }
    }

    /// Makes what runs follow `config`.
    pub async fn apply(&self, config: Config) -> Changes {
        // One at a time, and no port request between.
        let mut running = self.running.lock().await;
        let mut changes = Changes::default();
        let old = self.config();
        let config = Arc::new(config);
        *lock(&self.config) = Arc::clone(&config);
        self.stop_networks(&config, &mut running, &mut changes)
            .await;
        self.start_networks(&config, &old, &mut running, &mut changes)
            .await;
        self.feed_names();
        self.unplug_strangers(&config, &old, &mut changes);
        let folders = config
            .guests
            .keys()
            .map(|guest| self.paths.guest(guest))
            .collect();
        self.folders.send_if_modified(|known| {
            let changed = *known != folders;
            *known = folders;
            changed
        });
        self.open_doors(&config, &mut running, &mut changes).await;
        self.publish_all(&config, &mut changes).await;
        lock(&self.problems).clone_from(&changes.problems);
        self.clashes.look(&config, &self.events);
        changes.problems.extend(self.clashes.problems());
        changes
    }

    async fn stop_networks(&self, config: &Config, running: &mut Running, changes: &mut Changes) {
        // Another subnet is a change of settings: links, and the guests behind them, stay.
        let stays = |slot: &Slot| {
            let bridged = |network: &Network| network.kind == NetworkKind::Bridged;
            let wanted = config.networks.get(slot.network.name());
            wanted.is_some_and(|wanted| bridged(wanted) == bridged(&slot.network.config()))
                && !slot.news.is_finished()
        };
        let gone: Vec<Slot> = {
            let mut networks = lock(&self.networks);
            let names: Vec<_> = networks
                .iter()
                .filter(|(_, slot)| !stays(slot))
                .map(|(name, _)| name.clone())
                .collect();
            names
                .iter()
                .filter_map(|name| networks.remove(name))
                .collect()
        };
        for slot in gone {
            let name = slot.network.name().clone();
            let closed: Vec<Door> = running
                .doors
                .keys()
                .filter(|door| door.run == slot.run)
                .cloned()
                .collect();
            for door in closed {
                if let Some(task) = running.doors.remove(&door) {
                    task.stop().await;
                }
            }
            let runs = self.networks();
            let ended = self.ports.lock().await.retain(
                |_, _| true,
                |of| runs.iter().any(|network| Arc::ptr_eq(network, of)),
            );
            changes.changes.extend(ended);
            slot.network.stop().await;
            slot.news.await.ok();
            changes.changes.push(format!("network {name} stopped"));
        }
    }

    async fn start_networks(
        &self,
        config: &Config,
        old: &Config,
        running: &mut Running,
        changes: &mut Changes,
    ) {
        for network in config.networks.values() {
            if let Ok(runs) = self.network(&network.name) {
                let same_guests = config
                    .guests_on(&network.name)
                    .eq(old.guests_on(&network.name));
                if runs.config() != *network || !same_guests {
                    match runs.reconfigure(config, network).await {
                        Ok(()) => changes
                            .changes
                            .push(format!("network {} has new settings", network.name)),
                        Err(failure) => changes.problems.push(failure.message),
                    }
                }
                continue;
            }
            match RunningNetwork::start(config, network, &self.paths) {
                Ok((started, inbox)) => {
                    let news =
                        Arc::clone(&started).run(inbox, self.events.clone(), self.moved.clone());
                    running.runs += 1;
                    let ended = self.ended.clone();
                    let news = async move {
                        if !news.await {
                            // Full means that the daemon knows already.
                            ended.try_send(()).ok();
                        }
                    };
                    let slot = Slot {
                        network: started,
                        run: running.runs,
                        news: tokio::spawn(news),
                    };
                    lock(&self.networks).insert(network.name.clone(), slot);
                    changes.changes.push(format!(
                        "network {} started, {}",
                        network.name, network.subnet
                    ));
                }
                Err(failure) => changes.problems.push(failure.message),
            }
        }
    }

    /// A guest that is gone, or is somebody else now, must not keep its wire.
    fn unplug_strangers(&self, config: &Config, old: &Config, changes: &mut Changes) {
        for guest in old.guests.values() {
            let same = config
                .guests
                .get(&guest.name)
                .is_some_and(|now| now.network == guest.network && now.mac == guest.mac);
            if same {
                continue;
            }
            if let Ok(network) = self.network(&guest.network)
                && let Ok(1..) = network.detach_guest(&guest.name)
            {
                changes
                    .changes
                    .push(format!("guest {} unplugged", guest.name));
            }
        }
    }

    async fn open_doors(&self, config: &Config, running: &mut Running, changes: &mut Changes) {
        let mut wanted = BTreeSet::new();
        for (name, slot) in lock(&self.networks).iter() {
            wanted.extend(Door::wanted(config, name, slot.run));
        }
        let closed: Vec<Door> = running
            .doors
            .iter()
            .filter(|(door, task)| !wanted.contains(door) || task.0.is_finished())
            .map(|(door, _)| door.clone())
            .collect();
        for door in closed {
            if let Some(task) = running.doors.remove(&door) {
                task.stop().await;
            }
            if let (Some(kind), Ok(network)) = (door.link_kind(), self.network(&door.network)) {
                network.detach_kind(kind);
            }
        }
        for door in wanted {
            if running.doors.contains_key(&door) {
                continue;
            }
            let opened = match self.network(&door.network) {
                Ok(network) => {
                    let changes = (&self.folder_changes, &self.host_changes);
                    door.open(network, &self.paths, changes).await
                }
                Err(failure) => Err(failure.message),
            };
            match opened {
                Ok(task) => {
                    running.doors.insert(door, task);
                }
                Err(problem) => {
                    tracing::warn!("{problem}");
                    changes.problems.push(problem);
                }
            }
        }
    }

    async fn publish_all(&self, config: &Config, changes: &mut Changes) {
        let mut ports = self.ports.lock().await;
        let runs = self.networks();
        let wanted = |guest: &GuestName, spec: &PortSpec| {
            config
                .guests
                .get(guest)
                .is_some_and(|guest| wanted_ports(guest, &self.paths).any(|wanted| wanted == *spec))
        };
        changes.changes.extend(ports.retain(wanted, |of| {
            runs.iter().any(|network| Arc::ptr_eq(network, of))
        }));
        for network in &runs {
            let Ok(view) = network.services().await else {
                continue;
            };
            for guest in config.guests_on(network.name()) {
                let address = view.guests.get(&guest.name).copied();
                if let Some(address) = address {
                    ports.retarget(&guest.name, address);
                }
                for spec in wanted_ports(guest, &self.paths) {
                    let was = ports.is_published(&guest.name, &spec);
                    match ports
                        .publish(network, guest, &spec, address, Origin::Configuration)
                        .await
                    {
                        Ok(_) if was => {}
                        Ok(_) => changes
                            .changes
                            .push(format!("port {spec} of {} is published", guest.name)),
                        // The table keeps the reason for the status.
                        Err(failure) => {
                            tracing::warn!(guest = %guest.name, %spec, %failure, "port not published")
                        }
                    }
                }
            }
        }
        // Told once here; afterwards the table itself is asked.
        let failed = ports.problems();
        drop(ports);
        if !failed.is_empty() {
            tracing::info!(
                count = failed.len(),
                "ports of the configuration are not published"
            );
        }
    }

    /// Follows guests to their addresses until the daemon ends.
    pub async fn follow_moves(self: Arc<Self>, mut moved: mpsc::Receiver<Moved>) {
        while let Some(Moved { guest, address }) = moved.recv().await {
            self.ports.lock().await.retarget(&guest, address);
        }
    }

    /// Starts networks again whose packet thread ended by a fault of ours, with a pause between.
    pub async fn heal(self: Arc<Self>, mut ended: mpsc::Receiver<()>) {
        while ended.recv().await.is_some() {
            tracing::error!(
                "a packet thread ended by itself, its network is started again; please report what the log says above"
            );
            tokio::time::sleep(HEAL_PAUSE).await;
            let config = Config::clone(&self.config());
            self.apply(config).await;
        }
    }

    /// Ends everything: doors first, so that nobody comes in, then the networks. A reload that comes later makes
    /// nothing.
    pub async fn stop(&self) {
        self.reloads.end().await;
        let mut running = self.running.lock().await;
        for (_, task) in std::mem::take(&mut running.doors) {
            task.stop().await;
        }
        let slots = std::mem::take(&mut *lock(&self.networks));
        for slot in slots.into_values() {
            slot.network.stop().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datapath::{Command, ServicesCall};
    use control::failure::FailureKind;

    const CONFIG: &str =
        "[network.vmnet8]\ntype = \"nat\"\nsubnet = \"10.77.9.0/24\"\n[guest.dev]\n";

    /// In a folder of its own; nothing runs yet.
    fn begin(folder: &tempfile::TempDir) -> (Config, Arc<State>, Ends) {
        let at = |name: &str| folder.path().join(name);
        let paths = Paths {
            config: at("config.toml"),
            runtime: at("r"),
            state: at("s"),
        };
        std::fs::write(&paths.config, CONFIG).unwrap();
        let config = Config::load(&paths.config).unwrap();
        let (_host, host_changes) = watch::channel(0);
        let (state, ends) = State::new(paths, &config, HostView::none(), host_changes);
        (config, state, ends)
    }

    #[tokio::test]
    async fn a_reload_that_comes_behind_the_stop_makes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let (config, state, _ends) = begin(&folder);
        state.apply(config).await;
        let socket = folder.path().join("r/guest/dev/link.sock");
        assert!(socket.exists() && state.networks().len() == 1);
        state.stop().await;
        assert!(!socket.exists());
        let said = state.reload().await;
        assert!(!socket.exists() && state.networks().is_empty(), "{said:?}");
        assert_eq!(said.unwrap_err().kind, FailureKind::NotRunning);
    }

    #[tokio::test]
    async fn network_whose_packet_thread_died_is_started_again() {
        let folder = tempfile::tempdir().unwrap();
        let (config, state, ends) = begin(&folder);
        let healing = tokio::spawn(Arc::clone(&state).heal(ends.ended));
        let done = state.apply(config).await;
        assert_eq!(done.problems, Vec::<String>::new());
        let name = NetworkName::parse("vmnet8").unwrap();
        let first = state.network(&name).unwrap();
        let fault = ServicesCall(Box::new(|_| panic!("a fault made by a test")));
        first.command(Command::Services(fault)).unwrap();
        let healed = async {
            loop {
                tokio::time::sleep(Duration::from_millis(10)).await;
                let now = state.network(&name);
                if let Ok(now) = now
                    && !Arc::ptr_eq(&now, &first)
                {
                    return now;
                }
            }
        };
        let second = tokio::time::timeout(Duration::from_secs(20), healed).await;
        let view = second.unwrap().services().await.unwrap();
        assert_eq!(view.guests.len(), 1);
        assert!(folder.path().join("r/guest/dev/link.sock").exists());
        healing.abort();
        state.stop().await;
    }
}
