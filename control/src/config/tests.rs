//! The file's rules as data: a text and what is said about it.

use super::*;

fn surroundings() -> Surroundings {
    Surroundings {
        home: Some("/home/ann".into()),
        uid: 1000,
        gid: 1000,
        machine: Some("4d31f0a2c0de4b0f9f6c3d2e1a0b9c8d".to_owned()),
        drives: Default::default(),
    }
}

fn parse(text: &str) -> Result<Config, ConfigErrors> {
    Config::parse(text, Path::new("config.toml"), &surroundings())
}

/// The text is refused and the whole message is `expected`.
fn check_refused(text: &str, expected: &str) {
    match parse(text) {
        Ok(_) => panic!("accepted:\n{text}"),
        Err(errors) => assert_eq!(errors.to_string(), expected, "for\n{text}"),
    }
}

#[test]
fn empty_file_has_the_default_network() {
    let config = parse("").unwrap();
    let network = &config.networks[&NetworkName::parse("vmnet8").unwrap()];
    assert_eq!(network.subnet.to_string(), "192.168.130.0/24");
    assert_eq!(network.gateway.to_string(), "192.168.130.1");
    assert_eq!(network.host_internal.to_string(), "192.168.130.254");
    assert_eq!(network.pool.start().to_string(), "192.168.130.128");
    assert_eq!(network.pool.end().to_string(), "192.168.130.253");
    assert_eq!(network.domain.as_str(), "test");
    assert_eq!(config.hosts.files, [HostsFile::Auto]);
}

#[test]
fn whole_file_reads() {
    let config = parse(
        r#"
[network.vmnet8]
type = "nat"
subnet = "192.168.140.0/24"
mtu = 1500
dns = ["127.0.0.1:5353", "10.0.0.53"]
dns-rules = { "Corp.example" = "10.1.1.1", "example" = ["10.1.1.2:53", "[fd00::1]:53"] }
records = { "a.test" = ["10.0.0.5", "fd00::5"], "*.apps.test" = "a.test" }
[network.vmnet1]
type = "host-only"
[guest.dev]
mac = "52:54:00:00:00:01"
address = "192.168.140.2"
names = ["local.test"]
publish = ["8080:80", "127.0.0.1:5353:53/udp", "tcp:2375"]
[share.d]
path = 'D:\'
[share.src]
path = "~/src/"
at = "/src"
guests = ["dev"]
owner = "squash"
guest-owner = "0:0"
[hosts]
files = ["auto", "/tmp/hosts"]
[hosts.static]
"a.test" = "127.0.0.1"
"#,
    )
    .unwrap();
    let names = &config.networks[&NetworkName::parse("vmnet8").unwrap()].names;
    let shown = serde_json::to_string(names).unwrap();
    assert_eq!(
        shown,
        r#"{"rules":{"corp.example":["10.1.1.1:53"],"example":["10.1.1.2:53","[fd00::1]:53"]},"records":{"a.test":["10.0.0.5","fd00::5"],"*.apps.test":"a.test"},"host_names":true}"#
    );
    let dev = GuestName::parse("dev").unwrap();
    let guest = &config.guests[&dev];
    assert!(guest.host_address.is_loopback());
    let names: Vec<_> = config
        .names_of(guest)
        .unwrap()
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(names, ["dev.test", "local.test"]);
    let shares: Vec<_> = config
        .shares_of(&dev)
        .map(|s| (s.path.to_str().unwrap(), s.at.to_str().unwrap()))
        .collect();
    assert_eq!(shares, [("/mnt/d", "/mnt/d"), ("/home/ann/src", "/src")]);
    assert_eq!(config.hosts.entries.len(), 1);
    let other = GuestName::parse("other").unwrap();
    assert_eq!(config.shares_of(&other).count(), 1);
}

#[test]
fn a_windows_drive_is_where_it_is_mounted() {
    let around = Surroundings {
        drives: BTreeMap::from([('d', "/drives/d".into())]),
        ..surroundings()
    };
    for (text, path) in [
        ('d', "/drives/d/x"),
        ('D', "/drives/d/x"),
        ('e', "/mnt/e/x"),
    ] {
        let text = format!("[share.s]\npath = '{text}:\\x'\n");
        let config = Config::parse(&text, Path::new("c.toml"), &around).unwrap();
        assert_eq!(
            config.shares[&ShareName::parse("s").unwrap()].path,
            Path::new(path)
        );
    }
}

