//! What the daemons, the configuration and the engines say, by guest. All it looks at itself is whether a share's
//! folder is there.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use control::api::{GuestAnswer, GuestStatus, HostLine, NameOrigin, PortStatus, ShareStatus};
use control::config::{Config, NetworkKind};
use control::names::{GuestName, HostName, NetworkName, ShareName, SourceName};
use control::port::{Endpoint, PortSpec, Protocol};
use schemars::JsonSchema;
use serde::Serialize;

use super::engine::{Engine, Listed, Port};
use crate::commands::port::Publication;
use crate::commands::status::Report;

/// All that is looked at.
pub(super) struct Facts<'c> {
    pub config: &'c Config,
    /// Only these; empty: all.
    pub wanted: &'c [GuestName],
    pub report: Report,
    pub lines: Vec<HostLine>,
    pub engines: Vec<Engine>,
    /// Shares whose folder is surely not there.
    pub absent: Vec<ShareName>,
}

/// Guests with what of them is on this host.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct View {
    pub guests: Vec<GuestView>,
    /// Engines that are no guest's.
    pub engines: Vec<EngineView>,
    /// What does not work.
    pub troubles: Vec<Trouble>,
}

#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct GuestView {
    /// None for a guest that the configuration does not name.
    pub name: Option<GuestName>,
    pub network: NetworkName,
    pub state: GuestState,
    pub address: Option<Ipv4Addr>,
    pub ipv6_address: Option<Ipv6Addr>,
    /// Its own 127.x.y.z on the host.
    pub host_address: Option<Ipv4Addr>,
    pub names: Vec<NameView>,
    pub ports: Vec<PortView>,
    pub shares: Vec<ShareView>,
    /// The engine that it publishes.
    pub engine: Option<EngineView>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum GuestState {
    /// Plugged in, with an address (on a bridged network, plugged in).
    Running,
    /// Plugged in, without an address.
    NoAddress,
    /// Not plugged in.
    Off,
}

#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct NameView {
    pub name: HostName,
    pub address: IpAddr,
    /// Whether a hosts file of this host has it.
    pub written: bool,
}

#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct PortView {
    /// As it was asked for.
    pub spec: PortSpec,
    pub guest_port: u16,
    pub protocol: Protocol,
    /// What to connect to on this host; empty where nobody listens.
    pub reach: Vec<String>,
    pub answers: GuestAnswer,
}

#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct ShareView {
    pub name: ShareName,
    pub path: PathBuf,
    pub at: PathBuf,
    pub read_only: bool,
    pub state: ShareState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum ShareState {
    /// The guest has it mounted.
    Mounted,
    /// The guest's VMM has its device, and the guest has not mounted it.
    Connected,
    /// No device has it; by 9P it may be mounted all the same.
    Offered,
    /// It cannot be served.
    NotServed,
}

#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct EngineView {
    pub place: Endpoint,
    /// As in `[hosts.source.NAME]`.
    pub source: Option<SourceName>,
    pub answers: bool,
    pub containers: Vec<ContainerView>,
}

#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct ContainerView {
    pub name: String,
    pub id: String,
    pub image: String,
    /// running, exited, ...: the engine's word.
    pub state: String,
    /// The engine's sentence.
    pub status: String,
    pub names: Vec<HostName>,
    pub ports: Vec<ContainerPort>,
}

#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct ContainerPort {
    pub container_port: u16,
    pub protocol: Protocol,
    /// Where the engine publishes it, on its own machine.
    pub engine_port: u16,
    /// What to connect to on this host; empty where nothing leads there.
    pub reach: Vec<String>,
}

/// Something that does not work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct Trouble {
    /// None: not one guest's alone.
    pub guest: Option<GuestName>,
    /// What it is about.
    pub about: String,
    pub why: String,
    /// What mends it, as far as that is known.
    pub fix: Option<String>,
}

