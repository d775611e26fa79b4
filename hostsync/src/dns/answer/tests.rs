//! Questions of every kind against a small table, and noise.

use super::*;
use crate::table::{Fact, Rules, Source, decide};
use control::config::{Config, RecordName, Surroundings};
use proptest::prelude::*;
use std::time::SystemTime;

fn zones() -> Zones {
    let text = "[hosts.source]\nlan = { type = \"dnsmasq\", suffix = \"lan.example\" }\n";
    let config = Config::parse(
        text,
        std::path::Path::new("c.toml"),
        &Surroundings::of_process(),
    )
    .unwrap();
    let facts: Vec<Fact> = [
        ("dev.test", "127.64.0.1"),
        ("*.dev.test", "127.64.0.1"),
        ("*.local.test", "127.64.0.2"),
        ("x.y.local.test", "127.64.0.3"),
        ("a.b.test", "127.64.0.4"),
        ("six.test", "fd00::6"),
        ("nas.corp.example", "10.0.0.9"),
    ]
    .iter()
    .map(|(name, address)| {
        let RecordName { name, below } = name.parse().unwrap();
        Fact {
            name,
            below,
            address: address.parse().unwrap(),
            from: Source::Static,
            since: None,
            until: None,
        }
    })
    .collect();
    Zones::new(
        &decide(&facts, &Rules::default(), SystemTime::UNIX_EPOCH),
        &config,
    )
}

