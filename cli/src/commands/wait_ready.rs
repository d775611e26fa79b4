//! `sharectl wait-ready`: for scripts, which go on when all is there.

use std::str::FromStr;
use std::time::Duration;

use control::names::{GuestName, ShareName};
use schemars::JsonSchema;
use serde::Serialize;

use crate::context::{Context, unknown};
use crate::error::Outcome;
use crate::output::seconds;
use crate::ready::{self, Deadline, Late, Missing, Wish};

/// Wait until daemons, guests, ports and shares are ready
///
/// The daemons always have to answer. A guest is ready when it answers at its address, a port when
/// the host and the guest's own service take connections, a share when a guest has mounted it: each
/// --guest that is named, else any, or the host where it is to be mounted there. Exit code 5, with what is still missing,
/// when the time is over.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  sharectl wait-ready --guest dev --port dev/8080 && curl http://dev.test:8080/\n  sharectl wait-ready --share src --guest dev --timeout 2m\n  sharectl up && sharectl wait-ready"
)]
pub(crate) struct Args {
    /// A guest that shall answer; may be repeated
    #[arg(long = "guest", value_name = "NAME")]
    guests: Vec<GuestName>,
    /// A published port of the host that shall serve; may be repeated
    #[arg(long = "port", value_name = "NAME/PORT")]
    ports: Vec<GuestPort>,
    /// A share that shall be mounted; may be repeated
    #[arg(long = "share", value_name = "NAME")]
    shares: Vec<ShareName>,
    /// How long to wait at most: a number and s, m or h; 0 looks once
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = ready::time)]
    timeout: Duration,
}

/// `NAME/PORT`.
#[derive(Debug, Clone)]
struct GuestPort {
    guest: GuestName,
    port: u16,
}

impl FromStr for GuestPort {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let form = "write it as NAME/PORT, such as dev/8080";
        let (guest, port) = text.split_once('/').ok_or(form)?;
        let guest = guest
            .parse()
            .map_err(|error: control::names::NameError| error.to_string())?;
        let port = port.parse().ok().filter(|port| *port != 0).ok_or(form)?;
        Ok(Self { guest, port })
    }
}

/// Whether all is there, and how long that took or what is missing.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Readiness {
    ready: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    milliseconds: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    missing: Option<Vec<Missing>>,
}

pub(crate) fn run(context: &Context, args: Args) -> Outcome {
    let deadline = Deadline::after(args.timeout);
    let config = context.config()?;
    let of_ports = args.ports.iter().map(|port| &port.guest);
    for guest in args.guests.iter().chain(of_ports) {
        context.guest(&config, guest)?;
    }
    for share in &args.shares {
        if !config.shares.contains_key(share) {
            let known = config.shares.keys().map(ShareName::as_str);
            let (file, add) = (&context.paths.config, "sharectl share add FOLDER");
            return Err(unknown("share", share.as_str(), known, file, add));
        }
    }
    let mut wishes = vec![Wish::Daemons];
    wishes.extend(args.guests.iter().cloned().map(Wish::Guest));
    let ports = args.ports.into_iter();
    wishes.extend(ports.map(|port| Wish::Port(port.guest, port.port)));
    let shares = args.shares.into_iter();
    wishes.extend(shares.map(|share| Wish::Share(share, args.guests.clone())));
    match ready::until(context, &wishes, &deadline) {
        Ok(waited) => {
            let milliseconds = u64::try_from(waited.as_millis()).unwrap_or(u64::MAX);
            context.out.done(
                &format!("ready after {}", seconds(waited.as_secs())),
                &Readiness {
                    ready: true,
                    milliseconds: Some(milliseconds),
                    missing: None,
                },
            )
        }
        Err(late) => {
            if let Late::Missing { missing, .. } = &late
                && context.out.is_json()
            {
                let value = Readiness {
                    ready: false,
                    milliseconds: None,
                    missing: Some(missing.clone()),
                };
                context.out.json(&value)?;
            }
            Err(late.into_error())
        }
    }
}