pub(super) fn join(facts: Facts<'_>) -> View {
    let Facts {
        config,
        wanted,
        report,
        lines,
        engines,
        absent,
    } = facts;
    let mut troubles: Vec<Trouble> = report
        .not_running()
        .map(|daemon| Trouble {
            guest: None,
            about: daemon.to_owned(),
            why: "is not running".to_owned(),
            fix: Some("sharectl up".to_owned()),
        })
        .collect();
    let mut engines = engines.into_iter().collect::<Vec<_>>();
    let mut guests = Vec::new();
    for status in &report.guests {
        let is_wanted = |name| wanted.contains(name);
        if !wanted.is_empty() && !status.name.as_ref().is_some_and(is_wanted) {
            continue;
        }
        let at = engines
            .iter()
            .position(|engine| engine.guest.is_some() && engine.guest == status.name);
        let engine = at.map(|at| engines.swap_remove(at));
        guests.push(guest(
            config,
            (status, engine),
            (&report, &lines, &absent),
            &mut troubles,
        ));
    }
    let rest = engines.into_iter().map(|engine| {
        let host = |port: &Port| {
            let public = port.public_port?;
            let ip = port.ip.as_deref().and_then(|ip| ip.parse().ok());
            Some(vec![on_host(
                ip.unwrap_or_else(|| Ipv4Addr::UNSPECIFIED.into()),
                public,
            )])
        };
        engine_view(engine, &lines, &mut troubles, host)
    });
    let engines = rest.collect();
    if wanted.is_empty() {
        general(&report, &mut troubles);
    }
    View {
        guests,
        engines,
        troubles,
    }
}

/// What the daemons complain of and is not told already.
fn general(report: &Report, troubles: &mut Vec<Trouble>) {
    for problem in &report.problems {
        // A daemon's own words about what stands there already by its name.
        let is_told = |told: &Trouble| {
            let word = told.about.rsplit(' ').next().unwrap_or_default();
            problem.contains(&told.why) && problem.contains(word)
        };
        if !troubles.iter().any(is_told) {
            troubles.push(Trouble {
                guest: None,
                about: "sharectl".to_owned(),
                why: problem.clone(),
                fix: None,
            });
        }
    }
}

fn guest(
    config: &Config,
    (status, engine): (&GuestStatus, Option<Engine>),
    (report, lines, absent): (&Report, &[HostLine], &[ShareName]),
    troubles: &mut Vec<Trouble>,
) -> GuestView {
    let name = &status.name;
    let is_bridged = config
        .networks
        .get(&status.network)
        .is_some_and(|network| network.kind == NetworkKind::Bridged);
    let state = match (status.links.is_empty(), status.address) {
        (true, _) => GuestState::Off,
        (false, None) if !is_bridged => GuestState::NoAddress,
        (false, _) => GuestState::Running,
    };
    let mut tell = |about: String, why: String, fix: Option<String>| {
        troubles.push(Trouble {
            guest: name.clone(),
            about,
            why,
            fix,
        });
    };
    if state == GuestState::Off
        && let Some(name) = name
    {
        tell(
            "guest".to_owned(),
            "is not plugged in".to_owned(),
            Some(format!(
                "start its VM: sharectl guest run {name} -- COMMAND"
            )),
        );
    }
    if state == GuestState::NoAddress {
        tell(
            "guest".to_owned(),
            "is plugged in and has no address".to_owned(),
            Some("in it, run its DHCP client, e.g. dhclient eth0".to_owned()),
        );
    }
    let mut names = Vec::new();
    for line in lines {
        let is_its = matches!(&line.origin, Some(NameOrigin::Guest { guest, .. }) if Some(guest) == name.as_ref());
        if !is_its {
            continue;
        }
        if let Some(why) = line.left_out.first() {
            tell(line.name.to_string(), why.clone(), line.hint.clone());
        }
        names.push(NameView {
            name: line.name.clone(),
            address: line.address,
            written: !line.written.is_empty(),
        });
    }
    let mut ports = Vec::new();
    for port in &report.ports {
        if Some(&port.guest) != name.as_ref() {
            continue;
        }
        for problem in &port.problems {
            let host = port.spec.pairs().find_map(|(host, _)| host);
            let fix = host.map_or_else(
                || "sharectl port ls".to_owned(),
                |host| format!("sharectl port explain {host}/{}", port.spec.protocol),
            );
            tell(format!("port {}", port.spec), problem.clone(), Some(fix));
        }
        for (host, inside) in port.spec.pairs() {
            let lead = port.leads.iter().find(|lead| lead.guest == inside);
            let publication = Publication::of(port, (inside, lead), &report.guests);
            // A range is for services that come and go.
            let is_at_rest = port.spec.is_several() && publication.answers == GuestAnswer::Refuses;
            // With the VM off, that is what there is to say.
            if state == GuestState::Running
                && port.problems.is_empty()
                && !is_at_rest
                && let Some(fix) = publication.advice()
            {
                tell(
                    format!("port {}", port.spec),
                    publication.answer(),
                    Some(fix),
                );
            }
            ports.push(PortView {
                spec: port.spec.clone(),
                guest_port: inside,
                protocol: port.spec.protocol,
                reach: reach(
                    port,
                    lead.and_then(|lead| lead.host).or(host),
                    status,
                    &names,
                ),
                answers: publication.answers,
            });
        }
    }
    let shares = shares(config, status, (state, &report.shares, absent), &mut tell);
    let engine = engine.map(|engine| {
        let leads = |port: &Port| {
            let public = port.public_port.filter(|_| !port.is_on_loopback())?;
            let to_it = ports
                .iter()
                .filter(|known| (known.guest_port, known.protocol) == (public, port.protocol()));
            Some(to_it.flat_map(|port| port.reach.clone()).collect())
        };
        // With the VM off, that is what there is to say.
        let mut told = Vec::new();
        let view = engine_view(engine, lines, &mut told, leads);
        troubles.extend(told.into_iter().filter(|_| state != GuestState::Off));
        view
    });
    GuestView {
        name: name.clone(),
        network: status.network.clone(),
        state,
        address: status.address,
        ipv6_address: status.ipv6_address,
        host_address: status.host_address,
        names,
        ports,
        shares,
        engine,
    }
}