#[test]
fn an_ipv6_prefix_is_derived_written_or_left_out() {
    let prefixes = |text: &str, machine: Option<&str>| -> Vec<String> {
        let surroundings = Surroundings {
            machine: machine.map(str::to_owned),
            ..surroundings()
        };
        let config = Config::parse(text, Path::new("c.toml"), &surroundings).unwrap();
        let shown = |network: &Network| {
            network
                .ipv6
                .map_or_else(|| "off".to_owned(), |p| p.to_string())
        };
        config.networks.values().map(shown).collect()
    };
    let two = "[network.a]\n[network.b]\nipv6 = \"auto\"\n";
    let first = prefixes(two, Some("one"));
    assert_eq!(first, ["fd62:8783:e316::/64", "fd5c:c396:7302::/64"]);
    assert_eq!(prefixes(two, Some("one")), first, "stable");
    assert_ne!(prefixes(two, Some("other"))[0], first[0]);
    assert_ne!(prefixes(two, None)[0], first[0]);
    let written = "[network.a]\nipv6 = \"fd00:1::/64\"\n[network.b]\nipv6 = \"off\"\n";
    assert_eq!(prefixes(written, None), ["fd00:1::/64", "off"]);
    let config = parse(written).unwrap();
    let network = &config.networks[&NetworkName::parse("a").unwrap()];
    let shown = |address: Option<Ipv6Addr>| address.unwrap().to_string();
    assert_eq!(shown(network.gateway_ipv6()), "fd00:1::1");
    assert_eq!(shown(network.host_internal_ipv6()), "fd00:1::2");
    let guest = network.ipv6_of("192.168.130.10".parse().unwrap());
    assert_eq!(shown(guest), "fd00:1::c0a8:820a");
}

#[test]
fn smallest_network_has_room_for_a_guest() {
    let config = parse("[network.n]\nsubnet = \"10.0.0.0/29\"\n").unwrap();
    let network = config.networks.values().next().unwrap();
    assert_eq!(network.pool.start().to_string(), "10.0.0.4");
    assert_eq!(network.pool.end().to_string(), "10.0.0.5");
}

