//! Whom to ask for which name: the split rules of the configuration, else its resolvers, else the host's.

use std::net::SocketAddr;

use control::config::Network;
use control::names::HostName;

use crate::engine::dns_names::{WireName, inside};
use crate::wire::dns::encode_name;

/// A domain with resolvers of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    domain: HostName,
    wire: WireName,
    servers: Vec<SocketAddr>,
}

/// Whom one network asks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Forwarding {
    servers: Vec<SocketAddr>,
    /// The longest domain first.
    rules: Vec<Rule>,
}

/// Who answers for a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Servers<'f> {
    /// In the order that they are asked; may be none.
    pub addresses: &'f [SocketAddr],
    /// The rule that says so.
    pub rule: Option<&'f HostName>,
}

impl Forwarding {
    /// What the configuration says of a network, where it says nothing with the host's resolvers.
    #[must_use]
    pub fn of(network: &Network, host: &[SocketAddr]) -> Self {
        let servers = if network.dns.is_empty() {
            host.to_vec()
        } else {
            network.dns.clone()
        };
        let mut rules: Vec<Rule> = network
            .names
            .rules
            .iter()
            .map(|(domain, servers)| Rule {
                domain: domain.clone(),
                wire: encode_name(domain).into(),
                servers: servers.clone(),
            })
            .collect();
        rules.sort_by_key(|rule| std::cmp::Reverse(rule.wire.len()));
        Self { servers, rules }
    }

    /// These resolvers for every name.
    #[must_use]
    pub fn everything_to(servers: Vec<SocketAddr>) -> Self {
        Self {
            servers,
            rules: Vec::new(),
        }
    }

    /// The resolvers for names without a rule.
    #[must_use]
    pub fn servers(&self) -> &[SocketAddr] {
        &self.servers
    }

    /// Who answers for a name (wire form, lower case).
    #[must_use]
    pub fn servers_for(&self, name: &[u8]) -> Servers<'_> {
        let rule = self
            .rules
            .iter()
            .find(|rule| inside(name, &rule.wire).is_some());
        Servers {
            addresses: rule.map_or(&self.servers, |rule| &rule.servers),
            rule: rule.map(|rule| &rule.domain),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn longest_domain_wins_at_label_borders() {
        let text = "[network.n]\ndns = [\"10.0.0.1\"]\n[network.n.dns-rules]\n\"example\" = \"10.0.0.2\"\n\
                    \"corp.example\" = [\"10.0.0.3\", \"10.0.0.4\"]\n";
        let config = control::config::Config::parse(
            text,
            std::path::Path::new("c"),
            &control::config::Surroundings::of_process(),
        )
        .unwrap();
        let network = config.networks.values().next().unwrap();
        let forwarding = Forwarding::of(network, &["10.9.9.9:53".parse().unwrap()]);
        for (name, first) in [
            ("corp.example", "10.0.0.3"),
            ("a.b.corp.example", "10.0.0.3"),
            ("xcorp.example", "10.0.0.2"),
            ("example", "10.0.0.2"),
            ("example.com", "10.0.0.1"),
        ] {
            let wire = encode_name(&HostName::parse(name).unwrap());
            let found = forwarding.servers_for(&wire).addresses[0].ip().to_string();
            assert_eq!(found, first, "{name}");
        }
    }
}
