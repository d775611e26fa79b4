//! Every answer of a daemon, and what a wish makes of it.

use control::config::CachePolicy;

use super::*;

fn name(text: &str) -> GuestName {
    GuestName::parse(text).unwrap()
}

fn check(facts: &Facts, wish: &Wish, expected: Option<&str>) {
    let missing = facts.missing(wish);
    let said: Vec<String> = missing.iter().map(ToString::to_string).collect();
    assert_eq!(said.first().map(String::as_str), expected, "{wish:?}");
    assert!(missing.iter().all(|missing| !missing.next.is_empty()));
}

#[test]
fn a_guest_is_there_when_it_answers() {
    let presence = |plugged, address: Option<&str>, answers| {
        let presence = GuestPresence {
            guest: name("dev"),
            plugged,
            address: address.map(|address| address.parse().unwrap()),
            answers,
        };
        let guests = BTreeMap::from([(name("dev"), Ok(presence))]);
        Facts {
            guests,
            ..Facts::default()
        }
    };
    let wish = Wish::Guest(name("dev"));
    let address = Some("192.168.130.5");
    for (facts, expected) in [
        (presence(true, address, true), None),
        (
            presence(true, address, false),
            Some("guest dev: plugged in, but nothing answers at 192.168.130.5"),
        ),
        (
            presence(true, None, false),
            Some("guest dev: plugged in, but has no address yet"),
        ),
        // A lease outlives the guest.
        (
            presence(false, address, false),
            Some("guest dev: not plugged in"),
        ),
    ] {
        check(&facts, &wish, expected);
    }
}

#[test]
fn a_port_is_there_when_the_guests_own_serves() {
    let facts = |spec: &str, answers, problems: &[&str]| {
        let spec: PortSpec = spec.parse().unwrap();
        let leads = spec.pairs().map(|(host, guest)| PortLead {
            host,
            guest,
            answers,
        });
        let status = PortStatus {
            guest: name("dev"),
            leads: leads.collect(),
            spec,
            listening: vec!["127.64.0.1:8080".parse().unwrap()],
            problems: problems.iter().map(|&problem| problem.to_owned()).collect(),
        };
        Facts {
            ports: Some(Ok(vec![status])),
            ..Facts::default()
        }
    };
    let wish = Wish::Port(name("dev"), 8080);
    for (facts, expected) in [
        (facts("8080:80", GuestAnswer::Serves, &[]), None),
        (facts("8079-8081:79-81", GuestAnswer::Serves, &[]), None),
        (facts("8080:80/udp", GuestAnswer::Unknown, &[]), None),
        (
            facts("8080:80", GuestAnswer::Refuses, &[]),
            Some("port dev/8080: nothing listens on port 80 in the guest"),
        ),
        (
            facts("8080:80", GuestAnswer::Silent, &[]),
            Some("port dev/8080: port 80 of the guest does not answer"),
        ),
        (
            facts("8080:80", GuestAnswer::Absent, &[]),
            Some("port dev/8080: the guest is not there, or has no address"),
        ),
        (
            facts("8080:80", GuestAnswer::Unknown, &[]),
            Some("port dev/8080: it is not known yet whether port 80 answers"),
        ),
        (
            facts("8080:80", GuestAnswer::Serves, &["in use by sshd"]),
            Some("port dev/8080: in use by sshd"),
        ),
        (
            facts("9090:80", GuestAnswer::Serves, &[]),
            Some("port dev/8080: guest dev publishes 9090:80"),
        ),
    ] {
        check(&facts, &wish, expected);
    }
    let spec = Wish::Spec(name("dev"), "8080:80".parse().unwrap());
    check(&facts("8080:80", GuestAnswer::Serves, &[]), &spec, None);
    let bound = Wish::Bound(name("dev"), "8080:80".parse().unwrap());
    check(&facts("8080:80", GuestAnswer::Absent, &[]), &bound, None);
    check(
        &facts("8080:80", GuestAnswer::Absent, &["in use by sshd"]),
        &bound,
        Some("port dev/8080:80: in use by sshd"),
    );
}

