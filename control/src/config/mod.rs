//! The configuration: one TOML file, read by the command and each daemon.
//!
//! [`Config::parse`] is pure: text in, checked values or every [`Problem`] out.
//! What depends on the machine (a share's folder that is not there) is asked
//! apart by [`Config::missing_folders`], so that a drive that is not mounted
//! now does not stop everything else.

mod dns;
mod duration;
mod hosts;
mod problem;
mod project;
mod raw;
mod resolve;
mod share;
#[cfg(test)]
mod tests;
mod texts;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::{Ipv4Net, Ipv6Net};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::egress::{EgressRule, NamePolicy, Verdict};
use crate::mac::MacAddress;
use crate::names::{
    GuestName, HostName, NameError, NetworkName, ProjectName, ShareName, SourceName,
};
use crate::pattern::PathPattern;
use crate::port::{Endpoint, PortSpec};
use crate::rate::RateLimit;
use crate::translation::Machine;
use crate::translation::mountinfo::MountTable;
use crate::translation::wsl_conf::WslConf;

pub use dns::{DnsSettings, RecordData, RecordName};
pub use duration::duration;
pub use hosts::{
    ContainerAddress, DNS_ADDRESS, DNS_PORT, DNS_WELL_KNOWN_PORT, HostsDns, HostsSource,
    NETD_PRIORITY, SOURCE_KEEP, SOURCE_PRIORITY, SourceKind,
};
pub use problem::{ConfigErrors, Problem};
pub use project::{Acceptance, PROJECT_FILE, Project, guest_of, own_text, project_schema};
pub use share::{CaseRule, NameRule, OwnerStore};
pub use texts::{
    LARGEST_PROJECT, MOST_PROJECTS, ProjectText, Texts, differences, projects_folder, read_text,
};

/// The network that stands where the file names none.
pub const DEFAULT_NETWORK: &str = "vmnet8";
/// Guests get NAME.test unless the network says otherwise (RFC 6761 section 6.2).
pub const DEFAULT_DOMAIN: &str = "test";
/// The virtiofs tag of the device that carries all of a guest's shares.
pub const SHARES_TAG: &str = "sharectl";
/// Where a guest mounts that device: each share is a folder in it.
pub const SHARES_FOLDER: &str = "/run/sharectl";
/// Twelve hours, as most home routers.
pub const DEFAULT_LEASE_TIME: Duration = Duration::from_secs(12 * 3600);
/// The largest MTU a guest can be given: 64 KiB less room for the link header, as passt's.
pub const LARGEST_MTU: u16 = 65520;
/// Where 9P is at home (IANA: 9pfs); guests find their shares there, at the gateway.
pub const NINEP_PORT: u16 = 564;
/// What every Ethernet carries (IEEE 802.3).
const ETHERNET_MTU: u16 = 1500;

/// Everything the file says, checked and complete.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Config {
    /// At least one: [`DEFAULT_NETWORK`] where the file names none.
    pub networks: BTreeMap<NetworkName, Network>,
    /// The guests the file names; others may still come and get an address.
    pub guests: BTreeMap<GuestName, Guest>,
    /// Host folders that guests see.
    pub shares: BTreeMap<ShareName, Share>,
    /// Hosts files to keep.
    pub hosts: Hosts,
    /// What was accepted of repositories; their shares, ports and names are among those above.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub projects: BTreeMap<ProjectName, Project>,
}

/// What guests of a network may reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum NetworkKind {
    /// Each other, the host, and the outside through the host's sockets (VMware's vmnet8).
    Nat,
    /// Each other and the host (VMware's vmnet1).
    HostOnly,
    /// The host's own LAN, as stations of it with addresses from its DHCP server (VMware's vmnet0).
    Bridged,
}

/// How the host itself is on a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum HostAccess {
    /// Not at all: guests reach its loopback as host.internal, it reaches guests by published ports.
    Loopback,
    /// By an interface of the network's name, with [`Network::host_tap`] on it.
    Tap,
}

