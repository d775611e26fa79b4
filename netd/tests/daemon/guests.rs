//! What a guest gets: an address, names, answers from outside; and what survives restarts.

use std::net::Ipv4Addr;
use std::os::unix::net::UnixStream;
use std::str::FromStr;

use control::api::GuestStatus;
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};

use crate::daemon::{Netd, wait_for};
use crate::fake_guest::FakeGuest;
use crate::upstream::Upstream;

const CONFIG: &str = r#"
[network.vmnet8]
type = "nat"
subnet = "10.77.1.0/24"
dns = ["UPSTREAM"]

[guest.dev]
mac = "52:54:00:00:00:01"
names = ["local.test"]

[guest.web]
mac = "52:54:00:00:00:02"
address = "10.77.1.9"
"#;

pub(crate) const DEV: [u8; 6] = [0x52, 0x54, 0, 0, 0, 1];
const STRANGER: [u8; 6] = [0x52, 0x54, 0, 0, 0, 0x99];

fn config(upstream: &str) -> String {
    CONFIG.replace("UPSTREAM", upstream)
}

fn plug(netd: &Netd, path: &str, mac: [u8; 6]) -> FakeGuest {
    let path = netd.paths().runtime.join(path);
    FakeGuest::new(UnixStream::connect(path).unwrap(), mac)
}

pub(crate) fn query(id: u16, name: &str, kind: RecordType, edns: bool) -> Vec<u8> {
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_str(name).unwrap(), kind));
    if edns {
        let mut edns = Edns::new();
        edns.set_max_payload(1232);
        message.set_edns(edns);
    }
    message.to_vec().unwrap()
}

fn addresses(answer: &[u8]) -> Vec<Ipv4Addr> {
    let message = Message::from_vec(answer).unwrap();
    let datas = message.answers.iter().map(|record| &record.data);
    datas
        .filter_map(|data| {
            if let RData::A(a) = data {
                Some(a.0)
            } else {
                None
            }
        })
        .collect()
}

#[test]
fn guest_gets_address_names_and_the_outside() {
    let upstream = Upstream::start();
    let netd = Netd::start(&config(&upstream.address.to_string()));
    let mut guest = plug(&netd, "guest/dev/link.sock", DEV);
    let mine = guest.obtain_address();
    assert_eq!(Some(mine), netd.guest("dev").address);
    assert_eq!(guest.gateway, Some(Ipv4Addr::new(10, 77, 1, 1)));
    assert_eq!(guest.resolvers, [Ipv4Addr::new(10, 77, 1, 1)]);

    for (id, name, expected) in [
        (1, "dev.test.", mine),
        (2, "local.test.", mine),
        (3, "WEB.Test.", Ipv4Addr::new(10, 77, 1, 9)),
        (4, "gateway.internal.", Ipv4Addr::new(10, 77, 1, 1)),
        (5, "host.internal.", Ipv4Addr::new(10, 77, 1, 254)),
        (6, "web.", Ipv4Addr::new(10, 77, 1, 9)),
    ] {
        let answer = guest.ask_udp(&query(id, name, RecordType::A, id % 2 == 0));
        assert_eq!(addresses(&answer), [expected], "{name}");
    }
    let reverse = guest.ask_udp(&query(7, "9.1.77.10.in-addr.arpa.", RecordType::PTR, false));
    let reverse = Message::from_vec(&reverse).unwrap();
    assert_eq!(reverse.answers[0].data.to_string(), "web.test.");
    for (id, name, kind, code) in [
        (8, "web.test.", RecordType::TXT, ResponseCode::NoError),
        (9, "nobody.test.", RecordType::A, ResponseCode::NXDomain),
        (
            10,
            "99.1.77.10.in-addr.arpa.",
            RecordType::PTR,
            ResponseCode::NXDomain,
        ),
    ] {
        let answer = Message::from_vec(&guest.ask_udp(&query(id, name, kind, true))).unwrap();
        assert_eq!(answer.metadata.response_code, code, "{name} {kind}");
        assert!(answer.answers.is_empty() && answer.metadata.authoritative);
        assert_eq!(answer.authorities.len(), 1, "{name}: an SOA says how long");
    }
    let v6 = Message::from_vec(&guest.ask_udp(&query(11, "web.test.", RecordType::AAAA, true)));
    assert!(
        v6.unwrap().answers.is_empty(),
        "an address that nobody took"
    );
    assert_eq!(upstream.asked(), 0, "what we know must not leak out");

    let outside = [Ipv4Addr::new(192, 0, 2, 7)];
    assert_eq!(
        addresses(&guest.ask_udp(&query(20, "example.com.", RecordType::A, true))),
        outside
    );
    assert_eq!(
        addresses(&guest.ask_udp(&query(21, "EXAMPLE.com.", RecordType::A, true))),
        outside
    );
    // (It is asked once more where its answer is late.)
    assert!(upstream.asked() > 0);
    let metrics = netd.text("/metrics");
    let cached = "sharectl_netd_dns_cached_total{network=\"vmnet8\"} 1\n";
    assert!(
        metrics.contains(cached),
        "the second answer is the cache's: {metrics}"
    );
    let long =
        Message::from_vec(&guest.ask_udp(&query(22, "long.example.", RecordType::TXT, true)))
            .unwrap();
    assert!(long.metadata.truncation && long.answers.is_empty());
    let whole =
        Message::from_vec(&guest.ask_tcp(&query(23, "long.example.", RecordType::TXT, true)))
            .unwrap();
    assert_eq!(whole.metadata.id, 23);
    assert!(whole.answers[0].data.to_string().len() >= 3_000);
    assert_eq!(
        addresses(&guest.ask_tcp(&query(24, "web.test.", RecordType::A, false))),
        [Ipv4Addr::new(10, 77, 1, 9)]
    );
    netd.assert_well();
}

