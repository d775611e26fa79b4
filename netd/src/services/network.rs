//! One network that runs: its packet thread, its forwarder, its links and what is known of its guests.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use control::api::GuestAnswer;
use control::config::{Config, Network};
use control::egress::{FlowProtocol, FlowQuestion};
use control::events::{EventBody, EventLog, timestamp};
use control::failure::Failure;
use control::host_interface::HostInterface;
use control::host_network;
use control::mac::MacAddress;
use control::names::{GuestName, HostName, NetworkName};
use control::paths::Paths;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

use crate::datapath::{
    Checked, Command, Datapath, DatapathHandle, FlowSnapshot, LinkEnd, LinkTransport, NewLink,
    Notice, PublishId, ServicesCall, Snapshot,
};
use crate::engine::dhcp::DhcpCounters;
use crate::engine::dhcp6::Dhcp6Counters;
use crate::engine::lease::{LeaseCounts, LeaseState};
use crate::engine::services::{LeaseEvent, LinkId};
use crate::engine::settings::NetworkSettings;
use crate::services::dns_tcp;
use crate::services::egress::NamePolicy;
use crate::services::forwarding::Forwarding;
use crate::services::gateway::{Gateway, GatewaySettings, settings_of};
use crate::services::journal::{ClockPair, last_addresses};
use crate::services::name_server::NameServer;
use crate::services::resolver::{Resolver, Transport};
use crate::services::settings::{bridged_settings, packet_settings, settings_with, share_sockets};

/// News that may wait for this side; beyond it the packet thread counts and forgets.
const NOTICE_QUEUE: usize = 1_024;
/// DNS connections of one network at a time.
const MOST_DNS_STREAMS: usize = 64;
/// Link ends that came before whoever attached the link could wait for them.
const MOST_EARLY_ENDS: usize = 64;

/// A lease as the control API shows it.
#[derive(Clone, Debug)]
pub struct LeaseView {
    /// The address.
    pub address: Ipv4Addr,
    /// Its holder.
    pub mac: MacAddress,
    /// The guest, where known.
    pub guest: Option<GuestName>,
    /// The client's name, where it has a good one.
    pub host_name: Option<HostName>,
    /// When it ends.
    pub until: Instant,
}

/// An address that DHCPv6 gave, as the control API shows it.
#[derive(Clone, Debug)]
pub struct Ipv6LeaseView {
    /// The address.
    pub address: Ipv6Addr,
    /// Its holder.
    pub mac: MacAddress,
    /// The guest, where known.
    pub guest: Option<GuestName>,
}

/// What the gateway services know at one moment.
#[derive(Clone, Debug, Default)]
pub struct ServicesView {
    /// Leases held.
    pub leases: Vec<LeaseView>,
    /// Addresses that DHCPv6 gave.
    pub ipv6: Vec<Ipv6LeaseView>,
    /// Links that have their share of the pool, with the addresses they hold.
    pub full_links: BTreeMap<LinkId, usize>,
    /// Numbers of the table.
    pub counts: LeaseCounts,
    /// Numbers of the server.
    pub dhcp: DhcpCounters,
    /// Numbers of the DHCPv6 server.
    pub dhcp6: Dhcp6Counters,
    /// Where each configured guest is: lease, else reservation.
    pub guests: BTreeMap<GuestName, Ipv4Addr>,
}

/// A link in use.
#[derive(Clone, Debug)]
pub struct LinkRecord {
    /// The guest, where known.
    pub guest: Option<GuestName>,
    /// unix, tcp or tap.
    pub transport: &'static str,
}

#[derive(Debug, Default)]
struct Links {
    records: BTreeMap<LinkId, LinkRecord>,
    waiting: HashMap<LinkId, oneshot::Sender<LinkEnd>>,
    early_ends: VecDeque<(LinkId, LinkEnd)>,
}