impl std::fmt::Display for HostAccess {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Loopback => "loopback",
            Self::Tap => "tap",
        })
    }
}

impl std::fmt::Display for NetworkKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Nat => "nat",
            Self::HostOnly => "host-only",
            Self::Bridged => "bridged",
        })
    }
}

/// A network that guests are plugged into.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Network {
    /// As in `[network.NAME]`.
    pub name: NetworkName,
    /// nat, host-only or bridged.
    pub kind: NetworkKind,
    /// The host's interface of a bridged network; none: that of the default route.
    pub interface: Option<String>,
    /// Prefix 8 to 29. A bridged network has no addresses of its own: this is 0.0.0.0/0 then, and the places
    /// below are 0.0.0.0.
    #[schemars(with = "String")]
    pub subnet: Ipv4Net,
    /// The first address: ARP, DHCP, DNS and echo answer there.
    pub gateway: Ipv4Addr,
    /// The last usable address: the host's loopback services, as host.internal.
    pub host_internal: Ipv4Addr,
    /// Whether the host has an interface on the network.
    pub host_access: HostAccess,
    /// The host's address on that interface: the last but one.
    pub host_tap: Option<Ipv4Addr>,
    /// Addresses for guests without a reservation: the upper half of the subnet.
    pub pool: RangeInclusive<Ipv4Addr>,
    /// The guests' IPv6 prefix, a /64; none: the network has IPv4 only.
    #[schemars(with = "Option<String>")]
    pub ipv6: Option<Ipv6Net>,
    /// Guests get NAME.DOMAIN.
    pub domain: HostName,
    /// Largest IP packet in bytes; none: as large as each link carries well.
    pub mtu: Option<u16>,
    /// Whether [`Network::host_internal`] leads to the host's loopback.
    pub host_loopback: bool,
    /// The term of a DHCP lease.
    pub lease_time: Duration,
    /// Resolvers to forward to; empty: the host's own, followed as they change.
    pub dns: Vec<SocketAddr>,
    /// Time servers that guests are told.
    pub ntp: Vec<IpAddr>,
    /// Routes that guests are told beside the default one.
    pub routes: Vec<Route>,
    /// Domains that guests search after [`Network::domain`].
    pub search: Vec<HostName>,
    /// Records, split rules, the host's own names.
    pub names: DnsSettings,
    /// Where to take QEMU's stream links over TCP.
    pub listen: Option<SocketAddr>,
    /// Services of the host, by the TCP port of [`Network::host_internal`].
    pub services: BTreeMap<u16, Endpoint>,
    /// What its guests may reach.
    pub egress: NetworkEgress,
}

/// What the guests of a network may reach.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct NetworkEgress {
    /// What becomes of a flow that no rule names.
    pub default: Verdict,
    /// In order, after the guest's own; the first that names a flow decides.
    pub rules: Vec<EgressRule>,
    /// Which names a guest resolves whose flows are refused by default.
    pub names: NamePolicy,
}

/// What one guest may reach, where that differs from its network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct GuestEgress {
    /// What becomes of a flow that no rule names; none: as the network says.
    pub default: Option<Verdict>,
    /// In order, before the network's.
    pub rules: Vec<EgressRule>,
}

impl Network {
    /// The IPv6 side of [`Network::gateway`]: PREFIX::1.
    #[must_use]
    pub fn gateway_ipv6(&self) -> Option<Ipv6Addr> {
        self.ipv6.map(|prefix| in_prefix(prefix, 1))
    }

    /// The IPv6 side of [`Network::host_internal`]: PREFIX::2.
    #[must_use]
    pub fn host_internal_ipv6(&self) -> Option<Ipv6Addr> {
        self.ipv6.map(|prefix| in_prefix(prefix, 2))
    }

