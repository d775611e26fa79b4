//! `sharectl port explain`: everything that bears on one port of the host, and the command that mends it.
//! It asks the kernel itself, so it works with netd down too.

use std::fmt;
use std::str::FromStr;

use control::api::{GuestAnswer, GuestStatus, PortLead, PortStatus};
use control::config::Config;
use control::names::GuestName;
use control::paths::Daemon;
use control::port::{Endpoint, PortSpec, Protocol};
use control::port_owner::{self, PortOwner};
use schemars::JsonSchema;
use serde::Serialize;

use super::configured;
use crate::context::Context;
use crate::error::Outcome;
use crate::output::comma_list;

/// Say who listens on a port of the host, where it leads, and what is wrong with it
///
/// Asks the kernel, the configuration and, if it runs, netd.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  sharectl port explain 8080\n  sharectl port explain 5353/udp")]
pub(crate) struct Args {
    /// PORT, PORT/tcp or PORT/udp
    port: Port,
}

/// One port of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
struct Port {
    port: u16,
    protocol: Protocol,
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.port, self.protocol)
    }
}

impl FromStr for Port {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (port, protocol) = match text.split_once('/') {
            None => (text, Protocol::Tcp),
            Some((port, "tcp")) => (port, Protocol::Tcp),
            Some((port, "udp")) => (port, Protocol::Udp),
            Some((_, other)) => return Err(format!("\"{other}\" is neither tcp nor udp")),
        };
        match port.parse() {
            Ok(port) if port != 0 => Ok(Self { port, protocol }),
            _ => Err(format!("\"{port}\" is not a port between 1 and 65535")),
        }
    }
}

#[derive(Serialize, JsonSchema)]
pub(crate) struct Explanation {
    #[serde(flatten)]
    port: Port,
    /// Who has it on this host, as the kernel says.
    host: Vec<PortOwner>,
    netd: bool,
    publications: Vec<Publication>,
    /// Commands and changes that mend it, the first one first.
    advice: Vec<String>,
}

/// A guest's wish for this port.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Publication {
    guest: GuestName,
    spec: PortSpec,
    guest_port: u16,
    /// Where netd has it.
    pub listening: Vec<Endpoint>,
    plugged: bool,
    address: Option<std::net::Ipv4Addr>,
    pub answers: GuestAnswer,
    problems: Vec<String>,
}

pub(crate) fn run(context: &Context, args: Args) -> Outcome {
    let config = context.config()?;
    let ports: Option<Vec<PortStatus>> = context.ask(Daemon::Netd, "/v1/ports").ok();
    let guests: Vec<GuestStatus> = context.ask(Daemon::Netd, "/v1/guests").unwrap_or_default();
    let mut explanation = Explanation {
        port: args.port,
        host: port_owner::listeners(args.port.protocol, args.port.port),
        netd: ports.is_some(),
        publications: publications(args.port, &config, ports.as_deref(), &guests),
        advice: Vec::new(),
    };
    explanation.advice = advice(&explanation, &config, ports.is_some());
    if context.out.is_json() {
        return context.out.json(&explanation);
    }
    context.out.text(&explanation.text())
}

/// What the file wants, and what netd has beside it.
fn publications(
    wanted: Port,
    config: &Config,
    ports: Option<&[PortStatus]>,
    guests: &[GuestStatus],
) -> Vec<Publication> {
    let mut all = configured(config);
    for live in ports.unwrap_or_default() {
        match all
            .iter_mut()
            .find(|port| port.guest == live.guest && port.spec == live.spec)
        {
            Some(port) => *port = live.clone(),
            None => all.push(live.clone()),
        }
    }
    let at = |endpoint: &Endpoint| match endpoint {
        Endpoint::Address(address) => address.port() == wanted.port,
        Endpoint::Unix(_) => false,
    };
    let mut found = Vec::new();
    for port in all {
        if port.spec.protocol != wanted.protocol {
            continue;
        }
        let lead = port
            .leads
            .iter()
            .find(|lead| lead.host == Some(wanted.port));
        let pair = port
            .spec
            .pairs()
            .find(|(host, _)| *host == Some(wanted.port));
        let Some(guest_port) = lead
            .map(|lead| lead.guest)
            .or_else(|| pair.map(|(_, guest)| guest))
        else {
            continue;
        };
        let mut publication = Publication::of(&port, (guest_port, lead), guests);
        publication.listening.retain(at);
        found.push(publication);
    }
    found
}

fn advice(explanation: &Explanation, config: &Config, netd: bool) -> Vec<String> {
    let port = explanation.port;
    let mut advice = Vec::new();
    if explanation.publications.is_empty() {
        match explanation.host.first() {
            Some(owner) => advice.extend(
                owner
                    .stop()
                    .map(|stop| format!("to have the port for a guest, stop who has it: {stop}")),
            ),
            None => {
                let guest = config
                    .guests
                    .keys()
                    .next()
                    .map_or("GUEST", GuestName::as_str);
                let suffix = match port.protocol {
                    Protocol::Tcp => "",
                    Protocol::Udp => "/udp",
                };
                advice.push(format!(
                    "sharectl port publish {guest} {0}:{0}{suffix}",
                    port.port
                ));
            }
        }
    } else if !netd {
        advice.push("sharectl up".to_owned());
    }
    for publication in explanation.publications.iter().filter(|_| netd) {
        advice.extend(publication.advice());
    }
    for owner in explanation
        .host
        .iter()
        .filter(|owner| owner.process.is_none())
    {
        advice.push(format!(
            "who has {}: {}",
            owner.address,
            owner.look_up(port.protocol)
        ));
    }
    advice.dedup();
    advice
}

