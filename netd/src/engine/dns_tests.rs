//! The zone's answers as a table, the cache on a virtual clock.

use super::*;
use crate::engine::dns_cache::DnsCache;
use control::names::GuestName;
use hickory_proto::op::{Message, MessageType, OpCode, Query as TheirQuery};
use hickory_proto::rr::{DNSClass, Name, RecordType};
use std::time::{Duration, Instant};

fn host(name: &str) -> HostName {
    HostName::parse(name).unwrap()
}

fn address(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, last)
}

fn settings() -> ZoneSettings {
    ZoneSettings {
        domain: host("test"),
        network: host("lab.test"),
        server: host("gateway.internal"),
        subnet: "10.0.0.0/24".parse().unwrap(),
        prefix: Some("fd00:1::/64".parse().unwrap()),
        host_internal: (address(254), Some("fd00:1::2".parse().unwrap())),
        siblings: (
            vec![host("other.example")],
            vec!["10.0.7.0/24".parse().unwrap()],
        ),
        rules: vec![host("corp.test"), host("10.in-addr.arpa")],
        closed: false,
    }
}

fn zone() -> Zone {
    let mut zone = Zone::new(settings());
    let mut names = NameTable::default();
    let mut add = |name: &str, target: &str, source: Source| {
        let target = match target.split_once("alias ") {
            Some((_, name)) => Target::alias(&host(name)),
            None => Target::addresses(target.split(' ').map(|a| a.parse().unwrap())),
        };
        let entry = Entry { target, source };
        match name.strip_prefix("*.") {
            Some(name) => names.add_below(&host(name), entry),
            None => names.add(&host(name), entry),
        }
    };
    let dev = || Source::Guest(GuestName::parse("dev").unwrap());
    add("gateway.internal", "10.0.0.1 fd00:1::1", Source::Network);
    add("host.internal", "10.0.0.254 fd00:1::2", Source::Network);
    for name in ["dev.test", "dev.lab.test", "a.b.dev.test", "shop.example"] {
        add(name, "10.0.0.2 fd00:1::a00:2", dev());
    }
    add("*.dev.test", "10.0.0.2", dev());
    add("web.test", "10.0.0.9", Source::Record);
    add("*.apps.test", "10.0.0.9", Source::Record);
    add("six.test", "fd00:9::9", Source::Record);
    add("www.test", "alias web.test", Source::Record);
    add("twice.test", "alias www.test", Source::Record);
    add("out.test", "alias www.example.com", Source::Record);
    add("lost.test", "alias nobody.test", Source::Record);
    add("round.test", "alias round2.test", Source::Record);
    add("round2.test", "alias round.test", Source::Record);
    add("to-lease.test", "alias laptop.lab.test", Source::Record);
    for (address, name) in [
        ("10.0.0.1", "gateway.internal"),
        ("10.0.0.2", "dev.test"),
        ("fd00:1::2", "host.internal"),
    ] {
        names.call(address.parse().unwrap(), &host(name));
    }
    zone.set_fixed(names);
    let mut hosts = NameTable::default();
    for (name, address) in [
        ("myapp.local", "127.0.0.1"),
        ("both.local", "127.0.1.1"),
        ("both.local", "::1"),
        ("printer.example", "10.5.0.3"),
        ("dev.test", "10.6.6.6"),
        ("mine.test", "10.0.0.77"),
    ] {
        let target = Target::addresses([address.parse().unwrap()]);
        let source = Source::HostsFile;
        hosts.add(&host(name), Entry { target, source });
    }
    hosts.call("10.5.0.3".parse().unwrap(), &host("printer.example"));
    zone.set_hosts(Arc::new(hosts));
    let mut added = NameTable::default();
    added.own(&host("crc.testing"));
    let entry = Entry {
        target: Target::addresses(["10.0.0.5".parse().unwrap()]),
        source: Source::Added,
    };
    added.add(&host("api.crc.testing"), entry);
    zone.set_added(Arc::new(added));
    assert!(zone.add_lease(&host("laptop"), address(130)));
    assert!(zone.set_ipv6_used(address(130), Ipv6Side::Used));
    zone
}

