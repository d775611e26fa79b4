//! Published ports: which entry of the configuration, or of a control client, listens where.
//!
//! One entry (guest, spec) is one or more pairs of ports, all or none of them. An entry that fails is kept
//! with its reason, so that the status shows it and a reload tries it again; the others are not touched.
//! Binding happens in a blocking thread, serving in the packet thread.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use control::api::{GuestAnswer, PortLead, PortStatus};
use control::config::Guest;
use control::events::{EventBody, EventLog};
use control::failure::{Failure, FailureKind};
use control::mac::fnv1a;
use control::names::GuestName;
use control::paths::Paths;
use control::port::{Endpoint, HostPorts, HostSide, PortRange, PortSpec, Protocol};
use tokio::sync::oneshot;

use crate::datapath::{Command, NewPublish, PublishId};
use crate::io::publish::{self, BindRequest, PublishError, WantedPort};
use crate::services::network::RunningNetwork;

#[derive(Debug)]
struct Entry {
    network: Arc<RunningNetwork>,
    /// One for each port of the guest, in order.
    published: Vec<Lead>,
    listening: Vec<Endpoint>,
    /// Where it does not listen, and why.
    problems: Vec<String>,
    /// The configuration names it; else it ends with the daemon.
    configured: bool,
    failed: bool,
}

#[derive(Clone, Copy, Debug)]
struct Lead {
    id: PublishId,
    host: Option<u16>,
    guest: u16,
}

/// The ports of a guest that the configuration wants led to: those that it names, and a unix socket for each port
/// that a folder of the guest is mounted from (sharefs connects there; it is open while the guest's own port is).
pub fn wanted_ports<'g>(guest: &'g Guest, paths: &Paths) -> impl Iterator<Item = PortSpec> + 'g {
    let folder = paths.clone();
    let of_mounts = guest.mount_ports().into_iter().map(move |port| PortSpec {
        host: HostSide::Unix(folder.guest_port_socket(&guest.name, port)),
        guest: PortRange {
            first: port,
            last: port,
        },
        protocol: Protocol::Tcp,
    });
    guest.publish.iter().cloned().chain(of_mounts)
}

/// All published ports of the daemon.
#[derive(Debug)]
pub struct PortTable {
    entries: BTreeMap<(GuestName, PortSpec), Entry>,
    events: EventLog,
}

/// Who asks for a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The file.
    Configuration,
    /// A control client.
    Request,
}

impl PortTable {
    /// No ports.
    #[must_use]
    pub fn new(events: EventLog) -> Self {
        Self {
            entries: BTreeMap::new(),
            events,
        }
    }

    /// Publishes an entry; publishing what is published changes nothing.
    ///
    /// # Errors
    /// Why no port of it is published. For [`Origin::Configuration`] the entry stays with that reason.
    pub async fn publish(
        &mut self,
        network: &Arc<RunningNetwork>,
        guest: &Guest,
        spec: &PortSpec,
        address: Option<Ipv4Addr>,
        origin: Origin,
    ) -> Result<PortStatus, Failure> {
        let key = (guest.name.clone(), spec.clone());
        let configured = origin == Origin::Configuration;
        if let Some(entry) = self.entries.get_mut(&key).filter(|entry| !entry.failed) {
            entry.configured |= configured;
            return Ok(status(&key, entry, &HashMap::new()));
        }
        let mut entry = Entry {
            network: Arc::clone(network),
            published: Vec::new(),
            listening: Vec::new(),
            problems: Vec::new(),
            configured,
            failed: false,
        };
        let outcome = self.bind_all(&mut entry, guest, spec, address).await;
        let answer = match outcome {
            Ok(()) => {
                first_answer(&entry, guest).await;
                self.events.publish(EventBody::PortPublished {
                    guest: guest.name.clone(),
                    spec: spec.to_string(),
                    listening: entry.listening.iter().map(ToString::to_string).collect(),
                });
                Ok(status(&key, &entry, &HashMap::new()))
            }
            Err(failure) => {
                withdraw(&mut entry);
                entry.failed = true;
                entry.problems = vec![match &failure.hint {
                    Some(hint) => format!("{} (hint: {hint})", failure.message),
                    None => failure.message.clone(),
                }];
                self.events.publish(EventBody::PortFailed {
                    guest: guest.name.clone(),
                    spec: spec.to_string(),
                    message: failure.message.clone(),
                });
                Err(failure)
            }
        };
        // A client's failed wish is answered and forgotten, unless the file wishes the same.
        let keep =
            !entry.failed || configured || self.entries.get(&key).is_some_and(|e| e.configured);
        if keep {
            entry.configured |= self.entries.get(&key).is_some_and(|e| e.configured);
            self.entries.insert(key, entry);
        }
        answer
    }

