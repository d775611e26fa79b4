//! The formats as servers write them, damaged in every way.

use super::*;
use proptest::prelude::*;

const NOW: u64 = 1_589_371_300;

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn reading(kind: SourceKind, bytes: &[u8]) -> Reading {
    let source = SourceName::parse("vm").unwrap();
    let suffix = HostName::parse("test").unwrap();
    read(bytes, kind, (&source, &suffix), at(NOW))
}

/// `name address client [until]` a fact, and how many were skipped.
fn check(kind: SourceKind, text: &str, expected: &[&str], skipped: u64) {
    let reading = reading(kind, text.as_bytes());
    let facts: Vec<String> = reading
        .facts
        .iter()
        .map(|fact| {
            let until = fact.until.map_or_else(
                || "never".to_owned(),
                |until| {
                    let since = until.duration_since(at(NOW)).unwrap();
                    format!("+{}", since.as_secs())
                },
            );
            format!("{} {} {} {until}", fact.name, fact.address, fact.from)
        })
        .collect();
    assert_eq!(facts, expected, "{text}");
    assert_eq!(reading.skipped, skipped, "{text}");
}

const VMWARE: &str = r#"# All times in this file are in UTC (GMT), not your local timezone.
lease 192.168.70.128 {
  starts 3 2020/05/13 12:00:37;
  ends 3 2020/05/13 12:30:37;
  hardware ethernet 00:0c:29:08:6c:dd;
  client-hostname "box";
}
"#;

#[test]
fn dhcpd_blocks_are_read_and_the_last_about_an_address_wins() {
    let kind = SourceKind::Dhcpd;
    check(
        kind,
        VMWARE,
        &["box.test 192.168.70.128 vm: 00:0c:29:08:6c:dd +1737"],
        0,
    );
    // 12:00:37 UTC is 1589371237.
    let fact = &reading(kind, VMWARE.as_bytes()).facts[0];
    assert_eq!(fact.since, Some(at(1_589_371_237)));

    let renewed = format!("{VMWARE}{}", VMWARE.replace("12:30:37", "13:30:37"));
    check(
        kind,
        &renewed,
        &["box.test 192.168.70.128 vm: 00:0c:29:08:6c:dd +5337"],
        0,
    );

    let another = VMWARE
        .replace("08:6c:dd", "08:6c:ee")
        .replace("\"box\"", "\"new\"");
    check(
        kind,
        &format!("{VMWARE}{another}"),
        &["new.test 192.168.70.128 vm: 00:0c:29:08:6c:ee +1737"],
        0,
    );
    // Keyed by the Ethernet address: a machine that moved has its new address only.
    let moved = VMWARE
        .replace("70.128", "70.129")
        .replace("12:30:37", "12:40:37");
    check(
        kind,
        &format!("{moved}{VMWARE}"),
        &["box.test 192.168.70.129 vm: 00:0c:29:08:6c:dd +2337"],
        0,
    );
}

#[test]
fn dhcpd_statements_of_newer_servers_are_understood_or_passed_over() {
    let kind = SourceKind::Dhcpd;
    check(
        kind,
        "server-duid \"\\000\\001{\";\nauthoring-byte-order little-endian;\n\
         lease 10.0.0.5 { starts epoch 1589371237; # Wed\n ends never; cltt 3 2020/05/13 12:00:37;\n\
         binding state active; next binding state free; rewind binding state free;\n\
         hardware ethernet 52:54:0:1:2:3; uid \"\\001RT\\000};lease\"; set vendor = \"x\";\n\
         on expiry { lease; if x { y; } } client-hostname \"a\\\"b\"; client-hostname \"web\"; }\n",
        &["web.test 10.0.0.5 vm: 52:54:00:01:02:03 never"],
        0,
    );
    for gone in ["binding state free;", "binding state backup;", "abandoned;"] {
        let text = VMWARE.replace("client-hostname", &format!("{gone} client-hostname"));
        check(kind, &text, &[], 0);
        // What was there before is over with it.
        check(kind, &format!("{VMWARE}{text}"), &[], 0);
    }
    let over = VMWARE.replace("12:30:37", "12:01:00");
    check(kind, &over, &[], 0);
    check(
        kind,
        &VMWARE.replace("  client-hostname \"box\";\n", ""),
        &[],
        0,
    );
}

