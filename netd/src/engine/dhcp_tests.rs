//! A client's life, message by message, on a virtual clock: RFC 2131 section 4.3 row by row.

use super::*;
use crate::engine::lease::{LeaseChange, Reservation};
use crate::engine::services::LinkId;
use crate::wire::dhcp::options_of;
use control::mac::MacAddress;
use control::names::GuestName;
use proptest::prelude::*;

const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const MAC: MacAddress = MacAddress([0x52, 0x54, 0, 0xaa, 0xbb, 1]);
const TERM: Duration = Duration::from_secs(3600);

fn settings() -> DhcpSettings {
    DhcpSettings {
        gateway: GATEWAY,
        router: Some(GATEWAY),
        domain: HostName::parse("test").unwrap(),
        search: vec![HostName::parse("test").unwrap()],
        time_servers: Vec::new(),
        routes: Vec::new(),
        mtu: Some(65_520),
        term: TERM,
        leases: LeaseSettings {
            subnet: "10.0.0.0/24".parse().unwrap(),
            pool: Ipv4Addr::new(10, 0, 0, 128)..=Ipv4Addr::new(10, 0, 0, 131),
            kept: vec![GATEWAY, Ipv4Addr::new(10, 0, 0, 254)],
            reservations: vec![Reservation {
                guest: GuestName::parse("dev").unwrap(),
                mac: MacAddress([0x52, 0x54, 0, 0, 0, 2]),
                address: Ipv4Addr::new(10, 0, 0, 2),
            }],
        },
    }
}

/// A client and the server it talks to; `seconds` is the clock.
struct Pair {
    server: DhcpServer,
    start: Instant,
    seconds: u64,
    mac: MacAddress,
    link: LinkId,
}

#[derive(Default)]
struct Sent<'a> {
    client: Option<Ipv4Addr>,
    relay: Option<Ipv4Addr>,
    broadcast: bool,
    options: &'a [(u8, &'a [u8])],
}

impl Pair {
    fn new() -> Self {
        #[expect(
            clippy::disallowed_methods,
            reason = "a virtual clock needs one real start"
        )]
        let start = Instant::now();
        Self {
            server: DhcpServer::new(settings()),
            start,
            seconds: 0,
            mac: MAC,
            link: LinkId(1),
        }
    }

    fn now(&self) -> Instant {
        self.start + Duration::from_secs(self.seconds)
    }

    fn send(&mut self, kind: u8, sent: &Sent<'_>) -> Option<Answer> {
        let mut bytes = vec![1, 1, 6, 0, 0xca, 0xfe, 0, 1, 0, 0, 0, 0];
        bytes[10] = if sent.broadcast { 0x80 } else { 0 };
        bytes.extend_from_slice(&sent.client.unwrap_or(Ipv4Addr::UNSPECIFIED).octets());
        bytes.extend_from_slice(&[0; 8]);
        bytes.extend_from_slice(&sent.relay.unwrap_or(Ipv4Addr::UNSPECIFIED).octets());
        bytes.extend_from_slice(&self.mac.0);
        bytes.resize(236, 0);
        bytes.extend_from_slice(&[99, 130, 83, 99, 53, 1, kind]);
        for (code, value) in sent.options {
            bytes.extend_from_slice(&[*code, value.len().try_into().unwrap()]);
            bytes.extend_from_slice(value);
        }
        bytes.push(255);
        let arrival = DhcpArrival {
            source: self.mac,
            source_address: sent.client.unwrap_or(Ipv4Addr::UNSPECIFIED),
            link: self.link,
            guest: None,
        };
        let now = self.now();
        let reply = self.server.handle(&bytes, &arrival, now)?;
        assert_eq!(reply.payload[4..8], [0xca, 0xfe, 0, 1], "transaction id");
        assert_eq!(reply.payload[28..34], self.mac.0, "chaddr");
        Some(Answer(reply))
    }

    fn discover(&mut self) -> Option<Answer> {
        self.send(
            1,
            &Sent {
                broadcast: true,
                ..Sent::default()
            },
        )
    }

    fn select(&mut self, address: Ipv4Addr) -> Option<Answer> {
        let options: &[(u8, &[u8])] = &[(50, &address.octets()), (54, &GATEWAY.octets())];
        self.send(
            3,
            &Sent {
                options,
                ..Sent::default()
            },
        )
    }

    fn reboot(&mut self, address: Ipv4Addr) -> Option<Answer> {
        self.send(
            3,
            &Sent {
                options: &[(50, &address.octets())],
                ..Sent::default()
            },
        )
    }

    fn renew(&mut self, address: Ipv4Addr) -> Option<Answer> {
        self.send(
            3,
            &Sent {
                client: Some(address),
                ..Sent::default()
            },
        )
    }

    /// DISCOVER to ACK.
    fn obtain(&mut self) -> Ipv4Addr {
        let offered = self.discover().unwrap().yours();
        let answer = self.select(offered).unwrap();
        assert_eq!((answer.kind(), answer.yours()), (5, offered));
        offered
    }
}

