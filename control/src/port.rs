//! Published ports in Docker's notation: `[address:]host[:guest][/protocol]`, `:guest` for any free port of
//! the host, and `unix:/path:guest` for a unix socket. How the text is read: `port/parse.rs`.

mod parse;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use parse::PortError;

/// A transport protocol that ports belong to.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP (RFC 9293).
    Tcp,
    /// UDP (RFC 768).
    Udp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// Ports `first` to `last`, both inside; never 0, never empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortRange {
    /// The lowest port.
    pub first: u16,
    /// The highest port.
    pub last: u16,
}

impl PortRange {
    /// How many ports there are.
    #[must_use]
    pub fn count(self) -> usize {
        usize::from(self.last - self.first) + 1
    }

    /// Whether the two share a port.
    #[must_use]
    pub fn overlaps(self, other: Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

/// The ports of the host in a [`PortSpec`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HostPorts {
    /// These, one for each port of the guest.
    These(PortRange),
    /// For each port of the guest one that is free.
    Any,
}

/// The host's side of what is published.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HostSide {
    /// TCP or UDP ports.
    Ports {
        /// The address to listen on; none: the guest's own 127.x.y.z, and
        /// `localhost` (127.0.0.1 and ::1) where that is free.
        bind: Option<IpAddr>,
        /// The ports.
        ports: HostPorts,
    },
    /// A unix socket at this absolute path, for its owner alone.
    Unix(PathBuf),
}

/// What is published: a place on the host that leads to ports of a guest.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortSpec {
    /// Where the host listens.
    pub host: HostSide,
    /// Ports in the guest; as many as the host has, if those are named.
    pub guest: PortRange,
    /// TCP unless said otherwise.
    pub protocol: Protocol,
}

impl PortSpec {
    /// The single pairs of host port (none: a free one, or a unix socket) and guest port, in order.
    pub fn pairs(&self) -> impl Iterator<Item = (Option<u16>, u16)> + use<> {
        let first = self.host_ports().map(|range| range.first);
        let guest = self.guest;
        (guest.first..=guest.last)
            .map(move |port| (first.map(|first| first + (port - guest.first)), port))
    }

    /// Whether it is a range of ports.
    #[must_use]
    pub fn is_several(&self) -> bool {
        self.guest.first < self.guest.last
    }

    /// The ports of the host, where they are named.
    #[must_use]
    pub fn host_ports(&self) -> Option<PortRange> {
        match &self.host {
            HostSide::Ports {
                ports: HostPorts::These(range),
                ..
            } => Some(*range),
            HostSide::Ports {
                ports: HostPorts::Any,
                ..
            }
            | HostSide::Unix(_) => None,
        }
    }

    /// The address to listen on, where one is named.
    #[must_use]
    pub fn bind(&self) -> Option<IpAddr> {
        match &self.host {
            HostSide::Ports { bind, .. } => *bind,
            HostSide::Unix(_) => None,
        }
    }

    /// The same for one port of one address.
    #[must_use]
    pub fn single(host: SocketAddr, guest: u16, protocol: Protocol) -> Self {
        let one = |port| PortRange {
            first: port,
            last: port,
        };
        Self {
            host: HostSide::Ports {
                bind: Some(host.ip()),
                ports: HostPorts::These(one(host.port())),
            },
            guest: one(guest),
            protocol,
        }
    }
}

/// Where the host listens: an address and port, or a unix socket (`unix:/path`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Endpoint {
    /// TCP or UDP.
    Address(SocketAddr),
    /// A unix socket of the kind SOCK_STREAM.
    Unix(PathBuf),
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Why a text is no [`Endpoint`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// Neither form.
    #[error("\"{0}\" is neither ADDRESS:PORT, e.g. 127.0.0.1:2375, nor unix:/PATH")]
    Form(String),
    /// A path that no socket can have.
    #[error("\"{path}\" cannot be a unix socket: {reason}")]
    Path {
        /// The path.
        path: String,
        /// Why.
        reason: &'static str,
    },
}

/// `sun_path` has 108 bytes and ends with a zero (unix(7)).
const LONGEST_SOCKET: usize = 107;

/// A path that a unix socket can have.
fn socket_path(text: &str) -> Result<PathBuf, &'static str> {
    if !text.starts_with('/') {
        Err("the path must be absolute")
    } else if text.len() > LONGEST_SOCKET {
        Err("the kernel takes at most 107 bytes")
    } else if text.chars().any(char::is_control) {
        Err("it has a control character")
    } else if Path::new(text).file_name().is_none() || text.ends_with('/') {
        Err("it names a folder")
    } else {
        Ok(PathBuf::from(text))
    }
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        let shown = || text.escape_debug().to_string();
        if let Some(path) = text.strip_prefix("unix:") {
            return socket_path(path)
                .map(Self::Unix)
                .map_err(|reason| EndpointError::Path {
                    path: path.escape_debug().to_string(),
                    reason,
                });
        }
        let address: SocketAddr = text.parse().map_err(|_| EndpointError::Form(shown()))?;
        if address.port() == 0 {
            return Err(EndpointError::Form(shown()));
        }
        Ok(Self::Address(address))
    }
}

impl fmt::Display for PortSpec {
    /// The shortest text that reads back as the same value, but for the
    /// guest's port, which is always shown.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            HostSide::Ports { bind, ports } => {
                match bind {
                    Some(IpAddr::V6(address)) => write!(f, "[{address}]:")?,
                    Some(IpAddr::V4(address)) => write!(f, "{address}:")?,
                    None => {}
                }
                match ports {
                    HostPorts::These(range) => write!(f, "{range}:{}", self.guest)?,
                    HostPorts::Any => write!(f, ":{}", self.guest)?,
                }
            }
            HostSide::Unix(path) => write!(f, "unix:{}:{}", path.display(), self.guest)?,
        }
        match self.protocol {
            Protocol::Tcp => Ok(()),
            Protocol::Udp => f.write_str("/udp"),
        }
    }
}

macro_rules! as_text {
    ($type:ty) => {
        impl Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

as_text!(PortSpec);
as_text!(Endpoint);

impl JsonSchema for PortSpec {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "PortSpec".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "description": "[address:]host[:guest][/tcp|/udp], with ranges such as 8000-8010; :guest for any free port; unix:/path:guest",
            "examples": ["8080:80", "127.0.0.1:5353:53/udp", "tcp:2375", ":80", "unix:/run/user/1000/docker.sock:2375"],
        })
    }
}

impl JsonSchema for Endpoint {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Endpoint".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "description": "ADDRESS:PORT or unix:/path",
            "examples": ["127.0.0.1:2375", "unix:/run/user/1000/docker.sock"],
        })
    }
}