#[test]
fn a_bad_block_is_skipped_and_counted_and_the_others_stand() {
    let kind = SourceKind::Dhcpd;
    let good = "box.test 192.168.70.128 vm: 00:0c:29:08:6c:dd +1737";
    for bad in [
        "lease {",
        "lease x { }",
        "lease 10.0.0.1 { starts yesterday; }",
        "lease 10.0.0.1 { ends 3 2020/13/45 99:00:00; }",
        "lease 10.0.0.1 { hardware ethernet zz:0c:29:08:6c:dd; }",
        "lease 10.0.0.1 { hardware ethernet 0:0c:29:08:6c; }",
        "lease 10.0.0.1 { client-hostname \"\\377\"; }",
        "lease 10.0.0.1 { client-hostname \"x\";",
        "lease 10.0.0.1 { on expiry { if x {",
        "lease 10.0.0.1 { hardware ethernet 52:54:00:00:00:01; client-hostname \"a b'c\"; }",
    ] {
        check(kind, &format!("{bad}\n{VMWARE}"), &[good], 1);
        check(kind, &format!("{VMWARE}{bad}\n"), &[good], 1);
    }
    // Torn while it is appended: at any byte the whole blocks count.
    let two = format!(
        "{VMWARE}{}",
        VMWARE
            .replace("dd;", "ee;")
            .replace("128", "129")
            .replace("box", "two")
    );
    for length in VMWARE.len()..two.len() {
        assert!(
            !reading(kind, &two.as_bytes()[..length]).facts.is_empty(),
            "{length}"
        );
    }
}

#[test]
fn dnsmasq_lines_are_read() {
    let kind = SourceKind::Dnsmasq;
    check(
        kind,
        "1771454360 52:54:00:59:fc:d9 10.127.143.204 name 01:52:54:00:59:fc:d9\n\
         0 52:54:00:59:fc:da 10.127.143.205 ever *\n\
         1771454360 52:54:00:59:fc:db 10.127.143.206 * *\n\
         1589371299 52:54:00:59:fc:dc 10.127.143.207 over *\n\
         1771454360 06-52:54:00:59:fc:dd 10.127.143.208 token *\n\
         duid 00:01:00:01:2a\n\
         1771454360 5897161 fd00::5 name 00:01\n",
        &[
            "name.test 10.127.143.204 vm: 52:54:00:59:fc:d9 +182083060",
            "ever.test 10.127.143.205 vm: 52:54:00:59:fc:da never",
        ],
        0,
    );
    check(
        kind,
        "soon 52:54:00:59:fc:d9 10.0.0.1 a *\n1771454360 52:54:00:59:fc:d9 10.0.0 b *\n\
         1771454360 52:54:00:59:fc 10.0.0.1 c *\n1771454360\n1771454360 52:54:00:59:fc:d9 10.0.0.2 d *\n",
        &["d.test 10.0.0.2 vm: 52:54:00:59:fc:d9 +182083060"],
        4,
    );
}

#[test]
fn libvirt_objects_are_read_and_the_newest_of_a_machine_counts() {
    let kind = SourceKind::Libvirt;
    for empty in ["", "[]", "[\n]\n", "\n"] {
        check(kind, empty, &[], 0);
    }
    let lease = |ip: &str, expiry: u64| {
        format!(
            "{{\"ip-address\": \"{ip}\", \"mac-address\": \"52:54:00:aa:bb:cc\", \
             \"hostname\": \"de}}v\", \"hostname\": \"dev\", \"client-id\": \"ff:{{\\\"\", \"expiry-time\": {expiry}}}"
        )
        .replace("\"hostname\": \"de}v\", ", "")
    };
    let (old, new) = (
        lease("192.168.122.5", NOW + 60),
        lease("192.168.122.6", NOW + 90),
    );
    check(
        kind,
        &format!("[\n{new},\n{old}\n]"),
        &["dev.test 192.168.122.6 vm: 52:54:00:aa:bb:cc +90"],
        0,
    );
    // Half of the file, one object of another kind, one without a name.
    check(
        kind,
        &format!(
            "[{{\"ip-address\": 7}}, {{\"ip-address\": \"10.0.0.1\"}}, {old}, {}",
            &new[..40]
        ),
        &["dev.test 192.168.122.5 vm: 52:54:00:aa:bb:cc +60"],
        2,
    );
}

