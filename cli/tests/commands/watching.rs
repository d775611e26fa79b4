//! status, events, logs, doctor.

use control::paths::Daemon;
use expect_test::expect;

use crate::fake::{Fake, Script};
use crate::place::{CONFIG, Place};

#[test]
fn status_shows_the_configuration_while_all_is_down() {
    let place = Place::with(&format!("{CONFIG}[share.src]\npath = \"/nonexistent\"\n"));
    place.run("status").is(expect![[r#"
        exit 3
        out: DAEMON    STATE        PID  VERSION  SINCE
        out: netd      not running  -    -        -
        out: sharefs   not running  -    -        -
        out: hostsync  not running  -    -        -
        out:
        out: configuration  $T/config.toml
        out:
        out: GUEST  LINK       ADDRESS        NAMES                PORTS
        out: dev    unplugged  192.168.130.5  dev.test,local.test  8080:80
        out:
        out: SHARE  FOLDER        AT            STATE
        out: src    /nonexistent  /nonexistent  /nonexistent is not a folder on this host
        out:
        out: problem: $T/config.toml:17: share "src": /nonexistent is not a folder on this host
        out:   hint: mkdir -p /nonexistent, or mount the drive, or: sharectl share rm src
        out:
        out: start what is not running: sharectl up
    "#]]);
    Place::empty().run("status").is(expect![[r#"
        exit 3
        out: DAEMON    STATE        PID  VERSION  SINCE
        out: netd      not running  -    -        -
        out: sharefs   not running  -    -        -
        out: hostsync  not running  -    -        -
        out:
        out: configuration  $T/config.toml  (not there: built-in defaults)
        out:
        out: start what is not running: sharectl up
    "#]]);
    let json = place.run("status --format json");
    assert_eq!(json.exits(3).json()["daemons"][0]["state"], "not running");
}

#[test]
fn status_shows_what_runs_and_what_is_wrong() {
    let place = Place::with(&format!("{CONFIG}[share.src]\npath = \"/tmp\"\n"));
    let up = Script {
        plugged: true,
        ..Script::default()
    };
    let _netd = Fake::start(&place, Daemon::Netd, up.clone());
    let _sharefs = Fake::start(&place, Daemon::Sharefs, up);
    let wrong = Script {
        problems: vec!["/etc/hosts cannot be written".to_owned()],
        ..Script::default()
    };
    let _hostsync = Fake::start(&place, Daemon::Hostsync, wrong);
    place.run("status").is(expect![[r#"
        exit 0
        out: DAEMON    STATE    PID   VERSION  SINCE
        out: netd      running  4711  [VERSION]    2026-11-22T20:00:00.000Z
        out: sharefs   running  4711  [VERSION]    2026-11-22T20:00:00.000Z
        out: hostsync  running  4711  [VERSION]    2026-11-22T20:00:00.000Z
        out:
        out: configuration  $T/config.toml
        out:
        out: GUEST  LINK        ADDRESS        NAMES                PORTS
        out: dev    plugged in  192.168.130.5  dev.test,local.test  8080:80
        out:
        out: SHARE  FOLDER         AT             STATE
        out: src    /home/ann/src  /home/ann/src  ok
        out:
        out: HOSTS FILE  WRITTEN              NAMES  STATE
        out: /etc/hosts  by the hosts writer  1      ok
        out:
        out: note: /etc/hosts: WSL writes it anew
        out:
        out: problem: hostsync: /etc/hosts cannot be written
    "#]]);
    assert_eq!(
        place.run("status --format json").json()["problems"][0],
        "hostsync: /etc/hosts cannot be written"
    );
}

#[test]
fn watch_draws_on_terminals_only_and_writes_lines_for_programs() {
    let place = Place::with(CONFIG);
    place.run("status --watch").is(expect![[r#"
        exit 2
        err: error: --watch draws on a terminal, and this is none
        err: hint: a line of JSON each time: sharectl status --watch --format json
    "#]]);
    place
        .run("status --watch --interval 0")
        .exits(2)
        .says("from 0.2s to 60s");
    let netd = Fake::start(&place, Daemon::Netd, Script::default());
    let mut child = place
        .sharectl()
        .args(["status", "--watch", "--interval", "0.2", "--format", "json"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let output = std::io::BufReader::new(child.stdout.take().unwrap());
    let mut lines = std::io::BufRead::lines(output).map(|line| {
        let report: serde_json::Value = serde_json::from_str(&line.unwrap()).unwrap();
        report["daemons"][0]["state"].clone()
    });
    assert_eq!(lines.next().unwrap(), "running");
    drop(netd);
    // Looks that were taken before it ended have seen it still.
    assert!(lines.by_ref().take(100).any(|state| state == "not running"));
    drop(lines);
    // The reader is gone: so is the program, and that is no failure.
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn status_with_a_bad_file_still_answers() {
    let place = Place::with("[guest.dev]\nmac = 5\n");
    place
        .run("status")
        .exits(1)
        .says("problem: $T/config.toml:2: ")
        .says("netd      not running");
}

#[test]
fn events_of_all_daemons_come_in_one_stream() {
    let place = Place::with(CONFIG);
    place.run("events").is(expect![[r#"
        exit 3
        err: warning: netd is not running
        err: warning: sharefs is not running
        err: warning: hostsync is not running
        err: error: no daemon is running
        err: hint: start them: sharectl up
    "#]]);
    let _netd = Fake::start(&place, Daemon::Netd, Script::default());
    let _sharefs = Fake::start(&place, Daemon::Sharefs, Script::default());
    let all = place.run("events --format json");
    let lines: Vec<serde_json::Value> = all
        .exits(0)
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), 4);
    assert!(
        lines
            .windows(2)
            .all(|pair| pair[0]["at"].as_str() <= pair[1]["at"].as_str()),
        "{lines:?}"
    );
    let late = place.run("events netd --since 1").stdout;
    assert!(
        late.ends_with(" netd         2  port-removed guest=dev spec=9:9\n"),
        "{late}"
    );
    place.run("events netd --since 2999-01-01").is(expect![[r#"
        exit 0
    "#]]);
    place
        .run("events --since 1")
        .exits(2)
        .says("each daemon numbers its own events");
    place.run("events hostsync").exits(3);
    place.run("events --since yesterday").exits(2);
}

#[test]
fn followed_events_end_with_the_daemon() {
    let place = Place::with(CONFIG);
    let netd = Fake::start(&place, Daemon::Netd, Script::default());
    let mut command = place.sharectl();
    command
        .args(["events", "netd", "--follow"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
    assert!(
        lines
            .next()
            .unwrap()
            .unwrap()
            .ends_with("started version=1")
    );
    assert!(
        lines
            .next()
            .unwrap()
            .unwrap()
            .ends_with("port-removed guest=dev spec=9:9")
    );
    drop(netd);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn logs_are_shown_from_their_end() {
    let place = Place::with(CONFIG);
    place.run("logs netd").is(expect![[r#"
        exit 1
        err: warning: netd has no log yet: $T/state/logs/netd.log
        err: error: there is no log
        err: hint: logs are written by daemons that sharectl up started; a service manager keeps its own
    "#]]);
    let path = place.paths().log(Daemon::Netd);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, "one\ntwo\nthree \x1b[2J\n").unwrap();
    place.run("logs netd -n 2").is(expect![[r#"
        exit 0
        out: two
        out: three \u{1b}[2J
    "#]]);
    place.run("logs").exits(0).says("netd     | one");
    let line: serde_json::Value =
        serde_json::from_str(place.run("logs netd -n 1 --format json").stdout.trim()).unwrap();
    assert_eq!(line["daemon"], "netd");
}

#[test]
fn doctor_numbers_its_checks_and_gives_the_fix() {
    let place = Place::with("[share.src]\npath = \"/nonexistent\"\n");
    let findings = place.run("doctor --format json");
    let findings = findings.exits(1).json();
    let find = |id: &str| {
        let mut all = findings.as_array().unwrap().iter();
        all.find(|found| found["id"] == id).unwrap().clone()
    };
    assert_eq!(findings[0]["number"], 1);
    assert_eq!(find("config")["state"], "ok");
    assert_eq!(find("share.src")["state"], "fail");
    assert_eq!(find("bridge")["state"], "skipped");
    let netd = find("daemon.netd");
    assert_eq!(
        (
            &netd["state"],
            &netd["fix"],
            &netd["fixable"],
            &netd["check"]
        ),
        (
            &"warn".into(),
            &"sharectl up".into(),
            &true.into(),
            &"daemon".into()
        )
    );
    let keys: Vec<&String> = netd.as_object().unwrap().keys().collect();
    assert_eq!(
        keys,
        [
            "check", "evidence", "fix", "fixable", "id", "number", "state", "title"
        ]
    );
    place.run("doctor -q").exits(1).says("FAILED   share src");
    Place::with("[guest.dev]\nx = 1\n")
        .run("doctor")
        .exits(1)
        .says("FAILED   configuration");
    place.run("doctor bridge host-tap").is(expect![[r#"
        exit 0
        out: 14  skipped  bridge: no network is bridged
        out: 15  skipped  host tap: no network has host-access = "tap"
        out: 0 failed, 0 warnings, 0 ok, 2 skipped
    "#]]);
    place
        .run("doctor kvn")
        .exits(2)
        .says("a similar value exists: 'kvm'");
}

#[test]
fn doctor_mends_what_is_safe_and_says_what_it_could_not() {
    let place = Place::empty();
    let config = format!("[share.src]\npath = \"{}\"\n", place.path("gone").display());
    std::fs::write(place.path("config.toml"), config).unwrap();
    std::fs::create_dir(place.path("run")).unwrap();
    std::fs::write(place.path("run/netd.pid"), "4711\n").unwrap();
    drop(std::os::unix::net::UnixListener::bind(place.path("run/netd.sock")).unwrap());
    let checks = "runtime-folder socket share daemon";
    place
        .run(&format!("doctor {checks} --fix --dry-run"))
        .exits(1)
        .says("would   rm $T/run/netd.sock")
        .says("would   mkdir $T/gone");
    assert!(place.path("run/netd.sock").exists());
    // No daemon is installed here, so none starts.
    let mended = place.run(&format!("doctor {checks} --fix --format json"));
    let mended = mended.exits(1).json();
    let repairs: Vec<(&str, bool)> = mended["repairs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|repair| (repair["what"].as_str().unwrap(), repair["done"] == true))
        .collect();
    let at = |verb: &str, name: &str| format!("{verb} {}", place.path(name).display());
    assert_eq!(
        repairs,
        [
            (at("chmod 700", "run").as_str(), true),
            (at("rm", "run/netd.sock").as_str(), true),
            ("empty netd's file with the process number", true),
            (at("mkdir", "gone").as_str(), true),
            ("sharectl up", false),
        ]
    );
    let findings = mended["findings"].as_array().unwrap();
    let state = |id: &str| {
        let mut found = findings.iter();
        found.find(|found| found["id"] == id).unwrap()["state"].clone()
    };
    assert_eq!(
        (state("socket"), state("share.src")),
        ("ok".into(), "ok".into())
    );
    assert_eq!(state("daemon.netd"), "warn");
}
