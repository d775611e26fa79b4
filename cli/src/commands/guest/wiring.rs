//! What a guest of the configuration needs on its command line.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use control::config::{Config, Devices, Guest, LARGEST_MTU, LinkChoice, Network, SHARES_TAG};

use crate::context::Context;
use crate::limited::{Ran, run};
use crate::vmm::{Nic, Reconnect, ShareSocket, Wiring};

/// A QEMU prints its version in some 30 ms.
const VERSION_LIMIT: Duration = Duration::from_secs(3);

/// The word behind `--link`.
pub(super) fn link_choice(word: &str) -> Result<LinkChoice, String> {
    let known = LinkChoice::ALL.iter().find(|(name, _)| *name == word);
    known.map(|(_, choice)| *choice).ok_or_else(|| {
        let words = LinkChoice::ALL.map(|(name, _)| name);
        format!("one of {}", words.join(", "))
    })
}

/// The word behind `--devices`.
pub(super) fn devices_choice(word: &str) -> Result<Devices, String> {
    let known = Devices::ALL.iter().find(|(name, _)| *name == word);
    known.map(|(_, choice)| *choice).ok_or_else(|| {
        let words = Devices::ALL.map(|(name, _)| name);
        format!("one of {}", words.join(", "))
    })
}

/// What the command line says otherwise than the guest's table.
pub(super) struct Wishes {
    pub nic: Nic,
    pub link: Option<LinkChoice>,
    pub devices: Option<Devices>,
}

/// How the QEMU that will be started is told to connect again. A wrapper is not started to learn it: nobody knows what
/// else it would do.
fn reconnect(program: &OsStr) -> Reconnect {
    let name = Path::new(program).file_name().unwrap_or(program);
    let name = name.to_string_lossy();
    if !name.starts_with("qemu-system-") && name != "kvm" {
        return Reconnect::default();
    }
    let mut line = Command::new(program);
    line.arg("--version");
    match run(line, VERSION_LIMIT) {
        Ran::Ended(output) => Reconnect::of_version(&String::from_utf8_lossy(&output.stdout)),
        Ran::TooLong | Ran::Not(_) => Reconnect::default(),
    }
}

/// What `guest` needs; `program` is the QEMU that is or would be started.
pub(super) fn of(
    context: &Context,
    config: &Config,
    guest: &Guest,
    wishes: &Wishes,
    program: Option<&OsStr>,
) -> Wiring {
    let network = config.networks.get(&guest.network);
    let mut shares: Vec<ShareSocket> = config
        .shares_of(&guest.name)
        .map(|share| ShareSocket {
            tag: share.name.to_string(),
            socket: context.paths.guest_share_socket(&guest.name, &share.name),
        })
        .collect();
    // Without a share the VM's memory need not be shared either.
    if wishes.devices.unwrap_or(guest.devices) == Devices::One && !shares.is_empty() {
        shares = vec![ShareSocket {
            tag: SHARES_TAG.to_owned(),
            socket: context.paths.guest_shares_socket(&guest.name),
        }];
    }
    let link = wishes.link.unwrap_or(guest.link);
    Wiring {
        mac: guest.mac,
        nic: wishes.nic,
        link,
        reconnect: match link {
            LinkChoice::Auto | LinkChoice::VhostUser => program.map(reconnect).unwrap_or_default(),
            // Nothing on the line that connects.
            LinkChoice::Stream | LinkChoice::Dgram => Reconnect::default(),
        },
        vhost_socket: context.paths.guest_vhost_socket(&guest.name),
        dgram_socket: context.paths.guest_dgram_socket(&guest.name),
        dgram_peer: context.paths.guest_dgram_peer(&guest.name),
        net_socket: context.paths.guest_net_socket(&guest.name),
        // A stream link carries the largest frames well, and few large ones cost least.
        host_mtu: Some(network.map_or(LARGEST_MTU, Network::link_mtu)),
        shares,
    }
}
