//! What a guest of the configuration needs on its command line.

use control::config::{Config, Guest, LARGEST_MTU, LinkChoice, Network};

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

/// `link` says otherwise than the guest's table.
pub(super) fn of(
    context: &Context,
    config: &Config,
    guest: &Guest,
    (nic, link): (Nic, Option<LinkChoice>),
) -> Wiring {
    let network = config.networks.get(&guest.network);
    let shares = config.shares_of(&guest.name).map(|share| ShareSocket {
        tag: share.name.to_string(),
        socket: context.paths.guest_share_socket(&guest.name, &share.name),
    });
    Wiring {
        mac: guest.mac,
        nic,
        link: link.unwrap_or(guest.link),
        vhost_socket: context.paths.guest_vhost_socket(&guest.name),
        dgram_socket: context.paths.guest_dgram_socket(&guest.name),
        dgram_peer: context.paths.guest_dgram_peer(&guest.name),
        net_socket: context.paths.guest_net_socket(&guest.name),
        // A stream link carries the largest frames well, and few large ones cost least.
        host_mtu: Some(network.map_or(LARGEST_MTU, Network::link_mtu)),
        shares: shares.collect(),
    }
}
