//! Where names of the host come from beside netd and the file itself, and who answers for them by DNS.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Config;
use crate::names::{HostName, SourceName};

/// Where the resolver listens unless the file says otherwise: an address of the host's own that no
/// resolver known to us takes (systemd-resolved has 127.0.0.53 and 127.0.0.54).
pub const DNS_ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 153);
/// Any user may listen there; 5353 is mDNS's, whose daemon often has it on all addresses.
pub const DNS_PORT: u16 = 1053;
/// The port that every client knows; listened on as well where that is allowed.
pub const DNS_WELL_KNOWN_PORT: u16 = 53;
/// netd's place among the sources.
pub const NETD_PRIORITY: u16 = 100;
/// The place of every other source.
pub const SOURCE_PRIORITY: u16 = 50;
/// How long names stand whose source cannot be read.
pub const SOURCE_KEEP: Duration = Duration::from_secs(3600);

/// `[hosts.source.NAME]`: something that knows names and addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct HostsSource {
    /// As in the file; `netd` is always there.
    pub name: SourceName,
    /// Who writes it.
    pub kind: SourceKind,
    /// Whether it is followed.
    pub enabled: bool,
    /// Of two sources that claim a name, the one with the larger number gets it.
    pub priority: u16,
    /// Names are made below it, and no others are accepted. netd has its networks' domains.
    pub suffix: Option<HostName>,
    /// How long its names stand when it cannot be read; none: for ever.
    pub keep: Option<Duration>,
    /// The lease file (a `*` in its last part stands for several) or the engine's socket; netd has none.
    pub path: Option<PathBuf>,
    /// Which address of a container is written.
    pub address: ContainerAddress,
}

/// Who writes what a source reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum SourceKind {
    /// sharectl's own networks.
    Netd,
    /// ISC dhcpd, and VMware's, which is one: `dhcpd.leases`.
    Dhcpd,
    /// dnsmasq: `dnsmasq.leases`.
    Dnsmasq,
    /// libvirt: `virbr0.status`.
    Libvirt,
    /// macOS bootpd: `dhcpd_leases`.
    Bootpd,
    /// Docker's API.
    Docker,
    /// podman's API, the Docker-compatible part.
    Podman,
}

impl SourceKind {
    /// What `type` may be.
    pub const WORDS: [(&'static str, Self); 7] = [
        ("netd", Self::Netd),
        ("dhcpd", Self::Dhcpd),
        ("dnsmasq", Self::Dnsmasq),
        ("libvirt", Self::Libvirt),
        ("bootpd", Self::Bootpd),
        ("docker", Self::Docker),
        ("podman", Self::Podman),
    ];

    /// Whether it is asked by a socket and not read as a file.
    #[must_use]
    pub fn is_engine(self) -> bool {
        matches!(self, Self::Docker | Self::Podman)
    }

    /// Where it is on an ordinary machine; none: everywhere else.
    #[must_use]
    pub fn usual_path(self) -> Option<&'static str> {
        match self {
            Self::Netd | Self::Dhcpd => None,
            Self::Dnsmasq => Some("/var/lib/misc/dnsmasq.leases"),
            Self::Libvirt => Some("/var/lib/libvirt/dnsmasq/virbr*.status"),
            Self::Bootpd => Some("/var/db/dhcpd_leases"),
            Self::Docker => Some("/var/run/docker.sock"),
            Self::Podman => Some("/run/podman/podman.sock"),
        }
    }
}

impl fmt::Display for SourceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = Self::WORDS.iter().find(|(_, kind)| kind == self);
        f.pad(word.map_or("", |(word, _)| word))
    }
}

/// Which address of a container is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ContainerAddress {
    /// Its own where this host is on its network, else that of a published port.
    Auto,
    /// What `auto` comes to where a guest publishes the engine's socket: the guest's address on this host, for
    /// containers that publish a port, or are on the guest's own network.
    Guest(Ipv4Addr),
    /// Its own.
    Container,
    /// That of a published port.
    Published,
    /// This one, whatever the engine says: the engine runs in a guest.
    Fixed(IpAddr),
}

/// `[hosts] dns`: where the table is also answered by DNS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
pub struct HostsDns {
    /// Where it listens in any case.
    pub listen: SocketAddr,
    /// Where it listens if that is allowed, for clients that know no other port.
    pub well_known: Option<SocketAddr>,
}

impl HostsDns {
    /// What "on" means.
    pub const USUAL: Self = Self {
        listen: SocketAddr::new(IpAddr::V4(DNS_ADDRESS), DNS_PORT),
        well_known: Some(SocketAddr::new(
            IpAddr::V4(DNS_ADDRESS),
            DNS_WELL_KNOWN_PORT,
        )),
    };
}

impl Config {
    /// The domains that names on the host are made below: of networks and sources, and each of the
    /// user's names that is in none of these. None is inside another.
    #[must_use]
    pub fn host_domains<'n>(
        &'n self,
        more: impl Iterator<Item = &'n HostName>,
    ) -> BTreeSet<HostName> {
        let networks = self.networks.values().map(|network| &network.domain);
        let sources = self.hosts.sources.values().filter(|s| s.enabled);
        let suffixes = sources.filter_map(|source| source.suffix.as_ref());
        let written = self.hosts.entries.keys().chain(self.hosts.wildcards.keys());
        let all: BTreeSet<&HostName> = networks
            .chain(suffixes)
            .chain(written)
            .chain(more)
            .collect();
        let inside = |name: &HostName| {
            name.as_str()
                .match_indices('.')
                .filter_map(|(at, _)| HostName::parse(name.as_str().get(at + 1..)?).ok())
                .any(|parent| all.contains(&parent))
        };
        let outer = all.iter().filter(|name| !inside(name));
        outer.map(|name| (*name).clone()).collect()
    }
}
