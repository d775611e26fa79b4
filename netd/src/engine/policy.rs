//! Egress policy: which flows a guest may begin, by rules that were compiled once. Pure: the packet
//! thread asks for each new flow, does what the answer says, and tells the reason.
//!
//! The first rule that names a flow decides, a guest's own before its network's; then the default.
//! A rule with a name follows the answers that our own DNS gave to this very guest (`learned`).
//! Frames between guests, clients of published ports and the gateway's own services never come here.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use control::config::{GuestEgress, NetworkEgress};
use control::egress::{Destinations, EgressRule, FlowProtocol, NamePolicy, Verdict};
use control::names::GuestName;

/// A flow that a guest wants to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// By what.
    pub protocol: FlowProtocol,
    /// Where to, as the guest sees it.
    pub to: Place,
    /// The port; 0 for ICMP.
    pub port: u16,
}

/// Where a flow leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The host's loopback, as host.internal.
    Host,
    /// An address outside.
    Address(IpAddr),
}

/// What becomes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision<'p> {
    /// It passes or not.
    pub verdict: Verdict,
    /// The rule, for people.
    pub reason: &'p Arc<str>,
}

impl Decision<'_> {
    /// Whether it passes.
    #[must_use]
    pub fn allowed(&self) -> bool {
        self.verdict == Verdict::Allow
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    rule: EgressRule,
    reason: Arc<str>,
}

impl Rule {
    fn new(rule: &EgressRule, owner: &str) -> Self {
        Self {
            rule: rule.clone(),
            reason: format!("{owner} has the rule \"{rule}\"").into(),
        }
    }

    /// Whether every flow to its destinations is meant.
    fn is_whole(&self) -> bool {
        self.rule.ports.is_empty() && self.rule.protocol.is_none()
    }

    fn decision(&self) -> Decision<'_> {
        Decision {
            verdict: self.rule.verdict,
            reason: &self.reason,
        }
    }

    fn names<'n>(
        &self,
        flow: &Flow,
        names: impl Fn(&mut dyn FnMut(&'n str) -> bool) -> bool,
    ) -> bool {
        let rule = &self.rule;
        let protocol = rule
            .protocol
            .is_none_or(|protocol| protocol == flow.protocol);
        // A rule with ports says nothing about what has none.
        let port = rule.ports.is_empty()
            || (flow.protocol != FlowProtocol::Icmp
                && rule
                    .ports
                    .iter()
                    .any(|range| (range.first..=range.last).contains(&flow.port)));
        if !protocol || !port {
            return false;
        }
        match (&rule.what, flow.to) {
            (Destinations::Any, _) | (Destinations::Host, Place::Host) => true,
            // The host's loopback is reached by its own word only: an address or a name that leads
            // there, whoever says so, opens nothing.
            (
                Destinations::Net(_) | Destinations::Name(_) | Destinations::Below(_),
                Place::Host,
            )
            | (Destinations::Host, Place::Address(_)) => false,
            (Destinations::Net(net), Place::Address(address)) => net.contains(&address),
            (Destinations::Name(_) | Destinations::Below(_), Place::Address(_)) => {
                names(&mut |name| covers(&rule.what, name))
            }
        }
    }
}

/// Whether a name, lower-case and without a final dot, is one of these.
fn covers(what: &Destinations, name: &str) -> bool {
    match what {
        Destinations::Name(own) => own.as_str() == name,
        Destinations::Below(suffix) => name
            .strip_suffix(suffix.as_str())
            .is_some_and(|rest| rest.ends_with('.') && rest.len() > 1),
        Destinations::Any | Destinations::Host | Destinations::Net(_) => false,
    }
}

/// What one guest may reach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    rules: Vec<Rule>,
    default: Verdict,
    default_reason: Arc<str>,
    /// Also names that no rule allows are resolved.
    all_names: bool,
}

