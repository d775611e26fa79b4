//! A client's life, message by message, on a virtual clock: RFC 8415 section 18.3 part by part.

use super::*;
use crate::engine::lease::{Client, LeaseSettings, Reservation};
use crate::wire::dhcp6::Options;
use control::names::GuestName;
use proptest::prelude::*;

const MAC: MacAddress = MacAddress([0x52, 0x54, 0, 0xaa, 0xbb, 1]);
const DEV: MacAddress = MacAddress([0x52, 0x54, 0, 0, 0, 2]);
const DUID: &[u8] = &[0, 3, 0, 1, 0x52, 0x54, 0, 0xaa, 0xbb, 1];
const SOLICIT: u8 = 1;
const REQUEST: u8 = 3;
const CONFIRM: u8 = 4;
const RENEW: u8 = 5;
const REBIND: u8 = 6;
const RELEASE: u8 = 8;
const DECLINE: u8 = 9;
const INFORM: u8 = 11;

struct Pair {
    server: Dhcp6Server,
    table: LeaseTable,
    start: Instant,
    seconds: u64,
    mac: MacAddress,
    to_group: bool,
}

/// T1, T2, addresses with their lifetimes, status.
type Given = (u32, u32, Vec<(Ipv6Addr, u32, u32)>, Option<u16>);

/// What came back.
struct Answer(Vec<u8>);

impl Answer {
    fn kind(&self) -> u8 {
        self.0[0]
    }

    fn option(&self, code: u16) -> Option<&[u8]> {
        Options(&self.0[4..])
            .find(|(c, _)| *c == code)
            .map(|(_, value)| value)
    }

    /// T1, T2, addresses with lifetimes, status of the first association.
    fn association(&self) -> Given {
        let value = self.option(option::IA_NA).expect("an association");
        let number =
            |at: usize, value: &[u8]| u32::from_be_bytes(value[at..at + 4].try_into().unwrap());
        let addresses = Options(&value[12..])
            .filter(|(code, _)| *code == option::IA_ADDRESS)
            .map(|(_, value)| {
                let octets: [u8; 16] = value[..16].try_into().unwrap();
                (octets.into(), number(16, value), number(20, value))
            })
            .collect();
        let status = Options(&value[12..]).find(|(code, _)| *code == option::STATUS);
        let status = status.map(|(_, value)| u16::from_be_bytes([value[0], value[1]]));
        (number(4, value), number(8, value), addresses, status)
    }

    fn address(&self) -> Ipv6Addr {
        self.association().2[0].0
    }

    fn status(&self) -> Option<u16> {
        let value = self.option(option::STATUS)?;
        Some(u16::from_be_bytes([value[0], value[1]]))
    }
}

/// IA_NA 7 with addresses.
fn association(addresses: &[Ipv6Addr]) -> (u16, Vec<u8>) {
    let mut message = Writer::message(ReplyType::Reply, [0; 3]);
    message.association((option::IA_NA, 7), Some((0, 0)), |inner| {
        for address in addresses {
            inner.address(*address, 0, 0);
        }
    });
    let bytes = message.finish();
    let (code, value) = Options(&bytes[4..]).next().unwrap();
    (code, value.to_vec())
}

