//! network: flows, policy, capture.

use control::paths::Daemon;
use expect_test::expect;

use crate::fake::{Fake, Script};
use crate::place::{CONFIG, Place};

fn up() -> (Place, Fake) {
    let place = Place::with(CONFIG);
    let script = Script {
        plugged: true,
        ..Script::default()
    };
    let netd = Fake::start(&place, Daemon::Netd, script);
    (place, netd)
}

#[test]
fn flows_are_a_table_or_json() {
    let (place, _netd) = up();
    place.run("network flows").is(expect![[r#"
        exit 0
        out: PROTO  DIR  GUEST  FROM                 REMOTE         NAME          STATE  AGE    IDLE  SENT    RECEIVED  PACKETS  RETRANS
        out: tcp    out  dev    192.168.130.5:40000  192.0.2.1:443  good.example  open   1m15s  3s    1.5 kB  2.5 MB    4/50     1
    "#]]);
    let flows = place.run("network flows vmnet8 --guest dev --json").json();
    assert_eq!(flows[0]["retransmits"], 1);
}

#[test]
fn a_flow_is_asked_about_and_the_exit_code_answers() {
    let (place, _netd) = up();
    place
        .run("network policy dev good.example:443")
        .is(expect![[r#"
            exit 0
            out: allow: dev to good.example:443/tcp (now 192.0.2.1): guest dev has the rule "allow good.example"
        "#]]);
    place
        .run("network policy dev evil.example:443/udp")
        .exits(1);
    place
        .run("network policy dev good.example")
        .exits(2)
        .says("DESTINATION:PORT");
    place
        .run("network policy dve good.example:443")
        .exits(1)
        .says("did you mean \"dev\"?");
}

#[test]
fn a_capture_is_written_as_it_comes() {
    let (place, netd) = up();
    let file = place.path("x.pcapng");
    let arguments = [
        "network",
        "capture",
        "vmnet8",
        "-w",
        file.to_str().unwrap(),
        "--filter",
        "tcp port 443",
    ];
    place.outcome(place.sharectl().args(arguments)).exits(0);
    assert_eq!(std::fs::read(&file).unwrap(), b"two parts");
    assert_eq!(netd.asked(), ["capture \"tcp and port 443\""]);
    place.run("network capture vmnet8 -w -").is(expect![[r#"
            exit 0
            out: two parts
        "#]]);
    place
        .run("network capture vmnet8 -w /does/not/exist")
        .exits(1)
        .says("choose another file");
    place
        .run("network capture vmnet8 --filter sctp")
        .exits(2)
        .says("write host ADDRESS");
}