/// What a user would type: a name where one is written, else the address.
fn reach(
    port: &PortStatus,
    host: Option<u16>,
    guest: &GuestStatus,
    names: &[NameView],
) -> Vec<String> {
    let mut places = BTreeSet::new();
    for endpoint in &port.listening {
        match endpoint {
            Endpoint::Unix(_) => drop(places.insert(endpoint.to_string())),
            Endpoint::Address(address) if host.is_none_or(|host| host == address.port()) => {
                let own = guest.host_address.map(IpAddr::V4) == Some(address.ip());
                let name = names
                    .iter()
                    .find(|name| own && name.written && name.address == address.ip());
                places.insert(match name {
                    Some(name) => format!("{}:{}", name.name, address.port()),
                    None => on_host(address.ip(), address.port()),
                });
            }
            Endpoint::Address(_) => {}
        }
    }
    places.into_iter().collect()
}

/// All addresses, and this host's own, are `localhost` to who sits here.
fn on_host(address: IpAddr, port: u16) -> String {
    let is_local = address.is_unspecified()
        || address == IpAddr::from(Ipv4Addr::LOCALHOST)
        || address == IpAddr::from(Ipv6Addr::LOCALHOST);
    if is_local {
        format!("localhost:{port}")
    } else {
        std::net::SocketAddr::new(address, port).to_string()
    }
}

fn shares(
    config: &Config,
    guest: &GuestStatus,
    (state, all, absent): (GuestState, &[ShareStatus], &[ShareName]),
    tell: &mut dyn FnMut(String, String, Option<String>),
) -> Vec<ShareView> {
    let Some(name) = &guest.name else {
        return Vec::new();
    };
    // A namespace's tap has no virtiofs device to miss.
    let has_vmm = guest.links.iter().any(|link| link.transport != "tap");
    let mut shares = Vec::new();
    for share in all {
        let is_for_it = config.shares.get(&share.name).is_some_and(|configured| {
            configured
                .guests
                .as_ref()
                .is_none_or(|guests| guests.contains(name))
        });
        if !is_for_it {
            continue;
        }
        let device = share
            .devices
            .iter()
            .find(|device| device.guest == *name && device.connected);
        let share_state = match (&share.problem, device) {
            (Some(problem), _) => {
                let fix = match absent.contains(&share.name) {
                    true => format!(
                        "mkdir -p {}, or mount the drive, or: sharectl share rm {}",
                        share.path.display(),
                        share.name
                    ),
                    false => "sharectl doctor share, and sharectl logs sharefs".to_owned(),
                };
                tell(format!("share {}", share.name), problem.clone(), Some(fix));
                ShareState::NotServed
            }
            (None, Some(device)) if device.mounted => ShareState::Mounted,
            (None, _) if share.ninep_guests.contains(name) => ShareState::Mounted,
            (None, Some(_)) => {
                tell(
                    format!("share {}", share.name),
                    "the guest has not mounted it".to_owned(),
                    Some(format!(
                        "in it, what this prints: sharectl guest mounts {name}"
                    )),
                );
                ShareState::Connected
            }
            (None, None) => ShareState::Offered,
        };
        if share_state == ShareState::Offered && !share.ninep && has_vmm && state != GuestState::Off
        {
            tell(
                format!("share {}", share.name),
                "its VM runs without the device of the share".to_owned(),
                Some(format!(
                    "restart the VM with what this adds: sharectl guest args {name}"
                )),
            );
        }
        shares.push(ShareView {
            name: share.name.clone(),
            path: share.path.clone(),
            at: share.at.clone(),
            read_only: share.read_only,
            state: share_state,
        });
    }
    shares
}