impl Policy {
    /// Nothing is refused: nobody need ask.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.default == Verdict::Allow
            && self
                .rules
                .iter()
                .all(|rule| rule.rule.verdict == Verdict::Allow)
    }

    /// What becomes of a flow. `names` offers the names that the guest knows the address by, one by
    /// one until its argument says yes.
    pub fn decide<'n>(
        &self,
        flow: &Flow,
        names: impl Fn(&mut dyn FnMut(&'n str) -> bool) -> bool,
    ) -> Decision<'_> {
        let rule = self.rules.iter().find(|rule| rule.names(flow, &names));
        rule.map_or_else(
            || Decision {
                verdict: self.default,
                reason: &self.default_reason,
            },
            Rule::decision,
        )
    }

    /// Whether a name may be resolved outside: a question carries data, too. A name is refused when a
    /// rule denies all that it stands for, or when flows are denied by default and no rule allows any of it.
    #[must_use]
    pub fn decide_name(&self, name: &str) -> Decision<'_> {
        for rule in &self.rules {
            let any = rule.rule.what == Destinations::Any;
            if !any && !covers(&rule.rule.what, name) {
                continue;
            }
            match rule.rule.verdict {
                Verdict::Allow => return rule.decision(),
                // "deny any" is a default by another name.
                Verdict::Deny if rule.is_whole() && !(any && self.all_names) => {
                    return rule.decision();
                }
                // What is denied in part, say one port, may be asked for.
                Verdict::Deny => {}
            }
        }
        Decision {
            verdict: if self.all_names {
                Verdict::Allow
            } else {
                self.default
            },
            reason: &self.default_reason,
        }
    }

    /// Whether some rule is about this name: what is worth keeping.
    #[must_use]
    pub fn is_about(&self, name: &str) -> bool {
        self.rules.iter().any(|rule| covers(&rule.rule.what, name))
    }
}

/// The policies of one network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policies {
    network: Arc<Policy>,
    guests: BTreeMap<GuestName, Arc<Policy>>,
    open: bool,
}

impl Default for Policies {
    /// Everything is allowed.
    fn default() -> Self {
        Self {
            network: Arc::new(Policy {
                rules: Vec::new(),
                default: Verdict::Allow,
                default_reason: "egress = \"allow\"".into(),
                all_names: true,
            }),
            guests: BTreeMap::new(),
            open: true,
        }
    }
}

