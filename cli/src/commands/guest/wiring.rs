//! What a guest of the configuration needs on its command line.

use control::config::{Config, Guest, LARGEST_MTU};

use crate::context::Context;
use crate::vmm::{Nic, ShareSocket, Wiring};

pub(super) fn of(context: &Context, config: &Config, guest: &Guest, nic: Nic) -> Wiring {
    let network = config.networks.get(&guest.network);
    let shares = config.shares_of(&guest.name).map(|share| ShareSocket {
        tag: share.name.to_string(),
        socket: context.paths.guest_share_socket(&guest.name, &share.name),
    });
    Wiring {
        mac: guest.mac,
        nic,
        net_socket: context.paths.guest_net_socket(&guest.name),
        // A stream link carries the largest frames well, and few large ones cost least.
        host_mtu: Some(
            network
                .and_then(|network| network.mtu)
                .unwrap_or(LARGEST_MTU),
        ),
        shares: shares.collect(),
    }
}
