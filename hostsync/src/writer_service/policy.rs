//! Who may have which names: the administrator's file, and the question it answers. Pure.
//!
//! Whatever the file says, nobody gets `localhost` and its like, the machine's own names, or an
//! address that no service can have. What stands on a user's own line in the hosts file is kept from
//! claims by `section.rs`, as everywhere.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use control::names::HostName;
use ipnet::IpNet;
use serde::Deserialize;

use super::accounts::{Accounts, Members};
use crate::table::Reserved;

/// The administrator's file. It must be root's and writable by nobody else.
pub const POLICY_FILE: &str = "/etc/sharectl/hosts.toml";

/// Rules in a file; more is a mistake.
const MOST_RULES: usize = 256;
/// Suffixes that a refusal names.
const SHOWN: usize = 5;
/// Where ordinary users' numbers begin and end (`login.defs(5)`, Debian's and Fedora's default).
const PEOPLE: std::ops::RangeInclusive<u32> = 1000..=60_000;
/// The suffix that everyone may use while no rule is written: no name of the Internet ends in it
/// (RFC 6761 section 6.2), so nothing can be hidden by a claim.
const RESERVED_SUFFIX: &str = "test";
/// Where a name may lead if a rule does not say: this machine, and private networks (RFC 1918, RFC 4193).
const ADDRESSES: [&str; 6] = [
    "127.0.0.0/8",
    "::1/128",
    "10.0.0.0/8",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "fc00::/7",
];

/// What is wrong with the file, with the next step.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PolicyError(pub String);

/// Who may have which names.
#[derive(Debug, Clone)]
pub struct Policy {
    rules: Vec<Rule>,
    grace: Option<Duration>,
    own: Vec<Reserved>,
    accounts: Accounts,
}

#[derive(Debug, Clone)]
struct Rule {
    users: BTreeSet<u32>,
    groups: Vec<Members>,
    everyone: bool,
    suffixes: Vec<HostName>,
    addresses: Vec<IpNet>,
}

/// Who asks, as the kernel says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// User id.
    pub uid: u32,
    /// First group id.
    pub gid: u32,
}

/// What the policy is made of, as bytes and words.
#[derive(Debug, Clone, Default)]
pub(super) struct Texts<'a> {
    /// The administrator's file; none when it is not there.
    pub(super) policy: Option<&'a str>,
    /// `/etc/passwd`.
    pub(super) passwd: &'a [u8],
    /// `/etc/group`.
    pub(super) group: &'a [u8],
    /// What the machine calls itself.
    pub(super) node_name: &'a str,
    /// `/etc/resolv.conf`, for the domain that completes the machine's name.
    pub(super) resolv: &'a str,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
struct File {
    grace: Option<String>,
    allow: Vec<Allow>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
struct Allow {
    users: Vec<Account>,
    groups: Vec<Account>,
    suffixes: Vec<String>,
    addresses: Option<Vec<String>>,
}

/// A name, or a number written with or without quotes.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Account {
    Number(u32),
    Name(String),
}

impl Account {
    fn text(&self) -> String {
        match self {
            Self::Number(number) => number.to_string(),
            Self::Name(name) => name.clone(),
        }
    }
}

impl Policy {
    /// Reads the administrator's file; without one, people may have names below `test`.
    pub(super) fn parse(texts: &Texts<'_>) -> Result<Self, PolicyError> {
        let own = own_names(texts.node_name, texts.resolv);
        let accounts = Accounts::parse(texts.passwd, texts.group);
        let Some(text) = texts.policy else {
            let everyone = Rule {
                users: BTreeSet::new(),
                groups: Vec::new(),
                everyone: true,
                suffixes: vec![suffix(RESERVED_SUFFIX)?],
                addresses: networks(&ADDRESSES)?,
            };
            return Ok(Self {
                rules: vec![everyone],
                grace: None,
                own,
                accounts,
            });
        };
        let file: File = toml::from_str(text).map_err(|error| {
            let line = error.span().map_or(1, |span| {
                let before = text.as_bytes().get(..span.start).unwrap_or_default();
                before.iter().filter(|byte| **byte == b'\n').count() + 1
            });
            PolicyError(format!("line {line}: {}", error.message()))
        })?;
        if file.allow.len() > MOST_RULES {
            return Err(PolicyError(format!(
                "{} tables [[allow]], the limit is {MOST_RULES}",
                file.allow.len()
            )));
        }
        let rules = file
            .allow
            .iter()
            .enumerate()
            .map(|(index, allow)| {
                rule(allow, &accounts).map_err(|error| {
                    PolicyError(format!("[[allow]] number {}: {error}", index + 1))
                })
            })
            .collect::<Result<_, _>>()?;
        Ok(Self {
            rules,
            grace: file.grace.as_deref().map(grace).transpose()?.flatten(),
            own,
            accounts,
        })
    }

