//! What of a network's frames is captured, as it is asked for: `host 192.0.2.1 and tcp port 443`.
//! Reading and showing only; netd's packet thread applies it.

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Words of one filter.
const MOST_TERMS: usize = 16;

/// What a frame carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carried {
    /// ARP.
    Arp,
    /// IPv4.
    Ip,
    /// IPv6.
    Ip6,
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// ICMP or ICMPv6.
    Icmp,
}

const WORDS: [(&str, Carried); 6] = [
    ("arp", Carried::Arp),
    ("ip", Carried::Ip),
    ("ip6", Carried::Ip6),
    ("tcp", Carried::Tcp),
    ("udp", Carried::Udp),
    ("icmp", Carried::Icmp),
];

/// One condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Term {
    /// From or to this address.
    Host(IpAddr),
    /// From or to this port, of TCP or UDP.
    Port(u16),
    /// Carries this.
    Carries(Carried),
}

/// All conditions must hold; none: every frame.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// The conditions.
    pub terms: Vec<Term>,
}

/// Why a text is no filter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// A word that is none of ours.
    #[error(
        "\"{word}\" in \"{filter}\" is not known; write host ADDRESS, port NUMBER, tcp, udp, icmp, arp, ip, ip6, joined by \"and\""
    )]
    Word {
        /// The word.
        word: String,
        /// The whole text.
        filter: String,
    },
    /// A word without its value.
    #[error("\"{word}\" in \"{filter}\" needs {value}")]
    Value {
        /// The word.
        word: &'static str,
        /// What it needs.
        value: &'static str,
        /// The whole text.
        filter: String,
    },
    /// More than anyone types.
    #[error("a filter has at most {MOST_TERMS} conditions")]
    Long,
}

impl FromStr for Filter {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Self, FilterError> {
        let filter = || text.escape_debug().to_string();
        let mut terms = Vec::new();
        let mut words = text.split_ascii_whitespace().filter(|word| *word != "and");
        while let Some(word) = words.next() {
            if terms.len() == MOST_TERMS {
                return Err(FilterError::Long);
            }
            terms.push(match word {
                "host" => {
                    let address = words.next().and_then(|word| word.parse().ok());
                    Term::Host(address.ok_or_else(|| FilterError::Value {
                        word: "host",
                        value: "an address, e.g. host 192.0.2.1",
                        filter: filter(),
                    })?)
                }
                "port" => {
                    let port = words.next().and_then(|word| word.parse().ok());
                    Term::Port(port.ok_or_else(|| FilterError::Value {
                        word: "port",
                        value: "a number, e.g. port 443",
                        filter: filter(),
                    })?)
                }
                word => {
                    let known = WORDS.iter().find(|(name, _)| *name == word);
                    let (_, carried) = known.ok_or_else(|| FilterError::Word {
                        word: word.escape_debug().to_string(),
                        filter: filter(),
                    })?;
                    Term::Carries(*carried)
                }
            });
        }
        Ok(Self { terms })
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, term) in self.terms.iter().enumerate() {
            if index > 0 {
                f.write_str(" and ")?;
            }
            match term {
                Term::Host(address) => write!(f, "host {address}")?,
                Term::Port(port) => write!(f, "port {port}")?,
                Term::Carries(carried) => {
                    let word = WORDS.iter().find(|(_, known)| known == carried);
                    f.write_str(word.map_or("", |(word, _)| word))?;
                }
            }
        }
        Ok(())
    }
}

impl Serialize for Filter {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Filter {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for Filter {
    fn schema_name() -> Cow<'static, str> {
        "Filter".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "examples": ["host 192.0.2.1 and tcp port 443", "arp"],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_read_and_are_shown_as_they_read() {
        for (text, shown) in [
            ("", ""),
            ("arp", "arp"),
            ("tcp port 443", "tcp and port 443"),
            (
                "host 192.0.2.1 and  udp and port 53",
                "host 192.0.2.1 and udp and port 53",
            ),
            ("ip6 host fd00::1 icmp", "ip6 and host fd00::1 and icmp"),
        ] {
            let filter: Filter = text.parse().unwrap();
            assert_eq!(filter.to_string(), shown);
            assert_eq!(shown.parse(), Ok(filter));
        }
        for (text, part) in [
            ("host", "needs an address"),
            ("host example.com", "needs an address"),
            ("port 99999", "needs a number"),
            ("tcp or udp", "\"or\" in \"tcp or udp\" is not known"),
            (&"tcp ".repeat(17), "at most 16"),
        ] {
            let error = text.parse::<Filter>().unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
