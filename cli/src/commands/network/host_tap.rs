//! `sudo sharectl network host-tap`: the host's own interface on a network, made once for a user.

use clap::Subcommand;
use control::config::Network;
use control::host_interface;
use control::names::NetworkName;
use rustix::io::Errno;

use super::find;
use crate::context::Context;
use crate::error::{CliError, Outcome};
use crate::sys::{self, Interface};
use schemars::JsonSchema;
use serde::Serialize;
use std::net::Ipv4Addr;

/// The host's interface on a network: make it, remove it, keep it over reboots
#[derive(Debug, Subcommand)]
#[command(after_help = "Example:\n  sudo sharectl network host-tap create vmnet8")]
pub(crate) enum Command {
    Create(Create),
    Rm(Rm),
    Unit(Unit),
}

impl Command {
    pub(crate) fn run(self, context: &Context) -> Outcome {
        match self {
            Self::Create(args) => create(context, &args),
            Self::Rm(args) => remove(context, &args),
            Self::Unit(args) => unit(context, &args),
        }
    }
}

/// Make the interface, give it its address and switch it on; needs root, netd then does not
///
/// It stays until a reboot. What is there already is put right.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  sudo sharectl network host-tap create vmnet8")]
pub(crate) struct Create {
    /// A network with host-access = "tap"
    #[arg(value_name = "NAME")]
    network: NetworkName,
    /// The user id that netd runs as, instead of the one who calls sudo
    #[arg(long, value_name = "UID")]
    owner: Option<u32>,
}

/// Remove the interface
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  sudo sharectl network host-tap rm vmnet8")]
pub(crate) struct Rm {
    /// The network whose interface it is
    #[arg(value_name = "NAME")]
    network: NetworkName,
}

/// Print a systemd unit that makes the interface at each boot
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  sharectl network host-tap unit vmnet8 | sudo tee /etc/systemd/system/sharectl-vmnet8.service\n  sudo systemctl enable sharectl-vmnet8"
)]
pub(crate) struct Unit {
    /// The network whose interface it is
    #[arg(value_name = "NAME")]
    network: NetworkName,
}

/// Who calls sudo, else who we are.
fn caller() -> u32 {
    let sudo = std::env::var("SUDO_UID").ok();
    let called = sudo.and_then(|text| text.parse().ok());
    called.unwrap_or_else(|| rustix::process::getuid().as_raw())
}

#[derive(Serialize, JsonSchema)]
pub(crate) struct MadeTap<'t> {
    interface: &'t str,
    /// The user id that netd runs as.
    owner: u32,
    address: Ipv4Addr,
}

#[derive(Serialize, JsonSchema)]
pub(crate) struct RemovedTap<'t> {
    removed: &'t str,
}

#[derive(Serialize, JsonSchema)]
pub(crate) struct TapUnit {
    /// The unit's text.
    unit: String,
}

fn create(context: &Context, args: &Create) -> Outcome {
    let config = context.config()?;
    let network = find(context, &config, &args.network)?;
    let Some(address) = network.host_tap else {
        return Err(CliError::usage(
            format!("network \"{}\" has no host-access = \"tap\"", network.name),
            format!("write it into [network.{}] first", network.name),
        ));
    };
    let owner = args.owner.unwrap_or_else(caller);
    let name = network.name.as_str();
    let there = host_interface::host_tap(name);
    if context.is_rehearsal() {
        if there.as_ref().is_none_or(|tap| tap.owner != Some(owner)) {
            context.would_act(format!("make the interface {name} for user {owner}"));
        }
        context.would_act(format!("give it {address}, and bring it up"));
        return Ok(());
    }
    // One that netd has open cannot be opened a second time, and is the right user's already.
    if there.as_ref().is_none_or(|tap| tap.owner != Some(owner)) {
        let tap = sys::open_tap(name).map_err(|error| refused(name, "make", &error))?;
        sys::keep_tap(&tap, owner).map_err(|error| refused(name, "keep", &error))?;
    }
    configure(network).map_err(|error| refused(name, "configure", &error))?;
    context.out.done(
        &format!("interface {name} of user {owner} has {address}, netd plugs it in"),
        &MadeTap {
            interface: name,
            owner,
            address,
        },
    )?;
    context.out.note(&format!(
        "it is gone after a reboot; to have it made at each: sharectl network host-tap unit {name}"
    ));
    Ok(())
}

fn configure(network: &Network) -> std::io::Result<()> {
    let interface = Interface::open(network.name.as_str())?;
    if let Some(address) = network.host_tap {
        interface.set_address(address, network.subnet.netmask())?;
        if let Some(six) = network.ipv6_of(address) {
            match interface.add_ipv6(six, 64) {
                // A host without IPv6, or the address is there.
                Err(error)
                    if matches!(
                        Errno::from_io_error(&error),
                        Some(Errno::EXIST | Errno::AFNOSUPPORT | Errno::ACCESS)
                    ) => {}
                other => other?,
            }
        }
    }
    interface.bring_up()
}

fn refused(name: &str, what: &str, error: &std::io::Error) -> CliError {
    let hint = match Errno::from_io_error(error) {
        Some(Errno::PERM | Errno::ACCESS) => {
            format!("this once it needs root: sudo sharectl network host-tap create {name}")
        }
        Some(Errno::BUSY) => "another program has it open".to_owned(),
        Some(Errno::INVAL) => format!("an interface of another kind is called {name}"),
        _ => "the tun module is needed: modprobe tun".to_owned(),
    };
    CliError::failure(format!("cannot {what} the interface {name}: {error}"), hint)
}

fn remove(context: &Context, args: &Rm) -> Outcome {
    let name = args.network.as_str();
    let Some(tap) = host_interface::host_tap(name) else {
        return Err(CliError::failure(
            format!("this host has no tap {name}"),
            "ip -brief link lists the interfaces",
        ));
    };
    if context.is_rehearsal() {
        context.would_act(format!("remove the interface {name}"));
        return Ok(());
    }
    sys::delete_interface(tap.index).map_err(|error| refused(name, "remove", &error))?;
    context.out.done(
        &format!("interface {name} removed"),
        &RemovedTap { removed: name },
    )
}

fn unit(context: &Context, args: &Unit) -> Outcome {
    let config = context.config()?;
    let network = find(context, &config, &args.network)?;
    let program = std::env::current_exe().unwrap_or_else(|_| "sharectl".into());
    let line = format!(
        "{} --config {} network host-tap",
        program.display(),
        context.paths.config.display()
    );
    let text = format!(
        "[Unit]\n\
         Description=The host's interface on sharectl's network {name}\n\
         \n\
         [Service]\n\
         Type=oneshot\n\
         RemainAfterExit=yes\n\
         ExecStart={line} create {name} --owner {owner}\n\
         ExecStop={line} rm {name}\n\
         \n\
         [Install]\n\
         WantedBy=multi-user.target\n",
        name = network.name,
        owner = caller(),
    );
    if context.out.is_json() {
        return context.out.json(&TapUnit { unit: text });
    }
    context.out.text(&text)
}
