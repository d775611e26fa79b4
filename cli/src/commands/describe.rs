//! `sharectl describe`: everything about one guest, share, network or name.

use control::api::{GuestStatus, HostLine, NetworkStatus, PortStatus, ShareStatus};
use control::config::{Config, Devices, NetworkKind, SHARES_FOLDER};
use control::names::{GuestName, HostName, NetworkName, ShareName};
use control::paths::Daemon;
use schemars::JsonSchema;
use serde::Serialize;

use super::{guest, network, port, share};
use crate::context::{Context, unknown};
use crate::error::Outcome;
use crate::output::{comma_list, printable};

/// Show everything about a guest, share, network or host name
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  sharectl describe dev\n  sharectl describe local.test")]
pub(crate) struct Args {
    /// Any name that the configuration has
    name: String,
}

/// What a name stands for; one name may stand for several things.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case", tag = "kind", content = "value")]
pub(crate) enum Thing {
    Guest {
        configuration: Option<control::config::Guest>,
        status: GuestStatus,
        ports: Vec<PortStatus>,
        shares: Vec<ShareStatus>,
        sockets: std::path::PathBuf,
    },
    Share {
        configuration: control::config::Share,
        /// One for all, unless each guest that sees it has one a share.
        devices: Devices,
        status: Option<ShareStatus>,
        /// What mounts it by 9P in a guest that may.
        #[serde(skip_serializing_if = "Option::is_none")]
        ninep: Option<String>,
    },
    Network {
        configuration: Box<control::config::Network>,
        status: Option<NetworkStatus>,
        guests: Vec<GuestStatus>,
    },
    Name(HostLine),
}

pub(crate) fn run(context: &Context, args: Args) -> Outcome {
    let config = context.config()?;
    let mut things = Vec::new();
    things.extend(
        GuestName::parse(&args.name)
            .ok()
            .and_then(|name| about_guest(context, &config, &name)),
    );
    things.extend(
        ShareName::parse(&args.name)
            .ok()
            .and_then(|name| about_share(context, &config, &name)),
    );
    things.extend(
        NetworkName::parse(&args.name)
            .ok()
            .and_then(|name| about_network(context, &config, &name)),
    );
    if let Ok(name) = HostName::parse(&args.name) {
        about_host_name(context, &config, &name, &mut things);
    }
    if things.is_empty() {
        let guests = config.guests.keys().map(GuestName::as_str);
        let shares = config.shares.keys().map(ShareName::as_str);
        let known = guests
            .chain(shares)
            .chain(config.networks.keys().map(NetworkName::as_str));
        return Err(unknown(
            "guest, share, network or name",
            &args.name,
            known,
            &context.paths.config,
            "sharectl status lists what there is",
        ));
    }
    if context.out.is_json() {
        return context.out.json(&things);
    }
    let texts: Vec<String> = things.iter().map(as_text).collect();
    context.out.text(&texts.join("\n"))
}

fn about_guest(context: &Context, config: &Config, name: &GuestName) -> Option<Thing> {
    let configured = config.guests.get(name)?;
    let fallback = || {
        guest::configured(config)
            .into_iter()
            .find(|guest| guest.name.as_ref() == Some(name))
    };
    let live = guest::listed(context, config)
        .into_iter()
        .find(|guest| guest.name.as_ref() == Some(name));
    let ports: Vec<PortStatus> = context
        .ask(Daemon::Netd, "/v1/ports")
        .unwrap_or_else(|_| port::configured(config));
    let seen: Vec<&ShareName> = config.shares_of(name).map(|share| &share.name).collect();
    let shares: Vec<ShareStatus> = context
        .ask_if_up(Daemon::Sharefs, "/v1/shares")
        .unwrap_or_else(|| share::configured(config));
    Some(Thing::Guest {
        configuration: Some(configured.clone()),
        status: live.or_else(fallback)?,
        ports: ports
            .into_iter()
            .filter(|port| port.guest == *name)
            .collect(),
        shares: shares
            .into_iter()
            .filter(|share| seen.contains(&&share.name))
            .collect(),
        sockets: context.paths.guest(name),
    })
}