/// A network that runs.
#[derive(Debug)]
pub struct RunningNetwork {
    name: NetworkName,
    handle: DatapathHandle,
    names: NameServer,
    dns_streams: Arc<Semaphore>,
    links: Mutex<Links>,
    config: Mutex<Network>,
    /// It was told to end.
    stopping: AtomicBool,
    /// What a person should know: limits of the host, a journal that cannot be written.
    problems: Mutex<Vec<String>>,
    /// The same, for what comes and goes.
    standing: Mutex<BTreeMap<&'static str, String>>,
    /// The host's interface that a bridged network uses now.
    lan: Mutex<Option<HostInterface>>,
    paths: Paths,
    /// The packet socket that somebody handed over for it.
    uplink_socket: watch::Sender<Option<Arc<OwnedFd>>>,
}

/// A guest is at another address now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moved {
    /// The guest.
    pub guest: GuestName,
    /// Its address.
    pub address: Ipv4Addr,
}

impl RunningNetwork {
    /// Starts the packet thread. The receiver is for [`RunningNetwork::run`].
    ///
    /// # Errors
    /// When the kernel gives no thread.
    pub fn start(
        config: &Config,
        network: &Network,
        paths: &Paths,
    ) -> Result<(Arc<Self>, mpsc::Receiver<Notice>), Failure> {
        let clock = ClockPair::read();
        let journal = paths.leases(&network.name);
        let mut problems = Vec::new();
        let known = last_addresses(&journal, clock).unwrap_or_default();
        let mut gateway = Gateway::new(settings_of(config, network, &known));
        if let Err(error) = gateway.keep_journal(&journal, clock) {
            let problem = format!(
                "leases of {} are not kept: cannot use {}: {error}",
                network.name,
                journal.display()
            );
            tracing::warn!("{problem}");
            problems.push(problem);
        }
        let resolver = Resolver::new(Forwarding::of(network, &[]));
        gateway.keep_answers(resolver.cache());
        let names = NameServer::new(gateway.zone(), resolver);
        let (notices, inbox) = mpsc::channel(NOTICE_QUEUE);
        let settings = NetworkSettings {
            shares: share_sockets(config, network, paths),
            ..packet_settings(config, network)
        };
        let handle = Datapath::spawn(settings, Box::new(gateway), notices).map_err(|error| {
            Failure::internal(format!(
                "cannot start the packet thread of {}: {error}",
                network.name
            ))
        })?;
        let running = Self {
            name: network.name.clone(),
            handle,
            names,
            dns_streams: Arc::new(Semaphore::new(MOST_DNS_STREAMS)),
            links: Mutex::default(),
            config: Mutex::new(network.clone()),
            stopping: AtomicBool::new(false),
            problems: Mutex::new(problems),
            standing: Mutex::default(),
            lan: Mutex::default(),
            paths: paths.clone(),
            uplink_socket: watch::Sender::new(None),
        };
        Ok((Arc::new(running), inbox))
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &NetworkName {
        &self.name
    }

    /// The configuration that it runs with.
    #[must_use]
    pub fn config(&self) -> Network {
        lock(&self.config).clone()
    }

    /// Its forwarder.
    #[must_use]
    pub fn resolver(&self) -> &Resolver {
        self.names.resolver()
    }

    /// Its name server.
    #[must_use]
    pub fn names(&self) -> &NameServer {
        &self.names
    }

    /// What a person should know.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let mut problems = lock(&self.problems).clone();
        problems.extend(lock(&self.standing).values().cloned());
        let silent = self.resolver().silent().into_iter();
        problems.extend(silent.map(|server| {
            format!(
                "resolver {server} did not answer network {}: it is asked last for a while",
                self.name
            )
        }));
        problems
    }

    /// A problem that stands until it is told otherwise.
    pub fn set_problem(&self, kind: &'static str, problem: Option<String>) {
        let mut standing = lock(&self.standing);
        match problem {
            Some(problem) => standing.insert(kind, problem),
            None => standing.remove(kind),
        };
    }

    /// The host's interface of a bridged network, as it is now.
    #[must_use]
    pub fn lan(&self) -> Option<HostInterface> {
        lock(&self.lan).clone()
    }

    /// The host's interface of a bridged network has changed: its addresses are those that guests reach the host by.
    ///
    /// # Errors
    /// When the packet thread is gone.
    pub fn set_lan(&self, lan: Option<HostInterface>) -> Result<(), Failure> {
        let settings = bridged_settings(&self.config(), lan.as_ref());
        self.command(Command::Reconfigure(Box::new(settings)))?;
        *lock(&self.lan) = lan;
        Ok(())
    }