impl Policies {
    /// Compiles what the file says of a network and its guests.
    #[must_use]
    pub fn new<'c>(
        network: &NetworkEgress,
        guests: impl Iterator<Item = (&'c GuestName, &'c GuestEgress)>,
    ) -> Self {
        let common: Vec<Rule> = network
            .rules
            .iter()
            .map(|rule| Rule::new(rule, "the network"))
            .collect();
        let policy = |owner: &str, default: Verdict, own: Vec<Rule>| Policy {
            rules: own.into_iter().chain(common.iter().cloned()).collect(),
            default,
            default_reason: format!("{owner} has egress = \"{default}\", and no rule names it")
                .into(),
            all_names: network.names == NamePolicy::All,
        };
        let guests: BTreeMap<GuestName, Arc<Policy>> = guests
            .filter(|(_, egress)| **egress != GuestEgress::default())
            .map(|(name, egress)| {
                let owner = format!("guest {name}");
                let own = egress.rules.iter().map(|rule| Rule::new(rule, &owner));
                let policy = match egress.default {
                    Some(default) => policy(&owner, default, own.collect()),
                    None => policy("the network", network.default, own.collect()),
                };
                (name.clone(), Arc::new(policy))
            })
            .collect();
        let network = Arc::new(policy("the network", network.default, Vec::new()));
        Self {
            open: network.is_open() && guests.values().all(|guest| guest.is_open()),
            network,
            guests,
        }
    }

    /// No policy refuses anything.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.open
    }

    /// A guest's policy; without a name, or without a word of its own, the network's.
    #[must_use]
    pub fn of(&self, guest: Option<&GuestName>) -> &Arc<Policy> {
        guest
            .and_then(|guest| self.guests.get(guest))
            .unwrap_or(&self.network)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compiled(default: Verdict, rules: &[&str], guest: GuestEgress) -> (Policies, GuestName) {
        let network = NetworkEgress {
            default,
            rules: rules.iter().map(|rule| rule.parse().unwrap()).collect(),
            names: NamePolicy::Allowed,
        };
        let name = GuestName::parse("dev").unwrap();
        (Policies::new(&network, [(&name, &guest)].into_iter()), name)
    }

    fn guest(default: Option<Verdict>, rules: &[&str]) -> GuestEgress {
        GuestEgress {
            default,
            rules: rules.iter().map(|rule| rule.parse().unwrap()).collect(),
        }
    }

    fn flow(text: &str) -> Flow {
        let (rest, protocol) = text.rsplit_once('/').unwrap();
        let (place, port) = rest.rsplit_once(' ').unwrap();
        Flow {
            protocol: protocol.parse().unwrap(),
            to: if place == "host" {
                Place::Host
            } else {
                Place::Address(place.parse().unwrap())
            },
            port: port.parse().unwrap(),
        }
    }

    fn known<'n>(names: &'n [&'n str]) -> impl Fn(&mut dyn FnMut(&'n str) -> bool) -> bool {
        move |test| names.iter().any(|name| test(name))
    }

    #[test]
    fn the_first_rule_that_names_a_flow_decides() {
        let (policies, dev) = compiled(
            Verdict::Allow,
            &[
                "deny 10.0.0.0/8",
                "deny any:25/tcp",
                "deny host",
                "deny fd00::/8/icmp",
            ],
            guest(
                None,
                &["allow 10.1.0.0/16:80,8000-8010", "deny 192.0.2.1/udp"],
            ),
        );
        for (text, of_guest, of_network) in [
            ("10.1.2.3 80/tcp", true, false),
            ("10.1.2.3 8005/udp", true, false),
            ("10.1.2.3 81/tcp", false, false),
            // Ports say nothing about what has none.
            ("10.1.2.3 0/icmp", false, false),
            ("192.0.2.1 53/udp", false, true),
            ("192.0.2.1 53/tcp", true, true),
            ("192.0.2.9 25/tcp", false, false),
            ("192.0.2.9 25/udp", true, true),
            ("2001:db8::1 25/tcp", false, false),
            ("fd00::1 0/icmp", false, false),
            ("fd00::1 80/tcp", true, true),
            ("host 80/tcp", false, false),
        ] {
            let flow = flow(text);
            let decide = |name| policies.of(name).decide(&flow, known(&[])).allowed();
            assert_eq!(decide(Some(&dev)), of_guest, "{text} of the guest");
            assert_eq!(decide(None), of_network, "{text} of another");
        }
        let policy = policies.of(Some(&dev));
        let decision = policy.decide(&flow("192.0.2.9 25/tcp"), known(&[]));
        assert_eq!(
            &**decision.reason,
            "the network has the rule \"deny any:25/tcp\""
        );
    }

    #[test]
    fn a_sandbox_reaches_what_its_names_stand_for_and_nothing_else() {
        let (policies, dev) = compiled(
            Verdict::Allow,
            &[],
            guest(
                Some(Verdict::Deny),
                &["allow github.com:443", "allow *.debian.org/tcp"],
            ),
        );
        let policy = policies.of(Some(&dev));
        let allowed = |text, names: &[&str]| policy.decide(&flow(text), known(names)).allowed();
        assert!(allowed("192.0.2.1 443/tcp", &["github.com"]));
        assert!(allowed("192.0.2.1 443/tcp", &["x.example", "github.com"]));
        assert!(allowed("2001:db8::1 443/udp", &["github.com"]));
        assert!(!allowed("192.0.2.1 443/tcp", &[]));
        assert!(!allowed("192.0.2.1 22/tcp", &["github.com"]));
        assert!(!allowed("192.0.2.1 443/tcp", &["notgithub.com"]));
        assert!(allowed("192.0.2.1 80/tcp", &["deb.debian.org"]));
        assert!(!allowed("192.0.2.1 80/tcp", &["debian.org"]));
        assert!(!allowed("192.0.2.1 80/tcp", &["evildebian.org"]));
        // A name that leads to the host opens nothing there.
        assert!(!allowed("host 443/tcp", &["github.com"]));
        let resolves = |name| policy.decide_name(name).allowed();
        assert!(resolves("github.com") && resolves("ftp.debian.org"));
        assert!(!resolves("debian.org") && !resolves("secret.evil.example"));
        assert!(!policies.is_open() && policies.of(None).is_open());
    }

    #[test]
    fn names_that_are_denied_altogether_do_not_resolve() {
        let (policies, _) = compiled(
            Verdict::Allow,
            &[
                "allow good.ads.example",
                "deny *.ads.example",
                "deny mail.example:25",
            ],
            GuestEgress::default(),
        );
        let policy = policies.of(None);
        for (name, expected) in [
            ("good.ads.example", true),
            ("x.ads.example", false),
            ("mail.example", true),
            ("other.example", true),
        ] {
            assert_eq!(policy.decide_name(name).allowed(), expected, "{name}");
        }
        let (policies, _) = compiled(
            Verdict::Allow,
            &["allow good.example:443", "deny any"],
            GuestEgress::default(),
        );
        let resolves = |name| policies.of(None).decide_name(name).allowed();
        assert!(resolves("good.example") && !resolves("evil.example"));
    }

    #[test]
    fn all_names_resolve_where_the_network_says_so() {
        for rules in [&[][..], &["deny any"][..]] {
            let network = NetworkEgress {
                default: Verdict::Deny,
                rules: rules.iter().map(|rule| rule.parse().unwrap()).collect(),
                names: NamePolicy::All,
            };
            let policies = Policies::new(&network, std::iter::empty());
            assert!(policies.of(None).decide_name("x.example").allowed());
            let decision = policies.of(None);
            assert!(
                !decision
                    .decide(&flow("192.0.2.1 1/tcp"), known(&[]))
                    .allowed()
            );
        }
    }
}
