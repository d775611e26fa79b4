//! The rule, case by case, and the laws that hold for any facts.

use super::*;
use proptest::prelude::*;
use std::time::Duration;

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn source(name: &str) -> SourceName {
    SourceName::parse(name).unwrap()
}

/// Guests 100, vm 50 below "test", docker 50 below "local.test".
fn rules() -> Rules {
    let suffix = |name: &str| Some(HostName::parse(name).unwrap());
    Rules {
        reserved: Reserved::for_machine("box.lan"),
        guests: 100,
        sources: BTreeMap::from([
            (source("vm"), (50, suffix("test"))),
            (source("docker"), (50, suffix("local.test"))),
            (source("low"), (10, suffix("test"))),
        ]),
    }
}

/// Whose: nothing is static, "+" added, `docker/x` and `vm/x`, `low/x` of a source, else a guest.
fn fact(name: &str, address: &str, whose: &str) -> Fact {
    let from = match (whose, whose.split_once('/')) {
        ("", _) => Source::Static,
        ("+", _) => Source::Added,
        (_, Some(("docker", container))) => Source::Container {
            source: source("docker"),
            container: container.to_owned(),
        },
        (_, Some((other, client))) => Source::Lease {
            source: source(other),
            client: client.to_owned(),
        },
        (guest, None) => Source::Guest {
            guest: GuestName::parse(guest).unwrap(),
            network: NetworkName::parse("vmnet8").unwrap(),
        },
    };
    let (name, below) = match name.strip_prefix("*.") {
        Some(name) => (name, true),
        None => (name, false),
    };
    Fact {
        name: HostName::parse(name).unwrap(),
        below,
        address: address.parse().unwrap(),
        from,
        since: None,
        until: None,
    }
}

fn since(mut fact: Fact, seconds: u64) -> Fact {
    fact.since = Some(at(seconds));
    fact
}

fn until(mut fact: Fact, seconds: u64) -> Fact {
    fact.until = Some(at(seconds));
    fact
}

fn check(facts: &[Fact], wanted: &[(&str, &str)], lost: &[&str]) {
    let table = decide(facts, &rules(), at(100));
    let below = table
        .below
        .iter()
        .map(|(name, claim)| (format!("*.{name}"), claim));
    let plain = table
        .wanted
        .iter()
        .map(|(name, claim)| (name.to_string(), claim));
    let names: Vec<(String, String)> = plain
        .chain(below)
        .map(|(name, claim)| (name, claim.address.to_string()))
        .collect();
    let names: Vec<(&str, &str)> = names
        .iter()
        .map(|(name, address)| (name.as_str(), address.as_str()))
        .collect();
    assert_eq!(names, wanted);
    let reasons: Vec<String> = table
        .lost
        .iter()
        .map(|lost| format!("{} {}: {}", lost.fact.name, lost.fact.address, lost.why))
        .collect();
    assert_eq!(reasons, lost);
}

#[test]
fn what_the_user_wrote_comes_before_every_source() {
    check(
        &[
            fact("local.test", "127.64.0.1", "aa"),
            until(fact("local.test", "10.0.0.8", "+"), 200),
            fact("local.test", "10.0.0.9", ""),
        ],
        &[("local.test", "10.0.0.9")],
        &[
            "local.test 10.0.0.8: static has it (10.0.0.9): what you wrote comes first",
            "local.test 127.64.0.1: static has it (10.0.0.9): what you wrote comes first",
        ],
    );
    check(
        &[
            fact("local.test", "127.64.0.1", "aa"),
            until(fact("local.test", "10.0.0.8", "+"), 101),
        ],
        &[("local.test", "10.0.0.8")],
        &["local.test 127.64.0.1: added has it (10.0.0.8): what you wrote comes first"],
    );
}

#[test]
fn first_guest_by_name_keeps_a_contested_name() {
    check(
        &[
            fact("local.test", "127.64.0.2", "web"),
            fact("local.test", "127.64.0.1", "dev"),
        ],
        &[("local.test", "127.64.0.1")],
        &["local.test 127.64.0.2: guest dev on vmnet8 has it (127.64.0.1): it comes first by name"],
    );
}

#[test]
fn priority_decides_before_age_and_age_before_duration() {
    let old = since(fact("a.test", "10.0.0.1", "vm/m1"), 10);
    let new = since(fact("a.test", "10.0.0.2", "vm/m2"), 20);
    let low = since(fact("a.test", "10.0.0.3", "low/m3"), 99);
    check(
        &[old.clone(), low, new],
        &[("a.test", "10.0.0.2")],
        &[
            "a.test 10.0.0.1: vm: m2 has it (10.0.0.2): its claim is newer",
            "a.test 10.0.0.3: vm: m2 has it (10.0.0.2): its priority 50 is above 10",
        ],
    );
    let longer = until(since(fact("a.test", "10.0.0.4", "vm/m4"), 10), 300);
    check(
        &[until(old, 200), longer, fact("a.test", "127.64.0.1", "dev")],
        &[("a.test", "127.64.0.1")],
        &[
            "a.test 10.0.0.4: guest dev on vmnet8 has it (127.64.0.1): its priority 100 is above 50",
            "a.test 10.0.0.1: guest dev on vmnet8 has it (127.64.0.1): its priority 100 is above 50",
        ],
    );
}

