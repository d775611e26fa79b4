//! `sharectl ps`: guests and containers on one page.

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;

use control::paths::Daemon;
use expect_test::expect;

use crate::fake::{Fake, Script};
use crate::place::{CONFIG, Place};

/// An engine with these containers, for as many questions as come.
fn engine(place: &Place, containers: &'static str) {
    let listener = UnixListener::bind(place.path("docker.sock")).unwrap();
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let mut client = client.unwrap();
            let mut asked = [0; 4096];
            let count = client.read(&mut asked).unwrap();
            assert!(asked[..count].starts_with(b"GET /containers/json"));
            write!(
                client,
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{containers}",
                containers.len()
            )
            .unwrap();
        }
    });
}

/// The guest publishes its engine.
fn with_engine(place: &Place) {
    let socket = place.path("docker.sock");
    let publish = format!(
        "publish = [\"8080:80\", \"unix:{}:2375\"]",
        socket.display()
    );
    let text = std::fs::read_to_string(place.path("config.toml")).unwrap();
    let changed = text.replace("publish = [\"8080:80\"]", &publish);
    assert_ne!(text, changed);
    std::fs::write(place.path("config.toml"), changed).unwrap();
}

#[test]
fn everything_down_is_the_configuration_and_what_to_do() {
    let place = Place::with(&format!("{CONFIG}[share.src]\npath = \"/nonexistent\"\n"));
    place.run("ps").is(expect![[r#"
        exit 3
        out: GUEST  WHAT   IN IT                 ON THIS HOST  STATE
        out: dev    guest  vmnet8 192.168.130.5  127.64.0.1    off
        out: dev    name   dev.test              127.64.0.1    not written
        out: dev    name   local.test            127.64.0.1    not written
        out: dev    port   80/tcp                -             -
        out: dev    share  /nonexistent          /nonexistent  not served
        out:
        out: not working:
        out:   netd: is not running
        out:     do: sharectl up
        out:   sharefs: is not running
        out:     do: sharectl up
        out:   hostsync: is not running
        out:     do: sharectl up
        out:   dev: guest: is not plugged in
        out:     do: start its VM: sharectl guest run dev -- COMMAND
        out:   dev: share src: /nonexistent is not a folder on this host
        out:     do: mkdir -p /nonexistent, or mount the drive, or: sharectl share rm src
    "#]]);
    let json = place.run("ps --format json").exits(3).json();
    assert_eq!(json["guests"][0]["state"], "off");
    assert_eq!(json["troubles"][0]["fix"], "sharectl up");
    let off = json["troubles"].as_array().unwrap().iter();
    assert_eq!(
        off.filter(|one| one["why"] == "is not plugged in").count(),
        1
    );
    Place::empty().run("ps").is(expect![[r#"
        exit 3
        out: GUEST  WHAT  IN IT  ON THIS HOST  STATE
        out:
        out: no guests yet: sharectl guest add NAME
        out:
        out: not working:
        out:   netd: is not running
        out:     do: sharectl up
        out:   sharefs: is not running
        out:     do: sharectl up
        out:   hostsync: is not running
        out:     do: sharectl up
    "#]]);
    let broken = Place::with("[guest.dev\n");
    broken.run("ps dev").exits(1).says("config.toml:1");
    broken.run("ps").exits(1).says("config.toml:1");
    place.run("ps dve").is(expect![[r#"
        exit 1
        err: error: no guest "dve" in $T/config.toml
        err: hint: did you mean "dev"?
    "#]]);
}

#[test]
fn what_runs_is_joined_by_guest() {
    let place = Place::with(&format!("{CONFIG}[share.src]\npath = \"/tmp\"\n"));
    with_engine(&place);
    engine(
        &place,
        r#"[
            {"Id": "abc", "Names": ["/web"], "Image": "nginx:1", "State": "running", "Status": "Up 2 minutes",
             "Ports": [{"IP": "0.0.0.0", "PrivatePort": 80, "PublicPort": 80, "Type": "tcp"},
                       {"IP": "::", "PrivatePort": 80, "PublicPort": 80, "Type": "tcp"}]},
            {"Id": "def", "Names": ["/db"], "Image": "postgres", "State": "running", "Status": "Up 2 minutes",
             "Ports": [{"IP": "0.0.0.0", "PrivatePort": 5432, "PublicPort": 5432, "Type": "tcp"},
                       {"IP": "0.0.0.0", "PrivatePort": 53, "PublicPort": 80, "Type": "udp"},
                       {"IP": "127.0.0.1", "PrivatePort": 81, "PublicPort": 80, "Type": "tcp"},
                       {"PrivatePort": 9, "Type": "tcp"}]},
            {"Id": "0a1b", "Names": null, "Ports": null}
        ]"#,
    );
    let up = Script {
        plugged: true,
        ..Script::default()
    };
    let _netd = Fake::start(&place, Daemon::Netd, up.clone());
    let _sharefs = Fake::start(&place, Daemon::Sharefs, up.clone());
    let _hostsync = Fake::start(&place, Daemon::Hostsync, up);
    place.run("ps").is(expect![[r#"
        exit 0
        out: GUEST  WHAT       IN IT                 ON THIS HOST                     STATE
        out: dev    guest      vmnet8 192.168.130.5  127.64.0.1                       running
        out: dev    name       local.test            127.64.0.1                       written
        out: dev    port       80/tcp                local.test:8080                  serves
        out: dev    share      /home/ann/src         /home/ann/src                    mounted
        out: dev    docker     -                     unix:$T/docker.sock  answers
        out: dev    container  0a1b                  -                                -
        out: dev    container  db (postgres)         (5432/tcp) (53/udp)              Up 2 minutes
        out: dev    container  web (nginx:1)         local.test:8080->80/tcp          Up 2 minutes
        out:
        out: not working:
        out:   dev: container db: the guest's port 5432 does not lead to this host
        out:     do: sharectl port publish dev 5432:5432
        out:   dev: container db: the guest's port 80 does not lead to this host
        out:     do: sharectl port publish dev 80:80/udp
    "#]]);
    place.run("-q ps dev").is(expect![[r#"
        exit 0
        out: dev
        out: 0a1b
        out: db
        out: web
    "#]]);
    let json = place.run("ps --format json").json();
    let containers = &json["guests"][0]["engine"]["containers"];
    assert_eq!(containers[2]["ports"][0]["reach"][0], "local.test:8080");
    assert_eq!(
        json["troubles"][0]["fix"],
        "sharectl port publish dev 5432:5432"
    );
}

#[test]
fn an_engine_that_says_nothing_is_a_trouble() {
    let place = Place::with(CONFIG);
    with_engine(&place);
    let json = place.run("ps dev --format json").exits(3).json();
    assert_eq!(json["guests"][0]["engine"]["answers"], false);
    // The VM is off: that is what there is to say.
    let about_engine = |json: &serde_json::Value| {
        let troubles = json["troubles"].as_array().unwrap().clone();
        let mut found = troubles.into_iter();
        found.find(|one| one["about"].as_str().unwrap().starts_with("docker at"))
    };
    assert!(about_engine(&json).is_none());
    let up = Script {
        plugged: true,
        ..Script::default()
    };
    let netd = Fake::start(&place, Daemon::Netd, up);
    let json = place.run("ps dev --format json").exits(3).json();
    let why = about_engine(&json).unwrap()["why"].clone();
    assert!(why.as_str().unwrap().contains("is not there"), "{why}");
    drop(netd);
    // What it says may be anything.
    drop(place);
    let place = Place::with(CONFIG);
    with_engine(&place);
    engine_of_noise(&place);
    let json = place.run("ps dev --format json").exits(3).json();
    assert_eq!(json["guests"][0]["engine"]["answers"], false);
}

fn engine_of_noise(place: &Place) {
    engine(place, "{ no list");
}
