//! What a guest may reach, as it is written: `allow github.com:443`, `deny 0.0.0.0/0:25/tcp`.
//! Rules are read and shown here; netd's `engine::policy` applies them.

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::names::{HostName, NameError};
use crate::port::PortRange;

/// The name of the host's own loopback, as `host` in a rule.
const HOST_INTERNAL: &str = "host.internal";
/// Ports and ranges of one rule.
const MOST_PORTS: usize = 64;

/// What becomes of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It passes.
    Allow,
    /// It is refused, and the guest is told.
    Deny,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        })
    }
}

/// Which names a guest under `egress = "deny"` may resolve outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum NamePolicy {
    /// Those that an `allow` rule names; others are refused, for a question is a message, too.
    Allowed,
    /// All but those that a rule denies.
    All,
}

/// What a flow is made of.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum FlowProtocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// Echo requests, of ICMP and ICMPv6.
    Icmp,
}

impl fmt::Display for FlowProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Icmp => "icmp",
        })
    }
}

impl FromStr for FlowProtocol {
    type Err = EgressError;

    fn from_str(text: &str) -> Result<Self, EgressError> {
        match text {
            "tcp" => Ok(Self::Tcp),
            "udp" => Ok(Self::Udp),
            "icmp" => Ok(Self::Icmp),
            _ => Err(EgressError::Protocol {
                text: shown(text),
                rule: shown(text),
            }),
        }
    }
}

/// Where a rule's flows lead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destinations {
    /// Anywhere, the host's loopback included.
    Any,
    /// The host's loopback services, as host.internal. No address and no name leads there.
    Host,
    /// These addresses.
    Net(IpNet),
    /// The addresses that the gateway's DNS gave for this name.
    Name(HostName),
    /// The same for every name below this one, but not for the name itself.
    Below(HostName),
}

impl fmt::Display for Destinations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("any"),
            Self::Host => f.write_str("host"),
            Self::Net(net) if net.prefix_len() == net.max_prefix_len() => {
                write!(f, "{}", net.addr())
            }
            Self::Net(net) => write!(f, "{net}"),
            Self::Name(name) => write!(f, "{name}"),
            Self::Below(name) => write!(f, "*.{name}"),
        }
    }
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EgressRule {
    /// What becomes of a flow that it names.
    pub verdict: Verdict,
    /// Where to.
    pub what: Destinations,
    /// To which ports; empty: all, and what has none.
    pub ports: Vec<PortRange>,
    /// By which protocol; none: each (with ports: TCP and UDP).
    pub protocol: Option<FlowProtocol>,
}

/// Why a text is no rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EgressError {
    /// Not of the form at all.
    #[error("\"{0}\" is not of the form \"allow|deny WHAT[:PORTS][/tcp|udp|icmp]\", {EXAMPLE}")]
    Form(String),
    /// Bits beyond the prefix.
    #[error("\"{text}\" in \"{rule}\" has bits set beyond its prefix; write {network}")]
    Prefix {
        /// The part that is a network.
        text: String,
        /// The whole text.
        rule: String,
        /// What was probably meant.
        network: IpNet,
    },
    /// Neither network, address nor name.
    #[error(
        "\"{text}\" in \"{rule}\" is no network, address, name, \"host\" or \"any\", {EXAMPLE}"
    )]
    What {
        /// The part that should be one.
        text: String,
        /// The whole text.
        rule: String,
    },
    /// It is a name, but not a good one.
    #[error("\"{rule}\": {error}")]
    Name {
        /// What is wrong with it.
        error: NameError,
        /// The whole text.
        rule: String,
    },
    /// A port is not 1 to 65535.
    #[error(
        "\"{text}\" in \"{rule}\" is not a port between 1 and 65535, nor a range such as 8000-8010"
    )]
    Port {
        /// The part that should be a port.
        text: String,
        /// The whole text.
        rule: String,
    },
    /// More ports than anyone writes by hand.
    #[error(
        "\"{rule}\" lists more than {MOST_PORTS} ports and ranges; write ranges, or several rules"
    )]
    ManyPorts {
        /// The whole text.
        rule: String,
    },
    /// No such protocol.
    #[error("\"{text}\" in \"{rule}\" is not a protocol; it is tcp, udp or icmp")]
    Protocol {
        /// The part that should be a protocol.
        text: String,
        /// The whole text.
        rule: String,
    },
    /// ICMP with ports.
    #[error("\"{rule}\" gives ports to icmp, which has none")]
    PortsOfIcmp {
        /// The whole text.
        rule: String,
    },
}

