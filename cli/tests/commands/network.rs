//! network: ls, inspect; describe.

use control::paths::Daemon;
use expect_test::expect;

use crate::fake::{Fake, Script};
use crate::place::{CONFIG, Place};

#[test]
fn list_has_the_columns_that_were_agreed() {
    let place = Place::with(&format!(
        "{CONFIG}[network.vmnet1]\ntype = \"host-only\"\nsubnet = \"10.9.0.0/24\"\n"
    ));
    let config = place
        .config()
        .replace("[guest.dev]\n", "[guest.dev]\nnetwork = \"vmnet8\"\n");
    std::fs::write(place.path("config.toml"), config).unwrap();
    place.run("network ls").is(expect![[r#"
        exit 0
        out: NAME    TYPE       DHCP  SUBNET            GATEWAY        GUESTS
        out: vmnet1  host-only  true  10.9.0.0/24       10.9.0.1       0
        out: vmnet8  nat        true  192.168.130.0/24  192.168.130.1  0
        err: warning: netd is not running; this is what the configuration says
    "#]]);
    let _netd = Fake::start(
        &place,
        Daemon::Netd,
        Script {
            plugged: true,
            ..Script::default()
        },
    );
    place.run("network ls").is(expect![[r#"
        exit 0
        out: NAME    TYPE  DHCP  SUBNET            GATEWAY        GUESTS
        out: vmnet8  nat   true  192.168.130.0/24  192.168.130.1  1
    "#]]);
    let networks = place.run("network ls --format json").json();
    assert_eq!(
        (&networks[0]["type"], &networks[0]["ipv6"]),
        (&"nat".into(), &"fd00:0:0:8::/64".into())
    );
}

#[test]
fn inspection_joins_configuration_and_what_runs() {
    let place = Place::with(CONFIG);
    place
        .run("network inspect vmnet9")
        .exits(1)
        .says("did you mean \"vmnet8\"?");
    let down = place.run("network inspect vmnet8").exits(0).json();
    assert_eq!(down["configuration"]["ipv6"], "fd00:0:0:8::/64");
    assert_eq!(
        (&down["running"], &down["guests"][0]["name"]),
        (&false.into(), &"dev".into())
    );
    let _netd = Fake::start(
        &place,
        Daemon::Netd,
        Script {
            plugged: true,
            ..Script::default()
        },
    );
    let up = place.run("network inspect vmnet8").json();
    assert_eq!(
        (&up["running"], &up["network"]["guests"]),
        (&true.into(), &1.into())
    );
}

#[test]
fn describe_knows_every_kind_of_name() {
    let place = Place::with(&format!("{CONFIG}[share.src]\npath = \"/tmp\"\n"));
    place.run("describe dev").is(expect![[r#"
        exit 0
        out: guest          dev
        out: network        vmnet8
        out: mac            52:54:00:00:00:01
        out: address        192.168.130.5
        out: IPv6 address   -
        out: lease until    -
        out: names          dev.test,local.test
        out: on the host    127.64.0.1
        out: plugged in by  -
        out: reserved       192.168.130.5
        out: port           8080:80 at -
        out: share          src at /tmp: not served
        out: sockets        $T/run/guest/dev
        err: warning: netd is not running; this is what the configuration says
        err: warning: sharefs is not running; this is what the configuration says
    "#]]);
    place.run("describe src").is(expect![[r#"
        exit 0
        out: share          src
        out: folder         /tmp
        out: at             /tmp
        out: mode           read and write
        out: guests         all
        out: state          not served
        out: in the guest   mount --bind /run/sharectl/src /tmp
        err: warning: sharefs is not running; this is what the configuration says
    "#]]);
    place.run("describe vmnet8").is(expect![[r#"
        exit 0
        out: network        vmnet8
        out: type           nat
        out: subnet         192.168.130.0/24
        out: gateway        192.168.130.1
        out: host.internal  192.168.130.254
        out: dhcp pool      192.168.130.128 to 192.168.130.253
        out: ipv6           fd00:0:0:8::/64
        out: domain         test
        out: mtu            auto
        out: guests         dev
        out: resolvers      -
        out: socket         $T/run/network/vmnet8.sock
        out: tcp links      -
        err: warning: netd is not running; this is what the configuration says
    "#]]);
    place.run("describe nas.test").is(expect![[r#"
        exit 0
        out: name           nas.test
        out: address        192.168.1.5
        out: source         static
        out: written to     -
        out: left out of    -
        err: warning: hostsync is not running; this is what the configuration says
    "#]]);
    place
        .run("describe local.test -q")
        .exits(0)
        .says("guest          dev");
    place.run("describe deb").is(expect![[r#"
        exit 1
        err: error: no guest, share, network or name "deb" in $T/config.toml
        err: hint: did you mean "dev"?
    "#]]);
    let things = place.run("describe dev --format json").json();
    assert_eq!(things[0]["kind"], "guest");
}

#[test]
fn describe_shows_what_runs() {
    let place = Place::with(&format!("{CONFIG}[share.src]\npath = \"/tmp\"\n"));
    let _netd = Fake::start(
        &place,
        Daemon::Netd,
        Script {
            plugged: true,
            ..Script::default()
        },
    );
    let _sharefs = Fake::start(&place, Daemon::Sharefs, Script::default());
    place.run("describe dev").is(expect![[r#"
        exit 0
        out: guest          dev
        out: network        vmnet8
        out: mac            52:54:00:00:00:01
        out: address        192.168.130.5
        out: IPv6 address   -
        out: lease until    2026-11-23T08:00:00.000Z
        out: names          dev.test,local.test
        out: on the host    127.64.0.1
        out: plugged in by  stream
        out: reserved       192.168.130.5
        out: traffic        1000 bytes in 10 frames from it, 2000 bytes in 20 frames to it, 0 dropped
        out: port           8080:80 at 127.64.0.1:8080
        out: share          src at /home/ann/src: ok
        out: sockets        $T/run/guest/dev
    "#]]);
    place.run("describe src").is(expect![[r#"
        exit 0
        out: share          src
        out: folder         /tmp
        out: at             /tmp
        out: mode           read and write
        out: guests         all
        out: state          ok
        out: in the guest   mount --bind /run/sharectl/src /tmp
        out: device         dev: connected, 12 requests, 0 malformed, $T/run/guest/dev/fs-src.sock
    "#]]);
}

#[test]
fn a_network_is_created_on_a_free_subnet_and_removed() {
    let place = Place::with(CONFIG);
    place
        .run("network create vmnet8")
        .exits(4)
        .says("network \"vmnet8\" is in");
    let before = place.config();
    place
        .run("network create lab --subnet 10.255.254.0/24 --domain lab.test --dry-run")
        .is(expect![[r#"
            exit 0
            out: --- $T/config.toml
            out: +++ $T/config.toml
            out: @@ -4,6 +4,10 @@
            out:  subnet = "192.168.130.0/24"
            out:  ipv6 = "fd00:0:0:8::/64"
            out:
            out: +[network.lab]
            out: +subnet = "10.255.254.0/24"
            out: +domain = "lab.test"
            out: +
            out:  [guest.dev]
            out:  mac = "52:54:00:00:00:01"
            out:  address = "192.168.130.5"
            out: netd is not running; it takes effect at: sharectl up
        "#]]);
    assert_eq!(place.config(), before);
    place
        .run("network create vmnet1 --subnet 10.255.254.0/24")
        .is(expect![[r#"
            exit 0
            out: network vmnet1 added: host-only, 10.255.254.0/24, gateway 10.255.254.1
            err: note: netd is not running; it takes effect at: sharectl up
            err: note: next: sharectl guest add NAME --network vmnet1
        "#]]);
    let written = "[network.vmnet1]\nsubnet = \"10.255.254.0/24\"\n";
    assert!(place.config().contains(written), "{}", place.config());
    place.run("network create lab").exits(0);
    let free = place.run("network inspect lab").json()["configuration"]["subnet"].clone();
    assert!(free.as_str().unwrap().ends_with(".0/24"), "{free}");
    place.run("network rm vmnet9").exits(1).says("no network");
    place.run("network rm lab").exits(0);
    place.run("network rm vmnet1").is(expect![[r#"
        exit 0
        out: network vmnet1 removed
        err: note: netd, sharefs and hostsync are not running; it takes effect at: sharectl up
    "#]]);
    place.run("network rm vmnet8").is(expect![[r#"
        exit 4
        err: error: network "vmnet8" has guests: dev
        err: hint: move them: sharectl network rm vmnet8 --move-to NETWORK, or: sharectl guest rm NAME
    "#]]);
}

#[test]
fn guests_of_a_removed_network_move_and_the_built_in_network_keeps_its_guests() {
    let place = Place::with("[guest.dev]\naddress = \"192.168.130.5\" # mine\n");
    place
        .run("network create lab --subnet 10.255.254.0/24")
        .exits(0);
    place.run("guest add web --network lab").exits(0);
    place.run("network rm lab --move-to vmnet8").is(expect![[r#"
            exit 0
            out: network lab removed; web now on vmnet8
            err: note: netd, sharefs and hostsync are not running; it takes effect at: sharectl up
        "#]]);
    let config = place.config();
    assert!(
        config.contains("[network.vmnet8]\nsubnet = \"192.168.130.0/24\""),
        "{config}"
    );
    assert!(
        config.contains("address = \"192.168.130.5\" # mine"),
        "{config}"
    );
    assert!(
        config.contains("[guest.web]\nnetwork = \"vmnet8\""),
        "{config}"
    );
}

#[test]
fn renumbering_keeps_last_parts_and_comments_and_says_what_is_left() {
    let place = Place::with(&format!("{CONFIG}\"gw.test\" = \"192.168.130.1\"\n"));
    let line = "network renumber vmnet8 --subnet 10.255.254.0/24";
    place.run(&format!("{line} --dry-run")).is(expect![[r#"
        exit 0
        out: --- $T/config.toml
        out: +++ $T/config.toml
        out: @@ -1,12 +1,12 @@
        out:  # ann's file
        out:
        out:  [network.vmnet8]
        out: -subnet = "192.168.130.0/24"
        out: +subnet = "10.255.254.0/24"
        out:  ipv6 = "fd00:0:0:8::/64"
        out:
        out:  [guest.dev]
        out:  mac = "52:54:00:00:00:01"
        out: -address = "192.168.130.5"
        out: +address = "10.255.254.5"
        out:  host-address = "127.64.0.1"
        out:  names = ["local.test"]   # used by everyone
        out:  publish = ["8080:80"]
        out: netd, sharefs and hostsync are not running; it takes effect at: sharectl up
        err: warning: $T/config.toml:16 still says 192.168.130.1, which was in 192.168.130.0/24
    "#]]);
    place.run(line).is(expect![[r#"
        exit 0
        out: network vmnet8 has 10.255.254.0/24 in place of 192.168.130.0/24
        out: guest dev has 10.255.254.5
        err: note: netd, sharefs and hostsync are not running; it takes effect at: sharectl up
        err: warning: $T/config.toml:16 still says 192.168.130.1, which was in 192.168.130.0/24
        err: note: a guest that runs keeps its old address until it asks again: renew its lease there, or reboot it
    "#]]);
    let config = place.config();
    assert!(config.contains("address = \"10.255.254.5\""), "{config}");
    assert!(config.contains("# used by everyone"), "{config}");
    place
        .run("network renumber vmnet8 --subnet 10.255.253.0/29")
        .exits(0);
    place.run("guest add big --address 10.255.253.3").exits(0);
    let free = place.run("network renumber vmnet8 --format json").json();
    assert_ne!(free["subnet"], free["was"]);
}

#[test]
fn a_bridged_network_has_no_places_and_says_what_its_interface_lacks() {
    let place = Place::with(CONFIG);
    let config = place
        .config()
        .replace("[guest.dev]\n", "[guest.dev]\nnetwork = \"vmnet8\"\n");
    std::fs::write(place.path("config.toml"), config).unwrap();
    place
        .run("network create vmnet0 --interface nosuch0")
        .is(expect![[r#"
            exit 0
            out: network vmnet0 added: bridged to nosuch0
            err: note: netd is not running; it takes effect at: sharectl up
            err: warning: this host has no interface nosuch0 (it is used as soon as it is there; ip -brief link lists them)
            err: note: next: sharectl guest add NAME --network vmnet0
        "#]]);
    place.run("network ls").is(expect![[r#"
        exit 0
        out: NAME    TYPE     DHCP   SUBNET            GATEWAY        GUESTS
        out: vmnet0  bridged  false  -                 -              0
        out: vmnet8  nat      true   192.168.130.0/24  192.168.130.1  0
        err: warning: netd is not running; this is what the configuration says
    "#]]);
    place
        .run("describe vmnet0")
        .exits(0)
        .says("subnet         -");
    place
        .run("network create x0 --type bridged --subnet 10.0.0.0/24")
        .exits(1)
        .says("subnet means nothing on a bridged network");
    place
        .run("network renumber vmnet0")
        .exits(2)
        .says("its addresses are the LAN's");
    place
        .run("network bridge-socket vmnet8")
        .exits(2)
        .says("is nat, not bridged");
    place
        .run("network bridge-socket vmnet0")
        .exits(3)
        .says("netd is not running");
    place
        .run("doctor")
        .says("this host has no interface nosuch0");
}

#[test]
fn the_hosts_tap_is_made_by_a_command_and_by_a_unit() {
    let place = Place::with("[network.lab]\nsubnet = \"10.255.254.0/24\"\n");
    place
        .run("network host-tap create lab")
        .exits(2)
        .says("host-access");
    place.run("network rm lab").exits(0);
    place
        .run("network create lab --subnet 10.255.254.0/24 --host-access tap")
        .exits(0)
        .says("sudo sharectl network host-tap create lab");
    place
        .run("network host-tap unit lab")
        .exits(0)
        .says("network host-tap create lab --owner ");
    place
        .run("network host-tap rm lab")
        .exits(1)
        .says("this host has no tap lab");
    place
        .run("describe lab")
        .says("host's address 10.255.254.253");
    place.run("doctor").says("there is no tap lab");
}

#[test]
fn names_are_looked_up_as_a_guest_would() {
    let place = Place::with(CONFIG);
    place
        .run("network dns dev.test")
        .exits(3)
        .says("netd is not running");
    let netd = Fake::start(&place, Daemon::Netd, Script::default());
    place.run("network dns dev.test").is(expect![[r#"
        exit 0
        out: DATA           TYPE  NAME       TTL  FROM
        out: 192.168.130.2  A     dev.test.  10   guest dev
        out: NOERROR        AAAA  dev.test.  -    guest dev
    "#]]);
    place
        .run("network dns gone.test --network vmnet8 --type mx")
        .is(expect![[r#"
            exit 1
            out: DATA      TYPE  NAME        TTL  FROM
            out: NXDOMAIN  A     gone.test.  -    reserved
            err: error: gone.test does not exist for guests of vmnet8
            err: hint: sharectl describe lists a guest's names; records of your own: [network.NAME.records] in the file
        "#]]);
    place
        .run("network dns dev.test --network vmnet9")
        .exits(1)
        .says("did you mean \"vmnet8\"?");
    let json = place.run("network dns dev.test --format json").json();
    assert_eq!(json[0]["records"][0]["data"], "192.168.130.2");
    place.run("network dns a&type=b/%").exits(1);
    assert!(netd.asked().contains(&"dns a&type=b/% -".to_owned()));
}
