//! Published ports: which entry of the configuration, or of a control client, listens where.
//!
//! One entry (guest, spec) is one or more pairs of ports, all or none of them. An entry that fails is kept
//! with its reason, so that the status shows it and a reload tries it again; the others are not touched.
//! Binding happens in a blocking thread, serving in the packet thread.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use control::api::PortStatus;
use control::config::Guest;
use control::events::{EventBody, EventLog};
use control::failure::{Failure, FailureKind};
use control::names::GuestName;
use control::port::PortSpec;
use tokio::sync::oneshot;

use crate::datapath::{Command, NewPublish, PublishId};
use crate::io::publish::{self, BindRequest, PublishError};
use crate::services::network::RunningNetwork;

#[derive(Debug)]
struct Entry {
    network: Arc<RunningNetwork>,
    published: Vec<PublishId>,
    listening: Vec<SocketAddr>,
    /// Where it does not listen, and why.
    problems: Vec<String>,
    /// The configuration names it; else it ends with the daemon.
    configured: bool,
    failed: bool,
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
            return Ok(status(&key, entry));
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
                self.events.publish(EventBody::PortPublished {
                    guest: guest.name.clone(),
                    spec: spec.to_string(),
                    listening: entry.listening.iter().map(ToString::to_string).collect(),
                });
                Ok(status(&key, &entry))
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
            for id in &entry.published {
                let command = Command::Retarget {
                    id: *id,
                    address: Some(address.into()),
                };
                if let Err(error) = entry.network.command(command) {
                    tracing::warn!(%error, "a published port still leads to the guest's old address");
                }
            }
        }
    }

    /// Everything there is, by guest.
    #[must_use]
    pub fn list(&self) -> Vec<PortStatus> {
        self.entries
            .iter()
            .map(|(key, entry)| status(key, entry))
            .collect()
    }

    /// What is wrong with entries that should be and are not.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let failed = self.entries.iter().filter(|(_, entry)| entry.failed);
        failed
            .flat_map(|((guest, spec), entry)| {
                entry
                    .problems
                    .iter()
                    .map(move |problem| format!("port {spec} of {guest}: {problem}"))
            })
            .collect()
    }

    async fn bind_all(
        &self,
        entry: &mut Entry,
        guest: &Guest,
        spec: &PortSpec,
        address: Option<Ipv4Addr>,
    ) -> Result<(), Failure> {
        for (host_port, guest_port) in spec.pairs() {
            let at = |ip: IpAddr| SocketAddr::new(ip, host_port);
            let request = match spec.bind {
                Some(ip) => BindRequest {
                    protocol: spec.protocol,
                    required: vec![at(ip)],
                    optional: Vec::new(),
                },
                None => BindRequest {
                    protocol: spec.protocol,
                    required: vec![at(guest.host_address.into())],
                    optional: vec![at(Ipv4Addr::LOCALHOST.into())],
                },
            };
            let bound = tokio::task::spawn_blocking(move || publish::bind(&request))
                .await
                .map_err(|_| Failure::internal("binding the port ended by a panic"))?
                .map_err(|error| self.explain(&error))?;
            for (_, reason) in &bound.skipped {
                entry.problems.push(self.explain(reason).message);
            }
            let listening = bound.sockets.iter().map(|(_, address)| *address);
            entry.listening.extend(listening);
            let (reply, answer) = oneshot::channel();
            let publish = NewPublish {
                protocol: spec.protocol,
                address: address.map(Into::into),
                port: guest_port,
                sockets: bound,
            };
            entry.network.command(Command::Publish { publish, reply })?;
            let id = answer
                .await
                .map_err(|_| Failure::internal("the packet thread has ended"))?;
            entry.published.push(id);
        }
        Ok(())
    }

    /// The owner of a taken port in the user's words: a guest of ours, else the process.
    fn explain(&self, error: &PublishError) -> Failure {
        match error {
            PublishError::InUse { address, protocol, .. } => {
                let ours = self
                    .entries
                    .iter()
                    .find(|((_, spec), entry)| spec.protocol == *protocol && entry.listening.contains(address));
                match ours {
                    Some(((guest, spec), _)) => Failure::conflict(format!(
                        "cannot bind {protocol} {address}: guest {guest} has it already (published as {spec})"
                    ))
                    .with_hint(format!("sharectl port unpublish {guest} {spec}, or name another host port")),
                    None => Failure::conflict(error.to_string())
                        .with_hint("stop the program that has the port, or name another host port"),
                }
            }
            PublishError::Forbidden { address, .. } => Failure::new(FailureKind::Forbidden, error.to_string()).with_hint(format!(
                "name a host port from 1024 up, or allow low ports once: sysctl net.ipv4.ip_unprivileged_port_start={}",
                address.port()
            )),
            PublishError::NoSuchAddress { .. } => {
                Failure::invalid(error.to_string()).with_hint("`ip address` lists the host's addresses")
            }
            PublishError::Failed { .. } => Failure::internal(error.to_string()),
        }
    }
}

fn status((guest, spec): &(GuestName, PortSpec), entry: &Entry) -> PortStatus {
    PortStatus {
        guest: guest.clone(),
        spec: spec.clone(),
        listening: entry.listening.clone(),
        problems: entry.problems.clone(),
    }
}

fn withdraw(entry: &mut Entry) {
    for id in entry.published.drain(..) {
        // A packet thread that has ended has closed its sockets.
        entry.network.command(Command::Unpublish(id)).ok();
    }
    entry.listening.clear();
}