#[test]
fn every_mistake_is_told_with_its_line() {
    check_refused(
        "[network.a]\nsubnet = \"192.168.1.0/24\"\n[network.b]\nsubnet = \"192.168.0.0/16\"\n",
        "config.toml:4: network \"b\": subnet 192.168.0.0/16 overlaps 192.168.1.0/24 of network \"a\"\n  \
         hint: give each network a subnet of its own",
    );
    check_refused(
        "[network.a]\nsubnet = \"192.168.1.7/24\"\nmtu = 100\n",
        "config.toml:2: network \"a\": subnet 192.168.1.7/24 has bits set beyond its prefix\n  \
         hint: write 192.168.1.0/24\n\
         config.toml:3: network \"a\": mtu = 100 is not possible\n  \
         hint: write \"auto\" or 576 to 65520",
    );
    check_refused(
        "[network.a]\nipv6 = \"fd00:1::/64\"\n[network.b]\nipv6 = \"fd00:1::/64\"\n",
        "config.toml:4: network \"b\": ipv6 fd00:1::/64 is that of network \"a\" too\n  \
         hint: give each network a prefix of its own",
    );
    check_refused(
        "[network.a]\nipv6 = \"2001:470::/64\"\n",
        "config.toml:2: network \"a\": ipv6 \"2001:470::/64\" is not in fd00::/8, guests would lose the real one\n  \
         hint: write \"auto\", \"off\" or a prefix like \"fd12:3456:789a::/64\"",
    );
    check_refused(
        "[guest.a]\nmac = \"52:54:00:00:00:01\"\n[guest.b]\nmac = \"52:54:00:00:00:01\"\n",
        "config.toml:4: guest \"b\" and guest \"a\" both have the Ethernet address 52:54:00:00:00:01\n  \
         hint: change or remove one of the two",
    );
    check_refused(
        "[guest.a]\nnames = [\"x.test\"]\n[guest.b]\nnames = [\n  \"x.test\",\n]\n",
        "config.toml:5: guest \"b\" and guest \"a\" both have the name x.test\n  \
         hint: change or remove one of the two",
    );
    check_refused(
        "[network.v]\n[network.v.services]\n0 = \"127.0.0.1:80\"\n80 = \"0.0.0.0:80\"\n81 = \"localhost\"\n",
        "config.toml:3: network \"v\": services: \"0\" is not a port between 1 and 65535\n  \
         hint: write it like \"2375\" = \"unix:/run/user/1000/docker.sock\"\n\
         config.toml:4: network \"v\": services.80: 0.0.0.0 names no host\n  \
         hint: for the host itself write 127.0.0.1 or [::1]\n\
         config.toml:5: network \"v\": services.81: \"localhost\" is neither ADDRESS:PORT, e.g. 127.0.0.1:2375, nor unix:/PATH",
    );
    check_refused(
        "[guest.a]\npublish = [\"unix:/s:80\"]\n[guest.b]\npublish = [\"unix:/s:81\"]\n",
        "config.toml:4: guest \"b\": publish \"unix:/s:81\" takes a socket that \"unix:/s:80\" of guest \"a\" has\n  \
         hint: choose another path",
    );
    check_refused(
        "[guest.a]\npublish = [\"0.0.0.0:80:80\", \"80:81\"]\n",
        "config.toml:2: guest \"a\": publish \"80:81\" takes a host port that \"0.0.0.0:80:80\" of guest \"a\" has\n  \
         hint: choose another host port, or another address in front of it",
    );
    check_refused(
        "[guest.a]\naddress = \"10.0.0\"\n[hosts.static]\n\"x.test\" = \"ten\"\n",
        "config.toml:2: guest \"a\": address \"10.0.0\" is not an address\n  \
         hint: write it like \"192.168.130.10\"\n\
         config.toml:4: hosts: static: x.test \"ten\" is not an address\n  \
         hint: write it like \"127.0.0.1\"",
    );
    check_refused(
        "[share.d]\npath = \"src\"\n",
        "config.toml:2: share \"d\": path \"src\" is not an absolute path without ..\n  \
         hint: write /mnt/d, ~/src or 'D:\\'",
    );
    check_refused(
        "[share.d]\npath = \"/d\"\nguests = [\"dev\"]\n",
        "config.toml:3: share \"d\": guest \"dev\" is not in this file\n  \
         hint: sharectl guest add dev, or remove it here",
    );
}

#[test]
fn egress_and_rates_read_and_are_refused_with_their_line() {
    let config = parse(
        r#"
[network.n]
egress = "deny"
egress-rules = ["allow github.com:443", "deny 10.0.0.0/8"]
[guest.a]
egress = "allow"
egress-rules = ["deny host"]
rate-limit = "100Mbit/s"
[guest.b]
rate-limit = { down = "64kbit/s" }
"#,
    )
    .unwrap();
    let network = config.networks.values().next().unwrap();
    assert_eq!(network.egress.default, Verdict::Deny);
    assert_eq!(network.egress.names, NamePolicy::Allowed);
    assert_eq!(network.egress.rules[1].to_string(), "deny 10.0.0.0/8");
    let guest = |name| &config.guests[&GuestName::parse(name).unwrap()];
    assert_eq!(guest("a").egress.default, Some(Verdict::Allow));
    assert_eq!(guest("b").egress, GuestEgress::default());
    let rate = Some("100Mbit/s".parse().unwrap());
    assert_eq!(
        guest("a").rate_limit,
        RateLimit {
            up: rate,
            down: rate
        }
    );
    assert_eq!(guest("b").rate_limit.up, None);
    check_refused(
        "[network.n]\negress = \"refuse\"\negress-rules = [\n  \"deny 10.0.0.1/8\",\n]\n[guest.a]\nrate-limit = \"fast\"\n",
        "config.toml:2: network \"n\": egress = \"refuse\" is not known\n  \
         hint: write one of \"allow\", \"deny\"\n\
         config.toml:4: network \"n\": egress-rules: \"10.0.0.1/8\" in \"deny 10.0.0.1/8\" has bits set beyond its prefix; write 10.0.0.0/8\n\
         config.toml:7: guest \"a\": rate-limit: \"fast\" is not a rate from 64kbit/s to 1000Gbit/s, e.g. \"100Mbit/s\" or \"1.5Gbit/s\"",
    );
    let rules = vec!["\"deny any\""; 1_025].join(",");
    assert!(parse(&format!("[guest.a]\negress-rules = [{rules}]")).is_err());
    for text in [
        "[guest.a]\nrate-limit = 7",
        "[guest.a]\nrate-limit = { sideways = \"1Mbit/s\" }",
        "[guest.a]\negress-rules = [\"allow\"]",
    ] {
        assert!(parse(text).is_err(), "accepted: {text}");
    }
}