fn query(name: &str, kind: RecordType, class: DNSClass) -> Vec<u8> {
    let mut message = Message::new(1, MessageType::Query, OpCode::Query);
    let mut query = TheirQuery::query(Name::from_ascii(name).unwrap(), kind);
    query.set_query_class(class);
    message.add_query(query);
    message.to_vec().unwrap()
}

/// The answer in one line: code, first record's data, or "soa ZONE".
fn ask(zone: &Zone, name: &str, kind: RecordType) -> String {
    match zone.handle(&query(name, kind, DNSClass::IN)) {
        DnsOutcome::Forward => "forward".to_owned(),
        DnsOutcome::Drop => "drop".to_owned(),
        DnsOutcome::Kept(_) => "kept".to_owned(),
        DnsOutcome::Answer(bytes) => {
            let message = Message::from_vec(&bytes).unwrap();
            let code = message.metadata.response_code;
            let datas: Vec<String> = message
                .answers
                .iter()
                .map(|record| record.data.to_string())
                .collect();
            match (message.answers.first(), message.authorities.first()) {
                (Some(_), _) => format!("{code:?} {}", datas.join(" ")),
                (None, Some(record)) => format!("{code:?} soa {}", record.name),
                (None, None) => format!("{code:?}"),
            }
        }
    }
}