#[test]
fn nobody_to_ask_is_server_failure_before_a_client_gives_up() {
    // Port 9 of an address of ours where nobody listens, and one that is silent.
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let upstreams = format!("127.0.0.1:9\", \"{}", silent.local_addr().unwrap());
    let netd = Netd::start(&config(&upstreams));
    let mut guest = plug(&netd, "guest/dev/link.sock", DEV);
    guest.obtain_address();
    let asked = std::time::Instant::now();
    let answer =
        Message::from_vec(&guest.ask_udp(&query(1, "example.com.", RecordType::A, true))).unwrap();
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    assert!(
        asked.elapsed() < std::time::Duration::from_millis(4_500),
        "{:?}",
        asked.elapsed()
    );
}

#[test]
fn kill_9_loses_no_lease() {
    let mut netd = Netd::start(&config("127.0.0.1:9"));
    let mut known = plug(&netd, "guest/dev/link.sock", DEV);
    let mut stranger = plug(&netd, "network/vmnet8.sock", STRANGER);
    let (first, second) = (known.obtain_address(), stranger.obtain_address());
    assert_ne!(first, second);
    netd.kill();
    netd.launch();
    let guests: Vec<GuestStatus> = netd.get("/v1/guests").unwrap();
    let lease_of = |address| {
        guests
            .iter()
            .find(|guest| guest.address == Some(address) && guest.lease_until.is_some())
    };
    assert!(
        lease_of(first).is_some() && lease_of(second).is_some(),
        "{guests:?}"
    );
    // The dead one's sockets were replaced; the stranger gets what it had.
    let mut again = plug(&netd, "network/vmnet8.sock", STRANGER);
    assert_eq!(again.obtain_address(), second);
    netd.assert_well();
}

#[test]
fn guest_is_known_by_its_link_whatever_its_mac() {
    let netd = Netd::start(&config("127.0.0.1:9"));
    let mut guest = plug(&netd, "guest/web/link.sock", STRANGER);
    // The reserved address is the configured MAC's alone; names and ports follow the guest to this one.
    let address = guest.obtain_address();
    assert_ne!(address, Ipv4Addr::new(10, 77, 1, 9));
    let status = netd.guest("web");
    assert_eq!((status.mac.0, status.address), (STRANGER, Some(address)));
    assert_eq!(status.links.len(), 1);
}

#[test]
fn events_tell_the_story_of_a_guest() {
    let netd = Netd::start(&config("127.0.0.1:9"));
    let mut guest = plug(&netd, "guest/dev/link.sock", DEV);
    guest.obtain_address();
    drop(guest);
    let kinds = wait_for("link-down", || {
        let kinds = netd.event_kinds();
        kinds.contains(&"link-down".to_owned()).then_some(kinds)
    });
    let expected = [
        "started",
        "link-up",
        "lease-bound",
        "names-changed",
        "link-down",
    ];
    assert_eq!(kinds, expected);
    let events = netd.events();
    assert!(
        events
            .iter()
            .zip(1..)
            .all(|(event, number)| event.seq == number)
    );
    let metrics = netd.text("/metrics");
    assert!(
        metrics.contains("sharectl_netd_dhcp_acks_total{network=\"vmnet8\"} 1\n"),
        "{metrics}"
    );
    assert!(
        metrics.contains("sharectl_netd_leases_bound{network=\"vmnet8\"} 1\n"),
        "{metrics}"
    );
}
