//! `sharectl network renumber`: another subnet for a network, with everything that stands in the file.

use std::net::Ipv4Addr;

use control::config::{Network, NetworkKind};
use control::host_network;
use control::names::{GuestName, NetworkName};
use control::paths::Daemon;
use ipnet::Ipv4Net;

use super::create::{free_subnet, used_subnets};
use super::find;
use crate::context::Context;
use crate::edit::{Draft, document};
use crate::error::{CliError, Outcome};
use schemars::JsonSchema;
use serde::Serialize;
use std::collections::BTreeMap;

/// Give a network another subnet
///
/// Reserved addresses of guests move along and keep their last part. netd follows at once: leases, names
/// and published ports too. A guest that runs learns its new address when it asks for one.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  sharectl network renumber vmnet8\n  sharectl network renumber vmnet8 --subnet 10.9.0.0/24"
)]
pub(crate) struct Args {
    /// As in `sharectl network ls`
    #[arg(value_name = "NAME")]
    network: NetworkName,
    /// ADDRESS/PREFIX, instead of a free one
    #[arg(long)]
    subnet: Option<Ipv4Net>,
}

#[derive(Serialize, JsonSchema)]
pub(crate) struct Renumbered<'n> {
    network: &'n NetworkName,
    /// The subnet before.
    #[schemars(with = "String")]
    was: Ipv4Net,
    #[schemars(with = "String")]
    subnet: Ipv4Net,
    /// The new address of each guest that has one of its own.
    guests: BTreeMap<GuestName, Ipv4Addr>,
}

pub(crate) fn run(context: &Context, args: Args) -> Outcome {
    let used = used_subnets(context);
    let mut draft = Draft::open(&context.paths.config)?;
    let config = draft.config()?;
    let network = find(context, &config, &args.network)?;
    if network.kind == NetworkKind::Bridged {
        return Err(CliError::usage(
            format!(
                "network \"{}\" is bridged: its addresses are the LAN's",
                network.name
            ),
            "sharectl network ls shows the others",
        ));
    }
    let subnet = match args.subnet {
        Some(subnet) => subnet,
        None => free_subnet(&config, &used)?,
    };
    if let Some(other) = host_network::clash(subnet, &used) {
        return Err(CliError::conflict(
            format!("{} of this host leads to {}", other.interface, other.subnet),
            "leave --subnet out: a free one is chosen then",
        ));
    }
    document::set_value(
        &mut draft.document,
        &["network", network.name.as_str()],
        "subnet",
        subnet.to_string(),
    )?;
    let mut moved: Vec<(GuestName, Ipv4Addr)> = Vec::new();
    for guest in config.guests_on(&network.name) {
        let Some(address) = guest.address else {
            continue;
        };
        let Some(there) = host_network::moved(address, network.subnet, subnet) else {
            return Err(CliError::conflict(
                format!(
                    "address {address} of guest {} has no place in {subnet}",
                    guest.name
                ),
                format!(
                    "name a larger one: --subnet ADDRESS/{}",
                    network.subnet.prefix_len()
                ),
            ));
        };
        document::set_value(
            &mut draft.document,
            &["guest", guest.name.as_str()],
            "address",
            there.to_string(),
        )?;
        moved.push((guest.name.clone(), there));
    }
    let left = left_behind(&draft, network);
    let was = network.subnet;
    draft.commit(context)?;
    context.reload(&Daemon::ALL)?;
    for (line, address) in &left {
        context.out.warning(&format!(
            "{}:{line} still says {address}, which was in {was}",
            context.paths.config.display()
        ));
    }
    let mut sentence = format!("network {} has {subnet} in place of {was}", args.network);
    for (guest, address) in &moved {
        sentence.push_str(&format!("\nguest {guest} has {address}"));
    }
    context.out.done(
        &sentence,
        &Renumbered {
            network: &args.network,
            was,
            subnet,
            guests: moved.into_iter().collect(),
        },
    )?;
    context.out.note(
        "a guest that runs keeps its old address until it asks again: renew its lease there, or reboot it",
    );
    Ok(())
}

/// Addresses of the old subnet that the file still has, with their lines: only a person knows what they are for.
fn left_behind(draft: &Draft, network: &Network) -> Vec<(usize, Ipv4Addr)> {
    let text = draft.document.to_string();
    let mut found = Vec::new();
    for (line, number) in text.lines().zip(1..) {
        let code = line.split('#').next().unwrap_or_default();
        for word in code.split(|c: char| !c.is_ascii_digit() && c != '.') {
            if let Ok(address) = word.parse::<Ipv4Addr>()
                && network.subnet.contains(&address)
            {
                found.push((number, address));
            }
        }
    }
    found
}