#[test]
fn unknown_keys_and_broken_toml_name_their_line() {
    for (text, line, part) in [
        ("[guest.a]\n\nnmae = \"x\"\n", 3, "unknown field `nmae`"),
        ("[netwrok.a]\n", 1, "unknown field `netwrok`"),
        ("[guest.a]\nnames = [\n", 2, "array"),
        ("[guest.a]\nnames = 7\n", 2, "invalid type"),
        ("[guest]\ndev = 3\n", 2, "a table such as [guest.dev]"),
        (
            "[share]\nd = 3\n",
            2,
            "a table such as [share.src] with a path",
        ),
        ("hosts = 3\n", 1, "a table [hosts]"),
    ] {
        let errors = parse(text).unwrap_err();
        assert!(errors.problems[0].message.contains(part), "{errors}");
        assert_eq!(errors.problems[0].line, Some(line), "{errors}");
    }
}

#[test]
fn hostile_values_are_refused() {
    for text in [
        "[guest.\"a/b\"]",
        "[guest.a]\nnames = [\"x\\n1.2.3.4 bank.example\"]",
        "[guest.a]\nnames = [\"localhost\"]",
        "[guest.a]\nhost-address = \"127.0.0.1\"",
        "[guest.a]\nhost-address = \"10.0.0.1\"",
        "[guest.a]\naddress = \"192.168.130.1\"",
        "[guest.a]\naddress = \"192.168.131.7\"",
        "[guest.a]\nnetwork = \"nope\"",
        "[network.n]\nsubnet = \"8.8.8.0/24\"",
        "[network.n]\nsubnet = \"10.0.0.0/30\"",
        "[network.n]\nipv6 = \"fd00::/48\"",
        "[network.n]\nipv6 = \"fd00::1/64\"",
        "[network.n]\nipv6 = \"on\"",
        "[network.n]\nlease-time = \"1s\"",
        "[network.n]\nlease-time = \"99999999999999999999d\"",
        "[network.n]\nlease-time = \"é\"",
        "[network.n]\ntype = \"bridge\"",
        "[network.n.records]\n\"a b\" = \"1.2.3.4\"",
        "[network.n.records]\n\"a.test\" = []",
        "[network.n.records]\n\"a.test\" = [\"1.2.3.4\", \"b.test\"]",
        "[network.n.records]\n\"a.test\" = \"a.test\"",
        "[network.n.records]\n\"*.localhost\" = \"1.2.3.4\"",
        "[network.n.records]\n\"*\" = \"1.2.3.4\"",
        "[network.n.records]\n\"a.*.test\" = \"1.2.3.4\"",
        "[network.n.dns-rules]\n\"corp.example\" = []",
        "[network.n.dns-rules]\n\"corp.example\" = [\"x\"]",
        "[share.d]\npath = \"/a/../b\"",
        "[share.d]\npath = \"/a\"\nat = \"/\"",
        "[share.d]\npath = \"/a\"\nowner = \"pass\"\nguest-owner = \"0:0\"",
        "[share.d]\npath = \"/a\"\nguest-owner = \"0\"",
        "[share.a]\npath = \"/a\"\n[share.b]\npath = \"/b\"\nat = \"/a\"",
        "[hosts.static]\n\"localhost\" = \"1.2.3.4\"",
    ] {
        assert!(parse(text).is_err(), "accepted: {text}");
    }
}

#[test]
fn host_addresses_are_stable_and_apart() {
    use std::fmt::Write as _;
    let mut text = String::new();
    for index in 0..300 {
        writeln!(text, "[guest.g{index}]").unwrap();
    }
    let first = parse(&text).unwrap();
    let mut addresses: Vec<_> = first.guests.values().map(|g| g.host_address).collect();
    addresses.sort_unstable();
    addresses.dedup();
    assert_eq!(addresses.len(), 300);
    assert_eq!(first, parse(&text).unwrap());
}