const EXAMPLE: &str =
    "e.g. \"allow github.com:443\", \"allow *.debian.org:80,443/tcp\" or \"deny 10.0.0.0/8\"";

fn shown(text: &str) -> String {
    text.escape_debug().to_string()
}

impl FromStr for EgressRule {
    type Err = EgressError;

    fn from_str(text: &str) -> Result<Self, EgressError> {
        let mut words = text.split_ascii_whitespace();
        let (Some(verdict), Some(rest), None) = (words.next(), words.next(), words.next()) else {
            return Err(EgressError::Form(shown(text)));
        };
        let verdict = match verdict {
            "allow" => Verdict::Allow,
            "deny" => Verdict::Deny,
            _ => return Err(EgressError::Form(shown(text))),
        };
        let (rest, protocol) = split_protocol(rest, text)?;
        let (what, ports) = split_ports(rest);
        let what = read_destinations(what, text)?;
        let ports = match ports {
            Some(ports) => read_ports(ports, text)?,
            None => Vec::new(),
        };
        if protocol == Some(FlowProtocol::Icmp) && !ports.is_empty() {
            return Err(EgressError::PortsOfIcmp { rule: shown(text) });
        }
        Ok(Self {
            verdict,
            what,
            ports,
            protocol,
        })
    }
}

/// A number behind the last slash is a prefix, a word is a protocol.
fn split_protocol<'t>(
    rest: &'t str,
    rule: &str,
) -> Result<(&'t str, Option<FlowProtocol>), EgressError> {
    let Some((before, word)) = rest.rsplit_once('/') else {
        return Ok((rest, None));
    };
    if word.starts_with(|first: char| first.is_ascii_digit()) {
        return Ok((rest, None));
    }
    let protocol = word.parse().map_err(|_| EgressError::Protocol {
        text: shown(word),
        rule: shown(rule),
    })?;
    Ok((before, Some(protocol)))
}

/// `WHAT`, `WHAT:PORTS` or `[WHAT]:PORTS`; more than one colon without brackets is an IPv6 address.
fn split_ports(rest: &str) -> (&str, Option<&str>) {
    if let Some(bracketed) = rest.strip_prefix('[') {
        return match bracketed.split_once(']') {
            Some((what, "")) => (what, None),
            Some((what, ports)) => match ports.strip_prefix(':') {
                Some(ports) => (what, Some(ports)),
                None => (rest, None),
            },
            None => (rest, None),
        };
    }
    match rest.split_once(':') {
        Some((what, ports)) if !ports.contains(':') => (what, Some(ports)),
        Some(_) | None => (rest, None),
    }
}

fn read_destinations(text: &str, rule: &str) -> Result<Destinations, EgressError> {
    match text {
        "any" => return Ok(Destinations::Any),
        "host" | HOST_INTERNAL => return Ok(Destinations::Host),
        _ => {}
    }
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(Destinations::Net(address.into()));
    }
    let unknown = || EgressError::What {
        text: shown(text),
        rule: shown(rule),
    };
    if text.contains('/') || text.contains(':') {
        let net: IpNet = text.parse().map_err(|_| unknown())?;
        if net.addr() != net.network() {
            return Err(EgressError::Prefix {
                text: shown(text),
                rule: shown(rule),
                network: net.trunc(),
            });
        }
        return Ok(Destinations::Net(net));
    }
    let last = text.rsplit('.').next().unwrap_or_default();
    if last.is_empty() || last.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(unknown());
    }
    let (name, below) = match text.strip_prefix("*.") {
        Some(name) => (name, true),
        None => (text, false),
    };
    if name.contains('*') {
        return Err(unknown());
    }
    let name = HostName::parse(name).map_err(|error| EgressError::Name {
        error,
        rule: shown(rule),
    })?;
    Ok(if below {
        Destinations::Below(name)
    } else {
        Destinations::Name(name)
    })
}