impl Pair {
    fn new() -> Self {
        #[expect(
            clippy::disallowed_methods,
            reason = "a virtual clock needs one real start"
        )]
        let start = Instant::now();
        let prefix: Ipv6Net = "fd00:1:2:3::/64".parse().unwrap();
        let domain = HostName::parse("test").unwrap();
        Self {
            server: Dhcp6Server::new(Some(Dhcp6Settings {
                prefix,
                duid: duid_of(prefix, "vmnet8"),
                dns: "fd00:1:2:3::1".parse().unwrap(),
                search: vec![domain.clone()],
                domain,
                time_servers: vec!["fd00::5".parse().unwrap()],
                term: Duration::from_secs(3600),
            })),
            table: LeaseTable::new(LeaseSettings {
                subnet: "10.0.0.0/24".parse().unwrap(),
                pool: Ipv4Addr::new(10, 0, 0, 128)..=Ipv4Addr::new(10, 0, 0, 131),
                kept: vec![Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 254)],
                reservations: vec![Reservation {
                    guest: GuestName::parse("dev").unwrap(),
                    mac: DEV,
                    address: Ipv4Addr::new(10, 0, 0, 2),
                }],
            }),
            start,
            seconds: 0,
            mac: MAC,
            to_group: true,
        }
    }

    fn now(&self) -> Instant {
        self.start + Duration::from_secs(self.seconds)
    }

    fn server_id(&self) -> Vec<u8> {
        self.server.settings.as_ref().unwrap().duid.clone()
    }

    fn send_bytes(&mut self, bytes: &[u8]) -> Option<Answer> {
        let arrival = Dhcp6Arrival {
            source: self.mac,
            link: LinkId(1),
            to_group: self.to_group,
        };
        let now = self.now();
        self.server
            .handle(&mut self.table, bytes, &arrival, now)
            .map(Answer)
    }

    /// With client id, with our server id where the kind needs it, and `options`.
    fn send(&mut self, kind: u8, options: &[(u16, Vec<u8>)]) -> Option<Answer> {
        let mut message = Writer::message(ReplyType::Reply, [1, 2, 3]);
        message.option(option::CLIENT_ID, DUID);
        if matches!(kind, REQUEST | RENEW | RELEASE | DECLINE) {
            message.option(option::SERVER_ID, &self.server_id());
        }
        for (code, value) in options {
            message.option(*code, value);
        }
        let mut bytes = message.finish();
        bytes[0] = kind;
        let answer = self.send_bytes(&bytes)?;
        assert_eq!(answer.0[1..4], [1, 2, 3], "transaction");
        assert_eq!(answer.option(option::CLIENT_ID), Some(DUID));
        assert_eq!(
            answer.option(option::SERVER_ID),
            Some(&self.server_id()[..])
        );
        Some(answer)
    }

    fn obtain(&mut self) -> Ipv6Addr {
        let advertised = self.send(SOLICIT, &[association(&[])]).unwrap();
        assert_eq!(advertised.kind(), 2);
        let mine = advertised.address();
        let reply = self.send(REQUEST, &[association(&[mine])]).unwrap();
        assert_eq!((reply.kind(), reply.address()), (7, mine));
        mine
    }
}

#[test]
fn a_lease_from_question_to_release() {
    let mut pair = Pair::new();
    let mine = pair.obtain();
    let held = pair.table.leases().next().unwrap().0;
    assert_eq!(
        mine,
        format!("fd00:1:2:3::{held}").parse::<Ipv6Addr>().unwrap()
    );
    for _ in 0..4 {
        pair.seconds += 1800;
        let reply = pair.send(RENEW, &[association(&[mine])]).unwrap();
        let expected = (1800, 2880, vec![(mine, 3600, 3600)], None);
        assert_eq!(reply.association(), expected);
    }
    pair.seconds += 3599;
    let reply = pair.send(REBIND, &[association(&[mine])]).unwrap();
    assert_eq!(reply.address(), mine);
    let reply = pair.send(RELEASE, &[association(&[mine])]).unwrap();
    assert_eq!(
        (reply.status(), reply.option(option::IA_NA)),
        (Some(0), None)
    );
    assert_eq!(pair.table.counts().ipv6, 0);
    let reply = pair.send(RELEASE, &[association(&[mine])]).unwrap();
    assert_eq!(reply.association().3, Some(3), "NoBinding");
    // The next one is the same again, and ends on the second.
    assert_eq!(pair.obtain(), mine);
    pair.seconds += 3600;
    let now = pair.now();
    assert_eq!(pair.table.poll_timeout(), Some(now));
    pair.table.expire(now);
    assert_eq!(
        (pair.table.counts().ipv6, pair.table.poll_timeout()),
        (0, None)
    );
}

#[test]
fn address_agrees_with_the_ipv4_lease_and_the_reservation() {
    let mut pair = Pair::new();
    let now = pair.now();
    let client = Client {
        mac: MAC,
        identifier: Some(b"\xffanything"),
        link: LinkId(1),
        link_guest: None,
    };
    let held = pair.table.offer(&client, None, now).unwrap().address;
    let until = now + Duration::from_secs(60);
    pair.table.bind(&client, held, None, until, now).unwrap();
    assert_eq!(
        pair.obtain(),
        format!("fd00:1:2:3::{held}").parse::<Ipv6Addr>().unwrap()
    );
    pair.mac = DEV;
    assert_eq!(
        pair.obtain(),
        "fd00:1:2:3::a00:2".parse::<Ipv6Addr>().unwrap()
    );
}