#[test]
fn missing_folders_are_problems_of_their_line() {
    let config = parse("[share.d]\npath = \"/does/not/exist\"\n").unwrap();
    let errors = config.missing_folders(Path::new("c.toml")).unwrap();
    assert_eq!(errors.problems[0].line, Some(2));
}

#[test]
fn what_is_no_text_is_refused_with_its_line() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("c.toml");
    std::fs::write(&file, b"[guest.a]\n# caf\xe9\n").unwrap();
    let errors = Config::load(&file).unwrap_err();
    assert_eq!(errors.problems[0].line, Some(2), "{errors}");
    let errors = Config::load(Path::new("/dev/zero")).unwrap_err();
    assert!(errors.to_string().contains("larger than"), "{errors}");
}

#[test]
fn schema_names_every_key() {
    let schema = schema().to_string();
    for key in [
        "host-loopback",
        "lease-time",
        "read-only",
        "guest-owner",
        "read-only-paths",
        "owner-store",
        "acl",
        "writeback",
        "static",
        "publish",
    ] {
        assert!(
            schema.contains(&format!("\"{key}\"")),
            "{key} is missing in {schema}"
        );
    }
}

#[test]
fn a_shares_semantics_are_checked_words_and_patterns() {
    let share = |more: &str| parse(&format!("[share.d]\npath = \"/d\"\n{more}\n"));
    let config = share("").unwrap();
    let plain = config.shares.values().next().unwrap();
    assert_eq!(
        (plain.names, plain.case),
        (NameRule::Plain, CaseRule::Exact)
    );
    assert_eq!(plain.owner_store, OwnerStore::None);
    let config = share(
        "exclude = [\"a/**\"]\nread-only-paths = [\"b\"]\nnames = \"windows\"\n\
         case = \"insensitive\"\nowner-store = \"xattr\"",
    );
    let config = config.unwrap();
    let all = config.shares.values().next().unwrap();
    assert_eq!(
        (all.names, all.case),
        (NameRule::Windows, CaseRule::Insensitive)
    );
    assert_eq!(all.owner_store, OwnerStore::Xattr);
    assert_eq!(all.exclude[0].to_string(), "a/**");
    assert_eq!(all.read_only_paths[0].to_string(), "b");
    let many = vec!["\"a\""; 65].join(", ");
    for (text, word) in [
        ("exclude = [\"a\", \"../b\"]".to_owned(), "../b"),
        (format!("exclude = [{many}]"), "at most 128"),
        ("names = \"dos\"".to_owned(), "dos"),
        ("case = \"lower\"".to_owned(), "lower"),
        ("owner-store = \"file\"".to_owned(), "file"),
        (
            "owner-store = \"xattr\"\nowner = \"pass\"".to_owned(),
            "no meaning",
        ),
        (
            "owner-store = \"xattr\"\nacl = true".to_owned(),
            "acl = true has no meaning",
        ),
        (
            "case = \"insensitive\"\ncache = \"always\"".to_owned(),
            "go together",
        ),
        (
            "writeback = true\ncache = \"never\"".to_owned(),
            "nothing is kept",
        ),
        (
            "writeback = true\nread-only = true".to_owned(),
            "no meaning with read-only",
        ),
        (
            "writeback = true\nninep = true".to_owned(),
            "together with ninep",
        ),
        (
            "writeback = true\nmount = \"/e\"".to_owned(),
            "together with mount",
        ),
    ] {
        let errors = share(&text).unwrap_err();
        assert!(errors.to_string().contains(word), "{errors}");
        assert!(
            errors.problems[0].line.is_some_and(|line| line > 2),
            "{errors}"
        );
    }
}