fn read_ports(text: &str, rule: &str) -> Result<Vec<PortRange>, EgressError> {
    let mut ports = Vec::new();
    for part in text.split(',') {
        if ports.len() == MOST_PORTS {
            return Err(EgressError::ManyPorts { rule: shown(rule) });
        }
        let bad = || EgressError::Port {
            text: shown(part),
            rule: shown(rule),
        };
        let port = |text: &str| {
            let digits = text.bytes().all(|byte| byte.is_ascii_digit());
            let port = text.parse::<u16>().ok().filter(|port| digits && *port != 0);
            port.ok_or_else(bad)
        };
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let range = PortRange {
            first: port(first)?,
            last: port(last)?,
        };
        if range.first > range.last {
            return Err(bad());
        }
        ports.push(range);
    }
    Ok(ports)
}

impl fmt::Display for EgressRule {
    /// A text that reads back as the same rule.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.verdict)?;
        let what = self.what.to_string();
        match (what.contains(':'), self.ports.split_first()) {
            (true, Some(_)) => write!(f, "[{what}]")?,
            (true, None) | (false, _) => f.write_str(&what)?,
        }
        for (index, range) in self.ports.iter().enumerate() {
            write!(f, "{}{range}", if index == 0 { ':' } else { ',' })?;
        }
        match self.protocol {
            Some(protocol) => write!(f, "/{protocol}"),
            None => Ok(()),
        }
    }
}

impl Serialize for EgressRule {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for EgressRule {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for EgressRule {
    fn schema_name() -> Cow<'static, str> {
        "EgressRule".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "description": "allow|deny WHAT[:PORTS][/tcp|udp|icmp]",
            "pattern": r"^(allow|deny) +\S+$",
            "examples": ["allow github.com:443", "deny 10.0.0.0/8", "allow *.debian.org:80,443/tcp"],
        })
    }
}

/// A flow that somebody asks about, as typed: `github.com:443`, `[fd00::1]:53/udp`, `192.0.2.1/icmp`, `host:5432`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlowQuestion {
    /// Where to.
    pub to: QuestionPlace,
    /// The port; 0 for ICMP.
    pub port: u16,
    /// By what; TCP unless said otherwise.
    pub protocol: FlowProtocol,
}

/// Where a flow that is asked about leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum QuestionPlace {
    /// The host's loopback.
    Host,
    /// This address.
    Address(IpAddr),
    /// Whatever this name stands for.
    Name(HostName),
}

impl fmt::Display for QuestionPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => f.write_str("host"),
            Self::Address(address) => write!(f, "{address}"),
            Self::Name(name) => write!(f, "{name}"),
        }
    }
}

/// Why a text is no such flow.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "\"{0}\" is not of the form DESTINATION:PORT[/tcp|udp] or DESTINATION/icmp, e.g. github.com:443, [fd00::1]:53/udp, host:5432 or 192.0.2.1/icmp"
)]
pub struct QuestionError(String);

impl FromStr for FlowQuestion {
    type Err = QuestionError;

    fn from_str(text: &str) -> Result<Self, QuestionError> {
        let bad = || QuestionError(shown(text));
        let (rest, protocol) = match text.rsplit_once('/') {
            Some((rest, word)) => (rest, word.parse().map_err(|_| bad())?),
            None => (text, FlowProtocol::Tcp),
        };
        let (place, ports) = split_ports(rest);
        let to = match place {
            "host" | HOST_INTERNAL => QuestionPlace::Host,
            _ => match place.parse::<IpAddr>() {
                Ok(address) => QuestionPlace::Address(address),
                Err(_) => QuestionPlace::Name(HostName::parse(place).map_err(|_| bad())?),
            },
        };
        let port = match (ports, protocol) {
            (None, FlowProtocol::Icmp) => 0,
            (Some(port), FlowProtocol::Tcp | FlowProtocol::Udp) => port
                .parse()
                .ok()
                .filter(|port| *port != 0)
                .ok_or_else(bad)?,
            (None, FlowProtocol::Tcp | FlowProtocol::Udp) | (Some(_), FlowProtocol::Icmp) => {
                return Err(bad());
            }
        };
        Ok(Self { to, port, protocol })
    }
}

