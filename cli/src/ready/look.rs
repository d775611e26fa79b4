//! What the daemons say, and what of a wish is missing in it. Asking is apart from judging: [`Facts::missing`] is
//! pure, so that every answer of theirs can be tried.

use std::collections::BTreeMap;
use std::time::Duration;

use control::api::{
    DaemonStatus, GuestAnswer, GuestMountStatus, GuestPresence, PortLead, PortStatus, ShareStatus,
};
use control::failure::FailureKind;
use control::names::GuestName;
use control::paths::Daemon;
use control::port::{PortSpec, Protocol};
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use super::{Missing, Wish};
use crate::context::Context;
use crate::output::comma_list;

/// For one answer, though the time is over: the last look is an honest one.
const LEAST: Duration = Duration::from_secs(2);
/// For one answer, though there is time.
const MOST: Duration = Duration::from_secs(5);

/// An answer, or why there is none.
type Told<T> = Result<T, String>;

/// What was asked for; nothing else is filled in.
#[derive(Debug, Default)]
pub(super) struct Facts {
    daemons: BTreeMap<Daemon, Told<DaemonStatus>>,
    guests: BTreeMap<GuestName, Told<GuestPresence>>,
    ports: Option<Told<Vec<PortStatus>>>,
    shares: Option<Told<Vec<ShareStatus>>>,
    mounts: Option<Told<Vec<GuestMountStatus>>>,
}

impl Facts {
    /// Asks for all that the wishes are about, each thing once.
    pub(super) async fn gather(context: &Context, wishes: &[Wish], left: Duration) -> Self {
        let until = Instant::now() + left;
        let mut facts = Self::default();
        for wish in wishes {
            let limit = until
                .saturating_duration_since(Instant::now())
                .clamp(LEAST, MOST);
            match wish {
                Wish::Daemons => {
                    let status = |daemon| ask(context, daemon, "/v1/status", limit);
                    let all = Daemon::ALL.map(status);
                    let told = futures_util::future::join_all(all).await;
                    facts.daemons.extend(Daemon::ALL.into_iter().zip(told));
                }
                Wish::Guest(name) => {
                    let path = format!("/v1/guests/{name}/presence");
                    let presence = ask(context, Daemon::Netd, &path, limit).await;
                    facts.guests.insert(name.clone(), presence);
                }
                Wish::Port(..) | Wish::Spec(..) | Wish::Bound(..) => {
                    if facts.ports.is_none() {
                        facts.ports = Some(ask(context, Daemon::Netd, "/v1/ports", limit).await);
                    }
                }
                Wish::Share(..) | Wish::ShareOnHost(_) => {
                    if facts.shares.is_none() {
                        let shares = ask(context, Daemon::Sharefs, "/v1/shares", limit).await;
                        facts.shares = Some(shares);
                    }
                }
                Wish::GuestFolder(..) => {
                    if facts.mounts.is_none() {
                        let path = "/v1/guest-mounts";
                        facts.mounts = Some(ask(context, Daemon::Sharefs, path, limit).await);
                    }
                }
            }
        }
        facts
    }

