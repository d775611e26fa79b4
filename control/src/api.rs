//! The JSON values of the control protocol, version 1.
//!
//! These are the wire's own types: daemons fill them from theirs, so that
//! neither side's insides become a promise.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::{CachePolicy, GuestMount, MountUsers, NetworkKind, SourceKind};
use crate::egress::Verdict;
use crate::mac::MacAddress;
use crate::names::{GuestName, HostName, NetworkName, ShareName, SourceName};
use crate::port::{Endpoint, PortSpec};

/// Which daemon answers, since when, with which file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DaemonStatus {
    /// netd, sharefs or hostsync.
    pub daemon: String,
    /// The program's version.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// RFC 3339.
    pub started: String,
    /// The configuration file it read.
    pub config: PathBuf,
    /// Number of its newest event.
    pub newest_event: u64,
    /// What is wrong now, in the user's words; empty when all is well.
    pub problems: Vec<String>,
}

/// A network as netd runs it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NetworkStatus {
    /// As in `[network.NAME]`.
    pub name: NetworkName,
    /// nat, host-only or bridged.
    #[serde(rename = "type")]
    pub kind: NetworkKind,
    /// Whether DHCP is served.
    pub dhcp: bool,
    /// The host's interface: that of a bridged network, or the host's tap on another one.
    #[serde(default)]
    pub interface: Option<String>,
    /// ADDRESS/PREFIX; of a bridged network the LAN's, as far as the host knows it.
    pub subnet: String,
    /// The gateway's address.
    pub gateway: Ipv4Addr,
    /// The address of host.internal.
    pub host_internal: Ipv4Addr,
    /// The guests' IPv6 prefix, ADDRESS/64; none: IPv4 only.
    pub ipv6: Option<String>,
    /// Guests get NAME.DOMAIN.
    pub domain: HostName,
    /// Guests plugged in now.
    pub guests: usize,
    /// Where VMMs of guests without a name connect.
    pub socket: PathBuf,
    /// Where VMMs connect over TCP.
    pub listen: Option<SocketAddr>,
    /// Resolvers that are asked now.
    pub resolvers: Vec<SocketAddr>,
    /// Counters by name, as in `/metrics`.
    pub counters: BTreeMap<String, u64>,
}

/// A guest: configured, plugged in, or both.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GuestStatus {
    /// Its name; none for a guest the configuration does not name.
    pub name: Option<GuestName>,
    /// The network it is on.
    pub network: NetworkName,
    /// Its Ethernet address.
    pub mac: MacAddress,
    /// Its address now, by lease or reservation.
    pub address: Option<Ipv4Addr>,
    /// Its IPv6 address now, where DHCPv6 gave one.
    #[serde(default)]
    pub ipv6_address: Option<Ipv6Addr>,
    /// Its own 127.x.y.z on the host.
    pub host_address: Option<Ipv4Addr>,
    /// Every name that DNS answers for it.
    pub names: Vec<HostName>,
    /// When its lease ends, RFC 3339.
    pub lease_until: Option<String>,
    /// How it is plugged in; empty when it is not.
    pub links: Vec<LinkStatus>,
}

/// One way a guest's frames reach netd.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LinkStatus {
    /// Number, unique for the life of the daemon.
    pub id: u32,
    /// stream, tcp, tap, dgram or vhost-user.
    pub transport: String,
    /// Frames from the guest.
    pub received_frames: u64,
    /// Bytes from the guest.
    pub received_bytes: u64,
    /// Frames to the guest.
    pub sent_frames: u64,
    /// Bytes to the guest.
    pub sent_bytes: u64,
    /// Frames thrown away on either way.
    pub dropped_frames: u64,
}

/// Whether a guest is there: told when it was asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GuestPresence {
    /// The guest.
    pub guest: GuestName,
    /// Whether a link of it is there.
    pub plugged: bool,
    /// Its IPv4 address, by lease, by reservation, or as it was seen on a network that is bridged.
    pub address: Option<Ipv4Addr>,
    /// Whether it answered ARP at that address just now.
    pub answers: bool,
}

/// A request to publish a port, or to take one back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PortRequest {
    /// The guest it leads to.
    pub guest: GuestName,
    /// In Docker's notation.
    pub spec: PortSpec,
}

/// A port of the host that leads to a guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PortStatus {
    /// The guest it leads to.
    pub guest: GuestName,
    /// In Docker's notation, as it was asked for.
    pub spec: PortSpec,
    /// Where the host listens, or will as soon as the guest's port answers.
    pub listening: Vec<Endpoint>,
    /// The single ports, in order.
    #[serde(default)]
    pub leads: Vec<PortLead>,
    /// Where the host should listen but cannot, and why.
    pub problems: Vec<String>,
}