#[test]
fn a_share_is_there_when_a_guest_or_the_host_has_mounted_it() {
    let device = |guest: &str, mounted| control::api::ShareDevice {
        guest: name(guest),
        socket: "/s".into(),
        connected: true,
        mounted,
        requests: 0,
        malformed: 0,
    };
    let mount = |mounted| control::api::ShareMount {
        path: "/mnt/d".into(),
        users: control::config::MountUsers::Own,
        mounted,
        problem: None,
        requests: 0,
    };
    let facts = |problem: Option<&str>, devices: Vec<_>, mount| {
        let share = ShareStatus {
            name: "d".parse().unwrap(),
            path: "/d".into(),
            at: "/mnt/d".into(),
            read_only: false,
            cache: CachePolicy::Auto,
            ninep: false,
            ninep_guests: Vec::new(),
            problem: problem.map(str::to_owned),
            devices,
            mount,
            traffic: Vec::new(),
        };
        Facts {
            shares: Some(Ok(vec![share])),
            ..Facts::default()
        }
    };
    let any = Wish::Share("d".parse().unwrap(), Vec::new());
    let of_dev = Wish::Share("d".parse().unwrap(), vec![name("dev")]);
    let used = || vec![device("dev", true)];
    check(&facts(None, used(), None), &any, None);
    check(&facts(None, used(), None), &of_dev, None);
    check(&facts(None, Vec::new(), Some(mount(true))), &any, None);
    for (facts, wish, expected) in [
        (
            facts(Some("/d is gone"), used(), None),
            &any,
            "share d: /d is gone",
        ),
        (
            facts(None, vec![device("dev", false)], None),
            &any,
            "share d: no guest has mounted it",
        ),
        (
            facts(None, vec![device("web", true)], None),
            &of_dev,
            "share d: guest dev has not mounted it",
        ),
        (
            facts(None, used(), Some(mount(false))),
            &any,
            "share d: /mnt/d: not mounted yet",
        ),
    ] {
        check(&facts, wish, Some(expected));
    }
    let by_ninep = |guest: &str| {
        let mut facts = facts(None, Vec::new(), None);
        if let Some(Ok(shares)) = &mut facts.shares {
            shares[0].ninep_guests = vec![name(guest)];
        }
        facts
    };
    check(&by_ninep("dev"), &any, None);
    check(&by_ninep("dev"), &of_dev, None);
    check(
        &by_ninep("web"),
        &of_dev,
        Some("share d: guest dev has not mounted it"),
    );
    let unserved = Facts {
        shares: Some(Ok(Vec::new())),
        ..Facts::default()
    };
    check(&unserved, &any, Some("share d: sharefs does not serve it"));
}

#[test]
fn a_daemon_that_is_down_says_so_for_all_that_it_would_tell() {
    let down = || "netd is not running".to_owned();
    let facts = Facts {
        daemons: BTreeMap::from([(Daemon::Netd, Err(down()))]),
        guests: BTreeMap::from([(name("dev"), Err(down()))]),
        ports: Some(Err(down())),
        ..Facts::default()
    };
    check(&facts, &Wish::Daemons, Some("daemons: netd is not running"));
    for wish in [Wish::Guest(name("dev")), Wish::Port(name("dev"), 1)] {
        assert!(
            facts.missing(&wish)[0].why.contains("not running"),
            "{wish:?}"
        );
    }
}

#[test]
fn a_daemon_that_hangs_is_not_mended_by_up() {
    for (why, next) in [
        ("netd is not running", "sharectl up"),
        ("netd does not answer", "sharectl restart netd"),
    ] {
        let facts = Facts {
            daemons: BTreeMap::from([(Daemon::Netd, Err(why.to_owned()))]),
            guests: BTreeMap::from([(name("dev"), Err(why.to_owned()))]),
            ports: Some(Err(why.to_owned())),
            ..Facts::default()
        };
        let wishes = [
            Wish::Daemons,
            Wish::Guest(name("dev")),
            Wish::Port(name("dev"), 1),
        ];
        for wish in wishes {
            let missing = facts.missing(&wish);
            assert!(missing[0].next.starts_with(next), "{wish:?}: {missing:?}");
        }
    }
}