    /// A packet socket for the uplink, from somebody who may open one.
    pub fn take_uplink_socket(&self, socket: OwnedFd) {
        self.uplink_socket.send_replace(Some(Arc::new(socket)));
    }

    /// Tells of such a socket.
    #[must_use]
    pub fn uplink_sockets(&self) -> watch::Receiver<Option<Arc<OwnedFd>>> {
        self.uplink_socket.subscribe()
    }

    /// Whether DNS answers a client's own name with this address.
    #[must_use]
    pub fn holds_name(&self, label: &HostName, address: Ipv4Addr) -> bool {
        self.names.zone().read().holds_lease(label, address)
    }

    /// The links in use.
    #[must_use]
    pub fn links(&self) -> BTreeMap<LinkId, LinkRecord> {
        lock(&self.links).records.clone()
    }

    /// Other settings. With another subnet, guests keep the last part of their addresses where there is room.
    ///
    /// # Errors
    /// When the packet thread is gone.
    pub async fn reconfigure(&self, config: &Config, network: &Network) -> Result<(), Failure> {
        let macs: Vec<MacAddress> = config
            .guests_on(&network.name)
            .map(|guest| guest.mac)
            .collect();
        let had = self.config().subnet;
        let now = network.subnet;
        let keep = move |address| match had == now {
            true => Some(address),
            false => host_network::moved(address, had, now),
        };
        let known = self
            .with_services(move |gateway| {
                let table = gateway.dhcp_server().table();
                macs.into_iter()
                    .filter_map(|mac| Some((mac, keep(table.address_of(mac)?)?)))
                    .collect::<BTreeMap<_, _>>()
            })
            .await?;
        let settings: GatewaySettings = settings_of(config, network, &known);
        self.with_services(move |gateway| gateway.reconfigure(settings))
            .await?;
        self.command(Command::Reconfigure(Box::new(NetworkSettings {
            shares: share_sockets(config, network, &self.paths),
            ..settings_with(config, network, self.lan().as_ref())
        })))?;
        *lock(&self.config) = network.clone();
        Ok(())
    }

    /// Gives a connected descriptor to the packet thread; the receiver tells the link's end.
    ///
    /// # Errors
    /// When the packet thread cannot use it.
    pub async fn attach(
        &self,
        transport: LinkTransport,
        kind: &'static str,
        guest: Option<(GuestName, MacAddress)>,
    ) -> Result<(LinkId, oneshot::Receiver<LinkEnd>), Failure> {
        let (guest, mac) = guest.unzip();
        self.attach_as(transport, kind, guest, mac).await
    }

    async fn attach_as(
        &self,
        transport: LinkTransport,
        kind: &'static str,
        guest: Option<GuestName>,
        mac: Option<MacAddress>,
    ) -> Result<(LinkId, oneshot::Receiver<LinkEnd>), Failure> {
        let (reply, answer) = oneshot::channel();
        let link = NewLink {
            transport,
            guest: guest.clone(),
            mac,
        };
        self.command(Command::AttachLink { link, reply })?;
        let refused = || {
            Failure::internal(format!(
                "network {} cannot use this link descriptor",
                self.name
            ))
            .with_hint("netd's log says what the kernel answered")
        };
        let link = answer.await.ok().flatten().ok_or_else(refused)?;
        let (told, end) = oneshot::channel();
        let mut links = lock(&self.links);
        if let Some(place) = links
            .early_ends
            .iter()
            .position(|(ended, _)| *ended == link)
        {
            if let Some((_, how)) = links.early_ends.remove(place) {
                told.send(how).ok();
            }
        } else {
            links.waiting.insert(link, told);
            links.records.insert(
                link,
                LinkRecord {
                    guest,
                    transport: kind,
                },
            );
        }
        Ok((link, end))
    }

    /// Gives the host's own tap to the packet thread. Neither its Ethernet address nor its IPv4 address is a
    /// guest's to take.
    ///
    /// # Errors
    /// As [`RunningNetwork::attach`].
    pub async fn attach_host(
        &self,
        transport: LinkTransport,
        mac: MacAddress,
    ) -> Result<oneshot::Receiver<LinkEnd>, Failure> {
        if let Some(address) = self.config().host_tap {
            self.with_services(move |gateway| gateway.set_host(address, mac))
                .await?;
        }
        let (_, end) = self
            .attach_as(transport, "host-tap", None, Some(mac))
            .await?;
        Ok(end)
    }

