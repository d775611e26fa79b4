//! Published ports in Docker's notation: `[address:]host[:guest][/protocol]`.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

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

/// What is published: ports of the host that lead to ports of a guest.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortSpec {
    /// The host address to listen on; none: the guest's own 127.x.y.z, and
    /// 127.0.0.1 where that is free.
    pub bind: Option<IpAddr>,
    /// Ports on the host.
    pub host: PortRange,
    /// Ports in the guest, as many as `host` has.
    pub guest: PortRange,
    /// TCP unless said otherwise.
    pub protocol: Protocol,
}

impl PortSpec {
    /// The single pairs of (host port, guest port), in order.
    pub fn pairs(&self) -> impl Iterator<Item = (u16, u16)> + use<> {
        (self.host.first..=self.host.last).zip(self.guest.first..=self.guest.last)
    }
}

/// Why a text names no published port.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PortError {
    /// Not of the form at all.
    #[error(
        "\"{0}\" is not of the form [address:]host[:guest][/tcp|/udp], e.g. 8080:80 or 127.0.0.1:5353:53/udp"
    )]
    Form(String),
    /// A port is not 1 to 65535.
    #[error(
        "\"{text}\" in \"{spec}\" is not a port between 1 and 65535, nor a range such as 8000-8010"
    )]
    Port {
        /// The part that should be a port.
        text: String,
        /// The whole text.
        spec: String,
    },
    /// Neither tcp nor udp.
    #[error("\"{text}\" in \"{spec}\" is not a protocol; it is tcp or udp")]
    Protocol {
        /// The part that should be a protocol.
        text: String,
        /// The whole text.
        spec: String,
    },
    /// Host and guest ranges differ in length.
    #[error("\"{spec}\" maps {host} host ports to {guest} guest ports; both must be as many")]
    Lengths {
        /// The whole text.
        spec: String,
        /// Ports on the host.
        host: usize,
        /// Ports in the guest.
        guest: usize,
    },
}

impl FromStr for PortSpec {
    type Err = PortError;

    fn from_str(text: &str) -> Result<Self, PortError> {
        let spec = || text.escape_debug().to_string();
        let (rest, mut protocol) = match text.rsplit_once('/') {
            Some((rest, name)) => (rest, parse_protocol(name, text)?),
            None => (text, Protocol::Tcp),
        };
        let rest = match rest.split_once(':') {
            Some((name @ ("tcp" | "udp"), rest)) if !text.contains('/') => {
                protocol = parse_protocol(name, text)?;
                rest
            }
            _ => rest,
        };
        let (bind, ports) = if let Some(bracketed) = rest.strip_prefix('[') {
            let (address, ports) = bracketed
                .split_once("]:")
                .ok_or_else(|| PortError::Form(spec()))?;
            let address: Ipv6Addr = address.parse().map_err(|_| PortError::Form(spec()))?;
            (Some(IpAddr::V6(address)), ports)
        } else {
            match rest.split_once(':') {
                Some((address, ports)) if address.contains('.') => {
                    let address = address.parse().map_err(|_| PortError::Form(spec()))?;
                    (Some(address), ports)
                }
                _ => (None, rest),
            }
        };
        let (host, guest) = match ports.split_once(':') {
            Some((host, guest)) => (parse_range(host, text)?, parse_range(guest, text)?),
            None => {
                let range = parse_range(ports, text)?;
                (range, range)
            }
        };
        if host.count() != guest.count() {
            return Err(PortError::Lengths {
                spec: spec(),
                host: host.count(),
                guest: guest.count(),
            });
        }
        Ok(Self {
            bind,
            host,
            guest,
            protocol,
        })
    }
}

fn parse_protocol(name: &str, spec: &str) -> Result<Protocol, PortError> {
    match name {
        "tcp" => Ok(Protocol::Tcp),
        "udp" => Ok(Protocol::Udp),
        _ => Err(PortError::Protocol {
            text: name.escape_debug().to_string(),
            spec: spec.escape_debug().to_string(),
        }),
    }
}

fn parse_range(text: &str, spec: &str) -> Result<PortRange, PortError> {
    let bad = || PortError::Port {
        text: text.escape_debug().to_string(),
        spec: spec.escape_debug().to_string(),
    };
    let port = |text: &str| {
        if text.starts_with('+') {
            return Err(bad());
        }
        text.parse::<u16>().ok().filter(|p| *p != 0).ok_or_else(bad)
    };
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let range = PortRange {
        first: port(first)?,
        last: port(last)?,
    };
    if range.first > range.last {
        return Err(bad());
    }
    Ok(range)
}

impl fmt::Display for PortSpec {
    /// The shortest text that reads back as the same value, but for the
    /// guest's port, which is always shown.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.bind {
            Some(IpAddr::V6(address)) => write!(f, "[{address}]:")?,
            Some(IpAddr::V4(address)) => write!(f, "{address}:")?,
            None => {}
        }
        write!(f, "{}:{}", self.host, self.guest)?;
        match self.protocol {
            Protocol::Tcp => Ok(()),
            Protocol::Udp => f.write_str("/udp"),
        }
    }
}

impl Serialize for PortSpec {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PortSpec {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for PortSpec {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "PortSpec".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "description": "[address:]host[:guest][/tcp|/udp], with ranges such as 8000-8010",
            "examples": ["8080:80", "127.0.0.1:5353:53/udp", "tcp:2375"],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn docker_notation_reads_and_prints() {
        for (text, printed) in [
            ("8080:80", "8080:80"),
            ("8080", "8080:8080"),
            ("tcp:2375", "2375:2375"),
            ("udp:53", "53:53/udp"),
            ("127.0.0.1:5353:53/udp", "127.0.0.1:5353:53/udp"),
            ("0.0.0.0:80:80/tcp", "0.0.0.0:80:80"),
            ("[::1]:8080:80", "[::1]:8080:80"),
            ("8000-8010:9000-9010", "8000-8010:9000-9010"),
        ] {
            let spec: PortSpec = text.parse().unwrap();
            assert_eq!(spec.to_string(), printed);
            assert_eq!(printed.parse(), Ok(spec));
        }
    }

    #[test]
    fn bad_notation_says_what_is_wrong() {
        for text in [
            "",
            ":",
            "0",
            "0:80",
            "70000:80",
            "80:",
            ":80",
            "a:b",
            "80-70",
            "1-2:1-3",
            "80/sctp",
            "1.2.3:80:80",
            "[::1:80",
            "80:80:80:80",
            "+80:80",
            "tcp:udp:80",
            "80 :80",
        ] {
            assert!(text.parse::<PortSpec>().is_err(), "{text:?} was accepted");
        }
    }

    #[test]
    fn ranges_pair_up() {
        let spec: PortSpec = "10-12:20-22".parse().unwrap();
        assert_eq!(
            spec.pairs().collect::<Vec<_>>(),
            [(10, 20), (11, 21), (12, 22)]
        );
    }
}