#[test]
fn every_kind_of_name_has_its_answer() {
    use RecordType::{A, AAAA, ANY, AXFR, CNAME, MX, PTR, SOA, TXT};
    let zone = zone();
    for (name, kind, expected) in [
        ("dev.test.", A, "NoError 10.0.0.2"),
        ("DEV.TEST.", A, "NoError 10.0.0.2"),
        ("dev.lab.test.", A, "NoError 10.0.0.2"),
        ("dev.test.", AAAA, "NoError fd00:1::a00:2"),
        ("dev.test.", ANY, "NoError 10.0.0.2 fd00:1::a00:2"),
        ("shop.example.", A, "NoError 10.0.0.2"),
        ("host.internal.", A, "NoError 10.0.0.254"),
        ("host.internal.", AAAA, "NoError fd00:1::2"),
        ("laptop.test.", A, "NoError 10.0.0.130"),
        ("laptop.test.", AAAA, "NoError fd00:1::a00:82"),
        ("laptop.lab.test.", A, "NoError 10.0.0.130"),
        ("laptop.", A, "NoError 10.0.0.130"),
        ("dev.", AAAA, "NoError fd00:1::a00:2"),
        // Known names have no other records, which is not the same as not being there.
        ("web.test.", AAAA, "NoError soa test."),
        ("six.test.", A, "NoError soa test."),
        ("dev.test.", MX, "NoError soa test."),
        ("shop.example.", MX, "NoError soa shop.example."),
        ("host.internal.", TXT, "NoError soa host.internal."),
        // Wildcards: below, and not the name itself.
        ("x.dev.test.", A, "NoError 10.0.0.2"),
        ("x.y.apps.test.", A, "NoError 10.0.0.9"),
        ("x.apps.test.", AAAA, "NoError soa test."),
        ("apps.test.", A, "NXDomain soa test."),
        // Between names there is something, too.
        ("lab.test.", A, "NoError soa test."),
        ("test.", A, "NoError soa test."),
        ("nobody.test.", A, "NXDomain soa test."),
        ("x.web.test.", A, "NXDomain soa test."),
        // Aliases.
        ("www.test.", A, "NoError web.test. 10.0.0.9"),
        ("twice.test.", A, "NoError www.test. web.test. 10.0.0.9"),
        ("to-lease.test.", A, "NoError laptop.lab.test. 10.0.0.130"),
        ("www.test.", CNAME, "NoError web.test."),
        ("www.test.", AAAA, "NoError web.test."),
        ("lost.test.", A, "NXDomain nobody.test."),
        ("round.test.", A, "ServFail"),
        ("out.test.", A, "forward"),
        ("out.test.", CNAME, "NoError www.example.com."),
        // The host's own names; the configuration goes first, and loopback is the host.
        ("myapp.local.", A, "NoError 10.0.0.254"),
        ("myapp.local.", AAAA, "NoError soa myapp.local."),
        ("both.local.", AAAA, "NoError fd00:1::2"),
        ("printer.example.", A, "NoError 10.5.0.3"),
        ("mine.test.", A, "NoError 10.0.0.77"),
        // Added while it runs: a domain of its own.
        ("api.crc.testing.", A, "NoError 10.0.0.5"),
        ("x.crc.testing.", A, "NXDomain soa crc.testing."),
        ("crc.testing.", A, "NoError soa crc.testing."),
        // Another network's, and what standards reserve.
        ("web.other.example.", A, "NXDomain soa other.example."),
        ("localhost.", A, "NoError 127.0.0.1"),
        ("a.localhost.", AAAA, "NoError ::1"),
        ("localhost.", TXT, "NoError soa localhost."),
        ("x.invalid.", A, "NXDomain soa invalid."),
        ("x.onion.", A, "NXDomain soa onion."),
        ("_dns.resolver.arpa.", TXT, "NXDomain soa resolver.arpa."),
        // A rule goes before our own domain.
        ("git.corp.test.", A, "forward"),
        // Reverse.
        ("2.0.0.10.in-addr.arpa.", PTR, "NoError dev.test."),
        ("1.0.0.10.in-addr.arpa.", PTR, "NoError gateway.internal."),
        ("130.0.0.10.in-addr.arpa.", PTR, "NoError laptop.test."),
        ("3.0.5.10.in-addr.arpa.", PTR, "NoError printer.example."),
        (
            "77.0.0.10.in-addr.arpa.",
            PTR,
            "NXDomain soa 77.0.0.10.in-addr.arpa.",
        ),
        (
            "2.0.0.10.in-addr.arpa.",
            A,
            "NoError soa 2.0.0.10.in-addr.arpa.",
        ),
        (
            "0.0.10.in-addr.arpa.",
            SOA,
            "NoError soa 0.0.10.in-addr.arpa.",
        ),
        (
            "lb._dns-sd._udp.0.0.10.in-addr.arpa.",
            PTR,
            "NXDomain soa lb._dns-sd._udp.0.0.10.in-addr.arpa.",
        ),
        (
            "9.7.0.10.in-addr.arpa.",
            PTR,
            "NXDomain soa 9.7.0.10.in-addr.arpa.",
        ),
        ("1.0.0.127.in-addr.arpa.", PTR, "NoError localhost."),
        (
            "1.2.254.169.in-addr.arpa.",
            PTR,
            "NXDomain soa 1.2.254.169.in-addr.arpa.",
        ),
        (V6_LAPTOP, PTR, "NoError laptop.test."),
        (V6_HOST, PTR, "NoError host.internal."),
        // Not ours.
        ("example.com.", A, "forward"),
        ("atest.", A, "forward"),
        ("other.internal.", A, "forward"),
        ("dev.", MX, "forward"),
        ("unknown.", A, "forward"),
        ("2.1.0.10.in-addr.arpa.", PTR, "forward"),
        ("1.1.168.192.in-addr.arpa.", PTR, "forward"),
        (".", A, "forward"),
        // Nothing to pass on.
        ("example.com.", ANY, "NoError RFC8482 "),
        ("example.com.", AXFR, "Refused"),
    ] {
        assert_eq!(ask(&zone, name, kind), expected, "{name} {kind}");
    }
    assert!(ask(&zone, "test.", SOA).starts_with("NoError gateway.internal."));
    // A lease without an IPv6 side has none in the answers.
    let mut alone = zone.clone();
    assert!(alone.set_ipv6_used(address(130), Ipv6Side::Unused));
    assert!(!alone.set_ipv6_used(address(130), Ipv6Side::Unused));
    assert_eq!(ask(&alone, "laptop.test.", AAAA), "NoError soa test.");
    // Without IPv6 on the network there is none in the answers.
    let mut settings = settings();
    (settings.prefix, settings.host_internal.1) = (None, None);
    let mut without = zone;
    without.reconfigure(settings);
    assert_eq!(ask(&without, "laptop.test.", A), "NoError 10.0.0.130");
    assert_eq!(ask(&without, "laptop.test.", AAAA), "NoError soa test.");
    assert_eq!(
        ask(&without, "both.local.", AAAA),
        "NoError soa both.local."
    );
}

