//! Checks of networks against the host's own: addresses, the way to the LAN, the host's interfaces on them.

use control::config::{Config, Network, NetworkKind};
use control::host_interface;
use control::host_network::{self, UsedSubnet};

use super::facts::Facts;
use super::finding::{Finding, Subject};
use super::{nothing, without_config};

pub(super) fn subnets(facts: &Facts) -> Vec<Finding> {
    let Ok(config) = &facts.config else {
        return without_config("subnet");
    };
    match host_network::used_subnets() {
        Ok(used) => judge_subnets(config, &used),
        Err(error) => vec![Finding::about("subnet", "subnets").warns(
            format!("the host's interfaces cannot be listed: {error}"),
            "ip address",
        )],
    }
}

fn judge_subnets(config: &Config, used: &[UsedSubnet]) -> Vec<Finding> {
    let clashes = host_network::clashes(config, used);
    let own = |network: &&Network| network.kind != NetworkKind::Bridged;
    let judge = |network: &Network| {
        let subject = Subject::of("subnet", &network.name);
        match clashes.iter().find(|clash| clash.network == network.name) {
            None => subject.ok(format!(
                "{} clashes with none of {} interfaces and routes",
                network.subnet,
                used.len()
            )),
            // Guests of a host-only network lose nothing but the host's own neighbours.
            Some(clash) => match clash.kind {
                NetworkKind::Nat => subject.fails(clash.to_string(), clash.remedy()),
                NetworkKind::HostOnly | NetworkKind::Bridged => {
                    subject.warns(clash.to_string(), clash.remedy())
                }
            },
        }
    };
    let findings: Vec<Finding> = config.networks.values().filter(own).map(judge).collect();
    match findings.is_empty() {
        true => nothing("subnet", "no network has addresses of its own"),
        false => findings,
    }
}

/// Can guests be bridged to the interface that is meant? Whether netd may open it, its status says.
pub(super) fn bridges(facts: &Facts) -> Vec<Finding> {
    let Ok(config) = &facts.config else {
        return without_config("bridge");
    };
    let findings: Vec<Finding> = config.networks.values().filter_map(bridge).collect();
    match findings.is_empty() {
        true => nothing("bridge", "no network is bridged"),
        false => findings,
    }
}

fn bridge(network: &Network) -> Option<Finding> {
    if network.kind != NetworkKind::Bridged {
        return None;
    }
    let subject = Subject::of("bridge", &network.name);
    Some(
        match host_interface::bridgeable(network.interface.as_deref()) {
            Ok(interface) => {
                let host = interface.address.map_or_else(
                    || {
                        "without an IPv4 address: guests and host do not reach each other"
                            .to_owned()
                    },
                    |address| format!("{}, where the host is {}", address.trunc(), address.addr()),
                );
                subject.ok(format!("on {}, {host}", interface.name))
            }
            Err(error) => {
                let fix = error.hint(network.name.as_str());
                subject.fails(error.to_string(), fix)
            }
        },
    )
}

/// Is the host's interface on the network there, this user's, and has it its address?
pub(super) fn host_taps(facts: &Facts) -> Vec<Finding> {
    let Ok(config) = &facts.config else {
        return without_config("host-tap");
    };
    let findings: Vec<Finding> = config.networks.values().filter_map(host_tap).collect();
    match findings.is_empty() {
        true => nothing("host-tap", "no network has host-access = \"tap\""),
        false => findings,
    }
}

fn host_tap(network: &Network) -> Option<Finding> {
    let address = network.host_tap?;
    let name = &network.name;
    let subject = Subject::of("host-tap", name);
    let missing = match host_interface::host_tap(name.as_str()) {
        None => Some(format!("there is no tap {name}")),
        Some(tap) => {
            let user = rustix::process::geteuid();
            let ours = user.is_root() || tap.owner == Some(user.as_raw());
            if !ours {
                let owner = tap
                    .owner
                    .map_or_else(|| "root".to_owned(), |owner| owner.to_string());
                Some(format!(
                    "tap {name} belongs to user {owner}, not to this one"
                ))
            } else if !tap.up {
                Some(format!("tap {name} is down"))
            } else if !tap.has(address) {
                Some(format!("tap {name} does not have the address {address}"))
            } else {
                None
            }
        }
    };
    Some(match missing {
        Some(evidence) => subject.fails(
            evidence,
            format!("sudo sharectl network host-tap create {name}"),
        ),
        None => subject.ok(format!("{name} has {address}")),
    })
}

#[cfg(test)]
mod tests {
    use super::super::facts::tests::Bed;
    use super::super::finding::State;
    use super::*;

    #[test]
    fn a_clash_names_both_sides_and_the_command_that_ends_it() {
        let used = [UsedSubnet {
            subnet: "192.168.0.0/16".parse().unwrap(),
            interface: "tun0".to_owned(),
        }];
        let bed = Bed::with("");
        let config = bed.facts.config.as_ref().unwrap();
        let found = &judge_subnets(config, &used)[0];
        assert_eq!(
            (found.id.as_str(), found.state),
            ("subnet.vmnet8", State::Fail)
        );
        assert_eq!(
            found.evidence,
            "network vmnet8 has 192.168.130.0/24, but tun0 of this host leads to 192.168.0.0/16"
        );
        assert_eq!(
            found.fix.as_deref(),
            Some("sharectl network renumber vmnet8")
        );
        assert_eq!(judge_subnets(config, &[])[0].state, State::Ok);
    }

    #[test]
    fn an_interface_that_is_not_there_cannot_be_bridged() {
        let bed = Bed::with("[network.vmnet0]\ntype = \"bridged\"\ninterface = \"nosuch0\"\n");
        let found = &bridges(&bed.facts)[0];
        assert_eq!(
            (found.id.as_str(), found.state),
            ("bridge.vmnet0", State::Fail)
        );
        assert_eq!(host_taps(&bed.facts)[0].state, State::Skipped);
    }
}