    /// The largest IP packet that a link of it is told to carry: Ethernet's 1500 where the packets go out as
    /// they are.
    #[must_use]
    pub fn link_mtu(&self) -> u16 {
        self.mtu.unwrap_or(match self.kind {
            NetworkKind::Nat | NetworkKind::HostOnly => LARGEST_MTU,
            NetworkKind::Bridged => ETHERNET_MTU,
        })
    }

    /// The IPv6 address that belongs to an IPv4 address of this network: the prefix with the IPv4
    /// address in its last 32 bits, so that A and AAAA of a guest always agree.
    #[must_use]
    pub fn ipv6_of(&self, address: Ipv4Addr) -> Option<Ipv6Addr> {
        self.ipv6
            .map(|prefix| in_prefix(prefix, u32::from(address)))
    }
}

fn in_prefix(prefix: Ipv6Net, low: u32) -> Ipv6Addr {
    (u128::from(prefix.network()) | u128::from(low)).into()
}

/// A route for guests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Route {
    /// What lies behind it.
    #[schemars(with = "String")]
    pub destination: Ipv4Net,
    /// The station on the network that leads there.
    pub via: Ipv4Addr,
}

impl std::fmt::Display for Route {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} via {}", self.destination, self.via)
    }
}

/// A guest that the file names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Guest {
    /// As in `[guest.NAME]`.
    pub name: GuestName,
    /// One of [`Config::networks`].
    pub network: NetworkName,
    /// Given, or derived from the name.
    pub mac: MacAddress,
    /// Reserved for it; none: from the pool.
    pub address: Option<Ipv4Addr>,
    /// Its own 127.x.y.z on the host, where its ports are published.
    pub host_address: Ipv4Addr,
    /// How its VM is wired.
    #[serde(skip_serializing_if = "LinkChoice::is_auto")]
    pub link: LinkChoice,
    /// How its shares reach its VM.
    #[serde(skip_serializing_if = "Devices::is_one")]
    pub devices: Devices,
    /// Further names.
    pub names: Vec<HostName>,
    /// Whether every name below its names leads to it, too.
    pub wildcard: bool,
    /// Ports of the host that lead to it.
    pub publish: Vec<PortSpec>,
    /// What it may reach.
    pub egress: GuestEgress,
    /// How fast.
    pub rate_limit: RateLimit,
    /// Folders of it that the host has mounted.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<GuestMount>,
    /// The unix socket that its VMM has for the guest's vsock device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vsock: Option<PathBuf>,
}

impl Guest {
    /// Where the VMM leads what the guest sends to a vsock port of the host.
    #[must_use]
    pub fn vsock_listener(&self, port: u16) -> Option<PathBuf> {
        let mut name = self.vsock.clone()?.into_os_string();
        name.push(format!("_{port}"));
        Some(name.into())
    }

    /// The guest's TCP ports that [`Guest::mounts`] are served at, each once; none where they go by vsock.
    #[must_use]
    pub fn mount_ports(&self) -> BTreeSet<u16> {
        let by_network = self.mounts.iter().filter(|_| self.vsock.is_none());
        by_network.map(|mount| mount.port).collect()
    }
}

/// A folder of a guest on the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GuestMount {
    /// The same as `at`, as the file has it.
    #[serde(skip)]
    pub key: String,
    /// Where on the host: absolute.
    pub at: PathBuf,
    /// The folder in the guest, absolute.
    pub path: PathBuf,
    /// What the guest's server is asked for (aname).
    pub export: String,
    /// The names below that.
    pub below: Vec<String>,
    /// The TCP port of the guest's server.
    pub port: u16,
    /// User and group in the guest, as whom all is done.
    pub owner: (u32, u32),
    /// That user's name.
    pub user: String,
    /// Every change is refused.
    pub read_only: bool,
}

/// How frames travel between a VM and netd.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum LinkChoice {
    /// vhost-user where the VM's memory is shared anyway, else stream.
    #[default]
    Auto,
    /// Frames over a stream socket.
    Stream,
    /// Queues in the VM's memory, which has to be shared.
    VhostUser,
    /// A frame a datagram.
    Dgram,
}

