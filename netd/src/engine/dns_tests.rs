//! The zone's answers as a table, the cache on a virtual clock.

use super::*;
use crate::engine::dns_cache::DnsCache;
use hickory_proto::op::{Message, MessageType, OpCode, Query as TheirQuery};
use hickory_proto::rr::{DNSClass, Name, RecordType};
use std::time::{Duration, Instant};

fn host(name: &str) -> HostName {
    HostName::parse(name).unwrap()
}

fn address(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, last)
}

fn zone() -> Zone {
    let mut zone = Zone::new(
        &host("test"),
        "10.0.0.0/24".parse().unwrap(),
        &host("gateway.internal"),
    );
    let entry = |name: &str, last, canonical| StaticName {
        name: host(name),
        address: address(last),
        canonical,
    };
    zone.set_static(&[
        entry("gateway.internal", 1, true),
        entry("host.internal", 254, true),
        entry("dev.test", 2, true),
        entry("a.b.dev.test", 2, false),
        entry("shop.example", 2, false),
        entry("web.test", 9, true),
    ]);
    zone.add_lease(&host("laptop"), address(130));
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
        DnsOutcome::Answer(bytes) => {
            let message = Message::from_vec(&bytes).unwrap();
            let code = message.metadata.response_code;
            match (message.answers.first(), message.authorities.first()) {
                (Some(record), _) => format!("{code:?} {}", record.data),
                (None, Some(record)) => format!("{code:?} soa {}", record.name),
                (None, None) => format!("{code:?}"),
            }
        }
    }
}

#[test]
fn every_kind_of_name_has_its_answer() {
    use RecordType::{A, AAAA, ANY, MX, PTR, SOA, TXT};
    let zone = zone();
    for (name, kind, expected) in [
        ("dev.test.", A, "NoError 10.0.0.2"),
        ("DEV.TEST.", A, "NoError 10.0.0.2"),
        ("dev.test.", ANY, "NoError 10.0.0.2"),
        ("shop.example.", A, "NoError 10.0.0.2"),
        ("host.internal.", A, "NoError 10.0.0.254"),
        ("laptop.test.", A, "NoError 10.0.0.130"),
        ("laptop.", A, "NoError 10.0.0.130"),
        // Known names have no other records, which is not the same as not being there.
        ("dev.test.", AAAA, "NoError soa test."),
        ("dev.", AAAA, "NoError soa dev."),
        ("dev.test.", MX, "NoError soa test."),
        ("shop.example.", AAAA, "NoError soa shop.example."),
        ("host.internal.", TXT, "NoError soa host.internal."),
        // Between names there is something, too.
        ("b.dev.test.", A, "NoError soa test."),
        ("test.", A, "NoError soa test."),
        ("nobody.test.", A, "NXDomain soa test."),
        ("x.dev.test.", A, "NXDomain soa test."),
        ("2.0.0.10.in-addr.arpa.", PTR, "NoError dev.test."),
        ("1.0.0.10.in-addr.arpa.", PTR, "NoError gateway.internal."),
        ("130.0.0.10.in-addr.arpa.", PTR, "NoError laptop.test."),
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
        // Not ours.
        ("example.com.", A, "forward"),
        ("atest.", A, "forward"),
        ("other.internal.", A, "forward"),
        ("dev.", MX, "forward"),
        ("unknown.", A, "forward"),
        ("2.1.0.10.in-addr.arpa.", PTR, "forward"),
        ("02.0.0.10.in-addr.arpa.", PTR, "forward"),
        (".", A, "forward"),
    ] {
        assert_eq!(ask(&zone, name, kind), expected, "{name} {kind}");
    }
    assert!(ask(&zone, "test.", SOA).starts_with("NoError gateway.internal."));
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
    zone.place(&host("test"), "10.0.0.0/24".parse().unwrap(), true);
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
    zone.place(&host("lab"), "10.9.0.0/24".parse().unwrap(), false);
    zone.set_static(&[StaticName {
        name: host("dev.lab"),
        address: Ipv4Addr::new(10, 9, 0, 2),
        canonical: true,
    }]);
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
