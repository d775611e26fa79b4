//! What the packet thread is told of a network: the configuration's values as the engine has them.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use control::config::{Config, Network, NetworkKind};
use control::host_interface::HostInterface;
use control::names::GuestName;
use control::paths::Paths;

use crate::engine::settings::{Ipv6Settings, NetworkSettings, Reach};
use crate::services::egress;

/// What the packet thread is told of a network.
#[must_use]
pub fn packet_settings(config: &Config, network: &Network) -> NetworkSettings {
    settings_with(config, network, None)
}

/// The 9P sockets of a network's guests that may attach a share so.
pub(super) fn share_sockets(
    config: &Config,
    network: &Network,
    paths: &Paths,
) -> BTreeMap<GuestName, PathBuf> {
    config
        .guests_on(&network.name)
        .filter(|guest| config.ninep_shares_of(&guest.name).next().is_some())
        .map(|guest| (guest.name.clone(), paths.guest_ninep_socket(&guest.name)))
        .collect()
}

/// The same with the host's interface, which a bridged network takes its addresses from.
pub(super) fn settings_with(
    config: &Config,
    network: &Network,
    lan: Option<&HostInterface>,
) -> NetworkSettings {
    let reach = match network.kind {
        NetworkKind::Nat => Reach::Nat,
        NetworkKind::HostOnly => Reach::HostOnly,
        NetworkKind::Bridged => return bridged_settings(network, lan),
    };
    let usual = NetworkSettings::new(network.name.as_str(), reach, network.subnet);
    let ipv6 = network
        .ipv6
        .map(|prefix| Ipv6Settings::new(prefix, usual.gateway_mac));
    NetworkSettings {
        ipv6,
        gateway: network.gateway,
        host_internal: network.host_internal,
        host_loopback: network.host_loopback,
        mtu: network.link_mtu(),
        services: network.services.clone(),
        egress: egress::policies(config, network),
        rates: egress::rates(config, network),
        ..usual
    }
}

/// A bridged network has no place of ours: what is nobody's address stands where one has to stand.
pub(super) fn bridged_settings(network: &Network, lan: Option<&HostInterface>) -> NetworkSettings {
    let usual = NetworkSettings::new(network.name.as_str(), Reach::Bridged, network.subnet);
    let address = lan.and_then(|lan| lan.address);
    NetworkSettings {
        subnet: address.map_or(network.subnet, |address| address.trunc()),
        gateway: Ipv4Addr::BROADCAST,
        gateway_mac: lan.map_or(usual.gateway_mac, |lan| lan.mac),
        host_internal: address.map_or(Ipv4Addr::BROADCAST, |address| address.addr()),
        host_loopback: true,
        mtu: match (network.mtu, lan) {
            (None, Some(lan)) => lan.mtu,
            (Some(_), _) | (None, None) => network.link_mtu(),
        },
        tcp_services: Vec::new(),
        ..usual
    }
}