const V6_LAPTOP: &str = "2.8.0.0.0.0.a.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.1.0.0.0.0.0.d.f.ip6.arpa.";
const V6_HOST: &str = "2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.1.0.0.0.0.0.d.f.ip6.arpa.";

#[test]
fn long_answer_is_cut_to_what_the_client_takes_and_do_comes_back() {
    let mut zone = zone();
    let mut names = NameTable::default();
    let many = (1..=32).map(|last| IpAddr::V4(address(last)));
    let target = Target::addresses(many);
    let source = Source::Record;
    names.add(&host("many.test"), Entry { target, source });
    zone.set_fixed(names);
    let mut plain = query("many.test.", RecordType::A, DNSClass::IN);
    let DnsOutcome::Answer(full) = zone.handle(&plain) else {
        panic!("not answered");
    };
    assert_eq!(Message::from_vec(&full).unwrap().answers.len(), 32);
    let cut = Query::decode(&plain).unwrap().truncated(&full);
    assert!(full.len() > 512 && cut.len() < 512);
    let cut = Message::from_vec(&cut).unwrap();
    assert!(cut.metadata.truncation && cut.metadata.authoritative);
    plain[11] = 1;
    plain.extend_from_slice(&[0, 0, 41, 0x20, 0, 0, 0, 0x80, 0, 0, 0]);
    let asked = Query::decode(&plain).unwrap();
    assert_eq!(asked.udp_limit(), 1232, "whatever it says");
    let DnsOutcome::Answer(full) = zone.handle(&plain) else {
        panic!("not answered");
    };
    let edns = Message::from_vec(&full).unwrap().edns.unwrap();
    assert!(edns.flags().dnssec_ok && edns.max_payload() == 1232);
}