struct Answer(DhcpReply);

impl Answer {
    fn option(&self, code: u8) -> Option<Vec<u8>> {
        options_of(&self.0.payload)
            .unwrap()
            .find(|(c, _)| *c == code)
            .map(|(_, value)| value.to_vec())
    }

    fn kind(&self) -> u8 {
        self.option(53).unwrap()[0]
    }

    fn yours(&self) -> Ipv4Addr {
        Ipv4Addr::from(<[u8; 4]>::try_from(&self.0.payload[16..20]).unwrap())
    }
}

#[test]
fn an_hour_of_lease_life() {
    let mut pair = Pair::new();
    let mine = pair.obtain();
    for _ in 0..4 {
        pair.seconds += 1800;
        let answer = pair.renew(mine).unwrap();
        assert_eq!((answer.kind(), answer.yours()), (5, mine));
        assert_eq!(
            answer.0.destination,
            DhcpDestination::Unicast {
                mac: MAC,
                address: mine
            }
        );
        assert_eq!(answer.option(51), Some(3600_u32.to_be_bytes().to_vec()));
    }
    // No renewal: it ends on the second.
    pair.seconds += 3599;
    let now = pair.now();
    pair.server.table_mut().expire(now);
    assert_eq!(pair.server.table().owner_of(mine), Some(MAC));
    assert_eq!(
        pair.server.table().poll_timeout(),
        Some(now + Duration::from_secs(1))
    );
    pair.seconds += 1;
    let now = pair.now();
    pair.server.table_mut().expire(now);
    assert_eq!(pair.server.table().owner_of(mine), None);
    assert_eq!(
        pair.server.table().poll_timeout(),
        None,
        "an idle table must not tick"
    );
    let changes: Vec<_> = pair.server.table_mut().take_changes().collect();
    assert!(matches!(
        changes.first(),
        Some(LeaseChange::Bound { renewed: false, .. })
    ));
    assert!(matches!(changes.last(), Some(LeaseChange::Ended { .. })));
    assert_eq!(changes.len(), 6);
}

#[test]
fn offer_and_ack_say_what_was_asked_in_the_clients_order() {
    let mut pair = Pair::new();
    let options: &[(u8, &[u8])] = &[
        (55, &[28, 1, 3, 6, 15, 26, 58, 59, 119, 1, 12, 42]),
        (61, b"\x01abc"),
    ];
    let offer = pair
        .send(
            1,
            &Sent {
                options,
                broadcast: true,
                ..Sent::default()
            },
        )
        .unwrap();
    assert_eq!(offer.0.destination, DhcpDestination::Broadcast);
    let codes: Vec<u8> = options_of(&offer.0.payload)
        .unwrap()
        .map(|(c, _)| c)
        .collect();
    assert_eq!(codes, [53, 54, 61, 51, 58, 59, 28, 1, 3, 6, 15, 26, 119]);
    for (code, value) in [
        (54, GATEWAY.octets().as_slice()),
        (61, b"\x01abc"),
        (1, &[255, 255, 255, 0]),
        (3, &GATEWAY.octets()),
        (6, &GATEWAY.octets()),
        (15, b"test"),
        (26, &[0xff, 0xf0]),
        (28, &[10, 0, 0, 255]),
        (58, &1800_u32.to_be_bytes()),
        (59, &3150_u32.to_be_bytes()),
        (119, b"\x04test\0"),
    ] {
        assert_eq!(offer.option(code).as_deref(), Some(value), "option {code}");
    }
}

