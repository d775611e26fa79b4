//! Reading a published port: text in, [`PortSpec`] or the exact complaint out.

use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use super::{HostPorts, HostSide, PortRange, PortSpec, Protocol, socket_path};

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
    /// Where the address belongs, something else stands.
    #[error("\"{text}\" in \"{spec}\" is not an IP address, such as 127.0.0.1 or [::1]")]
    Address {
        /// The part that should be an address.
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
    #[error(
        "\"{spec}\" maps {host} host ports to {guest} of the guest; both must be as many, for each host port leads to one port (any free host port: \":{first}\")"
    )]
    Lengths {
        /// The whole text.
        spec: String,
        /// Ports on the host.
        host: usize,
        /// Ports in the guest.
        guest: usize,
        /// The first of the guest's.
        first: u16,
    },
    /// A unix socket that cannot be.
    #[error(
        "the unix socket in \"{spec}\" cannot be: {reason}, e.g. unix:/run/user/1000/docker.sock:2375"
    )]
    Unix {
        /// The whole text.
        spec: String,
        /// Why.
        reason: &'static str,
    },
}

/// The text as messages repeat it.
struct Source<'t>(&'t str);

impl Source<'_> {
    fn whole(&self) -> String {
        self.0.escape_debug().to_string()
    }

    fn form(&self) -> PortError {
        PortError::Form(self.whole())
    }

    fn unix(&self, reason: &'static str) -> PortError {
        PortError::Unix {
            spec: self.whole(),
            reason,
        }
    }

    fn protocol(&self, name: &str) -> Result<Protocol, PortError> {
        match name {
            "tcp" => Ok(Protocol::Tcp),
            "udp" => Ok(Protocol::Udp),
            _ => Err(PortError::Protocol {
                text: name.escape_debug().to_string(),
                spec: self.whole(),
            }),
        }
    }

    fn range(&self, text: &str) -> Result<PortRange, PortError> {
        let bad = || PortError::Port {
            text: text.escape_debug().to_string(),
            spec: self.whole(),
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

    /// An address in front of the ports, and the rest.
    fn address<'r>(&self, rest: &'r str) -> Result<(Option<IpAddr>, &'r str), PortError> {
        let bad = |text: &str| PortError::Address {
            text: text.escape_debug().to_string(),
            spec: self.whole(),
        };
        if let Some(bracketed) = rest.strip_prefix('[') {
            let (text, ports) = bracketed.split_once("]:").ok_or_else(|| self.form())?;
            let address: Ipv6Addr = text.parse().map_err(|_| bad(text))?;
            // An IPv4 address in IPv6's clothes is one socket, not two.
            return Ok((Some(IpAddr::V6(address).to_canonical()), ports));
        }
        let Some((text, ports)) = rest.split_once(':') else {
            return Ok((None, rest));
        };
        match rest.matches(':').count() {
            // "127.0.0.1:80"
            1 if text.contains('.') => {}
            1 => return Ok((None, rest)),
            2 => {}
            _ipv6_without_brackets => return Err(self.form()),
        }
        let address = text.parse().map_err(|_| bad(text))?;
        Ok((Some(address), ports))
    }
}

impl FromStr for PortSpec {
    type Err = PortError;

    fn from_str(text: &str) -> Result<Self, PortError> {
        let source = Source(text);
        if let Some(rest) = text.strip_prefix("unix:") {
            return unix(&source, rest);
        }
        let (rest, protocol) = match (text.rsplit_once('/'), text.split_once(':')) {
            (Some((rest, name)), _) => (rest, source.protocol(name)?),
            (None, Some((name @ ("tcp" | "udp"), rest))) => (rest, source.protocol(name)?),
            (None, _) => (text, Protocol::Tcp),
        };
        let (bind, ports) = source.address(rest)?;
        let (host, guest) = match ports.split_once(':') {
            Some(("" | "0", guest)) => (HostPorts::Any, source.range(guest)?),
            Some((host, guest)) => (HostPorts::These(source.range(host)?), source.range(guest)?),
            None => {
                let range = source.range(ports)?;
                (HostPorts::These(range), range)
            }
        };
        if let HostPorts::These(host) = host
            && host.count() != guest.count()
        {
            return Err(PortError::Lengths {
                spec: source.whole(),
                host: host.count(),
                guest: guest.count(),
                first: guest.first,
            });
        }
        Ok(Self {
            host: HostSide::Ports { bind, ports: host },
            guest,
            protocol,
        })
    }
}