#[test]
fn a_source_gets_nothing_outside_its_suffix_nor_the_suffix_itself() {
    let out = "the name is not below local.test";
    check(
        &[
            fact("bank.example", "172.17.0.2", "docker/x"),
            fact("evil-local.test", "172.17.0.2", "docker/x"),
            fact("local.test", "172.17.0.2", "docker/x"),
            fact("*.local.test", "172.17.0.2", "docker/x"),
            fact("*.x.local.test", "172.17.0.2", "docker/x"),
            fact("x.local.test", "172.17.0.2", "docker/x"),
            fact("bank.example", "127.0.0.1", "vm/m"),
        ],
        &[
            ("x.local.test", "172.17.0.2"),
            ("*.x.local.test", "172.17.0.2"),
        ],
        &[
            "bank.example 127.0.0.1: the name is not below test",
            &format!("bank.example 172.17.0.2: {out}"),
            &format!("evil-local.test 172.17.0.2: {out}"),
            &format!("local.test 172.17.0.2: {out}"),
            &format!("local.test 172.17.0.2: {out}"),
        ],
    );
}

#[test]
fn the_machines_own_names_are_given_to_nobody() {
    let own = "the name belongs to this machine";
    let mut lost = Vec::new();
    let mut facts = Vec::new();
    for name in [
        "a.localhost",
        "box",
        "box.lan",
        "broadcasthost",
        "ip6-allnodes",
        "localhost",
        "localhost.localdomain",
    ] {
        for whose in ["", "+"] {
            facts.push(fact(name, "127.64.0.1", whose));
            lost.push(format!("{name} 127.64.0.1: {own}"));
        }
    }
    let lost: Vec<&str> = lost.iter().map(String::as_str).collect();
    check(&facts, &[], &lost);
}

#[test]
fn an_expired_claim_frees_the_name_for_the_next() {
    let facts = [
        until(fact("a.test", "127.64.0.1", "dev"), 100),
        until(fact("a.test", "127.64.0.2", "web"), 101),
    ];
    check(
        &facts,
        &[("a.test", "127.64.0.2")],
        &["a.test 127.64.0.1: its time is over"],
    );
    let table = decide(&facts, &rules(), at(0));
    // The longer one has it, so nothing changes before its end.
    assert_eq!(table.valid_until, Some(at(101)));
}

#[test]
fn each_loss_has_a_remedy_where_there_is_one() {
    let facts = [
        fact("a.test", "10.0.0.9", ""),
        fact("a.test", "10.0.0.1", "vm/m1"),
        fact("b.test", "127.64.0.1", "dev"),
        fact("b.test", "10.0.0.1", "vm/m1"),
        since(fact("c.test", "10.0.0.1", "vm/m1"), 1),
        since(fact("c.test", "10.0.0.2", "vm/m2"), 2),
        fact("d.example", "172.17.0.2", "docker/x"),
        fact("localhost", "172.17.0.2", "docker/x"),
        fact("e.test", "10.0.0.1", "vm/m1"),
        fact("e.test", "10.0.0.1", "low/m1"),
    ];
    let table = decide(&facts, &rules(), at(100));
    let hints: Vec<String> = table
        .lost
        .iter()
        .map(|lost| lost.why.hint(&lost.fact).unwrap_or_default())
        .collect();
    assert_eq!(
        hints,
        [
            "sharectl host rm 'a.test'",
            "priority = 101 or more for vm in [hosts.source]",
            "another name for one of them",
            "another suffix for docker in [hosts.source], or: sharectl host add 'd.example' 172.17.0.2",
            "",
            "another name, such as one under .test",
        ]
    );
}

proptest! {
    #[test]
    fn order_and_repeats_do_not_matter_and_every_fact_is_accounted_for(
        picks in proptest::collection::vec(
            (0usize..6, 0u8..4, 0usize..7, proptest::option::of(0u64..5), proptest::option::of(90u64..120)),
            0..30,
        ),
        turn in 0usize..30,
    ) {
        let names = ["a.test", "*.a.test", "localhost", "box", "c.local.test", "d.example"];
        let whose = ["", "+", "alpha", "beta", "vm/m", "docker/x", "low/m"];
        let facts: Vec<Fact> = picks
            .iter()
            .map(|(name, last, who, since, until)| {
                let mut one = fact(names[*name], &format!("127.64.0.{last}"), whose[*who]);
                one.since = since.map(at);
                one.until = until.map(at);
                one
            })
            .collect();
        let rules = rules();
        let table = decide(&facts, &rules, at(100));

        let mut turned = facts.clone();
        turned.rotate_left(if facts.is_empty() { 0 } else { turn % facts.len() });
        turned.extend(facts.iter().take(3).cloned());
        prop_assert_eq!(&table, &decide(&turned, &rules, at(100)));

        for fact in &facts {
            let names = if fact.below { &table.below } else { &table.wanted };
            let winner = names.get(&fact.name);
            let won = winner.is_some_and(|claim| claim.from == fact.from && claim.address == fact.address);
            let lost = table.lost.iter().any(|lost| {
                (&lost.fact.name, lost.fact.below, &lost.fact.from, lost.fact.address)
                    == (&fact.name, fact.below, &fact.from, fact.address)
            });
            prop_assert!(won != lost, "{:?} neither won nor lost, or both", fact);
            let good = !rules.reserved.holds(&fact.name)
                && rules.outside(fact).is_none()
                && fact.until.is_none_or(|until| until > at(100));
            if good {
                let winner = winner.unwrap();
                // None is the user: before all.
                let place = |from: &Source| rules.priority(from).map_or(u16::MAX, |place| place);
                prop_assert!(place(&winner.from) >= place(&fact.from));
            }
        }
        prop_assert!(table.wanted.keys().all(|name| !rules.reserved.holds(name)));
        for (name, claim) in &table.wanted {
            if let Source::Container { .. } = claim.from {
                prop_assert!(name.is_within(&HostName::parse("local.test").unwrap()));
            }
        }
    }
}
