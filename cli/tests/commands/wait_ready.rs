//! `wait-ready` with daemons that say this and that; a real guest waits in the whole-system tests.

use control::paths::Daemon;
use expect_test::expect;

use crate::fake::{Fake, Script};
use crate::place::{CONFIG, Place};

#[test]
fn what_is_missing_is_said_when_the_time_is_over() {
    let place = Place::with(CONFIG);
    place.run("wait-ready --timeout 0").is(expect![[r#"
        exit 5
        err: error: not ready after 0s: daemons: netd is not running
        err:   daemons: sharefs is not running
        err:   daemons: hostsync is not running
        err: hint: sharectl up, and sharectl logs netd
    "#]]);
    let _fakes = Daemon::ALL.map(|daemon| Fake::start(&place, daemon, Script::default()));
    place.run("-q wait-ready --timeout 0").exits(0);
    place
        .run("wait-ready --guest dev --port dev/8081 --timeout 0")
        .is(expect![[r#"
            exit 5
            err: error: not ready after 0s: guest dev: not plugged in
            err:   port dev/8081: guest dev publishes 8080:80
            err: hint: start its VM: sharectl guest run dev -- COMMAND
        "#]]);
    place
        .run("--format json wait-ready --guest dev --timeout 0")
        .is(expect![[r#"
            exit 5
            out: {
            out:   "ready": false,
            out:   "missing": [
            out:     {
            out:       "what": "guest dev",
            out:       "why": "not plugged in",
            out:       "next": "start its VM: sharectl guest run dev -- COMMAND"
            out:     }
            out:   ]
            out: }
            err: error: not ready after 0s: guest dev: not plugged in
            err: hint: start its VM: sharectl guest run dev -- COMMAND
        "#]]);
    place
        .run("wait-ready --port dev/8080 --timeout 5s")
        .exits(0);
    place.run("wait-ready --port dev").exits(2).says("dev/8080");
    place.run("wait-ready --timeout soon").exits(2).says("30s");
}

#[test]
fn it_comes_back_as_soon_as_the_last_daemon_answers() {
    let place = Place::with(CONFIG);
    let mut waiting = place.command(std::path::Path::new("timeout"));
    let waiting = waiting
        .arg("20")
        .arg(place.path("bin/sharectl"))
        .args(["-q", "wait-ready", "--timeout", "60s"])
        .spawn()
        .unwrap();
    let _fakes = Daemon::ALL.map(|daemon| Fake::start(&place, daemon, Script::default()));
    let ended = waiting.wait_with_output().unwrap();
    assert!(ended.status.success(), "{ended:?}");
}