    /// Unplugs every link of a guest; how many there were.
    ///
    /// # Errors
    /// When the packet thread is gone.
    pub fn detach_guest(&self, guest: &GuestName) -> Result<usize, Failure> {
        let links: Vec<LinkId> = lock(&self.links)
            .records
            .iter()
            .filter(|(_, record)| record.guest.as_ref() == Some(guest))
            .map(|(link, _)| *link)
            .collect();
        for link in &links {
            self.command(Command::DetachLink(*link))?;
        }
        Ok(links.len())
    }

    /// Unplugs the links of a kind that is the daemon's own.
    pub fn detach_kind(&self, kind: &str) {
        let links = self.links();
        for (link, _) in links.iter().filter(|(_, record)| record.transport == kind) {
            // An error says that the packet thread is gone, and the link with it.
            self.command(Command::DetachLink(*link)).ok();
        }
    }

    /// Counters and links of now.
    ///
    /// # Errors
    /// When the packet thread is gone.
    pub async fn snapshot(&self) -> Result<Snapshot, Failure> {
        let (reply, answer) = oneshot::channel();
        self.command(Command::Snapshot(reply))?;
        answer.await.map_err(|_| self.gone())
    }

    /// What the guests' published ports answer.
    ///
    /// # Errors
    /// When the packet thread is gone.
    pub async fn guest_answers(&self) -> Result<HashMap<PublishId, GuestAnswer>, Failure> {
        let (reply, answer) = oneshot::channel();
        self.command(Command::GuestAnswers(reply))?;
        answer.await.map_err(|_| self.gone())
    }

    /// Flows of now, those that carried most first.
    ///
    /// # Errors
    /// When the packet thread is gone.
    pub async fn flows(
        &self,
        guest: Option<GuestName>,
        limit: usize,
    ) -> Result<Vec<FlowSnapshot>, Failure> {
        let (reply, answer) = oneshot::channel();
        self.command(Command::Flows {
            guest,
            limit,
            reply,
        })?;
        answer.await.map_err(|_| self.gone())
    }

    /// What would become of a guest's flow.
    ///
    /// # Errors
    /// When the packet thread is gone.
    pub async fn check(
        &self,
        guest: GuestName,
        question: FlowQuestion,
    ) -> Result<Checked, Failure> {
        let (reply, answer) = oneshot::channel();
        self.command(Command::Check {
            guest,
            question,
            reply,
        })?;
        answer.await.map_err(|_| self.gone())
    }

    /// Asks who has an address; gives when somebody was heard there last.
    ///
    /// # Errors
    /// When the packet thread is gone.
    pub async fn seek(&self, address: IpAddr) -> Result<Option<Instant>, Failure> {
        let (reply, answer) = oneshot::channel();
        self.command(Command::Seek { address, reply })?;
        answer.await.map_err(|_| self.gone())
    }

    /// Leases and addresses of now.
    ///
    /// # Errors
    /// When the packet thread is gone.
    pub async fn services(&self) -> Result<ServicesView, Failure> {
        self.with_services(|gateway| {
            let server = gateway.dhcp_server();
            let bound = server
                .table()
                .leases()
                .filter(|(_, lease)| lease.state == LeaseState::Bound);
            let given = bound.map(|(address, lease)| LeaseView {
                address,
                mac: lease.client.mac,
                guest: lease.guest.clone(),
                host_name: lease.host_name.clone(),
                until: lease.until,
            });
            let stations = gateway.observed().stations();
            let seen = stations.map(|(mac, station)| LeaseView {
                address: station.address,
                mac,
                guest: station.guest.clone(),
                host_name: station.host_name.clone(),
                until: station.until,
            });
            ServicesView {
                leases: given.chain(seen).collect(),
                ipv6: gateway.ipv6_leases(),
                full_links: server.table().full_links(),
                counts: server.table().counts(),
                dhcp: server.counters(),
                dhcp6: gateway.dhcp6_server().counters(),
                guests: gateway.guest_addresses(),
            }
        })
        .await
    }

