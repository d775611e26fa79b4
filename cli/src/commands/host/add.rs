//! `sharectl host add`: a name that always stands in the hosts files.

use std::net::IpAddr;

use control::names::HostName;
use control::paths::Daemon;

use crate::context::Context;
use crate::edit::document;
use crate::error::{CliError, Outcome};

/// Add a name with an address of your own to the hosts files
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  sharectl host add nas.test 192.168.1.5")]
pub(crate) struct Args {
    /// The host name
    name: HostName,
    /// Its IPv4 or IPv6 address
    address: IpAddr,
}

pub(crate) fn run(context: &Context, args: Args) -> Outcome {
    context.change(|draft| {
        if let Some(address) = draft.config()?.hosts.entries.get(&args.name) {
            return Err(CliError::conflict(
                format!("{} is {address} already", args.name),
                format!("take it away first: sharectl host rm {}", args.name),
            ));
        }
        let address = args.address.to_string();
        Ok(document::set_value(
            &mut draft.document,
            &["hosts", "static"],
            args.name.as_str(),
            address,
        )?)
    })?;
    context.reload(&[Daemon::Hostsync])?;
    context.out.done(
        &format!("{} added: {}", args.name, args.address),
        &serde_json::json!({ "name": args.name, "address": args.address }),
    )
}
