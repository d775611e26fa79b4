//! Containers as an engine describes them -> facts. Pure.
//!
//! A container has the names NAME.SUFFIX, SERVICE.PROJECT.SUFFIX where compose made it, those of
//! its network aliases below the suffix, and what its label `sharectl.names` says.
//!
//! Its address is the one that works for who reads the names, on this host. Its own address is
//! the best: all ports, and no two containers in each other's way; so it is taken where this
//! host has a route to the container's network that is no default route (the engine's bridge, or
//! one made to a guest's). Else a published port leads to it: where that port listens.
//! A container on the host's own network is at 127.0.0.1. Where the engine runs in a guest, it is
//! the guest's address on this host that leads to its ports. One that cannot be reached has no name.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::SystemTime;

use control::config::{ContainerAddress, RecordName};
use control::names::HostName;
use ipnet::Ipv4Net;
use serde::{Deserialize, Deserializer};

use super::{Engine, Reading};
use crate::sources::names;
use crate::table::{Fact, Source};

/// The label with further names, between spaces or commas.
const NAMES_LABEL: &str = "sharectl.names";
const PROJECT_LABEL: &str = "com.docker.compose.project";
const SERVICE_LABEL: &str = "com.docker.compose.service";
/// Names of one container.
const MOST_NAMES: usize = 64;

/// As much of `GET /containers/json` as is needed.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Listed {
    /// Sixty-four hexadecimal digits.
    pub id: String,
}