#[test]
fn host_only_network_has_no_router() {
    let mut pair = Pair::new();
    pair.server.reconfigure(DhcpSettings {
        router: None,
        ..settings()
    });
    assert_eq!(pair.discover().unwrap().option(3), None);
}

#[test]
fn mask_comes_before_router_and_routes_take_the_place_of_both() {
    let mut pair = Pair::new();
    let ask = |pair: &mut Pair, list: &[u8]| {
        let options: &[(u8, &[u8])] = &[(55, list)];
        let sent = Sent {
            options,
            ..Sent::default()
        };
        pair.send(1, &sent).unwrap()
    };
    let codes = |answer: &Answer| -> Vec<u8> {
        let options = options_of(&answer.0.payload).unwrap();
        options.map(|(code, _)| code).skip(3).collect()
    };
    assert_eq!(codes(&ask(&mut pair, &[42, 3, 6, 1, 3])), [1, 3, 6]);
    // Asked for but there are none; then one, which brings the default route with it (RFC 3442).
    assert_eq!(codes(&ask(&mut pair, &[121, 3])), [3]);
    let with_routes = |router| DhcpSettings {
        router,
        time_servers: vec![Ipv4Addr::new(10, 0, 0, 5), Ipv4Addr::new(10, 0, 0, 6)],
        routes: vec![
            ("10.17.0.0/16".parse().unwrap(), Ipv4Addr::new(10, 0, 0, 9)),
            (
                "10.27.129.0/25".parse().unwrap(),
                Ipv4Addr::new(10, 0, 0, 8),
            ),
        ],
        ..settings()
    };
    pair.server.reconfigure(with_routes(Some(GATEWAY)));
    let answer = ask(&mut pair, &[121, 3, 42]);
    assert_eq!(codes(&answer), [121, 42]);
    let own = [16, 10, 17, 10, 0, 0, 9, 25, 10, 27, 129, 0, 10, 0, 0, 8];
    let default = [0, 10, 0, 0, 1];
    assert_eq!(answer.option(121), Some([&own[..], &default].concat()));
    assert_eq!(answer.option(42), Some(vec![10, 0, 0, 5, 10, 0, 0, 6]));
    assert_eq!(codes(&ask(&mut pair, &[3])), [3]);
    pair.server.reconfigure(with_routes(None));
    assert_eq!(ask(&mut pair, &[3, 121]).option(121), Some(own.to_vec()));
}

#[test]
fn rapid_commit_is_for_addresses_that_need_no_probe() {
    let mut pair = Pair::new();
    let rapid: &[(u8, &[u8])] = &[(80, &[])];
    let ask = |pair: &mut Pair| {
        let sent = Sent {
            options: rapid,
            ..Sent::default()
        };
        pair.send(1, &sent).unwrap()
    };
    let offer = ask(&mut pair);
    assert_eq!((offer.kind(), offer.0.probe), (2, Some(offer.yours())));
    assert_eq!(offer.option(80), None);
    let mine = offer.yours();
    pair.select(mine).unwrap();
    for mac in [MAC, MacAddress([0x52, 0x54, 0, 0, 0, 2])] {
        pair.mac = mac;
        let answer = ask(&mut pair);
        assert_eq!((answer.kind(), answer.0.probe), (5, None));
        assert_eq!(answer.option(80), Some(Vec::new()));
        assert_eq!(pair.server.table().owner_of(answer.yours()), Some(mac));
    }
}