    /// The policy that lets nobody have anything: while the file cannot be used.
    pub(super) fn nobody() -> Self {
        Self {
            rules: Vec::new(),
            grace: None,
            own: Vec::new(),
            accounts: Accounts::default(),
        }
    }

    /// A user that is not here to say who it is; none when its first group decides and is not known.
    #[must_use]
    pub fn peer(&self, uid: u32) -> Option<Peer> {
        let by_group = self.rules.iter().any(|rule| !rule.groups.is_empty());
        match self.accounts.first_group(uid) {
            Some(gid) => Some(Peer { uid, gid }),
            // No group has this number (chown(2) leaves it out), so no rule names it.
            None => (!by_group).then_some(Peer { uid, gid: u32::MAX }),
        }
    }

    /// How long names stay when their client is gone; none: until they are taken back.
    #[must_use]
    pub fn grace(&self) -> Option<Duration> {
        self.grace
    }

    /// What names `peer` may have, by their ends.
    #[must_use]
    pub fn suffixes(&self, peer: Peer) -> Vec<HostName> {
        let mut suffixes: Vec<HostName> = self
            .rules_of(peer)
            .flat_map(|rule| rule.suffixes.iter().cloned())
            .collect();
        suffixes.sort();
        suffixes.dedup();
        suffixes
    }

    /// Whether `peer` may have `name` with `address`; else why not, in words.
    ///
    /// # Errors
    /// The reason.
    pub fn judge(&self, peer: Peer, name: &HostName, address: IpAddr) -> Result<(), String> {
        if self.own.iter().any(|own| own.holds(name)) {
            return Err("the name belongs to this machine".to_owned());
        }
        if !can_be_reached(address) {
            return Err(format!("{address} is no address of a service"));
        }
        let mut named = self
            .rules_of(peer)
            .filter(|rule| rule.suffixes.iter().any(|suffix| name.is_within(suffix)))
            .peekable();
        if named.peek().is_none() {
            let suffixes = self.suffixes(peer);
            return Err(if suffixes.is_empty() {
                format!(
                    "{POLICY_FILE} gives user {} no names; root can add a table [[allow]]",
                    peer.uid
                )
            } else {
                let mut list: Vec<&str> = suffixes.iter().map(HostName::as_str).collect();
                // Each refused name says it: an answer has to stay short.
                if list.len() > SHOWN {
                    list.truncate(SHOWN);
                    list.push("...");
                }
                format!(
                    "user {} may have names below {}; root can allow more in {POLICY_FILE}",
                    peer.uid,
                    list.join(", ")
                )
            });
        }
        if named.any(|rule| rule.addresses.iter().any(|net| net.contains(&address))) {
            Ok(())
        } else {
            Err(format!(
                "{address} is not in the `addresses` that {POLICY_FILE} allows for it"
            ))
        }
    }

    fn rules_of(&self, peer: Peer) -> impl Iterator<Item = &Rule> {
        self.rules.iter().filter(move |rule| {
            rule.users.contains(&peer.uid)
                || rule
                    .groups
                    .iter()
                    .any(|group| group.group == peer.gid || group.users.contains(&peer.uid))
                || (rule.everyone && (peer.uid == 0 || PEOPLE.contains(&peer.uid)))
        })
    }
}

fn rule(allow: &Allow, accounts: &Accounts) -> Result<Rule, PolicyError> {
    let users = allow.users.iter().map(|user| {
        let text = user.text();
        let missing = || {
            PolicyError(format!(
                "no user {text:?} in /etc/passwd; a number always works"
            ))
        };
        accounts.user(&text).ok_or_else(missing)
    });
    let groups = allow.groups.iter().map(|group| {
        let text = group.text();
        let missing = || {
            PolicyError(format!(
                "no group {text:?} in /etc/group; a number always works"
            ))
        };
        accounts.group(&text).ok_or_else(missing)
    });
    if allow.users.is_empty() && allow.groups.is_empty() {
        return Err(PolicyError("it needs `users` or `groups`".to_owned()));
    }
    if allow.suffixes.is_empty() {
        return Err(PolicyError(
            "it needs `suffixes`, for example [\"test\"]".to_owned(),
        ));
    }
    Ok(Rule {
        users: users.collect::<Result<_, _>>()?,
        groups: groups.collect::<Result<_, _>>()?,
        everyone: false,
        suffixes: allow
            .suffixes
            .iter()
            .map(|text| suffix(text))
            .collect::<Result<_, _>>()?,
        addresses: match &allow.addresses {
            None => networks(&ADDRESSES)?,
            Some(texts) => networks(texts)?,
        },
    })
}