    /// Takes an entry back; `false` when there is none.
    pub fn remove(&mut self, guest: &GuestName, spec: &PortSpec) -> bool {
        let Some(mut entry) = self.entries.remove(&(guest.clone(), spec.clone())) else {
            return false;
        };
        withdraw(&mut entry);
        if !entry.failed {
            self.events.publish(EventBody::PortRemoved {
                guest: guest.clone(),
                spec: spec.to_string(),
            });
        }
        true
    }

    /// Takes back entries of the configuration that `wanted` does not want any more, and every entry of a
    /// network that has ended; returns one sentence each.
    pub fn retain(
        &mut self,
        wanted: impl Fn(&GuestName, &PortSpec) -> bool,
        runs: impl Fn(&Arc<RunningNetwork>) -> bool,
    ) -> Vec<String> {
        let gone: Vec<_> = self
            .entries
            .iter()
            .filter(|((guest, spec), entry)| {
                (entry.configured && !wanted(guest, spec)) || !runs(&entry.network)
            })
            .map(|(key, _)| key.clone())
            .collect();
        for (guest, spec) in &gone {
            self.remove(guest, spec);
        }
        gone.iter()
            .map(|(guest, spec)| format!("port {spec} of {guest} is no longer published"))
            .collect()
    }

    /// Whether an entry is published now.
    #[must_use]
    pub fn is_published(&self, guest: &GuestName, spec: &PortSpec) -> bool {
        let entry = self.entries.get(&(guest.clone(), spec.clone()));
        entry.is_some_and(|entry| !entry.failed)
    }

    /// A guest is at another address now.
    pub fn retarget(&self, guest: &GuestName, address: Ipv4Addr) {
        for (_, entry) in self.entries.iter().filter(|((of, _), _)| of == guest) {
            for lead in &entry.published {
                let command = Command::Retarget {
                    id: lead.id,
                    address: Some(address.into()),
                };
                if let Err(error) = entry.network.command(command) {
                    tracing::warn!(%error, "a published port still leads to the guest's old address");
                }
            }
        }
    }

    /// Everything there is, by guest.
    pub async fn list(&self) -> Vec<PortStatus> {
        let mut found = Vec::new();
        let mut networks: Vec<(Arc<RunningNetwork>, HashMap<PublishId, GuestAnswer>)> = Vec::new();
        for (key, entry) in &self.entries {
            let known = networks
                .iter()
                .position(|(network, _)| Arc::ptr_eq(network, &entry.network));
            let place = known.unwrap_or_else(|| {
                networks.push((Arc::clone(&entry.network), HashMap::new()));
                networks.len() - 1
            });
            if known.is_none() {
                // A network that has ended has no answers.
                networks[place].1 = entry.network.guest_answers().await.unwrap_or_default();
            }
            found.push(status(key, entry, &networks[place].1));
        }
        found
    }