proptest::proptest! {
    #[test]
    fn any_bytes_are_answered_refused_or_ignored(mut bytes: Vec<u8>) {
        let zone = zone();
        let _outcome = zone.handle(&bytes);
        // Mostly readable: a header before them.
        bytes.splice(..0, [0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
        if let DnsOutcome::Answer(answer) = zone.handle(&bytes) {
            let header = answer.first_chunk::<4>().unwrap();
            proptest::prop_assert_eq!((header[0], header[1], header[2] & 0x80), (0, 1, 0x80));
        }
    }

    #[test]
    fn every_answer_reads_as_a_message(labels in proptest::collection::vec("[a-c]{1,2}|dev|test|lab|www|arpa|in-addr|10", 0..6), kind in 1_u16..260) {
        let name = labels.join(".") + ".";
        let mut bytes = query(&name, RecordType::A, DNSClass::IN);
        let at = bytes.len() - 4;
        bytes[at..at + 2].copy_from_slice(&kind.to_be_bytes());
        if let DnsOutcome::Answer(answer) = zone().handle(&bytes) {
            let read = Message::from_vec(&answer);
            // hickory does not read a question of type OPT.
            proptest::prop_assert!(read.is_ok() || kind == 41, "{name} {kind}: {read:?}");
        }
    }
}

#[test]
fn other_classes_are_refused_and_later_edns_is_told_our_version() {
    let zone = zone();
    let DnsOutcome::Answer(answer) =
        zone.handle(&query("version.bind.", RecordType::TXT, DNSClass::CH))
    else {
        panic!("not answered");
    };
    assert_eq!(
        Message::from_vec(&answer).unwrap().metadata.response_code,
        hickory_proto::op::ResponseCode::Refused
    );
    let mut later = query("dev.test.", RecordType::A, DNSClass::IN);
    later[11] = 1;
    // OPT of version 1
    later.extend_from_slice(&[0, 0, 41, 0x04, 0xd0, 0, 1, 0, 0, 0, 0]);
    let DnsOutcome::Answer(answer) = zone.handle(&later) else {
        panic!("not answered");
    };
    let message = Message::from_vec(&answer).unwrap();
    // BADVERS; hickory calls the number by its other meaning, BADSIG.
    assert_eq!(u16::from(message.metadata.response_code), 16);
}

#[test]
fn lease_names_never_take_what_is_somebodys() {
    let mut zone = zone();
    assert!(
        !zone.add_lease(&host("dev"), address(140)),
        "the configuration's"
    );
    assert!(
        !zone.add_lease(&host("laptop"), address(141)),
        "an earlier lease's"
    );
    assert!(
        zone.add_lease(&host("laptop"), address(130)),
        "its own again"
    );
    assert!(zone.holds_lease(&host("laptop"), address(130)));
    assert!(!zone.holds_lease(&host("lap"), address(130)));
    // A new name for the same lease frees the old one.
    assert!(zone.add_lease(&host("desktop"), address(130)));
    assert_eq!(
        ask(&zone, "laptop.test.", RecordType::A),
        "NXDomain soa test."
    );
    assert!(!zone.add_lease(&host("mine"), address(141)), "the host's");
    zone.remove_lease(address(130));
    assert_eq!(
        ask(&zone, "desktop.test.", RecordType::A),
        "NXDomain soa test."
    );
}

fn answer_to(bytes: &[u8], ttl: u32) -> Vec<u8> {
    let query = Query::decode(bytes).unwrap();
    let mut answer = query.answer(ResponseCode::NoError, false);
    answer.address(Ipv4Addr::new(192, 0, 2, 1), ttl);
    answer.finish()
}

#[test]
fn cache_counts_down_and_forgets_on_time() {
    #[expect(
        clippy::disallowed_methods,
        reason = "a virtual clock needs one real start"
    )]
    let start = Instant::now();
    let at = |seconds| start + Duration::from_secs(seconds);
    let mut cache = DnsCache::default();
    let first = query("Example.com.", RecordType::A, DNSClass::IN);
    cache.store(
        &Query::decode(&first).unwrap(),
        &answer_to(&first, 60),
        at(0),
    );
    let mut second = query("example.COM.", RecordType::A, DNSClass::IN);
    second[..2].copy_from_slice(&[0xab, 0xcd]);
    let found = cache
        .find(&Query::decode(&second).unwrap(), at(45))
        .unwrap();
    let message = Message::from_vec(&found).unwrap();
    assert_eq!(message.metadata.id, 0xabcd);
    assert_eq!(message.queries[0].name().to_string(), "example.COM.");
    assert_eq!(message.answers[0].ttl, 15);
    let other = query("example.com.", RecordType::AAAA, DNSClass::IN);
    assert_eq!(cache.find(&Query::decode(&other).unwrap(), at(45)), None);
    assert_eq!(cache.find(&Query::decode(&second).unwrap(), at(60)), None);
    assert!(cache.is_empty());
}