    /// Links whose stations have all addresses that one link may have, for people.
    pub async fn full_links(&self) -> Vec<String> {
        let full = self.services().await.unwrap_or_default().full_links;
        let links = self.links();
        let told = full.iter().filter_map(|(link, held)| {
            let owner = match &links.get(link)?.guest {
                Some(guest) => format!("guest {guest}"),
                None => format!("link {}", link.0),
            };
            Some(format!(
                "{}: stations behind {owner} hold {held} addresses of the DHCP pool, as many as are left for \
                 all others; further ones get none (hint: a subnet with a shorter prefix has a larger pool)",
                self.name
            ))
        });
        told.collect()
    }

    async fn with_services<T: Send + 'static>(
        &self,
        call: impl FnOnce(&mut Gateway) -> T + Send + 'static,
    ) -> Result<T, Failure> {
        let (reply, answer) = oneshot::channel();
        let call = ServicesCall(Box::new(move |services| {
            if let Some(gateway) = services.as_any_mut().downcast_mut::<Gateway>() {
                // The asker may have given up.
                reply.send(call(gateway)).ok();
            }
        }));
        self.command(Command::Services(call))?;
        answer.await.map_err(|_| self.gone())
    }

    /// Hands a command to the packet thread.
    ///
    /// # Errors
    /// When it is gone, or has a thousand commands waiting.
    pub fn command(&self, command: Command) -> Result<(), Failure> {
        self.handle
            .send(command)
            .map_err(|error| Failure::internal(format!("network {}: {error}", self.name)))
    }

    fn gone(&self) -> Failure {
        Failure::internal(format!("the packet thread of {} has ended", self.name))
            .with_hint("restart netd; its log says why")
    }

    /// Ends the packet thread and waits for it.
    pub async fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
        self.command(Command::Shutdown).ok();
        let handle = self.handle.clone();
        tokio::task::spawn_blocking(move || handle.join())
            .await
            .ok();
    }

    /// Handles the packet thread's news until it ends; `true` if it was told to.
    pub async fn run(
        self: Arc<Self>,
        mut inbox: mpsc::Receiver<Notice>,
        events: EventLog,
        moved: mpsc::Sender<Moved>,
    ) -> bool {
        while let Some(notice) = inbox.recv().await {
            match notice {
                Notice::LinkUp { link, guest } => self.link_up(link, guest, &events),
                Notice::LinkDown { link, guest, end } => self.link_down(link, guest, end, &events),
                Notice::MacLearned { mac, link, .. } => {
                    tracing::debug!(network = %self.name, link = link.0, %mac, "station seen");
                }
                Notice::Lease(event) => self.lease(event, &events, &moved).await,
                Notice::DnsQuery { token, payload, .. } => {
                    let network = Arc::clone(&self);
                    tokio::spawn(async move {
                        let answer = network.names.answer(&payload, Transport::Udp).await;
                        if let Some(payload) = answer {
                            network.command(Command::DnsAnswer { token, payload }).ok();
                        }
                    });
                }
                Notice::ServiceStream {
                    port: 53,
                    stream,
                    guest,
                    ..
                } => {
                    // Dropping the stream tells the guest "no more": it tries again later.
                    let Ok(place) = Arc::clone(&self.dns_streams).try_acquire_owned() else {
                        continue;
                    };
                    let network = Arc::clone(&self);
                    tokio::spawn(async move {
                        let policy = NamePolicy {
                            network: Arc::clone(&network),
                            guest,
                        };
                        if let Err(error) = dns_tcp::serve(stream, &network.names, &policy).await {
                            tracing::debug!(%error, "DNS connection ended");
                        }
                        drop(place);
                    });
                }
                Notice::ServiceStream { port, .. } => {
                    tracing::debug!(port, "no such service on the gateway");
                }
                Notice::Refused {
                    guest,
                    protocol,
                    destination,
                    reason,
                    more,
                } => {
                    tracing::debug!(network = %self.name, protocol, %destination, %reason, more, "flow refused");
                    let Ok(protocol) = protocol.parse::<FlowProtocol>() else {
                        continue;
                    };
                    events.publish(EventBody::FlowRefused {
                        network: self.name.clone(),
                        guest,
                        protocol,
                        destination: match protocol {
                            FlowProtocol::Icmp => destination.ip().to_string(),
                            FlowProtocol::Tcp | FlowProtocol::Udp => destination.to_string(),
                        },
                        reason: reason.into_owned(),
                        more,
                    });
                }
                Notice::Limited { guest, dropped } => {
                    events.publish(EventBody::GuestLimited {
                        network: self.name.clone(),
                        guest,
                        dropped,
                    });
                }
                Notice::HostLimit { message, hint } => {
                    let text = match hint {
                        Some(hint) => format!("{message} (hint: {hint})"),
                        None => message,
                    };
                    tracing::warn!(network = %self.name, "{text}");
                    lock(&self.problems).push(text);
                }
            }
        }
        self.stopping.load(Ordering::Relaxed)
    }

    fn link_up(&self, link: LinkId, guest: Option<GuestName>, events: &EventLog) {
        let transport = lock(&self.links)
            .records
            .get(&link)
            .map_or("stream", |record| record.transport);
        tracing::debug!(network = %self.name, link = link.0, "guest plugged in");
        events.publish(EventBody::LinkUp {
            network: self.name.clone(),
            guest,
            link: link.0,
            transport: transport.to_owned(),
        });
    }

    fn link_down(&self, link: LinkId, guest: Option<GuestName>, end: LinkEnd, events: &EventLog) {
        let reason = match &end {
            LinkEnd::Detached => "detached".to_owned(),
            LinkEnd::Closed => "closed by the other end".to_owned(),
            LinkEnd::Garbage(what) => format!("not frames: {what}"),
            LinkEnd::Failed(what) => format!("failed: {what}"),
        };
        tracing::debug!(network = %self.name, link = link.0, reason, "guest unplugged");
        let mut links = lock(&self.links);
        links.records.remove(&link);
        match links.waiting.remove(&link) {
            Some(told) => {
                // Nobody may wait any more.
                told.send(end).ok();
            }
            None => {
                if links.early_ends.len() == MOST_EARLY_ENDS {
                    links.early_ends.pop_front();
                }
                links.early_ends.push_back((link, end));
            }
        }
        drop(links);
        events.publish(EventBody::LinkDown {
            network: self.name.clone(),
            guest,
            link: link.0,
            reason,
        });
    }

    async fn lease(&self, event: LeaseEvent, events: &EventLog, moved: &mpsc::Sender<Moved>) {
        let network = self.name.clone();
        let bound = |mac, address: IpAddr, guest, client_name, until, renewed: bool| {
            tracing::debug!(%network, %mac, %address, renewed, "lease bound");
            events.publish(EventBody::LeaseBound {
                network: network.clone(),
                mac,
                address,
                guest,
                client_name,
                until: timestamp(ClockPair::read().wall_of(until)),
            });
        };
        let ended = |mac, address: IpAddr, guest, reason: &str| {
            tracing::debug!(%network, %mac, %address, reason, "lease ended");
            events.publish(EventBody::LeaseEnded {
                network: network.clone(),
                mac,
                address,
                guest,
                reason: reason.to_owned(),
            });
        };
        // Hosts files have the IPv4 side.
        let names_changed = match event {
            LeaseEvent::Bound {
                mac,
                address,
                guest,
                host_name,
                until,
                renewed,
            } => {
                if let Some(guest) = guest.clone() {
                    moved.send(Moved { guest, address }).await.ok();
                }
                bound(mac, address.into(), guest, host_name, until, renewed);
                !renewed
            }
            LeaseEvent::Ended {
                mac,
                address,
                guest,
                reason,
            } => {
                ended(mac, address.into(), guest, reason);
                true
            }
            LeaseEvent::Ipv6Bound {
                mac,
                address,
                guest,
                until,
                renewed,
            } => {
                bound(mac, address.into(), guest, None, until, renewed);
                false
            }
            LeaseEvent::Ipv6Ended {
                mac,
                address,
                guest,
                reason,
            } => {
                ended(mac, address.into(), guest, reason);
                false
            }
        };
        if names_changed {
            events.publish(EventBody::NamesChanged { network });
        }
    }
}

/// The values behind these locks are whole at every moment, so a panic elsewhere does not spoil them.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
