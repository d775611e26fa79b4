//! The file as it is written: serde's view of the TOML text, with the place of
//! each value, before anything is checked. The JSON Schema for editors is
//! generated from these types.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;
use toml::Spanned;

use crate::egress::{EgressRule, NamePolicy, Verdict};
use crate::mac::MacAddress;
use crate::pattern::PathPattern;
use crate::port::PortSpec;

/// A value and the byte range it was read from.
#[derive(Debug, Clone, Deserialize)]
#[serde(transparent)]
pub(super) struct At<T>(Spanned<T>);

impl<T> At<T> {
    pub(super) fn value(&self) -> &T {
        self.0.get_ref()
    }

    pub(super) fn offset(&self) -> usize {
        self.0.span().start
    }
}

impl<T: PartialEq> PartialEq for At<T> {
    fn eq(&self, other: &Self) -> bool {
        self.value() == other.value()
    }
}

impl<T: Eq> Eq for At<T> {}

impl<T: Ord> PartialOrd for At<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T: Ord> Ord for At<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.value().cmp(other.value())
    }
}

impl<T: JsonSchema> JsonSchema for At<T> {
    fn inline_schema() -> bool {
        T::inline_schema()
    }
    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }
    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        T::json_schema(generator)
    }
}

pub(super) type Table<T> = BTreeMap<At<String>, T>;

/// The configuration of sharectl: networks, guests, shares, hosts files.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(
    default,
    deny_unknown_fields,
    rename_all = "kebab-case",
    expecting = "tables such as [guest.dev]"
)]
pub(super) struct RawConfig {
    /// Networks, by name, as in `[network.vmnet8]`.
    #[schemars(with = "BTreeMap<String, RawNetwork>")]
    pub(super) network: Table<RawNetwork>,
    /// Guests, by name, as in `[guest.dev]`.
    #[schemars(with = "BTreeMap<String, RawGuest>")]
    pub(super) guest: Table<RawGuest>,
    /// Host folders that guests see, by name, as in `[share.d]`.
    #[schemars(with = "BTreeMap<String, RawShare>")]
    pub(super) share: Table<RawShare>,
    /// Hosts files kept in step with the guests' names.
    pub(super) hosts: RawHosts,
}

/// What a repository asks for, in its `sharectl.toml`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(
    default,
    deny_unknown_fields,
    rename_all = "kebab-case",
    expecting = "the keys guest, ports and names, and tables such as [share.src]"
)]
pub(super) struct RawProject {
    /// The guest that it all is for. Default: the only one that is configured.
    pub(super) guest: Option<At<String>>,
    /// Ports of the host that lead to the guest, in Docker's notation.
    #[schemars(with = "Vec<PortSpec>")]
    pub(super) ports: Vec<At<String>>,
    /// Names of the guest, for DNS and the hosts files.
    pub(super) names: Vec<At<String>>,
    /// Folders that the guest sees, by name, as in `[share.shop]`.
    #[schemars(with = "BTreeMap<String, RawProjectShare>")]
    pub(super) share: Table<RawProjectShare>,
    /// What was said when it was accepted.
    #[schemars(skip)]
    pub(super) project: Option<RawAcceptance>,
}

