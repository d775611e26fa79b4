//! Our codec against hickory-proto's, and against noise.

use super::*;
use hickory_proto::op::{Edns as TheirEdns, Message, MessageType, OpCode, Query as TheirQuery};
use hickory_proto::rr::rdata::{A, SOA};
use hickory_proto::rr::{Name, RData, Record as TheirRecord, RecordType};
use proptest::prelude::*;

fn theirs(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(0xbeef, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(TheirQuery::query(Name::from_ascii(name).unwrap(), kind));
    message
}

fn with_edns(mut message: Message, size: u16) -> Vec<u8> {
    let mut edns = TheirEdns::new();
    edns.set_max_payload(size);
    edns.set_dnssec_ok(true);
    message.set_edns(edns);
    message.to_vec().unwrap()
}

#[test]
fn query_of_hickory_is_read() {
    let bytes = with_edns(theirs("Web.Test.", RecordType::AAAA), 4096);
    let query = Query::decode(&bytes).unwrap();
    assert_eq!(
        (query.id, query.kind, query.class),
        (0xbeef, kind::AAAA, IN)
    );
    assert_eq!(query.name, b"\x03Web\x04Test\0");
    assert!(query.recursion && !query.checking_disabled);
    let expected = Edns {
        udp_size: 4096,
        version: 0,
        dnssec: true,
        client_subnet: false,
    };
    assert_eq!(query.edns, Some(expected));
    assert_eq!(query.udp_limit(), usize::from(EDNS_UDP), "never a fragment");
    let small = with_edns(theirs("a.", RecordType::A), 100);
    assert_eq!(Query::decode(&small).unwrap().udp_limit(), 512);
}

#[test]
fn answer_is_read_by_hickory() {
    let bytes = with_edns(theirs("Web.Test.", RecordType::A), 1232);
    let query = Query::decode(&bytes).unwrap();
    let mut answer = query.answer(ResponseCode::NoError, true);
    answer.address(Ipv4Addr::new(10, 0, 0, 9), 10);
    let message = Message::from_vec(&answer.finish()).unwrap();
    assert_eq!(message.metadata.id, 0xbeef);
    assert!(message.metadata.authoritative && message.metadata.recursion_available);
    assert_eq!(
        message.queries[0].name().to_string(),
        "Web.Test.",
        "the client's spelling"
    );
    assert_eq!(message.answers[0].data, RData::A(A::new(10, 0, 0, 9)));
    assert_eq!(message.answers[0].name.to_string(), "Web.Test.");
    assert_eq!(message.max_payload(), EDNS_UDP);

    let mut none = query.answer(ResponseCode::NoSuchName, true);
    none.nothing(4, b"\x07gateway\x08internal\0", 10);
    let message = Message::from_vec(&none.finish()).unwrap();
    assert_eq!(message.authorities[0].name.to_string(), "Test.");
    let RData::SOA(soa) = &message.authorities[0].data else {
        panic!("{:?}", message.authorities);
    };
    assert_eq!(soa.mname.to_string(), "gateway.internal.");
    assert_eq!(soa.rname.to_string(), "hostmaster.gateway.internal.");
    assert_eq!(soa.minimum, 10);
}

#[test]
fn what_is_no_query_is_left_alone_or_told_why() {
    let good = theirs("a.test.", RecordType::A).to_vec().unwrap();
    let changed = |at: usize, value: u8| {
        let mut bytes = good.clone();
        bytes[at] = value;
        bytes
    };
    let flagged = |flags, code| BadQuery::Answer {
        id: 0xbeef,
        flags,
        code,
    };
    let answer = |code| flagged(good[2], code);
    for (bytes, expected) in [
        (good[..11].to_vec(), BadQuery::Silent),
        (changed(2, 0x80), BadQuery::Silent),
        (
            changed(2, 0x29),
            flagged(0x29, ResponseCode::NotImplemented),
        ),
        (changed(5, 0), answer(ResponseCode::FormatError)),
        (changed(5, 2), answer(ResponseCode::FormatError)),
        (changed(7, 1), answer(ResponseCode::FormatError)),
        (changed(11, 1), answer(ResponseCode::FormatError)),
        (changed(12, 0xc0), answer(ResponseCode::FormatError)),
        (
            good[..good.len() - 1].to_vec(),
            answer(ResponseCode::FormatError),
        ),
    ] {
        assert_eq!(Query::decode(&bytes), Err(expected), "{bytes:02x?}");
    }
    // Whoever asked knows its answer by the opcode, too.
    let told = bare_answer(0xbeef, 0x29, ResponseCode::NotImplemented);
    assert_eq!(told[2..4], [0xa9, 0x84]);
    let told = bare_answer(0xbeef, 0, ResponseCode::FormatError);
    let told = Message::from_vec(&told).unwrap();
    assert_eq!(
        told.metadata.response_code,
        hickory_proto::op::ResponseCode::FormErr
    );
}

#[test]
fn truncated_answer_keeps_code_and_question() {
    let bytes = theirs("a.test.", RecordType::A).to_vec().unwrap();
    let query = Query::decode(&bytes).unwrap();
    let mut full = query.answer(ResponseCode::NoError, false);
    for last in 0..100 {
        full.address(Ipv4Addr::new(10, 0, 0, last), 60);
    }
    let full = full.finish();
    assert!(full.len() > PLAIN_UDP);
    let short = Message::from_vec(&query.truncated(&full)).unwrap();
    assert!(short.metadata.truncation && short.answers.is_empty());
    assert_eq!(short.queries.len(), 1);
}

fn answer_of(name: &str, ttls: &[u32], minimum: Option<u32>) -> Vec<u8> {
    let name = Name::from_ascii(name).unwrap();
    let mut message = Message::response(7, OpCode::Query);
    message.add_query(TheirQuery::query(name.clone(), RecordType::A));
    for ttl in ttls {
        message.add_answer(TheirRecord::from_rdata(
            name.clone(),
            *ttl,
            RData::A(A::new(1, 2, 3, 4)),
        ));
    }
    if let Some(minimum) = minimum {
        let server = Name::from_ascii("ns.example.").unwrap();
        let soa = SOA::new(server.clone(), server, 1, 2, 3, 4, minimum);
        message.add_authority(TheirRecord::from_rdata(name, 3600, RData::SOA(soa)));
    }
    message.set_edns(TheirEdns::new());
    message.to_vec().unwrap()
}

#[test]
fn times_to_live_are_found_and_the_smallest_counts() {
    let query = theirs("example.com.", RecordType::A).to_vec().unwrap();
    let end = Query::decode(&query).unwrap().question_end();
    for (bytes, places, keep) in [
        (answer_of("example.com.", &[300, 60], None), 2, 60),
        (answer_of("example.com.", &[300, 0], None), 2, 0),
        (answer_of("example.com.", &[], Some(120)), 1, 120),
        // Without SOA a "no" is not kept.
        (answer_of("example.com.", &[], None), 0, 0),
    ] {
        let walked = walk_answer(&bytes, end).unwrap();
        assert_eq!((walked.ttl_places.len(), walked.keep), (places, keep));
    }
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        Query::decode(&bytes).ok();
        drop(walk_answer(&bytes, HEADER));
        assert!(Record::at(&bytes, 3).is_none_or(|record| record.end <= bytes.len()));
    }

    #[test]
    fn changed_messages_make_nothing_panic(at in 0_usize..90, value: u8, cut in 0_usize..90) {
        for mut bytes in [answer_of("www.example.com.", &[9, 8], Some(7)), with_edns(theirs("a.b.test.", RecordType::A), 1232)] {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
            bytes.truncate(bytes.len() - cut.min(bytes.len()));
            if let Ok(query) = Query::decode(&bytes) {
                drop(query.truncated(&bytes));
                drop(query.failure(ResponseCode::Refused));
            }
            drop(walk_answer(&bytes, 33));
        }
    }
}
