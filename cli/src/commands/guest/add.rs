//! `sharectl guest add`: a guest for the configuration.

use std::net::Ipv4Addr;

use control::mac::MacAddress;
use control::names::{GuestName, HostName, NetworkName};
use control::paths::Daemon;
use control::port::PortSpec;
use toml_edit::{Array, Value};

use crate::context::Context;
use crate::edit::document;
use crate::error::{CliError, Outcome};
use crate::output::comma_list;

/// Add a guest to the configuration
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  sharectl guest add dev --name local.test --publish 8080:80")]
pub(crate) struct Args {
    /// Lower-case letters, digits and hyphens; in DNS the guest is NAME.test
    #[arg(value_name = "NAME")]
    guest: GuestName,
    /// The network it is on, if there are several
    #[arg(long)]
    network: Option<NetworkName>,
    /// Its Ethernet address, instead of one that follows from its name
    #[arg(long)]
    mac: Option<MacAddress>,
    /// An IPv4 address that it always gets
    #[arg(long)]
    address: Option<Ipv4Addr>,
    /// A further name, for DNS and the hosts files; may be repeated
    #[arg(long = "name", value_name = "HOSTNAME")]
    names: Vec<HostName>,
    /// A port of the host that leads to it, as [ADDRESS:]HOST[:GUEST][/udp]; may be repeated
    #[arg(long, value_name = "SPEC")]
    publish: Vec<PortSpec>,
}

pub(crate) fn run(context: &Context, args: Args) -> Outcome {
    let name = args.guest.clone();
    let config = context.change(|draft| {
        if draft.config()?.guests.contains_key(&args.guest) {
            return Err(CliError::conflict(
                format!(
                    "guest \"{}\" is in {} already",
                    args.guest,
                    context.paths.config.display()
                ),
                format!(
                    "see it: sharectl describe {0}, or take it away: sharectl guest rm {0}",
                    args.guest
                ),
            ));
        }
        let mut fields: Vec<(&str, Value)> = Vec::new();
        let texts = |list: Vec<String>| Value::Array(list.into_iter().collect::<Array>());
        fields.extend(
            args.network
                .map(|network| ("network", network.to_string().into())),
        );
        fields.extend(args.mac.map(|mac| ("mac", mac.to_string().into())));
        fields.extend(
            args.address
                .map(|address| ("address", address.to_string().into())),
        );
        if !args.names.is_empty() {
            fields.push((
                "names",
                texts(args.names.iter().map(ToString::to_string).collect()),
            ));
        }
        if !args.publish.is_empty() {
            fields.push((
                "publish",
                texts(args.publish.iter().map(ToString::to_string).collect()),
            ));
        }
        Ok(document::add_entry(
            &mut draft.document,
            "guest",
            args.guest.as_str(),
            fields,
        )?)
    })?;
    context.reload(&Daemon::ALL)?;
    let guest = context.guest(&config, &name)?;
    let names = config.names_of(guest).unwrap_or_default();
    let mut sentence = format!(
        "guest {name} added: {} on {}, {}",
        guest.mac,
        guest.network,
        comma_list(names)
    );
    if !guest.publish.is_empty() {
        sentence.push_str(&format!(
            "; ports {} at {}",
            comma_list(&guest.publish),
            guest.host_address
        ));
    }
    context.out.done(&sentence, guest)?;
    context.out.note(&format!(
        "next: sharectl guest run {name} -- qemu-system-x86_64 -m 2G disk.qcow2, or, for a line of your own: sharectl guest args {name}\nthen: sharectl wait-ready --guest {name}, and sharectl ps shows what of it works"
    ));
    Ok(())
}
