//! The messages of the gateway's services, as bytes of a guest or of an upstream server.

use std::net::Ipv4Addr;

use control::names::HostName;
use netd::engine::dns::{Zone, ZoneSettings};
use netd::engine::services::DnsOutcome;
use netd::wire::dhcp::{ClientMessage, MessageType, options_of};
use netd::wire::dhcp6;
use netd::wire::dns::{Query, Record, walk_answer};
use netd::wire::dns_addresses;

/// A client's message: what is read can be answered, and the answer reads back.
pub(crate) fn dhcp(data: &[u8]) {
    let Ok(message) = ClientMessage::decode(data) else {
        return;
    };
    let mut reply = message.reply(MessageType::Ack, Ipv4Addr::new(10, 0, 0, 1));
    reply.your_address(Ipv4Addr::new(10, 0, 0, 9));
    reply.option(1, &[255, 255, 255, 0]);
    let bytes = reply.finish();
    assert!(bytes.len() >= 300, "RFC 1542 section 2.1: never shorter");
    let options = options_of(&bytes).expect("our own message has options");
    assert!(options.count() >= 3);
}

/// A DHCPv6 client's message: however long, what is kept of it has its bounds.
pub(crate) fn dhcp6(data: &[u8]) {
    if let Ok(message) = dhcp6::ClientMessage::decode(data) {
        assert_eq!(data.get(1..4), Some(&message.transaction[..]));
        let most = [
            message.associations.len(),
            message.temporary.len(),
            message.prefixes.len(),
        ];
        assert!(most.iter().all(|count| *count <= 8), "{most:?}");
        let duids = [message.client, message.server];
        let long = duids.iter().flatten().any(|duid| duid.len() > 130);
        assert!(!long, "RFC 8415 section 11.1: a DUID has 130 bytes at most");
    }
}

/// A question: what our zone answers is well formed, and belongs to it.
pub(crate) fn dns_query(data: &[u8]) {
    let name = |text| HostName::parse(text).expect("a name");
    let subnet = "10.0.0.0/24".parse().expect("a subnet");
    let mut zone = Zone::new(ZoneSettings {
        domain: name("test"),
        network: name("lab.test"),
        server: name("gateway.internal"),
        subnet,
        prefix: Some("fd00:1::/64".parse().expect("a prefix")),
        host_internal: (Ipv4Addr::new(10, 0, 0, 254), None),
        siblings: (Vec::new(), Vec::new()),
        rules: vec![name("corp.test")],
        closed: false,
    });
    zone.add_lease(&name("dev"), Ipv4Addr::new(10, 0, 0, 9));
    if let DnsOutcome::Answer(answer) = zone.handle(data) {
        assert_eq!(answer.get(..2), data.get(..2), "the question's number");
        assert!(answer.len() >= 12 && answer[2] & 0x80 != 0, "an answer");
        if let Ok(query) = Query::decode(data) {
            assert!(walk_answer(&answer, query.question_end()).is_some() || answer[5] == 0);
            let cut = query.truncated(&answer);
            assert!(cut.len() <= query.udp_limit().max(query.question_end() + 11));
        }
    }
}

/// A foreign answer: each time to live that is found lies inside.
pub(crate) fn dns_answer(data: &[u8]) {
    let Some((&[end], bytes)) = data.split_first_chunk() else {
        return;
    };
    let end = usize::from(end);
    // What egress rules learn of it.
    drop(dns_addresses::addresses(bytes));
    drop(dns_addresses::asked_name(bytes));
    if let Some(walked) = walk_answer(bytes, end) {
        assert!(
            walked
                .ttl_places
                .iter()
                .all(|place| place + 4 <= bytes.len())
        );
    }
    if let Some(record) = Record::at(bytes, end) {
        assert!(record.data <= record.end && record.end <= bytes.len());
    }
}