/// `/path:guest`
fn unix(source: &Source<'_>, rest: &str) -> Result<PortSpec, PortError> {
    let (path, port) = rest
        .rsplit_once(':')
        .ok_or_else(|| source.unix("the guest's port is missing"))?;
    let port = port.strip_suffix("/tcp").unwrap_or(port);
    if port.ends_with("/udp") {
        return Err(source.unix("it carries TCP, not UDP"));
    }
    let guest = source.range(port)?;
    if guest.count() != 1 {
        return Err(source.unix("one socket leads to one port"));
    }
    let path = socket_path(path).map_err(|reason| source.unix(reason))?;
    Ok(PortSpec {
        host: HostSide::Unix(path),
        guest,
        protocol: Protocol::Tcp,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::Endpoint;
    use super::*;

    #[test]
    fn docker_notation_reads_and_prints() {
        for (text, printed) in [
            ("8080:80", "8080:80"),
            ("8080", "8080:8080"),
            ("tcp:2375", "2375:2375"),
            ("udp:53", "53:53/udp"),
            ("127.0.0.1:5353:53/udp", "127.0.0.1:5353:53/udp"),
            ("127.0.0.1:80", "127.0.0.1:80:80"),
            ("0.0.0.0:80:80/tcp", "0.0.0.0:80:80"),
            ("[::1]:8080:80", "[::1]:8080:80"),
            ("[::]:8080:80", "[::]:8080:80"),
            ("[::ffff:127.0.0.1]:8080:80", "127.0.0.1:8080:80"),
            ("8000-8010:9000-9010", "8000-8010:9000-9010"),
            (":80", ":80"),
            ("0:80", ":80"),
            ("127.0.0.1::80", "127.0.0.1::80"),
            ("0.0.0.0:0:53/udp", "0.0.0.0::53/udp"),
            ("[::1]::80", "[::1]::80"),
            (":8000-8002", ":8000-8002"),
            ("unix:/run/docker.sock:2375", "unix:/run/docker.sock:2375"),
            ("unix:/run/a:b.sock:2375/tcp", "unix:/run/a:b.sock:2375"),
        ] {
            let spec: PortSpec = text.parse().unwrap();
            assert_eq!(spec.to_string(), printed);
            assert_eq!(printed.parse(), Ok(spec));
        }
    }

    #[test]
    fn bad_notation_says_what_is_wrong() {
        for (text, part) in [
            ("", "\"\" in \"\" is not a port"),
            (":", "\"\" in \":\" is not a port"),
            ("0", "\"0\""),
            ("0:0", "\"0\" in"),
            ("70000:80", "\"70000\""),
            ("80:", "\"\" in \"80:\""),
            ("a:b", "\"a\""),
            ("80-70", "\"80-70\""),
            ("1-2:1-3", "maps 2 host ports to 3 of the guest"),
            ("8000-8002:80", "any free host port: \":80\""),
            ("80/sctp", "\"sctp\""),
            ("1.2.3:80:80", "\"1.2.3\" in"),
            (
                "localhost:80:80",
                "\"localhost\" in \"localhost:80:80\" is not an IP address",
            ),
            ("::1:80:80", "is not of the form"),
            ("[::1:80", "[address:]host"),
            ("[fe80::1%eth0]:80:80", "\"fe80::1%eth0\""),
            ("80:80:80:80", "[address:]host"),
            ("+80:80", "\"+80\""),
            ("tcp:udp:80", "\"udp\""),
            ("80 :80", "\"80 \""),
            ("unix:run/x.sock:80", "the path must be absolute"),
            ("unix:/x.sock", "the guest's port is missing"),
            ("unix:/x.sock:80-81", "one socket leads to one port"),
            ("unix:/x.sock:53/udp", "carries TCP"),
            ("unix:/:80", "names a folder"),
        ] {
            let error = text.parse::<PortSpec>().unwrap_err().to_string();
            assert!(error.contains(part), "{text:?}: {error}");
        }
    }

    #[test]
    fn ranges_pair_up() {
        let pairs = |text: &str| {
            text.parse::<PortSpec>()
                .unwrap()
                .pairs()
                .collect::<Vec<_>>()
        };
        assert_eq!(
            pairs("10-12:20-22"),
            [(Some(10), 20), (Some(11), 21), (Some(12), 22)]
        );
        assert_eq!(pairs(":20-21"), [(None, 20), (None, 21)]);
        assert_eq!(pairs("65535:65535"), [(Some(65_535), 65_535)]);
        assert_eq!(pairs("unix:/a:80"), [(None, 80)]);
    }

    #[test]
    fn an_endpoint_is_an_address_or_a_socket() {
        for text in ["127.0.0.1:2375", "[::1]:80", "unix:/run/docker.sock"] {
            assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "2375",
            "127.0.0.1",
            "127.0.0.1:0",
            "unix:x",
            "unix:/",
            "localhost:80",
        ] {
            assert!(text.parse::<Endpoint>().is_err(), "{text:?} was accepted");
        }
    }

    fn specs() -> impl Strategy<Value = PortSpec> {
        let address = prop_oneof![
            any::<std::net::Ipv4Addr>().prop_map(IpAddr::V4),
            any::<Ipv6Addr>().prop_map(|address| IpAddr::V6(address).to_canonical()),
        ];
        let range = (1_u16..=65_000, 0_u16..500).prop_map(|(first, more)| PortRange {
            first,
            last: first + more,
        });
        let ports = (
            proptest::option::of(address),
            range,
            1_u16..=65_000,
            any::<bool>(),
            any::<bool>(),
        );
        let unix = ("(/[a-z:. ]{1,8}){1,4}x", 1_u16..=65_535);
        prop_oneof![
            ports.prop_map(|(bind, guest, first, chosen, udp)| {
                let last = first.saturating_add(guest.last - guest.first);
                let guest = PortRange {
                    first: guest.first,
                    last: guest.first + (last - first),
                };
                let ports = if chosen {
                    HostPorts::Any
                } else {
                    HostPorts::These(PortRange { first, last })
                };
                let protocol = if udp { Protocol::Udp } else { Protocol::Tcp };
                PortSpec {
                    host: HostSide::Ports { bind, ports },
                    guest,
                    protocol,
                }
            }),
            unix.prop_map(|(path, port)| PortSpec {
                host: HostSide::Unix(path.into()),
                guest: PortRange {
                    first: port,
                    last: port
                },
                protocol: Protocol::Tcp,
            }),
        ]
    }

    proptest! {
        #[test]
        fn what_is_printed_reads_back(spec in specs()) {
            prop_assert_eq!(spec.to_string().parse(), Ok(spec));
        }

        #[test]
        fn any_text_is_read_or_refused(text in "[0-9a-f:.\\[\\]/tcpudnix-]{0,40}") {
            if let Ok(spec) = text.parse::<PortSpec>() {
                prop_assert_eq!(spec.to_string().parse(), Ok(spec.clone()));
                for (host, guest) in spec.pairs() {
                    prop_assert!(host != Some(0) && guest != 0);
                }
            }
        }
    }
}