#[test]
fn solicit_binds_nobody_but_with_rapid_commit_it_does() {
    let mut pair = Pair::new();
    let advertised = pair.send(SOLICIT, &[association(&[])]).unwrap();
    assert_eq!(
        advertised.option(option::PREFERENCE),
        Some([255].as_slice())
    );
    assert_eq!(pair.table.leases().count(), 0);
    let rapid = (option::RAPID_COMMIT, Vec::new());
    let reply = pair.send(SOLICIT, &[association(&[]), rapid]).unwrap();
    assert_eq!((reply.kind(), reply.address()), (7, advertised.address()));
    assert_eq!(reply.option(option::RAPID_COMMIT), Some([].as_slice()));
    assert_eq!(pair.table.counts().ipv6, 1);
}

#[test]
fn foreign_addresses_are_told_to_go() {
    let mut pair = Pair::new();
    let foreign: Ipv6Addr = "fd00:9::7".parse().unwrap();
    let reply = pair.send(REQUEST, &[association(&[foreign])]).unwrap();
    assert_eq!(reply.association().3, Some(4), "NotOnLink");
    assert_eq!(pair.table.leases().count(), 0);
    // From another network: the old one ends, ours begins.
    let reply = pair.send(REBIND, &[association(&[foreign])]).unwrap();
    let addresses = reply.association().2;
    assert_eq!(addresses.len(), 2);
    assert_eq!((addresses[0].2, addresses[1]), (3600, (foreign, 0, 0)));
    let mine = addresses[0].0;
    for (address, status) in [(mine, 0), (foreign, 4)] {
        let reply = pair.send(CONFIRM, &[association(&[address])]).unwrap();
        assert_eq!(reply.status(), Some(status));
    }
    assert!(pair.send(CONFIRM, &[association(&[])]).is_none());
}

#[test]
fn declined_address_is_not_given_again_at_once() {
    let mut pair = Pair::new();
    let mine = pair.obtain();
    let reply = pair.send(DECLINE, &[association(&[mine])]).unwrap();
    assert_eq!(reply.status(), Some(0));
    let advertised = pair.send(SOLICIT, &[association(&[])]).unwrap();
    assert_eq!(advertised.association().3, Some(2), "NoAddrsAvail");
    assert_eq!(
        (
            pair.server.counters().declines,
            pair.server.counters().refused
        ),
        (1, 1)
    );
}

#[test]
fn prefixes_and_temporary_addresses_are_refused_and_a_second_association_too() {
    let mut pair = Pair::new();
    let options = [
        association(&[]),
        (option::IA_NA, vec![0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0]),
        (option::IA_TA, vec![0, 0, 0, 9]),
        (option::IA_PD, vec![0, 0, 0, 10, 0, 0, 0, 0, 0, 0, 0, 0]),
    ];
    for kind in [SOLICIT, REQUEST] {
        let answer = pair.send(kind, &options).unwrap();
        assert_eq!(answer.association().2.len(), 1);
        let statuses: Vec<(u16, u16)> = Options(&answer.0[4..])
            .filter_map(|(code, value)| {
                let fixed = if code == option::IA_TA { 4 } else { 12 };
                let mut inner = Options(value.get(fixed..)?);
                let (_, status) = inner.find(|(code, _)| *code == option::STATUS)?;
                Some((code, u16::from_be_bytes([status[0], status[1]])))
            })
            .collect();
        assert_eq!(
            statuses,
            [(option::IA_NA, 2), (option::IA_TA, 2), (option::IA_PD, 6)]
        );
    }
}

#[test]
fn information_alone_and_what_is_asked_for() {
    let mut pair = Pair::new();
    let ask = |codes: &[u16]| {
        let value = codes.iter().flat_map(|code| code.to_be_bytes()).collect();
        (option::REQUESTED, value)
    };
    let reply = pair
        .send(INFORM, &[ask(&[24, 23, 31, 56, 32, 23])])
        .unwrap();
    let codes: Vec<u16> = Options(&reply.0[4..]).map(|(code, _)| code).collect();
    assert_eq!(codes, [1, 2, 24, 23, 31, 56, 32]);
    let dns: Ipv6Addr = "fd00:1:2:3::1".parse().unwrap();
    assert_eq!(reply.option(23), Some(dns.octets().as_slice()));
    assert_eq!(reply.option(24), Some(b"\x04test\0".as_slice()));
    assert_eq!(reply.option(56).unwrap()[..4], [0, 1, 0, 16]);
    let codes: Vec<u16> = Options(&pair.send(INFORM, &[]).unwrap().0[4..])
        .map(|(code, _)| code)
        .collect();
    assert_eq!(codes, [1, 2, 23, 24]);
    assert!(
        pair.send(INFORM, &[association(&[])]).is_none(),
        "section 16.12"
    );
    assert_eq!(pair.table.leases().count(), 0);
}