    /// What of this wish is not there; nothing when it has come true.
    pub(super) fn missing(&self, wish: &Wish) -> Vec<Missing> {
        match wish {
            Wish::Daemons => {
                let down = self.daemons.iter().filter_map(|(daemon, status)| {
                    let why = status.as_ref().err()?.clone();
                    let next = mending(*daemon, &why);
                    Some(lacking("daemons".to_owned(), why, next))
                });
                down.collect()
            }
            Wish::Guest(name) => self.guest(name).into_iter().collect(),
            Wish::Port(guest, port) => {
                let found = |status: &PortStatus| {
                    let leads = status.leads.iter();
                    let same = |lead: &PortLead| lead.host == Some(*port);
                    leads.filter(|lead| same(lead)).cloned().collect()
                };
                let missing = self.port(guest, &format!("{guest}/{port}"), found);
                missing.into_iter().collect()
            }
            Wish::Spec(guest, spec) => {
                let found = |status: &PortStatus| match status.spec == *spec {
                    true => status.leads.clone(),
                    false => Vec::new(),
                };
                let missing = self.port(guest, &format!("{guest}/{spec}"), found);
                missing.into_iter().collect()
            }
            Wish::Bound(guest, spec) => self.bound(guest, spec).into_iter().collect(),
            Wish::Share(name, guests) => {
                let what = format!("share {name}");
                let next = self.about_share(name.as_str());
                let missing = |why| vec![lacking(what.clone(), why, next.clone())];
                match self.share(name.as_str()) {
                    Ok(share) => unready(share, guests).map_or_else(Vec::new, missing),
                    Err(why) => missing(why),
                }
            }
            Wish::ShareOnHost(name) => {
                let why = self.share(name.as_str()).and_then(on_host);
                let next = self.about_share(name.as_str());
                let missing = why
                    .err()
                    .map(|why| lacking(format!("share {name}"), why, next));
                missing.into_iter().collect()
            }
            Wish::GuestFolder(guest, at) => {
                let what = format!("folder of guest {guest} at {}", at.display());
                let why = match &self.mounts {
                    Some(Ok(mounts)) => match mounts.iter().find(|mount| mount.mount.at == *at) {
                        Some(mount) if mount.mounted => return Vec::new(),
                        Some(mount) => problem_or(mount.problem.as_deref(), "not mounted yet"),
                        None => "sharefs knows of none".to_owned(),
                    },
                    Some(Err(why)) => why.clone(),
                    None => "sharefs was not asked".to_owned(),
                };
                vec![lacking(what, why, "sharectl logs sharefs".to_owned())]
            }
        }
    }

    fn guest(&self, name: &GuestName) -> Option<Missing> {
        let what = format!("guest {name}");
        let describe = format!("sharectl describe {name}");
        let (why, next) = match self.guests.get(name) {
            Some(Ok(there)) if there.answers => return None,
            Some(Ok(there)) if !there.plugged => (
                "not plugged in".to_owned(),
                format!("start its VM: sharectl guest run {name} -- COMMAND"),
            ),
            Some(Ok(there)) => match there.address {
                Some(address) => (
                    format!("plugged in, but nothing answers at {address}"),
                    "in the guest, is the network up? Its DHCP client must have run".to_owned(),
                ),
                None => ("plugged in, but has no address yet".to_owned(), describe),
            },
            Some(Err(why)) => (why.clone(), mending(Daemon::Netd, why)),
            None => ("netd was not asked".to_owned(), describe),
        };
        Some(lacking(what, why, next))
    }

    fn port(
        &self,
        guest: &GuestName,
        name: &str,
        found: impl Fn(&PortStatus) -> Vec<PortLead>,
    ) -> Option<Missing> {
        let what = format!("port {name}");
        let all = match &self.ports {
            Some(Ok(all)) => all,
            Some(Err(why)) => {
                return Some(lacking(what, why.clone(), mending(Daemon::Netd, why)));
            }
            None => {
                return Some(lacking(
                    what,
                    "netd was not asked".to_owned(),
                    String::new(),
                ));
            }
        };
        let of_guest: Vec<&PortStatus> = all.iter().filter(|port| port.guest == *guest).collect();
        let published = of_guest.iter().map(|status| (*status, found(status)));
        let Some((status, leads)) = published.into_iter().find(|(_, leads)| !leads.is_empty())
        else {
            let specs = match of_guest.is_empty() {
                true => "nothing".to_owned(),
                false => comma_list(of_guest.iter().map(|status| &status.spec)),
            };
            let next = format!("sharectl port publish {guest} HOST:GUEST");
            return Some(lacking(
                what,
                format!("guest {guest} publishes {specs}"),
                next,
            ));
        };
        let host = leads.iter().find_map(|lead| lead.host);
        let next = host.map_or_else(
            || "sharectl port ls".to_owned(),
            |host| format!("sharectl port explain {host}/{}", status.spec.protocol),
        );
        let why = match status.problems.first() {
            Some(problem) => problem.clone(),
            None => leads.iter().find_map(|lead| silent(status, lead))?,
        };
        Some(lacking(what, why, next))
    }

    fn bound(&self, guest: &GuestName, spec: &PortSpec) -> Option<Missing> {
        let (what, next) = (
            format!("port {guest}/{spec}"),
            "sharectl port ls".to_owned(),
        );
        let why = match &self.ports {
            Some(Ok(all)) => {
                let same = |port: &&PortStatus| port.guest == *guest && port.spec == *spec;
                match all.iter().find(same) {
                    Some(port) => match port.problems.first() {
                        Some(problem) => problem.clone(),
                        None if port.listening.is_empty() => "not bound yet".to_owned(),
                        None => return None,
                    },
                    None => "netd does not publish it".to_owned(),
                }
            }
            Some(Err(why)) => why.clone(),
            None => "netd was not asked".to_owned(),
        };
        Some(lacking(what, why, next))
    }