/// Written by `sharectl up --project`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawAcceptance {
    pub(super) folder: At<String>,
    pub(super) guest: At<String>,
    pub(super) outside: bool,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(
    deny_unknown_fields,
    rename_all = "kebab-case",
    expecting = "a table such as [share.shop] with a path"
)]
pub(super) struct RawProjectShare {
    /// The host's folder, relative to the project's.
    pub(super) path: At<String>,
    /// Where the guest mounts it. Default: the same path as on the host.
    pub(super) at: Option<At<String>>,
    /// Refuse every change. Default: false.
    #[serde(default)]
    pub(super) read_only: bool,
    /// What does not exist for the guest: patterns as in gitignore, below the share's folder.
    #[serde(default)]
    #[schemars(with = "Vec<PathPattern>")]
    pub(super) exclude: Vec<At<String>>,
    /// What the guest cannot change: patterns as in gitignore, below the share's folder.
    #[serde(default)]
    #[schemars(with = "Vec<PathPattern>")]
    pub(super) read_only_paths: Vec<At<String>>,
    /// xattr: owners, modes and devices that the host's files cannot have are kept in an
    /// extended attribute; none: they are refused. Default: none.
    #[schemars(with = "Option<super::OwnerStore>")]
    pub(super) owner_store: Option<At<String>>,
    /// How long the guest may trust what it has seen: never, auto (1 s), always. Default: auto.
    #[schemars(with = "Option<super::CachePolicy>")]
    pub(super) cache: Option<At<String>>,
}

impl RawProjectShare {
    /// As a share of the configuration itself would be written; what a project may not say stays at its default.
    pub(super) fn into_share(self) -> RawShare {
        RawShare {
            path: self.path,
            at: self.at,
            read_only: self.read_only,
            exclude: self.exclude,
            read_only_paths: self.read_only_paths,
            names: None,
            case: None,
            guests: None,
            owner: None,
            guest_owner: None,
            owner_store: self.owner_store,
            acl: None,
            writeback: None,
            cache: self.cache,
            mount: None,
            mount_users: None,
            ninep: false,
        }
    }
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(
    default,
    deny_unknown_fields,
    rename_all = "kebab-case",
    expecting = "a table such as [network.vmnet8]"
)]
pub(super) struct RawNetwork {
    /// nat: guests reach the outside through the host; host-only: they reach
    /// each other and the host, nothing else; bridged: they are stations of the
    /// host's LAN. Default: bridged for vmnet0, host-only for vmnet1, else nat.
    #[serde(rename = "type")]
    #[schemars(with = "Option<super::NetworkKind>")]
    pub(super) kind: Option<At<String>>,
    /// The host's interface of a bridged network. Default: that of the default route.
    pub(super) interface: Option<At<String>>,
    /// tap: the host has an interface of the network's name on it, made once by
    /// `sudo sharectl network host-tap create`; loopback: it has none. Default: loopback.
    #[schemars(with = "Option<super::HostAccess>")]
    pub(super) host_access: Option<At<String>>,
    /// An IPv4 subnet for private use, prefix 8 to 29. Default: a /24 in
    /// 192.168.0.0/16 that follows from the network's name.
    #[schemars(with = "Option<ipnet_schema::Ipv4Net>")]
    pub(super) subnet: Option<At<String>>,
    /// The guests' IPv6 prefix: "auto" (one of the network's own, which follows from
    /// this machine and the network's name), "off", or a /64 in fd00::/8. Default: auto.
    pub(super) ipv6: Option<At<String>>,
    /// Guests get NAME.DOMAIN in DNS. Default: test.
    pub(super) domain: Option<At<String>>,
    /// Largest IP packet in bytes that guests are told to send: "auto", or 576 to 65520.
    pub(super) mtu: Option<At<Mtu>>,
    /// Whether guests reach the host's loopback services as host.internal. Default: true.
    pub(super) host_loopback: Option<bool>,
    /// How long a DHCP lease lasts, e.g. "12h"; 60s to 30d. Default: 12h.
    pub(super) lease_time: Option<At<String>>,
    /// Resolvers to forward to, as ADDRESS or ADDRESS:PORT. Default: the host's own.
    pub(super) dns: Option<Vec<At<String>>>,
    /// Time servers that guests are told, by address. Default: none.
    pub(super) ntp: Option<Vec<At<String>>>,
    /// Routes that guests are told beside the default one, as "SUBNET via ADDRESS". Default: none.
    pub(super) routes: Option<Vec<At<String>>>,
    /// Domains that guests search after the network's own. Default: none.
    pub(super) search: Option<Vec<At<String>>>,
    /// Domains that other resolvers answer for, as in `"corp.example" = ["10.1.1.1"]`.
    #[schemars(with = "BTreeMap<String, Texts>")]
    pub(super) dns_rules: Table<At<Texts>>,
    /// Names with their addresses, or with another name, as in `"api.test" = "10.0.0.5"`;
    /// `*.apps.test` is every name below `apps.test`.
    #[schemars(with = "BTreeMap<String, Texts>")]
    pub(super) records: Table<At<Texts>>,
    /// Whether DNS answers names of the host's /etc/hosts. Default: true.
    pub(super) host_names: Option<bool>,
    /// A TCP address on which to take QEMU's stream links. Default: none.
    pub(super) listen: Option<At<String>>,
    /// Services of the host, by the TCP port of host.internal on which guests
    /// find them: ADDRESS:PORT, or unix:/path.
    #[schemars(with = "BTreeMap<String, crate::port::Endpoint>")]
    pub(super) services: Table<At<String>>,
    /// What becomes of a guest's flow that no rule names: allow or deny. Default: allow.
    #[schemars(with = "Option<Verdict>")]
    pub(super) egress: Option<At<String>>,
    /// What guests may reach, the first rule that names a flow decides; a guest's own come before.
    #[schemars(with = "Vec<EgressRule>")]
    pub(super) egress_rules: Vec<At<String>>,
    /// Which names guests resolve whose flows are denied by default: allowed (those that a rule
    /// allows) or all. Default: allowed.
    #[schemars(with = "Option<NamePolicy>")]
    pub(super) egress_names: Option<At<String>>,
}