#[test]
fn bootpd_blocks_have_their_keys_in_any_order() {
    let kind = SourceKind::Bootpd;
    check(
        kind,
        "{\n\tname=mac-vm\n\tip_address=192.168.64.3\n\thw_address=1,d:ea:d0:66:77:88\n\tidentifier=1,d:ea:d0:66:77:88\n\tlease=0x5ebbe4c4\n}\n\
         {\n\tlease=0x5ebbe4c4\n\thw_address=1,a:b:c:d:e:f\n\tip_address=192.168.64.4\n\tname=two\n}\n\
         {\n\tname=duid\n\tip_address=192.168.64.5\n\thw_address=ff,f1:f5:dd:7f:0:2\n\tlease=0x5ebbe4c4\n}\n",
        &[
            "two.test 192.168.64.4 vm: 0a:0b:0c:0d:0e:0f +800",
            "mac-vm.test 192.168.64.3 vm: 0d:ea:d0:66:77:88 +800",
        ],
        0,
    );
    check(
        kind,
        "{\nname=torn\n{\nname=a\nip_address=x\nhw_address=1,0:0:0:0:0:1\n}\n{\nname=b\nip_address=1.2.3.4\nhw_address=1,0:0:0:0:0:2\nlease=soon\n}\n{\nname=c",
        &[],
        4,
    );
}

#[test]
fn what_is_too_much_is_cut_and_counted() {
    let mut text = String::new();
    for number in 0..9000_u32 {
        let [_, _, high, low] = number.to_be_bytes();
        text.push_str(&format!(
            "0 52:54:00:00:{high:x}:{low:x} 10.0.{high}.{low} n{number} *\n"
        ));
    }
    let reading = reading(SourceKind::Dnsmasq, text.as_bytes());
    assert_eq!(reading.facts.len(), crate::sources::MOST_FACTS);
    assert_eq!(reading.skipped, 9000 - crate::sources::MOST_FACTS as u64);
}

/// Whatever the bytes: no panic, names below the suffix only, nothing that is over.
fn holds_for(kind: SourceKind, bytes: &[u8]) {
    let reading = reading(kind, bytes);
    let suffix = HostName::parse("test").unwrap();
    for fact in &reading.facts {
        assert!(
            fact.name.is_within(&suffix) && fact.name != suffix,
            "{fact:?}"
        );
        assert!(fact.until.is_none_or(|until| until > at(NOW)), "{fact:?}");
    }
    let clients: std::collections::BTreeSet<_> = reading
        .facts
        .iter()
        .map(|fact| fact.from.to_string())
        .collect();
    assert_eq!(clients.len(), reading.facts.len(), "one lease a client");
}

const KINDS: [SourceKind; 4] = [
    SourceKind::Dhcpd,
    SourceKind::Dnsmasq,
    SourceKind::Libvirt,
    SourceKind::Bootpd,
];

const SEEDS: [&str; 4] = [
    VMWARE,
    "1771454360 52:54:00:59:fc:d9 10.127.143.204 name 01:52\n0 52:54:00:59:fc:da 10.0.0.1 b *\n",
    "[{\"ip-address\": \"10.0.0.1\", \"mac-address\": \"52:54:00:aa:bb:cc\", \"hostname\": \"x\", \"expiry-time\": 1771454360}]",
    "{\nname=a\nip_address=10.0.0.1\nhw_address=1,0:0:0:0:0:1\nlease=0x7fffffff\n}\n",
];

proptest! {
    #[test]
    fn no_bytes_break_a_reader(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        for kind in KINDS {
            holds_for(kind, &bytes);
        }
    }

    #[test]
    fn no_damage_to_a_good_file_breaks_its_reader(
        which in 0usize..4,
        cuts in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0usize..6), 0..12),
        copies in 1usize..4,
    ) {
        let mut bytes = SEEDS[which].repeat(copies).into_bytes();
        for (at, byte, what) in cuts {
            if bytes.is_empty() {
                break;
            }
            let at = at.index(bytes.len());
            match what {
                0 => drop(bytes.remove(at)),
                1 => bytes.insert(at, byte),
                2 => bytes.truncate(at),
                3 => bytes.insert(at, b"{}\";#\n\\["[usize::from(byte) % 8]),
                4 => {
                    let copy = bytes[at..].to_vec();
                    bytes.extend(copy);
                }
                _ => bytes[at] = byte,
            }
        }
        for kind in KINDS {
            holds_for(kind, &bytes);
        }
    }
}