impl fmt::Display for FlowQuestion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.to, self.port) {
            (to, 0) => write!(f, "{to}")?,
            (QuestionPlace::Address(IpAddr::V6(address)), port) => write!(f, "[{address}]:{port}")?,
            (to, port) => write!(f, "{to}:{port}")?,
        }
        write!(f, "/{}", self.protocol)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_read_and_are_shown_as_they_read() {
        for (text, shown) in [
            ("allow any", "allow any"),
            ("deny  host", "deny host"),
            ("allow host.internal:5432/tcp", "allow host:5432/tcp"),
            ("deny 10.0.0.0/8", "deny 10.0.0.0/8"),
            ("deny 0.0.0.0/0:25/tcp", "deny 0.0.0.0/0:25/tcp"),
            ("deny 192.0.2.1/32", "deny 192.0.2.1"),
            ("deny 192.0.2.1:53", "deny 192.0.2.1:53"),
            ("deny fd00::/8", "deny fd00::/8"),
            ("deny fd00::1", "deny fd00::1"),
            (
                "deny [fd00::/8]:443,8000-8010/udp",
                "deny [fd00::/8]:443,8000-8010/udp",
            ),
            ("deny [::1]", "deny ::1"),
            ("allow ::/0/icmp", "allow ::/0/icmp"),
            ("allow GitHub.com:443", "allow github.com:443"),
            ("allow *.example:443", "allow *.example:443"),
        ] {
            let rule: EgressRule = text.parse().unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(rule.to_string(), shown, "{text}");
            assert_eq!(shown.parse(), Ok(rule), "{text}");
        }
    }

    #[test]
    fn what_is_no_rule_is_told_with_its_value() {
        for (text, part) in [
            ("", "not of the form"),
            ("allow", "not of the form"),
            ("permit any", "not of the form"),
            ("allow any 443", "not of the form"),
            ("deny 10.0.0.1/8", "write 10.0.0.0/8"),
            ("deny 10.0.0", "\"10.0.0\" in \"deny 10.0.0\" is no network"),
            ("deny 10.0.0.0/33", "\"10.0.0.0/33\""),
            ("deny fd00::g", "\"fd00::g\""),
            ("deny *.*.example", "is no network"),
            ("deny ex ample", "not of the form"),
            ("deny ex_ample", "ex_ample"),
            ("deny any:0", "\"0\" in \"deny any:0\" is not a port"),
            ("deny any:", "is not a port"),
            ("deny any:+1", "is not a port"),
            ("deny any:9-3", "\"9-3\""),
            ("deny any:1,,2", "is not a port"),
            ("deny any:80/sctp", "\"sctp\""),
            ("deny any:80/icmp", "which has none"),
            ("deny [::1:80", "\"[::1:80\""),
        ] {
            let error = text.parse::<EgressRule>().unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn questions_read_and_are_shown_as_they_read() {
        for (text, shown) in [
            ("github.com:443", "github.com:443/tcp"),
            ("[fd00::1]:53/udp", "[fd00::1]:53/udp"),
            ("host:5432", "host:5432/tcp"),
            ("192.0.2.1/icmp", "192.0.2.1/icmp"),
            ("fd00::1/icmp", "fd00::1/icmp"),
        ] {
            let question: FlowQuestion = text.parse().unwrap();
            assert_eq!(question.to_string(), shown);
            assert_eq!(shown.parse(), Ok(question));
        }
        for text in [
            "",
            "github.com",
            "github.com:0",
            "192.0.2.1:1/icmp",
            "a b:1",
            "x:1/sctp",
        ] {
            assert!(text.parse::<FlowQuestion>().is_err(), "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_a_rule_that_reads_back_or_none(text in "(allow|deny) [a-z0-9:/.*,\\[\\]-]{1,24}") {
            if let Ok(rule) = text.parse::<EgressRule>() {
                proptest::prop_assert_eq!(rule.to_string().parse(), Ok(rule));
            }
        }
    }
}
