//! port: publish, unpublish, ls.

use control::failure::Failure;
use control::paths::Daemon;
use expect_test::expect;

use crate::fake::{Fake, Script};
use crate::place::{CONFIG, Place};

#[test]
fn published_port_is_tried_first_and_then_written() {
    let place = Place::with(CONFIG);
    let netd = Fake::start(&place, Daemon::Netd, Script::default());
    place
        .run("port publish dev 127.0.0.1:5353:53/udp")
        .is(expect![[r#"
            exit 0
            out: 127.64.0.1:8080 -> dev:53/udp
        "#]]);
    assert_eq!(
        netd.asked(),
        ["publish dev 127.0.0.1:5353:53/udp", "reload"]
    );
    let expected = CONFIG.replace("[\"8080:80\"]", "[\"8080:80\", \"127.0.0.1:5353:53/udp\"]");
    assert_eq!(place.config(), expected);
}

#[test]
fn port_that_netd_refuses_is_not_written() {
    let place = Place::with(CONFIG);
    let refused = Failure::conflict("127.0.0.1:9000 is held by nginx, process 812")
        .with_hint("stop it, or choose another port");
    let _netd = Fake::start(
        &place,
        Daemon::Netd,
        Script {
            port_refused: Some(refused),
            ..Script::default()
        },
    );
    place.run("port publish dev 9000:90").is(expect![[r#"
        exit 4
        err: error: 127.0.0.1:9000 is held by nginx, process 812
        err: hint: stop it, or choose another port
    "#]]);
    place.run("port publish dev 8080:80").exits(4);
    assert_eq!(place.config(), CONFIG);
}

#[test]
fn temporary_port_is_not_written() {
    let place = Place::with(CONFIG);
    place.run("port publish dev 9000:90 --temporary").exits(3);
    let netd = Fake::start(&place, Daemon::Netd, Script::default());
    place.run("port publish dev 9000:90 --temporary").exits(0);
    assert_eq!(netd.asked(), ["publish dev 9000:90"]);
    assert_eq!(place.config(), CONFIG);
}

#[test]
fn without_netd_the_port_waits_in_the_file() {
    let place = Place::with(CONFIG);
    place.run("port publish dev 9000:90").is(expect![[r#"
        exit 0
        out: 9000:90 -> dev, once netd runs
        err: note: netd is not running; it takes effect at: sharectl up
    "#]]);
    assert!(place.config().contains("[\"8080:80\", \"9000:90\"]"));
    place.run("port unpublish dev 9000:90").is(expect![[r#"
        exit 0
        out: 9000:90 of dev unpublished
        err: note: netd is not running; it takes effect at: sharectl up
    "#]]);
    assert_eq!(place.config(), CONFIG);
}

#[test]
fn bad_specs_and_unknown_ones_are_told_apart() {
    let place = Place::with(CONFIG);
    place.run("port publish dev 99999").is(expect![[r#"
        exit 2
        err: error: invalid value '99999' for '<SPEC>': "99999" in "99999" is not a port between 1 and 65535, nor a range such as 8000-8010
        err:
        err: For more information, try '--help'.
    "#]]);
    place
        .run("port publish dve 9000:90")
        .exits(1)
        .says("did you mean \"dev\"?");
    place.run("port unpublish dev 9:9").is(expect![[r#"
        exit 1
        err: error: guest "dev" does not publish 9:9
        err: hint: it publishes 8080:80
    "#]]);
}

#[test]
fn unpublished_port_leaves_file_and_netd() {
    let place = Place::with(CONFIG);
    let netd = Fake::start(&place, Daemon::Netd, Script::default());
    place.run("port unpublish dev 8080:80/tcp").exits(0);
    assert_eq!(netd.asked(), ["unpublish dev 8080:80", "reload"]);
    assert_eq!(
        place.config(),
        CONFIG.replace("publish = [\"8080:80\"]\n", "")
    );
}

#[test]
fn list_says_where_ports_listen() {
    let place = Place::with(CONFIG);
    place.run("port ls").is(expect![[r#"
        exit 0
        out: GUEST  SPEC     LISTENING  ANSWER  PROBLEM
        out: dev    8080:80  -          -       -
        err: warning: netd is not running; this is what the configuration says
    "#]]);
    let _netd = Fake::start(&place, Daemon::Netd, Script::default());
    place.run("port ls").is(expect![[r#"
        exit 0
        out: GUEST  SPEC     LISTENING        ANSWER  PROBLEM
        out: dev    8080:80  127.64.0.1:8080  serves  -
    "#]]);
}

#[test]
fn a_free_port_and_a_unix_socket_are_published() {
    let place = Place::with(CONFIG);
    let netd = Fake::start(&place, Daemon::Netd, Script::default());
    place.run("port publish dev :80").exits(0);
    place.run("port publish dev unix:/run/d.sock:2375").exits(0);
    assert_eq!(
        netd.asked(),
        [
            "publish dev :80",
            "reload",
            "publish dev unix:/run/d.sock:2375",
            "reload"
        ]
    );
    place
        .run("port publish dev 8000-8002:80")
        .exits(2)
        .says("any free host port: \":80\"");
}

#[test]
fn a_service_is_offered_and_withdrawn() {
    let place = Place::with(CONFIG);
    let netd = Fake::start(&place, Daemon::Netd, Script::default());
    place
        .run("port offer 2375 unix:/run/docker.sock")
        .is(expect![[r#"
        exit 0
        out: host.internal:2375 on vmnet8 -> unix:/run/docker.sock
    "#]]);
    assert!(
        place.config().contains("2375 = \"unix:/run/docker.sock\""),
        "{}",
        place.config()
    );
    place.run("port offer 2375 127.0.0.1:80").is(expect![[r#"
        exit 4
        err: error: port 2375 of host.internal on vmnet8 leads to unix:/run/docker.sock already
        err: hint: take it away first: sharectl port withdraw 2375 --network vmnet8
    "#]]);
    place.run("port withdraw 2376").is(expect![[r#"
        exit 1
        err: error: network vmnet8 offers nothing on port 2376
        err: hint: it offers 2375
    "#]]);
    place.run("port withdraw 2375").exits(0);
    assert!(!place.config().contains("2375"), "{}", place.config());
    assert_eq!(netd.asked(), ["reload", "reload"]);
    place.run("port offer 80 localhost:80").exits(2);
    place
        .run("port offer 80 127.0.0.1:80 --network other")
        .exits(1);
}

#[test]
fn a_port_is_explained_with_and_without_netd() {
    let place = Place::with(CONFIG);
    place
        .run("port explain 8080")
        .says("sharectl up")
        .says("dev publishes 8080:80, to its port 80");
    let netd = Fake::start(&place, Daemon::Netd, Script::default());
    let told = place.run("port explain 8080");
    told.exits(0);
    told.says("127.64.0.1:8080 held by netd")
        .says("it takes connections");
    drop(netd);
    // Somebody else's port is told with its owner, by the kernel alone.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let told = place.run(&format!("port explain {port}"));
    told.exits(0);
    told.says(&format!("127.0.0.1:{port} is"));
    told.says(&format!("(pid {}", std::process::id()));
    told.says("no guest publishes it");
    let nobody = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = nobody.local_addr().unwrap().port();
    drop(nobody);
    place
        .run(&format!("port explain {port}/udp"))
        .says(&format!("sharectl port publish dev {port}:{port}/udp"));
    place.run("port explain 0").exits(2);
    place.run("port explain 80/sctp").exits(2);
}
