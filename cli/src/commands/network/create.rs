//! `sharectl network create`: a network for the configuration, on a subnet that is free here.

use control::config::{Config, DEFAULT_NETWORK, Network, NetworkKind};
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
/// what VMware has under that name: vmnet1 host-only, anything else nat.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  sharectl network create vmnet1\n  sharectl network create lab --subnet 10.9.0.0/24 --dry-run"
)]
pub(crate) struct Args {
    /// 1 to 15 lower-case letters, digits and hyphens
    #[arg(value_name = "NAME")]
    network: NetworkName,
    /// nat or host-only
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<String>,
    /// ADDRESS/PREFIX, instead of a free one
    #[arg(long)]
    subnet: Option<Ipv4Net>,
    /// Guests get NAME.DOMAIN, instead of NAME.test
    #[arg(long)]
    domain: Option<HostName>,
    /// Say what would be written, and write nothing
    #[arg(long)]
    dry_run: bool,
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
    let subnet = match args.subnet {
        Some(subnet) => subnet,
        None => free_subnet(&before, None, &used)?,
    };
    let mut fields: Vec<(&str, Value)> = Vec::new();
    fields.extend(args.kind.as_ref().map(|kind| ("type", kind.into())));
    fields.push(("subnet", subnet.to_string().into()));
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
    let config = if args.dry_run {
        draft.config()?
    } else {
        let config = draft.commit()?;
        context.reload(&[Daemon::Netd])?;
        config
    };
    let Some(network) = config.networks.get(&args.network) else {
        return Ok(());
    };
    let done = if args.dry_run {
        "would be added"
    } else {
        "added"
    };
    let sentence = format!("network {} {done}: {}", network.name, summary(network));
    context.out.done(&sentence, network)?;
    if !args.dry_run {
        context.out.note(&format!(
            "next: sharectl guest add NAME --network {}",
            network.name
        ));
    }
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

/// A subnet that neither the host nor another network of the file has, nor `besides`.
pub(super) fn free_subnet(
    config: &Config,
    besides: Option<&Network>,
    used: &[UsedSubnet],
) -> Outcome<Ipv4Net> {
    let ours = config.networks.values().map(|network| UsedSubnet {
        subnet: network.subnet,
        interface: network.name.to_string(),
    });
    let besides = besides.map(|network| UsedSubnet {
        subnet: network.subnet,
        interface: network.name.to_string(),
    });
    let taken: Vec<UsedSubnet> = used.iter().cloned().chain(ours).chain(besides).collect();
    host_network::free_subnet(&taken).ok_or_else(|| {
        CliError::failure(
            "every /24 in 192.168.130.0 to 192.168.249.0 and 10.130.0.0 to 10.249.255.0 is in use",
            "name one that is free: --subnet ADDRESS/PREFIX",
        )
    })
}