fn about_share(context: &Context, config: &Config, name: &ShareName) -> Option<Thing> {
    let configured = config.shares.get(name)?;
    let shares: Vec<ShareStatus> = context
        .ask_if_up(Daemon::Sharefs, "/v1/shares")
        .unwrap_or_else(|| share::configured(config));
    let mut guests = config.guests_of(configured).peekable();
    let alone = guests.peek().is_some() && guests.all(|guest| guest.devices == Devices::Each);
    let devices = if alone { Devices::Each } else { Devices::One };
    Some(Thing::Share {
        ninep: config
            .guests
            .values()
            .find_map(|guest| share::ninep_mount(config, guest, configured)),
        configuration: configured.clone(),
        devices,
        status: shares.into_iter().find(|share| share.name == *name),
    })
}

fn about_network(context: &Context, config: &Config, name: &NetworkName) -> Option<Thing> {
    let configuration = Box::new(config.networks.get(name)?.clone());
    let networks: Vec<NetworkStatus> = context
        .ask_if_up(Daemon::Netd, "/v1/networks")
        .unwrap_or_else(|| network::configured(config, &context.paths));
    let guests: Vec<GuestStatus> = context
        .ask(Daemon::Netd, "/v1/guests")
        .unwrap_or_else(|_| guest::configured(config));
    Some(Thing::Network {
        configuration,
        status: networks.into_iter().find(|network| network.name == *name),
        guests: guests
            .into_iter()
            .filter(|guest| guest.network == *name)
            .collect(),
    })
}

/// A name with a dot, or one that nothing else has.
fn about_host_name(context: &Context, config: &Config, name: &HostName, things: &mut Vec<Thing>) {
    let fixed = config.hosts.entries.contains_key(name);
    let owner = config.guests.values().find(|guest| {
        config
            .names_of(guest)
            .is_ok_and(|names| names.contains(name))
    });
    if !fixed && owner.is_none() {
        return;
    }
    let lines = super::host::listed(context, config);
    things.extend(
        lines
            .into_iter()
            .filter(|line| line.name == *name)
            .map(Thing::Name),
    );
    if let Some(owner) = owner {
        things.extend(about_guest(context, config, &owner.name));
    }
}

