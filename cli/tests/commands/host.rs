//! host: ls, add, rm, sync, diff, restore, repair, writer.

use control::api::Changes;
use control::paths::Daemon;
use expect_test::expect;

use crate::fake::{Fake, Script};
use crate::place::{CONFIG, Place};

#[test]
fn name_is_added_and_removed_in_the_file() {
    let place = Place::with(CONFIG);
    let hostsync = Fake::start(&place, Daemon::Hostsync, Script::default());
    place.run("host add TV.test 192.168.1.7").is(expect![[r#"
        exit 0
        out: tv.test added: 192.168.1.7
    "#]]);
    assert_eq!(
        place.config(),
        format!("{CONFIG}\"tv.test\" = \"192.168.1.7\"\n")
    );
    place.run("host rm tv.test").is(expect![[r#"
        exit 0
        out: tv.test removed
    "#]]);
    assert_eq!(place.config(), CONFIG);
    assert_eq!(hostsync.asked(), ["reload", "reload"]);
}

#[test]
fn names_that_cannot_be_changed_say_why() {
    let place = Place::with(CONFIG);
    place.run("host add nas.test 192.168.1.9").is(expect![[r#"
        exit 4
        err: error: nas.test is 192.168.1.5 already
        err: hint: take it away first: sharectl host rm nas.test
    "#]]);
    place.run("host add a_b 192.168.1.9").exits(2);
    place.run("host add ok.test 192.168.1").exits(2);
    place.run("host rm local.test").is(expect![[r#"
        exit 1
        err: error: local.test belongs to guest "dev"
        err: hint: take it out of names = [...] in [guest.dev]
    "#]]);
    place.run("host rm nsa.test").is(expect![[r#"
        exit 1
        err: error: no static name "nsa.test" in $T/config.toml
        err: hint: did you mean "nas.test"?
    "#]]);
    assert_eq!(place.config(), CONFIG);
}

#[test]
fn list_says_what_hostsync_says_or_that_it_is_down() {
    let place = Place::with(CONFIG);
    place.run("host ls").is(expect![[r#"
        exit 0
        out: NAME        ADDRESS      SOURCE     AGE  LEFT  WRITTEN TO  LEFT OUT OF
        out: nas.test    192.168.1.5  static     -    -     -           -
        out: dev.test    127.64.0.1   guest dev  -    -     -           -
        out: local.test  127.64.0.1   guest dev  -    -     -           -
        err: warning: hostsync is not running; this is what the configuration says
    "#]]);
    let _hostsync = Fake::start(&place, Daemon::Hostsync, Script::default());
    place.run("host ls").is(expect![[r#"
        exit 0
        out: NAME        ADDRESS     SOURCE               AGE  LEFT  WRITTEN TO  LEFT OUT OF
        out: local.test  127.64.0.1  guest dev on vmnet8  -    -     /etc/hosts  -
    "#]]);
}

#[test]
fn sync_and_diff_ask_our_own_daemon() {
    let place = Place::with(CONFIG);
    let done = Changes {
        changes: vec!["/etc/hosts: written, 2 names".to_owned()],
        problems: Vec::new(),
    };
    let hostsync = Fake::start(
        &place,
        Daemon::Hostsync,
        Script {
            sync: done.clone(),
            ..Script::default()
        },
    );
    place.run("host sync").is(expect![[r#"
        exit 0
        out: /etc/hosts: written, 2 names
    "#]]);
    place.run("host diff").is(expect![[r#"
        exit 0
        out: +127.64.0.1 local.test
    "#]]);
    drop(hostsync);
    let refused = Changes {
        problems: vec!["/etc/hosts: permission denied".to_owned()],
        ..done
    };
    let _hostsync = Fake::start(
        &place,
        Daemon::Hostsync,
        Script {
            sync: refused,
            ..Script::default()
        },
    );
    place.run("host sync").is(expect![[r#"
        exit 1
        out: /etc/hosts: written, 2 names
        err: error: /etc/hosts: permission denied
        err: hint: sharectl doctor; /etc/hosts needs root or, once, sudo sharectl host writer install
    "#]]);
}

#[test]
fn without_a_daemon_the_writer_runs_for_one_round() {
    let place = Place::with(CONFIG);
    place.program(
        "sharectl-hostsync",
        r#"test "$1 $3 $4" = "--config sync --json" && echo '{"changes":["done once"],"problems":[]}'"#,
    );
    place.run("host sync").is(expect![[r#"
        exit 0
        out: done once
    "#]]);
    place.program("sharectl-hostsync", "echo 'cannot do it' >&2; exit 1");
    place.run("host diff").is(expect![[r#"
        exit 1
        err: error: cannot run sharectl-hostsync diff: cannot do it
        err: hint: sharectl config check, and sharectl doctor
    "#]]);
}

#[test]
fn name_for_a_time_is_hostsyncs_and_leaves_the_file_alone() {
    let place = Place::with(CONFIG);
    place
        .run("host add demo.test 127.0.0.1 --for 30m")
        .is(expect![[r#"
            exit 3
            err: error: hostsync is not running (cannot reach $T/run/hostsync.sock: No such file or directory (os error 2))
            err: hint: start it: sharectl up
        "#]]);
    let hostsync = Fake::start(&place, Daemon::Hostsync, Script::default());
    place
        .run("host add demo.test 127.0.0.1 --for 30m")
        .is(expect![[r#"
            exit 0
            out: demo.test added for 30m0s: 127.0.0.1
        "#]]);
    place.run("host rm demo.test").is(expect![[r#"
        exit 0
        out: demo.test removed
    "#]]);
    place
        .run("host add demo.test 127.0.0.1 --for soon")
        .is(expect![[r#"
            exit 2
            err: error: invalid value 'soon' for '--for <TIME>': write a number and s, m, h or d, such as 30m
            err:
            err: For more information, try '--help'.
        "#]]);
    assert_eq!(place.config(), CONFIG);
    assert_eq!(
        hostsync.asked(),
        ["add demo.test for 1800", "end demo.test"]
    );
}

#[test]
fn wildcard_is_a_line_of_the_file_like_any_other() {
    let place = Place::with(CONFIG);
    let _hostsync = Fake::start(&place, Daemon::Hostsync, Script::default());
    place.run("host add *.local.test 127.0.0.1").is(expect![[r#"
            exit 0
            out: *.local.test added: 127.0.0.1
        "#]]);
    assert_eq!(
        place.config(),
        format!("{CONFIG}\"*.local.test\" = \"127.0.0.1\"\n")
    );
    place.run("host add *.local.test 127.0.0.2").is(expect![[r#"
        exit 4
        err: error: *.local.test is 127.0.0.1 already
        err: hint: take it away first: sharectl host rm '*.local.test'
    "#]]);
    place.run("host rm *.local.test").is(expect![[r#"
        exit 0
        out: *.local.test removed
    "#]]);
    assert_eq!(place.config(), CONFIG);
}

#[test]
fn list_warns_of_a_source_that_is_away() {
    let place = Place::with(CONFIG);
    let away = control::api::SourceStatus {
        name: "docker".parse().unwrap(),
        kind: control::config::SourceKind::Docker,
        path: Some("/var/run/docker.sock".into()),
        priority: 50,
        suffix: Some("test".parse().unwrap()),
        names: 2,
        skipped: 0,
        readings: 7,
        away_since: Some("2026-11-22T20:00:00.000Z".to_owned()),
        reason: Some("nobody listens on /var/run/docker.sock".to_owned()),
        until: Some("2026-11-22T21:00:00.000Z".to_owned()),
    };
    let script = Script {
        sources: vec![away],
        ..Script::default()
    };
    let _hostsync = Fake::start(&place, Daemon::Hostsync, script);
    place.run("host ls").is(expect![[r#"
        exit 0
        out: NAME        ADDRESS     SOURCE               AGE  LEFT  WRITTEN TO  LEFT OUT OF
        out: local.test  127.64.0.1  guest dev on vmnet8  -    -     /etc/hosts  -
        err: warning: docker cannot be read since 2026-11-22T20:00:00.000Z, its names end at 2026-11-22T21:00:00.000Z: nobody listens on /var/run/docker.sock
    "#]]);
}

#[test]
fn resolver_is_set_up_and_undone_below_a_root_and_nothing_else_changes() {
    let place = Place::with(&format!("[hosts]\ndns = \"on\"\n{CONFIG}"));
    let root = place.path("root");
    std::fs::create_dir_all(root.join("etc")).unwrap();
    std::fs::write(root.join("etc/resolv.conf"), "nameserver 127.0.0.53\n").unwrap();
    let files = || {
        let mut found = Vec::new();
        let mut folders = vec![root.clone()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    found.push((path.clone(), std::fs::read_to_string(path).unwrap()));
                }
            }
        }
        found
    };
    let before = files();
    place
        .run("host dns enable --root root")
        .is(expect![[r#"
            exit 0
            out: root/etc/systemd/resolved.conf.d/sharectl.conf:
            out:     # Written by "sharectl host dns enable", taken away by "sharectl host dns disable".
            out:     [Resolve]
            out:     DNS=127.0.0.153:1053
            out:     Domains=~test
            out: systemctl reload-or-restart systemd-resolved
            err: note: to have that done: sudo sharectl host dns enable --apply, with your --config
        "#]]);
    assert_eq!(files(), before, "without --apply it only shows");
    place
        .run("host dns enable --apply --root root")
        .is(expect![[r#"
            exit 0
            out: systemd-resolved asks 127.0.0.153:1053 for test
        "#]]);
    place
        .run("host dns enable --apply --root root")
        .is(expect![[r#"
            exit 0
            out: nothing had to change
        "#]]);
    assert_eq!(files().len(), before.len() + 1);
    place.run("host dns status --root root").is(expect![[r#"
        exit 0
        out: managed by  systemd-resolved
        out: set-up      made: root/etc/systemd/resolved.conf.d/sharectl.conf
        out: listening   -
        out: domains     -
        out: questions   0 answered, 0 of others refused, 0 malformed
        err: warning: hostsync is not running; this is what the configuration says
    "#]]);
    place.run("host dns disable --root root").is(expect![[r#"
            exit 0
            out: rm root/etc/systemd/resolved.conf.d/sharectl.conf
            out: systemctl reload-or-restart systemd-resolved
            err: note: to have that done: sudo sharectl host dns disable --apply
        "#]]);
    place
        .run("host dns disable --apply --root root")
        .is(expect![[r#"
            exit 0
            out: removed root/etc/systemd/resolved.conf.d/sharectl.conf
        "#]]);
    assert_eq!(files(), before);
    place
        .run("host dns disable --apply --root root")
        .is(expect![[r#"
            exit 0
            out: there is nothing to take away
        "#]]);

    let theirs = root.join("etc/systemd/resolved.conf.d/sharectl.conf");
    std::fs::write(&theirs, "[Resolve]\n").unwrap();
    place
        .run("host dns enable --apply --root root")
        .is(expect![[r#"
            exit 4
            err: error: root/etc/systemd/resolved.conf.d/sharectl.conf is not sharectl's own
            err: hint: move it away first, or set the resolver up by hand
        "#]]);
    assert_eq!(std::fs::read_to_string(&theirs).unwrap(), "[Resolve]\n");
    std::fs::write(root.join("etc/resolv.conf"), "nameserver 192.168.1.1\n").unwrap();
    place
        .run("host dns enable --root root")
        .is(expect![[r#"
            exit 1
            err: error: root/etc/resolv.conf is written by none of systemd-resolved, NetworkManager and dnsmasq, and cannot send single domains elsewhere
            err: hint: install systemd-resolved; or let your own resolver ask the address of `sharectl host dns status`
        "#]]);
    let off = Place::with(CONFIG);
    off.run("host dns enable").is(expect![[r#"
        exit 1
        err: error: dns is off in $T/config.toml
        err: hint: write dns = "on" below [hosts], then: sharectl up, and once more this
    "#]]);
}

#[test]
fn dry_run_of_sync_is_the_diff() {
    let place = Place::with(CONFIG);
    let hostsync = Fake::start(&place, Daemon::Hostsync, Script::default());
    place.run("host sync --dry-run").is(expect![[r#"
        exit 0
        out: +127.64.0.1 local.test
    "#]]);
    assert_eq!(hostsync.asked(), Vec::<String>::new());
}

#[test]
fn restore_and_repair_are_rounds_of_hostsync() {
    let place = Place::with(CONFIG);
    place.program(
        "sharectl-hostsync",
        r#"shift 2; case "$*" in
        "backups --json") printf %s '[{"file":"/etc/hosts","number":3,"kept":"2026-01-02T03:04:05Z","current":false,"path":"/s/x"}]';;
        "restore --backup=3 --dry-run /etc/hosts --json") printf %s '[{"file":"/etc/hosts","found":["own lines of version 3 are back"],"diff":"-a\n+b\n","done":false}]';;
        "repair --json") printf %s '[{"file":"/etc/hosts","found":[],"diff":"","done":false},{"file":"/h","found":["line 2 began a block"],"diff":"-x\n","done":true}]';;
        *) printf %s '{"kind":"not-found","message":"no version 9","hint":"there are 3"}'; exit 1;;
        esac"#,
    );
    place.run("host restore --list").is(expect![[r#"
        exit 0
        out: FILE        BACKUP  KEPT                  AS NOW  COPY
        out: /etc/hosts  3       2026-01-02T03:04:05Z  no      /s/x
    "#]]);
    place
        .run("host restore --backup 3 --dry-run /etc/hosts")
        .is(expect![[r#"
            exit 0
            out: -a
            out: +b
            err: note: /etc/hosts: own lines of version 3 are back
            err: note: /etc/hosts: not written, as asked
        "#]]);
    place.run("host repair").is(expect![[r#"
        exit 0
        out: -x
        err: note: /etc/hosts: nothing to do
        err: note: /h: line 2 began a block
        err: note: /h: written
    "#]]);
    place.run("host restore --backup 9").is(expect![[r#"
        exit 1
        err: error: no version 9
        err: hint: there are 3
    "#]]);
}

#[test]
fn writer_is_looked_at_and_installed() {
    let place = Place::with(CONFIG);
    place.program(
        "sharectl-hostsync",
        r#"shift 2; case "$*" in
        "files --json") echo '[{"file":"/etc/hosts","way":"by the hosts writer","names":2,"notes":["names below test"],"problem":null}]';;
        "unit program") printf /usr/local/libexec/sharectl/sharectl-hosts-writer;;
        "unit "*) echo "[Unit] $2";;
        esac"#,
    );
    place.program("sharectl-hosts-writer", "exit 0");
    place.run("host writer status").is(expect![[r#"
        exit 0
        out: FILE        WRITTEN              NAMES  NOTES
        out: /etc/hosts  by the hosts writer  2      names below test
    "#]]);
    place.run("host writer unit socket").is(expect![[r#"
        exit 0
        out: [Unit] socket
    "#]]);
    place.run("host writer unit none").exits(2);
    place.run("host writer install --dry-run").is(expect![[r#"
        exit 0
        out: cp $T/bin/sharectl-hosts-writer /usr/local/libexec/sharectl/sharectl-hosts-writer
        out: write /etc/systemd/system/sharectl-hosts.socket
        out: write /etc/systemd/system/sharectl-hosts.service
        out: systemctl daemon-reload
        out: systemctl enable --now sharectl-hosts.socket sharectl-hosts.service
        out: systemctl restart sharectl-hosts.service
    "#]]);
    let root = place.path("root");
    place
        .run(&format!("host writer install --root {}", root.display()))
        .exits(0);
    let unit = std::fs::read_to_string(root.join("etc/systemd/system/sharectl-hosts.service"));
    assert_eq!(unit.unwrap(), "[Unit] service\n");
    assert!(
        root.join("usr/local/libexec/sharectl/sharectl-hosts-writer")
            .is_file()
    );
}