    /// What is wrong with entries that should be and are not.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let mut found = Vec::new();
        for ((guest, spec), entry) in &self.entries {
            let failed = entry.problems.iter().filter(|_| entry.failed).cloned();
            let told = failed.chain(absent(entry));
            found.extend(told.map(|problem| format!("port {spec} of {guest}: {problem}")));
        }
        found
    }

    async fn bind_all(
        &self,
        entry: &mut Entry,
        guest: &Guest,
        spec: &PortSpec,
        address: Option<Ipv4Addr>,
    ) -> Result<(), Failure> {
        for (host, guest_port) in spec.pairs() {
            let request = wish(guest, spec, host, guest_port);
            let bound = tokio::task::spawn_blocking(move || publish::bind(&request))
                .await
                .map_err(|_| Failure::internal("binding the port ended by a panic"))?
                .map_err(|error| self.explain(&error))?;
            for reason in &bound.skipped {
                entry.problems.push(self.explain(reason).message);
            }
            let listening = bound.sockets.iter().map(|socket| socket.endpoint().clone());
            let listening: Vec<Endpoint> = listening.collect();
            let host = match listening.first() {
                Some(Endpoint::Address(address)) => Some(address.port()),
                Some(Endpoint::Unix(_)) | None => None,
            };
            entry.listening.extend(listening);
            let (reply, answer) = oneshot::channel();
            let publish = NewPublish {
                protocol: spec.protocol,
                guest: guest.name.clone(),
                address: address.map(Into::into),
                port: guest_port,
                sockets: bound,
            };
            entry.network.command(Command::Publish { publish, reply })?;
            let id = answer
                .await
                .map_err(|_| Failure::internal("the packet thread has ended"))?;
            entry.published.push(Lead {
                id,
                host,
                guest: guest_port,
            });
        }
        Ok(())
    }

    /// The owner of a taken port in the user's words: a guest of ours, else the process.
    fn explain(&self, error: &PublishError) -> Failure {
        match error {
            PublishError::InUse {
                address,
                protocol,
                owner,
            } => {
                let taken = |endpoint: &Endpoint| match endpoint {
                    Endpoint::Address(held) => {
                        held.port() == address.port()
                            && held.is_ipv4() == address.is_ipv4()
                            && (held.ip() == address.ip()
                                || held.ip().is_unspecified()
                                || address.ip().is_unspecified())
                    }
                    Endpoint::Unix(_) => false,
                };
                let ours = self.entries.iter().find(|((_, spec), entry)| {
                    spec.protocol == *protocol && entry.listening.iter().any(taken)
                });
                if let Some(((guest, spec), _)) = ours {
                    return Failure::conflict(format!(
                        "cannot bind {protocol} {address}: guest {guest} has it already (published as {spec})"
                    ))
                    .with_hint(format!(
                        "sharectl port unpublish {guest} {spec}, or name another host port"
                    ));
                }
                let hint = match owner.as_deref() {
                    Some(owner) if owner.process.is_none() => {
                        format!(
                            "who it is: {}; or name another host port",
                            owner.look_up(*protocol)
                        )
                    }
                    Some(owner) => match owner.stop() {
                        Some(stop) => format!("stop it ({stop}), or name another host port"),
                        None => "stop it, or name another host port".to_owned(),
                    },
                    None => {
                        "stop the program that has the port, or name another host port".to_owned()
                    }
                };
                Failure::conflict(error.to_string()).with_hint(hint)
            }
            PublishError::Forbidden { address, .. } => {
                Failure::new(FailureKind::Forbidden, error.to_string())
                    .with_hint(low_port_hint(address.port()))
            }
            PublishError::NoneFree { .. } => {
                Failure::conflict(error.to_string()).with_hint("name a host port that is free")
            }
            PublishError::PathTaken { path, .. } => Failure::conflict(error.to_string()).with_hint(
                format!("stop what uses it, or remove it: rm {}", path.display()),
            ),
            PublishError::Path { path, .. } => {
                let folder = path.parent().unwrap_or(path);
                Failure::invalid(error.to_string()).with_hint(format!(
                    "the folder must be there and yours: mkdir -p {}",
                    folder.display()
                ))
            }
            PublishError::Failed { .. } => Failure::internal(error.to_string()),
        }
    }
}

/// The two ways to ports below 1024, once each (ip(7), capabilities(7)).
fn low_port_hint(port: u16) -> String {
    let program = std::env::current_exe();
    let program = program.map_or_else(
        |_| "sharectl-netd".to_owned(),
        |path| path.display().to_string(),
    );
    format!(
        "allow it once: sudo sysctl net.ipv4.ip_unprivileged_port_start={port}, or sudo setcap cap_net_bind_service=+ep {program}; or name a host port from 1024 up"
    )
}