#[test]
fn what_needs_a_device_of_its_own_is_refused_on_the_one_of_all_shares() {
    let of = |guests: &str, share: &str| {
        let text = format!("[network.vmnet8]\n{guests}\n[share.d]\npath = \"/d\"\n{share}\n");
        parse(&text).map(|config| config.shares.into_values().next().unwrap())
    };
    let (one, each) = ("[guest.dev]", "[guest.dev]\ndevices = \"each\"");
    for key in ["acl", "writeback"] {
        let on = format!("{key} = true");
        let errors = of(one, &on).unwrap_err();
        let [problem] = &errors.problems[..] else {
            panic!("{errors}");
        };
        assert_eq!(problem.line, Some(5), "{errors}");
        let said = errors.to_string();
        for word in [&*on, "guest \"dev\"", "devices = \"each\" in [guest.dev]"] {
            assert!(said.contains(word), "{said}");
        }
        let share = of(each, &on).unwrap();
        assert_eq!(
            (share.acl, share.writeback),
            (key == "acl", key == "writeback")
        );
        of("", &on).expect("nobody has the device");
        let two = format!("{each}\n[guest.box]");
        of(&two, &on).expect_err("the other guest sees it too");
        of(&two, &format!("{on}\nguests = [\"dev\"]")).expect("only who has it sees it");
        of(one, &format!("{key} = false")).unwrap();
    }
    of(one, "acl = true\nninep = true").expect("lists are heeded by 9P");
}

#[test]
fn networks_have_the_kinds_that_vmware_has_under_their_names() {
    let config =
        parse("[network.vmnet0]\n[network.vmnet1]\n[network.vmnet8]\n[network.lab]\n").unwrap();
    let kinds: Vec<String> = config
        .networks
        .values()
        .map(|network| format!("{} {}", network.name, network.kind))
        .collect();
    assert_eq!(
        kinds,
        [
            "lab nat",
            "vmnet0 bridged",
            "vmnet1 host-only",
            "vmnet8 nat"
        ]
    );
}

#[test]
fn keys_that_the_lan_decides_are_refused_on_a_bridged_network() {
    let config = parse("[network.vmnet0]\ninterface = \"eth0\"\n[guest.dev]\n").unwrap();
    let network = config.networks.values().next().unwrap();
    assert_eq!(network.interface.as_deref(), Some("eth0"));
    assert_eq!(network.link_mtu(), 1500);
    for key in [
        "subnet = \"10.0.0.0/24\"",
        "ipv6 = \"off\"",
        "dns = [\"10.0.0.1\"]",
        "host-access = \"tap\"",
        "lease-time = \"1h\"",
        "host-loopback = true",
        "ntp = [\"10.0.0.1\"]",
        "egress = \"deny\"",
        "egress-rules = [\"deny *\"]",
    ] {
        let text = format!("[network.vmnet0]\n{key}\n");
        assert!(parse(&text).is_err(), "{key}");
    }
    assert!(parse("[network.vmnet8]\ninterface = \"eth0\"\n").is_err());
    assert!(parse("[network.vmnet0]\ninterface = \"a/b\"\n").is_err());
    assert!(parse("[network.vmnet0]\n[guest.dev]\negress = \"deny\"\n").is_err());
    assert!(parse("[network.vmnet0]\n[guest.dev]\naddress = \"10.0.0.9\"\n").is_err());
}

#[test]
fn the_hosts_tap_takes_the_last_address_but_one() {
    let text = "[network.vmnet8]\nsubnet = \"10.0.0.0/24\"\nhost-access = \"tap\"\n";
    let config = parse(text).unwrap();
    let network = config.networks.values().next().unwrap();
    assert_eq!(network.host_tap.unwrap().to_string(), "10.0.0.253");
    assert_eq!(network.host_internal.to_string(), "10.0.0.254");
    assert_eq!(network.pool.end().to_string(), "10.0.0.252");
    assert!(parse(&format!("{text}[guest.dev]\naddress = \"10.0.0.253\"\n")).is_err());
    // What would not be enforced is not promised.
    assert!(parse(&format!("{text}egress = \"deny\"\n")).is_err());
    assert!(parse(&format!("{text}[guest.dev]\negress = \"deny\"\n")).is_err());
}

proptest::proptest! {
    #[test]
    fn any_text_is_parsed_or_refused(text in ".*") {
        let _parsed = parse(&text);
    }
}