/// One rate for both ways, or one for each.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(
    untagged,
    expecting = "a rate such as \"100Mbit/s\", or { up = ..., down = ... }"
)]
pub(super) enum RawRateLimit {
    Both(String),
    Each(RawRates),
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawRates {
    /// From the guest.
    pub(super) up: Option<String>,
    /// To the guest.
    pub(super) down: Option<String>,
}

/// One text, or several.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "a text or a list of texts")]
pub(super) enum Texts {
    One(String),
    Many(Vec<String>),
}

impl Texts {
    pub(super) fn list(&self) -> &[String] {
        match self {
            Self::One(text) => std::slice::from_ref(text),
            Self::Many(texts) => texts,
        }
    }
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(untagged)]
pub(super) enum Mtu {
    Bytes(i64),
    Word(String),
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(
    default,
    deny_unknown_fields,
    rename_all = "kebab-case",
    expecting = "a table such as [guest.dev]"
)]
pub(super) struct RawGuest {
    /// The network it is on. Default: the only one there is, else vmnet8.
    pub(super) network: Option<At<String>>,
    /// Its Ethernet address. Default: follows from its name.
    #[schemars(with = "Option<MacAddress>")]
    pub(super) mac: Option<At<String>>,
    /// Its IPv4 address, always the same. Default: from the pool.
    pub(super) address: Option<At<String>>,
    /// Its own address on the host's loopback, 127.x.y.z. Default: follows from its name.
    pub(super) host_address: Option<At<String>>,
    /// How its VM is wired to netd: "auto", "stream", "vhost-user", "dgram". Default: auto.
    #[schemars(with = "Option<super::LinkChoice>")]
    pub(super) link: Option<At<String>>,
    /// How its shares reach its VM: "one" virtiofs device for all, or one "each". Default: one.
    #[schemars(with = "Option<super::Devices>")]
    pub(super) devices: Option<At<String>>,
    /// Further names, for DNS and the hosts files.
    pub(super) names: Vec<At<String>>,
    /// Whether every name below its names leads to it, too, as in `*.dev.test`. Default: false.
    pub(super) wildcard: bool,
    /// Ports of the host that lead to this guest, in Docker's notation.
    #[schemars(with = "Vec<PortSpec>")]
    pub(super) publish: Vec<At<String>>,
    /// What becomes of its flows that no rule names: allow or deny. Default: as its network says.
    #[schemars(with = "Option<Verdict>")]
    pub(super) egress: Option<At<String>>,
    /// What it may reach, before the network's rules.
    #[schemars(with = "Vec<EgressRule>")]
    pub(super) egress_rules: Vec<At<String>>,
    /// How fast it may send and receive through the gateway. Default: no limit.
    pub(super) rate_limit: Option<At<RawRateLimit>>,
    /// Folders of the guest that the host has mounted, by the host's path: the guest's path,
    /// or a table with `path` and options. A 9P server in the guest serves them.
    #[schemars(with = "BTreeMap<String, RawGuestMount>")]
    pub(super) mounts: Table<At<RawGuestMount>>,
    /// The unix socket that its VMM has for the guest's vsock device (Firecracker, cloud-hypervisor).
    pub(super) vsock: Option<At<String>>,
}

/// A folder of a guest: its path, or with options.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(
    untagged,
    expecting = "a path in the guest such as \"/\", or { path = \"/\", owner = \"0:0\" } with the keys path, \
                 export, port, owner, user and read-only"
)]
pub(super) enum RawGuestMount {
    Path(String),
    Table(RawGuestMountTable),
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct RawGuestMountTable {
    /// The folder in the guest.
    pub(super) path: String,
    /// What the guest's server calls it (9P's aname), with `path` below that. Default: the path.
    pub(super) export: Option<String>,
    /// The TCP port of the guest's server. Default: 564.
    pub(super) port: Option<i64>,
    /// UID:GID in the guest, as whom all is done. Default: the daemon's own numbers.
    pub(super) owner: Option<String>,
    /// The name of that user, for servers that know users by name. Default: root for 0, else the number.
    pub(super) user: Option<String>,
    /// Refuse every change. Default: false.
    #[serde(default)]
    pub(super) read_only: bool,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(
    deny_unknown_fields,
    rename_all = "kebab-case",
    expecting = "a table such as [share.src] with a path"
)]
pub(super) struct RawShare {
    /// The host's folder: an absolute path, `~/...`, or a Windows drive such as `D:\`.
    pub(super) path: At<String>,
    /// Where the guest mounts it. Default: the same path as on the host.
    pub(super) at: Option<At<String>>,
    /// Refuse every change. Default: false.
    #[serde(default)]
    pub(super) read_only: bool,
    /// What does not exist for guests: patterns as in gitignore, below the share's folder.
    #[serde(default)]
    #[schemars(with = "Vec<PathPattern>")]
    pub(super) exclude: Vec<At<String>>,
    /// What guests cannot change: patterns as in gitignore, below the share's folder.
    #[serde(default)]
    #[schemars(with = "Vec<PathPattern>")]
    pub(super) read_only_paths: Vec<At<String>>,
    /// plain: the folder holds all names that Linux knows; windows: only those of Windows,
    /// others are written with characters of a private range. Default: plain.
    #[schemars(with = "Option<super::NameRule>")]
    pub(super) names: Option<At<String>>,
    /// exact, or insensitive: names that differ only in case are one. Default: exact.
    #[schemars(with = "Option<super::CaseRule>")]
    pub(super) case: Option<At<String>>,
    /// The guests that see it. Default: all.
    pub(super) guests: Option<Vec<At<String>>>,
    /// map: files of the daemon's user appear as `guest-owner`'s; squash: all
    /// files appear so; pass: owners pass unchanged, which needs root. Default: map.
    #[schemars(with = "Option<OwnerKind>")]
    pub(super) owner: Option<At<String>>,
    /// UID:GID in the guest, for map and squash. Default: the daemon's own numbers.
    pub(super) guest_owner: Option<At<String>>,
    /// xattr: owners, modes and devices that the host's files cannot have are kept in an
    /// extended attribute; none: they are refused. Default: none.
    #[schemars(with = "Option<super::OwnerStore>")]
    pub(super) owner_store: Option<At<String>>,
    /// Guests see, set and heed POSIX access control lists (setfacl). Default: false.
    pub(super) acl: Option<At<bool>>,
    /// The guest's kernel gathers writes and sends them later. Default: false.
    pub(super) writeback: Option<At<bool>>,
    /// How long a guest may trust what it has seen: never, auto (1 s), always. Default: auto.
    #[schemars(with = "Option<super::CachePolicy>")]
    pub(super) cache: Option<At<String>>,
    /// Where the host itself has the folder mounted too: an absolute path or `~/...`.
    pub(super) mount: Option<At<String>>,
    /// own: only the daemon's user may enter the host's mount; all: every user of the
    /// host, as the files' permissions say. Default: own.
    #[schemars(with = "Option<super::MountUsers>")]
    pub(super) mount_users: Option<At<String>>,
    /// Also serve it as 9P2000.L, to every program of its guests. Default: false.
    #[serde(default)]
    pub(super) ninep: bool,
}

#[derive(JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[expect(dead_code, reason = "only its schema is used")]
pub(super) enum OwnerKind {
    Map,
    Pass,
    Squash,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(
    default,
    deny_unknown_fields,
    rename_all = "kebab-case",
    expecting = "a table [hosts]"
)]
pub(super) struct RawHosts {
    /// Files to keep: "auto" is /etc/hosts and, inside WSL, Windows' own; "windows" that alone;
    /// anything else a path. Default: ["auto"].
    pub(super) files: Option<Vec<At<String>>>,
    /// The same names by DNS: "off", "on" (127.0.0.153, port 1053, and 53 where that is allowed),
    /// or ADDRESS or ADDRESS:PORT. Default: off.
    pub(super) dns: Option<At<String>>,
    /// What knows further names, as in `docker = { suffix = "test" }`.
    #[schemars(with = "BTreeMap<String, RawSource>")]
    pub(super) source: Table<RawSource>,
    /// Where names of this host's loopback lead in Windows' file: localhost, wsl, or an address.
    /// Default: localhost.
    pub(super) windows_address: Option<At<String>>,
    /// Names that always stand there, with their addresses.
    #[serde(rename = "static")]
    #[schemars(with = "BTreeMap<String, String>")]
    pub(super) entries: Table<At<String>>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(
    default,
    deny_unknown_fields,
    rename_all = "kebab-case",
    expecting = "a table such as docker = { suffix = \"test\" }"
)]
pub(super) struct RawSource {
    /// Who writes it: netd, dhcpd (also VMware's), dnsmasq, libvirt, bootpd, docker, podman. Default:
    /// the source's name.
    #[serde(rename = "type")]
    #[schemars(with = "Option<super::SourceKind>")]
    pub(super) kind: Option<At<String>>,
    /// Whether it is followed. Default: true.
    pub(super) enabled: Option<bool>,
    /// 0 to 1000: of two sources that claim a name, the larger gets it. Default: 50, netd 100.
    pub(super) priority: Option<At<i64>>,
    /// Its names are made below this domain. Default: test.
    pub(super) suffix: Option<At<String>>,
    /// How long its names stand while it cannot be read: "1h", or "forever". Default: 1h,
    /// netd's for ever.
    pub(super) keep: Option<At<String>>,
    /// The lease file, or the engine's socket. Default: where it usually is.
    pub(super) path: Option<At<String>>,
    /// A container's address: auto, container, published, or an address. Default: auto.
    pub(super) address: Option<At<String>>,
}

/// Schemas for types of other crates.
mod ipnet_schema {
    use std::borrow::Cow;

    pub(super) struct Ipv4Net;

    impl schemars::JsonSchema for Ipv4Net {
        fn schema_name() -> Cow<'static, str> {
            "Ipv4Net".into()
        }
        fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
            schemars::json_schema!({
                "type": "string",
                "pattern": r"^\d+\.\d+\.\d+\.\d+/\d+$",
                "examples": ["192.168.130.0/24"],
            })
        }
    }
}