fn suffix(text: &str) -> Result<HostName, PolicyError> {
    let plain = text
        .strip_prefix("*.")
        .unwrap_or(text)
        .trim_start_matches('.');
    HostName::parse(plain).map_err(|error| PolicyError(error.to_string()))
}

fn networks(texts: &[impl AsRef<str>]) -> Result<Vec<IpNet>, PolicyError> {
    let network = |text: &str| {
        let alone = text.parse::<IpAddr>().map(IpNet::from);
        text.parse::<IpNet>().or(alone).map_err(|_| {
            PolicyError(format!(
                "{text:?} is no network; write for example \"127.0.0.0/8\""
            ))
        })
    };
    texts.iter().map(|text| network(text.as_ref())).collect()
}

/// "kept", or a number with s, m, h or d.
fn grace(text: &str) -> Result<Option<Duration>, PolicyError> {
    if text == "kept" {
        return Ok(None);
    }
    let wrong = || {
        PolicyError(format!(
            "grace {text:?} is neither \"kept\" nor a time such as \"10m\""
        ))
    };
    let unit = text.chars().next_back().ok_or_else(wrong)?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        _ => return Err(wrong()),
    };
    let number: u64 = text
        .strip_suffix(unit)
        .and_then(|number| number.parse().ok())
        .ok_or_else(wrong)?;
    let seconds = number.checked_mul(seconds).ok_or_else(wrong)?;
    if seconds > 366 * 86_400 {
        return Err(PolicyError(format!(
            "grace {text:?} is over a year; write \"kept\""
        )));
    }
    Ok(Some(Duration::from_secs(seconds)))
}

/// The machine's own names: as it calls itself, and that completed by each search domain.
fn own_names(node_name: &str, resolv: &str) -> Vec<Reserved> {
    let label = node_name.split('.').next().unwrap_or_default();
    let domains = resolv.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        matches!(words.next(), Some("search" | "domain")).then_some(words)
    });
    let full = domains
        .flatten()
        .map(|domain| Reserved::for_machine(&format!("{label}.{}", domain.trim_matches('.'))));
    std::iter::once(Reserved::for_machine(node_name))
        .chain(full)
        .collect()
}