/// What to bind for one pair of ports.
fn wish(guest: &Guest, spec: &PortSpec, host: Option<u16>, guest_port: u16) -> BindRequest {
    let (bind, ports) = match &spec.host {
        HostSide::Unix(path) => return BindRequest::Unix(path.clone()),
        HostSide::Ports { bind, ports } => (bind, ports),
    };
    let (required, optional) = match bind {
        Some(ip) => (vec![*ip], Vec::new()),
        None => (
            vec![guest.host_address.into()],
            // `localhost` is one of these, whichever family a program tries first.
            vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
        ),
    };
    let port = match (ports, host) {
        (HostPorts::These(_), Some(port)) => WantedPort::This(port),
        (HostPorts::These(_) | HostPorts::Any, _) => {
            let wish = format!("{} {spec} {guest_port}", guest.name);
            WantedPort::Any(fnv1a(wish.as_bytes()))
        }
    };
    BindRequest::Ports {
        protocol: spec.protocol,
        required,
        optional,
        port,
    }
}

/// Where it is bound though the host has no such address now.
fn absent(entry: &Entry) -> impl Iterator<Item = String> {
    let mut addresses: Vec<IpAddr> = entry
        .listening
        .iter()
        .filter_map(|endpoint| match endpoint {
            Endpoint::Address(address) if !address.ip().is_loopback() => Some(address.ip()),
            Endpoint::Address(_) | Endpoint::Unix(_) => None,
        })
        .collect();
    addresses.dedup();
    addresses.retain(|address| !publish::host_has(*address));
    addresses.into_iter().map(|address| {
        format!(
            "the host has no address {address} now; the port works as soon as it has (ip address)"
        )
    })
}

fn status(
    (guest, spec): &(GuestName, PortSpec),
    entry: &Entry,
    answers: &HashMap<PublishId, GuestAnswer>,
) -> PortStatus {
    let mut problems = entry.problems.clone();
    problems.extend(absent(entry));
    PortStatus {
        guest: guest.clone(),
        spec: spec.clone(),
        listening: entry.listening.clone(),
        leads: entry
            .published
            .iter()
            .map(|lead| PortLead {
                host: lead.host,
                guest: lead.guest,
                answers: answers
                    .get(&lead.id)
                    .copied()
                    .unwrap_or(GuestAnswer::Unknown),
            })
            .collect(),
        problems,
    }
}

/// Waits until the guest has said whether it serves the port, so that whoever asked for it can use it at once;
/// a guest that says nothing is not waited for long.
async fn first_answer(entry: &Entry, guest: &Guest) {
    const PATIENCE: Duration = Duration::from_millis(300);
    const LOOK: Duration = Duration::from_millis(5);
    // Of a guest that is plugged in, "absent" only says that it was not found yet.
    let links = entry.network.links();
    let plugged = links
        .values()
        .any(|link| link.guest.as_ref() == Some(&guest.name));
    let open = |answer: Option<&GuestAnswer>| match answer {
        Some(GuestAnswer::Unknown) => true,
        Some(GuestAnswer::Absent) => plugged,
        Some(GuestAnswer::Serves | GuestAnswer::Refuses | GuestAnswer::Silent) | None => false,
    };
    let known = async {
        loop {
            let answers = entry.network.guest_answers().await.unwrap_or_default();
            let unknown = entry
                .published
                .iter()
                .any(|lead| open(answers.get(&lead.id)));
            if !unknown {
                return;
            }
            tokio::time::sleep(LOOK).await;
        }
    };
    tokio::time::timeout(PATIENCE, known).await.ok();
}

fn withdraw(entry: &mut Entry) {
    for lead in entry.published.drain(..) {
        // A packet thread that has ended has closed its sockets.
        entry.network.command(Command::Unpublish(lead.id)).ok();
    }
    entry.listening.clear();
}
