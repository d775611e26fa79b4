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
        out: GUEST  SPEC     LISTENING  PROBLEM
        out: dev    8080:80  -          -
        err: warning: netd is not running; this is what the configuration says
    "#]]);
    let _netd = Fake::start(&place, Daemon::Netd, Script::default());
    place.run("port ls").is(expect![[r#"
        exit 0
        out: GUEST  SPEC     LISTENING        PROBLEM
        out: dev    8080:80  127.64.0.1:8080  -
    "#]]);
}