impl LinkChoice {
    /// What `link` may be.
    pub const ALL: [(&'static str, Self); 4] = [
        ("auto", Self::Auto),
        ("stream", Self::Stream),
        ("vhost-user", Self::VhostUser),
        ("dgram", Self::Dgram),
    ];

    fn is_auto(&self) -> bool {
        *self == Self::Auto
    }
}

/// How a guest's shares reach its VM.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Devices {
    /// One virtiofs device carries them all; they come and go while the VM runs.
    #[default]
    One,
    /// A virtiofs device each, from the VM's start on.
    Each,
}

impl Devices {
    /// What `devices` may be.
    pub const ALL: [(&'static str, Self); 2] = [("one", Self::One), ("each", Self::Each)];

    fn is_one(&self) -> bool {
        *self == Self::One
    }
}

/// A host folder that guests see.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Share {
    /// As in `[share.NAME]`; also the virtiofs tag.
    pub name: ShareName,
    /// Absolute, on the host.
    pub path: PathBuf,
    /// Absolute, in the guest.
    pub at: PathBuf,
    /// Every change is refused.
    pub read_only: bool,
    /// What does not exist for guests.
    pub exclude: Vec<PathPattern>,
    /// What guests cannot change.
    pub read_only_paths: Vec<PathPattern>,
    /// Which names the host's folder can hold.
    pub names: NameRule,
    /// Whether names that differ only in case are one.
    pub case: CaseRule,
    /// The guests that see it; none: all.
    pub guests: Option<Vec<GuestName>>,
    /// How owners appear.
    pub owner: Owner,
    /// Where owners, modes and devices are kept that the host's files cannot have.
    pub owner_store: OwnerStore,
    /// Access control lists are seen, set and heeded.
    pub acl: bool,
    /// The guest's kernel gathers writes, and size and times of a file are its own.
    pub writeback: bool,
    /// How long a guest may trust what it has seen.
    pub cache: CachePolicy,
    /// Where the host has it mounted too.
    pub mount: Option<HostMount>,
    /// Also served as 9P2000.L, on TCP port [`NINEP_PORT`] of the gateway.
    pub ninep: bool,
    /// The project's folder, for a share that must not lead out of it, symbolic links included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub within: Option<PathBuf>,
    /// The line of `path` in the file, from 1, for messages.
    #[serde(skip)]
    pub line: usize,
}

/// A share as a mount on the host itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct HostMount {
    /// Absolute.
    pub path: PathBuf,
    /// Who may enter it.
    pub users: MountUsers,
}

/// Who may enter a mount on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum MountUsers {
    /// The daemon's user only; root is kept out too, unless it is the daemon's user.
    Own,
    /// Everybody, as the files' permissions say.
    All,
}

/// How file owners appear in the guest. Numbers are the guest's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum Owner {
    /// Files of the daemon's user and group appear as these, and the other way round.
    Map {
        /// User id in the guest.
        uid: u32,
        /// Group id in the guest.
        gid: u32,
    },
    /// Owners pass unchanged, both ways; needs root on the host.
    Pass,
    /// All files appear as these.
    Squash {
        /// User id in the guest.
        uid: u32,
        /// Group id in the guest.
        gid: u32,
    },
}

/// How long a guest may trust names and attributes that it has seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum CachePolicy {
    /// Not at all: changes on the host are seen at once, every access asks.
    Never,
    /// A second: the default.
    Auto,
    /// Until the guest itself changes them: fastest, right only where nobody else writes.
    Always,
}

/// Hosts files and the names that always stand there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Hosts {
    /// The files to keep.
    pub files: Vec<HostsFile>,
    /// Where a name of this host's loopback leads in Windows' file.
    pub windows_address: WindowsAddress,
    /// `[hosts.static]`.
    pub entries: BTreeMap<HostName, IpAddr>,
    /// The `*.NAME` of `[hosts.static]`, by NAME: for DNS alone.
    pub wildcards: BTreeMap<HostName, IpAddr>,
    /// `[hosts.source]`, and netd.
    pub sources: BTreeMap<SourceName, HostsSource>,
    /// Where the names are answered by DNS; none: nowhere.
    pub dns: Option<HostsDns>,
}