fn ask(name: &str, kind: RecordType) -> Message {
    let mut message = Message::query();
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

fn answered(message: &Message) -> Message {
    let bytes = message.to_vec().unwrap();
    let (reply, _) = answer(&bytes, &zones(), Transport::Udp);
    let reply = Message::from_vec(&reply.unwrap()).unwrap();
    assert_eq!(reply.metadata.id, message.metadata.id);
    assert_eq!(reply.queries, message.queries);
    assert!(!reply.metadata.recursion_available);
    reply
}

/// `CODE data data / authority's owner`.
fn shown(name: &str, kind: RecordType) -> String {
    let reply = answered(&ask(name, kind));
    let data = reply.answers.iter().map(|record| record.data.to_string());
    let mut text = vec![format!("{:?}", reply.metadata.response_code)];
    text.extend(data);
    for record in &reply.authorities {
        assert_eq!(record.record_type(), RecordType::SOA);
        text.push(format!("/ {}", record.name));
    }
    assert_eq!(
        reply.metadata.authoritative,
        reply.metadata.response_code != ResponseCode::Refused
    );
    text.join(" ")
}

#[test]
fn names_wildcards_and_what_is_not_there() {
    use RecordType::{A, AAAA, ANY, MX, NS, PTR, SOA, TXT};
    for (name, kind, expected) in [
        ("dev.test.", A, "NoError 127.64.0.1"),
        ("DEV.tesT.", A, "NoError 127.64.0.1"),
        ("dev.test.", ANY, "NoError 127.64.0.1"),
        ("dev.test.", AAAA, "NoError / test."),
        ("dev.test.", MX, "NoError / test."),
        ("any.thing.dev.test.", A, "NoError 127.64.0.1"),
        ("_acme.dev.test.", A, "NoError 127.64.0.1"),
        ("_acme.dev.test.", TXT, "NoError / test."),
        ("six.test.", AAAA, "NoError fd00::6"),
        ("six.test.", A, "NoError / test."),
        ("shop.local.test.", A, "NoError 127.64.0.2"),
        ("x.y.local.test.", A, "NoError 127.64.0.3"),
        ("y.local.test.", A, "NoError 127.64.0.2"),
        // *.NAME is not NAME, but NAME is there.
        ("local.test.", A, "NoError / test."),
        ("b.test.", A, "NoError / test."),
        ("c.b.test.", A, "NXDomain / test."),
        ("absent.test.", A, "NXDomain / test."),
        ("test.", A, "NoError / test."),
        ("lan.example.", A, "NoError / lan.example."),
        ("box.lan.example.", A, "NXDomain / lan.example."),
        // The user's name in a domain of others: that name, and nothing beside it.
        ("nas.corp.example.", A, "NoError 10.0.0.9"),
        ("x.nas.corp.example.", A, "NXDomain / nas.corp.example."),
        ("corp.example.", A, "Refused"),
        ("www.corp.example.", A, "Refused"),
        ("atest.", A, "Refused"),
        (".", NS, "Refused"),
        ("1.0.64.127.in-addr.arpa.", PTR, "NoError dev.test."),
        ("1.0.64.127.in-addr.arpa.", A, "NoError"),
        ("9.0.0.10.in-addr.arpa.", PTR, "NoError nas.corp.example."),
        ("8.0.0.10.in-addr.arpa.", PTR, "Refused"),
        ("0.10.in-addr.arpa.", PTR, "Refused"),
        (
            "6.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa.",
            PTR,
            "NoError six.test.",
        ),
    ] {
        assert_eq!(shown(name, kind), expected, "{name} {kind}");
    }
    assert!(shown("test.", SOA).starts_with("NoError localhost. nobody.invalid."));
    assert_eq!(shown("test.", NS), "NoError localhost.");
}

#[test]
fn a_dot_inside_a_label_is_no_border() {
    let name = Name::from_labels(vec![&b"dev.test"[..]]).unwrap();
    let mut message = Message::query();
    message.add_query(Query::query(name, RecordType::A));
    let reply = answered(&message);
    assert_eq!(reply.metadata.response_code, ResponseCode::Refused);
}

#[test]
fn what_is_no_ordinary_question_is_told_so() {
    let code = |message: &Message| answered(message).metadata.response_code;
    let good = ask("dev.test.", RecordType::A);
    let mut two = good.clone();
    two.add_query(good.queries[0].clone());
    assert_eq!(code(&two), ResponseCode::FormErr);
    let mut update = good.clone();
    update.metadata.op_code = OpCode::Update;
    assert_eq!(code(&update), ResponseCode::NotImp);
    let mut chaos = good.clone();
    chaos.queries[0].set_query_class(DNSClass::CH);
    assert_eq!(code(&chaos), ResponseCode::Refused);

    let mut with_edns = good.clone();
    with_edns.set_edns(Edns::new());
    let reply = answered(&with_edns);
    assert_eq!(reply.edns.as_ref().map(Edns::max_payload), Some(1232));
    assert!(answered(&good).edns.is_none());
    let mut later = good.clone();
    let mut edns = Edns::new();
    edns.set_version(1);
    later.set_edns(edns);
    assert_eq!(answered(&later).edns.unwrap().rcode_high(), 1, "BADVERS");

    let zones = zones();
    let silence =
        |bytes: &[u8]| answer(bytes, &zones, Transport::Udp) == (None, Outcome::Malformed);
    let mut response = good.clone();
    response.metadata.message_type = MessageType::Response;
    assert!(
        silence(&response.to_vec().unwrap()),
        "no two servers in a circle"
    );
    assert!(silence(b"") && silence(&[7; 11]) && silence(&[0xff; 40]));
    let half = &good.to_vec().unwrap()[..15];
    let (reply, outcome) = answer(half, &zones, Transport::Udp);
    let reply = Message::from_vec(&reply.unwrap()).unwrap();
    assert_eq!(
        (reply.metadata.response_code, outcome),
        (ResponseCode::FormErr, Outcome::Malformed)
    );
}

#[test]
fn a_long_answer_is_cut_over_udp_and_whole_over_tcp() {
    let facts: Vec<Fact> = (0..16)
        .map(|number| Fact {
            name: format!("{}{number}.test", "n".repeat(50)).parse().unwrap(),
            below: false,
            address: "127.0.0.9".parse().unwrap(),
            from: Source::Static,
            since: None,
            until: None,
        })
        .collect();
    let config = Config::parse("", std::path::Path::new("c"), &Surroundings::of_process()).unwrap();
    let table = decide(&facts, &Rules::default(), SystemTime::UNIX_EPOCH);
    let zones = Zones::new(&table, &config);
    let bytes = ask("9.0.0.127.in-addr.arpa.", RecordType::PTR)
        .to_vec()
        .unwrap();
    let by = |transport| Message::from_vec(&answer(&bytes, &zones, transport).0.unwrap()).unwrap();
    let (udp, tcp) = (by(Transport::Udp), by(Transport::Tcp));
    assert!(udp.metadata.truncation && udp.answers.is_empty());
    assert!(!tcp.metadata.truncation);
    assert_eq!(tcp.answers.len(), 16);
}

proptest! {
    #[test]
    fn no_bytes_break_it_and_no_answer_answers_an_answer(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
        let zones = zones();
        let (reply, _) = answer(&bytes, &zones, Transport::Udp);
        if let Some(reply) = reply {
            prop_assert!(reply.len() <= 1232);
            prop_assert_eq!(answer(&reply, &zones, Transport::Udp).0, None);
        }
    }

    #[test]
    fn no_damaged_question_breaks_it(at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in 0usize..40) {
        let mut bytes = ask("any.thing.dev.test.", RecordType::A).to_vec().unwrap();
        let place = at.index(bytes.len());
        bytes[place] = byte;
        bytes.truncate(bytes.len().saturating_sub(cut));
        drop(answer(&bytes, &zones(), Transport::Tcp));
    }
}

#[test]
fn only_the_trees_of_addresses_are_reverse() {
    for (name, expected) in [
        ("in-addr.arpa", true),
        ("1.in-addr.arpa", true),
        ("f.ip6.arpa", true),
        ("box.home.arpa", false),
        ("xin-addr.arpa", false),
        ("arpa", false),
    ] {
        assert_eq!(is_reverse(name), expected, "{name}");
    }
}
