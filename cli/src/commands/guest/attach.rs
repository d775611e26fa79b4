//! `sharectl guest attach`: a network namespace becomes the guest.

use control::names::GuestName;
use control::paths::Daemon;

use crate::context::Context;
use crate::error::{CliError, Outcome};
use crate::ready::{WaitArgs, Wish};
use crate::tap::{self, Handover, Namespace};
use control::api::LinkPlugged;
use schemars::JsonSchema;
use serde::Serialize;

/// Plug a network namespace in as a guest, through a tap inside it
///
/// For rootless containers and tests: the tap is made in the namespace by this
/// command, with the right you have to it, and handed to netd, which needs none.
/// A DHCP client in the namespace gets the address, or use --configure.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  ip netns add box && sharectl guest attach dev --netns box --configure\n  sharectl guest attach web --netns 4711     # a process in a container"
)]
pub(crate) struct Args {
    /// As in `sharectl guest ls`
    #[arg(value_name = "NAME")]
    guest: GuestName,
    /// The namespace: a path, a name as in `ip netns`, or the id of a process in it
    #[arg(long, value_name = "PATH|NAME|PID")]
    netns: String,
    /// The tap's name inside the namespace
    #[arg(long, default_value = "tap0")]
    ifname: String,
    /// The largest packet in bytes, instead of what the network says
    #[arg(long, value_parser = clap::value_parser!(u16).range(576..))]
    mtu: Option<u16>,
    /// Set the guest's reserved address, the default route and loopback too
    #[arg(long)]
    configure: bool,
    #[command(flatten)]
    wait: WaitArgs,
}

#[derive(Serialize, JsonSchema)]
pub(crate) struct Attached<'a> {
    guest: &'a GuestName,
    interface: &'a str,
    plugged: &'a LinkPlugged,
}

pub(crate) fn run(context: &Context, args: Args) -> Outcome {
    let config = context.config()?;
    let guest = context.guest(&config, &args.guest)?;
    let namespace = Namespace::find(&args.netns)?;
    if args.configure && guest.address.is_none() {
        return Err(CliError::usage(
            format!(
                "--configure needs an address, and guest \"{}\" has none reserved",
                args.guest
            ),
            format!(
                "add address = \"...\" to [guest.{}], or run a DHCP client in the namespace",
                args.guest
            ),
        ));
    }
    if context.is_rehearsal() {
        context.status(Daemon::Netd)?;
        context.would_act(format!(
            "make the tap {} in {} with address {}, and hand it to netd as guest {}",
            args.ifname, args.netns, guest.mac, args.guest
        ));
        if let Some(address) = guest.address.filter(|_| args.configure) {
            context.would_act(format!(
                "set address {address}, the default route and loopback there"
            ));
        }
        return Ok(());
    }
    // Before the namespace is entered: netd's socket may be out of sight from there.
    let handover = Handover::connect(&context.paths.link_socket())?;
    let tap = tap::open(&namespace, &args.ifname, guest.mac)?;
    let plugged = handover.send(&args.guest, &tap.descriptor)?;
    tap.set_mtu(args.mtu.unwrap_or(plugged.mtu))?;
    tap.bring_up()?;
    if args.configure
        && let Some(address) = guest.address
    {
        tap.configure(address, plugged.prefix, plugged.gateway)?;
    }
    args.wait
        .until(context, &[Wish::Guest(args.guest.clone())])?;
    let address = plugged.address.or(guest.address);
    let address_text = address.map_or_else(
        || "its address comes by DHCP".to_owned(),
        |address| format!("address {address}"),
    );
    context.out.done(
        &format!(
            "guest {} plugged in: {} in {}, {} on {}, {address_text}",
            args.guest, args.ifname, args.netns, plugged.mac, plugged.network
        ),
        &Attached {
            guest: &args.guest,
            interface: &args.ifname,
            plugged: &plugged,
        },
    )
}