#[test]
fn fqdn_is_answered_with_the_name_that_dns_has() {
    let mut pair = Pair::new();
    let fqdn = (option::CLIENT_FQDN, b"\x01\x05other".to_vec());
    let rapid = (option::RAPID_COMMIT, Vec::new());
    let options = [association(&[]), fqdn, rapid];
    let reply = pair.send(SOLICIT, &options).unwrap();
    assert_eq!(
        reply.option(option::CLIENT_FQDN),
        Some([4].as_slice()),
        "no AAAA"
    );
    pair.mac = DEV;
    let reply = pair.send(SOLICIT, &options).unwrap();
    let expected = b"\x01\x03dev\x04test\0".as_slice();
    assert_eq!(reply.option(option::CLIENT_FQDN), Some(expected));
}

#[test]
fn messages_for_others_and_by_relays_are_dropped_and_counted() {
    let mut pair = Pair::new();
    let mut with_server = association(&[]);
    with_server = (with_server.0, with_server.1);
    let other = (option::SERVER_ID, DUID.to_vec());
    // A SOLICIT names no server; a REBIND neither.
    for kind in [SOLICIT, REBIND, CONFIRM] {
        assert!(
            pair.send(kind, &[other.clone(), with_server.clone()])
                .is_none()
        );
    }
    assert_eq!(pair.server.counters().malformed, 3);
    assert!(pair.send(INFORM, &[other]).is_none());
    assert!(pair.send_bytes(&[12; 60]).is_none());
    assert!(pair.send_bytes(&[REQUEST, 0, 0, 0]).is_none());
    let counters = pair.server.counters();
    assert_eq!(
        (counters.ignored, counters.relayed, counters.malformed),
        (1, 1, 4)
    );
    pair.to_group = false;
    assert!(pair.send(SOLICIT, &[association(&[])]).is_none());
    let reply = pair.send(REQUEST, &[association(&[])]).unwrap();
    assert_eq!(reply.status(), Some(5), "UseMulticast");
    pair.server.reconfigure(None);
    pair.to_group = true;
    let now = pair.now();
    let arrival = Dhcp6Arrival {
        source: MAC,
        link: LinkId(1),
        to_group: true,
    };
    let bytes = [SOLICIT, 0, 0, 0];
    assert_eq!(
        pair.server.handle(&mut pair.table, &bytes, &arrival, now),
        None
    );
}

#[test]
fn duid_follows_from_prefix_and_name() {
    let prefix = "fd00:1:2:3::/64".parse().unwrap();
    let duid = duid_of(prefix, "vmnet8");
    assert_eq!(duid.len(), 18);
    assert_eq!(duid[..2], [0, 4]);
    assert_eq!(
        (duid[8] >> 4, duid[10] >> 6),
        (8, 2),
        "a UUID's version and variant"
    );
    assert_eq!(duid, duid_of(prefix, "vmnet8"));
    assert_ne!(duid, duid_of(prefix, "vmnet1"));
}

proptest! {
    #[test]
    fn no_bytes_harm_the_server(
        messages in proptest::collection::vec(
            (0_u8..14, proptest::collection::vec((0_u16..60, proptest::collection::vec(any::<u8>(), 0..40)), 0..6)),
            1..30,
        ),
    ) {
        let mut pair = Pair::new();
        for (kind, options) in messages {
            let mut message = Writer::message(ReplyType::Reply, [1, 2, 3]);
            message.option(option::CLIENT_ID, DUID);
            if kind % 2 == 1 {
                message.option(option::SERVER_ID, &pair.server_id());
            }
            for (code, value) in &options {
                message.option(*code, value);
            }
            let mut bytes = message.finish();
            bytes[0] = kind;
            pair.send_bytes(&bytes);
            pair.seconds += 7;
        }
        prop_assert!(pair.table.leases().count() <= 5);
    }
}