    /// What to look at when a share is not there.
    fn about_share(&self, name: &str) -> String {
        match &self.shares {
            Some(Err(why)) => mending(Daemon::Sharefs, why),
            Some(Ok(_)) | None => format!("sharectl describe {name}"),
        }
    }

    fn share(&self, name: &str) -> Told<&ShareStatus> {
        match &self.shares {
            Some(Ok(all)) => {
                let found = all.iter().find(|share| share.name.as_str() == name);
                found.ok_or_else(|| "sharefs does not serve it".to_owned())
            }
            Some(Err(why)) => Err(why.clone()),
            None => Err("sharefs was not asked".to_owned()),
        }
    }
}

/// Why a port of the guest does not take connections.
fn silent(status: &PortStatus, lead: &PortLead) -> Option<String> {
    let (port, protocol) = (lead.guest, status.spec.protocol);
    match lead.answers {
        GuestAnswer::Serves => None,
        // UDP never says; what can be known is that the host listens.
        GuestAnswer::Unknown if protocol == Protocol::Udp && !status.listening.is_empty() => None,
        GuestAnswer::Unknown => Some(format!("it is not known yet whether port {port} answers")),
        GuestAnswer::Refuses => Some(format!("nothing listens on port {port} in the guest")),
        GuestAnswer::Silent => Some(format!("port {port} of the guest does not answer")),
        GuestAnswer::Absent => Some("the guest is not there, or has no address".to_owned()),
    }
}

fn unready(share: &ShareStatus, guests: &[GuestName]) -> Option<String> {
    if let Some(problem) = &share.problem {
        return Some(problem.clone());
    }
    if share.mount.is_some()
        && let Err(why) = on_host(share)
    {
        return Some(why);
    }
    let mounted = |guest: Option<&GuestName>| {
        let devices = share.devices.iter().filter(|device| device.mounted);
        let by_device = devices.map(|device| &device.guest);
        let mut who = by_device.chain(&share.ninep_guests);
        who.any(|other| guest.is_none_or(|guest| other == guest))
    };
    if guests.is_empty() {
        let somewhere = share.mount.is_some() || mounted(None);
        return (!somewhere).then(|| "no guest has mounted it".to_owned());
    }
    let without = guests.iter().find(|guest| !mounted(Some(guest)));
    without.map(|guest| format!("guest {guest} has not mounted it"))
}

fn on_host(share: &ShareStatus) -> Told<()> {
    match &share.mount {
        Some(mount) if mount.mounted => Ok(()),
        Some(mount) => {
            let why = problem_or(mount.problem.as_deref(), "not mounted yet");
            Err(format!("{}: {why}", mount.path.display()))
        }
        None => Err("it is not to be mounted on the host".to_owned()),
    }
}

fn problem_or(problem: Option<&str>, otherwise: &str) -> String {
    problem.unwrap_or(otherwise).to_owned()
}

/// What helps against a daemon that gives no answer: one that is hung goes on running at `up`.
fn mending(daemon: Daemon, why: &str) -> String {
    if why == hung(daemon) {
        format!(
            "sharectl restart {daemon}; why it hangs: sharectl doctor daemon, and sharectl logs {daemon}"
        )
    } else {
        format!("sharectl up, and sharectl logs {daemon}")
    }
}

fn hung(daemon: Daemon) -> String {
    format!("{daemon} does not answer")
}

fn lacking(what: String, why: String, next: String) -> Missing {
    Missing { what, why, next }
}

async fn ask<T: DeserializeOwned>(
    context: &Context,
    daemon: Daemon,
    path: &str,
    limit: Duration,
) -> Told<T> {
    let client = context.client(daemon);
    match tokio::time::timeout(limit, client.get(path)).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(failure)) if failure.kind == FailureKind::NotRunning => {
            Err(format!("{daemon} is not running"))
        }
        Ok(Err(failure)) => Err(failure.message),
        Err(_) => Err(hung(daemon)),
    }
}

#[cfg(test)]
mod tests;
