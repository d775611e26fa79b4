//! `sharectl host add`: a name that always stands in the hosts files.

use std::net::IpAddr;
use std::time::Duration;

use control::api::{Changes, NewName};
use control::config::RecordName;
use control::paths::Daemon;

use crate::context::Context;
use crate::edit::document;
use crate::error::{CliError, Outcome};
use schemars::JsonSchema;
use serde::Serialize;

/// Add a name with an address of your own to the hosts files, for ever or for a time
///
/// A name for a time is kept by hostsync, not in the configuration; it ends by itself, and a
/// restart does not prolong it. *.NAME, every name below NAME, is for DNS alone.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  sharectl host add nas.test 192.168.1.5\n  sharectl host add demo.test 127.0.0.1 --for 30m"
)]
pub(crate) struct Args {
    /// The host name, or *.NAME
    name: RecordName,
    /// Its IPv4 or IPv6 address
    address: IpAddr,
    /// Take it away by itself after so long: a number and s, m, h or d
    #[arg(long = "for", value_name = "TIME", value_parser = lifetime)]
    lifetime: Option<Duration>,
}

fn lifetime(text: &str) -> Result<Duration, String> {
    control::config::duration(text)
        .filter(|time| !time.is_zero())
        .ok_or_else(|| "write a number and s, m, h or d, such as 30m".to_owned())
}

#[derive(Serialize, JsonSchema)]
pub(crate) struct AddedName<'n> {
    name: &'n RecordName,
    address: IpAddr,
    /// How long it is there, with --for.
    #[serde(skip_serializing_if = "Option::is_none")]
    seconds: Option<u64>,
}

pub(crate) fn run(context: &Context, args: Args) -> Outcome {
    if let Some(lifetime) = args.lifetime {
        return add_for(context, args, lifetime);
    }
    context.change(|draft| {
        let hosts = draft.config()?.hosts;
        let known = if args.name.below {
            hosts.wildcards.get(&args.name.name)
        } else {
            hosts.entries.get(&args.name.name)
        };
        if let Some(address) = known {
            return Err(CliError::conflict(
                format!("{} is {address} already", args.name),
                format!(
                    "take it away first: sharectl host rm {}",
                    quoted(&args.name)
                ),
            ));
        }
        let address = args.address.to_string();
        Ok(document::set_value(
            &mut draft.document,
            &["hosts", "static"],
            &args.name.to_string(),
            address,
        )?)
    })?;
    context.reload(&[Daemon::Hostsync])?;
    context.out.done(
        &format!("{} added: {}", args.name, args.address),
        &AddedName {
            name: &args.name,
            address: args.address,
            seconds: None,
        },
    )
}

fn add_for(context: &Context, args: Args, lifetime: Duration) -> Outcome {
    let seconds = lifetime.as_secs();
    let new = NewName {
        name: args.name.name.clone(),
        wildcard: args.name.below,
        address: args.address,
        seconds,
    };
    let done: Option<Changes> = context.post(Daemon::Hostsync, "/v1/names", &new)??;
    for problem in done.unwrap_or_default().problems {
        context.out.warning(&problem);
    }
    context.out.done(
        &format!(
            "{} added for {}: {}",
            args.name,
            crate::output::seconds(seconds),
            args.address
        ),
        &AddedName {
            name: &args.name,
            address: args.address,
            seconds: Some(seconds),
        },
    )
}

/// The name as a shell's word.
fn quoted(name: &RecordName) -> String {
    if name.below {
        format!("'{name}'")
    } else {
        name.to_string()
    }
}