/// One port of a guest that is published.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PortLead {
    /// The host's port, the chosen one where none was named; none for a unix socket.
    pub host: Option<u16>,
    /// The guest's port.
    pub guest: u16,
    /// What is known of it.
    pub answers: GuestAnswer,
}

/// What netd knows of a guest's port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum GuestAnswer {
    /// It takes connections: so does the host.
    Serves,
    /// The guest says that nobody listens there: the host refuses as well, and asks again.
    Refuses,
    /// The guest says nothing, as behind a firewall: the host takes connections, and they wait.
    Silent,
    /// The guest is not on its network, or has no address there: the host refuses.
    Absent,
    /// UDP has no such answer, or it is not known yet.
    Unknown,
}

/// What a guest is told about a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DnsAnswer {
    /// The network whose guests are told so.
    pub network: NetworkName,
    /// What was asked for, with its final dot.
    pub name: String,
    /// Its type: A, AAAA, PTR, ...
    #[serde(rename = "type")]
    pub kind: String,
    /// NOERROR, NXDOMAIN, SERVFAIL, ...
    pub code: String,
    /// Who says so: guest, record, lease, hosts file, cache, resolver and which, ...
    pub source: String,
    /// The answer; empty where there is no such record.
    pub records: Vec<DnsRecord>,
}

/// A DNS record as a zone file would have it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DnsRecord {
    /// Its owner.
    pub name: String,
    /// Its type.
    #[serde(rename = "type")]
    pub kind: String,
    /// How long it may be kept, seconds.
    pub ttl: u32,
    /// Its data.
    pub data: String,
}

/// A connection or exchange that passes through netd.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FlowStatus {
    /// The network it is on.
    pub network: NetworkName,
    /// tcp, udp or icmp.
    pub protocol: String,
    /// The guest whose link it uses, where it has a name.
    pub guest_name: Option<GuestName>,
    /// The guest's end.
    pub guest: SocketAddr,
    /// The other end as the guest sees it; unspecified where a UDP socket of the guest has many.
    pub remote: SocketAddr,
    /// The name by which the guest learned that address last.
    pub name: Option<String>,
    /// Whether the guest began it; else it came to a published port.
    pub outbound: bool,
    /// The state, in the protocol's words.
    pub state: String,
    /// Seconds since it began.
    pub age: u64,
    /// Seconds without a packet.
    pub idle: u64,
    /// Payload bytes from the guest.
    pub bytes_from_guest: u64,
    /// Payload bytes to the guest.
    pub bytes_to_guest: u64,
    /// Packets from the guest (one of 64 KiB counts once).
    pub packets_from_guest: u64,
    /// Packets to the guest.
    pub packets_to_guest: u64,
    /// Segments sent to the guest once more.
    pub retransmits: u64,
}

/// What would become of a guest's flow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PolicyAnswer {
    /// The guest.
    pub guest: GuestName,
    /// The flow as it was understood.
    pub flow: String,
    /// Allow or deny.
    pub verdict: Verdict,
    /// The rule, or whatever else decides.
    pub reason: String,
    /// For a name: the addresses that the guest knows it by now. With none the answer is about the
    /// name alone, as if DNS had just told an address that no other rule is about.
    pub addresses: Vec<IpAddr>,
}

/// The first message on netd's link socket; a descriptor travels with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LinkHandover {
    /// The guest to plug in.
    pub guest: GuestName,
    /// What the descriptor is.
    pub kind: LinkKind,
    /// Whether each frame has a `virtio_net_hdr_v1` (12 bytes) in front.
    pub vnet_header: bool,
}

/// What a handed-over descriptor is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum LinkKind {
    /// `/dev/net/tun` after TUNSETIFF with IFF_TAP and IFF_NO_PI.
    Tap,
    /// A connected stream socket that speaks QEMU's framing.
    Stream,
}

/// The way of a bridged network to its LAN, handed over with its descriptor: a packet socket (AF_PACKET, SOCK_RAW)
/// that is bound to nothing yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UplinkHandover {
    /// The bridged network.
    pub bridge: NetworkName,
}

/// netd's answer on the link socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum LinkAnswer {
    /// Plugged in.
    Ok(LinkPlugged),
    /// A bridged network has its socket.
    Bridged(NetworkName),
    /// Refused.
    Error(crate::failure::Failure),
}

