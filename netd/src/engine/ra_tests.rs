//! Golden bytes of advertisements, and their times on a virtual clock.

use super::*;
use proptest::prelude::*;

const MAC: MacAddress = MacAddress([0x52, 0x55, 10, 0, 0, 1]);

fn ends() -> Ends {
    Ends {
        source_mac: MAC,
        source: "fe80::5055:aff:fe00:1".parse().unwrap(),
        destination_mac: ALL_NODES.1,
        destination: ALL_NODES.0,
    }
}

fn advertisement(prefix: &str) -> Advertisement {
    let prefix: Ipv6Net = prefix.parse().unwrap();
    Advertisement {
        prefix,
        is_router: true,
        dhcp: true,
        mtu: Some(1500),
        dns: (u128::from(prefix.network()) | 1).into(),
        search: vec![HostName::parse("test").unwrap()],
    }
}

fn written(now: Option<&Advertisement>, before: &[Advertisement]) -> Vec<u8> {
    let mut frame = vec![7];
    write(&mut frame, &ends(), now, before);
    frame
}

fn hex(text: &str) -> Vec<u8> {
    let digits: String = text.chars().filter(|c| !c.is_whitespace()).collect();
    (0..digits.len() / 2)
        .map(|at| u8::from_str_radix(&digits[2 * at..2 * at + 2], 16).unwrap())
        .collect()
}

/// The sum of pseudo header and message, with the checksum in it: zero.
fn sum(frame: &[u8]) -> u16 {
    let mut summed = frame[22..54].to_vec();
    summed.extend_from_slice(&[0, 0, frame[18], frame[19], 0, 0, 0, 58]);
    summed.extend_from_slice(&frame[54..]);
    checksum(&summed)
}

#[test]
fn every_byte_of_an_advertisement() {
    let frame = written(Some(&advertisement("fd00:1:2:3::/64")), &[]);
    let expected = hex("333300000001 5255 0a000001 86dd
         60000000 0068 3a ff
         fe80000000000000 50550afffe000001
         ff02000000000000 0000000000000001
         8600 0000 40 c0 1518 00000000 00000000
         0101 52550a000001
         0501 0000 000005dc
         0304 40 c0 00015180 00003840 00000000 fd000001000200030000000000000000
         1903 0000 00001518 fd000001000200030000000000000001
         1f02 0000 00001518 0474657374000000");
    let mut without_sum = frame.clone();
    without_sum[56..58].fill(0);
    assert_eq!(without_sum, expected);
    assert_eq!(sum(&frame), 0);
    assert_eq!(
        frame.len() - 54,
        usize::from(frame[18]) << 8 | usize::from(frame[19])
    );
}

#[test]
fn host_only_network_is_no_way_out_and_small_mtu_is_not_told() {
    let now = Advertisement {
        is_router: false,
        mtu: Some(576),
        search: Vec::new(),
        ..advertisement("fd00:1:2:3::/64")
    };
    let frame = written(Some(&now), &[]);
    assert_eq!(frame[60..62], [0, 0], "router lifetime");
    // Our MAC, prefix, resolver.
    assert_eq!(frame.len(), 54 + 16 + 8 + 32 + 24);
}

#[test]
fn old_prefix_is_taken_back_before_the_new_and_the_last_leaves_no_router() {
    let (old, new) = (advertisement("fd00:a::/64"), advertisement("fd00:b::/64"));
    let frame = written(Some(&new), std::slice::from_ref(&old));
    let place = |prefix: &Advertisement, lifetimes: &[u8]| {
        let option = [
            &[3, 4, 64, 0xc0],
            lifetimes,
            &[0; 4],
            &prefix.prefix.network().octets(),
        ]
        .concat();
        frame
            .windows(option.len())
            .position(|window| *window == *option)
    };
    let gone = place(&old, &[0; 8]).unwrap();
    let there = place(&new, &hex("00015180 00003840")).unwrap();
    assert!(gone < there);
    let farewell = written(None, std::slice::from_ref(&old));
    assert_eq!(farewell[59..62], [0, 0, 0], "flags and router lifetime");
    assert_eq!((sum(&frame), sum(&farewell)), (0, 0));
}

fn base() -> Instant {
    #[expect(
        clippy::disallowed_methods,
        reason = "a virtual clock needs one real start"
    )]
    Instant::now()
}

#[test]
fn three_follow_a_start_then_one_in_half_an_hour_and_none_without_a_link() {
    let start = base();
    let mut schedule = Schedule::default();
    assert_eq!(schedule.poll_timeout(), None);
    schedule.announce(start);
    assert_eq!(schedule.poll_timeout(), None, "nobody listens");
    schedule.link_up(start);
    let mut times = Vec::new();
    for random in [0, 1, 0, u32::MAX, 0] {
        let due = schedule.poll_timeout().unwrap();
        assert!(!schedule.take_due(due - Duration::from_millis(1), random));
        assert!(schedule.take_due(due, random));
        times.push((due - start).as_secs());
    }
    assert_eq!(times, [0, 16, 32, 32 + 1350, 32 + 1350 + 1799]);
    schedule.link_down();
    assert_eq!(schedule.poll_timeout(), None);
}

#[test]
fn stations_are_answered_alone_until_it_is_too_often() {
    let start = base();
    let mut schedule = Schedule::default();
    schedule.link_up(start);
    assert!(schedule.take_due(start, 0));
    let station: Ipv6Addr = "fe80::7".parse().unwrap();
    let soon = start + Duration::from_millis(100);
    for _ in 0..ANSWERS_A_SECOND {
        assert_eq!(schedule.solicited(station, soon), Answer::Alone);
    }
    for _ in 0..1000 {
        assert_eq!(schedule.solicited(station, soon), Answer::WithAll);
    }
    assert_eq!(schedule.poll_timeout(), Some(start + MULTICAST_GAP));
    let later = start + Duration::from_secs(2);
    assert_eq!(schedule.solicited(station, later), Answer::Alone);
    assert_eq!(
        schedule.solicited(Ipv6Addr::UNSPECIFIED, later),
        Answer::WithAll
    );
}

#[test]
fn solicitations_are_checked() {
    let station: Ipv6Addr = "fe80::7".parse().unwrap();
    let with_mac = [133, 0, 0, 0, 0, 0, 0, 0, 1, 1, 2, 0, 0, 0, 0, 9];
    for (source, hops, message, expected) in [
        (station, 255, with_mac.as_slice(), true),
        (station, 255, &with_mac[..8], true),
        (Ipv6Addr::UNSPECIFIED, 255, &with_mac[..8], true),
        (Ipv6Addr::UNSPECIFIED, 255, &with_mac, false),
        (station, 64, &with_mac, false),
        (station, 255, &with_mac[..12], false),
        (station, 255, &[133, 1, 0, 0, 0, 0, 0, 0], false),
        (station, 255, &[134, 0, 0, 0, 0, 0, 0, 0], false),
        (
            station,
            255,
            &[133, 0, 0, 0, 0, 0, 0, 0, 14, 0, 0, 0, 0, 0, 0, 0],
            false,
        ),
    ] {
        assert_eq!(
            is_solicitation(source, hops, message),
            expected,
            "{message:?}"
        );
    }
}

proptest! {
    #[test]
    fn no_bytes_harm_the_reader(bytes in proptest::collection::vec(any::<u8>(), 0..80), hops: u8) {
        let valid = is_solicitation(Ipv6Addr::UNSPECIFIED, hops, &bytes);
        prop_assert!(!valid || (hops == 255 && bytes[0] == 133));
    }
}