#[test]
fn what_dhcp_tells_is_checked() {
    let network = |line: &str| format!("[network.v]\nsubnet = \"10.0.0.0/24\"\n{line}\n");
    let config = parse(&network(
        "routes = [\"10.8.0.0/16 via 10.0.0.9\"]\nntp = [\"fd00::1\"]\nsearch = [\"corp.example\"]",
    ))
    .unwrap();
    let found = &config.networks[&NetworkName::parse("v").unwrap()];
    assert_eq!(found.routes[0].to_string(), "10.8.0.0/16 via 10.0.0.9");
    let example = "write it like \"10.8.0.0/16 via 192.168.130.9\"";
    for (line, said, hint) in [
        (
            "routes = [\"10.8.0.0/16\"]",
            "routes: \"10.8.0.0/16\" is not SUBNET via ADDRESS",
            example,
        ),
        (
            "routes = [\"10.8.0.1/16 via 10.0.0.9\"]",
            "routes: 10.8.0.1/16 has bits set beyond its prefix",
            example,
        ),
        (
            "routes = [\"10.8.0.0/16 via 10.0.1.9\"]",
            "routes: 10.0.1.9 is not on the network (10.0.0.0/24)",
            example,
        ),
        (
            "ntp = [\"pool.example\"]",
            "ntp \"pool.example\" is not an address",
            "write it like \"192.168.1.5\"",
        ),
        (
            "search = [\"a\", \"b\", \"c\", \"d\", \"e\", \"f\", \"g\"]",
            "search has 7 entries",
            "at most 6 fit into a DHCP option",
        ),
    ] {
        let errors = parse(&network(line)).unwrap_err().to_string();
        assert!(errors.contains(said) && errors.contains(hint), "{errors}");
    }
}

#[test]
fn a_mount_on_the_host_is_outside_of_all_shares() {
    let share = |lines: &str| {
        parse(&format!(
            "[share.d]\npath = \"/srv/d\"\n{lines}\n[share.e]\npath = \"/srv/e\"\nmount = \"/mnt/e\"\n"
        ))
    };
    let config = share("mount = \"~/d\"\nmount-users = \"all\"").unwrap();
    let found = |name: &str| {
        config.shares[&ShareName::parse(name).unwrap()]
            .mount
            .clone()
    };
    let d = found("d").unwrap();
    assert_eq!(
        (d.path, d.users),
        (PathBuf::from("/home/ann/d"), MountUsers::All)
    );
    assert_eq!(found("e").unwrap().users, MountUsers::Own);
    for (lines, said) in [
        (
            "mount = \"/srv/d\"",
            "is the folder itself /srv/d of share \"d\"",
        ),
        (
            "mount = \"/srv/d/x\"",
            "is inside the folder /srv/d of share \"d\"",
        ),
        (
            "mount = \"/srv/e/x\"",
            "is inside the folder /srv/e of share \"e\"",
        ),
        (
            "mount = \"/srv\"",
            "would hide the folder /srv/d of share \"d\"",
        ),
        (
            "mount = \"/mnt/e\"",
            "are mounted in one another: /mnt/e and /mnt/e",
        ),
        (
            "mount = \"/mnt/e/x\"",
            "are mounted in one another: /mnt/e and /mnt/e/x",
        ),
        ("mount = \"/\"", "would hide the whole host"),
        ("mount = \"d\"", "mount \"d\" is not an absolute path"),
        ("mount = \"/mnt/d\"\nmount-users = \"me\"", "mount-users"),
    ] {
        let errors = share(lines).unwrap_err().to_string();
        assert!(errors.contains(said), "{lines}: {errors}");
    }
}

