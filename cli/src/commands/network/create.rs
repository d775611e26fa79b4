//! `sharectl network create`: a network for the configuration, on a subnet that is free here.

use control::config::{Config, DEFAULT_NETWORK, Network, NetworkKind};
use control::host_interface;
use control::host_network::{self, UsedSubnet};
use control::names::{HostName, NetworkName};
use control::paths::Daemon;
use ipnet::Ipv4Net;
use toml_edit::Value;

use crate::context::Context;
use crate::edit::{Draft, document};
use crate::error::{CliError, Outcome};

/// Add a network to the configuration
///
/// Without --subnet it gets one that no interface, route or VPN of this host uses now. Without --type it is
/// what VMware has under that name: vmnet0 bridged, vmnet1 host-only, anything else nat.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  sharectl network create vmnet1\n  sharectl network create lab --subnet 10.9.0.0/24 --dry-run"
)]
pub(crate) struct Args {
    /// 1 to 15 lower-case letters, digits and hyphens
    #[arg(value_name = "NAME")]
    network: NetworkName,
    /// nat, host-only or bridged
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<String>,
    /// The host's interface of a bridged network, instead of that of the default route
    #[arg(long)]
    interface: Option<String>,
    /// tap: the host gets an interface on it; loopback: it has none
    #[arg(long, value_name = "tap|loopback")]
    host_access: Option<String>,
    /// auto, off or a /64 prefix for the guests' IPv6 addresses
    #[arg(long, value_name = "PREFIX")]
    ipv6: Option<String>,
    /// ADDRESS/PREFIX, instead of a free one
    #[arg(long)]
    subnet: Option<Ipv4Net>,
    /// Guests get NAME.DOMAIN, instead of NAME.test
    #[arg(long)]
    domain: Option<HostName>,
}

pub(crate) fn run(context: &Context, args: Args) -> Outcome {
    let used = used_subnets(context);
    let mut draft = Draft::open(&context.paths.config)?;
    let before = draft.config()?;
    let written = draft.document.get("network").is_some();
    if written && before.networks.contains_key(&args.network) {
        return Err(CliError::conflict(
            format!(
                "network \"{}\" is in {} already",
                args.network,
                context.paths.config.display()
            ),
            format!("see it: sharectl network inspect {}", args.network),
        ));
    }
    if !written && args.network.as_str() != DEFAULT_NETWORK {
        keep_unwritten(&mut draft, &before)?;
    }
    if let Some(subnet) = args.subnet
        && let Some(other) = host_network::clash(subnet, &used)
    {
        return Err(CliError::conflict(
            format!("{} of this host leads to {}", other.interface, other.subnet),
            "leave --subnet out: a free one is chosen then",
        ));
    }
    let usual_bridge = args.network.as_str() == "vmnet0" && args.kind.is_none();
    let bridged = usual_bridge || args.kind.as_deref() == Some("bridged");
    // A bridged network has none; one that is named all the same is refused with the rest.
    let subnet = match args.subnet {
        Some(subnet) => Some(subnet),
        None if bridged => None,
        None => Some(free_subnet(&before, &used)?),
    };
    let mut fields: Vec<(&str, Value)> = Vec::new();
    let text = |key, text: &Option<String>| Some((key, Value::from(text.as_deref()?)));
    fields.extend(text("type", &args.kind));
    fields.extend(text("interface", &args.interface));
    fields.extend(text("host-access", &args.host_access));
    fields.extend(subnet.map(|subnet| ("subnet", subnet.to_string().into())));
    fields.extend(text("ipv6", &args.ipv6));
    fields.extend(
        args.domain
            .map(|domain| ("domain", domain.to_string().into())),
    );
    document::add_entry(
        &mut draft.document,
        "network",
        args.network.as_str(),
        fields,
    )?;
    let config = draft.commit(context)?;
    context.reload(&[Daemon::Netd])?;
    let Some(network) = config.networks.get(&args.network) else {
        return Ok(());
    };
    let sentence = format!("network {} added: {}", network.name, summary(network));
    context.out.done(&sentence, network)?;
    if network.kind == NetworkKind::Bridged
        && let Err(error) = host_interface::bridgeable(network.interface.as_deref())
    {
        let hint = error.hint(network.name.as_str());
        context.out.warning(&format!("{error} ({hint})"));
    }
    if network.host_tap.is_some() {
        context.out.note(&format!(
            "the host's interface is made once: sudo sharectl network host-tap create {}",
            network.name
        ));
    }
    context.out.note(&format!(
        "next: sharectl guest add NAME --network {}",
        network.name
    ));
    Ok(())
}

/// The built-in network stands only while the file names none: guests on it keep it.
fn keep_unwritten(draft: &mut Draft, before: &Config) -> Outcome {
    for network in before.networks.values() {
        if before.guests_on(&network.name).next().is_some() {
            let fields = vec![("subnet", network.subnet.to_string().into())];
            document::add_entry(
                &mut draft.document,
                "network",
                network.name.as_str(),
                fields,
            )?;
        }
    }
    Ok(())
}

fn summary(network: &Network) -> String {
    match network.kind {
        NetworkKind::Nat | NetworkKind::HostOnly => {
            format!(
                "{}, {}, gateway {}",
                network.kind, network.subnet, network.gateway
            )
        }
        NetworkKind::Bridged => format!(
            "bridged to {}",
            network
                .interface
                .as_deref()
                .unwrap_or("the interface of the default route")
        ),
    }
}

/// What the host uses; nothing, with a warning, where it cannot be asked.
pub(super) fn used_subnets(context: &Context) -> Vec<UsedSubnet> {
    host_network::used_subnets().unwrap_or_else(|error| {
        context.out.warning(&format!(
            "this host's interfaces cannot be listed ({error}); a subnet is a guess"
        ));
        Vec::new()
    })
}

/// A subnet that neither the host nor a network of the file has.
pub(super) fn free_subnet(config: &Config, used: &[UsedSubnet]) -> Outcome<Ipv4Net> {
    let own = |network: &&Network| network.kind != NetworkKind::Bridged;
    let ours = config
        .networks
        .values()
        .filter(own)
        .map(|network| UsedSubnet {
            subnet: network.subnet,
            interface: network.name.to_string(),
        });
    let taken: Vec<UsedSubnet> = used.iter().cloned().chain(ours).collect();
    host_network::free_subnet(&taken).ok_or_else(|| {
        CliError::failure(
            "every /24 in 192.168.130.0 to 192.168.249.0 and 10.130.0.0 to 10.249.255.0 is in use",
            "name one that is free: --subnet ADDRESS/PREFIX",
        )
    })
}