fn as_text(thing: &Thing) -> String {
    let dash = || "-".to_owned();
    let fields: Vec<(&str, String)> = match thing {
        Thing::Guest {
            configuration,
            status,
            ports,
            shares,
            sockets,
        } => {
            let mut fields = vec![
                (
                    "guest",
                    status.name.as_ref().map_or_else(dash, ToString::to_string),
                ),
                ("network", status.network.to_string()),
                ("mac", status.mac.to_string()),
                (
                    "address",
                    status
                        .address
                        .map_or_else(dash, |address| address.to_string()),
                ),
                (
                    "IPv6 address",
                    status
                        .ipv6_address
                        .map_or_else(dash, |address| address.to_string()),
                ),
                (
                    "lease until",
                    status.lease_until.clone().unwrap_or_else(dash),
                ),
                ("names", comma_list(&status.names)),
                (
                    "on the host",
                    status
                        .host_address
                        .map_or_else(dash, |address| address.to_string()),
                ),
                (
                    "plugged in by",
                    comma_list(status.links.iter().map(|link| &link.transport)),
                ),
            ];
            let reserved = configuration.as_ref().and_then(|guest| guest.address);
            fields.push((
                "reserved",
                reserved.map_or_else(dash, |address| address.to_string()),
            ));
            for link in &status.links {
                fields.push((
                    "traffic",
                    format!(
                        "{} bytes in {} frames from it, {} bytes in {} frames to it, {} dropped",
                        link.received_bytes,
                        link.received_frames,
                        link.sent_bytes,
                        link.sent_frames,
                        link.dropped_frames
                    ),
                ));
            }
            for port in ports {
                let state = if port.problems.is_empty() {
                    comma_list(&port.listening)
                } else {
                    port.problems.join("; ")
                };
                fields.push(("port", format!("{} at {state}", port.spec)));
            }
            for share in shares {
                let state = share.problem.as_deref().unwrap_or("ok");
                fields.push((
                    "share",
                    format!("{} at {}: {state}", share.name, share.at.display()),
                ));
            }
            let mounts = configuration.as_ref().map(|guest| &guest.mounts);
            for mount in mounts.into_iter().flatten() {
                let (path, at) = (mount.path.display(), mount.at.display());
                fields.push(("on the host", format!("{path} at {at}")));
            }
            fields.push(("sockets", sockets.display().to_string()));
            fields
        }
        Thing::Share {
            configuration,
            devices,
            status,
            ninep,
        } => {
            let (name, at) = (&configuration.name, &configuration.at);
            let guests = configuration
                .guests
                .as_ref()
                .map_or_else(|| "all".to_owned(), comma_list);
            let problem = status.as_ref().and_then(|status| status.problem.clone());
            let mut fields = vec![
                ("share", configuration.name.to_string()),
                ("folder", configuration.path.display().to_string()),
                ("at", configuration.at.display().to_string()),
                (
                    "mode",
                    if configuration.read_only {
                        "read-only"
                    } else {
                        "read and write"
                    }
                    .to_owned(),
                ),
                ("guests", guests),
            ];
            for (key, patterns) in [
                ("hidden", &configuration.exclude),
                ("unchangeable", &configuration.read_only_paths),
            ] {
                if !patterns.is_empty() {
                    fields.push((key, comma_list(patterns)));
                }
            }
            fields.extend([
                ("state", problem.unwrap_or_else(|| "ok".to_owned())),
                (
                    "in the guest",
                    match devices {
                        Devices::One => {
                            format!("mount --bind {SHARES_FOLDER}/{name} {}", at.display())
                        }
                        Devices::Each => format!("mount -t virtiofs {name} {}", at.display()),
                    },
                ),
            ]);
            if let Some(status) = status.as_ref().filter(|status| status.mount.is_some()) {
                fields.push(("on the host", share::on_the_host(status)));
            }
            fields.extend(ninep.clone().map(|line| ("or by 9P", line)));
            for device in status.iter().flat_map(|status| &status.devices) {
                let state = if device.connected {
                    "connected"
                } else {
                    "waiting"
                };
                fields.push((
                    "device",
                    format!(
                        "{}: {state}, {} requests, {} malformed, {}",
                        device.guest,
                        device.requests,
                        device.malformed,
                        device.socket.display()
                    ),
                ));
            }
            fields
        }
        Thing::Network {
            configuration,
            status,
            guests,
        } => {
            let names = guests.iter().filter_map(|guest| guest.name.as_ref());
            // A bridged network has no places of its own.
            let own = |text: String| match configuration.kind {
                NetworkKind::Nat | NetworkKind::HostOnly => text,
                NetworkKind::Bridged => dash(),
            };
            let interface = status.as_ref().and_then(|status| status.interface.clone());
            let mut fields = vec![
                ("network", configuration.name.to_string()),
                ("type", configuration.kind.to_string()),
                ("subnet", own(configuration.subnet.to_string())),
                ("gateway", own(configuration.gateway.to_string())),
                (
                    "host.internal",
                    own(configuration.host_internal.to_string()),
                ),
                (
                    "dhcp pool",
                    own(format!(
                        "{} to {}",
                        configuration.pool.start(),
                        configuration.pool.end()
                    )),
                ),
                (
                    "ipv6",
                    configuration
                        .ipv6
                        .map_or_else(|| "off".to_owned(), |prefix| prefix.to_string()),
                ),
                ("domain", configuration.domain.to_string()),
                (
                    "mtu",
                    configuration
                        .mtu
                        .map_or_else(|| "auto".to_owned(), |mtu| mtu.to_string()),
                ),
                ("guests", comma_list(names)),
            ];
            fields.extend(interface.map(|interface| ("interface", interface)));
            fields.extend(
                configuration
                    .host_tap
                    .map(|address| ("host's address", address.to_string())),
            );
            if let Some(status) = status {
                fields.push(("resolvers", comma_list(&status.resolvers)));
                fields.push(("socket", status.socket.display().to_string()));
                fields.push((
                    "tcp links",
                    status.listen.map_or_else(dash, |listen| listen.to_string()),
                ));
            }
            fields
        }
        Thing::Name(line) => vec![
            ("name", line.name.to_string()),
            ("address", line.address.to_string()),
            ("source", line.source.clone()),
            (
                "written to",
                comma_list(line.written.iter().map(|file| file.display())),
            ),
            ("left out of", comma_list(&line.left_out)),
        ],
    };
    fields
        .iter()
        .map(|(key, value)| format!("{key:<14} {}\n", printable(value)))
        .collect()
}