#[test]
fn fqdn_is_answered_with_the_name_that_dns_has() {
    for (flags, name, expected) in [
        (
            0_u8,
            b"Web.example".as_slice(),
            b"\x03\xff\xffweb.test".as_slice(),
        ),
        (1, b"web", b"\x01\xff\xffweb.test"),
        (5, b"\x03web\0", b"\x05\xff\xff\x03web\x04test\0"),
    ] {
        let mut pair = Pair::new();
        let mine = pair.discover().unwrap().yours();
        let fqdn = [&[flags, 0, 0], name].concat();
        let options: &[(u8, &[u8])] = &[(50, &mine.octets()), (54, &GATEWAY.octets()), (81, &fqdn)];
        let sent = Sent {
            options,
            ..Sent::default()
        };
        let answer = pair.send(3, &sent).unwrap();
        assert_eq!(answer.option(81).as_deref(), Some(expected));
    }
}

#[test]
fn request_for_what_cannot_be_is_refused_at_once() {
    let mut pair = Pair::new();
    for bad in [
        Ipv4Addr::new(192, 168, 1, 7),
        GATEWAY,
        Ipv4Addr::new(10, 0, 0, 2),
        Ipv4Addr::new(10, 0, 0, 255),
        Ipv4Addr::new(10, 0, 0, 50),
    ] {
        for answer in [pair.reboot(bad), pair.renew(bad), pair.select(bad)] {
            let answer = answer.unwrap();
            assert_eq!(answer.kind(), 6, "{bad}");
            assert_eq!(answer.yours(), Ipv4Addr::UNSPECIFIED);
            assert_eq!(answer.0.destination, DhcpDestination::Broadcast);
            assert_eq!(answer.option(51), None);
        }
    }
    assert_eq!(pair.server.counters().naks, 15);
}

#[test]
fn lost_journal_does_not_cost_a_client_its_address() {
    let mut pair = Pair::new();
    let free = Ipv4Addr::new(10, 0, 0, 130);
    assert_eq!(pair.renew(free).unwrap().kind(), 5);
    // The next client that believes it has it is told otherwise.
    pair.mac = MacAddress([2, 0, 0, 0, 0, 9]);
    assert_eq!(pair.reboot(free).unwrap().kind(), 6);
}

#[test]
fn other_servers_offers_and_strangers_releases_are_left_alone() {
    let mut pair = Pair::new();
    let mine = pair.obtain();
    let other = Ipv4Addr::new(10, 0, 0, 77);
    let options: &[(u8, &[u8])] = &[(50, &mine.octets()), (54, &other.octets())];
    assert!(
        pair.send(
            3,
            &Sent {
                options,
                ..Sent::default()
            }
        )
        .is_none()
    );
    pair.mac = MacAddress([2, 0, 0, 0, 0, 9]);
    let server: &[(u8, &[u8])] = &[(54, &GATEWAY.octets())];
    assert!(
        pair.send(
            7,
            &Sent {
                client: Some(mine),
                options: server,
                ..Sent::default()
            }
        )
        .is_none()
    );
    assert_eq!(pair.server.table().owner_of(mine), Some(MAC));
    pair.mac = MAC;
    pair.send(
        7,
        &Sent {
            client: Some(mine),
            options: server,
            ..Sent::default()
        },
    );
    assert_eq!(pair.server.table().owner_of(mine), None);
    assert_eq!(pair.server.counters().releases, 1);
}

#[test]
fn decline_leads_to_another_address() {
    let mut pair = Pair::new();
    let mine = pair.obtain();
    let options: &[(u8, &[u8])] = &[(50, &mine.octets()), (54, &GATEWAY.octets())];
    assert!(
        pair.send(
            4,
            &Sent {
                options,
                ..Sent::default()
            }
        )
        .is_none()
    );
    assert_ne!(pair.discover().unwrap().yours(), mine);
}

#[test]
fn inform_gets_options_and_no_lease() {
    let mut pair = Pair::new();
    let fixed = Ipv4Addr::new(10, 0, 0, 40);
    let answer = pair
        .send(
            8,
            &Sent {
                client: Some(fixed),
                ..Sent::default()
            },
        )
        .unwrap();
    assert_eq!((answer.kind(), answer.yours()), (5, Ipv4Addr::UNSPECIFIED));
    assert_eq!(answer.option(51), None);
    assert_eq!(answer.option(6), Some(GATEWAY.octets().to_vec()));
    assert_eq!(
        answer.0.destination,
        DhcpDestination::Unicast {
            mac: MAC,
            address: fixed
        }
    );
    assert_eq!(pair.server.table().leases().count(), 0);
}

