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
        out: NAME        ADDRESS      SOURCE     WRITTEN TO  LEFT OUT OF
        out: nas.test    192.168.1.5  static     -           -
        out: dev.test    127.64.0.1   guest dev  -           -
        out: local.test  127.64.0.1   guest dev  -           -
        err: warning: hostsync is not running; this is what the configuration says
    "#]]);
    let _hostsync = Fake::start(&place, Daemon::Hostsync, Script::default());
    place.run("host ls").is(expect![[r#"
        exit 0
        out: NAME        ADDRESS     SOURCE               WRITTEN TO  LEFT OUT OF
        out: local.test  127.64.0.1  guest dev on vmnet8  /etc/hosts  -
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
