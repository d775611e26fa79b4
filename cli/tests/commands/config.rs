//! init and config.

use expect_test::expect;

use crate::place::{CONFIG, Place};

#[test]
fn init_writes_a_good_file_once() {
    let place = Place::empty();
    place
        .run("init")
        .exits(0)
        .says("config.toml written: network vmnet8 with ");
    let first = place.config();
    place.run("config check").exits(0);
    place.run("init").is(expect![[r#"
        exit 4
        err: error: $T/config.toml is there already
        err: hint: edit it, or replace it and keep a backup: sharectl init --force
    "#]]);
    assert_eq!(place.config(), first);
}

#[test]
fn init_by_force_keeps_a_backup() {
    let place = Place::with("# old\n");
    let outcome = place.run("init --force --format json");
    assert_eq!(
        outcome.exits(0).json()["config"],
        place.path("config.toml").display().to_string()
    );
    assert_eq!(
        std::fs::read_to_string(place.path("config.toml.bak")).unwrap(),
        "# old\n"
    );
    assert!(place.config().contains("[network.vmnet8]"));
}

#[test]
fn check_tells_every_mistake_with_line_and_fix() {
    Place::with(CONFIG).run("config check").is(expect![[r#"
        exit 0
        out: $T/config.toml: good; networks: 1, guests: 1, shares: 0, static names: 1
    "#]]);
    Place::with("[network.vmnet8]\nsubnet = \"192.168.130.1/24\"\n[guest.dev]\nnetwrk = \"x\"\n")
        .run("config check")
        .is(expect![[r#"
            exit 1
            err: error: $T/config.toml:4: unknown field `netwrk`, expected one of `network`, `mac`, `address`, `host-address`, `link`, `devices`, `names`, `wildcard`, `publish`, `egress`, `egress-rules`, `rate-limit`, `mounts`, `vsock`
            err:   hint: sharectl config schema, or docs/config.toml, lists every key
            err: hint: mend $T/config.toml, then: sharectl config check
        "#]]);
    Place::with("[guest.dev]\nmac = \"xx\"\nnames = [\"a b\"]\n")
        .run("config check")
        .is(expect![[r#"
            exit 1
            err: error: $T/config.toml:2: guest "dev": mac: "xx" is not an Ethernet address like 52:54:00:12:34:56
            err: $T/config.toml:3: guest "dev": names: host name "a b" may not have ' ' there: letters, digits and inner hyphens
            err: hint: mend $T/config.toml, then: sharectl config check
        "#]]);
    Place::with("[share.d]\npath = \"/nonexistent/d\"\n")
        .run("config check")
        .is(expect![[r#"
            exit 1
            err: error: $T/config.toml:2: share "d": /nonexistent/d is not a folder on this host
            err:   hint: mkdir -p /nonexistent/d, or mount the drive, or: sharectl share rm d
            err: hint: mend $T/config.toml, then: sharectl config check
        "#]]);
    Place::empty().run("config check").is(expect![[r#"
        exit 1
        err: error: there is no configuration file $T/config.toml
        err: hint: make one: sharectl init
    "#]]);
}

#[test]
fn show_fills_in_what_is_built_in() {
    let place = Place::with(CONFIG);
    place.run("config show --origin").is(expect![[r#"
        exit 0
        out: [network.vmnet8]
        out: type = "nat"  # built in
        out: host-access = "loopback"  # built in
        out: subnet = "192.168.130.0/24"  # $T/config.toml
        out: ipv6 = "fd00:0:0:8::/64"  # $T/config.toml
        out: domain = "test"  # built in
        out: mtu = "auto"  # built in
        out: host-loopback = true  # built in
        out: lease-time = "12h"  # built in
        out:
        out: [guest.dev]
        out: network = "vmnet8"  # built in
        out: mac = "52:54:00:00:00:01"  # $T/config.toml
        out: address = "192.168.130.5"  # $T/config.toml
        out: host-address = "127.64.0.1"  # $T/config.toml
        out: devices = "one"  # built in
        out: names = ["local.test"]  # $T/config.toml
        out: publish = ["8080:80"]  # $T/config.toml
        out:
        out: [hosts]
        out: files = ["auto"]  # built in
        out: windows-address = "localhost"  # built in
        out:
        out: [hosts.static]
        out: "nas.test" = "192.168.1.5"  # $T/config.toml
    "#]]);
    let shown = place.run("config show").stdout;
    std::fs::write(place.path("again.toml"), &shown).unwrap();
    assert_eq!(place.run("config show --config again.toml").stdout, shown);
    assert_eq!(
        place.run("config show --format json").json()["guests"]["dev"]["address"],
        "192.168.130.5"
    );
}

#[test]
fn schema_and_path_are_for_programs() {
    let place = Place::with(CONFIG);
    let schema = place.run("config schema").json();
    assert!(schema["properties"]["network"].is_object(), "{schema}");
    place.run("config path").is(expect![[r#"
        exit 0
        out: $T/config.toml
    "#]]);
    place
        .run("config path --config ../x.toml")
        .exits(0)
        .says("x.toml");
    let paths = place.run("config path --format json").json();
    assert_eq!(paths["runtime"], place.path("run").display().to_string());
}