/// Where a handed-over link went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LinkPlugged {
    /// The link's number.
    pub link: u32,
    /// The network it is on.
    pub network: NetworkName,
    /// The guest's Ethernet address.
    pub mac: MacAddress,
    /// The largest IP packet for this link, in bytes.
    pub mtu: u16,
    /// The address that DHCP will give, where that is known now.
    pub address: Option<Ipv4Addr>,
    /// The gateway's address.
    pub gateway: Ipv4Addr,
    /// Of the network's subnet.
    pub prefix: u8,
}

/// A share as sharefs serves it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ShareStatus {
    /// As in `[share.NAME]`; also the virtiofs tag.
    pub name: ShareName,
    /// On the host.
    pub path: PathBuf,
    /// In the guest.
    pub at: PathBuf,
    /// Every change is refused.
    pub read_only: bool,
    /// How long guests trust what they have seen.
    pub cache: CachePolicy,
    /// Whether guests may attach it by 9P, too.
    #[serde(default)]
    pub ninep: bool,
    /// Guests that have it attached by 9P now.
    #[serde(default)]
    pub ninep_guests: Vec<GuestName>,
    /// Why it cannot be served now.
    pub problem: Option<String>,
    /// Where its guests find it: those that a VMM uses, else those that it should.
    pub devices: Vec<ShareDevice>,
    /// Its mount on the host itself, if it is to have one.
    #[serde(default)]
    pub mount: Option<ShareMount>,
    /// What was done with it, by whom and by which door.
    #[serde(default)]
    pub traffic: Vec<ShareTraffic>,
}

/// What was done with a share by one door, since the process that serves it started: who follows a killed one counts
/// from 0.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ShareTraffic {
    /// Whose door; none for the host's own.
    pub guest: Option<GuestName>,
    /// How the files are reached.
    pub door: ShareDoor,
    /// Requests of the kernel that uses it: a program's read of what that kernel knows is none.
    pub operations: u64,
    /// Bytes read from files.
    pub bytes_read: u64,
    /// Bytes written to files, but for those that the host copied by itself (copy_file_range).
    pub bytes_written: u64,
}

/// A way to a share's files.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum ShareDoor {
    /// A guest's device: its own for the share, and the one for all shares.
    Virtiofs,
    /// 9P, over the network, vsock or the unix socket.
    #[serde(rename = "9p")]
    NineP,
    /// The mount on the host.
    Mount,
}

impl std::fmt::Display for ShareDoor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Virtiofs => "virtiofs",
            Self::NineP => "9p",
            Self::Mount => "mount",
        })
    }
}

/// A share's mount on the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ShareMount {
    /// Where.
    pub path: PathBuf,
    /// Who may enter it.
    pub users: MountUsers,
    /// Whether it is there now.
    pub mounted: bool,
    /// Why it is not.
    pub problem: Option<String>,
    /// Requests answered since the daemon started.
    pub requests: u64,
}

/// A guest's folder on the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GuestMountStatus {
    /// Whose folder.
    pub guest: GuestName,
    /// What is to be mounted where.
    #[serde(flatten)]
    pub mount: GuestMount,
    /// Whether it is there now.
    pub mounted: bool,
    /// Why it is not.
    pub problem: Option<String>,
    /// Whether that is only that the guest, or its server, is not there.
    pub away: bool,
    /// Requests to the guest since the daemon started.
    pub requests: u64,
}

/// A share's device in one guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ShareDevice {
    /// The guest.
    pub guest: GuestName,
    /// Where its VMM connects: `fs.sock` for all shares, or one for this share.
    pub socket: PathBuf,
    /// Whether a VMM is connected now.
    pub connected: bool,
    /// Whether the guest has mounted it: the device, and of one device for all shares this one in it.
    #[serde(default)]
    pub mounted: bool,
    /// Requests answered since the daemon started.
    pub requests: u64,
    /// Requests that could not be understood.
    pub malformed: u64,
}

/// A name, its address, and what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HostLine {
    /// The name.
    pub name: HostName,
    /// Its address.
    pub address: IpAddr,
    /// Who says so, in words.
    pub source: String,
    /// Who says so.
    #[serde(default)]
    pub origin: Option<NameOrigin>,
    /// Files that have the line.
    pub written: Vec<PathBuf>,
    /// Why it is missing elsewhere: "FILE: reason".
    pub left_out: Vec<String>,
    /// Every name below it is meant, and not the name itself: by DNS, for hosts files know no such thing.
    #[serde(default)]
    pub wildcard: bool,
    /// Its source's place among the sources; none: the user wrote it, so it comes first.
    #[serde(default)]
    pub priority: Option<u16>,
    /// Since when it has been claimed, RFC 3339, where that is known.
    #[serde(default)]
    pub since: Option<String>,
    /// When it ends by itself, RFC 3339.
    #[serde(default)]
    pub until: Option<String>,
    /// What would change that it lost.
    #[serde(default)]
    pub hint: Option<String>,
}