/// Whether a service can have the address at all.
fn can_be_reached(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            !address.is_unspecified() && !address.is_multicast() && !address.is_broadcast()
        }
        // A mapped address would be an IPv4 one that escaped the rules for those.
        IpAddr::V6(address) => {
            !address.is_unspecified()
                && !address.is_multicast()
                && address.to_ipv4_mapped().is_none()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANN: Peer = Peer {
        uid: 1000,
        gid: 1000,
    };
    const BOB: Peer = Peer {
        uid: 1001,
        gid: 1001,
    };
    const DAEMON: Peer = Peer { uid: 33, gid: 33 };

    fn parse(policy: Option<&str>) -> Result<Policy, PolicyError> {
        Policy::parse(&Texts {
            policy,
            passwd: b"ann:x:1000:1000:::\nbob:x:1001:1001:::\n",
            group: b"dev:x:50:bob\n",
            node_name: "box.lan",
            resolv: "search corp.example. home\n# search no\nnameserver 1.1.1.1\n",
        })
    }

    /// Each case: who, name, address, and the start of the reason; "" for yes.
    fn check(policy: Option<&str>, cases: &[(Peer, &str, &str, &str)]) {
        let policy = parse(policy).unwrap();
        for (peer, name, address, reason) in cases {
            let name = HostName::parse(name).unwrap();
            let answer = policy.judge(*peer, &name, address.parse().unwrap());
            match answer {
                Ok(()) => assert_eq!(*reason, "", "{name} {address} was allowed"),
                Err(why) => assert!(
                    !reason.is_empty() && why.contains(reason),
                    "{name} {address}: {why}"
                ),
            }
        }
    }

    #[test]
    fn without_a_file_people_have_what_is_reserved_for_tests() {
        check(
            None,
            &[
                (ANN, "local.test", "127.64.0.1", ""),
                (BOB, "a.b.test", "192.168.1.7", ""),
                (ANN, "local.test", "fd00::1", ""),
                (ANN, "google.com", "127.0.0.1", "below test"),
                (ANN, "latest", "127.0.0.1", "below test"),
                (ANN, "x.test", "8.8.8.8", "not in the `addresses`"),
                (ANN, "x.test", "::ffff:10.0.0.1", "no address of a service"),
                (ANN, "x.test", "0.0.0.0", "no address of a service"),
                (ANN, "x.test", "224.0.0.1", "no address of a service"),
                (ANN, "x.test", "ff02::1", "no address of a service"),
                (DAEMON, "x.test", "127.0.0.1", "no names"),
            ],
        );
    }

    #[test]
    fn the_machine_s_own_names_are_nobody_s_whatever_the_file_says() {
        let all = "[[allow]]\nusers = [\"ann\"]\nsuffixes = [\"lan\", \"example\", \"localhost\", \"box\", \"home\", \
                   \"localdomain\", \"ip6-loopback\", \"broadcasthost\"]\naddresses = [\"0.0.0.0/0\"]\n";
        for name in [
            "box.lan",
            "box",
            "box.corp.example",
            "box.home",
            "localhost",
            "a.localhost",
            "localhost.localdomain",
            "ip6-loopback",
            "broadcasthost",
        ] {
            check(
                Some(all),
                &[(ANN, name, "127.0.0.1", "belongs to this machine")],
            );
        }
        check(
            Some(all),
            &[
                (ANN, "other.lan", "8.8.8.8", ""),
                (
                    ANN,
                    "other.lan",
                    "255.255.255.255",
                    "no address of a service",
                ),
            ],
        );
    }

    #[test]
    fn rules_name_users_groups_and_addresses() {
        let policy = "grace = \"10m\"\n\
            [[allow]]\nusers = [\"ann\", 33]\nsuffixes = [\"ann.test\", \"*.dev.example\"]\n\
            [[allow]]\ngroups = [\"dev\"]\nsuffixes = [\".test\"]\naddresses = [\"127.64.0.0/10\", \"10.0.0.1\"]\n";
        check(
            Some(policy),
            &[
                (ANN, "ann.test", "127.0.0.1", ""),
                (ANN, "x.ann.test", "127.0.0.1", ""),
                (
                    ANN,
                    "joann.test",
                    "127.0.0.1",
                    "below ann.test, dev.example",
                ),
                (DAEMON, "x.dev.example", "127.0.0.1", ""),
                (BOB, "x.test", "127.64.0.9", ""),
                (BOB, "x.test", "10.0.0.1", ""),
                (BOB, "x.test", "127.0.0.1", "not in the `addresses`"),
                (Peer { uid: 5, gid: 50 }, "x.test", "127.64.0.1", ""),
                (Peer { uid: 5, gid: 5 }, "x.test", "127.64.0.1", "no names"),
                (Peer { uid: 0, gid: 0 }, "x.test", "127.64.0.1", "no names"),
            ],
        );
        assert_eq!(
            parse(Some(policy)).unwrap().grace(),
            Some(Duration::from_secs(600))
        );
    }

    #[test]
    fn an_empty_file_allows_nothing_and_mistakes_are_named() {
        check(Some(""), &[(ANN, "x.test", "127.0.0.1", "no names")]);
        for (text, part) in [
            (
                "[[allow]]\nusers = [\"eve\"]\nsuffixes = [\"test\"]",
                "no user \"eve\"",
            ),
            (
                "[[allow]]\ngroups = [\"wheel\"]\nsuffixes = [\"test\"]",
                "no group \"wheel\"",
            ),
            (
                "[[allow]]\nsuffixes = [\"test\"]",
                "needs `users` or `groups`",
            ),
            ("[[allow]]\nusers = [\"ann\"]", "needs `suffixes`"),
            (
                "[[allow]]\nusers = [\"ann\"]\nsuffixes = [\"\"]",
                "must not be empty",
            ),
            ("[[allow]]\nusers = [\"ann\"]\nsuffixes = [\"a_b\"]", "a_b"),
            (
                "[[allow]]\nusers = [\"ann\"]\nsuffixes = [\"test\"]\naddresses = [\"home\"]",
                "\"home\" is no network",
            ),
            ("grace = \"soon\"", "grace \"soon\""),
            ("grace = \"4000d\"", "over a year"),
            ("\nallows = 1", "line 2"),
        ] {
            let error = parse(Some(text)).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn the_file_that_is_shipped_reads_and_so_does_its_example() {
        let texts = |policy| parse(Some(policy));
        let shown = texts(super::super::units::POLICY).unwrap();
        assert_eq!(shown.grace(), None);
        // Its one rule is an example and commented out; with it, it must read.
        let example: String = super::super::units::POLICY
            .lines()
            .map(|line| line.strip_prefix("#| ").unwrap_or(line))
            .collect::<Vec<_>>()
            .join("\n");
        let read = texts(&example).unwrap();
        let suffixes = read.suffixes(ANN);
        assert!(suffixes.iter().any(|suffix| suffix.as_str() == "test"));
    }
}