/// A hosts file to keep.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum HostsFile {
    /// The system's own: /etc/hosts, and inside WSL Windows' too.
    Auto,
    /// Windows' own, from inside WSL.
    Windows,
    /// This one.
    Path(PathBuf),
}

/// How Windows reaches what listens on the loopback of a WSL distribution.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum WindowsAddress {
    /// By 127.0.0.1, which Windows forwards.
    #[default]
    Localhost,
    /// By the distribution's own address, whichever it is.
    Wsl,
    /// By this one.
    Address(IpAddr),
}

impl std::fmt::Display for WindowsAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Localhost => f.write_str("localhost"),
            Self::Wsl => f.write_str("wsl"),
            Self::Address(address) => address.fmt(f),
        }
    }
}

/// What a file's meaning depends on beside its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Surroundings {
    /// What `~` stands for.
    pub home: Option<PathBuf>,
    /// The default of `guest-owner`.
    pub uid: u32,
    /// The default of `guest-owner`.
    pub gid: u32,
    /// What tells this machine from others (machine-id(5)): prefixes of its own follow from it.
    pub machine: Option<String>,
    /// Where Windows' drives are mounted, by letter in lower case; of one that is not here, nothing is known.
    pub drives: BTreeMap<char, PathBuf>,
}

impl Surroundings {
    /// This process's user and `$HOME`.
    #[must_use]
    pub fn of_process() -> Self {
        Self {
            home: std::env::var_os("HOME").map(PathBuf::from),
            uid: rustix::process::getuid().as_raw(),
            gid: rustix::process::getgid().as_raw(),
            machine: machine_id(),
            drives: mounted_drives(),
        }
    }
}

/// None where the system keeps no such file: prefixes then follow from the networks' names alone.
fn machine_id() -> Option<String> {
    let text = std::fs::read_to_string("/etc/machine-id").ok()?;
    let id = text.trim();
    (!id.is_empty()).then(|| id.to_owned())
}

/// None where the system tells nothing of its mounts.
fn mounted_drives() -> BTreeMap<char, PathBuf> {
    let mounts = std::fs::read("/proc/self/mountinfo").unwrap_or_default();
    let mounts = MountTable::parse(&mounts);
    if !mounts.has_windows() {
        return BTreeMap::new();
    }
    let wsl = std::fs::read_to_string(WslConf::PLACE).unwrap_or_default();
    Machine::new(mounts, WslConf::parse(&wsl), None).drives()
}

impl Config {
    /// Reads and checks the file at `path`. A file that is not there reads as
    /// an empty one: the default network, no guests, no shares.
    ///
    /// # Errors
    /// Every [`Problem`] of the file, or that it cannot be read.
    pub fn load(path: &Path) -> Result<Self, ConfigErrors> {
        Self::load_in(path, &Surroundings::of_process())
    }

    /// As [`Config::load`], with what another machine has around it.
    ///
    /// # Errors
    /// As there.
    pub fn load_in(path: &Path, surroundings: &Surroundings) -> Result<Self, ConfigErrors> {
        Self::of_texts(&Texts::read(path)?, path, surroundings)
    }

    /// Checks all texts of a configuration; `file` is what the user's own is called in messages.
    ///
    /// # Errors
    /// Every [`Problem`] of the texts.
    pub fn of_texts(
        texts: &Texts,
        file: &Path,
        surroundings: &Surroundings,
    ) -> Result<Self, ConfigErrors> {
        resolve::resolve(texts, surroundings).map_err(|problems| ConfigErrors {
            file: file.to_owned(),
            problems,
        })
    }