/// Who says that a name has an address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum NameOrigin {
    /// `[hosts.static]` in the configuration.
    Static,
    /// Added by request, for a time.
    Added,
    /// A guest of a network.
    Guest {
        /// The guest.
        guest: GuestName,
        /// The network it is on.
        network: NetworkName,
    },
    /// A lease of another DHCP server.
    Lease {
        /// As in `[hosts.source.NAME]`.
        source: SourceName,
        /// The client's Ethernet address.
        client: String,
    },
    /// A container that runs.
    Container {
        /// As in `[hosts.source.NAME]`.
        source: SourceName,
        /// Its name there.
        container: String,
    },
}

/// A name with an address, for a time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NewName {
    /// The name.
    pub name: HostName,
    /// Every name below it, and not the name itself.
    #[serde(default)]
    pub wildcard: bool,
    /// Its address.
    pub address: IpAddr,
    /// For how many seconds.
    pub seconds: u64,
}

/// A name that shall end before its time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EndedName {
    /// The name.
    pub name: HostName,
    /// As it was added.
    #[serde(default)]
    pub wildcard: bool,
}

/// Something that knows names, and how it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SourceStatus {
    /// As in the configuration.
    pub name: SourceName,
    /// Who writes it.
    pub kind: SourceKind,
    /// The file or socket.
    pub path: Option<PathBuf>,
    /// Its place among the sources.
    pub priority: u16,
    /// The domain that its names are below.
    pub suffix: Option<HostName>,
    /// Names that it claims now.
    pub names: usize,
    /// Entries that could not be used when it was read last.
    pub skipped: u64,
    /// How often it was read.
    pub readings: u64,
    /// Since when it cannot be read, RFC 3339; none: it is followed.
    pub away_since: Option<String>,
    /// Why.
    pub reason: Option<String>,
    /// When its names end if it stays away, RFC 3339; none: they do not.
    pub until: Option<String>,
}

/// Where a daemon answers DNS, and for what.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ResolverStatus {
    /// Where it listens; empty: it does not.
    pub listening: Vec<SocketAddr>,
    /// The domains it answers for.
    pub domains: Vec<HostName>,
    /// Questions answered since the start.
    pub answered: u64,
    /// Questions about domains of others.
    pub refused: u64,
    /// Messages that were no questions.
    pub malformed: u64,
    /// Why it does not listen where it should.
    pub problems: Vec<String>,
}

/// How a hosts file differs from what it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HostsDiff {
    /// The file.
    pub file: PathBuf,
    /// Unified diff; empty when nothing is to be done.
    pub diff: String,
    /// Why it cannot be changed.
    pub problem: Option<String>,
}

/// A hosts file that is kept, and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HostsFileStatus {
    /// The file.
    pub file: PathBuf,
    /// Who writes it: "directly", "directly, in place", "by the hosts writer".
    pub way: String,
    /// How many names of ours stand in it.
    pub names: usize,
    /// What its owner may want to know.
    pub notes: Vec<String>,
    /// Why it is not as it should be.
    pub problem: Option<String>,
}

/// A kept version of a hosts file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HostsBackup {
    /// The hosts file.
    pub file: PathBuf,
    /// Its number, for `sharectl host restore --backup`.
    pub number: u64,
    /// When it was kept, RFC 3339.
    pub kept: String,
    /// Whether the file's own lines are these now.
    pub current: bool,
    /// Where it is.
    pub path: PathBuf,
}

/// A hosts file that was brought back or mended, or would be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HostsMended {
    /// The file.
    pub file: PathBuf,
    /// What was found and done, a sentence each.
    pub found: Vec<String>,
    /// Unified diff; empty when nothing is to be done.
    pub diff: String,
    /// Whether it was written, and not only shown.
    pub done: bool,
}

/// What a reload, a sync or a clear did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Changes {
    /// One sentence for each thing done; empty when nothing had to change.
    pub changes: Vec<String>,
    /// One sentence for each thing that should be but could not be done.
    pub problems: Vec<String>,
}
