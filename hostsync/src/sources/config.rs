//! Facts that the configuration file itself states. Pure.

use std::net::IpAddr;

use control::config::Config;

use crate::table::{Fact, Source};

/// `[hosts.static]`: these stand whatever the guests do.
#[must_use]
pub fn static_facts(config: &Config) -> Vec<Fact> {
    let entry = |(name, address): (&control::names::HostName, &IpAddr)| Fact {
        name: name.clone(),
        address: *address,
        from: Source::Static,
        until: None,
    };
    config.hosts.entries.iter().map(entry).collect()
}

/// The names and own loopback addresses of the configured guests. netd says the same
/// once it runs; this is for a command that must do without it.
#[must_use]
pub fn guest_facts(config: &Config) -> Vec<Fact> {
    let mut facts = Vec::new();
    for guest in config.guests.values() {
        for name in config.names_of(guest).unwrap_or_default() {
            facts.push(Fact {
                name,
                address: IpAddr::V4(guest.host_address),
                from: Source::Guest {
                    guest: guest.name.clone(),
                    network: guest.network.clone(),
                },
                until: None,
            });
        }
    }
    facts
}

#[cfg(test)]
mod tests {
    use super::*;
    use control::config::Surroundings;
    use std::path::Path;

    #[test]
    fn a_guest_has_its_own_names_and_one_under_the_domain() {
        let text =
            "[guest.dev]\nnames = [\"local.test\"]\n\n[hosts.static]\n\"db.test\" = \"10.1.2.3\"\n";
        let surroundings = Surroundings {
            home: None,
            uid: 1,
            gid: 1,
            machine: None,
            drives: Default::default(),
        };
        let config = Config::parse(text, Path::new("c.toml"), &surroundings).unwrap();
        let shown = |facts: Vec<Fact>| -> Vec<String> {
            facts
                .iter()
                .map(|fact| format!("{} {} {}", fact.name, fact.address, fact.from))
                .collect()
        };
        assert_eq!(shown(static_facts(&config)), ["db.test 10.1.2.3 static"]);
        let own = config.guests.values().next().unwrap().host_address;
        assert_eq!(
            shown(guest_facts(&config)),
            [
                format!("dev.test {own} guest dev on vmnet8"),
                format!("local.test {own} guest dev on vmnet8")
            ]
        );
    }
}
