//! Facts that the configuration file itself states. Pure.

use std::net::IpAddr;

use control::config::{Config, NETD_PRIORITY, SourceKind};

use crate::table::{Fact, Reserved, Rules, Source};

/// `[hosts.static]`: these stand whatever the guests do.
#[must_use]
pub fn static_facts(config: &Config) -> Vec<Fact> {
    let hosts = &config.hosts;
    let plain = hosts.entries.iter().map(|entry| (entry, false));
    let below = hosts.wildcards.iter().map(|entry| (entry, true));
    plain
        .chain(below)
        .map(|((name, address), below)| Fact {
            name: name.clone(),
            below,
            address: *address,
            from: Source::Static,
            since: None,
            until: None,
        })
        .collect()
}

/// The guests that own every name below theirs: the same claims once more, for all below. netd
/// has that in its own DNS and does not repeat it to us.
#[must_use]
pub fn wildcards(facts: &[Fact], config: &Config) -> Vec<Fact> {
    let owns = |fact: &&Fact| match &fact.from {
        Source::Guest { guest, .. } => config.guests.get(guest).is_some_and(|guest| guest.wildcard),
        Source::Static | Source::Added | Source::Lease { .. } | Source::Container { .. } => false,
    };
    let below = |fact: &Fact| Fact {
        below: true,
        ..fact.clone()
    };
    facts.iter().filter(owns).map(below).collect()
}

/// What decides between the claims of the configuration's sources.
#[must_use]
pub fn rules(config: &Config, reserved: Reserved) -> Rules {
    let sources = &config.hosts.sources;
    let netd = sources
        .values()
        .find(|source| source.kind == SourceKind::Netd);
    Rules {
        reserved,
        guests: netd.map_or(NETD_PRIORITY, |source| source.priority),
        sources: sources
            .values()
            .map(|source| {
                let rule = (source.priority, source.suffix.clone());
                (source.name.clone(), rule)
            })
            .collect(),
    }
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
                below: false,
                address: IpAddr::V4(guest.host_address),
                from: Source::Guest {
                    guest: guest.name.clone(),
                    network: guest.network.clone(),
                },
                since: None,
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
        let text = "[guest.dev]\nwildcard = true\nnames = [\"local.test\"]\n\n[hosts.static]\n\
            \"db.test\" = \"10.1.2.3\"\n\"*.x.test\" = \"10.1.2.4\"\n";
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
                .map(|fact| {
                    let star = if fact.below { "*." } else { "" };
                    format!("{star}{} {} {}", fact.name, fact.address, fact.from)
                })
                .collect()
        };
        assert_eq!(
            shown(static_facts(&config)),
            ["db.test 10.1.2.3 static", "*.x.test 10.1.2.4 static"]
        );
        assert_eq!(
            shown(wildcards(&guest_facts(&config), &config)),
            shown(guest_facts(&config))
                .iter()
                .map(|line| format!("*.{line}"))
                .collect::<Vec<_>>()
        );
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