/// `leads`: where a port is reached on this host; none for one that the engine does not publish.
fn engine_view(
    engine: Engine,
    lines: &[HostLine],
    troubles: &mut Vec<Trouble>,
    leads: impl Fn(&Port) -> Option<Vec<String>>,
) -> EngineView {
    let mut containers = Vec::new();
    match &engine.answer {
        Err(why) => troubles.push(Trouble {
            guest: engine.guest.clone(),
            about: format!("docker at {}", engine.place),
            why: why.clone(),
            fix: engine.guest.as_ref().map(|_| {
                "in the guest, start the engine and have it listen on that port, e.g. by ListenStream=2375 of docker.socket"
                    .to_owned()
            }),
        }),
        Ok(listed) => {
            for container in listed {
                containers.push(container_view(&engine, container, lines, troubles, &leads));
            }
        }
    }
    containers.sort_by(|one, other| one.name.cmp(&other.name));
    EngineView {
        answers: engine.answer.is_ok(),
        place: engine.place,
        source: engine.source,
        containers,
    }
}

fn container_view(
    engine: &Engine,
    listed: &Listed,
    lines: &[HostLine],
    troubles: &mut Vec<Trouble>,
    leads: impl Fn(&Port) -> Option<Vec<String>>,
) -> ContainerView {
    let called = listed.called();
    let names = lines.iter().filter(|line| {
        matches!(&line.origin, Some(NameOrigin::Container { source, container })
            if Some(source) == engine.source.as_ref() && container == called)
            && !line.written.is_empty()
    });
    let mut ports: Vec<ContainerPort> = Vec::new();
    for port in listed.ports.iter().flatten() {
        let (Some(engine_port), Some(mut reach)) = (port.public_port, leads(port)) else {
            continue;
        };
        let protocol = port.protocol();
        // The same port of IPv4 and of IPv6 is one.
        let same = ports.iter_mut().find(|known| {
            (known.container_port, known.engine_port, known.protocol)
                == (port.private_port, engine_port, protocol)
        });
        match same {
            Some(known) => {
                reach.retain(|place| !known.reach.contains(place));
                known.reach.append(&mut reach);
            }
            None => ports.push(ContainerPort {
                container_port: port.private_port,
                protocol,
                engine_port,
                reach,
            }),
        }
    }
    if let Some(guest) = &engine.guest {
        for port in ports.iter().filter(|port| port.reach.is_empty()) {
            let suffix = match port.protocol {
                Protocol::Tcp => "",
                Protocol::Udp => "/udp",
            };
            troubles.push(Trouble {
                guest: Some(guest.clone()),
                about: format!("container {called}"),
                why: format!(
                    "the guest's port {} does not lead to this host",
                    port.engine_port
                ),
                fix: Some(format!(
                    "sharectl port publish {guest} {0}:{0}{suffix}",
                    port.engine_port
                )),
            });
        }
    }
    ContainerView {
        name: called.to_owned(),
        id: listed.id.clone(),
        image: listed.image.clone().unwrap_or_default(),
        state: listed.state.clone().unwrap_or_default(),
        status: listed.status.clone().unwrap_or_default(),
        names: names.map(|line| line.name.clone()).collect(),
        ports,
    }
}