/// As much of `GET /containers/ID/json` as is needed. Absent and null fields are empty: engines
/// of other makes and versions leave out what they do not have.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Container {
    id: String,
    name: String,
    #[serde(deserialize_with = "or_default")]
    state: State,
    #[serde(deserialize_with = "or_default")]
    config: Settings,
    #[serde(deserialize_with = "or_default")]
    host_config: HostSettings,
    #[serde(deserialize_with = "or_default")]
    network_settings: Networks,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct State {
    started_at: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Settings {
    #[serde(deserialize_with = "or_default")]
    labels: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct HostSettings {
    network_mode: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Networks {
    /// podman has a container's only address here.
    #[serde(rename = "IPAddress", deserialize_with = "or_default")]
    ip_address: String,
    #[serde(deserialize_with = "or_default")]
    ports: BTreeMap<String, Option<Vec<Binding>>>,
    #[serde(deserialize_with = "or_default")]
    networks: BTreeMap<String, Attachment>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Binding {
    #[serde(deserialize_with = "or_default")]
    host_ip: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Attachment {
    #[serde(rename = "IPAddress", deserialize_with = "or_default")]
    ip_address: String,
    #[serde(deserialize_with = "or_default")]
    aliases: Vec<String>,
}

/// `null` is as good as absent.
fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// The facts of these containers. `routed`: the subnets that this host has a way to.
#[must_use]
pub fn read<'c>(
    containers: impl Iterator<Item = &'c Container>,
    engine: &Engine,
    routed: &[Ipv4Net],
) -> Reading {
    let mut reading = Reading::default();
    for container in containers {
        let Some(address) = container.address(engine.address, routed) else {
            reading.skipped += 1;
            continue;
        };
        let (names, unfit) = container.names(&engine.suffix);
        reading.skipped = reading.skipped.saturating_add(unfit);
        let since: Option<jiff::Timestamp> = container.state.started_at.parse().ok();
        for name in names {
            reading.facts.push(Fact {
                name: name.name,
                below: name.below,
                address,
                from: Source::Container {
                    source: engine.source.clone(),
                    container: container.called().to_owned(),
                },
                since: since.map(SystemTime::from),
                until: None,
            });
        }
    }
    reading
}

impl Container {
    /// Its name without the slash that Docker puts in front.
    fn called(&self) -> &str {
        self.name.trim_start_matches('/')
    }

    /// All its names, and how many cannot be written.
    fn names(&self, suffix: &HostName) -> (BTreeSet<RecordName>, u64) {
        let labels = &self.config.labels;
        let plain = |name: HostName| RecordName { name, below: false };
        let mut wanted = vec![names::below(self.called(), suffix).map(plain)];
        if let (Some(project), Some(service)) =
            (labels.get(PROJECT_LABEL), labels.get(SERVICE_LABEL))
        {
            let name = names::below(project, suffix)
                .and_then(|domain| names::label(service)?.under(&domain).ok());
            wanted.push(name.map(plain));
        }
        let aliases = self.network_settings.networks.values();
        for alias in aliases.flat_map(|attachment| &attachment.aliases) {
            // Engines add the short form of the id.
            if !self.id.starts_with(alias.as_str()) {
                wanted.push(names::below(alias, suffix).map(plain));
            }
        }
        let more = labels.get(NAMES_LABEL).map_or("", String::as_str);
        let more = more.split([' ', ',', '\t', '\n']);
        wanted.extend(
            more.filter(|name| !name.is_empty())
                .map(|name| names::written(name, suffix)),
        );
        let over = wanted.len().saturating_sub(MOST_NAMES);
        wanted.truncate(MOST_NAMES);
        let unfit = wanted.iter().filter(|name| name.is_none()).count() + over;
        (wanted.into_iter().flatten().collect(), unfit as u64)
    }

    fn address(&self, choice: ContainerAddress, routed: &[Ipv4Net]) -> Option<IpAddr> {
        match choice {
            ContainerAddress::Fixed(address) => Some(address),
            ContainerAddress::Container => self.own().next().map(IpAddr::V4),
            ContainerAddress::Published => self.published(),
            ContainerAddress::Guest(address) => {
                let is_reached = self.host_config.network_mode == "host"
                    || self.bindings().any(|at| !at.is_loopback());
                is_reached.then_some(address.into())
            }
            ContainerAddress::Auto => {
                if self.host_config.network_mode == "host" {
                    return Some(Ipv4Addr::LOCALHOST.into());
                }
                let reached = |own: &Ipv4Addr| routed.iter().any(|subnet| subnet.contains(own));
                let own = self.own().find(reached).map(IpAddr::V4);
                own.or_else(|| self.published())
            }
        }
    }

    /// Its addresses on the engine's networks, in the order of the networks' names.
    fn own(&self) -> impl Iterator<Item = Ipv4Addr> {
        let networks = &self.network_settings;
        let each = networks.networks.values().map(|one| &one.ip_address);
        each.chain([&networks.ip_address])
            .filter_map(|text| text.parse().ok())
    }

    /// The addresses of the engine's machine at which its published ports listen.
    fn bindings(&self) -> impl Iterator<Item = IpAddr> {
        let bindings = self.network_settings.ports.values().flatten().flatten();
        bindings.filter_map(|binding| match binding.host_ip.as_str() {
            // podman says nothing where Docker says 0.0.0.0.
            "" => Some(Ipv4Addr::UNSPECIFIED.into()),
            text => text.parse().ok(),
        })
    }

    /// Where a published port listens, as seen from this host.
    fn published(&self) -> Option<IpAddr> {
        let mut addresses: Vec<IpAddr> = self
            .bindings()
            .map(|address| match address {
                IpAddr::V4(all) if all.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
                IpAddr::V6(all) if all.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
                IpAddr::V4(_) | IpAddr::V6(_) => address,
            })
            .collect();
        // IPv4 first: a port on all addresses is there twice.
        addresses.sort();
        addresses.first().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn engine(address: ContainerAddress) -> Engine {
        Engine {
            source: "docker".parse().unwrap(),
            socket: "/docker.sock".into(),
            suffix: "local.test".parse().unwrap(),
            address,
        }
    }

    fn shown(json: &serde_json::Value, address: ContainerAddress) -> (Vec<String>, u64) {
        let container: Container = serde_json::from_value(json.clone()).unwrap();
        let routed = ["172.17.0.0/16".parse().unwrap()];
        let reading = read([&container].into_iter(), &engine(address), &routed);
        let facts = reading.facts.iter().map(|fact| {
            let star = if fact.below { "*." } else { "" };
            format!("{star}{} {} {}", fact.name, fact.address, fact.from)
        });
        (facts.collect(), reading.skipped)
    }

    fn nginx() -> serde_json::Value {
        serde_json::json!({
            "Id": "4fa6e0f0c6786287e131c3852c58a2e01cc697a68231826813597e4994f1d6e2",
            "Name": "/shop_web_1",
            "State": { "StartedAt": "2020-05-13T12:00:37.5Z", "Status": "running" },
            "Config": { "Labels": {
                "com.docker.compose.project": "shop",
                "com.docker.compose.service": "web",
                "sharectl.names": "shop, *.shop www.shop.local.test bad_name",
            } },
            "HostConfig": { "NetworkMode": "shop_default" },
            "NetworkSettings": {
                "IPAddress": "",
                "Ports": { "80/tcp": [{ "HostIp": "0.0.0.0", "HostPort": "8080" }, { "HostIp": "::", "HostPort": "8080" }], "443/tcp": null },
                "Networks": { "shop_default": { "IPAddress": "172.17.0.5", "Aliases": ["web", "4fa6e0f0c678"] } },
            },
        })
    }

    #[test]
    fn a_container_has_the_names_that_its_makers_gave_it() {
        let who = "172.17.0.5 docker: shop_web_1";
        let (facts, skipped) = shown(&nginx(), ContainerAddress::Auto);
        assert_eq!(
            facts,
            [
                format!("shop-web-1.local.test {who}"),
                format!("shop.local.test {who}"),
                format!("*.shop.local.test {who}"),
                format!("web.local.test {who}"),
                format!("web.shop.local.test {who}"),
                format!("www.shop.local.test {who}"),
            ]
        );
        assert_eq!(skipped, 1, "bad_name");
    }

    #[test]
    fn the_address_is_one_that_works_on_this_host() {
        let check = |change: &dyn Fn(&mut serde_json::Value), choice, expected: Option<&str>| {
            let mut json = nginx();
            change(&mut json);
            let (facts, _) = shown(&json, choice);
            let address = facts
                .first()
                .map(|fact| fact.split(' ').nth(1).unwrap().to_owned());
            assert_eq!(address.as_deref(), expected, "{json}");
        };
        use ContainerAddress::{Auto, Container, Fixed, Guest, Published};
        let same = |_: &mut serde_json::Value| {};
        let elsewhere = |json: &mut serde_json::Value| {
            json["NetworkSettings"]["Networks"]["shop_default"]["IPAddress"] = "10.88.0.5".into();
        };
        let unpublished = |json: &mut serde_json::Value| {
            elsewhere(json);
            json["NetworkSettings"]["Ports"] = serde_json::Value::Null;
        };
        let bound = |json: &mut serde_json::Value| {
            elsewhere(json);
            json["NetworkSettings"]["Ports"]["80/tcp"] =
                serde_json::json!([{ "HostIp": "127.0.0.2" }]);
        };
        let podman = |json: &mut serde_json::Value| {
            elsewhere(json);
            json["NetworkSettings"]["Ports"]["80/tcp"] = serde_json::json!([{ "HostIp": "" }]);
        };
        let host = |json: &mut serde_json::Value| {
            json["HostConfig"]["NetworkMode"] = "host".into();
            json["NetworkSettings"]["Networks"] =
                serde_json::json!({ "host": { "IPAddress": "", "Aliases": null } });
        };
        check(&same, Auto, Some("172.17.0.5"));
        check(&elsewhere, Auto, Some("127.0.0.1"));
        check(&unpublished, Auto, None);
        check(&bound, Auto, Some("127.0.0.2"));
        check(&podman, Auto, Some("127.0.0.1"));
        check(&host, Auto, Some("127.0.0.1"));
        check(&elsewhere, Container, Some("10.88.0.5"));
        check(&same, Published, Some("127.0.0.1"));
        // The guest's loopback is its own, and this host's 127.0.0.1 is somebody else's.
        let guest = Guest("127.64.0.1".parse().unwrap());
        let inside = |json: &mut serde_json::Value| {
            json["NetworkSettings"]["Ports"]["80/tcp"] =
                serde_json::json!([{ "HostIp": "127.0.0.1" }]);
        };
        check(&same, guest, Some("127.64.0.1"));
        check(&podman, guest, Some("127.64.0.1"));
        check(&host, guest, Some("127.64.0.1"));
        check(&unpublished, guest, None);
        check(&inside, guest, None);
        let fixed = Fixed("127.124.255.98".parse().unwrap());
        check(&unpublished, fixed, Some("127.124.255.98"));
    }

    proptest! {
        #[test]
        fn no_answer_of_an_engine_breaks_the_reader(bytes in ".{0,200}", name in ".{0,40}", label in ".{0,80}") {
            if let Ok(container) = serde_json::from_str::<Container>(&bytes) {
                drop(read([&container].into_iter(), &engine(ContainerAddress::Auto), &[]));
            }
            let mut json = nginx();
            json["Name"] = name.into();
            json["Config"]["Labels"]["sharectl.names"] = label.into();
            let container: Container = serde_json::from_value(json).unwrap();
            let fixed = ContainerAddress::Fixed(IpAddr::V4(Ipv4Addr::LOCALHOST));
            let reading = read([&container].into_iter(), &engine(fixed), &[]);
            prop_assert!(reading.facts.len() <= MOST_NAMES);
        }
    }
}