#[test]
fn relay_inside_is_answered_and_outside_ignored() {
    let mut pair = Pair::new();
    let inside = Ipv4Addr::new(10, 0, 0, 200);
    let answer = pair
        .send(
            1,
            &Sent {
                relay: Some(inside),
                ..Sent::default()
            },
        )
        .unwrap();
    assert_eq!(
        answer.0.destination,
        DhcpDestination::Relay {
            mac: MAC,
            address: inside
        }
    );
    assert_eq!(answer.0.payload[24..28], inside.octets());
    let outside = Some(Ipv4Addr::new(8, 8, 8, 8));
    assert!(
        pair.send(
            1,
            &Sent {
                relay: outside,
                ..Sent::default()
            }
        )
        .is_none()
    );
}

#[test]
fn client_names_are_checked_and_never_cost_the_lease() {
    let long = [b'a'; 64];
    for (name, expected) in [
        (b"Web".as_slice(), Some("web")),
        (b"web.example.com", Some("web")),
        (b"web\0", Some("web")),
        (b"127.0.0.1 bank.example\n", Some("127")),
        (b"a\nb", None),
        (b"wpad", None),
        (b"-x", None),
        (b"\xff\xfe", None),
        (&long, None),
        (b".", None),
    ] {
        let mut pair = Pair::new();
        let mine = pair.discover().unwrap().yours();
        let options: &[(u8, &[u8])] = &[(50, &mine.octets()), (54, &GATEWAY.octets()), (12, name)];
        assert_eq!(
            pair.send(
                3,
                &Sent {
                    options,
                    ..Sent::default()
                }
            )
            .unwrap()
            .kind(),
            5
        );
        let lease = pair.server.table().leases().next().unwrap().1.clone();
        assert_eq!(
            lease.host_name.as_ref().map(HostName::as_str),
            expected,
            "{name:?}"
        );
    }
}

#[test]
fn invented_macs_run_dry_quietly_and_the_pool_comes_back() {
    let mut pair = Pair::new();
    let mine = pair.obtain();
    for number in 0..=200 {
        pair.mac = MacAddress([2, 0, 0, 0, 1, number]);
        pair.discover();
    }
    // One lease and one offer, as many as are left to others; these find them.
    assert_eq!(pair.server.table().counts().offered, 1);
    assert_eq!(pair.server.counters().link_full, 200);
    assert_eq!(pair.server.table().owner_of(mine), Some(MAC));
    pair.link = LinkId(2);
    assert!(pair.discover().is_some());
    pair.seconds += 31;
    pair.link = LinkId(1);
    pair.mac = MacAddress([2, 0, 0, 0, 2, 1]);
    assert!(pair.discover().is_some());
}

#[test]
fn shorter_term_is_granted_within_reason() {
    let mut pair = Pair::new();
    for (wish, granted) in [(10_u32, 120_u32), (600, 600), (u32::MAX, 3600)] {
        let options: &[(u8, &[u8])] = &[(51, &wish.to_be_bytes())];
        let offer = pair
            .send(
                1,
                &Sent {
                    options,
                    ..Sent::default()
                },
            )
            .unwrap();
        assert_eq!(offer.option(51), Some(granted.to_be_bytes().to_vec()));
    }
}

proptest! {
    #[test]
    fn no_bytes_harm_the_server(
        messages in proptest::collection::vec(
            (proptest::collection::vec(any::<u8>(), 0..120), 0_u8..10, any::<[u8; 4]>()), 1..20),
    ) {
        let mut pair = Pair::new();
        for (noise, kind, address) in messages {
            let options: &[(u8, &[u8])] = &[(55, &noise), (12, &noise), (61, &noise), (81, &noise), (50, &address)];
            pair.send(kind, &Sent { options, client: Some(address.into()), ..Sent::default() });
            pair.seconds += 7;
        }
    }
}
