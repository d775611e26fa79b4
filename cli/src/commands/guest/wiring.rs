//! What a guest of the configuration needs on its command line.

use control::config::{Config, Devices, Guest, LARGEST_MTU, LinkChoice, Network, SHARES_TAG};

use crate::context::Context;
use crate::vmm::{Nic, ShareSocket, Wiring};

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

pub(super) fn of(context: &Context, config: &Config, guest: &Guest, wishes: &Wishes) -> Wiring {
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
    Wiring {
        mac: guest.mac,
        nic: wishes.nic,
        link: wishes.link.unwrap_or(guest.link),
        vhost_socket: context.paths.guest_vhost_socket(&guest.name),
        dgram_socket: context.paths.guest_dgram_socket(&guest.name),
        dgram_peer: context.paths.guest_dgram_peer(&guest.name),
        net_socket: context.paths.guest_net_socket(&guest.name),
        // A stream link carries the largest frames well, and few large ones cost least.
        host_mtu: Some(network.map_or(LARGEST_MTU, Network::link_mtu)),
        shares,
    }
}