impl Publication {
    /// One of a spec's ports, by the guest's number for it.
    pub(crate) fn of(
        port: &PortStatus,
        (guest_port, lead): (u16, Option<&PortLead>),
        guests: &[GuestStatus],
    ) -> Self {
        let guest = guests
            .iter()
            .find(|guest| guest.name.as_ref() == Some(&port.guest));
        Self {
            guest_port,
            listening: port.listening.clone(),
            plugged: guest.is_some_and(|guest| !guest.links.is_empty()),
            address: guest.and_then(|guest| guest.address),
            answers: lead.map_or(GuestAnswer::Unknown, |lead| lead.answers),
            problems: port.problems.clone(),
            guest: port.guest.clone(),
            spec: port.spec.clone(),
        }
    }

    /// What mends it; none where nothing is amiss, or that cannot be told.
    pub(crate) fn advice(&self) -> Option<String> {
        let (guest, port) = (&self.guest, self.guest_port);
        if self.listening.is_empty() {
            return Some(match self.problems.is_empty() {
                true => "netd does not know it yet: sharectl up".to_owned(),
                false => format!(
                    "stop who has the port, or choose another: sharectl port unpublish {guest} {}",
                    self.spec
                ),
            });
        }
        if !self.plugged && self.answers != GuestAnswer::Serves {
            return Some(format!(
                "start the guest, or see how it is plugged in: sharectl describe {guest}"
            ));
        }
        match self.answers {
            GuestAnswer::Serves | GuestAnswer::Unknown => None,
            GuestAnswer::Refuses => Some(format!(
                "in the guest, start the service and have it listen on 0.0.0.0 or [::], not on 127.0.0.1: ss -ltn 'sport = :{port}'"
            )),
            GuestAnswer::Silent => Some(format!(
                "in the guest, have the firewall let TCP port {port} in, or see whether the guest hangs"
            )),
            GuestAnswer::Absent => Some(format!(
                "the guest is plugged in but has no address: in it, run its DHCP client, e.g. dhclient eth0; then sharectl guest ls shows {guest}'s"
            )),
        }
    }

    /// What the guest's port says.
    pub(crate) fn answer(&self) -> String {
        match self.answers {
            GuestAnswer::Serves => "it takes connections".to_owned(),
            GuestAnswer::Refuses => format!(
                "nothing listens on port {} in the guest; until something does, connections are refused here too",
                self.guest_port
            ),
            GuestAnswer::Silent => {
                "it says nothing, neither yes nor no; connections wait for it".to_owned()
            }
            GuestAnswer::Absent => "the guest is not there; connections are refused".to_owned(),
            GuestAnswer::Unknown => match self.spec.protocol {
                Protocol::Udp => "UDP does not say before it is used".to_owned(),
                Protocol::Tcp => "not known".to_owned(),
            },
        }
    }
}

impl Explanation {
    fn text(&self) -> String {
        let mut lines = vec![("port", format!("{} of this host", self.port))];
        if self.host.is_empty() {
            lines.push(("host", "nobody listens on it now".to_owned()));
        }
        for owner in &self.host {
            lines.push(("host", format!("{} is {owner}", owner.address)));
        }
        if !self.netd {
            lines.push((
                "netd",
                "is not running; this is what the configuration says".to_owned(),
            ));
        }
        if self.publications.is_empty() {
            lines.push(("guest", "no guest publishes it".to_owned()));
        }
        for publication in &self.publications {
            let Publication { guest, spec, .. } = publication;
            lines.push((
                "guest",
                format!(
                    "{guest} publishes {spec}, to its port {}",
                    publication.guest_port
                ),
            ));
            if self.netd {
                let place = match (publication.listening.is_empty(), publication.plugged) {
                    (true, _) => "not held".to_owned(),
                    (false, _) => format!("{} held by netd", comma_list(&publication.listening)),
                };
                lines.push(("place", place));
                let plugged = if publication.plugged {
                    "plugged in"
                } else {
                    "not plugged in"
                };
                let address = match publication.address {
                    Some(address) => format!("address {address}"),
                    None => "no address".to_owned(),
                };
                lines.push(("state", format!("{plugged}, {address}")));
                lines.push(("answer", publication.answer()));
            }
            for problem in &publication.problems {
                lines.push(("problem", problem.clone()));
            }
            lines.push((
                "policy",
                "none: egress rules are for what the guest begins".to_owned(),
            ));
        }
        for advice in &self.advice {
            lines.push(("do", advice.clone()));
        }
        lines
            .iter()
            .map(|(label, text)| format!("{label:<8} {text}\n"))
            .collect()
    }
}