#[test]
fn one_clients_options_are_not_for_the_next() {
    #[expect(
        clippy::disallowed_methods,
        reason = "a virtual clock needs one real start"
    )]
    let now = Instant::now();
    let mut cache = DnsCache::default();
    let with_option = |code: u8| {
        let mut asked = query("example.com.", RecordType::A, DNSClass::IN);
        asked[11] = 1;
        asked.extend_from_slice(&[0, 0, 41, 4, 0xd0, 0, 0, 0, 0, 0, 6, 0, code, 0, 2, 7, 7]);
        asked
    };
    // A cookie: kept without it.
    let asked = with_option(10);
    let asked = Query::decode(&asked).unwrap();
    let mut answer = asked.answer(ResponseCode::NoError, false);
    answer.address(address(1), 60);
    let mut answer = answer.finish();
    let length = answer.len();
    answer[length - 1] = 6;
    answer.extend_from_slice(&[0, 10, 0, 2, 9, 9]);
    cache.store(&asked, &answer, now);
    let kept = cache.find(&asked, now).unwrap();
    let kept = Message::from_vec(&kept).unwrap();
    assert_eq!(kept.answers.len(), 1);
    assert!(kept.edns.unwrap().options().as_ref().is_empty());
    // A part of the net (RFC 7871): for this client alone.
    let asked = with_option(8);
    let asked = Query::decode(&asked).unwrap();
    cache.store(&asked, &answer, now);
    assert_eq!(cache.find(&asked, now), None);
    // Options that run out of their record.
    let mut broken = with_option(10);
    let at = broken.len() - 3;
    broken[at] = 9;
    assert!(Query::decode(&broken).is_err());
}

#[test]
fn cache_is_bounded() {
    #[expect(
        clippy::disallowed_methods,
        reason = "a virtual clock needs one real start"
    )]
    let now = Instant::now();
    let mut cache = DnsCache::default();
    for number in 0..5_000 {
        let bytes = query(&format!("n{number}.example."), RecordType::A, DNSClass::IN);
        cache.store(&Query::decode(&bytes).unwrap(), &answer_to(&bytes, 60), now);
    }
    assert_eq!(cache.len(), 4_096);
}

#[test]
fn a_closed_zone_answers_its_own_names_and_refuses_all_others() {
    let mut zone = zone();
    zone.reconfigure(ZoneSettings {
        closed: true,
        ..settings()
    });
    assert_eq!(ask(&zone, "out.test", RecordType::A), "Refused");
    assert_eq!(ask(&zone, "git.corp.test", RecordType::A), "forward");
    assert_eq!(ask(&zone, "web.test", RecordType::A), "NoError 10.0.0.9");
    assert_eq!(
        ask(&zone, "shop.example", RecordType::A),
        "NoError 10.0.0.2"
    );
    for leak in ["example.com", "data.attacker.example", "unknown"] {
        assert_eq!(ask(&zone, leak, RecordType::A), "Refused", "{leak}");
        assert_eq!(ask(&zone, leak, RecordType::TXT), "Refused", "{leak}");
    }
    assert_eq!(
        ask(&zone, "9.9.9.9.in-addr.arpa", RecordType::PTR),
        "Refused"
    );
}

#[test]
fn a_zone_that_moved_answers_for_the_new_subnet_and_domain() {
    let mut zone = zone();
    zone.reconfigure(ZoneSettings {
        domain: host("lab"),
        subnet: "10.9.0.0/24".parse().unwrap(),
        ..settings()
    });
    let mut names = NameTable::default();
    let address = Ipv4Addr::new(10, 9, 0, 2).into();
    let target = Target::addresses([address]);
    let source = Source::Record;
    names.add(&host("dev.lab"), Entry { target, source });
    names.call(address, &host("dev.lab"));
    zone.set_fixed(names);
    assert_eq!(ask(&zone, "dev.lab", RecordType::A), "NoError 10.9.0.2");
    assert_eq!(
        ask(&zone, "2.0.9.10.in-addr.arpa", RecordType::PTR),
        "NoError dev.lab."
    );
    assert_eq!(
        ask(&zone, "2.0.0.10.in-addr.arpa", RecordType::PTR),
        "forward"
    );
}