    /// Checks a text alone, without projects; `file` is only for messages.
    ///
    /// # Errors
    /// Every [`Problem`] of the text.
    pub fn parse(
        text: &str,
        file: &Path,
        surroundings: &Surroundings,
    ) -> Result<Self, ConfigErrors> {
        Self::of_texts(&Texts::of_main(text), file, surroundings)
    }

    /// The shares that a guest sees, in the order of their names.
    pub fn shares_of<'c>(&'c self, guest: &'c GuestName) -> impl Iterator<Item = &'c Share> {
        self.shares
            .values()
            .filter(move |s| s.guests.as_ref().is_none_or(|g| g.contains(guest)))
    }

    /// The guests that see a share, in the order of their names.
    pub fn guests_of<'c>(&'c self, share: &'c Share) -> impl Iterator<Item = &'c Guest> {
        let seen = move |guest: &&Guest| {
            share
                .guests
                .as_ref()
                .is_none_or(|g| g.contains(&guest.name))
        };
        self.guests.values().filter(seen)
    }

    /// Those of them that it may attach by 9P.
    pub fn ninep_shares_of<'c>(&'c self, guest: &'c GuestName) -> impl Iterator<Item = &'c Share> {
        self.shares_of(guest).filter(|share| share.ninep)
    }

    /// The guests on a network, in the order of their names.
    pub fn guests_on<'c>(&'c self, network: &'c NetworkName) -> impl Iterator<Item = &'c Guest> {
        self.guests.values().filter(move |g| g.network == *network)
    }

    /// All names of a guest: NAME.DOMAIN first, then its further names.
    ///
    /// # Errors
    /// None for a guest of this configuration: the file was refused otherwise.
    pub fn names_of(&self, guest: &Guest) -> Result<Vec<HostName>, NameError> {
        let domain = match self.networks.get(&guest.network) {
            Some(network) => network.domain.clone(),
            None => HostName::parse(DEFAULT_DOMAIN)?,
        };
        let mut names = vec![guest.name.as_host_name().under(&domain)?];
        for name in &guest.names {
            if !names.contains(name) {
                names.push(name.clone());
            }
        }
        Ok(names)
    }

    /// The project that a share came with.
    #[must_use]
    pub fn project_of(&self, share: &ShareName) -> Option<&Project> {
        let mut projects = self.projects.values();
        projects.find(|project| project.shares.contains(share))
    }

    /// The project that publishes a port.
    #[must_use]
    pub fn project_of_port(&self, guest: &GuestName, spec: &PortSpec) -> Option<&Project> {
        let mut projects = self.projects.values();
        projects.find(|project| project.guest == *guest && project.ports.contains(spec))
    }

    fn removal(&self, share: &Share) -> String {
        match self.project_of(&share.name) {
            Some(project) => format!("down --project {}", project.name),
            None => format!("share rm {}", share.name),
        }
    }

    /// Shares whose folder is not there now, as problems of `file`.
    #[must_use]
    pub fn missing_folders(&self, file: &Path) -> Option<ConfigErrors> {
        let problems: Vec<_> = self
            .shares
            .values()
            .filter(|share| !share.path.is_dir())
            .map(|share| Problem {
                file: self
                    .project_of(&share.name)
                    .map(|project| project.file.clone()),
                line: Some(share.line),
                message: format!(
                    "share \"{}\": {} is not a folder on this host",
                    share.name,
                    share.path.display()
                ),
                hint: Some(format!(
                    "mkdir -p {0}, or mount the drive, or: sharectl {1}",
                    share.path.display(),
                    self.removal(share)
                )),
            })
            .collect();
        (!problems.is_empty()).then(|| ConfigErrors {
            file: file.to_owned(),
            problems,
        })
    }
}

/// The JSON Schema of the file, for editors and other programs.
#[must_use]
pub fn schema() -> serde_json::Value {
    let mut schema = schemars::schema_for!(raw::RawConfig);
    schema.insert("title".to_owned(), "sharectl configuration".into());
    schema.to_value()
}