#[test]
fn sources_of_names_read_with_their_defaults_and_are_refused_with_their_line() {
    let config = parse(
        "[hosts]\ndns = \"127.0.0.9\"\n[hosts.static]\n\"*.Apps.test\" = \"127.0.0.1\"\n[hosts.source]\n\
         docker = {}\nold = { type = \"dhcpd\", path = \"/l\", enabled = false, keep = \"forever\" }\n\
         vm = { type = \"podman\", path = \"/s\", suffix = \"vm.test\", priority = 1000, keep = \"5s\", address = \"127.64.0.1\" }\n",
    )
    .unwrap();
    let hosts = &config.hosts;
    assert_eq!(
        hosts.dns.map(|dns| dns.listen.to_string()).as_deref(),
        Some("127.0.0.9:1053")
    );
    assert_eq!(hosts.wildcards.keys().next().unwrap().as_str(), "apps.test");
    let shown: Vec<String> = hosts
        .sources
        .values()
        .map(|source| {
            let path = source
                .path
                .as_ref()
                .map_or_else(String::new, |path| path.display().to_string());
            let suffix = source.suffix.as_ref().map_or("", HostName::as_str);
            let keep = source.keep.map(|keep| keep.as_secs());
            format!(
                "{} {} {} {path} {suffix} {} {keep:?} {:?}",
                source.name, source.kind, source.enabled, source.priority, source.address
            )
        })
        .collect();
    assert_eq!(
        shown,
        [
            "docker docker true /var/run/docker.sock test 50 Some(3600) Auto",
            "netd netd true   100 None Auto",
            "old dhcpd false /l test 50 None Auto",
            "vm podman true /s vm.test 1000 Some(5) Fixed(127.64.0.1)",
        ]
    );
    let domains = config.host_domains(std::iter::empty());
    assert_eq!(
        domains.iter().map(HostName::as_str).collect::<Vec<_>>(),
        ["test"]
    );

    for (line, expected) in [
        ("x = {}", "type = \"x\" is not known"),
        (
            "x = { type = \"netd\" }",
            "there is one source of type netd",
        ),
        (
            "netd = { type = \"docker\" }",
            "there is one source of type netd",
        ),
        (
            "netd = { suffix = \"test\" }",
            "suffix has no meaning for type netd",
        ),
        ("v = { type = \"dhcpd\" }", "type dhcpd needs a path"),
        (
            "dnsmasq = { path = \"x\" }",
            "path \"x\" is not an absolute path",
        ),
        (
            "dnsmasq = { path = \"/a*/b\" }",
            "may have a * in its last part only",
        ),
        (
            "dnsmasq = { address = \"auto\" }",
            "address has no meaning for type dnsmasq",
        ),
        (
            "dnsmasq = { suffix = \"localhost\" }",
            "suffix \"localhost\" is the host's own",
        ),
        (
            "dnsmasq = { priority = -1 }",
            "priority = -1 is not possible",
        ),
        (
            "dnsmasq = { priority = 1001 }",
            "priority = 1001 is not possible",
        ),
        (
            "dnsmasq = { keep = \"soon\" }",
            "keep \"soon\" is not possible",
        ),
        (
            "docker = { address = \"here\" }",
            "address \"here\" is not known",
        ),
        ("Docker = {}", "source name \"Docker\" may not have 'D'"),
    ] {
        let error = parse(&format!("[hosts.source]\n{line}\n")).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("config.toml:2: ") && text.contains(expected),
            "{line}: {text}"
        );
    }
    for dns in ["0.0.0.0", "192.168.1.1:53", "127.0.0.1:0", "maybe"] {
        let text = format!("[hosts]\ndns = \"{dns}\"\n");
        assert!(
            parse(&text).unwrap_err().to_string().contains("hosts: dns"),
            "{dns}"
        );
    }
    let many: String = (0..40)
        .map(|n| format!("s{n} = {{ type = \"docker\" }}\n"))
        .collect();
    let error = parse(&format!("[hosts.source]\n{many}")).unwrap_err();
    assert!(error.to_string().contains("more than 32 sources"));
}

#[test]
fn containers_of_a_guest_are_where_the_guest_is() {
    let address = |socket: &str, address: &str| {
        let text = format!(
            "[guest.dev]\nhost-address = \"127.64.0.1\"\npublish = [\"2375:2375\", \"unix:/run/a/docker.sock:2375\"]\n\
             [hosts.source]\ndocker = {{ path = \"{socket}\"{address} }}\n"
        );
        let config = parse(&text).unwrap();
        config.hosts.sources[&"docker".parse().unwrap()].address
    };
    let guest = ContainerAddress::Guest("127.64.0.1".parse().unwrap());
    assert_eq!(address("/run/a/docker.sock", ""), guest);
    assert_eq!(address("/run/a/docker.sock", ", address = \"auto\""), guest);
    assert_eq!(address("/run/b/docker.sock", ""), ContainerAddress::Auto);
    assert_eq!(
        address("/run/a/docker.sock", ", address = \"published\""),
        ContainerAddress::Published
    );
}
